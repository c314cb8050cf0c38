package volume

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// caps are capabilities by name.
func caps(names ...string) map[string]bool {
	all := map[string]bool{}
	for _, n := range names {
		all[n] = true
	}
	return all
}

// docker are those of docker's default set that matter here.
var docker = caps("chown", "dac_override", "fowner", "fsetid", "setgid", "setuid", "mknod", "setfcap", setpcap, sysChroot)

func TestChoose(t *testing.T) {
	tests := []struct {
		name   string
		rights Rights
		want   Sandbox
		says   string
	}{
		{"privileged", Rights{Capabilities: docker, Namespaces: true, Landlock: 7},
			Sandbox{Mode: "namespace", Keeps: usefulCapabilities}, "in namespaces of its own"},
		{"docker's default set", Rights{Capabilities: docker, Landlock: 7},
			Sandbox{Mode: "chroot", Landlock: 7, Keeps: usefulCapabilities}, "in a chroot, and shut in by Landlock"},
		{"docker's default set, an old kernel", Rights{Capabilities: docker},
			Sandbox{Mode: "chroot", Keeps: usefulCapabilities}, "in a chroot, with CHOWN"},
		{"root with SETPCAP alone", Rights{Capabilities: caps(setpcap), Landlock: 3},
			Sandbox{Mode: "none", Landlock: 3, Squash: "0:0"}, "shut in by Landlock (version 3), with no capability"},
		{"root that cannot give files away", Rights{Capabilities: caps(setpcap, sysChroot, "chown", setuid), Landlock: 3},
			Sandbox{Mode: "chroot", Landlock: 3, Keeps: []string{"chown"}, Squash: "0:0"}, "with CHOWN: "},
		{"root that may leave its groups", Rights{Groups: true, Capabilities: caps(setpcap, setgid), Landlock: 3},
			Sandbox{Mode: "none", Landlock: 3, Squash: "0:0"}, "with no capability"},
		{"another user in groups", Rights{UID: 1000, GID: 100, Groups: true, Landlock: 7},
			Sandbox{Mode: "none", Landlock: 7, Squash: "1000:100"}, "user 1000"},
		{"another user", Rights{UID: 1000, GID: 100, Landlock: 7},
			Sandbox{Mode: "none", Landlock: 7, Squash: "1000:100"}, "user 1000"},
		{"another user, an old kernel", Rights{UID: 1000, GID: 100},
			Sandbox{Mode: "none", Squash: "1000:100"}, "with its seccomp filter alone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := choose(tt.rights)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(got.String(), tt.says) {
				t.Errorf("%q does not say %q", got, tt.says)
			}
			got.Why = ""
			if diff := cmp.Diff(tt.want, got, cmp.Transformer("none", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestChooseRefuses: what virtiofsd would end for is said before, each with the capability that is missing and no other.
func TestChooseRefuses(t *testing.T) {
	for _, tt := range []struct {
		name          string
		rights        Rights
		lacks, hasNot string
	}{
		{"nothing", Rights{Groups: true, Capabilities: caps(sysChroot)}, "SETPCAP, by which it gives up others, and the capability SETGID, by which", "no capability"},
		{"no SETPCAP", Rights{Groups: true, Capabilities: caps(setgid)}, "the capability SETPCAP, by which", "SETGID, by which"},
		{"no SETPCAP, no groups", Rights{Capabilities: caps(sysChroot)}, "the capability SETPCAP, by which", "SETGID, by which"},
		{"groups", Rights{Groups: true, Capabilities: caps(setpcap)}, "the capability SETGID, by which", "SETPCAP, by which"},
	} {
		_, err := choose(tt.rights)
		if !errors.Is(err, ErrCapabilities) || !strings.Contains(err.Error(), tt.lacks) || strings.Contains(err.Error(), tt.hasNot) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// around stands for what shuts a program in.
func around(read, write, command []string) []string {
	args := []string{"confine"}
	for _, p := range read {
		args = append(args, "--read="+p)
	}
	for _, p := range write {
		args = append(args, "--write="+p)
	}
	return slices.Concat(args, []string{"--"}, command)
}

// input is one of a container as docker makes it.
func input(volumes ...Volume) Input {
	in := Input{Volumes: volumes, RunDir: "/run/vmentry", Virtiofsd: Program{"/usr/libexec/virtiofsd", "1.13.2"}, Confine: around,
		Rights: Rights{Capabilities: docker, Landlock: 7}, Own: []Own{{"/run/vmentry", "its sockets"}, {"/data", "its disk"}}}
	for _, v := range volumes {
		in.Found = append(in.Found, Directory{Real: v.Path, Writable: true})
	}
	return in
}

func TestPlan(t *testing.T) {
	plan, err := MakePlan(input(Volume{Tag: "a", Path: "/a"}, Volume{Tag: "b", Path: "/b", GuestPath: "/mnt", ReadOnly: true}))
	if err != nil {
		t.Fatal(err)
	}
	daemon := func(dir string) []string {
		return []string{"--", "/usr/libexec/virtiofsd", "--fd", "3", "--shared-dir", dir, "--cache", "auto", "--log-level", "warn", "--rlimit-nofile", "0",
			"--sandbox", "chroot", "--modcaps=-mknod:-setfcap"}
	}
	want := [][]string{
		slices.Concat([]string{"confine", "--read=/proc", "--write=/a"}, daemon("/a")),
		slices.Concat([]string{"confine", "--read=/proc", "--read=/b"}, daemon("/b"), []string{"--readonly"}),
	}
	for i, s := range plan.Shares {
		if diff := cmp.Diff(want[i], s.Command); diff != "" {
			t.Errorf("%s (-want +got)\n%s", s.Tag, diff)
		}
	}
	if plan.Shares[0].Socket == plan.Shares[1].Socket || filepath.Dir(plan.Shares[0].Socket) != "/run/vmentry" {
		t.Errorf("sockets %s and %s", plan.Shares[0].Socket, plan.Shares[1].Socket)
	}
	if len(plan.Warnings) > 0 {
		t.Errorf("warnings: %v", plan.Warnings)
	}
	text := strings.Join(plan.Lines(), "\n")
	for _, s := range []string{"a: /a of the pod, for the guest to mount, read-write", "b: /b of the pod, at /mnt in the guest, read-only", "virtiofsd 1.13.2, in a chroot"} {
		if !strings.Contains(text, s) {
			t.Errorf("the plan does not say %q:\n%s", s, text)
		}
	}
	shell := strings.Join(plan.Shares[0].Unsupervised(), " ")
	if !strings.Contains(shell, "--socket-path /run/vmentry/volume0.sock") || !strings.Contains(shell, "--write=/run/vmentry --") || strings.Contains(shell, "--fd") {
		t.Errorf("for a shell: %s", shell)
	}
}

func TestPlanOfAnotherUser(t *testing.T) {
	in := input(Volume{Tag: "a", Path: "/a"})
	in.Rights = Rights{UID: 1000, GID: 100}
	in.Found[0].Writable = false
	plan, err := MakePlan(in)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(plan.Shares[0].Command, " ")
	for _, s := range []string{"confine -- /usr/libexec/virtiofsd", "--sandbox none", "--translate-uid squash-guest:0:1000:4294967295", "--translate-gid squash-guest:0:100:4294967295"} {
		if !strings.Contains(line, s) {
			t.Errorf("not %q in %s", s, line)
		}
	}
	warnings := strings.Join(plan.Warnings, "\n")
	for _, s := range []string{"cannot be written here", "no Landlock", "belongs to 1000:100"} {
		if !strings.Contains(warnings, s) {
			t.Errorf("no warning %q in\n%s", s, warnings)
		}
	}
}

// TestPlanRefuses: all mistakes come together, and before anything that is missing.
func TestPlanRefuses(t *testing.T) {
	in := input(Volume{Tag: "above", Path: "/"}, Volume{Tag: "same", Path: "/data"}, Volume{Tag: "below", Path: "/run/vmentry/x"},
		Volume{Tag: "good", Path: "/database"}, Volume{Tag: "gone", Path: "/gone"})
	in.Found[4] = Directory{Problem: "is not there"}
	in.Virtiofsd = Program{}
	_, err := MakePlan(in)
	var wrong Mistakes
	if !errors.As(err, &wrong) {
		t.Fatal(err)
	}
	var tags []string
	for _, m := range wrong {
		tags = append(tags, m.Volume.Tag)
	}
	if diff := cmp.Diff([]string{"above", "same", "below", "gone"}, tags); diff != "" {
		t.Errorf("(-want +got)\n%s\n%v", diff, err)
	}
	in = input(Volume{Tag: "a", Path: "/a"})
	for version, want := range map[string]string{"": "QEMU before 8.0", "1.12.9": "too old", "0.99.0": "too old"} {
		in.Virtiofsd.Version = version
		if _, err := MakePlan(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("virtiofsd %q: %v", version, err)
		}
	}
	for _, version := range []string{"1.13.0", "1.14.1", "2.0.0"} {
		in.Virtiofsd.Version = version
		if _, err := MakePlan(in); err != nil {
			t.Errorf("virtiofsd %q: %v", version, err)
		}
	}
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	file, link, loop := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "loop")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, target := range map[string]string{link: dir, loop: loop} {
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	if got := Inspect(link); got.Problem != "" || got.Real != dir || !got.Writable {
		t.Errorf("a link: %+v", got)
	}
	for path, want := range map[string]string{file: "not a directory", filepath.Join(dir, "gone"): "not there", filepath.Join(file, "x"): "cannot be used", loop: "too many links"} {
		if got := Inspect(path); !strings.Contains(got.Problem, want) {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

// TestListen: in place of what was left, for its owner alone, and of use to who inherits it.
func TestListen(t *testing.T) {
	s := Share{Socket: filepath.Join(t.TempDir(), "s")}
	for range 2 {
		f, err := s.Listen()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := os.Stat(s.Socket)
		if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
			t.Errorf("%v, %v", info, err)
		}
		c, err := net.Dial("unix", s.Socket)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if fd, _, err := syscall.Accept(int(f.Fd())); err != nil {
			t.Error(err)
		} else {
			syscall.Close(fd)
		}
	}
	if _, err := (Share{Socket: "/" + strings.Repeat("x", 200)}).Listen(); err == nil {
		t.Error("a path that is too long")
	}
}
