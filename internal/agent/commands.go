package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// Ping asks whether the agent answers.
func (a *Agent) Ping(ctx context.Context) error { return a.Execute(ctx, "guest-ping", nil, nil) }

// Info is what the agent says of itself.
type Info struct {
	Version  string
	Commands map[string]bool // whether each is enabled; one that is not there is not known
}

// Info asks for the agent's version and commands. Distributions switch some of them off.
func (a *Agent) Info(ctx context.Context) (Info, error) {
	var reply struct {
		Version  string `json:"version"`
		Commands []struct {
			Name    string `json:"name"`
			Enabled bool   `json:"enabled"`
		} `json:"supported_commands"`
	}
	if err := a.Execute(ctx, "guest-info", nil, &reply); err != nil {
		return Info{}, err
	}
	info := Info{Version: clean(reply.Version), Commands: map[string]bool{}}
	for _, c := range reply.Commands {
		info.Commands[clean(c.Name)] = c.Enabled
	}
	return info, nil
}

// Interface is a network interface of the guest, as the guest says.
type Interface struct {
	Name      string           `json:"name"`
	MAC       net.HardwareAddr `json:"-"` // nil where it has none
	Addresses []netip.Prefix   `json:"addresses"`
}

// Interfaces asks for the guest's network interfaces and their addresses. What is no address is left out.
func (a *Agent) Interfaces(ctx context.Context) ([]Interface, error) {
	var reply []struct {
		Name      string `json:"name"`
		MAC       string `json:"hardware-address"`
		Addresses []struct {
			IP     string `json:"ip-address"`
			Prefix int    `json:"prefix"`
		} `json:"ip-addresses"`
	}
	if err := a.Execute(ctx, "guest-network-get-interfaces", nil, &reply); err != nil {
		return nil, err
	}
	var all []Interface
	for _, r := range reply {
		i := Interface{Name: clean(r.Name)}
		if mac, err := net.ParseMAC(r.MAC); err == nil {
			i.MAC = mac
		}
		for _, addr := range r.Addresses {
			ip, err := netip.ParseAddr(addr.IP)
			if err != nil {
				continue
			}
			if p := netip.PrefixFrom(ip.WithZone(""), addr.Prefix); p.IsValid() {
				i.Addresses = append(i.Addresses, p)
			}
		}
		all = append(all, i)
	}
	return all, nil
}

// SetTime sets the guest's clock.
func (a *Agent) SetTime(ctx context.Context, t time.Time) error {
	return a.Execute(ctx, "guest-set-time", map[string]int64{"time": t.UnixNano()}, nil)
}

// shutdownRefusal is how long an agent gets to say that it does not shut the guest down.
const shutdownRefusal = time.Second

// Shutdown has the guest power itself off. An agent that does as it is told does not answer (guest-shutdown in QEMU's
// qga/qapi-schema.json), so after a moment silence is agreement.
func (a *Agent) Shutdown(ctx context.Context) error {
	if err := a.Ping(ctx); err != nil { // an agent that hangs does not agree
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownRefusal)
	defer cancel()
	err := a.Execute(ctx, "guest-shutdown", map[string]string{"mode": "powerdown"}, nil)
	if errors.Is(err, ErrSilent) {
		return nil
	}
	return err
}
