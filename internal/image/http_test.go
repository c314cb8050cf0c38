package image

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// badServer serves one file, as badly as it is told.
type badServer struct {
	*httptest.Server
	mu       sync.Mutex
	content  []byte
	etag     string
	cut      int64                                             // each answer ends after so many bytes; 0: never
	ranges   bool                                              // it understands Range
	lie      int64                                             // is added to Content-Length
	before   func(w http.ResponseWriter, r *http.Request) bool // answers itself if true
	requests []string                                          // "path range"
}

func newBadServer(t testing.TB, content []byte) *badServer {
	s := &badServer{content: content, etag: `"one"`, ranges: true}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// ServeHTTP implements http.Handler.
func (s *badServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.URL.Path+" "+r.Header.Get("Range"))
	if s.before != nil && s.before(w, r) {
		return
	}
	from, status := int64(0), http.StatusOK
	w.Header().Set("ETag", s.etag)
	if text, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && s.ranges && (r.Header.Get("If-Range") == s.etag || r.Header.Get("If-Range") == "") {
		from, _ = strconv.ParseInt(strings.TrimSuffix(text, "-"), 10, 64)
		if from >= int64(len(s.content)) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(s.content)-1, len(s.content)))
	}
	body := s.content[from:]
	w.Header().Set("Content-Length", fmt.Sprint(int64(len(body))+s.lie))
	w.WriteHeader(status)
	if s.cut > 0 && int64(len(body)) > s.cut {
		w.Write(body[:s.cut])
		panic(http.ErrAbortHandler)
	}
	w.Write(body)
}

func (s *badServer) url() string { return s.URL + "/disk.raw" }

