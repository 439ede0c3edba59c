package ovsdb

import (
	"strings"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/ovs"
)

// Names in the database.
const (
	database       = "Open_vSwitch"
	tableSwitch    = "Open_vSwitch"
	tableBridge    = "Bridge"
	tablePort      = "Port"
	tableInterface = "Interface"
)

// view is the database as far as it is known, and where it is in the graph, during one Run. It belongs to the goroutine of Run.
type view struct {
	*Probe
	flows *flows // nil: not wanted

	system     overlay // what Open_vSwitch says of itself
	systemRow  ovs.Row
	bridges    map[ovs.UUID]*bridge
	ports      map[ovs.UUID]*port
	interfaces map[ovs.UUID]*iface
	byName     map[string]*iface

	own   map[string]struct{} // nodes that this probe made
	left  []string            // those that it is taking out: they are still there when that fails
	taken map[string]*iface   // nodes of others that show an interface
	lost  map[*iface]struct{} // interfaces that the kernel should have and that are on no such node
	home  string              // node that owns the interfaces in the namespace of ovs-vswitchd; "" until known

	// What is to go into the graph.
	flush       *time.Timer
	flushAt     time.Time // zero: not set
	dirtySystem bool
	dirty       map[*iface]struct{}
	dirtyPorts  map[*port]struct{}
	dirtyBridge map[*bridge]struct{}
	gone        []any // *bridge, *port, *iface whose row was deleted

	connected bool      // once
	down      time.Time // since when there is no connection; zero while there is one
	trouble   error
	shown     bool // the first view is in the graph
	told      bool
	reason    string
}

type bridge struct {
	uuid ovs.UUID
	row  ovs.Row
	node string
	said field.Object // nil: not in the graph
}

type port struct {
	uuid   ovs.UUID
	row    ovs.Row
	bridge *bridge // nil: none has it
	node   string
	said   field.Object
	owner  string // the node of the bridge, as far as it is in the graph
}

type iface struct {
	uuid ovs.UUID
	row  ovs.Row
	name string
	port *port // nil: none has it
	dead bool

	overlay
	ours     bool      // its node is: the kernel shows none
	wait     time.Time // no node of ours before
	linked   string    // node of the port that has an edge to the node
	patch    string    // edge to the peer
	index    int64     // last known index in the kernel
	mac      string    // last known address
	counters counters
}

func newView(p *Probe) *view {
	v := &view{
		Probe:   p,
		bridges: make(map[ovs.UUID]*bridge), ports: make(map[ovs.UUID]*port), interfaces: make(map[ovs.UUID]*iface),
		byName: make(map[string]*iface),
		own:    make(map[string]struct{}), taken: make(map[string]*iface), lost: make(map[*iface]struct{}),
		dirty: make(map[*iface]struct{}), dirtyPorts: make(map[*port]struct{}), dirtyBridge: make(map[*bridge]struct{}),
		flush: time.NewTimer(time.Hour),
	}
	v.flush.Stop()
	return v
}

func (v *view) stopTimers() { v.flush.Stop() }

// flushIn publishes after a time at the latest.
func (v *view) flushIn(d time.Duration) {
	at := time.Now().Add(d)
	if v.flushAt.IsZero() || at.Before(v.flushAt) {
		v.flushAt = at
		v.flush.Reset(d)
	}
}

// take takes in a batch of changes.
func (v *view) take(b ovs.Batch) {
	v.metrics.batches.Inc()
	related := b.Initial
	if b.Initial {
		v.forget(b)
	}
	for _, c := range b.Changes {
		related = related || c.Table == tableBridge || c.Table == tablePort || c.Old == nil
		switch c.Table {
		case tableSwitch:
			v.systemRow, v.dirtySystem = c.New, true
		case tableBridge:
			v.takeBridge(c.UUID, c.New)
		case tablePort:
			v.takePort(c.UUID, c.New)
		case tableInterface:
			v.takeInterface(c.UUID, c.New)
		}
	}
	if related {
		v.relate()
	}
	v.flushIn(coalesce)
}

