package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"skydive/src/graph"
)

const (
	followQueue = 4096                   // commits that may wait before they are lost
	syncEvery   = 100 * time.Millisecond // how long a revision may be in the process only
	batchBytes  = 1 << 20                // of one batch
	maxLate     = 10 * second            // how far before its arrival a change is filed by its own time
	markEvery   = 6 * hour               // how old a checkpoint may get while there are changes
	markEntries = 1024                   // how many entries a checkpoint pays for at least
)

// position is where the log of the graph is. After the archive is opened only Follow uses it.
type position struct {
	next    uint64 // number of the next entry
	last    int64  // ms of the last one: they never go back
	open    int    // elements in the graph
	marked  int64  // ms of the last checkpoint
	entries int    // since then
	bytes   int64  // of those
	copied  int64  // bytes of the last checkpoint that this process wrote
	counts  int    // counters written since then
}

// resume finds the end of the log. What the last process left open ended when that was last known to live: so history has a gap where
// nobody looked, and what comes back begins anew.
func (a *Archive) resume(db *pebble.DB, alive int64) error {
	p := &a.graph
	logAt, number, some, err := lastEntry(db, spaceLog, nil)
	if err != nil {
		return err
	}
	if some {
		p.last, p.next = logAt, number+1
	}
	markAt, marked, some, err := lastEntry(db, spaceMark, nil)
	if err != nil {
		return err
	}
	if some {
		p.marked, p.last, p.next = markAt, max(p.last, markAt), max(p.next, marked)
	} else {
		marked = 0
	}
	if now := a.now(); p.last > now+minute {
		a.log.Warn("The archive ends in the future: until then changes of the graph are filed by the end of it", "end", time.UnixMilli(p.last))
	}
	b := db.NewBatch()
	defer b.Close()
	// A checkpoint that was not finished.
	if err := b.DeleteRange(appendNumber([]byte{spaceCopied}, marked+1), upper([]byte{spaceCopied}), nil); err != nil {
		return err
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceOpen}, UpperBound: upper([]byte{spaceOpen})})
	if err != nil {
		return err
	}
	left := it.First()
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return err
	}
	if left {
		p.last = max(p.last, min(alive, a.now())) + 1 // at that very time it was still there
		e := entry{number: p.next, at: p.last}
		p.next++
		if err := b.Set(appendEntry(nil, spaceLog, e.at, e.number), e.append(nil), nil); err != nil {
			return err
		}
		if err := b.DeleteRange([]byte{spaceOpen}, upper([]byte{spaceOpen}), nil); err != nil {
			return err
		}
		if err := b.Set(appendEntry(nil, spaceMark, p.last, p.next), nil, nil); err != nil { // a checkpoint with nothing in it
			return err
		}
		p.marked = p.last
	}
	return db.Apply(b, pebble.Sync)
}

func appendNumber(dst []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(dst, n) }

// lastEntry finds the last log entry or mark, before a key if given.
func lastEntry(db pebble.Reader, space byte, before []byte) (ms int64, number uint64, some bool, err error) {
	if before == nil {
		before = upper([]byte{space})
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: before})
	if err != nil {
		return 0, 0, false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if it.Last() {
		if len(it.Key()) != logKey {
			return 0, 0, false, errRecord
		}
		ms, number = entryOf(it.Key())
		some = true
	}
	return ms, number, some, it.Error()
}

// Follow archives every commit to g until ctx ends. What it misses – while the archive is stopped, or because it does not keep up – it
// makes good from the graph itself, and counts. There may be one Follow at a time.
func (a *Archive) Follow(ctx context.Context, g *graph.Graph) error {
	select {
	case <-a.ready:
	case <-ctx.Done():
		return nil
	}
	for {
		err := a.follow(ctx, g)
		if ctx.Err() != nil || errors.Is(err, ErrClosed) {
			return nil
		}
		a.metrics.resyncs.add(1)
		switch {
		case err == nil: // commits were lost
		case errors.Is(err, ErrStopped):
			if !a.waitRunning(ctx) {
				return nil
			}
		default:
			// What cannot be read, or written, is the end of the graph's history and of nothing else.
			a.unfollow("changes of the graph cannot be archived: " + err.Error() + "; see to it, then restart")
			<-ctx.Done()
			return nil
		}
	}
}

// waitRunning waits until the archive writes again.
func (a *Archive) waitRunning(ctx context.Context) bool {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if s, _ := a.current(); s == Running {
			return true
		}
		select {
		case <-tick.C:
		case <-a.quit:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// follow archives commits until some are lost (nil) or cannot be written.
func (a *Archive) follow(ctx context.Context, g *graph.Graph) error {
	sub, snap := g.Subscribe(followQueue)
	defer sub.Close()
	return a.read(ctx, func(ctx context.Context, db *pebble.DB) error {
		r := &recorder{a: a, db: db, p: &a.graph}
		defer r.drop()
		if err := r.align(ctx, snap); err != nil {
			return err
		}
		return r.record(ctx, sub)
	})
}