// TestBadServers: whatever a server does, the image is whole and right, or there is none, and the error says why.
func TestBadServers(t *testing.T) {
	content := diskContent(4<<20, 3)
	other := diskContent(4<<20, 4)
	for _, tt := range []struct {
		name  string
		setup func(s *badServer)
		err   []string
		// requests is how many there have to be at least
		requests int
	}{
		{"OK", func(s *badServer) {}, nil, 1},
		{"cut again and again", func(s *badServer) { s.cut = 700 << 10 }, nil, 6},
		{"cut, and ranges are not understood", func(s *badServer) {
			s.ranges = false
			s.before = func(http.ResponseWriter, *http.Request) bool { s.cut += 1500 << 10; return false }
		}, nil, 3},
		{"cut, without a word to know the file by", func(s *badServer) {
			s.etag = ""
			s.before = func(http.ResponseWriter, *http.Request) bool { s.cut += 3 << 20; return false }
		}, nil, 2},
		{"changed between two ranges", func(s *badServer) {
			s.cut = 3 << 20
			s.before = func(http.ResponseWriter, *http.Request) bool {
				if len(s.requests) == 2 {
					s.content, s.etag = content, `"two"`
				}
				return false
			}
			s.content, s.etag = other, `"one"`
		}, nil, 3},
		{"changed, and the server does not mind If-Range", func(s *badServer) {
			s.cut = 3 << 20
			s.content = other
			s.before = func(_ http.ResponseWriter, r *http.Request) bool {
				r.Header.Del("If-Range")
				if len(s.requests) == 2 {
					s.content, s.etag = content, `"two"`
				}
				return false
			}
		}, nil, 3},
		{"changes all the time", func(s *badServer) {
			s.cut = 1 << 20
			s.before = func(http.ResponseWriter, *http.Request) bool {
				s.etag = fmt.Sprintf(`"%d"`, len(s.requests))
				return false
			}
		}, []string{"it changes on the server while it is fetched"}, 3},
		{"says more than it sends", func(s *badServer) { s.lie = 1000 }, []string{"changes on the server"}, 2},
		{"never sends the end", func(s *badServer) {
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") == "" {
					s.cut = 1 << 20
					return false
				}
				panic(http.ErrAbortHandler)
			}
		}, []string{"EOF (tried 9 times)"}, 9},
		{"stalls", func(s *badServer) {
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if len(s.requests) > 1 {
					return false
				}
				w.Header().Set("ETag", s.etag)
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				w.Write(content[:1<<20])
				w.(http.Flusher).Flush()
				s.mu.Unlock()
				defer s.mu.Lock()
				<-r.Context().Done()
				return true
			}
		}, nil, 2},
		{"is busy", func(s *badServer) {
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if len(s.requests) < 4 {
					w.Header().Set("Retry-After", "0")
					http.Error(w, "busy", []int{503, 429, 500}[len(s.requests)-1])
					return true
				}
				return false
			}
		}, nil, 4},
		{"redirects", func(s *badServer) {
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/there" {
					http.Redirect(w, r, "/there?signature=hush", http.StatusFound)
					return true
				}
				s.cut = 3 << 20
				return false
			}
		}, nil, 4},
		{"redirects for ever", func(s *badServer) {
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, "/again", http.StatusFound)
				return true
			}
		}, []string{"redirects more than 10 times"}, 11},
		{"redirects to a file", func(s *badServer) {
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Location", "file:///etc/shadow")
				w.WriteHeader(http.StatusFound)
				return true
			}
		}, []string{"unsupported protocol scheme"}, 1},
		{"has no such file", func(s *badServer) {
			s.before = func(w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true }
		}, []string{"the server answers 404 Not Found", "check VM_IMAGE"}, 1},
		{"wants a password", func(s *badServer) {
			s.before = func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(401); return true }
		}, []string{"401 Unauthorized", "USER:PASSWORD"}, 1},
		{"answers a range that was not asked for", func(s *badServer) {
			s.cut = 3 << 20
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") == "" {
					return false
				}
				w.Header().Set("ETag", s.etag)
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(content)-1, len(content)))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(content)
				return true
			}
		}, []string{"changes on the server"}, 2},
		{"sends nothing", func(s *badServer) { s.content = nil }, []string{"it is empty"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newBadServer(t, content)
			tt.setup(s)
			in := input(t, s.url()+"?token=hush")
			var log logged
			local, err := makeImage(t.Context(), in, &log)
			if tt.err != nil {
				wantError(t, err, KindIO, append(tt.err, in.Name)...)
				entries, _ := filepath.Glob(filepath.Join(in.DataDir, dirName, "*.raw"))
				if len(entries) > 0 {
					t.Errorf("there is an image: %q", entries)
				}
			} else {
				if err != nil {
					t.Fatalf("%v\n%s", err, log.String())
				}
				wantContent(t, local, content)
				wantFiles(t, in, sum(content)+".raw")
			}
			if len(s.requests) < tt.requests {
				t.Errorf("the requests were %q, want at least %d", s.requests, tt.requests)
			}
			if text := log.String() + fmt.Sprint(err); strings.Contains(text, "hush") {
				t.Errorf("a secret is in the log: %s", text)
			}
		})
	}
}

// TestPassword is sent, and said nowhere.
func TestPassword(t *testing.T) {
	content := diskContent(1<<20, 5)
	s := newBadServer(t, content)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "hush" {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	}
	in := input(t, strings.Replace(s.url(), "http://", "http://me:hush@", 1))
	var log logged
	local, err := makeImage(t.Context(), in, &log)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, local, content)
	in.URL.User = url.UserPassword("me", "hush hush")
	in.DataDir = filepath.Join(t.TempDir(), "data")
	_, err = makeImage(t.Context(), in, &log)
	wantError(t, err, KindIO, "403 Forbidden")
	records, err2 := filepath.Glob(filepath.Join(in.DataDir, dirName, "*"))
	text := log.String() + fmt.Sprint(err, err2)
	for _, r := range records {
		b, _ := os.ReadFile(r)
		text += string(b)
	}
	if strings.Contains(text, "hush") {
		t.Errorf("the password is in %s", text)
	}
}

