package boot

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/qemu"
)

// TestNICs: the descriptors are numbered in the order in which QEMU inherits them.
func TestNICs(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	got := nics(network.Plan{NICs: []network.NIC{
		{Model: "virtio", MAC: mac, MTU: 9000, Tap: &network.Tap{Queues: 2, Vhost: true}},
		{Model: "e1000", MAC: mac, Tap: &network.Tap{Queues: 1}},
	}})
	want := []qemu.NIC{
		{Model: "virtio", MAC: mac, MTU: 9000, Tap: &qemu.Tap{FDs: []int{3, 4}, VhostFDs: []int{5, 6}}},
		{Model: "e1000", MAC: mac, Tap: &qemu.Tap{FDs: []int{7}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
