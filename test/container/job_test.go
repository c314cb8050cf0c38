package container

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// jobConfig is the Butane config of the example of a Job on Kubernetes.
func jobConfig(t *testing.T) string {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "examples", "k8s", "job.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for objects := yaml.NewDecoder(f); ; {
		var object struct {
			Kind string
			Data map[string]string
		}
		switch err := objects.Decode(&object); {
		case errors.Is(err, io.EOF):
			t.Fatal("the example has no ConfigMap")
		case err != nil:
			t.Fatal(err)
		case object.Kind == "ConfigMap":
			return object.Data["config.yaml"]
		}
	}
}

// TestJob runs the example: the container ends with the code of the build in the guest, and says so where Kubernetes looks for it.
func TestJob(t *testing.T) {
	const program = `echo "hello from $(hostname)"`
	good := jobConfig(t)
	bad := strings.Replace(good, program, "exit 7", 1)
	if bad == good {
		t.Fatalf("the example does not have %s", program)
	}
	for _, tt := range []struct {
		name, config string
		log          string // how the termination log is mounted
		code         int
		message      string // in the termination log
		shows        string
		built        bool
	}{
		{name: "succeeds", config: good, log: ":ro", code: 0, shows: "hello from job-1", built: true},
		{name: "fails", config: bad, code: 7, message: "the guest chose 7 (exit code 7)\n", shows: "Setting up hello-vm"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			options, _ := unprivileged(t, "1000:1000")
			log, out := filepath.Join(t.TempDir(), "log"), anybodys(t)
			if err := os.WriteFile(log, nil, 0o666); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(log, 0o666); err != nil {
				t.Fatal(err)
			}
			options = append(options, userdata(t, map[string]string{"config.yaml": tt.config})...)
			options = append(options, "--volume", log+":/dev/termination-log"+tt.log, "--volume", out+":/out", "--memory", "1g")
			options = append(options, settings("CONFIG_FILE=/userdata/config.yaml", "VM_NAME=job-1", "VM_VOLUMES=out=/out@/srv/out", "VM_NETWORK=none", "VM_WATCHDOG=exit")...)
			m := run(t, options)
			m.wants(tt.code, "it is a job", "the guest has chosen its exit code")
			m.shows(tt.shows)
			if message, _ := os.ReadFile(log); string(message) != tt.message {
				t.Errorf("the termination log says %q, want %q", message, tt.message)
			}
			if _, err := os.Stat(filepath.Join(out, "hello-vm.deb")); (err == nil) != tt.built {
				t.Errorf("the package: %v", err)
			}
		})
	}
}
