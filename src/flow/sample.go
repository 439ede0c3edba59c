package flow

import "math"

// Place is where in a network packets were counted which somebody else took: a node, as a number of the Table. Zero is the node of the table.
type Place uint16

// place is what a number stands for.
type place struct{ tid, salt string }

const placesMax = 1 << 14

// Place gives the number for packets of the node tid, "" for that of the table. Who counts the same packets at several points of one node
// gives each a salt: their flows are kept apart then, and have UUIDs of their own. When there are too many places it is the zero one.
func (t *Table) Place(tid, salt string) Place {
	if tid == "" {
		tid = t.o.NodeTID
	}
	if tid == t.o.NodeTID && salt == "" {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := place{tid, salt}
	n, ok := t.byPlace[p]
	// Addresses can be made up by whoever sends: they must not leave nodes without a place.
	if !ok && len(t.places) < placesMax && (salt == "" || len(t.places) < placesMax/2) {
		if t.byPlace == nil {
			t.byPlace = make(map[place]Place)
			t.places = []place{{tid: t.o.NodeTID}}
		}
		n = Place(len(t.places))
		t.places = append(t.places, p)
		t.byPlace[p] = n
	}
	return n
}

// at is the place of a number.
func (t *Table) at(n Place) place {
	if int(n) < len(t.places) {
		return t.places[n]
	}
	return place{tid: t.o.NodeTID}
}

// place of a key is where IP has no use for the Ethernet type, and others none for addresses.
func (k *key) place() Place {
	if k.meta&(metaNet4|metaNet6) != 0 {
		return Place(k.meta >> metaTypeShift)
	}
	return Place(k.a)
}

func (e *hot) place() Place {
	k := key{a: e.a, meta: e.meta}
	return k.place()
}

// locate puts the key at a place.
func (k *key) locate(n Place) {
	if k.meta&(metaNet4|metaNet6) != 0 {
		k.meta = k.meta&^(0xffff<<metaTypeShift) | uint64(n)<<metaTypeShift
	} else {
		k.a = uint64(n)
	}
}

// Sample tells how a packet was chosen, and where.
type Sample struct {
	Rate  uint32     // packets that it stands for, itself included; 0: 1
	First FirstLayer // what it begins with
	Place Place
	Back  Place // where packets of the other direction are seen, when each is seen only where it comes in; else Place
}

// Sampled counts a packet as so many as were there for each that was chosen. What needs every packet – round-trip times, reassembly, ends of
// connections – is left out when the rate is more than one. Its data are not kept.
func (t *Table) Sampled(p *Packet, s Sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Packets++
	t.slow(p, &s)
}

// sampled makes a level that of a sample.
func (t *Table) sampled(l *level, s *Sample) {
	if s.Rate > 1 {
		l.packets, l.bytes = int64(s.Rate), l.bytes*int64(s.Rate)
		l.tcp, l.echo = 0, echoNone
	}
	t.settle(l, s.Place, s.Back)
}

// settle puts a level where its flow is: the direction that comes in elsewhere may have begun it there.
func (t *Table) settle(l *level, in, back Place) {
	if in != 0 {
		l.locate(in)
		l.hash = l.key.hash(&t.seed)
	}
	if in == back {
		return
	}
	if e, _ := t.lookup(&l.key, l.hash); e != nil {
		return
	}
	l.locate(back)
	there := l.key.hash(&t.seed)
	if e, _ := t.lookup(&l.key, there); e != nil {
		l.hash = there
		return
	}
	l.locate(in)
}

// addMany counts a packet that stands for others. What nobody can have counted must not make counters wrap.
func (e *hot) addMany(l *level) {
	c := &e.ends[0]
	if l.swap {
		c = &e.ends[1]
	}
	e.add(l.swap, min(l.packets, math.MaxInt64-int64(c.packets)), min(l.bytes, math.MaxInt64-int64(c.bytes)))
}
