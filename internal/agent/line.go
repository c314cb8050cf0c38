package agent

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// mark is what stands before the answer to guest-sync-delimited.
const mark = 0xff

var errTooLong = errors.New("what it says is longer than any answer")

// markedLine reads up to the end of the next line that has a mark before it, of which it returns what comes after the last one, and says
// how many bytes it has read: at most limit. Lines too long to be an answer to a sync are passed over.
func markedLine(in *bufio.Reader, limit int64) (line []byte, n int64, err error) {
	for marked := false; ; {
		b, err := in.ReadByte()
		if err != nil {
			return nil, n, err
		}
		if n++; n > limit {
			return nil, n, errTooLong
		}
		switch {
		case b == mark:
			marked, line = true, line[:0]
		case !marked:
		case b == '\n':
			return line, n, nil
		case len(line) == maxSync:
			marked = false
		default:
			line = append(line, b)
		}
	}
}

// copyLine copies the rest of a line without its end, at most limit bytes.
func copyLine(out io.Writer, in *bufio.Reader, limit int64) error {
	for n := int64(0); ; {
		part, err := in.ReadSlice('\n')
		if err == nil {
			part = part[:len(part)-1]
		} else if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if n += int64(len(part)); n > limit {
			return errTooLong
		}
		if _, failed := out.Write(part); failed != nil {
			return failed
		}
		if err == nil {
			return nil
		}
	}
}

// clean is a text of the guest's, fit to be shown on a terminal and in a log: short, on one line, without what moves the cursor.
func clean(s string) string {
	const most = 300
	s = strings.TrimSpace(s)
	cut := len(s) > most
	if cut {
		s = s[:most]
	}
	s = strings.ToValidUTF8(s, "?")
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		s = strconv.Quote(s)
	}
	if cut {
		s += "…"
	}
	return s
}
