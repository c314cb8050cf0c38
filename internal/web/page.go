package web

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The page itself, and the libraries that the build fetches (fetch.sh). Without those there is a page all the same, with a simple console.
//
//go:embed assets all:lib
var files embed.FS

// page serves [Page].
type page struct {
	Page
	log     *slog.Logger
	sockets *sync.WaitGroup // that are open
	cookie  string          // its name: cookies are not divided by port, and a host may have several VMs
	key     []byte          // of sessions
	wrong   chan struct{}   // held by the one wrong token that is being refused
	seats   chan struct{}   // one for each socket
	clients *counts         // of those
}

// maxSockets is how many consoles and screens may be open.
const maxSockets = 32

func newPage(p Page, log *slog.Logger, sockets *sync.WaitGroup) *page {
	return &page{
		Page: p, log: log, sockets: sockets,
		cookie: "vmentry-" + rand.Text()[:8], key: []byte(rand.Text()),
		wrong: make(chan struct{}, 1), seats: make(chan struct{}, maxSockets), clients: newCounts(maxSocketsPerClient),
	}
}

func (p *page) routes(ctx context.Context, mux *http.ServeMux) {
	for _, part := range []string{"assets", "lib"} {
		sub, err := fs.Sub(files, part)
		if err != nil {
			panic(err) // the directories are in the program
		}
		mux.Handle("GET /"+part+"/", http.StripPrefix("/"+part+"/", withoutLists(http.FileServerFS(sub))))
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "assets/index.html") })
	mux.HandleFunc("GET /session", p.describe)
	mux.HandleFunc("POST /session", sameOrigin(p.logIn))
	mux.HandleFunc("DELETE /session", sameOrigin(p.logOut))
	mux.HandleFunc("POST /power/{button}", sameOrigin(p.allowed(p.press)))
	if p.Console != nil {
		mux.HandleFunc("GET /console", p.looking(p.socket(ctx, p.console)))
	}
	if p.Screen != nil {
		mux.HandleFunc("GET /screen", p.looking(p.socket(ctx, p.screen)))
	}
}

// withoutLists hides what is in a directory.
func withoutLists(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "" || strings.HasSuffix(r.URL.Path, "/") {
			http.NotFound(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin refuses what another site's page sends. What is no browser sends no Origin.
func sameOrigin(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if origin := r.Header.Get("Origin"); origin != "" {
			if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, r.Host) {
				http.Error(w, "not from another site", http.StatusForbidden)
				return
			}
		}
		next(w, r)
	}
}

// same compares in a time that says nothing about how much of it is right.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// mayChange says whether r comes from somebody who has the token.
func (p *page) mayChange(r *http.Request) bool {
	if p.Token == "" {
		return false
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return same(token, p.Token)
	}
	_, ok := p.sessionEnds(r)
	return ok
}

// sessionTime is how long one need not show the token again.
const sessionTime = 12 * time.Hour

// ticket is what the cookie of one holds who has shown the token: when the session ends, and that we have said so.
func (p *page) ticket(ends time.Time) string {
	when := strconv.FormatInt(ends.Unix(), 10)
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(when))
	return when + "." + hex.EncodeToString(mac.Sum(nil))
}

// sessionEnds says when the session ends by whose cookie r is asked. Without one, or after its end, it is not ok.
func (p *page) sessionEnds(r *http.Request) (ends time.Time, ok bool) {
	c, err := r.Cookie(p.cookie)
	if err != nil {
		return ends, false
	}
	when, _, _ := strings.Cut(c.Value, ".")
	n, err := strconv.ParseInt(when, 10, 64)
	if err != nil {
		return ends, false
	}
	ends = time.Unix(n, 0)
	return ends, same(c.Value, p.ticket(ends)) && time.Now().Before(ends)
}

// ownNames end what is never the name of a site of the internet: RFC 6762, RFC 8375, ICANN's .internal, and Kubernetes' services.
var ownNames = []string{".localhost", ".local", ".home.arpa", ".internal", ".svc"}

