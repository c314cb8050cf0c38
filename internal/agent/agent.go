// Package agent speaks with the QEMU guest agent, a program in the guest that answers requests on a virtio-serial port
// (QEMU docs/interop/qemu-ga.rst and qemu-ga-ref): JSON, a line each way, one request at a time.
//
// Whatever comes from there was written by the guest, which may be hostile. So everything is bounded in size and in time, and
// nothing of it is believed to be well formed. What is stale is told from an answer by guest-sync-delimited, before every request.
//
// # Who owns the socket
//
// QEMU serves one client on the port's socket at a time. A second one is not refused: its connection waits in the kernel, and
// what it has written by the time it gives up reaches the guest later, as a request of nobody. So the supervisor, which lives as long
// as the VM, is that one client ([Agent]), and whoever comes from outside asks it through a socket of its own ([Relay]), which speaks
// the same protocol and takes as many clients as come. It has three more reasons: who has frozen the guest's file systems must be
// alive to thaw them; an agent that finds nobody on its port wakes up ten times a second to look again, and takes up to a tenth of
// one to answer whoever comes; and the supervisor hears from QEMU whether an agent is there at all. Where there is no supervisor, those
// from outside take turns by a lock ([Locked]).
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
	"os"
	"sync"
	"time"
)

const (
	// Answer is how long an agent may take for a request that costs it nothing.
	Answer = 5 * time.Second

	maxAnswer = 1 << 20  // bytes of an answer, where nothing else is said
	maxStale  = 64 << 20 // bytes that may come before the answer to a sync: the longest answer that nobody waited for
	maxSync   = 4 << 10  // bytes of the answer to a sync
	maxSyncs  = 1 << 10  // answers to syncs of others
)

var (
	// ErrAbsent means that no agent has opened the port.
	ErrAbsent = errors.New("no agent runs in the guest")
	// ErrSilent means that no answer came in time, or none that makes sense. What was asked for may still be done, later.
	ErrSilent = errors.New("the guest's agent does not answer")
)

// errNoSocket means that nobody listens where the agent should be asked.
var errNoSocket = errors.New("the guest's agent cannot be reached")

// CommandError is the agent's answer to a command that it did not carry out.
type CommandError struct {
	Command string
	Class   string // e.g. "CommandNotFound"
	Desc    string // the guest's words, made printable
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("the guest's agent, %s: %s", e.Command, e.Desc)
}

// Agent is the one client of an agent's socket. It connects when it is first asked something. Its methods may be called from several
// goroutines, which take turns.
type Agent struct {
	// Dial connects to the socket.
	Dial func(context.Context) (net.Conn, error)
	// There says whether an agent has the port open. Nil: that is not known, and an agent that is not there is one that does not answer.
	There func() bool

	once sync.Once
	turn chan struct{} // who has put something in may use what follows
	conn net.Conn
	in   *bufio.Reader
	next int64 // of the sync numbers
}

// Dialer connects to the Unix socket at path.
func Dialer(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

// Close ends the connection; the next request makes another.
func (a *Agent) Close() {
	if a.take(context.Background()) == nil {
		a.drop()
		a.give()
	}
}

func (a *Agent) take(ctx context.Context) error {
	a.once.Do(func() { a.turn = make(chan struct{}, 1) })
	select {
	case a.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: it is busy with another request", ErrSilent)
	}
}

func (a *Agent) give() { <-a.turn }

func (a *Agent) drop() {
	if a.conn != nil {
		a.conn.Close()
		a.conn = nil
	}
}

// request is what an agent is asked.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
}

// answer is what it says.
type answer struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// Execute runs one command and stores what it returns in result, if that is not nil. It ends with ctx, whose deadline is shortened
// to [Answer] where it has none.
func (a *Agent) Execute(ctx context.Context, command string, arguments, result any) error {
	return a.execute(ctx, command, arguments, result, maxAnswer)
}

