package bpf

import "fmt"

const (
	etherIP    = 0x0800
	etherARP   = 0x0806
	etherRARP  = 0x8035
	etherIP6   = 0x86dd
	etherMPLS  = 0x8847
	etherLimit = 1500 // up to here the type field of a frame is its length
	sapISO     = 0xfe
	sapNetBEUI = 0xf0
	sllIs8022  = 4

	protoTCP   = 6
	protoUDP   = 17
	protoFrag  = 44
	protoICMP6 = 58
	protoSCTP  = 132
)

// equal tests a field of the packet.
func (p *parser) equal(off uint32, size uint16, k uint32) *cond {
	return p.compare(jmpEq, p.load(nil, off, size), p.constant(k))
}

// masked tests some bits of a field.
func (p *parser) masked(off uint32, size uint16, mask, k uint32) *cond {
	if mask == 0 {
		return p.truth(true)
	}
	return p.compare(jmpEq, p.alu(aluAnd, p.load(nil, off, size), p.constant(mask)), p.constant(k))
}

// linkProto tests the protocol of the frame.
func (p *parser) linkProto(t token, proto uint32) *cond {
	l := p.at
	version := map[uint32]uint32{etherIP: 0x40, etherIP6: 0x60}[proto] // of the first byte of the packet
	switch {
	case l.labels > 0:
		if version == 0 {
			return p.fail(t, `"ip" or "ip6"`, "%s cannot be told under MPLS", t)
		}
		return p.and(p.masked(l.packet-2, sizeB, 1, 1), p.masked(l.packet, sizeB, 0xf0, version))
	case l.link == RawIP:
		if version == 0 {
			return p.truth(false)
		}
		return p.masked(l.packet, sizeB, 0xf0, version)
	case l.link == IPv4:
		return p.truth(proto == etherIP)
	case l.link == IPv6:
		return p.truth(proto == etherIP6)
	case l.link == linkPPP:
		switch proto {
		case etherIP:
			proto = 0x21
		case etherIP6:
			proto = 0x57
		case sapISO:
			proto = 0x23
		case 0x6003: // DECnet
			proto = 0x27
		case 0x42: // spanning tree
			proto = 0x31
		}
		return p.equal(l.kind, sizeH, proto)
	case proto > etherLimit:
		return p.equal(l.kind, sizeH, proto)
	}
	is8022 := p.not(p.compare(jmpGt, p.load(nil, l.kind, sizeH), p.constant(etherLimit)))
	if l.link == LinuxSLL {
		is8022 = p.equal(l.kind, sizeH, sllIs8022)
	}
	if proto == sapISO || proto == sapNetBEUI {
		return p.and(is8022, p.equal(l.packet, sizeH, proto<<8|proto))
	}
	return p.and(is8022, p.equal(l.packet, sizeB, proto))
}

func (p *parser) isIP(t token) *cond { return p.linkProto(t, etherIP) }

func (p *parser) isIP6(t token) *cond { return p.linkProto(t, etherIP6) }

// ipProto4 and ipProto6 test the protocol above IP, ipProto either. The one above IPv6 may follow a fragment header.
func (p *parser) ipProto4(t token, proto uint32) *cond {
	return p.and(p.isIP(t), p.equal(p.at.packet+9, sizeB, proto))
}

func (p *parser) ipProto6(t token, proto uint32) *cond {
	next := p.at.packet + 6
	return p.and(p.isIP6(t), p.or(
		p.and(p.equal(next, sizeB, protoFrag), p.equal(p.at.packet+40, sizeB, proto)),
		p.equal(next, sizeB, proto)))
}

func (p *parser) ipProto(t token, proto uint32) *cond {
	return p.or(p.ipProto4(t, proto), p.ipProto6(t, proto))
}

// abbreviated is the name of a protocol alone.
func (p *parser) abbreviated(t token) *cond {
	name := protocol(t.text)
	switch name {
	case "ether":
		return p.fail(p.tok, `"host", "src", "dst", "proto", "broadcast", "multicast" or "["`, "unexpected %s after %q", p.tok, name)
	case "tcp", "udp", "sctp", "ah", "esp", "pim":
		n, _ := ipProtocol(name)
		return p.ipProto(t, n)
	case "icmp", "igmp", "igrp", "vrrp", "carp":
		if name == "igrp" {
			name = "igp"
		}
		n, _ := ipProtocol(name)
		return p.ipProto4(t, n)
	case "icmp6":
		return p.ipProto6(t, protoICMP6)
	}
	n, _ := etherType(name)
	return p.linkProto(t, n)
}

// firstFragment tells that the packet has the transport header, if it is one of IPv4.
func (p *parser) firstFragment() *cond {
	return p.test(test{op: jmpSet, l: p.load(nil, p.at.packet+6, sizeH), k: 0x1fff}, true)
}

