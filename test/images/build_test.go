package images

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmentry/vmentry/test/cache"
	"github.com/vmentry/vmentry/test/login"
	"github.com/vmentry/vmentry/test/process"
)

// engine finds docker or podman as the build scripts do, and the image that the others are built on.
func (r *repo) engine() string {
	r.t.Helper()
	out, err := exec.Command("bash", "-c", `. ../../images/lib.sh; engine; echo "${CONTAINERS_CONF:-}"`).Output()
	found, conf, _ := strings.Cut(strings.TrimRight(string(out), "\n"), "\n")
	if err != nil || found == "" {
		r.t.Fatalf("neither docker nor podman answers: %v", err)
	}
	if conf != "" {
		os.Setenv("CONTAINERS_CONF", conf)
		r.env = append(r.env, "CONTAINERS_CONF="+conf)
	}
	// A name of its own: a build that goes on at the same time must not change it under a test.
	base := r.prefix() + "-base"
	if err := exec.Command(found, "tag", "vmentry:latest", base).Run(); err != nil {
		r.t.Fatal("there is no image vmentry:latest: `make image` builds it")
	}
	// Podman without layers between: with an image it removes those layers, which a build that goes on at the same time may have found there.
	r.env = append(r.env, "ENGINE="+found, "BASE="+base, "PREFIX="+r.prefix(), "BUILDAH_LAYERS=false")
	r.t.Cleanup(func() {
		for _, name := range vendors {
			exec.Command(found, "rmi", "-f", r.prefix()+"/"+name).Run()
		}
		exec.Command(found, "rmi", base).Run()
	})
	return found
}

// prefix is what the names of the test's images begin with.
func (r *repo) prefix() string {
	return fmt.Sprintf("vmentry-test-%d-%s", os.Getpid(), strings.ToLower(r.t.Name()))
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		var failed *exec.ExitError
		errors.As(err, &failed)
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, failed.Stderr)
	}
	return strings.TrimSpace(string(out))
}