// forget drops the rows that are not in an initial batch: they were deleted while there was no connection.
func (v *view) forget(b ovs.Batch) {
	seen := make(map[ovs.UUID]bool, len(b.Changes))
	for _, c := range b.Changes {
		seen[c.UUID] = true
	}
	for id := range v.bridges {
		if !seen[id] {
			v.takeBridge(id, nil)
		}
	}
	for id := range v.ports {
		if !seen[id] {
			v.takePort(id, nil)
		}
	}
	for id := range v.interfaces {
		if !seen[id] {
			v.takeInterface(id, nil)
		}
	}
	v.systemRow, v.dirtySystem = nil, true
}

func (v *view) takeBridge(id ovs.UUID, row ovs.Row) {
	b := v.bridges[id]
	switch {
	case row == nil && b == nil:
	case row == nil:
		delete(v.bridges, id)
		delete(v.dirtyBridge, b)
		v.gone = append(v.gone, b)
	default:
		if b == nil {
			b = &bridge{uuid: id, node: graph.NewID()}
			v.bridges[id] = b
		}
		b.row = row
		v.dirtyBridge[b] = struct{}{}
	}
}

func (v *view) takePort(id ovs.UUID, row ovs.Row) {
	p := v.ports[id]
	switch {
	case row == nil && p == nil:
	case row == nil:
		delete(v.ports, id)
		delete(v.dirtyPorts, p)
		v.gone = append(v.gone, p)
	default:
		if p == nil {
			p = &port{uuid: id, node: graph.NewID()}
			v.ports[id] = p
		}
		p.row = row
		v.dirtyPorts[p] = struct{}{}
	}
}

func (v *view) takeInterface(id ovs.UUID, row ovs.Row) {
	i := v.interfaces[id]
	switch {
	case row == nil && i == nil:
		return
	case row == nil:
		delete(v.interfaces, id)
		delete(v.dirty, i)
		delete(v.lost, i)
		i.dead = true
		v.gone = append(v.gone, i)
		v.touchPeers(i)
		if v.byName[i.name] == i {
			delete(v.byName, i.name)
		}
		return
	case i == nil:
		i = &iface{uuid: id, wait: time.Now().Add(settle)}
		v.interfaces[id] = i
	}
	if name := row.Text("name"); name != i.name {
		if v.byName[i.name] == i {
			delete(v.byName, i.name)
		}
		i.name = name
		v.byName[name] = i
	}
	v.touchPeers(i)
	i.row = row
	v.touchPeers(i)
	if n, _ := row.Int("ifindex"); n > 0 {
		i.index = n
	}
	if mac := row.Text("mac_in_use"); mac != "" {
		i.mac = strings.ToLower(mac)
	}
	i.counters.read(row, time.Now())
	v.dirty[i] = struct{}{}
}

// touchPeers looks again at the peer of a patch interface.
func (v *view) touchPeers(i *iface) {
	if i.row.Text("type") != "patch" {
		return
	}
	if peer := v.byName[i.row.MapText("options", "peer")]; peer != nil {
		v.dirty[peer] = struct{}{}
	}
}

// relate works out which bridge has which port and which port has which interface, and looks again at those where that changed.
func (v *view) relate() {
	owner := make(map[*port]*bridge, len(v.ports))
	for _, b := range v.bridges {
		for _, id := range b.row.UUIDs("ports") {
			if p := v.ports[id]; p != nil {
				owner[p] = b
			}
		}
	}
	for _, p := range v.ports {
		if b := owner[p]; b != p.bridge {
			p.bridge = b
			v.dirtyPorts[p] = struct{}{}
			for _, id := range p.row.UUIDs("interfaces") {
				if i := v.interfaces[id]; i != nil {
					v.dirty[i] = struct{}{} // its node, if that is ours, has another owner
				}
			}
		}
	}
	member := make(map[*iface]*port, len(v.interfaces))
	for _, p := range v.ports {
		for _, id := range p.row.UUIDs("interfaces") {
			if i := v.interfaces[id]; i != nil {
				member[i] = p
			}
		}
	}
	for _, i := range v.interfaces {
		if p := member[i]; p != i.port {
			i.port = p
			v.dirty[i] = struct{}{}
		}
	}
}
