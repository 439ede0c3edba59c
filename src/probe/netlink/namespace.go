package netlink

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/netns"
)

// namespace is what is known of one network namespace.
type namespace struct {
	info    netns.Namespace
	primary string  // path of the name that is shown, while it exists
	sock    *socket // nil: not followed
	trouble error   // why it is not
	dead    bool

	links  map[int]*link // by index
	routes map[routeKey][]hop
	hops   int // in routes

	// Numbers of other namespaces as seen from this one (struct net.netns_ids of the kernel).
	nsids map[int32]*namespace
	asked map[*namespace]bool // those whose number was asked for
	asks  map[uint32]*namespace

	dumps
	nextStats time.Time
	nextAudit time.Time

	node      string       // owner of the interfaces in the graph
	published field.Object // metadata of node; nil before it is in the graph, and of the host
	todo      bool
}

func newNamespace(info netns.Namespace) *namespace {
	return &namespace{
		info:   info,
		node:   graph.NewID(),
		links:  make(map[int]*link),
		routes: make(map[routeKey][]hop),
		nsids:  make(map[int32]*namespace),
		asked:  make(map[*namespace]bool),
		asks:   make(map[uint32]*namespace),
	}
}

// setInfo takes in new names and processes; it tells whether any matter to the graph.
func (ns *namespace) setInfo(info netns.Namespace) bool {
	if ns.info.Equal(info) {
		return false
	}
	old := ns.metadata()
	ns.info = info
	return !field.Equal(old, ns.metadata())
}

// shown is the name that the node has: the same one as long as it exists.
func (ns *namespace) shown() (name, path string) {
	if len(ns.info.Names) == 0 {
		ns.primary = ""
		return ns.info.Command + "-" + strconv.Itoa(ns.info.PID), ns.info.Path()
	}
	i := slices.IndexFunc(ns.info.Names, func(n netns.Name) bool { return n.Path == ns.primary })
	if i < 0 {
		i, ns.primary = 0, ns.info.Names[0].Path
	}
	return ns.info.Names[i].Name, ns.info.Names[i].Path
}

func (ns *namespace) name() string {
	name, _ := ns.shown()
	return name
}

func (ns *namespace) metadata() field.Object {
	name, path := ns.shown()
	o := field.Make("Type", "netns", "Name", name, "Path", path, "Inode", ns.info.ID.Inode, "Device", ns.info.ID.Device)
	if len(ns.info.Names) > 1 {
		names := make(field.List, len(ns.info.Names))
		for i, n := range ns.info.Names {
			names[i] = n.Name
		}
		o, _ = o.Set("Names", names) // cannot fail: the path has one step
	}
	return o
}

// link is what is known of one interface.
type link struct {
	ns        *namespace
	info      linkInfo
	seen      uint32 // generation, see dumps
	addresses addresses
	neighbors map[neighborKey]neighbor
	routes    map[routeKey]struct{}
	hardware  hardware
	counters  counters
	master    place // what it is enslaved to, or zero
	other     place // its parent or peer, as far as the namespace is known

	node      string // in the graph
	published field.Object
	edges     []string
	todo      parts
	later     parts // not urgent: at the next heartbeat
	rereads   uint8 // tables to read again, by bit
	// Rendered lists, until what they show changes.
	routing, arp, fdb field.List
}

// parts tell what of an interface is to be put into the graph.
type parts uint8

const (
	partPlain    parts = 1 << iota // what needs no reading or rendering of its own
	partDriver                     // the name of the driver
	partHardware                   // speed and features, as the driver tells them
	partRoutes
	partNeighbors
	partFDB
	partEdges
)

// maxEntries limits the routes, and the neighbours, of an interface: a graph is no place for a full Internet table.
const maxEntries = 4096

// manyEntries is from where on lists are rendered at heartbeats only.
const manyEntries = 256

