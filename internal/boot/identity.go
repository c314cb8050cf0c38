package boot

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/disk"
)

// vmIdentity is what the guest's MAC address, system UUID and instance id are made from: that of the data directory if it
// has one, because a guest must not take itself for another when its pod has a new name; else the pod's.
func vmIdentity(cfg config.Config, host Host) string {
	data, err := os.ReadFile(filepath.Join(cfg.DataDir, disk.IdentityName))
	if id := strings.TrimSpace(string(data)); err == nil && id != "" {
		return id
	}
	return host.Identity
}

// rememberIdentity writes whose data these are into the data directory, once. It comes into being whole or not at all.
func rememberIdentity(dataDir, identity string) error {
	name := filepath.Join(dataDir, disk.IdentityName)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	return diskFailure(disk.WriteFile(name, []byte(identity+"\n")))
}

// uuid makes a UUID of version 8 (RFC 9562, section 5.8) from an identity.
func uuid(identity string) string {
	b := sha256.Sum256([]byte("vmentry UUID " + identity))
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// podNamespaceFile is where Kubernetes says which namespace a pod is in, unless its service account is not to be mounted.
const podNamespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// lockHolder is what this container leaves in a lock for the one who comes second: its host name, and what Kubernetes has told by the
// usual names of the downward API.
func lockHolder() disk.Holder {
	host, _ := os.Hostname()
	h := disk.Holder{
		Host: host, PID: os.Getpid(), Since: time.Now(),
		Pod: os.Getenv("POD_NAME"), Namespace: os.Getenv("POD_NAMESPACE"), Node: os.Getenv("NODE_NAME"),
	}
	if namespace, err := os.ReadFile(podNamespaceFile); err == nil && h.Namespace == "" {
		h.Namespace = strings.TrimSpace(string(namespace))
	}
	return h
}
