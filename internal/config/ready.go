package config

import (
	"errors"
	"strings"

	"github.com/kballard/go-shellquote"
)

// ReadyKind is what VM_READY looks at.
type ReadyKind string

// The kinds of VM_READY.
const (
	ReadyTCP   ReadyKind = "tcp"   // the guest accepts connections on a port
	ReadyAgent ReadyKind = "agent" // the guest's agent answers
	ReadyBoot  ReadyKind = "boot"  // the guest has booted
	ReadyExec  ReadyKind = "exec"  // a command succeeds in the guest
	ReadyNone  ReadyKind = "none"  // at once
)

// Ready is VM_READY.
type Ready struct {
	Kind    ReadyKind
	Port    uint16   // of the guest, if Kind is ReadyTCP
	Command []string // if Kind is ReadyExec
}

func parseReady(s string) (Ready, error) {
	word, argument, hasArgument := strings.Cut(s, ":")
	kind := ReadyKind(strings.ToLower(word))
	switch {
	case kind == ReadyTCP && hasArgument:
		port, err := parsePort(argument)
		if err != nil {
			return Ready{}, err
		}
		return Ready{Kind: kind, Port: port}, nil
	case kind == ReadyExec && hasArgument:
		command, err := shellquote.Split(argument)
		if err != nil || len(command) == 0 {
			return Ready{}, errors.New("not a command; write exec:CMD, quoted as for a shell")
		}
		return Ready{Kind: kind, Command: command}, nil
	case (kind == ReadyAgent || kind == ReadyBoot || kind == ReadyNone) && !hasArgument:
		return Ready{Kind: kind}, nil
	}
	return Ready{}, errors.New("write tcp:PORT, agent, boot, exec:CMD or none")
}
