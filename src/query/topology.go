package query

import (
	"fmt"
	"slices"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/gremlin"
)

func oneNode(id string, f filter, p page) applier {
	return func(r *run, _ Result) (Result, error) {
		var states Nodes
		eachNode(r.world, id, func(n *graph.Node) bool {
			states = append(states, n)
			return r.hold(1)
		})
		if states == nil {
			return nil, usage("Node '%s' does not exist", id)
		}
		return filterNodes(f, p)(r, states)
	}
}

func oneEdge(id string, f filter, p page) applier {
	return func(r *run, _ Result) (Result, error) {
		e := r.world.Edge(id)
		if e == nil {
			return nil, usage("Edge '%s' does not exist", id)
		}
		var states Edges
		eachEdge(r.world, e, func(e *graph.Edge) bool {
			states = append(states, e)
			return r.hold(1)
		})
		return filterEdges(f, p)(r, states)
	}
}

func allNodes(f filter, p page) applier {
	return func(r *run, _ Result) (Result, error) {
		c := collect[*graph.Node](r, p)
		for n := range r.world.Nodes(f.on(r)) {
			if !c.add(n) {
				break
			}
		}
		return Nodes(c.out), nil
	}
}

func countNodes(f filter) applier {
	return func(r *run, _ Result) (Result, error) {
		return Value{int64(r.world.CountNodes(f.on(r)))}, nil
	}
}

func allEdges(f filter, p page) applier {
	return func(r *run, _ Result) (Result, error) {
		c := collect[*graph.Edge](r, p)
		for e := range r.world.Edges(f.on(r)) {
			if !c.add(e) {
				break
			}
		}
		return Edges(c.out), nil
	}
}

func filterNodes(f filter, p page) applier {
	return func(r *run, in Result) (Result, error) {
		return Nodes(pick(r, in.(Nodes), f, p)), nil
	}
}

func filterEdges(f filter, p page) applier {
	return func(r *run, in Result) (Result, error) {
		return Edges(pick(r, in.(Edges), f, p)), nil
	}
}

func pick[T field.Getter](r *run, in []T, f filter, p page) []T {
	c := collect[T](r, p)
	match := f.on(r)
	for _, x := range in {
		if !r.ok() || match.Match(x) && !c.add(x) {
			break
		}
	}
	return c.out
}

// cut applies a Range or Limit that no step before it took over.
func cut[L interface {
	~[]E
	Result
}, E any](p page) applier {
	return func(_ *run, in Result) (Result, error) {
		l := in.(L)
		to := min(p.to, int64(len(l)))
		return l[min(p.from, to):to], nil
	}
}

func count(_ *run, in Result) (Result, error) {
	switch in := in.(type) {
	case Metrics:
		return Value{int64(len(in))}, nil // of the series, not of what they hold
	case FlowMetrics:
		return Value{int64(len(in))}, nil
	case Flows:
		return Value{int64(len(in))}, nil
	}
	return Value{int64(in.size())}, nil
}

// walker returns a function that calls yield for the edges of a node on the side that the step names, with the node at their
// other end, until yield returns false; so does it then. An edge from a node to itself comes once.
func walker(w world, side gremlin.Kind, yield func(e *graph.Edge, other string) bool) func(id string) bool {
	out := side == gremlin.Out || side == gremlin.OutE || side == gremlin.Descendants
	in := side == gremlin.In || side == gremlin.InE || side == gremlin.Ascendants
	var self string
	var more bool
	// Made once for all nodes, since an allocation for each would be half of the work.
	down := func(e *graph.Edge) bool { more = yield(e, e.Child); return more }
	up := func(e *graph.Edge) bool {
		more = !in && e.Parent == self || yield(e, e.Parent)
		return more
	}
	return func(id string) bool {
		self, more = id, true
		if !in {
			w.Out(id)(down)
		}
		if !out && more {
			w.In(id)(up)
		}
		return more
	}
}

func neighbours(side gremlin.Kind, f filter, p page) applier {
	return func(r *run, in Result) (Result, error) {
		c := collect[*graph.Node](r, p)
		match := f.on(r)
		add := func(n *graph.Node) bool { return r.ok() && (!match.Match(n) || c.add(n)) }
		walk := walker(r.world, side, func(_ *graph.Edge, other string) bool {
			return r.ok() && eachNode(r.world, other, add)
		})
		for _, n := range in.(Nodes) {
			if !r.ok() || !walk(n.ID) {
				break
			}
		}
		return Nodes(c.out), nil
	}
}

func links(side gremlin.Kind, f filter, p page) applier {
	return func(r *run, in Result) (Result, error) {
		c := collect[*graph.Edge](r, p)
		match := f.on(r)
		add := func(e *graph.Edge) bool { return r.ok() && (!match.Match(e) || c.add(e)) }
		walk := walker(r.world, side, func(e *graph.Edge, _ string) bool { return eachEdge(r.world, e, add) })
		for _, n := range in.(Nodes) {
			if !r.ok() || !walk(n.ID) {
				break
			}
		}
		return Edges(c.out), nil
	}
}

// ends yields the parents for InV and the children for OutV, which is the reverse of other Gremlins.
func ends(side gremlin.Kind, f filter, p page) applier {
	return func(r *run, in Result) (Result, error) {
		c := collect[*graph.Node](r, p)
		match := f.on(r)
		add := func(n *graph.Node) bool { return r.ok() && (!match.Match(n) || c.add(n)) }
		for _, e := range in.(Edges) {
			if !r.ok() || side != gremlin.OutV && !eachNode(r.world, e.Parent, add) || side != gremlin.InV && !eachNode(r.world, e.Child, add) {
				break
			}
		}
		return Nodes(c.out), nil
	}
}

