package openflow

import (
	"fmt"
	"strconv"
	"strings"
)

// Numbers of organisations that extend the protocol.
const (
	nicira          = 0x00002320
	onfExperimenter = 0x4f4e4600
)

// nicira reads the actions that Open vSwitch adds; an empty Type when it does not know one.
func (d decoder) nicira(subtype uint16, c *cursor) Action {
	switch subtype {
	case 1, 14, 44:
		return resubmit(subtype, c)
	case 2:
		c.skip(2)
		return valued("set_tunnel", "Id", shortHex(uint64(c.u32())))
	case 4:
		c.skip(2)
		return counted("set_queue", "Queue", "%d", uint64(c.u32()))
	case 5:
		return plain("pop_queue")
	case 6:
		n, from, to := int(c.u16()), int(c.u16()), int(c.u16())
		source, _ := c.nextField(true)
		target, _ := c.nextField(true)
		return move(part(source.key, from, n), part(target.key, to, n))
	case 7:
		bits := c.u16()
		f, _ := c.nextField(true)
		to, value := bitRange(f.key, bits), c.u64()
		return load(shortHex(value), to)
	case 8:
		return valued("note", "Note", dotted(c.b))
	case 9:
		c.skip(6)
		return valued("set_tunnel64", "Id", shortHex(c.u64()))
	case 10:
		return multipath(c)
	case 12, 13:
		return bundle(subtype, c)
	case 15:
		bits := c.u16()
		f, _ := c.nextField(true)
		return outputFrom(bitRange(f.key, bits))
	case 16, 45:
		return learn(subtype, c)
	case 17:
		return plain("exit")
	case 18:
		return plain("dec_ttl")
	case 19:
		return finTimeout(c)
	case 20:
		return controller(c)
	case 21:
		return ttlToControllers(c)
	case 22:
		c.skip(6)
		return writeMetadata(c)
	case 23:
		return counted("push_mpls", "EtherType", "0x%04x", uint64(c.u16()))
	case 24:
		return counted("pop_mpls", "EtherType", "0x%04x", uint64(c.u16()))
	case 25:
		return called("set_mpls_ttl", "TTL", uint64(c.u8()))
	case 26:
		return plain("dec_mpls_ttl")
	case 27, 28:
		name := [...]string{"push", "pop"}[subtype-27]
		from := int(c.u16())
		f, _ := c.nextField(true)
		return valued(name, "Field", part(f.key, from, int(c.u16())))
	case 29, 38, 41:
		return sample(subtype, c)
	case 30:
		c.skip(2)
		return called("set_mpls_label", "Label", uint64(c.u32()))
	case 31:
		return called("set_mpls_tc", "TC", uint64(c.u8()))
	case 32:
		bits := c.u16()
		c.skip(2)
		f, _ := c.nextField(true)
		return outputFrom(bitRange(f.key, bits))
	case 33:
		return setField(c)
	case 34:
		clause, clauses, id := int(c.u8()), c.u8(), c.u32()
		return Action{Type: "conjunction", text: fmt.Sprintf("conjunction(%d,%d/%d)", id, clause+1, clauses)}.
			with("Id", int64(id)).with("Clause", int64(clause+1)).with("Clauses", int64(clauses))
	case 35:
		return d.ct(c)
	case 36:
		return nat(c)
	case 37:
		return controllerProperties(c)
	case 39:
		n, length := port16(c.u16()), c.u32()
		return Action{Type: "output", text: fmt.Sprintf("output(port=%s,max_len=%d)", portText(n), length)}.
			with("Port", portValue(n)).with("MaxLen", int64(length))
	case 40:
		c.skip(2)
		return counted("group", "GroupId", "%d", uint64(c.u32()))
	case 42:
		c.skip(6)
		inner := decoder{d.version, d.depth + 1}.actions(c.b)
		return Action{Type: "clone", text: "clone(" + join(inner) + ")"}.with("Actions", inner)
	case 43:
		return plain("ct_clear")
	case 46:
		c.skip(2)
		kind := packetKind(c.u32())
		if c.bad {
			return Action{}
		}
		return encap(kind, c)
	case 47:
		c.skip(2)
		return decap(c.u32())
	case 48:
		return plain("dec_nsh_ttl")
	case 49:
		return packetLarger(c)
	case 50:
		f, _ := c.nextField(true)
		info, _ := f.key.field()
		return valued("delete_field", "Field", info.name)
	}
	return Action{}
}

// bitRange names the bits that an offset and a width packed together tell.
func bitRange(key fieldKey, packed uint16) string {
	return part(key, int(packed>>6), int(packed&0x3f)+1)
}

func load(value, to string) Action {
	return Action{Type: "load", text: "load:" + value + "->" + to}.with("Value", value).with("Target", to)
}

// shortHex writes zero without 0x, as ovs-ofctl does here.
func shortHex(n uint64) string {
	if n == 0 {
		return "0"
	}
	return "0x" + strconv.FormatUint(n, 16)
}

func outputFrom(field string) Action { return valued("output", "Port", field) }

