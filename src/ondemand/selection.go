package ondemand

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/gremlin"
	"skydive/src/query"
)

// selection is a query that gives nodes, with what its answer depends on.
type selection struct {
	plan  *query.Plan
	paths []string // fields of nodes and edges: an update that leaves them alone leaves the answer alone
	edges bool     // edges matter
	local bool     // whether a node is selected depends on that node alone
}

var errSelects = errors.New("the selection gives neither nodes nor paths")

func newSelection(text string) (*selection, error) {
	q, err := gremlin.Parse(text)
	if err != nil {
		return nil, err
	}
	s := &selection{local: true, paths: []string{"Type", "@Host", mirrorOf}}
	for i, step := range q.Steps {
		switch step.Kind {
		case gremlin.Flows, gremlin.Workflow:
			return nil, fmt.Errorf("%w: %s is not a step of the topology", errSelects, step.Kind)
		case gremlin.V:
			s.local = s.local && i == 0 && len(step.Args) == 0
		case gremlin.Has, gremlin.HasKey, gremlin.HasNot, gremlin.HasEither:
		case gremlin.Dedup:
			s.local = s.local && len(step.Args) == 0
		case gremlin.Sort, gremlin.Limit, gremlin.Range, gremlin.As, gremlin.Select, gremlin.G:
			s.local = false
		default:
			s.local, s.edges = false, true
		}
		s.depends(step)
	}
	if s.plan, err = query.Compile(q, query.AllSteps); err != nil {
		return nil, err
	}
	return s, nil
}

// depends notes the fields that a step names. Values taken for names do no harm.
func (s *selection) depends(step gremlin.Step) {
	pairs := false
	switch step.Kind {
	case gremlin.Dedup, gremlin.Sort, gremlin.HasKey, gremlin.HasNot:
	default:
		pairs = true
	}
	note := func(args []gremlin.Arg, pairs bool) {
		for i, a := range args {
			if name, ok := a.(string); ok && (!pairs || i%2 == 0) {
				s.paths = append(s.paths, strings.TrimPrefix(name, "Metadata."))
			}
		}
	}
	note(step.Args, pairs)
	for _, a := range step.Args {
		if m, ok := a.(gremlin.Metadata); ok {
			note(m, true)
		}
	}
}

// run returns the nodes that are selected in a graph, each once, in order.
func (s *selection) run(ctx context.Context, g *graph.Snapshot) ([]*graph.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, selectTimeout)
	defer cancel()
	result, err := s.plan.Run(ctx, query.Source{Graph: g})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("the selection takes longer than %s", selectTimeout)
	}
	if err != nil {
		return nil, err
	}
	switch r := result.(type) {
	case query.Nodes:
		return unique([]*graph.Node(r)), nil
	case query.Paths:
		return unique(r...), nil
	}
	return nil, errSelects
}

func unique(lists ...[]*graph.Node) []*graph.Node {
	var out []*graph.Node
	seen := make(map[string]struct{})
	for _, list := range lists {
		for _, n := range list {
			if _, dup := seen[n.ID]; !dup {
				seen[n.ID] = struct{}{}
				out = append(out, n)
			}
		}
	}
	return out
}

// differs tells whether any of the fields changed.
func differs(paths []string, old, new field.Getter) bool {
	for _, p := range paths {
		a, had := old.Field(p)
		b, has := new.Field(p)
		if had != has || !field.Equal(a, b) {
			return true
		}
	}
	return false
}

