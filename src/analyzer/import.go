package analyzer

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"skydive/src/flow"
)

// importBytes is how much of records is taken at once.
const importBytes = 256 << 10

// RefusedError tells why flows are not taken, with a status as of HTTP.
type RefusedError struct {
	status int
	reason string
}

func (e *RefusedError) Error() string { return e.reason }

// Status is that of the answer.
func (e *RefusedError) Status() int { return e.status }

// Import takes the flows that read gives to emit, which come from no agent. It waits while the queue is full, so that none is lost
// there, and refuses when nobody keeps flows or listens.
func (f *Flows) Import(ctx context.Context, read func(emit func(*flow.Flow)) error) error {
	if err := f.importable(); err != nil {
		return err
	}
	var data []byte
	whole := true
	give := func() {
		if len(data) > 0 {
			whole = f.deliver(ctx, data) && whole
			data = data[:0]
		}
	}
	err := read(func(r *flow.Flow) {
		if ctx.Err() != nil || !whole {
			return
		}
		if data = flow.AppendMessageFlow(data, r); len(data) >= importBytes {
			give()
		}
	})
	give()
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("import flows: %w", ctx.Err())
	case !whole:
		return &RefusedError{http.StatusServiceUnavailable, "the service ends: only a part of the flows was taken"}
	}
	return f.importable()
}

// importable tells why flows would go nowhere.
func (f *Flows) importable() error {
	if f.stored == nil {
		if f.feed.listeners() == 0 {
			return &RefusedError{http.StatusServiceUnavailable, "no storage keeps flows (analyzer.flow.backend), and nobody listens to them"}
		}
		return nil
	}
	if s := f.store.status(); s.State == storeFailing {
		return &RefusedError{http.StatusServiceUnavailable, "flows are not stored: " + s.Reason}
	}
	return nil
}

// deliver queues encoded records, as long as that takes; false: not all were queued where they are to go.
func (f *Flows) deliver(ctx context.Context, data []byte) bool {
	var m flow.Message
	if err := m.UnmarshalProto(data); err != nil { // we have just written it
		f.metrics.invalid.Inc()
		return false
	}
	f.metrics.received.Add(float64(len(m.Flows)))
	put := func(b *batches) bool {
		for !b.put(m.Flows, time.After(f.wait)) {
			if ctx.Err() != nil || b.over() {
				return false
			}
		}
		return true
	}
	whole := true
	if f.feed.listeners() > 0 && !put(f.told) {
		f.metrics.lostFeed.Add(float64(len(m.Flows)))
		whole = false
	}
	if f.stored != nil && !put(f.stored) {
		f.metrics.lostFull.Add(float64(len(m.Flows)))
		whole = false
	}
	return whole
}
