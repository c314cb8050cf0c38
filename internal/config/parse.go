package config

import "fmt"

// Parse reads the configuration, and reports everything that is wrong with it at once. With mistakes the Config holds what
// could be read and the defaults of what could not, so that later checks can add theirs to the same list.
//
// The values come from the process's environment, because envconfig knows no other source: what changes a variable has to
// do it with os.Setenv before. environ, in the form of os.Environ, is only searched for names that nobody reads.
//
// What this release cannot do yet is no mistake here; ask NotYet.
func Parse(environ []string) (Config, []Warning, Mistakes) {
	c, warnings, mistakes := parse(variables(environment()))
	return c, append(warnings, unknown(environ)...), mistakes
}

// parser gives the value of one variable after the other and collects what is wrong with them.
type parser struct {
	variables map[string]variable
	mistakes  Mistakes
}

func parse(all []variable) (Config, []Warning, Mistakes) {
	p := parser{variables: make(map[string]variable, len(all))}
	c := Config{Set: make(map[string]bool)}
	for _, v := range all {
		p.variables[v.name] = v
		if v.value != "" {
			c.Set[v.name] = true
		}
	}
	p.machine(&c)
	p.disk(&c)
	p.configuration(&c)
	p.network(&c)
	p.lifecycle(&c)
	p.observation(&c)
	p.together(&c)
	return c, withoutEffect(c), p.mistakes
}

// read gives the variable's value, or its default if it is unset or wrong. An error that joins several is as many mistakes.
// Of a list without a default the entries that are right are kept.
func read[T any](p *parser, name string, parse func(string) (T, error)) T {
	v, ok := p.variables[name]
	if !ok {
		panic(fmt.Sprintf("no variable %s in the struct raw", name))
	}
	var value T
	if v.value != "" {
		var err error
		if value, err = parse(v.value); err == nil {
			return value
		}
		p.wrong(name, err)
	}
	if v.preset != "" {
		value, _ = parse(v.preset) // a test holds that every preset is right
	}
	return value
}

func (p *parser) wrong(name string, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			p.wrong(name, e)
		}
		return
	}
	p.mistake(name, "%v", err)
}

// mistake notes what is wrong with a variable. The value stands beside it unless it is a secret.
func (p *parser) mistake(name, format string, args ...any) {
	m := Mistake{Variable: name, Problem: fmt.Sprintf(format, args...)}
	switch v := p.variables[name]; v.secret {
	case "":
		m.Value = v.value
	case "url":
		m.Value = showURL(v.value)
	}
	p.mistakes = append(p.mistakes, m)
}

func (p *parser) machine(c *Config) {
	c.Name = read(p, "VM_NAME", parseHostName)
	c.Memory = read(p, "VM_MEMORY", memorySize)
	c.CPUs = read(p, "VM_CPUS", parseCPUs)
	c.CPUModel = read(p, "VM_CPU_MODEL", parseModel)
	c.Accel = read(p, "VM_ACCEL", oneOf(AccelAuto, AccelKVM, AccelTCG))
	c.Machine = read(p, "VM_MACHINE", parseModel)
	c.Firmware = read(p, "VM_FIRMWARE", oneOf(FirmwareAuto, FirmwareBIOS, FirmwareUEFI, FirmwareSecureBoot))
	c.TPM = read(p, "VM_TPM", parseBool)
	c.Arch = read(p, "VM_ARCH", parseArch)
	c.Kernel = read(p, "VM_KERNEL", parsePath)
	c.Initrd = read(p, "VM_INITRD", parsePath)
	c.Cmdline = read(p, "VM_CMDLINE", parseCmdline)
	c.Args = read(p, "VM_ARGS", parseArgs)
}

func (p *parser) disk(c *Config) {
	c.Image = Image{Kind: ImageFind}
	if c.Set["VM_IMAGE"] {
		c.Image = read(p, "VM_IMAGE", parseImage)
	}
	c.ImageSHA256 = read(p, "VM_IMAGE_SHA256", parseDigest)
	c.DiskSize = read(p, "VM_DISK_SIZE", diskSize)
	c.DiskBus = read(p, "VM_DISK_BUS", parseBus)
	c.DiskMode = read(p, "VM_DISK_MODE", oneOf(DiskOverlay, DiskCopy, DiskDirect))
	c.DiskOnNewImage = read(p, "VM_DISK_ON_NEW_IMAGE", oneOf(OnNewImageRefuse, OnNewImageRecreate))
	c.Disks = read(p, "VM_DISKS", parseDisks)
	c.Volumes = read(p, "VM_VOLUMES", parseVolumes)
	c.DataDir = read(p, "VM_DATA_DIR", parseDataDir)
	c.RunDir = read(p, "VM_RUN_DIR", parseRunDir)
}

