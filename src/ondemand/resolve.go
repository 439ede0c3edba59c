package ondemand

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/query"
	"skydive/src/resource"
)

// Why an injection cannot be done; the texts are those of the public API.
var (
	errNoSource    = errors.New("No source IP in node")
	errNoSourceMAC = errors.New("No source MAC in node")
	errNoTarget    = errors.New("No destination node and IP")
	errNoTargetIP  = errors.New("No destination IP in node")
	errNoTargetMAC = errors.New("Failed to resolve destination MAC address")
)

// defaultTTL is what is sent when none is asked for.
const defaultTTL = 64

// CheckInjection tells why an injection cannot be done in the graph as it is; nil when it can.
func CheckInjection(ctx context.Context, s *graph.Snapshot, r resource.Resource) error {
	i, ok := r.(*resource.Injection)
	if !ok {
		return fmt.Errorf("a %T is no packet injection", r)
	}
	src, err := firstNode(ctx, s, i.Src)
	if err != nil {
		return fmt.Errorf("Not able to find a source node for '%s': %w", i.Src, err)
	}
	if src == nil {
		return fmt.Errorf("Not able to find a source node for '%s'", i.Src)
	}
	var dst *graph.Node
	if needsDestination(i) {
		if dst, err = firstNode(ctx, s, i.Dst); err != nil {
			return fmt.Errorf("Not able to find a destination node for '%s': %w", i.Dst, err)
		}
	}
	_, err = resolve(i, 0, src, dst)
	return err
}

// needsDestination tells whether the destination node must be looked up.
func needsDestination(i *resource.Injection) bool {
	return len(i.Pcap) == 0 && (i.DstIP == "" || i.DstMAC == "") && i.Dst != ""
}

// resolve works out what the n-th source node of an injection is to send. dst is nil when there is none.
func resolve(i *resource.Injection, n int, src, dst *graph.Node) (r resource.InjectionRequest, err error) {
	r = resource.InjectionRequest{
		UUID: i.UUID, Type: i.Type, Count: i.Count, Interval: i.Interval, Mode: i.Mode, IncrementPayload: i.IncrementPayload,
		Payload: i.Payload, Pcap: i.Pcap, TTL: i.TTL, SrcPort: i.SrcPort, DstPort: i.DstPort, ICMPID: i.ICMPID,
	}
	if r.Mode == "" {
		r.Mode = "unique"
	}
	if len(r.Pcap) > 0 {
		return r, nil
	}
	if r.Count == 0 {
		r.Count = 1
	}
	if r.TTL == 0 {
		r.TTL = defaultTTL
	}
	number(&r, n)
	v6 := strings.HasSuffix(i.Type, "6")
	to, err := address(i.DstIP, v6, "DstIP")
	if err != nil {
		return r, err
	}
	if !to.IsValid() {
		if dst == nil {
			return r, errNoTarget
		}
		if to = addressOf(dst, v6, netip.Addr{}); !to.IsValid() {
			return r, errNoTargetIP
		}
	}
	from, err := address(i.SrcIP, v6, "SrcIP")
	if err != nil {
		return r, err
	}
	if !from.IsValid() {
		if from = addressOf(src, v6, to); !from.IsValid() {
			return r, errNoSource
		}
	}
	r.SrcIP, r.DstIP = from.String(), to.String()
	if !framed(src) {
		return r, nil
	}
	if r.SrcMAC, err = mac(i.SrcMAC); err != nil {
		return r, err
	}
	if r.SrcMAC == nil {
		if r.SrcMAC = macOf(src); r.SrcMAC == nil {
			return r, errNoSourceMAC
		}
	}
	if r.DstMAC, err = mac(i.DstMAC); err != nil {
		return r, err
	}
	if r.DstMAC == nil {
		if hop, ok := query.Route(src, to); ok && hop.MAC != "" {
			r.DstMAC, _ = net.ParseMAC(hop.MAC)
		}
		if r.DstMAC == nil && dst != nil {
			r.DstMAC = macOf(dst)
		}
		if r.DstMAC == nil {
			return r, errNoTargetMAC
		}
	}
	return r, nil
}

// number fills in identifier and ports that were left open, and tells the packets of several nodes apart.
func number(r *resource.InjectionRequest, n int) {
	tcp := strings.HasPrefix(r.Type, "tcp")
	if tcp && r.SrcPort == 0 {
		r.SrcPort = randomPort()
	}
	if tcp && r.DstPort == 0 {
		r.DstPort = randomPort()
	}
	if r.SrcPort == 0 {
		r.SrcPort = 1
	}
	if r.ICMPID == 0 {
		r.ICMPID = 1
	}
	if r.Mode != "unique" {
		return
	}
	after := func(v uint16) uint16 { return uint16((int(v)-1+n)%0xffff + 1) } // never 0
	if strings.HasPrefix(r.Type, "icmp") {
		r.ICMPID = after(r.ICMPID)
	} else {
		r.SrcPort = after(r.SrcPort)
	}
}

func randomPort() uint16 { return uint16(1024 + rand.IntN(65535-1024)) }

// address reads what a user gave: an address, or a network, of which it is the first usable one; invalid when nothing was given.
func address(text string, v6 bool, name string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return a, fmt.Errorf("%s: Not a IP or CIDR address", name)
		}
		if a = p.Addr(); a == p.Masked().Addr() && p.Bits() < a.BitLen()-1 {
			a = a.Next()
		}
	}
	if a = a.Unmap(); a.Is6() != v6 {
		return a, fmt.Errorf("%s: %s does not fit the type of the packets", name, text)
	}
	return a, nil
}

// addressOf returns an address of a node: what Neutron says of the machine behind the interface, else its own. Of several it is the
// first, but link-local ones are only for each other.
func addressOf(n *graph.Node, v6 bool, other netip.Addr) netip.Addr {
	key := "IPV4"
	if v6 {
		key = "IPV6"
	}
	var spare netip.Addr
	for _, path := range []string{"Neutron." + key, key} {
		v, _ := n.Metadata.Lookup(path)
		for _, text := range texts(v) {
			a, err := netip.ParseAddr(text)
			if p, notPrefix := netip.ParsePrefix(text); err != nil && notPrefix == nil {
				a, err = p.Addr(), nil
			}
			if err != nil || a.Is6() != v6 {
				continue
			}
			if a.IsLinkLocalUnicast() == (other.IsValid() && other.IsLinkLocalUnicast()) {
				return a
			}
			if !spare.IsValid() {
				spare = a
			}
		}
	}
	return spare
}

func texts(v field.Value) (all []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case field.List:
		for _, item := range v {
			if s, ok := item.(string); ok {
				all = append(all, s)
			}
		}
	}
	return all
}

func mac(text string) (net.HardwareAddr, error) {
	if text == "" {
		return nil, nil
	}
	return net.ParseMAC(text)
}

// macOf is the MAC of the machine behind an interface, else its own.
func macOf(n *graph.Node) net.HardwareAddr {
	for _, path := range []string{"ExtID.attached-mac", "MAC"} {
		if m, err := net.ParseMAC(n.Metadata.Text(path)); err == nil && len(m) == 6 {
			return m
		}
	}
	return nil
}

// framed tells whether an interface takes Ethernet frames.
func framed(n *graph.Node) bool {
	switch n.Metadata.Text("EncapType") {
	case "none", "void", "ppp", "ipip", "tunnel6", "sit", "gre", "gre6", "rawip":
		return false
	}
	return true
}
