package provision

import (
	"encoding/json"
	"os"
	"strings"

	"github.com/coreos/ignition/config/v2_4/types"
	"github.com/flatcar/container-linux-config-transpiler/config"
	clctypes "github.com/flatcar/container-linux-config-transpiler/config/types"
)

// fromContainerLinux translates with the transpiler that Container Linux users ran by hand, ct, to Ignition 2.3.
//
// Dynamic data ({PRIVATE_IPV4} and the like in etcd and flannel sections) stood for variables that coreos-metadata wrote
// on a cloud. A guest under plain QEMU has no such service: ct asks for a platform then, and so do we, with what to do
// instead.
func fromContainerLinux(r *sourceReporter) *ignitionSource {
	var out []byte
	r.guard("this Container Linux Config", func() {
		cfg, tree, rep := config.Parse(r.source.Data)
		r.clc(rep)
		if r.failed {
			return
		}
		r.inlineLocalFiles(&cfg)
		if r.failed {
			return
		}
		ign, rep := config.Convert(cfg, "", tree)
		for i, e := range rep.Entries {
			if e.Message == clctypes.ErrPlatformUnspecified.Error() {
				rep.Entries[i].Message = "{PRIVATE_IPV4}, {PUBLIC_IPV4}, {HOSTNAME} and the like were filled in by a cloud's " +
					"metadata service, which this guest does not have: write the value itself, or use systemd's specifiers " +
					"and an EnvironmentFile in a drop-in"
			}
		}
		r.clc(rep)
		if r.failed {
			return
		}
		b, err := json.Marshal(ign)
		if err != nil {
			r.mistake("cannot write the translated config: %v", err)
			return
		}
		out = b
	})
	if r.failed {
		return nil
	}
	return clcSpec2(r, out)
}

// clcSpec2 reads what the transpiler made. Its own checks are done, with the lines of the YAML; those of the JSON would
// name lines that the user never wrote.
func clcSpec2(r *sourceReporter, raw []byte) *ignitionSource {
	var cfg types.Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		r.mistake("cannot read the translated config: %v", err)
		return nil
	}
	return newSpec2(r, cfg)
}

// inlineLocalFiles puts the contents of `local` files where the transpiler looks for inline ones. The transpiler itself
// takes the directory from a global flag of the process, and lets a path leave it.
func (r *sourceReporter) inlineLocalFiles(cfg *clctypes.Config) {
	for i := range cfg.Storage.Files {
		c := &cfg.Storage.Files[i].Contents
		if c.Local == "" {
			continue
		}
		if r.source.FilesDir == "" {
			r.mistake("storage.files[%d].contents.local: there is no directory to read %s from", i, c.Local)
			continue
		}
		b, err := readBeneath(r.source.FilesDir, c.Local)
		if err != nil {
			r.mistake("storage.files[%d].contents.local: %v", i, err)
			continue
		}
		c.Local, c.Inline = "", string(b)
	}
}

// readBeneath reads a file that is in dir, also after all symbolic links are followed.
func readBeneath(dir, name string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.ReadFile(strings.TrimLeft(name, "/"))
}
