package boot

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/status"
	"github.com/vmentry/vmentry/internal/supervise"
)

// findPasst finds passt, and asks it what it can do.
func findPasst(environ []string) (network.PasstProgram, error) {
	path, err := findProgram("passt")
	if err != nil {
		return network.PasstProgram{}, fail(supervise.Unavailable, "passt is not installed in this image, and VM_NETWORK=passt needs it; install it, or write VM_NETWORK=user")
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--help")
	cmd.Env = environ
	help, _ := cmd.CombinedOutput() // old versions end with a failure, and print it all the same
	return network.PasstProgram{Path: path, HostName: strings.Contains(string(help), "--hostname")}, nil
}

// passtInput adds to in what only passt needs.
func passtInput(in *network.Input, cfg config.Config) (err error) {
	in.Passt, err = findPasst(environForOthers(cfg))
	in.RunDir = cfg.RunDir
	in.Root = os.Geteuid() == 0
	return err
}

// Memory, in bytes, that passt takes of the container's limit: its own buffers, and for every port the kernel's sockets, some 75000
// of 4.4 KB.
const (
	passtBuffers = 32 << 20
	passtSockets = 352 << 20
)

// passtMemory is what passt needs beside QEMU, if it runs.
func passtMemory(cfg config.Config) int64 {
	switch {
	case cfg.Network != config.ModePasst:
		return 0
	case cfg.Set["HOSTFWD"]:
		return passtBuffers
	}
	return passtBuffers + passtSockets
}

// throughHelper is what ready means where connections are forwarded by a program that cannot be given another forward.
func throughHelper(port uint16, plan *network.Plan) status.Condition {
	through := plan.Through(port)
	if !through.IsValid() {
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("VM_READY=tcp:%d can never be: no port of HOSTFWD leads to that port of the guest", port))
	}
	return status.Condition{Port: port, Through: through}
}

// passtBeside is passt. It greets at length; that it is ready is told by the file that it then writes its number to, and not by its
// socket, which is bound before the last that can fail.
func passtBeside(h network.Helper) beside {
	return beside{name: h.Name, path: h.Path, args: h.Args, greets: slog.LevelDebug, advise: advised, ready: func() bool {
		pid, _ := os.ReadFile(h.PIDFile)
		return bytes.HasSuffix(pid, []byte("\n"))
	}}
}

// advised adds to passt's last words what can be done about it.
func advised(words string) string {
	const sandbox = "; passt shuts itself into namespaces of its own, and this container may not make any: " +
		"docker run --security-opt seccomp=unconfined (with AppArmor also apparmor=unconfined), " +
		"in the pod's container securityContext: {seccompProfile: {type: Unconfined}} or a Localhost profile that allows unshare, or VM_NETWORK=user"
	for part, advice := range map[string]string{
		"user namespace":       sandbox,
		"sandbox":              sandbox,
		"isolating namespaces": sandbox,
		"enough sockets":       "; every port takes a socket: name ports with HOSTFWD, or allow more files (docker run --ulimit nofile=1048576)",
		"Failed to bind":       "; another process of this pod has the port of HOSTFWD, or it may not be bound (those below 1024 need the capability NET_BIND_SERVICE)",
	} {
		if strings.Contains(words, part) {
			return words + advice
		}
	}
	return words
}
