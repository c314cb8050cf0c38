// Command outside is what tests on a cluster do from a pod beside the guests.
//
//	outside wait               does nothing until it is ended
//	outside call ADDRESS       connects by TCP, and passes on what comes on both sides
//	outside ping ADDRESS       sends pings by IPv4 until one is answered, or a minute is over
//	outside get URL            prints what a web server answers
//	outside serve DIR ADDRESS  is a web server of a directory's files
//	outside publish FILE DIR   copies a file there, and notes its digest in SHA256SUMS
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// patience is how long an answer may take. It is no measure of speed.
const patience = time.Minute

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "outside:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "wait":
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
		<-end
		return nil
	case len(args) == 2 && args[0] == "call":
		return call(args[1])
	case len(args) == 2 && args[0] == "ping":
		return ping(args[1])
	case len(args) == 2 && args[0] == "get":
		return get(args[1])
	case len(args) == 3 && args[0] == "serve":
		return http.ListenAndServe(args[2], http.FileServer(http.Dir(args[1])))
	case len(args) == 3 && args[0] == "publish":
		return publish(args[1], args[2])
	}
	return fmt.Errorf("not a command: %q", args)
}

// call ends when the other side does.
func call(address string) error {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	go io.Copy(conn, os.Stdin)
	_, err = io.Copy(os.Stdout, conn)
	return err
}

func publish(file, dir string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	name := filepath.Base(file)
	out, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	sums, err := os.OpenFile(filepath.Join(dir, "SHA256SUMS"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	digest := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, digest), in)
	_, noted := fmt.Fprintf(sums, "%x  %s\n", digest.Sum(nil), name)
	return errors.Join(err, noted, out.Close(), sums.Close())
}

func get(url string) error {
	client := http.Client{Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

// ping needs NET_RAW, which runtimes give to containers unless told otherwise.
func ping(address string) error {
	conn, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return err
	}
	defer conn.Close()
	to := &net.IPAddr{IP: net.ParseIP(address)}
	for number := 1; number <= int(patience/time.Second); number++ {
		echo := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: number, Data: []byte("vmentry")}}
		frame, err := echo.Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(frame, to); err != nil {
			return err
		}
		if answered(conn, to.IP, time.Now().Add(time.Second)) {
			return nil
		}
	}
	return fmt.Errorf("%s does not answer pings", address)
}

// answered says whether an answer to one of ours has come from an address by a certain time.
func answered(conn *icmp.PacketConn, from net.IP, until time.Time) bool {
	frame := make([]byte, 1500)
	conn.SetReadDeadline(until)
	for {
		n, peer, err := conn.ReadFrom(frame)
		if err != nil {
			return false
		}
		m, err := icmp.ParseMessage(ipv4.ICMPTypeEcho.Protocol(), frame[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply || !peer.(*net.IPAddr).IP.Equal(from) {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == os.Getpid()&0xffff {
			return true
		}
	}
}
