// Package mirror captures on Open vSwitch: it has the switch copy the packets of a port to an interface of our own, or tell by sFlow,
// NetFlow or IPFIX what passes a bridge.
//
// All that it puts into the database of the switch is marked as ours and taken out again: when the capture ends, when it was left behind
// by an agent that was killed, and when the database was away meanwhile. It never changes what others put there: a bridge that already
// exports sFlow for its administrator is not captured by sFlow. It decodes nothing and knows no graph.
package mirror

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"skydive/src/capture"
	"skydive/src/capture/sampled"
	"skydive/src/ovs"
)

// Options of a Switch.
type Options struct {
	Database string // address, as of ovs.Options
	TLS      func() *tls.Config
	Host     string // whose captures these are: rows that other hosts put into the same database stay

	Interface capture.Kind // takes the packets of the interface that a port is mirrored to
	SFlow     Pool
	NetFlow   Pool // of IPFIX, too
	Sampled   sampled.Options

	// Mirroring is told which interface gets the packets of a port, of which it knows the node, until end is called. It may be nil.
	Mirroring func(iface, nodeID string) (end func())
	Log       *slog.Logger
}

// Pool is where we listen to what the switch tells of bridges: each capture has a port.
type Pool struct {
	Address          string // to bind to; "": 127.0.0.1
	MinPort, MaxPort int    // both included
}

const (
	retryFirst = time.Second
	retryLast  = 5 * time.Second
	patience   = 5 * time.Second // with the database, the switch, and captures that end
)

// Switch is the Open vSwitch of this host.
type Switch struct {
	o      Options
	client *ovs.Client

	mu        sync.Mutex // guards all below
	tables    map[string]map[ovs.UUID]ovs.Row
	connected bool
	reason    error         // why it is not
	changed   chan struct{} // closed, and another one made, with each change of the above
	live      map[string]struct{}
	life      string // in all marks, so that what an agent before us left behind has none of them
	serial    int
}

// New makes a Switch that does nothing until Run is called.
func New(o Options) *Switch {
	s := &Switch{
		o: o, client: ovs.New(ovs.Options{Address: o.Database, Database: "Open_vSwitch", TLS: o.TLS, Log: o.Log}),
		changed: make(chan struct{}), live: make(map[string]struct{}), reason: errors.New("not tried yet"),
		life: strconv.FormatInt(time.Now().UnixNano(), 36),
	}
	s.client.Monitor(s.take,
		ovs.Table{Name: "Bridge", Columns: []string{"name", "ports", "mirrors", "sflow", "netflow", "ipfix"}},
		ovs.Table{Name: "Port", Columns: []string{"name", "tag", "trunks", "vlan_mode", "external_ids"}},
		ovs.Table{Name: "Interface", Columns: []string{"name", "ofport", "error"}},
		ovs.Table{Name: "Mirror", Columns: []string{"name", "external_ids"}},
		ovs.Table{Name: "sFlow", Columns: []string{"targets", "external_ids"}},
		ovs.Table{Name: "NetFlow", Columns: []string{"targets", "external_ids"}},
		ovs.Table{Name: "IPFIX", Columns: []string{"targets", "external_ids"}},
	)
	return s
}

// Kinds returns the kinds of source of this package by name of the capture type.
func (s *Switch) Kinds() map[string]capture.Kind {
	kinds := map[string]capture.Kind{
		"ovsmirror": {New: func(r capture.Request) capture.Source { return &port{s: s, request: r} }, Several: true, Traffic: true},
	}
	for name, e := range exports(s.o) {
		kinds[name] = capture.Kind{
			New:     func(r capture.Request) capture.Source { return &bridge{s: s, export: e, request: r} },
			Traffic: true, Exports: true,
		}
	}
	return kinds
}

// Run keeps the connection to the database until ctx ends, and takes out what nobody wants any more. Captures that end with ctx have
// a little time to do so.
func (s *Switch) Run(ctx context.Context) error {
	open, closeAll := context.WithCancel(context.WithoutCancel(ctx))
	var loops sync.WaitGroup
	loops.Go(func() { s.connecting(open) })
	loops.Go(func() { s.sweeping(open) })
	<-ctx.Done()
	_ = s.within(open, func() (bool, error) { return !s.connected || len(s.live) == 0, nil }, func() error { return nil })
	s.swept(open)
	closeAll()
	loops.Wait()
	return nil
}

func (s *Switch) connecting(ctx context.Context) {
	for delay := retryFirst; ; delay = min(2*delay, retryLast) {
		err := s.client.Run(ctx)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		if s.connected {
			s.o.Log.Info("Captures lost the database of Open vSwitch", "error", err)
			delay = retryFirst
		}
		s.connected, s.reason = false, err
		s.notify()
		s.mu.Unlock()
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// take takes over what changed in the database.
func (s *Switch) take(b ovs.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Initial {
		s.tables = make(map[string]map[ovs.UUID]ovs.Row)
	}
	for _, c := range b.Changes {
		switch {
		case c.New == nil:
			delete(s.tables[c.Table], c.UUID)
		case s.tables[c.Table] == nil:
			s.tables[c.Table] = map[ovs.UUID]ovs.Row{c.UUID: c.New}
		default:
			s.tables[c.Table][c.UUID] = c.New
		}
	}
	s.connected = true
	s.notify()
	return nil
}

// notify wakes all who wait. Called with mu.
func (s *Switch) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait waits until check, which is called with mu, is done or fails, or ctx ends.
func (s *Switch) wait(ctx context.Context, check func() (done bool, err error)) error {
	for {
		s.mu.Lock()
		done, err := check()
		changed := s.changed
		s.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// within is wait with an end to the patience; late says what did not happen.
func (s *Switch) within(ctx context.Context, check func() (bool, error), late func() error) error {
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := s.wait(short, check)
	if err != nil && short.Err() != nil && ctx.Err() == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return late()
	}
	return err
}

// ready waits for the connection, and until what was left behind is not in the way any more.
func (s *Switch) ready(ctx context.Context) error {
	err := s.within(ctx, func() (bool, error) { return s.connected, nil }, func() error {
		return fmt.Errorf("the database of Open vSwitch cannot be reached: %w", s.reason)
	})
	if err == nil {
		s.swept(ctx)
	}
	return err
}

// claim makes a mark for rows and keeps those that have it until the claim is released, which takes them out.
func (s *Switch) claim(r *capture.Request) (mark string, release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	mark = r.Capture.UUID + "/" + r.Node.UUID + "/" + s.life + "." + strconv.Itoa(s.serial)
	s.live[mark] = struct{}{}
	return mark, sync.OnceFunc(func() {
		s.mu.Lock()
		delete(s.live, mark)
		s.notify()
		s.mu.Unlock()
		s.swept(context.Background())
	})
}

// both runs what captures and what watches over its rows, until one of them ends.
func both(ctx context.Context, guard, run func(context.Context) error) error {
	inner, end := context.WithCancelCause(ctx)
	var guarding sync.WaitGroup
	guarding.Go(func() {
		if err := guard(inner); err != nil {
			end(err) // without effect when inner has ended
		}
	})
	err := run(inner)
	why := context.Cause(inner)
	end(nil)
	guarding.Wait()
	if why != nil && ctx.Err() == nil {
		return why
	}
	return err
}
