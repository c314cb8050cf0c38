package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// TestExitCodes provokes each row of the table of exit codes, with a QEMU that only pretends.
func TestExitCodes(t *testing.T) {
	tests := []struct {
		name   string
		qemu   string   // the pretended QEMU's script
		env    []string // settings besides
		args   []string
		await  string           // what the log must say before the signals are sent
		signal []syscall.Signal // sent to vmentry, one after the other
		code   int
		says   []string
	}{
		{name: "0 guest powers itself off", qemu: "poweroff=50ms", code: 0, says: []string{"powered itself off"}},
		{name: "0 stopped in time", await: "QEMU started", signal: sig(syscall.SIGTERM), code: 0, says: []string{"SIGTERM", "shut down as asked"}},
		{name: "0 SIGINT", await: "QEMU started", signal: sig(syscall.SIGINT), code: 0, says: []string{"SIGINT"}},
		{name: "0 SIGHUP", await: "QEMU started", signal: sig(syscall.SIGHUP), code: 0, says: []string{"SIGHUP"}},
		{name: "0 the second press is heeded", qemu: "button=2", await: "QEMU started", signal: sig(syscall.SIGTERM), code: 0},
		{name: "0 reboot is a reboot", qemu: "reboot=50ms", await: "the guest restarts", signal: sig(syscall.SIGTERM), code: 0},
		{name: "64 unknown command", args: []string{"bot"}, code: 64, says: []string{`"bot"`, "--help"}},
		{name: "64 unknown flag", args: []string{"plan", "--nonsense"}, code: 64, says: []string{"nonsense"}},
		{name: "64 a snapshot without a name", args: []string{"snapshot", "create"}, code: 64, says: []string{"name of a snapshot"}},
		{name: "64 a name that is none", args: []string{"snapshot", "delete", "../disk"}, code: 64, says: []string{"../disk", "letters"}},
		{name: "64 -m in a form that is not understood", args: []string{"-m", "1G,slots=2"}, code: 64, says: []string{"slots=2"}},
		{name: "64 -smp without a value", args: []string{"-smp"}, code: 64, says: []string{"-smp wants a value"}},
		{name: "69 no QEMU", env: []string{"PATH=/nonexistent"}, code: 69, says: []string{"qemu-system-x86_64"}},
		{name: "69 no QEMU for the other architecture", env: []string{"VM_ARCH=arm64", "PATH=" + "/nonexistent"}, code: 69, says: []string{"qemu-system-aarch64"}},
		{name: "70 QEMU cannot start", qemu: "fail=Could not set up host forwarding rule", code: 70, says: []string{"Could not set up host forwarding rule", "HOSTFWD"}},
		{name: "70 QEMU ends with a failure", qemu: "end=3", code: 70, says: []string{"status 3"}},
		{name: "70 QEMU ends without a word", qemu: "end=0", code: 70, says: []string{"without saying why"}},
		{name: "71 kernel panic", qemu: "panic=50ms", code: 71, says: []string{"panicked"}},
		{name: "72 a watchdog that ends it", qemu: "watchdog=50ms", env: []string{"VM_WATCHDOG=exit"}, code: 72, says: []string{"has not fed its watchdog", "the guest hangs"}},
		{name: "72 a watchdog that ends it, and QEMU hangs", qemu: "watchdog=50ms,quit=ignore,term=ignore", env: []string{"VM_WATCHDOG=exit"}, code: 72, says: []string{"killed"}},
		{name: "72 a job's watchdog powers it off", qemu: "job,watchdog=50ms", env: []string{"VM_WATCHDOG=poweroff"}, code: 72, says: []string{"a job has not fed its watchdog"}},
		{name: "0 a watchdog powers it off", qemu: "watchdog=50ms", env: []string{"VM_WATCHDOG=poweroff"}, code: 0, says: []string{"has not fed its watchdog", "powered off"}},
		{name: "76 a watchdog's reset is a reboot", qemu: "watchdog=50ms", env: []string{"VM_WATCHDOG=reset", "VM_REBOOT=exit"}, code: 76, says: []string{"has not fed its watchdog"}},
		{name: "75 a guest that hangs while it shuts down", qemu: "button=ignore,watchdog=button", env: []string{"VM_WATCHDOG=exit", "VM_SHUTDOWN_TIMEOUT=10m"}, await: "QEMU started", signal: sig(syscall.SIGTERM), code: 75, says: []string{"has not fed its watchdog"}},
		{name: "74 the data directory cannot be made", env: []string{"VM_DATA_DIR=/proc/nothing/here"}, code: 74, says: []string{"/proc/nothing/here"}},
		{name: "74 the run directory cannot be made", env: []string{"VM_RUN_DIR=/proc/nothing/here"}, code: 74, says: []string{"VM_RUN_DIR", "/proc/nothing/here"}},
		{name: "74 the image reads another file", env: []string{"VM_IMAGE=" + backed(t)}, code: 74, says: []string{"backing file", "/etc/passwd"}},
		{name: "75 guest ignores the button", qemu: "button=ignore", env: []string{"VM_SHUTDOWN_TIMEOUT=300ms"}, await: "QEMU started", signal: sig(syscall.SIGTERM), code: 75, says: []string{"VM_SHUTDOWN_TIMEOUT", "forced off"}},
		{name: "75 no time at all", qemu: "button=ignore", env: []string{"VM_SHUTDOWN_TIMEOUT=0"}, await: "QEMU started", signal: sig(syscall.SIGTERM), code: 75},
		{name: "75 second SIGINT", qemu: "button=ignore", await: "QEMU started", signal: sig(syscall.SIGINT, syscall.SIGINT), code: 75, says: []string{"second SIGINT"}},
		{name: "75 QEMU hangs", qemu: "mute,quit=ignore", env: []string{"VM_SHUTDOWN_TIMEOUT=300ms"}, await: "QEMU started", signal: sig(syscall.SIGTERM), code: 75, says: []string{"SIGTERM"}},
		{name: "75 QEMU hangs and is deaf", qemu: "mute,quit=ignore,term=ignore", env: []string{"VM_SHUTDOWN_TIMEOUT=300ms"}, await: "QEMU started", signal: sig(syscall.SIGTERM), code: 75, says: []string{"killed"}},
		{name: "76 reboot", qemu: "reboot=50ms", env: []string{"VM_REBOOT=exit"}, code: 76, says: []string{"VM_REBOOT"}},
		{name: "78 a wrong value", env: []string{"VM_MEMORY=lots"}, code: 78, says: []string{`VM_MEMORY="lots"`}},
		{name: "78 several wrong values", env: []string{"VM_MEMORY=lots", "VM_CPUS=-1", "HOSTFWD=22"}, code: 78, says: []string{"VM_MEMORY", "VM_CPUS", "HOSTFWD"}},
		{name: "78 a kernel that is not there", env: []string{"VM_KERNEL=/no/such/kernel", "VM_MEMROY=2G"}, code: 78, says: []string{"VM_KERNEL", "/no/such/kernel", "VM_MEMROY", "VM_MEMORY"}},
		{name: "78 Secure Boot around its check", env: []string{"VM_FIRMWARE=secureboot", "VM_KERNEL=/dev/null"}, code: 78, says: []string{"VM_FIRMWARE", "VM_KERNEL"}},
		{name: "78 a machine that QEMU does not have", env: []string{"VM_MACHINE=q36"}, code: 78, says: []string{`VM_MACHINE="q36"`}},
		{name: "78 QEMU in the background", args: []string{"-daemonize"}, code: 78, says: []string{"-daemonize"}},
		{name: "78 no image", env: []string{"VM_IMAGE=/no/such/disk"}, code: 78, says: []string{"/no/such/disk"}},
		{name: "78 a misspelt variable", env: []string{"VM_IMAGE=", "VM_IMAG=/disk"}, code: 78, says: []string{"VM_IMAG: not a variable", "VM_IMAGE?"}},
		{name: "78 a plan with a misspelt variable", args: []string{"plan"}, env: []string{"VM_IMAGE=", "VM_IMAG=/disk"}, code: 78, says: []string{"VM_IMAG: not a variable", "VM_IMAGE?"}},
		{name: "78 a config that is not there", env: []string{"CONFIG_FILE=/no/such/config"}, code: 78, says: []string{"CONFIG_FILE", "/no/such/config"}},
		{name: "78 a kernel that is not there", env: []string{"VM_KERNEL=/no/such/kernel"}, code: 78, says: []string{"VM_KERNEL", "/no/such/kernel"}},
		{name: "78 a config that is wrong", env: []string{"CONFIG=variant: fcos\nversion: 1.4.0\nsystemd:\n  units:\n    - nam: x\n"}, code: 78, says: []string{"CONFIG", ":5:"}},
		{name: "137 QEMU is killed", qemu: "die=9", code: 137, says: []string{"signal 9"}},
		{name: "139 QEMU crashes", qemu: "die=11", code: 139, says: []string{"signal 11"}},
		{name: "1 the guest chooses 1", qemu: "choose=1", code: 1, says: []string{"the guest chose 1"}},
		{name: "63 the guest chooses 63", qemu: "choose=12\n63\n", code: 63},
		{name: "0 the guest chooses nonsense", qemu: "choose=64", code: 0, says: []string{"0 to 63"}},
		{name: "0 the guest writes a long line that ends with a number", qemu: "choose=" + strings.Repeat("x", 64) + "5\n", code: 0, says: []string{"0 to 63"}},
		{name: "143 a job is stopped before it chose", qemu: "job", await: "opened its exit port", signal: sig(syscall.SIGTERM), code: 143, says: []string{"job"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			log := filepath.Join(t.TempDir(), "qemu.log")
			env := append(pretend(tt.qemu), "FAKE_QEMU_LOG="+log, "VM_ARGS=-D "+log, "VM_IMAGE="+image(t, "qcow2"), "VM_READY=none")
			m := start(t, append(env, tt.env...), tt.args...)
			if tt.await != "" {
				m.stderr.Await(t, tt.await)
			}
			for _, s := range tt.signal {
				m.signal(s)
				time.Sleep(50 * time.Millisecond) // two of the same at once are one
			}
			m.wants(tt.code, tt.says...)
			if tt.code == 78 || tt.code == 64 {
				if left := append(contents(t, m.data), contents(t, m.run)...); len(left) > 0 {
					t.Errorf("something was touched: %v", left)
				}
				if given := lines(t, log); len(given) > 0 {
					t.Errorf("QEMU was started: %v", given)
				}
			}
		})
	}
}

