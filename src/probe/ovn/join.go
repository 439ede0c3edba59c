package ovn

import (
	"skydive/src/graph"
	"skydive/src/probe"
)

// join desires an edge from each node on its left to each on its right that has the same key.
type join struct {
	desired     *probe.Desired
	relation    string
	left, right joinSide
}

type joinSide struct {
	keys  map[string]string              // by node
	nodes map[string]map[string]struct{} // by key
}

func newJoin(d *probe.Desired, relation string) *join {
	side := func() joinSide { return joinSide{make(map[string]string), make(map[string]map[string]struct{})} }
	return &join{d, relation, side(), side()}
}

// setLeft gives a node on the left its key; "" takes it away.
func (j *join) setLeft(id, key string) { j.set(&j.left, id, key) }

// setRight gives a node on the right its key; "" takes it away.
func (j *join) setRight(id, key string) { j.set(&j.right, id, key) }

// clearLeft takes all nodes on the left away.
func (j *join) clearLeft() {
	for id := range j.left.keys {
		j.setLeft(id, "")
	}
}

func (j *join) set(side *joinSide, id, key string) {
	old := side.keys[id]
	if old == key {
		return
	}
	if old != "" {
		j.edges(side, id, old, false)
		if delete(side.nodes[old], id); len(side.nodes[old]) == 0 {
			delete(side.nodes, old)
		}
		delete(side.keys, id)
	}
	if key == "" {
		return
	}
	side.keys[id] = key
	if side.nodes[key] == nil {
		side.nodes[key] = make(map[string]struct{})
	}
	side.nodes[key][id] = struct{}{}
	j.edges(side, id, key, true)
}

// edges adds or drops the edges of one node.
func (j *join) edges(side *joinSide, id, key string, add bool) {
	other := &j.left
	if side == other {
		other = &j.right
	}
	for far := range other.nodes[key] {
		parent, child := id, far
		if side == &j.right {
			parent, child = far, id
		}
		if add {
			j.desired.Edge(parent, child, j.relation, nil)
		} else {
			j.desired.DropEdge(graph.LinkID(parent, child, j.relation))
		}
	}
}
