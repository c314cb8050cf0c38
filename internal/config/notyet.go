package config

// later is a choice that the configuration knows and that this release cannot carry out.
type later struct {
	variable string
	what     string // the values concerned, for the documents; empty: all
	instead  string // what to write
	chosen   bool
	value    string // as chosen, unless it is a secret
}

// notYet is the table of what is missing. What comes to work loses its row here, and is done: the documents follow.
func notYet(c Config) []later {
	return []later{
		{"VM_FIRMWARE", "{secureboot}", "write bios, uefi or auto", c.Firmware == FirmwareSecureBoot, string(c.Firmware)},
		{"VM_TPM", "{true}", "write false", c.TPM, "true"},
	}
}

// NotYet lists the choices that this release cannot carry out. They are mistakes like others to the user; they are apart
// because they are none in the configuration.
func (c Config) NotYet() Mistakes {
	var mistakes Mistakes
	for _, l := range notYet(c) {
		if l.chosen {
			mistakes = append(mistakes, Mistake{l.variable, l.value, "not in this release; " + l.instead})
		}
	}
	return mistakes
}
