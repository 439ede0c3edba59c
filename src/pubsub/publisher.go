package pubsub

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// DeleteOnDisconnect is the X-Persistence-Policy of peers whose nodes go with their connection. Any other means that they stay.
const DeleteOnDisconnect = "DeleteOnDisconnect"

// PublisherOptions are the parts of a Publisher.
type PublisherOptions struct {
	Endpoint ws.EndpointOptions // all but Connect
	Graph    *graph.Graph
	Source   string // of the commits: who caused them
	Metrics  *Metrics
	// Host is given to elements that come without one. An agent gives its own, or analyzers would refuse to take them from it.
	Host string
	// Own is the origin of what the service itself keeps up, as an agent does with what it sees on its host: peers may neither delete
	// that nor take this origin for theirs. It may be empty.
	Own string
	// Merger gives the rules for one peer; nil: those for external publishers, who may touch everything.
	Merger func(ws.Peer) wire.Merger
	// Other takes messages outside the namespace Graph, on the goroutine of their connection; nil: they are counted only.
	Other func(*ws.Conn, *wire.Message)
}

// Producers hears of the peers that change the graph, and has a say in what becomes of what they sent.
type Producers interface {
	// Begins is called before the first Graph message of a peer is applied, Began after it.
	Begins(ws.Peer)
	Began(ws.Peer)
	// Left is called when such a peer has gone, for the reason that ws.Session.Closed is told, and all it sent was applied. True: what
	// it sent stays, whatever its policy.
	Left(ws.Peer, error) bool
}

// Publisher is an endpoint that writes what its peers send into a graph.
type Publisher struct {
	*ws.Endpoint
	o         PublisherOptions
	path      string
	queue     chan order
	stop      chan struct{} // closed once the endpoint is gone
	stopping  atomic.Bool   // peers are being disconnected by us: that is not their end
	decoders  sync.Pool     // of *wire.Decoder
	bad       complaints
	producers Producers // nil: nobody
	refusal   func()    // logs the first refusal of the present transaction; belongs to the goroutine that applies

	mu       sync.Mutex          // guards sessions
	sessions map[string]*session // by host id

	graphMessages, otherMessages, invalidMessages, refusedElements prometheus.Counter
}

const (
	orderQueue = 1024             // orders waiting for the graph, of all peers
	batchSize  = 1024             // orders in one transaction
	batchPause = time.Millisecond // between two transactions
)

// order is one thing to do for a peer, in the sequence in which peers ask for it.
type order struct {
	from *session
	msg  *wire.Message // nil: nothing, or the deletion of what it sent
	gone bool          // the peer has disconnected
	done chan struct{} // closed when it was done; may be nil
}

// NewPublisher returns an inert Publisher.
func NewPublisher(o PublisherOptions) *Publisher {
	p := &Publisher{
		o: o, path: o.Endpoint.Path, queue: make(chan order, orderQueue), stop: make(chan struct{}),
		sessions:        make(map[string]*session),
		decoders:        sync.Pool{New: func() any { return wire.NewDecoder() }},
		bad:             complaints{log: o.Endpoint.Logger},
		graphMessages:   o.Metrics.messages.WithLabelValues(o.Endpoint.Path, "graph"),
		otherMessages:   o.Metrics.messages.WithLabelValues(o.Endpoint.Path, "other"),
		invalidMessages: o.Metrics.messages.WithLabelValues(o.Endpoint.Path, "invalid"),
		refusedElements: o.Metrics.refused.WithLabelValues(o.Endpoint.Path),
	}
	o.Endpoint.Connect = p.connect
	p.Endpoint = ws.NewEndpoint(o.Endpoint)
	return p
}

// Attach has w hear of the peers. It must be called before Run.
func (p *Publisher) Attach(w Producers) { p.producers = w }

