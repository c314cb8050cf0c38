package provision

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"time"
)

// The guest's kernel hands out 4096 bytes of a fw_cfg item a read and gets to each of them by reading all that stands
// before it, byte by byte (drivers/firmware/qemu_fw_cfg.c, and github.com/coreos/ignition/issues/1259): the time grows with the
// square of the size. Measured with TCG: 256 KiB 0.5 s, 1 MiB 7 s.
const (
	// largeConfig is the size up to which a config is handed over as it is.
	largeConfig = 128 << 10
	// largestConfig is what no guest should be made to read: 8 MiB take over seven minutes with TCG, and with KVM, where
	// each byte is an exit to QEMU, hours.
	largestConfig = 8 << 20
)

// handOver makes the bytes for fw_cfg. A large config of spec 3.1 or higher, where resources may be compressed, travels
// gzipped in a small one that it replaces.
func handOver(c spec3Config, r *reporter) *Ignition {
	general := r.general()
	out := &Ignition{Version: specs[c.spec].version, JSON: indented(c.json), FWCfg: c.json}
	if len(c.json) > largeConfig && c.spec >= spec31 {
		if stub := replaceStub(out.Version, c.json); len(stub) < len(c.json) {
			out.FWCfg, out.Replaced = stub, true
			general.info("the Ignition config is %s: it is handed over as ignition.config.replace, compressed to %s, "+
				"because the guest reads large configs slowly", kib(len(c.json)), kib(len(stub)))
		}
	}
	checkSize(out, general)
	return out
}

func checkSize(ign *Ignition, general *sourceReporter) {
	n := len(ign.FWCfg)
	hint := "put large files behind a URL"
	if i := specIndex(ign.Version); i < spec31 { // 2.3 is none of them
		hint += ", or use a config of spec 3.1 or higher, which can be compressed"
	}
	switch {
	case n > largestConfig:
		general.mistake("the Ignition config is %s: the guest would read it for hours; the limit is %s. %s", kib(n), kib(largestConfig), hint)
	case n > largeConfig:
		general.warn("the Ignition config is %s, and the guest will take about %s to read it: %s", kib(n), readingTime(n), hint)
	}
}

// readingTime follows the measurement: 7 s for 1 MiB.
func readingTime(n int) time.Duration {
	mib := float64(n) / (1 << 20)
	return max(time.Duration(7*mib*mib*float64(time.Second)).Round(time.Second), time.Second)
}

func kib(n int) string { return fmt.Sprintf("%d KiB", (n+1023)/1024) }

// replaceStub is https://coreos.github.io/ignition/configuration-v3_1/, ignition.config.replace.
func replaceStub(version string, config []byte) []byte {
	var zipped bytes.Buffer
	w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		panic(err) // the level is legal
	}
	_, _ = w.Write(config) // a bytes.Buffer takes all
	_ = w.Close()

	type object = map[string]any
	b, err := json.Marshal(object{"ignition": object{"version": version, "config": object{"replace": object{
		"source":      dataURL(zipped.Bytes()),
		"compression": "gzip",
	}}}})
	if err != nil {
		panic(err) // strings always marshal
	}
	return b
}
