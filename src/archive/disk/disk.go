// Package disk is history on local disk: every revision of the graph, the counters of its nodes, flows as they were reported and their
// raw packets, in one directory that one process holds at a time.
//
// It keeps what it has acknowledged whatever becomes of the process, forgets by age and by size, and stops – and says so – when the disk
// is full, rather than stop anybody else. It knows no queries: it gives back what was at a time or in a slice of time, and flows that pass
// a search.
package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
)

// Options of an archive; all but Path and Logger may be left out.
type Options struct {
	Path       string        // a directory, made when missing
	MaxAge     time.Duration // 0: for ever
	MaxSize    int64         // bytes on disk, 0: all there are; at least 64 MiB, of which the engine's log may take a quarter
	MinFree    int64         // bytes of the file system that are left to others; 0: 256 MiB, or 5 % of a small one
	FlowUpdate time.Duration // flow.update: how late a flow may be reported that began in a slice; 1 minute when 0
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Clock      func() time.Time // time.Now when nil
}

// Errors that callers may tell apart.
var (
	ErrClosed  = errors.New("the archive is not open")
	ErrStopped = errors.New("the archive is stopped")
	ErrDamaged = errors.New("the archive is damaged")
	ErrTooMany = error(tooMany{})
)

type tooMany struct{}

func (tooMany) Error() string {
	return "too much history at once: narrow the time slice or the filter, or add a limit"
}

// Usage tells that it is up to who asks.
func (tooMany) Usage() bool { return true }

// State is what an archive does.
type State string

// All states.
const (
	Starting State = "starting" // not opened yet
	Running  State = "running"
	Stopped  State = "stopped" // writes nothing until there is room
	Failed   State = "failed"  // writes nothing, or no more of the graph, until it is opened anew
	Closed   State = "closed"
)

// Status is the archive in /api/status.
type Status struct {
	State          State
	Reason         string `json:",omitempty"`
	Since          time.Time
	Path           string
	Bytes          int64  // on disk
	FlowRecords    int64  // reports of flows
	Revisions      int64  // of nodes and edges
	CounterRecords int64  // of nodes
	Oldest         *int64 // ms; null when there is nothing
	Dropped        Dropped
}

// Dropped counts what was not archived since the process began.
type Dropped struct {
	Flows   int64 // records, refused while stopped or not storable
	Commits int64 // times that changes of the graph were missed; what they led to was archived afterwards
	Damaged int64 // records found unreadable
}

// Archive is safe for use by several goroutines. It works while Run runs.
type Archive struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
	ready   chan struct{}
	queue   chan *write
	quit    chan struct{}   // closed when the archive closes: nobody waits any longer
	works   context.Context // ends when the engine works no longer, and may hold for ever who waits for it
	abandon context.CancelCauseFunc
	fs      vfs.FS // the system's

	complaints complaints  // of the engine
	tooLarge   atomic.Bool // it was said that the present alone takes too much

	mu      sync.Mutex // guards the fields below
	db      *pebble.DB // nil: not open
	life    context.Context
	readers sync.WaitGroup // what must end before the engine closes
	state   State
	reason  string
	since   time.Time

	blind      string // why the graph is not followed any more
	blindSince time.Time
	halted     chan struct{} // closed while nothing is written
	fatal      string        // what the engine said last

	ledger ledger
	graph  position
}

// New returns an inert archive.
func New(o Options) *Archive {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.MaxSize > 0 {
		o.MaxSize = max(o.MaxSize, 64<<20)
	}
	if o.FlowUpdate <= 0 {
		o.FlowUpdate = time.Minute
	}
	a := &Archive{
		o: o, log: o.Logger, ready: make(chan struct{}), queue: make(chan *write), quit: make(chan struct{}),
		fs: vfs.Default, state: Starting, since: o.Clock(), halted: make(chan struct{}),
	}
	a.works, a.abandon = context.WithCancelCause(context.Background())
	a.metrics = newMetrics(a, o.Registerer)
	return a
}

// Ready is closed once the archive can be used.
func (a *Archive) Ready() <-chan struct{} { return a.ready }

// Run opens the archive, keeps it, and closes it when ctx ends. It returns an error when the directory is in use, not writable, not an
// archive or damaged. It must be called once.
func (a *Archive) Run(ctx context.Context) error {
	err := a.run(ctx)
	a.set(Closed, "")
	return err
}

