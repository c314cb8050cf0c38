package image

import "encoding/binary"

const qcow2Magic = "QFI\xfb"

// refuseQCOW2 says by the header of a qcow2 image why it cannot be a base image, or nil: so that nobody waits for the rest of it. Whether
// the image is sound is found out when all of it is there. See QEMU's docs/interop/qcow2.txt.
func refuseQCOW2(head []byte) error {
	be := binary.BigEndian
	if len(head) < 72 {
		return malformed("the header is cut short")
	}
	switch version := be.Uint32(head[4:]); {
	case be.Uint64(head[8:]) != 0:
		return refers("it has a backing file")
	case version >= 3 && len(head) >= 104 && be.Uint64(head[72:])&(1<<2) != 0:
		return refers("its data are in an external data file")
	}
	return nil
}
