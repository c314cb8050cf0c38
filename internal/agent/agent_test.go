package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/vmentry/vmentry/test/listen"
)

// asked is a request as a test's agent gets it.
type asked struct {
	Execute   string
	Arguments struct {
		ID   int64
		PID  int64
		Time int64
		Mode string
		Path string
		Arg  []string
		Env  []string

		Input []byte `json:"input-data"`
	}
}

// obeys is an agent that syncs as it should, and answers every other request with what answer writes.
func obeys(answer func(w io.Writer, r asked)) func(net.Conn) {
	return func(conn net.Conn) {
		in := bufio.NewReader(conn)
		for {
			line, err := in.ReadBytes('\n')
			if err != nil {
				return
			}
			var r asked
			if json.Unmarshal(bytes.TrimLeft(line, "\xff"), &r) != nil {
				fmt.Fprintln(conn, `{"error":{"class":"GenericError","desc":"JSON parse error"}}`)
				continue
			}
			if r.Execute == "guest-sync-delimited" {
				fmt.Fprintf(conn, "\xff{\"return\": %d}\n", r.Arguments.ID)
				continue
			}
			answer(conn, r)
		}
	}
}

func says(text string) func(io.Writer, asked) {
	return func(w io.Writer, _ asked) { io.WriteString(w, text) }
}

func client(t testing.TB, path string) *Agent {
	a := &Agent{Dial: Dialer(path)}
	t.Cleanup(a.Close)
	return a
}

// soon is a time in which a pretended agent answers, if it ever does.
func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestCommands(t *testing.T) {
	answers := map[string]string{
		"guest-ping":     `{"return": {}}`,
		"guest-info":     `{"return": {"version": "10.0.0", "supported_commands": [{"name": "guest-exec", "enabled": false}, {"name": "guest-ping", "enabled": true}]}}`,
		"guest-set-time": `{"error": {"class": "CommandNotFound", "desc": "The command guest-set-time has been ` + `\u001b[31mdisabled"}}`,
		"guest-network-get-interfaces": `{"return": [{"name": "lo", "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8}]},
			{"name": "eth0\u001b]0;x\u0007", "hardware-address": "52:54:00:00:00:01", "ip-addresses": [{"ip-address": "10.0.2.15", "prefix": 24},
			{"ip-address": "fe80::1%eth0", "prefix": 64}, {"ip-address": "not one", "prefix": 8}, {"ip-address": "10.0.0.1", "prefix": 2000}]}, {"name": "odd", "hardware-address": "zz"}]}`,
	}
	a := client(t, listen.Unix(t, obeys(func(w io.Writer, r asked) {
		fmt.Fprintln(w, strings.ReplaceAll(answers[r.Execute], "\n", " "))
	})))
	ctx := soon(t)
	if err := a.Ping(ctx); err != nil {
		t.Error(err)
	}
	info, err := a.Info(ctx)
	if enabled, known := info.Commands["guest-exec"]; err != nil || info.Version != "10.0.0" || enabled || !known || !info.Commands["guest-ping"] {
		t.Errorf("%+v, %v", info, err)
	}
	var refused *CommandError
	if err := a.SetTime(ctx, time.Unix(1, 5)); !errors.As(err, &refused) || refused.Class != "CommandNotFound" || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("set-time: %v", err)
	}
	all, err := a.Interfaces(ctx)
	if err != nil || len(all) != 3 || len(all[1].Addresses) != 2 || all[1].MAC.String() != "52:54:00:00:00:01" ||
		all[1].Addresses[0] != netip.MustParsePrefix("10.0.2.15/24") || strings.ContainsAny(all[1].Name, "\x1b\x07") || all[2].MAC != nil {
		t.Errorf("interfaces: %+v, %v", all, err)
	}
}

// TestShutdown: an agent that does as it is told says nothing.
func TestShutdown(t *testing.T) {
	var told atomic.Value
	obedient := obeys(func(w io.Writer, r asked) {
		if r.Execute == "guest-ping" {
			fmt.Fprintln(w, `{"return": {}}`)
			return
		}
		told.Store(r.Arguments.Mode)
	})
	if err := client(t, listen.Unix(t, obedient)).Shutdown(soon(t)); err != nil || told.Load() != "powerdown" {
		t.Errorf("%v, told %v", err, told.Load())
	}
	refuses := obeys(func(w io.Writer, r asked) {
		if r.Execute == "guest-ping" {
			fmt.Fprintln(w, `{"return": {}}`)
			return
		}
		fmt.Fprintln(w, `{"error": {"class": "GenericError", "desc": "no"}}`)
	})
	if err := client(t, listen.Unix(t, refuses)).Shutdown(soon(t)); !errors.As(err, new(*CommandError)) {
		t.Errorf("refused: %v", err)
	}
}

