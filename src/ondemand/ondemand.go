// Package ondemand makes what is asked for happen on the hosts: it finds the nodes that each stored capture, or packet injection,
// selects, tells their agents to start, tells them to stop when it is deleted or selects them no more, and knows how far that got.
//
// One Engine serves one kind of resource. It never captures or sends a packet, never writes to the graph or the store, and never stops
// what runs because it ends itself: agents go on, and whoever leads next finds in the graph what runs.
package ondemand

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/graph"
	"skydive/src/resource"
	"skydive/src/wire"
)

// Options are the parts of an Engine.
type Options struct {
	Graph *graph.Graph
	// Watch tells of every stored value below prefix, then once that these were all, then of each change, until ctx ends; a nil value
	// means deleted or expired. It may tell anew that these were all.
	Watch func(ctx context.Context, prefix string, fn func(key string, value []byte, synced bool)) error
	// Ask sends a request to the agent of a host and waits for its reply. Its error wraps Away when that agent is not connected.
	Ask  func(ctx context.Context, host string, m *wire.Message) (*wire.Message, error)
	Away error
	// Notify tells subscribers; nil: nobody is told.
	Notify func(namespace, typ string, obj []byte)
	// Leads tells whether this engine is the one of its cluster that talks to agents; nil: always. Others only watch.
	Leads      func() bool
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not registered
}

const (
	commitQueue = 4096 // commits that may wait; when more do, the whole graph is looked at instead
	batch       = 256  // commits taken at once
	askTimeout  = 10 * time.Second
	perHost     = 8 // requests under way to one agent

	settle        = 20 * time.Millisecond // changes are gathered this long
	selectTimeout = 2 * time.Second
	pause         = 4 // after a query over the whole graph none is made for this many times as long
	longestPause  = 8 * time.Second

	firstRetry = time.Second
	lastRetry  = time.Minute
	stable     = time.Minute      // what ran this long may fail anew without waiting longer
	unseen     = 10 * time.Second // how long the graph may take to show what an agent said it had started
	awayRetry  = time.Second
	tellTime   = time.Second // how much later than the graph the store may tell

	noticePause = 200 * time.Millisecond // between two notifications that something about a resource changed
	noticeBurst = 32                     // such notifications at once: queues of subscribers are bounded
	leadPause   = time.Second            // between two looks at Leads
)

// Engine starts and stops one kind of resource.
type Engine struct {
	o       Options
	kind    *kind
	metrics *metrics
	replies chan reply
	asking  sync.WaitGroup

	mu      sync.Mutex // guards all below, which only Run changes
	began   time.Time
	synced  bool
	leading bool
	looked  time.Time // at Leads
	entries map[string]*entry
	byNode  map[string][]*task  // by identifier of the node
	watched []string            // fields of nodes and edges that any selection goes by
	roots   map[string]struct{} // keys of the first level that they may be below
	always  bool                // any selection goes by what each update changes
	edges   bool                // any selection goes by edges
	changed map[string]struct{} // nodes to test, by identifier
	settled time.Time           // when to do so; zero while nothing changed
	free    time.Time           // when the next query over the whole graph may be made
	known   []resource.Exporter // that the graph has
	mapped  int                 // their version
	remap   bool                // they may be others now
	hosts   map[string]*host
	later   agenda
	notices []*entry // to be told of
	noticed time.Time
}

// entry is one resource with what became of it.
type entry struct {
	stored
	selection *selection
	fault     string // why its nodes cannot be selected
	deleted   bool
	whole     bool             // the query must be made over the whole graph
	urgent    bool             // and now
	ran       time.Time        // when it was made last
	tasks     map[string]*task // by what the kind goes by
	next      int              // number of the next task
	pass      uint64
	told      bool                // a notification waits
	said      map[string]struct{} // reasons that the log has
	cached    cachedNode
}

// NewCaptures returns an inert engine for captures.
func NewCaptures(o Options) *Engine { return newEngine(o, captures()) }

