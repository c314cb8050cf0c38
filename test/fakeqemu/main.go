// Command fakeqemu stands in for QEMU where a test is about the order of things and not about a guest. It listens
// where it is told to, speaks enough QMP, writes down what it was given, and behaves as FAKE_QEMU says: words
// separated by commas, each with an optional =value.
//
//	fail=TEXT        end at once with status 1 and TEXT on standard error
//	console=TEXT     what the guest writes on its console when it runs
//	poweroff=TIME    the guest powers off so long after it began to run
//	panic=TIME       the guest's kernel panics
//	reboot=TIME      the guest reboots
//	watchdog=TIME    the guest's watchdog is not fed; watchdog=button: after the power button was pressed
//	choose=TEXT      the guest writes TEXT to its exit port, then powers off
//	job              the guest has its exit port open
//	die=SIGNAL       QEMU is killed by the signal of that number, a moment after the guest began to run
//	end=STATUS       QEMU ends with this status without a word
//	button=ignore    the guest does not look at the power button; button=N: it heeds the Nth press
//	quit=ignore      QEMU does not obey quit
//	term=ignore      QEMU does not obey SIGTERM
//	helper           QEMU leaves a process behind that holds its standard error
//	mute             QMP answers nothing once the guest runs
//	visit            QEMU asks something at each of vmentry's own sockets, and logs what comes of it
//
// What it was given and what it was told is appended, a line each, to the file that FAKE_QEMU_LOG names. QEMU may write only where its
// arguments say that it will, so they have the file too (-D).
//
// `fakeqemu visit DIR` asks the same of the vmentry of that run directory, and prints what comes of it.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	q := &qemu{words: words(os.Getenv("FAKE_QEMU")), ports: map[string]net.Listener{}, start: make(chan struct{})}
	if len(os.Args) == 3 && os.Args[1] == "visit" {
		visit(os.Args[2], func(line string) { fmt.Println(line) })
		return
	}
	if len(os.Args) > 2 && os.Args[1] == "-machine" && os.Args[2] == "none" {
		q.serve(stdio{}, true)
		return
	}
	q.log(fmt.Sprint("time ", time.Now().UnixNano()))
	q.log("args " + strings.Join(os.Args[1:], " "))
	q.log("env " + strings.Join(os.Environ(), " "))
	if text, ok := q.words["fail"]; ok {
		fmt.Fprintln(os.Stderr, "qemu-system-x86_64: "+text)
		os.Exit(1)
	}
	q.run(os.Args[1:])
}

func words(s string) map[string]string {
	m := map[string]string{}
	for _, w := range strings.Split(s, ",") {
		if w != "" {
			name, value, _ := strings.Cut(w, "=")
			m[name] = value
		}
	}
	return m
}

type qemu struct {
	words  map[string]string
	ports  map[string]net.Listener // by chardev id
	reboot string                  // what a reboot does
	unfed  string                  // what the watchdog does
	runDir string                  // vmentry's
	start  chan struct{}           // closed when the guest runs

	mu       sync.Mutex
	running  bool
	presses  int
	monitors []io.Writer
	ending   sync.Once
}

func (q *qemu) log(line string) {
	name := os.Getenv("FAKE_QEMU_LOG")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintln(f, line)
}

func (q *qemu) run(args []string) {
	paused := false
	var monitors []string
	for i, a := range args {
		if a == "-S" {
			paused = true
		}
		if i == 0 {
			continue
		}
		switch args[i-1] {
		case "-chardev":
			o := options(a)
			if o["path"] == "" {
				continue
			}
			q.runDir = filepath.Dir(filepath.Dir(o["path"]))
			os.Remove(o["path"])
			l, err := net.Listen("unix", o["path"])
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			q.ports[o["id"]] = l
		case "-mon":
			monitors = append(monitors, options(a)["chardev"])
		case "-action":
			q.reboot, q.unfed = options(a)["reboot"], options(a)["watchdog"]
		}
	}
	for _, id := range monitors {
		go func() {
			for { // one client at a time
				c, err := q.ports[id].Accept()
				if err != nil {
					return
				}
				q.serve(c, false)
			}
		}()
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		for range term {
			q.log("signal SIGTERM")
			if q.words["term"] != "ignore" {
				q.end("host-signal", 0)
			}
		}
	}()
	if !paused {
		q.resume()
	}
	<-q.start
	q.guest()
	select {}
}

