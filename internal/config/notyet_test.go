package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNotYet(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want string
	}{
		{"OK nothing", nil, ""},
		{"OK what there is", map[string]string{"VM_NETWORK": "none", "VM_READY": "none", "VM_IMAGE": "https://me:hush@h/a", "VM_IMAGE_SHA256": "auto", "VM_FIRMWARE": "uefi", "VM_TPM": "no", "VM_DISKS": "10G", "VM_VOLUMES": "a=/a", "VM_DISK_MODE": "direct", "VM_DISK_ON_NEW_IMAGE": "recreate", "RANCHER_VM": "true"}, ""},
		{"OK web", map[string]string{"VM_HTTP": ":8080", "VM_HTTP_TOKEN": "hush", "VM_DISPLAY": "vnc", "VM_READY": "boot"}, ""},
		{"bad machine", map[string]string{"VM_FIRMWARE": "secureboot", "VM_TPM": "1"}, strings.Join([]string{
			`VM_FIRMWARE="secureboot": not in this release; write bios, uefi or auto`,
			`VM_TPM="true": not in this release; write false`,
		}, "\n")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _, mistakes := parseEnv(tt.env)
			if err := mistakes.Err(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, c.NotYet().Error()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
