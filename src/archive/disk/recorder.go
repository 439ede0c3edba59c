package disk

import (
	"context"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"skydive/src/field"
	"skydive/src/graph"
)

// recorder writes the log.
type recorder struct {
	a     *Archive
	db    *pebble.DB
	p     *position
	w     *write // being filled
	buf   []byte
	key   []byte
	dirty bool // something written is not known to be on disk
}

func (r *recorder) batch() *pebble.Batch {
	if r.w == nil {
		r.w = &write{batch: r.db.NewBatch()}
	}
	return r.w.batch
}

func (r *recorder) drop() {
	if r.w != nil {
		_ = r.w.batch.Close() // nothing of it was used
		r.w = nil
	}
}

// flush hands the batch over.
func (r *recorder) flush(ctx context.Context, sync bool) error {
	w := r.w
	if w == nil {
		if !sync || !r.dirty {
			return nil
		}
		w = new(write)
	}
	r.w = nil
	w.sync = sync
	n := w.usage
	if err := r.a.commit(ctx, w); err != nil {
		return err
	}
	for i := range n {
		r.a.metrics.revisions.add(n[i].revisions)
		r.a.metrics.counters.add(n[i].counters)
	}
	r.dirty = !sync
	return nil
}

func (r *recorder) full() bool { return r.w != nil && r.w.batch.Len() > batchBytes }

