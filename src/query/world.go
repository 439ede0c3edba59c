package query

import (
	"iter"

	"skydive/src/field"
	"skydive/src/graph"
)

// world is the graph that steps walk: a snapshot, or what SubGraph cut out of one.
type world interface {
	Node(id string) *graph.Node
	Edge(id string) *graph.Edge
	NodeCount() int
	EdgeCount() int
	Nodes(field.Filter) iter.Seq[*graph.Node]
	Edges(field.Filter) iter.Seq[*graph.Edge]
	CountNodes(field.Filter) int
	Out(id string) iter.Seq[*graph.Edge]
	In(id string) iter.Seq[*graph.Edge]
	Slots() int
	Slot(id string) (graph.Slot, bool)
	At(graph.Slot) *graph.Node
	Around(graph.Slot) iter.Seq2[*graph.Edge, graph.Slot]
}

// subgraph holds some nodes, and edges between them. That of a slice of time may hold an element in several states: all of them
// are its nodes and edges, while ways through the graph are found among the latest ones.
type subgraph struct {
	nodes []*graph.Node
	edges []*graph.Edge
	byID  map[string]*graph.Node // the latest state

	// Of elements with several states only, all of these.
	nodeStates map[string][]*graph.Node
	edgeStates map[string][]*graph.Edge

	// Made when first asked for, since most subgraphs are only written out.
	edgeByID map[string]*graph.Edge
	out, in  map[string][]*graph.Edge
	slots    map[string]graph.Slot // index in nodes
}

// newSubgraph takes over elements that may come in several states.
func newSubgraph(nodes []*graph.Node, edges []*graph.Edge) *subgraph {
	s := &subgraph{nodes: nodes, edges: edges, byID: make(map[string]*graph.Node, len(nodes)), edgeByID: make(map[string]*graph.Edge, len(edges))}
	for _, n := range nodes {
		last := s.byID[n.ID]
		if last != nil {
			s.nodeStates = addState(s.nodeStates, n.ID, last, n)
		}
		if last == nil || n.UpdatedAt >= last.UpdatedAt {
			s.byID[n.ID] = n
		}
	}
	for _, e := range edges {
		last := s.edgeByID[e.ID]
		if last != nil {
			s.edgeStates = addState(s.edgeStates, e.ID, last, e)
		}
		if last == nil || e.UpdatedAt >= last.UpdatedAt {
			s.edgeByID[e.ID] = e
		}
	}
	return s
}

func addState[T any](states map[string][]T, id string, first, next T) map[string][]T {
	if states == nil {
		states = make(map[string][]T)
	}
	if states[id] == nil {
		states[id] = []T{first}
	}
	states[id] = append(states[id], next)
	return states
}

// eachNode calls yield for every state of a node, until it returns false; so does eachNode then.
func eachNode(w world, id string, yield func(*graph.Node) bool) bool {
	if s, ok := w.(*subgraph); ok && s.nodeStates != nil {
		for _, n := range s.nodeStates[id] {
			if !yield(n) {
				return false
			}
		}
		if s.nodeStates[id] != nil {
			return true
		}
	}
	n := w.Node(id)
	return n == nil || yield(n)
}

// eachEdge calls yield for every state of an edge, until it returns false; so does eachEdge then.
func eachEdge(w world, e *graph.Edge, yield func(*graph.Edge) bool) bool {
	if s, ok := w.(*subgraph); ok && s.edgeStates[e.ID] != nil {
		for _, e := range s.edgeStates[e.ID] {
			if !yield(e) {
				return false
			}
		}
		return true
	}
	return yield(e)
}

func (s *subgraph) Node(id string) *graph.Node { return s.byID[id] }
func (s *subgraph) NodeCount() int             { return len(s.nodes) }
func (s *subgraph) EdgeCount() int             { return len(s.edges) }

func (s *subgraph) Edge(id string) *graph.Edge {
	if s.edgeByID == nil {
		s.edgeByID = make(map[string]*graph.Edge, len(s.edges))
		for _, e := range s.edges {
			s.edgeByID[e.ID] = e
		}
	}
	return s.edgeByID[id]
}

func (s *subgraph) Nodes(f field.Filter) iter.Seq[*graph.Node] { return filtered(s.nodes, f) }
func (s *subgraph) Edges(f field.Filter) iter.Seq[*graph.Edge] { return filtered(s.edges, f) }

func (s *subgraph) CountNodes(f field.Filter) int {
	n := 0
	for range s.Nodes(f) {
		n++
	}
	return n
}

// Out yields the latest state of each edge.
func (s *subgraph) Out(id string) iter.Seq[*graph.Edge] {
	s.link()
	return filtered(s.out[id], field.Filter{})
}

// In yields the latest state of each edge.
func (s *subgraph) In(id string) iter.Seq[*graph.Edge] {
	s.link()
	return filtered(s.in[id], field.Filter{})
}

func (s *subgraph) link() {
	if s.out != nil {
		return
	}
	s.out, s.in = make(map[string][]*graph.Edge), make(map[string][]*graph.Edge)
	for _, e := range s.edges {
		if s.edgeStates[e.ID] == nil || s.edgeByID[e.ID] == e {
			s.out[e.Parent] = append(s.out[e.Parent], e)
			s.in[e.Child] = append(s.in[e.Child], e)
		}
	}
	s.slots = make(map[string]graph.Slot, len(s.byID))
	for i, n := range s.nodes {
		if s.byID[n.ID] == n {
			s.slots[n.ID] = graph.Slot(i)
		}
	}
}

func (s *subgraph) Slots() int                     { return len(s.nodes) }
func (s *subgraph) At(slot graph.Slot) *graph.Node { return s.nodes[slot] }

func (s *subgraph) Slot(id string) (graph.Slot, bool) {
	s.link()
	slot, ok := s.slots[id]
	return slot, ok
}

func (s *subgraph) Around(slot graph.Slot) iter.Seq2[*graph.Edge, graph.Slot] {
	s.link()
	id := s.nodes[slot].ID
	return func(yield func(*graph.Edge, graph.Slot) bool) {
		// An archive may know an edge and not its end.
		for _, e := range s.out[id] {
			if far, ok := s.slots[e.Child]; ok && !yield(e, far) {
				return
			}
		}
		for _, e := range s.in[id] {
			if far, ok := s.slots[e.Parent]; ok && !yield(e, far) {
				return
			}
		}
	}
}

func filtered[T field.Getter](all []T, f field.Filter) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, x := range all {
			if f.Match(x) && !yield(x) {
				return
			}
		}
	}
}
