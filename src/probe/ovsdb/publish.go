package ovsdb

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/ovs"
	"skydive/src/probe"
)

// systemName is the node of the kernel that stands for Open vSwitch as a whole. The userspace datapath has none.
const systemName = "ovs-system"

// publish puts all that changed into the graph, as one change.
func (v *view) publish() error {
	v.flushAt = time.Time{}
	if v.flows != nil {
		for _, g := range v.gone {
			if b, ok := g.(*bridge); ok {
				v.flows.gone(b.node)
			}
		}
	}
	bridges := inOrder(v.dirtyBridge, func(b *bridge) ovs.UUID { return b.uuid })
	ports := inOrder(v.dirtyPorts, func(p *port) ovs.UUID { return p.uuid })
	interfaces := inOrder(v.dirty, func(i *iface) ovs.UUID { return i.uuid })
	var waiting []*iface
	err := v.env.Graph.Update("", func(tx *graph.Tx) error {
		for _, g := range v.gone {
			if err := v.drop(tx, g); err != nil {
				return err
			}
		}
		for _, b := range bridges {
			if err := v.putBridge(tx, b); err != nil {
				return err
			}
		}
		for _, p := range ports {
			if err := v.putPort(tx, p); err != nil {
				return err
			}
		}
		for _, i := range interfaces {
			later, err := v.putInterface(tx, i)
			if err != nil {
				return err
			}
			if later {
				waiting = append(waiting, i)
			}
		}
		for _, i := range interfaces {
			if err := v.putPatch(tx, i); err != nil {
				return err
			}
		}
		return v.putSystem(tx)
	})
	if err != nil {
		return err
	}
	if v.flows != nil {
		for _, b := range bridges {
			v.flows.bridge(b.node, b.row.Text("name"), string(b.uuid))
		}
	}
	v.gone, v.left, v.dirtySystem = nil, nil, false
	clear(v.dirtyBridge)
	clear(v.dirtyPorts)
	clear(v.dirty)
	for _, i := range waiting {
		v.dirty[i] = struct{}{}
		v.flushIn(max(time.Until(i.wait), coalesce))
	}
	v.shown = v.shown || v.connected && len(waiting) == 0
	v.metrics.unplaced.Set(float64(len(v.lost)))
	v.announce()
	return nil
}

// inOrder lists a set so that the same changes always give the same graph.
func inOrder[T comparable](set map[T]struct{}, uuid func(T) ovs.UUID) []T {
	return slices.SortedFunc(maps.Keys(set), func(a, b T) int { return cmp.Compare(uuid(a), uuid(b)) })
}

// drop takes out what a deleted row put in.
func (v *view) drop(tx *graph.Tx, gone any) error {
	switch g := gone.(type) {
	case *iface:
		return v.dropInterface(tx, g)
	case *port:
		return v.dropOwn(tx, g.node)
	case *bridge:
		return v.dropOwn(tx, g.node)
	}
	return nil
}

func (v *view) dropOwn(tx *graph.Tx, id string) error {
	delete(v.own, id)
	v.left = append(v.left, id)
	return dropNode(tx, id)
}

func dropNode(tx *graph.Tx, id string) error {
	if tx.Node(id) == nil {
		return nil
	}
	return tx.DeleteNode(id, 0)
}

func dropEdge(tx *graph.Tx, id string) error {
	if tx.Edge(id) == nil {
		return nil
	}
	return tx.DeleteEdge(id, 0)
}

// dropInterface takes an interface off its node, or the node out when it is ours.
func (v *view) dropInterface(tx *graph.Tx, i *iface) error {
	if i.node == "" {
		return nil
	}
	node := i.node
	if i.ours {
		i.overlay, i.ours, i.linked, i.patch = overlay{}, false, "", ""
		return v.dropOwn(tx, node)
	}
	delete(v.taken, node)
	if i.linked != "" {
		if err := dropEdge(tx, graph.LinkID(i.linked, node, probe.Layer2)); err != nil {
			return err
		}
		i.linked = ""
	}
	return i.takeOff(tx)
}

func (v *view) putBridge(tx *graph.Tx, b *bridge) error {
	now := b.metadata()
	if _, there := v.own[b.node]; !there {
		v.own[b.node] = struct{}{}
		b.said = now
		return v.env.AddChild(tx, v.env.Root, v.newNode(b.node, now))
	}
	return change(tx, b.node, &b.said, now)
}

func (v *view) newNode(id string, m field.Object) *graph.Node {
	n := v.env.NewNode(m)
	n.ID = id
	return n
}

var errDeleted = errors.New("a node of Open vSwitch was deleted by somebody else")

// change brings what is said of a node of ours up to date.
func change(tx *graph.Tx, id string, said *field.Object, now field.Object) error {
	n := tx.Node(id)
	if n == nil {
		return errDeleted
	}
	m := merge(n.Metadata, *said, now)
	*said = now
	_, err := tx.SetNodeMetadata(id, m)
	return err
}

