// Command vmentry is the entrypoint of a container image that boots a virtual machine. See `vmentry --help` and, for the
// environment variables that configure it, `vmentry env`.
package main

import (
	"os"
	"time"

	"github.com/vmentry/vmentry/internal/boot"
	"github.com/vmentry/vmentry/internal/supervise"
)

// Set by the build.
var (
	version = "dev"
	commit  = "unknown"
)

func main() {
	// before anything else: a stop that is not heard now is a kill later
	signals := supervise.CatchSignals()
	os.Exit(run(program{
		start:   time.Now(),
		signals: signals,
		args:    os.Args[1:],
		streams: boot.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr},
	}))
}
