// Package web serves what is known of a VM over HTTP: health, status and metrics for machines, and a page with the console and the
// screen for people.
package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

// Site is what is served. Its functions may be called at the same time.
type Site struct {
	// Probes answer with yes or no and one line of reason, by path: "/readyz".
	Probes map[string]func(context.Context) (ok bool, reason string)
	// Status is what is written as JSON.
	Status func(context.Context) any
	// Metrics are Prometheus's; nil: there are none.
	Metrics http.Handler
	// Page is the page for people; nil: there is none.
	Page *Page
	Log  *slog.Logger
}

// Page is what people can see and do.
type Page struct {
	// Token is what allows to change something; "": nobody may.
	Token string
	// Console attaches to the serial console; nil: there is none.
	Console func() Console
	// Screen connects to the VM's screen, by VNC; nil: there is none.
	Screen func(context.Context) (net.Conn, error)
	// Press presses a button: "powerdown", "reset", "pause" or "resume".
	Press func(ctx context.Context, button string) error
}

// Console is one who is attached to the serial console.
type Console interface {
	// Next waits for more of the console. lost is how many bytes before it were not read in time.
	Next(b []byte) (n int, lost int64, err error)
	// Write types. It does not wait long for a guest that does not read, and says how much that has got.
	io.Writer
	// Close ends a Next that waits.
	Close()
}

// How much anybody may ask for. What is served is small, and whoever serves it is the VM's supervisor.
const (
	answerTime     = 2 * time.Second // for a question to QEMU or the guest; less than who asks waits, who then hears why it is no
	headerTime     = 5 * time.Second
	readTime       = 10 * time.Second
	writeTime      = 30 * time.Second
	idleTime       = 60 * time.Second
	maxHeader      = 16 << 10
	maxBody        = 4 << 10
	maxConnections = 128
)

// Serve answers on l until ctx ends, and returns when nothing of it is left. l is closed then.
func (s Site) Serve(ctx context.Context, l net.Listener) error {
	var sockets sync.WaitGroup
	server := &http.Server{
		Handler:           s.handler(ctx, &sockets),
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       readTime,
		WriteTimeout:      writeTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	ended := context.AfterFunc(ctx, func() { server.Close() })
	defer ended()
	err := server.Serve(netutil.LimitListener(limitClients(l), maxConnections))
	server.Close()
	sockets.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("cannot serve HTTP at %s: %w", l.Addr(), err)
}

func (s Site) handler(ctx context.Context, sockets *sync.WaitGroup) http.Handler {
	mux := http.NewServeMux()
	for path, ask := range s.Probes {
		mux.HandleFunc("GET "+path, probe(ask))
	}
	status := http.HandlerFunc(s.status)
	if s.Metrics != nil {
		mux.Handle("GET /metrics", s.Metrics)
	}
	if s.Page != nil {
		page := newPage(*s.Page, s.Log, sockets)
		page.routes(ctx, mux)
		status = page.looking(status)
	}
	mux.HandleFunc("GET /status", status)
	return guarded(mux)
}

// guarded limits what may be sent, and tells browsers to run nothing but what comes from here, and to show it in no one else's page.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		// xterm.js makes style elements; noVNC's cursors are data URLs
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "+
			"base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

// probe answers 200 or 503, and the reason.
func probe(ask func(context.Context) (bool, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), answerTime)
		defer cancel()
		ok, reason := ask(ctx)
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, reason)
	}
}

func (s Site) status(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	writeJSON(w, s.Status(ctx))
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(v) // who has gone away cannot be helped
}