// Run applies what peers send until ctx ends, then disconnects them. What they sent stays in the graph then.
func (p *Publisher) Run(ctx context.Context) error {
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		p.apply()
	}()
	<-ctx.Done()
	p.stopping.Store(true)
	err := p.Endpoint.Run(ctx)
	close(p.stop)
	<-idle
	return err
}

// PublisherStatus is a connection in /api/status, with what the graph did not take from it.
type PublisherStatus struct {
	ws.ConnStatus
	Refused       int64  `json:",omitempty"` // elements
	RefusedReason string `json:",omitempty"` // of the last one
}

// Status describes the connections by host id.
func (p *Publisher) Status() map[string]PublisherStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := make(map[string]PublisherStatus, len(p.sessions))
	for id, s := range p.sessions {
		st := PublisherStatus{ConnStatus: s.conn.Status(), Refused: s.refused.Load()}
		if reason := s.reason.Load(); reason != nil {
			st.RefusedReason = *reason
		}
		status[id] = st
	}
	return status
}

// do queues an order, behind all that came before it, and tells whether it was taken.
func (p *Publisher) do(o order) bool {
	select {
	case p.queue <- o:
		return true
	case <-p.stop:
		return false
	}
}

// wait is do until the order was carried out.
func (p *Publisher) wait(o order) bool {
	o.done = make(chan struct{})
	if !p.do(o) {
		return false
	}
	select {
	case <-o.done:
		return true
	case <-p.stop:
		return false
	}
}

// apply carries out orders: the first at once, and what comes within batchPause after it in one transaction. A flood of small
// messages costs few commits then, and few wake-ups: handing over each message by itself takes as long as applying it.
func (p *Publisher) apply() {
	batch := make([]order, 0, batchSize)
	for {
		select {
		case o := <-p.queue:
			batch = append(batch, o)
		case <-p.stop:
			return
		}
		for more := true; more && len(batch) < batchSize; {
			select {
			case o := <-p.queue:
				batch = append(batch, o)
			default:
				more = false
			}
		}
		p.commit(batch)
		for _, o := range batch {
			if o.done != nil {
				close(o.done)
			}
		}
		clear(batch)
		batch = batch[:0]
		select {
		case <-time.After(batchPause):
		case <-p.stop:
			return
		}
	}
}

// commit survives a panic, which would be a fault of ours that a peer must not be able to end the process with; the graph takes
// the transaction back.
func (p *Publisher) commit(batch []order) {
	defer func() {
		if r := recover(); r != nil {
			p.o.Endpoint.Logger.Error("panic while applying messages, they are lost", "path", p.path, "messages", len(batch),
				"panic", r, "stack", string(debug.Stack()))
		}
	}()
	p.refusal = nil
	_ = p.o.Graph.Update(p.o.Source, func(tx *graph.Tx) error {
		for _, o := range batch {
			switch {
			case o.msg != nil:
				o.from.merger.Apply(tx, o.msg)
			case o.gone:
				o.from.merger.Delete(tx)
			}
		}
		return nil // what cannot be done is refused element by element
	})
	if p.refusal != nil {
		p.refusal()
	}
}

// session is one connected publisher.
type session struct {
	p        *Publisher
	conn     *ws.Conn
	protocol wire.Protocol
	merger   wire.Merger
	sent     bool // something of the namespace Graph; belongs to the connection's goroutine
	told     bool // and it was applied
	refused  atomic.Int64
	reason   atomic.Pointer[string]
}

func (p *Publisher) connect(c *ws.Conn) (ws.Session, error) {
	peer := c.Peer()
	if peer.Origin() == p.o.Own {
		return nil, fmt.Errorf("%s is this service itself: choose another X-Client-Type or X-Host-ID", p.o.Own)
	}
	s := &session{p: p, conn: c, protocol: protocol(peer), merger: wire.Merger{
		Origin: peer.Origin(), Publisher: true, Host: p.o.Host, Kept: p.o.Own, Said: make(map[string]int64),
	}}
	if p.o.Merger != nil {
		s.merger = p.o.Merger(peer)
	}
	s.merger.Refused = s.refuse
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions[peer.HostID] = s
	return s, nil
}

