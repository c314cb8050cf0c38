package provision

import (
	"net/url"
	"path"
	"slices"
	"strings"

	compact "github.com/clarketm/json"
	"github.com/coreos/go-systemd/v22/unit"
	"github.com/coreos/ign-converter/translate/v24tov31"
	"github.com/coreos/ignition/config/v2_4/types"
	v31types "github.com/coreos/ignition/v2/config/v3_1/types"
	"github.com/vincent-petithory/dataurl"
)

// translateUp makes 3.1 of spec 2, with ign-converter. What it refuses because spec 3 says it in another way is said in
// that way first; what spec 3 cannot say is a mistake.
func (s *ignitionSource) translateUp() bool {
	s.guard("this Ignition config of spec 2", func() {
		cfg := *s.spec2
		networkdFiles(&cfg)
		fsMap, ok := s.mapFilesystems(&cfg)
		if !ok {
			return
		}
		s.warnReferences(cfg)
		out, ok := s.convert(cfg, fsMap)
		if !ok {
			return
		}
		raw, err := compact.Marshal(out)
		if err != nil {
			s.mistake("cannot write the translated config: %v", err)
			return
		}
		_, rep, err := specs[spec31].strict(raw)
		s.vcontext(withoutMarkers(rep))
		if err != nil && !s.failed {
			s.mistake("cannot be brought to Ignition 3: %v", err)
		}
		s.json, s.spec = raw, spec31
	})
	return !s.failed
}

// networkdFiles: spec 3 has no networkd section. These are the paths that Ignition 0.35 wrote units to.
func networkdFiles(cfg *types.Config) {
	const dir = "/etc/systemd/network"
	add := func(name, contents string) {
		mode := 0o644
		cfg.Storage.Files = append(cfg.Storage.Files, types.File{
			Node: types.Node{Filesystem: "root", Path: name},
			FileEmbedded1: types.FileEmbedded1{Mode: &mode, Contents: types.FileContents{
				Source: (&url.URL{Scheme: "data", Opaque: "," + dataurl.EscapeString(contents)}).String(),
			}},
		})
	}
	cfg.Storage.Files = slices.Clone(cfg.Storage.Files)
	for _, u := range cfg.Networkd.Units {
		if u.Contents != "" {
			add(path.Join(dir, u.Name), u.Contents)
		}
		for _, d := range u.Dropins {
			if d.Contents != "" {
				add(path.Join(dir, u.Name+".d", d.Name), d.Contents)
			}
		}
	}
	cfg.Networkd = types.Networkd{}
}

// mapFilesystems finds where each named file system of spec 2 is mounted, which spec 3 has to know when files are
// written to it. Spec 2 did not ask: the mount unit that the config brings along tells.
func (s *ignitionSource) mapFilesystems(cfg *types.Config) (map[string]string, bool) {
	fsMap := map[string]string{"root": "/"}
	var kept []types.Filesystem
	for i, fs := range cfg.Storage.Filesystems {
		if fs.Mount == nil { // an existing directory under a name
			if fs.Path != nil {
				fsMap[fs.Name] = *fs.Path
			}
			continue
		}
		if fs.Name == "root" { // ign-converter takes it for the one that is there anyway
			fs.Name = "vmentry-root"
			fsMap[fs.Name] = "/"
			kept = append(kept, fs)
			continue
		}
		where := mountPoint(cfg.Systemd.Units, fs.Mount)
		fsMap[fs.Name] = where
		if where == "" && usesFilesystem(cfg.Storage, fs.Name) {
			s.mistake("storage.filesystems[%d]: files are to be written to the file system %s, and Ignition 3 has to know where "+
				"it is mounted: add a systemd mount unit with What=%s", i, fs.Name, fs.Mount.Device)
		}
		kept = append(kept, fs)
	}
	cfg.Storage.Filesystems = kept

	for _, n := range nodesOf(cfg.Storage) {
		if _, ok := fsMap[n.Filesystem]; !ok {
			s.mistake("%s is to be written to the file system %q, which storage.filesystems does not have", n.Path, n.Filesystem)
		}
	}
	return fsMap, !s.failed
}

func nodesOf(st types.Storage) []types.Node {
	var nodes []types.Node
	for _, f := range st.Files {
		nodes = append(nodes, f.Node)
	}
	for _, d := range st.Directories {
		nodes = append(nodes, d.Node)
	}
	for _, l := range st.Links {
		nodes = append(nodes, l.Node)
	}
	return nodes
}

func usesFilesystem(st types.Storage, name string) bool {
	return slices.ContainsFunc(nodesOf(st), func(n types.Node) bool { return n.Filesystem == name })
}

// mountPoint is Where= of the mount unit whose What= is the device, or names its label.
func mountPoint(units []types.Unit, m *types.Mount) string {
	devices := []string{m.Device}
	if m.Label != nil {
		devices = append(devices, "LABEL="+*m.Label, "/dev/disk/by-label/"+*m.Label)
	}
	for _, u := range units {
		if path.Ext(u.Name) != ".mount" {
			continue
		}
		options, err := unit.DeserializeOptions(strings.NewReader(u.Contents))
		if err != nil {
			continue
		}
		what, where := "", ""
		for _, o := range options {
			switch {
			case o.Section == "Mount" && o.Name == "What":
				what = o.Value
			case o.Section == "Mount" && o.Name == "Where":
				where = o.Value
			}
		}
		if slices.Contains(devices, what) {
			return where
		}
	}
	return ""
}

