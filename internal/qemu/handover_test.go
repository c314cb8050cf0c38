package qemu

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHandOver: QEMU finds every file of its disks opened, for reading or for both, and the machine that it was made from stays as it was.
func TestHandOver(t *testing.T) {
	m := demo()
	m.Firmware = &Firmware{Code: "/usr/share/code.fd", Format: "raw", Vars: "/data/vars,1.fd"}
	before := strings.Join(m.Args(), " ")
	var opened []string
	fd := 10
	open := func(path string, flags int) (int, error) {
		opened = append(opened, fmt.Sprintf("%s %s", path, map[int]string{os.O_RDONLY: "r", os.O_RDWR: "rw", os.O_RDWR | unix.O_DIRECT: "direct"}[flags]))
		fd++
		return fd, nil
	}
	handed, err := m.HandOver(open)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/var/lib/vmentry/disk/overlay.qcow2 direct", "/image/disk.qcow2 r", "/run/vmentry/seed.iso r",
		"/data/vars,1.fd r", "/data/vars,1.fd rw",
	}
	if !slices.Equal(opened, want) {
		t.Errorf("opened: %q, want %q", opened, want)
	}
	args := strings.Join(handed.Args(), " ")
	for _, part := range []string{
		"-add-fd fd=11,set=1,opaque=/var/lib/vmentry/disk/overlay.qcow2 ", "-add-fd fd=15,set=4,opaque=/data/vars,,1.fd ",
		"node-name=disk-file,filename=/dev/fdset/1,", "node-name=disk-base-file,filename=/dev/fdset/2,", "if=pflash,unit=1,format=raw,file=/dev/fdset/4 ",
		"file=/usr/share/code.fd ",
	} {
		if !strings.Contains(args, part) {
			t.Errorf("%q is not in %s", part, args)
		}
	}
	for _, path := range want {
		path, _, _ = strings.Cut(path, " ")
		if strings.Contains(args, "filename="+path) {
			t.Errorf("%s is still to be opened by QEMU", path)
		}
	}
	if after := strings.Join(m.Args(), " "); after != before {
		t.Errorf("the machine has become\n%s", after)
	}
	failure := errors.New("no")
	if _, err := m.HandOver(func(string, int) (int, error) { return 0, failure }); !errors.Is(err, failure) {
		t.Errorf("the error is %v", err)
	}
}

// TestSandboxArguments: there is one -sandbox, the user's if there is one.
func TestSandboxArguments(t *testing.T) {
	for _, tt := range []struct {
		extra         []string
		count         int
		own, anything bool
	}{
		{nil, 1, false, false},
		{[]string{"-device", "edu"}, 1, false, false},
		{[]string{"-sandbox", "on,spawn=allow"}, 1, true, false},
		{[]string{"--sandbox", "off"}, 1, true, true},
		{[]string{"-name", "sandbox", "off"}, 1, false, false},
	} {
		m := demo()
		m.Sandbox, m.ExtraArgs = true, tt.extra
		count := 0
		for _, a := range m.Args() {
			if isSandbox(a) {
				count++
			}
		}
		if count != tt.count || m.OwnSandbox() != tt.own || m.Unconfined() != tt.anything {
			t.Errorf("%q: %d sandboxes, own %v, unconfined %v", tt.extra, count, m.OwnSandbox(), m.Unconfined())
		}
	}
}

func TestExtraPaths(t *testing.T) {
	m := Machine{ExtraArgs: []string{"-drive", "file=/a,,b/c,if=none,id=x", "-D", "/var/log/qemu", "-chardev", "file,id=c,path=/tmp/out", "-vnc", "unix:/run/vnc", "-append", "root=/dev/vda1",
		"-chardev", "socket,id=s,path=/run/s,server=on", "-netdev", "stream,id=n,addr.type=unix,addr.path=/run/n", "-device", "edu", "-fsdev", "path=/"}}
	want := []ExtraPath{{"/a,b/c", false}, {"/var/log/qemu", false}, {"/tmp/out", false}, {"/run/vnc", true}, {"/run/s", true}, {"/run/n", true}}
	if got := m.ExtraPaths(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for want, extra := range map[bool][]string{false: {"-device", "edu"}, true: {"-drive", "file=/a,snapshot=on"}} {
		if got := (Machine{ExtraArgs: extra}).Temporary(); got != want {
			t.Errorf("%q: %v", extra, got)
		}
	}
}
