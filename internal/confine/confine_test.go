package confine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain is also the program that shuts another one in: Run takes the place of the process that calls it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Command {
		var r Reach
		args := os.Args[2:]
		for ; args[0] != "--"; args = args[1:] {
			if p, ok := strings.CutPrefix(args[0], "--read="); ok {
				r.Read = append(r.Read, p)
			}
			if p, ok := strings.CutPrefix(args[0], "--write="); ok {
				r.Write = append(r.Write, p)
			}
		}
		if err := Run(r, args[1:], os.Environ()); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// TestConfine: a program that is shut in reads and writes where it may, and nowhere else.
func TestConfine(t *testing.T) {
	if Landlock() == 0 {
		t.Fatal("this kernel has no Landlock, which these tests are about")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"read", "write", "outside"} {
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, "file"), []byte("x\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "single"), []byte("x\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "outside", "file"), filepath.Join(dir, "write", "link")); err != nil {
		t.Fatal(err)
	}
	r := Reach{Read: []string{filepath.Join(dir, "read"), "/no/such/place", "/proc"}, Write: []string{filepath.Join(dir, "write"), filepath.Join(dir, "single")}}
	for script, allowed := range map[string]bool{
		"read x <read/file":  true,
		"read x <write/file": true,
		"echo >write/new":    true,
		"mkdir write/a && echo >write/m && mv write/m write/a/moved": true,
		"read x <single && echo >single":                             true,
		"rm single":                                                  false,
		"echo >beside":                                               false,
		"read x <outside/file":                                       false,
		"read x <write/link":                                         false,
		"read x <write/../outside/file":                              false,
		"echo >read/new":                                             false,
		"echo >>read/file":                                           false,
		"rm read/file":                                               false,
		"mv read/file write/stolen":                                  false,
		"ls /etc":                                                    false,
		`[ -n "$(cat /proc/$PPID/environ)" ]`:                        false,
		"kill -0 $PPID":                                              Landlock() < 6,
		"grep -q 'NoNewPrivs:.*1' /proc/self/status":                 true,
		`[ "$(ulimit -Sn)" = "$(ulimit -Hn)" ]`:                      true,
		"true && sh -c 'sh -c true'":                                 true,
		"setpriv --no-new-privs sh -c 'read x <read/file'":           true,
	} {
		// without root's capabilities, as virtiofsd is in the end: with CAP_PERFMON it could read of any process what is in /proc
		cmd := exec.Command("setpriv", append([]string{"--bounding-set", "-all", "--"}, r.Around(self, []string{"/bin/sh", "-c", script})...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if (err == nil) != allowed {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
	nothing := Reach{}.Around(self, []string{"/no/such/program"})
	if out, err := exec.Command(nothing[0], nothing[1:]...).CombinedOutput(); err == nil || !strings.Contains(string(out), "cannot execute /no/such/program") {
		t.Errorf("%v: %s", err, out)
	}
}