// refuse runs inside the transaction that did not take an element, so it leaves the log for later.
func (s *session) refuse(err error) {
	s.p.refusedElements.Inc()
	s.refused.Add(1)
	reason := err.Error()
	s.reason.Store(&reason)
	if s.p.refusal == nil {
		s.p.refusal = func() { s.p.bad.warn("Element from peer refused", s.conn.Peer(), err) }
	}
}

// Receive takes one message. A bad one is counted and forgotten: the connection lives.
func (s *session) Receive(r io.Reader) error {
	if m, ok := s.decode(r); ok {
		return s.take(m)
	}
	return nil
}

func (s *session) decode(r io.Reader) (m *wire.Message, ok bool) {
	d := s.p.decoders.Get().(*wire.Decoder)
	m, err := d.Decode(r, s.protocol)
	s.p.decoders.Put(d)
	if err != nil {
		s.p.invalidMessages.Inc()
		s.p.bad.warn("Message from peer dropped", s.conn.Peer(), err)
	}
	return m, err == nil
}

func (s *session) take(m *wire.Message) error {
	if m.Namespace != wire.NamespaceGraph {
		s.p.otherMessages.Inc()
		if s.p.o.Other != nil {
			s.p.o.Other(s.conn, m)
		}
		return nil
	}
	s.p.graphMessages.Inc()
	switch body := m.Body.(type) {
	case nil:
		s.p.bad.warn("Message from peer ignored", s.conn.Peer(), fmt.Errorf("unknown type %q", m.Type))
	case *wire.SyncRequest:
		// Answered when all before it is done, but outside the transaction.
		if s.p.wait(order{from: s}) {
			return s.reply(m, body)
		}
	case *wire.Sync:
		// Waited for, so that a peer cannot pile up whole graphs in the queue.
		s.begins()
		s.p.wait(order{from: s, msg: m})
		s.began()
	default:
		s.begins()
		if s.told {
			s.p.do(order{from: s, msg: m})
		} else {
			s.p.wait(order{from: s, msg: m})
			s.began()
		}
	}
	return nil
}

func (s *session) begins() {
	if !s.sent && s.p.producers != nil {
		s.p.producers.Begins(s.conn.Peer())
	}
	s.sent = true
}

func (s *session) began() {
	if !s.told && s.p.producers != nil {
		s.p.producers.Began(s.conn.Peer())
	}
	s.told = true
}

// reply sends the whole graph.
func (s *session) reply(m *wire.Message, r *wire.SyncRequest) error {
	if !s.conn.Peer().Wants(wire.NamespaceGraph) {
		return nil
	}
	reply := m.Reply(wire.TypeSyncReply, 400, nil)
	if r.Time == 0 {
		g := s.p.o.Graph.Snapshot()
		reply = m.Reply(wire.TypeSyncReply, 200, wire.NewSync(g.Nodes(field.Filter{}), g.Edges(field.Filter{})))
	}
	// An error means that the connection is over, which its Closed is told.
	_ = s.conn.Send(reply.Append(nil, s.protocol))
	return nil
}

// Closed deletes what the peer sent, if that is its policy and it was not us who ended the connection because we stop.
func (s *session) Closed(err error) {
	s.p.mu.Lock()
	delete(s.p.sessions, s.conn.Peer().HostID)
	s.p.mu.Unlock()
	if !s.sent || s.p.stopping.Load() {
		return
	}
	if w := s.p.producers; w != nil {
		s.p.wait(order{from: s}) // all before it is done
		if w.Left(s.conn.Peer(), err) {
			return
		}
	}
	if s.conn.Peer().PersistencePolicy == DeleteOnDisconnect {
		s.p.wait(order{from: s, gone: true})
	}
}