func resubmit(subtype uint16, c *cursor) Action {
	const inPort = 0xfffffff8
	n, table := port16(c.u16()), uint8(255)
	a := Action{Type: "resubmit"}
	if subtype != 1 {
		table = c.u8()
	}
	text := ""
	if n != inPort {
		text = portText(n)
		a = a.with("Port", portValue(n))
	}
	if table == 255 && subtype != 44 {
		a.text = "resubmit:" + portText(n)
		return a
	}
	if table != 255 {
		a = a.with("Table", int64(table))
		text += "," + strconv.Itoa(int(table))
	} else {
		text += ","
	}
	if subtype == 44 {
		text += ",ct"
		a = a.with("Ct", true)
	}
	a.text = "resubmit(" + text + ")"
	return a
}

// choice names a number; one without a name stays a number.
func choice(names []string, n uint16) string {
	if int(n) < len(names) {
		return names[n]
	}
	return strconv.Itoa(int(n))
}

var hashFields = [...]string{"eth_src", "symmetric_l4", "symmetric_l3l4", "symmetric_l3l4+udp", "nw_src", "nw_dst", "symmetric_l3"}

func multipath(c *cursor) Action {
	l := newList("multipath")
	hash, basis := choice(hashFields[:], c.u16()), c.u16()
	c.skip(2)
	algorithm := choice([]string{"modulo_n", "hash_threshold", "hrw", "iter_hash"}, c.u16())
	links, arg := int(c.u16())+1, c.u32()
	c.skip(2)
	bits := c.u16()
	f, _ := c.nextField(true)
	l.add("Fields", hash, hash)
	l.add("Basis", int64(basis), strconv.Itoa(int(basis)))
	l.add("Algorithm", algorithm, algorithm)
	l.add("Links", int64(links), strconv.Itoa(links))
	l.add("Arg", int64(arg), strconv.Itoa(int(arg)))
	target := bitRange(f.key, bits)
	l.add("Target", target, target)
	return l.done()
}

func bundle(subtype uint16, c *cursor) Action {
	l := newList([...]string{"bundle", "bundle_load"}[subtype-12])
	algorithm, hash, basis := choice([]string{"active_backup", "hrw"}, c.u16()), choice(hashFields[:], c.u16()), c.u16()
	c.skip(4)
	members, bits := int(c.u16()), c.u16()
	target := cursor{b: c.bytes(4)}
	c.skip(4)
	l.add("Fields", hash, hash)
	l.add("Basis", int64(basis), strconv.Itoa(int(basis)))
	l.add("Algorithm", algorithm, algorithm)
	l.parts = append(l.parts, "ofport")
	if subtype == 13 {
		f, _ := target.nextField(true)
		to := bitRange(f.key, bits)
		l.add("Target", to, to)
	}
	var all []string
	for range members {
		all = append(all, portText(port16(c.u16())))
		if c.bad {
			return Action{}
		}
	}
	text := strings.Join(all, ",")
	l.add("Members", text, "members:"+text)
	return l.done()
}

func finTimeout(c *cursor) Action {
	l := newList("fin_timeout")
	l.positive("IdleTimeout", "idle_timeout", uint64(c.u16()))
	l.positive("HardTimeout", "hard_timeout", uint64(c.u16()))
	return l.done()
}

func ttlToControllers(c *cursor) Action {
	n := int(c.u16())
	c.skip(4)
	var ids []string
	for range n {
		ids = append(ids, strconv.Itoa(int(c.u16())))
		if c.bad {
			return Action{}
		}
	}
	text := strings.Join(ids, ",")
	return Action{Type: "dec_ttl", text: "dec_ttl(" + text + ")"}.with("Ids", text)
}

func writeMetadata(c *cursor) Action {
	value, mask := c.u64(), c.u64()
	text := fmt.Sprintf("%#x", value)
	a := Action{Type: "write_metadata"}.with("Value", text)
	if mask != 1<<64-1 {
		a = a.with("Mask", fmt.Sprintf("%#x", mask))
		text += fmt.Sprintf("/%#x", mask)
	}
	a.text = "write_metadata:" + text
	return a
}

func sample(subtype uint16, c *cursor) Action {
	l := newList("sample")
	l.number("Probability", "probability", uint64(c.u16()))
	l.number("CollectorSet", "collector_set_id", uint64(c.u32()))
	l.number("ObservationDomain", "obs_domain_id", uint64(c.u32()))
	l.number("ObservationPoint", "obs_point_id", uint64(c.u32()))
	if subtype != 29 {
		if n := port16(c.u16()); n != 0 && n != 0xffffffff {
			l.add("SamplingPort", portValue(n), "sampling_port="+portText(n))
		}
		if direction := c.u8(); subtype == 41 && direction > 0 && direction < 3 {
			word := [...]string{"ingress", "egress"}[direction-1]
			l.add("Direction", word, word)
		}
	}
	return l.done()
}

func packetLarger(c *cursor) Action {
	length := c.u16()
	bit := int(c.u16())
	f, _ := c.nextField(true)
	to := part(f.key, bit, 1)
	return Action{Type: "check_pkt_larger", text: fmt.Sprintf("check_pkt_larger(%d)->%s", length, to)}.
		with("Length", int64(length)).with("Target", to)
}
