package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/terminal"
	"github.com/vmentry/vmentry/test/transcript"
)

// serving is a hub with a guest at the other end of far, and the socket that it listens on.
func serving(t *testing.T) (hub *Hub, guest *source, far *io.PipeWriter, path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hub-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "console.sock")
	hub = NewHub(Watcher{})
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := hub.Serve(l)
	near, far := io.Pipe()
	guest = &source{Reader: near}
	carried := make(chan struct{})
	go func() {
		defer close(carried)
		hub.Carry(guest)
	}()
	t.Cleanup(func() {
		far.Close()
		<-carried
		server.Close(time.Minute)
	})
	return hub, guest, far, path
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// await reads until text is the last that has come from a client's connection.
func await(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(transcript.Patience))
	var end []byte
	for b := make([]byte, 32<<10); !bytes.HasSuffix(end, []byte(text)); {
		n, err := conn.Read(b)
		end = append(end, b[:n]...)
		end = end[max(0, len(end)-200):]
		if err != nil {
			t.Fatalf("%v, and %q instead of %q", err, end, text)
		}
	}
}

// TestManyClients: of fifty clients some never read. Those that do get everything, the guest does not wait, and all of them together cost
// no more than what is kept.
func TestManyClients(t *testing.T) {
	hub, _, far, path := serving(t)
	io.WriteString(far, "the past\n")
	var readers []net.Conn
	for i := range 50 {
		conn := dial(t, path)
		if i%5 != 0 { // the others never read
			readers = append(readers, conn)
		}
	}
	for _, conn := range readers {
		await(t, conn, "the past\n")
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	line := bytes.Repeat([]byte("x"), 1023)
	line = append(line, '\n')
	const total = 8 << 20 // eight times what is kept
	for range total / len(line) {
		far.Write(line) // would never end if the guest had to wait
	}
	if grown := int64(heap()) - int64(before); grown > 4<<20 {
		t.Errorf("the clients hold %d KiB", grown>>10)
	}
	io.WriteString(far, "the end\n")
	for _, conn := range readers {
		await(t, conn, "the end\n") // also those that have lost something
	}
	if hub.Bytes() != total+int64(len("the past\nthe end\n")) {
		t.Errorf("%d bytes were carried", hub.Bytes())
	}
}

// TestClientLosesBytes: a client that was too slow is told so, and how much it lost.
func TestClientLosesBytes(t *testing.T) {
	_, _, far, path := serving(t)
	conn := dial(t, path)
	io.WriteString(far, "hello\n") // from here on it does not read
	await(t, conn, "hello\n")
	far.Write(bytes.Repeat([]byte("x"), 3*backlog))
	io.WriteString(far, "the end")
	shown := transcript.New()
	go io.Copy(shown, conn)
	shown.Await(t, " bytes of the console were not read in time]\r\n")
	shown.Await(t, "the end")
}

// TestHistory: who attaches sees the newest lines, whole ones, without the questions that programs asked the terminals of the past.
func TestHistory(t *testing.T) {
	_, _, far, path := serving(t)
	first := dial(t, path)
	io.WriteString(far, "hello\r\n")
	await(t, first, "hello\r\n") // it is there; all that follows is no history for it
	for i := range 10000 {
		fmt.Fprintf(far, "line %d \x1b[6n\x1b[31mred\x1b[0m\r\n", i)
	}
	await(t, first, "line 9999 \x1b[6n\x1b[31mred\x1b[0m\r\n")
	second := dial(t, path)
	second.SetReadDeadline(time.Now().Add(transcript.Patience))
	var got []byte
	read := func(end string) {
		for b := make([]byte, 4096); !bytes.HasSuffix(got, []byte(end)); {
			n, err := second.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, b[:n]...)
		}
	}
	read("line 9999 \x1b[31mred\x1b[0m\r\n")
	io.WriteString(far, "now\x1b[6n")
	read("now\x1b[6n") // what is asked now is asked of everybody
	past := strings.TrimSuffix(string(got), "now\x1b[6n")
	switch {
	case !strings.HasPrefix(past, "line "):
		t.Errorf("it does not begin with a line: %.40q", past)
	case !strings.HasSuffix(past, "line 9999 \x1b[31mred\x1b[0m\r\n"):
		t.Errorf("it ends with %q", past[max(0, len(past)-80):])
	case strings.Contains(past, "\x1b[6n"):
		t.Error("a question is asked again")
	case len(past) < history/2 || len(past) > history:
		t.Errorf("it has %d bytes", len(past))
	}
}

func TestReplay(t *testing.T) {
	for past, want := range map[string]string{
		"a\x1b[6nb\x1b[cc\x1b[>0cd\x1b[?6ne":       "abcde",
		"a\x1b[18tb\x1b]11;?\x07c\x1b]11;?\x1b\\d": "abcd",
		"a\x1bP$qm\x1b\\b\x1bZc\x05d\x1b[?2026$pe": "abcde",
		"\x1b[31mred\x1b[0m\x1b[2J\x1b[H\x1b[?25l": "\x1b[31mred\x1b[0m\x1b[2J\x1b[H\x1b[?25l",
		"\x1b]0;title\x07text, really?":            "\x1b]0;title\x07text, really?",
	} {
		if got := replay([]byte(past), false); string(got) != want {
			t.Errorf("%q became %q", past, got)
		}
	}
}

