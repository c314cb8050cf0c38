package provision

import (
	"os"
	"path/filepath"
)

// Names of what Write makes.
const (
	IgnitionFile = "ignition.json"   // the whole config
	FWCfgFile    = "ignition.fw_cfg" // what the guest reads from fw_cfg
	SeedFile     = "seed.iso"
)

// Write puts the result into a directory, which it makes: files that only their owner can read, each one renamed when it is
// whole. Each start writes them anew, so that nothing waits until they are on a disk, where the directory has one. A file that an earlier run left and that this result does not have is removed, so that no guest is
// given a configuration of yesterday.
func (r Result) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files := map[string][]byte{IgnitionFile: nil, FWCfgFile: nil, SeedFile: nil}
	if r.Ignition != nil {
		files[IgnitionFile], files[FWCfgFile] = r.Ignition.JSON, r.Ignition.FWCfg
	}
	if r.Seed != nil {
		iso, err := r.Seed.ISO()
		if err != nil {
			return err
		}
		files[SeedFile] = iso
	}
	for name, data := range files {
		path := filepath.Join(dir, name)
		if data == nil {
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				return err
			}
			continue
		}
		if err := writeFile(path, data); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, data []byte) (err error) {
	// CreateTemp makes files with mode 0600.
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
