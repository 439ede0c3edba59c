package capture

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"skydive/src/bpf"
)

const (
	resolveTimeout = 2 * time.Second
	resolveAge     = time.Minute // how long an answer is used
)

// addresses turns hosts into addresses and remembers them for a while: many captures ask for the same few hosts.
type addresses struct {
	mu    sync.Mutex // guards known
	known map[string]answer
}

type answer struct {
	addresses []netip.Addr
	at        time.Time
}

// of returns the addresses of a host: itself when it is one.
func (a *addresses) of(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap().WithZone("")}, nil
	}
	a.mu.Lock()
	got, ok := a.known[host]
	a.mu.Unlock()
	if ok && time.Since(got.at) < resolveAge {
		return got.addresses, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("address of %s: %w", host, err)
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = map[string]answer{}
	}
	a.known[host] = answer{ips, time.Now()} // bounded: hosts come from the configuration and from targets of captures that run
	return ips, nil
}

// excluding adds to an expression that packets to and from the addresses are not wanted, where what (may be empty) holds as well.
func excluding(expr string, ips []netip.Addr, what string) string {
	if len(ips) == 0 {
		return expr
	}
	hosts := make([]string, len(ips))
	for i, ip := range ips {
		hosts[i] = "host " + ip.String()
	}
	no := "not ((" + strings.Join(hosts, " or ") + ")"
	if what != "" {
		no += " and (" + what + ")"
	}
	no += ")"
	if strings.TrimSpace(expr) == "" {
		return no
	}
	return "(" + expr + ") and " + no
}

// filter compiles what the user wants, less our own traffic when the source would see it. A host whose name is not known is
// told of and not left out: nothing can come from it before it is.
func (r *running) filter(ctx context.Context, snapLen int) (*bpf.Filter, error) {
	expr := r.capture.BPFFilter
	if r.kind.Interface || r.kind.Traffic {
		for _, address := range r.m.options.Excluded {
			expr = r.exclude(ctx, expr, address, "port %port")
		}
		if r.capture.TargetType != "" {
			expr = r.exclude(ctx, expr, r.capture.Target, r.m.options.Targets[r.capture.TargetType].Exclude)
		}
	}
	if strings.TrimSpace(expr) == "" {
		return nil, nil
	}
	f, err := bpf.Compile(expr, r.link, snapLen)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	return f, nil
}

func (r *running) exclude(ctx context.Context, expr, address, what string) string {
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		var ips []netip.Addr
		if ips, err = r.m.addresses.of(ctx, host); err == nil {
			return excluding(expr, ips, strings.ReplaceAll(what, "%port", port))
		}
	}
	r.log.Warn("Own traffic is captured too", "host", address, "error", err)
	return expr
}
