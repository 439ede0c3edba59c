package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/graph"
)

// State is what a probe is doing.
type State string

const (
	Starting State = "starting" // its first view is not in the graph yet
	Active   State = "running"
	Stopping State = "stopping"
	Stopped  State = "stopped"
	Failed   State = "failed" // tried again after a while, unless its configuration is wrong
	Absent   State = "absent" // this host, or this version, does not have it
)

// Status is the state of a probe as /api/status shows it.
type Status struct {
	Status State
	Reason string `json:",omitempty"` // why it failed or is absent, or what a running one cannot see
	Since  time.Time
}

const (
	retryFirst  = time.Second
	retryLast   = time.Minute
	retryAbsent = 10 * time.Second // what is started after the agent is seen soon
	// goodRun is how long a probe must have run for its next failure to count as the first.
	goodRun = time.Minute
)

// notRebuilt are probes of the public Skydive that this one leaves out for good.
var notRebuilt = []string{"bess", "dpdk", "opencontrail", "vpp"}

// Options of a supervisor.
type Options struct {
	Graph        *graph.Graph
	Root         string                            // node that shows the states under Probes; "" where there is none, in analyzers
	Host, Origin string                            // of all that the probes add; without a Root, each probe has the origin <Origin>.<name>
	Specs        []Spec                            // every probe there is
	Names        []string                          // those to run; unknown ones are shown as absent
	Load         func(name string, into any) error // fills the configuration of a probe; nil leaves the defaults
	Log          *slog.Logger
	Registerer   prometheus.Registerer
}

// Supervisor runs probes, again whenever they stop, and tells how they are.
type Supervisor struct {
	options Options
	metrics *metrics
	units   []*unit
}

// unit is one probe under supervision.
type unit struct {
	*Supervisor
	name  string
	probe Probe // nil: never to run
	log   *slog.Logger

	mu     sync.Mutex // guards all below
	status Status
	run    int // number of the current run, 0 between runs: a call of Running from an earlier one is void
}

// NewSupervisor makes the probes that are asked for. One that cannot be made is shown as failed.
func NewSupervisor(o Options) (*Supervisor, error) {
	if o.Graph == nil || o.Root != "" && o.Graph.Snapshot().Node(o.Root) == nil {
		return nil, errors.New("probes need a graph, and the host node in it")
	}
	s := &Supervisor{options: o, metrics: newMetrics(o.Registerer)}
	for _, name := range o.Names {
		i := slices.IndexFunc(o.Specs, func(spec Spec) bool {
			return spec.Name == name || slices.Contains(spec.Aliases, name)
		})
		if i >= 0 {
			name = o.Specs[i].Name
		}
		if slices.ContainsFunc(s.units, func(u *unit) bool { return u.name == name }) {
			continue
		}
		u := &unit{Supervisor: s, name: name, log: o.Log.With("probe", name), status: Status{Status: Stopped}}
		s.units = append(s.units, u)
		switch {
		case i >= 0:
			u.make(o.Specs[i])
		case slices.Contains(notRebuilt, name):
			u.set(Absent, "not supported")
		default:
			u.set(Absent, "this version has no such probe")
		}
	}
	return s, nil
}

func (u *unit) make(spec Spec) {
	o := u.options
	env := Env{
		Graph: o.Graph, Root: o.Root, Host: o.Host, Origin: o.Origin, Log: u.log, Registerer: o.Registerer,
		Running: func(reason string) { u.running(reason) },
	}
	if o.Root == "" {
		env.Origin += "." + spec.Name
	}
	p, err := spec.New(env, func(config any) error {
		if o.Load == nil {
			return nil
		}
		return o.Load(spec.Name, config)
	})
	if err != nil {
		u.set(Failed, err.Error())
		return
	}
	u.probe = p
}

// Run runs all probes until ctx ends and each has stopped. It returns nil: no probe can make a service fail.
func (s *Supervisor) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, u := range s.units {
		if u.probe != nil {
			wg.Go(func() { u.supervise(ctx) })
		}
	}
	wg.Wait()
	return nil
}

