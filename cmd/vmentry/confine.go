package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/vmentry/vmentry/internal/boot"
	"github.com/vmentry/vmentry/internal/confine"
)

// confineCommand is for vmentry's own use: a helper begins as it, so that it is shut in before its first instruction.
func confineCommand() *cobra.Command {
	var r confine.Reach
	cmd := &cobra.Command{
		Use:    confine.Command + " [--read PATH]... [--write PATH]... -- PROGRAM ARGUMENTS...",
		Short:  "Run a program that can reach these files alone, and get no more rights",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || cmd.ArgsLenAtDash() != 0 {
				return usageError{errors.New("a program is missing; it comes after --")}
			}
			return boot.Confine(r, args)
		},
	}
	cmd.Flags().StringArrayVar(&r.Read, "read", nil, "a file, or a directory and all below it, to be read and executed")
	cmd.Flags().StringArrayVar(&r.Write, "write", nil, "a file, or a directory and all below it, to be written too")
	return cmd
}
