package sampled

import (
	"net/netip"
	"slices"
	"time"

	"skydive/src/capture"
	"skydive/src/flow"
)

const (
	exportersMax = 1024
	portsMax     = 4096                  // interfaces of an exporter that are told apart
	portsAll     = 1 << 17               // interfaces and samplers of all exporters
	recentMax    = 16                    // datagrams among which a repeated one is known
	gapMax       = 1 << 16               // what jumps further has begun anew
	lateMax      = 1 << 10               // as far as what comes late may be behind
	restarted    = 10 * time.Second      // so far may the clock of an exporter go back by datagrams overtaking each other
	silentMax    = int64(24 * time.Hour) // what has not been heard of for so long is forgotten
	sweepEvery   = int64(time.Minute)
	evictLooks   = 16 // exporters that are looked at to make room
)

// stream is what is numbered by itself: an exporter or, where it has several, one of its parts.
type stream struct {
	from, agent netip.Addr // agent: as it names itself; invalid: it does not
	version     uint16
	part        uint32
}

// exporter is what is known of a stream.
type exporter struct {
	stream
	heard int64 // ns

	next   uint32 // sequence number that is due
	known  bool   // it is
	uptime uint32 // ms
	timed  bool   // it is known
	boots  uint32
	recent [recentMax]uint64
	turn   uint8

	nodes *nodes     // that ports were made from
	home  flow.Place // of interfaces that are no nodes
	ports map[uint32]*port
	other port // that there is no room for

	pools     map[uint32]*pool
	templates map[uint16]*template
	sampling
}

// port is an interface of an exporter.
type port struct {
	place   flow.Place
	in, out bool   // what comes in, or goes out, is told of
	rate    uint64 // of what is chosen there; 0: not said
}

// pool is a sampler.
type pool struct{ dropped uint32 }

type exporters struct {
	all    map[stream]*exporter
	fields int   // of all templates
	ports  int   // interfaces and samplers
	swept  int64 // ns, when those that are silent were last looked for
}

// of finds the exporter that sent a datagram; nil: it is known already.
func (s *Source) of(d *datagram, key stream) *exporter {
	if s.now-s.exporters.swept > sweepEvery {
		s.exporters.swept = s.now
		for _, e := range s.exporters.all {
			if s.now-e.heard > silentMax {
				s.forget(e)
			}
		}
	}
	e := s.exporters.all[key]
	if e == nil {
		e = s.newExporter(key)
	}
	if slices.Contains(e.recent[:], d.hash) {
		s.repeated.Add(1)
		return nil
	}
	e.recent[e.turn%recentMax] = d.hash
	e.turn++
	e.heard = s.now
	if n := s.nodes.Load(); n != e.nodes {
		e.nodes = n
		for ifIndex, p := range e.ports { // what the exporter has said of them stays: it may not say so again for long
			p.place = s.placeOf(e, ifIndex)
		}
	}
	return e
}

func (s *Source) newExporter(key stream) *exporter {
	x := &s.exporters
	if x.all == nil {
		x.all = make(map[stream]*exporter)
	}
	if len(x.all) >= exportersMax {
		var oldest *exporter
		looks := 0
		for _, e := range x.all { // in random order
			if oldest == nil || e.heard < oldest.heard {
				oldest = e
			}
			if looks++; looks == evictLooks {
				break
			}
		}
		s.forget(oldest)
	}
	e := &exporter{stream: key, ports: make(map[uint32]*port), nodes: s.nodes.Load()}
	// Several exporters may see the same packets; one that is on this host is the only one.
	if a := e.address(); !a.IsLoopback() {
		e.home = s.request.Intake.Place("", a.String())
	}
	x.all[key] = e
	return e
}

// forget drops an exporter.
func (s *Source) forget(e *exporter) {
	for _, t := range e.templates {
		s.exporters.fields -= t.size()
	}
	s.exporters.ports -= len(e.ports) + len(e.pools)
	delete(s.exporters.all, e.stream)
}

// address is that by which the graph may know it.
func (e *exporter) address() netip.Addr {
	if e.agent.IsValid() && !e.agent.IsUnspecified() {
		return e.agent
	}
	return e.from
}

// sequence counts what is missing before a datagram that has so many numbers.
func (s *Source) sequence(e *exporter, number, count uint32) {
	gap := int32(number - e.next)
	switch {
	case !e.known || gap > gapMax || gap < -lateMax:
		e.known = true
	case gap < 0: // it was counted as missing
		s.missing.Add(-int64(count))
		return
	default:
		s.missing.Add(int64(gap))
	}
	e.next = number + count
}

// clock follows the uptime of an exporter; true: it has begun anew.
func (e *exporter) clock(uptime uint32) bool {
	back, timed := int32(e.uptime-uptime), e.timed // also where it wraps
	e.uptime, e.timed = uptime, true
	if timed && int64(back) > restarted.Milliseconds() {
		e.known = false
		e.boots++
		return true
	}
	return false
}

// nodes are what interfaces of exporters are in the graph.
type nodes struct{ tids map[nodeKey]string }

type nodeKey struct {
	address netip.Addr
	ifIndex uint32
}

// Map implements capture.Mapper.
func (s *Source) Map(all []capture.Exporter) {
	n := &nodes{tids: make(map[nodeKey]string, len(all))}
	for _, x := range all {
		if a, err := netip.ParseAddr(x.Address); err == nil {
			n.tids[nodeKey{a.Unmap().WithZone(""), uint32(x.IfIndex)}] = x.TID
		}
	}
	s.nodes.Store(n)
}

// port finds an interface of an exporter; 0 is one that it does not know.
func (s *Source) port(e *exporter, ifIndex uint32) *port {
	if p := e.ports[ifIndex]; p != nil {
		return p
	}
	if len(e.ports) >= portsMax || s.exporters.ports >= portsAll {
		e.other = port{place: e.home}
		return &e.other
	}
	p := &port{place: s.placeOf(e, ifIndex)}
	e.ports[ifIndex] = p
	s.exporters.ports++
	return p
}

// placeOf is the node that an interface is, or where those are that are none.
func (s *Source) placeOf(e *exporter, ifIndex uint32) flow.Place {
	for _, a := range [...]netip.Addr{e.agent, e.from} {
		if tid := e.nodes.tids[nodeKey{a.WithZone(""), ifIndex}]; tid != "" {
			return s.request.Intake.Place(tid, "")
		}
	}
	return e.home
}

// places tells where packets are counted that came in at one interface and left by another, and were seen leaving or not. That it is not to be
// counted at all: the exporter tells of the same packets when they come in, too.
func (s *Source) places(e *exporter, in, out uint32, leaving bool) (here, back flow.Place, ok bool) {
	i, o := s.port(e, in), s.port(e, out)
	if leaving {
		o.out = true
		return o.place, o.place, !i.in || o.place != i.place || in == 0 || in == out
	}
	i.in = true
	if o.out { // what comes the other way is told of where this comes in
		return i.place, i.place, true
	}
	return i.place, o.place, true
}
