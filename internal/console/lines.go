package console

import "bytes"

// lineBuffer cuts a stream into lines.
type lineBuffer struct{ line []byte }

const longestLine = 1 << 10

func (l *lineBuffer) feed(b []byte, emit func(string)) {
	for _, c := range b {
		switch {
		case c == '\n' || c == '\r':
			if len(l.line) > 0 {
				emit(string(l.line))
				l.line = l.line[:0]
			}
		case len(l.line) < longestLine:
			l.line = append(l.line, c)
		}
	}
	if bytes.HasSuffix(l.line, []byte(": ")) || bytes.HasSuffix(l.line, []byte(":")) {
		emit(string(l.line)) // a prompt: its line ends when somebody answers
	}
}
