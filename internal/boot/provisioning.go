package boot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/provision"
	"github.com/vmentry/vmentry/internal/supervise"
)

// imageDirs are where an image's disk is looked for, and what belongs to it.
var imageDirs = []string{"/image", "/base_image"}

// defaultUser is who gets the SSH keys where neither the user nor the image says.
const defaultUser = "core"

// guestConfiguration reads the user's configurations and turns them into what the guest reads, with networkConfig, in the format of the seed, for a guest that
// reads cloud-init's. What cannot be read is added to the mistakes; what cannot be translated is a [*provision.Error].
func guestConfiguration(cfg config.Config, hostName, instanceID string, networkConfig []byte, mistakes *config.Mistakes) (provision.Result, error) {
	in := provision.Input{
		Config:          source(cfg.Butane, "CONFIG", mistakes),
		Ignition:        source(cfg.Ignition, "IGNITION_CONFIG", mistakes),
		Cloud:           source(cfg.Cloud, "CLOUD_CONFIG", mistakes),
		IgnitionOff:     saidNone(cfg, cfg.Ignition, "IGNITION_CONFIG") || saidNone(cfg, cfg.Butane, "CONFIG"),
		CloudOff:        saidNone(cfg, cfg.Cloud, "CLOUD_CONFIG"),
		SSHUser:         sshUser(cfg),
		HostName:        hostName,
		Mounts:          mounts(cfg),
		IgnitionVersion: strings.TrimSuffix(string(cfg.IgnitionVersion), ".0"),
		InstanceID:      instanceID,
		SeedFormat:      provision.NoCloud,
		NetworkConfig:   networkConfig,
		CardsChange:     cfg.Network == config.ModeBridge, // with the pod
	}
	if cfg.CloudSeed == config.SeedConfigDrive {
		in.SeedFormat = provision.ConfigDrive
	}
	in.SSHAuthorizedKeys = append(in.SSHAuthorizedKeys, cfg.SSHAuthorizedKeys...)
	if file := cfg.SSHAuthorizedKeysFile; file != "" {
		keys, err := keysOf(file)
		if err != nil {
			*mistakes = append(*mistakes, config.Mistake{Variable: "VM_SSH_AUTHORIZED_KEYS_FILE", Value: file, Problem: err.Error()})
		}
		in.SSHAuthorizedKeys = append(in.SSHAuthorizedKeys, keys...)
	}
	return provision.Translate(in)
}

// source reads one of the three configurations; nil where there is none.
func source(s config.Source, variable string, mistakes *config.Mistakes) *provision.Source {
	switch {
	case s.Text != "":
		return &provision.Source{Name: variable, Variable: variable, Data: []byte(s.Text)}
	case s.Path != "":
		data, err := os.ReadFile(s.Path)
		if err != nil {
			*mistakes = append(*mistakes, config.Mistake{Variable: variable + "_FILE", Value: s.Path, Problem: reason(err)})
			return nil
		}
		return &provision.Source{Name: s.Path, Variable: variable + "_FILE", Data: data, FilesDir: filepath.Dir(s.Path)}
	}
	return nil
}

// saidNone says whether the user has set a configuration to none.
func saidNone(cfg config.Config, s config.Source, variable string) bool {
	return s.IsZero() && (cfg.Set[variable] || cfg.Set[variable+"_FILE"])
}

// sshUser is who gets the SSH keys.
func sshUser(cfg config.Config) string {
	if cfg.SSHUser != "" {
		return cfg.SSHUser
	}
	for _, dir := range imageDirs {
		if data, err := os.ReadFile(filepath.Join(dir, "user")); err == nil {
			if user := strings.TrimSpace(string(data)); user != "" {
				return user
			}
		}
	}
	return defaultUser
}

func keysOf(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, errors.New(reason(err))
	}
	return config.ParseKeys(string(data))
}

// reason is an error of a file without the file's name, which the message has anyway.
func reason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return "cannot be read: " + p.Err.Error()
	}
	return err.Error()
}

// Provision carries out `vmentry provision`: it prints the Ignition config, or writes what the guest reads to dir.
func Provision(out, messages io.Writer, dir string) error {
	cfg, warnings, mistakes := config.Parse(os.Environ())
	for _, w := range warnings {
		fmt.Fprintln(messages, "vmentry:", w)
	}
	// no guest is started, so this machine's own host name is not the guest's
	result, err := guestConfiguration(cfg, cfg.Name, uuid(vmIdentity(cfg, Host{Identity: podIdentity()})), nil, &mistakes)
	if err := wrong(mistakes, err); err != nil {
		return err
	}
	for _, m := range result.Messages {
		fmt.Fprintln(messages, "vmentry:", m)
	}
	switch {
	case dir != "":
		if err := result.Write(dir); err != nil {
			return fail(supervise.IOError, "%w", err)
		}
	case result.Ignition != nil:
		_, err := out.Write(result.Ignition.JSON)
		return err
	default:
		fmt.Fprintln(messages, "vmentry: no Ignition config is asked for; with -o DIR the cloud-init seed is written")
	}
	return nil
}

// wrong puts all that is wrong with the configuration into one failure, or is nil.
func wrong(mistakes config.Mistakes, others ...error) error {
	var lines []string
	for _, m := range mistakes {
		lines = append(lines, m.String())
	}
	for _, err := range others {
		if err != nil {
			lines = append(lines, strings.Split(err.Error(), "\n")...)
		}
	}
	switch len(lines) {
	case 0:
		return nil
	case 1:
		return fail(supervise.Misconfigured, "%s", lines[0])
	}
	return fail(supervise.Misconfigured, "%d mistakes in the configuration:\n  %s", len(lines), strings.Join(lines, "\n  "))
}
