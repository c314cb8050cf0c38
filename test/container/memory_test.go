package container

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// TestMemoryLimit: a guest that uses all of its memory, and has QEMU translate as much as it keeps, does not get its container killed. The
// guest has the memory that vmentry chooses for the container's limit. What was needed beside the guest's is logged.
func TestMemoryLimit(t *testing.T) {
	for _, tt := range []struct {
		name      string
		limit     string
		functions int // enough for the translation cache
		options   []string
		look      bool // at the screen
	}{
		{"small", "384m", 250_000, nil, false},
		{"everything", "1g", 1_000_000, settings("VM_CPUS=4", "VM_VOLUMES=tiny=/tiny:ro", "VM_DISPLAY=vnc", "VM_HTTP=127.0.0.1:8080"), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			sockets := anybodys(t)
			options := tiny(t, fmt.Sprint("vmtest.fill=", tt.functions), "--memory", tt.limit, "--volume", sockets+":/run/vmentry", "--env", "VM_MEMORY=", "--env", "VM_INITRD=/tiny/initrd-net")
			m := run(t, append(options, tt.options...))
			if m.stdout.Find("vmtest: translated", 1) != nil && m.failedItself() {
				t.Log("QEMU has failed by itself; once more")
				m = m.again()
			}
			m.stdout.Await(t, "vmtest: translated")
			if tt.look {
				look(t, filepath.Join(sockets, "qemu", "vnc.sock"))
			}
			m.stdout.Await(t, "vmtest: filled")
			t.Log(m.memory())
			m.stop()
		})
	}
}

// failedItself says whether the container has ended by an assertion of QEMU's. QEMU 10 and older, emulating several CPUs, fail in about one of a hundred starts while the
// guest gives its PCI devices their addresses: a CPU finds what it writes to by a number in a table that another CPU has replaced (iotlb_to_section in QEMU's system/physmem.c).
func (m *machine) failedItself() bool {
	m.t.Helper()
	return m.exit() == 128+int(syscall.SIGABRT) && strings.Contains(m.stderr.String(), "Assertion")
}

// memory is how much memory the container uses, and how much of it is not the guest's.
func (m *machine) memory() string {
	m.t.Helper()
	stat, err := m.file("/sys/fs/cgroup/memory.stat")
	if os.IsNotExist(err) { // cgroups of version 1
		stat, err = m.file("/sys/fs/cgroup/memory/memory.stat")
		kernel, _ := m.file("/sys/fs/cgroup/memory/memory.kmem.usage_in_bytes")
		stat += "\nkernel " + kernel
	}
	if err != nil {
		m.t.Fatal(err)
	}
	used := 0
	for _, name := range []string{"anon", "rss", "shmem", "kernel"} {
		if f := regexp.MustCompile(`(?m)^` + name + ` (\d+)$`).FindStringSubmatch(stat); f != nil {
			n, _ := strconv.Atoi(f[1])
			used += n
		}
	}
	log := m.stderr.String()
	guest := regexp.MustCompile(`memory=(\S+)`).FindStringSubmatch(log)
	return fmt.Sprintf("the guest has %s, the container uses %d MiB", guest[1], used>>20)
}

// look looks on at the screen as a VNC client does, for as long as the test runs (RFC 6143).
func look(t *testing.T, socket string) {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(transcript.Patience))
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal("VNC: ", err)
		}
		return b
	}
	read(12)
	io.WriteString(c, "RFB 003.008\n")
	read(int(read(1)[0]))
	c.Write([]byte{1}) // no authentication
	read(4)
	c.Write([]byte{1}) // shared
	size := read(24)
	name := read(int(binary.BigEndian.Uint32(size[20:])))
	if !strings.Contains(string(name), "QEMU") {
		t.Errorf("the screen's name is %q", name)
	}
	c.Write(append([]byte{3, 0, 0, 0, 0, 0}, size[:4]...)) // all of the screen
	if read(4)[0] != 0 {
		t.Error("no update of the screen")
	}
}
