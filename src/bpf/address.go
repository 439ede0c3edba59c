package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// address is the condition that the qualifiers make of an address, a port or a protocol.
func (p *parser) address(t token) *cond {
	switch p.q.addr {
	case "port":
		return p.port(t)
	case "portrange":
		return p.portRange(t)
	case "proto":
		return p.proto(t)
	}
	switch t.kind {
	case kindNumber:
		if p.q.addr != "net" {
			return p.host(t, t.num, 1<<32-1)
		}
		n, mask := t.num, uint32(1<<32-1)
		for n != 0 && n < 1<<24 { // 10 is 10.0.0.0/8
			n <<= 8
			mask <<= 8
		}
		return p.host(t, n, mask)
	case kindIP4:
		mask := uint32(1<<32-1) << (32 - t.bits)
		switch {
		case p.accept(kindOp, "/"):
			bits, ok := p.prefix(t, 32)
			if !ok {
				return p.truth(false)
			}
			mask = ^uint32(0) << (32 - bits)
		case p.accept(kindWord, "mask"):
			m := p.advance()
			if p.q.addr != "net" {
				return p.fail(m, `"net" before the address`, "a mask is for networks only")
			}
			if m.kind != kindIP4 {
				return p.fail(m, "a mask such as 255.255.255.0", "unexpected %s", m)
			}
			mask = m.num
		}
		if t.num&^mask != 0 {
			return p.fail(t, "an address whose last bits are zero", "%s has bits outside of the mask", t)
		}
		return p.host(t, t.num, mask)
	case kindIP6:
		bits := 128
		if p.accept(kindOp, "/") {
			var ok bool
			if bits, ok = p.prefix(t, 128); !ok {
				return p.truth(false)
			}
		}
		net := netip.PrefixFrom(t.ip6, bits).Masked()
		if t.ip6 != net.Addr() {
			return p.fail(t, "an address whose last bits are zero", "%s has bits outside of the mask", t)
		}
		return p.host6(t, net)
	case kindMAC:
		return p.station(t)
	}
	return p.fail(t, p.wanted(), "unknown name %s: nothing is looked up", t)
}

// prefix reads the length of a prefix.
func (p *parser) prefix(addr token, limit uint32) (bits int, ok bool) {
	n := p.advance()
	switch {
	case n.kind != kindNumber || n.num > limit:
		p.fail(n, fmt.Sprintf("at most %d", limit), "%s is no length of a prefix", n)
	case p.q.addr != "net" && n.num != limit:
		p.fail(addr, `"net" before the address`, "a prefix is for networks only")
	default:
		return int(n.num), true
	}
	return 0, false
}

// directed makes a condition of those for the source and the destination.
func (p *parser) directed(src, dst func() *cond) *cond {
	switch p.q.dir {
	case "src":
		return src()
	case "dst":
		return dst()
	case "and":
		return p.and(src(), dst())
	}
	return p.or(src(), dst())
}

// host tests IPv4 addresses, in packets of IP, ARP and RARP.
func (p *parser) host(t token, addr, mask uint32) *cond {
	in := func(ether, src, dst uint32) *cond {
		one := func(off uint32) func() *cond {
			return func() *cond { return p.and(p.linkProto(t, ether), p.masked(p.at.packet+off, sizeW, mask, addr)) }
		}
		return p.directed(one(src), one(dst))
	}
	switch p.q.proto {
	case "":
		c := in(etherIP, 12, 16)
		if p.at.labels == 0 {
			c = p.or(c, in(etherARP, 14, 24), in(etherRARP, 14, 24))
		}
		return c
	case "ip":
		return in(etherIP, 12, 16)
	case "arp":
		return in(etherARP, 14, 24)
	case "rarp":
		return in(etherRARP, 14, 24)
	}
	return p.fail(t, p.wanted(), "%s cannot be an address of %q", t, p.q.proto)
}

func (p *parser) host6(t token, net netip.Prefix) *cond {
	if p.q.proto != "" && p.q.proto != "ip6" {
		return p.fail(t, p.wanted(), "%s cannot be an address of %q", t, p.q.proto)
	}
	addr := net.Addr().As16()
	one := func(off uint32) func() *cond {
		return func() *cond {
			c := p.isIP6(t)
			for i := range uint32(4) {
				bits := min(32, max(0, net.Bits()-32*int(i)))
				mask := ^uint32(0) << (32 - bits)
				c = p.and(c, p.masked(p.at.packet+off+4*i, sizeW, mask, binary.BigEndian.Uint32(addr[4*i:])))
			}
			return c
		}
	}
	return p.directed(one(8), one(24))
}

// station tests Ethernet addresses.
func (p *parser) station(t token) *cond {
	if p.q.proto != "ether" || p.q.addr == "net" {
		return p.fail(t, `"ether host", "ether src" or "ether dst" before it`, "%s is an Ethernet address", t)
	}
	if p.at.link != Ethernet {
		return p.fail(t, "", "%s needs Ethernet frames", t)
	}
	one := func(off uint32) func() *cond {
		return func() *cond { return p.mac(p.at.header+off, t.mac) }
	}
	return p.directed(one(6), one(0))
}