func (p *parser) configuration(c *Config) {
	c.Butane = p.source("CONFIG_FILE", "CONFIG")
	c.Ignition = p.source("IGNITION_CONFIG_FILE", "IGNITION_CONFIG")
	c.Cloud = p.source("CLOUD_CONFIG_FILE", "CLOUD_CONFIG")
	c.SSHAuthorizedKeys = read(p, "VM_SSH_AUTHORIZED_KEYS", ParseKeys)
	c.SSHAuthorizedKeysFile = read(p, "VM_SSH_AUTHORIZED_KEYS_FILE", parsePath)
	c.SSHUser = read(p, "VM_SSH_USER", parseUserName)
	c.IgnitionVersion = read(p, "VM_IGNITION_VERSION", parseIgnitionVersion)
	c.CloudSeed = read(p, "VM_CLOUD_SEED", oneOf(SeedNoCloud, SeedConfigDrive))
}

// source reads a file's variable and its twin. The text is not looked at: what it has to be is for those to say who read it.
func (p *parser) source(file, twin string) Source {
	s := Source{
		Path: read(p, file, parsePath),
		Text: p.text(twin),
	}
	if s.Path != "" && s.Text != "" {
		p.mistake(file, "set together with %s; write one of the two", twin)
		s.Text = ""
	}
	return s
}

// text gives a value as it was found: the blanks before a first line of YAML are its indentation.
func (p *parser) text(name string) Secret {
	v := p.variables[name]
	if v.value == "" || isNone(v.value) {
		return ""
	}
	return Secret(v.text)
}

func (p *parser) network(c *Config) {
	c.RancherVM = read(p, "RANCHER_VM", parseBool)
	c.Network = p.mode(c)
	c.Forwards = read(p, "HOSTFWD", parseForwards)
	if !c.Set["HOSTFWD"] && c.Network == ModeUser {
		c.Forwards = []Forward{{Proto: "tcp", HostPort: 2222, GuestPort: 22}}
	}
	c.DHCP = p.dhcp(c.Set)
	c.NICModel = read(p, "VM_NIC_MODEL", oneOf(NICVirtio, NICE1000, NICE1000E, NICRTL8139, NICVMXNet3))
	c.MAC = read(p, "VM_MAC", parseMAC)
	c.Interfaces = read(p, "VM_INTERFACES", parseInterfaces)
}

// mode is user mode if the one that was asked for is none, also where RANCHER_VM would say otherwise.
func (p *parser) mode(c *Config) Mode {
	mode := read(p, "VM_NETWORK", oneOf(ModeUser, ModePasst, ModeNAT, ModeBridge, ModeNone))
	switch {
	case mode != "":
		return mode
	case c.RancherVM && !c.Set["VM_NETWORK"]:
		return ModeBridge
	}
	return ModeUser
}

func (p *parser) dhcp(set map[string]bool) bool {
	dhcp := read(p, "VM_DHCP", parseBool)
	if !set["NO_DHCP"] {
		return dhcp
	}
	if dhcp && set["VM_DHCP"] && !p.mistakes.Has("VM_DHCP") {
		p.mistake("NO_DHCP", "contradicts VM_DHCP=true; leave out one of the two")
	}
	return false
}

func (p *parser) lifecycle(c *Config) {
	c.ShutdownTimeout = read(p, "VM_SHUTDOWN_TIMEOUT", parseTimeout)
	c.Reboot = read(p, "VM_REBOOT", oneOf(RebootReset, RebootExit))
	c.Watchdog = read(p, "VM_WATCHDOG", oneOf(WatchdogNone, WatchdogReset, WatchdogPowerOff, WatchdogExit))
	c.Supervise = read(p, "VM_SUPERVISE", parseBool)
}

func (p *parser) observation(c *Config) {
	c.Ready = read(p, "VM_READY", parseReady)
	switch {
	case c.Ready.Kind != "":
	case c.Network == ModeNone:
		c.Ready = Ready{Kind: ReadyNone}
	default:
		c.Ready = Ready{Kind: ReadyTCP, Port: 22}
	}
	c.Console = read(p, "VM_CONSOLE", oneOf(ConsoleStdio, ConsoleNone))
	c.Display = read(p, "VM_DISPLAY", oneOf(DisplayNone, DisplayVNC))
	c.HTTP = read(p, "VM_HTTP", parseAddress)
	c.HTTPIntercept = read(p, "VM_HTTP_INTERCEPT", parseBool)
	c.HTTPToken = read(p, "VM_HTTP_TOKEN", parseToken)
	c.HTTPTokenFile = read(p, "VM_HTTP_TOKEN_FILE", parsePath)
	c.LogFormat = read(p, "VM_LOG_FORMAT", oneOf(LogText, LogJSON))
	c.LogLevel = read(p, "VM_LOG_LEVEL", parseLogLevel)
}
