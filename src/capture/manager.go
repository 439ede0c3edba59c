package capture

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/bpf"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/resource"
)

const (
	tickEvery      = time.Second      // how often tables are asked what is due
	reportEvery    = 10 * time.Second // of flow.Stats to the Sink
	publishEvery   = 20 * time.Millisecond
	defaultSnapLen = 256
	defaultLimit   = 1000
)

// Options of a Manager.
type Options struct {
	Kinds       map[string]Kind       // by name of the capture type
	Targets     map[string]TargetKind // by TargetType
	Sink        Sink
	Publish     func(nodeID string, captures field.List) // what the node's metadata shall show under Captures; nil: nothing
	Metrics     func(nodeID, key string, v field.Object) // what it shall show of a Meter; nil: nothing. May be nil itself
	Flow        flow.Options                             // of every table; what belongs to a capture is filled in
	Excluded    []string                                 // host:port of our own servers, whose traffic is not captured
	StatsUpdate time.Duration                            // between two readings of counters; 0: a second
	Limit       int                                      // captures at a time; 0: 1000
	Log         *slog.Logger
	Registerer  prometheus.Registerer
}

// Manager runs captures.
type Manager struct {
	options   Options
	addresses addresses
	metrics   *metrics
	wake      chan struct{} // there is something in dirty

	mu        sync.Mutex          // guards all below
	ctx       context.Context     // of Run; nil when it is not running
	running   []*running          // in order of their start
	refused   []refusal           // shown; no more than may run
	followers []*follower         //
	dirty     map[string]struct{} // nodes whose metadata changed
	group     sync.WaitGroup      // of the goroutines of running
}

// New makes a Manager that does nothing until Run is called.
func New(o Options) *Manager {
	if o.StatsUpdate <= 0 {
		o.StatsUpdate = time.Second
	}
	if o.Limit <= 0 {
		o.Limit = defaultLimit
	}
	return &Manager{options: o, metrics: newMetrics(o.Registerer), wake: make(chan struct{}, 1), dirty: map[string]struct{}{}}
}

// Run runs the captures until ctx ends, and then ends them all, which gives their flows to the Sink.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	m.ctx = ctx
	for _, r := range m.running {
		m.launch(r)
	}
	m.mu.Unlock()

	var loops sync.WaitGroup
	loops.Go(func() { m.publishing(ctx) })
	loops.Go(func() { m.reading(ctx) })
	m.ticking(ctx)
	loops.Wait()

	m.mu.Lock()
	m.ctx, m.running = nil, nil
	m.mu.Unlock()
	m.group.Wait()
	return nil
}

// launch starts the goroutine of a capture. Called with mu, while Run runs.
func (m *Manager) launch(r *running) {
	ctx, cancel := context.WithCancel(m.ctx)
	r.cancel = cancel
	m.group.Go(func() { r.run(ctx) })
}

// Start captures on a node. What runs already stays as it is. The error is a *RefusedError when the capture cannot run there at all, which
// the metadata shows, too; other trouble shows there only, and is tried again.
func (m *Manager) Start(node Node, c resource.Capture) error {
	err := m.start(node, c)
	m.note(node.ID, c, err)
	return err
}

func (m *Manager) start(node Node, c resource.Capture) error {
	name, kind, err := m.resolve(node.Type, c.Type)
	if err != nil {
		return err
	}
	if kind.Interface && node.IfIndex <= 0 {
		return refuse(http.StatusBadRequest, "node %s is no interface of the kernel; what a switch keeps to itself is captured at its port (Type ovsport)", node.Name)
	}
	first, link := layers(node.EncapType)
	if _, err := bpf.Compile(c.BPFFilter, link, defaultSnapLen); err != nil && c.BPFFilter != "" {
		return refuse(http.StatusBadRequest, "filter: %s", err)
	}
	r := &running{
		m: m, nodeID: node.ID, node: node, capture: c, name: name, kind: kind, link: link, cancel: func() {},
		kick: make(chan struct{}, 1), done: make(chan struct{}), state: Starting, since: time.Now(),
		log: m.options.Log.With("capture", c.UUID, "node", node.Name, "type", name),
	}
	r.snapLen = c.HeaderSize
	if err := r.aim(); err != nil {
		return err
	}
	if r.snapLen == 0 {
		r.snapLen = defaultSnapLen
	}
	r.makeTable(first)

	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.running {
		if o.nodeID != node.ID {
			continue
		}
		if o.capture.UUID == c.UUID {
			o.remap(c.Exporters)
			return nil
		}
		if !kind.Several && o.name == name {
			return refuse(http.StatusConflict, "capture %s of type %s is on this node already, and only one can be", o.capture.UUID, name)
		}
	}
	if len(m.running) >= m.options.Limit {
		return refuse(http.StatusInsufficientStorage, "%d captures run on this agent, no more can", len(m.running))
	}
	m.running = append(m.running, r)
	m.connect(c.UUID)
	if m.ctx != nil {
		m.launch(r)
	}
	m.changed(node.ID)
	return nil
}

