package netlink

import (
	"cmp"
	"errors"
	"slices"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
)

// publish puts all that changed into the graph, as one change.
func (m *mirror) publish() error {
	m.flushDue = false
	var links []*link
	for _, l := range m.dirty {
		if l.info.index != 0 { // not gone
			links = append(links, l)
			m.read(l)
		}
	}
	err := m.env.Graph.Update("", func(tx *graph.Tx) error {
		for _, id := range m.withdrawn {
			if err := m.dropNode(tx, id); err != nil {
				return err
			}
		}
		for _, ns := range m.renamed {
			if err := m.putNamespace(tx, ns); err != nil {
				return err
			}
		}
		for _, l := range links {
			if err := m.putLink(tx, l); err != nil {
				return err
			}
		}
		return m.putEdges(tx, links)
	})
	if err != nil {
		return err
	}
	m.withdrawn = m.withdrawn[:0]
	clear(m.renamed)
	m.renamed = m.renamed[:0]
	clear(m.dirty)
	m.dirty = m.dirty[:0]
	m.announce()
	return nil
}

// dropNode deletes the node of an interface or namespace. What other probes say of it goes, too: that of Open vSwitch shows an
// interface that is in no namespace that can be seen by a node of its own.
func (m *mirror) dropNode(tx *graph.Tx, id string) error {
	if tx.Node(id) == nil {
		return nil
	}
	return tx.DeleteNode(id, 0)
}

func (m *mirror) putNamespace(tx *graph.Tx, ns *namespace) error {
	ns.todo = false
	if ns.dead {
		return nil
	}
	now := ns.metadata()
	if ns.published == nil {
		if err := m.env.AddChild(tx, m.env.Root, m.node(ns.node, now)); err != nil {
			return err
		}
	} else if err := change(tx, ns.node, ns.published, now); err != nil {
		return err
	}
	ns.published = now
	return nil
}

func (m *mirror) putLink(tx *graph.Tx, l *link) error {
	now := m.metadata(l)
	if l.published == nil {
		if err := m.env.AddChild(tx, l.ns.node, m.node(l.node, now)); err != nil {
			return err
		}
	} else if err := change(tx, l.node, l.published, now); err != nil {
		return err
	}
	l.published = now
	return nil
}

func (m *mirror) node(id string, metadata field.Object) *graph.Node {
	n := m.env.NewNode(metadata)
	n.ID = id
	return n
}

// change brings what we said of a node up to date and leaves alone what others say of it.
func change(tx *graph.Tx, id string, old, now field.Object) error {
	ops := field.Diff(old, now)
	if len(ops) == 0 {
		return nil
	}
	n := tx.Node(id)
	if n == nil {
		return errors.New("node " + id + " was deleted by somebody else")
	}
	metadata, err := field.Apply(n.Metadata, ops)
	if err != nil {
		return err
	}
	_, err = tx.SetNodeMetadata(id, metadata)
	return err
}

// edge is a layer-2 link between nodes.
type edge struct {
	parent, child string
	kind          string // Type of the edge; "" for that of a master
}

// putEdges brings the edges of interfaces up to date. Both ends of a pair name the same edge, hence first all deletions.
func (m *mirror) putEdges(tx *graph.Tx, links []*link) error {
	for _, l := range links {
		if l.todo&partEdges == 0 {
			continue
		}
		for _, id := range l.edges {
			e := tx.Edge(id)
			if e == nil {
				continue
			}
			kind, _ := e.Metadata.Get("Type")
			text, _ := kind.(string)
			if !slices.Contains(m.wanted(l), edge{e.Parent, e.Child, text}) {
				if err := tx.DeleteEdge(id, 0); err != nil {
					return err
				}
			}
		}
	}
	for _, l := range links {
		todo := l.todo
		l.todo = 0
		if todo&partEdges == 0 {
			continue
		}
		l.edges = l.edges[:0]
		for _, e := range m.wanted(l) {
			var metadata field.Object
			if e.kind != "" {
				metadata = field.Make("Type", e.kind)
			}
			id, err := m.env.Link(tx, e.parent, e.child, probe.Layer2, metadata)
			if err != nil {
				return err
			}
			l.edges = append(l.edges, id)
		}
	}
	return nil
}

