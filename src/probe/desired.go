package probe

import (
	"context"
	"errors"
	"fmt"

	"skydive/src/field"
	"skydive/src/graph"
)

// Desired is what the elements of one origin should be, and keeps the graph so, whoever else changes it: other analyzers that know of an
// earlier state, users, agents whose nodes edges lead to. An edge waits until both of its ends are there.
//
// It belongs to one goroutine, that of Run.
type Desired struct {
	env   Env
	nodes map[string]field.Object
	edges map[string]desiredEdge
	ends  map[string]map[string]struct{} // edges by the ID of each end
	known bool                           // all that is desired has been said, so that the rest can go
	said  bool                           // and the supervisor is to be told once it is so
	whole bool                           // everything is to be compared
	dirty struct{ nodes, edges map[string]struct{} }
}

type desiredEdge struct {
	parent, child string
	metadata      field.Object
}

// NewDesired desires nothing yet, and takes nothing away.
func NewDesired(env Env) *Desired {
	d := &Desired{env: env, nodes: make(map[string]field.Object), edges: make(map[string]desiredEdge), ends: make(map[string]map[string]struct{})}
	d.clean()
	return d
}

func (d *Desired) clean() {
	d.whole = false
	d.dirty.nodes, d.dirty.edges = make(map[string]struct{}), make(map[string]struct{})
}

// Known tells that what was asked for until now is all there is: elements of the origin that are not among it go. Once it is in the
// graph the probe counts as running.
func (d *Desired) Known() { d.known, d.said, d.whole = true, true, true }

// Node asks for a node.
func (d *Desired) Node(id string, m field.Object) {
	d.nodes[id] = m
	d.dirty.nodes[id] = struct{}{}
}

// DropNode takes that back.
func (d *Desired) DropNode(id string) {
	delete(d.nodes, id)
	d.dirty.nodes[id] = struct{}{}
}

// Edge asks for an edge and returns its ID; RelationType is added to the metadata.
func (d *Desired) Edge(parent, child, relation string, m field.Object) (id string) {
	id = graph.LinkID(parent, child, relation)
	m, _ = m.Set(RelationType, relation) // cannot fail: the path has one step
	d.edges[id] = desiredEdge{parent, child, m}
	for _, end := range [...]string{parent, child} {
		if d.ends[end] == nil {
			d.ends[end] = make(map[string]struct{})
		}
		d.ends[end][id] = struct{}{}
	}
	d.dirty.edges[id] = struct{}{}
	return id
}

// DropEdge takes that back.
func (d *Desired) DropEdge(id string) {
	e, ok := d.edges[id]
	if !ok {
		return
	}
	delete(d.edges, id)
	for _, end := range [...]string{e.parent, e.child} {
		if delete(d.ends[end], id); len(d.ends[end]) == 0 {
			delete(d.ends, end)
		}
	}
	d.dirty.edges[id] = struct{}{}
}

// Watcher learns what is in the graph: what a probe desires may depend on it.
type Watcher interface {
	Begin(*graph.Snapshot) // this is the graph; what was seen before is void
	See(graph.Change)      // and this has changed since
}

// desiredQueue is how many commits may wait; they cost nothing but a pointer.
const desiredQueue = 1 << 14

// Run keeps the graph as it is desired until ctx ends; everything stays then. Between commits of the graph it calls what comes from work:
// that is where what is desired may change, besides in w. Both may be nil.
func (d *Desired) Run(ctx context.Context, w Watcher, work <-chan func() error) error {
	for {
		commits, snapshot := d.env.Graph.Subscribe(desiredQueue)
		if w != nil {
			w.Begin(snapshot)
		}
		d.whole = true
		err := d.follow(ctx, w, work, commits)
		commits.Close()
		if err != errBehind {
			return err
		}
		d.env.Log.Warn("commits of the graph were lost, and all of it is compared")
	}
}

var errBehind = errors.New("commits were lost")

