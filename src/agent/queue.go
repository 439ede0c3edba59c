package agent

import (
	"slices"
	"sync"
	"time"

	"skydive/src/flow"
)

const (
	blockSize  = 64 << 10 // of records that are queued and sent together
	maxRecord  = 65000    // bytes of one message: more fits into no datagram
	spareLimit = 16       // unused blocks that are kept for later
	retained   = 4        // this part of the memory is for what was sent just now
)

// block is a run of encoded messages, each of one record or several.
type block struct {
	data  []byte
	ends  []int // of each message in data
	flows int   // records in all of them; messages that carry none are not counted
	last  int   // records in the last message; closed: it takes no more
	sent  time.Time
	to    string // address of who it was sent to
	stuck bool   // a connection that broke may still read data
}

const closed = 1 << 30

// messages yields each message.
func (b *block) messages(yield func([]byte) bool) {
	start := 0
	for _, end := range b.ends {
		if !yield(b.data[start:end:end]) {
			return
		}
		start = end
	}
}

// append puts what was written behind the last end into a message.
func (b *block) append(size, most int) {
	n, start := len(b.ends), 0
	if n > 1 {
		start = b.ends[n-2]
	}
	if n > 0 && b.last < most && len(b.data)-start <= size {
		b.ends[n-1] = len(b.data)
		b.last++
	} else {
		b.ends = append(b.ends, len(b.data))
		b.last = 1
	}
	b.flows++
}

// queue holds encoded records until they can be sent and, as far as there is room, a little longer: what was sent just before a
// connection broke may not have arrived. All its memory is bounded by limit; nothing is allocated per record.
type queue struct {
	limit int // bytes
	size  int // bytes of one message at most, unless one record alone is larger
	most  int // records in one message at most

	some, full chan struct{} // there is something; there is a full block
	room       chan struct{} // a block may be had again

	mu      sync.Mutex // guards below
	ready   []*block   // full, oldest first
	filling *block
	sent    []*block // oldest first
	spare   []*block
	blocks  int // in ready, filling, sent or being sent
	queued  int // records in ready and filling
}

// admission is what became of a record.
type admission int

const (
	admitted admission = iota
	queueFull
	tooLarge
)

func newQueue(limit, size, most int) *queue {
	return &queue{limit: limit, size: size, most: most, some: make(chan struct{}, 1), full: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// Flow encodes a record.
func (q *queue) flow(f *flow.Flow) admission {
	q.mu.Lock()
	defer q.mu.Unlock()
	b, a := q.open()
	if b == nil {
		return a
	}
	start := len(b.data)
	b.data = flow.AppendMessageFlow(b.data, f)
	if len(b.data)-start > maxRecord {
		b.data = b.data[:start]
		return tooLarge
	}
	if len(b.data) > blockSize && start > 0 {
		record := b.data[start:]
		b.data = b.data[:start]
		q.seal()
		next, a := q.open()
		if next == nil {
			return a
		}
		next.data = append(next.data, record...)
		b = next
	}
	b.append(q.size, q.most)
	q.queued++
	return admitted
}

// Message queues a message of its own.
func (q *queue) message(m *flow.Message) admission {
	q.mu.Lock()
	defer q.mu.Unlock()
	b, a := q.open()
	if b == nil {
		return a
	}
	b.data = m.AppendProto(b.data)
	b.ends = append(b.ends, len(b.data))
	b.last = closed
	if len(b.data) > blockSize {
		q.seal()
	}
	return admitted
}

// open returns the block to write to, nil when there is no room for one.
func (q *queue) open() (*block, admission) {
	if q.filling != nil {
		return q.filling, admitted
	}
	if (q.blocks-len(q.sent)+1)*blockSize > q.limit-q.limit/retained {
		return nil, queueFull
	}
	if n := len(q.spare); n > 0 {
		q.filling, q.spare = q.spare[n-1], q.spare[:n-1]
	} else {
		q.filling = &block{data: make([]byte, 0, blockSize+4096)} // mostly enough for the record that no longer fits
	}
	q.blocks++
	signal(q.some)
	return q.filling, admitted
}

func (q *queue) seal() {
	q.ready = append(q.ready, q.filling)
	q.filling = nil
	signal(q.full)
}

func (q *queue) release(b *block) {
	q.blocks--
	if len(q.spare) < spareLimit && cap(b.data) < 2*blockSize && !b.stuck {
		*b = block{data: b.data[:0], ends: b.ends[:0]}
		q.spare = append(q.spare, b)
	}
}

// flush lets the block that is being filled go as it is.
func (q *queue) flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.filling != nil && len(q.filling.ends) > 0 {
		q.seal()
	}
}

// take returns the oldest full block, nil when there is none. It must be given back.
func (q *queue) take() *block {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ready) == 0 {
		return nil
	}
	b := q.ready[0]
	q.ready = slices.Delete(q.ready, 0, 1)
	q.queued -= b.flows
	return b
}

// giveBack ends what take began: the block was sent, or goes back to where it was.
func (q *queue) giveBack(b *block, sent bool, to string, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !sent {
		q.ready = slices.Insert(q.ready, 0, b)
		q.queued += b.flows
		return
	}
	b.to, b.sent = to, at
	q.sent = append(q.sent, b)
	signal(q.room)
	if len(q.sent)*blockSize > q.limit/retained {
		q.release(q.sent[0])
		q.sent = slices.Delete(q.sent, 0, 1)
	}
}

// empty tells whether nothing waits.
func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ready) == 0 && q.filling == nil
}

// forget lets go of what was sent before a time.
func (q *queue) forget(before time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.sent) && q.sent[n].sent.Before(before) {
		q.release(q.sent[n])
		n++
	}
	q.sent = slices.Delete(q.sent, 0, n)
}

// again queues anew what was sent to an address since a time, and returns how many records that are.
func (q *queue) again(to string, since time.Time) (flows int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var back []*block
	q.sent = slices.DeleteFunc(q.sent, func(b *block) bool {
		if b.to != to || b.sent.Before(since) {
			return false
		}
		back = append(back, b)
		flows += b.flows
		return true
	})
	if len(back) > 0 {
		q.ready = slices.Insert(q.ready, 0, back...)
		q.queued += flows
		signal(q.full)
	}
	return flows
}

// length is what waits: records, and bytes of memory.
func (q *queue) length() (flows, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queued, (q.blocks - len(q.sent)) * blockSize
}

// waiting is the memory of what waits to be sent.
func (q *queue) waiting() int {
	_, bytes := q.length()
	return bytes
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
