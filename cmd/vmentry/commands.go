package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmentry/vmentry/internal/boot"
	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/supervise"
)

// program is what a start of vmentry was given.
type program struct {
	start   time.Time
	signals *supervise.Signals
	args    []string
	streams boot.Streams
}

// run carries out one command and returns the process's exit code.
func run(p program) int {
	args, err := boot.BareArguments(p.args)
	if err == nil {
		root := p.root()
		root.SetArgs(args)
		root.SetOut(p.streams.Out)
		root.SetErr(p.streams.Err)
		err = root.Execute()
	}
	var code exit
	switch {
	case err == nil:
		return supervise.OK
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, new(usageError)):
		fmt.Fprintf(p.streams.Err, "vmentry: %v (see vmentry --help)\n", err)
		return supervise.Usage
	default:
		fmt.Fprintln(p.streams.Err, "vmentry:", err)
		return boot.ExitCode(err)
	}
}

// exit is an exit code that needs no more words.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a mistake on the command line.
type usageError struct{ error }

// until runs f with a context that a signal cancels.
func (p program) until(f func(context.Context) error) error {
	ctx, end := p.signals.Until(context.Background())
	defer end()
	return f(ctx)
}

// within is [program.until], for at most so long.
func (p program) within(timeout time.Duration, f func(context.Context) error) error {
	return p.until(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return f(ctx)
	})
}

func (p program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "vmentry",
		Short: "Boot a virtual machine in a container",
		Long: `vmentry is the entrypoint of a container image that boots a virtual machine. Environment variables configure it: see
vmentry env. Without a command it boots. A first argument that begins with a dash and is none of vmentry's own makes all of
them QEMU's: IMAGE -m 1024m -smp 1.`,
		Version:       version,
		Args:          noArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(*cobra.Command, []string) error { return p.boot(nil) },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		p.bootCommand(), p.planCommand(), p.provisionCommand(), p.envCommand(), p.probeCommand(),
		p.button("powerdown", "Press the VM's power button"),
		p.button("reset", "Press the VM's reset button"),
		p.button("pause", "Stop the VM's processors"),
		p.button("resume", "Let a paused VM go on"),
		p.execCommand(), p.snapshotCommand(),
		p.statusCommand(), p.consoleCommand(), p.versionCommand(), p.recordCommand(),
	)
	return root
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown command or argument %q", args[0])}
	}
	return nil
}

func (p program) boot(qemuArgs []string) error {
	if code := boot.Run(p.signals, p.start, p.streams, boot.Build{Version: version, Commit: commit}, qemuArgs); code != supervise.OK {
		return exit(code)
	}
	return nil
}

func (p program) bootCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "boot [-- QEMU ARGUMENTS...]",
		Short: "Boot the VM and stay with it until it is off (what vmentry alone does)",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return usageError{fmt.Errorf("unknown argument %q; QEMU's own come after --", args[0])}
			}
			return p.boot(args)
		},
	}
}

func (p program) planCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "plan [-- QEMU ARGUMENTS...]",
		Short: "Print what boot would do, and change nothing",
		RunE: func(cmd *cobra.Command, args []string) error {
			print, ok := map[string]func(boot.Plan) (string, error){"text": boot.Plan.Text, "json": boot.Plan.JSON, "shell": boot.Plan.Shell}[output]
			if !ok {
				return usageError{fmt.Errorf("-o %q: it is text, json or shell", output)}
			}
			return p.until(func(ctx context.Context) error {
				plan, err := boot.Prepare(ctx, args)
				if err != nil {
					for _, w := range plan.Warnings { // a misspelt variable may be the reason
						fmt.Fprintln(cmd.ErrOrStderr(), "vmentry: warning:", w)
					}
					return err
				}
				text, err := print(plan)
				if err == nil {
					_, err = fmt.Fprint(cmd.OutOrStdout(), text)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, json, or shell: a script that can be pasted")
	return cmd
}

func (p program) provisionCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "provision",
		Short: "Translate the guest's configuration: print the Ignition, with its secrets, or write it and the seed to a directory",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return boot.Provision(cmd.OutOrStdout(), cmd.ErrOrStderr(), dir)
		},
	}
	cmd.Flags().StringVarP(&dir, "output", "o", "", "directory to write ignition.json and seed.iso to")
	return cmd
}