func options(s string) map[string]string {
	m := map[string]string{}
	for _, o := range strings.Split(s, ",") {
		k, v, _ := strings.Cut(o, "=")
		m[k] = v
	}
	return m
}

func (q *qemu) resume() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running {
		q.running = true
		close(q.start)
	}
}

// guest does what a guest does by itself.
func (q *qemu) guest() {
	if bytes, ok := q.words["flood"]; ok {
		n, _ := strconv.Atoi(bytes)
		if c, err := q.ports["console"].Accept(); err == nil {
			flood(c, n)
		}
	}
	if _, ok := q.words["visit"]; ok {
		visit(q.runDir, q.log)
	}
	if text, ok := q.words["console"]; ok {
		if l := q.ports["console"]; l != nil {
			c, err := l.Accept()
			if err == nil {
				fmt.Fprintf(c, "%s\r\n", text)
			}
		} else {
			fmt.Printf("%s\r\n", text)
		}
	}
	if _, ok := q.words["helper"]; ok {
		helper := exec.Command("sleep", "20")
		helper.Stderr = os.Stderr
		helper.Start()
	}
	if _, ok := q.words["job"]; ok {
		q.event("VSERPORT_CHANGE", map[string]any{"id": "exit-port", "open": true})
	}
	if text, ok := q.words["choose"]; ok {
		c, err := q.ports["exit"].Accept()
		if err == nil {
			q.event("VSERPORT_CHANGE", map[string]any{"id": "exit-port", "open": true})
			io.WriteString(c, text)
			c.Close()
		}
		q.end("guest-shutdown", 0)
	}
	for _, word := range []string{"watchdog", "poweroff", "panic", "reboot", "die", "end"} {
		value, ok := q.words[word]
		if !ok {
			continue
		}
		wait, err := time.ParseDuration(value)
		if err != nil {
			wait = 50 * time.Millisecond
		}
		time.Sleep(wait)
		switch word {
		case "poweroff":
			q.end("guest-shutdown", 0)
		case "panic":
			q.event("GUEST_PANICKED", map[string]any{"action": "poweroff"})
			q.end("guest-panic", 0)
		case "watchdog":
			if value != "button" {
				q.bite()
			}
		case "reboot":
			q.restart()
		case "die":
			// a Go program does not die of most signals as another would
			syscall.Exec("/bin/sh", []string{"sh", "-c", "kill -" + value + " $$"}, nil)
		case "end":
			n, _ := strconv.Atoi(value)
			os.Exit(n)
		}
	}
}