func TestRun(t *testing.T) {
	looks := 0
	a := client(t, listen.Unix(t, obeys(func(w io.Writer, r asked) {
		switch {
		case r.Execute == "guest-exec" && r.Arguments.Path == "cat" && string(r.Arguments.Input) == "in" && r.Arguments.Env[0] == "A=b":
			fmt.Fprintln(w, `{"return": {"pid": 7}}`)
		case r.Execute == "guest-exec-status" && r.Arguments.PID == 7 && looks < 3:
			looks++
			fmt.Fprintln(w, `{"return": {"exited": false}}`)
		case r.Execute == "guest-exec-status" && r.Arguments.PID == 7:
			fmt.Fprintln(w, `{"return": {"exited": true, "exitcode": 3, "out-data": "aW4=", "err-data": "/w==", "err-truncated": true}}`)
		default:
			fmt.Fprintf(w, `{"error": {"class": "GenericError", "desc": "%+v"}}`+"\n", r.Execute)
		}
	})))
	ctx := soon(t)
	pid, err := a.Start(ctx, Program{Path: "cat", Args: []string{"-"}, Env: []string{"A=b"}, Input: []byte("in")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Wait(ctx, pid)
	if err != nil || s.Code != 3 || string(s.Out) != "in" || string(s.Err) != "\xff" || s.OutCut || !s.ErrCut {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestStale: what was said before the sync, and half of it, is no answer.
func TestStale(t *testing.T) {
	stale := strings.Repeat("x", 300<<10) + "\n{\"return\": {\"pid\": 1}}\n\xff{\"return\": 1}\n\xff\xff{\"return\": \xff\xff{half"
	a := client(t, listen.Unix(t, func(conn net.Conn) {
		io.WriteString(conn, stale)
		obeys(func(w io.Writer, r asked) { fmt.Fprintln(w, `{"return": {"pid": 42}}`) })(conn)
	}))
	pid, err := a.Start(soon(t), Program{Path: "x"})
	if pid != 42 || err != nil {
		t.Errorf("%d, %v", pid, err)
	}
}

// TestOneAnswerTooMuch: answers that nobody asked for do not become those to later requests.
func TestOneAnswerTooMuch(t *testing.T) {
	n := 0
	a := client(t, listen.Unix(t, obeys(func(w io.Writer, r asked) {
		n++
		fmt.Fprintf(w, `{"return": {"pid": %d}}`+"\n"+`{"return": {"pid": 1000}}`+"\n", n)
	})))
	for want := int64(1); want < 5; want++ {
		if pid, err := a.Start(soon(t), Program{Path: "x"}); pid != want || err != nil {
			t.Errorf("%d, %v; want %d", pid, err, want)
		}
	}
}

// endless writes the same until nobody reads it.
func endless(w io.Writer, text string) {
	block := []byte(strings.Repeat(text, 1+(64<<10)/len(text)))
	for {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// TestHostile: nothing that a guest says makes a request wait longer than it should, or hold more than it may. Each ends with
// an error, by the time or by the size, and the next request begins anew.
func TestHostile(t *testing.T) {
	agents := map[string]func(net.Conn){
		"silent":              func(c net.Conn) { io.Copy(io.Discard, c) },
		"does not even read":  func(c net.Conn) { time.Sleep(500 * time.Millisecond) },
		"closes":              func(c net.Conn) {},
		"endless line":        func(c net.Conn) { go io.Copy(io.Discard, c); endless(c, "x") },
		"endless marks":       func(c net.Conn) { go io.Copy(io.Discard, c); endless(c, "\xff") },
		"endless wrong ids":   func(c net.Conn) { go io.Copy(io.Discard, c); endless(c, "\xff{\"return\": 1}\n") },
		"endless lines":       func(c net.Conn) { go io.Copy(io.Discard, c); endless(c, "{}\n") },
		"endless answer":      obeys(func(w io.Writer, _ asked) { endless(w, "[") }),
		"no JSON":             obeys(says("\x00\x01\x02\n")),
		"deep JSON":           obeys(says(`{"return": ` + strings.Repeat("[", 500000) + "\n")),
		"empty line":          obeys(says("\n")),
		"an answer of a kind": obeys(says(`{"return": "a string"}` + "\n")),
		"a negative answer":   obeys(says(`{"return": {"pid": 1e400}}` + "\n")),
		"half an answer":      obeys(says(`{"return": {"pid": 1}}`)),
		"nothing returned":    obeys(says(`{}` + "\n")),
		"neither":             obeys(says(`null` + "\n")),
	}
	for name, agent := range agents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := client(t, listen.Unix(t, agent))
			for range 2 {
				ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
				pid, err := a.Start(ctx, Program{Path: "x"})
				cancel()
				if !errors.Is(err, ErrSilent) {
					t.Errorf("%d, %v", pid, err)
				} else if strings.ContainsAny(err.Error(), "\x00\x1b\n") || !utf8.ValidString(err.Error()) || len(err.Error()) > 1000 {
					t.Errorf("the error is not fit to be shown: %q", err)
				}
			}
		})
	}
}

// TestEndlessIsBounded: the size ends it where no time does.
func TestEndlessIsBounded(t *testing.T) {
	for name, agent := range map[string]func(net.Conn){
		"before the sync": func(c net.Conn) { go io.Copy(io.Discard, c); endless(c, "x") },
		"wrong syncs":     func(c net.Conn) { go io.Copy(io.Discard, c); endless(c, "\xff{\"return\": 1}\n") },
		"an answer":       obeys(func(w io.Writer, _ asked) { endless(w, "x") }),
	} {
		t.Run(name, func(t *testing.T) {
			if err := client(t, listen.Unix(t, agent)).Ping(soon(t)); !errors.Is(err, errTooLong) {
				t.Error(err)
			}
		})
	}
}

// TestGivenUp: a request that was given up takes nothing to the next one, and a new connection is made.
func TestGivenUp(t *testing.T) {
	var connections atomic.Int32
	late := make(chan struct{})
	path := listen.Unix(t, func(conn net.Conn) {
		first := connections.Add(1) == 1
		obeys(func(w io.Writer, r asked) {
			if first {
				<-late
			}
			fmt.Fprintln(w, `{"return": {}}`)
		})(conn)
	})
	a := client(t, path)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := a.Ping(ctx); !errors.Is(err, ErrSilent) {
		t.Errorf("it answered: %v", err)
	}
	close(late)
	for range 3 {
		if err := a.Ping(soon(t)); err != nil {
			t.Error(err)
		}
	}
	if n := connections.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestAbsent(t *testing.T) {
	there := false
	a := client(t, listen.Unix(t, obeys(says(`{"return": {}}`+"\n"))))
	a.There = func() bool { return there }
	if err := a.Ping(soon(t)); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
	there = true
	if err := a.Ping(soon(t)); err != nil {
		t.Error(err)
	}
}

// relayed is an agent behind a relay, and how often it was asked something.
func relayed(t *testing.T, agent func(net.Conn)) (relay string, a *Agent) {
	t.Helper()
	a = client(t, listen.Unix(t, agent))
	relay = filepath.Join(t.TempDir(), "relay.sock")
	l, err := net.Listen("unix", relay)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Relay{Agent: a, Within: time.Minute}.Serve(ctx, l)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return relay, a
}

// TestRelay: many ask at once, with short and long requests, and each gets the answer to its own.
func TestRelay(t *testing.T) {
	relay, _ := relayed(t, obeys(func(w io.Writer, r asked) {
		fmt.Fprintf(w, `{"return": {"exited": true, "exitcode": %d, "out-data": "%s"}}`+"\n", r.Arguments.PID, strings.Repeat("QUJD", int(r.Arguments.PID)))
	}))
	var all sync.WaitGroup
	for pid := range int64(20) {
		all.Add(1)
		go func() {
			defer all.Done()
			a := client(t, relay)
			for range 5 {
				s, err := a.Status(soon(t), pid*1000)
				if err != nil || s.Code != int(pid)*1000 || len(s.Out) != int(pid)*3000 {
					t.Errorf("%d: %d, %d bytes, %v", pid, s.Code, len(s.Out), err)
				}
			}
		}()
	}
	all.Wait()
}

// TestRelayLong: a request that does not fit into any buffer arrives whole, and so does its answer.
func TestRelayLong(t *testing.T) {
	relay, owner := relayed(t, obeys(func(w io.Writer, r asked) {
		if r.Execute == "guest-exec" {
			fmt.Fprintf(w, `{"return": {"pid": %d}}`+"\n", len(r.Arguments.Input))
			return
		}
		w.Write(bytes.Join([][]byte{[]byte(`{"return": {"exited": true, "out-data": "`), bytes.Repeat([]byte("QUJD"), MaxOutput/3), []byte(`"}}` + "\n")}, nil))
	}))
	a := client(t, relay)
	for n := range 2 {
		if pid, err := a.Start(soon(t), Program{Path: "x", Input: make([]byte, MaxInput>>(8*n))}); pid != MaxInput>>(8*n) || err != nil {
			t.Errorf("%d, %v", pid, err)
		}
	}
	if s, err := a.Status(soon(t), 1); len(s.Out) != MaxOutput/3*3 || err != nil {
		t.Errorf("%d bytes, %v", len(s.Out), err)
	}
	owner.There = func() bool { return false } // nobody reads the request then
	for range 2 {
		if _, err := a.Start(soon(t), Program{Path: "x", Input: make([]byte, 1<<20)}); !errors.Is(err, ErrAbsent) {
			t.Error(err)
		}
	}
}

// TestRelayGivenUp: a client that goes away does not keep the others waiting for an agent that does not answer, and what it asked for
// while others had their turn never reaches the agent.
func TestRelayGivenUp(t *testing.T) {
	var asked1 sync.Map
	relay, _ := relayed(t, obeys(func(w io.Writer, r asked) {
		asked1.Store(r.Arguments.Path, true)
		switch r.Arguments.Path {
		case "hangs":
		default:
			fmt.Fprintln(w, `{"return": {"pid": 1}}`)
		}
	}))
	hanging, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := client(t, relay).Start(hanging, Program{Path: "hangs"})
		done <- err
	}()
	for {
		if _, ok := asked1.Load("hangs"); ok {
			break
		}
		time.Sleep(time.Millisecond)
	}
	waiting, enough := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer enough()
	if _, err := client(t, relay).Start(waiting, Program{Path: "never"}); !errors.Is(err, ErrSilent) {
		t.Errorf("it did not wait for its turn: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, ErrSilent) {
		t.Error(err)
	}
	if _, err := client(t, relay).Start(soon(t), Program{Path: "next"}); err != nil {
		t.Error(err)
	}
	if _, ok := asked1.Load("never"); ok {
		t.Error("what was given up was carried out")
	}
}

// TestRelayPassesErrors: both sorts arrive as what they are.
func TestRelayPassesErrors(t *testing.T) {
	relay, owner := relayed(t, obeys(says(`{"error": {"class": "GenericError", "desc": "no such thing"}}`+"\n")))
	a := client(t, relay)
	var refused *CommandError
	if err := a.Ping(soon(t)); !errors.As(err, &refused) || refused.Desc != "no such thing" {
		t.Error(err)
	}
	owner.There = func() bool { return false }
	if err := a.Ping(soon(t)); !errors.Is(err, ErrAbsent) {
		t.Error(err)
	}
}

// TestLocked: two that share a socket without an owner do not speak at once.
func TestLocked(t *testing.T) {
	path := listen.Unix(t, obeys(says(`{"return": {}}`+"\n")))
	lock := filepath.Join(t.TempDir(), "lock")
	first, second := &Agent{Dial: Locked(lock, Dialer(path))}, &Agent{Dial: Locked(lock, Dialer(path))}
	if err := first.Ping(soon(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := second.Ping(ctx); !errors.Is(err, ErrSilent) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("beside the first: %v", err)
	}
	first.Close()
	if err := second.Ping(soon(t)); err != nil {
		t.Errorf("after the first: %v", err)
	}
	second.Close()
}

// FuzzAgent: whatever the guest says, a request ends.
func FuzzAgent(f *testing.F) {
	f.Add([]byte("\xff{\"return\": 1}\n"), []byte(`{"return": {}}`+"\n"))
	f.Add([]byte("{\n\xff"), []byte(`{"error": {"class": "x", "desc": "\u001b"}}`+"\n"))
	f.Add([]byte(""), []byte(`{"return": [{"name": "x", "ip-addresses": [{"ip-address": "::1", "prefix": -1}]}]}`+"\n"))
	f.Fuzz(func(t *testing.T, before, after []byte) {
		ours, theirs := net.Pipe()
		a := &Agent{Dial: func(context.Context) (net.Conn, error) { return ours, nil }}
		go func() {
			defer theirs.Close()
			in := bufio.NewReader(theirs)
			line, _ := in.ReadBytes('\n')
			var r asked
			json.Unmarshal(bytes.TrimLeft(line, "\xff"), &r)
			go func() {
				theirs.Write(before)
				fmt.Fprintf(theirs, "\xff{\"return\": %d}\n", r.Arguments.ID)
				theirs.Write(after)
				theirs.Close()
			}()
			io.Copy(io.Discard, in)
		}()
		all, err := a.Interfaces(soon(t))
		for _, i := range all {
			if strings.ContainsAny(i.Name, "\x1b\x00\n") {
				t.Errorf("the name is not fit to be shown: %q", i.Name)
			}
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x1b\x00\n") {
			t.Errorf("the error is not fit to be shown: %q", err)
		}
		a.Close()
	})
}
