package graph

import (
	"slices"

	"skydive/src/field"
)

// indexed lists the fields that have an index: what people and probes look nodes up by.
var indexed = [...]string{"Name", "Type", "TID", "MAC", "@Host", "@Origin"}

// state is the whole graph as persistent structures: a copy of the struct, with the epoch raised in the original, is a snapshot.
//
// Nodes live in numbered slots, so that an index is a set of small numbers and a scan walks memory in order.
type state struct {
	epoch      uint64 // structures stamped with it may be changed in place
	pages      []*page
	pagesEpoch uint64
	slots      trie[slotOf]
	edges      trie[*Edge]
	index      [len(indexed)]trie[entry]
}

// slotOf tells where a node is.
type slotOf struct {
	id   string
	slot uint32
}

// entry is the nodes that share a text.
type entry struct {
	text string
	set  slotSet
}

func (s slotOf) key() string   { return s.id }
func (e entry) key() string    { return e.text }
func (e *Edge) key() string    { return e.ID }
func (h halfEdge) key() string { return h.edge.ID }

const pageSlots = 256

type page struct {
	epoch uint64
	at    [pageSlots]*vertex
}

// vertex is a node with its edges.
type vertex struct {
	epoch   uint64
	node    *Node
	out, in edgeSet
}

// edgeSet holds the edges of one side of a node. Most nodes have one at most, which takes no memory beyond itself.
type edgeSet struct {
	one  halfEdge // none when its edge is nil
	more *edgeList
}

// edgeList holds further edges: a slice while few, a trie by ID for the hubs. It belongs to one vertex, as of one epoch.
type edgeList struct {
	few  []halfEdge
	many *trie[halfEdge]
}

// halfEdge is an edge seen from one of its nodes; the slot of the other saves walks through the graph from looking it up by ID.
type halfEdge struct {
	edge *Edge
	far  uint32
}

const fewEdges = 64

func (s *edgeSet) add(epoch uint64, h halfEdge) {
	if s.one.edge == nil {
		s.one = h
		return
	}
	if s.more == nil {
		s.more = new(edgeList)
	}
	l := s.more
	if l.many == nil && len(l.few) < fewEdges {
		l.few = insert(l.few, len(l.few), h)
		return
	}
	if l.many == nil {
		l.many = new(trie[halfEdge])
		for _, f := range l.few {
			l.many.set(epoch, f)
		}
		l.few = nil
	}
	l.many.set(epoch, h)
}

func (s *edgeSet) drop(epoch uint64, id string) {
	if s.one.edge != nil && s.one.edge.ID == id {
		s.one = halfEdge{}
	} else if l := s.more; l.many != nil {
		l.many.delete(epoch, id)
	} else {
		l.few = remove(l.few, l.find(id))
	}
}

func (s *edgeSet) replace(epoch uint64, h halfEdge) {
	if s.one.edge != nil && s.one.edge.ID == h.edge.ID {
		s.one = h
	} else if l := s.more; l.many != nil {
		l.many.set(epoch, h)
	} else {
		l.few[l.find(h.edge.ID)] = h
	}
}

// find returns where an edge is that is known to be among the few.
func (l *edgeList) find(id string) int {
	return slices.IndexFunc(l.few, func(h halfEdge) bool { return h.edge.ID == id })
}

func (s *edgeSet) all(yield func(halfEdge) bool) bool {
	if s.one.edge != nil && !yield(s.one) {
		return false
	}
	if s.more == nil {
		return true
	}
	if s.more.many != nil {
		return s.more.many.all(yield)
	}
	for _, h := range s.more.few {
		if !yield(h) {
			return false
		}
	}
	return true
}

func (s *edgeSet) clone() edgeSet {
	c := *s
	if s.more != nil {
		c.more = &edgeList{few: slices.Clone(s.more.few)}
		if s.more.many != nil {
			many := *s.more.many
			c.more.many = &many
		}
	}
	return c
}

func (s *state) vertex(id string) *vertex {
	at, ok := s.slots.get(id)
	if !ok {
		return nil
	}
	return s.at(at.slot)
}

// slot returns the slot of a node that is known to be there.
func (s *state) slot(id string) uint32 {
	at, _ := s.slots.get(id)
	return at.slot
}

func (s *state) at(slot uint32) *vertex { return s.pages[slot/pageSlots].at[slot%pageSlots] }

