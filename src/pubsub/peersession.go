package pubsub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// peerSession is one connection to an analyzer of another cluster.
type peerSession struct {
	l       *peerLink
	conn    *ws.Conn
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	decoder *wire.Decoder      // belongs to the connection's goroutine
	heard   chan *wire.Message // of the peer, not applied yet

	mu  sync.Mutex // guards err
	err error      // why this side gave up
}

// newPeerSession asks for the graph, and gives what there is.
func newPeerSession(l *peerLink, c *ws.Conn) *peerSession {
	s := &peerSession{l: l, conn: c, decoder: wire.NewDecoder(), heard: make(chan *wire.Message, batchSize)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if l.c.Subscribe != "" {
		s.running.Go(s.apply)
		// The filter came with the connection.
		request := &wire.Message{Namespace: wire.NamespaceGraph, Type: wire.TypeSyncRequest, UUID: graph.NewID(), Status: 200, Body: &wire.SyncRequest{}}
		s.running.Go(func() { _ = s.send(request) })
	}
	if l.c.Publish != "" {
		s.running.Go(s.publish)
	}
	return s
}

func (s *peerSession) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *peerSession) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	s.conn.Close(ws.StatusNormal, err.Error())
}

// Closed ends what runs for the connection.
func (s *peerSession) Closed(error) {
	s.cancel()
	s.running.Wait()
	s.l.published.Store(0)
}

// Receive takes one message. One that cannot be read might be a change, so that what follows would be applied to another graph than that
// of the peer: a new connection begins with all of it.
func (s *peerSession) Receive(r io.Reader) error {
	m, err := s.decoder.Decode(r, wire.JSON)
	if err != nil {
		s.fail(err)
		return nil
	}
	if m.Namespace != wire.NamespaceGraph || s.l.c.Subscribe == "" {
		return nil
	}
	s.l.received.Inc()
	if m.Type == wire.TypeSyncReply && m.Status >= 400 {
		s.fail(fmt.Errorf("the graph is refused with status %d: %s", m.Status, m.Obj))
		return nil
	}
	switch body := m.Body.(type) {
	case *wire.Sync:
		m.Body = s.l.own(body)
	case *graph.Node:
		if s.l.echo(&body.Element) {
			return nil
		}
	case *graph.Edge:
		if s.l.echo(&body.Element) {
			return nil
		}
	case *wire.PartialUpdate:
	default:
		return nil
	}
	select {
	case s.heard <- m:
	case <-s.ctx.Done():
	}
	return nil
}

// apply carries out what the peer tells, as much at a time as there is.
func (s *peerSession) apply() {
	origin := s.l.origin()
	merger := wire.Merger{
		Origin: origin, Publisher: true, Said: make(map[string]int64), Owns: func(e *graph.Element) bool { return e.Origin == origin }, Refused: s.l.refuse,
	}
	batch := make([]*wire.Message, 0, batchSize)
	for {
		select {
		case m := <-s.heard:
			batch = append(batch[:0], m)
		case <-s.ctx.Done():
			return
		}
		for more := true; more && len(batch) < batchSize; {
			select {
			case m := <-s.heard:
				batch = append(batch, m)
			default:
				more = false
			}
		}
		_ = s.l.o.Graph.Update(peerSource, func(tx *graph.Tx) error {
			for _, m := range batch {
				merger.Apply(tx, m)
			}
			return nil // what cannot be done is refused element by element
		})
		clear(batch)
	}
}

func (s *peerSession) send(m *wire.Message) error {
	err := s.conn.SendWait(s.ctx, m.Append(nil, wire.JSON))
	if err == nil {
		s.l.sent.Inc()
	}
	return err
}

// publication is what a peer was given.
type publication struct {
	s     *peerSession
	nodes map[string]bool
	edges map[string]bool
}

// publish gives the peer what it is to have, and what changes in it, until the connection ends.
func (s *peerSession) publish() {
	for s.ctx.Err() == nil {
		commits, snapshot := s.l.o.Graph.Subscribe(commitQueue)
		err := s.follow(commits, snapshot)
		commits.Close()
		if err != nil && s.ctx.Err() == nil && !errors.Is(err, ws.ErrClosed) {
			s.fail(err)
			return
		}
	}
}

