package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vmentry/vmentry/internal/boot"
)

func (p program) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Make, list, restore and delete snapshots of the VM's disk, or export it",
		Long: `Snapshots are copies of the VM's main disk, kept in the data directory. They are made while the VM runs, or when it is off. What is
restored takes the disk's place when the VM starts next, and the disk of before becomes a snapshot.`,
		Args: func(_ *cobra.Command, args []string) error {
			return usageError{errors.New("snapshot takes one of create, list, restore, delete, export")}
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(p.snapshotCreate(), p.snapshotList(), p.snapshotRestore(), p.snapshotDelete(), p.snapshotExport())
	return cmd
}

// oneName is for commands that take the name of a snapshot and nothing else.
func oneName(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{errors.New("it takes the name of a snapshot")}
	}
	return nil
}

// freezeFlag adds the flag that says whether the guest is frozen.
func freezeFlag(cmd *cobra.Command, freeze *string) {
	cmd.Flags().StringVar(freeze, "freeze", string(boot.FreezeAuto), "have the guest's agent bring its file systems to rest for a moment: auto, always (or fail), never")
}

func parseFreeze(s string) (boot.Freeze, error) {
	switch f := boot.Freeze(s); f {
	case boot.FreezeAuto, boot.FreezeAlways, boot.FreezeNever:
		return f, nil
	}
	return "", usageError{fmt.Errorf("--freeze %q: it is auto, always or never", s)}
}

func (p program) snapshotCreate() *cobra.Command {
	var freeze string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a snapshot", Args: oneName,
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := parseFreeze(freeze)
			if err != nil {
				return err
			}
			return p.until(func(ctx context.Context) error { return boot.CreateSnapshot(ctx, p.streams, args[0], f) })
		},
	}
	freezeFlag(cmd, &freeze)
	return cmd
}

func (p program) snapshotList() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "list", Short: "List the snapshots", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("-o %q: it is text or json", output)}
			}
			return boot.ListSnapshots(p.streams, output == "json")
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func (p program) snapshotRestore() *cobra.Command {
	var cancel bool
	cmd := &cobra.Command{
		Use: "restore NAME", Short: "Put a snapshot in the disk's place when the VM starts next; the disk of before becomes a snapshot",
		Args: func(cmd *cobra.Command, args []string) error {
			if cancel {
				return noArgs(cmd, args)
			}
			return oneName(cmd, args)
		},
		RunE: func(_ *cobra.Command, args []string) error {
			return p.until(func(ctx context.Context) error {
				if cancel {
					return boot.CancelRestore(ctx, p.streams)
				}
				return boot.RestoreSnapshot(ctx, p.streams, args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&cancel, "cancel", false, "restore nothing at the next start")
	return cmd
}

func (p program) snapshotDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a snapshot", Args: oneName,
		RunE: func(_ *cobra.Command, args []string) error {
			return p.until(func(ctx context.Context) error { return boot.DeleteSnapshot(ctx, p.streams, args[0]) })
		},
	}
}

func (p program) snapshotExport() *cobra.Command {
	var freeze string
	var o boot.ExportOptions
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write the disk, as it is now, to a qcow2 file that stands alone, or with - to standard output",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("export takes a file, or - for standard output")}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var err error
			if o.Freeze, err = parseFreeze(freeze); err != nil {
				return err
			}
			return p.until(func(ctx context.Context) error { return boot.Export(ctx, p.streams, args[0], o) })
		},
	}
	freezeFlag(cmd, &freeze)
	cmd.Flags().BoolVar(&o.Replace, "force", false, "replace a file that is there")
	cmd.Flags().BoolVar(&o.Compress, "compress", false, "compress it, which takes longer")
	return cmd
}
