package capture

import (
	"context"
	"errors"
	"slices"
	"sync"

	"skydive/src/flow"
)

// ErrBusy tells that as many follow captures as may.
var ErrBusy = errors.New("too many follow captures of this agent")

const (
	followLimit = 16       // at a time
	followBytes = 4 << 20  // that wait for one follower
	chunkBytes  = 64 << 10 // of packets that are delivered together
	chunkCost   = 256      // bytes that a chunk takes besides its packets
	packetCost  = 64       // bytes that a packet takes besides its data
	spareChunks = 8        // that are kept for later
)

// Batch is packets of one node as they were taken, in order.
type Batch struct {
	Node    Node
	Link    uint32        // LINKTYPE_* of pcap
	Packets []flow.Packet // none when there is only more lost
	Lost    int64         // packets of this node that the follower did not get so far, because it was too slow
}

// follower is who wants the packets of a capture.
type follower struct {
	capture string
	lost    func(packets int)
	wake    chan struct{} // something was queued, or lost

	inputs map[*Intake]*input // guarded by Manager.mu

	mu    sync.Mutex // guards below
	queue []*chunk   // oldest first
	bytes int        // of what was queued and has not been given back
	spare []*chunk
	late  []*input // that have lost packets since they last told how many
}

// input is what a follower takes from one intake.
type input struct {
	follower *follower
	intake   *Intake
	lost     int64  // guarded by follower.mu
	open     *chunk // that has room; guarded by follower.mu
}

// chunk holds copies of packets.
type chunk struct {
	input   *input
	data    []byte
	packets []flow.Packet // their Data is set when the chunk takes no more
	ends    []int         // of each packet in data
	bytes   int           // as they count
}

// offer copies packets for the follower, or counts them as lost. It never waits but for others who copy.
func (i *input) offer(batch []flow.Packet) {
	f := i.follower
	f.mu.Lock()
	n := 0
	for n < len(batch) && i.add(&batch[n]) {
		n++
	}
	if lost := len(batch) - n; lost > 0 {
		i.lost += int64(lost)
		f.lost(lost)
		if !slices.Contains(f.late, i) {
			f.late = append(f.late, i)
		}
	}
	f.mu.Unlock()
	if len(batch) > 0 {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// add copies a packet, if there is room. Called with mu.
func (i *input) add(p *flow.Packet) bool {
	f, cost := i.follower, len(p.Data)+packetCost
	fresh := i.open == nil || i.open.bytes+cost > chunkBytes
	if fresh {
		cost += chunkCost
	}
	if f.bytes+cost > followBytes {
		return false
	}
	if fresh {
		i.open = &chunk{}
		if n := len(f.spare); n > 0 {
			i.open, f.spare = f.spare[n-1], f.spare[:n-1]
		}
		i.open.input = i
		f.queue = append(f.queue, i.open)
	}
	c := i.open
	c.data = append(c.data, p.Data...)
	c.ends = append(c.ends, len(c.data))
	c.packets = append(c.packets, flow.Packet{Length: p.Length, Time: p.Time})
	c.bytes += cost
	f.bytes += cost
	return true
}

// next returns what is to be delivered next, and the chunk to give back afterwards, if any.
func (f *follower) next() (b Batch, c *chunk, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var i *input
	switch {
	case len(f.queue) > 0:
		c = f.queue[0]
		f.queue = slices.Delete(f.queue, 0, 1)
		i = c.input
		if i.open == c {
			i.open = nil
		}
		start := 0
		for n, end := range c.ends {
			c.packets[n].Data = c.data[start:end:end]
			start = end
		}
		b.Packets = c.packets
	case len(f.late) > 0:
		i = f.late[0]
	default:
		return b, nil, false
	}
	f.late = slices.DeleteFunc(f.late, func(o *input) bool { return o == i })
	b.Node, b.Link, b.Lost = i.intake.node, i.intake.link, i.lost
	return b, c, true
}

func (f *follower) giveBack(c *chunk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes -= c.bytes
	if len(f.spare) < spareChunks {
		*c = chunk{data: c.data[:0], packets: c.packets[:0], ends: c.ends[:0]}
		f.spare = append(f.spare, c)
	}
}

// Follow hands the packets of a capture, on whichever nodes of this agent it runs or will run, to deliver until ctx ends (nil) or deliver
// fails. It calls began as soon as no packet is missed. Packets that come faster than deliver takes them are lost to the follower only,
// and counted. A batch is valid until deliver returns.
func (m *Manager) Follow(ctx context.Context, captureID string, began func(), deliver func(Batch) error) error {
	f := &follower{
		capture: captureID, wake: make(chan struct{}, 1), inputs: make(map[*Intake]*input),
		lost: func(n int) { m.metrics.followers.Add(float64(n)) },
	}
	if !m.follow(f) {
		return ErrBusy
	}
	defer m.unfollow(f)
	began()
	for ctx.Err() == nil {
		b, c, ok := f.next()
		if !ok {
			select {
			case <-f.wake:
			case <-ctx.Done():
			}
			continue
		}
		if err := deliver(b); err != nil {
			return err
		}
		if c != nil {
			f.giveBack(c)
		}
	}
	return nil
}

func (m *Manager) follow(f *follower) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.followers) >= followLimit {
		return false
	}
	m.followers = append(m.followers, f)
	m.connect(f.capture)
	return true
}

func (m *Manager) unfollow(f *follower) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.followers = slices.DeleteFunc(m.followers, func(o *follower) bool { return o == f })
	m.connect(f.capture)
}

// connect tells the intakes of a capture who follows it. Called with mu.
func (m *Manager) connect(captureID string) {
	var intakes []*Intake
	for _, r := range m.running {
		if r.capture.UUID == captureID {
			intakes = append(intakes, r.intake)
		}
	}
	inputs := make(map[*Intake][]*input)
	for _, f := range m.followers {
		if f.capture != captureID {
			continue
		}
		kept := make(map[*Intake]*input, len(intakes))
		for _, in := range intakes {
			i := f.inputs[in]
			if i == nil {
				i = &input{follower: f, intake: in}
			}
			kept[in] = i
			inputs[in] = append(inputs[in], i)
		}
		f.inputs = kept
	}
	for _, in := range intakes {
		if list := inputs[in]; len(list) > 0 {
			in.inputs.Store(&list)
		} else {
			in.inputs.Store(nil)
		}
	}
}
