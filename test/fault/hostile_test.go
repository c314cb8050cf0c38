//go:build amd64

package fault

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestTheTracerSees: a file that is opened, by a child at that, and a change are counted.
func TestTheTracerSees(t *testing.T) {
	p := newPlace(t)
	p.must(os.WriteFile(p.canary(), []byte("secret"), 0o600))
	c := p.watch(Harm{}, "sh", "-c", "cat "+p.canary()+" && echo x >"+p.data+"/file; exit 3")
	if c.Opened != 1 || c.Changes != 2 || c.Exit != 3 {
		t.Errorf("seen was %+v", c)
	}
}

// TestReferencesAreNotFollowed: an image, or a guest that can write its header, names another file of the container. Neither vmentry nor
// a helper opens it, whether the start is refused or goes on.
func TestReferencesAreNotFollowed(t *testing.T) {
	rebase := func(p *place, file string) {
		p.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", p.canary(), file)
	}
	base := func(args ...string) func(p *place) {
		return func(p *place) {
			p.must(os.Remove(p.image))
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "CANARY", p.canary())
			}
			p.run("qemu-img", append(append([]string{"create", "-q", "-u", "-f", "qcow2"}, args...), p.image, "4M")...)
		}
	}
	unclean := func(p *place) {
		p.env = []string{"FAKE_QEMU=die=9"}
		_ = p.undisturbed()
		p.env = nil
	}
	for _, tt := range []struct {
		name    string
		prepare func(p *place)
		exit    int
		says    string
	}{
		{"image with a backing file", base("-b", "CANARY", "-F", "raw"), 74, "it has a backing file"},
		{"image with a reference in JSON", base("-b", `json:{"driver":"raw","file":{"driver":"file","filename":"CANARY"}}`, "-F", "raw"), 74, "it has a backing file"},
		{"image with a reference to a network", base("-b", "nbd://127.0.0.1:1/x", "-F", "raw"), 74, "it has a backing file"},
		{"image with a data file", func(p *place) {
			base("-o", "data_file=CANARY")(p)
			p.must(os.WriteFile(p.canary(), []byte("secret"), 0o600))
		}, 74, "external data file"},
		{"overlay", func(p *place) { withData(p); rebase(p, p.overlay()) }, 0, "the base image moved from"},
		{"overlay, after a killed QEMU", func(p *place) { withData(p); unclean(p); rebase(p, p.overlay()) }, 0, "check "},
		{"overlay, larger", func(p *place) { withData(p); rebase(p, p.overlay()); p.env = []string{"VM_DISK_SIZE=8M"} }, 0, "grow "},
		{"overlay that becomes a copy", func(p *place) { withData(p); rebase(p, p.overlay()); p.env = []string{"VM_DISK_MODE=copy"} }, 0, "with its base image"},
		{"copy", func(p *place) {
			p.env = []string{"VM_DISK_MODE=copy"}
			p.must(p.undisturbed())
			rebase(p, p.copied())
		}, 74, "is a copy that needs none"},
		{"raw disk that its guest has given a header", func(p *place) {
			p.env = []string{"VM_DISK_MODE=direct"}
			p.must(p.undisturbed())
			fake := p.root + "/fake"
			p.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", p.canary(), "-F", "raw", fake, "4M")
			p.run("dd", "if="+fake, "of="+p.image, "conv=notrunc", "status=none")
		}, 0, "looks like qcow2 and is used as raw"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t)
			p.must(os.WriteFile(p.canary(), []byte("secret"), 0o600))
			tt.prepare(p)
			course := p.start(Harm{})
			if course.Opened > 0 {
				t.Errorf("the file was opened %d times", course.Opened)
			}
			if course.Exit != tt.exit || !strings.Contains(p.log.String(), tt.says) {
				t.Errorf("exit code %d, want %d and %q:\n%s", course.Exit, tt.exit, tt.says, p.log.String())
			}
			if b, err := os.ReadFile(p.canary()); fmt.Sprint(string(b), err) != "secret<nil>" {
				t.Errorf("the file was changed: %q, %v", b, err)
			}
		})
	}
}