// field is what "proto[x:size]" stands for, and what must hold for it to be there.
func (p *parser) field(proto token, x operand, size uint16) (*value, *cond) {
	off, index, guard := p.at.packet, x.a, x.guard
	switch name := protocol(proto.text); name {
	case "ether":
		off = p.at.header
	case "ip", "ip6", "arp", "rarp", "decnet", "sca", "lat", "mopdl", "moprc":
		guard = p.and(guard, p.abbreviated(proto))
	case "tcp", "udp", "sctp", "icmp", "igmp", "igrp", "pim", "vrrp", "carp":
		guard = p.and(p.isIP(proto), guard, p.abbreviated(proto), p.firstFragment())
		header := p.header(p.at.packet)
		if index.op == opConst {
			return p.load(header, off+index.k, size), guard
		}
		if p.cells(header, index) {
			return nil, guard
		}
		index = p.alu(aluAdd, index, header)
	case "icmp6":
		guard = p.and(p.isIP6(proto), guard, p.equal(off+6, sizeB, protoICMP6))
		off += 40
	default:
		return nil, p.fail(proto, "another protocol", "bytes of %q cannot be had", name)
	}
	return p.load(index, off, size), guard
}

// group is "broadcast" or "multicast".
func (p *parser) group(proto string, t token) *cond {
	p.q = qualifiers{}
	switch {
	case proto == "" || proto == "ether":
		if p.at.link != Ethernet {
			return p.fail(t, "", "%s needs Ethernet frames", t)
		}
		if t.text == "broadcast" {
			return p.mac(p.at.header, [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		}
		return p.test(test{op: jmpSet, l: p.load(nil, p.at.header, sizeB), k: 1}, false)
	case t.text == "multicast" && proto == "ip":
		return p.and(p.isIP(t), p.compare(jmpGe, p.load(nil, p.at.packet+16, sizeB), p.constant(224)))
	case t.text == "multicast" && proto == "ip6":
		return p.and(p.isIP6(t), p.equal(p.at.packet+24, sizeB, 255))
	case proto == "ip":
		return p.fail(t, `"host" with the broadcast address`, `"ip broadcast" is not supported: the mask of the network is not known`)
	}
	return p.fail(t, `"ether", "ip" or "ip6" before it, or nothing`, "%s cannot follow %q", t, proto)
}

// virtualLAN is "vlan [id]": what follows is about the frame inside of the tag.
func (p *parser) virtualLAN(t token, id *uint32) *cond {
	p.vlan = true
	l := &p.at
	if l.link != Ethernet || l.labels > 0 {
		return p.fail(t, "", "%s needs Ethernet frames, and no MPLS before it", t)
	}
	if p.tagged {
		p.tagged = false
		if id == nil {
			return p.truth(true)
		}
		return p.masked(vlanTag, sizeW, 0xfff, *id)
	}
	c := p.or(p.equal(l.kind, sizeH, 0x8100), p.equal(l.kind, sizeH, 0x88a8), p.equal(l.kind, sizeH, 0x9100))
	if id != nil {
		c = p.and(c, p.masked(l.packet, sizeH, 0xfff, *id))
	}
	l.kind += 4
	l.packet += 4
	return c
}

// label is "mpls [label]": what follows is about the packet under the label.
func (p *parser) label(t token, label *uint32) *cond {
	l := &p.at
	var c *cond
	switch {
	case l.labels > 0:
		c = p.masked(l.packet-2, sizeB, 1, 0)
	case l.link == Ethernet:
		c = p.linkProto(t, etherMPLS)
	case l.link == linkPPP:
		c = p.equal(l.kind, sizeH, 0x281)
	default:
		return p.fail(t, "", "%s needs Ethernet frames", t)
	}
	if label != nil {
		c = p.and(c, p.masked(l.packet, sizeW, 0xfffff000, *label<<12))
	}
	l.packet += 4
	l.labels++
	return c
}

// session is "pppoes [id]": what follows is about the packet in the PPP frame.
func (p *parser) session(t token, id *uint32) *cond {
	l := &p.at
	c := p.linkProto(t, 0x8864)
	if id != nil {
		c = p.and(c, p.masked(l.packet, sizeW, 0xffff, *id))
	}
	start := l.packet + 6
	*l = layout{link: linkPPP, header: start, kind: start, packet: start + 2}
	return c
}

// wanted says what the qualifiers ask for.
func (p *parser) wanted() string {
	switch q := p.q; {
	case q.addr == "proto":
		return `a protocol: a number or a name such as \tcp`
	case q.addr == "port":
		return "a port: a number or the name of a service"
	case q.addr == "portrange":
		return "a range of ports such as 1000-2000"
	case q.proto == "ether":
		return "an Ethernet address"
	case q.addr == "net":
		return "a network such as 10.0.0.0/8"
	case q.addr == "host" || q.dir == "":
		return "an IP address"
	}
	return fmt.Sprintf(`"host", "net", "port", "portrange" or an IP address after %q`, p.q.dir)
}
