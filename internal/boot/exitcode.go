package boot

import (
	"bytes"
	"strconv"
)

// exitCode reads the number, from 0 to 63, that a guest chooses as the container's exit code.
func exitCode(line []byte) (int, bool) {
	text := string(bytes.TrimSpace(line))
	n, err := strconv.ParseUint(text, 10, 8)
	return int(n), err == nil && n <= 63
}
