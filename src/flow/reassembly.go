package flow

import (
	"encoding/binary"
	"slices"
	"time"
)

// tcpState is what ExtraTCPMetric and ReassembleTCP know of a connection. Reassembly follows the sequence numbers only: no data are kept.
type tcpState struct {
	metric TCPMetric
	ends   [2]stream // from A, from B
}

// direction is which of the two ends sent a segment.
type direction int

const (
	fromA direction = iota
	fromB
)

// counters of TCPMetric, of one direction.
type counters struct{ outOfOrder, skipped, skippedBytes, packets, bytes, sawStart, sawEnd *int64 }

func (m *TCPMetric) counters(from direction) counters {
	if from == fromB {
		return counters{&m.BASegmentOutOfOrder, &m.BASegmentSkipped, &m.BASegmentSkippedBytes, &m.BAPackets, &m.BABytes, &m.BASawStart, &m.BASawEnd}
	}
	return counters{&m.ABSegmentOutOfOrder, &m.ABSegmentSkipped, &m.ABSegmentSkippedBytes, &m.ABPackets, &m.ABBytes, &m.ABSawStart, &m.ABSawEnd}
}

// stream is one direction.
type stream struct {
	next       uint32 // sequence number that is due
	known      bool   // next is
	ended      bool
	last       int64 // ns: time of the latest segment that was put in order
	waitedFrom int64 // ns: since when a gap is open
	waiting    []waiting
}

// waiting is a segment for which an earlier one is missing.
type waiting struct {
	seq, size uint32
	time      int64
	end       bool
}

const (
	gapOpen      = int64(30 * time.Second) // a gap is given up then
	waitingMax   = 32                      // segments of a stream that wait
	waitingTotal = 1 << 16                 // of all streams of a table
)

// segment counts a TCP packet.
func (t *Table) segment(p *Packet, l *level, e *hot, s *tcpState) {
	from := fromA
	if l.swap != (e.flags&aSecond != 0) {
		from = fromB
	}
	m := &s.metric
	once := func(ab, ba *int64) {
		if from == fromB {
			ab = ba
		}
		if *ab == 0 {
			*ab = l.time / ms
		}
	}
	if t.o.ExtraTCPMetric && l.tcp&tcpSYN != 0 {
		once(&m.ABSynStart, &m.BASynStart)
		if from == fromA {
			m.ABSynTTL = uint32(l.ttl)
		} else {
			m.BASynTTL = uint32(l.ttl)
		}
	}
	if l.tcp&tcpFIN != 0 {
		once(&m.ABFinStart, &m.BAFinStart)
	}
	if l.tcp&tcpRST != 0 {
		once(&m.ABRstStart, &m.BARstStart)
	}
	if t.o.ReassembleTCP && l.packets == 1 {
		st := &s.ends[from]
		before := len(st.waiting)
		s.reassemble(t, from, l.tcp, binary.BigEndian.Uint32(p.Data[l.l4+4:]), uint32(max(l.payload, 0)), l.time)
		t.waiting += len(st.waiting) - before
		if len(st.waiting) > 0 {
			e.flags |= gapped
		}
	}
}

// reassemble puts a segment in order, or lets it wait.
func (s *tcpState) reassemble(t *Table, from direction, flags uint8, seq, size uint32, now int64) {
	st := &s.ends[from]
	end := flags&(tcpFIN|tcpRST) != 0
	if flags&tcpSYN == 0 && size == 0 && (!end || !st.known) {
		return
	}
	if flags&tcpSYN != 0 && (!st.known || st.ended) {
		*st = stream{next: seq + 1 + size, known: true, last: st.last}
		s.deliver(from, size, true, end, now)
		return
	}
	if st.ended {
		return // a retransmission
	}
	if !st.known { // the capture began later than the connection
		st.next, st.known = seq, true
	}
	if int32(seq-st.next) > 0 {
		if t.waiting >= waitingTotal {
			t.counts.SegmentsDropped++
			return
		}
		if len(st.waiting) == waitingMax {
			s.skip(from)
		}
		if int32(seq-st.next) > 0 && !st.ended {
			if len(st.waiting) == 0 {
				st.waitedFrom = now
			}
			w := waiting{seq, size, now, end}
			i, _ := slices.BinarySearchFunc(st.waiting, w, func(a, b waiting) int {
				return 2*int(int32(a.seq-b.seq)) - 1 // equal ones in order of arrival
			})
			st.waiting = slices.Insert(st.waiting, i, w)
			return
		}
	}
	s.advance(from, seq, size, end, now)
	s.drain(from, now)
}

// advance delivers what is new of a segment that begins at or before what is due.
func (s *tcpState) advance(from direction, seq, size uint32, end bool, now int64) {
	st := &s.ends[from]
	fresh := uint32(max(int32(seq+size-st.next), 0))
	st.next += fresh
	s.deliver(from, fresh, false, end, now)
}

// drain delivers the waiting segments that are due.
func (s *tcpState) drain(from direction, now int64) {
	st := &s.ends[from]
	n := 0
	for ; n < len(st.waiting) && !st.ended && int32(st.waiting[n].seq-st.next) <= 0; n++ {
		w := st.waiting[n]
		s.advance(from, w.seq, w.size, w.end, w.time)
	}
	if n > 0 {
		st.waiting = slices.Delete(st.waiting, 0, n)
		st.waitedFrom = now
	}
	if st.ended || len(st.waiting) == 0 {
		st.waiting = nil
	}
}

// skip gives up the first gap.
func (s *tcpState) skip(from direction) {
	st, c := &s.ends[from], s.metric.counters(from)
	if len(st.waiting) == 0 {
		return
	}
	gap := st.waiting[0].seq - st.next
	*c.skipped++
	*c.skippedBytes += int64(gap)
	st.next += gap
	s.drain(from, st.waiting[0].time)
}

func (s *tcpState) deliver(from direction, size uint32, start, end bool, now int64) {
	st, c := &s.ends[from], s.metric.counters(from)
	if now < st.last {
		*c.outOfOrder++
	} else {
		st.last = now
	}
	*c.packets++
	*c.bytes += int64(size)
	if start {
		*c.sawStart = 1
	}
	if end {
		*c.sawEnd = 1
		st.ended = true
	}
}

// overdue gives up the gaps that are open for too long; true: others are still open.
func (t *Table) overdue(s *tcpState, now int64) (open bool) {
	for i := range s.ends {
		st := &s.ends[i]
		before := len(st.waiting)
		for len(st.waiting) > 0 && now-st.waitedFrom >= gapOpen {
			s.skip(direction(i))
		}
		t.waiting += len(st.waiting) - before
		open = open || len(st.waiting) > 0
	}
	return open
}