// Status returns the state of each probe by name.
func (s *Supervisor) Status() map[string]Status {
	all := make(map[string]Status, len(s.units))
	for _, u := range s.units {
		u.mu.Lock()
		all[u.name] = u.status
		u.mu.Unlock()
	}
	return all
}

func (u *unit) supervise(ctx context.Context) {
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(told); u.stopping() })
	defer func() {
		if !stop() {
			<-told // not in the next life
		}
	}()
	u.set(Starting, "")
	wait := retryFirst
	for turn := 1; ctx.Err() == nil; turn++ {
		start := time.Now()
		err := u.once(ctx, turn)
		if ctx.Err() != nil {
			break
		}
		if time.Since(start) >= goodRun {
			wait = retryFirst
		}
		pause := wait
		if errors.Is(err, ErrUnavailable) {
			u.set(Absent, err.Error())
			pause = retryAbsent
		} else {
			u.set(Failed, err.Error())
			wait = min(2*wait, retryLast)
		}
		u.metrics.restarts.WithLabelValues(u.name).Inc()
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	u.set(Stopped, "")
}

// once runs the probe one time; it never returns nil while ctx lives.
func (u *unit) once(ctx context.Context, turn int) (err error) {
	u.mu.Lock()
	u.run = turn
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		u.run = 0
		u.mu.Unlock()
		if r := recover(); r != nil {
			err = caught(r)
		}
		var p *panicError
		if errors.As(err, &p) {
			u.metrics.panics.WithLabelValues(u.name).Inc()
			u.log.Error("probe panicked", "panic", p.value, "stack", string(p.stack))
		}
	}()
	if err := u.probe.Run(ctx); err != nil {
		return err
	}
	return errors.New("ended by itself")
}

func (u *unit) running(reason string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.run != 0 && u.status.Status != Stopping {
		u.become(Active, reason)
	}
}

func (u *unit) stopping() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.run != 0 {
		u.become(Stopping, "")
	}
}

func (u *unit) set(state State, reason string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.become(state, reason)
}

// become shows a new state everywhere; the caller holds mu. A probe that is tried again stays failed or absent until it runs, so that
// the host node is not revised with each try.
func (u *unit) become(state State, reason string) {
	old := u.status
	if old.Status == state && old.Reason == reason {
		return
	}
	now := time.Now()
	if old.Status == state {
		now = old.Since
	}
	u.status = Status{Status: state, Reason: reason, Since: now}
	u.metrics.set(u.name, old.Status, state)
	switch {
	case state == Failed:
		u.log.Warn("probe failed", "reason", reason)
	case state == Absent && u.probe == nil: // the configuration asks for what this version does not have
		u.log.Warn("probe is absent", "reason", reason)
	case reason != "":
		u.log.Info("probe is "+string(state), "reason", reason)
	default:
		u.log.Debug("probe is " + string(state))
	}
	if u.options.Root != "" {
		u.show(u.status)
	}
}

// show puts a state into the host node.
func (u *unit) show(s Status) {
	m := field.Make("Status", string(s.Status), "Since", s.Since)
	if s.Reason != "" {
		m, _ = m.Set("Reason", s.Reason) // cannot fail: the path has one step
	}
	err := u.options.Graph.Update("", func(tx *graph.Tx) error {
		host := tx.Node(u.options.Root)
		if host == nil {
			return fmt.Errorf("host node: %w", graph.ErrNotFound)
		}
		all, err := host.Metadata.Set("Probes."+u.name, m)
		if err != nil {
			return err
		}
		_, err = tx.SetNodeMetadata(host.ID, all)
		return err
	})
	if err != nil {
		u.log.Warn("cannot show state of probe", "error", err)
	}
}

// panicError is a recovered panic.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func caught(value any) error { return &panicError{value, debug.Stack()} }
