package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5l7oFf4qGHZC0q1N8cuiC7hJ9UDGfXDQw3NGcFQ9LF somebody@somewhere"

// parseEnv parses env as if it was the process's environment.
func parseEnv(env map[string]string) (Config, []Warning, Mistakes) {
	var r raw
	values := reflect.ValueOf(&r).Elem()
	for i, v := range variables(r) {
		values.Field(i).SetString(env[v.name])
	}
	return parse(variables(r))
}

// defaults is the Config of an empty environment.
func defaults() Config {
	return Config{
		Accel: AccelAuto, Firmware: FirmwareAuto,
		Image: Image{Kind: ImageFind}, DiskSize: 12 * GiB, DiskBus: BusVirtio, DiskMode: DiskOverlay, DiskOnNewImage: OnNewImageRefuse,
		DataDir: "/var/lib/vmentry", RunDir: "/run/vmentry",
		IgnitionVersion: IgnitionAuto, CloudSeed: SeedNoCloud,
		Network: ModeUser, Forwards: []Forward{{Proto: "tcp", HostPort: 2222, GuestPort: 22}}, DHCP: true, NICModel: NICVirtio,
		ShutdownTimeout: 25 * time.Second, Reboot: RebootReset, Watchdog: WatchdogNone, Supervise: true,
		Ready: Ready{Kind: ReadyTCP, Port: 22}, Console: ConsoleStdio, Display: DisplayNone, LogFormat: LogText,
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want func(*Config)
	}{
		{"OK nothing", nil, func(*Config) {}},
		{"OK empty is unset", map[string]string{"VM_MEMORY": "", "HOSTFWD": " ", "VM_NETWORK": "\n"}, func(*Config) {}},
		{"OK machine", map[string]string{
			"VM_NAME": "box-1.example.org", "VM_MEMORY": "1024m", "VM_CPUS": "2", "VM_CPU_MODEL": "host,-svm", "VM_ACCEL": "KVM", "VM_MACHINE": "q35,hpet=off",
			"VM_FIRMWARE": "uefi", "VM_ARCH": "x86_64", "VM_KERNEL": "/boot/k", "VM_INITRD": "/boot/i", "VM_CMDLINE": "console=ttyS0", "VM_ARGS": "-device 'a b'",
		}, func(c *Config) {
			c.Name, c.Memory, c.CPUs, c.CPUModel, c.Accel, c.Machine = "box-1.example.org", GiB, 2, "host,-svm", AccelKVM, "q35,hpet=off"
			c.Firmware, c.Arch, c.Kernel, c.Initrd, c.Cmdline, c.Args = FirmwareUEFI, ArchAMD64, "/boot/k", "/boot/i", "console=ttyS0", []string{"-device", "a b"}
		}},
		{"OK disk", map[string]string{
			"VM_IMAGE": "/images/a.qcow2", "VM_IMAGE_SHA256": strings.Repeat("AB", 32), "VM_DISK_SIZE": "20G", "VM_DISK_BUS": "sata", "VM_DISK_MODE": "copy",
			"VM_DISK_ON_NEW_IMAGE": "recreate", "VM_DISKS": "data=10G,/dev/sdb:ro", "VM_VOLUMES": "src=/src", "VM_DATA_DIR": "/data/", "VM_RUN_DIR": "/data/../run/vm",
		}, func(c *Config) {
			c.Image, c.ImageSHA256, c.DiskSize = Image{Kind: ImagePath, Path: "/images/a.qcow2"}, Digest(strings.Repeat("ab", 32)), 20*GiB
			c.DiskBus, c.DiskMode, c.DiskOnNewImage = BusSATA, DiskCopy, OnNewImageRecreate
			c.Disks = []Disk{{Name: "data", Size: 10 * GiB, Bus: BusVirtio}, {Name: "disk2", Path: "/dev/sdb", Bus: BusVirtio, ReadOnly: true}}
			c.Volumes, c.DataDir, c.RunDir = []Volume{{Tag: "src", Path: "/src"}}, "/data", "/run/vm"
		}},
		{"OK URL", map[string]string{"VM_IMAGE": "https://me:pw@example.org/a.qcow2?s=1"}, func(c *Config) {
			c.Image = Image{Kind: ImageURL, URL: &url.URL{Scheme: "https", User: url.UserPassword("me", "pw"), Host: "example.org", Path: "/a.qcow2", RawQuery: "s=1"}}
		}},
		{"OK none", map[string]string{
			"VM_IMAGE": "none", "VM_KERNEL": "/k", "VM_DISKS": "none", "VM_VOLUMES": "None", "HOSTFWD": "none", "VM_HTTP": "none", "VM_READY": "none",
			"CONFIG_FILE": "none", "CONFIG": "variant: fcos", "VM_CONSOLE": "none", "VM_SSH_AUTHORIZED_KEYS": "none", "VM_IMAGE_SHA256": "none", "VM_ARGS": "none",
		}, func(c *Config) {
			c.Image, c.Kernel, c.Forwards, c.Ready, c.Butane, c.Console = Image{Kind: ImageNone}, "/k", nil, Ready{Kind: ReadyNone}, Source{Text: "variant: fcos"}, ConsoleNone
		}},
		{"OK provisioning", map[string]string{
			"CONFIG_FILE": "config.yaml", "IGNITION_CONFIG": `{"ignition":{}}`, "CLOUD_CONFIG": "  #cloud-config\n", "VM_SSH_AUTHORIZED_KEYS": "# mine\n" + testKey + "\n\n" + `from="10.0.0.0/8" ` + testKey,
			"VM_SSH_AUTHORIZED_KEYS_FILE": "/k", "VM_SSH_USER": "debian", "VM_IGNITION_VERSION": "3.3", "VM_CLOUD_SEED": "configdrive",
		}, func(c *Config) {
			c.Butane, c.Ignition, c.Cloud = Source{Path: "config.yaml"}, Source{Text: `{"ignition":{}}`}, Source{Text: "  #cloud-config\n"}
			c.SSHAuthorizedKeys, c.SSHAuthorizedKeysFile, c.SSHUser = []string{testKey, `from="10.0.0.0/8" ` + testKey}, "/k", "debian"
			c.IgnitionVersion, c.CloudSeed = Ignition3_3, SeedConfigDrive
		}},
		{"OK Ignition with three numbers", map[string]string{"VM_IGNITION_VERSION": "2.3.0"}, func(c *Config) { c.IgnitionVersion = Ignition2_3 }},
		{"OK RancherVM", map[string]string{"RANCHER_VM": "true", "NO_DHCP": "1"}, func(c *Config) {
			c.Network, c.RancherVM, c.Forwards, c.DHCP = ModeBridge, true, nil, false
		}},
		{"OK RancherVM in another mode", map[string]string{"RANCHER_VM": "yes", "VM_NETWORK": "user"}, func(c *Config) { c.RancherVM = true }},
		{"OK NO_DHCP says what VM_DHCP says", map[string]string{"VM_DHCP": "off", "NO_DHCP": "true"}, func(c *Config) { c.DHCP = false }},
		{"OK network", map[string]string{"VM_NETWORK": "nat", "HOSTFWD": "53:53/udp", "VM_NIC_MODEL": "e1000", "VM_MAC": "52-54-00-AA-bb-01", "VM_INTERFACES": "net1, eth0"}, func(c *Config) {
			c.Network, c.Forwards, c.NICModel = ModeNAT, []Forward{{Proto: "udp", HostPort: 53, GuestPort: 53}}, NICE1000
			c.MAC, c.Interfaces = net.HardwareAddr{0x52, 0x54, 0, 0xaa, 0xbb, 1}, []string{"net1", "eth0"}
		}},
		{"OK nat without HOSTFWD forwards every port", map[string]string{"VM_NETWORK": "nat"}, func(c *Config) { c.Network, c.Forwards = ModeNAT, nil }},
		{"OK HOSTFWD=none in bridge mode", map[string]string{"VM_NETWORK": "bridge", "HOSTFWD": "none"}, func(c *Config) { c.Network, c.Forwards = ModeBridge, nil }},
		{"OK nothing to wait for without a network", map[string]string{"VM_NETWORK": "none"}, func(c *Config) {
			c.Network, c.Forwards, c.Ready = ModeNone, nil, Ready{Kind: ReadyNone}
		}},
		{"OK life", map[string]string{"VM_SHUTDOWN_TIMEOUT": "90", "VM_REBOOT": "exit", "VM_WATCHDOG": "reset", "VM_SUPERVISE": "no", "VM_READY": "exec:systemctl is-active 'my unit'", "VM_DISPLAY": "vnc"}, func(c *Config) {
			c.ShutdownTimeout, c.Reboot, c.Watchdog, c.Supervise, c.Display = 90*time.Second, RebootExit, WatchdogReset, false, DisplayVNC
			c.Ready = Ready{Kind: ReadyExec, Command: []string{"systemctl", "is-active", "my unit"}}
		}},
		{"OK observation", map[string]string{"VM_NETWORK": "bridge", "VM_HTTP": ":8080", "VM_HTTP_INTERCEPT": "1", "VM_HTTP_TOKEN": "s3cret", "VM_LOG_FORMAT": "JSON", "VM_LOG_LEVEL": "Warn", "VM_READY": "agent", "VM_TPM": "on"}, func(c *Config) {
			c.Network, c.Forwards, c.HTTP, c.HTTPIntercept = ModeBridge, nil, Address{Port: 8080}, true
			c.HTTPToken, c.LogFormat, c.LogLevel, c.Ready, c.TPM = "s3cret", LogJSON, slog.LevelWarn, Ready{Kind: ReadyAgent}, true
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, _, mistakes := parseEnv(tt.env)
			if err := mistakes.Err(); err != nil {
				t.Fatal(err)
			}
			want := defaults()
			tt.want(&want)
			want.Set = make(map[string]bool)
			for name, value := range tt.env {
				if strings.TrimSpace(value) != "" {
					want.Set[name] = true
				}
			}
			if diff := cmp.Diff(want, got, compare, cmp.AllowUnexported(url.Userinfo{})); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// bad has at least one bad value for every variable that can have one.
var bad = map[string][]string{
	"VM_NAME":              {"-box", "box_1", "a..b", strings.Repeat("a", 64), strings.Repeat("ab.", 30) + "a", "a b", "bücher"},
	"VM_MEMORY":            {"4X", "15M", "65T", "1.5", "-4G", "4 G", "none", "4294967296"},
	"VM_CPUS":              {"0", "1025", "2.5", "1500m", "-1", "all", "2,sockets=2"},
	"VM_CPU_MODEL":         {"host -svm", "help", ",-svm", "host,"},
	"VM_ACCEL":             {"hvf", "none"},
	"VM_MACHINE":           {"q35 smm", "?"},
	"VM_FIRMWARE":          {"efi"},
	"VM_TPM":               {"2.0"},
	"VM_ARCH":              {"riscv64"},
	"VM_KERNEL":            {"/boot/"},
	"VM_INITRD":            {"/boot/", "/boot/initrd"},
	"VM_CMDLINE":           {"quiet"},
	"VM_ARGS":              {"-device 'a"},
	"VM_IMAGE":             {"ftp://example.org/a", "https:///a", "/image/", "none"},
	"VM_IMAGE_SHA256":      {"abcd", strings.Repeat("x", 64), strings.Repeat("a", 63)},
	"VM_DISK_SIZE":         {"20", "0", "1.0001K", "2P", "none", "-1G"},
	"VM_DISK_BUS":          {"usb"},
	"VM_DISK_MODE":         {"snapshot"},
	"VM_DISK_ON_NEW_IMAGE": {"ignore"},
	"VM_DISKS":             {"disk", "a=", "a=10G,a=20G"},
	"VM_VOLUMES":           {"/src", "a=src"},
	"VM_DATA_DIR":          {"data", "/", "/run/vmentry"},
	"VM_RUN_DIR":           {"run", "/..", "/" + strings.Repeat("r", 80), "/var/lib/vmentry/"},

	"CONFIG_FILE":                 {"/userdata/"},
	"IGNITION_CONFIG_FILE":        {"/userdata/"},
	"CLOUD_CONFIG_FILE":           {"/userdata/"},
	"VM_SSH_AUTHORIZED_KEYS":      {"ssh-ed25519 BBBB", testKey + "\nnonsense", "ssh-rsa" + strings.TrimPrefix(testKey, "ssh-ed25519"), "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk="},
	"VM_SSH_AUTHORIZED_KEYS_FILE": {"/keys/"},
	"VM_SSH_USER":                 {"0day", "a:b", strings.Repeat("a", 33)},
	"VM_IGNITION_VERSION":         {"3", "2.4", "3.7", "3.3.1", "v3.3"},
	"VM_CLOUD_SEED":               {"ec2"},

	"VM_NETWORK":    {"host", "macvtap"},
	"RANCHER_VM":    {"1.6"},
	"HOSTFWD":       {"22", "2222:22,2222:23"},
	"VM_DHCP":       {"dynamic"},
	"VM_NIC_MODEL":  {"ne2k"},
	"VM_MAC":        {"52:54:00:12:34", "53:54:00:12:34:56", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "02:00:5e:10:00:00:00:01"},
	"VM_INTERFACES": {"lo", "none", "eth0,eth0", "a-name-of-16-byt", "eth0,", "eth0 eth1", ".."},

	"VM_SHUTDOWN_TIMEOUT": {"25 s", "-1s", "-1", "25h", "99999999999999999999", "1.5"},
	"VM_REBOOT":           {"poweroff"},
	"VM_WATCHDOG":         {"true"},
	"VM_SUPERVISE":        {"never"},

	"VM_READY":           {"tcp", "tcp:0", "tcp:ssh", "boot:1", "exec", "exec:", "exec:'a", "http:80"},
	"VM_CONSOLE":         {"tty"},
	"VM_DISPLAY":         {"spice"},
	"VM_HTTP":            {"8080", ":0", ":65536", "localhost:8080", "::1:8080", "http://0.0.0.0:80"},
	"VM_HTTP_INTERCEPT":  {"both", "true"},
	"VM_HTTP_TOKEN":      {"a b", "pässwort"},
	"VM_HTTP_TOKEN_FILE": {"/token/"},
	"VM_LOG_FORMAT":      {"xml"},
	"VM_LOG_LEVEL":       {"trace", "info+1"},
}

func TestEveryVariableRefusesWhatIsBad(t *testing.T) {
	neverBad := map[string]bool{"CONFIG": true, "IGNITION_CONFIG": true, "CLOUD_CONFIG": true, "NO_DHCP": true}
	for _, v := range variables(raw{}) {
		if len(bad[v.name]) == 0 && !neverBad[v.name] {
			t.Errorf("%s has no bad value here", v.name)
		}
		for _, value := range bad[v.name] {
			_, _, mistakes := parseEnv(map[string]string{v.name: value})
			if !mistakes.Has(v.name) {
				t.Errorf("%s=%q is taken", v.name, value)
			}
			for _, m := range mistakes {
				if v.secret == "true" && (m.Value != "" || strings.Contains(m.Problem, value)) {
					t.Errorf("%s is a secret, and is in the message: %v", v.name, m)
				}
				if v.secret == "" && m.Value != value {
					t.Errorf("%s=%q has not its value in the message: %v", v.name, value, m)
				}
				if strings.ContainsAny(m.String(), "\n") {
					t.Errorf("%s: more than a line: %v", v.name, m)
				}
			}
		}
	}
	for name := range bad {
		isVariable := func(v variable) bool { return v.name == name }
		if !slices.ContainsFunc(variables(raw{}), isVariable) {
			t.Errorf("%s is no variable", name)
		}
	}
}

func TestPresetsAreRight(t *testing.T) {
	env := make(map[string]string)
	for _, v := range variables(raw{}) {
		env[v.name] = v.preset
	}
	c, _, mistakes := parseEnv(env)
	if err := mistakes.Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaults(), c, compare, cmpopts.IgnoreFields(Config{}, "Set")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTogether(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want []string
	}{
		{"bad all at once", map[string]string{"VM_MEMORY": "4X", "VM_CPUS": "0", "VM_ACCEL": "hvf"}, []string{
			`VM_MEMORY="4X": not a size; write 512M, 4G or 4Gi`,
			`VM_CPUS="0": not a number of CPUs; from 1 to 1024`,
			`VM_ACCEL="hvf": write auto, kvm or tcg`,
		}},
		{"bad several in a list", map[string]string{"HOSTFWD": "22,80:0"}, []string{
			`HOSTFWD="22,80:0": "22": not a port forward; ` + forwardHelp,
			`HOSTFWD="22,80:0": "80:0": "0" is not a port; from 1 to 65535`,
		}},
		{"bad both twins", map[string]string{"CONFIG_FILE": "/c", "CONFIG": "hush", "CLOUD_CONFIG_FILE": "/c", "CLOUD_CONFIG": "hush", "VM_HTTP": ":80", "VM_HTTP_TOKEN": "hush", "VM_HTTP_TOKEN_FILE": "/t"}, []string{
			`CONFIG_FILE="/c": set together with CONFIG; write one of the two`,
			`CLOUD_CONFIG_FILE="/c": set together with CLOUD_CONFIG; write one of the two`,
			`VM_HTTP_TOKEN_FILE="/t": set together with VM_HTTP_TOKEN; write one of the two`,
		}},
		{"bad no kernel", map[string]string{"VM_INITRD": "/i", "VM_CMDLINE": "quiet", "VM_IMAGE": "none", "VM_IMAGE_SHA256": "auto"}, []string{
			`VM_INITRD="/i": set without VM_KERNEL; set VM_KERNEL too, or neither`,
			`VM_CMDLINE="quiet": set without VM_KERNEL; set VM_KERNEL too, or neither`,
			`VM_IMAGE="none": nothing to boot, because VM_KERNEL is not set either; set one of the two`,
			`VM_IMAGE_SHA256="auto": set with VM_IMAGE=none; leave out one of the two`,
		}},
		{"OK a wrong kernel is one mistake", map[string]string{"VM_KERNEL": "/k/", "VM_INITRD": "/i"}, []string{
			`VM_KERNEL="/k/": "/k/" is a directory; write the path of a file`,
		}},
		{"bad one directory", map[string]string{"VM_DATA_DIR": "/run/vmentry"}, []string{
			`VM_DATA_DIR="/run/vmentry": the same directory as VM_RUN_DIR (/run/vmentry); write another`,
		}},
		{"bad directory that does not last", map[string]string{"VM_RUN_DIR": "/vm", "VM_DATA_DIR": "/vm/qemu/data"}, []string{
			`VM_DATA_DIR="/vm/qemu/data": in the directory qemu of VM_RUN_DIR, in which nothing outlives a start; write another`,
		}},
		{"OK directories in one", map[string]string{"VM_RUN_DIR": "/vm", "VM_DATA_DIR": "/vm/qemu-data"}, nil},
		{"bad DHCP and not", map[string]string{"VM_DHCP": "true", "NO_DHCP": "yes"}, []string{
			`NO_DHCP="yes": contradicts VM_DHCP=true; leave out one of the two`,
		}},
		{"bad forwards in bridge mode", map[string]string{"RANCHER_VM": "1", "HOSTFWD": "2222:22"}, []string{
			`HOSTFWD="2222:22": of no use with RANCHER_VM=true, where every port of the pod's address is the guest's; leave it out`,
		}},
		{"bad no network", map[string]string{"VM_NETWORK": "none", "HOSTFWD": "2222:22", "VM_READY": "tcp:22"}, []string{
			`HOSTFWD="2222:22": of no use with VM_NETWORK=none, where the guest has no network; leave it out`,
			`VM_READY="tcp:22": of no use with VM_NETWORK=none, where the guest has no network; write agent, boot or none`,
		}},
		{"OK an unknown mode is not RancherVM's", map[string]string{"RANCHER_VM": "true", "VM_NETWORK": "x", "VM_SUPERVISE": "false", "HOSTFWD": "80:80"}, []string{
			`VM_NETWORK="x": write user, passt, nat, bridge or none`,
		}},
		{"OK an unknown mode is one mistake", map[string]string{"VM_NETWORK": "brigde", "HOSTFWD": "2222:22"}, []string{
			`VM_NETWORK="brigde": write user, passt, nat, bridge or none`,
		}},
		{"bad interception at an address", map[string]string{"VM_NETWORK": "bridge", "VM_HTTP": "10.7.0.5:8080", "VM_HTTP_INTERCEPT": "true"}, []string{
			`VM_HTTP="10.7.0.5:8080": with VM_HTTP_INTERCEPT=true the pod's addresses are meant; write :8080 alone`,
		}},
		{"bad interception", map[string]string{"VM_HTTP_INTERCEPT": "true"}, []string{
			`VM_HTTP_INTERCEPT="true": set without VM_HTTP; set VM_HTTP too, or neither`,
			`VM_HTTP_INTERCEPT="true": only for VM_NETWORK=bridge; with VM_NETWORK=user the port is not the guest's, so leave it out`,
		}},
		{"bad nobody to supervise", map[string]string{"VM_SUPERVISE": "false", "VM_NETWORK": "passt", "VM_TPM": "true", "VM_VOLUMES": "a=/a", "VM_WATCHDOG": "exit", "VM_HTTP": ":80", "HOSTFWD": "[::1]:80:80"}, []string{
			`VM_SUPERVISE="false": not possible with VM_NETWORK=passt, where vmentry watches over passt; leave out one of the two`,
			`VM_SUPERVISE="false": not possible with an IPv6 address in HOSTFWD, where vmentry relays IPv6, which QEMU does not forward; leave out one of the two`,
			`VM_SUPERVISE="false": not possible with VM_TPM=true, where vmentry watches over the TPM; leave out one of the two`,
			`VM_SUPERVISE="false": not possible with VM_VOLUMES, where vmentry watches over virtiofsd; leave out one of the two`,
			`VM_SUPERVISE="false": not possible with VM_WATCHDOG=exit, where vmentry ends the VM; leave out one of the two`,
			`VM_SUPERVISE="false": not possible with VM_HTTP, where vmentry serves it; leave out one of the two`,
		}},
		{"bad nobody sees the boot", map[string]string{"VM_READY": "boot", "VM_CONSOLE": "none", "VM_SUPERVISE": "false"}, []string{
			`VM_READY="boot": boot is seen on the console, and with VM_CONSOLE=none there is none; write another, or leave out VM_CONSOLE`,
			`VM_READY="boot": boot is seen by vmentry, which is not there with VM_SUPERVISE=false; write tcp:PORT or none`,
		}},
		{"bad URL without its secrets", map[string]string{"VM_IMAGE": "ftp://me:hush@example.org/a?hush"}, []string{
			`VM_IMAGE="ftp://example.org/a": not a URL that can be fetched; write http://HOST/PATH, https://HOST/PATH or a path`,
		}},
		{"bad bytes for memory", map[string]string{"VM_MEMORY": "4294967296"}, []string{
			`VM_MEMORY="4294967296": a bare number is MiB; for bytes write 4294967296B`,
		}},
		{"bad bytes for a disk", map[string]string{"VM_DISK_SIZE": "20"}, []string{
			`VM_DISK_SIZE="20": 20B is too small, a bare number is bytes; write 20G for GiB, from 1MiB to 1PiB`,
		}},
		{"bad Kubernetes CPUs", map[string]string{"VM_CPUS": "1500m"}, []string{
			`VM_CPUS="1500m": virtual CPUs are whole; write 2`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, mistakes := parseEnv(tt.env)
			if diff := cmp.Diff(strings.Join(tt.want, "\n"), mistakes.Error()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestWhatIsWrongIsTheDefault(t *testing.T) {
	c, _, mistakes := parseEnv(map[string]string{"VM_DISK_SIZE": "x", "VM_ACCEL": "x", "VM_NETWORK": "x", "VM_READY": "x", "VM_SUPERVISE": "x", "VM_IMAGE": "x/", "HOSTFWD": "80:80,x"})
	want := defaults()
	want.Forwards = []Forward{{Proto: "tcp", HostPort: 80, GuestPort: 80}}
	if diff := cmp.Diff(want, c, compare, cmpopts.IgnoreFields(Config{}, "Set")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if len(mistakes) != 7 {
		t.Errorf("%d mistakes:\n%v", len(mistakes), mistakes)
	}
}

func TestWithoutEffect(t *testing.T) {
	_, warnings, mistakes := parseEnv(map[string]string{"NO_DHCP": "1", "VM_INTERFACES": "eth0", "VM_HTTP_TOKEN": "hush"})
	want := []Warning{
		{"NO_DHCP", "changes nothing with VM_NETWORK=user"},
		{"VM_INTERFACES", "changes nothing with VM_NETWORK=user"},
		{"VM_HTTP_TOKEN", "changes nothing without VM_HTTP"},
	}
	if diff := cmp.Diff(want, warnings); diff != "" || mistakes != nil {
		t.Errorf("%v (-want +got)\n%s", mistakes, diff)
	}
}

// The whole way, through envconfig and the process's environment.
func TestParseReadsTheEnvironment(t *testing.T) {
	for _, v := range variables(raw{}) {
		t.Setenv(v.name, "")
	}
	t.Setenv("VM_MEMORY", " 2G\n")
	t.Setenv("CONFIG", " variant: fcos\n")
	c, warnings, mistakes := Parse([]string{"VM_MEMORY=2G", "VM_CPU=2"})
	if mistakes.Err() != nil || c.Memory != 2*GiB || c.Butane.Text != " variant: fcos\n" || !cmp.Equal(c.Set, map[string]bool{"VM_MEMORY": true, "CONFIG": true}) {
		t.Errorf("%+v, %v", c, mistakes)
	}
	if want := []Warning{{"VM_CPU", "not a variable of vmentry; did you mean VM_CPUS?"}}; !cmp.Equal(want, warnings) {
		t.Errorf("%v", warnings)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	c, _, _ := parseEnv(map[string]string{"CONFIG": "hush", "IGNITION_CONFIG": "hush", "CLOUD_CONFIG": "hush", "VM_HTTP_TOKEN": "hush"})
	image, _, _ := parseEnv(map[string]string{"VM_IMAGE": "https://me:hush@example.org/a?hush"})
	if s := fmt.Sprintf("%v %+v", image, image.Image); strings.Contains(s, "hush") {
		t.Errorf("%s", s)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("config", "config", c, "token", c.HTTPToken)
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %q %x", c, c, c, c.HTTPToken, c.HTTPToken), log.String(), string(encoded)} {
		if strings.Contains(s, "hush") || strings.Contains(s, fmt.Sprintf("%x", "hush")) || !strings.Contains(s, "(secret)") {
			t.Errorf("%s", s)
		}
	}
	if string(c.HTTPToken) != "hush" {
		t.Errorf("the token is %q", string(c.HTTPToken))
	}
}