// TestSecondStart: what is there is not asked for again, and another URL or digest is.
func TestSecondStart(t *testing.T) {
	content := diskContent(1<<20, 6)
	s := newBadServer(t, content)
	in := input(t, s.url())
	first := mustMake(t, in)
	s.Close() // offline
	if again := mustMake(t, in); again.Path != first.Path {
		t.Errorf("another image: %s", again.Path)
	}
	in.Digest = sum(content)
	if again := mustMake(t, in); again.Path != first.Path {
		t.Errorf("another image: %s", again.Path)
	}
	in.URL.User = url.UserPassword("new", "password")
	mustMake(t, in)
	pinned := in
	pinned.URL, _ = url.Parse("http://moved.invalid/elsewhere")
	if again := mustMake(t, pinned); again.Path != first.Path {
		t.Errorf("another image: %s", again.Path)
	}

	other := diskContent(1<<20, 7)
	s2 := newBadServer(t, other)
	for name, change := range map[string]func(in *Input){
		"URL":   func(in *Input) { in.URL, _ = url.Parse(s2.URL + "/other"); in.Digest = "" },
		"query": func(in *Input) { in.URL, _ = url.Parse(s2.URL + "/disk.raw?version=2"); in.Digest = "" },
	} {
		changed := in
		change(&changed)
		if local := mustMake(t, changed); local.Path == first.Path {
			t.Errorf("another %s, and the same image", name)
		}
	}
	// another digest of the same URL
	s3 := newBadServer(t, content)
	in3 := input(t, s3.url())
	mustMake(t, in3)
	s3.content, s3.etag = other, `"three"`
	in3.Digest = sum(other)
	wantContent(t, mustMake(t, in3), other)
	in3.Digest = strings.Repeat("0", 64)
	_, err := makeImage(t.Context(), in3, new(logged))
	wantError(t, err, KindIO, "its SHA-256 is "+sum(other)+" and should be 000")
	wantFiles(t, in3, sorted(sum(content)+".raw", sum(other)+".raw")...)
}

func sorted(a, b string) []string {
	if a > b {
		a, b = b, a
	}
	return []string{a, b}
}

// TestInterruptedDownload: a start that is stopped ends at once, and the next one goes on.
func TestInterruptedDownload(t *testing.T) {
	content := diskContent(8<<20, 8)
	s := newBadServer(t, content)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped by a signal")
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("ETag", s.etag)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:5<<20])
		w.(http.Flusher).Flush()
		time.AfterFunc(50*time.Millisecond, func() { cancel(stop) })
		<-r.Context().Done()
		return true
	}
	in := input(t, s.url())
	if _, err := makeImage(ctx, in, new(logged)); !errors.Is(err, stop) {
		t.Fatalf("the error is %v", err)
	}
	s.mu.Lock()
	s.before = nil
	s.mu.Unlock()
	var log logged
	local, err := makeImage(t.Context(), in, &log)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, local, content)
	last := s.requests[len(s.requests)-1]
	from, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(last, "/disk.raw bytes="), "-"))
	if from < 1<<20 {
		t.Errorf("the second start began with %q\n%s", last, log.String())
	}
	wantFiles(t, in, sum(content)+".raw")
}

