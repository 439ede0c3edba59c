package analyzer

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
)

// replicaStore is what is known of the elements beyond the graph: their stamps, those of deleted ones, and who is right about which
// origin. It belongs to one goroutine.
type replicaStore struct {
	by         uint32 // of this process, in stamps
	clock      func() time.Time
	last       int64 // latest At seen or given
	records    map[replicaKey]*replicaRecord
	origins    map[string]*replicaOrigin
	waiting    map[string]map[*replicaRecord]struct{} // edges without one of their ends, by the identifier of the missing node
	since      map[*replicaRecord]time.Time           // when an edge began to wait
	came       []string                               // nodes for which edges may wait
	tombstones int
	buried     []*replicaRecord // in the order in which they were
}

type replicaKey struct {
	isEdge bool
	id     string
}

// replicaRecord is one element. Both of node and edge are nil once it is deleted.
type replicaRecord struct {
	replicaKey
	node       *graph.Node
	edge       *graph.Edge
	stamp      wire.Stamp
	origin     *replicaOrigin
	gone       graph.Time // when it was deleted
	buriedAt   time.Time
	prev, next *replicaRecord // of the origin
}

func (rec *replicaRecord) alive() bool { return rec != nil && (rec.node != nil || rec.edge != nil) }

func (rec *replicaRecord) element() *graph.Element {
	if rec.edge != nil {
		return &rec.edge.Element
	}
	return &rec.node.Element
}

// hash is the same in all processes.
func (rec *replicaRecord) hash() uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for i := 0; i < len(rec.id); i++ {
		h = (h ^ uint64(rec.id[i])) * 1099511628211
	}
	if rec.isEdge {
		h = ^h
	}
	return scatter(scatter(h^uint64(rec.stamp.At)) + uint64(rec.stamp.By))
}

