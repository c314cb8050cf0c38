//go:build amd64

package fault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmentry/vmentry/test/process"
)

var vmentry, fakeQEMU string

// watchEnv holds the harm for a test binary that is run as the tracer.
const watchEnv = "VMENTRY_FAULT_WATCH"

func TestMain(m *testing.M) {
	if text := os.Getenv(watchEnv); text != "" {
		watchAndTell(text)
		return
	}
	os.Exit(func() int {
		dir, built := os.LookupEnv("VMENTRY_FAULT_MOUNTS")
		if !built {
			var err error
			if dir, err = os.MkdirTemp("", "vmentry-fault-"); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer os.RemoveAll(dir)
		}
		vmentry, fakeQEMU = filepath.Join(dir, "vmentry"), filepath.Join(dir, "fake")
		for out, pkg := range map[string]string{vmentry: "../../cmd/vmentry", filepath.Join(fakeQEMU, "qemu-system-x86_64"): "../fakeqemu"} {
			if built {
				break
			}
			if err := process.Build(out, pkg); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		return m.Run()
	}())
}

// watchAndTell is the tracer's process: the command is in its arguments.
func watchAndTell(text string) {
	var order Order
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		panic(err)
	}
	os.Unsetenv(watchEnv)
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdin = os.Stdin
	cmd.Stderr = os.Stderr
	course, err := watch(cmd, order)
	if err != nil {
		panic(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(course); err != nil {
		panic(err)
	}
}

// place is one VM's directories.
type place struct {
	t     *testing.T
	root  string
	data  string
	image string
	env   []string // settings of the starts from now on
	log   bytes.Buffer
}

func newPlace(t *testing.T) *place {
	root, err := os.MkdirTemp("", "vmf-") // short, for the sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	p := &place{t: t, root: root, data: root + "/data", image: root + "/disk.img"}
	p.must(os.Mkdir(p.data, 0o755))
	p.writeImage(1)
	return p
}

const imageSize = 2 << 20

// writeImage makes a base image of 2 MiB that differs with the seed.
func (p *place) writeImage(seed byte) {
	b := bytes.Repeat([]byte{seed}, imageSize)
	b[510], b[511] = 0x55, 0xaa
	if err := os.WriteFile(p.image, b, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// save remembers the data directory, for reset.
func (p *place) save() { p.run("cp", "-a", "--sparse=always", p.data, p.data+".saved") }

// reset brings the data directory back to what it was when it was saved. The image stays the same file: it is known by that.
func (p *place) reset() {
	if err := os.RemoveAll(p.data); err != nil {
		p.t.Fatal(err)
	}
	p.run("cp", "-a", "--sparse=always", p.data+".saved", p.data)
	p.must(os.Truncate(p.image, imageSize))
}

func (p *place) run(name string, args ...string) {
	p.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		p.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func (p *place) environ() []string {
	return append([]string{
		"PATH=" + fakeQEMU + ":" + os.Getenv("PATH"), "HOME=/", "TMPDIR=" + os.TempDir(), "FAKE_QEMU=poweroff=50ms", "HOSTFWD=none", "VM_NETWORK=none",
		"VM_CONSOLE=none", "VM_DATA_DIR=" + p.data, "VM_RUN_DIR=" + p.root + "/run", "VM_IMAGE=" + p.image, "VM_DISK_SIZE=4M",
	}, p.env...)
}

// start runs vmentry, does it harm, and tells how it went.
func (p *place) start(harm Harm) Course {
	p.t.Helper()
	return p.watch(harm, vmentry)
}

// watch runs a command under the tracer.
func (p *place) watch(harm Harm, command ...string) Course {
	p.t.Helper()
	order, err := json.Marshal(Order{Dir: p.data, Canary: p.canary(), Harm: harm})
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", command...)
	cmd.Env = append(p.environ(), watchEnv+"="+string(order))
	p.log.Reset()
	cmd.Stderr = &p.log
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("the tracer: %v\n%s", err, p.log.String())
	}
	var c Course
	if err := json.Unmarshal(out, &c); err != nil {
		p.t.Fatal(err)
	}
	return c
}

// undisturbed starts without harm, and without being watched.
func (p *place) undisturbed() error {
	cmd := exec.Command(vmentry)
	cmd.Env = p.environ()
	p.log.Reset()
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	return cmd.Run()
}

func (p *place) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// canary is a file that images name and that must not be opened because of that.
func (p *place) canary() string { return p.root + "/canary" }

// io runs commands of qemu-io on a disk.
func (p *place) io(file, format string, commands ...string) error {
	args := []string{"-f", format}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out, err := exec.Command("qemu-io", append(args, file)...).CombinedOutput()
	if err == nil && strings.Contains(string(out), "verification failed") {
		err = fmt.Errorf("the guest's data are not there")
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", file, err, out)
	}
	return nil
}

// written is what a guest writes, and what is read again.
const (
	written = "write -P 170 1M 192k"
	read    = "read -P 170 1M 192k"
	beside  = "read -P 1 1500k 64k" // of the base image, which the guest has left alone
)

// scene is a start that changes something, on data that must outlive it.
type scene struct {
	name    string
	prepare func(p *place) // brings about the state before, and the settings of the start
	verify  func(p *place) error
}

func (p *place) overlay() string { return p.data + "/disk/overlay.qcow2" }
func (p *place) copied() string  { return p.data + "/disk/copy.qcow2" }

// withData makes an overlay that a guest has written to.
func withData(p *place) {
	// The image's digest, by which it is known again when it was touched, is recorded while the guest runs. This guest is off very soon.
	for recorded := false; !recorded; {
		p.must(p.undisturbed())
		record, err := os.ReadFile(p.data + "/disk/base.json")
		p.must(err)
		recorded = bytes.Contains(record, []byte("sha256"))
	}
	p.must(p.io(p.overlay(), "qcow2", written, "flush"))
}

func (p *place) kept() (string, error) {
	found, _ := filepath.Glob(p.data + "/disk.kept-*")
	if len(found) != 1 {
		return "", fmt.Errorf("kept aside are %v, and it should be one", found)
	}
	return found[0], nil
}

var scenes = []scene{
	{"first start", func(p *place) {}, func(p *place) error { return p.io(p.overlay(), "qcow2", beside) }},
	{"larger", func(p *place) { withData(p); p.env = []string{"VM_DISK_SIZE=600G"} },
		func(p *place) error { return p.io(p.overlay(), "qcow2", read, beside) }},
	{"the image moved", func(p *place) {
		withData(p)
		p.must(os.Rename(p.image, p.image+"2"))
		p.image += "2"
	}, func(p *place) error { return p.io(p.overlay(), "qcow2", read, beside) }},
	{"a copy", func(p *place) { p.env = []string{"VM_DISK_MODE=copy"} },
		func(p *place) error { return p.io(p.copied(), "qcow2", beside) }},
	{"a copy of an overlay", func(p *place) { withData(p); p.env = []string{"VM_DISK_MODE=copy"} },
		func(p *place) error {
			kept, err := p.kept()
			if err != nil {
				return err
			}
			if err := p.io(kept+"/overlay.qcow2", "qcow2", read, beside); err != nil {
				return err
			}
			return p.io(p.copied(), "qcow2", read, beside)
		}},
	{"another image", func(p *place) {
		withData(p)
		old := p.image
		p.image += "2"
		p.writeImage(2)
		p.must(os.Chmod(old, 0o444)) // the overlay kept aside lies on it
		p.env = []string{"VM_DISK_ON_NEW_IMAGE=recreate"}
	}, func(p *place) error {
		kept, err := p.kept()
		if err != nil {
			return err
		}
		if err := p.io(kept+"/overlay.qcow2", "qcow2", read, beside); err != nil {
			return err
		}
		return p.io(p.overlay(), "qcow2", "read -P 2 1M 512k")
	}},
	{"after a killed QEMU", func(p *place) {
		withData(p)
		p.env = []string{"FAKE_QEMU=die=9"}
		_ = p.undisturbed()
		p.env = nil
		p.must(p.leak())
	}, func(p *place) error { return p.io(p.overlay(), "qcow2", read, beside) }},
	{"the image itself, larger", func(p *place) {
		p.env = []string{"VM_DISK_MODE=direct"}
		p.must(p.io(p.image, "raw", written, "flush"))
		p.env = append(p.env, "VM_DISK_SIZE=8M")
	}, func(p *place) error { return p.io(p.image, "raw", read, beside) }},
}

// leak makes a cluster of the overlay taken that nobody uses, as a QEMU does that is killed: the file is 256 KiB and more, its
// reference counts are in the third cluster.
func (p *place) leak() error {
	f, err := os.OpenFile(p.overlay(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	cluster := (st.Size() + 65535) / 65536
	if err := f.Truncate((cluster + 1) * 65536); err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{0, 1}, 2*65536+2*cluster)
	return err
}

// sound looks for what must be so after every start that went well. Leaks are space that is not used again, and no harm: they are let pass
// where a repair of them could not be written.
func (p *place) sound(leaks bool) error {
	for _, file := range []string{p.overlay(), p.copied()} {
		if _, err := os.Stat(file); err != nil {
			continue
		}
		cmd := exec.Command("qemu-img", "check", "-q", file)
		if out, err := cmd.CombinedOutput(); err != nil && !(leaks && cmd.ProcessState.ExitCode() == 3) {
			return fmt.Errorf("check of %s: %w: %s", file, err, out)
		}
	}
	left, _ := filepath.Glob(p.data + "/.*.new-*")
	more, _ := filepath.Glob(p.data + "/*/.*.new-*")
	next, _ := filepath.Glob(p.data + "/disk.next")
	if left = slices.Concat(left, more, next); len(left) > 0 {
		return fmt.Errorf("left behind: %v", left)
	}
	return nil
}

// rounds is how often harm is done in a scene: VMENTRY_FAULT_ROUNDS, or a number that takes a minute or two in all. "all" is once at
// every step and in every way.
func rounds(t *testing.T, usual, all int) int {
	switch s := os.Getenv("VMENTRY_FAULT_ROUNDS"); s {
	case "":
		return min(usual, all)
	case "all":
		return all
	default:
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("VMENTRY_FAULT_ROUNDS=%s: write a number or all", s)
		}
		return n
	}
}

// seed is VMENTRY_FAULT_SEED, or another one each time.
func seed(t *testing.T) *rand.Rand {
	n := time.Now().UnixNano()
	if s := os.Getenv("VMENTRY_FAULT_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("VMENTRY_FAULT_SEED=%d", n)
	return rand.New(rand.NewSource(n))
}

// tally counts what was done in all scenes.
type tally struct {
	mu              sync.Mutex
	harms, restarts int
	refused         int
	steps           map[string]int
}

func (c *tally) count(course Course) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restarts++
	if course.Step != "" {
		c.harms++
		c.steps[course.Step]++
	}
	if course.Exit == 74 {
		c.refused++
	}
}

func (c *tally) String() string {
	var lines []string
	for name, n := range c.steps {
		lines = append(lines, fmt.Sprintf("%4d  %s", n, name))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// forEachScene runs all scenes, two at a time or as many as there are processors: stage has the data as they are before the start, and
// the number of changes that the start makes.
func forEachScene(t *testing.T, act func(t *testing.T, s scene, p *place, total int, random *rand.Rand)) {
	random := seed(t)
	t.Run("scenes", func(t *testing.T) {
		for _, s := range scenes {
			own := rand.New(rand.NewSource(random.Int63()))
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				p := newPlace(t)
				s.prepare(p)
				p.save()
				total := p.start(Harm{}).Changes
				if total == 0 {
					t.Fatal("nothing was changed")
				}
				p.settle(s, "undisturbed", false)
				act(t, s, p, total, own)
			})
		}
	})
}

// TestKilled kills vmentry with its helpers, or one of them, at any change to the data directory; often enough the next start too.
// Then a start is left alone, and must find all that the guest had.
func TestKilled(t *testing.T) {
	count := tally{steps: map[string]int{}}
	forEachScene(t, func(t *testing.T, s scene, p *place, total int, random *rand.Rand) {
		order := random.Perm(2 * total)
		for i := range rounds(t, 20, 2*total) {
			n := order[i%len(order)]
			p.reset()
			what := ""
			for harm, again := (Harm{At: n/2 + 1, All: n%2 == 0}), true; again; {
				course := p.start(harm)
				count.count(course)
				what += fmt.Sprintf("%+v at %q, ", harm, course.Step)
				switch course.Exit {
				case -1, 0: // killed, or it could do without the helper that was
				case 74: // it could not
				default:
					t.Errorf("%s: exit code %d\n%s", what, course.Exit, p.log.String())
				}
				harm, again = Harm{At: 1 + random.Intn(total), All: random.Intn(2) == 0}, random.Intn(4) == 0
			}
			p.settle(s, what, false)
		}
	})
	t.Logf("the steps before which was killed, and how often:\n%s", &count)
	t.Logf("kills %d, restarts %d, losses %s", count.harms, count.restarts, losses(t))
}

func losses(t *testing.T) string {
	if t.Failed() {
		return "some"
	}
	return "0"
}

// settle starts once more, without harm, and ends the test if anything is not as it was.
func (p *place) settle(s scene, what string, leaks bool) {
	p.t.Helper()
	err := p.undisturbed()
	if err == nil {
		err = s.verify(p)
	}
	if err == nil {
		err = p.sound(leaks)
	}
	if err != nil {
		p.t.Fatalf("%s, %s: %v\nthe start that was left alone:\n%s", s.name, what, err, p.log.String())
	}
}

// TestErrors lets one change to the data directory fail.
func TestErrors(t *testing.T) {
	count := tally{steps: map[string]int{}}
	forEachScene(t, func(t *testing.T, s scene, p *place, total int, random *rand.Rand) {
		order := random.Perm(2 * total)
		for i := range rounds(t, 10, 2*total) {
			n := order[i%len(order)]
			p.reset()
			harm := Harm{At: n/2 + 1, Errno: []unix.Errno{unix.EIO, unix.ENOSPC}[n%2]}
			course := p.start(harm)
			count.count(course)
			if course.Exit != 74 && course.Exit != 0 {
				t.Errorf("%q fails with %v: exit code %d\n%s", course.Step, harm.Errno, course.Exit, p.log.String())
			}
			p.settle(s, fmt.Sprintf("%q failed with %v", course.Step, harm.Errno), true)
		}
	})
	t.Logf("failures %d, of which %d ended the start with 74, losses %s", count.harms, count.refused, losses(t))
}

// TestFullVolume starts on a volume that has room for a part of what is to be made.
func TestFullVolume(t *testing.T) {
	const inside = "VMENTRY_FAULT_MOUNTS"
	if os.Getenv(inside) == "" { // in a mount namespace of its own
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestFullVolume$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"="+filepath.Dir(vmentry))
		cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if t.Log(string(out)); err != nil {
			t.Error(err)
		}
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	random := seed(t)
	full, starts := 0, 0
	for _, s := range scenes {
		p := newPlace(t)
		p.run("mount", "-t", "tmpfs", "-o", "size=64m", "none", p.data)
		defer p.run("umount", "-l", p.data)
		for range rounds(t, 6, 100) {
			p.run("find", p.data, "-mindepth", "1", "-delete")
			p.must(os.RemoveAll(p.image + "2"))
			p.image, p.env = p.root+"/disk.img", nil
			p.must(os.RemoveAll(p.image))
			p.writeImage(1)
			s.prepare(p)
			var st unix.Statfs_t
			p.must(unix.Statfs(p.data, &st))
			pages := int(st.Blocks-st.Bfree) + random.Intn([]int{8, 80, 800}[random.Intn(3)])
			p.run("mount", "-o", fmt.Sprintf("remount,size=%dk", 4*max(1, pages)), p.data)
			course := p.start(Harm{})
			starts++
			switch course.Exit {
			case 74:
				full++
			case 0:
			default:
				t.Errorf("%s, %d pages: exit code %d\n%s", s.name, pages, course.Exit, p.log.String())
			}
			p.run("mount", "-o", "remount,size=64m", p.data)
			p.settle(s, fmt.Sprintf("on a volume of %d pages", pages), true)
		}
	}
	t.Logf("starts %d, of which %d found the volume too small and ended with 74, losses %s", starts, full, losses(t))
}
