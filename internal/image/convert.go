package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What qemu-img may cost while it reads a foreign disk: an hour and a second for each 4 MiB of the disk, the disk's own size and what
// qcow2 needs to map it, and memory that no usual image comes near.
const (
	convertTime   = time.Hour
	convertRate   = 4 << 20 // bytes a second
	convertMemory = 4 << 30 // bytes of address space
)

// convert makes a qcow2 of the disk at from, which was found to stand alone, at to. The format is said, and not left to qemu-img to
// guess. held is inherited, so that the data directory stays locked while qemu-img works.
func (a *applier) convert(ctx context.Context, d foreignDisk, from, to string) error {
	longest := convertTime + time.Duration(d.size/convertRate)*time.Second
	bound, cancel := context.WithTimeoutCause(ctx, longest, fmt.Errorf("qemu-img has taken more than %s", longest))
	defer cancel()
	command := []string{a.plan.facts.QEMUImg, "convert", "-p", "-f", d.driver, "-O", "qcow2", "-o", "compat=1.1,lazy_refcounts=off", from, to}
	if shut := a.plan.input.Confine; shut != nil {
		command = shut([]string{from}, []string{to}, command)
	}
	cmd := exec.CommandContext(bound, command[0], command[1:]...)
	cmd.Env = []string{"LC_ALL=C"}
	cmd.ExtraFiles = []*os.File{a.held}
	var words tail
	cmd.Stderr = &words
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	limit(cmd.Process.Pid, d.size)
	shown := newProgress(a.out, "converting", 0, d.size)
	showPercents(out, shown)
	shown.end()
	err = cmd.Wait()
	switch {
	case err == nil:
		return nil
	case bound.Err() != nil:
		return context.Cause(bound)
	}
	return helperError(string(words), err)
}

// limit bounds what a program can do to this machine by an image that makes it run wild. That it fails is no reason not to go
// on: the image is one that this package has looked into.
func limit(pid int, size int64) {
	written := uint64(size) + uint64(size)/256 + 64<<20
	_ = unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: written, Max: written}, nil)
	_ = unix.Prlimit(pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: convertMemory, Max: convertMemory}, nil)
	_ = unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
}

// showPercents reads what qemu-img -p prints: "    (12.34/100%)", and a carriage return.
func showPercents(r io.Reader, shown *progress) {
	lines := bufio.NewReaderSize(r, 64)
	for {
		line, err := lines.ReadSlice('\r')
		_, text, _ := strings.Cut(string(line), "(")
		text, _, _ = strings.Cut(text, "/")
		if percent, parsed := strconv.ParseFloat(text, 64); parsed == nil {
			shown.set(int64(percent / 100 * float64(shown.total)))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// maxWords is how much of what a helper says is kept, in bytes.
const maxWords = 4 << 10

// tail keeps the end of what is written to it.
type tail []byte

func (t *tail) Write(b []byte) (int, error) {
	*t = append(*t, b...)
	*t = append((*t)[:0], (*t)[max(0, len(*t)-maxWords):]...)
	return len(b), nil
}

// helperError is what a helper said on standard error, with the system error in it.
func helperError(words string, err error) error {
	words = strings.Join(strings.Fields(words), " ")
	if words == "" {
		return fmt.Errorf("qemu-img: %w", err)
	}
	for _, errno := range []error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EACCES, unix.EPERM} {
		if strings.Contains(strings.ToLower(words), errno.Error()) {
			return fmt.Errorf("%.500s (%w)", words, errno)
		}
	}
	return errors.New(shortWords(words))
}

func shortWords(s string) string { return fmt.Sprintf("%.500s", s) }

// needQEMUImg refuses a conversion without the program for it.
func (a *applier) needQEMUImg(op string) error {
	if a.plan.facts.QEMUImg != "" {
		return nil
	}
	return &Error{Kind: KindMissing, Op: op, Err: errors.New("there is no program qemu-img"), Advice: "install qemu-utils in the container image"}
}
