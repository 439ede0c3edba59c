package openflow

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Action is what a rule or a bucket does with a packet. One that is not known has a Type that tells its number, and its bytes.
type Action struct {
	Type      string
	Arguments []Argument
	text      string
}

// Argument of an action. Value is an int64, a string, a bool or the Actions inside it.
type Argument struct {
	Name  string
	Value any
}

// String writes the action as ovs-ofctl does.
func (a Action) String() string { return a.text }

// with adds an argument.
func (a Action) with(name string, value any) Action {
	a.Arguments = append(a.Arguments, Argument{name, value})
	return a
}

// plain is an action without arguments.
func plain(name string) Action { return Action{Type: name, text: name} }

// counted is an action with one number, written name:n, or in hexadecimal.
func counted(name, argument, verb string, n uint64) Action {
	return Action{Type: name, text: fmt.Sprintf("%s:"+verb, name, n), Arguments: []Argument{{argument, int64(n)}}}
}

// valued is an action with one argument written name:text.
func valued(name, argument, text string) Action {
	return Action{Type: name, text: name + ":" + text, Arguments: []Argument{{argument, text}}}
}

// unknown keeps what cannot be read.
func unknown(name string, body []byte) Action {
	h := hex.EncodeToString(body)
	return Action{Type: name, text: name + ":" + h, Arguments: []Argument{{"Hex", h}}}
}

// join writes actions one after the other.
func join(all []Action) string {
	texts := make([]string, len(all))
	for i, a := range all {
		texts[i] = a.text
	}
	return strings.Join(texts, ",")
}

// maxNesting is how deep actions may hold actions; what is deeper stays bytes.
const maxNesting = 8

// decoder reads actions of one version.
type decoder struct {
	version Version
	depth   int
}

// actions reads a list of actions.
func (d decoder) actions(b []byte) []Action {
	var all []Action
	if d.depth > maxNesting {
		return append(all, unknown("nested", b))
	}
	for len(b) > 0 {
		c := cursor{b: b}
		kind, size := c.u16(), int(c.u16())
		if c.bad || size < 8 || size > len(b) {
			return append(all, unknown("malformed", b))
		}
		body := cursor{b: b[4:size:size]}
		b = b[size:]
		a := d.action(kind, body)
		all = append(all, a)
	}
	return all
}

func (d decoder) action(kind uint16, c cursor) (a Action) {
	whole := c.b
	switch {
	case kind == 0xffff:
		vendor, subtype := c.u32(), c.u16()
		if vendor == nicira && !c.bad {
			if a = d.nicira(subtype, &c); a.Type == "" || c.bad {
				a = unknown(fmt.Sprintf("nicira_%d", subtype), whole[6:])
			}
			return a
		}
		if vendor == onfExperimenter && subtype == 3200 { // copy_field of 1.3
			c.skip(2)
			a = d.copyField(&c)
		}
		if a.Type == "" || c.bad {
			a = unknown(fmt.Sprintf("experimenter_%#x", vendor), whole[min(4, len(whole)):])
		}
		return a
	case kind == 0:
		a = d.output(&c)
	case d.version == Version10:
		a = d.action10(kind, &c)
	case d.version == Version11 && kind <= 10:
		a = action11(kind, &c)
	default:
		a = d.standard(kind, &c)
	}
	if a.Type == "" || c.bad {
		return unknown(fmt.Sprintf("action_%d", kind), whole)
	}
	return a
}

func (d decoder) output(c *cursor) Action {
	n := uint32(0)
	if d.version == Version10 {
		n = port16(c.u16())
	} else {
		n = c.u32()
	}
	return outputTo(n, int(c.u16()))
}

const controllerPort = 0xfffffffd

func outputTo(n uint32, length int) Action {
	name := portText(n)
	a := Action{Type: "output", text: "output:" + name}.with("Port", portValue(n))
	switch {
	case n == controllerPort:
		a.text = fmt.Sprintf("CONTROLLER:%d", length)
		return a.with("MaxLen", int64(length))
	case n > portMax && name[0] >= 'A':
		a.text = name
	}
	return a
}

// portValue is a number, or the name of a reserved port.
func portValue(n uint32) Value {
	if s := portText(n); s[0] >= 'A' {
		return s
	}
	return int64(n)
}

// action10 reads the actions of OpenFlow 1.0 other than output.
func (d decoder) action10(kind uint16, c *cursor) Action {
	switch kind {
	case 1:
		return counted("mod_vlan_vid", "VLAN", "%d", uint64(c.u16()))
	case 2:
		return counted("mod_vlan_pcp", "PCP", "%d", uint64(c.u8()))
	case 3:
		return plain("strip_vlan")
	case 4, 5, 6, 7:
		return action11(kind-1, c)
	case 8:
		return action11(7, c)
	case 9, 10:
		return action11(kind, c)
	case 11:
		n := port16(c.u16())
		c.skip(6)
		queue := c.u32()
		return Action{Type: "enqueue", text: fmt.Sprintf("enqueue:%s:%d", portText(n), queue)}.
			with("Port", portValue(n)).with("Queue", int64(queue))
	}
	return Action{}
}

