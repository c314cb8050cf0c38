// Package container holds the tests of the container images: the Debian guest as a user meets it, in a container of docker
// or podman, without KVM, privilege or added capabilities. `make test-container` builds the images and runs them.
package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/cache"
	"github.com/vmentry/vmentry/test/transcript"
)

var (
	engine string // docker or podman
	image  string // the Debian image's id: a build that goes on at the same time must not change it under a test
)

func TestMain(m *testing.M) {
	if err := findImage(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// findImage asks the build scripts which engine they used, and with which settings.
func findImage() error {
	out, err := exec.Command("bash", "-c", `. ../../images/lib.sh; engine; echo "${CONTAINERS_CONF:-}"`).Output()
	found, conf, _ := strings.Cut(strings.TrimRight(string(out), "\n"), "\n")
	if err != nil || found == "" {
		return fmt.Errorf("neither docker nor podman answers: %w", err)
	}
	if conf != "" {
		os.Setenv("CONTAINERS_CONF", conf)
	}
	name := os.Getenv("VMENTRY_TEST_IMAGE")
	if name == "" {
		name = "vmentry/debian:latest"
	}
	out, err = exec.Command(found, "image", "inspect", "--format", "{{.Id}}", name).Output()
	if err != nil {
		return fmt.Errorf("there is no image %s: `make image` builds it", name)
	}
	engine, image = found, strings.TrimSpace(string(out))
	return nil
}

// machine is one start of a container.
type machine struct {
	t      *testing.T
	name   string
	client *exec.Cmd // docker or podman, attached to the container
	stdout *transcript.Transcript
	stderr *transcript.Transcript
	done   chan struct{}
}

// counter makes the names of a test's containers differ.
var counter struct {
	sync.Mutex
	n int
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// unique is a name that nobody else uses, for a container or a volume.
func unique(t *testing.T) string {
	counter.Lock()
	defer counter.Unlock()
	counter.n++
	test := notInNames.ReplaceAllString(strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), "-")
	return fmt.Sprintf("vmentry-test-%d-%d-%s", os.Getpid(), counter.n, test)
}

// run runs a container of the image with the engine's options, and stays attached to it. The container is removed when
// the test ends.
func run(t *testing.T, options []string, args ...string) *machine {
	t.Helper()
	m := prepare(t, options, args...)
	m.begin()
	return m
}

// prepare is run, without beginning.
func prepare(t *testing.T, options []string, args ...string) *machine {
	name := unique(t)
	words := []string{"run", "--name", name, "--pull=never", "--stop-timeout", "30"}
	words = append(append(append(words, options...), image), args...)
	return attach(t, name, words)
}

func attach(t *testing.T, name string, words []string) *machine {
	m := &machine{t: t, name: name, client: exec.Command(engine, words...),
		stdout: transcript.New(), stderr: transcript.New(), done: make(chan struct{})}
	m.client.Stdout, m.client.Stderr = m.stdout, m.stderr
	return m
}

func (m *machine) begin() {
	m.t.Helper()
	if err := m.client.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		m.client.Wait()
		m.stdout.Close()
		m.stderr.Close()
		close(m.done)
	}()
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("%s: the log:\n%s\nthe console:\n%s", m.name, m.stderr, readable(m.stdout.String()))
		}
		m.remove()
		<-m.done
	})
}

// again starts the container once more, on the same data.
func (m *machine) again() *machine {
	m.t.Helper()
	next := attach(m.t, m.name, []string{"start", "--attach", m.name})
	next.begin()
	return next
}

// remove ends the container and takes it away.
func (m *machine) remove() {
	exec.Command(engine, "kill", m.name).Run() // podman's rm waits as long as its stop
	exec.Command(engine, "rm", "-f", "-v", m.name).Run()
}

// stop stops the container as a user does, and checks that the guest has shut down by itself.
func (m *machine) stop() {
	m.t.Helper()
	m.engine("stop", m.name)
	m.wants(0, "shut down as asked")
}

// exit waits for the container's end and returns its exit code.
func (m *machine) exit() int {
	m.t.Helper()
	select {
	case <-m.done:
	case <-time.After(transcript.Patience):
		m.t.Fatal("the container does not end")
	}
	return m.client.ProcessState.ExitCode()
}