// TestPublishedDigest finds the digest in every usual form and place.
func TestPublishedDigest(t *testing.T) {
	content := diskContent(1<<20, 9)
	good, bad := sum(content), strings.Repeat("1", 64)
	for _, tt := range []struct {
		file, text string
		kind       Kind
		err        string
	}{
		{"disk.raw.sha256", good + "\n", 0, ""},
		{"disk.raw.sha256", strings.ToUpper(good) + "  disk.raw\n", 0, ""},
		{"disk.raw.sha256sum", good + " *./disk.raw", 0, ""},
		{"SHA256SUMS", bad + "  other.raw\r\n" + good + " *disk.raw\r\n", 0, ""},
		{"CHECKSUM", "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.raw: 1 bytes\nSHA256 (other.raw) = " + bad + "\nSHA256 (disk.raw) = " + good + "\n", 0, ""},
		{"disk.raw.CHECKSUM", "SHA256 (disk.raw) = " + good, 0, ""},
		{"SHA256SUMS", bad + "  disk.raw\n", KindIO, "its SHA-256 is " + good + " and should be " + bad},
		{"SHA256SUMS", bad + "  disk.raw\n" + good + "  disk.raw\n", KindIO, "two different digests"},
		{"SHA256SUMS", good + "\n", KindConfig, "no digest of disk.raw"},
		{"SHA256SUMS", good + "  disk.raw.xz\n", KindConfig, "no digest of disk.raw"},
		{"nothing", good, KindConfig, "no digest of disk.raw"},
	} {
		s := newBadServer(t, content)
		s.before = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/a/disk.raw" {
				return false
			}
			if r.URL.Path == "/a/"+tt.file {
				fmt.Fprint(w, tt.text)
				return true
			}
			http.NotFound(w, r)
			return true
		}
		in := input(t, s.URL+"/a/disk.raw")
		in.Digest = DigestAuto
		local, err := makeImage(t.Context(), in, new(logged))
		// the same beside a file
		dir := t.TempDir()
		path := write(t, filepath.Join(dir, "disk.raw"), content)
		write(t, filepath.Join(dir, tt.file), []byte(tt.text))
		onDisk := Input{Path: path, Digest: DigestAuto, DataDir: filepath.Join(dir, "data")}
		beside, besideErr := makeImage(t.Context(), onDisk, new(logged))
		if tt.kind != 0 {
			wantError(t, err, tt.kind, tt.err)
			words := tt.err
			if tt.kind == KindConfig {
				words = "there is no digest of it beside it"
			}
			wantError(t, besideErr, tt.kind, words)
			continue
		}
		if err != nil || besideErr != nil {
			t.Errorf("%s: %v, %v", tt.file, err, besideErr)
			continue
		}
		wantContent(t, local, content)
		if beside.Path != path {
			t.Errorf("%s is used instead of %s", beside.Path, path)
		}
		if p, err := plan(onDisk); err != nil || len(p.Steps) > 0 {
			t.Errorf("it is verified again: %v, %v", p.Steps, err)
		}
	}
}

