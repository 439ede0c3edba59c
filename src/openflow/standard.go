package openflow

// field adds a match field in OXM; mask nil: all bits count.
func (b builder) field(key fieldKey, value, mask []byte) builder {
	h := uint32(key>>16&0xffff)<<16 | uint32(key&0x7f)<<9 | uint32(len(value)+len(mask))
	if mask != nil {
		h |= 0x100
	}
	return append(append(b.u32(h), value...), mask...)
}

// standardMatch10 translates the fixed match of OpenFlow 1.0.
func standardMatch10(c cursor) []byte {
	const inPort, vlanTag, source, destination, kind, proto, tpSource, tpDestination, pcp, tos = 0, 1, 2, 3, 4, 5, 6, 7, 20, 21
	wild := c.u32()
	has := func(bit int) bool { return wild>>bit&1 == 0 }
	var b builder
	if v := c.bytes(2); has(inPort) {
		b = b.field(nxmOF+0, v, nil)
	}
	if v := c.bytes(6); has(source) {
		b = b.field(oxmOF+4, v, nil)
	}
	if v := c.bytes(6); has(destination) {
		b = b.field(oxmOF+3, v, nil)
	}
	id, priority := c.u16(), c.u8()
	var tag vlan
	switch {
	case has(vlanTag) && id == 0xffff:
		tag = vlan{0, 0xffff}
	case has(vlanTag):
		tag = vlan{vlanPresent | id&vlanID, vlanPresent | vlanID}
	}
	if has(pcp) && tag.mask != 0xffff {
		tag.tci |= vlanPresent | uint16(priority&7)<<13
		tag.mask |= vlanPresent | vlanPCP
	}
	if tag.mask != 0 {
		b = b.field(nxmOF+4, builder(nil).u16(tag.tci), builder(nil).u16(tag.mask))
	}
	c.skip(1)
	typ := c.bytes(2)
	if has(kind) {
		b = b.field(oxmOF+5, typ, nil)
	}
	if v := c.bytes(1); has(tos) {
		b = b.field(nxmOF+5, v, nil)
	}
	protocol := c.bytes(1)
	c.skip(2)
	arp := has(kind) && (number(typ) == 0x0806 || number(typ) == 0x8035)
	sourceIP, destinationIP := c.bytes(4), c.bytes(4)
	if has(proto) {
		if arp {
			b = b.field(oxmOF+21, []byte{0, first(protocol)}, nil)
		} else {
			b = b.field(oxmOF+10, protocol, nil)
		}
	}
	b = b.prefix(arp, 0, sourceIP, wild>>8&0x3f)
	b = b.prefix(arp, 1, destinationIP, wild>>14&0x3f)
	p := uint8(0)
	if has(kind) && has(proto) && !arp {
		p = first(protocol)
	}
	b = b.transport(p, 0, c.bytes(2), has(tpSource))
	return b.transport(p, 1, c.bytes(2), has(tpDestination))
}

func first(b []byte) uint8 {
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

// prefix adds an IPv4 address of which some bits at the end do not count.
func (b builder) prefix(arp bool, side fieldKey, address []byte, ignored uint32) builder {
	key := oxmOF + 11 + side
	if arp {
		key = oxmOF + 22 + side
	}
	switch {
	case ignored >= 32:
		return b
	case ignored == 0:
		return b.field(key, address, nil)
	}
	return b.field(key, address, builder(nil).u32(^uint32(0)<<ignored))
}

// transport adds a port, or a type or code of ICMP.
func (b builder) transport(proto uint8, side fieldKey, value []byte, has bool) builder {
	if !has || len(value) != 2 {
		return b
	}
	switch proto {
	case 1:
		return b.field(oxmOF+19+side, value[1:], nil)
	case 17:
		return b.field(oxmOF+15+side, value, nil)
	case 132:
		return b.field(oxmOF+17+side, value, nil)
	}
	return b.field(oxmOF+13+side, value, nil)
}

// standardMatch11 translates the fixed match of OpenFlow 1.1, after its type and length.
func standardMatch11(c cursor) []byte {
	const inPort, vlanTag, pcp, kind, tos, proto, tpSource, tpDestination, label, class = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
	port, wild := c.bytes(4), c.u32()
	has := func(bit int) bool { return wild>>bit&1 == 0 }
	var b builder
	if has(inPort) {
		b = b.field(oxmOF+0, port, nil)
	}
	b = b.masked(oxmOF+4, c.bytes(6), c.bytes(6))
	b = b.masked(oxmOF+3, c.bytes(6), c.bytes(6))
	id, priority := c.u16(), c.u8()
	var tag vlan
	if has(vlanTag) {
		switch id {
		case 0xffff: // no tag
			tag = vlan{0, 0xffff}
		case 0xfffe: // any tag
			tag = vlan{vlanPresent, vlanPresent}
		default:
			tag = vlan{vlanPresent | id&vlanID, vlanPresent | vlanID}
		}
	}
	if has(pcp) && tag.tci != 0 {
		tag.tci |= uint16(priority&7) << 13
		tag.mask |= vlanPCP
	}
	if tag.mask != 0 {
		b = b.field(nxmOF+4, builder(nil).u16(tag.tci), builder(nil).u16(tag.mask))
	}
	c.skip(1)
	typ := c.bytes(2)
	if has(kind) {
		b = b.field(oxmOF+5, typ, nil)
	}
	if v := c.bytes(1); has(tos) {
		b = b.field(oxmOF+8, []byte{first(v) >> 2}, nil)
	}
	protocol := c.bytes(1)
	arp := has(kind) && (number(typ) == 0x0806 || number(typ) == 0x8035)
	if has(proto) {
		if arp {
			b = b.field(oxmOF+21, []byte{0, first(protocol)}, nil)
		} else {
			b = b.field(oxmOF+10, protocol, nil)
		}
	}
	source := oxmOF + 11
	if arp {
		source = oxmOF + 22
	}
	b = b.masked(source, c.bytes(4), c.bytes(4))
	b = b.masked(source+1, c.bytes(4), c.bytes(4))
	p := uint8(0)
	if has(kind) && has(proto) && !arp {
		p = first(protocol)
	}
	b = b.transport(p, 0, c.bytes(2), has(tpSource))
	b = b.transport(p, 1, c.bytes(2), has(tpDestination))
	mpls := number(typ) == 0x8847 || number(typ) == 0x8848
	if v := c.bytes(4); has(label) && mpls {
		b = b.field(oxmOF+34, v, nil)
	}
	if v := c.bytes(1); has(class) && mpls {
		b = b.field(oxmOF+35, v, nil)
	}
	c.skip(3)
	return b.masked(oxmOF+2, c.bytes(8), c.bytes(8))
}

// masked adds a field whose mask has a one for each bit that does not count.
func (b builder) masked(key fieldKey, value, ignored []byte) builder {
	if len(value) != len(ignored) || allOnes(ignored) {
		return b
	}
	if allZero(ignored) {
		return b.field(key, value, nil)
	}
	mask := make([]byte, len(ignored))
	for i, x := range ignored {
		mask[i] = ^x
	}
	return b.field(key, value, mask)
}
