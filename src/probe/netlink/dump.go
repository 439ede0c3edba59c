package netlink

import (
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// dumps is how the state of a namespace is read, one table at a time, while events go on coming in through the same socket.
//
// A table is read in a new generation, and everything that is seen, in the dump or in an event, is marked with it; what has an older
// mark when the dump is done is gone. An event is always newer than a dump: it is made after the change, whereas a part of a dump may
// be queued after the event of a change that it does not have yet. So a dump never overwrites what an event told in the same
// generation, nor brings back what an event has buried.
type dumps struct {
	queue        []dump
	active       bool
	current      dump
	seq          uint32 // of the last request
	seqActive    uint32 // of the running dump
	started      time.Time
	interrupted  bool // the table changed while it was read: a part may be missing
	generation   uint32
	buriedSet    map[any]struct{} // what events deleted in this generation
	overrun      bool             // to be read anew at the next heartbeat
	synced       bool             // read completely once
	lastSync     time.Time
	unknownLinks bool // the counters are of an interface that is not known
}

// dump asks for one table.
type dump struct {
	what  table
	index int // only what belongs to this interface; 0: everything
	tries int
}

type table uint8

const (
	dumpLinks table = iota
	dumpAddresses
	dumpNeighbors
	dumpFDB
	dumpRoutes4
	dumpRoutes6
	dumpStats
)

// maxTries is how often a table that changes while it is read is read again at once; then it must wait for a heartbeat.
const maxTries = 8

// audit is the time between two complete readings of a namespace, for what the kernel changed without a word that we know of (an
// alternative name of an interface that is down, a next hop object that is gone).
const audit = 5 * time.Minute

// rereadDelay is how long the kernel is given to drop routes.
const rereadDelay = 100 * time.Millisecond

// patience is how long the kernel may take for a part of a dump.
const patience = 30 * time.Second

type (
	buriedAddress struct {
		index        int
		prefix, peer netip.Prefix
	}
	buriedNeighbor struct {
		index int
		key   neighborKey
	}
	buriedHop struct {
		key     routeKey
		index   int
		gateway string
	}
)

// bury notes a deletion, so that the running dump does not bring it back.
func (d *dumps) bury(key any) {
	if d.active {
		d.buriedSet[key] = struct{}{}
	}
}

func (d *dumps) buried(key any) bool {
	_, ok := d.buriedSet[key]
	return ok
}

func (d *dumps) stuck(now time.Time) bool { return d.active && now.Sub(d.started) > patience }

// resync reads everything in a namespace because events were lost.
func (m *mirror) resync(ns *namespace) {
	m.metrics.resyncs.Inc()
	m.readAll(ns)
}

// readAll reads everything in a namespace.
func (m *mirror) readAll(ns *namespace) {
	ns.lastSync = time.Now()
	ns.queue = ns.queue[:0]
	clear(ns.asked)
	for _, other := range ns.nsids {
		m.ask(ns, other)
	}
	for what := dumpLinks; what <= dumpStats; what++ {
		ns.queue = append(ns.queue, dump{what: what})
	}
	m.proceed(ns)
}

// lost reads everything anew after events were lost; at most once per heartbeat, since it takes longer than what it repairs when
// events are that many.
func (m *mirror) lost(ns *namespace) {
	if ns.active {
		ns.interrupted = true // its end must be awaited: the kernel runs one dump per socket
	}
	if time.Since(ns.lastSync) < heartbeat {
		ns.overrun = true
		return
	}
	m.resync(ns)
}

func (m *mirror) enqueue(ns *namespace, d dump) {
	if !slices.ContainsFunc(ns.queue, func(x dump) bool { return x.what == d.what && x.index == d.index }) {
		ns.queue = append(ns.queue, d)
	}
	m.proceed(ns)
}

// rereadRoutes reads the routes through an interface again, if it has any: not at once, since the event that is the reason for it is sent
// before the kernel has done with the routes, and a dump meanwhile lacks some that stay.
func (m *mirror) rereadRoutes(l *link, what table) {
	if len(l.routes) == 0 {
		return
	}
	if l.rereads == 0 {
		m.stale = append(m.stale, l)
	}
	l.rereads |= 1 << what
	if len(m.stale) == 1 {
		m.reread.Reset(rereadDelay)
	}
}

// rereadStale does what rereadRoutes asked for.
func (m *mirror) rereadStale() {
	for _, l := range m.stale {
		for _, what := range []table{dumpRoutes4, dumpRoutes6} {
			if l.rereads&(1<<what) != 0 && l.info.index != 0 {
				m.enqueue(l.ns, dump{what: what, index: l.info.index})
			}
		}
		l.rereads = 0
	}
	clear(m.stale)
	m.stale = m.stale[:0]
}

// rereadOthers does it for what is left of an IPv4 route that lost a next hop: without a word, it may be gone as a whole.
func (m *mirror) rereadOthers(ns *namespace, key routeKey) {
	if key.dst.Addr().Is6() {
		return
	}
	for _, h := range ns.routes[key] {
		if l := ns.links[h.index]; l != nil {
			m.rereadRoutes(l, dumpRoutes4)
		}
	}
}

// proceed starts the next dump if none is running.
func (m *mirror) proceed(ns *namespace) {
	for !ns.active && len(ns.queue) > 0 && ns.sock != nil {
		ns.current = ns.queue[0]
		ns.queue = ns.queue[1:]
		ns.seq++
		if ns.sock.send(ns.current.request(), ns.seq) != nil {
			ns.queue = append(ns.queue, ns.current) // out of memory, probably: at the next heartbeat
			return
		}
		ns.active, ns.interrupted, ns.seqActive, ns.started = true, false, ns.seq, time.Now()
		ns.generation++
		ns.buriedSet = make(map[any]struct{})
	}
	if !ns.active && len(ns.queue) == 0 {
		ns.queue = nil
	}
}

func (d dump) request() *nl.NetlinkRequest {
	const flags = unix.NLM_F_DUMP
	switch d.what {
	case dumpLinks:
		return newRequest(unix.RTM_GETLINK, flags, nl.NewIfInfomsg(unix.AF_UNSPEC), attribute(unix.IFLA_EXT_MASK, linkMask))
	case dumpAddresses:
		return newRequest(unix.RTM_GETADDR, flags, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	case dumpNeighbors:
		return newRequest(unix.RTM_GETNEIGH, flags, &netlink.Ndmsg{})
	case dumpFDB:
		return newRequest(unix.RTM_GETNEIGH, flags, &netlink.Ndmsg{Family: unix.AF_BRIDGE})
	case dumpRoutes4, dumpRoutes6:
		fixed := &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET}}
		if d.what == dumpRoutes6 {
			fixed.Family = unix.AF_INET6
		}
		if d.index == 0 {
			return newRequest(unix.RTM_GETROUTE, flags, fixed)
		}
		return newRequest(unix.RTM_GETROUTE, flags, fixed, attribute(unix.RTA_OIF, uint32(d.index)))
	default:
		fixed := make([]byte, sizeofIfStatsMsg)
		order.PutUint32(fixed[8:], 1<<(unix.IFLA_STATS_LINK_64-1))
		r := newRequest(unix.RTM_GETSTATS, flags)
		r.AddRawData(fixed)
		return r
	}
}

