package analyzer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/flow"
	"skydive/src/ws"
)

// FlowsOptions are the parts of Flows.
type FlowsOptions struct {
	Agents *Agents
	// Listen is where datagrams are expected, host:port; empty: nowhere. The datagrams are those of the hosts whose agents are connected.
	Listen string
	Intake ws.EndpointOptions // /ws/agent/flow, all but Connect
	Feed   ws.EndpointOptions // /ws/subscriber/flow, all but Connect
	Store  Store              // nil: flows are not kept

	MaxBuffer int           // flows that wait for the store, and as many for the feed; 100000
	Delay     time.Duration // how long flows wait for others before subscribers are told; 5 s

	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// Store keeps flows. Calls come one at a time; the records must not be changed, and are not used again.
type Store interface {
	StoreFlows(ctx context.Context, flows []*flow.Flow) error
}

// Flows takes flow records from agents, by UDP and by WebSocket, and hands them to a store and to subscribers. Neither waits for the
// other, and agents for neither, datagrams at least: each has a bounded queue, and what does not fit is counted.
type Flows struct {
	o       FlowsOptions
	metrics *flowMetrics
	intake  *ws.Endpoint
	feed    *feed
	stored  *batches // nil without store
	told    *batches
	udp     *receiver     // nil without Listen
	buffers sync.Pool     // of *bytes.Buffer
	wait    time.Duration // how long an agent on WebSocket is made to wait for room: pongs are not read meanwhile
	store   state
}

const storeFailing = "failing" // state of a store

const (
	feedBatch    = 100
	storeBatch   = 10000                  // flows that the store is given at once, at most
	storeEnough  = 1000                   // flows that it is given without waiting for more
	storeDelay   = time.Second            // how long fewer wait for more
	intakeWait   = 500 * time.Millisecond // how long an agent on WebSocket is made to wait for room
	maxFlowFrame = 16 << 20               // bytes of one message
)

// NewFlows returns inert Flows.
func NewFlows(o FlowsOptions) *Flows {
	o.MaxBuffer, o.Delay = cmp.Or(o.MaxBuffer, 100000), cmp.Or(o.Delay, 5*time.Second)
	f := &Flows{o: o, buffers: sync.Pool{New: func() any { return new(bytes.Buffer) }}}
	f.told = newBatches(o.MaxBuffer)
	if o.Store != nil {
		f.stored = newBatches(o.MaxBuffer)
	}
	f.metrics = newFlowMetrics(o.Registerer, f.stored, f.told)
	if o.Listen != "" {
		f.udp = newReceiver(o.Listen, o.Agents, f.metrics, o.Logger, f.take)
	}
	o.Intake.Connect = func(*ws.Conn) (ws.Session, error) { return intakeSession{f}, nil }
	o.Intake.Config.MaxMessage = maxFlowFrame
	f.wait = intakeWait
	if pong := o.Intake.Config.PongTimeout; pong > 0 {
		f.wait = min(f.wait, pong/4)
	}
	f.intake = ws.NewEndpoint(o.Intake)
	f.feed = newFeed(o.Feed, f.metrics)
	f.store.set("running", "")
	return f
}

// Intake is the endpoint of agents that send flows by WebSocket.
func (f *Flows) Intake() *ws.Endpoint { return f.intake }

// Feed is the endpoint of who wants to be told of flows.
func (f *Flows) Feed() *ws.Endpoint { return f.feed.Endpoint }

// Run takes and hands on flows until ctx ends; what has come by then is still stored.
func (f *Flows) Run(ctx context.Context) error {
	var taking, giving sync.WaitGroup
	errs := make([]error, 3)
	if f.udp != nil {
		taking.Go(func() { f.udp.run(ctx) })
	}
	taking.Go(func() { errs[0] = f.intake.Run(ctx) })
	giving.Go(func() { f.tell() })
	giving.Go(func() { errs[1] = f.feed.Run(ctx) })
	if f.stored != nil {
		giving.Go(func() { f.keep(ctx) })
	}
	<-ctx.Done()
	taking.Wait()
	f.told.close()
	if f.stored != nil {
		f.stored.close()
	}
	giving.Wait()
	return errors.Join(errs...)
}

// intakeSession is one agent that sends flows by WebSocket.
type intakeSession struct{ f *Flows }

// Receive takes one message. What cannot be read is counted, and the connection lives.
func (s intakeSession) Receive(r io.Reader) error {
	b := s.f.buffers.Get().(*bytes.Buffer)
	defer s.f.buffers.Put(b)
	b.Reset()
	if _, err := b.ReadFrom(r); err != nil {
		return fmt.Errorf("read flows: %w", err)
	}
	s.f.metrics.frames.Inc()
	s.f.take(b.Bytes(), time.After(s.f.wait))
	if b.Cap() > 1<<20 {
		*b = bytes.Buffer{} // a large message must not keep its memory
	}
	return nil
}

// Closed has nothing to do.
func (intakeSession) Closed(error) {}

// take decodes one message and queues what it holds. It does not keep data.
func (f *Flows) take(data []byte, patience <-chan time.Time) {
	var m flow.Message
	if err := m.UnmarshalProto(data); err != nil {
		f.metrics.invalid.Inc()
		return
	}
	if m.Stats != nil {
		f.feed.stats(m.Stats)
	}
	if len(m.Flows) == 0 {
		return
	}
	f.metrics.received.Add(float64(len(m.Flows)))
	if f.feed.listeners() > 0 && !f.told.put(m.Flows, nil) {
		f.metrics.lostFeed.Add(float64(len(m.Flows)))
	}
	if f.stored != nil && !f.stored.put(m.Flows, patience) {
		f.metrics.lostFull.Add(float64(len(m.Flows)))
	}
}

// tell gives subscribers what has come, a hundred flows at a time or when the delay is over.
func (f *Flows) tell() {
	for {
		flows, ok := f.told.next(feedBatch, feedBatch, f.o.Delay)
		if !ok {
			return
		}
		f.feed.flows(flows)
	}
}

// keep gives the store what has come. When the store fails, what it was given is lost, and nothing else stops.
func (f *Flows) keep(ctx context.Context) {
	ctx = context.WithoutCancel(ctx) // what has come is stored also at the end
	for {
		flows, ok := f.stored.next(storeEnough, storeBatch, storeDelay)
		if !ok {
			f.store.set("stopped", "")
			return
		}
		start := time.Now()
		err := f.o.Store.StoreFlows(ctx, flows)
		f.metrics.storeSeconds.Observe(time.Since(start).Seconds())
		if err == nil {
			f.metrics.stored.Add(float64(len(flows)))
			if f.store.set("running", "") {
				f.o.Logger.Info("Flows are stored again")
			}
			continue
		}
		f.metrics.lostStore.Add(float64(len(flows)))
		if f.store.set(storeFailing, err.Error()) {
			f.o.Logger.Error("Flows are not stored", "error", err)
		}
	}
}

// state is a state with its reason, for /api/status.
type state struct {
	mu     sync.Mutex // guards the rest
	name   string
	reason string
	since  time.Time
}

// set tells whether the state is another one now.
func (s *state) set(name, reason string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := s.name != name
	if changed {
		s.since = time.Now()
	}
	s.name, s.reason = name, reason
	return changed
}

// StateStatus is a state in /api/status.
type StateStatus struct {
	State  string
	Reason string `json:",omitempty"`
	Since  time.Time
}

func (s *state) status() StateStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return StateStatus{s.name, s.reason, s.since}
}

