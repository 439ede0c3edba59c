package netlink

import (
	"slices"

	"golang.org/x/sys/unix"

	"skydive/src/graph"
)

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
			if user.info.paired() && user.other == (place{ns, info.index}) {
				m.introduce(user, l)
			}
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
			m.rereadRoutes(l, dumpRoutes4)
			for _, hops := range ns.routes {
				for _, h := range hops {
					// Older kernels drop what prefers it as source without a word (fib_sync_down_addr).
					if other := ns.links[h.index]; h.src == a.prefix.Addr() && other != nil {
						m.rereadRoutes(other, dumpRoutes4)
					}
				}
			}
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
			if k.dst.Addr().Is6() {
				m.rereadRoutes(l, dumpRoutes6) // it may have been a route beside the replaced one
			}
			delete(l.routes, k)
			m.touchList(l, partRoutes, len(l.routes))
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
