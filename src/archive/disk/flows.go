package disk

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"skydive/src/flow"
)

// What is filed by its own time, and what – told of by a clock that is wrong – by the time of its arrival.
const (
	maxPast   = 10 * 366 * 24 * hour
	maxFuture = hour
)

// fileAt is the time by which something of time ms is filed.
func fileAt(ms, now int64) int64 {
	if ms < now-maxPast || ms > now+maxFuture || ms < 0 {
		return now
	}
	return ms
}

// chunk is how many reports become one batch.
const chunk = 4096

// StoreFlows writes reports of flows; it returns nil once they are on disk. While the archive is stopped, or when ctx ends first, they
// count as dropped, though what was on its way already may still be written.
func (a *Archive) StoreFlows(ctx context.Context, flows []*flow.Flow) error {
	for len(flows) > 0 {
		n := min(len(flows), chunk)
		if err := a.storeChunk(ctx, flows[:n]); err != nil {
			a.metrics.droppedFlows.add(int64(len(flows)))
			return fmt.Errorf("archive flows: %w", err)
		}
		a.metrics.flows.add(int64(n))
		flows = flows[n:]
	}
	return nil
}

func (a *Archive) storeChunk(ctx context.Context, flows []*flow.Flow) error {
	select {
	case <-a.stop():
		return a.refusal() // before it is encoded
	default:
	}
	a.mu.Lock()
	db := a.db
	if db == nil {
		a.mu.Unlock()
		return ErrClosed
	}
	a.readers.Add(1)
	a.mu.Unlock()
	defer a.readers.Done()

	w := &write{batch: db.NewBatchWithSize(len(flows) * 400), sync: true}
	now := a.now()
	var key, value []byte
	for _, f := range flows {
		if f == nil {
			continue
		}
		at := fileAt(f.Last, now)
		id := flowIDOf(f.UUID)
		var counted int64
		if f.LastUpdateMetric != nil {
			counted = f.LastUpdateMetric.Last
		}
		key = appendReport(key[:0], at, id, f.Last, counted)
		value = appendReportValue(value[:0], id, f)
		if err := w.batch.Set(key, value, nil); err != nil {
			return errors.Join(err, w.batch.Close())
		}
		u := w.usage.of(at / hour)
		u.reports++
		u.written = now
		if len(f.LastRawPackets) > 0 {
			first := &f.LastRawPackets[0]
			at := fileAt(first.Timestamp, now)
			key = appendPackets(key[:0], at, id, uint32(first.Index))
			value = appendPacketsValue(value[:0], f.LastRawPackets)
			if err := w.batch.Set(key, value, nil); err != nil {
				return errors.Join(err, w.batch.Close())
			}
			u := w.usage.of(at / hour)
			u.packets++
			u.written = now
		}
	}
	return a.commit(ctx, w)
}

// Bounds of an answer: what a search may have to hold before it is sorted and cut, and how many flows it may have to tell apart.
const (
	maxFlows  = 500_000
	maxUnique = 5_000_000
)