func (s *ignitionSource) warnReferences(cfg types.Config) {
	for i := range cfg.Ignition.Config.Append {
		s.warn("ignition.config.append[%d]: what it refers to is not translated, and must be Ignition 3 as well", i)
	}
	if cfg.Ignition.Config.Replace != nil {
		s.warn("ignition.config.replace: what it refers to is not translated, and must be Ignition 3 as well")
	}
}

// convert runs ign-converter on the config without files, directories and links, and on each kind of these alone: it
// refuses a path that is there twice, and takes /etc/foo-bar for a path below a link /etc/foo. Spec 2 applies entries in
// order, so of several for one path the last counts, and what is appended to it after that.
func (s *ignitionSource) convert(cfg types.Config, fsMap map[string]string) (v31types.Config, bool) {
	files := cfg.Storage.Files
	dirs := lastOf(s, "directories", cfg.Storage.Directories, fsMap, func(d types.Directory) types.Node { return d.Node })
	links := lastOf(s, "links", cfg.Storage.Links, fsMap, func(l types.Link) types.Node { return l.Node })
	cfg.Storage.Files, cfg.Storage.Directories, cfg.Storage.Links = nil, nil, nil

	out, ok := s.converter(cfg, fsMap)
	if !ok {
		return out, false
	}
	for _, d := range dirs {
		c, ok := s.converter(onlyStorage(types.Storage{Directories: []types.Directory{d}}), fsMap)
		if ok {
			out.Storage.Directories = append(out.Storage.Directories, c.Storage.Directories...)
		}
	}
	for _, l := range links {
		c, ok := s.converter(onlyStorage(types.Storage{Links: []types.Link{l}}), fsMap)
		if ok {
			out.Storage.Links = append(out.Storage.Links, c.Storage.Links...)
		}
	}
	for _, f := range files {
		c, ok := s.converter(onlyStorage(types.Storage{Files: []types.File{f}}), fsMap)
		if ok && len(c.Storage.Files) == 1 {
			out.Storage.Files = s.addFile(out.Storage.Files, c.Storage.Files[0])
		}
	}
	s.refuseTwoKinds(out.Storage)
	return out, !s.failed
}

func (s *ignitionSource) addFile(files []v31types.File, f v31types.File) []v31types.File {
	i := slices.IndexFunc(files, func(o v31types.File) bool { return o.Path == f.Path })
	switch {
	case i < 0:
		return append(files, f)
	case len(f.Append) > 0:
		files[i].Append = append(files[i].Append, f.Append...)
	default:
		s.warn("storage.files: %s is written more than once; the last one counts", f.Path)
		files[i] = f
	}
	return files
}

func lastOf[T any](s *ignitionSource, kind string, list []T, fsMap map[string]string, node func(T) types.Node) []T {
	place := func(t T) string { return path.Join("/", fsMap[node(t).Filesystem], node(t).Path) }
	var out []T
	for _, t := range list {
		if i := slices.IndexFunc(out, func(o T) bool { return place(o) == place(t) }); i >= 0 {
			s.warn("storage.%s: %s is there more than once; the last one counts", kind, place(t))
			out[i] = t
			continue
		}
		out = append(out, t)
	}
	return out
}

func (s *ignitionSource) refuseTwoKinds(st v31types.Storage) {
	kinds := map[string]string{}
	check := func(kind, p string) {
		if other, ok := kinds[p]; ok && other != kind {
			s.mistake("%s is both a %s and a %s; in Ignition 3 a path is one thing", p, other, kind)
		}
		kinds[p] = kind
	}
	for _, d := range st.Directories {
		check("directory", d.Path)
	}
	for _, f := range st.Files {
		check("file", f.Path)
	}
	for _, l := range st.Links {
		check("link", l.Path)
	}
}

func onlyStorage(st types.Storage) types.Config {
	var c types.Config
	c.Ignition.Version = types.MaxVersion.String()
	c.Storage = st
	return c
}

// converter is one run of ign-converter; its reports come as text, one entry a line.
func (s *ignitionSource) converter(cfg types.Config, fsMap map[string]string) (v31types.Config, bool) {
	out, err := v24tov31.Translate(cfg, fsMap)
	if err == nil {
		return out, true
	}
	s.converterError("3", err)
	return out, false
}

// converterError takes apart the text of a report, from which warnings are of no interest now.
func (r *sourceReporter) converterError(version string, err error) {
	for l := range strings.Lines(err.Error()) {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasSuffix(l, ":") || strings.HasPrefix(l, "warning") {
			continue
		}
		r.mistake("cannot be brought to Ignition %s: %s", version, strings.TrimPrefix(l, "error: "))
	}
}
