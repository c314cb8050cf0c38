package console

import (
	"bytes"
)

// questions are what a program asks a terminal: status and cursor position (DSR), attributes (DA, DECID, ENQ), modes and settings
// (DECRQM, DECRQSS, XTGETTCAP), size (XTWINOPS), colours (OSC with a question mark). See xterm's ctlseqs.
var questions = pattern(`\x05|\x1bZ` +
	`|\x1b\[[?>=!]?[0-9;]*[nc]` +
	`|\x1b\[[?>]?[0-9;]*\$p` +
	`|\x1b\[>?[0-9;]*[qt]` +
	`|\x1b\][0-9]+;[^\x07\x1b]*\?[^\x07\x1b]*(?:\x07|\x1b\\)` +
	`|\x1bP[^\x1b]*\x1b\\`)

// replay makes a history of the console's past that can be shown to a terminal. A question that a program asked the terminal of
// that time must not be asked again: this one would answer too, and the answer would be typed on the guest's console. A past that was cut
// begins with a whole line.
func replay(past []byte, cut bool) []byte {
	if cut {
		if i := bytes.IndexByte(past, '\n'); i >= 0 {
			past = past[i+1:]
		}
	}
	return questions().ReplaceAll(past, nil)
}