// put stores v in slot, copying what older snapshots share.
func (s *state) put(slot uint32, v *vertex) {
	if s.pagesEpoch != s.epoch {
		s.pages = slices.Clone(s.pages)
		s.pagesEpoch = s.epoch
	}
	i := int(slot / pageSlots)
	if i == len(s.pages) {
		s.pages = append(s.pages, &page{epoch: s.epoch})
	}
	if s.pages[i].epoch != s.epoch {
		s.pages[i] = &page{epoch: s.epoch, at: s.pages[i].at}
	}
	s.pages[i].at[slot%pageSlots] = v
}

// own returns the vertex of a slot in use, ready to be changed in place.
func (s *state) own(slot uint32) *vertex {
	v := s.at(slot)
	if v.epoch != s.epoch {
		v = &vertex{epoch: s.epoch, node: v.node, out: v.out.clone(), in: v.in.clone()}
		s.put(slot, v)
	}
	return v
}

func (s *state) addNode(slot uint32, n *Node) {
	s.slots.set(s.epoch, slotOf{n.ID, slot})
	s.put(slot, &vertex{epoch: s.epoch, node: n})
	s.reindex(slot, nil, n)
}

// dropNode removes a node that has no edges left, and returns its slot.
func (s *state) dropNode(id string) uint32 {
	slot := s.slot(id)
	s.reindex(slot, s.at(slot).node, nil)
	s.slots.delete(s.epoch, id)
	s.put(slot, nil)
	return slot
}

func (s *state) replaceNode(n *Node) {
	slot := s.slot(n.ID)
	v := s.own(slot)
	old := v.node
	v.node = n
	s.reindex(slot, old, n)
}

// addEdge adds an edge between the nodes in two slots.
func (s *state) addEdge(e *Edge, parent, child uint32) {
	s.edges.set(s.epoch, e)
	s.own(parent).out.add(s.epoch, halfEdge{e, child})
	s.own(child).in.add(s.epoch, halfEdge{e, parent})
}

// ends returns the slots of the nodes of an edge.
func (s *state) ends(e *Edge) (parent, child uint32) {
	return s.slot(e.Parent), s.slot(e.Child)
}

func (s *state) dropEdge(e *Edge) {
	s.edges.delete(s.epoch, e.ID)
	parent, child := s.ends(e)
	s.own(parent).out.drop(s.epoch, e.ID)
	s.own(child).in.drop(s.epoch, e.ID)
}

func (s *state) replaceEdge(e *Edge) {
	s.edges.set(s.epoch, e)
	parent, child := s.ends(e)
	s.own(parent).out.replace(s.epoch, halfEdge{e, child})
	s.own(child).in.replace(s.epoch, halfEdge{e, parent})
}

// reindex moves slot from the index entries of old to those of new; either may be nil.
func (s *state) reindex(slot uint32, old, new *Node) {
	for i, key := range indexed {
		if old != nil && new != nil && indexedAlike(old, new, key) {
			continue
		}
		t := &s.index[i]
		eachIndexed(old, key, func(text string) {
			e, _ := t.get(text)
			if e.set = e.set.drop(s.epoch, slot); e.set.n == 0 {
				t.delete(s.epoch, text)
			} else {
				t.set(s.epoch, e)
			}
		})
		eachIndexed(new, key, func(text string) {
			e := t.put(s.epoch, entry{text: text})
			e.set = e.set.add(s.epoch, slot)
		})
	}
}

func indexedAlike(a, b *Node, key string) bool {
	switch key {
	case "@Host":
		return a.Host == b.Host
	case "@Origin":
		return a.Origin == b.Origin
	}
	before, _ := a.Metadata.Get(key)
	after, _ := b.Metadata.Get(key)
	return field.Equal(before, after)
}

// eachIndexed calls f for each text under which the index of key has n, which may be nil. It is Field without the allocations.
func eachIndexed(n *Node, key string, f func(string)) {
	switch {
	case n == nil:
	case key == "@Host":
		f(n.Host)
	case key == "@Origin":
		f(n.Origin)
	default:
		v, _ := n.Metadata.Get(key)
		eachText(v, f)
	}
}

// eachText calls f for the text in v: itself, or the elements of a list, as predicates see it.
func eachText(v field.Value, f func(string)) {
	switch v := v.(type) {
	case string:
		f(v)
	case field.List:
		for _, item := range v {
			eachText(item, f)
		}
	}
}
