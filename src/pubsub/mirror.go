package pubsub

import (
	"iter"
	"slices"

	"skydive/src/field"
	"skydive/src/graph"
)

// contents is a graph that can be compared: *graph.Snapshot, mirror or part.
type contents interface {
	Node(id string) *graph.Node
	Edge(id string) *graph.Edge
	Nodes(field.Filter) iter.Seq[*graph.Node]
	Edges(field.Filter) iter.Seq[*graph.Edge]
}

// part is what a filter lets through, in the order in which it does.
type part struct {
	nodes    map[string]*graph.Node
	edges    map[string]*graph.Edge
	allNodes []*graph.Node // also what was deleted from nodes since
	allEdges []*graph.Edge
}

func newPart(nodes iter.Seq[*graph.Node], edges iter.Seq[*graph.Edge]) *part {
	p := &part{make(map[string]*graph.Node), make(map[string]*graph.Edge), slices.Collect(nodes), slices.Collect(edges)}
	for _, n := range p.allNodes {
		p.nodes[n.ID] = n
	}
	for _, e := range p.allEdges {
		p.edges[e.ID] = e
	}
	return p
}

func (p *part) Node(id string) *graph.Node { return p.nodes[id] }
func (p *part) Edge(id string) *graph.Edge { return p.edges[id] }

func (p *part) Nodes(field.Filter) iter.Seq[*graph.Node] {
	return func(yield func(*graph.Node) bool) {
		for _, n := range p.allNodes {
			if p.nodes[n.ID] == n && !yield(n) {
				return
			}
		}
	}
}

func (p *part) Edges(field.Filter) iter.Seq[*graph.Edge] {
	return func(yield func(*graph.Edge) bool) {
		for _, e := range p.allEdges {
			if p.edges[e.ID] == e && !yield(e) {
				return
			}
		}
	}
}

// mirror is what a subscriber without filter has been told: a snapshot, and what has come since. It exists to know what to tell
// when events were lost.
type mirror struct {
	base  *graph.Snapshot
	nodes map[string]*graph.Node // nil: deleted
	edges map[string]*graph.Edge
}

func newMirror(base *graph.Snapshot) *mirror {
	return &mirror{base, make(map[string]*graph.Node), make(map[string]*graph.Edge)}
}

// apply notes that the subscriber was told of c.
func (m *mirror) apply(c *graph.Commit) {
	for _, ch := range c.Changes {
		switch ch.Kind {
		case graph.NodeAdded, graph.NodeUpdated:
			m.nodes[ch.Node.ID] = ch.Node
		case graph.NodeDeleted:
			m.nodes[ch.Node.ID] = nil
		case graph.EdgeAdded, graph.EdgeUpdated:
			m.edges[ch.Edge.ID] = ch.Edge
		case graph.EdgeDeleted:
			m.edges[ch.Edge.ID] = nil
		}
	}
}

// size is how much the mirror holds beyond the snapshot.
func (m *mirror) size() int { return len(m.nodes) + len(m.edges) }

func (m *mirror) Node(id string) *graph.Node {
	if n, ok := m.nodes[id]; ok {
		return n
	}
	return m.base.Node(id)
}

func (m *mirror) Edge(id string) *graph.Edge {
	if e, ok := m.edges[id]; ok {
		return e
	}
	return m.base.Edge(id)
}

func (m *mirror) Nodes(f field.Filter) iter.Seq[*graph.Node] {
	return overlaid(m.base.Nodes(f), m.nodes, func(n *graph.Node) string { return n.ID })
}

func (m *mirror) Edges(f field.Filter) iter.Seq[*graph.Edge] {
	return overlaid(m.base.Edges(f), m.edges, func(e *graph.Edge) string { return e.ID })
}

// overlaid yields base without what over replaces, then over.
func overlaid[T any](base iter.Seq[*T], over map[string]*T, id func(*T) string) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for v := range base {
			if _, ok := over[id(v)]; !ok && !yield(v) {
				return
			}
		}
		for _, v := range over {
			if v != nil && !yield(v) {
				return
			}
		}
	}
}

// diff returns the events that lead from one graph to another, in an order that clients can follow: nodes that come, nodes that go,
// edges that come, edges that go; then updates. Of what goes, the element in now is shown if it is still there.
func diff(from, to, now contents) (events []graph.Change) {
	var changed []graph.Change
	for n := range to.Nodes(field.Filter{}) {
		switch old := from.Node(n.ID); {
		case old == nil:
			events = append(events, graph.Change{Kind: graph.NodeAdded, Node: n})
		case differ(&old.Element, &n.Element):
			changed = append(changed, graph.Change{Kind: graph.NodeUpdated, OldNode: old, Node: n})
		}
	}
	for old := range from.Nodes(field.Filter{}) {
		if to.Node(old.ID) == nil {
			shown := now.Node(old.ID)
			if shown == nil {
				shown = old
			}
			events = append(events, graph.Change{Kind: graph.NodeDeleted, OldNode: old, Node: shown})
		}
	}
	for e := range to.Edges(field.Filter{}) {
		switch old := from.Edge(e.ID); {
		case old == nil:
			events = append(events, graph.Change{Kind: graph.EdgeAdded, Edge: e})
		case differ(&old.Element, &e.Element):
			changed = append(changed, graph.Change{Kind: graph.EdgeUpdated, OldEdge: old, Edge: e})
		}
	}
	for old := range from.Edges(field.Filter{}) {
		if to.Edge(old.ID) == nil {
			shown := now.Edge(old.ID)
			if shown == nil {
				shown = old
			}
			events = append(events, graph.Change{Kind: graph.EdgeDeleted, OldEdge: old, Edge: shown})
		}
	}
	return append(events, changed...)
}

// differ tells whether a subscriber sees a difference that an update can express.
func differ(a, b *graph.Element) bool {
	return a != b && (a.Revision != b.Revision || a.UpdatedAt != b.UpdatedAt || !field.Equal(a.Metadata, b.Metadata))
}
