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
	"strings"
	"time"
)

// Classes of errors that a relay answers with, besides the agent's own.
const (
	classAbsent = "VMentryAbsent"
	classSilent = "VMentrySilent"
)

// Relay lets many clients ask one agent. Each speaks with it as if it were the agent; requests are passed on one by one. It keeps
// neither requests nor answers, which may be long, but hands them on as they come.
type Relay struct {
	Agent *Agent
	// Within is how long one request may take once its turn has come.
	Within time.Duration
}

// Serve answers those who connect to l until ctx is done, and closes l.
func (r Relay) Serve(ctx context.Context, l net.Listener) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	clients := make(chan struct{}, 64) // more than that wait
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(100 * time.Millisecond) // out of descriptors, it may be; others will be closed
			continue
		}
		clients <- struct{}{}
		go func() {
			defer func() { <-clients }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			r.client(ctx, conn)
		}()
	}
}

// client serves one of them, request by request.
func (r Relay) client(ctx context.Context, conn net.Conn) {
	in := bufio.NewReaderSize(conn, 4<<10)
	for {
		head, long, err := begin(in)
		if err != nil {
			return
		}
		if id, ok := syncNumber(head); ok && !long {
			_, err = fmt.Fprintf(conn, "\xff{\"return\": %d}\n", id)
		} else if long {
			err = r.long(ctx, conn, in, head)
		} else {
			err = r.short(ctx, conn, in, head)
		}
		if err != nil {
			return
		}
	}
}

// begin reads the first part of a request: all of it, or what fits, and then long is true.
func begin(in *bufio.Reader) (head []byte, long bool, err error) {
	part, err := in.ReadSlice('\n')
	long = errors.Is(err, bufio.ErrBufferFull)
	if err != nil && !long {
		return nil, false, err
	}
	head = bytes.TrimLeft(bytes.Clone(part), "\xff")
	return bytes.TrimRight(head, "\r\n"), long, nil
}

// syncNumber is the number in a request to sync, and whether it is one.
func syncNumber(head []byte) (int64, bool) {
	var sync struct {
		Execute   string
		Arguments struct{ ID int64 }
	}
	err := json.Unmarshal(head, &sync)
	return sync.Arguments.ID, err == nil && sync.Execute == "guest-sync-delimited"
}

// short hands a request on that is there as a whole. When its client goes away meanwhile it is given up: others wait for their turn,
// and what nobody waits for any more must not reach the guest.
func (r Relay) short(ctx context.Context, conn net.Conn, in *bufio.Reader, request []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		if _, err := in.Peek(1); err != nil {
			cancel()
		}
	}()
	err := r.pass(ctx, conn, bytes.NewReader(request))
	if err != nil {
		conn.Close()
	}
	<-seen // nobody but one reads from in
	return err
}

// long hands a request on as it comes.
func (r Relay) long(ctx context.Context, conn net.Conn, in *bufio.Reader, head []byte) error {
	rest := &restOfLine{in: in}
	if err := r.pass(ctx, conn, io.MultiReader(bytes.NewReader(head), rest)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, rest) // where there is no agent it was not read
	return err
}

// pass hands a request on and the answer back. The error means that the client is of no use any more.
func (r Relay) pass(ctx context.Context, conn net.Conn, request io.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, r.Within)
	defer cancel()
	deadline, _ := ctx.Deadline()
	conn.SetWriteDeadline(deadline) // a client that does not read must not keep the others waiting
	defer conn.SetWriteDeadline(time.Time{})
	out := &counter{w: conn}
	err := r.Agent.exchange(ctx, request, maxStatus, out)
	switch {
	case err == nil:
		_, err = conn.Write([]byte{'\n'})
		return err
	case out.n > 0:
		return err // it has half an answer
	}
	return json.NewEncoder(conn).Encode(failure(err))
}

// failure is an error as an answer of the protocol's.
func failure(err error) any {
	class := classSilent
	if errors.Is(err, ErrAbsent) {
		class = classAbsent
	}
	return map[string]any{"error": map[string]string{"class": class, "desc": err.Error()}}
}

// commandError is an answer of the protocol's as an error.
func commandError(command, class, desc string) error {
	switch class {
	case classAbsent:
		return ErrAbsent
	case classSilent:
		if more, ok := strings.CutPrefix(desc, ErrSilent.Error()); ok {
			return fmt.Errorf("%w%s", ErrSilent, clean(more))
		}
		return ErrSilent
	}
	return &CommandError{command, clean(class), clean(desc)}
}

// counter counts what it lets through.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// restOfLine reads up to the end of a line, without it.
type restOfLine struct {
	in   *bufio.Reader
	part []byte
	err  error
}

func (l *restOfLine) Read(b []byte) (int, error) {
	for len(l.part) == 0 {
		if l.err != nil {
			return 0, l.err
		}
		part, err := l.in.ReadSlice('\n')
		switch {
		case err == nil:
			part, l.err = part[:len(part)-1], io.EOF
		case errors.Is(err, io.EOF):
			l.err = io.ErrUnexpectedEOF // the request must not be taken for whole
		case !errors.Is(err, bufio.ErrBufferFull):
			l.err = err
		}
		l.part = part
	}
	n := copy(b, l.part)
	l.part = l.part[n:]
	return n, nil
}
