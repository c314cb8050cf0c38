package boot

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/vmentry/vmentry/internal/supervise"
)

// terminationLog is where Kubernetes looks for a container's last message (terminationMessagePath).
const terminationLog = "/dev/termination-log"

// maxTermination is how much of it Kubernetes keeps, in bytes.
const maxTermination = 4096

// lastLines is how many lines of the console go with a message about a guest that has failed.
const lastLines = 20

// leaveMessage writes why the VM has ended to path, and for a guest that has panicked or hung the end of its console. There is such a file only in a
// pod; that it cannot be written is no reason to say more.
func leaveMessage(path, why string, code int, console []byte) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return
	}
	defer f.Close()
	f.WriteString(lastMessage(why, code, console))
}

// lastMessage is the text of it.
func lastMessage(why string, code int, console []byte) string {
	text := fmt.Sprintf("%s (exit code %d)\n", why, code)
	if code != supervise.Panicked && code != supervise.Hung {
		return text[:min(len(text), maxTermination)]
	}
	lines := strings.Split(strings.TrimSpace(plain(console)), "\n")
	end := strings.Join(lines[max(0, len(lines)-lastLines):], "\n") + "\n"
	room := max(0, maxTermination-len(text))
	return text + end[max(0, len(end)-room):]
}

// controls are what a terminal acts on and a message cannot show.
var controls = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]|[^\n\t -~]`)

// plain is the console's text without what is meant for a terminal.
func plain(console []byte) string {
	return string(controls.ReplaceAll(bytes.ReplaceAll(console, []byte("\r"), nil), nil))
}
