package ovsdb

import (
	"slices"
	"strings"

	"skydive/src/field"
	"skydive/src/graph"
)

// overlay is what this probe says of a node, beside what others say of it.
type overlay struct {
	node string       // "": none
	said field.Object // of node
	base field.Value  // the Type that was there before, when ours took its place
}

// put says now of a node, and nothing any more of the node before.
func (o *overlay) put(tx *graph.Tx, id string, now field.Object) error {
	if o.node != id {
		if err := o.takeOff(tx); err != nil {
			return err
		}
		o.node = id
	}
	n := tx.Node(id)
	if kind, ours := now.Get("Type"); ours {
		if before, _ := n.Metadata.Get("Type"); before != kind {
			o.base = before
		}
	}
	m := o.restored(merge(n.Metadata, o.said, now), now)
	o.said = now
	_, err := tx.SetNodeMetadata(id, m)
	return err
}

// takeOff leaves to others what they say of the node.
func (o *overlay) takeOff(tx *graph.Tx) error {
	n, said := tx.Node(o.node), o.said
	m := field.Object(nil)
	if n != nil {
		m = o.restored(merge(n.Metadata, said, nil), nil)
	}
	*o = overlay{}
	if n == nil || said == nil {
		return nil
	}
	_, err := tx.SetNodeMetadata(n.ID, m)
	return err
}

// restored gives metadata the Type of the others back, when ours is not in it any more.
func (o *overlay) restored(m, now field.Object) field.Object {
	if _, had := m.Get("Type"); had || o.base == nil {
		return m
	}
	if _, ours := now.Get("Type"); !ours {
		m, _ = m.Set("Type", o.base) // cannot fail: the path has one step
		o.base = nil
	}
	return m
}

// merge returns metadata in which what was said before is replaced by what is said now; keys of others stay, in objects too. Keys are
// taken literally: those of external ids may hold dots.
func merge(all, before, now field.Object) field.Object {
	out := make(field.Object, 0, len(all)+len(now))
	for _, e := range all {
		was, said := before.Get(e.Key)
		is, says := now.Get(e.Key)
		inner, nested := e.Value.(field.Object)
		wasInner, _ := was.(field.Object)
		isInner, isNested := is.(field.Object)
		switch {
		case says && nested && isNested:
			e.Value = merge(inner, wasInner, isInner)
		case says:
			e.Value = is
		case said && nested && wasInner != nil:
			left := merge(inner, wasInner, nil)
			if len(left) == 0 {
				continue
			}
			e.Value = left
		case said && field.Equal(e.Value, was):
			continue
		}
		out = append(out, e)
	}
	for _, e := range now {
		if _, has := all.Get(e.Key); !has {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b field.Entry) int { return strings.Compare(a.Key, b.Key) })
	return out
}