// NewInjections returns an inert engine for packet injections.
func NewInjections(o Options) *Engine { return newEngine(o, injections()) }

func newEngine(o Options, k *kind) *Engine {
	if o.Notify == nil {
		o.Notify = func(string, string, []byte) {}
	}
	if o.Leads == nil {
		o.Leads = func() bool { return true }
	}
	return &Engine{
		o: o, kind: k, metrics: newMetrics(o.Registerer, k.Name), replies: make(chan reply),
		entries: make(map[string]*entry), byNode: make(map[string][]*task), changed: make(map[string]struct{}), hosts: make(map[string]*host),
	}
}

// Leading tells whether this engine is the one that talks to agents.
func (e *Engine) Leading() bool { return e.o.Leads() }

type storeEvent struct {
	key    string
	value  []byte
	synced bool
}

// Run works until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer e.asking.Wait()
	defer cancel()
	e.began = time.Now()
	events, watch := make(chan storeEvent), make(chan error, 1)
	e.asking.Go(func() {
		watch <- e.o.Watch(ctx, "/"+e.kind.Name+"/", func(key string, value []byte, synced bool) {
			select {
			case events <- storeEvent{key, value, synced}:
			case <-ctx.Done():
			}
		})
	})
	commits, _ := e.o.Graph.Subscribe(commitQueue)
	defer func() { commits.Close() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-watch:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch stored %s: %w", e.kind.Name, err)
		case ev := <-events:
			e.store(ev)
		case r := <-e.replies:
			e.answered(r)
		case c, ok := <-commits.C():
			if ok = ok && e.follow(c, commits); !ok {
				commits.Close()
				commits, _ = e.o.Graph.Subscribe(commitQueue)
				e.metrics.lost.Inc()
				e.rescan()
			}
		case <-timer.C:
		}
		e.work(ctx)
		timer.Reset(e.idle())
	}
}

// follow takes a commit and those that wait behind it; false when some were lost.
func (e *Engine) follow(c *graph.Commit, more *graph.Subscription) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for range batch {
		e.commit(c)
		var ok bool
		select {
		case c, ok = <-more.C():
			if !ok {
				return false
			}
		default:
			return true
		}
	}
	e.commit(c)
	return true
}