// wants checks the exit code, and that the log says each of the given things.
func (m *machine) wants(code int, says ...string) {
	m.t.Helper()
	if got := m.exit(); got != code {
		m.t.Errorf("exit code %d, want %d", got, code)
	}
	m.logs(says...)
}

// logs checks that the log says each of the given things.
func (m *machine) logs(says ...string) {
	m.t.Helper()
	for _, s := range says {
		if !strings.Contains(m.stderr.String(), s) {
			m.t.Errorf("the log does not say %q", s)
		}
	}
}

// shows checks that the guest's console shows each of the given things.
func (m *machine) shows(says ...string) {
	m.t.Helper()
	for _, s := range says {
		if !strings.Contains(m.stdout.String(), s) {
			m.t.Errorf("the console does not show %q", s)
		}
	}
}

// hides checks that neither log nor console have any of the secrets.
func (m *machine) hides(secrets ...string) {
	m.t.Helper()
	for _, s := range secrets {
		if strings.Contains(m.stderr.String(), s) || strings.Contains(m.stdout.String(), s) {
			m.t.Errorf("%q has come to light", s)
		}
	}
}

// engine runs a command of docker or podman that must succeed.
func (m *machine) engine(args ...string) string {
	m.t.Helper()
	return command(m.t, args...)
}

// command runs a command of docker or podman that must succeed.
func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(engine, args...).Output()
	if err != nil {
		var failed *exec.ExitError
		errors.As(err, &failed)
		t.Fatalf("%s %s: %v\n%s", engine, strings.Join(args, " "), err, failed.Stderr)
	}
	return strings.TrimSpace(string(out))
}

// file is a file of the container, as it is seen in there. It is read from outside: the image has no program to print it.
func (m *machine) file(path string) (string, error) {
	content, err := os.ReadFile("/proc/" + m.engine("inspect", "--format", "{{.State.Pid}}", m.name) + "/root" + path)
	return strings.TrimSpace(string(content)), err
}

// first is the name of the container's first process.
func (m *machine) first() string {
	m.t.Helper()
	name, err := m.file("/proc/1/comm")
	if err != nil {
		m.t.Fatal(err)
	}
	return name
}

// probe is what a readiness probe says: its exit code, and the reason.
func (m *machine) probe() (code int, reason string) {
	m.t.Helper()
	probe := exec.Command(engine, "exec", m.name, "vmentry", "probe", "ready")
	out, _ := probe.CombinedOutput()
	return probe.ProcessState.ExitCode(), strings.TrimSpace(string(out))
}

// settings are environment variables, as options of the engine.
func settings(pairs ...string) []string {
	var options []string
	for _, p := range pairs {
		options = append(options, "--env", p)
	}
	return options
}

// debian are options that all Debian guests of the tests have: two at a time, they fit into a small machine.
func debian(options ...string) []string {
	return append(settings("VM_MEMORY=1G", "VM_CPUS=1"), options...)
}

// volume makes a named volume at the data directory, for as long as the test runs.
func volume(t *testing.T) []string {
	t.Helper()
	name := unique(t)
	command(t, "volume", "create", name)
	t.Cleanup(func() { exec.Command(engine, "volume", "rm", "-f", name).Run() })
	return []string{"--volume", name + ":/var/lib/vmentry"}
}

// userdata makes a directory with the given files and mounts it where configurations are expected.
func userdata(t *testing.T, files map[string]string) []string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"--volume", dir + ":/userdata:ro"}
}

// anybodys is a directory that any user of a container may write to.
func anybodys(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tiny are options for the guest that boots in seconds, told by words what to do (see test/tinyguest/init).
func tiny(t *testing.T, words string, options ...string) []string {
	t.Helper()
	dir := cache.Dir(t, "tinyguest", "vmlinuz", "initrd")
	return append(append(settings(
		"VM_KERNEL=/tiny/vmlinuz", "VM_INITRD=/tiny/initrd", "VM_CMDLINE=console=ttyS0 quiet no_timer_check panic=0 "+words,
		"VM_MEMORY=256M", "VM_CPUS=1", "VM_READY=none"), "--volume", dir+":/tiny:ro"), options...)
}

const tinyReady = "vmtest: ready"

// compact is JSON of v.
func compact(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var control = regexp.MustCompile(`\x1b(\[[0-9;?!]*[A-Za-z]|.)|\r`)

// readable is a console without its control sequences.
func readable(console string) string { return control.ReplaceAllString(console, "") }
