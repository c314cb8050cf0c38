package test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// server serves one file under every name.
type server struct {
	*httptest.Server
	content  []byte
	requests atomic.Int32
	slow     atomic.Bool // it sends a little at a time
}

func serve(t *testing.T, content []byte) *server {
	t.Helper()
	s := &server{content: content}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	w.Header().Set("ETag", `"one"`)
	var body = bytes.NewReader(s.content)
	if s.slow.Load() {
		w = slowly{w}
	}
	http.ServeContent(w, r, "", time.Time{}, body)
}

// slowly writes a little at a time.
type slowly struct{ http.ResponseWriter }

func (s slowly) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p[:min(len(p), 4<<10)])
	for written := n; err == nil && written < len(p); written += n {
		s.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(time.Millisecond)
		n, err = s.ResponseWriter.Write(p[written:min(len(p), written+4<<10)])
		if err != nil {
			return written, err
		}
	}
	return len(p), err
}

// bootable is the content of a disk with a boot record, and with data that do not pack.
func bootable(size int, seed byte) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	clear(b[446:510])
	b[510], b[511] = 0x55, 0xaa
	clear(b[size/2:])
	return b
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// TestImageFromURL: the image is fetched once, and the plan says so before and after; no secret is said.
func TestImageFromURL(t *testing.T) {
	content := bootable(2<<20, 1)
	packed := pack(t, "zstd", content)
	s := serve(t, packed)
	data, run := dirs(t)
	log := filepath.Join(t.TempDir(), "qemu.log")
	url := strings.Replace(s.URL, "http://", "http://me:hunter2@", 1) + "/disk.raw.zst?signature=hunter2"
	settings := append(pretend("poweroff=10ms"), "FAKE_QEMU_LOG="+log, "VM_ARGS=-D "+log, "VM_IMAGE="+url, "VM_IMAGE_SHA256="+digest(packed), "VM_LOG_LEVEL=debug")
	said := ""
	plan := func(output string) (string, int) {
		out, code := command(t, environment(data, run, settings...), "plan", "-o", output)
		said += out
		return out, code
	}
	if out, code := plan("text"); code != 0 || !strings.Contains(out, "fetch   fetch "+s.URL+"/disk.raw.zst") || !strings.Contains(out, "planned when the image is there") {
		t.Errorf("%d: the first plan is %s", code, out)
	}
	if out, code := plan("shell"); code != 78 || !strings.Contains(out, "cannot be pasted into a shell before the first start") {
		t.Errorf("%d: the first script is %s", code, out)
	}
	if len(contents(t, data)) > 0 || s.requests.Load() > 0 {
		t.Error("planning has changed something")
	}
	m := startIn(t, data, run, settings)
	m.wants(0, "image: fetch "+s.URL+"/disk.raw.zst", "image: fetched")
	said += m.stderr.String()
	image := filepath.Join(data, "images", digest(packed)+".raw")
	if got, err := os.ReadFile(image); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the image is not what was packed: %v", err)
	}
	if args := lines(t, log)[1]; !strings.Contains(args, "opaque="+image+" ") { // it is handed over
		t.Errorf("QEMU was given %s", args)
	}
	fetched := s.requests.Load()
	s.Close() // a pod comes back when the web server is down
	m = startIn(t, data, run, settings)
	m.wants(0)
	said += m.stderr.String()
	if s.requests.Load() != fetched || strings.Contains(m.stderr.String(), "image: ") {
		t.Error("the second start fetched")
	}
	if out, code := plan("shell"); code != 0 || !strings.Contains(out, "qemu-system") {
		t.Errorf("%d: the second script is %s", code, out)
	}
	for _, file := range contents(t, filepath.Join(data, "images")) {
		if strings.HasSuffix(file, ".json") {
			b, err := os.ReadFile(filepath.Join(data, "images", filepath.Base(file)))
			if err != nil {
				t.Fatal(err)
			}
			said += string(b)
		}
	}
	if strings.Contains(said+strings.Join(lines(t, log), "\n"), "hunter2") {
		t.Error("a secret is said")
	}
}

// TestWrongImages: what cannot be booted ends the start with its code and its reason, and QEMU is not started.
func TestWrongImages(t *testing.T) {
	content := bootable(1<<20, 2)
	s := serve(t, content)
	tar := append(append(make([]byte, 257), "ustar\x00"...), make([]byte, 2000)...)
	dir := t.TempDir()
	tarFile := filepath.Join(dir, "disk.ova")
	if err := os.WriteFile(tarFile, tar, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		settings []string
		code     int
		says     string
	}{
		{[]string{"VM_IMAGE=" + s.URL + "/disk.raw", "VM_IMAGE_SHA256=" + strings.Repeat("0", 64)}, 74, "its SHA-256 is " + digest(content) + " and should be 000"},
		{[]string{"VM_IMAGE=" + s.URL + "/disk.raw", "VM_IMAGE_SHA256=auto"}, 78, "no digest of disk.raw is published beside it"},
		{[]string{"VM_IMAGE=" + tarFile}, 78, "an OVA is a tar archive"},
		{[]string{"VM_IMAGE=" + s.URL + "/disk.raw", "VM_DISK_SIZE=1M", "VM_MEMORY=1"}, 78, "VM_MEMORY"},
	} {
		m := start(t, append(pretend("poweroff=10ms"), tt.settings...))
		m.wants(tt.code, tt.says)
		if strings.Contains(m.stderr.String(), "QEMU started") {
			t.Error("QEMU was started")
		}
	}
	// what can be known only when the image is there
	small := start(t, append(pretend("poweroff=10ms"), "VM_IMAGE="+serve(t, bootable(2<<20, 3)).URL+"/disk.raw", "VM_DISK_SIZE=1M"))
	small.wants(78, "VM_DISK_SIZE is 1MiB and the image's disk has 2MiB")
}