// linkMask asks for virtual functions, and not for counters, in link messages (RTEXT_FILTER_* of linux/rtnetlink.h).
const linkMask = 1<<0 | 1<<3

// refresh asks for one interface.
func (m *mirror) refresh(l *link) {
	if l.ns.sock == nil || l.info.index == 0 {
		return
	}
	fixed := nl.NewIfInfomsg(unix.AF_UNSPEC)
	fixed.Index = int32(l.info.index)
	l.ns.seq++
	// Should it fail, the next event or resync tells.
	_ = l.ns.sock.send(newRequest(unix.RTM_GETLINK, 0, fixed, attribute(unix.IFLA_EXT_MASK, linkMask)), l.ns.seq)
}

// requestFailed takes in an error reply.
func (m *mirror) requestFailed(ns *namespace, msg message, dumped bool) {
	if !dumped {
		delete(ns.asks, msg.seq)
		return
	}
	ns.active = false
	switch msg.errno() {
	case unix.EBUSY, unix.EINTR, unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		ns.queue = append(ns.queue, ns.current) // at the next heartbeat
		return
	}
	// The kernel does not know this table.
	m.env.Log.Debug("kernel refuses a dump", "namespace", ns.info.String(), "table", ns.current.what, "error", msg.errno())
	m.advance(ns)
}

// dumpDone ends a dump.
func (m *mirror) dumpDone(ns *namespace) {
	ns.active = false
	if ns.interrupted {
		again := ns.current
		again.tries++
		if again.tries >= maxTries {
			again.tries = 0
			ns.queue = append(ns.queue, again) // at the next heartbeat
			return
		}
		ns.queue = slices.Insert(ns.queue, 0, again)
	} else {
		m.sweep(ns)
	}
	m.advance(ns)
}

func (m *mirror) advance(ns *namespace) {
	m.proceed(ns)
	if !ns.active && !ns.synced {
		ns.synced = true
		m.flushSoon() // which also tells that the first view is complete
	}
}

// sweep removes what the dump did not see.
func (m *mirror) sweep(ns *namespace) {
	d, now := ns.current, ns.generation
	for _, l := range ns.links {
		switch d.what {
		case dumpLinks:
			if l.seen != now {
				m.removeLink(l)
			}
		case dumpAddresses:
			if left := slices.DeleteFunc(l.addresses, func(a address) bool { return a.seen != now }); len(left) < len(l.addresses) {
				l.addresses = left
				m.touch(l, partPlain)
			}
		case dumpNeighbors, dumpFDB:
			for k, n := range l.neighbors {
				if k.fdb == (d.what == dumpFDB) && n.seen != now {
					delete(l.neighbors, k)
					m.touch(l, partNeighbors|partFDB)
				}
			}
		case dumpRoutes4, dumpRoutes6:
			if d.index == 0 || d.index == l.info.index {
				m.sweepRoutes(l, d.what == dumpRoutes4)
			}
		}
	}
	if d.what == dumpStats {
		m.checkLinks(ns)
	}
}

func (m *mirror) sweepRoutes(l *link, v4 bool) {
	for k := range l.routes {
		if k.dst.Addr().Is4() != v4 {
			continue
		}
		old := func(h hop) bool { return h.index == l.info.index && h.seen != l.ns.generation }
		if !slices.ContainsFunc(l.ns.routes[k], old) {
			continue
		}
		l.ns.dropHops(k, old)
		if !slices.ContainsFunc(l.ns.routes[k], func(h hop) bool { return h.index == l.info.index }) {
			delete(l.routes, k)
		}
		m.touch(l, partRoutes)
		if l.ns.current.index != 0 {
			m.rereadOthers(l.ns, k)
		}
	}
}
