package pod

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
)

// Answer is what the resolvers of the pods say to every question.
var Answer = netip.MustParseAddr("192.0.2.80")

// resolver is a name server in the pod's namespace, as Docker has one in those of its own networks.
func (p *Pod) resolver(t testing.TB, address string) {
	t.Helper()
	var conn net.PacketConn
	err := p.Space.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := answer(buf[:n]); reply != nil {
				conn.WriteTo(reply, from)
			}
		}
	}()
}

// answer is the reply to a question: [Answer] if an IPv4 address is asked for, else nothing (RFC 1035, 4.1).
func answer(query []byte) []byte {
	const header = 12
	end := header
	for end < len(query) && query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the root's label, type and class
	if end > len(query) {
		return nil
	}
	reply := append([]byte(nil), query[:end]...)
	binary.BigEndian.PutUint16(reply[2:], 0x8180) // a reply without an error, recursion wanted and available
	for _, count := range []int{6, 8, 10} {
		binary.BigEndian.PutUint16(reply[count:], 0)
	}
	if binary.BigEndian.Uint16(reply[end-4:]) == 1 {
		binary.BigEndian.PutUint16(reply[6:], 1)
		reply = append(reply, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4) // the name as above, A, IN, a minute, four bytes
		reply = append(reply, Answer.AsSlice()...)
	}
	return reply
}
