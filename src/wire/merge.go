package wire

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"skydive/src/field"
	"skydive/src/graph"
)

// Reasons for which a Merger refuses an element, besides those of package graph.
var (
	ErrForeign = errors.New("belongs to another host")
	ErrInvalid = errors.New("lacks mandatory metadata")
	ErrKept    = errors.New("is there as long as its owner sees it")
)

// Merger carries out the Graph messages of one peer on a graph.
type Merger struct {
	// Origin is the peer as "<service type>.<host id>". A Sync replaces what the graph holds of this origin.
	Origin string
	// Publisher is for peers other than agents: whatever Origin they claim is overwritten, and added or updated elements need the
	// metadata that the REST API asks for.
	Publisher bool
	// Host is given to elements that come without one.
	Host string
	// Owns tells whether the peer may add, change or delete an element; nil: it may touch any.
	Owns func(*graph.Element) bool
	// Said is the last revision of each element as the peer counts them, when the peer is the one who follows the element: what others
	// change in it – a user, through the API – makes revisions, too, but must not make the peer's next ones look old. Nil: the peer is
	// one of those others, and the revision in the graph counts.
	Said map[string]int64
	// Kept is an origin whose elements the peer may not delete; it may be empty.
	Kept string
	// Refused is told of each element that was not taken, and why.
	Refused func(error)
}

// Apply carries out one message. An element that is refused leaves the rest untouched. What is known already – an Added whose ID
// is taken, an update that is not newer than what is there, an edge that has gone – is passed over.
func (m *Merger) Apply(tx *graph.Tx, msg *Message) {
	switch body := msg.Body.(type) {
	case *Sync:
		m.sync(tx, body)
	case *PartialUpdate:
		m.check(m.patch(tx, msg.Type == TypeEdgePartiallyUpdated, body))
	case *graph.Node:
		m.check(m.single(tx, msg.Type, nodeItem(body)))
	case *graph.Edge:
		m.check(m.single(tx, msg.Type, edgeItem(body)))
	}
}

// Delete removes all nodes of the origin, with their edges.
func (m *Merger) Delete(tx *graph.Tx) {
	for _, n := range m.nodes(tx) {
		m.check(tx.DeleteNode(n.ID, 0))
	}
}

func (m *Merger) check(err error) {
	if err != nil && m.Refused != nil {
		m.Refused(err)
	}
}

// nodes returns the nodes of the origin.
func (m *Merger) nodes(tx *graph.Tx) []*graph.Node {
	return slices.Collect(tx.Nodes(field.Filter{Terms: []field.Term{{Key: "@Origin", Pred: field.Eq{V: m.Origin}}}}))
}

func (m *Merger) single(tx *graph.Tx, typ string, it item) error {
	old := it.stored(tx)
	switch typ {
	case TypeNodeAdded, TypeEdgeAdded:
		if old.Element == nil {
			return m.add(tx, it)
		}
	case TypeNodeUpdated, TypeEdgeUpdated:
		return m.update(tx, old, it)
	case TypeNodeDeleted, TypeEdgeDeleted:
		delete(m.Said, it.ID)
		if old.Element != nil || it.edge == nil {
			return m.delete(tx, old, it)
		}
	}
	return nil
}

func (m *Merger) add(tx *graph.Tx, it item) error {
	if err := m.admit(it); err != nil {
		return err
	}
	if it.edge != nil && m.Owns != nil {
		if parent, child := tx.Node(it.edge.Parent), tx.Node(it.edge.Child); parent != nil && child != nil &&
			!m.Owns(&parent.Element) && !m.Owns(&child.Element) {
			return it.fail("add", ErrForeign)
		}
	}
	var err error
	if it.edge != nil {
		err = tx.AddEdge(it.edge)
	} else {
		err = tx.AddNode(it.node)
	}
	if err == nil {
		m.say(it.ID, it.Revision)
	}
	return it.fail("add", err)
}

func (m *Merger) say(id string, revision int64) {
	if m.Said != nil {
		m.Said[id] = revision
	}
}

