package config

import (
	"errors"
	"fmt"
	"net/netip"
)

// Address is VM_HTTP: where vmentry listens.
type Address struct {
	IP   netip.Addr // zero: all addresses
	Port uint16     // 0: nowhere
}

// IsZero tells that vmentry does not listen.
func (a Address) IsZero() bool {
	return a == Address{}
}

// String is the address as net.Listen takes it.
func (a Address) String() string {
	if a.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s:%d", hostText(a.IP), a.Port)
}

func parseAddress(s string) (Address, error) {
	if isNone(s) {
		return Address{}, nil
	}
	host, port, found := cutLast(s, ":")
	if !found {
		return Address{}, errors.New("not an address with a port; write :8080 or 127.0.0.1:8080")
	}
	var a Address
	var err error
	if a.IP, err = parseHost(host); err != nil {
		return Address{}, err
	}
	if a.Port, err = parsePort(port); err != nil {
		return Address{}, err
	}
	return a, nil
}
