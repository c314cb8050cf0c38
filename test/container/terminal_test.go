package container

import (
	"io"
	"syscall"

	"github.com/vmentry/vmentry/test/terminal"
)

// onTerminal begins with a terminal for standard input, output and error; what the function is given is typed on it.
func (m *machine) onTerminal() (typed func(keys string)) {
	m.t.Helper()
	keyboard, screen := terminal.Open(m.t)
	m.client.Stdin, m.client.Stdout, m.client.Stderr = screen, screen, screen
	m.client.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	m.begin()
	screen.Close()
	go io.Copy(m.stdout, keyboard)
	return func(keys string) {
		m.t.Helper()
		if _, err := keyboard.WriteString(keys); err != nil {
			m.t.Fatal(err)
		}
	}
}
