package provision

import (
	"encoding/json"
	"path"
	"slices"

	v2_3 "github.com/coreos/ignition/config/v2_3"
	"github.com/coreos/ignition/config/v2_4"
	"github.com/coreos/ignition/config/v2_4/types"
)

// fromSpec2JSON reads 2.0 to 2.4; ignition's own parser brings the lower ones to 2.4.
func fromSpec2JSON(r *sourceReporter) *ignitionSource {
	var cfg types.Config
	r.guard("this Ignition config", func() {
		c, rep, err := v2_4.Parse(r.source.Data)
		r.spec2(rep)
		if err != nil && !r.failed {
			r.mistake("%v", err)
		}
		cfg = c
	})
	if r.failed {
		return nil
	}
	return newSpec2(r, cfg)
}

// newSpec2 resolves what 2.4 still knows but calls deprecated, and what may be said more than once in spec 2 only. Such a
// config means the same to a guest of spec 2, and can be translated.
func newSpec2(r *sourceReporter, cfg types.Config) *ignitionSource {
	r.guard("this Ignition config", func() {
		r.resolveUsers(&cfg)
		r.resolvePartitions(&cfg)
		r.resolveCreate(&cfg)
		cfg.Systemd.Units = mergeUnits(cfg.Systemd.Units)
	})
	if r.failed {
		return nil
	}
	return &ignitionSource{sourceReporter: r, spec2: &cfg}
}

// resolveUsers: `create` became fields of the user itself in 2.1; several entries of one user become one.
func (r *sourceReporter) resolveUsers(cfg *types.Config) {
	var users []types.PasswdUser
	for _, u := range cfg.Passwd.Users {
		if c := u.Create; c != nil {
			u.Create = nil
			u.UID, u.Gecos, u.HomeDir = c.UID, c.Gecos, c.HomeDir
			u.NoCreateHome, u.PrimaryGroup, u.NoUserGroup = c.NoCreateHome, c.PrimaryGroup, c.NoUserGroup
			u.NoLogInit, u.Shell, u.System = c.NoLogInit, c.Shell, c.System
			u.Groups = nil
			for _, g := range c.Groups {
				u.Groups = append(u.Groups, types.Group(g))
			}
		}
		if i := slices.IndexFunc(users, func(o types.PasswdUser) bool { return o.Name == u.Name }); i >= 0 {
			r.info("passwd.users: %s is there more than once; the entries are joined", u.Name)
			users[i] = joinUsers(users[i], u)
			continue
		}
		users = append(users, u)
	}
	for i := range users {
		users[i].SSHAuthorizedKeys = unique2(users[i].SSHAuthorizedKeys)
	}
	cfg.Passwd.Users = users
}

// joinUsers: keys and groups of both, else what the later one says.
func joinUsers(a, b types.PasswdUser) types.PasswdUser {
	b.SSHAuthorizedKeys = append(slices.Clone(a.SSHAuthorizedKeys), b.SSHAuthorizedKeys...)
	b.Groups = unique2(append(slices.Clone(a.Groups), b.Groups...))
	if b.PasswordHash == nil {
		b.PasswordHash = a.PasswordHash
	}
	if b.UID == nil {
		b.UID = a.UID
	}
	for _, f := range []struct{ to, from *string }{
		{&b.Gecos, &a.Gecos}, {&b.HomeDir, &a.HomeDir}, {&b.PrimaryGroup, &a.PrimaryGroup}, {&b.Shell, &a.Shell},
	} {
		if *f.to == "" {
			*f.to = *f.from
		}
	}
	b.NoCreateHome = a.NoCreateHome || b.NoCreateHome
	b.NoUserGroup = a.NoUserGroup || b.NoUserGroup
	b.NoLogInit = a.NoLogInit || b.NoLogInit
	b.System = a.System || b.System
	return b
}

