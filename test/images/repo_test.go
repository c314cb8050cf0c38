// Package images holds the tests of vendors' images: the scripts that pin, fetch, verify and build them, against a web server of the test's that
// has what the vendors have: the same paths, names, compression, lists of digests and signatures, and disks with the same partitions.
package images

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// repo is a copy of the scripts, whose pins a test may change, with a cache of its own.
type repo struct {
	t    *testing.T
	dir  string
	site *site
	env  []string
}

// vendors are the images that are fetched.
var vendors = []string{"alpine", "centos-stream", "cirros", "fedora-coreos", "flatcar", "ubuntu"}

var archs = []string{"amd64", "arm64"}

// newRepo copies the scripts of vendors' images, which then fetch from the site.
func newRepo(t *testing.T, s *site) *repo {
	t.Helper()
	r := &repo{t: t, dir: t.TempDir(), site: s}
	if err := os.Mkdir(filepath.Join(r.dir, "images"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"build", "fetch", "update", "lib.sh", "vendor.sh"}, vendors...) {
		if out, err := exec.Command("cp", "-r", filepath.Join("../../images", name), filepath.Join(r.dir, "images")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	r.env = append(os.Environ(), "VMENTRY_CACHE="+filepath.Join(r.dir, "cache"), "VENDOR_MIRROR="+s.server.URL, "REBUILD=", "ARCH=", "NAME=", "no_proxy=127.0.0.1")
	return r
}

func (r *repo) pinsFile(name string) string { return filepath.Join(r.dir, "images", name, "pins") }

func (r *repo) read(file string) string {
	r.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// pin is what the pins say.
func (r *repo) pin(name, arch, what string) string {
	r.t.Helper()
	m := regexp.MustCompile(`(?m)^` + arch + ` ` + what + ` (\S+)$`).FindStringSubmatch(r.read(r.pinsFile(name)))
	if m == nil {
		return ""
	}
	return m[1]
}

// setPin changes what the pins say, or adds it.
func (r *repo) setPin(name, arch, what, value string) {
	r.t.Helper()
	line := regexp.MustCompile(`(?m)^` + arch + ` ` + what + ` .*$`)
	text := r.read(r.pinsFile(name))
	if line.MatchString(text) {
		text = line.ReplaceAllLiteralString(text, arch+" "+what+" "+value)
	} else {
		text += arch + " " + what + " " + value + "\n"
	}
	r.write(name, text)
}

func (r *repo) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(r.pinsFile(name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// digestName is the algorithm that a vendor's digests have.
func digestName(name string) string {
	if name == "alpine" || name == "flatcar" {
		return "sha512"
	}
	return "sha256"
}

func (r *repo) command(script string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(r.dir, "images", script), args...)
	cmd.Env = r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// run runs a script and returns what it prints, and what it says.
func (r *repo) run(script string, args ...string) (stdout, stderr string, err error) {
	r.t.Helper()
	var out, errs bytes.Buffer
	cmd := r.command(script, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	late := time.AfterFunc(2*transcript.Patience, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer late.Stop()
	err = cmd.Wait()
	return strings.TrimSpace(out.String()), errs.String(), err
}

// works runs a script that must succeed.
func (r *repo) works(script string, args ...string) string {
	r.t.Helper()
	out, said, err := r.run(script, args...)
	if err != nil {
		r.t.Fatalf("images/%s %s: %v\n%s", script, strings.Join(args, " "), err, said)
	}
	return out
}

// fails runs a script that must fail, and say each of the given things in one message, the last one.
func (r *repo) fails(says []string, script string, args ...string) {
	r.t.Helper()
	out, said, err := r.run(script, args...)
	if err == nil {
		r.t.Errorf("images/%s %s has succeeded: %s", script, strings.Join(args, " "), out)
		return
	}
	lines := strings.Split(strings.TrimSpace(said), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "error: ") {
		r.t.Errorf("the last it says is no error: %s", said)
	}
	for _, want := range says {
		if !strings.Contains(last, want) {
			r.t.Errorf("images/%s %s does not say %q:\n%s", script, strings.Join(args, " "), want, said)
		}
	}
}

// image is where the repo keeps a fetched image, once it may be used.
func (r *repo) image(name, arch string) string {
	digest := digestName(name)
	return filepath.Join(r.dir, "cache/vendor", name, digest+"-"+r.pin(name, arch, digest), filepath.Base(r.pin(name, arch, "url")))
}

// exists: whether there is a file.
func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// key is a vendor's key that signs with a subkey, as Flatcar's does.
type key struct {
	t           *testing.T
	home        string
	fingerprint string
}

func newKey(t *testing.T, user string) *key {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg") // short: the agent's socket is in it
	if err != nil {
		t.Fatal(err)
	}
	k := &key{t: t, home: home}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "gpg-agent").Run()
		os.RemoveAll(home)
	})
	k.gpg(nil, "--quick-generate-key", user, "ed25519", "cert", "never")
	k.fingerprint = regexp.MustCompile(`(?m)^fpr:+([0-9A-F]{40}):`).FindStringSubmatch(k.gpg(nil, "--with-colons", "--list-keys"))[1]
	k.renew()
	return k
}

func (k *key) gpg(stdin []byte, args ...string) string {
	k.t.Helper()
	cmd := exec.Command("gpg", append([]string{"--homedir", k.home, "--batch", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		k.t.Fatalf("gpg %s: %v\n%s", strings.Join(args, " "), err, &errs)
	}
	return string(out)
}

// renew makes a new subkey, which is used from then on.
func (k *key) renew() {
	k.t.Helper()
	k.gpg(nil, "--quick-add-key", k.fingerprint, "ed25519", "sign", "never")
}

// sign makes a detached signature, with the newest subkey.
func (k *key) sign(data []byte) []byte {
	k.t.Helper()
	var newest string
	for _, m := range regexp.MustCompile(`(?m)^sub:(?:[^:]*:)+\nfpr:+([0-9A-F]{40}):`).FindAllStringSubmatch(k.gpg(nil, "--with-colons", "--list-keys"), -1) {
		newest = m[1]
	}
	return []byte(k.gpg(data, "--local-user", newest+"!", "--detach-sign"))
}

// public is the key as the vendor publishes it.
func (k *key) public() []byte {
	return []byte(k.gpg(nil, "--armor", "--export", k.fingerprint))
}

// trust makes the pins of name have the key, at its vendor's URL, in place of the real ones.
func (r *repo) trust(name string, k *key) {
	r.t.Helper()
	line := regexp.MustCompile(`(?m)^key \S+ (\S+).*\n`)
	text := r.read(r.pinsFile(name))
	url := line.FindStringSubmatch(text)[1]
	first := true
	r.write(name, line.ReplaceAllStringFunc(text, func(string) string {
		if !first {
			return ""
		}
		first = false
		return fmt.Sprintf("key %s %s\n", k.fingerprint, url)
	}))
	r.site.put(r.t, url, k.public())
}
