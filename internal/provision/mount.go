package provision

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/unit"
	"go.yaml.in/yaml/v3"
)

// Mount is a virtio-fs volume that the guest is to mount.
type Mount struct {
	Tag      string
	Path     string // in the guest; without white space or backslashes, which an fstab could not hold
	ReadOnly bool
}

// options of mount(8), as the guest is told them. Others' programs and devices have no business in a volume.
func (m Mount) options() []string {
	o := []string{"nosuid", "nodev"}
	if m.ReadOnly {
		o = append(o, "ro")
	}
	return o
}

// mountUnit is one systemd unit for Ignition.
type mountUnit struct{ name, contents string }

// unit is a mount that is there before ordinary services begin. It is wanted and not required: a guest whose volume is gone boots all
// the same. Without a device in /dev there is nothing to wait for, so the driver is loaded first, where systemd has that
// unit (245 and later) and the driver is not built in.
func (m Mount) unit() mountUnit {
	percent := strings.NewReplacer("%", "%%") // else a specifier (systemd.unit(5))
	return mountUnit{
		name: unit.UnitNamePathEscape(m.Path) + ".mount",
		contents: fmt.Sprintf(`[Unit]
Description=Volume %[1]s
Wants=modprobe@virtio_pci.service modprobe@virtiofs.service
After=modprobe@virtio_pci.service modprobe@virtiofs.service

[Mount]
What=%[1]s
Where=%[2]s
Type=virtiofs
Options=%[3]s

[Install]
WantedBy=local-fs.target
`, m.Tag, percent.Replace(m.Path), strings.Join(m.options(), ",")),
	}
}

func mountUnits(mounts []Mount) []mountUnit {
	var units []mountUnit
	for _, m := range mounts {
		units = append(units, m.unit())
	}
	return units
}

// fstab is a line for cloud-init's `mounts`. nofail: a guest whose volume is gone boots all the same. What is not to fail does not wait
// either, so that it is there before ordinary services is said extra.
func (m Mount) fstab() []string {
	options := append(m.options(), "nofail", "x-systemd.before=local-fs.target")
	return []string{m.Tag, m.Path, "virtiofs", strings.Join(options, ","), "0", "0"}
}

// devices are tags that cloud-init takes for a disk's short name: sda, vdb1, what clouds call their disks, and NAME.1, a disk's first
// partition (cc_mounts and util.expand_dotted_devname of cloud-init).
var devices = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(x?[shv]d[a-z][0-9]*|sr[0-9]+|ephemeral[0-9]*|root|ami|swap[0-9]*)$|\.[0-9]+$`)
})

// checkMounts finds what cloud-init could not mount.
func checkMounts(mounts []Mount, r *sourceReporter) {
	for _, m := range mounts {
		if devices().MatchString(m.Tag) {
			r.mistake("VM_VOLUMES: cloud-init takes the tag %s for a disk's name; write another, such as %s-files", m.Tag, strings.ReplaceAll(m.Tag, ".", "-"))
		}
	}
}

// fstabs are the mounts that the user data does not have of its own, by tag or by place.
func (u *userData) fstabs(mounts []Mount) []any {
	var lines []any
	for _, m := range mounts {
		if !slices.ContainsFunc(u.configs, func(p *cloudPart) bool { return hasMount(valueOf(p.root, "mounts"), m) }) {
			lines = append(lines, m.fstab())
		}
	}
	return lines
}

func hasMount(list *yaml.Node, m Mount) bool {
	if list == nil || list.Kind != yaml.SequenceNode {
		return false
	}
	return slices.ContainsFunc(list.Content, func(n *yaml.Node) bool {
		n = resolved(n)
		is := func(i int, want string) bool {
			return n.Kind == yaml.SequenceNode && len(n.Content) > i && resolved(n.Content[i]).Value == want
		}
		return is(0, m.Tag) || is(1, m.Path)
	})
}