func (a *Agent) execute(ctx context.Context, command string, arguments, result any, limit int64) error {
	return a.ask(ctx, command, arguments, result, limit, a.exchange)
}

// exchanger is [Agent.exchange] or [Agent.converse].
type exchanger func(ctx context.Context, request io.Reader, limit int64, out io.Writer) error

func (a *Agent) ask(ctx context.Context, command string, arguments, result any, limit int64, exchange exchanger) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, Answer)
		defer cancel()
	}
	line, err := json.Marshal(request{command, arguments})
	if err != nil {
		return err
	}
	var reply bytes.Buffer
	if err := exchange(ctx, bytes.NewReader(line), limit, &reply); err != nil {
		return err
	}
	return decode(command, reply.Bytes(), result)
}

// decode takes an answer apart.
func decode(command string, line []byte, result any) error {
	var reply answer
	if err := json.Unmarshal(line, &reply); err != nil {
		return fmt.Errorf("%w with what it should: to %s it says %s", ErrSilent, command, clean(string(line)))
	}
	if reply.Error != nil {
		return commandError(command, reply.Error.Class, reply.Error.Desc)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(reply.Return, result); err != nil {
		return fmt.Errorf("%w with what it should: to %s it says %s", ErrSilent, command, clean(string(line)))
	}
	return nil
}

// exchange sends one request, a line whose end it adds itself, and copies the answer to out as it comes, without the line's end.
func (a *Agent) exchange(ctx context.Context, request io.Reader, limit int64, out io.Writer) error {
	if err := a.take(ctx); err != nil {
		return err
	}
	defer a.give()
	return a.converse(ctx, request, limit, out)
}

// converse is exchange for the one whose turn it is.
func (a *Agent) converse(ctx context.Context, request io.Reader, limit int64, out io.Writer) (err error) {
	if a.There != nil && !a.There() {
		a.drop() // and with it what the guest has not read
		return ErrAbsent
	}
	if err := a.connect(ctx); err != nil {
		return err
	}
	conn := a.conn
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() || err != nil {
			a.drop() // nothing of a request that was given up must reach the guest, and no answer to it the next one
		}
	}()
	if err := a.sync(); err != nil {
		return silence(ctx, err)
	}
	if _, err := io.Copy(a.conn, io.MultiReader(request, bytes.NewReader([]byte{'\n'}))); err != nil {
		return silence(ctx, err)
	}
	return silence(ctx, copyLine(out, a.in, limit))
}

func (a *Agent) connect(ctx context.Context) error {
	if a.conn != nil {
		a.conn.SetDeadline(time.Time{})
		return nil
	}
	conn, err := a.Dial(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoSocket, err)
	}
	a.conn, a.in = conn, bufio.NewReaderSize(conn, 64<<10)
	return nil
}

// sync brings both ends to the beginning of a line, and lets pass what was said before. The byte 0xFF, which is in no JSON, makes
// the agent forget half a request, and comes before its answer (guest-sync-delimited in QEMU's qga/qapi-schema.json).
func (a *Agent) sync() error {
	if a.next == 0 {
		a.next = time.Now().UnixNano() >> 12 // not what another client has used; QEMU's numbers have 63 bits
	}
	a.next++
	if _, err := fmt.Fprintf(a.conn, "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%d}}\n", a.next); err != nil {
		return err
	}
	left := int64(maxStale)
	for range maxSyncs {
		line, n, err := markedLine(a.in, left)
		if err != nil {
			return err
		}
		left -= n
		var reply struct{ Return *int64 }
		if json.Unmarshal(line, &reply) == nil && reply.Return != nil && *reply.Return == a.next {
			return nil
		}
	}
	return errTooLong
}

// silence is err in the words of this package.
func silence(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded), ctx.Err() != nil:
		return ErrSilent
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: the connection has ended", ErrSilent)
	default:
		return fmt.Errorf("%w: %w", ErrSilent, err)
	}
}
