package probe

import (
	"strconv"

	"skydive/src/field"
	"skydive/src/graph"
)

// TID returns a hook for graph.Options that keeps the topology id of every node of one origin: a name-based UUID that outlives
// restarts, unlike the node's ID. A host has that of its name, other nodes that of their owner's TID, their name and type (a
// namespace: its path; ovsbridge and ovsport: the host's TID and their UUID).
//
// A node gets its TID with its owner and loses it with the edge from its owner. A change of name or type leaves it alone. When its
// natural TID is taken by another live node – that was renamed meanwhile – it gets the next free one of a series instead.
func TID(origin string) func(*graph.Tx) {
	return func(tx *graph.Tx) {
		for _, c := range tx.Changes() { // of fn; those made below are not in this slice
			switch c.Kind {
			case graph.NodeAdded, graph.NodeUpdated:
				if c.Node.Origin != origin {
					continue
				}
				if c.Kind == graph.NodeUpdated && c.Node.Metadata.Text("TID") == "" {
					restoreTID(tx, c.Node.ID, c.OldNode.Metadata.Text("TID"))
				}
				assignTID(tx, c.Node.ID)
			case graph.EdgeDeleted:
				if isOwnership(c.Edge) && c.Edge.Origin == origin {
					removeTID(tx, c.Edge.Child, c.Edge.Parent)
				}
			case graph.EdgeAdded:
				if isOwnership(c.Edge) && c.Edge.Origin == origin {
					assignTID(tx, c.Edge.Child)
				}
			}
		}
	}
}

// restoreTID gives a node whose metadata was replaced its TID back.
func restoreTID(tx *graph.Tx, id, tid string) {
	if n := tx.Node(id); n != nil && tid != "" && owner(tx.View, id) != nil && n.Metadata.Text("TID") == "" {
		setTID(tx, n, tid)
	}
}

// assignTID sets the TID of a node that has none and can have one, and then those of what it owns.
func assignTID(tx *graph.Tx, id string) {
	n := tx.Node(id)
	if n == nil || n.Metadata.Text("TID") != "" {
		return
	}
	tid := newTID(tx.View, n, owner(tx.View, id))
	if tid == "" {
		return
	}
	setTID(tx, n, tid)
	var children []string
	for e := range tx.Out(id) {
		if isOwnership(e) {
			children = append(children, e.Child)
		}
	}
	for _, child := range children {
		assignTID(tx, child)
	}
}

// removeTID takes the TID of a node that lost its owner. A host, or a node of the fabric, needs none to have one.
func removeTID(tx *graph.Tx, id, lost string) {
	n := tx.Node(id)
	if n == nil || n.Metadata.Text("TID") == "" {
		return
	}
	parent := owner(tx.View, id)
	if parent != nil && parent.ID == lost { // deleted and added again
		return
	}
	if ownTID(n) != "" {
		return
	}
	setTID(tx, n, "")
	assignTID(tx, id)
}

func setTID(tx *graph.Tx, n *graph.Node, tid string) {
	m := n.Metadata.Delete("TID")
	if tid != "" {
		m, _ = m.Set("TID", tid) // cannot fail: the path has one step
	}
	changed := *n
	changed.Metadata = m
	// Part of the change that is about to be committed, hence no revision of its own. The node exists: it was just read.
	_ = tx.ReplaceNode(&changed)
}

// owner returns the only owner of a node, or nil.
func owner(v graph.View, id string) *graph.Node {
	var parent *graph.Node
	for e := range v.In(id) {
		if !isOwnership(e) {
			continue
		}
		if parent != nil {
			return nil
		}
		parent = v.Node(e.Parent)
	}
	return parent
}

// ownTID returns the TID of nodes that have one whatever owns them.
func ownTID(n *graph.Node) string {
	switch {
	case n.Metadata.Text("Probe") == "fabric":
		return n.ID
	case n.Metadata.Text("Type") == "host":
		return graph.GenID(n.Metadata.Text("Name"))
	}
	return ""
}

// maxOwners is how many owners above each other are followed: a publisher may have made a circle of them.
const maxOwners = 64

// newTID returns the TID for a node below its owner, "" when it cannot have one.
func newTID(v graph.View, n, parent *graph.Node) string {
	if tid := ownTID(n); tid != "" {
		return tid
	}
	if parent == nil {
		return ""
	}
	kind, key := n.Metadata.Text("Type"), "Name"
	base := parent.Metadata.Text("TID")
	switch kind {
	case "netns":
		key = "Path"
	case "ovsbridge", "ovsport":
		key = "UUID"
		for up, level := parent, 0; up != nil; up, level = owner(v, up.ID), level+1 { // the TID of the host
			if level == maxOwners {
				return ""
			}
			base = up.Metadata.Text("TID")
		}
	}
	name := n.Metadata.Text(key)
	if base == "" || name == "" || kind == "" {
		return ""
	}
	tid := graph.GenID(base + name + kind)
	for i := 2; taken(v, tid, n.ID); i++ {
		tid = graph.GenID(base + name + kind + "#" + strconv.Itoa(i))
	}
	return tid
}

func taken(v graph.View, tid, self string) bool {
	for n := range v.Nodes(field.Filter{Terms: []field.Term{{Key: "TID", Pred: field.Eq{V: tid}}}}) {
		if n.ID != self {
			return true
		}
	}
	return false
}