func (p program) envCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the environment variables",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch output {
			case "text":
				fmt.Fprint(cmd.OutOrStdout(), config.Text(boot.TerminalWidth(os.Stdout)))
			case "markdown":
				fmt.Fprint(cmd.OutOrStdout(), config.Markdown())
			default:
				return usageError{fmt.Errorf("-o %q: it is text or markdown", output)}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or markdown")
	return cmd
}

func (p program) probeCommand() *cobra.Command {
	timeout := boot.ProbeTimeout
	cmd := &cobra.Command{
		Use:   "probe startup|ready|live",
		Short: "Exit 0 or 1, with one line of reason: was the guest ready once, is it now, does the VM live",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains([]string{"ready", "startup", "live"}, args[0]) {
				return usageError{errors.New("probe takes one word: startup, ready or live")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.within(timeout, func(ctx context.Context) error {
				ok, reason := boot.Probe(ctx, args[0])
				fmt.Fprintln(cmd.OutOrStdout(), reason)
				if !ok {
					return exit(1)
				}
				return nil
			})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait for an answer")
	return cmd
}

func (p program) statusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Print the state of the VM: how it is, what it is, and how its start went",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("-o %q: it is text or json", output)}
			}
			return p.within(2*boot.ProbeTimeout, func(ctx context.Context) error {
				return boot.Status(ctx, cmd.OutOrStdout(), output == "json")
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func (p program) button(name, short string) *cobra.Command {
	return &cobra.Command{
		Use:   name,
		Short: short,
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			return p.within(boot.ProbeTimeout, func(ctx context.Context) error {
				return boot.Press(ctx, name)
			})
		},
	}
}

func (p program) execCommand() *cobra.Command {
	var o boot.ExecOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a command in the guest, through the QEMU guest agent",
		Long: `Runs a command in the guest, through the QEMU guest agent, and ends with the command's exit code. There is no shell around it:
for one, write sh -c '...'. Standard input is read to its end first and given to the command, unless it is a terminal; what the
command writes comes when it has ended, and at most 16 MiB of it. A signal is passed on to the command.

Exit codes besides the command's own: 69 no agent answers, 124 the time is up, 126 the command cannot be run, 127 there is no such
command, 128+n it was ended by signal n.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("exec takes a command: vmentry exec -- COMMAND")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			code, err := boot.Exec(p.signals, p.streams, args, o)
			if err == nil && code != supervise.OK {
				return exit(code)
			}
			return err
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the command is the command's
	cmd.Flags().DurationVar(&o.Timeout, "timeout", 0, "end the command after so long, e.g. 30s")
	cmd.Flags().BoolVarP(&o.NoInput, "no-stdin", "n", false, "give it nothing on its standard input, and do not wait for ours")
	cmd.Flags().StringArrayVarP(&o.Env, "env", "e", nil, "NAME=VALUE: its environment, which is then that alone")
	return cmd
}

func (p program) consoleCommand() *cobra.Command {
	var idle time.Duration
	cmd := &cobra.Command{
		Use:   "console",
		Short: "Attach to the VM's serial console; Ctrl-] twice leaves it",
		Long: `Attach to the VM's serial console, beside all others who are. It begins with what was shown last. On a terminal every
key goes to the guest, Ctrl-C too; Ctrl-] twice leaves. Input that is no terminal's is typed as it is, and the console is then
followed until the VM is off, or until it has been silent for as long as --idle says.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			return p.until(func(ctx context.Context) error {
				return boot.Console(ctx, p.streams, idle)
			})
		},
	}
	cmd.Flags().DurationVar(&idle, "idle", 0, "once an input that is no terminal's has ended: leave when the console has been silent for so long")
	return cmd
}

func (p program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of vmentry and of its QEMU",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.until(func(ctx context.Context) error {
				fmt.Fprintf(cmd.OutOrStdout(), "vmentry %s (%s)\nQEMU %s\n", version, commit, boot.QEMUVersion(ctx))
				return nil
			})
		},
	}
}

// recordCommand is for the build of the container image: it saves each start of the image the time to ask QEMU what it can do.
func (p program) recordCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "record DIRECTORY",
		Short:  "Write down what each QEMU of this image can do",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.until(func(ctx context.Context) error {
				files, err := boot.Record(ctx, args[0])
				for _, f := range files {
					fmt.Fprintln(cmd.OutOrStdout(), f)
				}
				return err
			})
		},
	}
}
