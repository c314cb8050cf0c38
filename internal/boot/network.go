package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/dhcp"
	"github.com/vmentry/vmentry/internal/dns"
	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/status"
	"github.com/vmentry/vmentry/internal/supervise"
)

var networkFiles = network.Files{ResolvConf: "/etc/resolv.conf", Hosts: "/etc/hosts"}

// planNetwork looks at the pod and plans how the guest is joined to it. What the user can mend in the settings is added to mistakes;
// what the container lacks is the error.
func planNetwork(cfg config.Config, hostName, identity string, cpus int, mistakes *config.Mistakes) (network.Plan, error) {
	in := network.Input{
		Mode: network.Mode(cfg.Network), HostName: hostName, Identity: identity,
		MAC: cfg.MAC, NICModel: string(cfg.NICModel), CPUs: cpus, Unsupervised: !cfg.Supervise,
		Interfaces: cfg.Interfaces, DHCP: cfg.DHCP,
		AllPorts: !cfg.Set["HOSTFWD"], Services: serviceAddresses(os.Environ()),
	}
	if cfg.HTTP.Port != 0 {
		in.OwnPorts = []uint16{cfg.HTTP.Port}
	}
	if cfg.HTTPIntercept {
		in.Intercept = cfg.HTTP.Port
	}
	for _, f := range cfg.Forwards {
		in.Forwards = append(in.Forwards, network.Forward(f))
	}
	var err error
	if in.Mode == network.Passt {
		if err = passtInput(&in, cfg); err != nil {
			return network.Plan{}, err
		}
	}
	if in.Pod, err = network.Inspect(in.Mode, networkFiles); err != nil && in.Mode != network.User && in.Mode != network.None {
		return network.Plan{}, fail(supervise.Unavailable, "the pod's network cannot be read: %w", err)
	}
	plan, err := network.MakePlan(in)
	if m := new(network.Mistake); errors.As(err, &m) {
		if !mistakes.Has(m.Variable) {
			*mistakes = append(*mistakes, config.Mistake(*m))
		}
		return plan, nil
	}
	if err == nil && len(plan.Bridges) > 0 {
		err = missingRights(in.Pod, cfg.Network)
	}
	return plan, err
}

// serviceAddresses are those of the cluster's services that the kubelet puts into the environment as NAME_SERVICE_HOST.
func serviceAddresses(environ []string) []netip.Addr {
	var all []netip.Addr
	for _, s := range environ {
		name, value, _ := strings.Cut(s, "=")
		if a, err := netip.ParseAddr(value); err == nil && strings.HasSuffix(name, "_SERVICE_HOST") {
			all = append(all, a)
		}
	}
	return all
}

// missingRights says what the container was not given, and the words that give it.
func missingRights(pod network.Pod, mode config.Mode) error {
	var missing []string
	if !pod.NetAdmin {
		missing = append(missing, fmt.Sprintf("VM_NETWORK=%s needs the capability NET_ADMIN: docker run --cap-add NET_ADMIN, or in the pod's container securityContext: {capabilities: {add: [NET_ADMIN]}}", mode))
	}
	if pod.Tun != "" {
		missing = append(missing, fmt.Sprintf("VM_NETWORK=%s needs /dev/net/tun, which %s: docker run --device /dev/net/tun; in Kubernetes a device plugin's resource for it, or securityContext: {privileged: true}", mode, pod.Tun))
	}
	if len(missing) == 0 {
		return nil
	}
	return fail(supervise.Unavailable, "%s", strings.Join(missing, "\n"))
}

// firstFD is the number of the first descriptor that QEMU inherits beside the three that every program has.
const firstFD = 3

// nics are the guest's cards. Those with taps find them at the descriptors from firstFD on, in the order of [network.Joined.Files].
func nics(plan network.Plan) []qemu.NIC {
	var all []qemu.NIC
	next := firstFD
	take := func(n int) []int {
		fds := make([]int, n)
		for i := range fds {
			fds[i] = next
			next++
		}
		return fds
	}
	for _, n := range plan.NICs {
		nic := qemu.NIC{Model: n.Model, MAC: n.MAC, MTU: n.MTU}
		switch {
		case n.Socket != "":
			nic.Stream = &qemu.Stream{Path: n.Socket}
		case n.Tap == nil:
			nic.User = &qemu.UserNet{HostName: n.HostName, IPv4Only: n.IPv4Only}
			for _, f := range n.Forwards {
				nic.User.Forwards = append(nic.User.Forwards, qemu.Forward(f))
			}
		default:
			nic.Tap = &qemu.Tap{FDs: take(n.Tap.Queues)}
			if n.Tap.Vhost {
				nic.Tap.VhostFDs = take(n.Tap.Queues)
			}
		}
		all = append(all, nic)
	}
	return all
}

// readiness is what ready means: with bridges the pod can ask the guest itself, elsewhere it goes through QEMU.
func readiness(cfg config.Config, plan *network.Plan) status.Condition {
	switch cfg.Ready.Kind {
	case config.ReadyTCP:
	case config.ReadyAgent:
		return status.Condition{Agent: true}
	case config.ReadyExec:
		return status.Condition{Agent: true, Command: cfg.Ready.Command}
	default:
		return status.Condition{Boot: cfg.Ready.Kind == config.ReadyBoot}
	}
	if plan.Helper != nil {
		return throughHelper(cfg.Ready.Port, plan)
	}
	if len(plan.Bridges) == 0 {
		return status.Condition{Port: cfg.Ready.Port}
	}
	var guest []netip.Addr
	for _, b := range plan.Bridges {
		guest = append(guest, b.Reach.Guest...)
	}
	if len(guest) == 0 {
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("VM_READY=tcp:%d cannot be asked of a guest whose address is not known: it counts as ready when it runs", cfg.Ready.Port))
		return status.Condition{}
	}
	return status.Condition{Port: cfg.Ready.Port, Guest: guest}
}

