package query

import (
	"fmt"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/gremlin"
)

// kind is the type of the result at a point of a query.
type kind uint8

const (
	graphs kind = iota // the zero value: a query starts with the graph
	nodes
	edges
	paths
	list    // of values
	scalar  // ends a query
	series  // of metrics
	sockets // of nodes or flows
	hops    // ends a query
	flows
	updates // metrics of flows
	groups
	packets
)

func (k kind) String() string {
	return [...]string{"the graph", "nodes", "edges", "paths", "values", "a single value", "metrics", "sockets", "next hops",
		"flows", "metrics of flows", "groups of flows", "packets"}[k]
}

// compiler walks the steps once. Since the type of every result is known beforehand, runs need no checks.
type compiler struct {
	steps  []gremlin.Step
	next   int
	kind   kind
	stages []stage
	named  map[string]bool // by As so far
}

type applier = func(*run, Result) (Result, error)

func (c *compiler) emit(s gremlin.Step, k kind, f applier) error {
	c.kind = k
	c.stages = append(c.stages, stage{s.Offset, f})
	return nil
}

func (c *compiler) fail(s gremlin.Step, format string, a ...any) error {
	return &Error{s.Offset, fmt.Errorf(format, a...)}
}

func (c *compiler) step() error {
	s := c.steps[c.next]
	c.next++
	if s.Kind == gremlin.Workflow && c.kind == graphs {
		return c.fail(s, "%s comes with a later version", s.Kind)
	}
	var err error
	var done bool
	switch c.kind {
	case graphs:
		done, err = c.graphStep(s)
	case nodes:
		done, err = c.nodesStep(s)
	case edges:
		done, err = c.edgesStep(s)
	case paths:
		done, err = c.pathsStep(s)
	case list:
		done, err = c.listStep(s)
	case series:
		done, err = c.seriesStep(s)
	case sockets:
		done, err = c.socketsStep(s)
	case flows:
		done, err = c.flowsStep(s)
	case updates:
		done, err = c.updatesStep(s)
	case groups, packets:
		done, err = c.partsStep(s)
	}
	if err == nil && !done {
		err = c.fail(s, "Invalid step '%s' on %s", s.Kind, c.kind)
	}
	return err
}

// filters returns the filter of step s together with those of the Has-like steps that follow on elements, where the index can
// answer them at once.
func (c *compiler) filters(s gremlin.Step, args []gremlin.Arg) (filter, error) {
	f, err := compileFilter(args, false)
	if err != nil {
		return f, c.fail(s, "%w", err)
	}
	for c.next < len(c.steps) {
		more, ok, err := c.has(c.steps[c.next])
		switch {
		case err != nil:
			return f, err
		case !ok:
			return f, nil
		case len(f.Terms) == 0:
			f = more
		case f.merges(more):
			f = f.and(more)
		default:
			return f, nil
		}
		c.next++
	}
	return f, nil
}

// has reads a Has-like step on elements; ok is false for any other step.
func (c *compiler) has(s gremlin.Step) (f filter, ok bool, err error) {
	switch s.Kind {
	case gremlin.Has, gremlin.HasKey:
		f, err = compileFilter(s.Args, false)
	case gremlin.HasEither:
		f, err = compileFilter(s.Args, true)
	case gremlin.HasNot:
		f, err = compileFilter(s.Args, false)
		f.Terms[0].Pred = field.Missing{}
	default:
		return f, false, nil
	}
	if err != nil {
		err = c.fail(s, "%w", err)
	}
	return f, true, err
}

// paging takes over a Range or Limit that follows, so that the step before it can stop early.
func (c *compiler) paging() page {
	if c.next == len(c.steps) {
		return everything
	}
	p, ok := pageOf(c.steps[c.next])
	if ok {
		c.next++
	}
	return p
}

func pageOf(s gremlin.Step) (page, bool) {
	switch s.Kind {
	case gremlin.Limit:
		return page{0, s.Args[0].(int64)}, true
	case gremlin.Range:
		return page{s.Args[0].(int64), s.Args[1].(int64)}, true
	}
	return everything, false
}

// counting takes over a Count that follows.
func (c *compiler) counting() bool {
	if c.next < len(c.steps) && c.steps[c.next].Kind == gremlin.Count {
		c.next++
		return true
	}
	return false
}

