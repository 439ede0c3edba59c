package graph

import (
	"iter"
	"math"
	"strings"

	"skydive/src/field"
)

// View is what can be read of a graph: by a Snapshot, and by a transaction, which sees its own changes.
type View struct{ s *state }

// Snapshot is the graph at one moment. It never changes and needs no lock.
type Snapshot struct{ View }

// Node returns a node, or nil.
func (v View) Node(id string) *Node {
	if x := v.s.vertex(id); x != nil {
		return x.node
	}
	return nil
}

// Edge returns an edge, or nil.
func (v View) Edge(id string) *Edge {
	e, _ := v.s.edges.get(id)
	return e
}

// NodeCount returns how many nodes there are.
func (v View) NodeCount() int { return v.s.slots.n }

// EdgeCount returns how many edges there are.
func (v View) EdgeCount() int { return v.s.edges.n }

// Out yields the edges whose parent is the node.
func (v View) Out(id string) iter.Seq[*Edge] {
	return func(yield func(*Edge) bool) {
		if x := v.s.vertex(id); x != nil {
			x.out.all(func(h halfEdge) bool { return yield(h.edge) })
		}
	}
}

// In yields the edges whose child is the node.
func (v View) In(id string) iter.Seq[*Edge] {
	return func(yield func(*Edge) bool) {
		if x := v.s.vertex(id); x != nil {
			x.in.all(func(h halfEdge) bool { return yield(h.edge) })
		}
	}
}

// Slot numbers a node within one View. Long walks use slots instead of identifiers: arrays by slot instead of maps, and no look-ups.
type Slot uint32

// Slots is above every slot of the view.
func (v View) Slots() int { return len(v.s.pages) * pageSlots }

// Slot returns the slot of a node.
func (v View) Slot(id string) (Slot, bool) {
	at, ok := v.s.slots.get(id)
	return Slot(at.slot), ok
}

// At returns the node in a slot, or nil.
func (v View) At(s Slot) *Node {
	if x := v.s.at(uint32(s)); x != nil {
		return x.node
	}
	return nil
}

// Around yields the edges of the node in a slot, first those out of it, then those into it, each with the slot of its other end.
func (v View) Around(s Slot) iter.Seq2[*Edge, Slot] {
	return func(yield func(*Edge, Slot) bool) {
		if x := v.s.at(uint32(s)); x != nil {
			each := func(h halfEdge) bool { return yield(h.edge, Slot(h.far)) }
			_ = x.out.all(each) && x.in.all(each)
		}
	}
}

// Edges yields the edges that pass the filter, each beside its child: in the order of memory, which a walk of the trie is not.
func (v View) Edges(f field.Filter) iter.Seq[*Edge] {
	return func(yield func(*Edge) bool) {
		pass := func(h halfEdge) bool { return !f.Match(h.edge) || yield(h.edge) }
		for _, p := range v.s.pages {
			for _, x := range p.at {
				if x != nil && !x.in.all(pass) {
					return
				}
			}
		}
	}
}

// Nodes yields the nodes that pass the filter, in the order of their slots (roughly that of creation). Terms on the fields Name,
// Type, TID, MAC, @Host, @Origin and @ID that ask for text are answered from an index. The graph of a transaction must not be
// changed while iterating over it.
func (v View) Nodes(f field.Filter) iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		plan := v.plan(f)
		if plan.scan {
			for _, p := range v.s.pages {
				for _, x := range p.at {
					if x != nil && plan.rest.Match(x.node) && !yield(x.node) {
						return
					}
				}
			}
			return
		}
		plan.set.all(func(slot uint32) bool {
			x := v.s.at(slot)
			return !plan.rest.Match(x.node) || yield(x.node)
		})
	}
}

// CountNodes counts the nodes that pass the filter, without touching them where an index knows.
func (v View) CountNodes(f field.Filter) int {
	if len(f.Terms) == 0 {
		return v.NodeCount()
	}
	if plan := v.plan(f); !plan.scan && len(plan.rest.Terms) == 0 {
		return int(plan.set.n)
	}
	n := 0
	for range v.Nodes(f) {
		n++
	}
	return n
}

// plan is how a filter is answered: the nodes of a set, or all, that also pass rest.
type plan struct {
	scan bool
	set  slotSet
	rest field.Filter
}

const handful = 32

func (v View) plan(f field.Filter) plan {
	if f.Any {
		var union slotSet
		for _, t := range f.Terms {
			set, ok := v.lookup(t)
			if !ok {
				return plan{scan: true, rest: f}
			}
			union = union.union(scratchEpoch, set)
		}
		return plan{set: union, scan: len(f.Terms) == 0, rest: field.Filter{}}
	}
	p := plan{scan: true}
	for i, t := range f.Terms {
		set, ok := v.lookup(t)
		switch {
		case !ok:
			p.rest.Terms = append(p.rest.Terms, t)
		case p.scan:
			p.scan, p.set = false, set
		case set.n < p.set.n:
			set, p.set = p.set, set
			fallthrough
		default:
			p.set = p.set.intersect(set)
		}
		if !p.scan && p.set.n == 0 {
			return plan{}
		}
		// Once a handful is left, testing them is cheaper than another look-up.
		if !p.scan && p.set.n <= handful {
			p.rest.Terms = append(p.rest.Terms, f.Terms[i+1:]...)
			return p
		}
	}
	return p
}

// scratchEpoch marks sets made for one query; no state ever has it.
const scratchEpoch = math.MaxUint64

func (s slotSet) intersect(other slotSet) slotSet {
	var both slotSet
	s.all(func(slot uint32) bool {
		if other.has(slot) {
			both = both.add(scratchEpoch, slot)
		}
		return true
	})
	return both
}

// lookup answers one term from an index, exactly; ok is false when no index can.
func (v View) lookup(t field.Term) (set slotSet, ok bool) {
	key := strings.TrimPrefix(t.Key, "Metadata.")
	if len(key) < len(t.Key) && strings.HasPrefix(key, "@") {
		return slotSet{}, false // metadata that is named like an attribute
	}
	if key == "@ID" {
		return v.byText(t, func(id string) slotSet {
			if at, ok := v.s.slots.get(id); ok {
				return slotSet{n: 1, one: at.slot}
			}
			return slotSet{}
		})
	}
	for i := range indexed {
		if indexed[i] != key {
			continue
		}
		if re, isRegex := t.Pred.(field.Regex); isRegex {
			// Walking the distinct values pays only where many nodes share them: nodes lie in order in memory, index entries do not.
			if v.s.index[i].n*4 > v.NodeCount() {
				return slotSet{}, false
			}
			v.s.index[i].all(func(e entry) bool {
				if re.MatchText(e.text) {
					set = set.union(scratchEpoch, e.set)
				}
				return true
			})
			return set, true
		}
		return v.byText(t, func(text string) slotSet {
			e, _ := v.s.index[i].get(text)
			return e.set
		})
	}
	return slotSet{}, false
}

func (v View) byText(t field.Term, get func(string) slotSet) (set slotSet, ok bool) {
	switch p := t.Pred.(type) {
	case field.Eq:
		text, ok := p.V.(string)
		if !ok {
			return slotSet{}, false
		}
		return get(text), true
	case field.Within:
		for _, want := range p.Vs {
			text, ok := want.(string)
			if !ok {
				return slotSet{}, false
			}
			set = set.union(scratchEpoch, get(text))
		}
		return set, true
	}
	return slotSet{}, false
}
