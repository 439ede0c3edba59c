package disk

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"skydive/src/field"
	"skydive/src/graph"
)

// maxElements bounds the answers about the graph.
const maxElements = 5_000_000

// Graph returns the graph as it was at a time (from = to), each element as of then with the counters it had; or every revision that was
// valid in a slice of time, by UpdatedAt. A revision that ended by deletion within the slice tells so in DeletedAt.
func (a *Archive) Graph(ctx context.Context, from, to time.Time) (nodes []*graph.Node, edges []*graph.Edge, err error) {
	low, high := from.UnixMilli(), to.UnixMilli()
	err = a.read(ctx, func(ctx context.Context, db *pebble.DB) (err error) {
		snap := db.NewSnapshot()
		defer func() { err = errors.Join(err, snap.Close()) }()
		h := &past{db: snap, read: newReader()}
		if low == high {
			nodes, edges, err = h.point(ctx, high)
		} else {
			nodes, edges, err = h.slice(ctx, low, high)
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("archived graph: %w", err)
	}
	return nodes, edges, nil
}

// past reads the log.
type past struct {
	db   pebble.Reader
	read *reader
}

// base is where to begin for the graph at a time: elements, and the log entries that lead on from there.
type base struct {
	low, high []byte // elements
	at        int64
	log       []byte // first entry of the log after it
}

func (h *past) base(at int64) (b base, err error) {
	ms, number, some, err := lastEntry(h.db, spaceMark, appendEntry(nil, spaceMark, at+1, 0))
	if err != nil {
		return b, err
	}
	if !some {
		ms, number = 0, 0
	}
	b.at = ms
	b.log = appendEntry(nil, spaceLog, ms, number)
	b.low = appendNumber([]byte{spaceCopied}, number)
	b.high = upper(b.low)
	// The present is at hand when nothing is later than the time asked for.
	last, _, some, err := lastEntry(h.db, spaceLog, nil)
	if err != nil {
		return b, err
	}
	if some && last <= at {
		b.low = []byte{spaceOpen}
		b.high = upper(b.low)
		b.log = nil
	}
	return b, nil
}

// at yields the graph as of a time.
func (h *past) at(ctx context.Context, at int64) (list []entry, since int64, err error) {
	b, err := h.base(at)
	if err != nil {
		return nil, 0, err
	}
	latest := make(map[string][]byte) // by kind and ID; nil: deleted
	if b.log != nil {
		err = scan(ctx, h.db, b.log, appendEntry(nil, spaceLog, at+1, 0), func(_, value []byte) error {
			kind, _, id, deleted, err := h.read.head(value)
			switch {
			case err != nil:
				return err
			case kind == kindEnd:
				// A mark follows it, which would have been found, except by those who ask for the very moment.
				clear(latest)
				b.low = nil
			case deleted:
				latest[string(kind)+id] = nil
			default:
				latest[string(kind)+id] = bytes.Clone(value)
			}
			if len(latest) > maxElements {
				return ErrTooMany
			}
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	take := func(value []byte) error {
		e, err := h.read.entry(value)
		if err != nil {
			return err
		}
		if list = append(list, e); len(list) > maxElements {
			return ErrTooMany
		}
		return nil
	}
	if b.low != nil {
		skip := len(b.low)
		err = scan(ctx, h.db, b.low, b.high, func(key, value []byte) error {
			if len(latest) > 0 {
				if _, newer := latest[string(key[skip:])]; newer {
					return nil
				}
			}
			return take(value)
		})
		if err != nil {
			return nil, 0, err
		}
	}
	for _, value := range latest {
		if value == nil {
			continue
		}
		if err := take(value); err != nil {
			return nil, 0, err
		}
	}
	return list, b.at, nil
}

func (h *past) point(ctx context.Context, at int64) (nodes []*graph.Node, edges []*graph.Edge, err error) {
	list, since, err := h.at(ctx, at)
	if err != nil {
		return nil, nil, err
	}
	if err := overlay(ctx, h.db, h.read, list, since, at); err != nil {
		return nil, nil, err
	}
	nodes, edges = split(list)
	slices.SortFunc(nodes, func(a, b *graph.Node) int { return byCreation(&a.Element, &b.Element) })
	slices.SortFunc(edges, func(a, b *graph.Edge) int { return byCreation(&a.Element, &b.Element) })
	return nodes, edges, nil
}

func byCreation(a, b *graph.Element) int {
	return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.ID, b.ID))
}

func split(list []entry) (nodes []*graph.Node, edges []*graph.Edge) {
	for i := range list {
		if n := list[i].node; n != nil {
			nodes = append(nodes, n)
		} else {
			edges = append(edges, list[i].edge)
		}
	}
	return nodes, edges
}

func (h *past) slice(ctx context.Context, low, high int64) (nodes []*graph.Node, edges []*graph.Edge, err error) {
	list, _, err := h.at(ctx, low)
	if err != nil {
		return nil, nil, err
	}
	current := make(map[string]int, len(list)) // by kind and ID: where in the list
	name := func(e *entry) string { return string(e.kind()) + e.element().ID }
	for i := range list {
		current[name(&list[i])] = i
	}
	err = scan(ctx, h.db, appendEntry(nil, spaceLog, low+1, 0), appendEntry(nil, spaceLog, high+1, 0), func(_, value []byte) error {
		e, err := h.read.entry(value)
		if err != nil {
			return err
		}
		if e.kind() == kindEnd {
			for _, i := range current {
				list[i].element().DeletedAt = graph.Time(e.at)
			}
			clear(current)
			return nil
		}
		id := name(&e)
		if e.element().DeletedAt != 0 {
			if i, ok := current[id]; ok {
				list[i].element().DeletedAt = e.element().DeletedAt
				delete(current, id)
			}
			return nil
		}
		current[id] = len(list)
		if list = append(list, e); len(list) > maxElements {
			return ErrTooMany
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	nodes, edges = split(list)
	slices.SortStableFunc(nodes, func(a, b *graph.Node) int { return cmp.Compare(a.UpdatedAt, b.UpdatedAt) })
	slices.SortStableFunc(edges, func(a, b *graph.Edge) int { return cmp.Compare(a.UpdatedAt, b.UpdatedAt) })
	return nodes, edges, nil
}

// keyed is a node that counters are looked for.
type keyed struct {
	id nodeID
	i  int
}

// overlay gives the nodes of a list the counters that they had at a time, as far as those were written later than since. What is older is
// in the list already.
func overlay(ctx context.Context, db pebble.Reader, r *reader, list []entry, since, at int64) error {
	left := make([]keyed, 0, len(list))
	for i := range list {
		if n := list[i].node; n != nil {
			left = append(left, keyed{nodeIDOf(n.ID), i})
		}
	}
	slices.SortFunc(left, func(a, b keyed) int { return bytes.Compare(a.id[:], b.id[:]) })
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceCounters}, UpperBound: upper([]byte{spaceCounters})})
	if err != nil {
		return err
	}
	defer it.Close()
	var key []byte
	for slot := slotAt(at, hour); slot >= slotAt(since, hour) && len(left) > 0; slot-- {
		// Hours without counters are skipped at once.
		if !it.SeekLT(appendSlot(key[:0], spaceCounters, slot+1)) {
			break
		}
		if len(it.Key()) != countsKey {
			return errRecord
		}
		if slot = slotOf(it.Key()); slot < slotAt(since, hour) {
			break
		}
		later := left[:0] // of those without any in this hour
		for next := 0; next < len(left); {
			if next%256 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			want := left[next]
			key = appendCounters(key[:0], slot, want.id, graph.Time(at))
			if !it.SeekGE(key) || slotOf(it.Key()) != slot {
				later = append(later, left[next:]...)
				break
			}
			found := it.Key()
			if len(found) != countsKey {
				return errRecord
			}
			if id := nodeID(found[5:21]); id != want.id {
				// Those before the node that was found have none.
				for next < len(left) && bytes.Compare(left[next].id[:], id[:]) < 0 {
					later = append(later, left[next])
					next++
				}
				continue
			}
			value, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			c, err := r.counts(value)
			if err != nil {
				return err
			}
			if int64(countersAt(found)) >= list[want.i].at {
				n := list[want.i].node
				n.Metadata, n.UpdatedAt, n.Revision = withCounters(n.Metadata, c.counters), c.updated, c.revision
			}
			next++
		}
		left = later
		if err := it.Error(); err != nil {
			return err
		}
	}
	return it.Error()
}

// NodeMetrics returns by ID the metric that nodes had at a path of their metadata from–to, each once, by Start.
func (a *Archive) NodeMetrics(ctx context.Context, from, to time.Time, ids []string, path string) (map[string][]field.Object, error) {
	found := make(map[string][]field.Object)
	err := a.read(ctx, func(ctx context.Context, db *pebble.DB) error {
		return nodeMetrics(ctx, db, from.UnixMilli(), to.UnixMilli(), ids, path, found)
	})
	if err != nil {
		return nil, fmt.Errorf("archived metrics: %w", err)
	}
	for id, ms := range found {
		slices.SortStableFunc(ms, func(a, b field.Object) int { return cmp.Compare(startOf(a), startOf(b)) })
		found[id] = slices.CompactFunc(ms, func(a, b field.Object) bool { return startOf(a) == startOf(b) })
	}
	return found, nil
}

func startOf(m field.Object) int64 {
	n, _ := m.Int("Start")
	return n
}

func nodeMetrics(ctx context.Context, db *pebble.DB, low, high int64, ids []string, path string, found map[string][]field.Object) error {
	want := make([]keyed, 0, len(ids))
	for i, id := range ids {
		want = append(want, keyed{nodeIDOf(id), i})
	}
	slices.SortFunc(want, func(a, b keyed) int { return bytes.Compare(a.id[:], b.id[:]) })
	want = slices.CompactFunc(want, func(a, b keyed) bool { return a.id == b.id })
	if len(want) == 0 {
		return nil
	}
	// Counters arrive a little after the interval that they are of.
	until := high
	if until < math.MaxInt64-minute {
		until += minute
	}
	it, err := db.NewIter(&pebble.IterOptions{
		LowerBound: appendSlot(nil, spaceCounters, slotAt(low, hour)),
		UpperBound: appendSlot(nil, spaceCounters, slotAt(until, hour)+1),
	})
	if err != nil {
		return err
	}
	defer it.Close()
	r := newReader()
	var key []byte
	next, n, held := 0, 0, 0
	for ok := it.First(); ok; {
		if n++; n%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		at := it.Key()
		if len(at) != countsKey {
			return errRecord
		}
		slot, id := slotOf(at), nodeID(at[5:21])
		for next < len(want) && bytes.Compare(want[next].id[:], id[:]) < 0 {
			next++
		}
		switch {
		case next == len(want):
			next = 0
			key = append(appendSlot(key[:0], spaceCounters, slot+1), want[0].id[:]...)
			ok = it.SeekGE(key)
		case want[next].id != id:
			key = append(appendSlot(key[:0], spaceCounters, slot), want[next].id[:]...)
			if ok = it.SeekGE(key); ok && slotOf(it.Key()) != slot {
				next = 0
			}
		default:
			value, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			c, err := r.counts(value)
			if err != nil {
				return err
			}
			if m, ok := within(c.counters, path, low, high); ok {
				if held++; held > maxElements {
					return ErrTooMany
				}
				name := ids[want[next].i]
				found[name] = append(found[name], m)
			}
			if ok = it.Next(); ok && slotOf(it.Key()) != slot {
				next = 0
			}
		}
	}
	return it.Error()
}

// within returns the metric at a path if its interval lies in a slice.
func within(o field.Object, path string, low, high int64) (field.Object, bool) {
	v, _ := o.Lookup(path)
	m, ok := v.(field.Object)
	if !ok {
		return nil, false
	}
	start, _ := m.Int("Start")
	last, _ := m.Int("Last")
	return m, start >= low && last <= high && last != 0
}
