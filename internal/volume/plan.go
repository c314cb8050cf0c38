package volume

import (
	"fmt"
	"path/filepath"
	"strings"
)

// MakePlan makes the plan. What the user can mend comes as [Mistakes], all at once.
func MakePlan(in Input) (Plan, error) {
	if len(in.Volumes) == 0 {
		return Plan{}, nil
	}
	var mistakes Mistakes
	for i, v := range in.Volumes {
		if problem := in.problem(in.Found[i]); problem != "" {
			mistakes = append(mistakes, Mistake{v, problem})
		}
	}
	if mistakes != nil {
		return Plan{}, mistakes
	}
	if err := in.Virtiofsd.Check(); err != nil {
		return Plan{}, err
	}
	sandbox, err := choose(in.Rights)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Virtiofsd: in.Virtiofsd, Sandbox: sandbox}
	for i, v := range in.Volumes {
		plan.Shares = append(plan.Shares, in.share(v, i, sandbox))
		if !v.ReadOnly && !in.Found[i].Writable {
			plan.warn("%s=%s cannot be written here, so the guest will not be able to either; :ro says so to the guest", v.Tag, v.Path)
		}
	}
	if sandbox.Mode == "none" && sandbox.Landlock == 0 {
		plan.warn("VM_VOLUMES: virtiofsd runs with its seccomp filter alone, because this kernel has no Landlock (5.13 and later have it, unless it is switched off)")
	}
	if sandbox.Squash != "" {
		plan.warn("VM_VOLUMES: everything that the guest makes in a volume belongs to %s in the pod, because vmentry may not give files to others", sandbox.Squash)
	}
	return plan, nil
}

func (p *Plan) warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

// problem is why a directory can be no volume.
func (in Input) problem(d Directory) string {
	if d.Problem != "" {
		return d.Problem
	}
	for _, own := range in.Own {
		if within(d.Real, own.Path) || within(own.Path, d.Real) {
			return fmt.Sprintf("the guest would have %s (%s) with it; give it a directory of its own", own.What, own.Path)
		}
	}
	return ""
}

// within says whether path is dir or below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// Socket is the name in the run directory of what the virtiofsd of volume i listens on; with "*" for i, a pattern for all.
func Socket(i any) string { return fmt.Sprintf("volume%v.sock", i) }

// share is how volume i is served.
func (in Input) share(v Volume, i int, sandbox Sandbox) Share {
	s := Share{Volume: v, Socket: filepath.Join(in.RunDir, Socket(i))}
	// the path as it was found: a link in its place must not lead elsewhere by the time that virtiofsd starts
	dir := in.Found[i].Real
	s.Command = in.confined(v, dir, sandbox, nil, "--fd", "3")
	s.unsupervised = in.confined(v, dir, sandbox, []string{in.RunDir}, "--socket-path", s.Socket)
	return s
}

// confined is the command of a virtiofsd that shares dir, with a socket by which it is reached. beside is what it must write besides.
func (in Input) confined(v Volume, dir string, sandbox Sandbox, beside []string, socket ...string) []string {
	daemon := append([]string{in.Virtiofsd.Path}, socket...)
	daemon = append(daemon, "--shared-dir", dir,
		// what others change is seen after a second at most, and what is opened anew at once
		"--cache", "auto",
		"--log-level", "warn",
		"--rlimit-nofile", "0", // as Confine has set it, without a word of warning
	)
	daemon = append(daemon, sandbox.arguments()...)
	if v.ReadOnly {
		daemon = append(daemon, "--readonly")
	}
	switch {
	case sandbox.Landlock == 0:
		return in.Confine(nil, nil, daemon)
	case v.ReadOnly:
		return in.Confine([]string{proc, dir}, beside, daemon)
	}
	return in.Confine([]string{proc}, append([]string{dir}, beside...), daemon)
}

// proc is what virtiofsd must see of itself. There is nothing of other processes for it: Landlock keeps one that it has shut in, and that
// has no rights to override that, from looking into those outside.
const proc = "/proc"
