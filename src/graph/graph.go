// Package graph is the topology in memory: nodes and edges with metadata, indexes, transactions, immutable snapshots and ordered
// change events.
//
// There is one way to write, Update, and any number of readers, each on a Snapshot that no later write touches. The package knows
// nothing of the network, of history, or of who reads.
package graph

import (
	"sync"
	"sync/atomic"
	"time"
)

// Options of a graph; all may be left out.
type Options struct {
	// Clock stamps elements; time.Now by default.
	Clock func() time.Time
	// Hooks run in each transaction that changed something, before it is committed, and may change more.
	Hooks []func(*Tx)
}

// Graph is safe for use by several goroutines.
type Graph struct {
	clock func() time.Time
	hooks []func(*Tx)
	last  atomic.Pointer[Snapshot] // of the present state; nil after a change, until somebody asks

	mu    sync.Mutex // guards all below
	state state
	free  []uint32 // slots of deleted nodes
	seq   uint64
	subs  map[*Subscription]struct{}
}

// New returns an empty graph.
func New(o Options) *Graph {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return &Graph{clock: o.Clock, hooks: o.Hooks, subs: make(map[*Subscription]struct{})}
}

// Snapshot returns the graph as of now. It is cheap: nothing is copied.
func (g *Graph) Snapshot() *Snapshot {
	if s := g.last.Load(); s != nil {
		return s
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.snapshot()
}

func (g *Graph) snapshot() *Snapshot {
	if s := g.last.Load(); s != nil {
		return s
	}
	frozen := g.state
	g.state.epoch++
	s := &Snapshot{View{&frozen}}
	g.last.Store(s)
	return s
}

// Update runs fn as a transaction. When fn returns an error everything it did is taken back and the error is returned. Otherwise
// the hooks run, and subscribers get all changes as one Commit that carries source, the name of who caused it ("" when it was this
// process itself). fn must not call other methods of the graph.
func (g *Graph) Update(source string, fn func(*Tx) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	tx := &Tx{View: View{&g.state}, g: g}
	committed := false
	defer func() {
		if !committed { // an error, or a panic of fn: the graph stays whole
			tx.undo()
			g.last.Store(nil)
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	if len(tx.changes) > 0 {
		for _, hook := range g.hooks {
			hook(tx)
		}
	}
	committed = true
	if len(tx.changes) > 0 {
		g.seq++
		g.last.Store(nil) // before anybody hears of the commit and asks for the graph after it
		g.publish(&Commit{Seq: g.seq, Source: source, Changes: tx.changes})
	}
	return nil
}

func (g *Graph) addNode(n *Node) {
	slot := uint32(len(g.state.pages) * pageSlots)
	if len(g.free) == 0 {
		// A new page gives its slots in ascending order.
		for i := slot + pageSlots - 1; i > slot; i-- {
			g.free = append(g.free, i)
		}
	} else {
		slot = g.free[len(g.free)-1]
		g.free = g.free[:len(g.free)-1]
	}
	g.state.addNode(slot, n)
}

func (g *Graph) dropNode(id string) { g.free = append(g.free, g.state.dropNode(id)) }

// Commit is what one transaction changed.
type Commit struct {
	Seq     uint64
	Source  string
	Changes []Change
}

// Subscription delivers commits in order, through a bounded queue.
type Subscription struct {
	g    *Graph
	c    chan *Commit
	lost atomic.Bool
}

// Subscribe returns the present graph and a subscription to every commit after it; the queue holds as many commits as told. A
// subscriber that falls further behind loses its subscription rather than stalling writers: see Lost.
func (g *Graph) Subscribe(queue int) (*Subscription, *Snapshot) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := &Subscription{g: g, c: make(chan *Commit, queue)}
	g.subs[s] = struct{}{}
	return s, g.snapshot()
}

// C is closed by Close, or when the queue overflowed.
func (s *Subscription) C() <-chan *Commit { return s.c }

// Lost tells that commits were lost: subscribe anew and go by that snapshot.
func (s *Subscription) Lost() bool { return s.lost.Load() }

// Close ends the subscription; it may be called more than once.
func (s *Subscription) Close() {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.g.drop(s)
}

func (g *Graph) drop(s *Subscription) {
	if _, ok := g.subs[s]; ok {
		delete(g.subs, s)
		close(s.c)
	}
}

// publish never blocks, though it holds the lock: that keeps the order without a second lock.
func (g *Graph) publish(c *Commit) {
	for s := range g.subs {
		select {
		case s.c <- c:
		default:
			s.lost.Store(true)
			g.drop(s)
		}
	}
}
