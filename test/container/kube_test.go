package container

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmentry/vmentry/test/cache"
	"github.com/vmentry/vmentry/test/login"
	"github.com/vmentry/vmentry/test/transcript"
)

// TestKubePlay: `podman kube play` runs the examples of Kubernetes: the pod without privilege, here with the tiny guest, and the Deployment with its ConfigMap and a Secret,
// as it is but for names and a port of this machine.
func TestKubePlay(t *testing.T) {
	if engine != "podman" {
		t.Skipf("kube play is podman's, and the images are %s's: ENGINE=podman make test-container", engine)
	}
	t.Run("pod-least-privilege", func(t *testing.T) {
		t.Parallel()
		k, guest := login.NewKey(t), cache.Dir(t, "tinyguest", "vmlinuz", "initrd")
		name := unique(t)
		pod := play(t, name, secret(name, k)+example(t, "pod-least-privilege/vm.yaml",
			"name: plain-vm", "name: "+name,
			"secretName: plain-vm", "secretName: "+name,
			"    - {name: VM_MEMORY, value: 1G}", strings.Join([]string{
				"    - {name: VM_MEMORY, value: 256M}", "    - {name: VM_KERNEL, value: /tiny/vmlinuz}", "    - {name: VM_INITRD, value: /tiny/initrd}",
				"    - {name: VM_CMDLINE, value: console=ttyS0 quiet no_timer_check panic=0}"}, "\n"),
			"    - {name: run, mountPath: /run/vmentry}", "    - {name: run, mountPath: /run/vmentry}\n    - {name: tiny, mountPath: /tiny, readOnly: true}",
			"  volumes:\n", fmt.Sprintf("  volumes:\n  - {name: tiny, hostPath: {path: %q, type: Directory}}\n", guest)), name+"-vm")
		pod.log.Await(t, tinyReady)
		if id := command(t, "exec", pod.container, "id", "-u"); id != "1000" {
			t.Errorf("it runs as %s", id)
		}
		pod.down()
		pod.log.Await(t, "vmtest: button pressed")
		pod.log.Await(t, "shut down as asked")
	})
	t.Run("deployment", func(t *testing.T) {
		t.Parallel()
		k, ssh := login.NewKey(t), freePort(t)
		name := unique(t)
		pod := play(t, name, secret(name, k)+example(t, "deployment/vm.yaml",
			"\n  name: vm\n", "\n  name: "+name+"\n",
			"configMap: {name: vm}", "configMap: {name: "+name+"}",
			"secretName: vm", "secretName: "+name,
			"value: 4G", "value: 1G",
			"containerPort: 2222}", "containerPort: 2222, hostPort: "+ssh+", hostIP: 127.0.0.1}"), name+"-pod-vm")
		pod.log.Await(t, "INF ready")
		guest := login.Dial(t, net.JoinHostPort("127.0.0.1", ssh), "core", k.Auth())
		guest.Wants("cat /etc/hello", "Hello from the ConfigMap.")
		guest.Wants("lsblk -bdno SIZE /dev/vda", fmt.Sprint(12<<30))
		pod.down()
		pod.log.Await(t, "shut down as asked")
	})
}

// example is one of Kubernetes' examples with the new in place of the old, pair by pair.
func example(t *testing.T, name string, pairs ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "examples", "k8s", name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("%s has no %q", name, pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// secret is the Secret that the examples take the key from.
func secret(name string, k login.Key) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ndata: {keys: %s}\n---\n", name, base64.StdEncoding.EncodeToString([]byte(k.Line)))
}

// freePort is a port of this machine's that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// played are the pods of a manifest.
type played struct {
	t         *testing.T
	manifest  string
	container string // the VM's
	log       *transcript.Transcript
}

// play plays a manifest, and takes away what it has made at the end of the test.
func play(t *testing.T, name, text, container string) *played {
	t.Helper()
	p := &played{t, filepath.Join(t.TempDir(), "manifest.yaml"), container, transcript.New()}
	if err := os.WriteFile(p.manifest, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command(engine, "kube", "down", p.manifest).Run()
		exec.Command(engine, "secret", "rm", name).Run()
	})
	command(t, "kube", "play", p.manifest)
	logs := exec.Command(engine, "logs", "--follow", container)
	logs.Stdout, logs.Stderr = p.log, p.log
	if err := logs.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		logs.Wait()
		p.log.Close()
	}()
	t.Cleanup(func() {
		logs.Process.Kill()
		if t.Failed() {
			t.Logf("%s: the log:\n%s", container, readable(p.log.String()))
		}
	})
	return p
}

// down stops and removes the pods.
func (p *played) down() {
	p.t.Helper()
	command(p.t, "kube", "down", p.manifest)
}
