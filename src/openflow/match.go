package openflow

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Match is which packets a rule is for, as the switch sent it: a list of fields as OpenFlow Extensible Matches. It is read only when
// somebody wants to see it, so that thousands of rules cost little more than their bytes.
type Match string

// Field is one condition of a match.
type Field struct {
	Name  string // as ovs-ofctl has it
	Value Value
	Mask  string // "" when all bits count

	text string
	rank int
}

// String writes the field as ovs-ofctl does.
func (f Field) String() string { return f.Name + "=" + f.text }

// condition is a field as it is on the wire.
type condition struct {
	key         fieldKey
	value, mask []byte
}

// nextField reads one field, with its value and mask unless it is only a header that names it.
func (c *cursor) nextField(headerOnly bool) (f condition, size int) {
	h := c.u32()
	f.key = fieldKey(h>>16)<<16 | fieldKey(h>>9&0x7f)
	size = int(h & 0xff)
	if f.key&^0xffff == experiment {
		f.key |= fieldKey(c.u32()) << 32
		size -= 4
	}
	if h&0x100 != 0 {
		size /= 2
	}
	if size < 0 {
		c.bad = true
	}
	if headerOnly || c.bad {
		return f, size
	}
	f.value = c.bytes(size)
	if h&0x100 != 0 {
		f.mask = c.bytes(size)
	}
	return f, size
}

// Fields returns the conditions in a fixed order, whichever version of the protocol they came with.
func (m Match) Fields() []Field {
	var out []Field
	var tag vlan
	c := cursor{b: []byte(m)}
	for len(c.b) > 0 {
		f, _ := c.nextField(false)
		if c.bad {
			out = append(out, Field{Name: "malformed", Value: hexText([]byte(m)), text: hexText([]byte(m)), rank: rankUnknown})
			break
		}
		if tag.take(f) {
			continue
		}
		out = appendCondition(out, f)
	}
	out = tag.append(out)
	slices.SortStableFunc(out, func(a, b Field) int { return cmp.Compare(a.rank, b.rank) })
	return out
}

func appendCondition(out []Field, f condition) []Field {
	info, rank := f.key.field()
	words := 1
	switch {
	case f.key == oxmOF+8: // the standard's DSCP is TOS without its lower bits
		if len(f.value) == 1 {
			f.value = []byte{f.value[0] << 2}
			f.mask = nil
		}
	case info.size == 8 && f.key&^0xffff == packetRegs, info.size == 16 && strings.HasPrefix(info.name, "xxreg"):
		words = info.size / 4
	}
	if words > 1 && len(f.value) == 4*words { // registers joined: show each
		first := int(f.key&0xffff) * words
		if words == 4 {
			first = (int(f.key&0xffff) - 111) * words
		}
		for i := range words {
			part := condition{key: nxmNX + fieldKey(first+i), value: f.value[4*i : 4*i+4]}
			if f.mask != nil {
				if part.mask = f.mask[4*i : 4*i+4]; allZero(part.mask) {
					continue
				}
			}
			out = appendCondition(out, part)
		}
		return out
	}
	if f.mask != nil && info.covers(f.mask) {
		f.mask = nil
	}
	if f.mask != nil && allZero(f.mask) && info.format != hexadecimal {
		return out
	}
	text := info.text(f.value, f.mask)
	switch {
	case info.match == "dl_type" && len(f.value) == 2:
		text = fixedHex(f.value, nil, 4)
	case info.size > 0 && len(f.value) != info.size:
		text = hexText(f.value)
		return append(out, Field{Name: info.match, Value: text, text: text, rank: rank})
	}
	shown := Field{Name: info.match, text: text, rank: rank}
	switch info.format {
	case fragment, tunnelFlags, ctState, tcpFlags, packetType:
		shown.Value = text
	default:
		shown.Value, shown.Mask = info.value(f.value), info.maskValue(f.mask)
	}
	return append(out, shown)
}