// follow returns nil when there were more commits than the peer took: it is to be given the graph anew.
func (s *peerSession) follow(commits *graph.Subscription, snapshot *graph.Snapshot) error {
	p := &publication{s: s, nodes: make(map[string]bool), edges: make(map[string]bool)}
	if err := p.all(snapshot); err != nil {
		return err
	}
	for {
		s.l.published.Store(int64(len(p.nodes) + len(p.edges)))
		select {
		case <-s.ctx.Done():
			return s.ctx.Err()
		case commit, ok := <-commits.C():
			if !ok {
				return nil
			}
			for _, ch := range commit.Changes {
				if err := p.change(ch); err != nil {
					return err
				}
			}
		}
	}
}

// wants tells whether a node is for the peer.
func (p *publication) wants(n *graph.Node) bool {
	return n != nil && !foreign(&n.Element) && p.s.l.publish.Match(n)
}

// all sends everything that is for the peer, in one message that replaces what it was given before.
func (p *publication) all(g *graph.Snapshot) error {
	sync := &wire.Sync{}
	for n := range g.Nodes(field.Filter{}) {
		if p.wants(n) {
			p.nodes[n.ID] = true
			sync.Nodes = append(sync.Nodes, p.node(n))
		}
	}
	for e := range g.Edges(field.Filter{}) {
		if p.nodes[e.Parent] && p.nodes[e.Child] && !foreign(&e.Element) {
			p.edges[e.ID] = true
			sync.Edges = append(sync.Edges, p.edge(e))
		}
	}
	return p.s.send(&wire.Message{Namespace: wire.NamespaceGraph, Type: wire.TypeSync, UUID: graph.NewID(), Status: 200, Body: sync})
}

// node is a node as the peer is to have it: public servers keep the origin of what comes in a Sync.
func (p *publication) node(n *graph.Node) *graph.Node {
	c := *n
	c.Origin = peerType + "." + p.s.l.o.Cluster
	return &c
}

func (p *publication) edge(e *graph.Edge) *graph.Edge {
	c := *e
	c.Origin = peerType + "." + p.s.l.o.Cluster
	return &c
}

func (p *publication) tell(typ string, body wire.Body) error {
	return p.s.send(&wire.Message{Namespace: wire.NamespaceGraph, Type: typ, UUID: graph.NewID(), Status: 200, Body: body})
}

// change tells what a change of the graph is to the peer.
func (p *publication) change(ch graph.Change) error {
	switch ch.Kind {
	case graph.NodeAdded, graph.NodeUpdated:
		was, is := p.nodes[ch.Node.ID], p.wants(ch.Node)
		switch {
		case was && is:
			return p.tell(wire.TypeNodeUpdated, p.node(ch.Node))
		case is:
			p.nodes[ch.Node.ID] = true
			if err := p.tell(wire.TypeNodeAdded, p.node(ch.Node)); err != nil || ch.Kind == graph.NodeAdded {
				return err
			}
			return p.edgesOf(ch.Node.ID)
		case was:
			return p.withdraw(ch.Node)
		}
	case graph.NodeDeleted:
		if p.nodes[ch.Node.ID] {
			return p.withdraw(ch.Node)
		}
	case graph.EdgeAdded:
		return p.add(ch.Edge)
	case graph.EdgeUpdated:
		if p.edges[ch.Edge.ID] {
			return p.tell(wire.TypeEdgeUpdated, p.edge(ch.Edge))
		}
	case graph.EdgeDeleted:
		if p.edges[ch.Edge.ID] {
			delete(p.edges, ch.Edge.ID)
			return p.tell(wire.TypeEdgeDeleted, p.edge(ch.Edge))
		}
	}
	return nil
}

func (p *publication) add(e *graph.Edge) error {
	if p.edges[e.ID] || !p.nodes[e.Parent] || !p.nodes[e.Child] || foreign(&e.Element) {
		return nil
	}
	p.edges[e.ID] = true
	return p.tell(wire.TypeEdgeAdded, p.edge(e))
}

// edgesOf gives the peer the edges of a node that it has got.
func (p *publication) edgesOf(id string) error {
	g := p.s.l.o.Graph.Snapshot()
	for e := range g.Out(id) {
		if err := p.add(e); err != nil {
			return err
		}
	}
	for e := range g.In(id) {
		if err := p.add(e); err != nil {
			return err
		}
	}
	return nil
}

// withdraw takes a node back, and with it its edges.
func (p *publication) withdraw(n *graph.Node) error {
	g := p.s.l.o.Graph.Snapshot()
	for e := range g.Out(n.ID) {
		delete(p.edges, e.ID)
	}
	for e := range g.In(n.ID) {
		delete(p.edges, e.ID)
	}
	delete(p.nodes, n.ID)
	return p.tell(wire.TypeNodeDeleted, p.node(n))
}
