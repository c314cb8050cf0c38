package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/vmentry/vmentry/internal/boot"
	"github.com/vmentry/vmentry/internal/volume"
)

// confineCommand is for vmentry's own use: a helper begins as it, so that it is shut in before its first instruction.
func confineCommand() *cobra.Command {
	var c volume.Confinement
	cmd := &cobra.Command{
		Use:    volume.ConfineCommand + " [--read PATH]... [--write PATH]... -- PROGRAM ARGUMENTS...",
		Short:  "Run a program that can reach these files alone, and get no more rights",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || cmd.ArgsLenAtDash() != 0 {
				return usageError{errors.New("a program is missing; it comes after --")}
			}
			return boot.Confine(c, args)
		},
	}
	cmd.Flags().StringArrayVar(&c.Read, "read", nil, "a file, or a directory and all below it, to be read and executed")
	cmd.Flags().StringArrayVar(&c.Write, "write", nil, "a directory, to be written too with all below it")
	return cmd
}