// TestProxyAndAuthority fetch in a process with an environment of its own, which both are read from but once.
func TestProxyAndAuthority(t *testing.T) {
	content := diskContent(1<<20, 10)
	plainServer := newBadServer(t, content)
	secure := httptest.NewTLSServer(plainServer)
	t.Cleanup(secure.Close)
	authority := write(t, filepath.Join(t.TempDir(), "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}))
	if _, err := x509.ParseCertificate(secure.Certificate().Raw); err != nil {
		t.Fatal(err)
	}
	var proxied atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxied.Add(1)
		if r.Method == http.MethodConnect && r.Host == "example.com:443" { // a name that the certificate is for
			tunnel(t, w, secure.Listener.Addr().String())
			return
		}
		if r.URL.Host != "image.invalid" {
			http.Error(w, "not for me", http.StatusBadGateway)
			return
		}
		plainServer.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	for _, tt := range []struct {
		name, url string
		env       []string
		err       string
	}{
		{"a proxy", "http://image.invalid/disk.raw", []string{"HTTP_PROXY=" + proxy.URL}, ""},
		{"a proxy in small letters", "http://image.invalid/disk.raw", []string{"http_proxy=" + proxy.URL}, ""},
		{"a proxy for https", "https://example.com/disk.raw", []string{"HTTPS_PROXY=" + proxy.URL, "SSL_CERT_FILE=" + authority}, ""},
		{"not for this host", "http://image.invalid/disk.raw", []string{"HTTP_PROXY=" + proxy.URL, "NO_PROXY=.invalid"}, "image.invalid"},
		{"a private authority", secure.URL + "/disk.raw", []string{"SSL_CERT_FILE=" + authority}, ""},
		{"an unknown authority", secure.URL + "/disk.raw", nil, "certificate signed by unknown authority"},
	} {
		dir := t.TempDir()
		cmd := childCommand("fetch", append(tt.env, "SOURCE="+tt.url, "DATA="+dir)...)
		out, err := cmd.CombinedOutput()
		if tt.err != "" {
			if err == nil || !strings.Contains(string(out), tt.err) {
				t.Errorf("%s: %v: %s", tt.name, err, out)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v: %s", tt.name, err, out)
			continue
		}
		got, err := os.ReadFile(filepath.Join(dir, dirName, sum(content)+".raw"))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if n := proxied.Load(); n != 3 {
		t.Errorf("the proxy was asked %d times", n)
	}
}

// tunnel is what a proxy does that is asked to CONNECT.
func tunnel(t *testing.T, w http.ResponseWriter, address string) {
	there, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer there.Close()
	here, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer here.Close()
	fmt.Fprint(here, "HTTP/1.1 200 Connected\r\n\r\n")
	go io.Copy(there, here)
	io.Copy(here, there)
}

// TestDowngrade: https does not become http, unless a digest says what has to come.
func TestDowngrade(t *testing.T) {
	content := diskContent(1<<20, 11)
	plainServer := newBadServer(t, content)
	secure := httptest.NewTLSServer(http.RedirectHandler(plainServer.url(), http.StatusFound))
	t.Cleanup(secure.Close)
	trusting := func(a *applier) {
		inner := a.client
		a.client = func(verified bool) *client {
			c := inner(verified)
			c.http.Transport = secure.Client().Transport
			return c
		}
	}
	in := input(t, secure.URL+"/disk.raw")
	_, err := makeImage(t.Context(), in, new(logged), trusting)
	wantError(t, err, KindIO, "redirects from https to http")
	in.Digest = sum(content)
	wantContent(t, mustMake(t, in, trusting), content)
}

// TestWithoutALength: a server that only closes the connection cannot be told from one that was cut.
func TestWithoutALength(t *testing.T) {
	content := diskContent(1<<20, 12)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 4096))
			fmt.Fprint(c, "HTTP/1.0 200 OK\r\n\r\n")
			c.Write(content)
			c.Close()
		}
	}()
	var log logged
	local, err := makeImage(t.Context(), input(t, "http://"+l.Addr().String()+"/disk"), &log)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, local, content)
	if !strings.Contains(log.String(), "does not say how long the file is") {
		t.Errorf("no warning in\n%s", log.String())
	}
}

// TestProgressLine says how far, how quickly and how long.
func TestProgressLine(t *testing.T) {
	now := time.Unix(100, 0)
	var log logged
	p := newProgress(log.output(), "fetching", 100<<20, 1<<30)
	p.now, p.began, p.lastLine = func() time.Time { return now }, now, now
	p.set(110 << 20)
	now = now.Add(5 * time.Second)
	p.set(300 << 20)
	if want := "fetching 300.0 MiB of 1.0 GiB (29%), 40.0 MiB/s, 18s left"; strings.Count(log.String(), want) != 1 || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("the log is %q, want %q", log.String(), want)
	}
	log.Reset()
	p = newProgress(log.output(), "converting", 0, 1<<30)
	p.began, p.lastLine = now, now
	p.now = func() time.Time { p.lastLine = p.lastLine.Add(-lineEvery); return now }
	showPercents(strings.NewReader("    (0.00/100%)\r    (12.50/100%)\r"), p) // as qemu-img -p prints it
	if want := "converting 128.0 MiB of 1.0 GiB (12%)"; !strings.Contains(log.String(), want) {
		t.Errorf("the log is %q, want %q", log.String(), want)
	}
	var bar bytes.Buffer
	p = newProgress(Output{Terminal: &bar}, "fetching", 0, 100)
	p.set(50)
	p.end()
	if !strings.Contains(bar.String(), "50%") || !strings.Contains(bar.String(), "fetching") {
		t.Errorf("the bar is %q", bar.String())
	}
}
