package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// fakeConsole is a console that shows what the test says.
type fakeConsole struct {
	shown chan string
	mu    *sync.Mutex
	typed *bytes.Buffer
	deaf  *atomic.Bool // the guest reads one byte and no more
	once  sync.Once
	gone  chan struct{}
}

func (c *fakeConsole) Next(b []byte) (int, int64, error) {
	select {
	case s, ok := <-c.shown:
		if !ok {
			return 0, 0, io.EOF
		}
		return copy(b, s), 0, nil
	case <-c.gone:
		return 0, 0, io.EOF
	}
}
func (c *fakeConsole) Write(b []byte) (int, error) {
	if c.deaf != nil && c.deaf.Load() {
		return 1, os.ErrDeadlineExceeded
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.typed.Write(b)
}
func (c *fakeConsole) Close() { c.once.Do(func() { close(c.gone) }) }

// served is a site that is served, and what was done to its VM.
type served struct {
	url     string
	shown   chan string
	mu      sync.Mutex
	typed   bytes.Buffer
	deaf    atomic.Bool
	pressed []string
	vnc     net.Conn // the VM's end of the screen
}

func serve(t *testing.T, token string) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &served{url: "http://" + l.Addr().String(), shown: make(chan string, 10)}
	var near net.Conn
	near, s.vnc = net.Pipe()
	site := Site{
		Probes: map[string]func(context.Context) (bool, string){
			"/readyz":  func(context.Context) (bool, string) { return false, "not yet" },
			"/healthz": func(context.Context) (bool, string) { return true, "the guest is running" },
		},
		Status: func(context.Context) any { return map[string]string{"name": "tiny"} },
		Log:    slog.New(slog.DiscardHandler),
		Page: &Page{
			Token: token,
			Console: func() Console {
				return &fakeConsole{shown: s.shown, mu: &s.mu, typed: &s.typed, deaf: &s.deaf, gone: make(chan struct{})}
			},
			Screen: func(context.Context) (net.Conn, error) { return near, nil },
			Press: func(_ context.Context, button string) error {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.pressed = append(s.pressed, button)
				return nil
			},
		},
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- site.Serve(ctx, l) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// ask makes a request and returns the answer's code and body.
func ask(t *testing.T, c *http.Client, method, url, body string, headers ...string) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), answer.Header
}

func TestPaths(t *testing.T) {
	s := serve(t, "")
	for path, want := range map[string]struct {
		code int
		says string
	}{
		"/healthz":                 {200, "running"},
		"/readyz":                  {503, "not yet"},
		"/status":                  {200, `"tiny"`},
		"/":                        {200, "<title>"},
		"/assets/app.js":           {200, "WebSocket"},
		"/session":                 {200, `"locked": true`},
		"/assets/":                 {404, ""},
		"/lib/":                    {404, ""},
		"/nothing":                 {404, ""},
		"/assets/../web.go":        {404, ""},
		"/assets/%2e%2e/page.go":   {404, ""},
		"/lib/..%2f..%2fgo.mod":    {404, ""},
		"/power/reset":             {405, ""},
		"/assets/no/such/file.txt": {404, ""},
	} {
		code, text, h := ask(t, http.DefaultClient, "GET", s.url+path, "")
		if code != want.code || !strings.Contains(text, want.says) {
			t.Errorf("%s: %d, %.100q", path, code, text)
		}
		for header, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; ", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
		} {
			if header == "Cache-Control" && code == 404 { // the library takes it from an answer that there is no such file
				continue
			}
			if !strings.HasPrefix(h.Get(header), want) {
				t.Errorf("%s: the header %s is %q", path, header, h.Get(header))
			}
		}
	}
	if code, _, _ := ask(t, http.DefaultClient, "POST", s.url+"/session", strings.Repeat("x", 1<<20)); code != 400 {
		t.Errorf("a megabyte to log in with: %d", code)
	}
}

// TestOneClientOfMany: whoever takes all connections that he can get does not keep others out, and gives them back by leaving.
func TestOneClientOfMany(t *testing.T) {
	s := serve(t, "")
	address := strings.TrimPrefix(s.url, "http://")
	dial := func(from byte) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}
		c, err := d.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		return c
	}
	answered := func(c net.Conn) bool {
		fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: vm\r\n\r\n")
		line, err := bufio.NewReader(c).ReadString('\n')
		return err == nil && strings.Contains(line, "200")
	}
	var greedy []net.Conn
	for range maxPerClient {
		c := dial(2)
		defer c.Close()
		if !answered(c) {
			t.Fatalf("connection %d is not served", len(greedy)+1)
		}
		greedy = append(greedy, c)
	}
	more := dial(2)
	defer more.Close()
	if answered(more) {
		t.Error("there is no end to the connections of one client")
	}
	other := dial(3)
	defer other.Close()
	if !answered(other) {
		t.Error("another client is kept out")
	}
	greedy[0].Close()
	for give := time.Now().Add(time.Minute); ; {
		again := dial(2)
		ok := answered(again)
		again.Close()
		if ok {
			break
		}
		if time.Now().After(give) {
			t.Fatal("what was given back is not to be had again")
		}
	}
}

