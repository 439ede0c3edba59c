package flow

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Options of a Table.
type Options struct {
	NodeTID, CaptureID string
	L3                 bool // flows are told apart by network and transport alone
	RawPacketLimit     int  // packets kept of each flow in its life
	HeaderSize         int  // bytes kept of such a packet; 0: 256
	ExtraTCPMetric     bool
	IPDefrag           bool
	ReassembleTCP      bool
	ExtraLayers        int // ExtraVRRP | ExtraDNS | ExtraDHCPv4
	FirstLayer         FirstLayer
	MaxEntries         int // 0: 500000

	Update, Expire      time.Duration            // 0: never
	ApplicationTimeouts map[string]time.Duration // by application, in any case; 63 at most
	TCPPorts, UDPPorts  map[uint16]string        // application names
	MPLSUDPPorts        []uint16
}

// Extra layers.
const (
	ExtraVRRP   = 1
	ExtraDNS    = 2
	ExtraDHCPv4 = 4
)

const (
	batchSize      = 32  // packets whose table accesses overlap
	lockedPackets  = 512 // packets counted before others may have the lock
	defaultEntries = 500_000
	entriesLimit   = 1 << 28
	ms             = int64(time.Millisecond)
)

// Table turns packets into flows, and what others have counted or sampled. It is bounded by Options.MaxEntries: to make room, a flow that was not seen for long is given up, and
// counted. All methods may be called from any goroutine.
type Table struct {
	o          Options
	first      FirstLayer
	l3, defrag bool
	headerSize int
	max        int
	seed       [4]uint64
	mplsPorts  []uint16
	timeouts   []int64 // ns, by class; 0 is none
	classOf    map[string]uint32

	sweep sync.Mutex // one Tick or Flush at a time

	mu       sync.Mutex
	mem      *memory
	segments []segment
	room     int // no segment before has room
	index    index
	count    int
	hand     uint32
	extras   [][]extra // in pieces, so that no packet waits for all to be moved
	spare    []uint32  // free extras
	names    names
	counts   Counts
	frags    fragments
	raw      int // bytes of raw packets held
	waiting  int // TCP segments that wait for earlier ones
	batch    [batchSize]quick
	found    [batchSize]uint32
	levels   [maxLevels]level
	removals uint64 // entries that ever ended
	places   []place
	byPlace  map[place]Place
	sink     uint64

	lastUpdate, prevUpdate int64 // ms
	lastExpire             int64 // ns
}

// Counts is what Stats has no field for: frames that could not be decoded to their end, and what was given up to stay within bounds.
type Counts struct {
	Packets, PacketsDropped int64
	Evicted                 int64 // flows
	Malformed               int64 // frames that contradict themselves
	Truncated               int64 // frames of which the capture kept too little
	FragmentsDropped        int64 // fragments whose datagram had to be forgotten
	SegmentsDropped         int64 // TCP segments out of order for which there was no room
	RawPacketsDropped       int64 // raw packets for which there was no room
}

// NewTable returns an empty table.
func NewTable(o Options) *Table {
	t := &Table{o: o, first: o.FirstLayer, l3: o.L3, defrag: o.IPDefrag, headerSize: o.HeaderSize, max: o.MaxEntries, mplsPorts: o.MPLSUDPPorts,
		mem: new(memory), index: newIndex(), timeouts: []int64{0}, classOf: map[string]uint32{}}
	if t.headerSize <= 0 {
		t.headerSize = 256
	}
	if t.max <= 0 {
		t.max = defaultEntries
	}
	t.max = min(t.max, entriesLimit)
	for i := range t.seed {
		t.seed[i] = rand.Uint64()
	}
	for app, d := range o.ApplicationTimeouts {
		if d > 0 && len(t.timeouts) < classes {
			t.classOf[strings.ToUpper(app)] = uint32(len(t.timeouts))
			t.timeouts = append(t.timeouts, int64(d))
		}
	}
	t.initNames()
	runtime.AddCleanup(t, (*memory).free, t.mem)
	return t
}