// isOwn says whether a host, as a browser names it, can be none but ours: an address, or a name that nobody can buy. Whoever has bought one can let it mean this
// address after his page is open (DNS rebinding), which then asks as our own would.
func isOwn(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if _, err := netip.ParseAddr(host); err == nil || !strings.Contains(host, ".") {
		return true
	}
	return slices.ContainsFunc(ownNames, func(end string) bool { return strings.HasSuffix(host, end) })
}

// mayLook says whether r comes from somebody who may see what there is to see.
func (p *page) mayLook(r *http.Request) bool { return isOwn(r.Host) || p.mayChange(r) }

// looking lets those pass who may look.
func (p *page) looking(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case p.mayLook(r):
			next(w, r)
		case p.Token == "":
			http.Error(w, "by this name another site's page may be asking: use an address, or set VM_HTTP_TOKEN", http.StatusForbidden)
		default:
			p.refuse(w, r)
		}
	}
}

// allowed lets those pass who have the token.
func (p *page) allowed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !p.mayChange(r) {
			p.refuse(w, r)
			return
		}
		next(w, r)
	}
}

// wrongToken is how long one wrong token after the other takes.
const wrongToken = time.Second

// refuse takes its time, for all who are refused together: so nobody can try many tokens.
func (p *page) refuse(w http.ResponseWriter, r *http.Request) {
	switch {
	case p.Token == "":
		http.Error(w, "read-only: VM_HTTP_TOKEN is not set", http.StatusForbidden)
		return
	case r.Header.Get("Authorization") == "" && r.URL.Path != "/session":
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "this takes the token of VM_HTTP_TOKEN", http.StatusUnauthorized)
		return
	}
	select {
	case p.wrong <- struct{}{}:
		defer func() { <-p.wrong }()
	case <-r.Context().Done():
		return
	case <-time.After(answerTime):
		http.Error(w, "too many wrong tokens at a time", http.StatusTooManyRequests)
		return
	}
	select {
	case <-time.After(wrongToken):
	case <-r.Context().Done():
	}
	p.log.Warn("a wrong VM_HTTP_TOKEN was tried", "from", r.RemoteAddr)
	http.Error(w, "a wrong token", http.StatusUnauthorized)
}

// wrongly says whether somebody has tried a token that is not the right one, where those without one are served as well.
func (p *page) wrongly(r *http.Request) bool {
	return p.Token != "" && r.Header.Get("Authorization") != "" && !p.mayChange(r)
}

// describe says what the page may offer.
func (p *page) describe(w http.ResponseWriter, r *http.Request) {
	if p.wrongly(r) {
		p.refuse(w, r)
		return
	}
	writeJSON(w, map[string]bool{
		"locked": p.Token == "", "allowed": p.mayChange(r), "hidden": !p.mayLook(r),
		"console": p.Console != nil, "screen": p.Screen != nil,
	})
}

// logIn gives a cookie for the token.
func (p *page) logIn(w http.ResponseWriter, r *http.Request) {
	var body struct{ Token string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, `write {"token": "…"}`, http.StatusBadRequest)
		return
	}
	if p.Token == "" || !same(strings.TrimSpace(body.Token), p.Token) {
		p.refuse(w, r)
		return
	}
	ticket := p.ticket(time.Now().Add(sessionTime))
	http.SetCookie(w, &http.Cookie{Name: p.cookie, Value: ticket, Path: "/", MaxAge: int(sessionTime.Seconds()), HttpOnly: true, SameSite: http.SameSiteStrictMode})
	w.WriteHeader(http.StatusNoContent)
}

func (p *page) logOut(w http.ResponseWriter, _ *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: p.cookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	w.WriteHeader(http.StatusNoContent)
}

func (p *page) press(w http.ResponseWriter, r *http.Request) {
	button := r.PathValue("button")
	switch button {
	case "powerdown", "reset", "pause", "resume":
	default:
		http.Error(w, "no such button", http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	p.log.Info("a button was pressed over HTTP", "button", button, "from", r.RemoteAddr)
	if err := p.Press(ctx, button); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