func unique2[S ~string](list []S) []S {
	var out []S
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// resolvePartitions: `size` and `start` were counted in sectors of 512 bytes, their successors in MiB.
func (r *sourceReporter) resolvePartitions(cfg *types.Config) {
	const sectorsPerMiB = 2048
	for i := range cfg.Storage.Disks {
		for j := range cfg.Storage.Disks[i].Partitions {
			p := &cfg.Storage.Disks[i].Partitions[j]
			for _, f := range []struct {
				name     string
				old, new **int
			}{{"size", &p.Size, &p.SizeMiB}, {"start", &p.Start, &p.StartMiB}} {
				sectors := *f.old
				if sectors == nil {
					continue
				}
				*f.old = nil
				if *sectors%sectorsPerMiB != 0 {
					r.mistake("storage.disks[%d].partitions[%d].%s: %d sectors are not a whole number of MiB, which is what "+
						"%sMiB counts", i, j, f.name, *sectors, f.name)
					continue
				}
				if *f.new == nil {
					mib := *sectors / sectorsPerMiB
					*f.new = &mib
				}
			}
		}
	}
}

// resolveCreate: `mount.create` with `force` is `wipeFilesystem`. Without it, the file system was made only if there was
// none, and another one there was an error; without wipeFilesystem the same holds.
func (r *sourceReporter) resolveCreate(cfg *types.Config) {
	for i := range cfg.Storage.Filesystems {
		m := cfg.Storage.Filesystems[i].Mount
		if m == nil || m.Create == nil {
			continue
		}
		m.WipeFilesystem = m.WipeFilesystem || m.Create.Force
		for _, o := range m.Create.Options {
			m.Options = append(m.Options, types.MountOption(o))
		}
		m.Create = nil
	}
}

// mergeUnits joins entries of one name, as spec 2 applies them one after the other: contents and drop-ins of the later
// one win, and a unit that any of them enables is enabled. The `etcd` section and a unit etcd-member.service of the
// user's own meet here.
func mergeUnits(units []types.Unit) []types.Unit {
	var out []types.Unit
	for _, u := range units {
		i := slices.IndexFunc(out, func(o types.Unit) bool { return o.Name == u.Name })
		if i < 0 {
			u.Dropins = mergeDropins(nil, u.Dropins)
			out = append(out, u)
			continue
		}
		o := &out[i]
		if u.Contents != "" {
			o.Contents = u.Contents
		}
		o.Enable = o.Enable || u.Enable
		o.Mask = o.Mask || u.Mask
		if u.Enabled != nil {
			o.Enabled = u.Enabled
		}
		o.Dropins = mergeDropins(o.Dropins, u.Dropins)
	}
	return out
}

func mergeDropins(a, b []types.SystemdDropin) []types.SystemdDropin {
	out := slices.Clone(a)
	for _, d := range b {
		if i := slices.IndexFunc(out, func(o types.SystemdDropin) bool { return o.Name == d.Name }); i >= 0 {
			out[i] = d
		} else {
			out = append(out, d)
		}
	}
	return out
}

// makeSpec2 makes 2.3, for guests that read nothing newer.
func makeSpec2(in Input, sources []*ignitionSource, r *reporter) *Ignition {
	general := r.together(sources)
	var cfg types.Config
	if slices.ContainsFunc(sources, func(s *ignitionSource) bool { return s.spec2 == nil }) {
		cfg = downToSpec2(in, sources, r, general)
	} else {
		cfg = mergeSpec2(in, sources, general)
	}
	if general.failed || r.err() != nil {
		return nil
	}
	out := toVersion23(cfg, general)
	if general.failed {
		return nil
	}
	ign := &Ignition{Version: "2.3.0", JSON: indented(out), FWCfg: out}
	checkSize(ign, general)
	return ign
}

// mergeSpec2 appends the sources in order, as spec 2 appends configs: what comes later is applied later.
func mergeSpec2(in Input, sources []*ignitionSource, r *sourceReporter) types.Config {
	configs := make([]types.Config, len(sources))
	replaces, hostName := false, in.HostName
	for i, s := range sources {
		configs[i] = *s.spec2
		replaces = replaces || s.spec2.Ignition.Config.Replace != nil
		if setsHostName2(*s.spec2) {
			hostName = ""
		}
	}
	if replaces && (len(configs) > 1 || hostName != "" || len(in.SSHAuthorizedKeys) > 0 || len(in.Mounts) > 0) {
		configs = referTo(configs, r)
	}

	out := types.Config{}
	out.Ignition.Version = types.MaxVersion.String()
	if hostName != "" {
		mode, yes := 0o644, true
		out.Storage.Files = []types.File{{
			Node: types.Node{Filesystem: "root", Path: hostNameFile, Overwrite: &yes},
			FileEmbedded1: types.FileEmbedded1{
				Mode: &mode, Contents: types.FileContents{Source: hostNameURL(hostName)},
			},
		}}
	}
	if len(in.SSHAuthorizedKeys) > 0 {
		u := types.PasswdUser{Name: in.SSHUser}
		for _, k := range unique(in.SSHAuthorizedKeys) {
			u.SSHAuthorizedKeys = append(u.SSHAuthorizedKeys, types.SSHAuthorizedKey(k))
		}
		out.Passwd.Users = []types.PasswdUser{u}
	}
	for _, u := range mountUnits(in.Mounts) {
		yes := true
		out.Systemd.Units = append(out.Systemd.Units, types.Unit{Name: u.name, Enabled: &yes, Contents: u.contents})
	}
	for _, c := range configs {
		references := append(out.Ignition.Config.Append, c.Ignition.Config.Append...)
		replace := c.Ignition.Config.Replace
		out = v2_4.Append(out, c)
		out.Ignition.Config.Append, out.Ignition.Config.Replace = references, replace
	}
	// One entry a user: in spec 2 the second replaces the keys of the first.
	(&sourceReporter{reporter: &reporter{}, source: r.source}).resolveUsers(&out)
	out.Systemd.Units = mergeUnits(out.Systemd.Units)
	return out
}

// referTo makes each config a reference from an otherwise empty one; see mergeAll for why.
func referTo(configs []types.Config, r *sourceReporter) []types.Config {
	r.info("ignition.config.replace would take the rest of the configuration away: the sources are handed over as " +
		"ignition.config.append, each as a data URL")
	var outer types.Config
	outer.Ignition.Version = types.MaxVersion.String()
	for _, c := range configs {
		b := toVersion23(c, r)
		outer.Ignition.Config.Append = append(outer.Ignition.Config.Append, types.ConfigReference{Source: dataURL(b)})
	}
	return []types.Config{outer}
}

func setsHostName2(cfg types.Config) bool {
	at := func(n types.Node) bool {
		return n.Filesystem == "root" && path.Clean("/"+n.Path) == hostNameFile
	}
	return slices.ContainsFunc(cfg.Storage.Files, func(f types.File) bool { return at(f.Node) }) ||
		slices.ContainsFunc(cfg.Storage.Directories, func(d types.Directory) bool { return at(d.Node) }) ||
		slices.ContainsFunc(cfg.Storage.Links, func(l types.Link) bool { return at(l.Node) })
}

// toVersion23 lowers 2.4 to 2.3, which has all of it but proxies, HTTP headers and the like.
func toVersion23(cfg types.Config, r *sourceReporter) []byte {
	cfg.Ignition.Version = "2.3.0"
	raw, err := json.Marshal(cfg)
	if err != nil {
		r.mistake("cannot write the config: %v", err)
		return nil
	}
	// What 2.3 does not know, its types drop; then it is missing here.
	low, rep, err := v2_3.Parse(raw)
	if err != nil {
		r.spec2(rep)
		if !r.failed {
			r.mistake("cannot be brought to Ignition 2.3: %v", err)
		}
		return nil
	}
	out, err := json.Marshal(low)
	if err != nil {
		r.mistake("cannot write the config: %v", err)
		return nil
	}
	for _, p := range differences(pruned(raw), pruned(out)) {
		r.mistake("%s: needs Ignition 2.4, VM_IGNITION_VERSION is 2.3", p)
	}
	return pruned(out)
}

// pruned leaves out empty objects, lists and nulls: encoding/json writes the former for every struct.
func pruned(raw []byte) []byte {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return raw
	}
	b, err := json.Marshal(prune(v))
	if err != nil {
		return raw
	}
	return b
}

func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			if x = prune(x); x != nil {
				out[k] = x
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		for i := range v {
			v[i] = prune(v[i])
		}
		if len(v) == 0 {
			return nil
		}
	}
	return v
}
