package graph

import (
	"errors"
	"fmt"

	"skydive/src/field"
)

// Errors of changes that the graph refuses. The texts are those of the public API.
var (
	ErrNodeConflict   = errors.New("Node ID conflict")
	ErrEdgeConflict   = errors.New("Edge ID conflict")
	ErrParentNotFound = errors.New("Parent node not found")
	ErrChildNotFound  = errors.New("Child node not found")
	ErrNotFound       = errors.New("not found")
)

// Kind says what happened to an element.
type Kind int

const (
	NodeAdded Kind = iota
	NodeUpdated
	NodeDeleted
	EdgeAdded
	EdgeUpdated
	EdgeDeleted
)

// String returns the name that the kind has on the wire.
func (k Kind) String() string {
	return [...]string{"NodeAdded", "NodeUpdated", "NodeDeleted", "EdgeAdded", "EdgeUpdated", "EdgeDeleted"}[k]
}

// Change is one event. Node or Edge is the element after it (or the deleted one, with DeletedAt set); OldNode or OldEdge is the
// element before it, when there was one.
type Change struct {
	Kind          Kind
	OldNode, Node *Node
	OldEdge, Edge *Edge
}

// Tx is a transaction: a View that can be changed. It is valid only inside the function given to Update.
type Tx struct {
	View
	g       *Graph
	changes []Change
}

// Changes returns what the transaction did so far, in order.
func (t *Tx) Changes() []Change { return t.changes }

// Now returns the clock of the graph.
func (t *Tx) Now() Time { return At(t.g.clock()) }

// AddNode takes over n; times that are 0 become now. ErrNodeConflict when the ID is taken.
func (t *Tx) AddNode(n *Node) error {
	if n.ID == "" {
		return ErrNoID
	}
	if t.Node(n.ID) != nil {
		return ErrNodeConflict
	}
	t.stamp(&n.Element)
	t.g.addNode(n)
	t.changes = append(t.changes, Change{Kind: NodeAdded, Node: n})
	return nil
}

// AddEdge takes over e; times that are 0 become now. ErrEdgeConflict, ErrParentNotFound or ErrChildNotFound.
func (t *Tx) AddEdge(e *Edge) error {
	if e.ID == "" {
		return ErrNoID
	}
	if t.Edge(e.ID) != nil {
		return ErrEdgeConflict
	}
	parent, ok := t.s.slots.get(e.Parent)
	if !ok {
		return ErrParentNotFound
	}
	child, ok := t.s.slots.get(e.Child)
	if !ok {
		return ErrChildNotFound
	}
	e.Parent, e.Child = parent.id, child.id // share the text with the nodes
	t.stamp(&e.Element)
	t.s.addEdge(e, parent.slot, child.slot)
	t.changes = append(t.changes, Change{Kind: EdgeAdded, Edge: e})
	return nil
}

func (t *Tx) stamp(e *Element) {
	if e.CreatedAt == 0 {
		e.CreatedAt = t.Now()
	}
	if e.UpdatedAt == 0 {
		e.UpdatedAt = e.CreatedAt
	}
}

// SetNodeMetadata gives a node new metadata: a new revision as of now, or nothing when they are equal.
func (t *Tx) SetNodeMetadata(id string, m field.Object) (changed bool, err error) {
	old := t.Node(id)
	if old == nil {
		return false, fmt.Errorf("node %s: %w", id, ErrNotFound)
	}
	if field.Equal(old.Metadata, m) {
		return false, nil
	}
	n := *old
	t.revise(&n.Element, m)
	return true, t.ReplaceNode(&n)
}

// SetEdgeMetadata is SetNodeMetadata for edges.
func (t *Tx) SetEdgeMetadata(id string, m field.Object) (changed bool, err error) {
	old := t.Edge(id)
	if old == nil {
		return false, fmt.Errorf("edge %s: %w", id, ErrNotFound)
	}
	if field.Equal(old.Metadata, m) {
		return false, nil
	}
	e := *old
	t.revise(&e.Element, m)
	return true, t.ReplaceEdge(&e)
}

func (t *Tx) revise(e *Element, m field.Object) {
	e.Metadata, e.UpdatedAt = m, t.Now()
	e.Revision++
}

// ReplaceNode takes over n in place of the node of the same ID, as it is: time and revision are the caller's.
func (t *Tx) ReplaceNode(n *Node) error {
	old := t.Node(n.ID)
	if old == nil {
		return fmt.Errorf("node %s: %w", n.ID, ErrNotFound)
	}
	n.ID = old.ID
	t.s.replaceNode(n)
	t.changes = append(t.changes, Change{Kind: NodeUpdated, OldNode: old, Node: n})
	return nil
}

// ReplaceEdge takes over e in place of the edge of the same ID; its ends stay those of the old one.
func (t *Tx) ReplaceEdge(e *Edge) error {
	old := t.Edge(e.ID)
	if old == nil {
		return fmt.Errorf("edge %s: %w", e.ID, ErrNotFound)
	}
	e.ID, e.Parent, e.Child = old.ID, old.Parent, old.Child
	t.s.replaceEdge(e)
	t.changes = append(t.changes, Change{Kind: EdgeUpdated, OldEdge: old, Edge: e})
	return nil
}

// DeleteNode removes a node after its edges, all as of the same time (now when 0).
func (t *Tx) DeleteNode(id string, at Time) error {
	x := t.s.vertex(id)
	if x == nil {
		return fmt.Errorf("node %s: %w", id, ErrNotFound)
	}
	if at == 0 {
		at = t.Now()
	}
	var edges []*Edge
	collect := func(h halfEdge) bool { edges = append(edges, h.edge); return true }
	x.out.all(collect)
	x.in.all(collect)
	for _, e := range edges {
		if t.Edge(e.ID) != nil { // an edge from a node to itself is on both sides
			t.deleteEdge(e, at)
		}
	}
	old := t.Node(id)
	t.g.dropNode(id)
	gone := *old
	gone.DeletedAt = at
	t.changes = append(t.changes, Change{Kind: NodeDeleted, OldNode: old, Node: &gone})
	return nil
}

// DeleteEdge removes an edge as of a time (now when 0).
func (t *Tx) DeleteEdge(id string, at Time) error {
	e := t.Edge(id)
	if e == nil {
		return fmt.Errorf("edge %s: %w", id, ErrNotFound)
	}
	if at == 0 {
		at = t.Now()
	}
	t.deleteEdge(e, at)
	return nil
}

func (t *Tx) deleteEdge(old *Edge, at Time) {
	t.s.dropEdge(old)
	gone := *old
	gone.DeletedAt = at
	t.changes = append(t.changes, Change{Kind: EdgeDeleted, OldEdge: old, Edge: &gone})
}

// undo takes the changes back, last first.
func (t *Tx) undo() {
	for i := len(t.changes) - 1; i >= 0; i-- {
		switch c := t.changes[i]; c.Kind {
		case NodeAdded:
			t.g.dropNode(c.Node.ID)
		case NodeUpdated:
			t.s.replaceNode(c.OldNode)
		case NodeDeleted:
			t.g.addNode(c.OldNode)
		case EdgeAdded:
			t.s.dropEdge(c.Edge)
		case EdgeUpdated:
			t.s.replaceEdge(c.OldEdge)
		case EdgeDeleted:
			parent, child := t.s.ends(c.OldEdge)
			t.s.addEdge(c.OldEdge, parent, child)
		}
	}
}
