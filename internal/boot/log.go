package boot

import (
	"io"
	"log/slog"
	"time"

	"github.com/lmittmann/tint"
)

// newLogger writes vmentry's own log. In text each line begins with "vmentry:", so that it can be told from the guest's
// console in a log that holds both.
func newLogger(w io.Writer, format string, level slog.Level) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: readableDurations}))
	}
	return slog.New(tint.NewTextHandler(prefixed{w}, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: true}))
}

// readableDurations prints 1.5s instead of 1500000000.
func readableDurations(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// prefixed puts a word before each record; a handler writes each record at once.
type prefixed struct{ w io.Writer }

func (p prefixed) Write(b []byte) (int, error) {
	if _, err := p.w.Write(append([]byte("vmentry: "), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}