func dedupNodes(keys []string, p page) applier {
	return func(r *run, in Result) (Result, error) {
		return Nodes(dedup(r, in.(Nodes), keys, p, func(n *graph.Node) string { return n.ID })), nil
	}
}

func dedupEdges(keys []string, p page) applier {
	return func(r *run, in Result) (Result, error) {
		return Edges(dedup(r, in.(Edges), keys, p, func(e *graph.Edge) string { return e.ID })), nil
	}
}

// dedup keeps the first of those with the same ID or, when keys are given, with the same values; one that has none of the keys
// is always kept.
func dedup[T field.Getter](r *run, in []T, keys []string, p page, id func(T) string) []T {
	c := collect[T](r, p)
	keys = unique(keys)
	seen := make(map[string]struct{})
	var buf []byte
	for _, x := range in {
		buf = buf[:0]
		some := len(keys) == 0
		if some {
			buf = append(buf, id(x)...)
		}
		for _, k := range keys {
			v, ok := x.Field(k)
			if ok {
				some = true
				buf = field.AppendJSON(buf, v)
			}
			buf = append(buf, 0) // JSON never holds a zero byte
		}
		if some {
			if _, dup := seen[string(buf)]; dup {
				if !r.ok() {
					break
				}
				continue
			}
			seen[string(buf)] = struct{}{}
			r.hold(len(buf) / bytesPerElement)
		}
		if !c.add(x) {
			break
		}
	}
	return c.out
}

func sortNodes(key string, desc bool) applier {
	return func(r *run, in Result) (Result, error) { return Nodes(sorted(r, in.(Nodes), key, desc)), nil }
}

// sorted keeps the order of equal elements. Those without the key come first, last when descending.
func sorted[T field.Getter](r *run, in []T, key string, desc bool) []T {
	type keyed struct {
		x T
		v field.Value
	}
	all := make([]keyed, 0, len(in))
	for _, x := range in {
		v, _ := x.Field(key)
		all = append(all, keyed{x, v})
		if !r.hold(1) {
			return nil
		}
	}
	slices.SortStableFunc(all, func(a, b keyed) int {
		if !r.ok() {
			return 0 // the order no longer matters
		}
		if desc {
			a, b = b, a
		}
		return compare(a.v, b.v)
	})
	out := make([]T, len(all))
	for i := range all {
		out[i] = all[i].x
	}
	return out
}

// cutOut is SubGraph. Nodes: they and the edges between them. Edges: they and their ends. Paths: as their nodes. An element that
// comes twice is taken once; f selects among the edges.
func cutOut(f filter) applier {
	return func(r *run, in Result) (Result, error) {
		sub := &subgraph{byID: make(map[string]*graph.Node)}
		match := f.on(r)
		_, live := r.world.(*graph.Snapshot)
		states := make(map[*graph.Node]struct{}) // where one node may have several
		addNode := func(n *graph.Node) bool {
			if _, dup := states[n]; dup || live && sub.byID[n.ID] != nil {
				return r.ok()
			}
			if !live {
				states[n] = struct{}{}
			}
			sub.byID[n.ID] = n
			sub.nodes = append(sub.nodes, n)
			return r.hold(1)
		}
		addEdge := func(e *graph.Edge) bool {
			if !match.Match(e) {
				return r.ok()
			}
			sub.edges = append(sub.edges, e)
			return r.hold(1)
		}
		switch in := in.(type) {
		case Nodes:
			for _, n := range in {
				if !addNode(n) {
					return nil, r.err
				}
			}
		case Paths:
			for _, p := range in {
				for _, n := range p {
					if !addNode(n) {
						return nil, r.err
					}
				}
			}
		case Edges:
			seen := make(map[*graph.Edge]struct{})
			for _, e := range in {
				if _, dup := seen[e]; dup {
					continue
				}
				seen[e] = struct{}{}
				if !addEdge(e) || !eachNode(r.world, e.Parent, addNode) || !eachNode(r.world, e.Child, addNode) {
					return nil, r.err
				}
			}
		default:
			return nil, fmt.Errorf("SubGraph of %T", in)
		}
		if _, ok := in.(Edges); !ok {
			for _, n := range sub.nodes {
				if sub.byID[n.ID] != n {
					continue // an earlier state of a node that is still to come
				}
				for e := range r.world.Out(n.ID) {
					if sub.byID[e.Child] != nil && !eachEdge(r.world, e, addEdge) {
						return nil, r.err
					}
				}
			}
		}
		if !live {
			sub = newSubgraph(sub.nodes, sub.edges)
		}
		r.world = sub
		r.kept += len(sub.nodes) + len(sub.edges)
		return Graph{sub}, nil
	}
}

func remember(name string) applier {
	return func(r *run, in Result) (Result, error) {
		if r.named == nil {
			r.named = make(map[string]Nodes)
		}
		r.named[name] = in.(Nodes)
		r.kept += in.size()
		return in, nil
	}
}

func recall(names []string, p page) applier {
	return func(r *run, _ Result) (Result, error) {
		c := collect[*graph.Node](r, p)
		for _, name := range names {
			for _, n := range r.named[name] {
				if !c.add(n) {
					return Nodes(c.out), nil
				}
			}
		}
		return Nodes(c.out), nil
	}
}
