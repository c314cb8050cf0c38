package test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/vmentry/vmentry/test/transcript"
)

// TestNothingLeaks: whatever is asked of a vmentry, however often and however badly, it has afterwards no more goroutines and open files
// than before, and so has its QEMU files.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	at := fmt.Sprintf("http://127.0.0.1:%d", port(t))
	m := start(t, withAgent(t, "", "VM_HTTP="+strings.TrimPrefix(at, "http://"), "VM_HTTP_TOKEN=secret", "VM_READY=agent", "VM_DISPLAY=vnc", "VM_IMAGE="+image(t, "qcow2")))
	m.stderr.Await(t, "INF ready")
	round := func() {
		for _, question := range []string{"startup", "ready", "live"} {
			if out, code := m.call("probe", question); code != 0 {
				t.Errorf("%s: %d: %s", question, code, out)
			}
		}
		m.press("pause")
		m.press("resume")
		m.inGuest("true")
		if a := m.ask("", "exec", "--timeout", "1ms", "--", "sleep", "5"); a.code == 0 {
			t.Errorf("a command that lasts longer than it may: %+v", a)
		}
		for _, command := range [][]string{{"status"}, {"snapshot", "create", "s"}, {"snapshot", "delete", "s"}} {
			if out, code := m.call(command...); code != 0 {
				t.Errorf("%v: %d: %s", command, code, out)
			}
		}
		attach(t, m.run+"/console.sock").Close()
		for _, path := range []string{"/", "/status", "/metrics", "/readyz", "/nothing"} {
			fetch(t, at+path)
		}
		look(t, at+"/console")
		look(t, at+"/screen")
	}
	round()
	round()
	before := countsOf(t, m, at)
	for range 5 {
		round()
	}
	give := time.Now().Add(transcript.Patience)
	for after := countsOf(t, m, at); after.moreThan(before); after = countsOf(t, m, at) {
		if time.Now().After(give) {
			t.Fatalf("%+v, and before %+v", after, before)
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.signal(syscall.SIGTERM)
	m.wants(0)
}

// counts are what a process must not have more and more of.
type counts struct{ goroutines, files, qemuFiles int }

// moreThan: what had not come to its end yet at the earlier count may have since.
func (c counts) moreThan(before counts) bool {
	return c.goroutines > before.goroutines || c.files > before.files || c.qemuFiles > before.qemuFiles
}

func countsOf(t *testing.T, m *machine, at string) counts {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	return counts{int(scrape(t, at)["go_goroutines"]), openFiles(t, m.cmd.Process.Pid), openFiles(t, qemuOf(t, m))}
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// fetch asks, and reads the answer, whatever it is.
func fetch(t *testing.T, url string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Error(err)
	}
}

// look opens one of the page's WebSockets, and is gone when the first has come.
func look(t *testing.T, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), transcript.Patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if _, _, err := conn.Read(ctx); err != nil {
		t.Errorf("%s: %v", url, err)
	}
}