// Drop counts packets that were lost before they reached the table.
func (t *Table) Drop(packets int64) {
	t.mu.Lock()
	t.counts.PacketsDropped += packets
	t.mu.Unlock()
}

// Stats tells what happened so far.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Stats{CaptureID: t.o.CaptureID, FlowCount: int64(t.count), FlowDropped: t.counts.Evicted,
		PacketsDropped: t.counts.PacketsDropped, PacketsReceived: t.counts.Packets}
}

// Counts tells what happened so far.
func (t *Table) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts
}

// Len is the number of flows.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// Packets counts packets. Their data is not kept.
func (t *Table) Packets(batch []Packet) {
	for len(batch) > 0 {
		n := min(len(batch), lockedPackets)
		t.packets(batch[:n])
		batch = batch[n:]
	}
}

func (t *Table) packets(batch []Packet) {
	t.mu.Lock()
	defer t.mu.Unlock() // also when a packet makes it panic: others go on with the table
	t.counts.Packets += int64(len(batch))
	for len(batch) > 0 {
		n := min(len(batch), batchSize)
		for i := range batch[:n] {
			t.quick(&batch[i], &t.batch[i])
		}
		// The first accesses to memory for all packets at once: they do not depend on each other, so that the processor overlaps them.
		var at [batchSize]*group
		var touched uint64
		for i := range n {
			hash := t.batch[i].hash
			at[i] = &t.index.bucket(hash).group[home(hash)]
			touched += at[i][0]
		}
		for i := range n {
			t.found[i] = at[i].find(t.batch[i].hash)
		}
		blocks := t.mem.blocks
		for _, f := range t.found[:n] {
			if f != 0 {
				e := &blocks[(f-1)>>segmentBits].hot[(f-1)&(segmentEntries-1)]
				touched += e.meta + e.b
			}
		}
		t.sink = touched
		removals := t.removals
		for i := range batch[:n] {
			q, p := &t.batch[i], &batch[i]
			if !q.ok {
				t.slow(p, nil)
				continue
			}
			var e *hot
			entry := t.found[i] - 1
			if t.found[i] != 0 && t.removals == removals {
				e = t.hot(entry)
			}
			if e == nil || !q.is(e) {
				if e, entry = t.lookup(&q.key, q.hash); e == nil {
					t.slow(p, nil)
					continue
				}
			}
			if e.extra != 0 {
				t.slow(p, nil)
				continue
			}
			c := &e.ends[q.swap&1]
			c.packets++
			c.bytes += uint64(q.bytes)
			e.flags |= changed | seen
			if p.Time > e.last {
				e.last = p.Time
			}
			if q.tcp&(tcpSYN|tcpRST) != 0 {
				t.measure(e, entry, q.tcp, q.swap != 0, p.Time)
			}
		}
		batch = batch[n:]
	}
}

// slow counts a packet of any kind; s is nil for one that stands for itself alone.
func (t *Table) slow(p *Packet, s *Sample) {
	first := t.first
	if s != nil {
		first = s.First
	}
	levels := t.levels[:t.decode(p, first, &t.levels)]
	var parent uint64
	for j := range levels {
		l := &levels[j]
		if j > 0 {
			l.parent = parent
			l.hash = l.key.hash(&t.seed)
		}
		if s != nil {
			t.sampled(l, s)
		}
		if l.defect != whole {
			t.defective(l.defect)
		}
		if l.path == 0 && l.rest == 0 {
			return // not even a first header
		}
		var e *hot
		var n uint32
		if l.fragment && t.defrag && l.packets == 1 {
			e, n = t.fragment(p, l)
		} else {
			e, n = t.account(p, l)
		}
		if e == nil {
			return
		}
		if l.outer {
			parent = t.cold(n).uuid
		}
	}
}

func (t *Table) defective(d defect) {
	if d == truncated {
		t.counts.Truncated++
	} else {
		t.counts.Malformed++
	}
}

