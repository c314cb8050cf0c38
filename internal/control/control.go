// Package control lets the supervisor do something for those who come from outside, where it has to be the one that does it: because it
// has QEMU, the lock of the data directory, and lives as long as the VM. A request is a line of JSON on a Unix socket; the answers are
// lines too: how far it has come, any number of them, and then the end. Who asks and goes away has given up, and what was under way ends.
package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// ErrNobody means that no supervisor listens.
var ErrNobody = errors.New("no vmentry serves this run directory")

// Request is what is asked for.
type Request struct {
	Do   string          `json:"do"`
	With json.RawMessage `json:"with,omitempty"`
}

// Progress is how far it has come, in units of its own.
type Progress struct {
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
}

// reply is one line of the answer.
type reply struct {
	Progress *Progress       `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Failure  *Failure        `json:"failure,omitempty"`
}

// Failure is why it was not done, and the exit code that says so.
type Failure struct {
	Code int    `json:"code"`
	Text string `json:"text"`
}

func (f *Failure) Error() string { return f.Text }

// Server does what is asked for, one after the other.
type Server struct {
	// Do carries out a request. Its result, or its error with an exit code, goes back.
	Do func(ctx context.Context, r Request, progress func(Progress)) (result any, err *Failure)

	turn sync.Mutex
}

const (
	patience = 10 * time.Second // with a client that does not send or read
	maxLine  = 64 << 10
	often    = 200 * time.Millisecond // between two lines about progress
)

// Serve serves those who connect to l until ctx ends, and returns when nothing is under way any more.
func (s *Server) Serve(ctx context.Context, l net.Listener) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(100 * time.Millisecond)
			continue
		}
		clients.Add(1)
		go func() {
			defer clients.Done()
			defer conn.Close()
			s.client(ctx, conn)
		}()
	}
}

func (s *Server) client(ctx context.Context, conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(patience))
	in := bufio.NewReaderSize(conn, maxLine)
	line, err := in.ReadSlice('\n')
	var r Request
	if err != nil || json.Unmarshal(line, &r) != nil {
		return
	}
	conn.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		in.ReadByte() // nothing comes any more but the end
		cancel(errors.New("whoever asked has gone away"))
	}()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	say := func(r reply) {
		conn.SetWriteDeadline(time.Now().Add(patience))
		if json.NewEncoder(conn).Encode(r) != nil {
			cancel(errors.New("whoever asked does not listen"))
		}
	}
	if !s.turn.TryLock() {
		say(reply{Failure: &Failure{Code: 69, Text: "another such command is under way; wait until it has ended"}})
		return
	}
	defer s.turn.Unlock()
	last := time.Time{}
	result, failure := s.Do(ctx, r, func(p Progress) {
		if time.Since(last) >= often {
			last = time.Now()
			say(reply{Progress: &p})
		}
	})
	if failure != nil {
		say(reply{Failure: failure})
		return
	}
	b, err := json.Marshal(result)
	if err != nil {
		say(reply{Failure: &Failure{Code: 70, Text: err.Error()}})
		return
	}
	say(reply{Result: b})
}

// Ask has the server at the socket of that path do something, and stores what comes of it in result. [ErrNobody] where there is none; a
// [*Failure] where it could not be done.
func Ask(ctx context.Context, path, do string, with, result any, progress func(Progress)) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return ErrNobody
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	b, err := json.Marshal(with)
	if err == nil {
		err = json.NewEncoder(conn).Encode(Request{Do: do, With: b})
	}
	if err != nil {
		return err
	}
	lines := json.NewDecoder(conn)
	for {
		var r reply
		if err := lines.Decode(&r); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("the VM has ended meanwhile (%w)", err)
		}
		switch {
		case r.Failure != nil:
			return r.Failure
		case r.Progress != nil:
			progress(*r.Progress)
		default:
			return json.Unmarshal(r.Result, result)
		}
	}
}
