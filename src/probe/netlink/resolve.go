package netlink

import (
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The kernel numbers namespaces, for each namespace anew, and tells of a parent or peer elsewhere by that number
// (IFLA_LINK_NETNSID). Which namespace has a number is not told; it can only be asked the other way, which number a given one has.
// So those that may well be meant are asked for at once, the others a few at each heartbeat, each once.

// restPerBeat limits the questions of one namespace at one heartbeat.
const restPerBeat = 256

// resolve asks for the namespaces that the parent or peer of an interface is likely to be in.
func (m *mirror) resolve(l *link) {
	m.ask(l.ns, m.root)
	for user := range m.claims[place{l.ns, l.info.index}] {
		m.ask(l.ns, user.ns)
	}
	if !l.info.paired() {
		return
	}
	for _, ns := range m.namespaces {
		if peer := ns.links[l.info.link]; peer != nil && peer.info.otherNS && peer.info.link == l.info.index {
			m.ask(l.ns, ns)
		}
	}
}

// resolveRest goes on where resolve did not find the right one.
func (m *mirror) resolveRest(ns *namespace) {
	open := false
	for _, l := range ns.links {
		open = open || l.info.otherNS && l.info.linkNSID >= 0 && l.other.ns == nil
	}
	if !open {
		return
	}
	left := restPerBeat
	for _, other := range m.namespaces {
		if left == 0 {
			return
		}
		if !ns.asked[other] && other != ns {
			m.ask(ns, other)
			left--
		}
	}
}

// ask asks which number a namespace has in another.
func (m *mirror) ask(ns, other *namespace) {
	if ns.sock == nil || ns == other || ns.asked[other] {
		return
	}
	f, err := other.info.Open()
	if err != nil {
		return
	}
	defer f.Close() // the kernel has looked at it when send returns
	ns.seq++
	if ns.sock.send(newRequest(unix.RTM_GETNSID, 0, nl.NewRtGenMsg(), attribute(unix.NETNSA_FD, uint32(f.Fd()))), ns.seq) == nil {
		ns.asked[other] = true
		ns.asks[ns.seq] = other
	}
}

// nsid takes in the number of a namespace: an answer, or an event that one was given or taken.
func (m *mirror) nsid(ns *namespace, msg message, mine bool) {
	const sizeofRtGenmsg = 4 // struct rtgenmsg, padded
	if len(msg.body) < sizeofRtGenmsg {
		return
	}
	number := int32(unix.NETNSA_NSID_NOT_ASSIGNED)
	for kind, v := range attributes(msg.body[sizeofRtGenmsg:]) {
		if kind == unix.NETNSA_NSID && len(v) >= 4 {
			number = int32(u32(v))
		}
	}
	other := ns.asks[msg.seq]
	if mine && other != nil {
		delete(ns.asks, msg.seq)
		for n, known := range ns.nsids {
			if known == other && n != number {
				delete(ns.nsids, n)
				m.numberChanged(ns, n)
			}
		}
		if number >= 0 && ns.nsids[number] != other {
			ns.nsids[number] = other
			m.numberChanged(ns, number)
		}
		return
	}
	m.watcher.Rescan() // there may be a namespace that nobody named
	if msg.kind == unix.RTM_NEWNSID {
		clear(ns.asked) // one that had no number may have one now
		for _, known := range ns.nsids {
			ns.asked[known] = true
		}
		m.numberChanged(ns, number)
	} else if known := ns.nsids[number]; known != nil {
		delete(ns.nsids, number)
		delete(ns.asked, known)
		m.numberChanged(ns, number)
	}
}

// numberChanged looks again at the interfaces whose parent or peer is in the namespace with a number.
func (m *mirror) numberChanged(ns *namespace, number int32) {
	for _, l := range ns.links {
		if l.info.otherNS && l.info.linkNSID == number {
			m.setPlaces(l)
			m.touch(l, partPlain)
		}
	}
}