func (r *recorder) record(ctx context.Context, sub *graph.Subscription) error {
	later := time.NewTimer(syncEvery)
	later.Stop()
	defer later.Stop()
	var synced time.Time
	for {
		select {
		case c, ok := <-sub.C():
			for more := true; ok && more; {
				if err := r.commit(c); err != nil {
					return err
				}
				if more = !r.full(); more {
					select {
					case c, ok = <-sub.C():
					default:
						more = false
					}
				}
			}
			now := time.Now()
			due := now.Sub(synced) >= syncEvery
			if err := r.flush(ctx, due); err != nil {
				return err
			}
			if due {
				synced = now
			} else {
				later.Reset(syncEvery - now.Sub(synced))
			}
			if !ok {
				if err := r.flush(ctx, true); err != nil {
					return err
				}
				return nil
			}
			if r.markDue() {
				if err := r.mark(ctx); err != nil {
					return err
				}
			}
		case <-later.C:
			if err := r.flush(ctx, true); err != nil {
				return err
			}
			synced = time.Now()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *recorder) commit(c *graph.Commit) error {
	for i := range c.Changes {
		var err error
		switch ch := &c.Changes[i]; ch.Kind {
		case graph.NodeAdded:
			r.p.open++
			err = r.node(ch.Node)
		case graph.NodeUpdated:
			err = r.update(ch.OldNode, ch.Node)
		case graph.EdgeAdded:
			r.p.open++
			err = r.entry(entry{edge: ch.Edge})
		case graph.EdgeUpdated:
			err = r.entry(entry{edge: ch.Edge})
		case graph.NodeDeleted:
			r.p.open--
			err = r.entry(entry{node: ch.Node})
		case graph.EdgeDeleted:
			r.p.open--
			err = r.entry(entry{edge: ch.Edge})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// node writes a revision of a node and its counters.
func (r *recorder) node(n *graph.Node) error {
	if err := r.entry(entry{node: n}); err != nil {
		return err
	}
	return r.counters(n, countersOf(n.Metadata))
}

// update writes a revision only if more than counters changed.
func (r *recorder) update(old, n *graph.Node) error {
	if c := countersOf(n.Metadata); len(c) > 0 && old.Host == n.Host && old.Origin == n.Origin && old.CreatedAt == n.CreatedAt &&
		sameRevision(old.Metadata, n.Metadata) {
		return r.counters(n, c)
	}
	return r.node(n)
}

// at is the time of an entry: that of the change, unless it would have been before what is archived already, or long before its arrival.
func (r *recorder) at(e *graph.Element) int64 {
	now := r.a.now()
	at := int64(e.UpdatedAt)
	if e.DeletedAt != 0 {
		at = int64(e.DeletedAt)
	}
	return max(r.p.last, min(max(at, now-maxLate), now))
}

// entry appends to the log, as of now.
func (r *recorder) entry(e entry) error {
	el := e.element()
	e.number, e.at = r.p.next, r.at(el)
	r.p.next++
	r.p.last = e.at
	r.p.entries++
	b := r.batch()
	u := r.w.usage.of(e.at / hour)
	u.revisions++
	u.written = max(u.written, e.at)
	r.buf = e.append(r.buf[:0])
	r.p.bytes += int64(len(r.buf))
	r.key = appendEntry(r.key[:0], spaceLog, e.at, e.number)
	if err := b.Set(r.key, r.buf, nil); err != nil {
		return err
	}
	r.key = appendOpen(r.key[:0], e.kind(), el.ID)
	if el.DeletedAt != 0 {
		return b.Delete(r.key, nil)
	}
	return b.Set(r.key, r.buf, nil)
}

// counters writes counters of a node; none after a revision that has none.
func (r *recorder) counters(n *graph.Node, c field.Object) error {
	at := r.at(&n.Element)
	b := r.batch()
	r.key = appendCounters(r.key[:0], at/hour, nodeIDOf(n.ID), graph.Time(at))
	if len(c) == 0 {
		return b.Delete(r.key, nil) // what an earlier node of this name left in the same millisecond
	}
	u := r.w.usage.of(at / hour)
	u.counters++
	u.written = max(u.written, at)
	r.p.counts++
	rec := counts{n.UpdatedAt, n.Revision, c}
	r.buf = rec.append(r.buf[:0])
	return b.Set(r.key, r.buf, nil)
}

// align writes what leads from the graph as archived to the graph as it is.
func (r *recorder) align(ctx context.Context, snap *graph.Snapshot) error {
	// What was on its way when the archive stopped is written first.
	if err := r.a.commit(ctx, &write{sync: true}); err != nil {
		return err
	}
	r.p.open = 0
	r.p.last = max(r.p.last, r.a.now()) // what comes back was not there meanwhile, however old it is
	known := make(map[string]struct{})
	read := newReader()
	low := []byte{spaceOpen}
	err := scan(ctx, r.db, low, upper(low), func(_, value []byte) error {
		e, err := read.entry(value)
		if err != nil {
			return err
		}
		id := e.element().ID
		switch {
		case e.node != nil:
			known["n"+id] = struct{}{}
			if now := snap.Node(id); now != nil {
				r.p.open++
				err = r.changed(&e, entry{node: now})
			} else {
				e.node.DeletedAt = graph.Time(r.a.now())
				err = r.entry(e)
			}
		case e.edge != nil:
			known["e"+id] = struct{}{}
			if now := snap.Edge(id); now != nil {
				r.p.open++
				err = r.changed(&e, entry{edge: now})
			} else {
				e.edge.DeletedAt = graph.Time(r.a.now())
				err = r.entry(e)
			}
		}
		if err == nil && r.full() {
			err = r.flush(ctx, false)
		}
		return err
	})
	if err != nil {
		return err
	}
	add := func(prefix string, e entry) (bool, error) {
		if _, ok := known[prefix+e.element().ID]; ok {
			return true, nil
		}
		r.p.open++
		err := r.entry(e)
		if err == nil && e.node != nil {
			err = r.counters(e.node, countersOf(e.node.Metadata))
		}
		if err == nil && r.full() {
			err = r.flush(ctx, false)
		}
		return err == nil, err
	}
	for n := range snap.Nodes(field.Filter{}) {
		if ok, err := add("n", entry{node: n}); !ok {
			return err
		}
	}
	for e := range snap.Edges(field.Filter{}) {
		if ok, err := add("e", entry{edge: e}); !ok {
			return err
		}
	}
	if err := r.flush(ctx, true); err != nil {
		return err
	}
	if r.markDue() {
		return r.mark(ctx)
	}
	return nil
}

// changed writes what became of an element since the archive knew it.
func (r *recorder) changed(old *entry, now entry) error {
	a, b := old.element(), now.element()
	if a.UpdatedAt == b.UpdatedAt && a.Revision == b.Revision && a.CreatedAt == b.CreatedAt {
		return nil
	}
	if now.node != nil {
		return r.update(old.node, now.node)
	}
	return r.entry(now)
}

func (r *recorder) markDue() bool {
	every := markEvery
	if age := r.a.o.MaxAge.Milliseconds(); age > 0 {
		every = min(every, max(age/8, minute))
	}
	// What is before a checkpoint can be forgotten: of an archive of limited size, no large part may be after the last one.
	if size := r.a.o.MaxSize; size > 0 && r.p.bytes > max(size/16, 2*r.p.copied) {
		return true
	}
	return r.p.entries >= max(markEntries, r.p.open) || r.p.entries+r.p.counts > 0 && r.a.now()-r.p.marked >= every
}

// mark writes a checkpoint: the graph as it is, its counters included, so that no question has to read the log from its beginning. All
// that was handed over before is in the engine already.
func (r *recorder) mark(ctx context.Context) error {
	at := max(r.p.last, r.a.now())
	number := r.p.next
	since := r.p.marked
	read := newReader()
	low := []byte{spaceOpen}
	n, size := 0, int64(0)
	page := make([]entry, 0, markPage)
	save := func() error {
		if err := overlay(ctx, r.db, read, page, since, at); err != nil {
			return err
		}
		for i := range page {
			e := &page[i]
			r.buf = e.append(r.buf[:0])
			size += int64(len(r.buf))
			r.key = append(append(appendNumber(append(r.key[:0], spaceCopied), number), e.kind()), e.element().ID...)
			if err := r.batch().Set(r.key, r.buf, nil); err != nil {
				return err
			}
			if e.node != nil && len(countersOf(e.node.Metadata)) > 0 {
				r.key = appendOpen(r.key[:0], kindNode, e.node.ID)
				if err := r.batch().Set(r.key, r.buf, nil); err != nil {
					return err
				}
			}
		}
		n += len(page)
		page = page[:0]
		if r.full() {
			return r.flush(ctx, false)
		}
		return nil
	}
	err := scan(ctx, r.db, low, upper(low), func(_, value []byte) error {
		e, err := read.entry(value)
		if err != nil {
			return err
		}
		if page = append(page, e); len(page) == cap(page) {
			return save()
		}
		return nil
	})
	if err == nil {
		err = save()
	}
	if err != nil {
		return err
	}
	if err := r.batch().Set(appendEntry(nil, spaceMark, at, number), nil, nil); err != nil {
		return err
	}
	if err := r.flush(ctx, true); err != nil {
		return err
	}
	r.p.last, r.p.marked, r.p.open, r.p.copied = at, at, n, size
	r.p.entries, r.p.counts, r.p.bytes = 0, 0, 0
	return nil
}

// markPage is how many elements of a checkpoint are in memory at a time.
const markPage = 4096
