package flow

import (
	"math"
	"time"
)

const (
	finishedStay = int64(15 * time.Second) // a finished flow stays after its last packet
	sliceRecords = 64                      // records made before others may have the lock
	sliceEntries = 1024                    // entries looked at before others may have the lock
)

// due is what a Tick has to do.
type due struct {
	now        int64 // ns
	update     bool
	expire     bool
	everything bool
	before     int64 // ns: expired if last before
	since      int64 // ms: of the last update
}

// Tick reports what the life cycle says at now: flows that changed, once per update interval; flows that are idle for the timeout of
// their application; flows that are idle for good. Call it about once a second, and first when the capture begins. A *Flow is valid until
// emit returns. A now before the last one begins the intervals anew.
func (t *Table) Tick(now time.Time, emit func(*Flow)) {
	t.sweep.Lock()
	defer t.sweep.Unlock()
	d := due{now: now.UnixNano()}
	t.mu.Lock()
	if t.lastExpire == 0 || d.now < t.lastExpire || now.UnixMilli() < t.lastUpdate {
		// The first one, or the time of an older recording.
		t.lastUpdate, t.prevUpdate, t.lastExpire = now.UnixMilli(), now.UnixMilli(), d.now
	}
	if u := t.o.Update.Milliseconds(); u > 0 && now.UnixMilli()-t.lastUpdate >= u {
		d.update = true
		t.prevUpdate, t.lastUpdate = t.lastUpdate, now.UnixMilli()
	}
	if t.o.Expire > 0 && d.now-t.lastExpire >= int64(t.o.Expire) {
		d.expire, d.before = true, t.lastExpire
		t.lastExpire = d.now
	}
	t.fragmentsUntil(d.now - datagramStays)
	d.since = t.lastUpdate
	if d.update {
		d.since = t.prevUpdate
	}
	t.mu.Unlock()
	t.walk(d, emit)
}

// Flush reports all flows and removes them: the capture ends.
func (t *Table) Flush(now time.Time, emit func(*Flow)) {
	t.sweep.Lock()
	defer t.sweep.Unlock()
	t.mu.Lock()
	since := t.lastUpdate
	t.fragmentsUntil(math.MaxInt64)
	t.mu.Unlock()
	t.walk(due{now: now.UnixNano(), everything: true, since: since}, emit)
}

// walk visits all entries. Records are given to emit without the lock.
func (t *Table) walk(d due, emit func(*Flow)) {
	var out records
	t.slices(&out, func(e *hot, n uint32) { t.visit(&d, e, n, &out) }, func(r *record) bool {
		emit(&r.flow)
		return true
	})
}

// slices visits all entries, some at a time: between those slices others may have the lock, and yield is given the records that visit made.
// It ends early when yield says false.
func (t *Table) slices(out *records, visit func(e *hot, n uint32), yield func(*record) bool) {
	for i, end := 0, 1; i < end; {
		t.mu.Lock()
		end = len(t.segments) << segmentBits
		for stop := i + sliceEntries; i < end && i < stop && out.n < sliceRecords; i++ {
			s := &t.segments[i>>segmentBits]
			if s.live == 0 || i&(segmentEntries-1) >= s.used {
				i |= segmentEntries - 1
				continue
			}
			if e := t.hot(uint32(i)); e.flags&live != 0 {
				visit(e, uint32(i))
			}
		}
		t.mu.Unlock()
		if !out.yield(yield) {
			return
		}
	}
}

// visit does what is due for one entry.
func (t *Table) visit(d *due, e *hot, n uint32, out *records) {
	finish := FinishType(e.flags >> finishBit & 3)
	last := e.last
	if e.flags&exported != 0 {
		last = t.cold(n).asked // exporters tell of a flow long after its last packet
	}
	idle := d.now - last
	switch {
	case d.everything || d.expire && (last < d.before || -idle > int64(t.o.Expire)): // idle, or of a time that was taken back
		if finish == NotFinished {
			e.flags |= uint32(Timeout) << finishBit
		}
		if finish == NotFinished || d.everything || e.flags&changed != 0 {
			t.report(d, e, n, out)
		}
		t.remove(n)
		return
	case finish != NotFinished && idle >= finishedStay:
		if e.flags&changed != 0 {
			t.report(d, e, n, out)
		}
		t.remove(n)
		return
	}
	if e.flags&gapped != 0 && !t.overdue(t.extra(e.extra).tcp, d.now) {
		e.flags &^= gapped
	}
	if class := e.flags >> timeoutBit & (classes - 1); class != 0 && finish == NotFinished && idle >= t.timeouts[class] {
		e.flags |= uint32(Timeout) << finishBit
		t.report(d, e, n, out)
		return
	}
	if d.update {
		if e.flags&changed != 0 {
			t.report(d, e, n, out)
			return
		}
		t.interval(e, n)
		e.flags &^= reported
	}
}

// interval closes the report interval of a flow: what was counted since the last one.
func (t *Table) interval(e *hot, n uint32) {
	c := t.cold(n)
	for i := range c.base {
		c.deltaPackets[i] = uint32(min(e.ends[i].packets-c.base[i].packets, math.MaxUint32))
		c.deltaBytes[i] = e.ends[i].bytes - c.base[i].bytes
	}
	c.base = e.ends
	e.flags |= updated
}

// report closes the interval and makes the record.
func (t *Table) report(d *due, e *hot, n uint32, out *records) {
	t.interval(e, n)
	e.flags = e.flags&^changed | reported
	r := out.next()
	t.record(e, n, r)
	r.last.Start, r.last.Last = max(d.since, r.flow.Start), max(d.now/ms, r.flow.Start)
	if e.extra != 0 {
		t.sent(t.extra(e.extra))
	}
}