func (v *view) putPort(tx *graph.Tx, p *port) error {
	_, there := v.own[p.node]
	if p.bridge == nil { // it will be deleted, or is on its way to another bridge
		p.owner = ""
		if there {
			return v.dropOwn(tx, p.node)
		}
		return nil
	}
	now := p.metadata()
	owner := p.bridge.node
	if !there {
		v.own[p.node] = struct{}{}
		p.said = now
		if err := v.env.AddChild(tx, owner, v.newNode(p.node, now)); err != nil {
			return err
		}
	} else if err := change(tx, p.node, &p.said, now); err != nil {
		return err
	}
	if p.owner == owner {
		return nil
	}
	if p.owner != "" {
		if err := dropEdge(tx, graph.LinkID(p.owner, p.node, probe.Layer2)); err != nil {
			return err
		}
	}
	p.owner = owner
	if err := v.env.Own(tx, owner, p.node); err != nil {
		return err
	}
	_, err := v.env.Link(tx, owner, p.node, probe.Layer2, nil)
	return err
}

// putInterface puts an interface on the node that shows it; later tells that there may be one soon.
func (v *view) putInterface(tx *graph.Tx, i *iface) (later bool, err error) {
	delete(v.lost, i)
	if i.dead || i.port == nil || i.port.bridge == nil {
		return false, v.dropInterface(tx, i)
	}
	node := v.find(tx, i)
	if node == "" && i.class() != noDevice {
		v.lost[i] = struct{}{}
		if i.node != "" && !i.ours {
			i.wait = time.Now().Add(settle) // it may show up elsewhere
		}
		if !i.ours && time.Now().Before(i.wait) {
			return true, v.dropInterface(tx, i)
		}
	}
	if i.node != "" && i.node != node && !(i.ours && node == "") {
		if err := v.dropInterface(tx, i); err != nil {
			return false, err
		}
	}
	switch {
	case node != "":
		v.taken[node] = i
		err = i.put(tx, node, i.metadata())
	case i.ours:
		err = change(tx, i.node, &i.said, i.full())
	default:
		i.overlay = overlay{node: graph.NewID(), said: i.full()}
		i.ours = true
		v.own[i.node] = struct{}{}
		err = v.env.AddChild(tx, i.port.bridge.node, v.newNode(i.node, i.said))
	}
	if err != nil {
		return false, err
	}
	if i.ours {
		if err := v.env.Own(tx, i.port.bridge.node, i.node); err != nil {
			return false, err
		}
	}
	return false, v.linkPort(tx, i)
}

// linkPort gives an interface the edge from its port.
func (v *view) linkPort(tx *graph.Tx, i *iface) error {
	if i.linked != "" && i.linked != i.port.node {
		if err := dropEdge(tx, graph.LinkID(i.linked, i.node, probe.Layer2)); err != nil {
			return err
		}
	}
	i.linked = i.port.node
	_, err := v.env.Link(tx, i.linked, i.node, probe.Layer2, nil)
	return err
}

// putPatch links two patch interfaces that name each other as their peer.
func (v *view) putPatch(tx *graph.Tx, i *iface) error {
	peer := v.byName[i.row.MapText("options", "peer")]
	wanted := ""
	if i.isPatch() && peer != nil && peer != i && peer.isPatch() && peer.row.MapText("options", "peer") == i.name {
		if peer.uuid < i.uuid {
			i, peer = peer, i // both ends name the same edge
		}
		wanted = graph.LinkID(i.node, peer.node, probe.Layer2)
	}
	for _, end := range [...]*iface{i, peer} {
		if end == nil || end.patch == wanted || end.patch == "" {
			continue
		}
		if err := dropEdge(tx, end.patch); err != nil {
			return err
		}
		end.patch = ""
	}
	if wanted == "" {
		return nil
	}
	i.patch, peer.patch = wanted, wanted
	_, err := v.env.Link(tx, i.node, peer.node, probe.Layer2, patchLink)
	return err
}

var patchLink = field.Make("Type", "patch")

func (i *iface) isPatch() bool { return i.row.Text("type") == "patch" && i.node != "" }

// putSystem says what holds for Open vSwitch as a whole: of the node of its kernel module if there is one, else of the host.
func (v *view) putSystem(tx *graph.Tx) error {
	if !v.dirtySystem {
		return nil
	}
	node := v.env.Root
	for n := range tx.Nodes(having("Name", systemName)) {
		if n.Origin == v.env.Origin && n.Metadata.Text("Type") == "openvswitch" && ownerOf(tx.View, n.ID) == v.env.Root {
			node = n.ID
		}
	}
	if tx.Node(node) == nil {
		return nil
	}
	return v.system.put(tx, node, systemMetadata(v.systemRow))
}
