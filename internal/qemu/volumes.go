package qemu

import "fmt"

// volumes are the functions of one slot: a guest finds a volume by its tag, so nothing depends on which one it is.
func (m Machine) volumes(a *args) {
	for i, v := range m.Volumes {
		id := fmt.Sprintf("volume%d", i)
		a.add("-chardev", options("socket", []kv{{"id", id}, {"path", v.Socket}}))
		a.device("vhost-user-fs-pci", kv{"id", id + "-dev"}, kv{"chardev", id}, kv{"tag", v.Tag}, kv{"queue-size", "1024"},
			kv{"bus", m.pciBus()}, kv{"addr", fmt.Sprintf("0x%02x.%d", slotVolume, i)}, when(i == 0, "multifunction", "on"))
	}
}
