package web

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// Messages of a VNC client (RFC 6143, section 7.5, and the RFB protocol's community extensions).
const (
	setPixelFormat           = 0
	setEncodings             = 2
	framebufferUpdateRequest = 3
	keyEvent                 = 4
	pointerEvent             = 5
	clientCutText            = 6
	continuousUpdates        = 150
	fence                    = 248
	setDesktopSize           = 251
	fromQEMU                 = 255
)

var errNotUnderstood = errors.New("a VNC message that is not understood")

// lookOn hands on to the server what a client asks of it, and drops what would change something: keys, the pointer, the clipboard. A
// message that is not known cannot be passed over, since its length is not, and ends it.
func lookOn(server io.Writer, client io.Reader) error {
	r := bufio.NewReader(client)
	if err := greet(server, r); err != nil {
		return err
	}
	for {
		kind, err := r.ReadByte()
		if err != nil {
			return err
		}
		length, look, err := clientMessage(kind, r)
		if err != nil {
			return err
		}
		to := io.Discard
		if look {
			to = server
			if _, err := to.Write([]byte{kind}); err != nil {
				return err
			}
		}
		if _, err := io.CopyN(to, r, length); err != nil {
			return err
		}
	}
}

// greet hands on what comes before the messages: the version, the security type and ClientInit, 12 + 1 + 1 bytes (7.1 to 7.3.1), with a server that asks for no
// password. A client of 3.3, which QEMU takes too, sends no security type: all that follows would be read wrongly. ClientInit always shares the screen,
// else it would take it from all others.
func greet(server io.Writer, client io.Reader) error {
	version := make([]byte, 12)
	if _, err := io.ReadFull(client, version); err != nil {
		return err
	}
	if v := string(version); v != "RFB 003.007\n" && v != "RFB 003.008\n" {
		return errNotUnderstood
	}
	if _, err := server.Write(version); err != nil {
		return err
	}
	if _, err := io.CopyN(server, client, 1); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, client, 1); err != nil {
		return err
	}
	_, err := server.Write([]byte{1})
	return err
}

// clientMessage is how long the rest of a message is, and whether it only looks.
func clientMessage(kind byte, r *bufio.Reader) (length int64, look bool, err error) {
	switch kind {
	case setPixelFormat:
		return 19, true, nil
	case setEncodings:
		n, err := peek(r, 1, 2)
		return 3 + 4*n, true, err
	case framebufferUpdateRequest:
		return 9, true, nil
	case keyEvent:
		return 7, false, nil
	case pointerEvent:
		return 5, false, nil
	case clientCutText:
		n, err := peek(r, 3, 4)
		if n > 1<<31 { // the extended clipboard's lengths are negative
			n = 1<<32 - n
		}
		return 7 + n, false, err
	case continuousUpdates:
		return 9, true, nil
	case fence:
		n, err := peek(r, 7, 1)
		return 8 + n, true, err
	case setDesktopSize:
		n, err := peek(r, 5, 1)
		return 7 + 16*n, false, err
	case fromQEMU:
		sub, err := peek(r, 0, 1)
		if sub != 0 { // 0 is a key with its scan code
			err = errNotUnderstood
		}
		return 11, false, err
	}
	return 0, false, errNotUnderstood
}

// peek reads a number of size bytes that comes after skip more.
func peek(r *bufio.Reader, skip, size int) (int64, error) {
	b, err := r.Peek(skip + size)
	if err != nil {
		return 0, err
	}
	var full [8]byte
	copy(full[8-size:], b[skip:])
	return int64(binary.BigEndian.Uint64(full[:])), nil
}
