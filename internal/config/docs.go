package config

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	minTextWidth = 40
	textIndent   = 6
)

// Markdown is the table of all variables, for docs/configuration.md.
func Markdown() string {
	var b strings.Builder
	var group string
	for _, v := range variables(raw{}) {
		if v.group != group {
			if group != "" {
				b.WriteString("\n")
			}
			group = v.group
			fmt.Fprintf(&b, "### %s\n\n| variable | default | meaning |\n|---|---|---|\n", group)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.name, cell(v.defaultText()), cell(v.meaning))
	}
	return b.String()
}

// Text is the list of all variables for a terminal that is width columns wide.
func Text(width int) string {
	width = max(width, minTextWidth)
	var b strings.Builder
	var group string
	for _, v := range variables(raw{}) {
		if v.group != group {
			if group != "" {
				b.WriteString("\n")
			}
			group = v.group
			fmt.Fprintf(&b, "%s\n\n", group)
		}
		heading := v.name
		if d := v.defaultText(); d != "–" {
			heading += " (" + plain(d) + ")"
		}
		writeWrapped(&b, heading, 2, width)
		writeWrapped(&b, plain(v.meaning), textIndent, width)
	}
	return b.String()
}

func (v variable) defaultText() string {
	switch {
	case v.unset != "":
		return v.unset
	case v.preset != "":
		return "{" + v.preset + "}"
	}
	return "–"
}

// cell is the text in a table of markdown.
func cell(s string) string {
	return strings.NewReplacer("{", "`", "}", "`", "|", `\|`, "<", "&lt;").Replace(s)
}

// plain is the text without marks.
func plain(s string) string {
	return strings.NewReplacer("{", "", "}", "").Replace(s)
}

// writeWrapped writes the words of s in lines of at most width columns that begin with indent blanks, where words allow it.
func writeWrapped(b *strings.Builder, s string, indent, width int) {
	column := 0
	for word := range strings.FieldsSeq(s) {
		length := utf8.RuneCountInString(word)
		switch {
		case column == 0:
			b.WriteString(strings.Repeat(" ", indent))
			column = indent
		case column+1+length > width:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += length
	}
	b.WriteString("\n")
}