// action11 reads the setters that OpenFlow 1.1 has and later versions have not.
func action11(kind uint16, c *cursor) Action {
	switch kind {
	case 1:
		return counted("set_vlan_vid", "VLAN", "%d", uint64(c.u16()))
	case 2:
		return counted("set_vlan_pcp", "PCP", "%d", uint64(c.u8()))
	case 3:
		return valued("mod_dl_src", "MAC", macText(c.bytes(6)))
	case 4:
		return valued("mod_dl_dst", "MAC", macText(c.bytes(6)))
	case 5:
		return valued("mod_nw_src", "Address", ipText(c.bytes(4)))
	case 6:
		return valued("mod_nw_dst", "Address", ipText(c.bytes(4)))
	case 7:
		return counted("mod_nw_tos", "TOS", "%d", uint64(c.u8()))
	case 8:
		return counted("mod_nw_ecn", "ECN", "%d", uint64(c.u8()))
	case 9:
		return counted("mod_tp_src", "Port", "%d", uint64(c.u16()))
	case 10:
		return counted("mod_tp_dst", "Port", "%d", uint64(c.u16()))
	}
	return Action{}
}

// ipText is "" for what is no address.
func ipText(b []byte) string {
	if len(b) != 4 && len(b) != 16 {
		return ""
	}
	return addressText(b)
}

// standard reads the actions of OpenFlow 1.1 and later.
func (d decoder) standard(kind uint16, c *cursor) Action {
	switch kind {
	case 11:
		return plain("copy_ttl_out")
	case 12:
		return plain("copy_ttl_in")
	case 13:
		return called("set_mpls_label", "Label", uint64(c.u32()))
	case 14:
		return called("set_mpls_tc", "TC", uint64(c.u8()))
	case 15:
		return called("set_mpls_ttl", "TTL", uint64(c.u8()))
	case 16:
		return plain("dec_mpls_ttl")
	case 17:
		return counted("push_vlan", "EtherType", "0x%04x", uint64(c.u16()))
	case 18:
		return plain("pop_vlan")
	case 19:
		return counted("push_mpls", "EtherType", "0x%04x", uint64(c.u16()))
	case 20:
		return counted("pop_mpls", "EtherType", "0x%04x", uint64(c.u16()))
	case 21:
		return counted("set_queue", "Queue", "%d", uint64(c.u32()))
	case 22:
		return counted("group", "GroupId", "%d", uint64(c.u32()))
	case 23:
		return counted("mod_nw_ttl", "TTL", "%d", uint64(c.u8()))
	case 24:
		return plain("dec_ttl")
	case 25:
		return setField(c)
	case 26:
		return counted("push_pbb", "EtherType", "0x%04x", uint64(c.u16()))
	case 27:
		return plain("pop_pbb")
	case 28:
		return d.copyField(c)
	case 29:
		return counted("meter", "Meter", "%d", uint64(c.u32()))
	}
	return Action{}
}

// called is counted, written name(n).
func called(name, argument string, n uint64) Action {
	return Action{Type: name, text: fmt.Sprintf("%s(%d)", name, n), Arguments: []Argument{{argument, int64(n)}}}
}

// setField reads a field with a value, and perhaps a mask.
func setField(c *cursor) Action {
	f, _ := c.nextField(false)
	info, _ := f.key.field()
	text := info.text(f.value, f.mask)
	a := Action{Type: "set_field", text: "set_field:" + text + "->" + info.name}.
		with("Field", info.name).with("Value", info.value(f.value))
	if mask := info.maskValue(f.mask); mask != "" {
		a = a.with("Mask", mask)
	}
	return a
}

// copyField reads the copy_field of 1.5, which says the same as Nicira's move.
func (d decoder) copyField(c *cursor) Action {
	n, from, to := int(c.u16()), int(c.u16()), int(c.u16())
	c.skip(2)
	source, _ := c.nextField(true)
	target, _ := c.nextField(true)
	return move(part(source.key, from, n), part(target.key, to, n))
}

func move(from, to string) Action {
	return Action{Type: "move", text: "move:" + from + "->" + to}.with("Source", from).with("Target", to)
}

// part names some bits of a field: all, one or a range.
func part(key fieldKey, from, n int) string {
	f, _ := key.field()
	switch {
	case from == 0 && n == f.size*8, from == 0 && f.width() == n:
		return f.long + "[]"
	case n == 1:
		return fmt.Sprintf("%s[%d]", f.long, from)
	}
	return fmt.Sprintf("%s[%d..%d]", f.long, from, from+n-1)
}

// width is how many bits of a field are in use.
func (f *fieldInfo) width() int {
	switch f.name {
	case "vlan_vid":
		return 12
	case "vlan_pcp", "mpls_tc":
		return 3
	case "mpls_label", "ipv6_label", "tun_erspan_idx":
		return 20
	case "ct_state":
		return 8
	case "mpls_bos", "tun_erspan_dir":
		return 1
	case "ip_dscp", "tun_erspan_hwid":
		return 6
	case "nw_ecn", "ip_frag":
		return 2
	case "tcp_flags":
		return 12
	case "nsh_spi":
		return 24
	case "tun_erspan_ver":
		return 4
	}
	return f.size * 8
}
