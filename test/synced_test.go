package test

import (
	"fmt"
	"math/rand"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Commands of the tiny guest. It writes numbered blocks, waits after each until it is on the disk (fsync), and only then says so;
// and it counts how many of a round's blocks are there, in a row from the first.
const (
	writeBlocks = `i=0; while :; do i=$((i+1)); printf 'round %[1]d block %%06d ' $i >/tmp/b; ` +
		`dd if=/tmp/b of=/dev/vda bs=4096 seek=$((512+i)) conv=sync,fsync,notrunc 2>/dev/null || break; echo "synced %[1]d $i" >/dev/console; done`
	countBlocks = `n=0; while dd if=/dev/vda bs=4096 skip=$((513+n)) count=1 2>/dev/null | grep -q "round %d block $(printf %%06d $((n+1))) "; ` +
		`do n=$((n+1)); done; echo found $n`
)

// TestSyncedWritesOutliveKills kills QEMU, or vmentry with it, while the guest writes. What the guest was told to be on its disk must be
// there after the next start. VMENTRY_KILL_ROUNDS says how often.
func TestSyncedWritesOutliveKills(t *testing.T) {
	rounds := int(number(t, "VMENTRY_KILL_ROUNDS", 3))
	for _, mode := range []string{"overlay", "copy"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			data, run := dirs(t)
			settings := tiny(t, "vmtest.commands", "VM_IMAGE="+image(t, "qcow2"), "VM_DISK_SIZE=1G", "VM_DISK_MODE="+mode)
			kills, blocks, synced := 0, 0, 0
			for round := 1; round <= rounds+1; round++ {
				m := startTyping(t, data, run, settings)
				m.stdout.Await(t, tinyReady)
				if round > 1 {
					out := m.tell(fmt.Sprintf(countBlocks, round-1))
					var found int
					if _, err := fmt.Sscanf(out, "found %d", &found); err != nil || found < synced {
						t.Fatalf("round %d: the guest was told that %d blocks are on its disk, and of these is there: %s", round-1, synced, out)
					}
					if !strings.Contains(m.stderr.String(), "its last end was not clean") {
						t.Error("the disk was not checked after an end that was not clean")
					}
				}
				if round > rounds {
					m.signal(syscall.SIGTERM)
					m.wants(0)
					break
				}
				m.begin(fmt.Sprintf(writeBlocks, round))
				m.stdout.Await(t, fmt.Sprintf("synced %d %d\r", round, 5+rand.Intn(40)))
				if round%2 == 1 {
					syscall.Kill(qemuOf(t, m.machine), syscall.SIGKILL)
					m.wants(137)
				} else {
					m.signal(syscall.SIGKILL)
					m.exit()
				}
				kills++
				synced = lastSynced(m.stdout.String(), round)
				blocks += synced
			}
			disk := filepath.Join(data, "disk", map[string]string{"overlay": "overlay.qcow2", "copy": "copy.qcow2"}[mode])
			if out, err := exec.Command("qemu-img", "check", disk).CombinedOutput(); err != nil {
				t.Errorf("at the end: %v\n%s", err, out)
			}
			again := startIn(t, data, run, tiny(t, "vmtest.poweroff=0", settings[len(settings)-3:]...))
			again.wants(0)
			if strings.Contains(again.stderr.String(), "its last end was not clean") {
				t.Error("the disk is checked after a clean end")
			}
			t.Logf("kills %d, blocks that the guest was told to be on its disk %d, lost 0", kills, blocks)
		})
	}
}

// lastSynced is the number of the last block of a round that was on the disk. What came after it may be there or not.
func lastSynced(console string, round int) int {
	last := 0
	for line := range strings.Lines(console) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), fmt.Sprintf("synced %d ", round)); ok {
			last, _ = strconv.Atoi(text)
		}
	}
	return last
}
