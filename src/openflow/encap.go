package openflow

import "fmt"

// packetKind names the namespace and type of a packet's first header.
func packetKind(n uint32) string {
	switch n {
	case 0:
		return "ethernet"
	case 1<<16 | 0x894f:
		return "nsh"
	case 1<<16 | 0x8847:
		return "mpls"
	case 1<<16 | 0x8848:
		return "mpls_mc"
	}
	return fmt.Sprintf("packet_type(ns=%d,type=0x%x)", n>>16, n&0xffff)
}

func encap(kind string, c *cursor) Action {
	const nshClass, nshMDType = 4, 1
	properties := newList(kind)
	for len(c.b) >= 4 {
		class, number, size := c.u16(), c.u8(), int(c.u8())
		p := cursor{b: c.padded4(size)}
		switch {
		case class == nshClass && number == nshMDType:
			properties.number("MdType", "md_type", uint64(p.u8()))
		case size > 4:
			properties.add("Property", dotted(p.b), fmt.Sprintf("%d:%d=%s", class, number, dotted(p.b)))
		}
	}
	text := kind
	if len(properties.parts) > 0 {
		text = properties.done().text
	}
	a := Action{Type: "encap", text: "encap(" + text + ")"}.with("Type", kind)
	a.Arguments = append(a.Arguments, properties.action.Arguments...)
	return a
}

func decap(kind uint32) Action {
	const next = 0xfffe
	if kind == next {
		return Action{Type: "decap", text: "decap()"}
	}
	n := fmt.Sprintf("ns=%d,id=0x%x", kind>>16, kind&0xffff)
	return Action{Type: "decap", text: "decap(packet_type(" + n + "))"}.with("Type", n)
}
