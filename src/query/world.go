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

// subgraph holds some nodes, and edges between them.
type subgraph struct {
	nodes []*graph.Node
	edges []*graph.Edge
	byID  map[string]*graph.Node

	// Made when first asked for, since most subgraphs are only written out.
	edgeByID map[string]*graph.Edge
	out, in  map[string][]*graph.Edge
	slots    map[string]graph.Slot // index in nodes
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

func (s *subgraph) Out(id string) iter.Seq[*graph.Edge] {
	s.link()
	return filtered(s.out[id], field.Filter{})
}

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
		s.out[e.Parent] = append(s.out[e.Parent], e)
		s.in[e.Child] = append(s.in[e.Child], e)
	}
	s.slots = make(map[string]graph.Slot, len(s.nodes))
	for i, n := range s.nodes {
		s.slots[n.ID] = graph.Slot(i)
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
		for _, e := range s.out[id] {
			if !yield(e, s.slots[e.Child]) {
				return
			}
		}
		for _, e := range s.in[id] {
			if !yield(e, s.slots[e.Parent]) {
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
