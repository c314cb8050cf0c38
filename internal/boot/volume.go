package boot

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/confine"
	"github.com/vmentry/vmentry/internal/provision"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/supervise"
	"github.com/vmentry/vmentry/internal/volume"
)

// Memory, in bytes, that a virtiofsd takes of the container's limit: its own, and what the kernel keeps for every file that the guest
// remembers, some 2 KB each.
const (
	virtiofsdItself = 16 << 20
	virtiofsdFiles  = 48 << 20
)

func volumeMemory(cfg config.Config) int64 {
	return int64(len(cfg.Volumes)) * (virtiofsdItself + virtiofsdFiles)
}

// planVolumes looks at the volumes' directories and plans how the guest gets them. What the user can mend in the settings is added to
// mistakes; what the container lacks is the error.
func planVolumes(ctx context.Context, cfg config.Config, mistakes *config.Mistakes) (volume.Plan, error) {
	if len(cfg.Volumes) == 0 {
		return volume.Plan{}, nil
	}
	self, err := os.Executable()
	if err != nil {
		return volume.Plan{}, err
	}
	in := volume.Input{RunDir: cfg.RunDir, Confine: around(self, confine.Cell{ManyFiles: true}), Rights: volume.InspectRights(confine.Landlock(), self, confine.Command), Own: []volume.Own{
		{Path: unlinked(cfg.RunDir), What: "vmentry's sockets and secrets"},
		{Path: unlinked(cfg.DataDir), What: "its own disk"},
		{Path: "/proc", What: "the container's processes"},
		{Path: "/sys", What: "the container's kernel"},
		{Path: "/dev", What: "the container's devices"},
	}}
	for _, v := range cfg.Volumes {
		in.Volumes = append(in.Volumes, volume.Volume(v))
		in.Found = append(in.Found, volume.Inspect(v.Path))
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	found, findErr := volume.Find(ctx, environForOthers(cfg))
	in.Virtiofsd = found
	plan, err := volume.MakePlan(in)
	if wrong := (volume.Mistakes{}); errors.As(err, &wrong) {
		for _, m := range wrong {
			*mistakes = append(*mistakes, config.Mistake{Variable: "VM_VOLUMES", Value: config.Volume(m.Volume).String(), Problem: m.Volume.Path + " " + m.Problem})
		}
		return plan, nil
	}
	if findErr != nil {
		err = findErr
	}
	if err != nil {
		return plan, fail(supervise.Unavailable, "%w", err)
	}
	return plan, nil
}

// unlinked is a path without symbolic links, as far as it is there.
func unlinked(path string) string {
	if r, err := filepath.EvalSymlinks(path); err == nil {
		return r
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(unlinked(dir), filepath.Base(path))
	}
	return path
}

// mounts are what the guest is to mount.
func mounts(cfg config.Config) []provision.Mount {
	var all []provision.Mount
	for _, v := range cfg.Volumes {
		if v.GuestPath != "" {
			all = append(all, provision.Mount{Tag: v.Tag, Path: v.GuestPath, ReadOnly: v.ReadOnly})
		}
	}
	return all
}

func guestVolumes(plan volume.Plan) []qemu.Volume {
	var all []qemu.Volume
	for _, s := range plan.Shares {
		all = append(all, qemu.Volume{Tag: s.Tag, Socket: s.Socket})
	}
	return all
}

// virtiofsdBeside is the virtiofsd of a volume, with the socket that it listens on. It ends when QEMU lets go of it.
func virtiofsdBeside(s volume.Share) (beside, error) {
	socket, err := s.Listen()
	if err != nil {
		return beside{}, fail(supervise.IOError, "VM_VOLUMES: the socket of %s cannot be made: %w", s.Tag, err)
	}
	return beside{
		name: "virtiofsd of volume " + s.Tag, path: s.Command[0], args: s.Command[1:], files: []*os.File{socket},
		greets: slog.LevelWarn, advise: func(words string) string { return stamp().ReplaceAllString(words, "") },
	}, nil
}

// stamp is what virtiofsd begins its words with.
var stamp = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\[\S+ \w+ +[\w:]+\] `) })
