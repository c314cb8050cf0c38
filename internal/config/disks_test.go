package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDisks(t *testing.T) {
	tests := []struct {
		name, in string
		want     []Disk
	}{
		{"OK none", "none", nil},
		{"OK size", "10G", []Disk{{Name: "disk1", Size: 10 * GiB, Bus: BusVirtio}}},
		{"OK name", "data=10G", []Disk{{Name: "data", Size: 10 * GiB, Bus: BusVirtio}}},
		{"OK names by place", "10G, data=1G ,20G", []Disk{
			{Name: "disk1", Size: 10 * GiB, Bus: BusVirtio}, {Name: "data", Size: GiB, Bus: BusVirtio}, {Name: "disk3", Size: 20 * GiB, Bus: BusVirtio},
		}},
		{"OK file", "/images/data.qcow2:ro", []Disk{{Name: "disk1", Path: "/images/data.qcow2", Bus: BusVirtio, ReadOnly: true}}},
		{"OK relative file", "./data.img", []Disk{{Name: "disk1", Path: "./data.img", Bus: BusVirtio}}},
		{"OK bus", "a=/dev/sdb:bus=SCSI:ro", []Disk{{Name: "a", Path: "/dev/sdb", Bus: BusSCSI, ReadOnly: true}}},
		{"OK options in any order", "a=/dev/sdb:ro:bus=scsi", []Disk{{Name: "a", Path: "/dev/sdb", Bus: BusSCSI, ReadOnly: true}}},
		{"OK bus of a size", "10G:bus=nvme", []Disk{{Name: "disk1", Size: 10 * GiB, Bus: BusNVMe}}},
		{"OK colons in a path", "/dev/disk/by-path/pci-0000:00:1f.2-ata-1", []Disk{{Name: "disk1", Path: "/dev/disk/by-path/pci-0000:00:1f.2-ata-1", Bus: BusVirtio}}},
		{"OK equals sign in a path", "/data/a=b.img", []Disk{{Name: "disk1", Path: "/data/a=b.img", Bus: BusVirtio}}},
		{"OK one file twice to read", "/a:ro,/a:ro", []Disk{{Name: "disk1", Path: "/a", Bus: BusVirtio, ReadOnly: true}, {Name: "disk2", Path: "/a", Bus: BusVirtio, ReadOnly: true}}},
		{"OK blanks", " a= /a :ro :bus=ide ", []Disk{{Name: "a", Path: "/a", Bus: BusIDE, ReadOnly: true}}},
		{"OK longest name", "12345678901234567890=1G", []Disk{{Name: "12345678901234567890", Size: GiB, Bus: BusVirtio}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseDisks(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseDisksRefuses(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"bad source", "disk", "neither a size nor a path"},
		{"bad empty entry", "10G,", "neither a size nor a path"},
		{"bad no source", "a=", "neither a size nor a path"},
		{"bad only options", ":ro", "neither a size nor a path"},
		{"bad size", "a=1", "too small"},
		{"bad option", "/a:rw", `option "rw"`},
		{"bad option with a value", "/a:cache=none", `option "cache=none"`},
		{"bad option twice", "/a:ro:ro", `option "ro"`},
		{"bad value", "/a:ro=1", `option "ro=1"`},
		{"bad bus", "/a:bus=usb", "write virtio"},
		{"bad no bus", "/a:bus", `option "bus"`},
		{"bad name", "a b=1G", "not a disk's name"},
		{"bad empty name", "=1G", "not a disk's name"},
		{"bad hidden name", ".a=1G", "not a disk's name"},
		{"bad long name", "123456789012345678901=1G", "at most 20"},
		{"bad name twice", "a=1G,a=2G", "called a too"},
		{"bad name of another's place", "disk2=1G,2G", "called disk2 too"},
		{"bad one file twice", "/a,b=//a:ro", "the same file"},
		{"bad new and read-only", "1G:ro", "makes no sense"},
		{"bad directory", "/a/", "is a directory"},
		{"bad URL", "https://example.org/a", "a URL cannot"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := parseDisks(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v; want an error with %q", got, err, tt.want)
			}
		})
	}
}

func TestParseVolumes(t *testing.T) {
	tests := []struct {
		name, in string
		want     []Volume
	}{
		{"OK none", "none", nil},
		{"OK one", "src=/src", []Volume{{Tag: "src", Path: "/src"}}},
		{"OK all", "a=/a/:ro, b=/b@/mnt/b/:ro", []Volume{{Tag: "a", Path: "/a", ReadOnly: true}, {Tag: "b", Path: "/b", GuestPath: "/mnt/b", ReadOnly: true}}},
		{"OK at sign in a name", "a=/a@b", []Volume{{Tag: "a", Path: "/a@b"}}},
		{"OK one directory twice", "a=/a,b=/a", []Volume{{Tag: "a", Path: "/a"}, {Tag: "b", Path: "/a"}}},
		{"OK blank in the pod", "a=/my files@/devices", []Volume{{Tag: "a", Path: "/my files", GuestPath: "/devices"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseVolumes(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	for name, in := range map[string]string{
		"bad no tag": "/src", "bad empty tag": "=/src", "bad tag": "a/b=/src", "bad long tag": strings.Repeat("a", 37) + "=/src", "bad relative": "a=src",
		"bad no path": "a=", "bad tag twice": "a=/a,a=/b", "bad place twice": "a=/a@/m,b=/b@/m", "bad root": "a=/a@/", "bad kernel's place": "a=/a@/proc/x", "bad devices": "a=/a@/dev", "bad blank in the guest": "a=/a@/my files", "bad backslash": `a=/a@/x\y`,
		"bad too many": "a=/a,b=/a,c=/a,d=/a,e=/a,f=/a,g=/a,h=/a,i=/a", "bad name like an option": "a=/x:ro/", "bad blank": "a=/a /", "bad empty entry": "a=/a,",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := parseVolumes(in); err == nil {
				t.Errorf("%q is %v", in, got)
			}
		})
	}
}

// What is read has valid names, each once, and reads the same from its own spelling.
func FuzzParseDisks(f *testing.F) {
	for _, s := range []string{
		"10G", "data=10G,/dev/sdb:ro", "a=/dev/sdb:bus=scsi:ro", "/dev/disk/by-path/pci-0000:00:1f.2-ata-1", "/data/a=b.img", "a=:ro", ":", "=", "disk2=1G,2G", "/a:ro,/a:ro", "a= /x :ro",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		disks, _ := parseDisks(s)
		spelled := make([]string, len(disks))
		names := make(map[string]bool)
		for i, d := range disks {
			spelled[i] = d.String()
			if (d.Path == "") == (d.Size == 0) || len(d.Name) > maxSerial || names[d.Name] {
				t.Errorf("%q: %+v", s, d)
			}
			names[d.Name] = true
		}
		if len(disks) == 0 {
			return
		}
		again, err := parseDisks(strings.Join(spelled, ","))
		if err != nil {
			t.Fatalf("%q is %v, which is wrong: %v", s, disks, err)
		}
		if diff := cmp.Diff(disks, again); diff != "" {
			t.Errorf("%q is %v, and again\n%s", s, disks, diff)
		}
	})
}

func FuzzParseVolumes(f *testing.F) {
	for _, s := range []string{"src=/src", "a=/a@/mnt/a:ro", "a=/a@b", "a=/@/@/", "=", "a=/a:ro:ro", "a=/ @/ ", "a=/x:ro/", "a=/a@/b /:ro"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		volumes, _ := parseVolumes(s)
		spelled := make([]string, len(volumes))
		for i, v := range volumes {
			spelled[i] = v.String()
		}
		if len(volumes) == 0 {
			return
		}
		again, err := parseVolumes(strings.Join(spelled, ","))
		if err != nil {
			t.Fatalf("%q is %v, which is wrong: %v", s, volumes, err)
		}
		if diff := cmp.Diff(volumes, again); diff != "" {
			t.Errorf("%q is %v, and again\n%s", s, volumes, diff)
		}
	})
}