// aim checks where the capture is to send to.
func (r *running) aim() error {
	c := &r.capture
	if c.TargetType == "local" {
		c.TargetType = ""
	}
	exports := r.kind.Exports && c.Target != ""
	if exports {
		c.TargetType = ""
	} else if c.TargetType == "" {
		c.Target = ""
		return nil
	}
	kind, ok := r.m.options.Targets[c.TargetType]
	if !ok && !exports {
		return refuse(http.StatusBadRequest, "targets of type %q are not known", c.TargetType)
	}
	if host, _, err := net.SplitHostPort(c.Target); err != nil || host == "" {
		return refuse(http.StatusBadRequest, "target %q is not host:port", c.Target)
	}
	if r.snapLen == 0 {
		r.snapLen = kind.SnapLen
	}
	return nil
}

// Stop ends a capture on a node, when its flows have been given to the Sink. It returns ErrNotFound when there is none.
func (m *Manager) Stop(nodeID, captureID string) error {
	gone, refused := m.remove(func(id string, c *resource.Capture) bool { return id == nodeID && c.UUID == captureID })
	switch {
	case len(gone) == 0 && refused > 0:
		return nil
	case len(gone) == 0:
		return fmt.Errorf("stop capture %s on node %s: %w", captureID, nodeID, ErrNotFound)
	}
	m.mu.Lock()
	m.changed(nodeID)
	launched := m.ctx != nil
	m.mu.Unlock()
	if launched {
		<-gone[0].done
	}
	return nil
}

// Gone ends all captures of a node that does not exist any more. It does not wait.
func (m *Manager) Gone(nodeID string) {
	m.remove(func(id string, _ *resource.Capture) bool { return id == nodeID })
}

// Update tells how a node is now: captures that wait for it go on at once.
func (m *Manager) Update(node Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.running {
		if r.nodeID == node.ID {
			r.update(node)
		}
	}
}

// remove takes captures out and tells them to end. Those that were refused are forgotten.
func (m *Manager) remove(which func(nodeID string, c *resource.Capture) bool) (gone []*running, refused int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused = slices.DeleteFunc(m.refused, func(r refusal) bool {
		if !which(r.nodeID, &r.capture) {
			return false
		}
		refused++
		m.changed(r.nodeID)
		return true
	})
	m.running = slices.DeleteFunc(m.running, func(r *running) bool {
		if !which(r.nodeID, &r.capture) {
			return false
		}
		gone = append(gone, r)
		return true
	})
	for _, r := range gone {
		r.cancel()
		m.connect(r.capture.UUID)
	}
	return gone, refused
}

// Tables are the flow tables of all captures whose flows stay here.
func (m *Manager) Tables() []*flow.Table {
	var tables []*flow.Table
	for _, r := range m.snapshot() {
		if r.capture.TargetType == "" {
			tables = append(tables, r.table)
		}
	}
	return tables
}

func (m *Manager) snapshot() []*running {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.running)
}

// ticking gives tables the time, and their counters to the Sink.
func (m *Manager) ticking(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for report := time.Now().Add(reportEvery); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		all := m.snapshot()
		for _, r := range all {
			r.tick()
		}
		if time.Now().After(report) {
			report = time.Now().Add(reportEvery)
			for _, r := range all {
				r.report()
			}
		}
	}
}

// reading reads counters.
func (m *Manager) reading(ctx context.Context) {
	tick := time.NewTicker(m.options.StatsUpdate)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		states := map[State]int{}
		for _, r := range m.snapshot() {
			state, changed := r.read()
			r.meter()
			states[state]++
			if changed {
				m.mu.Lock()
				m.changed(r.nodeID)
				m.mu.Unlock()
			}
		}
		m.metrics.states(states)
	}
}

// changed has the metadata of a node published. Called with mu.
func (m *Manager) changed(nodeID string) {
	m.dirty[nodeID] = struct{}{}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// publishing is the one goroutine that publishes, so that what is published last is true.
func (m *Manager) publishing(ctx context.Context) {
	pause := time.NewTicker(publishEvery) // many captures of a node change together
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		}
		m.mu.Lock()
		lists := make(map[string]field.List, len(m.dirty))
		for id := range m.dirty {
			lists[id] = nil
		}
		clear(m.dirty)
		all, refused := slices.Clone(m.running), slices.Clone(m.refused)
		m.mu.Unlock()
		for _, r := range all {
			if list, ok := lists[r.nodeID]; ok {
				lists[r.nodeID] = append(list, r.entry())
			}
		}
		for _, r := range refused {
			if list, ok := lists[r.nodeID]; ok {
				lists[r.nodeID] = append(list, r.entry())
			}
		}
		for id, list := range lists {
			m.options.Publish(id, list)
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}
