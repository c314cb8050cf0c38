package provision

import (
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// SeedFormat is how cloud-init finds its data on the seed disk.
type SeedFormat int

const (
	// NoCloud is https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
	NoCloud SeedFormat = iota
	// ConfigDrive is https://docs.cloud-init.io/en/latest/reference/datasources/configdrive.html, version 2.
	ConfigDrive
)

// String is the name that VM_CLOUD_SEED has for it.
func (f SeedFormat) String() string {
	if f == ConfigDrive {
		return "configdrive"
	}
	return "nocloud"
}

// Label is the volume label by which cloud-init finds the disk.
func (f SeedFormat) Label() string {
	if f == ConfigDrive {
		return "config-2"
	}
	return "cidata"
}

// File is one file of a seed. Path has no leading slash.
type File struct {
	Path string
	Data []byte
}

// Seed is the disk that carries cloud-init data.
type Seed struct {
	Format SeedFormat
	Label  string
	Files  []File
}

// ISO gives the disk's bytes: ISO 9660 with Rock Ridge and Joliet. The same files give the same bytes.
func (s *Seed) ISO() ([]byte, error) { return writeISO(s.Label, s.Files) }

// cloud-init asks for the file even when there is nothing to say.
var emptyUserData = []byte("#cloud-config\n{}\n")

// defaultInstanceID is for configurations that are looked at without a disk.
const defaultInstanceID = "vmentry"

// makeSeed puts keys and host name where the user's own settings win: local-hostname is only what cloud-init takes when
// the user data says nothing (hostname, fqdn, preserve_hostname).
func makeSeed(in Input, r *reporter) *Seed {
	keys := unique(in.SSHAuthorizedKeys)
	checkMounts(in.Mounts, r.general())
	user, vendor := emptyUserData, []byte(nil)
	if in.Cloud != nil {
		u := readUserData(r.on(in.Cloud))
		if u == nil {
			return nil
		}
		user, vendor = u.with(in.SSHUser, keys, in.Mounts, in.CardsChange)
	} else if own := ownConfig(in.SSHUser, keys, in.Mounts, in.CardsChange); len(own) > 0 {
		user = marshalCloudConfig(own)
	}
	if in.InstanceID == "" {
		in.InstanceID = defaultInstanceID
	}

	s := &Seed{Format: in.SeedFormat, Label: in.SeedFormat.Label()}
	var err error
	if in.SeedFormat == ConfigDrive {
		s.Files, err = configDriveFiles(in, user, vendor, keys)
	} else {
		s.Files, err = noCloudFiles(in, user, vendor, keys)
	}
	if err != nil {
		r.general().mistake("cannot write the seed: %v", err)
		return nil
	}
	return s
}

func noCloudFiles(in Input, user, vendor []byte, keys []string) ([]File, error) {
	meta, err := yaml.Marshal(struct {
		InstanceID string   `yaml:"instance-id"`
		HostName   string   `yaml:"local-hostname,omitempty"`
		PublicKeys []string `yaml:"public-keys,omitempty"`
	}{in.InstanceID, in.HostName, keys})
	if err != nil {
		return nil, err
	}
	files := []File{{"meta-data", meta}, {"user-data", user}}
	if vendor != nil {
		files = append(files, File{"vendor-data", vendor})
	}
	if in.NetworkConfig != nil {
		files = append(files, File{"network-config", in.NetworkConfig})
	}
	return files, nil
}

// configDriveFiles: cloud-init takes instance-id from uuid and local-hostname from hostname, and vendor data as the
// text under "cloud-init".
func configDriveFiles(in Input, user, vendor []byte, keys []string) ([]File, error) {
	named := map[string]string{}
	for i, k := range keys {
		named[fmt.Sprintf("key-%d", i+1)] = k
	}
	meta, err := json.MarshalIndent(struct {
		UUID       string            `json:"uuid"`
		HostName   string            `json:"hostname,omitempty"`
		Name       string            `json:"name,omitempty"`
		PublicKeys map[string]string `json:"public_keys,omitempty"`
	}{in.InstanceID, in.HostName, in.HostName, named}, "", "  ")
	if err != nil {
		return nil, err
	}
	const dir = "openstack/latest/"
	files := []File{{dir + "meta_data.json", append(meta, '\n')}, {dir + "user_data", user}}
	if vendor != nil {
		b, err := json.Marshal(map[string]string{"cloud-init": string(vendor)})
		if err != nil {
			return nil, err
		}
		files = append(files, File{dir + "vendor_data.json", b})
	}
	if in.NetworkConfig != nil {
		files = append(files, File{dir + "network_data.json", in.NetworkConfig})
	}
	return files, nil
}
