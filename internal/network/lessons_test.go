package network

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// lessons are what others have learnt about a guest with the pod's address, at some cost, and the tests that would notice if it were forgotten
// here. A test is named by its package's folder and its name; those of the matrix by what they prove, too.
var lessons = []struct {
	lesson string
	tests  string
}{
	{"a bridge that learns the guest's MAC on its uplink loses frames now and then", "internal/network TestQuietBridge; test/network TestMatrix"},
	{"enslaving a link changes MACs: the bridge has its own from its first frame on", "internal/network TestQuietBridge; test/network TestMatrix"},
	{"the pod's interface keeps its name, MAC and addresses, for the runtime and the CNI's checks", "internal/network TestReleaseUndoesApply; test/network TestMatrix"},
	{"the pod does not answer for the guest's address: its duplicate-address detection succeeds", "internal/network TestNotTwice; test/network TestMatrix"},
	{"frames that the network sends back (hairpin) are no duplicate of the guest", "internal/network TestNotTwice; test/network TestMatrix"},
	{"the guest has the pod's MAC", "test/network TestMatrix; test/network TestForeignMAC"},
	{"/32 and an off-subnet gateway: option 121, on-link routes first, the default last", "internal/dhcp TestClasslessRoutes; test/network TestMatrix"},
	{"no wide route to 169.254.0.0/16, in the pod or in the guest", "internal/network TestBridgePlan; test/network TestMatrix"},
	{"whole UDP checksums in DHCP's answers, for old clients", "internal/dhcp TestDHCPv4Answers; internal/dhcp TestUdhcpc"},
	{"bad search domains are left out", "internal/dhcp TestValidNames; internal/dhcp TestBadNamesAreLeftOut"},
	{"Docker's resolver at 127.0.0.11 is of no use to a guest", "internal/network TestBridgePlan; internal/dns TestRealClients; test/network TestMatrix"},
	{"IPv6 that is switched off does not stop a start", "internal/network TestIPv6OfInterfaces; test/network TestMatrix"},
	{"DHCP and router advertisements pass neither to the cluster nor from it", "internal/network TestGuestServes; test/network TestMatrix; test/network TestLayer2"},
}

// TestLessons: the tests are there.
func TestLessons(t *testing.T) {
	for _, l := range lessons {
		for test := range strings.SplitSeq(l.tests, "; ") {
			folder, name, _ := strings.Cut(test, " ")
			if !hasTest(t, folder, name) {
				t.Errorf("%s: there is no %s in %s", l.lesson, name, folder)
			}
		}
	}
}

func hasTest(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	begins := regexp.MustCompile(`(?m)^func ` + name + `\(t \*testing\.T\)`)
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && begins.Match(text) {
			return true
		}
	}
	return false
}
