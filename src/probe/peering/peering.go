// Package peering links interfaces of different hosts that are two ends of one cable, as far as their agents tell: one knows the MAC
// address of its peer, the other has it.
//
// It never guesses: where several interfaces have the address, or several say that it is their peer's, there is no link.
package peering

import (
	"context"
	"strings"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
)

// Spec describes the probe. There is nothing to configure.
var Spec = probe.Define("peering", "links between interfaces that know each other's MAC address", struct{}{}, New)

// New returns an inert probe.
func New(env probe.Env, _ struct{}) (probe.Probe, error) { return &linker{env}, nil }

type linker struct{ env probe.Env }

// Run links interfaces until ctx ends.
func (l *linker) Run(ctx context.Context) error {
	d := probe.NewDesired(l.env)
	d.Known()
	return d.Run(ctx, newWatcher(l.env.Graph, d), nil)
}

// watcher follows those who know an address; who has it is in the index of the graph.
type watcher struct {
	graph   *graph.Graph
	desired *probe.Desired
	peers   map[string]string              // the address of its peer that a node knows
	knows   map[string]map[string]struct{} // the nodes that know an address
	linked  map[string]string              // the edge that an address makes
}

func newWatcher(g *graph.Graph, d *probe.Desired) *watcher {
	return &watcher{g, d, make(map[string]string), make(map[string]map[string]struct{}), make(map[string]string)}
}

// Begin starts over from the nodes there are.
func (w *watcher) Begin(s *graph.Snapshot) {
	for id := range w.peers {
		w.learn(id, "")
	}
	for n := range s.Nodes(field.Filter{}) {
		w.learn(n.ID, address(n, "PeerIntfMAC"))
	}
	for mac := range w.linked {
		w.link(s, mac)
	}
	for mac := range w.knows {
		w.link(s, mac)
	}
}

// See follows the addresses.
func (w *watcher) See(c graph.Change) {
	if c.Node == nil {
		return
	}
	peer := ""
	if c.Kind != graph.NodeDeleted {
		peer = address(c.Node, "PeerIntfMAC")
	}
	before := w.peers[c.Node.ID]
	w.learn(c.Node.ID, peer)
	if before != peer {
		w.link(w.graph.Snapshot(), before)
		w.link(w.graph.Snapshot(), peer)
	}
	if len(w.knows) == 0 {
		return
	}
	for _, n := range [...]*graph.Node{c.OldNode, c.Node} {
		if n == nil {
			continue
		}
		if mac := address(n, "MAC"); w.knows[mac] != nil {
			w.link(w.graph.Snapshot(), mac)
		}
	}
}

func (w *watcher) learn(id, peer string) {
	old := w.peers[id]
	if old == peer {
		return
	}
	if old != "" {
		delete(w.peers, id)
		if delete(w.knows[old], id); len(w.knows[old]) == 0 {
			delete(w.knows, old)
		}
	}
	if peer != "" {
		w.peers[id] = peer
		if w.knows[peer] == nil {
			w.knows[peer] = make(map[string]struct{})
		}
		w.knows[peer][id] = struct{}{}
	}
}

// link makes the edge of an address, if it is clear between whom.
func (w *watcher) link(s *graph.Snapshot, mac string) {
	from, to := "", ""
	if len(w.knows[mac]) == 1 {
		for from = range w.knows[mac] {
		}
		has := 0
		for n := range s.Nodes(field.Filter{Terms: []field.Term{{Key: "MAC", Pred: field.Within{Vs: []field.Value{mac, strings.ToUpper(mac)}}}}}) {
			if n.ID != from && !borrows(n) {
				has++
				to = n.ID
			}
		}
		if has != 1 {
			to = ""
		}
	}
	old := w.linked[mac]
	if to != "" {
		w.linked[mac] = w.desired.Edge(from, to, probe.Layer2, nil)
	} else {
		delete(w.linked, mac)
	}
	if old != w.linked[mac] {
		w.desired.DropEdge(old)
	}
}

// address returns one in lower case; nodes of the fabric may have it as somebody typed it.
func address(n *graph.Node, key string) string {
	v, _ := n.Metadata.Get(key)
	text, _ := v.(string)
	return strings.ToLower(text)
}

// borrows tells whether a node usually shows the MAC address of an interface below it, which is the one with the cable.
func borrows(n *graph.Node) bool {
	switch n.Metadata.Text("Type") {
	case "bond", "bridge", "internal", "ipvlan", "macvlan", "macvtap", "ovsbridge", "ovsport", "patch", "team", "vlan", "vrf":
		return true
	}
	return false
}
