package config

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/kelseyhightower/envconfig"
)

// raw is the environment as it was found, and the description of every variable. Its tags:
//
//	envconfig  the variable's name
//	group      the heading it stands under, together with those that follow
//	preset     the default as a user would write it; it goes through the same parser as the user's value
//	unset      what an unset variable means where no single value says it; shown instead of preset
//	meaning    what it does, {code} in braces
//	secret     true: the value is never repeated in a message; url: it is, but for what may be a secret in a URL
//
// The defaults are not in envconfig's own tag default, because envconfig takes an empty variable for a set one.
type raw struct {
	Name     string `envconfig:"VM_NAME" group:"Machine" unset:"the container's host name" meaning:"QEMU's name, the DHCP host name, and the guest's host name where its own configuration sets none"`
	Memory   string `envconfig:"VM_MEMORY" unset:"{4G}, or what fits" meaning:"The guest's RAM, at least {16M}, in whole MiB. Unset: 4G, or the container's memory limit less what QEMU itself needs, whichever is smaller. Set: taken as it is; more than fits under the limit is a mistake"`
	CPUs     string `envconfig:"VM_CPUS" unset:"the container's CPU limit, rounded up; without one the CPUs it may run on, at most 4" meaning:"Virtual CPUs, {1} to {1024}"`
	CPUModel string `envconfig:"VM_CPU_MODEL" unset:"{host} with KVM, else {max}" meaning:"QEMU's CPU model, with flags: {host,-svm}"`
	Accel    string `envconfig:"VM_ACCEL" preset:"auto" meaning:"{kvm}, {tcg} (emulation), or {auto}: KVM where it truly works, else TCG; one line in the log says which and why. {kvm} where it cannot be had ends the start with code 69"`
	Machine  string `envconfig:"VM_MACHINE" unset:"{q35}; {virt} on arm64" meaning:"QEMU's machine type, with its options"`
	Firmware string `envconfig:"VM_FIRMWARE" preset:"auto" meaning:"{bios}, {uefi}, {secureboot} (UEFI that boots only what Microsoft has signed), or {auto}, which looks at the disk"`
	TPM      string `envconfig:"VM_TPM" preset:"false" meaning:"{true}: a TPM 2.0 (swtpm), its state in the data directory"`
	Arch     string `envconfig:"VM_ARCH" unset:"the container's" meaning:"The guest's architecture, {amd64} or {arm64}. Another than the container's is emulated, where the image has the QEMU for it"`
	Kernel   string `envconfig:"VM_KERNEL" meaning:"Boot this kernel directly instead of the disk's boot loader"`
	Initrd   string `envconfig:"VM_INITRD" meaning:"The initial RAM disk that goes with {VM_KERNEL}"`
	Cmdline  string `envconfig:"VM_CMDLINE" meaning:"The command line that goes with {VM_KERNEL}, at most 2047 bytes"`
	Args     string `envconfig:"VM_ARGS" meaning:"More QEMU arguments, quoted as for a shell. What follows {--} in the container's arguments is added too, unquoted. QEMU reaches the files that they name; {-sandbox off} among them gives it all of vmentry's rights"`

	Image          string `envconfig:"VM_IMAGE" group:"Disk" secret:"url" unset:"the one file under {/image} or {/base_image}" meaning:"The base image: a file, a block device, a directory with one image in it, a {http(s)://} URL, or {none}. A disk as qcow2, raw, vmdk, vdi, vhd or vhdx, or a CD as an ISO image; also packed with gzip, bzip2, xz or zstd"`
	ImageSHA256    string `envconfig:"VM_IMAGE_SHA256" meaning:"SHA-256 digest that the file at {VM_IMAGE} must have, as it is there or as it was fetched: 64 hexadecimal digits; or {auto}, the one that is published beside it ({SHA256SUMS} and the like)"`
	DiskSize       string `envconfig:"VM_DISK_SIZE" preset:"12G" meaning:"Size of the guest's disk, {1M} to {1P}, rounded up to whole sectors of 512 bytes. It only ever grows. Less than the image has: the image's size is used if this is the default, and it is a mistake if you set it"`
	DiskBus        string `envconfig:"VM_DISK_BUS" preset:"virtio" meaning:"What the main disk is attached to: {virtio}, {scsi}, {sata}, {ide}, {nvme}; for old guests"`
	DiskMode       string `envconfig:"VM_DISK_MODE" preset:"overlay" meaning:"{overlay}: what the guest writes is kept apart from the base image. {copy}: a full copy in the data directory, which no longer needs the base. {direct}: the image itself is written"`
	DiskOnNewImage string `envconfig:"VM_DISK_ON_NEW_IMAGE" preset:"refuse" meaning:"When the base image is not the one that the overlay was made from: {refuse} to start, or {recreate} the overlay and keep the old one aside"`
	Disks          string `envconfig:"VM_DISKS" meaning:"More disks, comma-separated: {[name=]SOURCE[:bus=BUS][:ro]}. SOURCE is a size (the disk is made in the data directory, and grows when the size is raised), or the path of a file (qcow2 or raw) or block device. {ro}: the guest cannot write it; an ISO image is then a CD where the bus has such. The name is the disk's serial, at most 20 bytes; without one it is {disk1}, {disk2}, … by its place in the list"`
	Volumes        string `envconfig:"VM_VOLUMES" meaning:"Directories of the pod that the guest gets over virtiofs, comma-separated, at most 8: {tag=/path[@/guest/path][:ro]}"`
	DataDir        string `envconfig:"VM_DATA_DIR" preset:"/var/lib/vmentry" meaning:"The data directory: overlay, NVRAM and all else that must outlive a restart"`
	RunDir         string `envconfig:"VM_RUN_DIR" preset:"/run/vmentry" meaning:"Sockets and other things of this start only; an earlier start's are removed, and its directory {qemu} as a whole. At most 80 bytes long, because a socket's path is limited"`

	ConfigFile            string `envconfig:"CONFIG_FILE" group:"Configuration" meaning:"A Butane config of any variant and version, or an old Container Linux Config (one without {variant:})"`
	Config                string `envconfig:"CONFIG" secret:"true" meaning:"The text itself instead of {CONFIG_FILE}"`
	IgnitionConfigFile    string `envconfig:"IGNITION_CONFIG_FILE" meaning:"An Ignition config, spec 2.x or 3.x"`
	IgnitionConfig        string `envconfig:"IGNITION_CONFIG" secret:"true" meaning:"The text itself instead of {IGNITION_CONFIG_FILE}"`
	CloudConfigFile       string `envconfig:"CLOUD_CONFIG_FILE" meaning:"cloud-init user data: {#cloud-config}, a script, MIME multi-part"`
	CloudConfig           string `envconfig:"CLOUD_CONFIG" secret:"true" meaning:"The text itself instead of {CLOUD_CONFIG_FILE}"`
	SSHAuthorizedKeys     string `envconfig:"VM_SSH_AUTHORIZED_KEYS" secret:"true" meaning:"Public keys, one a line, for {VM_SSH_USER}; merged into whichever configuration is in use"`
	SSHAuthorizedKeysFile string `envconfig:"VM_SSH_AUTHORIZED_KEYS_FILE" meaning:"A file with more of them; both variables may be set and add up"`
	SSHUser               string `envconfig:"VM_SSH_USER" unset:"the image's ({/image/user}), else {core}" meaning:"The user who gets the keys"`
	IgnitionVersion       string `envconfig:"VM_IGNITION_VERSION" preset:"auto" meaning:"Spec version of the config that the guest is given: {2.3}, {3.0} to {3.6}. {auto}: the highest among the sources and never higher, since an old guest refuses a newer one; spec 2 and Container Linux Configs become 3.1. {2.3} is for guests that read only spec 2"`
	CloudSeed             string `envconfig:"VM_CLOUD_SEED" preset:"nocloud" meaning:"How cloud-init finds its data: {nocloud} (a disk labelled {cidata}) or {configdrive} (labelled {config-2})"`

	Network    string `envconfig:"VM_NETWORK" group:"Network" unset:"{user}" meaning:"How the guest is connected: {user}, {passt}, {nat}, {bridge}, {none}"`
	RancherVM  string `envconfig:"RANCHER_VM" meaning:"{true}: the default of {VM_NETWORK} is {bridge}. A volume at {/ranchervm} is accepted and not used"`
	HostFwd    string `envconfig:"HOSTFWD" unset:"{2222:22} in {user} mode, all ports in {passt} mode" meaning:"Ports of the container that lead into the guest, comma-separated: {2222:22}, {8443:443/tcp}, {53:53/udp}, {127.0.0.1:2222:22}, {[::1]:2222:22}; QEMU's own words {hostfwd=tcp::2222-:22}; or {none}. For the modes {user}, {passt} and {nat}"`
	DHCP       string `envconfig:"VM_DHCP" preset:"true" meaning:"Serve the guest its address in {bridge} and {nat} mode. {false}: the guest is configured by its own files, or by a DHCP server on the network"`
	NoDHCP     string `envconfig:"NO_DHCP" meaning:"Set to anything: the old spelling of {VM_DHCP=false}"`
	NICModel   string `envconfig:"VM_NIC_MODEL" preset:"virtio" meaning:"Network card: {virtio}, {e1000}, {e1000e}, {rtl8139}, {vmxnet3}"`
	MAC        string `envconfig:"VM_MAC" unset:"the pod's in {bridge} mode; else made from the pod's identity, stable over restarts" meaning:"MAC address of the first network card"`
	Interfaces string `envconfig:"VM_INTERFACES" unset:"all but {lo} in {bridge} mode, the first in {nat} mode" meaning:"Which of the pod's interfaces the guest gets, comma-separated and in order"`

	ShutdownTimeout string `envconfig:"VM_SHUTDOWN_TIMEOUT" group:"Lifecycle" preset:"25s" meaning:"How long the guest may take to shut down, at most {24h}. The container platform has to allow a few seconds more than this"`
	Reboot          string `envconfig:"VM_REBOOT" preset:"reset" meaning:"{reset}: a guest's reboot is a reboot. {exit}: it ends the container with code 76"`
	Watchdog        string `envconfig:"VM_WATCHDOG" preset:"none" meaning:"What the guest's watchdog does when it is not fed: {reset}, {poweroff}, {exit} (the container ends with code 72); {none}: there is none"`
	Supervise       string `envconfig:"VM_SUPERVISE" preset:"true" meaning:"{false}: replace vmentry by QEMU once all is ready. Nobody then presses the guest's power button when the container is stopped"`

	Ready         string `envconfig:"VM_READY" group:"Observation" unset:"{tcp:22}; {none} without a network" meaning:"When the guest counts as ready: {tcp:PORT} (it accepts connections there), {agent} (its guest agent answers), {boot} (its console shows a login prompt, or systemd's last target), {exec:CMD} (the command succeeds in it), {none} (at once)"`
	Console       string `envconfig:"VM_CONSOLE" preset:"stdio" meaning:"Where the serial console is: {stdio}, on the container's output and input; or {none}"`
	Display       string `envconfig:"VM_DISPLAY" preset:"none" meaning:"{vnc}: a graphics card, shown on the web page of {VM_HTTP}, and VNC on the Unix socket {qemu/vnc.sock} in the run directory"`
	HTTP          string `envconfig:"VM_HTTP" meaning:"Address for health, readiness, status, metrics and the web page: {:8080}, {127.0.0.1:8080}, {[::1]:8080}. In {bridge} mode the pod's address is the guest's, so it is served on loopback, unless {VM_HTTP_INTERCEPT} says otherwise"`
	HTTPIntercept string `envconfig:"VM_HTTP_INTERCEPT" preset:"false" meaning:"{true}: in {bridge} mode, take the port of {VM_HTTP}, which is then written {:PORT}, from the guest and serve it on the pod's addresses, also while the guest is not there"`
	HTTPToken     string `envconfig:"VM_HTTP_TOKEN" secret:"true" meaning:"The token that the page asks for before it changes anything. Without one it is read-only"`
	HTTPTokenFile string `envconfig:"VM_HTTP_TOKEN_FILE" meaning:"The file that holds the token, instead of {VM_HTTP_TOKEN}"`
	LogFormat     string `envconfig:"VM_LOG_FORMAT" preset:"text" meaning:"vmentry's own log, on standard error: {text} or {json}"`
	LogLevel      string `envconfig:"VM_LOG_LEVEL" preset:"info" meaning:"How much is logged: {debug}, {info}, {warn}, {error}"`
}

// variable is one field of raw: a description, and the value if there is one.
type variable struct {
	name, group, preset, unset, meaning, secret string

	value string // without the blanks around it; empty: not set
	text  string // as found
}

// environment reads the variables from the process's environment, which is the only place that envconfig reads from.
func environment() raw {
	var r raw
	if err := envconfig.Process("", &r); err != nil {
		panic(fmt.Sprintf("cannot read strings from the environment: %v", err)) // a wrong tag: no value can do this
	}
	return r
}

// variables lists the fields of r in their order.
func variables(r raw) []variable {
	var all []variable
	var group string
	values := reflect.ValueOf(r)
	for i := range values.NumField() {
		tag := values.Type().Field(i).Tag
		if g := tag.Get("group"); g != "" {
			group = g
		}
		all = append(all, variable{
			name:    tag.Get("envconfig"),
			group:   group,
			preset:  tag.Get("preset"),
			unset:   tag.Get("unset"),
			meaning: tag.Get("meaning"),
			secret:  tag.Get("secret"),
			value:   strings.TrimSpace(values.Field(i).String()),
			text:    values.Field(i).String(),
		})
	}
	return all
}