func (c *compiler) graphStep(s gremlin.Step) (bool, error) {
	switch s.Kind {
	case gremlin.V:
		f, err := c.filters(s, nil)
		if err != nil {
			return true, err
		}
		if len(s.Args) == 1 {
			return true, c.emit(s, nodes, oneNode(s.Args[0].(string), f, c.paging()))
		}
		p := c.paging()
		if p == everything && c.counting() {
			return true, c.emit(s, scalar, countNodes(f))
		}
		return true, c.emit(s, nodes, allNodes(f, p))
	case gremlin.E:
		f, err := c.filters(s, nil)
		if err != nil {
			return true, err
		}
		if len(s.Args) == 1 {
			return true, c.emit(s, edges, oneEdge(s.Args[0].(string), f, c.paging()))
		}
		p := c.paging()
		if p == everything && len(f.Terms) == 0 && c.counting() {
			return true, c.emit(s, scalar, func(r *run, _ Result) (Result, error) {
				return Value{int64(r.world.EdgeCount())}, nil
			})
		}
		return true, c.emit(s, edges, allEdges(f, p))
	case gremlin.Context:
		if c.next > 1 && c.steps[c.next-2].Kind != gremlin.G {
			return true, c.fail(s, "Context must directly follow G")
		}
		lazy := c.next < len(c.steps) && c.steps[c.next].Kind == gremlin.Flows
		return true, c.emit(s, graphs, travel(s, lazy))
	case gremlin.Flows:
		return true, c.gather(s)
	}
	return false, nil
}

func (c *compiler) nodesStep(s gremlin.Step) (bool, error) {
	if has, ok, err := c.has(s); ok {
		if err != nil {
			return true, err
		}
		return true, c.emit(s, nodes, filterNodes(has, c.paging()))
	}
	if p, ok := pageOf(s); ok {
		return true, c.emit(s, nodes, cut[Nodes](p))
	}
	switch s.Kind {
	case gremlin.In, gremlin.Out, gremlin.Both:
		f, err := c.filters(s, s.Args)
		if err != nil {
			return true, err
		}
		return true, c.emit(s, nodes, neighbours(s.Kind, f, c.paging()))
	case gremlin.InE, gremlin.OutE, gremlin.BothE:
		f, err := c.filters(s, s.Args)
		if err != nil {
			return true, err
		}
		return true, c.emit(s, edges, links(s.Kind, f, c.paging()))
	case gremlin.Dedup:
		return true, c.emit(s, nodes, dedupNodes(texts(s.Args), c.paging()))
	case gremlin.Sort:
		key, desc := sorting(s.Args, "CreatedAt")
		return true, c.emit(s, nodes, sortNodes(key, desc))
	case gremlin.Count:
		return true, c.emit(s, scalar, count)
	case gremlin.Values:
		return true, c.emit(s, list, nodeValues(s.Args[0].(string)))
	case gremlin.ValueMap:
		return true, c.emit(s, list, valueMap(texts(s.Args)))
	case gremlin.Keys:
		return true, c.emit(s, list, nodeKeys)
	case gremlin.Sum:
		if len(s.Args) == 0 {
			return true, c.fail(s, "Sum requires 1 parameter")
		}
		return true, c.emit(s, scalar, sumNodes(s.Args[0].(string)))
	case gremlin.ShortestPathTo:
		to, err := compileFilter(s.Args[0].(gremlin.Metadata), false)
		if err != nil {
			return true, c.fail(s, "%w", err)
		}
		via := filter{}
		if len(s.Args) == 2 {
			if via, err = compileFilter(s.Args[1].(gremlin.Metadata), false); err != nil {
				return true, c.fail(s, "%w", err)
			}
		}
		return true, c.emit(s, paths, shortestPaths(to, via))
	case gremlin.SubGraph, gremlin.As, gremlin.Select, gremlin.G:
		return c.scope(s)
	case gremlin.Metrics:
		path, ok := metricPath(s.Args)
		if !ok {
			return true, c.fail(s, "Metric field unknown : %v", s.Args)
		}
		return true, c.emit(s, series, nodeMetrics(path))
	case gremlin.Sockets:
		return true, c.emit(s, sockets, nodeSockets)
	case gremlin.Descendants, gremlin.Ascendants, gremlin.Neighbors:
		f, depth, err := relation(s)
		if err != nil {
			return true, c.fail(s, "%w", err)
		}
		return true, c.emit(s, nodes, relatives(s.Kind, f, depth))
	case gremlin.NextHop:
		return true, c.emit(s, hops, nextHops(s.Args[0].(string)))
	case gremlin.Flows:
		return true, c.gather(s)
	}
	return false, nil
}

