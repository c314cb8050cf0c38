package config

import (
	"slices"
	"strings"
)

// serviceVariable is what Kubernetes (and Docker's links) set for a service that is called vm or vm-something:
// VM_SERVICE_HOST, VM_SERVICE_PORT_SSH, VM_PORT, VM_PORT_22_TCP_ADDR. See
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables. A test holds that none of our own
// variables looks like one.
var serviceVariable = pattern(`^[A-Z][A-Z0-9_]*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)$`)

// unknown warns about the names in environ, given as in os.Environ, that were meant for vmentry and are read by nobody.
func unknown(environ []string) []Warning {
	var known []string
	for _, v := range variables(raw{}) {
		known = append(known, v.name)
	}
	var warnings []Warning
	for _, entry := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(entry, "=")
		if value == "" || slices.Contains(known, name) {
			continue
		}
		near := nearest(name, known)
		meant := near != "" && (ours(name) || certain(name, near))
		switch {
		case !meant && !ours(name), serviceVariable().MatchString(name):
		case meant:
			warnings = append(warnings, Warning{name, "not a variable of vmentry; did you mean " + near + "?"})
		default:
			warnings = append(warnings, Warning{name, "not a variable of vmentry; `vmentry env` lists them"})
		}
	}
	return warnings
}

// ours tells whether the name can only have been meant for vmentry.
func ours(name string) bool {
	for _, prefix := range []string{"VM_", "IGNITION_CONFIG_", "CLOUD_CONFIG_"} {
		if strings.HasPrefix(strings.ToUpper(name), prefix) {
			return true
		}
	}
	return false
}

// certain tells whether a name that has not our prefix is one of ours all the same. CONFIG is out: what is near to it is
// anybody's.
func certain(name, near string) bool {
	return near != "CONFIG" && strings.EqualFold(name[:1], near[:1]) && distance(strings.ToUpper(name), near) <= 2
}

// nearest finds the known name that was probably meant: one that is at most a third wrong, or else one that begins with
// name. It gives "" if there is none.
func nearest(name string, known []string) string {
	upper := strings.ToUpper(name)
	best, least := "", 0
	for _, k := range known {
		most := max(1, len(strings.TrimPrefix(k, "VM_"))/3)
		if max(len(upper)-len(k), len(k)-len(upper)) > most { // so many at least have to be inserted or deleted
			continue
		}
		if d := distance(upper, k); d <= most && (best == "" || d < least) {
			best, least = k, d
		}
	}
	if best != "" || len(upper) < len("VM_")+3 {
		return best
	}
	for _, k := range known {
		if strings.HasPrefix(k, upper) {
			return k
		}
	}
	return ""
}

// distance is Levenshtein's: how many bytes have to be inserted, deleted or replaced.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
