package provision

import (
	"github.com/coreos/butane/config"
	"github.com/coreos/butane/config/common"
)

// fromButane translates with butane's own library. An openshift config becomes the Ignition config alone, without the
// MachineConfig around it.
func fromButane(r *sourceReporter) *ignitionSource {
	var out []byte
	r.guard("this Butane config", func() {
		json, rep, err := config.TranslateBytes(r.source.Data, common.TranslateBytesOptions{
			TranslateOptions: common.TranslateOptions{FilesDir: r.source.FilesDir},
			Raw:              true,
		})
		r.vcontext(rep)
		if err != nil && !r.failed {
			r.yamlError(Mistake, butaneError(err))
		}
		out = json
	})
	if r.failed {
		return nil
	}
	return newSpec3(r, out, nil)
}

// butaneError puts the place first where the error has one, as yamlError wants it.
func butaneError(err error) string {
	if e, ok := err.(common.ErrUnmarshal); ok {
		return e.Detail
	}
	return err.Error()
}