// TestStopWhileFetching: a stop ends the start at once, and the next one goes on with what is there.
func TestStopWhileFetching(t *testing.T) {
	content := bootable(4<<20, 4)
	s := serve(t, content)
	s.slow.Store(true)
	settings := append(pretend("poweroff=10ms"), "VM_IMAGE="+s.URL+"/disk.raw")
	m := start(t, settings)
	part := filepath.Join(m.data, "images", ".*.part")
	for {
		if found, _ := filepath.Glob(part); len(found) == 1 {
			if info, err := os.Stat(found[0]); err == nil && info.Size() > 1<<20 {
				break
			}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("nothing is fetched")
		}
	}
	m.signal(syscall.SIGTERM)
	m.wants(143, "stopped by SIGTERM before the guest ran")
	s.slow.Store(false)
	m = startIn(t, m.data, m.run, settings)
	m.wants(0, "going on with what an earlier start has fetched")
}

// TestFetchIsKilled kills vmentry with SIGKILL at random moments of making an image and of what comes after it, dozens of times. No guest ever runs
// on a partial image, and in the end the image is whole.
func TestFetchIsKilled(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	content := bootable(1<<20, 5)
	kills, starts := 0, 0
	for name, file := range map[string][]byte{"raw": content, "xz": pack(t, "xz", content)} {
		s := serve(t, file)
		s.slow.Store(true)
		data, run := dirs(t)
		settings := append(pretend(""), "VM_IMAGE="+s.URL+"/disk", "VM_READY=none")
		image := filepath.Join(data, "images", digest(file)+".raw")
		longest := time.Second
		for range 20 {
			m := startIn(t, data, run, settings)
			starts++
			began := time.Now()
			select {
			case <-time.After(time.Duration(random.Int64N(int64(longest)))):
			case <-t.Context().Done():
			}
			made := strings.Contains(m.stderr.String(), "QEMU started")
			if made {
				longest = max(time.Since(began), 200*time.Millisecond) // all of it is done by then
			}
			m.signal(syscall.SIGKILL)
			m.exit()
			kills++
			if got, err := os.ReadFile(image); err == nil && !bytes.Equal(got, content) {
				t.Fatalf("%s: after %d kills there is a partial image of %d bytes", name, kills, len(got))
			}
			if made { // from the beginning; not before the end of who writes there
				os.RemoveAll(filepath.Join(data, "disk"))
				os.RemoveAll(filepath.Join(data, "images"))
			}
		}
		s.slow.Store(false)
		settings[1] = "FAKE_QEMU=poweroff=10ms"
		startIn(t, data, run, settings).wants(0)
		if got, err := os.ReadFile(image); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: the image is not whole: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(data, "images", ".*")); len(left) > 0 {
			t.Errorf("%s: left behind: %q", name, left)
		}
	}
	t.Logf("%d starts, %d kills", starts, kills)
}

// TestImageOfLastTime: an image goes when the guest's disk no longer needs it, and not before.
func TestImageOfLastTime(t *testing.T) {
	first, second := bootable(1<<20, 6), bootable(1<<20, 7)
	a, b := serve(t, first), serve(t, second)
	settings := pretend("poweroff=10ms")
	m := start(t, append(settings, "VM_IMAGE="+a.URL+"/disk"))
	m.wants(0)
	m = startIn(t, m.data, m.run, append(settings, "VM_IMAGE="+b.URL+"/disk"))
	m.wants(74, "it was made from another base image")
	old := filepath.Join(m.data, "images", digest(first)+".raw")
	if !exists(old) {
		t.Fatal("the image is gone that the guest's disk is based on")
	}
	m = startIn(t, m.data, m.run, append(settings, "VM_IMAGE="+a.URL+"/disk"))
	m.wants(0, "image: removed, because nothing uses it any more")
	if err := os.RemoveAll(filepath.Join(m.data, "disk")); err != nil {
		t.Fatal(err)
	}
	m = startIn(t, m.data, m.run, append(settings, "VM_IMAGE="+b.URL+"/disk"))
	m.wants(0, "image: removed, because nothing uses it any more")
	if exists(old) {
		t.Error("the image of last time is still there")
	}
}