// TestClientsLeave: nothing is left of one that has gone, though the guest never says anything.
func TestClientsLeave(t *testing.T) {
	_, _, _, path := serving(t)
	before := runtime.NumGoroutine()
	for range 20 {
		conn := dial(t, path)
		conn.Close()
	}
	for deadline := time.Now().Add(transcript.Patience); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, of %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestTyping(t *testing.T) {
	_, guest, far, path := serving(t)
	conn := dial(t, path)
	io.WriteString(far, "login: ")
	await(t, conn, "login: ")
	io.WriteString(conn, "root\r")
	for deadline := time.Now().Add(transcript.Patience); guest.String() != "root\r"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("typed %q", guest.String())
		}
	}
}

func TestEscape(t *testing.T) {
	tests := []struct {
		typed []string
		pass  string
		leave bool
	}{
		{[]string{"ls\r"}, "ls\r", false},
		{[]string{"\x1d\x1d"}, "", true},
		{[]string{"a\x1d", "\x1db"}, "a", true},
		{[]string{"\x1d", "b\x1dc"}, "\x1db\x1dc", false},
		{[]string{"\x1d"}, "", false},
		{[]string{"\x03"}, "\x03", false},
	}
	for _, tt := range tests {
		var e escape
		var pass []byte
		leave := false
		for _, s := range tt.typed {
			var p []byte
			p, leave = e.filter([]byte(s))
			pass = append(pass, p...)
		}
		if string(pass) != tt.pass || leave != tt.leave {
			t.Errorf("%q: %q, %v", tt.typed, pass, leave)
		}
	}
}

// TestAttachTerminal: a person types, Ctrl-C too, leaves, and has the terminal as it was.
func TestAttachTerminal(t *testing.T) {
	_, guest, far, path := serving(t)
	keyboard, screen := terminal.Open(t)
	shown := transcript.New()
	go io.Copy(shown, keyboard)
	left := make(chan error, 1)
	go func() {
		left <- Attachment{In: screen, Out: screen}.Run(context.Background(), dial(t, path))
	}()
	io.WriteString(far, "\x1b[?1049hhello\r\n")
	shown.Await(t, "hello")
	io.WriteString(keyboard, "ls\r\x03")
	for deadline := time.Now().Add(transcript.Patience); guest.String() != "ls\r\x03"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("typed %q", guest.String())
		}
	}
	io.WriteString(keyboard, "\x1d\x1d")
	if err := <-left; !errors.Is(err, ErrDetached) {
		t.Errorf("left with %v", err)
	}
	shown.Await(t, "\x1b[?1049l") // the guest's editor is no longer on the screen
	if strings.Contains(guest.String(), "\x1d") {
		t.Error("the way out was typed on the guest's console")
	}
}

// TestAttachScript: what a script says is typed; then the console is followed until it is silent.
func TestAttachScript(t *testing.T) {
	_, guest, far, path := serving(t)
	in, input, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	output, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	shown := transcript.New()
	go io.Copy(shown, output)
	io.WriteString(input, "poweroff\x1d\x1d\n")
	input.Close()
	ended := make(chan error, 1)
	go func() {
		ended <- Attachment{In: in, Out: out, Idle: 200 * time.Millisecond}.Run(context.Background(), dial(t, path))
	}()
	for deadline := time.Now().Add(transcript.Patience); guest.String() != "poweroff\x1d\x1d\n"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("typed %q", guest.String())
		}
	}
	io.WriteString(far, "going down")
	shown.Await(t, "going down")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestAttachToTheEnd: the console's end is the attachment's.
func TestAttachToTheEnd(t *testing.T) {
	_, _, far, path := serving(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	output, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	shown := transcript.New()
	go io.Copy(shown, output)
	ended := make(chan error, 1)
	go func() { ended <- Attachment{In: null, Out: out}.Run(context.Background(), dial(t, path)) }()
	io.WriteString(far, "bye")
	shown.Await(t, "bye")
	far.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func FuzzReplay(f *testing.F) {
	f.Add([]byte("a\x1b[6n\x1b]11;?\x07\x1bP$qm\x1b\\"), true)
	f.Fuzz(func(t *testing.T, past []byte, cut bool) {
		if got := replay(past, cut); len(got) > len(past) {
			t.Errorf("%q grew to %q", past, got)
		}
	})
}

// TestTypeToTheDeaf: who waits only so long for a guest that does not read is told how much it has got, and keeps nobody else from typing.
func TestTypeToTheDeaf(t *testing.T) {
	h := NewHub(Watcher{})
	if n, err := h.Type([]byte("x"), time.Minute); n != 1 || err != nil {
		t.Errorf("before there is a guest: %d, %v", n, err)
	}
	near, guest := net.Pipe()
	carried := make(chan struct{})
	go func() {
		defer close(carried)
		h.Carry(near)
	}()
	defer func() {
		guest.Close()
		<-carried
	}()
	guest.Write([]byte("login: ")) // has been read: the guest is there
	read := make(chan string, 1)
	go func() {
		b := make([]byte, 2)
		io.ReadFull(guest, b)
		read <- string(b)
	}()
	if n, err := h.Type([]byte("root"), 10*time.Millisecond); n != 2 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes typed, %v", n, err)
	}
	if got := <-read; got != "ro" {
		t.Errorf("the guest has read %q", got)
	}
	patient := make(chan error, 1)
	go func() {
		_, err := h.Write([]byte("ot"))
		patient <- err
	}()
	for len(h.turn) == 0 {
		time.Sleep(time.Millisecond)
	}
	if n, err := h.Type([]byte("x"), 10*time.Millisecond); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("beside one who waits: %d bytes typed, %v", n, err)
	}
	b := make([]byte, 2)
	if _, err := io.ReadFull(guest, b); err != nil || string(b) != "ot" {
		t.Errorf("the guest has read %q, %v", b, err)
	}
	if err := <-patient; err != nil {
		t.Errorf("who waits for ever: %v", err)
	}
}
