package network

import (
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/pod"
)

// awaitReady waits for the nth time that the guest has booted.
func (v *vm) awaitReady(t testing.TB, n int) {
	t.Helper()
	v.Stdout.AwaitTimes(t, "vmtest: ready", n)
}

// ask runs a shell command in the guest, over its console, and returns what it printed and its exit code.
func (v *vm) ask(t testing.TB, command string) (out string, code int) {
	t.Helper()
	v.commands++
	id := fmt.Sprintf("q%d", v.commands)
	if _, err := io.WriteString(v.Stdin, id+" "+command+"\n"); err != nil {
		t.Fatalf("the guest takes no command: %v", err)
	}
	v.Stdout.Await(t, "vmtest: "+id+" ended")
	var lines []string
	code = -1
	for line := range strings.Lines(v.Stdout.String()) {
		line = strings.TrimRight(line, "\r\n")
		if text, ok := strings.CutPrefix(line, "vmtest: "+id+"| "); ok {
			lines = append(lines, text)
		}
		if text, ok := strings.CutPrefix(line, "vmtest: "+id+" code "); ok {
			code, _ = strconv.Atoi(text)
		}
	}
	return strings.Join(lines, "\n"), code
}

// tell is ask of a command that must succeed.
func (v *vm) tell(t testing.TB, command string) string {
	t.Helper()
	out, code := v.ask(t, command)
	if code != 0 {
		t.Fatalf("the guest's %s: %d\n%s", command, code, out)
	}
	return out
}

// state is what the guest's network is by now.
func (v *vm) state(t testing.TB) pod.State {
	t.Helper()
	return parseGuest(t, v.tell(t, "vmtest-net"))
}

var (
	linkLine = regexp.MustCompile(`^\d+: (\S+?)(?:@\S+)?: <(\S*)> mtu (\d+) .*link/ether (\S+)`)
	addrLine = regexp.MustCompile(`^\d+: (\S+) +inet6? (\S+) (.*)`)
)

// parseGuest reads what vmtest-net prints (see test/tinyguest/init).
func parseGuest(t testing.TB, text string) pod.State {
	t.Helper()
	var s pod.State
	var resolv strings.Builder
	for line := range strings.Lines(text) {
		what, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "vmtest: net "), " ")
		switch what {
		case "link":
			if m := linkLine.FindStringSubmatch(rest); m != nil {
				mtu, _ := strconv.Atoi(m[3])
				s.Cards = append(s.Cards, pod.Card{Name: m[1], MAC: m[4], MTU: mtu, Up: slices.Contains(strings.Split(m[2], ","), "UP")})
			}
		case "addr":
			parseAddress(t, &s, rest)
		case "route4", "route6":
			parseRoute(t, &s, rest, what == "route6")
		case "resolv":
			fmt.Fprintln(&resolv, rest)
		case "hostname":
			s.Hostname = rest
		}
	}
	s.Servers, s.Search = pod.Resolver(resolv.String())
	return s
}

func parseAddress(t testing.TB, s *pod.State, line string) {
	t.Helper()
	m := addrLine.FindStringSubmatch(line)
	if m == nil {
		return
	}
	prefix, err := netip.ParsePrefix(m[2])
	if err != nil {
		a, err := netip.ParseAddr(m[2]) // a /32 that ip shows without its length
		if err != nil {
			t.Fatalf("the guest's address: %v in %q", err, line)
		}
		prefix = netip.PrefixFrom(a, a.BitLen())
	}
	var flags []string
	for _, f := range []string{"tentative", "dadfailed"} {
		if slices.Contains(strings.Fields(m[3]), f) {
			flags = append(flags, f)
		}
	}
	for i := range s.Cards {
		if s.Cards[i].Name == m[1] {
			s.Cards[i].Addresses = append(s.Cards[i].Addresses, pod.Address{Prefix: prefix, Flags: flags})
		}
	}
}

func parseRoute(t testing.TB, s *pod.State, line string, six bool) {
	t.Helper()
	words := strings.Fields(line)
	if words[0] == "unreachable" || words[0] == "blackhole" {
		return
	}
	destination, err := pod.Destination(words[0], six)
	if err != nil {
		t.Fatalf("the guest's route %q: %v", line, err)
	}
	r := pod.Route{Destination: destination}
	for i := 1; i+1 < len(words); i++ {
		switch words[i] {
		case "via":
			if r.Via, err = netip.ParseAddr(words[i+1]); err != nil {
				t.Fatalf("the guest's route %q: %v", line, err)
			}
		case "dev":
			r.Card = words[i+1]
		}
	}
	if a := destination.Addr(); r.Card != "lo" && !a.IsMulticast() && !(a.Is6() && a.IsLinkLocalUnicast()) {
		s.Routes = append(s.Routes, r)
	}
}

// settled asks the guest for its state until differences finds none, or until a client has had all the time it could want: a
// guest that has got something wrong does not better itself.
func (v *vm) settled(t testing.TB, differences func(pod.State) []string) {
	t.Helper()
	var last []string
	for give := time.Now().Add(2 * time.Minute); time.Now().Before(give); time.Sleep(2 * time.Second) { // each look costs an emulated processor dearly
		if last = differences(v.state(t)); len(last) == 0 {
			return
		}
	}
	t.Fatalf("the guest's network is not as it should be:\n%s\n\nit is:\n%s", strings.Join(last, "\n"), v.tell(t, "vmtest-net"))
}
