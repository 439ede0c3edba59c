package openflow

import "fmt"

var controllerReasons = [...]string{"no_match", "action", "invalid_ttl", "action_set", "group", "packet_out"}

func controller(c *cursor) Action {
	length, id, reason := c.u16(), c.u16(), uint16(c.u8())
	return controllerText(length, id, reason, nil)
}

// controllerText leaves out what is as by default.
func controllerText(length, id, reason uint16, more func(*list)) Action {
	l := newList("controller")
	if reason != 1 {
		s := choice(controllerReasons[:], reason)
		l.add("Reason", s, "reason="+s)
	}
	if length != 0xffff {
		l.number("MaxLen", "max_len", uint64(length))
	}
	l.positive("Id", "id", uint64(id))
	if more != nil {
		more(l)
	} else if reason == 1 && id == 0 {
		return Action{Type: "controller", text: fmt.Sprintf("CONTROLLER:%d", length)}.with("MaxLen", int64(length))
	}
	return l.done()
}

func controllerProperties(c *cursor) Action {
	c.skip(6)
	length, id, reason := uint16(0xffff), uint16(0), uint16(1)
	var userdata []byte
	var pause bool
	var meter uint32
	for len(c.b) >= 4 {
		kind, size := c.u16(), int(c.u16())
		p := cursor{b: c.bytes(size - 4)}
		c.skip(min((8-size%8)%8, len(c.b)))
		switch kind {
		case 0:
			length = p.u16()
		case 1:
			id = p.u16()
		case 2:
			reason = uint16(p.u8())
		case 3:
			userdata = p.b
		case 4:
			pause = true
		case 5:
			meter = p.u32()
		}
	}
	return controllerText(length, id, reason, func(l *list) {
		if userdata != nil {
			l.add("Userdata", dotted(userdata), "userdata="+dotted(userdata))
		}
		l.flag("Pause", "pause", pause)
		l.positive("Meter", "meter_id", uint64(meter))
	})
}