// stale tells whether a revision is not newer than the last.
func (m *Merger) stale(old item, revision int64) bool {
	last, said := m.Said[old.ID]
	if !said || m.Publisher && old.Origin != m.Origin {
		last = old.Revision // a publisher follows only what is its own
	}
	return revision <= last
}

// update gives old the metadata of it, if that is newer.
func (m *Merger) update(tx *graph.Tx, old, it item) error {
	switch {
	case old.Element == nil:
		return it.fail("update", graph.ErrNotFound)
	case m.Publisher && it.Revision == 0 && !field.Equal(it.Metadata, old.Metadata):
		it.Revision = old.Revision + 1 // of a client that knows of no revisions
	case m.stale(old, it.Revision):
		return nil
	}
	if err := m.admit(it); err != nil {
		return err
	}
	return m.replace(tx, old, it.Metadata, it.UpdatedAt, it.Revision)
}

// patch applies the steps of u; a step that does not fit the metadata is left out.
func (m *Merger) patch(tx *graph.Tx, edge bool, u *PartialUpdate) error {
	old := nodeItem(tx.Node(u.ID))
	if edge {
		old = edgeItem(tx.Edge(u.ID))
	}
	switch {
	case old.Element == nil:
		return fmt.Errorf("update %q: %w", u.ID, graph.ErrNotFound)
	case m.stale(old, u.Revision):
		return nil
	}
	metadata := old.Metadata
	for i := range u.Ops {
		next, err := field.Apply(metadata, u.Ops[i:i+1])
		if err != nil {
			m.check(old.fail("set "+u.Ops[i].Key+" of", err))
			continue
		}
		metadata = next
	}
	return m.replace(tx, old, metadata, u.UpdatedAt, u.Revision)
}

func (m *Merger) replace(tx *graph.Tx, old item, metadata field.Object, at graph.Time, revision int64) error {
	if m.Owns != nil && !m.Owns(old.Element) {
		return old.fail("update", ErrForeign)
	}
	if at == 0 {
		at = tx.Now()
	}
	m.say(old.ID, revision)
	revision = max(revision, old.Revision+1)
	if old.edge != nil {
		e := *old.edge
		e.Metadata, e.UpdatedAt, e.Revision = metadata, at, revision
		return tx.ReplaceEdge(&e)
	}
	n := *old.node
	n.Metadata, n.UpdatedAt, n.Revision = metadata, at, revision
	return tx.ReplaceNode(&n)
}

func (m *Merger) delete(tx *graph.Tx, old, it item) error {
	switch {
	case old.Element == nil:
	case m.Owns != nil && !m.Owns(old.Element):
		return old.fail("delete", ErrForeign)
	case m.Kept != "" && old.Origin == m.Kept:
		return old.fail("delete", ErrKept)
	}
	if it.edge != nil {
		return it.fail("delete", tx.DeleteEdge(it.ID, it.DeletedAt))
	}
	return it.fail("delete", tx.DeleteNode(it.ID, it.DeletedAt))
}

// admit checks what a peer says of an element, and puts host and origin right.
func (m *Merger) admit(it item) error {
	if it.Host == "" {
		it.Host = m.Host
	}
	if m.Publisher {
		it.Origin = m.Origin
		if !it.valid() {
			return it.fail("take", ErrInvalid)
		}
	}
	if m.Owns != nil && !m.Owns(it.Element) {
		return it.fail("take", ErrForeign)
	}
	it.DeletedAt = 0
	return nil
}

// sync makes the origin's part of the graph equal to s, with no more changes than that takes.
func (m *Merger) sync(tx *graph.Tx, s *Sync) {
	m.prune(tx, s)
	clear(m.Said)
	for _, n := range s.Nodes {
		m.check(m.syncItem(tx, nodeItem(n)))
	}
	for _, e := range s.Edges {
		m.check(m.syncItem(tx, edgeItem(e)))
	}
}