// Flows returns the flows that began by to and whose last packet is not older than from, each as it was last reported in that time or
// shortly after; filtered, sorted, deduplicated and cut as s says.
func (a *Archive) Flows(ctx context.Context, from, to time.Time, s *flow.Search) (found []*flow.Flow, err error) {
	if s == nil {
		s = new(flow.Search)
	}
	low, high := from.UnixMilli(), to.UnixMilli()
	err = a.read(ctx, func(ctx context.Context, db *pebble.DB) error {
		found, err = a.flows(ctx, db, low, high, s)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("archived flows: %w", err)
	}
	return found, nil
}

func (a *Archive) flows(ctx context.Context, db *pebble.DB, low, high int64, s *flow.Search) ([]*flow.Flow, error) {
	part := s.Part()
	keep := int64(math.MaxInt64)
	if s.To > 0 && s.To < maxFlows { // of more, there is no room for twice as many
		keep = 2*s.To + chunk
	}
	var found []*flow.Flow
	r := newReader()
	err := a.eachFlow(ctx, db, r, low, high, func(id flowID, _ int64, value []byte) (bool, error) {
		f, err := r.report(id, value)
		if err != nil || !s.Filter.Match(f) {
			return true, err
		}
		found = append(found, f)
		switch {
		case int64(len(found)) > keep:
			found = part.Finish(found)
		case len(found) > maxFlows:
			return false, ErrTooMany
		}
		return s.To <= 0 || s.Sort || s.Dedup || int64(len(found)) < s.To, nil
	})
	if err != nil {
		return nil, err
	}
	return s.Finish(found), nil
}

// eachFlow yields the last report of every flow of a slice, undecoded, until yield returns false.
func (a *Archive) eachFlow(ctx context.Context, db *pebble.DB, r *reader, low, high int64, yield func(id flowID, start int64, value []byte) (bool, error)) (err error) {
	// A flow that began in the slice may be reported for the first time after it.
	until := high + a.late()
	it, err := db.NewIter(&pebble.IterOptions{
		LowerBound: appendSlot(nil, spaceReport, slotAt(low, minute)),
		UpperBound: appendSlot(nil, spaceReport, slotAt(until, minute)+1),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	seen := make(map[flowID]struct{})
	n := 0
	// Backwards: the first report of a flow that is met is its newest, and the only one that counts.
	for ok := it.Last(); ok; ok = it.Prev() {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		key := it.Key()
		if len(key) != reportKey {
			return errRecord
		}
		id := flowIn(key)
		if _, dup := seen[id]; dup {
			continue
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		start, last, err := r.span(value)
		if err != nil {
			return err
		}
		if start > high || last > until {
			continue // an older report cannot begin earlier, but one filed by its arrival may be older
		}
		seen[id] = struct{}{}
		if len(seen) > maxUnique {
			return ErrTooMany
		}
		if last < low {
			continue
		}
		if more, err := yield(id, start, value); err != nil || !more {
			return err
		}
	}
	return it.Error()
}

// late is how long after something happened it is reported, at the latest.
func (a *Archive) late() int64 { return 2*a.o.FlowUpdate.Milliseconds() + 10*second }

// Total counts the flows that Flows would find, or adds a metric of theirs up, without holding them. Of flow.Latest it counts and adds up
// what FlowMetrics would find of them since–to.
func (a *Archive) Total(ctx context.Context, from, to, since time.Time, s *flow.Search, what flow.Aggregate) (flow.Total, error) {
	if s == nil {
		s = new(flow.Search)
	}
	var sum flow.Total
	err := a.read(ctx, func(ctx context.Context, db *pebble.DB) error {
		r := newReader()
		updates := what.Metric == flow.Latest
		var ids []flowID
		begin := int64(math.MaxInt64)
		err := a.eachFlow(ctx, db, r, from.UnixMilli(), to.UnixMilli(), func(id flowID, start int64, value []byte) (bool, error) {
			if s.Filter != nil || what.Metric == flow.Whole || what.Metric == flow.Update {
				f, err := r.report(id, value)
				if err != nil || !s.Filter.Match(f) {
					return true, err
				}
				if !updates {
					sum.Add(f, what)
				}
			} else if !updates {
				sum.Count++
			}
			if updates {
				ids = append(ids, id)
				begin = min(begin, start)
			}
			return true, nil
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		slices.SortFunc(ids, flowID.compare)
		low, high := since.UnixMilli(), to.UnixMilli()
		return a.ofFlows(ctx, db, spaceReport, low, high, ids, begin, func(i int, value []byte) error {
			m, err := r.counted(ids[i], value, low, high)
			if m != nil {
				sum.Count++
				sum.Metric.Add(m)
			}
			return err
		})
	})
	if err != nil {
		return flow.Total{}, fmt.Errorf("archived flows: %w", err)
	}
	return sum, nil
}

// slotAt is the minute or hour of a time; what is before or after all slots is in the first or last.
func slotAt(ms, unit int64) int64 { return min(max(ms/unit, 0), math.MaxUint32-1) }

// FlowMetrics returns by UUID what was counted for flows in intervals that lie from–to as a whole, by their ends.
func (a *Archive) FlowMetrics(ctx context.Context, from, to time.Time, flows []*flow.Flow) (map[string][]flow.Metric, error) {
	found := make(map[string][]flow.Metric)
	low, high := from.UnixMilli(), to.UnixMilli()
	err := a.read(ctx, func(ctx context.Context, db *pebble.DB) error {
		r := newReader()
		n := 0
		list, ids, begin := wantedOf(flows)
		return a.ofFlows(ctx, db, spaceReport, low, high, ids, begin, func(i int, value []byte) error {
			m, err := r.counted(ids[i], value, low, high)
			if m == nil {
				return err
			}
			if n++; n > maxUnique {
				return ErrTooMany
			}
			found[list[i].flow.UUID] = append(found[list[i].flow.UUID], *m)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("archived metrics: %w", err)
	}
	for _, ms := range found {
		sortMetrics(ms)
	}
	return found, nil
}

// maxPacketBytes bounds the raw packets of an answer.
const maxPacketBytes = 256 << 20

// RawPackets returns by UUID the packets of flows that were captured from–to, by index.
func (a *Archive) RawPackets(ctx context.Context, from, to time.Time, flows []*flow.Flow) (map[string][]flow.RawPacket, error) {
	found := make(map[string][]flow.RawPacket)
	low, high := from.UnixMilli(), to.UnixMilli()
	err := a.read(ctx, func(ctx context.Context, db *pebble.DB) error {
		r := newReader()
		n := 0
		list, ids, begin := wantedOf(flows)
		// They are filed by the first of a report.
		return a.ofFlows(ctx, db, spacePackets, low-a.late(), high, ids, begin, func(i int, value []byte) (err error) {
			if n += len(value); n > maxPacketBytes {
				return ErrTooMany
			}
			uuid := list[i].flow.UUID
			packets, err := r.packets(found[uuid], value, low, high)
			if len(packets) > 0 {
				found[uuid] = packets
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("archived packets: %w", err)
	}
	for _, ps := range found {
		sortPackets(ps)
	}
	return found, nil
}

// ofFlows yields the values that a space holds for flows, minute by minute. The flows are sorted, and none began before begin: nothing is
// known of a flow before that, whatever the slice.
func (a *Archive) ofFlows(ctx context.Context, db *pebble.DB, space byte, low, high int64, ids []flowID, begin int64, yield func(i int, value []byte) error) (err error) {
	if len(ids) == 0 {
		return nil
	}
	it, err := db.NewIter(&pebble.IterOptions{
		LowerBound: appendSlot(nil, space, slotAt(max(low, begin), minute)),
		UpperBound: appendSlot(nil, space, slotAt(high, minute)+1),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var key []byte
	next, n := 0, 0
	for ok := it.First(); ok; {
		if n++; n%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		at := it.Key()
		if len(at) < 5+len(flowID{}) {
			return errRecord
		}
		id := flowIn(at)
		slot := slotOf(at)
		next += after(ids[next:], id)
		switch {
		case next == len(ids): // none left in this minute
			next = 0
			key = append(appendSlot(key[:0], space, slot+1), ids[0][:]...)
			ok = it.SeekGE(key)
		case ids[next] != id:
			key = append(appendSlot(key[:0], space, slot), ids[next][:]...)
			ok = it.SeekGE(key)
			if ok && slotOf(it.Key()) != slot {
				next = 0
			}
		default:
			value, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			if err := yield(next, value); err != nil {
				return err
			}
			if ok = it.Next(); ok && slotOf(it.Key()) != slot {
				next = 0
			}
		}
	}
	return it.Error()
}

// after is how many of sorted flows come before one; mostly none or a few.
func after(ids []flowID, id flowID) int {
	low, high := 0, 1
	for high < len(ids) && ids[high-1].compare(id) < 0 {
		low, high = high, 2*high
	}
	n, _ := slices.BinarySearchFunc(ids[low:min(high, len(ids))], id, flowID.compare)
	return low + n
}

func (id flowID) compare(o flowID) int {
	return cmp.Or(cmp.Compare(id[0], o[0]), cmp.Compare(binary.BigEndian.Uint64(id[1:]), binary.BigEndian.Uint64(o[1:])))
}
