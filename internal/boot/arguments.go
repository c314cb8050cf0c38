package boot

import (
	"fmt"
	"os"
	"strings"

	"github.com/vmentry/vmentry/internal/supervise"
)

// own are the flags that vmentry itself takes as a first argument.
var own = map[string]bool{"-h": true, "--help": true, "--version": true}

// BareArguments understands the oldest way to call an image: QEMU's arguments without a word before them, as in
// "IMAGE -m 1024m -smp 1". It returns the arguments as vmentry's commands take them. The sizes of memory and processor
// among them are settings, and are put into the environment, where they count more than what is there. After a first "--"
// all are QEMU's, as they are.
func BareArguments(args []string) ([]string, error) {
	if len(args) > 0 && args[0] == "--" {
		return append([]string{"boot"}, args...), nil
	}
	if len(args) == 0 || !strings.HasPrefix(args[0], "-") || own[args[0]] {
		return args, nil
	}
	rest := []string{"boot", "--"}
	for i := 0; i < len(args); i++ {
		variable, key := "", ""
		switch args[i] {
		case "-m", "--m":
			variable, key = "VM_MEMORY", "size"
		case "-smp", "--smp":
			variable, key = "VM_CPUS", "cpus"
		default:
			rest = append(rest, args[i])
			continue
		}
		if i+1 == len(args) {
			return nil, fail(supervise.Usage, "%s wants a value", args[i])
		}
		value, err := single(args[i], args[i+1], key)
		if err != nil {
			return nil, err
		}
		if err := os.Setenv(variable, value); err != nil {
			return nil, err
		}
		i++
	}
	return rest, nil
}

// single takes the one value that vmentry sets by itself out of QEMU's "VALUE" or "key=VALUE".
func single(option, text, key string) (string, error) {
	value := strings.TrimPrefix(text, key+"=")
	if strings.ContainsAny(value, ",=") {
		return "", fail(supervise.Usage, "%s %s: only the plain form is understood, %s %s; for more use VM_ARGS or arguments after --", option, text, option, fmt.Sprintf("[%s=]VALUE", key))
	}
	return value, nil
}