// scatter spreads the bits (the finalizer of SplitMix64).
func scatter(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// replicaOrigin is what is known of one origin.
type replicaOrigin struct {
	name    string
	holder  string // who is right; "" while the later stamp counts
	epoch   int64
	version int64 // At of the last change by the holder that is in the graph
	live    bool  // this process hears the producer
	silent  bool  // and has not told anybody yet
	fresh   bool  // the holder was just found: a difference is no surprise
	changed bool  // since it was told of
	digest  uint64
	count   int64
	first   *replicaRecord // alive or not
	repair  *replicaTransfer
	idle    time.Time // since when there is nothing of it
}

const (
	tombstoneAge   = 7 * 24 * time.Hour
	tombstoneLimit = 1 << 18
)

func newReplicaStore(by uint32, clock func() time.Time, snapshot *graph.Snapshot) *replicaStore {
	s := &replicaStore{
		by: by, clock: clock, records: make(map[replicaKey]*replicaRecord), origins: make(map[string]*replicaOrigin),
		waiting: make(map[string]map[*replicaRecord]struct{}), since: make(map[*replicaRecord]time.Time),
	}
	// What is there already is as old as it says, so that what others did to it meanwhile counts.
	now := s.next().At
	stamp := func(e *graph.Element) wire.Stamp {
		return wire.Stamp{At: min(max(int64(e.UpdatedAt), 0)<<16, now), By: by}
	}
	for n := range snapshot.Nodes(field.Filter{}) {
		s.setNode(n, stamp(&n.Element))
	}
	for e := range snapshot.Edges(field.Filter{}) {
		s.setEdge(e, stamp(&e.Element))
	}
	return s
}

// next returns a stamp later than all seen: by the clock, or else by counting.
func (s *replicaStore) next() wire.Stamp {
	s.last = max(s.last+1, s.clock().UnixMilli()<<16)
	return wire.Stamp{At: s.last, By: s.by}
}

// see notes a stamp of another process.
func (s *replicaStore) see(at int64) { s.last = max(s.last, at) }

func (s *replicaStore) origin(name string) *replicaOrigin {
	o := s.origins[name]
	if o == nil {
		o = &replicaOrigin{name: name}
		s.origins[name] = o
	}
	return o
}

// known returns what there is of an origin; nil: nothing.
func (s *replicaStore) known(origin string) *replicaOrigin {
	if s == nil {
		return nil
	}
	return s.origins[origin]
}

func (s *replicaStore) setNode(n *graph.Node, stamp wire.Stamp) *replicaRecord {
	rec := s.set(replicaKey{false, n.ID}, n.Origin, stamp, func(rec *replicaRecord) { rec.node = n })
	if len(s.waiting[n.ID]) > 0 {
		s.came = append(s.came, n.ID)
	}
	return rec
}

func (s *replicaStore) setEdge(e *graph.Edge, stamp wire.Stamp) *replicaRecord {
	key := replicaKey{true, e.ID}
	if old := s.records[key]; old != nil {
		s.unpark(old)
	}
	return s.set(key, e.Origin, stamp, func(rec *replicaRecord) { rec.edge = e })
}

func (s *replicaStore) set(key replicaKey, origin string, stamp wire.Stamp, put func(*replicaRecord)) *replicaRecord {
	rec := s.records[key]
	o := s.origin(origin)
	if rec != nil {
		s.out(rec)
	} else {
		rec = &replicaRecord{replicaKey: key}
		s.records[key] = rec
	}
	rec.stamp, rec.origin, rec.gone = stamp, o, 0
	put(rec)
	s.in(rec)
	return rec
}

// in and out account for a record in its origin.
func (s *replicaStore) in(rec *replicaRecord) {
	o := rec.origin
	rec.prev, rec.next = nil, o.first
	if o.first != nil {
		o.first.prev = rec
	}
	o.first = rec
	o.changed = true
	if rec.alive() {
		o.digest ^= rec.hash()
		o.count++
	} else {
		s.tombstones++
	}
}

func (s *replicaStore) out(rec *replicaRecord) {
	o := rec.origin
	if rec.alive() {
		o.digest ^= rec.hash()
		o.count--
	} else {
		s.tombstones--
	}
	o.changed = true
	if rec.prev != nil {
		rec.prev.next = rec.next
	} else {
		o.first = rec.next
	}
	if rec.next != nil {
		rec.next.prev = rec.prev
	}
}

// remove forgets an element.
func (s *replicaStore) remove(rec *replicaRecord) {
	s.unpark(rec)
	s.out(rec)
	delete(s.records, rec.replicaKey)
}

// bury remembers that an element was deleted.
func (s *replicaStore) bury(key replicaKey, origin string, stamp wire.Stamp, at graph.Time) {
	if rec := s.records[key]; rec != nil {
		s.unpark(rec)
	}
	rec := s.set(key, origin, stamp, func(rec *replicaRecord) { rec.node, rec.edge = nil, nil })
	rec.gone, rec.buriedAt = at, s.clock()
	s.buried = append(s.buried, rec)
	if len(s.buried) > 2*s.tombstones+1024 { // what comes and goes is in it many times
		seen := make(map[*replicaRecord]bool, s.tombstones)
		s.buried = slices.DeleteFunc(s.buried, func(rec *replicaRecord) bool {
			again := seen[rec] || rec.alive() || s.records[rec.replicaKey] != rec
			seen[rec] = true
			return again
		})
	}
}

// purge forgets deletions that are long ago, or too many.
func (s *replicaStore) purge() {
	for len(s.buried) > 0 {
		rec := s.buried[0]
		if here := s.records[rec.replicaKey] == rec && !rec.alive(); here {
			if s.tombstones <= tombstoneLimit && s.clock().Sub(rec.buriedAt) < tombstoneAge {
				return
			}
			s.remove(rec)
		}
		s.buried[0] = nil
		s.buried = s.buried[1:]
	}
}

// all yields the records of an origin. The one at hand may be removed.
func (o *replicaOrigin) all() iter.Seq[*replicaRecord] {
	return func(yield func(*replicaRecord) bool) {
		for rec := o.first; rec != nil; {
			next := rec.next
			if !yield(rec) {
				return
			}
			rec = next
		}
	}
}

// park keeps an edge that cannot be in the graph until its ends are there.
func (s *replicaStore) park(rec *replicaRecord) {
	if _, parked := s.since[rec]; parked {
		return
	}
	s.since[rec] = s.clock()
	for _, id := range []string{rec.edge.Parent, rec.edge.Child} {
		if s.waiting[id] == nil {
			s.waiting[id] = make(map[*replicaRecord]struct{})
		}
		s.waiting[id][rec] = struct{}{}
	}
}

func (s *replicaStore) unpark(rec *replicaRecord) {
	if _, parked := s.since[rec]; !parked {
		return
	}
	delete(s.since, rec)
	for _, id := range []string{rec.edge.Parent, rec.edge.Child} {
		if delete(s.waiting[id], rec); len(s.waiting[id]) == 0 {
			delete(s.waiting, id)
		}
	}
}

// claim is what is told of an origin.
func (o *replicaOrigin) claim(live bool) wire.Claim {
	return wire.Claim{Origin: o.name, Holder: o.holder, Epoch: o.epoch, Live: live, Version: o.version, Digest: o.digest, Count: o.count}
}

// claimOrder compares what two say of one origin: that of who hears the producer comes first, then the later one.
func claimOrder(a, b wire.Claim) int {
	if a.Live != b.Live {
		if a.Live {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Holder, b.Holder))
}