// updated follows a node that was changed.
func (e *Engine) updated(old, new *graph.Node) {
	tasks := e.byNode[new.ID]
	for _, t := range tasks {
		t.node = new
	}
	if len(e.watched) == 0 && len(tasks) == 0 {
		_, before := old.Metadata.Get(e.kind.metadata)
		_, after := new.Metadata.Get(e.kind.metadata)
		if !before && !after {
			return
		}
	}
	shown, state := false, false
	matters := len(e.watched) > 0 && (e.always || old.Host != new.Host)
	changes(old.Metadata, new.Metadata, func(key string) {
		_, named := e.roots[key]
		matters = matters || named
		shown = shown || key == e.kind.metadata
		state = state || key == "State"
	})
	if matters && differs(e.watched, old, new) {
		e.touch(new.ID, func(x *entry) bool { return differs(x.selection.paths, old, new) })
	}
	if shown && !e.told(old, new) {
		e.inspect(new)
	}
	if !state {
		return
	}
	for _, t := range slices.Clone(tasks) {
		if t.state == Failed {
			t.due, t.failures = time.Time{}, 0 // it may have been refused because the interface was down
			e.step(t)
		}
	}
}

// changes calls yield for each key of the first level whose value differs. Most values are the very same: updates share what they leave
// alone.
func changes(old, new field.Object, yield func(key string)) {
	for i, j := 0, 0; i < len(old) || j < len(new); {
		switch {
		case j == len(new) || i < len(old) && old[i].Key < new[j].Key:
			yield(old[i].Key)
			i++
		case i == len(old) || new[j].Key < old[i].Key:
			yield(new[j].Key)
			j++
		default:
			if !same(old[i].Value, new[j].Value) && !field.Equal(old[i].Value, new[j].Value) {
				yield(new[j].Key)
			}
			i, j = i+1, j+1
		}
	}
}

// same tells whether two lists or objects are one in memory.
func same(a, b field.Value) bool {
	switch a := a.(type) {
	case field.Object:
		b, ok := b.(field.Object)
		return ok && len(a) == len(b) && len(a) > 0 && &a[0] == &b[0]
	case field.List:
		b, ok := b.(field.List)
		return ok && len(a) == len(b) && len(a) > 0 && &a[0] == &b[0]
	}
	return false
}

// commit notes what a change of the graph may make different. It must be cheap: most changes are counters.
func (e *Engine) commit(c *graph.Commit) {
	if !e.synced {
		return
	}
	for i := range c.Changes {
		e.exported(&c.Changes[i])
		switch ch := &c.Changes[i]; ch.Kind {
		case graph.NodeAdded:
			e.touch(ch.Node.ID, nil)
			e.inspect(ch.Node)
			if h := e.hosts[ch.Node.Host]; h != nil && len(h.waiting) > 0 {
				h.retry = time.Time{} // its agent is back
			}
		case graph.NodeUpdated:
			e.updated(ch.OldNode, ch.Node)
		case graph.NodeDeleted:
			e.gone(ch.Node.ID)
			e.touch(ch.Node.ID, nil)
			delete(e.changed, ch.Node.ID)
		case graph.EdgeUpdated:
			if e.edges && differs(e.watched, ch.OldEdge, ch.Edge) {
				e.relink()
			}
		default:
			if e.edges {
				e.relink()
			}
		}
	}
}

// touch notes that a node must be tested again, and queries over the whole graph repeated if they pass the test.
func (e *Engine) touch(id string, test func(*entry) bool) {
	if len(e.watched) == 0 {
		return
	}
	e.gather()
	e.changed[id] = struct{}{}
	for _, x := range e.entries {
		if x.selection != nil && !x.selection.local && !x.whole && (test == nil || test(x)) {
			x.whole = true
		}
	}
}

// relink notes that edges changed.
func (e *Engine) relink() {
	e.gather()
	for _, x := range e.entries {
		if x.selection != nil && x.selection.edges {
			x.whole = true
		}
	}
}

// gather begins to wait for more changes unless that has begun.
func (e *Engine) gather() {
	if e.settled.IsZero() {
		e.settled = time.Now().Add(settle)
	}
}

