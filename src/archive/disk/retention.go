package disk

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// forgetEvery is how often the archive is looked over for what is too old or too much.
const forgetEvery = 10 * time.Second

// forget keeps the archive within its age and size.
func (a *Archive) forget(ctx context.Context) {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		err := a.read(ctx, func(ctx context.Context, db *pebble.DB) error { return a.forgetOld(ctx, db) })
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrClosed) {
			a.log.Warn("The archive could not forget what is old", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Archive) forgetOld(ctx context.Context, db *pebble.DB) error {
	if age := a.o.MaxAge.Milliseconds(); age > 0 {
		if err := a.forgetHours(ctx, db, a.ledger.old(a.now()-age), a.now()-age); err != nil {
			return err
		}
	}
	if a.o.MaxSize <= 0 {
		return nil
	}
	for range maxRounds {
		excess := a.excess(db)
		if excess <= 0 {
			return nil
		}
		some, err := a.forgetBytes(ctx, db, excess)
		if err == nil {
			err = a.settle(ctx, db)
		}
		if err != nil {
			return err
		}
		if !some {
			if a.excess(db) > 0 && !a.tooLarge.Swap(true) {
				a.log.Warn("The archive takes more than it may, and holds nothing but the present: raise max_size", "bytes", a.bytes(), "max_size", a.o.MaxSize)
			}
			return nil
		}
	}
	return nil
}

// maxRounds is how often it is forgotten before other things have their turn: what the engine estimates need not be what it gives back.
const maxRounds = 8

// excess is how much must go: some more than what is too much, so that there is peace for a while.
func (a *Archive) excess(db *pebble.DB) int64 {
	used := int64(db.Metrics().DiskSpaceUsage())
	if used <= a.o.MaxSize {
		return 0
	}
	return used - a.o.MaxSize + a.o.MaxSize/8
}

// span is a time (ms) to forget: from its begin up to its end.
type span struct{ begin, end int64 }

// ranges are the keys of a span of whole minutes, and counters where it has whole hours.
func (s span) ranges() [][2][]byte {
	r := [][2][]byte{
		{appendSlot(nil, spaceReport, s.begin/minute), appendSlot(nil, spaceReport, s.end/minute)},
		{appendSlot(nil, spacePackets, s.begin/minute), appendSlot(nil, spacePackets, s.end/minute)},
	}
	if first, end := (s.begin+hour-1)/hour, s.end/hour; first < end {
		r = append(r, [2][]byte{appendSlot(nil, spaceCounters, first), appendSlot(nil, spaceCounters, end)})
	}
	return r
}

// size is what a span takes on disk.
func (s span) size(db *pebble.DB) (sum int64, err error) {
	for _, r := range s.ranges() {
		n, err := db.EstimateDiskUsage(r[0], r[1])
		if err != nil {
			return 0, err
		}
		sum += int64(n)
	}
	return sum, nil
}

// any tells whether there is something in a span.
func (s span) any(db *pebble.DB) (bool, error) {
	for _, r := range s.ranges() {
		if key, err := first(db, r[0], r[1]); err != nil || key != nil {
			return key != nil, err
		}
	}
	return false, nil
}

// forgetBytes forgets the oldest hours that take so much together, and of the present hour what it must; false: there is nothing left that
// may go.
func (a *Archive) forgetBytes(ctx context.Context, db *pebble.DB, excess int64) (some bool, err error) {
	now := a.now()
	slots := a.ledger.old(math.MaxInt64)
	var gone []int64
	for _, slot := range slots {
		if slot >= now/hour {
			break
		}
		n, err := span{slot * hour, (slot + 1) * hour}.size(db)
		if err != nil {
			return false, err
		}
		before, err := graphBefore(db, (slot+1)*hour)
		if err != nil {
			return false, err
		}
		gone = append(gone, slot)
		if excess -= n; excess-before <= 0 {
			break
		}
	}
	if len(gone) > 0 {
		return true, a.forgetHours(ctx, db, gone, (gone[len(gone)-1]+1)*hour)
	}
	// All that is too much is of this hour: half of what is there goes, but for the latest minutes.
	s := span{now / hour * hour, (now/minute - 1) * minute}
	for s.end-s.begin > minute {
		half := span{s.begin, (s.begin + (s.end-s.begin)/2) / minute * minute}
		some, err := half.any(db)
		if err != nil {
			return false, err
		}
		_, before, err := graphUntil(db, half.end)
		if err != nil {
			return false, err
		}
		if some || before {
			return true, a.forgetSpans(ctx, db, []span{half}, nil, half.end)
		}
		s.begin = half.end
	}
	return false, nil
}

// forgetHours forgets whole hours, and of the graph what no question about the time after a cut needs.
func (a *Archive) forgetHours(ctx context.Context, db *pebble.DB, slots []int64, cut int64) error {
	var spans []span
	for _, slot := range slots {
		if n := len(spans); n > 0 && spans[n-1].end == slot*hour {
			spans[n-1].end += hour
		} else {
			spans = append(spans, span{slot * hour, (slot + 1) * hour})
		}
	}
	return a.forgetSpans(ctx, db, spans, slots, cut)
}

func (a *Archive) forgetSpans(ctx context.Context, db *pebble.DB, spans []span, slots []int64, cut int64) error {
	w := &write{batch: db.NewBatch(), sync: true, always: true, forget: slots}
	for _, s := range spans {
		for _, r := range s.ranges() {
			if err := w.batch.DeleteRange(r[0], r[1], nil); err != nil {
				return errors.Join(err, w.batch.Close())
			}
		}
	}
	if err := forgetGraph(db, w.batch, cut); err != nil {
		return errors.Join(err, w.batch.Close())
	}
	if w.batch.Empty() {
		return w.batch.Close()
	}
	if err := a.commit(ctx, w); err != nil {
		return err
	}
	a.metrics.forgotten.add(int64(len(slots)))
	return nil
}

// graphUntil finds the last checkpoint up to a cut, and whether there is anything before it.
func graphUntil(db *pebble.DB, cut int64) (last checkpoint, some bool, err error) {
	last.ms, last.number, some, err = lastEntry(db, spaceMark, appendEntry(nil, spaceMark, cut, 0))
	if err != nil || !some {
		return last, false, err
	}
	_, _, marks, err := lastEntry(db, spaceMark, last.key(spaceMark))
	if err != nil {
		return last, false, err
	}
	_, _, entries, err := lastEntry(db, spaceLog, last.key(spaceLog))
	return last, marks || entries, err
}

type checkpoint struct {
	ms     int64
	number uint64
}

func (c checkpoint) key(space byte) []byte { return appendEntry(nil, space, c.ms, c.number) }

// forgetGraph deletes the log before the last checkpoint up to a cut.
func forgetGraph(db *pebble.DB, b *pebble.Batch, cut int64) error {
	last, some, err := graphUntil(db, cut)
	if err != nil || !some {
		return err
	}
	return errors.Join(
		b.DeleteRange([]byte{spaceLog}, last.key(spaceLog), nil),
		b.DeleteRange([]byte{spaceCopied}, appendNumber([]byte{spaceCopied}, last.number), nil),
		b.DeleteRange([]byte{spaceMark}, last.key(spaceMark), nil))
}

// graphBefore is what forgetGraph would give back.
func graphBefore(db *pebble.DB, cut int64) (int64, error) {
	last, some, err := graphUntil(db, cut)
	if err != nil || !some {
		return 0, err
	}
	log, err := db.EstimateDiskUsage([]byte{spaceLog}, last.key(spaceLog))
	if err != nil {
		return 0, err
	}
	copied, err := db.EstimateDiskUsage([]byte{spaceCopied}, appendNumber([]byte{spaceCopied}, last.number))
	return int64(log + copied), err
}

// settle waits until the engine has given back what was deleted, which it does by itself where whole files go; and has it rewrite the files
// that hold other things too when that is not enough.
func (a *Archive) settle(ctx context.Context, db *pebble.DB) error {
	if err := db.Flush(); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 5 {
		if int64(db.Metrics().DiskSpaceUsage()) <= a.o.MaxSize {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, space := range [...]byte{spaceReport, spacePackets, spaceLog, spaceCopied, spaceCounters, spaceOpen} {
		low, err := first(db, []byte{space}, upper([]byte{space}))
		if err != nil {
			return err
		}
		if low == nil || space == spaceOpen { // of that, what was written over
			low = upper([]byte{space})
		}
		if err := db.Compact(ctx, []byte{space}, low, false); err != nil {
			return err
		}
	}
	return nil
}
