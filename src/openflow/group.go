package openflow

import (
	"strconv"
	"strings"
)

// Group is an entry of the group table. Actions of rules refer to it by its number.
type Group struct {
	ID        uint32
	Type      string // all, select, indirect, ff (fast failover)
	Selection string // how a select group chooses, when the switch tells
	Buckets   []Bucket
	raw       string
}

// Bucket is one of the lists of actions that a group chooses from.
type Bucket struct {
	ID         uint32
	Weight     uint16
	WatchPort  Value // nil: none
	WatchGroup Value // nil: none
	Len        int   // as the switch sent it, in bytes
	Actions    []Action
}

// readGroups reads the groups of an answer.
func readGroups(v Version, body []byte, each func(Group)) error {
	for b := body; len(b) > 0; {
		c := cursor{b: b}
		size := int(c.u16())
		if size < 8 || size > len(b) {
			return errShort
		}
		c.b = b[2:size:size]
		g := Group{raw: string(b[:size])}
		b = b[size:]
		g.Type = choice([]string{"all", "select", "indirect", "ff"}, uint16(c.u8()))
		c.skip(1)
		g.ID = c.u32()
		buckets := c
		if v >= Version15 {
			length := int(c.u16())
			c.skip(6)
			buckets = cursor{b: c.bytes(length)}
			g.properties(c)
		}
		if c.bad {
			return errShort
		}
		for len(buckets.b) > 0 {
			k, ok := readBucket(v, &buckets)
			if !ok {
				return errShort
			}
			g.Buckets = append(g.Buckets, k)
		}
		each(g)
	}
	return nil
}

func readBucket(v Version, list *cursor) (Bucket, bool) {
	c := cursor{b: list.b}
	k := Bucket{Len: int(c.u16())}
	if c.bad || k.Len < 8 || k.Len > len(list.b) {
		return k, false
	}
	c = cursor{b: list.bytes(k.Len)[2:]}
	d := decoder{version: v}
	if v < Version15 {
		k.Weight = c.u16()
		k.watch(c.u32(), c.u32())
		c.skip(4)
		k.Actions = d.actions(c.b)
		return k, !c.bad
	}
	size := int(c.u16())
	k.ID = c.u32()
	k.Actions = d.actions(c.bytes(size))
	watched := [...]uint32{anyPort, anyGroup}
	for len(c.b) >= 4 {
		kind, size := c.u16(), int(c.u16())
		p := cursor{b: c.padded4(size)}
		switch kind {
		case 0:
			k.Weight = p.u16()
		case 1, 2:
			watched[kind-1] = p.u32()
		}
	}
	k.watch(watched[0], watched[1])
	return k, !c.bad
}

func (k *Bucket) watch(port, group uint32) {
	if port != anyPort {
		k.WatchPort = portValue(port)
	}
	if group != anyGroup {
		k.WatchGroup = int64(group)
	}
}

// properties reads how the group selects: an extension that Open vSwitch took from Netronome.
func (g *Group) properties(c cursor) {
	const netronome = 0x0000154d
	for len(c.b) >= 4 {
		kind, size := c.u16(), int(c.u16())
		p := cursor{b: c.padded4(size)}
		if kind != 0xffff || p.u32() != netronome {
			continue
		}
		p.skip(8) // its own type, and fill
		g.Selection = strings.ToValidUTF8(strings.TrimRight(string(p.bytes(16)), "\x00"), "?")
	}
}

// String writes the group as ovs-ofctl does, but for the number and choice of its buckets.
func (g *Group) String() string {
	s := "group_id=" + strconv.FormatUint(uint64(g.ID), 10) + ",type=" + g.Type
	for _, k := range g.Buckets {
		s += ",bucket="
		if k.Weight != 0 {
			s += "weight:" + strconv.Itoa(int(k.Weight)) + ","
		}
		if k.WatchPort != nil {
			s += "watch_port:" + valueText(k.WatchPort) + ","
		}
		if k.WatchGroup != nil {
			s += "watch_group:" + valueText(k.WatchGroup) + ","
		}
		s += "actions=" + join(k.Actions)
		if len(k.Actions) == 0 {
			s += "drop"
		}
	}
	return s
}

func valueText(v Value) string {
	if n, ok := v.(int64); ok {
		return strconv.FormatInt(n, 10)
	}
	s, _ := v.(string)
	return s
}
