package netlink

// place is where an interface is, or would be.
type place struct {
	ns    *namespace
	index int
}

// link returns the interface at a place, nil when there is none.
func (p place) link() *link {
	if p.ns == nil {
		return nil
	}
	return p.ns.links[p.index]
}

// setPlaces works out where master and peer or parent are, after what the kernel says of them changed, or became known.
func (m *mirror) setPlaces(l *link) {
	var master, other place
	if l.info.master != 0 {
		master = place{l.ns, l.info.master}
	}
	switch {
	case l.info.link == 0 && l.info.paired() && !l.unpaired:
		l.unpaired = true
		m.refresh(l) // the event of a new one comes before it has its peer, and none may follow
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
		if other := end.link(); other != nil {
			m.touch(other, partEdges)
			if end == to {
				m.introduce(l, other)
			}
		}
	}
}

// introduce is called when an interface names another as its peer. The other may not know of it: its namespace has just been found,
// or the kernel did not notify that the peer was moved, or, when it was made, that it has one at all.
func (m *mirror) introduce(l, peer *link) {
	if peer.other == (place{l.ns, l.info.index}) {
		return
	}
	m.setPlaces(peer)
	if peer.info.link != l.info.index || peer.other.ns != nil && peer.other.ns != l.ns {
		m.refresh(peer)
	}
}
