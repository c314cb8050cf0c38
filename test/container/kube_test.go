package container

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmentry/vmentry/test/login"
)

// TestKubePlay: podman runs the examples of Kubernetes. The key is in a ConfigMap instead of a Secret: podman before 4.6 gives a pod something else than a
// Secret's text.
func TestKubePlay(t *testing.T) {
	t.Parallel()
	if engine != "podman" {
		t.Skip("docker knows no pods")
	}
	t.Run("pod", func(t *testing.T) {
		t.Parallel()
		p := play(t, "pod.yaml", "ranchervm")
		guest := p.login("22")
		guest.Mentions("ip -4 -o addr show", " "+p.address+"/")
		guest.Wants("hostname", p.vm)
		guest.settled()
		p.down()
	})
	t.Run("deployment", func(t *testing.T) {
		t.Parallel()
		p := play(t, "deployment/vm.yaml", "vm")
		guest := p.login("2222")
		guest.Wants("cat /etc/hello", "Hello from the ConfigMap.")
		guest.settled()
		p.down()
	})
}

// played is a pod that podman has made of an example.
type played struct {
	*machine
	key     login.Key
	file    string // what podman was given
	vm      string // the pod's name, and so the VM's
	address string
}

// play has podman make the pod of an example whose objects have a certain name. The pod is called otherwise here, so that it is nobody else's.
func play(t *testing.T, example, name string) *played {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "k8s", example))
	if err != nil {
		t.Fatal(err)
	}
	p := &played{key: login.NewKey(t), file: filepath.Join(t.TempDir(), "pod.yaml")}
	own := unique(t)
	yaml := strings.NewReplacer(
		"  name: "+name+"\n", "  name: "+own+"\n",
		"configMap: {name: "+name+"}", "configMap: {name: "+own+"}",
		"secret: {secretName: "+name+"}", "configMap: {name: "+own+"-key}",
		"image: vmentry/debian:latest", "image: "+image,
		"value: 4G}", "value: 1G}", // two at a time on a small machine
		"name: data\n", "name: "+own+"-data\n", "name: data ", "name: "+own+"-data ", "{name: data,", "{name: "+own+"-data,", // podman 4.3 gives pods the same emptyDir, if it has the same name
		"name: run ", "name: "+own+"-run ", "{name: run,", "{name: "+own+"-run,",
	).Replace(string(text)) + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + own + "-key}\ndata: {keys: '" + p.key.Line + "'}\n"
	if err := os.WriteFile(p.file, []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exec.Command(engine, "kube", "down", p.file).Run() })
	command(t, "kube", "play", p.file)

	// podman numbers a Deployment's pods, and calls the containers by their pods; releases differ in how
	container := ""
	for c := range strings.FieldsSeq(command(t, "ps", "--all", "--filter", "name="+own, "--format", "{{.Names}}")) {
		if strings.HasSuffix(c, "-vm") {
			container = c
		}
	}
	p.vm = strings.TrimSuffix(container, "-vm")
	infra := command(t, "pod", "inspect", "--format", "{{.InfraContainerID}}", p.vm)
	p.address = command(t, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", infra)
	p.machine = attach(t, container, []string{"attach", "--no-stdin", "--sig-proxy=false", container})
	p.begin()
	return p
}

// login logs in at the pod's address.
func (p *played) login(port string) session {
	p.t.Helper()
	p.stderr.Await(p.t, "INF ready")
	return p.loginAt(net.JoinHostPort(p.address, port), "core", p.key.Auth())
}

// down takes the pod away, after a clean end of the guest: kube down alone gives it 10 seconds, whatever the pod says.
func (p *played) down() {
	p.t.Helper()
	command(p.t, "pod", "stop", "--time", "40", p.vm)
	p.stderr.Await(p.t, "shut down as asked")
	command(p.t, "kube", "down", p.file)
}