// FlowsStatus is Flows in /api/status.
type FlowsStatus struct {
	UDP         *UDPStatus               `json:",omitempty"`
	Store       *StateStatus             `json:",omitempty"`
	Agents      map[string]ws.ConnStatus // on /ws/agent/flow
	Subscribers map[string]ws.ConnStatus
	Received    int64            // flows
	Stored      int64            // flows
	Queued      int              // flows that wait for the store
	Lost        map[string]int64 `json:",omitempty"` // by reason: datagrams that the kernel dropped or that were refused, flows otherwise
}

// UDPStatus is the receiver of datagrams in /api/status.
type UDPStatus struct {
	StateStatus
	Listen      string
	ReadBuffer  int    // bytes that the kernel holds for us
	Datagrams   int64  // taken
	LastRefused string `json:",omitempty"` // address of the last sender that is no connected agent
}

// Status describes what flows, and what does not.
func (f *Flows) Status() FlowsStatus {
	st := FlowsStatus{Agents: f.intake.Status(), Subscribers: f.feed.Status()}
	f.metrics.fill(&st)
	if f.udp != nil {
		st.UDP = f.udp.status()
		st.UDP.Datagrams = value(f.metrics.datagrams)
	}
	if f.stored != nil {
		s := f.store.status()
		st.Store, st.Queued = &s, f.stored.length()
	}
	return st
}
