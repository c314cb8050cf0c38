package manifests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// secretFiles stand for the Secrets that a user makes.
var secretFiles = map[string]string{
	"keys":    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAzRUq2yXsU5Q3p8dYyT5kJf0VxW5tE3kY6m1nL2bB9c core@example\n",
	"tls.crt": "a certificate\n",
	"tls.key": "a key\n",
}

// provision has vmentry translate the configuration of an example's VM, with the pod's ConfigMaps and Secrets as files below dir. All variables are
// checked on the way.
func provision(vmentry, dir string, e example, p pod) error {
	c := p.vm()
	places := map[string]string{}
	for _, m := range c.VolumeMounts {
		at := filepath.Join(dir, m.MountPath)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		places[m.MountPath] = at
		for _, v := range p.spec.Volumes {
			if v.Name != m.Name {
				continue
			}
			for name, text := range filesOf(e, v) {
				if err := os.WriteFile(filepath.Join(at, name), []byte(text), 0o600); err != nil {
					return err
				}
			}
		}
	}
	cmd := exec.Command(vmentry, "provision", "-o", filepath.Join(dir, "out"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "VM_RUN_DIR=" + filepath.Join(dir, "run"), "VM_DATA_DIR=" + filepath.Join(dir, "data")}
	for _, v := range c.Env {
		cmd.Env = append(cmd.Env, v.Name+"="+moved(v.Name, v.Value, places))
	}
	// a warning is one too many: of a key that Butane does not know, of a variable that vmentry does not know
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		return fmt.Errorf("vmentry provision: %v\n%s", err, out)
	}
	for variable, file := range map[string]string{"CONFIG_FILE": "ignition.json", "CLOUD_CONFIG_FILE": "seed.iso"} {
		if _, err := os.Stat(filepath.Join(dir, "out", file)); err != nil && value(c, variable) != "" {
			return fmt.Errorf("%s has become nothing: %w", variable, err)
		}
	}
	return nil
}

// filesOf are the files in a volume.
func filesOf(e example, v corev1.Volume) map[string]string {
	switch {
	case v.ConfigMap != nil:
		return configMap(e, v.ConfigMap.Name)
	case v.Secret != nil:
		return secretFiles
	case v.Projected != nil:
		files := map[string]string{}
		for _, s := range v.Projected.Sources {
			more := secretFiles
			if s.ConfigMap != nil {
				more = configMap(e, s.ConfigMap.Name)
			}
			for name, text := range more {
				files[name] = text
			}
		}
		return files
	}
	return nil
}

func configMap(e example, name string) map[string]string {
	for _, o := range e.objects {
		if m, ok := o.(*corev1.ConfigMap); ok && m.Name == name {
			return m.Data
		}
	}
	return nil
}

// moved is a variable's value with a file of the pod where it is in this test. Only what provision reads is moved.
func moved(name, value string, places map[string]string) string {
	if !strings.HasSuffix(name, "_FILE") {
		return value
	}
	for from, to := range places {
		if rest, ok := strings.CutPrefix(value, from+"/"); ok {
			return filepath.Join(to, rest)
		}
	}
	return value
}
