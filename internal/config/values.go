package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kballard/go-shellquote"
)

const (
	maxCPUs            = 1024
	maxHostName        = 64   // HOST_NAME_MAX of Linux
	maxCmdline         = 2047 // COMMAND_LINE_SIZE of Linux on amd64 and arm64, less the final zero
	maxInterfaceName   = 15   // IFNAMSIZ of Linux, less the final zero
	maxRunDir          = 80   // a Unix socket's path has at most 107 bytes, and the socket has a name
	maxShutdownTimeout = 24 * time.Hour
)

var (
	hostLabel = pattern(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	userName  = pattern(`^[A-Za-z_][A-Za-z0-9._-]{0,31}$`)

	// qemuModel is a name with options, as -cpu and -machine take it.
	qemuModel = pattern(`^[A-Za-z0-9][A-Za-z0-9._-]*(,[+-]?[A-Za-z0-9._-]+(=[^,\s]+)?)*$`)
)

// pattern is a regular expression that is compiled when it is first used: of all of them a run needs few.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// isNone tells whether a value says that there is none of it.
func isNone(s string) bool {
	return strings.EqualFold(s, "none")
}

// oneOf makes the parser of a variable that takes one of these words, in any case.
func oneOf[T ~string](words ...T) func(string) (T, error) {
	return func(s string) (T, error) {
		if word := T(strings.ToLower(s)); slices.Contains(words, word) {
			return word, nil
		}
		last := len(words) - 1
		var list strings.Builder
		for i, word := range words[:last] {
			if i > 0 {
				list.WriteString(", ")
			}
			list.WriteString(string(word))
		}
		return "", fmt.Errorf("write %s or %s", list.String(), words[last])
	}
}

func parseBus(s string) (Bus, error) {
	return oneOf(BusVirtio, BusSCSI, BusSATA, BusIDE, BusNVMe)(s)
}

func parseArch(s string) (Arch, error) {
	switch strings.ToLower(s) {
	case "x86_64":
		return ArchAMD64, nil
	case "aarch64":
		return ArchARM64, nil
	}
	return oneOf(ArchAMD64, ArchARM64)(s)
}

func parseBool(s string) (bool, error) {
	switch s = strings.ToLower(s); s {
	case "yes", "on":
		return true, nil
	case "no", "off":
		return false, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("neither true nor false; write true, false, yes, no, on, off, 1 or 0")
	}
	return b, nil
}

// parseTimeout reads Go's durations, and a bare number as seconds.
func parseTimeout(s string) (time.Duration, error) {
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		s += "s"
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("not a duration; write 25s or 2m, from 0s to 24h")
	}
	if d < 0 || d > maxShutdownTimeout {
		return 0, errors.New("out of range; from 0s to 24h")
	}
	return d, nil
}

func parseHostName(s string) (string, error) {
	if len(s) > maxHostName {
		return "", fmt.Errorf("%d bytes are too long for a host name; at most %d", len(s), maxHostName)
	}
	for label := range strings.SplitSeq(s, ".") {
		if !hostLabel().MatchString(label) {
			return "", errors.New("not a host name; write letters, digits and hyphens, in parts of 1 to 63 separated by dots")
		}
	}
	return s, nil
}

func parseUserName(s string) (string, error) {
	if !userName().MatchString(s) {
		return "", errors.New("not a user's name; write letters, digits, dots, hyphens and underscores, at most 32")
	}
	return s, nil
}

// parseCPUs knows what people write who have just written a Kubernetes limit.
func parseCPUs(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil && n >= 1 && n <= maxCPUs {
		return int(n), nil
	}
	milli, isMilli := strings.CutSuffix(s, "m")
	if f, e := strconv.ParseFloat(milli, 64); e == nil && err != nil {
		if isMilli {
			f /= 1000
		}
		if up := math.Ceil(f); up >= 1 && up <= maxCPUs {
			return 0, fmt.Errorf("virtual CPUs are whole; write %.0f", up)
		}
	}
	return 0, fmt.Errorf("not a number of CPUs; from 1 to %d", maxCPUs)
}

