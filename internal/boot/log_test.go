package boot

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestLogger: an event is a line, whatever is in it, and in text it can be told from the guest's console.
func TestLogger(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log := newLogger(&out, format, slog.LevelInfo)
		log.Debug("not asked for")
		log.Info("ready", "after", 1500*time.Millisecond, "because", "the guest\naccepts")
		report(log, errors.New("two\nlines"), 64)
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 3 {
			t.Fatalf("%s: %d lines:\n%s", format, len(lines), out.String())
		}
		for _, line := range lines {
			var event map[string]any
			if format == "json" && (json.Unmarshal([]byte(line), &event) != nil || event["msg"] == "" || event["level"] == "" || event["time"] == "") {
				t.Errorf("no event: %s", line)
			}
			if format == "text" && !strings.HasPrefix(line, "vmentry: ") {
				t.Errorf("not to be told from the guest's: %s", line)
			}
		}
		if !strings.Contains(lines[0], "1.5s") {
			t.Errorf("no duration to be read in %s", lines[0])
		}
		if !strings.Contains(lines[2], "64") || strings.Contains(lines[1], "64") {
			t.Errorf("the exit code is not in the last line alone:\n%s", out.String())
		}
	}
}
