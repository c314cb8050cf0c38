package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Confine gives the command by which another one is run that reaches these files and directories alone: to be read, or to be written too.
type Confine func(read, write, command []string) []string

// qemuImg is the program, and how it is run.
type qemuImg struct {
	path    string
	confine Confine    // nil: it is not shut in
	files   []*os.File // it inherits them, from descriptor 4 on
}

func (in Input) qemuImg() qemuImg     { return qemuImg{path: in.QEMUImg, confine: in.Confine} }
func (in MoreInput) qemuImg() qemuImg { return qemuImg{path: in.QEMUImg, confine: in.Confine} }

// reach are the files that one run of it needs. A disk can name others, in ways that are checked before; one that slips through leads to
// none of them.
type reach struct{ read, write []string }

// run runs qemu-img to its end, or ends it with ctx. It inherits the lock and dies with vmentry: if vmentry is killed, the
// next start waits for the helper's end and does not work on the same file beside it. What it prints goes to stdout, which may be
// nil; its words on standard error are the error.
func (q qemuImg) run(ctx context.Context, lock *Lock, files reach, stdout io.Writer, args []string) error {
	var stderr tail
	command := append([]string{q.path}, args...)
	if q.confine != nil {
		command = q.confine(files.read, files.write, command)
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	cmd.ExtraFiles = append([]*os.File{lock.File()}, q.files...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // the kernel sends that signal when the thread that made the child ends (prctl(2))
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if err == nil {
		return nil
	}
	words := strings.Join(strings.Fields(string(stderr)), " ")
	if words == "" {
		return fmt.Errorf("qemu-img: %w", err)
	}
	return &helperError{words: words, errno: errnoIn(words), err: err}
}

// maxOutput is how much of what a helper prints is kept, in bytes. It reads what guests have written, and could be made to print without end.
const maxOutput = 8 << 10

// tail keeps the end of what is written to it.
type tail []byte

func (t *tail) Write(b []byte) (int, error) {
	*t = append(*t, b...)
	*t = append((*t)[:0], (*t)[max(0, len(*t)-maxOutput):]...)
	return len(b), nil
}

// helperError is what a helper said on standard error; it begins with the helper's name.
type helperError struct {
	words string
	errno error // may be nil
	err   error // how it ended
}

func (e *helperError) Error() string { return e.words }

// Unwrap gives the system error that the helper spoke of, so that the advice can be the same as for one of our own, and how it
// ended.
func (e *helperError) Unwrap() []error {
	if e.errno == nil {
		return []error{e.err}
	}
	return []error{e.errno, e.err}
}

// errnoIn finds the system error that a helper's last words end with. In the C locale its text is Go's, but for the capital.
func errnoIn(words string) error {
	for _, errno := range []error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EACCES, unix.EPERM, unix.EIO} {
		if strings.Contains(strings.ToLower(words), errno.Error()) {
			return errno
		}
	}
	return nil
}

// exitStatus is the status that a helper ended with; -1 if it was killed or never ran.
func exitStatus(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// node is an image as qemu-img is told to open it: each layer by hand, so that nothing that is written in a file decides which
// other file is opened.
type node map[string]any

// rawFile is the file or block device itself.
func rawFile(path string, device bool) node {
	if device {
		return node{"driver": "host_device", "filename": path}
	}
	return node{"driver": "file", "filename": path}
}

// layer is an image of a format, with what lies below it; nil for nothing.
func layer(format Format, file, backing node) node {
	n := node{"driver": string(format), "file": file}
	switch {
	case backing != nil:
		n["backing"] = backing
	case format == FormatQCOW2:
		n["backing"] = nil // also where the header names one
	}
	return n
}

// String is the node in the form that stands for a file name (qemu(1), "json:").
func (n node) String() string {
	b, err := json.Marshal(n)
	if err != nil { // strings and maps of them always can be
		panic(err)
	}
	return "json:" + string(b)
}