// account counts a packet for its flow.
func (t *Table) account(p *Packet, l *level) (*hot, uint32) {
	e, n := t.lookup(&l.key, l.hash)
	if e == nil {
		return t.create(p, l)
	}
	t.hit(p, l, e, n)
	return e, n
}

// lookup finds the entry of a key.
func (t *Table) lookup(k *key, hash uint64) (*hot, uint32) {
	b := t.index.bucket(hash)
	for i := home(hash); ; i = (i + 1) & (groups - 1) {
		room := false
		for _, s := range b.group[i] {
			if s == 0 {
				room = true
			} else if s>>32 == hash>>32 {
				n := uint32(s) - 1
				if e := t.hot(n); k.is(e) {
					return e, n
				}
			}
		}
		if room {
			return nil, 0
		}
	}
}

// add counts what went in a direction.
func (e *hot) add(swap bool, packets, bytes int64) {
	c := &e.ends[0]
	if swap {
		c = &e.ends[1]
	}
	c.packets += uint64(packets)
	c.bytes += uint64(bytes)
	e.flags |= changed | seen
}

// hit counts a packet of a flow that is known.
func (t *Table) hit(p *Packet, l *level, e *hot, n uint32) {
	if l.packets > 1 {
		e.addMany(l)
	} else {
		e.add(l.swap, l.packets, l.bytes)
	}
	if l.time > e.last {
		e.last = l.time
	}
	if l.tcp&(tcpSYN|tcpRST) != 0 {
		t.measure(e, n, l.tcp, l.swap, l.time)
	}
	if l.echo != echoNone {
		t.measureEcho(e, n, l)
	}
	if e.extra != 0 {
		t.detail(p, l, e)
	}
}

// create begins a flow with its first packet; nil as with begin.
func (t *Table) create(p *Packet, l *level) (*hot, uint32) {
	e, n := t.begin(p, l)
	if e == nil {
		return nil, 0
	}
	if l.tcp&tcpSYN != 0 {
		t.measure(e, n, l.tcp, l.swap, l.time)
	}
	if l.echo != echoNone {
		t.measureEcho(e, n, l)
	}
	if t.detailed(l) {
		t.extend(e)
		t.detail(p, l, e)
	}
	return e, n
}

// begin makes the entry of a flow; nil: there is no memory for it, or no room in the index. That is counted like an eviction.
func (t *Table) begin(p *Packet, l *level) (*hot, uint32) {
	for t.count >= t.max {
		t.evict()
	}
	n, ok := t.allocate()
	if !ok || !t.index.insert(l.hash, n) {
		if ok {
			t.release(n)
		}
		t.counts.Evicted++
		return nil, 0
	}
	t.count++
	e, c := t.hot(n), t.cold(n)
	path, app := t.name(p, l)
	*e = hot{m0: l.m0, m1: l.m1, a: l.a, vlan: l.vlan, meta: l.meta, parent: l.parent, b: l.b, c: l.c, d: l.d, last: l.time,
		flags: live | changed | seen | l.shown, hash: uint32(l.hash >> 32), path: path, app: app}
	e.add(l.swap, l.packets, l.bytes)
	e.flags &^= seen // a flow of one packet is given up first
	start := l.time / ms
	id := l.ids(start, t.at(l.place()))
	*c = cold{start: start, l3: id.l3, tracking: id.tracking, uuid: id.uuid, portA: l.sport, portB: l.dport}
	if l.swap {
		e.flags |= aSecond
	}
	if t.defrag && !l.outer && l.shown&shownNet4 != 0 {
		e.flags |= withIP
	}
	e.flags |= t.names.apps[app].class << timeoutBit
	switch {
	case l.tcp&tcpRST != 0:
		e.flags |= uint32(TCPRst) << finishBit
	case l.tcp&tcpFIN != 0:
		e.flags |= uint32(TCPFin) << finishBit
	}
	return e, n
}
