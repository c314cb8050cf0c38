package confine

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Command is the name of vmentry's own command by which a program is shut in.
const Command = "confine"

// Cell is what a program has. The zero value takes nothing from it but the ways to more rights.
type Cell struct {
	Reach
	User      *User  // whose the program is; nil: who starts it
	Strip     bool   // it has no capability but those of Keep
	Keep      []int  // capabilities(7)
	NoNetwork bool   // neither TCP nor UDP, as far as the kernel's Landlock knows them, and if it has a reach
	ManyFiles bool   // it may have as many files open as whoever starts it may allow
	Guard     *Guard `json:"-"` // says where it may connect to; nil: nobody does. For [Cell.Start] alone
}

// User is whose a program is.
type User struct {
	UID, GID int
	Groups   []int
}

// words are the cell on the command line. Those of the reach come without the program's own code.
func (c Cell) words() []string {
	var all []string
	for _, p := range c.Read {
		all = append(all, "--read="+p)
	}
	for _, p := range c.Write {
		all = append(all, "--write="+p)
	}
	for _, p := range c.Sockets {
		all = append(all, "--sockets="+p)
	}
	if u := c.User; u != nil {
		all = append(all, "--user="+numbers(append([]int{u.UID, u.GID}, u.Groups...)))
	}
	if c.Strip {
		all = append(all, "--strip="+numbers(c.Keep))
	}
	if c.NoNetwork {
		all = append(all, "--no-network")
	}
	if c.ManyFiles {
		all = append(all, "--many-files")
	}
	return all
}

// parse reads what [Cell.Around] has written, from behind the name of the command on.
func parse(args []string) (c Cell, command []string, err error) {
	for i, a := range args {
		name, value, _ := strings.Cut(a, "=")
		var list []int
		switch name {
		case "--read":
			c.Read = append(c.Read, value)
		case "--write":
			c.Write = append(c.Write, value)
		case "--sockets":
			c.Sockets = append(c.Sockets, value)
		case "--user":
			if list, err = parseNumbers(value); err == nil && len(list) < 2 {
				err = fmt.Errorf("%s: a user and a group are missing", a)
			}
			if err == nil {
				c.User = &User{list[0], list[1], list[2:]}
			}
		case "--strip":
			c.Strip = true
			c.Keep, err = parseNumbers(value)
		case "--no-network":
			c.NoNetwork = true
		case "--many-files":
			c.ManyFiles = true
		case "--":
			if i+1 == len(args) {
				return c, nil, fmt.Errorf("a program is missing behind --")
			}
			return c, args[i+1:], nil
		default:
			err = fmt.Errorf("%s: no such option", a)
		}
		if err != nil {
			return c, nil, err
		}
	}
	return c, nil, fmt.Errorf("a program is missing; it comes after --")
}

// Around is the command by which vmentry, at self, runs another one that has what c says, and its own code.
func (c Cell) Around(self string, command []string) []string {
	c = c.with(command[0])
	return slices.Concat([]string{self, Command}, c.words(), []string{"--"}, command)
}

// with is the cell with a program's own code in its reach, if it has one.
func (c Cell) with(program string) Cell {
	if len(c.Read)+len(c.Write) > 0 {
		c.Read = slices.Concat(home(program), code, c.Read)
	}
	return c
}

func numbers(list []int) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ":")
}

func parseNumbers(s string) (list []int, err error) {
	if s == "" {
		return nil, nil
	}
	for w := range strings.SplitSeq(s, ":") {
		n, err := strconv.Atoi(w)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// unavailable is the exit code of a program that could not be shut in (see internal/supervise).
const unavailable = 69

// init is the command itself. It does not wait for the rest of the program to come into being, of which it needs nothing: QEMU's start
// waits for it.
func init() {
	if len(os.Args) < 2 || os.Args[1] != Command {
		return
	}
	c, command, err := parse(os.Args[2:])
	if err == nil {
		err = c.run(command)
	}
	fmt.Fprintln(os.Stderr, "vmentry:", err)
	os.Exit(unavailable)
}