// handle takes in one message.
func (m *mirror) handle(ns *namespace, msg message) {
	mine := msg.port == ns.sock.port
	dumped := mine && ns.active && msg.seq == ns.seqActive
	if dumped && msg.flags&unix.NLM_F_DUMP_INTR != 0 {
		ns.interrupted = true
	}
	if mine && !dumped && msg.flags&unix.NLM_F_MULTI != 0 {
		return // of a dump that was given up
	}
	switch msg.kind {
	case unix.NLMSG_DONE:
		if dumped {
			m.dumpDone(ns)
		}
	case unix.NLMSG_ERROR:
		m.requestFailed(ns, msg, dumped)
	case unix.RTM_NEWLINK:
		if info, ok := parseLink(msg.body); ok {
			m.newLink(ns, info, dumped, mine)
		}
	case unix.RTM_DELLINK:
		if info, ok := parseLink(msg.body); ok {
			ns.bury(info.index)
			if l := ns.links[info.index]; l != nil {
				m.removeLink(l)
			}
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if index, a, ok := parseAddress(msg.body); ok && ns.links[index] != nil {
			m.address(ns.links[index], a, msg.kind == unix.RTM_NEWADDR, dumped)
		}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if index, k, n, ok := parseNeighbor(msg.body); ok && ns.links[index] != nil {
			m.neighbor(ns.links[index], k, n, msg.kind == unix.RTM_NEWNEIGH, dumped)
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if k, hops, ok := parseRoute(msg.body); ok {
			m.route(ns, k, hops, msg.kind == unix.RTM_NEWROUTE, dumped, msg.flags&unix.NLM_F_REPLACE != 0 && !dumped)
		}
	case unix.RTM_NEWSTATS:
		m.stats(ns, msg.body, dumped)
	case unix.RTM_NEWNSID, unix.RTM_DELNSID:
		m.nsid(ns, msg, mine)
	}
}

func (m *mirror) newLink(ns *namespace, info linkInfo, dumped, mine bool) {
	l := ns.links[info.index]
	if l == nil {
		if dumped && ns.buried(info.index) {
			return
		}
		l = &link{
			ns: ns, node: graph.NewID(),
			neighbors: make(map[neighborKey]neighbor), routes: make(map[routeKey]struct{}),
		}
		ns.links[info.index] = l
		m.metrics.links.Inc()
		m.touch(l, partDriver|partEdges)
	} else if dumped && l.seen == ns.generation {
		return // an event has told since
	}
	old := l.info
	l.info, l.seen = info, ns.generation
	if info.vfs == nil { // events do not list them
		l.info.vfs, l.info.vfCount = old.vfs, max(info.vfCount, old.vfCount)
	}
	if old.index != 0 {
		if old.name != info.name || old.kind != info.kind {
			m.touch(l, partDriver)
		}
		if old.flags&unix.IFF_UP != 0 && info.flags&unix.IFF_UP == 0 {
			// The kernel drops the IPv4 routes without a word (fib_sync_down_dev).
			m.rereadRoutes(l, dumpRoutes4)
		}
	}
	if info.bus == "pci" && !mine {
		m.refresh(l) // for the virtual functions
	}
	m.touch(l, partHardware)
	m.setPlaces(l)
	if old.index == 0 {
		for user := range m.claims[place{ns, info.index}] {
			m.touch(user, partEdges)
		}
	}
}

// removeLink forgets an interface that is gone.
func (m *mirror) removeLink(l *link) {
	at := place{l.ns, l.info.index}
	delete(l.ns.links, l.info.index)
	m.metrics.links.Dec()
	m.claim(l, &l.master, place{})
	m.claim(l, &l.other, place{})
	for user := range m.claims[at] {
		m.touch(user, partEdges)
		// A peer or parent that moved elsewhere is not notified to the other end.
		if !user.ns.dead && user.other == at {
			m.refresh(user)
		}
	}
	for key := range l.routes {
		l.ns.dropHops(key, func(h hop) bool { return h.index == at.index })
		m.rereadOthers(l.ns, key)
	}
	if l.published != nil {
		m.withdrawn = append(m.withdrawn, l.node)
		m.flushSoon()
	}
	l.info.index = 0 // marks it as gone wherever it is still listed
}

func (m *mirror) address(l *link, a address, add, dumped bool) {
	ns := l.ns
	a.seen = ns.generation
	i := l.addresses.find(a)
	key := buriedAddress{l.info.index, a.prefix, a.peer}
	switch {
	case add && i >= 0:
		old := l.addresses[i]
		if dumped && old.seen == ns.generation {
			return
		}
		l.addresses[i] = a
		if old.second != a.second {
			m.touch(l, partPlain)
		}
	case add:
		if dumped && ns.buried(key) {
			return
		}
		l.addresses = append(l.addresses, a)
		m.touch(l, partPlain)
	default:
		ns.bury(key)
		if i >= 0 {
			l.addresses = slices.Delete(l.addresses, i, i+1)
			m.touch(l, partPlain)
		}
		if a.prefix.Addr().Is4() {
			// Routes that prefer it as source go without a word (fib_sync_down_addr).
			m.rereadRoutes(l, dumpRoutes4)
		}
	}
}

func (m *mirror) neighbor(l *link, k neighborKey, n neighbor, add, dumped bool) {
	ns := l.ns
	part := partNeighbors
	if k.fdb {
		part = partFDB
	}
	n.seen = ns.generation
	old, known := l.neighbors[k]
	key := buriedNeighbor{l.info.index, k}
	switch {
	case add && known:
		if dumped && old.seen == ns.generation {
			return
		}
		l.neighbors[k] = n
		old.seen = n.seen
		if old == n {
			return
		}
		if old.mac == n.mac && old.flags == n.flags || len(l.neighbors) > manyEntries {
			l.later |= part // nothing but its state, which changes all the time
			return
		}
		m.touch(l, part)
	case add:
		if dumped && ns.buried(key) || n.gone() {
			return
		}
		if len(l.neighbors) >= maxEntries {
			m.metrics.omitted.Inc()
			return
		}
		l.neighbors[k] = n
		m.touchList(l, part, len(l.neighbors))
	default:
		ns.bury(key)
		if known {
			delete(l.neighbors, k)
			m.touchList(l, part, len(l.neighbors))
		}
	}
}

func (m *mirror) touchList(l *link, part parts, size int) {
	if size > manyEntries {
		l.later |= part
	} else {
		m.touch(l, part)
	}
}

func (m *mirror) route(ns *namespace, k routeKey, hops []hop, add, dumped, replace bool) {
	if replace {
		for _, h := range ns.routes[k] {
			l := ns.links[h.index]
			if l == nil {
				continue
			}
			delete(l.routes, k)
			m.touchList(l, partRoutes, len(l.routes))
			if k.dst.Addr().Is6() {
				m.rereadRoutes(l, dumpRoutes6) // it may have been a route beside the replaced one
			}
		}
		ns.dropHops(k, func(hop) bool { return true })
	}
	for _, h := range hops {
		l := ns.links[h.index]
		if l == nil {
			continue
		}
		i := slices.IndexFunc(ns.routes[k], h.same)
		key := buriedHop{k, h.index, h.gateway.String()}
		h.seen = ns.generation
		switch {
		case add && i >= 0:
			old := ns.routes[k][i]
			if dumped && old.seen == ns.generation {
				continue
			}
			ns.routes[k][i] = h
			if old.src == h.src && old.protocol == h.protocol {
				continue
			}
		case add:
			if dumped && ns.buried(key) {
				continue
			}
			if _, has := l.routes[k]; !has && len(l.routes) >= maxEntries {
				m.metrics.omitted.Inc()
				continue
			}
			l.routes[k] = struct{}{}
			ns.routes[k] = append(ns.routes[k], h)
		default:
			ns.bury(key)
			if i < 0 {
				continue
			}
			ns.dropHops(k, h.same)
			if !slices.ContainsFunc(ns.routes[k], func(x hop) bool { return x.index == h.index }) {
				delete(l.routes, k)
			}
		}
		m.touchList(l, partRoutes, len(l.routes))
	}
}

// dropHops removes next hops of a route, and the route with the last.
func (ns *namespace) dropHops(k routeKey, drop func(hop) bool) {
	if left := slices.DeleteFunc(ns.routes[k], drop); len(left) > 0 {
		ns.routes[k] = left
	} else {
		delete(ns.routes, k)
	}
}

// touch notes that parts of an interface are to be put into the graph soon.
func (m *mirror) touch(l *link, what parts) {
	if l.todo == 0 {
		m.dirty = append(m.dirty, l)
	}
	l.todo |= what
	m.flushSoon()
}

func (m *mirror) touchNamespace(ns *namespace) {
	if !ns.todo {
		ns.todo = true
		m.renamed = append(m.renamed, ns)
	}
	m.flushSoon()
}

func (m *mirror) flushSoon() {
	if !m.flushDue {
		m.flushDue = true
		m.flush.Reset(coalesce)
	}
}

// setPlaces works out where master and peer or parent are, after what the kernel says of them changed, or became known.
func (m *mirror) setPlaces(l *link) {
	var master, other place
	if l.info.master != 0 {
		master = place{l.ns, l.info.master}
	}
	switch {
	case l.info.link == 0:
	case !l.info.otherNS:
		other = place{l.ns, l.info.link}
	case l.info.linkNSID >= 0:
		if ns := l.ns.nsids[l.info.linkNSID]; ns != nil {
			other = place{ns, l.info.link}
		} else {
			m.resolve(l)
		}
	}
	m.claim(l, &l.master, master)
	m.claim(l, &l.other, other)
}

// claim changes what an interface says it is linked to; both ends old and new must look at their edges.
func (m *mirror) claim(l *link, which *place, to place) {
	from := *which
	if from == to {
		return
	}
	*which = to
	if from.ns != nil && l.master != from && l.other != from {
		if users := m.claims[from]; users != nil {
			delete(users, l)
			if len(users) == 0 {
				delete(m.claims, from)
			}
		}
	}
	if to.ns != nil {
		users := m.claims[to]
		if users == nil {
			users = make(map[*link]struct{})
			m.claims[to] = users
		}
		users[l] = struct{}{}
	}
	m.touch(l, partEdges)
	for _, end := range []place{from, to} {
		if end.ns == nil || !l.info.paired() {
			continue
		}
		if other := end.ns.links[end.index]; other != nil {
			m.touch(other, partEdges)
			if end == to && other.other != (place{l.ns, l.info.index}) {
				m.setPlaces(other) // we may be the namespace that it could not find
				if other.info.link != l.info.index || other.other.ns != nil && other.other.ns != l.ns {
					m.refresh(other) // it is behind: its peer has moved
				}
			}
		}
	}
}

// forget drops what was known of a namespace that is gone.
func (ns *namespace) forget(other *namespace) {
	delete(ns.asked, other)
	maps.DeleteFunc(ns.nsids, func(_ int32, x *namespace) bool { return x == other })
	maps.DeleteFunc(ns.asks, func(_ uint32, x *namespace) bool { return x == other })
}
