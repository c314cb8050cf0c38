package images

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// site stands for the web servers of all vendors: it serves https://HOST/PATH at /HOST/PATH, from the file HOST/PATH of a directory. A
// path that ends with a slash is the list of what is there, as web servers make it.
type site struct {
	dir    string
	server *httptest.Server

	mu       sync.Mutex
	requests []string
	cut      map[string]int64 // how much of a file is sent before the connection breaks, once
	held     map[string]int64 // how much of a file is sent before nothing more comes, once
}

func newSite(t *testing.T) *site {
	s := &site{dir: t.TempDir(), cut: map[string]int64{}, held: map[string]int64{}}
	s.server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.server.CloseClientConnections()
		s.server.Close()
	})
	return s
}

// file is where the site has what is at a URL.
func (s *site) file(url string) string {
	return filepath.Join(s.dir, filepath.FromSlash(strings.TrimPrefix(url, "https://")))
}

func (s *site) put(t *testing.T, url string, contents []byte) {
	t.Helper()
	f := s.file(url)
	if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f, contents, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (s *site) get(t *testing.T, url string) []byte {
	t.Helper()
	b, err := os.ReadFile(s.file(url))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s *site) remove(t *testing.T, url string) {
	t.Helper()
	if err := os.Remove(s.file(url)); err != nil {
		t.Fatal(err)
	}
}

// asked are the requests since the last call: method, path, and the range if one was asked for.
func (s *site) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests
	s.requests = nil
	return r
}

// once takes a fault out of a map.
func (s *site) once(faults map[string]int64, path string) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := faults["https:/"+path]
	delete(faults, "https:/"+path)
	return n, ok
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	s.mu.Unlock()
	path := filepath.Join(s.dir, filepath.FromSlash(r.URL.Path))
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	f, err := os.Open(path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if info.IsDir() {
		list(w, path)
		return
	}
	if r.Method == http.MethodGet {
		if n, ok := s.once(s.cut, r.URL.Path); ok {
			part(w, f, info.Size(), n)
			panic(http.ErrAbortHandler)
		}
		if n, ok := s.once(s.held, r.URL.Path); ok {
			part(w, f, info.Size(), n)
			<-r.Context().Done()
			return
		}
	}
	http.ServeContent(w, r, "", info.ModTime(), f)
}

// part sends the first n bytes of a file as if all were to come.
func part(w http.ResponseWriter, f io.Reader, size, n int64) {
	w.Header().Set("Content-Length", fmt.Sprint(size))
	io.CopyN(w, f, n)
	w.(http.Flusher).Flush()
}

func list(w io.Writer, dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		fmt.Fprintf(w, "<a href=\"%s\">%s</a>  2026-09-18 10:00  -\n", name, name)
	}
}