// coreOS is the Debian guest in the partitions of Fedora CoreOS, packed. It is kept in the cache, as that takes a while.
func coreOS(t *testing.T) []byte {
	t.Helper()
	guest, err := filepath.EvalSymlinks(cache.Dir(t, "debian", "disk.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("disk.sh")
	if err != nil {
		t.Fatal(err)
	}
	kept := guest + "-as-fedora-coreos-" + digest("", script)[:12] + ".xz" // goes with the guest, when there is a newer one
	if b, err := os.ReadFile(kept); err == nil {
		return b
	}
	b := layout(t, "fedora-coreos", "disk.qcow2.xz", "DEBIAN="+guest)
	if err := os.WriteFile(kept+".new", b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(kept+".new", kept); err != nil {
		t.Fatal(err)
	}
	return b
}

// layout is a disk with a vendor's partitions; see disk.sh.
func layout(t *testing.T, name, file string, env ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), file)
	cmd := exec.Command("./disk.sh", name, out)
	cmd.Env = append(os.Environ(), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("disk.sh %s: %v\n%s", name, err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// seen is what a vendor's image must be seen to be.
var seen = map[string]struct{ user, firmware string }{
	"alpine":        {"alpine", "uefi"},
	"centos-stream": {"cloud-user", "bios"},
	"cirros":        {"cirros", "uefi"},
	"flatcar":       {"core", "bios"},
	"ubuntu":        {"ubuntu", "bios"},
}

// TestBuild builds all images that can be had, and is told which cannot. What is built has the vendor's disk, from which the firmware is chosen, and
// its user, who gets the keys. The one for CirrOS boots: from a disk with its partitions, to which its configuration comes as a config drive.
func TestBuild(t *testing.T) {
	t.Parallel()
	r, k := published(t)
	engine := r.engine()
	guest := cache.Dir(t, "tinyguest", "vmlinuz", "initrd")
	for name := range seen {
		r.pinTo(name, "amd64", layout(t, name, "disk.qcow2", "TINYGUEST="+guest, "WORDS=vmtest.disks"))
		r.site.publish(t, name, r.pin(name, "amd64", "version"), r.urls(name), k)
	}
	r.site.remove(t, r.pin("fedora-coreos", "amd64", "url"))
	r.env = append(r.env, "ARCH=amd64")
	_, said, err := r.run("build", "images")
	if err == nil {
		t.Error("an image was not to be had, and images/build has succeeded")
	}
	for _, want := range []string{
		"not made: " + r.prefix() + "/fedora-coreos: cannot fetch " + r.site.server.URL + "/builds.coreos.fedoraproject.org/",
		"the server says 404", "made: " + r.prefix() + "/ubuntu:latest", "error: 1 of 6 images were not made",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("images/build does not say %q:\n%s", want, said)
		}
	}
	for name, want := range seen {
		r.looks(engine, name, want.user, want.firmware)
	}
	if t.Failed() {
		t.Log(said)
		return
	}
	r.bootsCirrOS(engine)
}

// looks checks a built image from outside.
func (r *repo) looks(engine, name, user, firmware string) {
	r.t.Helper()
	image := r.prefix() + "/" + name
	if got, want := output(r.t, engine, "image", "inspect", "--format", `{{index .Config.Labels "org.opencontainers.image.version"}}`, image), r.pin(name, "amd64", "version"); got != want {
		r.t.Errorf("%s has the version %q, and not %q", name, got, want)
	}
	plan := output(r.t, engine, "run", "--rm", "--pull=never", image, "plan")
	if uefi := strings.Contains(plan, "if=pflash"); uefi != (firmware == "uefi") {
		r.t.Errorf("%s does not boot by %s:\n%s", name, firmware, plan)
	}
	file := filepath.Join(r.t.TempDir(), "user")
	container := output(r.t, engine, "create", image)
	output(r.t, engine, "cp", container+":/image/user", file)
	output(r.t, engine, "rm", container)
	if got, err := os.ReadFile(file); strings.TrimSpace(string(got)) != user {
		r.t.Errorf("%s: the user is %s (%v)", name, got, err)
	}
}

// bootsCirrOS boots that image and looks for its seed in the guest.
func (r *repo) bootsCirrOS(engine string) {
	t := r.t
	name := r.prefix() + "-cirros"
	m := process.Start(t, exec.Command(engine, "run", "--rm", "--name", name, "--pull=never", "--env", "VM_MEMORY=256M", "--env", "VM_CPUS=1", "--env", "VM_READY=none",
		"--env", "VM_NAME=tiny", "--env", "CLOUD_CONFIG=#!/bin/sh\necho hello\n", r.prefix()+"/cirros"))
	t.Cleanup(func() { exec.Command(engine, "rm", "-f", name).Run() })
	m.Stdout.Await(t, "vmtest: ready")
	for _, want := range []string{"vmtest: firmware uefi", "label=config-2", "openstack/latest/meta_data.json", "openstack/latest/user_data 21 " + digest("cirros", []byte("#!/bin/sh\necho hello\n"))} {
		if !strings.Contains(m.Stdout.String(), want) {
			t.Errorf("the console does not show %q", want)
		}
	}
	output(t, engine, "stop", "-t", "30", name)
	m.Wants(t, 0, "shut down as asked")
}

// TestFedoraCoreOS builds the image of a disk that is packed, as Fedora CoreOS' is, and has its partitions. It boots, and Ignition applies a Butane config.
func TestFedoraCoreOS(t *testing.T) {
	t.Parallel()
	r, k := published(t)
	engine := r.engine()
	r.pinTo("fedora-coreos", "amd64", coreOS(t))
	r.site.publish(t, "fedora-coreos", r.pin("fedora-coreos", "amd64", "version"), r.urls("fedora-coreos"), k)
	r.env = append(r.env, "ARCH=amd64")
	r.works("build", "fedora-coreos")

	ssh := login.NewKey(t)
	name := r.prefix() + "-guest"
	m := process.Start(t, exec.Command(engine, "run", "--rm", "--name", name, "--pull=never", "--publish", "127.0.0.1::2222", "--env", "VM_MEMORY=1G", "--env", "VM_CPUS=1",
		"--env", "VM_SSH_AUTHORIZED_KEYS="+ssh.Line, "--env", "CONFIG="+butane, r.prefix()+"/fedora-coreos"))
	t.Cleanup(func() { exec.Command(engine, "rm", "-f", name).Run() })
	m.Stderr.Await(t, "INF ready")
	guest := login.Dial(t, output(t, engine, "port", name, "2222/tcp"), "core", ssh.Auth())
	guest.Wants("cat /etc/from-butane", "hello")
	guest.Wants("lsblk -no PARTLABEL /dev/vda | grep . | paste -sd ' '", "BIOS-BOOT EFI-SYSTEM boot root")
	output(t, engine, "stop", "-t", "30", name)
	m.Wants(t, 0, "shut down as asked")
}

const butane = `variant: fcos
version: 1.4.0
storage:
  files:
    - path: /etc/from-butane
      contents:
        inline: |
          hello
`
