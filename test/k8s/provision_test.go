package k8s

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/vmentry/vmentry/test/login"
)

// TestSecret: TLS files of a Secret are files in the guest, with the mode of the configuration, and come to light nowhere.
func TestSecret(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	k := c.secretKey("secret-vm-keys")
	certificate, key := newCertificate(t)
	c.kubectl("create", "secret", "tls", "secret-vm-tls", "--cert", certificate, "--key", key)
	c.apply("secret.yaml")
	c.ready("secret-vm")
	guest := c.login(net.JoinHostPort(c.address("secret-vm"), "2222"), "core", k)
	for guests, ours := range map[string]string{"/etc/ssl/vm/tls.crt": certificate, "/etc/ssl/vm/tls.key": key} {
		text, err := os.ReadFile(ours)
		if err != nil {
			t.Fatal(err)
		}
		guest.Wants("sudo cat "+guests, strings.TrimSpace(string(text)))
	}
	guest.Wants("sudo stat -c '%a %U' /etc/ssl/vm /etc/ssl/vm/tls.key /etc/ssl/vm/tls.crt", "750 root\n600 root\n644 root")
	text, _ := os.ReadFile(key)
	secret := strings.Split(string(text), "\n")[1] // within the PEM's lines
	if strings.Contains(c.kubectl("logs", "secret-vm"), secret) {
		t.Error("the log has the key")
	}
}

// newCertificate makes files of a certificate and its key.
func newCertificate(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "secret-vm"}, NotAfter: time.Now().Add(time.Hour)}
	public, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for path, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: public}, key: {Type: "EC PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}

// TestCloudConfig: each module of the example's cloud-config is seen in the guest.
func TestCloudConfig(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	k := c.secretKey("cloud-vm")
	c.apply("cloud-config.yaml")
	c.shows("cloud-vm", "the node is up after") // final_message; ssh_pwauth starts sshd anew before it
	c.ready("cloud-vm")
	address := net.JoinHostPort(c.address("cloud-vm"), "2222")
	guest := c.login(address, "core", k)
	guest.Mentions("cloud-init status --wait --long", "status: done")
	guest.Wants("hostname", "node-1")
	guest.Mentions("cat .ssh/authorized_keys", "core@example")
	guest.Wants("sudo cat /etc/node/role", "node")
	guest.Wants("stat -c '%a %U:%G' /etc/node/role", "640 root:adm")
	guest.Wants("cat /var/lib/bootcmd", "bootcmd")
	guest.Wants("cat /var/lib/runcmd", "runcmd as node")
	guest.Mentions("sudo chage -l core", "Password expires") // chpasswd: it may be used as it is
	guest.Wants("sudo chage -l core | grep -c 'must be changed' || true", "0")
	login.Over(t, c.dial(address), "core", ssh.Password("change-me")).Wants("id -un", "core")
}