// TestSlowClient: who begins a request and does not end it, is not waited for.
func TestSlowClient(t *testing.T) {
	s := serve(t, "")
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: vm\r\n")
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection is still there: %v", err)
	}
}

// TestToken: with the token the buttons work, in a header and by a cookie; without it, with a wrong one and from another site they do not.
func TestToken(t *testing.T) {
	s := serve(t, "s3cret")
	press := func(c *http.Client, headers ...string) int {
		code, _, _ := ask(t, c, "POST", s.url+"/power/reset", "", headers...)
		return code
	}
	jar, _ := cookiejar.New(nil)
	person := &http.Client{Jar: jar}
	if code := press(http.DefaultClient); code != 401 {
		t.Errorf("without a token: %d", code)
	}
	if code := press(http.DefaultClient, "Authorization", "Bearer wrong"); code != 401 {
		t.Errorf("with a wrong token: %d", code)
	}
	for _, path := range []string{"/session", "/console", "/screen"} { // which serve those without one as well
		if code, _, _ := ask(t, http.DefaultClient, "GET", s.url+path, "", "Authorization", "Bearer wrong"); code != 401 {
			t.Errorf("%s with a wrong token: %d", path, code)
		}
	}
	if code, _, _ := ask(t, person, "POST", s.url+"/session", `{"token":"wrong"}`); code != 401 {
		t.Errorf("logged in with a wrong token: %d", code)
	}
	if code := press(http.DefaultClient, "Authorization", "Bearer s3cret", "Origin", "http://evil.example"); code != 403 {
		t.Errorf("from another site: %d", code)
	}
	if len(s.pressed) > 0 {
		t.Fatalf("pressed: %v", s.pressed)
	}
	if code := press(http.DefaultClient, "Authorization", "Bearer s3cret"); code != 204 {
		t.Errorf("with the token: %d", code)
	}
	if code, _, _ := ask(t, person, "POST", s.url+"/session", `{"token":"s3cret"}`); code != 204 {
		t.Errorf("log in: %d", code)
	}
	if code := press(person, "Origin", s.url); code != 204 {
		t.Errorf("with the cookie: %d", code)
	}
	if code, _, _ := ask(t, person, "POST", s.url+"/power/explode", ""); code != 404 {
		t.Errorf("no such button: %d", code)
	}
	ask(t, person, "DELETE", s.url+"/session", "")
	if code := press(person); code != 401 {
		t.Errorf("after leaving: %d", code)
	}
	if len(s.pressed) != 2 {
		t.Errorf("pressed: %v", s.pressed)
	}
}

// TestNoToken: a page without a token cannot be changed by anybody, an empty one neither.
func TestNoToken(t *testing.T) {
	s := serve(t, "")
	for _, headers := range [][]string{nil, {"Authorization", "Bearer "}} {
		if code, _, _ := ask(t, http.DefaultClient, "POST", s.url+"/power/reset", "", headers...); code != 403 {
			t.Errorf("%v: %d", headers, code)
		}
	}
	if code, _, _ := ask(t, http.DefaultClient, "POST", s.url+"/session", `{"token":""}`); code != 403 {
		t.Errorf("log in without a token: %d", code)
	}
}

