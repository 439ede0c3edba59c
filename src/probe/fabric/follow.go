package fabric

import (
	"strconv"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
)

// filter matches metadata that shows as the texts of the pairs: rules know no types.
func filter(pairs []pair) (f field.Filter) {
	for _, kv := range pairs {
		values := []field.Value{kv.value}
		if n, err := strconv.ParseInt(kv.value, 10, 64); err == nil {
			values = append(values, n)
		} else if b, err := strconv.ParseBool(kv.value); err == nil {
			values = append(values, b)
		}
		f.Terms = append(f.Terms, field.Term{Key: kv.key, Pred: field.Within{Vs: values}})
	}
	return f
}

// follower keeps the links to discovered nodes.
type follower struct {
	graph   *graph.Graph
	desired *probe.Desired
	byName  map[string][]*selector // by name of the child
	keys    map[string]struct{}    // that selectors look at
	linked  map[string][]string    // the edges that a discovered node has
}

func newFollower(g *graph.Graph, d *probe.Desired, selectors []*selector) *follower {
	f := &follower{graph: g, desired: d, byName: make(map[string][]*selector), keys: map[string]struct{}{"Name": {}}, linked: make(map[string][]string)}
	for _, s := range selectors {
		f.byName[s.name] = append(f.byName[s.name], s)
		for _, filter := range [...]field.Filter{s.owner, s.child} {
			for _, t := range filter.Terms {
				f.keys[t.Key] = struct{}{}
			}
		}
	}
	return f
}

// Begin looks for all discovered nodes that rules name.
func (f *follower) Begin(s *graph.Snapshot) {
	for child := range f.linked {
		f.unlink(child)
	}
	for name := range f.byName {
		for n := range s.Nodes(field.Filter{Terms: []field.Term{{Key: "Name", Pred: field.Eq{V: name}}}}) {
			f.match(s, n)
		}
	}
}

// See looks again at nodes for which another answer is possible.
func (f *follower) See(c graph.Change) {
	if len(f.byName) == 0 {
		return
	}
	switch c.Kind {
	case graph.NodeDeleted:
		f.unlink(c.Node.ID)
	case graph.NodeAdded:
		f.look(f.graph.Snapshot(), c.Node.ID)
	case graph.NodeUpdated:
		if f.same(c.OldNode, c.Node) {
			return
		}
		s := f.graph.Snapshot()
		f.look(s, c.Node.ID)
		for e := range s.Out(c.Node.ID) {
			if e.Metadata.Text(probe.RelationType) == probe.Ownership {
				f.look(s, e.Child)
			}
		}
	default:
		if c.Edge.Metadata.Text(probe.RelationType) == probe.Ownership {
			f.look(f.graph.Snapshot(), c.Edge.Child)
		}
	}
}

// same tells whether nothing changed that rules look at.
func (f *follower) same(a, b *graph.Node) bool {
	for key := range f.keys {
		x, _ := a.Field(key)
		y, _ := b.Field(key)
		if !field.Equal(x, y) {
			return false
		}
	}
	return true
}

func (f *follower) look(s *graph.Snapshot, child string) {
	n := s.Node(child)
	if n == nil {
		f.unlink(child)
		return
	}
	if f.linked[child] != nil || f.byName[n.Metadata.Text("Name")] != nil {
		f.unlink(child)
		f.match(s, n)
	}
}

func (f *follower) unlink(child string) {
	for _, edge := range f.linked[child] {
		f.desired.DropEdge(edge)
	}
	delete(f.linked, child)
}

// match links a node with all that rules say.
func (f *follower) match(s *graph.Snapshot, n *graph.Node) {
	for _, sel := range f.byName[n.Metadata.Text("Name")] {
		if !sel.child.Match(n) || n.ID == sel.node {
			continue
		}
		for e := range s.In(n.ID) {
			if e.Metadata.Text(probe.RelationType) != probe.Ownership {
				continue
			}
			if owner := s.Node(e.Parent); owner != nil && sel.owner.Match(owner) {
				parent, child := sel.node, n.ID
				if sel.reverse {
					parent, child = child, parent
				}
				f.linked[n.ID] = append(f.linked[n.ID], f.desired.Edge(parent, child, probe.Layer2, sel.metadata))
				break
			}
		}
	}
}
