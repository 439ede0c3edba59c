package analyzer

import (
	"sync"
	"time"

	"skydive/src/flow"
)

// batches is a bounded queue of flow records between those who receive them and one who takes many at a time.
type batches struct {
	limit int
	some  chan struct{} // there are records, or enough of them
	room  chan struct{} // some were taken

	mu      sync.Mutex // guards below
	flows   []*flow.Flow
	waiting int // how many wake the taker
	closed  bool
}

func newBatches(limit int) *batches {
	return &batches{limit: limit, some: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put queues all of flows or, when there is no room until patience is over, none; nil: no patience. After close it queues nothing.
func (b *batches) put(flows []*flow.Flow, patience <-chan time.Time) bool {
	for waited := false; ; waited = true {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return false
		}
		if len(b.flows)+len(flows) <= b.limit || len(b.flows) == 0 {
			b.flows = append(b.flows, flows...)
			wake := len(b.flows) >= b.waiting
			b.mu.Unlock()
			if wake {
				signal(b.some)
			}
			if waited {
				signal(b.room) // there may be room for others who wait
			}
			return true
		}
		b.mu.Unlock()
		if patience == nil {
			return false
		}
		select {
		case <-b.room:
		case <-patience:
			return false
		}
	}
}

// next waits for enough records or, once there are some, as long as delay, and returns most of them at most. After close it returns
// what is left, and then nothing.
func (b *batches) next(enough, most int, delay time.Duration) ([]*flow.Flow, bool) {
	var timeout <-chan time.Time
	over := false
	for {
		b.mu.Lock()
		n := len(b.flows)
		if n >= enough || n > 0 && (over || b.closed) {
			n = min(n, most)
			flows := b.flows[:n:n]
			if b.flows = b.flows[n:]; len(b.flows) == 0 {
				b.flows = nil
			}
			b.mu.Unlock()
			signal(b.room)
			return flows, true
		}
		closed := b.closed
		if b.waiting = 1; n > 0 {
			b.waiting = enough
		}
		b.mu.Unlock()
		if closed {
			return nil, false
		}
		if n > 0 && timeout == nil {
			timeout = time.After(delay)
		}
		select {
		case <-b.some:
		case <-timeout:
			over = true
		}
	}
}

func (b *batches) length() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.flows)
}

func (b *batches) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

func (b *batches) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	signal(b.some)
}
