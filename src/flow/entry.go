package flow

import "math"

const (
	segmentBits    = 14
	segmentEntries = 1 << segmentBits
)

// hot is the part of an entry that every packet touches: two cache lines, of which the first holds all that IPv4 is found by.
type hot struct {
	m0, m1, a, vlan, meta, parent uint64
	last                          int64 // ns
	flags                         uint32
	extra                         uint32 // index into Table.extras; 0: none

	ends      [2]traffic // sent by the ends of the key
	b, c, d   uint64
	hash      uint32 // upper half
	path, app uint16
}

// cold is the part that only the first packet and reports touch.
type cold struct {
	start              int64 // ms
	l3, tracking, uuid uint64
	base               [2]traffic // at the last report
	deltaBytes         [2]uint64  // of the last report
	deltaPackets       [2]uint32  // saturated
	rtt, asked         int64      // ns; asked: time of the packet whose answer gives the RTT, or see exported
	portA, portB       uint16     // of ICMP, portA is the sequence number of what was asked
	next               uint32     // of the free list, + 1
}

type traffic struct{ packets, bytes uint64 }

// block is the memory of a segment.
type block struct {
	hot  [segmentEntries]hot
	cold [segmentEntries]cold
}

// Flags of an entry, above shownMask.
const (
	live       uint32 = 1 << (iota + 8)
	changed           // since the last report
	seen              // since the hand of the clock passed
	aSecond           // A is the second end of the key
	reported          // has had a report interval with traffic in the last one
	updated           // has lived through a report
	gapped            // reassembly waits for a segment
	askedB            // the packet that waits for an answer went from the second end of the key
	withIP            // has an IPMetric
	finish1           // FinishType, 2 bits
	finish2           //
	timeout1          // class of application timeout, 6 bits
	finishBit  = 17
	timeoutBit = 19
	classes    = 1 << 6
	exported   = 1 << 25 // made of records, the last of which came at cold.asked
)

// segment counts the entries of a segment and chains the free ones.
type segment struct {
	free uint32 // + 1
	used int    // ever
	live int
}

// memory is what is not on the heap, apart from the table so that it can be given back when the table is collected.
type memory struct{ blocks []*block }

func (m *memory) free() {
	for _, b := range m.blocks {
		freeSegment(b)
	}
	m.blocks = nil
}

func (t *Table) hot(n uint32) *hot   { return &t.mem.blocks[n>>segmentBits].hot[n&(segmentEntries-1)] }
func (t *Table) cold(n uint32) *cold { return &t.mem.blocks[n>>segmentBits].cold[n&(segmentEntries-1)] }

// allocate finds room for an entry, in the first segment that has some.
func (t *Table) allocate() (uint32, bool) {
	for ; t.room < len(t.segments); t.room++ {
		s := &t.segments[t.room]
		if s.free == 0 && s.used == segmentEntries {
			continue
		}
		if t.mem.blocks[t.room] == nil {
			// A table that stays small does not need a large page.
			if t.mem.blocks[t.room] = mapSegment(t.room > 0); t.mem.blocks[t.room] == nil {
				return 0, false
			}
		}
		s.live++
		if s.free != 0 {
			n := s.free - 1
			s.free = t.cold(n).next
			return n, true
		}
		s.used++
		return uint32(t.room)<<segmentBits | uint32(s.used-1), true
	}
	t.segments = append(t.segments, segment{})
	t.mem.blocks = append(t.mem.blocks, nil)
	return t.allocate()
}

// release gives the memory of an entry back, and that of its segment with the last one.
func (t *Table) release(n uint32) {
	i := int(n >> segmentBits)
	s := &t.segments[i]
	t.hot(n).flags = 0
	s.live--
	if s.live == 0 && i > 0 {
		freeSegment(t.mem.blocks[i])
		t.mem.blocks[i] = nil
		*s = segment{}
	} else {
		t.cold(n).next = s.free
		s.free = n + 1
	}
	t.room = min(t.room, i)
}

// remove ends a flow.
func (t *Table) remove(n uint32) {
	e := t.hot(n)
	t.index.remove(uint64(e.hash)<<32, n)
	if e.extra != 0 {
		t.forget(e.extra)
	}
	t.count--
	t.removals++
	t.release(n)
}

// evictLooks bounds the entries that are looked at to make room: no packet waits for long.
const evictLooks = 1024

// evict gives up a flow that was not seen since the hand of the clock last passed. If all of many were, the one among them that is idle
// for longest goes.
func (t *Table) evict() {
	victim, idle := uint32(0), int64(math.MaxInt64)
	for looks := 0; looks < evictLooks || idle == math.MaxInt64; looks++ {
		i := int(t.hand >> segmentBits)
		if i >= len(t.segments) {
			t.hand = 0
			continue
		}
		if t.segments[i].live == 0 || int(t.hand&(segmentEntries-1)) >= t.segments[i].used {
			t.hand = uint32(i+1) << segmentBits
			continue
		}
		n := t.hand
		t.hand++
		e := t.hot(n)
		if e.flags&live == 0 {
			continue
		}
		if e.flags&seen == 0 {
			victim = n
			break
		}
		e.flags &^= seen
		if e.last < idle {
			victim, idle = n, e.last
		}
	}
	t.remove(victim)
	t.counts.Evicted++
}