func (p *parser) mac(off uint32, mac [6]byte) *cond {
	return p.and(p.equal(off+2, sizeW, binary.BigEndian.Uint32(mac[2:])), p.equal(off, sizeH, uint32(binary.BigEndian.Uint16(mac[:]))))
}

// proto is "[ether|ip|ip6] proto".
func (p *parser) proto(t token) *cond {
	n, ok := t.num, t.kind == kindNumber
	isName := t.kind == kindName || t.kind == kindWord
	switch p.q.proto {
	case "ether":
		if isName {
			n, ok = etherType(t.text)
		}
		if !ok || n > 1<<16-1 {
			return p.fail(t, `a number of at most 65535 or a name such as \ip or \arp`, "%s is no protocol of a frame", t)
		}
		return p.linkProto(t, n)
	case "", "ip", "ip6":
		if isName {
			n, ok = ipProtocol(t.text)
		}
		if !ok || n > 255 {
			return p.fail(t, `a number of at most 255 or a name such as \tcp or \ospf`, "%s is no protocol above IP", t)
		}
		switch p.q.proto {
		case "ip":
			return p.ipProto4(t, n)
		case "ip6":
			return p.ipProto6(t, n)
		}
		return p.ipProto(t, n)
	}
	return p.fail(t, `"ether", "ip" or "ip6" before "proto", or nothing`, `"proto" cannot follow %q`, p.q.proto)
}

// ports is a range of ports, and the protocols that it is of.
type ports struct {
	low, high      uint32
	sctp, tcp, udp bool
}

func (p *parser) port(t token) *cond {
	r, ok := p.portOf(t, t.text)
	if !ok {
		return p.truth(false)
	}
	return p.portCondition(t, r)
}

func (p *parser) portRange(t token) *cond {
	if t.kind == kindNumber {
		return p.port(t)
	}
	low, high, _ := strings.Cut(t.text, "-")
	if _, _, _, ok := service(t.text); ok {
		low, high = t.text, t.text
	}
	a, aok := p.portOf(t, low)
	if !aok {
		return p.truth(false)
	}
	b, bok := p.portOf(t, high)
	if !bok {
		return p.truth(false)
	}
	r := ports{min(a.low, b.low), max(a.low, b.low), a.sctp, a.tcp, a.udp}
	if a.tcp != b.tcp || a.udp != b.udp {
		r.sctp, r.tcp, r.udp = true, true, true
	}
	return p.portCondition(t, r)
}

// portOf reads one port. The names of services are of TCP, of UDP or of both and SCTP.
func (p *parser) portOf(t token, text string) (ports, bool) {
	n, err := uint64(t.num), error(nil)
	if t.kind != kindNumber {
		n, err = strconv.ParseUint(text, 10, 32)
	}
	if err == nil && n < 1<<16 {
		return ports{uint32(n), uint32(n), true, true, true}, true
	}
	if n, tcp, udp, ok := service(text); ok {
		return ports{n, n, tcp && udp, tcp, udp}, true
	}
	p.fail(t, p.wanted()+" of at most 65535", "%s is no port", t)
	return ports{}, false
}

func (p *parser) portCondition(t token, r ports) *cond {
	switch p.q.proto {
	case "":
	case "tcp":
		r.sctp, r.udp = false, false
	case "udp":
		r.sctp, r.tcp = false, false
	case "sctp":
		r.tcp, r.udp = false, false
	default:
		return p.fail(t, `"tcp", "udp" or "sctp", or nothing`, "%q has no ports", p.q.proto)
	}
	if !r.sctp && !r.tcp && !r.udp {
		return p.fail(t, "another name, or its number", "%s is no port of %q", t, p.q.proto)
	}
	protos := func(off uint32) *cond {
		c := p.truth(false)
		for _, one := range []struct {
			on    bool
			proto uint32
		}{{r.sctp, protoSCTP}, {r.tcp, protoTCP}, {r.udp, protoUDP}} {
			if one.on {
				c = p.or(c, p.equal(off, sizeB, one.proto))
			}
		}
		return c
	}
	side := func(header *value, off uint32) func() *cond {
		return func() *cond {
			v := p.load(header, off, sizeH)
			if r.low == r.high {
				return p.compare(jmpEq, v, p.constant(r.low))
			}
			return p.and(p.compare(jmpGe, v, p.constant(r.low)), p.not(p.compare(jmpGt, v, p.constant(r.high))))
		}
	}
	packet := p.at.packet
	h := p.header(packet)
	return p.or(
		p.and(p.isIP6(t), protos(packet+6), p.directed(side(nil, packet+40), side(nil, packet+42))),
		p.and(p.isIP(t), protos(packet+9), p.firstFragment(), p.directed(side(h, packet), side(h, packet+2))))
}