func (d *Desired) follow(ctx context.Context, w Watcher, work <-chan func() error, commits *graph.Subscription) error {
	for {
		if err := d.apply(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case c, ok := <-commits.C():
			if !ok {
				return errBehind
			}
			d.heard(w, c)
			for waiting := len(commits.C()); waiting > 0; waiting-- {
				if c, ok := <-commits.C(); ok {
					d.heard(w, c)
				}
			}
		case do := <-work:
			if err := do(); err != nil {
				return err
			}
		}
	}
}

// heard notes what may have to be mended after a commit.
func (d *Desired) heard(w Watcher, c *graph.Commit) {
	for _, ch := range c.Changes {
		own := false
		if ch.Node != nil {
			_, desired := d.nodes[ch.Node.ID]
			if own = ch.Node.Origin == d.env.Origin; own || desired {
				d.dirty.nodes[ch.Node.ID] = struct{}{}
			}
			if ch.Kind == graph.NodeAdded {
				for id := range d.ends[ch.Node.ID] {
					d.dirty.edges[id] = struct{}{}
				}
			}
		} else {
			_, desired := d.edges[ch.Edge.ID]
			if own = ch.Edge.Origin == d.env.Origin; own || desired {
				d.dirty.edges[ch.Edge.ID] = struct{}{}
			}
		}
		if !own && w != nil {
			w.See(ch)
		}
	}
}

// apply makes the graph as it is desired.
func (d *Desired) apply() error {
	if !d.known || !d.whole && len(d.dirty.nodes)+len(d.dirty.edges) == 0 {
		return nil
	}
	err := d.env.Graph.Update("", func(tx *graph.Tx) error {
		if d.whole {
			d.compareAll(tx)
		}
		for id := range d.dirty.nodes {
			if err := d.applyNode(tx, id); err != nil {
				return err
			}
		}
		for id := range d.dirty.edges {
			if err := d.applyEdge(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("graph: %w", err)
	}
	d.clean()
	if d.said {
		d.said = false
		d.env.Running("")
	}
	return nil
}

// compareAll marks all that is desired, and all that is there.
func (d *Desired) compareAll(tx *graph.Tx) {
	own := field.Filter{Terms: []field.Term{{Key: "@Origin", Pred: field.Eq{V: d.env.Origin}}}}
	for n := range tx.Nodes(own) {
		d.dirty.nodes[n.ID] = struct{}{}
	}
	for e := range tx.Edges(own) {
		d.dirty.edges[e.ID] = struct{}{}
	}
	for id := range d.nodes {
		d.dirty.nodes[id] = struct{}{}
	}
	for id := range d.edges {
		d.dirty.edges[id] = struct{}{}
	}
}

// applyNode leaves alone what another origin made under the same ID.
func (d *Desired) applyNode(tx *graph.Tx, id string) (err error) {
	want, wanted := d.nodes[id]
	have := tx.Node(id)
	switch {
	case have == nil && wanted:
		n := &graph.Node{Element: d.env.element(id, want)}
		if err = tx.AddNode(n); err == nil {
			for edge := range d.ends[id] {
				d.dirty.edges[edge] = struct{}{}
			}
		}
	case have == nil || have.Origin != d.env.Origin:
	case wanted:
		_, err = tx.SetNodeMetadata(id, want)
	default:
		err = tx.DeleteNode(id, 0)
	}
	return err
}

func (d *Desired) applyEdge(tx *graph.Tx, id string) (err error) {
	want, wanted := d.edges[id]
	have := tx.Edge(id)
	switch {
	case have == nil && wanted:
		if tx.Node(want.parent) != nil && tx.Node(want.child) != nil {
			err = tx.AddEdge(&graph.Edge{Element: d.env.element(id, want.metadata), Parent: want.parent, Child: want.child})
		}
	case have == nil || have.Origin != d.env.Origin:
	case wanted:
		_, err = tx.SetEdgeMetadata(id, want.metadata)
	default:
		err = tx.DeleteEdge(id, 0)
	}
	return err
}

// Clear takes from the graph what is of the origin; nothing is desired any more.
func (d *Desired) Clear() error {
	clear(d.nodes)
	clear(d.edges)
	clear(d.ends)
	d.known, d.said, d.whole = true, false, true
	err := d.apply()
	d.known = false
	return err
}
