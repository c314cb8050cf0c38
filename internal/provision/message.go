package provision

import (
	"fmt"
	"strconv"
	"strings"
)

// Severity of a Message.
type Severity int

// Severities, from the mildest to the one that ends the start.
const (
	Info Severity = iota
	Warning
	Mistake
)

// String is the word that logs use.
func (s Severity) String() string {
	switch s {
	case Info:
		return "info"
	case Warning:
		return "warning"
	case Mistake:
		return "mistake"
	}
	return strconv.Itoa(int(s))
}

// Message is one thing to tell the user. Its text never holds a value that a source keeps secret: no file contents,
// passwords, keys or URLs.
type Message struct {
	Severity Severity
	// Source is Source.Name, or "" where the message belongs to no single one.
	Source string
	// Line and Column count from 1; 0 where the library that found it does not know.
	Line, Column int
	Text         string
}

// String is the form "source:line:column: text", as compilers print it.
func (m Message) String() string {
	var b strings.Builder
	if m.Source != "" {
		b.WriteString(m.Source)
		if m.Line > 0 {
			fmt.Fprintf(&b, ":%d", m.Line)
			if m.Column > 0 {
				fmt.Fprintf(&b, ":%d", m.Column)
			}
		}
		b.WriteString(": ")
	}
	b.WriteString(m.Text)
	return b.String()
}

// Error is every mistake that was found, with the warnings that may explain them.
type Error struct {
	Messages []Message
}

// Error lists the mistakes, one a line.
func (e *Error) Error() string {
	var lines []string
	for _, m := range e.Messages {
		if m.Severity == Mistake {
			lines = append(lines, m.String())
		}
	}
	return strings.Join(lines, "\n")
}

// reporter collects messages, so that one run shows all of them.
type reporter struct {
	messages []Message
	seen     map[Message]bool
}

// add drops repetitions: the libraries check a config at every version that it passes through.
func (r *reporter) add(m Message) {
	if r.seen == nil {
		r.seen = map[Message]bool{}
	}
	if r.seen[m] {
		return
	}
	r.seen[m] = true
	r.messages = append(r.messages, m)
}

func (r *reporter) err() error {
	for _, m := range r.messages {
		if m.Severity == Mistake {
			return &Error{Messages: r.messages}
		}
	}
	return nil
}

// on gives a reporter for one source, which keeps that source's secrets out of what it reports.
func (r *reporter) on(s *Source) *sourceReporter {
	return &sourceReporter{reporter: r, source: s, secrets: secretsOf(s.Data)}
}

// general is for what comes from no single source.
func (r *reporter) general() *sourceReporter {
	return &sourceReporter{reporter: r, source: &Source{}}
}

// together is for what is found once the sources are merged: it is one source's where there is one.
func (r *reporter) together(sources []*ignitionSource) *sourceReporter {
	if len(sources) == 1 {
		return sources[0].sourceReporter
	}
	g := r.general()
	for _, s := range sources {
		g.secrets = append(g.secrets, s.secrets...)
	}
	return g
}

type sourceReporter struct {
	*reporter
	source  *Source
	secrets []string
	failed  bool
}

func (r *sourceReporter) report(s Severity, line, column int, text string) {
	if s == Mistake {
		r.failed = true
	}
	r.add(Message{Severity: s, Source: r.source.Name, Line: line, Column: column, Text: redact(text, r.secrets)})
}

func (r *sourceReporter) mistake(format string, args ...any) {
	r.report(Mistake, 0, 0, fmt.Sprintf(format, args...))
}

func (r *sourceReporter) warn(format string, args ...any) {
	r.report(Warning, 0, 0, fmt.Sprintf(format, args...))
}

func (r *sourceReporter) info(format string, args ...any) {
	r.report(Info, 0, 0, fmt.Sprintf(format, args...))
}

// guard runs a foreign library on foreign bytes. A panic in it is the source's fault, not a crash of PID 1; what it
// says may quote the source, so it is not shown.
func (r *sourceReporter) guard(what string, f func()) {
	defer func() {
		if recover() != nil {
			r.mistake("%s cannot be translated: its library gave up on it", what)
		}
	}()
	f()
}