// scope compiles the steps that change what later steps see.
func (c *compiler) scope(s gremlin.Step) (bool, error) {
	switch s.Kind {
	case gremlin.G:
		return true, c.emit(s, graphs, func(r *run, _ Result) (Result, error) { return Graph{r.world}, nil })
	case gremlin.SubGraph:
		f, err := compileFilter(s.Args, false)
		if err != nil {
			return true, c.fail(s, "%w", err)
		}
		return true, c.emit(s, graphs, cutOut(f))
	case gremlin.As:
		name := s.Args[0].(string)
		c.named[name] = true
		return true, c.emit(s, nodes, remember(name))
	case gremlin.Select:
		names := texts(s.Args)
		for _, n := range names {
			if !c.named[n] {
				return true, c.fail(s, "Key %s not registered. Need to be registered using 'As' step", n)
			}
		}
		return true, c.emit(s, nodes, recall(names, c.paging()))
	}
	return false, nil
}

func (c *compiler) edgesStep(s gremlin.Step) (bool, error) {
	if has, ok, err := c.has(s); ok {
		if err != nil {
			return true, err
		}
		return true, c.emit(s, edges, filterEdges(has, c.paging()))
	}
	if p, ok := pageOf(s); ok {
		return true, c.emit(s, edges, cut[Edges](p))
	}
	switch s.Kind {
	case gremlin.InV, gremlin.OutV, gremlin.BothV:
		f, err := c.filters(s, s.Args)
		if err != nil {
			return true, err
		}
		return true, c.emit(s, nodes, ends(s.Kind, f, c.paging()))
	case gremlin.Dedup:
		return true, c.emit(s, edges, dedupEdges(texts(s.Args), c.paging()))
	case gremlin.Count:
		return true, c.emit(s, scalar, count)
	case gremlin.SubGraph, gremlin.G:
		return c.scope(s)
	}
	return false, nil
}

func (c *compiler) pathsStep(s gremlin.Step) (bool, error) {
	switch s.Kind {
	case gremlin.Dedup:
		dedup := dedupNodes(texts(s.Args), c.paging())
		return true, c.emit(s, nodes, func(r *run, in Result) (Result, error) {
			all := collect[*graph.Node](r, everything)
			for _, p := range in.(Paths) {
				for _, n := range p {
					if !all.add(n) {
						return nil, r.err
					}
				}
			}
			return dedup(r, Nodes(all.out))
		})
	case gremlin.SubGraph:
		return c.scope(s)
	case gremlin.Flows:
		return true, c.gather(s)
	}
	return false, nil
}

func (c *compiler) listStep(s gremlin.Step) (bool, error) {
	switch s.Kind {
	case gremlin.Has:
		f, err := compileFilter(s.Args, false)
		if err != nil {
			return true, c.fail(s, "%w", err)
		}
		return true, c.emit(s, list, filterValues(f))
	case gremlin.Dedup:
		return true, c.emit(s, list, dedupValues)
	}
	return false, nil
}

func (c *compiler) seriesStep(s gremlin.Step) (bool, error) {
	switch s.Kind {
	case gremlin.Aggregates:
		width := int64(30)
		if len(s.Args) == 1 {
			width = s.Args[0].(int64)
		}
		return true, c.emit(s, series, aggregate(width*1000))
	case gremlin.Sum:
		if len(s.Args) == 1 {
			return true, c.emit(s, scalar, sumMetric(s.Args[0].(string)))
		}
		return true, c.emit(s, scalar, sumMetrics)
	case gremlin.Count:
		return true, c.emit(s, scalar, count)
	case gremlin.Keys:
		return true, c.emit(s, list, metricKeys)
	}
	return false, nil
}

func (c *compiler) socketsStep(s gremlin.Step) (bool, error) {
	switch s.Kind {
	case gremlin.Has, gremlin.HasEither:
		f, err := c.pairs(s)
		if err != nil {
			return true, err
		}
		return true, c.emit(s, sockets, filterSockets(f))
	case gremlin.Values:
		return true, c.emit(s, list, socketValues(s.Args[0].(string)))
	}
	return false, nil
}

// pairs reads a Has-like step on what has no optional keys.
func (c *compiler) pairs(s gremlin.Step) (filter, error) {
	if len(s.Args) < 2 {
		return filter{}, c.fail(s, "At least two parameters must be provided")
	}
	f, err := compileFilter(s.Args, s.Kind == gremlin.HasEither)
	if err != nil {
		return f, c.fail(s, "%w", err)
	}
	return f, nil
}

func sorting(args []gremlin.Arg, fallback string) (key string, desc bool) {
	switch len(args) {
	case 0:
		return fallback, false
	case 1:
		return args[0].(string), false
	}
	return args[1].(string), args[0] == gremlin.Desc
}
