package pod

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// plugins is where Debian's containernetworking-plugins are.
const plugins = "/usr/lib/cni"

// conf is a network configuration of CNI, without the keys that are the same in all.
type conf map[string]any

// cni has a CNI plugin add an interface to the pod, and take it away at the end of the test, as the specification has it: the
// configuration on standard input, the rest in the environment.
// https://github.com/containernetworking/cni/blob/spec-v1.0.0/SPEC.md
func (p *Pod) cni(t testing.TB, ifname, plugin string, c conf) {
	t.Helper()
	c["cniVersion"], c["name"], c["type"] = "1.0.0", "net-"+ifname, plugin
	if ipam, ok := c["ipam"].(conf); ok && ipam["type"] == "host-local" {
		ipam["dataDir"] = t.TempDir()
	}
	if err := p.plugin("ADD", ifname, plugin, c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.plugin("DEL", ifname, plugin, c); err != nil {
			t.Error(err)
		}
	})
}

// plugin calls a plugin in the namespace of the node.
func (p *Pod) plugin(command, ifname, plugin string, c conf) error {
	input, err := json.Marshal(c)
	if err != nil {
		return err
	}
	// A mount namespace with the node's own /sys: bridge looks there for its settings.
	cmd := exec.Command("ip", "netns", "exec", string(p.node), filepath.Join(plugins, plugin))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+string(p.Space), "CNI_NETNS="+p.Space.Path(),
		"CNI_IFNAME="+ifname, "CNI_PATH="+plugins)
	cmd.Stdin = bytes.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", plugin, command, err, out)
	}
	return nil
}

// hostLocal gives addresses out of the subnets, one of each.
func hostLocal(routes []string, subnets ...string) conf {
	var ranges [][]conf
	for _, s := range subnets {
		ranges = append(ranges, []conf{{"subnet": s}})
	}
	return conf{"type": "host-local", "ranges": ranges, "routes": destinations(routes)}
}

func destinations(routes []string) []conf {
	var all []conf
	for _, r := range routes {
		all = append(all, conf{"dst": r})
	}
	return all
}

// with is c and the keys of more.
func (c conf) with(more conf) conf {
	all := conf{}
	maps.Copy(all, c)
	maps.Copy(all, more)
	return all
}