func (a *Archive) run(ctx context.Context) error {
	lock, err := hold(a.o.Path)
	if err != nil {
		return err
	}
	defer lock.file.Close()
	defer context.AfterFunc(ctx, func() { close(a.quit) })()
	db, err := a.open(lock.alive)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil // it waited for room
	case err != nil:
		return err
	}
	life, end := context.WithCancel(context.Background())
	defer end()
	a.mu.Lock()
	a.db, a.life = db, life
	a.mu.Unlock()
	a.set(Running, "")
	a.checkRoom()
	close(a.ready)

	var tasks sync.WaitGroup
	tasks.Go(a.writer(db))
	tasks.Go(func() { a.keep(ctx, lock) })
	tasks.Go(func() { a.forget(ctx) })
	<-ctx.Done()

	a.mu.Lock()
	a.db = nil
	a.mu.Unlock()
	end()
	ended := make(chan struct{})
	go func() {
		a.readers.Wait()
		tasks.Wait()
		close(ended)
	}()
	late := time.After(patience)
	broken := a.works.Done()
	for {
		select {
		case <-ended:
			if s, _ := a.current(); s == Running {
				a.alive(lock, nobody)
			}
			return a.close(db)
		case <-broken: // what still waits for it may do so for ever
			late, broken = time.After(time.Second), nil
		case <-late:
			if s, _ := a.current(); s == Stopped { // the disk is full; what was acknowledged is on it
				return nil
			}
			return fmt.Errorf("archive %s: the engine did not end: %s", a.o.Path, a.lastWords())
		}
	}
}

// patience is how long an engine that failed may hold up the end.
const patience = 20 * time.Second

// aliveEvery is how often the archive notes that its process lives.
const aliveEvery = time.Second

// keep looks after the archive: whether there is room, and that a later process can tell when this one ended.
func (a *Archive) keep(ctx context.Context, lock *lock) {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		a.checkRoom()
		if s, _ := a.current(); s == Running {
			a.alive(lock, strconv.Itoa(os.Getpid()))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (a *Archive) alive(lock *lock, holder string) {
	if err := lock.mark(holder, a.now()); err != nil && a.complaints.due(a.o.Clock()) {
		a.log.Warn("The archive could not be marked as alive", "error", err)
	}
}

// set enters a state; callers waiting for a write are let go when that is none in which anything is written.
func (a *Archive) set(s State, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.state == Failed && s != Closed:
		return // for good, and for the first reason
	case a.state == s:
		a.reason = reason
		return
	}
	before := a.state
	a.state, a.reason, a.since = s, reason, a.o.Clock()
	switch {
	case s == Running:
		a.halted = make(chan struct{})
	case before == Running:
		close(a.halted)
	}
	if s == Failed {
		a.abandon(errors.New(reason))
	}
	if s == Stopped || s == Failed {
		a.log.Error("The archive writes nothing", "state", s, "reason", reason, "path", a.o.Path)
	} else if before == Stopped && s == Running {
		a.log.Info("The archive writes again", "path", a.o.Path)
	}
}

// unfollow notes that the graph is not followed any more. Flows still are archived.
func (a *Archive) unfollow(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.blind, a.blindSince = reason, a.o.Clock()
	a.log.Error("The topology is not archived any more", "reason", reason, "path", a.o.Path)
}

// stop returns a channel that is closed while nothing is written.
func (a *Archive) stop() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.halted
}

func (a *Archive) current() (State, string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state, a.reason
}

// refusal is the error of writes while nothing is written.
func (a *Archive) refusal() error {
	switch s, reason := a.current(); s {
	case Stopped, Failed:
		return fmt.Errorf("%w: %s", ErrStopped, reason)
	default:
		return ErrClosed
	}
}

// Status is what /api/status shows: a Status.
func (a *Archive) Status() any {
	a.mu.Lock()
	s := Status{State: a.state, Reason: a.reason, Since: a.since, Path: a.o.Path}
	if a.blind != "" && s.State == Running {
		s.State, s.Reason, s.Since = Failed, a.blind, a.blindSince
	}
	a.mu.Unlock()
	total, oldest := a.ledger.total()
	s.FlowRecords, s.Revisions, s.CounterRecords, s.Oldest = total.reports, total.revisions, total.counters, oldest
	s.Bytes = a.bytes()
	s.Dropped = Dropped{Flows: a.metrics.droppedFlows.get(), Commits: a.metrics.resyncs.get(), Damaged: a.metrics.damaged.get()}
	return s
}

// read runs fn on the engine, which stays open until it returns. A question that comes while the archive is being opened waits.
func (a *Archive) read(ctx context.Context, fn func(ctx context.Context, db *pebble.DB) error) error {
	if s, _ := a.current(); s == Starting {
		wait := time.NewTimer(patience)
		defer wait.Stop()
		select {
		case <-a.ready:
		case <-a.quit:
		case <-ctx.Done():
		case <-wait.C:
		}
	}
	a.mu.Lock()
	db, life := a.db, a.life
	if db == nil {
		a.mu.Unlock()
		return ErrClosed
	}
	a.readers.Add(1)
	a.mu.Unlock()
	defer a.readers.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(life, func() { cancel(ErrClosed) })()
	return a.guard(ctx, func() error {
		err := fn(ctx, db)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return a.explain(err)
	})
}
