package container

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/login"
	"github.com/vmentry/vmentry/test/transcript"
)

// TestCompose: Compose runs the examples, here with the guest that boots in seconds. It serves where their comments say, a stop leaves it the time to shut
// down, and a container that is made anew has its disk.
func TestCompose(t *testing.T) {
	for example, port := range map[string]string{"vmentry": "2222", "vmentry-bridge": "", "vmentry-volumes": "2223"} {
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			p := newProject(t, example, port)
			if log := p.up(); strings.Contains(log, "vmtest: read kept") {
				t.Error("the first disk is not new")
			}
			p.stop()
			p.compose("down")
			if log := p.up(); !strings.Contains(log, "vmtest: read kept") {
				t.Errorf("the second container has another disk:\n%s", readable(log))
			}
			p.stop()
			p.compose("down", "-v")
			if left := command(t, "volume", "ls", "--quiet", "--filter", "name="+p.name); left != "" {
				t.Errorf("down -v has left volumes: %s", left)
			}
		})
	}
}

// project is an example for Compose, in a folder with a name that nobody else uses, which Compose gives to all that it makes.
type project struct {
	*machine
	file string
	port string // where SSH is published; none: it is at the container's address
}

func newProject(t *testing.T, example, port string) *project {
	t.Helper()
	examples, err := filepath.Abs("../../examples/docker")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(examples, example, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	name := unique(t)
	p := &project{&machine{t: t, name: name}, filepath.Join(t.TempDir(), name, "compose.yaml"), port}
	environment, volumes := "    environment:\n", "    volumes:\n"
	options := tiny(t, "vmtest.listen=22 vmtest.read vmtest.write=kept")
	for i := 0; i < len(options); i += 2 {
		name, value, _ := strings.Cut(options[i+1], "=")
		switch {
		case options[i] == "--volume":
			volumes += "      - " + options[i+1] + "\n"
		case name != "VM_READY" && name != "VM_MEMORY":
			environment += "      " + name + ": " + value + "\n"
		}
	}
	yaml := strings.NewReplacer(
		"image: vmentry/debian", "image: "+image,
		"container_name: "+example, "container_name: "+name,
		"127.0.0.1:"+port+":", "127.0.0.1::",
		"- ../", "- "+examples+"/", "- ..:", "- "+examples+":",
		"    environment:\n", environment, "    volumes:\n", volumes,
	).Replace(string(text))
	if err := os.Mkdir(filepath.Dir(p.file), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{p.file: yaml, p.key(): login.NewKey(t).Line} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := exec.Command(engine, "logs", name).CombinedOutput()
			t.Logf("%s:\n%s", name, readable(string(log)))
		}
		p.remove()
		p.command("down", "-v").Run()
		exec.Command(engine, "network", "rm", name+"_default").Run() // the oldest podman-compose leaves it
	})
	return p
}

func (p *project) key() string { return filepath.Join(filepath.Dir(p.file), "key.pub") }

// command is one of Compose's.
func (p *project) command(args ...string) *exec.Cmd {
	words := []string{"docker", "compose"}
	switch {
	case engine == "podman":
		words = []string{"podman-compose"}
	case exec.Command("docker", "compose", "version").Run() != nil:
		words = []string{"docker-compose"}
	}
	words = append(append(words, "-f", p.file), args...)
	if engine == "podman" && args[0] == "stop" {
		words = append(words, "-t", "40") // some podman-composes know no stop_grace_period
	}
	c := exec.Command(words[0], words[1:]...)
	c.Env = append(os.Environ(), "SSH_KEY="+p.key())
	return c
}

func (p *project) compose(args ...string) {
	p.t.Helper()
	c := p.command(args...)
	if out, err := c.CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v\n%s", c, err, out)
	}
}

// up waits until the VM can be reached, and returns its log.
func (p *project) up() string {
	p.t.Helper()
	p.compose("up", "-d")
	for end := time.Now().Add(transcript.Patience); ; time.Sleep(200 * time.Millisecond) {
		code, reason := p.probe()
		if code == 0 {
			break
		}
		if time.Now().After(end) {
			p.t.Fatalf("it does not become ready: %s", reason)
		}
	}
	address := net.JoinHostPort(p.engine("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", p.name), "22")
	if p.port != "" {
		address = p.machine.port("2222")
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "vmtest\n" {
		p.t.Errorf("%s says %q, %v", address, line, err)
	}
	return p.log()
}

func (p *project) log() string {
	p.t.Helper()
	log, err := exec.Command(engine, "logs", p.name).CombinedOutput()
	if err != nil {
		p.t.Fatalf("logs: %v\n%s", err, log)
	}
	return string(log)
}

// stop checks that the guest has shut down by itself.
func (p *project) stop() {
	p.t.Helper()
	p.compose("stop")
	lines := strings.Split(strings.TrimSpace(p.log()), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, "shut down as asked") {
		p.t.Errorf("the log ends with %q", last)
	}
}
