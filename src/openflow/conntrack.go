package openflow

import (
	"fmt"
	"strconv"
)

// ct reads the action that passes a packet through connection tracking.
func (d decoder) ct(c *cursor) Action {
	l := newList("ct")
	flags := c.u16()
	source := c.u32()
	zone, table := c.u16(), c.u8()
	c.skip(3)
	alg := c.u16()
	inner := decoder{d.version, d.depth + 1}.actions(c.b)
	l.flag("Commit", "commit", flags&1 != 0)
	l.flag("Force", "force", flags&2 != 0)
	if table != 255 {
		l.number("Table", "table", uint64(table))
	}
	if source != 0 {
		header := cursor{b: []byte{byte(source >> 24), byte(source >> 16), byte(source >> 8), byte(source)}}
		f, _ := header.nextField(true)
		from := bitRange(f.key, zone)
		l.add("Zone", from, "zone="+from)
	} else {
		l.positive("Zone", "zone", uint64(zone))
	}
	var exec []Action
	for _, a := range inner {
		if a.Type == "nat" {
			l.add("Nat", []Action{a}, a.text)
		} else {
			exec = append(exec, a)
		}
	}
	if exec != nil {
		l.add("Exec", exec, "exec("+join(exec)+")")
	}
	switch alg {
	case 0:
	case 21:
		l.add("Alg", "ftp", "alg=ftp")
	case 69:
		l.add("Alg", "tftp", "alg=tftp")
	default:
		l.number("Alg", "alg", uint64(alg))
	}
	return l.done()
}

// nat reads what connection tracking is to do with addresses.
func nat(c *cursor) Action {
	c.skip(2)
	flags, present := c.u16(), c.u16()
	address := func(bit, size int) string {
		if present>>bit&1 == 0 {
			return ""
		}
		return ipText(c.bytes(size))
	}
	low, high := address(0, 4), address(1, 4)
	if low6, high6 := address(2, 16), address(3, 16); low6 != "" {
		low, high = low6, high6
		if present&0x30 != 0 {
			low = "[" + low + "]"
			if high != "" {
				high = "[" + high + "]"
			}
		}
	}
	text := low
	if high != "" {
		text += "-" + high
	}
	if present>>4&1 != 0 {
		text += ":" + strconv.Itoa(int(c.u16()))
		if present>>5&1 != 0 {
			text += "-" + strconv.Itoa(int(c.u16()))
		}
	}
	l := newList("nat")
	if flags&3 != 0 {
		name, word := "Source", "src"
		if flags&2 != 0 {
			name, word = "Destination", "dst"
		}
		if text == "" {
			l.add(name, true, word)
		} else {
			l.add(name, text, word+"="+text)
		}
	}
	l.flag("Persistent", "persistent", flags&4 != 0)
	l.flag("Hash", "hash", flags&8 != 0)
	l.flag("Random", "random", flags&16 != 0)
	if len(l.parts) == 0 {
		return plain("nat")
	}
	return l.done()
}

// learn reads the action that adds rules as packets pass.
func learn(subtype uint16, c *cursor) Action {
	l := newList("learn")
	idle, hard, priority := c.u16(), c.u16(), c.u16()
	cookie, flags, table := c.u64(), c.u16(), c.u8()
	c.skip(1)
	finIdle, finHard := c.u16(), c.u16()
	var limit uint32
	var result string
	if subtype == 45 {
		limit = c.u32()
		bit := int(c.u16())
		c.skip(2)
		if flags&4 != 0 {
			f, _ := c.nextField(true)
			result = part(f.key, bit, 1)
		}
	}
	l.number("Table", "table", uint64(table))
	l.positive("IdleTimeout", "idle_timeout", uint64(idle))
	l.positive("HardTimeout", "hard_timeout", uint64(hard))
	l.positive("FinIdleTimeout", "fin_idle_timeout", uint64(finIdle))
	l.positive("FinHardTimeout", "fin_hard_timeout", uint64(finHard))
	if priority != 0x8000 {
		l.number("Priority", "priority", uint64(priority))
	}
	l.flag("SendFlowRemoved", "send_flow_rem", flags&1 != 0)
	l.flag("DeleteLearned", "delete_learned", flags&2 != 0)
	if cookie != 0 {
		text := fmt.Sprintf("%#x", cookie)
		l.add("Cookie", text, "cookie="+text)
	}
	l.positive("Limit", "limit", uint64(limit))
	if result != "" {
		l.add("Result", result, "result_dst="+result)
	}
	var specs string
	for len(c.b) >= 2 {
		text, more := learnSpec(c)
		if !more {
			break
		}
		if specs != "" {
			specs += ","
		}
		specs += text
	}
	if specs != "" {
		l.add("Specs", specs, specs)
	}
	return l.done()
}

// learnSpec reads one part of the rule to be: a condition, a load or an output.
func learnSpec(c *cursor) (text string, more bool) {
	const immediate, matches, loads, outputs = 0x2000, 0, 1, 2
	h := c.u16()
	if h == 0 {
		return "", false
	}
	bits := int(h & 0x3ff)
	operand := func() (fieldKey, int) {
		f, _ := c.nextField(true)
		return f.key, int(c.u16())
	}
	var source string
	var value []byte
	if h&immediate != 0 {
		value = c.bytes(2 * ((bits + 15) / 16))
		source = hexText(value)
	} else {
		key, from := operand()
		source = part(key, from, bits)
	}
	switch kind := h >> 11 & 3; kind {
	case outputs:
		text = "output:" + source
	case matches, loads:
		key, to := operand()
		target := part(key, to, bits)
		switch {
		case kind == loads:
			text = "load:" + source + "->" + target
		case value != nil:
			info, _ := key.field()
			if to == 0 && bits == info.width() && info.size > 0 && len(value) >= info.size {
				text = info.name + "=" + info.text(value[len(value)-info.size:], nil)
			} else {
				text = target + "=" + source
			}
		case source == target:
			text = target
		default:
			text = target + "=" + source
		}
	default:
		text = fmt.Sprintf("spec_%#x", h)
	}
	return text, !c.bad
}
