package query

import (
	"math"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/gremlin"
)

// relation reads the parameters of Descendants, Ascendants and Neighbors: which edges to follow – any of the pairs, ownership
// when none – and how far.
func relation(s gremlin.Step) (filter, int64, error) {
	args, depth := s.Args, int64(1)
	if n := len(args); n%2 != 0 {
		args, depth = args[:n-1], args[n-1].(int64)
		if depth == 0 && s.Kind != gremlin.Neighbors {
			depth = math.MaxInt64
		}
	}
	if len(args) == 0 {
		return filter{Filter: field.Filter{Terms: []field.Term{{Key: "RelationType", Pred: field.Eq{V: "ownership"}}}}}, depth, nil
	}
	f, err := compileFilter(args, true)
	return f, depth, err
}

// relatives yields the start nodes and those that can be reached within depth edges, each once, nearest first.
func relatives(side gremlin.Kind, f filter, depth int64) applier {
	return func(r *run, in Result) (Result, error) {
		c := collect[*graph.Node](r, everything)
		seen := make(map[*graph.Node]struct{})
		add := func(n *graph.Node) bool {
			if _, dup := seen[n]; dup {
				return r.ok()
			}
			seen[n] = struct{}{}
			return c.add(n)
		}
		for _, n := range in.(Nodes) {
			if !add(n) {
				return nil, r.err
			}
		}
		match := f.on(r)
		walk := walker(r.world, side, func(e *graph.Edge, other string) bool {
			return r.ok() && (!match.Match(e) || eachNode(r.world, other, add))
		})
		begin := 0 // of the nodes that were reached last
		for ; depth > 0 && begin < len(c.out); depth-- {
			level := c.out[begin:]
			begin = len(c.out)
			for _, n := range level {
				if !walk(n.ID) {
					return nil, r.err
				}
			}
		}
		return Nodes(c.out), nil
	}
}
