package network

import (
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"

	"github.com/vmentry/vmentry/test/pod"
)

// TestImageInBridgeMode: an image comes over the pod's network, also in a restart with nothing but the pod's network left, in which the guest of
// last time still has the pod's addresses. Then they are the guest's.
func TestImageInBridgeMode(t *testing.T) {
	t.Parallel()
	p := pod.New(t, pod.Named(t, "flannel"))
	disk := make([]byte, 1<<20)
	disk[0], disk[510], disk[511] = 0xfa, 0x55, 0xaa
	var listener net.Listener
	if err := p.Client.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(pod.Client4.String(), "80"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	fetched := 0
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fetched++
		w.Write(disk)
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	c := newContainer(t, p, bridge, "", "PATH="+binaries.FakeQEMU+":"+os.Getenv("PATH"), "VM_IMAGE=http://"+pod.Client4.String()+"/disk.raw")
	for range 2 {
		v := c.start(t)
		v.Stderr.Await(t, "QEMU started")
		if own := p.Space.Run(t, "ip", "route", "show", "table", "local", "dev", "eth0", "type", "local"); own != "" {
			t.Errorf("the pod keeps the guest's address:\n%s", own)
		}
		v.Signal(t, syscall.SIGKILL)
		v.Exit(t)
		if err := os.RemoveAll(c.data); err != nil {
			t.Fatal(err)
		}
		c.forgetRun(t)
	}
	if fetched != 2 {
		t.Errorf("the image was fetched %d times", fetched)
	}
}
