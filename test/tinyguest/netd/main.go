// Command netd is what the tiny guest does on a network beyond what busybox can do.
//
//	netd services PORT           TCP and UDP on PORT, IPv4 and IPv6: sends back what it gets; on TCP after a line "vmtest ADDRESS"
//	                             with the address that the connection came from
//	netd call ADDRESS PORT TEXT  connects by TCP, sends TEXT as a line, prints what comes back until the other side ends
//	netd frames                  prints a line "CARD SOURCE-MAC KIND" for every frame that a card receives and that is of one of the kinds
//	                             dhcp4, dhcp6, ra (a router advertisement) and mark (UDP to the discard port, 9)
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a call may take. It is no measure of speed.
const patience = time.Minute

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "netd:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "services":
		return services(args[1])
	case len(args) == 4 && args[0] == "call":
		return call(net.JoinHostPort(args[1], args[2]), args[3])
	case len(args) == 1 && args[0] == "frames":
		return frames()
	}
	return fmt.Errorf("not a command: %q", args)
}

func services(port string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	go sendBack(packets)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			fmt.Fprintf(conn, "vmtest %s\n", conn.RemoteAddr().(*net.TCPAddr).IP)
			io.Copy(conn, conn)
		}()
	}
}

func sendBack(c net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo(buf[:n], from)
	}
}

func call(address, text string) error {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(conn, text); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, conn)
	return err
}

func frames() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(bigEndian(unix.ETH_P_ALL)))
	if err != nil {
		return fmt.Errorf("cannot open a packet socket: %w", err)
	}
	buf := make([]byte, 1<<16)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return fmt.Errorf("cannot receive frames: %w", err)
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok || link.Pkttype == unix.PACKET_OUTGOING || n < 14 {
			continue
		}
		if k := kind(buf[:n]); k != "" {
			fmt.Println(card(link.Ifindex), net.HardwareAddr(buf[6:12]), k)
		}
	}
}

func bigEndian(n uint16) uint16 { return n<<8 | n>>8 }

func card(index int) string {
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return fmt.Sprint(index)
	}
	return i.Name
}

// kind is the kind of an Ethernet frame, empty for all that nobody asked for.
func kind(frame []byte) string {
	payload := frame[14:]
	switch etherType := binary.BigEndian.Uint16(frame[12:]); {
	case etherType == unix.ETH_P_IP && len(payload) >= 20 && payload[9] == unix.IPPROTO_UDP:
		return udpKind(payload[min(int(payload[0]&15)*4, len(payload)):])
	case etherType == unix.ETH_P_IPV6 && len(payload) > 40 && payload[6] == unix.IPPROTO_UDP:
		return udpKind(payload[40:])
	case etherType == unix.ETH_P_IPV6 && len(payload) > 40 && payload[6] == unix.IPPROTO_ICMPV6 && payload[40] == 134: // RFC 4861, 4.2
		return "ra"
	}
	return ""
}

func udpKind(header []byte) string {
	if len(header) < 8 {
		return ""
	}
	switch binary.BigEndian.Uint16(header[2:]) {
	case 67, 68:
		return "dhcp4"
	case 546, 547:
		return "dhcp6"
	case 9:
		return "mark"
	}
	return ""
}
