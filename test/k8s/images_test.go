package k8s

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// What the pods run. The tiny image is the tests' own: a guest that boots in seconds, answers on port 22 with a line, and prints what
// machine it has; with the program outside beside it. Tests put it in the place of vmentry/debian where they are about the cluster, and not about what Debian does.
const (
	base   = "vmentry:latest"
	debug  = "vmentry:debug" // has a shell
	debian = "vmentry/debian:latest"
	tiny   = "vmentry/tiny:latest"
)

// bring brings the images to the cluster's nodes, as E2E_IMPORT and E2E_REGISTRY say. Without either they are there.
func bring() error {
	if os.Getenv("E2E_IMPORT") == "" && os.Getenv("E2E_REGISTRY") == "" {
		return nil
	}
	name, err := engine()
	if err != nil {
		return err
	}
	if err := makeTiny(name); err != nil {
		return fmt.Errorf("%s: %w", tiny, err)
	}
	for _, image := range []string{base, debug, debian, tiny} {
		if err := bringImage(name, image); err != nil {
			return err
		}
	}
	return nil
}

// engine is docker or podman.
func engine() (string, error) {
	name, err := exec.Command("bash", "-c", `. ../../images/lib.sh; engine`).Output()
	if err != nil {
		return "", fmt.Errorf("neither docker nor podman answers: %w", err)
	}
	return strings.TrimSpace(string(name)), nil
}

func bringImage(engine, image string) error {
	if command := os.Getenv("E2E_IMPORT"); command != "" {
		if err := do("sh", "-c", command+` "$0"`, image); err != nil {
			return fmt.Errorf("E2E_IMPORT: %w", err)
		}
	}
	if os.Getenv("E2E_REGISTRY") != "" {
		if err := do(engine, "tag", image, reference(image)); err != nil {
			return err
		}
		if err := do(engine, "push", reference(image)); err != nil {
			return fmt.Errorf("E2E_REGISTRY: %w", err)
		}
	}
	return nil
}

// reference is where the nodes get an image from.
func reference(image string) string {
	if registry := os.Getenv("E2E_REGISTRY"); registry != "" {
		return strings.TrimSuffix(registry, "/") + "/" + image
	}
	return image
}

func do(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

const tinyDockerfile = `FROM vmentry:latest
COPY vmlinuz initrd /tiny/
COPY disk.raw /image/
COPY outside /usr/bin/
ENV VM_KERNEL=/tiny/vmlinuz VM_INITRD=/tiny/initrd \
    VM_CMDLINE="console=ttyS0 quiet no_timer_check panic=0 vmtest.listen=22 vmtest.disks vmtest.read"
`

// makeTiny builds the tiny image, of the guest whose kernel has the drivers of old network cards.
func makeTiny(engine string) error {
	dir, err := os.MkdirTemp("", "vmentry-tiny-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	guest := filepath.Join("..", "..", ".cache")
	if c := os.Getenv("VMENTRY_CACHE"); c != "" {
		guest = c
	}
	for _, file := range []string{"vmlinuz", "initrd"} {
		if err := copyFile(filepath.Join(guest, "tinyguest-all-cards", file), filepath.Join(dir, file)); err != nil {
			return fmt.Errorf("%w; make it with: make tinyguest", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(tinyDockerfile), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "disk.raw"), make([]byte, 4<<20), 0o644); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "outside"), "./outside")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	args := []string{"build", "-t", tiny, dir}
	if engine == "podman" {
		args = []string{"build", "--pull=never", "--format", "docker", "-t", tiny, dir}
	}
	return do(engine, args...)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