// visit asks something at each of vmentry's sockets that it answers. The console says what it has said so far.
func visit(runDir string, log func(string)) {
	for socket, question := range map[string]string{
		"vmentry.sock": "GET /healthz HTTP/1.0\r\n\r\n", "console.sock": "\r", "control.sock": `{"do":"nothing"}` + "\n",
		"guest-agent.sock": `{"execute":"guest-sync-delimited","arguments":{"id":1}}` + "\n",
	} {
		c, err := net.Dial("unix", filepath.Join(runDir, socket))
		if err == nil {
			io.WriteString(c, question)
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if err != nil {
			log(fmt.Sprintf("visit %s: kept out: %v", socket, err))
		} else {
			log(fmt.Sprintf("visit %s: answered", socket))
		}
	}
}

func (q *qemu) restart() {
	if q.reboot == "shutdown" {
		q.end("guest-reset", 0)
	}
	q.event("RESET", map[string]any{"guest": true, "reason": "guest-reset"})
}

// bite is what happens when the watchdog is not fed.
func (q *qemu) bite() {
	q.event("WATCHDOG", map[string]any{"action": q.unfed})
	if q.unfed == "reset" {
		q.restart()
	}
}

// flood writes n bytes, in lines, and a last one.
func flood(w io.Writer, n int) {
	block := []byte(strings.Repeat(strings.Repeat("x", 62)+"\r\n", 1024))
	for ; n > 0; n -= len(block) {
		w.Write(block)
	}
	io.WriteString(w, "the flood is over\r\n")
}

// end tells everybody and ends the process.
func (q *qemu) end(reason string, status int) {
	q.ending.Do(func() {
		q.log("end " + reason)
		q.event("SHUTDOWN", map[string]any{"guest": strings.HasPrefix(reason, "guest"), "reason": reason})
		os.Exit(status)
	})
	select {}
}

func (q *qemu) event(name string, data any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.monitors {
		send(m, map[string]any{"event": name, "data": data, "timestamp": map[string]int64{"seconds": time.Now().Unix(), "microseconds": 0}})
	}
}

func send(w io.Writer, v any) {
	line, err := json.Marshal(v)
	if err == nil {
		w.Write(append(line, '\r', '\n'))
	}
}

// serve is one QMP conversation.
func (q *qemu) serve(c io.ReadWriteCloser, probing bool) {
	defer c.Close()
	version := map[string]any{"qemu": map[string]int{"major": 9, "minor": 9, "micro": 9}, "package": "fake"}
	send(c, map[string]any{"QMP": map[string]any{"version": version, "capabilities": []string{}}})
	q.mu.Lock()
	q.monitors = append(q.monitors, c)
	q.mu.Unlock()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		var cmd struct {
			Execute   string          `json:"execute"`
			Arguments json.RawMessage `json:"arguments"`
			ID        json.RawMessage `json:"id"`
		}
		if json.Unmarshal(lines.Bytes(), &cmd) != nil {
			continue
		}
		if !probing {
			q.log("qmp " + cmd.Execute)
		}
		if _, mute := q.words["mute"]; mute && q.isRunning() {
			continue
		}
		reply := func(v any) { send(c, map[string]any{"return": v, "id": cmd.ID}) }
		switch cmd.Execute {
		case "query-machines":
			reply([]map[string]string{{"name": "pc-q35-9.9", "alias": "q35"}, {"name": "pc"}, {"name": "virt"}})
		case "qom-list-types":
			reply(types(cmd.Arguments))
		case "query-qmp-schema":
			reply([]map[string]any{{"meta-type": "enum", "values": []string{"none", "user", "tap", "hubport"}}})
		case "query-status":
			reply(map[string]any{"running": q.isRunning(), "status": map[bool]string{true: "running", false: "paused"}[q.isRunning()]})
		case "cont":
			reply(struct{}{})
			q.resume()
		case "system_powerdown":
			reply(struct{}{})
			q.press()
		case "quit":
			reply(struct{}{})
			if probing {
				return
			}
			if q.words["quit"] != "ignore" {
				go q.end("host-qmp-quit", 0)
			}
		default:
			reply(struct{}{})
		}
	}
}

func (q *qemu) isRunning() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running
}

func (q *qemu) press() {
	q.mu.Lock()
	q.presses++
	n := q.presses
	q.mu.Unlock()
	if q.words["watchdog"] == "button" {
		q.bite()
	}
	heeded := 1
	switch b := q.words["button"]; b {
	case "":
	case "ignore":
		return
	default:
		heeded, _ = strconv.Atoi(b)
	}
	if n >= heeded {
		go q.end("guest-shutdown", 0)
	}
}

func types(arguments json.RawMessage) []map[string]string {
	var a struct{ Implements string }
	json.Unmarshal(arguments, &a)
	names := []string{"virtio-blk-pci", "virtio-net-pci", "virtio-rng-pci", "virtio-balloon-pci", "virtio-serial-pci", "virtserialport", "pvpanic", "pvpanic-pci", "i6300esb", "virtio-scsi-pci", "scsi-hd", "scsi-cd", "ide-hd", "ide-cd", "nvme", "ich9-ahci", "e1000", "e1000e", "rtl8139", "vmxnet3"}
	if a.Implements == "user-creatable" {
		names = []string{"rng-builtin"}
	}
	var list []map[string]string
	for _, n := range names {
		list = append(list, map[string]string{"name": n})
	}
	return list
}

// stdio is standard input and output as one stream.
type stdio struct{}

func (stdio) Read(b []byte) (int, error)  { return os.Stdin.Read(b) }
func (stdio) Write(b []byte) (int, error) { return os.Stdout.Write(b) }
func (stdio) Close() error                { return nil }