func parseModel(s string) (string, error) {
	if !qemuModel().MatchString(s) || strings.EqualFold(s, "help") {
		return "", errors.New("not a QEMU model; write NAME or NAME,OPTION,OPTION=VALUE without blanks")
	}
	return s, nil
}

func parseCmdline(s string) (string, error) {
	if len(s) > maxCmdline {
		return "", fmt.Errorf("%d bytes are too long for a kernel's command line; at most %d", len(s), maxCmdline)
	}
	if strings.ContainsAny(s, "\r\n") {
		return "", errors.New("has more than one line; write one")
	}
	return s, nil
}

func parseArgs(s string) ([]string, error) {
	if isNone(s) {
		return nil, nil
	}
	words, err := shellquote.Split(s)
	if err != nil {
		return nil, fmt.Errorf("%s; write words as for a shell", strings.ToLower(err.Error()))
	}
	return words, nil
}

// parsePath reads the path of a file, relative or absolute, which may be none.
func parsePath(s string) (string, error) {
	if isNone(s) {
		return "", nil
	}
	if strings.HasSuffix(s, "/") {
		return "", fmt.Errorf("%q is a directory; write the path of a file", s)
	}
	return s, nil
}

func parseDataDir(s string) (string, error) {
	if !path.IsAbs(s) || path.Clean(s) == "/" {
		return "", errors.New("not a directory of its own; write an absolute path")
	}
	return path.Clean(s), nil
}

func parseRunDir(s string) (string, error) {
	dir, err := parseDataDir(s)
	if err == nil && len(dir) > maxRunDir {
		return "", fmt.Errorf("%d bytes are too long for a directory of sockets; at most %d", len(dir), maxRunDir)
	}
	return dir, err
}

func parseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return nil, errors.New("not a MAC address; write six bytes, 52:54:00:12:34:56")
	}
	if mac[0]&1 != 0 {
		return nil, errors.New("a group's address; the first byte has to be even, as in 52:54:00:12:34:56")
	}
	if mac.String() == "00:00:00:00:00:00" {
		return nil, errors.New("the zero address; write another, as 52:54:00:12:34:56")
	}
	return mac, nil
}

// parseInterfaces reads VM_INTERFACES. What an interface may be called is the kernel's dev_valid_name.
func parseInterfaces(s string) ([]string, error) {
	var names []string
	var errs []error
	for name := range strings.SplitSeq(s, ",") {
		name = strings.TrimSpace(name)
		switch {
		case name == "lo":
			errs = append(errs, errors.New("lo stays the container's; leave it out"))
		case isNone(name):
			errs = append(errs, errors.New("write VM_NETWORK=none for a guest without a network"))
		case name == "" || name == "." || name == ".." || len(name) > maxInterfaceName || strings.ContainsAny(name, "/: \t\r\n"):
			errs = append(errs, fmt.Errorf("%q is not an interface's name; write eth0 or eth0,net1, each at most %d bytes", name, maxInterfaceName))
		case slices.Contains(names, name):
			errs = append(errs, fmt.Errorf("%s is there twice; write each once", name))
		default:
			names = append(names, name)
		}
	}
	return names, errors.Join(errs...)
}

// parseToken takes what can stand in an Authorization header (RFC 6750, 2.1, is stricter; this is what every client sends).
func parseToken(s string) (Secret, error) {
	if isNone(s) {
		return "", nil
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("not a token; write ASCII without blanks")
	}
	return Secret(s), nil
}

func parseLogLevel(s string) (slog.Level, error) {
	word, err := oneOf("debug", "info", "warn", "error")(s)
	if err != nil {
		return 0, err
	}
	var level slog.Level
	return level, level.UnmarshalText([]byte(word))
}