// prune deletes what is of the origin and not in s: nodes, and edges of these nodes.
func (m *Merger) prune(tx *graph.Tx, s *Sync) {
	mine := m.nodes(tx)
	if len(mine) == 0 {
		return
	}
	keep := make(map[string]bool, len(s.Nodes)+len(s.Edges))
	for _, n := range s.Nodes {
		keep[n.ID] = true
	}
	for _, e := range s.Edges {
		keep[e.ID] = true
	}
	for _, n := range mine {
		if !keep[n.ID] {
			m.check(tx.DeleteNode(n.ID, 0))
			continue
		}
		var gone []*graph.Edge // collected first: a transaction must not change what it iterates over
		for _, edges := range []iter.Seq[*graph.Edge]{tx.Out(n.ID), tx.In(n.ID)} {
			for e := range edges {
				if e.Origin == m.Origin && !keep[e.ID] {
					gone = append(gone, e)
				}
			}
		}
		for _, e := range gone {
			if tx.Edge(e.ID) != nil { // an edge from a node to itself was met twice
				m.check(tx.DeleteEdge(e.ID, 0))
			}
		}
	}
}

// syncItem takes one element of a Sync: added when unknown, updated when that is what an update message could do, else replaced. What
// others have changed in it meanwhile goes, but the element stays: links that others made to it must not go with it.
// An element of another origin stays; only agents, who relay what was published to them, may update theirs.
func (m *Merger) syncItem(tx *graph.Tx, it item) error {
	old := it.stored(tx)
	switch {
	case old.Element == nil:
		return m.add(tx, it)
	case old.Origin != m.Origin:
		if m.Owns == nil {
			return nil
		}
		return m.update(tx, old, it)
	case old.like(it) && it.Revision > old.Revision:
		return m.update(tx, old, it)
	case old.like(it) && field.Equal(it.Metadata, old.Metadata):
		m.say(it.ID, it.Revision)
		return nil
	case old.like(it):
		if err := m.admit(it); err != nil {
			return err
		}
		at := it.UpdatedAt
		if at < old.UpdatedAt {
			at = 0
		}
		return m.replace(tx, old, it.Metadata, at, it.Revision)
	}
	if err := m.delete(tx, old, old); err != nil {
		return err
	}
	return m.add(tx, it)
}

// item is a node or an edge.
type item struct {
	*graph.Element
	node *graph.Node
	edge *graph.Edge
}

func nodeItem(n *graph.Node) item {
	if n == nil {
		return item{}
	}
	return item{Element: &n.Element, node: n}
}

func edgeItem(e *graph.Edge) item {
	if e == nil {
		return item{}
	}
	return item{Element: &e.Element, edge: e}
}

// stored returns what the graph has under the ID of i.
func (i item) stored(tx *graph.Tx) item {
	if i.edge != nil {
		return edgeItem(tx.Edge(i.ID))
	}
	return nodeItem(tx.Node(i.ID))
}

// like tells whether i could become other by an update, which changes neither producer, nor creation, nor ends.
func (i item) like(other item) bool {
	return i.Host == other.Host && (other.CreatedAt == 0 || i.CreatedAt == other.CreatedAt) &&
		(i.edge == nil || i.edge.Parent == other.edge.Parent && i.edge.Child == other.edge.Child)
}

// valid tells whether i has the metadata that every node or edge must have.
func (i item) valid() bool {
	if i.edge != nil {
		return i.edge.Parent != "" && i.edge.Child != "" && i.Metadata.Text("RelationType") != ""
	}
	has := func(key string) bool { _, ok := i.Metadata.Get(key); return ok }
	typ := i.Metadata.Text("Type")
	return typ != "" && i.Metadata.Text("Name") != "" && (typ != "netns" || has("Path")) && (typ != "ovsport" || has("UUID"))
}

// fail puts i before an error; nil stays nil.
func (i item) fail(verb string, err error) error {
	if err == nil {
		return nil
	}
	kind := "node"
	if i.edge != nil {
		kind = "edge"
	}
	return fmt.Errorf("%s %s %q of host %q: %w", verb, kind, i.ID, i.Host, err)
}
