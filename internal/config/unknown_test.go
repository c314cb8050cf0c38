package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUnknown(t *testing.T) {
	tests := []struct {
		name, in, want string
	}{
		{"OK known", "VM_MEMORY=4G", ""},
		{"OK empty", "VM_MEMROY=", ""},
		{"OK somebody else's", "PATH=/bin", ""},
		{"OK somebody else's config", "CONFIGS=1", ""},
		{"OK a config of somebody else", "MY_CONFIG_FILE=1", ""},
		{"OK service", "VM_SERVICE_HOST=10.0.0.1", ""},
		{"OK service's port", "VM_SERVICE_PORT=22", ""},
		{"OK service's named port", "VM_SERVICE_PORT_SSH=22", ""},
		{"OK service's link", "VM_PORT=tcp://10.0.0.1:22", ""},
		{"OK service's port link", "VM_PORT_22_TCP=tcp://10.0.0.1:22", ""},
		{"OK service's address", "VM_PORT_22_TCP_ADDR=10.0.0.1", ""},
		{"OK service's port number", "VM_PORT_22_TCP_PORT=22", ""},
		{"OK service's protocol", "VM_PORT_53_UDP_PROTO=udp", ""},
		{"OK service with a longer name", "VM_FOO_SERVICE_HOST=10.0.0.1", ""},
		{"OK address of a service with a longer name", "VM_FOO_PORT_22_TCP_ADDR=10.0.0.1", ""},
		{"OK service with the name of a variable", "VM_MEMORY_PORT=tcp://10.0.0.1:22", ""},
		{"OK service of somebody else's", "CLOUD_CONFIG_SERVICE_HOST=10.0.0.1", ""},
		{"bad letters swapped", "VM_MEMROY=4G", "did you mean VM_MEMORY?"},
		{"bad a letter too few", "VM_CPU=2", "did you mean VM_CPUS?"},
		{"bad the beginning", "VM_MEM=4G", "did you mean VM_MEMORY?"},
		{"bad lower case", "vm_memory=4G", "did you mean VM_MEMORY?"},
		{"bad far from all", "VM_FROBNICATE=1", "`vmentry env` lists them"},
		{"bad almost a service", "VM_PORT_SSH=22", "`vmentry env` lists them"},
		{"bad HOST_FWD", "HOST_FWD=2222:22", "did you mean HOSTFWD?"},
		{"bad Ignition's path", "IGNITION_CONFIG_PATH=/c", "did you mean IGNITION_CONFIG_FILE?"},
		{"bad cloud config", "CLOUDCONFIG_FILE=/c", "did you mean CLOUD_CONFIG_FILE?"},
		{"bad config file", "CONFIG_FLIE=/c", "did you mean CONFIG_FILE?"},
		{"bad RancherVM", "RANCHERVM=true", "did you mean RANCHER_VM?"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got string
			for _, w := range unknown([]string{tt.in, "VM_CPUS=1"}) {
				got += w.Problem
			}
			want := tt.want
			if want != "" {
				want = "not a variable of vmentry; " + want
			}
			if got != want {
				t.Errorf("%s: %q, want %q", tt.in, got, want)
			}
		})
	}
}

func TestUnknownIsInOrder(t *testing.T) {
	got := unknown([]string{"VM_ZZZ=1", "VM_AAA=1"})
	want := []Warning{
		{"VM_AAA", "not a variable of vmentry; `vmentry env` lists them"},
		{"VM_ZZZ", "not a variable of vmentry; `vmentry env` lists them"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestNoVariableLooksLikeAService(t *testing.T) {
	for _, v := range variables(raw{}) {
		if serviceVariable().MatchString(v.name) {
			t.Errorf("%s", v.name)
		}
	}
}
