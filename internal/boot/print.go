package boot

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/kballard/go-shellquote"

	"github.com/vmentry/vmentry/internal/provision"
	"github.com/vmentry/vmentry/internal/supervise"
)

// Text prints the plan for people.
func (p Plan) Text() (string, error) {
	var b strings.Builder
	section := func(title string, lines ...string) {
		fmt.Fprintf(&b, "%s\n", title)
		for _, l := range lines {
			fmt.Fprintf(&b, "  %s\n", l)
		}
		b.WriteByte('\n')
	}
	if p.Beside != "" {
		section("A VM runs here", p.besideLines()...)
	}
	if len(p.Warnings) > 0 {
		section("Warnings", p.warnings()...)
	}
	var chosen []string
	for _, c := range p.Chosen {
		chosen = append(chosen, fmt.Sprintf("%-14s %s (%s)", c.Name, c.Value, c.Why))
	}
	section("Settings", chosen...)
	section("Guest's configuration", p.provisioning()...)
	if lines := p.Image.Lines(); len(lines) > 0 {
		section("Image", lines...)
	}
	if lines := p.diskLines(); len(lines) > 0 {
		section("Disk", lines...)
	}
	if lines := p.More.Lines(); len(lines) > 0 {
		section("More disks", lines...)
	}
	section("Network", p.Network.Lines()...)
	if h := p.Network.Helper; h != nil {
		section(h.Name, commandLines(append([]string{h.Path}, h.Args...))...)
	}
	if len(p.Volumes.Shares) > 0 {
		section("Volumes", p.Volumes.Lines()...)
	}
	for _, s := range p.Volumes.Shares {
		section("virtiofsd of volume "+s.Tag, commandLines(s.Command)...)
	}
	if p.TPM.Wanted() {
		section("TPM", p.TPM.Lines()...)
		section("swtpm", commandLines(p.TPM.Command)...)
	}
	section("QEMU runs", p.Cell.String())
	section(fmt.Sprintf("QEMU %s", p.QEMU.Version), commandLines(append([]string{p.QEMU.Path}, p.Machine.Args()...))...)
	return strings.TrimRight(b.String(), "\n") + "\n", nil
}

// besideLines say what the plan is worth while a VM runs.
func (p Plan) besideLines() []string {
	return []string{
		fmt.Sprintf("%s is in use by %s", p.Config.DataDir, p.Beside),
		fmt.Sprintf("A start now would end with code %d and change nothing. This is what the next one does when that VM has ended well.", supervise.IOError),
	}
}

