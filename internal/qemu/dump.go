package qemu

import (
	"context"
	"encoding/binary"
	"io"
)

// AddDump has QEMU write all frames that the guest sends to a netdev to a file, in pcap's format, at most so many bytes of each (QEMU's manual, -object
// filter-dump). QEMU opens the file for writing.
func (m *Monitor) AddDump(ctx context.Context, id, netdev, file string, most int) error {
	return m.Execute(ctx, "object-add", map[string]any{"qom-type": "filter-dump", "id": id, "netdev": netdev, "file": file, "maxlen": most, "queue": "rx"}, nil)
}

// RemoveObject takes away what was added under an id.
func (m *Monitor) RemoveObject(ctx context.Context, id string) error {
	return m.Execute(ctx, "object-del", map[string]any{"id": id}, nil)
}

// Sizes in a dump's file (pcap-savefile(5)). Its numbers have this machine's byte order.
const (
	dumpHeader   = 24
	recordHeader = 16
	mostFrame    = 1 << 16 // QEMU's frames are not longer
)

// ReadDump gives each frame of a dump, as far as it was kept, to a function, until that says enough or r ends.
func ReadDump(r io.Reader, frame func([]byte) (enough bool)) error {
	if _, err := io.CopyN(io.Discard, r, dumpHeader); err != nil {
		return err
	}
	header, data := make([]byte, recordHeader), make([]byte, mostFrame)
	for {
		if _, err := io.ReadFull(r, header); err != nil {
			return err
		}
		kept := binary.NativeEndian.Uint32(header[8:])
		if kept > mostFrame {
			return io.ErrUnexpectedEOF
		}
		if _, err := io.ReadFull(r, data[:kept]); err != nil {
			return err
		}
		if frame(data[:kept]) {
			return nil
		}
	}
}

// AcceptsTCP says whether an Ethernet frame with IPv4 or IPv6 is the answer of one that listens on a TCP port: SYN and ACK from that port
// (RFC 9293, section 3.5).
func AcceptsTCP(frame []byte, port uint16) bool {
	const syn, ack, rst = 0x02, 0x10, 0x04
	segment := tcpSegment(frame)
	return len(segment) >= 20 && binary.BigEndian.Uint16(segment) == port && segment[13]&(syn|ack|rst) == syn|ack
}

// tcpSegment is what comes behind the IP header, nil if it is not TCP. Extension headers of IPv6 are not passed over: a
// guest that accepts sends none.
func tcpSegment(frame []byte) []byte {
	const ethernet, ipv4, ipv6, tcp = 14, 0x0800, 0x86dd, 6
	if len(frame) < ethernet {
		return nil
	}
	packet := frame[ethernet:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case ipv4:
		if len(packet) >= 20 && packet[9] == tcp {
			return packet[min(4*int(packet[0]&0x0f), len(packet)):]
		}
	case ipv6:
		if len(packet) >= 40 && packet[6] == tcp {
			return packet[40:]
		}
	}
	return nil
}
