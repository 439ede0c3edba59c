package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"skydive/src/bpf"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/resource"
)

// State is how a capture is doing on a node.
type State string

// All states.
const (
	Starting State = "starting"
	Active   State = "active"
	Waiting  State = "waiting" // for its interface to come up
	Failed   State = "error"   // tried again after a while
)

const (
	retryFirst = time.Second
	retryLast  = time.Minute

	// When nobody tells that the interface is up, or gone: first it is always down.
	retryDownFirst = 250 * time.Millisecond
	retryDownLast  = 5 * time.Second

	// goodRun is how long a source must have run for its next failure to count as the first.
	goodRun = time.Minute
)

// running is one capture on one node.
type running struct {
	m       *Manager
	nodeID  string
	capture resource.Capture
	name    string // of the kind
	kind    Kind
	link    bpf.LinkType
	snapLen int
	log     *slog.Logger
	table   *flow.Table // nil: packets go to the target
	intake  *Intake
	target  Target           // nil: flows go to the Sink; set before the first packet, with emitting and mu
	emit    func(*flow.Flow) // guarded by emitting

	kick chan struct{} // the node changed
	done chan struct{} // closed when run has ended

	emitting sync.Mutex // held while flows are given on; guards ended
	ended    bool

	metering sync.Mutex // held while metrics are given on; guards the next three
	metered  bool       // no more are
	metrics  field.Object
	meterKey string // "": there are none

	cancel func() // guarded by Manager.mu

	mu        sync.Mutex // guards all below
	node      Node       // its ID and TID never change
	state     State
	reason    string
	since     time.Time
	extra     field.Object // that the source shows
	source    Source       // nil: none yet
	base      Counters     // of earlier sources
	last      Counters     // that were read last
	lastTable flow.Counts
	interrupt func() // ends the current attempt
}

// makeTable makes what packets go into.
func (r *running) makeTable(first flow.FirstLayer) {
	r.intake = &Intake{node: r.node, link: uint32(r.link)}
	o := r.m.options.Flow
	o.NodeTID, o.CaptureID, o.FirstLayer, o.MPLSUDPPorts = r.node.TID, r.capture.UUID, first, r.node.MPLSUDPPorts
	if mode := r.capture.LayerKeyMode; mode != "" {
		o.L3 = mode == "L3"
	}
	o.RawPacketLimit, o.HeaderSize, o.ExtraLayers = r.capture.RawPacketLimit, r.snapLen, r.capture.ExtraLayers
	o.ExtraTCPMetric, o.IPDefrag, o.ReassembleTCP = r.capture.ExtraTCPMetric, r.capture.IPDefrag, r.capture.ReassembleTCP
	r.table = flow.NewTable(o)
	r.intake.packets, r.intake.table = r.table.Packets, r.table
	r.emit = r.m.options.Sink.Flow
}