// rescan looks at the whole graph anew: at the start, and when changes were lost.
func (e *Engine) rescan() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.synced {
		return
	}
	s := e.o.Graph.Snapshot()
	for id := range e.byNode {
		if s.Node(id) == nil {
			e.gone(id)
		}
	}
	for n := range s.Nodes(field.Filter{}) {
		for _, t := range e.byNode[n.ID] {
			t.node = n
		}
		e.inspect(n)
	}
	clear(e.changed)
	for _, x := range e.entries {
		x.whole = x.selection != nil
	}
	e.remap = e.kind.maps
	e.relearn()
}

// selectAll looks for the nodes of a resource in the whole graph.
func (e *Engine) selectAll(ctx context.Context, x *entry) {
	began := time.Now()
	s := e.o.Graph.Snapshot()
	nodes, err := x.selection.run(ctx, s)
	took := time.Since(began)
	e.metrics.selected("graph", took)
	if ctx.Err() != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	e.free, x.ran = now.Add(min(longestPause, pause*took)), now
	x.whole, x.urgent = false, false
	if err != nil {
		e.blame(x, err)
		return
	}
	x.fault = ""
	x.pass++
	for _, n := range nodes {
		e.want(x, n)
	}
	for _, t := range x.tasks {
		if t.pass != x.pass && t.wanted {
			e.unwant(t)
		}
	}
}

// selectChanged tests the nodes that changed against the selections that go by the node alone. For them a graph of just these nodes
// gives the answer.
func (e *Engine) selectChanged(ctx context.Context) {
	if len(e.changed) == 0 {
		return
	}
	began := time.Now()
	now := e.o.Graph.Snapshot()
	var nodes []*graph.Node
	for id := range e.changed {
		if n := now.Node(id); n != nil {
			nodes = append(nodes, n)
		}
	}
	clear(e.changed)
	few := graph.New(graph.Options{})
	if err := few.Update("", func(tx *graph.Tx) error {
		for _, n := range nodes {
			if err := tx.AddNode(n); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		e.o.Logger.Error("Nodes that changed cannot be looked at by themselves", "kind", e.kind.Name, "error", err)
		for _, x := range e.entries {
			x.whole = x.selection != nil
		}
		return
	}
	s := few.Snapshot()
	for _, x := range e.entries {
		if x.deleted || x.selection == nil || !x.selection.local || x.whole {
			continue
		}
		selected, err := x.selection.run(ctx, s)
		if err != nil {
			x.whole = true // which tells why
			continue
		}
		x.pass++
		for _, n := range selected {
			e.want(x, n)
		}
		for _, n := range nodes {
			for _, t := range slices.Clone(e.byNode[n.ID]) {
				if t.entry == x && t.pass != x.pass && t.wanted {
					e.unwant(t)
				}
			}
		}
	}
	e.metrics.selected("nodes", time.Since(began))
}

// blame notes why the nodes of a resource are not known. What runs goes on.
func (e *Engine) blame(x *entry, err error) {
	if x.fault != err.Error() {
		x.fault = err.Error()
		e.say(x, x.fault, "A selection cannot be used")
		e.mark(x)
	}
}

// cachedNode is the first node of a query, asked for at most once a second.
type cachedNode struct {
	at   time.Time
	node *graph.Node
	err  error
}

func (c *cachedNode) first(ctx context.Context, s *graph.Snapshot, text string) (*graph.Node, error) {
	if now := time.Now(); c.at.IsZero() || now.Sub(c.at) > time.Second {
		c.at = now
		c.node, c.err = firstNode(ctx, s, text)
	}
	return c.node, c.err
}

// firstNode returns the first node that a query selects; nil when there is none.
func firstNode(ctx context.Context, s *graph.Snapshot, text string) (*graph.Node, error) {
	if text == "" {
		return nil, nil
	}
	sel, err := newSelection(text)
	if err != nil {
		return nil, err
	}
	nodes, err := sel.run(ctx, s)
	if err != nil || len(nodes) == 0 {
		return nil, err
	}
	return nodes[0], nil
}
