package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine is the longest QMP message that is read, in bytes. The longest known is the schema, some 250 KiB.
const maxLine = 4 << 20

// ErrGone means that the QMP connection has ended: QEMU has, or somebody closed it.
var ErrGone = errors.New("QEMU has closed the QMP connection")

// Event is something that QEMU tells without being asked (QEMU docs/interop/qmp-spec.rst).
type Event struct {
	Name string // e.g. "SHUTDOWN"
	Data json.RawMessage
	Time time.Time
}

// CommandError is QEMU's answer to a command that it did not carry out.
type CommandError struct {
	Command string
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *CommandError) Error() string { return fmt.Sprintf("QMP %s: %s", e.Command, e.Desc) }

// Monitor is a QMP connection. Its methods may be called from several goroutines.
type Monitor struct {
	Version Version // of the QEMU at the other end

	conn    io.ReadWriteCloser
	events  func(Event)
	done    chan struct{} // closed when the connection has ended
	mu      sync.Mutex    // guards what follows, and writes
	next    int
	waiting map[int]chan<- answer
}

type answer struct {
	result json.RawMessage
	err    *CommandError
}

// message is anything that QEMU sends.
type message struct {
	QMP *struct {
		Version struct {
			QEMU    struct{ Major, Minor, Micro int } `json:"qemu"`
			Package string                            `json:"package"`
		} `json:"version"`
	}
	ID        *int            `json:"id"`
	Return    json.RawMessage `json:"return"`
	Error     *CommandError   `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// Dial connects to the QMP socket at path. A socket that is not there, or not listened on, is an error: see [DialWait].
func Dial(ctx context.Context, path string, events func(Event)) (*Monitor, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return NewMonitor(ctx, conn, events)
}

// DialWait is [Dial] for a QEMU that was just started: it tries again until the socket answers, ctx is done,
// or gone is closed.
func DialWait(ctx context.Context, path string, gone <-chan struct{}, events func(Event)) (*Monitor, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		m, err := Dial(ctx, path, events)
		if err == nil {
			return m, nil
		}
		select {
		case <-gone:
			return nil, ErrGone
		case <-ctx.Done():
			return nil, fmt.Errorf("QMP socket %s: %w", path, err)
		case <-time.After(pause):
		}
	}
}

// NewMonitor greets the QEMU at the other end of conn and takes conn over. events is called, if it is not nil,
// for each event, in order, by the goroutine that reads; it must not wait for a command of the same monitor.
func NewMonitor(ctx context.Context, conn io.ReadWriteCloser, events func(Event)) (*Monitor, error) {
	m := &Monitor{conn: conn, events: events, done: make(chan struct{}), waiting: map[int]chan<- answer{}}
	greeting := make(chan Version, 1)
	go m.read(greeting)
	select {
	case v := <-greeting:
		m.Version = v
	case <-m.done:
		return nil, ErrGone
	case <-ctx.Done():
		m.Close()
		return nil, fmt.Errorf("QMP: no greeting: %w", ctx.Err())
	}
	if err := m.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Close ends the connection, and with it all commands under way.
func (m *Monitor) Close() error { return m.conn.Close() }

// Done is closed when the connection has ended, after the last event.
func (m *Monitor) Done() <-chan struct{} { return m.done }

func (m *Monitor) read(greeting chan<- Version) {
	defer close(m.done)
	defer m.conn.Close()
	lines := bufio.NewScanner(m.conn)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var msg message
		if json.Unmarshal(lines.Bytes(), &msg) != nil {
			continue // not QMP; whoever waits has a deadline
		}
		switch {
		case msg.QMP != nil:
			v := msg.QMP.Version
			select {
			case greeting <- Version{v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro, v.Package}:
			default: // greeted twice
			}
		case msg.Event != "":
			if m.events != nil {
				m.events(Event{msg.Event, msg.Data, time.Unix(msg.Timestamp.Seconds, msg.Timestamp.Microseconds*1000)})
			}
		case msg.ID != nil:
			m.mu.Lock()
			reply := m.waiting[*msg.ID]
			delete(m.waiting, *msg.ID)
			m.mu.Unlock()
			if reply != nil {
				reply <- answer{msg.Return, msg.Error}
			}
		}
	}
}

// Execute runs one command and stores what it returns in result, if that is not nil. It ends with ctx's error when
// QEMU does not answer in time, with [ErrGone] when the connection ends, and with a [*CommandError] when QEMU refuses.
func (m *Monitor) Execute(ctx context.Context, command string, arguments, result any) error {
	return m.execute(ctx, command, arguments, result, nil)
}

// execute is [Monitor.Execute], with a file for QEMU if that is not nil (QEMU's qapi/misc.json, add-fd).
func (m *Monitor) execute(ctx context.Context, command string, arguments, result any, file *os.File) error {
	reply := make(chan answer, 1)
	m.mu.Lock()
	m.next++
	id := m.next
	m.waiting[id] = reply
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, arguments, id})
	if err == nil {
		err = m.write(ctx, append(line, '\n'), file)
	}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.waiting, id)
		m.mu.Unlock()
	}()
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	var a answer
	select {
	case a = <-reply:
	case <-m.done:
		select { // the answer may have been the last thing said
		case a = <-reply:
		default:
			return fmt.Errorf("QMP %s: %w", command, ErrGone)
		}
	case <-ctx.Done():
		return fmt.Errorf("QMP %s: no answer: %w", command, ctx.Err())
	}
	if a.err != nil {
		a.err.Command = command
		return a.err
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(a.result, result); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	return nil
}

// write must not hang on a QEMU that has stopped reading, because whoever holds the lock would hang with it.
func (m *Monitor) write(ctx context.Context, line []byte, file *os.File) error {
	if c, ok := m.conn.(net.Conn); ok {
		deadline, _ := ctx.Deadline() // the zero time is no deadline
		c.SetWriteDeadline(deadline)
	}
	if file == nil {
		_, err := m.conn.Write(line)
		return err
	}
	c, ok := m.conn.(*net.UnixConn)
	if !ok {
		return errors.New("a file can be handed over at a Unix socket alone")
	}
	n, _, err := c.WriteMsgUnix(line, unix.UnixRights(int(file.Fd())), nil)
	if err == nil && n < len(line) {
		_, err = c.Write(line[n:])
	}
	return err
}