// run runs sources, one after the other, until ctx ends.
func (r *running) run(ctx context.Context) {
	defer close(r.done)
	delay, down := retryFirst, retryDownFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := r.attempt(ctx)
		if ctx.Err() != nil {
			break
		}
		r.mu.Lock()
		worked := r.state == Active
		r.mu.Unlock()
		wait := time.Duration(0) // interrupted: the node is elsewhere now
		switch {
		case errors.Is(err, ErrDown):
			if worked {
				down = retryDownFirst
			}
			wait, delay = down, retryFirst
			down = min(2*down, retryDownLast)
			r.become(Waiting, err.Error(), nil)
		case err != nil:
			if time.Since(began) > goodRun {
				delay = retryFirst
			}
			wait = delay
			delay = min(2*delay, retryLast)
			r.become(Failed, err.Error(), nil)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-r.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
	r.end()
}

// attempt runs one source. It returns nil when it was interrupted.
func (r *running) attempt(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	r.interrupt = cancel
	node := r.node
	r.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			r.m.metrics.panics.Inc()
			r.log.Error("Panic in a capture", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	filter, err := r.filter(ctx, r.snapLen)
	if err != nil {
		return err
	}
	if err := r.makeTarget(node); err != nil {
		return err
	}
	r.mu.Lock()
	asked := r.capture
	r.mu.Unlock()
	source := r.kind.New(Request{
		Node: node, Capture: asked, Filter: filter, Link: r.link, SnapLen: r.snapLen, Intake: r.intake, Log: r.log,
	})
	r.mu.Lock()
	if r.source != nil {
		r.base = r.base.plus(r.source.Counters())
	}
	r.source = source
	r.mu.Unlock()
	r.tick() // begins the intervals
	r.remapped(source, asked.Exporters)
	err = source.Run(ctx, func(extra field.Object) { r.become(Active, "", extra) })
	if err == nil && ctx.Err() == nil {
		err = errors.New("packet source ended")
	}
	return err
}

// makeTarget opens the target, once.
func (r *running) makeTarget(node Node) error {
	if r.capture.TargetType == "" || r.target != nil {
		return nil
	}
	target, err := r.m.options.Targets[r.capture.TargetType].New(TargetRequest{node, r.capture.Target, r.link, r.snapLen})
	if err != nil {
		return fmt.Errorf("target %s: %w", r.capture.Target, err)
	}
	if _, wants := target.(PacketTarget); wants && r.kind.Records {
		return errors.Join(fmt.Errorf("captures of type %s have no packets for a target of type %s", r.name, r.capture.TargetType), target.Close())
	}
	r.emitting.Lock()
	defer r.emitting.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
	switch t := target.(type) {
	case PacketTarget:
		r.intake.packets, r.intake.table = t.Packets, nil
	case FlowTarget:
		r.emit = t.Flow
	}
	return nil
}

// end gives on what the table still has.
func (r *running) end() {
	r.read() // so that the last statistics are complete
	r.unmeter()
	r.emitting.Lock()
	defer r.emitting.Unlock()
	r.ended = true
	now := r.now()
	if now.IsZero() {
		now = time.Now()
	}
	r.table.Flush(now, r.emit)
	r.m.options.Sink.Stats(r.table.Stats())
	if r.target == nil {
		return
	}
	r.flushTarget()
	if err := r.target.Close(); err != nil {
		r.log.Warn("Target of a capture", "error", err)
	}
}

func (r *running) flushTarget() {
	if t, ok := r.target.(FlowTarget); ok {
		t.Flush()
	}
}

// now is the time of the packets; zero when there is none yet.
func (r *running) now() time.Time {
	r.mu.Lock()
	source := r.source
	r.mu.Unlock()
	switch c := source.(type) {
	case nil:
		return time.Time{}
	case Clock:
		return c.Now()
	}
	return time.Now()
}

// tick gives on the flows that are due.
func (r *running) tick() {
	r.emitting.Lock()
	defer r.emitting.Unlock()
	if r.ended {
		return
	}
	if now := r.now(); !now.IsZero() {
		r.table.Tick(now, r.emit)
		r.flushTarget()
	}
}

// report gives the counters to the Sink.
func (r *running) report() {
	r.emitting.Lock()
	defer r.emitting.Unlock()
	if !r.ended {
		r.m.options.Sink.Stats(r.table.Stats())
	}
}

// become changes the state and has it published. A reason is logged once, not at every attempt.
func (r *running) become(s State, reason string, extra field.Object) {
	r.mu.Lock()
	was, why := r.state, r.reason
	r.extra = extra
	if was != s || why != reason {
		r.state, r.reason, r.since = s, reason, time.Now()
	}
	r.mu.Unlock()
	switch {
	case was == s && why == reason:
		return
	case s == Failed:
		r.log.Warn("Capture failed, tried again until it works", "error", reason)
		r.m.metrics.failures.Inc()
	default:
		r.log.Info("Capture", "state", s, "reason", reason)
	}
	r.m.mu.Lock()
	r.m.changed(r.nodeID)
	r.m.mu.Unlock()
}

// update takes over how the node is now. Called with Manager.mu.
func (r *running) update(node Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	moved, rose := !r.node.same(&node), node.Up && !r.node.Up
	node.TID = r.node.TID
	r.node = node
	if moved && r.interrupt != nil {
		r.interrupt()
	}
	if moved || rose {
		select {
		case r.kick <- struct{}{}:
		default:
		}
	}
}

// read reads the counters; changed tells whether the metadata would show others than before.
func (r *running) read() (state State, changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.base
	if r.source != nil {
		now = now.plus(r.source.Counters())
	}
	if lost := now.Dropped - r.last.Dropped; lost > 0 {
		r.table.Drop(lost)
	}
	table := r.table.Counts()
	now.Malformed += table.Malformed
	changed = now != r.last || table.Evicted != r.lastTable.Evicted || table.Truncated != r.lastTable.Truncated ||
		table.FragmentsDropped+table.SegmentsDropped+table.RawPacketsDropped !=
			r.lastTable.FragmentsDropped+r.lastTable.SegmentsDropped+r.lastTable.RawPacketsDropped
	r.m.metrics.count(r.last, now, r.lastTable, table)
	r.last, r.lastTable = now, table
	return r.state, changed
}

// filtered is how many packets the user's filter refused. Of a filter inside the kernel that is what the interface counted more than came
// through, segments that are captured in one piece included. Called with mu.
func (r *running) filtered() int64 {
	if r.last.Filtered == 0 && r.capture.BPFFilter != "" && r.last.Seen > 0 {
		return max(0, r.last.Seen-r.last.Received)
	}
	return r.last.Filtered
}

// entry is what the metadata shows.
func (r *running) entry() field.Object {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := append(field.Object(nil), r.extra...)
	set := func(key string, v field.Value) { o = append(o, field.Entry{Key: key, Value: v}) }
	text := func(key, v string) {
		if v != "" {
			set(key, v)
		}
	}
	count := func(key string, n int64) {
		if n != 0 {
			set(key, n)
		}
	}
	text("ID", r.capture.UUID)
	text("Name", r.capture.Name)
	text("Description", r.capture.Description)
	text("BPFFilter", r.capture.BPFFilter)
	text("Type", r.name)
	text("State", string(r.state))
	text("Error", r.reason)
	set("Since", r.since.UnixMilli())
	set("PacketsReceived", r.last.Received)
	set("PacketsDropped", r.last.Dropped)
	set("PacketsIfDropped", r.last.IfDropped)
	count("PacketsFiltered", r.filtered())
	count("PacketsMalformed", r.last.Malformed)
	count("PacketsSeen", r.last.Seen)
	count("ExportsMissing", r.last.Missing)
	count("ExportsRepeated", r.last.Repeated)
	count("ExportsUnknown", r.last.Unknown)
	count("PacketsTruncated", r.lastTable.Truncated)
	count("FlowsDropped", r.lastTable.Evicted)
	count("FragmentsDropped", r.lastTable.FragmentsDropped)
	count("SegmentsDropped", r.lastTable.SegmentsDropped)
	count("RawPacketsDropped", r.lastTable.RawPacketsDropped)
	if r.target != nil {
		count("TargetDropped", r.target.Lost())
	}
	pairs := make([]any, 0, 2*len(o))
	for _, e := range o {
		pairs = append(pairs, e.Key, e.Value)
	}
	return field.Make(pairs...)
}

// remap takes over which nodes the interfaces of exporters are.
func (r *running) remap(exporters []Exporter) {
	r.mu.Lock()
	r.capture.Exporters = exporters
	source := r.source
	r.mu.Unlock()
	if m, ok := source.(Mapper); ok {
		m.Map(exporters)
	}
}

// remapped tells a source what changed while it was made.
func (r *running) remapped(source Source, known []Exporter) {
	r.mu.Lock()
	now := r.capture.Exporters
	r.mu.Unlock()
	if m, ok := source.(Mapper); ok && !slices.Equal(now, known) {
		m.Map(now)
	}
}

// meter gives on what the source counts besides packets.
func (r *running) meter() {
	r.mu.Lock()
	m, ok := r.source.(Meter)
	r.mu.Unlock()
	if !ok || r.m.options.Metrics == nil {
		return
	}
	r.metering.Lock()
	defer r.metering.Unlock()
	key, metrics := m.Metrics()
	if !r.metered && len(metrics) > 0 && !field.Equal(metrics, r.metrics) {
		r.metrics, r.meterKey = metrics, key
		r.m.options.Metrics(r.nodeID, key, metrics)
	}
}

// unmeter takes it away.
func (r *running) unmeter() {
	r.metering.Lock()
	defer r.metering.Unlock()
	if r.meterKey != "" {
		r.m.options.Metrics(r.nodeID, r.meterKey, nil)
	}
	r.metered = true
}
