package config

import "strings"

// together finds what is wrong with variables only because of one another. Each problem names the other one.
func (p *parser) together(c *Config) {
	p.togetherKernel(c)
	p.togetherDirectories(c)
	p.togetherNetwork(c)
	p.togetherHTTP(c)
	p.togetherSupervise(c)
	p.togetherReady(c)
}

func (p *parser) togetherKernel(c *Config) {
	if c.Kernel != "" || p.mistakes.Has("VM_KERNEL") {
		return
	}
	if c.Initrd != "" {
		p.mistake("VM_INITRD", "set without VM_KERNEL; set VM_KERNEL too, or neither")
		c.Initrd = ""
	}
	if c.Cmdline != "" {
		p.mistake("VM_CMDLINE", "set without VM_KERNEL; set VM_KERNEL too, or neither")
		c.Cmdline = ""
	}
	if c.Image.Kind == ImageNone {
		p.mistake("VM_IMAGE", "nothing to boot, because VM_KERNEL is not set either; set one of the two")
	}
}

func (p *parser) togetherDirectories(c *Config) {
	if c.Image.Kind == ImageNone && c.ImageSHA256 != "" {
		p.mistake("VM_IMAGE_SHA256", "set with VM_IMAGE=none; leave out one of the two")
	}
	if strings.HasPrefix(c.DataDir+"/", c.RunDir+"/qemu/") {
		p.mistake("VM_DATA_DIR", "in the directory qemu of VM_RUN_DIR, in which nothing outlives a start; write another")
	}
	if c.DataDir != c.RunDir {
		return
	}
	name, other := "VM_RUN_DIR", "VM_DATA_DIR"
	if !c.Set[name] {
		name, other = other, name
	}
	p.mistake(name, "the same directory as %s (%s); write another", other, c.DataDir)
}

func (p *parser) togetherNetwork(c *Config) {
	if p.mistakes.Has("VM_NETWORK") || p.mistakes.Has("RANCHER_VM") {
		return // what was meant is not known
	}
	if len(c.Forwards) > 0 {
		switch c.Network {
		case ModeBridge:
			p.mistake("HOSTFWD", "of no use with %s, where every port of the pod's address is the guest's; leave it out", modeText(c))
		case ModeNone:
			p.mistake("HOSTFWD", "of no use with %s, where the guest has no network; leave it out", modeText(c))
		}
	}
	if c.Network == ModeNone && c.Ready.Kind == ReadyTCP {
		p.mistake("VM_READY", "of no use with VM_NETWORK=none, where the guest has no network; write agent, boot or none")
	}
}

func (p *parser) togetherHTTP(c *Config) {
	if c.HTTPToken != "" && c.HTTPTokenFile != "" {
		p.mistake("VM_HTTP_TOKEN_FILE", "set together with VM_HTTP_TOKEN; write one of the two")
		c.HTTPTokenFile = ""
	}
	if !c.HTTPIntercept {
		return
	}
	if c.HTTP.IsZero() && !p.mistakes.Has("VM_HTTP") {
		p.mistake("VM_HTTP_INTERCEPT", "set without VM_HTTP; set VM_HTTP too, or neither")
	}
	if c.HTTP.IP.IsValid() {
		p.mistake("VM_HTTP", "with VM_HTTP_INTERCEPT=true the pod's addresses are meant; write :%d alone", c.HTTP.Port)
	}
	if c.Network != ModeBridge && !p.mistakes.Has("VM_NETWORK") && !p.mistakes.Has("RANCHER_VM") {
		p.mistake("VM_HTTP_INTERCEPT", "only for VM_NETWORK=bridge; with %s the port is not the guest's, so leave it out", modeText(c))
	}
}

// togetherSupervise refuses to leave QEMU alone where something has to live beside it.
func (p *parser) togetherSupervise(c *Config) {
	if c.Supervise {
		return
	}
	needs := []struct {
		needed       bool
		setting, why string
	}{
		{c.Network == ModeBridge, modeText(c), "vmentry serves the guest its address"},
		{c.Network == ModeNAT, modeText(c), "vmentry serves the guest its address"},
		{c.Network == ModePasst, modeText(c), "vmentry watches over passt"},
		{hasIPv6(c.Forwards), "an IPv6 address in HOSTFWD", "vmentry relays IPv6, which QEMU does not forward"},
		{c.TPM, "VM_TPM=true", "vmentry watches over the TPM"},
		{len(c.Volumes) > 0, "VM_VOLUMES", "vmentry watches over virtiofsd"},
		{c.Watchdog == WatchdogPowerOff || c.Watchdog == WatchdogExit, "VM_WATCHDOG=" + string(c.Watchdog), "vmentry ends the VM"},
		{!c.HTTP.IsZero(), "VM_HTTP", "vmentry serves it"},
	}
	for _, n := range needs {
		if n.needed {
			p.mistake("VM_SUPERVISE", "not possible with %s, where %s; leave out one of the two", n.setting, n.why)
		}
	}
}

// togetherReady: that a guest has booted is seen on its console, by a vmentry that stays.
func (p *parser) togetherReady(c *Config) {
	if c.Ready.Kind != ReadyBoot {
		return
	}
	if c.Console == ConsoleNone {
		p.mistake("VM_READY", "boot is seen on the console, and with VM_CONSOLE=none there is none; write another, or leave out VM_CONSOLE")
	}
	if !c.Supervise {
		p.mistake("VM_READY", "boot is seen by vmentry, which is not there with VM_SUPERVISE=false; write tcp:PORT or none")
	}
}

func hasIPv6(forwards []Forward) bool {
	for _, f := range forwards {
		if f.HostIP.Is6() {
			return true
		}
	}
	return false
}

// modeText is the setting that the mode comes from.
func modeText(c *Config) string {
	if c.RancherVM && !c.Set["VM_NETWORK"] {
		return "RANCHER_VM=true"
	}
	return "VM_NETWORK=" + string(c.Network)
}

// withoutEffect warns about what is right, but changes nothing.
func withoutEffect(c Config) []Warning {
	var warnings []Warning
	if served := c.Network == ModeBridge || c.Network == ModeNAT; !served {
		for _, name := range []string{"VM_DHCP", "NO_DHCP", "VM_INTERFACES"} {
			if c.Set[name] {
				warnings = append(warnings, Warning{name, "changes nothing with VM_NETWORK=" + string(c.Network)})
			}
		}
	}
	if c.HTTP.IsZero() {
		for _, name := range []string{"VM_HTTP_TOKEN", "VM_HTTP_TOKEN_FILE"} {
			if c.Set[name] {
				warnings = append(warnings, Warning{name, "changes nothing without VM_HTTP"})
			}
		}
	}
	return warnings
}
