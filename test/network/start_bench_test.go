package network

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vmentry/vmentry/test/pod"
)

// startedModes are the modes whose starts are measured, each with what the plainest shell script does for the same: the guest gets its address by DHCP, and is reached.
var startedModes = []struct {
	mode   mode
	script string
}{
	{"user", ""},
	{nat, `
		ip link add vm type bridge
		ip addr add 172.30.0.1/24 dev vm
		ip tuntap add tap0 mode tap
		ip link set tap0 master vm up
		ip link set vm up
		nft -f - <<-END
			table ip vm {
				chain in { type nat hook prerouting priority dstnat; iif eth0 dnat to 172.30.0.2; }
				chain out { type nat hook postrouting priority srcnat; oif eth0 masquerade; }
			}
		END
		dnsmasq --conf-file=/dev/null --pid-file= --leasefile-ro --port=0 --interface=vm --bind-interfaces --dhcp-range=172.30.0.2,172.30.0.2,infinite`},
	{bridge, `
		read -r _ _ _ address _ <<-END
			$(ip -4 -o addr show eth0)
		END
		read -r mac </sys/class/net/eth0/address
		read -r _ _ router _ <<-END
			$(ip -4 route show default)
		END
		ip addr flush dev eth0
		ip link set eth0 address 02:00:00:00:00:01
		ip link add vm type bridge
		ip addr add 169.254.77.1/32 dev vm
		ip tuntap add tap0 mode tap
		ip link set eth0 master vm
		ip link set tap0 master vm up
		ip link set vm up
		ip route add "${address%/*}" dev vm
		dnsmasq --conf-file=/dev/null --pid-file= --leasefile-ro --port=0 --interface=vm --bind-interfaces --dhcp-range="${address%/*},static,255.255.255.0,infinite" \
			--dhcp-host="$mac,${address%/*}" --dhcp-option="3,$router"`},
}

// What is compared.
const (
	ours  = "vmentry" // vmentry
	bare  = "bare"    // the least that could be done: qemu-img create and QEMU, whatever the mode
	shell = "shell"   // the plainest script that does the same
)

// BenchmarkStart measures the time until QEMU's first instruction, with a QEMU that only pretends, in a new pod with a new and with an existing overlay: as a ratio to the least
// that could be done, and to the plainest shell script that does the same. A round measures all three.
func BenchmarkStart(b *testing.B) {
	img := filepath.Join(b.TempDir(), "disk.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", img, "1G").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	recordQEMU(b)
	var table strings.Builder
	for _, m := range startedModes {
		for _, overlay := range []string{"new", "existing"} {
			b.Run(fmt.Sprintf("%s/%s", m.mode, overlay), func(b *testing.B) {
				took := map[string][]float64{}
				for b.Loop() {
					for _, what := range []string{bare, ours, shell} {
						s := newStarted(b, img, m.mode)
						if overlay == "existing" {
							s.untilQEMU(b, what, m.script)
							s.pod = pod.New(b, pod.Named(b, speedShape))
						}
						took[what] = append(took[what], s.untilQEMU(b, what, m.script))
					}
				}
				us, least, script := median(took[ours]), median(took[bare]), median(took[shell])
				fmt.Fprintf(&table, "| %s, %s overlay | %.1f ms | %.2f | %.2f |\n", m.mode, overlay, us, us/least, us/script)
				b.ReportMetric(us/least, "ratio/bare")
				b.ReportMetric(us/script, "ratio/shell")
				b.ReportMetric(us, "ms/start")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
	fmt.Print("\n| | until QEMU runs | as a ratio to `qemu-img create` and QEMU | to a shell script |\n|---|---|---|---|\n", table.String())
}

// recordQEMU writes down what the QEMU that only pretends can do, where the container image has that of its own: nobody asks it then.
func recordQEMU(b *testing.B) {
	b.Helper()
	const dir = "/usr/share/vmentry"
	if _, err := os.Stat(dir); err == nil {
		b.Logf("%s is there already: QEMU may have to be asked at each start", dir)
		return
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(binaries.VMEntry, "record", dir)
	cmd.Env = []string{"PATH=" + binaries.FakeQEMU}
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
}

// started is a container that is started, and what outlives it.
type started struct {
	*container
	dir  string
	env  []string
	base string
}

func newStarted(b *testing.B, img string, m mode) *started {
	b.Helper()
	c := newContainer(b, pod.New(b, pod.Named(b, speedShape)), m, "")
	dir := filepath.Dir(c.data)
	return &started{container: c, dir: dir, base: img, env: append([]string{
		"PATH=" + binaries.FakeQEMU + ":" + os.Getenv("PATH"), "HOME=/", "FAKE_QEMU=poweroff=0s", "FAKE_QEMU_LOG=" + filepath.Join(dir, "log"), "VM_ARGS=-D " + filepath.Join(dir, "log"),
		"VM_IMAGE=" + img, "VM_READY=none", "VM_DATA_DIR=" + c.data, "VM_RUN_DIR=" + c.run}, c.settings...)}
}

// untilQEMU starts the container and returns how many milliseconds it took until QEMU ran. The clock starts in the container, whose making is no part of it.
func (s *started) untilQEMU(b *testing.B, what, script string) float64 {
	b.Helper()
	overlay := filepath.Join(s.dir, "overlay.qcow2")
	create := fmt.Sprintf("[ -e %[1]s ] || qemu-img create -q -f qcow2 -b %[2]s -F qcow2 %[1]s 12G", overlay, s.base)
	command := map[string][]string{
		ours:  {binaries.VMEntry},
		bare:  {"sh", "-ec", create + "\nexec qemu-system-x86_64"},
		shell: {"sh", "-ec", "qemu-img info --output=json " + s.base + " >/dev/null\n" + create + script + "\nexec qemu-system-x86_64"},
	}[what]
	log := filepath.Join(s.dir, "log")
	os.Remove(log)
	cmd := s.pod.Command(s.pod.Shape.Container, append([]string{"bash", "-c", `LC_ALL=C; echo "${EPOCHREALTIME/.}000" >"$0"; exec "$@"`, filepath.Join(s.dir, "began")}, command...)...)
	cmd.Env = s.env
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", what, err, out)
	}
	return float64(number(b, log, "time ")-number(b, filepath.Join(s.dir, "began"), "")) / 1e6
}

// number is that at the beginning of a file, in nanoseconds.
func number(b *testing.B, file, prefix string) int64 {
	b.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	line, _, _ := strings.Cut(strings.TrimPrefix(string(text), prefix), "\n")
	n, err := strconv.ParseInt(line, 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}