func dialSocket(t *testing.T, s *served, path string, headers ...string) *websocket.Conn {
	t.Helper()
	h := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	c, _, err := websocket.Dial(t.Context(), s.url+path, &websocket.DialOptions{HTTPHeader: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

func receive(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	_, b, err := c.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConsoleSocket(t *testing.T) {
	s := serve(t, "s3cret")
	if _, answer, err := websocket.Dial(t.Context(), s.url+"/console", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://evil.example"}}}); err == nil || answer.StatusCode != 403 {
		t.Errorf("another site's page may open the console: %v", err)
	}
	looker := dialSocket(t, s, "/console")
	if got := receive(t, looker); got != `{"input":false}` {
		t.Errorf("one without a token is told %s", got)
	}
	looker.Write(t.Context(), websocket.MessageBinary, []byte("rm -rf /\r"))
	s.shown <- "login: "
	if got := receive(t, looker); got != "login: " {
		t.Errorf("shown %q", got)
	}
	looker.Close(websocket.StatusNormalClosure, "")
	typist := dialSocket(t, s, "/console", "Authorization", "Bearer s3cret")
	if got := receive(t, typist); got != `{"input":true}` {
		t.Errorf("one with the token is told %s", got)
	}
	typist.Write(t.Context(), websocket.MessageBinary, []byte("root\r"))
	for {
		s.mu.Lock()
		got := s.typed.String()
		s.mu.Unlock()
		if got == "root\r" {
			break
		}
		if got != "" && !strings.HasPrefix("root\r", got) {
			t.Fatalf("typed %q", got)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestConsoleOfTheDeaf: what the guest does not read is dropped, which is said, and what comes later is typed.
func TestConsoleOfTheDeaf(t *testing.T) {
	s := serve(t, "s3cret")
	c := dialSocket(t, s, "/console", "Authorization", "Bearer s3cret")
	receive(t, c)
	s.deaf.Store(true)
	c.Write(t.Context(), websocket.MessageBinary, []byte("root\r"))
	if got := receive(t, c); !strings.Contains(got, "4 bytes were not typed") {
		t.Errorf("shown %q", got)
	}
	s.deaf.Store(false)
	s.shown <- "login: "
	if got := receive(t, c); got != "login: " {
		t.Errorf("shown %q", got)
	}
}

// TestSocketsOfOneClient: nobody has all places for consoles and screens, and who leaves gives his back.
func TestSocketsOfOneClient(t *testing.T) {
	s := serve(t, "")
	dial := func(from byte) (*websocket.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}
		client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
		c, _, err := websocket.Dial(t.Context(), s.url+"/console", &websocket.DialOptions{HTTPClient: client})
		return c, err
	}
	var greedy []*websocket.Conn
	for range maxSocketsPerClient {
		c, err := dial(2)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		greedy = append(greedy, c)
	}
	if c, err := dial(2); err == nil {
		c.CloseNow()
		t.Error("there is no end to the sockets of one client")
	}
	other, err := dial(3)
	if err != nil {
		t.Fatalf("another client is kept out: %v", err)
	}
	other.CloseNow()
	greedy[0].CloseNow()
	for give := time.Now().Add(time.Minute); ; {
		c, err := dial(2)
		if err == nil {
			c.CloseNow()
			break
		}
		if time.Now().After(give) {
			t.Fatalf("what was given back is not to be had again: %v", err)
		}
	}
}

func TestClientOf(t *testing.T) {
	for address, want := range map[string]string{"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8::1": "2001:db8::/64", "fe80::1%eth0": "fe80::/64"} {
		if got := clientOf(netip.MustParseAddr(address)).String(); got != want {
			t.Errorf("%s is one of %s, want %s", address, got, want)
		}
	}
}

// TestNames: by a name that another site may have, nothing is shown but to who has the token. Probes and metrics are asked by any name.
func TestNames(t *testing.T) {
	for _, token := range []string{"", "s3cret"} {
		s := serve(t, token)
		get := func(path, host, bearer string) int {
			r, err := http.NewRequest("GET", s.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = host
			if bearer != "" {
				r.Header.Set("Authorization", "Bearer "+bearer)
			}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			return answer.StatusCode
		}
		refused := map[string]int{"": 403, "s3cret": 401}[token]
		for host, want := range map[string]int{
			"evil.example": refused, "evil.example:8080": refused, "127.0.0.1.evil.example": refused, "vm.default.svc.evil.example": refused, "localhost.evil.example.": refused,
			"127.0.0.1:8080": 200, "[::1]:8080": 200, "[2001:db8::1]": 200, "localhost:8080": 200, "VM": 200, "vm.default.svc": 200, "vm.default.svc.cluster.local:80": 200, "a.localhost.": 200,
		} {
			if got := get("/status", host, ""); got != want {
				t.Errorf("token %q: the status by the name %s: %d, want %d", token, host, got, want)
			}
			for _, path := range []string{"/console", "/screen"} {
				if got := get(path, host, ""); (got == refused) != (want == refused) {
					t.Errorf("token %q: %s by the name %s: %d", token, path, host, got)
				}
			}
		}
		for _, path := range []string{"/healthz", "/session", "/"} {
			if got := get(path, "vm.example.com", ""); got != 200 {
				t.Errorf("%s by a name: %d", path, got)
			}
		}
		if token != "" {
			if got := get("/status", "vm.example.com", token); got != 200 {
				t.Errorf("with the token by a name: %d", got)
			}
		}
	}
}

// TestSessionEnds: a cookie is of no use after its end, nor with another end than the one that it was given.
func TestSessionEnds(t *testing.T) {
	p := newPage(Page{Token: "s3cret"}, slog.New(slog.DiscardHandler), &sync.WaitGroup{})
	now := time.Now()
	valid := p.ticket(now.Add(time.Hour))
	_, mac, _ := strings.Cut(valid, ".")
	for value, want := range map[string]bool{
		valid: true, p.ticket(now.Add(-time.Second)): false, fmt.Sprintf("%d.%s", now.Add(2*time.Hour).Unix(), mac): false, valid[:len(valid)-1]: false, "": false, ".": false, "9999999999.": false,
		newPage(Page{}, nil, nil).ticket(now.Add(time.Hour)): false,
	} {
		r, err := http.NewRequest("GET", "http://vm/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.AddCookie(&http.Cookie{Name: p.cookie, Value: value})
		if got := p.mayChange(r); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}

// TestScreenWithoutToken: the screen is seen, and keys, pointer and clipboard do not reach the VM.
func TestScreenWithoutToken(t *testing.T) {
	s := serve(t, "s3cret")
	c := dialSocket(t, s, "/screen")
	go c.Write(t.Context(), websocket.MessageBinary, clientMessages())
	got := make([]byte, len(looking()))
	s.vnc.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(s.vnc, got); err != nil || !bytes.Equal(got, looking()) {
		t.Errorf("the VM has got %x, %v", got, err)
	}
	go s.vnc.Write([]byte("RFB 003.008\n"))
	if text := receive(t, c); text != "RFB 003.008\n" {
		t.Errorf("shown %q", text)
	}
}

const greeting = "RFB 003.008\n\x01\x01"

// looking is what of [clientMessages] only looks.
func looking() []byte {
	b := []byte(greeting)
	b = append(b, append([]byte{setPixelFormat}, make([]byte, 19)...)...)
	b = append(b, setEncodings, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 16)
	return append(b, append([]byte{framebufferUpdateRequest}, make([]byte, 9)...)...)
}

// clientMessages are some of each kind.
func clientMessages() []byte {
	b := []byte(greeting)
	b = append(b, append([]byte{setPixelFormat}, make([]byte, 19)...)...)
	b = append(b, keyEvent, 1, 0, 0, 0, 0, 0, 'a')
	b = append(b, setEncodings, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 16)
	b = append(b, pointerEvent, 1, 0, 9, 0, 9)
	b = append(b, clientCutText, 0, 0, 0, 0, 0, 0, 4, 'e', 'v', 'i', 'l')
	b = append(b, fromQEMU, 0, 0, 1, 0, 0, 0, 'a', 0, 0, 0, 30)
	b = append(b, setDesktopSize, 0, 1, 0, 1, 0, 1, 0)
	b = append(b, make([]byte, 16)...)
	return append(b, append([]byte{framebufferUpdateRequest}, make([]byte, 9)...)...)
}

// TestLookOnGreeting: a client of the protocol's version 3.3, whose messages begin a byte earlier, is not understood; one that wants the screen for itself shares it.
func TestLookOnGreeting(t *testing.T) {
	for sent, want := range map[string]string{
		"RFB 003.003\n\x01\x04": "", // a key
		"RFB 003.005\n\x01\x04": "",
		"RFB 003.007\n\x01\x00": "RFB 003.007\n\x01\x01",
		"RFB 003.008\n\x01\x00": "RFB 003.008\n\x01\x01",
	} {
		var server bytes.Buffer
		lookOn(&server, strings.NewReader(sent))
		if got := server.String(); got != want {
			t.Errorf("of %q comes through %q", sent, got)
		}
	}
}

// FuzzLookOn: whatever a client sends, no key and no pointer comes through, and it ends.
func FuzzLookOn(f *testing.F) {
	f.Add(clientMessages())
	f.Add([]byte("RFB 003.003\n\x01\x04\x03"))
	f.Add([]byte(greeting + "\x06\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		var server bytes.Buffer
		lookOn(&server, bytes.NewReader(sent))
		got := server.Bytes()
		if len(got) < len(greeting) {
			return
		}
		for got = got[len(greeting):]; len(got) > 0; {
			length := 0
			switch got[0] {
			case setPixelFormat:
				length = 20
			case framebufferUpdateRequest, continuousUpdates:
				length = 10
			case setEncodings:
				if len(got) < 4 {
					return
				}
				length = 4 + 4*int(binary.BigEndian.Uint16(got[2:]))
			case fence:
				if len(got) < 9 {
					return
				}
				length = 9 + int(got[8])
			default:
				t.Fatalf("a message of kind %d came through", got[0])
			}
			if len(got) < length {
				return // cut off
			}
			got = got[length:]
		}
	})
}