// diskLines say what becomes of the guest's disk.
func (p Plan) diskLines() []string {
	if p.Pending() {
		return []string{"planned when the image is there, and with it the firmware, and the disk on QEMU's command line"}
	}
	text := strings.TrimRight(p.Disk.String(), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// warnings are those about the environment, a line each.
func (p Plan) warnings() []string {
	lines := make([]string, len(p.Warnings))
	for i, w := range p.Warnings {
		lines[i] = w.String()
	}
	return lines
}

// provisioning says what the guest reads, without saying what is in it.
func (p Plan) provisioning() []string {
	var lines []string
	if i := p.Provision.Ignition; i != nil {
		line := fmt.Sprintf("Ignition %s, %d bytes, in %s", i.Version, len(i.JSON), p.file(provision.FWCfgFile))
		if i.Replaced {
			line += fmt.Sprintf(" (handed over as %d compressed bytes)", len(i.FWCfg))
		}
		lines = append(lines, line)
	}
	if s := p.Provision.Seed; s != nil {
		var names []string
		for _, f := range s.Files {
			names = append(names, f.Path)
		}
		lines = append(lines, fmt.Sprintf("cloud-init seed labelled %s, in %s: %s", s.Label, p.file(provision.SeedFile), strings.Join(names, ", ")))
	}
	if len(lines) == 0 {
		lines = append(lines, "none")
	}
	for _, m := range p.Provision.Messages {
		lines = append(lines, m.Severity.String()+": "+m.String())
	}
	return lines
}

// JSON prints the plan for programs.
func (p Plan) JSON() (string, error) {
	type guestConfiguration struct {
		IgnitionVersion string   `json:"ignitionVersion,omitempty"`
		IgnitionBytes   int      `json:"ignitionBytes,omitempty"`
		Replaced        bool     `json:"ignitionReplaced,omitempty"`
		SeedLabel       string   `json:"seedLabel,omitempty"`
		SeedFiles       []string `json:"seedFiles,omitempty"`
		Messages        []string `json:"messages,omitempty"`
	}
	var g guestConfiguration
	if i := p.Provision.Ignition; i != nil {
		g.IgnitionVersion, g.IgnitionBytes, g.Replaced = i.Version, len(i.JSON), i.Replaced
	}
	if s := p.Provision.Seed; s != nil {
		g.SeedLabel = s.Label
		for _, f := range s.Files {
			g.SeedFiles = append(g.SeedFiles, f.Path)
		}
	}
	for _, m := range p.Provision.Messages {
		g.Messages = append(g.Messages, m.String())
	}
	text, err := json.MarshalIndent(map[string]any{
		"settings":  p.Chosen,
		"warnings":  p.warnings(),
		"inUseBy":   p.Beside,
		"provision": g,
		"image":     p.Image,
		"pending":   p.Pending(),
		"disk":      p.Disk,
		"moreDisks": p.More,
		"network":   p.Network,
		"volumes":   p.Volumes,
		"tpm":       p.TPM,
		"qemu": map[string]any{
			"path": p.QEMU.Path, "version": p.QEMU.Version.String(), "arguments": p.Machine.Args(), "confined": p.Cell.String(),
		},
	}, "", "  ")
	return string(text) + "\n", err
}

// Shell prints the plan as a script that does the same without vmentry's supervision: the console is then the terminal.
func (p Plan) Shell() (string, error) {
	if len(p.Network.Bridges) > 0 {
		return "", fail(supervise.Misconfigured, "VM_NETWORK=%s: cannot be pasted into a shell, because vmentry holds the guest's network as long as it runs; write user or none", p.Network.Mode)
	}
	if p.Pending() {
		return "", fail(supervise.Misconfigured, "VM_IMAGE=%s: cannot be pasted into a shell before the first start has made an image of it; start once, or name a qcow2 or raw file", p.Image.Source)
	}
	var b strings.Builder
	// in a shell of its own: the first failure must end the script, and not the shell that it is pasted into
	b.WriteString("# To be pasted into a shell, in the same environment.\n")
	if p.Beside != "" {
		fmt.Fprintf(&b, "# Not now: %s\n", strings.Join(p.besideLines(), ". "))
	}
	b.WriteString("(\nset -e\n")
	fmt.Fprintf(&b, "mkdir -p %s\n", shellquote.Join(p.file(qemuDir)))
	fmt.Fprintf(&b, "VM_NAME=%s vmentry provision -o %s\n", shellquote.Join(p.Machine.Name), shellquote.Join(p.Config.RunDir))
	steps := slices.Clone(p.Disk.Steps)
	for _, s := range p.More.Steps {
		steps = append(steps, s.Step)
	}
	for _, step := range steps {
		for _, command := range step.Commands {
			fmt.Fprintln(&b, shellquote.Join(command...))
		}
	}
	if h := p.Network.Helper; h != nil {
		b.WriteString(strings.Join(commandLines(h.Unsupervised()), " \\\n  ") + "\n")
	}
	for _, s := range p.Volumes.Shares {
		b.WriteString(strings.Join(commandLines(s.Unsupervised()), " \\\n  ") + " &\n")
	}
	for _, s := range p.Volumes.Shares { // unlike vmentry, virtiofsd listens only once it runs
		fmt.Fprintf(&b, "until [ -S %s ]; do sleep 0.1; done\n", shellquote.Join(s.Socket))
	}
	if p.TPM.Wanted() {
		fmt.Fprintf(&b, "mkdir -p -m 700 %s\n", shellquote.Join(p.TPM.State))
		b.WriteString(strings.Join(commandLines(p.TPM.Unsupervised()), " \\\n  ") + " &\n")
		fmt.Fprintf(&b, "until [ -S %s ]; do sleep 0.1; done\n", shellquote.Join(p.TPM.Socket))
	}
	for _, r := range p.Network.Relays {
		fmt.Fprintf(&b, "# not in this script, because vmentry does it: %s\n", r)
	}
	lines := commandLines(append([]string{p.QEMU.Path}, p.Machine.Unsupervised().Args()...))
	b.WriteString(strings.Join(lines, " \\\n  ") + "\n)\n")
	return b.String(), nil
}

// commandLines is a command line with each option and its value on a line of their own, quoted for a shell.
func commandLines(command []string) []string {
	var lines []string
	for i, word := range command {
		if i > 0 && !strings.HasPrefix(word, "-") {
			lines[len(lines)-1] += " " + shellquote.Join(word)
		} else {
			lines = append(lines, shellquote.Join(word))
		}
	}
	return lines
}
