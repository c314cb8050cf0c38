package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// Attachment is a person, or a script, at the console.
type Attachment struct {
	In  *os.File // a terminal, or not
	Out *os.File
	// Idle is how long the console must be silent, once an input that is no terminal has ended, until that is the end; 0: the
	// console is followed for as long as there is one.
	Idle time.Duration
}

// ErrDetached means that the person has left the console.
var ErrDetached = errors.New("left the console")

// Run joins the attachment to the console at the other end of conn. It ends with nil when the console does, or when a script has come to its
// end; with [ErrDetached] when the person leaves; and with ctx's cause. The terminal is then what it was.
func (a Attachment) Run(ctx context.Context, conn net.Conn) error {
	interactive := term.IsTerminal(int(a.In.Fd()))
	var screen screen
	if interactive {
		restore := Raw(a.In)
		defer restore()
		if term.IsTerminal(int(a.Out.Fd())) {
			defer func() { io.WriteString(a.Out, screen.tidy()) }()
		}
	}
	typed := make(chan error, 1)
	go func() { typed <- a.typing(conn, interactive) }()
	shown := make(chan error, 1)
	heard := make(chan struct{}, 1)
	go func() { shown <- show(io.MultiWriter(&screen, a.Out), conn, heard) }()
	var silence <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-shown:
			return err
		case err := <-typed:
			typed = nil
			if err != nil || interactive {
				return err
			}
			if a.Idle > 0 {
				silence = time.After(a.Idle)
			}
		case <-heard:
			if silence != nil {
				silence = time.After(a.Idle)
			}
		case <-silence:
			return nil
		}
	}
}

// typing sends what is typed. A terminal's user can leave.
func (a Attachment) typing(conn net.Conn, interactive bool) error {
	buf := make([]byte, 4<<10)
	var e escape
	for {
		n, err := a.In.Read(buf)
		keys, leave := buf[:n], false
		if interactive {
			keys, leave = e.filter(keys)
		}
		if len(keys) > 0 {
			if _, err := conn.Write(keys); err != nil {
				return nil // the console has ended, which the other direction reports
			}
		}
		switch {
		case leave:
			return ErrDetached
		case err != nil:
			return nil
		}
	}
}

// show writes the console to out until one of them ends, and tells heard about it.
func show(out io.Writer, conn net.Conn, heard chan<- struct{}) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := out.Write(buf[:n]); err != nil {
				return err
			}
			select {
			case heard <- struct{}{}:
			default:
			}
		}
		if err != nil {
			return nil
		}
	}
}

// escapeKey is Ctrl-]: as in telnet, no guest's program has much use for it.
const escapeKey = 0x1d

// escape finds two of [escapeKey] in a row. The first is held back until it is known what follows.
type escape struct{ held bool }

func (e *escape) filter(keys []byte) (pass []byte, leave bool) {
	if !e.held && bytes.IndexByte(keys, escapeKey) < 0 {
		return keys, false
	}
	for _, k := range keys {
		switch {
		case e.held && k == escapeKey:
			return pass, true
		case e.held:
			pass = append(pass, escapeKey, k)
			e.held = false
		case k == escapeKey:
			e.held = true
		default:
			pass = append(pass, k)
		}
	}
	return pass, false
}

// screen knows what the guest's programs have made of the terminal.
type screen struct{ alternate atomic.Bool }

// Write takes what is shown.
func (s *screen) Write(b []byte) (int, error) {
	on, off := bytes.LastIndex(b, []byte("\x1b[?1049h")), bytes.LastIndex(b, []byte("\x1b[?1049l"))
	if on != off {
		s.alternate.Store(on > off)
	}
	return len(b), nil
}

// tidy takes back what the guest's programs may have set on a terminal that is now used for something else: the screen of an editor, mouse
// reports, bracketed paste, keypad and cursor modes, colours, a hidden cursor (xterm's ctlseqs).
func (s *screen) tidy() string {
	const modes = "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>\x1b[?7h\x1b[?25h\x1b[0m\r\n"
	if s.alternate.Load() {
		return "\x1b[?1049l" + modes // elsewhere it would move the cursor
	}
	return modes
}
