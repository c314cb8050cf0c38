// Package provision turns what a user wrote for a guest into what the guest's own provisioning system reads.
//
// Butane, Container Linux Config and Ignition become one Ignition config, for fw_cfg opt/com.coreos/config; cloud-init
// user data becomes the files of a seed disk. Every format is read, translated, merged and checked by the library of the
// project that defined it. SSH keys, a host name and mounts that come from outside are merged into whichever is in use.
//
// Nothing here touches the machine, with three exceptions that say so: Butane and Container Linux Configs may name files
// under Source.FilesDir, and Result.Write writes to a directory.
package provision

import "strings"

// Source is one configuration as the user gave it.
type Source struct {
	// Name is what messages call it: the file's path, or the variable that held the text.
	Name string
	// Variable is the environment variable that named it: CONFIG_FILE, IGNITION_CONFIG_FILE or CLOUD_CONFIG_FILE.
	Variable string
	Data     []byte
	// FilesDir is where `local` references of Butane and Container Linux Configs are looked up; "" forbids them.
	FilesDir string
}

// Input is all that decides what the guest reads.
type Input struct {
	// Config is Butane of any variant and version or, without a `variant` key, a Container Linux Config.
	// Ignition is an Ignition config of spec 2 or 3. When both are there, Ignition is the base and Config is merged over
	// it, as ignition merges a child into its parent: what Config says wins.
	Config, Ignition *Source
	// Cloud is cloud-init user data.
	Cloud *Source
	// IgnitionOff and CloudOff: the user said "none", so a config of that kind is not made up for keys and host name.
	// A source of that kind is used all the same.
	IgnitionOff, CloudOff bool

	// SSHAuthorizedKeys are added to those that SSHUser gets from the configuration, each in the form of one line of
	// authorized_keys.
	SSHAuthorizedKeys []string
	SSHUser           string
	// HostName is set in the guest where its own configuration sets none.
	HostName string
	// Mounts are made in the guest where its own configuration has none by that tag or at that place.
	Mounts []Mount

	// IgnitionVersion is "auto" (or ""), "2.3" or one of "3.0" to "3.6".
	IgnitionVersion string

	SeedFormat SeedFormat
	// InstanceID tells cloud-init whether this is the first boot of this disk.
	InstanceID string
	// NetworkConfig is written to the seed as it is; nil for none. NoCloud: network-config, in cloud-init's version 1
	// or 2. ConfigDrive: network_data.json, as OpenStack has it.
	NetworkConfig []byte
	// CardsChange says that the guest's cards may have other MAC addresses at a later boot. Cloud-init writes its network configuration at
	// the first boot of a disk, by MAC address, and is told to write it at every boot.
	CardsChange bool
}

// Result is what the guest reads. A pointer that is nil says that there is nothing of the kind.
type Result struct {
	Ignition *Ignition
	Seed     *Seed
	// Messages are warnings and remarks; mistakes come as *Error.
	Messages []Message
}

// Ignition is the config for guests that run Ignition.
type Ignition struct {
	// Version of the spec, in full: "3.4.0".
	Version string
	// JSON is the whole config, indented.
	JSON []byte
	// FWCfg are the bytes for fw_cfg: the config, or a short one that is replaced by it.
	FWCfg []byte
	// Replaced says that FWCfg is the short one.
	Replaced bool
}

// Translate makes what the guest reads. All mistakes of all sources come together, as one *Error.
func Translate(in Input) (Result, error) {
	r := &reporter{}
	var res Result

	fromIgnition := in.Config != nil || in.Ignition != nil
	fromCloud := in.Cloud != nil
	extras := len(in.SSHAuthorizedKeys) > 0 || in.HostName != "" || len(in.Mounts) > 0

	if fromIgnition || (extras && !fromCloud && !in.IgnitionOff) {
		res.Ignition = makeIgnition(in, r)
	}
	if fromCloud || (extras && !fromIgnition && !in.CloudOff) {
		res.Seed = makeSeed(in, r)
	}
	if fromIgnition && fromCloud && extras {
		r.add(Message{Severity: Info, Text: "an Ignition config and cloud-init data are both given: " +
			describeExtras(in) + " go into both, and the guest uses the one it reads"})
	}

	if err := r.err(); err != nil {
		return Result{}, err
	}
	res.Messages = r.messages
	return res, nil
}

func describeExtras(in Input) string {
	var parts []string
	if len(in.SSHAuthorizedKeys) > 0 {
		parts = append(parts, "SSH keys")
	}
	if in.HostName != "" {
		parts = append(parts, "host name")
	}
	if len(in.Mounts) > 0 {
		parts = append(parts, "mounts of volumes")
	}
	return strings.Join(parts, " and ")
}
