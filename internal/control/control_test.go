package control

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// serve is a server that does what do says, and the path of its socket.
func serve(t *testing.T, do func(context.Context, Request, func(Progress)) (any, *Failure)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&Server{Do: do}).Serve(ctx, l)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return path
}

func TestAsk(t *testing.T) {
	path := serve(t, func(_ context.Context, r Request, progress func(Progress)) (any, *Failure) {
		if r.Do != "double" {
			return nil, &Failure{Code: 74, Text: "no " + r.Do}
		}
		progress(Progress{1, 2})
		var n int
		json.Unmarshal(r.With, &n)
		return 2 * n, nil
	})
	var got int
	var seen Progress
	if err := Ask(t.Context(), path, "double", 21, &got, func(p Progress) { seen = p }); err != nil || got != 42 || seen != (Progress{1, 2}) {
		t.Errorf("%d, %v, %v", got, seen, err)
	}
	var f *Failure
	if err := Ask(t.Context(), path, "halve", 1, &got, nil); !errors.As(err, &f) || f.Code != 74 || f.Text != "no halve" {
		t.Error(err)
	}
	if err := Ask(t.Context(), path+"x", "double", 1, &got, nil); !errors.Is(err, ErrNobody) {
		t.Error(err)
	}
}

// TestGoneAway: who asks and goes away has given up; others are told that it is under way, and can ask after that.
func TestGoneAway(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	path := serve(t, func(ctx context.Context, r Request, _ func(Progress)) (any, *Failure) {
		if r.Do == "quick" {
			return nil, nil
		}
		close(begun)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, &Failure{Code: 70, Text: "given up"}
	})
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error)
	go func() { asked <- Ask(ctx, path, "slow", nil, nil, nil) }()
	<-begun
	var f *Failure
	if err := Ask(t.Context(), path, "quick", nil, nil, nil); !errors.As(err, &f) || f.Code != 69 {
		t.Errorf("beside it: %v", err)
	}
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("it was not given up")
	}
	var null any
	for err := Ask(t.Context(), path, "quick", nil, &null, nil); err != nil; err = Ask(t.Context(), path, "quick", nil, &null, nil) {
		if !errors.As(err, &f) || f.Code != 69 {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestNonsense: what is no request is not answered, and disturbs nobody.
func TestNonsense(t *testing.T) {
	path := serve(t, func(context.Context, Request, func(Progress)) (any, *Failure) { return 1, nil })
	for _, text := range []string{"", "\n", "{", "[]\n", string(make([]byte, 2*maxLine))} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(text))
		conn.(*net.UnixConn).CloseWrite()
		conn.Read(make([]byte, 1))
		conn.Close()
	}
	var got int
	if err := Ask(t.Context(), path, "x", nil, &got, nil); got != 1 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}
