package qemu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

// segment is an Ethernet frame with a TCP segment, by IPv4 with so many words of options, or by IPv6.
func segment(six bool, options int, source uint16, flags byte) []byte {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, source)
	tcp[13] = flags
	frame := make([]byte, 14, 128)
	if six {
		binary.BigEndian.PutUint16(frame[12:], 0x86dd)
		ip := make([]byte, 40)
		ip[0], ip[6] = 0x60, 6
		return append(append(frame, ip...), tcp...)
	}
	binary.BigEndian.PutUint16(frame[12:], 0x0800)
	ip := make([]byte, 20+4*options)
	ip[0], ip[9] = 0x40|byte(5+options), 6
	return append(append(frame, ip...), tcp...)
}

func TestAcceptsTCP(t *testing.T) {
	udp := segment(false, 0, 22, 0x12)
	udp[14+9] = 17
	tests := []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"IPv4", segment(false, 0, 22, 0x12), true},
		{"IPv4 with options", segment(false, 3, 22, 0x12), true},
		{"IPv6", segment(true, 0, 22, 0x12), true},
		{"with ECN", segment(true, 0, 22, 0x52), true},
		{"from another port", segment(false, 0, 23, 0x12), false},
		{"a refusal", segment(false, 0, 22, 0x14), false},
		{"a call", segment(false, 0, 22, 0x02), false},
		{"in the middle", segment(false, 0, 22, 0x10), false},
		{"UDP", udp, false},
		{"short", segment(false, 0, 22, 0x12)[:50], false},
		{"nothing", nil, false},
	}
	for _, tt := range tests {
		if got := AcceptsTCP(tt.frame, 22); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// dumpOf is a dump's file.
func dumpOf(frames ...[]byte) []byte {
	b := make([]byte, dumpHeader)
	for _, f := range frames {
		b = append(b, make([]byte, 8)...)
		b = binary.NativeEndian.AppendUint32(b, uint32(len(f)))
		b = binary.NativeEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	return b
}

func TestReadDump(t *testing.T) {
	var got [][]byte
	collect := func(f []byte) bool {
		got = append(got, bytes.Clone(f))
		return len(got) == 2
	}
	if err := ReadDump(bytes.NewReader(dumpOf([]byte("one"), []byte("two"), []byte("three"))), collect); err != nil || len(got) != 2 || string(got[1]) != "two" {
		t.Errorf("%q, %v", got, err)
	}
	if err := ReadDump(bytes.NewReader(dumpOf()), collect); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	if err := ReadDump(bytes.NewReader(dumpOf(make([]byte, mostFrame+1))), collect); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a frame too long: %v", err)
	}
}

// FuzzReadDump: what a guest sends is in these frames.
func FuzzReadDump(f *testing.F) {
	f.Add(dumpOf(segment(false, 10, 22, 0x12), segment(true, 0, 22, 0x12)))
	f.Add(dumpOf([]byte{1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ReadDump(bytes.NewReader(b), func(frame []byte) bool {
			AcceptsTCP(frame, 22)
			return false
		})
	})
}