// join carries out the network's plan.
func (p Plan) join() (*network.Joined, error) {
	joined, err := p.Network.Apply()
	if err != nil {
		return nil, fail(supervise.Unavailable, "VM_NETWORK=%s: %w", p.Network.Mode, err)
	}
	return joined, nil
}

// release undoes what an earlier start has made of the pod's network, which may have cost the pod its addresses: what comes first
// may need them. A guest that is alive in another container of the pod keeps them, where this one does not need them.
func (p Plan) release() error {
	if !p.Network.Release {
		return nil
	}
	err := network.Release()
	if errors.Is(err, network.ErrInUse) && len(p.Network.Bridges) == 0 {
		return nil
	}
	if err != nil {
		return fail(supervise.Unavailable, "what an earlier start has made of the pod's network cannot be undone: %w", err)
	}
	return nil
}

// serve speaks to the guest on every bridge until ctx ends; wait returns when nothing of it is left.
func (p Plan) serve(ctx context.Context, joined *network.Joined, front *front, log *slog.Logger) (wait func(), err error) {
	var running sync.WaitGroup
	servers := make([]*dhcp.Server, len(p.Network.Bridges))
	defer func() {
		if err == nil {
			running.Go(func() { p.keep(ctx, joined, servers, log) })
		}
	}()
	for i, b := range p.Network.Bridges {
		if b.Intercept != nil {
			running.Go(func() {
				if err := b.StandIn().Serve(ctx, joined.StandIns[i]); err != nil {
					log.Error("VM_HTTP may not be found at the pod's address while the guest does not answer", "bridge", b.Name, "error", err)
				}
			})
		}
		if b.Service == nil {
			continue
		}
		server, err := dhcp.New(lease(b), log)
		if err != nil {
			return running.Wait, fail(supervise.Software, "the guest's lease on %s: %w", b.Name, err)
		}
		servers[i] = server
		front.counts.answers(server.Stats)
		running.Go(func() {
			if err := server.Serve(ctx, joined.Services[i]); err != nil && ctx.Err() == nil {
				log.Error("the guest gets no addresses any more", "bridge", b.Name, "error", err)
			}
		})
		if b.DNS == nil {
			continue
		}
		if err := forwardDNS(ctx, b, &running, log); err != nil {
			return running.Wait, fail(supervise.Unavailable, "DNS cannot be forwarded for the guest: %w", err)
		}
	}
	return running.Wait, nil
}

// askRouters is how often the pod's gateways are asked for their MAC: about as often as a guest's own kernel asks one that it uses
// (base_reachable_time in arp(7)).
const askRouters = 30 * time.Second

// keep keeps the bridges as they were made until ctx ends.
func (p Plan) keep(ctx context.Context, joined *network.Joined, servers []*dhcp.Server, log *slog.Logger) {
	keeper := network.Keeper{Plan: p.Network, Joined: joined, Every: askRouters, Log: log,
		Moved: func(i int, mac net.HardwareAddr) { servers[i].MoveRouter(ctx, mac) }}
	if err := keeper.Run(ctx); err != nil && ctx.Err() == nil {
		log.Warn("changes of the pod's network are not seen", "error", err)
	}
}

// forwardDNS answers the guest's questions with what the pod's own servers say.
func forwardDNS(ctx context.Context, b network.BridgePlan, running *sync.WaitGroup, log *slog.Logger) error {
	address := b.DNS.At
	if address.Is6() {
		address = address.WithZone(b.Name)
	}
	at := netip.AddrPortFrom(address, network.DNSPort)
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		udp.Close()
		return err
	}
	var servers []netip.AddrPort
	for _, s := range b.DNS.Servers {
		servers = append(servers, netip.AddrPortFrom(s, 53))
	}
	running.Go(func() {
		if err := dns.Serve(ctx, udp, tcp, servers, log); err != nil && ctx.Err() == nil {
			log.Error("DNS is not forwarded for the guest any more", "error", err)
		}
	})
	return nil
}

// lease is what the guest is told on a bridge.
func lease(b network.BridgePlan) dhcp.Config {
	l := b.Service.Lease
	c := dhcp.Config{Guest: b.Guest, Server: b.Service.MAC, HostName: l.HostName, Search: l.Search, MTU: l.MTU}
	if l.V4 != nil {
		c.V4 = &dhcp.V4{Address: l.V4.Address, Server: b.Service.V4, AnswerARP: b.Service.V4 != b.Reach.V4, Router: l.V4.Router, DNS: l.V4.DNS}
		for _, r := range l.V4.Routes {
			c.V4.Routes = append(c.V4.Routes, dhcp.Route(r))
		}
	}
	if l.V6 != nil {
		c.V6 = &dhcp.V6{
			Addresses: l.V6.Addresses, Server: network.LinkLocal(b.Service.MAC),
			Router: l.V6.Router, RouterMAC: l.V6.RouterMAC, OnLink: l.V6.OnLink, Routes: l.V6.Routes, DNS: l.V6.DNS,
		}
	}
	return c
}
