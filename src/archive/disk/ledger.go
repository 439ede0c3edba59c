package disk

import (
	"context"
	"encoding/binary"
	"math"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// usage is how much there is of one hour.
type usage struct {
	reports, packets, counters, revisions int64
	written                               int64 // ms: when last
}

// hourUsage is what a batch adds to an hour.
type hourUsage struct {
	hour int64
	usage
}

// usages is what a batch adds. Few hours are touched by one batch.
type usages []hourUsage

func (u *usages) of(slot int64) *usage {
	for i := range *u {
		if (*u)[i].hour == slot {
			return &(*u)[i].usage
		}
	}
	*u = append(*u, hourUsage{hour: slot})
	return &(*u)[len(*u)-1].usage
}

func (u *usage) add(o *usage) {
	u.reports += o.reports
	u.packets += o.packets
	u.counters += o.counters
	u.revisions += o.revisions
	u.written = max(u.written, o.written)
}

func (u *usage) append(dst []byte) []byte {
	for _, n := range [...]int64{u.reports, u.packets, u.counters, u.revisions, u.written} {
		dst = binary.AppendVarint(dst, n)
	}
	return dst
}

// ledger knows how much there is of each hour, in memory and in the archive.
type ledger struct {
	mu    sync.Mutex // guards all below
	hours map[int64]*usage
}

func (l *ledger) load(db *pebble.DB) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hours = make(map[int64]*usage)
	r := newReader()
	low := []byte{spaceHour}
	return scan(context.Background(), db, low, upper(low), func(key, value []byte) error {
		r.b, r.err = value, nil
		u := &usage{reports: r.varint(), packets: r.varint(), counters: r.varint(), revisions: r.varint(), written: r.varint()}
		if r.err != nil || len(key) != 5 {
			return errRecord
		}
		l.hours[slotOf(key)] = u
		return nil
	})
}

// add notes in b what the batch adds and which hours it forgets. Only the writer calls it.
func (l *ledger) add(b *pebble.Batch, add usages, forget []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var key [5]byte
	var value [64]byte
	for i := range add {
		u := l.hours[add[i].hour]
		if u == nil {
			u = new(usage)
			l.hours[add[i].hour] = u
		}
		u.add(&add[i].usage)
		_ = b.Set(appendSlot(key[:0], spaceHour, add[i].hour), u.append(value[:0]), nil) // a batch of our own takes everything
	}
	for _, slot := range forget {
		delete(l.hours, slot)
		_ = b.Delete(appendSlot(key[:0], spaceHour, slot), nil)
	}
}

// total adds all hours up, and tells when the oldest begins (ms).
func (l *ledger) total() (sum usage, oldest *int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for slot, u := range l.hours {
		sum.add(u)
		if at := slot * hour; oldest == nil || at < *oldest {
			oldest = &at
		}
	}
	return sum, oldest
}

// old returns the hours that ended, and were last written, before a time (all when that is the end of time): oldest first.
func (l *ledger) old(before int64) (slots []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for slot, u := range l.hours {
		if before == math.MaxInt64 || (slot+1)*hour <= before && u.written < before {
			slots = append(slots, slot)
		}
	}
	slices.Sort(slots)
	return slots
}
