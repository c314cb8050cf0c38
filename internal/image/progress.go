package image

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Output is where the user sees what goes on.
type Output struct {
	Log *slog.Logger
	// Terminal is a terminal for a bar; nil: there is none, and lines go to the log.
	Terminal io.Writer
}

// lineEvery is the time between two lines of progress.
const lineEvery = 5 * time.Second

// progress shows how far something has come.
type progress struct {
	out      Output
	what     string // "fetching"
	total    int64  // bytes; -1 where it is not known
	from     int64  // where it began
	done     int64
	bar      *progressbar.ProgressBar
	now      func() time.Time
	began    time.Time
	lastLine time.Time
}

// newProgress begins with from of total bytes done.
func newProgress(out Output, what string, from, total int64) *progress {
	p := &progress{out: out, what: what, total: total, from: from, done: from, now: time.Now}
	p.began = p.now()
	p.lastLine = p.began
	if out.Terminal != nil {
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(out.Terminal), progressbar.OptionSetDescription("vmentry: "+what),
			progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true))
		p.set(from)
	}
	return p
}

// set says how many bytes are done.
func (p *progress) set(done int64) {
	p.done = done
	if p.bar != nil {
		_ = p.bar.Set64(done) // a terminal that is gone is no reason to end
		return
	}
	if now := p.now(); now.Sub(p.lastLine) >= lineEvery {
		p.lastLine = now
		p.out.Log.Info("image: " + p.what + " " + p.line(now))
	}
}

// end takes the bar away, and says what it was in all.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
	}
}

// line is how far it has come, how quickly, and how long it will take.
func (p *progress) line(now time.Time) string {
	seconds := now.Sub(p.began).Seconds()
	rate := 0.0
	if seconds > 0 {
		rate = float64(p.done-p.from) / seconds
	}
	s := sizeText(p.done)
	if p.total > 0 {
		s += fmt.Sprintf(" of %s (%d%%)", sizeText(p.total), p.done*100/p.total)
	}
	s += fmt.Sprintf(", %s/s", sizeText(int64(rate)))
	if p.total > 0 && rate > 0 {
		left := time.Duration(float64(p.total-p.done) / rate * float64(time.Second))
		s += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	return s
}

// reading shows the progress of what is read through it.
type reading struct {
	io.Reader
	progress *progress
}

// Read implements io.Reader.
func (r reading) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.progress.set(r.progress.done + int64(n))
	return n, err
}