// TestNothingIsLeftOfAMistake: QEMU is asked what it can do while the mistakes are looked for, and QEMU does not end because
// nobody listens to it any more.
func TestNothingIsLeftOfAMistake(t *testing.T) {
	tools := t.TempDir()
	pidFile := filepath.Join(tools, "pid")
	script := "#!/bin/sh\necho $$ > " + pidFile + "\nexec sleep 1000\n"
	if err := os.WriteFile(filepath.Join(tools, "qemu-system-x86_64"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	m := start(t, []string{"PATH=" + tools + ":" + os.Getenv("PATH"), "VM_MEMORY=lots", "VM_IMAGE=" + image(t, "raw")})
	m.wants(78, "VM_MEMORY")
	time.Sleep(200 * time.Millisecond) // what is left behind writes its number soon
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return // it did not come that far
	}
	var pid int
	fmt.Sscan(string(data), &pid)
	if syscall.Kill(pid, 0) == nil {
		syscall.Kill(pid, syscall.SIGKILL)
		t.Error("the QEMU that was asked still runs")
	}
}

func sig(s ...syscall.Signal) []syscall.Signal { return s }

func contents(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if path != dir {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// backed is an image that would give its guest a file of the container to read.
func backed(t *testing.T) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "evil.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", img, "1M").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return img
}

// TestStopBeforeTheGuestRuns sends the stop while the disk is prepared.
func TestStopBeforeTheGuestRuns(t *testing.T) {
	tools := t.TempDir()
	// a qemu-img that takes its time
	script := "#!/bin/sh\necho slow >&2\nexec tail -f \"$0\"\n"
	if err := os.WriteFile(filepath.Join(tools, "qemu-img"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	img := image(t, "qcow2")
	m := start(t, append(pretend(""), "PATH="+tools+":"+binaries.FakeQEMU+":"+os.Getenv("PATH"), "VM_IMAGE="+img, "VM_DISK_MODE=copy"))
	for give := time.Now().Add(transcript.Patience); len(processesOf(tools)) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(give) {
			t.Fatal("qemu-img was not started")
		}
	}
	m.signal(syscall.SIGTERM)
	m.wants(143, "SIGTERM")
	if left := processesOf(tools); len(left) > 0 {
		t.Errorf("still running: %q", left)
	}
	for _, f := range contents(t, m.data) {
		if strings.HasSuffix(f, ".qcow2") {
			t.Errorf("half a disk was left: %s", f)
		}
	}
	// and the next start is none the worse for it
	m = startIn(t, m.data, m.run, append(pretend("poweroff=10ms"), "VM_IMAGE="+img, "VM_DISK_MODE=copy"))
	m.wants(0)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestSignalsFromTheStart stops vmentry at random early moments: it must always end, and never with an error.
func TestSignalsFromTheStart(t *testing.T) {
	img := image(t, "qcow2")
	for i := range 40 {
		wait := time.Duration(i) * 5 * time.Millisecond
		t.Run(fmt.Sprint(wait), func(t *testing.T) {
			t.Parallel()
			m := start(t, append(pretend(""), "VM_IMAGE="+img))
			time.Sleep(wait)
			m.signal(syscall.SIGTERM)
			switch code := m.exit(); code {
			case 0: // the guest ran, and shut down
			case 143: // the stop came before it ran, or before this program's first instruction
			default:
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// TestKilledSupervisor kills vmentry: its QEMU must not outlive it, and the next start must find nothing in its way.
func TestKilledSupervisor(t *testing.T) {
	log := filepath.Join(t.TempDir(), "qemu.log")
	env := append(pretend(""), "FAKE_QEMU_LOG="+log, "VM_ARGS=-D "+log, "VM_IMAGE="+image(t, "qcow2"))
	m := start(t, env)
	m.stderr.Await(t, "QEMU started")
	m.signal(syscall.SIGKILL)
	m.exit()
	m = startIn(t, m.data, m.run, env)
	m.stderr.Await(t, "QEMU started")
	m.signal(syscall.SIGTERM)
	m.wants(0)
	if got := strings.Join(lines(t, log), "\n"); !strings.Contains(got, "end host-signal") {
		t.Errorf("the first QEMU was not ended:\n%s", got)
	}
}

// TestSecondVMOnTheSameData must be refused, and say by whom.
func TestSecondVMOnTheSameData(t *testing.T) {
	env := append(pretend(""), "VM_IMAGE="+image(t, "qcow2"))
	first := start(t, env)
	first.stderr.Await(t, "QEMU started")
	_, run := dirs(t)
	second := startIn(t, first.data, run, env)
	host, _ := os.Hostname()
	second.wants(74, first.data, host)
	first.signal(syscall.SIGTERM)
	first.wants(0)
}

// TestSecondVMInTheSameRunDirectory must be refused, and must leave the first one reachable.
func TestSecondVMInTheSameRunDirectory(t *testing.T) {
	env := append(pretend(""), "VM_IMAGE="+image(t, "qcow2"), "VM_READY=none")
	first := start(t, env)
	first.stderr.Await(t, "QEMU started")
	data, _ := dirs(t)
	second := startIn(t, data, first.run, env)
	second.wants(74, first.run, "in use")
	if left := contents(t, data); len(left) > 0 {
		t.Errorf("the second has touched its data directory: %v", left)
	}
	if out, code := first.call("probe", "ready"); code != 0 {
		t.Errorf("the first cannot be reached any more: %s", out)
	}
	first.signal(syscall.SIGTERM)
	first.wants(0)
}

// TestProcessThatOutlivesQEMU: what QEMU has left behind is not waited for.
func TestProcessThatOutlivesQEMU(t *testing.T) {
	began := time.Now()
	start(t, append(pretend("helper,poweroff=10ms"), "VM_IMAGE="+image(t, "qcow2"))).wants(0, "not waited for")
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it was waited for %s", took)
	}
}

// TestFailedStartLeavesNoSecrets: what the guest would have read is not left in the run directory.
func TestFailedStartLeavesNoSecrets(t *testing.T) {
	data, run := dirs(t)
	inTheWay := filepath.Join(run, "vm.json", "x")
	if err := os.MkdirAll(inTheWay, 0o755); err != nil {
		t.Fatal(err)
	}
	m := startIn(t, data, run, append(pretend(""), "VM_IMAGE="+image(t, "qcow2"), "CLOUD_CONFIG=#cloud-config\npassword: secret\n"))
	m.wants(74)
	for _, f := range contents(t, run) {
		if strings.HasPrefix(filepath.Base(f), "ignition") || strings.HasPrefix(filepath.Base(f), "seed") {
			t.Errorf("left: %s", f)
		}
	}
}

// TestPastedScriptThatFails must not end the shell that it is pasted into.
func TestPastedScriptThatFails(t *testing.T) {
	data, run := dirs(t)
	env := environment(data, run, append(pretend(""), "VM_IMAGE="+image(t, "qcow2"))...)
	script, code := command(t, env, "plan", "-o", "shell")
	if code != 0 {
		t.Fatal(script)
	}
	sh := exec.Command("sh", "-s")
	sh.Env = env // there is no vmentry in its path
	sh.Stdin = strings.NewReader(script + "echo still here\n")
	if out, _ := sh.CombinedOutput(); !strings.HasSuffix(string(out), "still here\n") {
		t.Errorf("the shell has ended:\n%s", out)
	}
}

// TestArgumentsOfOldImages: IMAGE -m 1024m -smp 1 -device edu.
func TestArgumentsOfOldImages(t *testing.T) {
	log := filepath.Join(t.TempDir(), "qemu.log")
	m := start(t, append(pretend("poweroff=10ms"), "FAKE_QEMU_LOG="+log, "VM_ARGS=-D "+log, "VM_IMAGE="+image(t, "raw"), "VM_MEMORY=2G"),
		"-m", "1024m", "-smp", "1", "-device", "edu")
	m.wants(0)
	args := lines(t, log)[1]
	for _, want := range []string{"-m size=1024M", "-smp cpus=1", "-device edu"} {
		if !strings.Contains(args, want) {
			t.Errorf("%q is not among QEMU's arguments: %s", want, args)
		}
	}
}

// TestArgumentsAfterDashes: IMAGE -- -device edu, and the same with the word before it.
func TestArgumentsAfterDashes(t *testing.T) {
	for _, args := range [][]string{{"--", "-device", "edu"}, {"boot", "--", "-device", "edu"}} {
		log := filepath.Join(t.TempDir(), "qemu.log")
		m := start(t, append(pretend("poweroff=10ms"), "FAKE_QEMU_LOG="+log, "VM_ARGS=-D "+log, "VM_IMAGE="+image(t, "raw")), args...)
		m.wants(0)
		if given := strings.Join(lines(t, log), "\n"); !strings.Contains(given, " -device edu\n") {
			t.Errorf("%v: QEMU's arguments do not end with them: %s", args, given)
		}
	}
}

// TestWithoutSupervision replaces vmentry by QEMU: the same process, QEMU's own exit code, the console on its own output.
func TestWithoutSupervision(t *testing.T) {
	log := filepath.Join(t.TempDir(), "qemu.log")
	m := start(t, append(pretend("console=hello,end=5"), "FAKE_QEMU_LOG="+log, "VM_ARGS=-D "+log, "VM_IMAGE="+image(t, "qcow2"), "VM_SUPERVISE=false"))
	m.wants(5)
	if !strings.Contains(m.stdout.String(), "hello") {
		t.Errorf("the console is not on standard output: %q", m.stdout)
	}
	for _, l := range lines(t, log) {
		if strings.HasPrefix(l, "args") && strings.Contains(l, " -S") {
			t.Errorf("nobody will tell this guest to run: %s", l)
		}
	}
}