// store takes what became of a stored resource.
func (e *Engine) store(ev storeEvent) {
	if ev.synced {
		if !e.synced {
			e.mu.Lock()
			e.synced = true
			e.mu.Unlock()
			e.rescan()
		}
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	id := ev.key[len(e.kind.Name)+2:]
	old := e.entries[id]
	if ev.value == nil {
		if old != nil && !old.deleted {
			e.remove(old)
		}
		return
	}
	s, err := e.kind.read(ev.value)
	if err != nil {
		e.o.Logger.Warn("A stored resource cannot be read", "kind", e.kind.Name, "id", id, "error", err)
		return
	}
	if old == nil {
		old = &entry{tasks: make(map[string]*task)}
		e.entries[id] = old
	}
	old.stored, old.deleted, old.fault, old.said = s, false, "", make(map[string]struct{})
	old.stored.old = !e.synced && s.started.Before(e.began)
	old.whole, old.urgent = true, true
	if old.selection, err = newSelection(s.query); err != nil {
		old.fault, old.whole = err.Error(), false
		e.o.Logger.Warn("A selection cannot be used", "kind", e.kind.Name, "id", id, "error", err)
	}
	e.watch()
	if e.synced {
		e.o.Notify(e.kind.notice, "Added", old.json)
	}
}

// remove stops a resource that is no more.
func (e *Engine) remove(x *entry) {
	x.deleted = true
	e.o.Notify(e.kind.notice, "Deleted", x.json)
	for _, t := range x.tasks {
		e.unwant(t)
	}
	e.forget(x)
	e.watch()
}

// forget drops a deleted resource of which nothing runs any more.
func (e *Engine) forget(x *entry) {
	if x.deleted && len(x.tasks) == 0 && e.entries[x.id] == x {
		delete(e.entries, x.id)
	}
}

// watch works out what the selections go by.
func (e *Engine) watch() {
	seen := make(map[string]struct{})
	e.watched, e.roots, e.always, e.edges = nil, make(map[string]struct{}), false, false
	for _, x := range e.entries {
		if x.deleted || x.selection == nil {
			continue
		}
		e.edges = e.edges || x.selection.edges
		for _, path := range x.selection.paths {
			if _, dup := seen[path]; !dup {
				seen[path] = struct{}{}
				e.watched = append(e.watched, path)
				e.always = e.always || path == "@UpdatedAt" || path == "@Revision"
				for i := range len(path) + 1 { // a key may hold dots
					if i == len(path) || path[i] == '.' {
						e.roots[path[:i]] = struct{}{}
					}
				}
			}
		}
	}
}

// work does what is due, but at most one query over the whole graph.
func (e *Engine) work(ctx context.Context) {
	now := time.Now()
	e.mu.Lock()
	if leads := e.o.Leads(); leads != e.leading {
		e.leading = leads
		e.lead(now)
	}
	e.looked = now
	if !e.synced {
		e.mu.Unlock()
		return
	}
	ripe := !e.settled.IsZero() && !now.Before(e.settled)
	x := e.due(now, ripe)
	e.mu.Unlock()
	if x != nil {
		e.selectAll(ctx, x)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if ripe {
		e.settled = time.Time{}
		e.relearn()
		e.selectChanged(ctx)
	}
	now = time.Now()
	for _, t := range e.later.take(now) {
		e.step(t)
	}
	for _, h := range e.hosts {
		e.send(ctx, h, now)
	}
	e.notify(now)
}

// lead brings on what others saw to before. What should have been done once by now, was.
func (e *Engine) lead(now time.Time) {
	for _, x := range e.entries {
		for _, t := range x.tasks {
			if e.kind.once && !x.deleted && !t.running && now.Sub(x.started) > unseen {
				e.set(t, Done, "")
			}
			e.step(t)
		}
	}
}

// due returns a resource whose nodes are to be looked for in the whole graph: of several the one that was not for longest.
func (e *Engine) due(now time.Time, ripe bool) (due *entry) {
	for _, x := range e.entries {
		switch {
		case !x.whole || x.deleted:
		case x.urgent:
			return x
		case !now.Before(e.free) && (ripe || e.settled.IsZero()) && (due == nil || x.ran.Before(due.ran)):
			due = x
		}
	}
	return due
}

// idle tells for how long nothing is to be done unless something happens.
func (e *Engine) idle() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	until := e.looked.Add(leadPause)
	by := func(t time.Time) {
		if t.Before(until) {
			until = t
		}
	}
	if e.synced {
		if !e.settled.IsZero() {
			by(e.settled)
		}
		for _, x := range e.entries {
			if x.whole && !x.deleted && x.urgent {
				return 0
			}
			if x.whole && !x.deleted {
				by(later(e.free, e.settled))
			}
		}
		if len(e.later) > 0 {
			by(e.later[0].at)
		}
		for _, h := range e.hosts {
			if len(h.waiting) > 0 && h.flight == 0 { // else an answer, or its lack, comes first
				by(h.retry)
			}
		}
		if len(e.notices) > 0 {
			by(e.noticed.Add(noticePause))
		}
	}
	return max(0, time.Until(until))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// mark notes that subscribers should be told of a change.
func (e *Engine) mark(x *entry) {
	if !x.told && !x.deleted {
		x.told = true
		e.notices = append(e.notices, x)
	}
}

func (e *Engine) notify(now time.Time) {
	if len(e.notices) == 0 || now.Before(e.noticed.Add(noticePause)) {
		return
	}
	e.noticed = now
	n := min(noticeBurst, len(e.notices))
	for _, x := range e.notices[:n] {
		x.told = false
		if !x.deleted {
			e.o.Notify(e.kind.notice, "NodeUpdated", x.json)
		}
	}
	e.notices = append(e.notices[:0], e.notices[n:]...)
}
