package flow

import "time"

const (
	datagramsMax  = 4096                    // fragmented datagrams followed at once
	datagramStays = int64(30 * time.Second) // one that is not complete then is given up
)

// fragments follows the fragments of IPv4 datagrams, so that all of them count for the flow that the first one names. Nothing is put
// together: no data are kept.
type fragments struct {
	byKey       map[datagramKey]*datagram
	first, last *datagram // in order of arrival
}

type datagramKey struct {
	m0, m1, a, vlan, parent uint64
	id                      uint16
	proto                   uint8
	swap                    bool
	place                   Place
}

type datagram struct {
	key        datagramKey
	prev, next *datagram
	began      int64 // ns
	got, total int   // bytes; total 0: not known yet
	entry      uint32
	uuid       uint64 // of the entry; 0: the first fragment did not come yet
	held       level  // the first fragment that came before it
	packets    int64  // which came before it
	bytes      int64
}

// fragment counts a fragment; nil: it waits for the one with the ports.
func (t *Table) fragment(p *Packet, l *level) (*hot, uint32) {
	f := &t.frags
	t.fragmentsUntil(l.time - datagramStays)
	k := datagramKey{l.m0 >> 16, l.m1 >> 16, l.a, l.vlan, l.parent, l.ipID, l.ipProto(), l.swap, l.place()}
	d := f.byKey[k]
	if d == nil {
		if len(f.byKey) >= datagramsMax {
			t.counts.FragmentsDropped++
			t.giveUp(f.first)
		}
		d = f.add(k, l.time)
	}
	d.got += int(l.ipSize)
	if !l.more {
		d.total = int(l.fragOff)*8 + int(l.ipSize)
	}
	defer func() {
		if d.total > 0 && d.got >= d.total && d.uuid != 0 {
			f.remove(d)
		}
	}()
	if l.fragOff == 0 {
		e, n := t.account(p, l)
		if e == nil {
			return nil, 0
		}
		d.entry, d.uuid = n, t.cold(n).uuid
		t.fragmented(e, 1+d.packets, 0)
		e.add(l.swap, d.packets, d.bytes)
		d.packets, d.bytes = 0, 0
		return e, n
	}
	if e := t.namedBy(d); e != nil {
		e.add(l.swap, l.packets, l.bytes)
		e.last = max(e.last, l.time)
		t.fragmented(e, 1, 0)
		return e, d.entry
	}
	if d.packets == 0 {
		d.held = *l
	}
	d.packets += l.packets
	d.bytes += l.bytes
	return nil, 0
}

// namedBy is the entry of the first fragment, if it is still there.
func (t *Table) namedBy(d *datagram) *hot {
	if d.uuid == 0 || t.mem.blocks[d.entry>>segmentBits] == nil {
		return nil
	}
	if e := t.hot(d.entry); e.flags&live != 0 && t.cold(d.entry).uuid == d.uuid {
		return e
	}
	return nil
}

// fragmented counts fragments.
func (t *Table) fragmented(e *hot, fragments, errors int64) {
	if e.extra == 0 {
		t.extend(e)
	}
	m := &t.extra(e.extra).ip
	m.Fragments += fragments
	m.FragmentErrors += errors
}

func (f *fragments) add(k datagramKey, time int64) *datagram {
	d := &datagram{key: k, began: time, prev: f.last}
	if f.last != nil {
		f.last.next = d
	} else {
		f.first = d
	}
	f.last = d
	if f.byKey == nil {
		f.byKey = map[datagramKey]*datagram{}
	}
	f.byKey[k] = d
	return d
}

func (f *fragments) remove(d *datagram) {
	delete(f.byKey, d.key)
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		f.first = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		f.last = d.prev
	}
}

// fragmentsUntil gives up the datagrams that began before.
func (t *Table) fragmentsUntil(before int64) {
	for d := t.frags.first; d != nil && d.began < before; d = t.frags.first {
		t.giveUp(d)
	}
}

// giveUp ends a datagram that is not complete. What came of it is counted: for the flow that its first fragment named, or for one of
// fragments without ports.
func (t *Table) giveUp(d *datagram) {
	t.frags.remove(d)
	if e := t.namedBy(d); e != nil {
		t.fragmented(e, 0, 1)
		e.flags |= changed
		return
	}
	if d.packets == 0 {
		return
	}
	d.held.rawType = 0
	e, _ := t.account(&Packet{}, &d.held)
	if e == nil {
		return
	}
	e.add(d.held.swap, d.packets-1, d.bytes-d.held.bytes)
	t.fragmented(e, d.packets, d.packets)
}