// vlan gathers what a match says of the VLAN tag: one field in Nicira's terms, two in the standard's.
type vlan struct{ tci, mask uint16 }

const (
	vlanPresent = 0x1000
	vlanID      = 0x0fff
	vlanPCP     = 0xe000
)

func (v *vlan) take(f condition) bool {
	switch {
	case f.key == nxmOF+4 && len(f.value) == 2:
		v.tci, v.mask = binary.BigEndian.Uint16(f.value), 0xffff
		if f.mask != nil {
			v.mask = binary.BigEndian.Uint16(f.mask)
		}
	case f.key == oxmOF+6 && len(f.value) == 2:
		mask := uint16(vlanPresent | vlanID)
		if f.mask != nil {
			mask &= binary.BigEndian.Uint16(f.mask)
		}
		v.tci |= binary.BigEndian.Uint16(f.value) & mask
		v.mask |= mask
	case f.key == oxmOF+7 && len(f.value) == 1:
		v.tci |= uint16(f.value[0]) << 13
		v.mask |= vlanPCP
	default:
		return false
	}
	return true
}

func (v *vlan) append(out []Field) []Field {
	if v.mask == 0 {
		return out
	}
	_, rank := (nxmOF + 4).field()
	id, pcp := v.mask&vlanID, v.mask&vlanPCP
	if v.tci&v.mask&vlanPresent != 0 && (id == 0 || id == vlanID) && (pcp == 0 || pcp == vlanPCP) && id|pcp != 0 {
		if id != 0 {
			n := v.tci & vlanID
			out = append(out, Field{Name: "dl_vlan", Value: int64(n), text: fmt.Sprint(n), rank: rank})
		}
		if pcp != 0 {
			n := v.tci >> 13
			out = append(out, Field{Name: "dl_vlan_pcp", Value: int64(n), text: fmt.Sprint(n), rank: rank + 1})
		}
		return out
	}
	f := Field{Name: "vlan_tci", Value: int64(v.tci), text: fmt.Sprintf("0x%04x", v.tci), rank: rank}
	if v.mask != 0xffff {
		f.Mask = fmt.Sprintf("0x%04x", v.mask)
		f.text += "/" + f.Mask
	}
	return append(out, f)
}

// String writes the match as ovs-ofctl does: common pairs of an Ethernet type and an IP protocol go by one name.
func (m Match) String() string { return matchText(m.Fields()) }

func matchText(all []Field) string {
	var kind, proto int64 = -1, -1
	for _, f := range all {
		n, _ := f.Value.(int64)
		switch {
		case f.Name == "dl_type":
			kind = n
		case f.Name == "nw_proto" && f.Mask == "":
			proto = n
		}
	}
	short, withProto := protocolName(kind, proto)
	parts := make([]string, 0, len(all)+1)
	if short != "" {
		parts = append(parts, short)
	}
	for _, f := range all {
		if short != "" && (f.Name == "dl_type" || withProto && f.Name == "nw_proto") {
			continue
		}
		parts = append(parts, f.String())
	}
	return strings.Join(parts, ",")
}

// protocolName names an Ethernet type, with an IP protocol when both are covered by it.
func protocolName(kind, proto int64) (name string, both bool) {
	switch kind {
	case 0x0800:
		switch proto {
		case 1:
			return "icmp", true
		case 6:
			return "tcp", true
		case 17:
			return "udp", true
		case 132:
			return "sctp", true
		}
		return "ip", false
	case 0x86dd:
		switch proto {
		case 6:
			return "tcp6", true
		case 17:
			return "udp6", true
		case 58:
			return "icmp6", true
		case 132:
			return "sctp6", true
		}
		return "ipv6", false
	case 0x0806:
		return "arp", false
	case 0x8035:
		return "rarp", false
	case 0x8847:
		return "mpls", false
	case 0x8848:
		return "mplsm", false
	}
	return "", false
}
