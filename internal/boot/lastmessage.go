package boot

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/vmentry/vmentry/internal/supervise"
)

// terminationLog is where Kubernetes looks for a container's last message (terminationMessagePath).
const terminationLog = "/dev/termination-log"

// maxTermination is how much of it Kubernetes keeps, in bytes.
const maxTermination = 4096

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
	return text + lastLines(plain(console), maxTermination-len(text))
}

// panicLine is what Linux begins the report of a panic with. Much of the report comes after it.
var panicLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^.*Kernel panic - not syncing.*\n`) })

// lastLines are as many whole lines from the end of console as have room, in bytes. If the line that says why the kernel has panicked is not
// among them it comes first.
func lastLines(console string, room int) string {
	console = strings.TrimSpace(console) + "\n"
	if len(console) <= room {
		return console
	}
	first := ""
	if found := panicLine().FindAllString(console, -1); len(found) > 0 {
		first = found[len(found)-1]
	}
	if end := wholeLines(console, room); strings.Contains(end, first) || len(first) > room {
		return end
	}
	return first + wholeLines(console, room-len(first))
}

// wholeLines are the lines that have room, or the end of the last one if not even that has.
func wholeLines(text string, room int) string {
	end := text[len(text)-min(room, len(text)):]
	if _, whole, ok := strings.Cut(end, "\n"); ok && whole != "" && len(end) < len(text) {
		return whole
	}
	return end
}

// controls are what a terminal acts on and a message cannot show.
var controls = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]|[^\n\t -~]`) })

// plain is the console's text without what is meant for a terminal.
func plain(console []byte) string {
	return string(controls().ReplaceAll(bytes.ReplaceAll(console, []byte("\r"), nil), nil))
}