// wanted returns the edges that an interface must have because of what it is linked to.
func (m *mirror) wanted(l *link) []edge {
	var edges []edge
	// The datapath of Open vSwitch is no bridge: its ports are linked by that probe.
	if master := l.master.link(); master != nil && master.info.name != "ovs-system" {
		edges = append(edges, edge{master.node, l.node, ""})
	}
	other := l.other.link()
	kind := l.info.typeName(l.hardware.driver)
	switch {
	case other == nil || other == l:
	case !l.info.paired():
		edges = append(edges, edge{other.node, l.node, kind})
	case !other.info.paired() || other.other != place{l.ns, l.info.index}:
		// Only one end says so: either is out of date.
	case cmp.Or(cmp.Compare(l.info.index, other.info.index), cmp.Compare(l.node, other.node)) < 0:
		edges = append(edges, edge{l.node, other.node, kind})
	default:
		edges = append(edges, edge{other.node, l.node, kind})
	}
	return edges
}

// read asks the driver, and renders lists, as far as they changed.
func (m *mirror) read(l *link) {
	hw, sock := &l.hardware, l.ns.sock
	if l.todo&partDriver != 0 && sock != nil {
		hw.driver, hw.bus = m.ethtool.driver(sock.fd, l.info.name)
		if hw.driver == "" && l.info.kind == "bridge" {
			hw.driver = "bridge"
		}
	}
	if l.todo&(partDriver|partHardware) != 0 && sock != nil && hw.driver != "" {
		hw.speed = m.ethtool.speed(sock.fd, l.info.name)
		hw.features = m.ethtool.features(sock.fd, l.info.name)
	}
	if l.todo&partRoutes != 0 {
		l.routing = routingTables(l.ns.routes, l.routes, l.info.index)
	}
	if l.todo&partNeighbors != 0 {
		l.arp = neighborList(l.neighbors, l.info.index, false)
	}
	if l.todo&partFDB != 0 {
		l.fdb = neighborList(l.neighbors, l.info.index, true)
	}
}

// metadata renders an interface as the public API shows it.
func (m *mirror) metadata(l *link) field.Object {
	i, hw := &l.info, &l.hardware
	pairs := make([]any, 0, 48)
	add := func(key string, v any) { pairs = append(pairs, key, v) }
	add("Name", i.name)
	add("Type", i.typeName(hw.driver))
	add("EncapType", encapName(i.encap))
	add("IfIndex", i.index)
	add("Driver", hw.driver)
	add("BusInfo", hw.bus)
	add("State", stateName(i.state))
	number := func(key string, n int64) {
		if n != 0 {
			add(key, n)
		}
	}
	number("MTU", int64(i.mtu))
	number("Speed", hw.speed)
	number("MasterIndex", int64(i.master))
	number("ParentIndex", int64(i.link))
	if i.paired() {
		number("PeerIfIndex", int64(i.link))
	}
	if i.otherNS && i.linkNSID >= 0 {
		add("LinkNetNsID", int64(i.linkNSID))
		if ns := l.ns.nsids[i.linkNSID]; ns == m.root {
			add("LinkNetNsName", m.env.Host)
		} else if ns != nil {
			add("LinkNetNsName", ns.name())
		}
	}
	name := func(key, s string) {
		if s != "" {
			add(key, s)
		}
	}
	name("MAC", i.mac)
	name("PermMAC", i.permMAC)
	list := func(key string, list field.List) {
		if len(list) > 0 {
			add(key, list)
		}
	}
	list("LinkFlags", linkFlags(i.flags))
	list("IPV4", l.addresses.list(true))
	list("IPV6", l.addresses.list(false))
	list("RoutingTables", l.routing)
	list("Neighbors", l.arp)
	list("FDB", l.fdb)
	list("Vfs", i.vfs)
	if len(i.altNames) > 0 {
		add("AltNames", i.altNames)
	}
	object := func(key string, o field.Object) {
		if len(o) > 0 {
			add(key, o)
		}
	}
	object("Features", hw.features)
	object("Metric", l.counters.total)
	object("LastUpdateMetric", l.counters.delta)
	for _, e := range i.kindFields {
		add(e.Key, e.Value)
	}
	return field.Make(pairs...)
}
