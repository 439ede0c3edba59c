package query

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
)

// DefaultLimit is how many elements a run may hold at a time unless its Source says otherwise; each takes a pointer, or for
// values and metrics a few words.
const DefaultLimit = 10_000_000

// Source is what a query is run over.
type Source struct {
	Graph   *graph.Snapshot
	History History          // nil when no topology is archived: Context then answers ErrNoHistory
	Flows   FlowSource       // nil where no flows can be asked for: Flows then answers ErrNoFlows
	Storage Storage          // nil when no flows are archived: Flows after Context then answers ErrNoStorage
	Limit   int              // elements held at a time, DefaultLimit when 0
	Now     func() time.Time // what times are relative to, time.Now when nil

	// FlowExpire is how long a flow may have been silent and still count as there at some time in the past.
	FlowExpire time.Duration
	// Capturable tells on which types of nodes flows can be captured; nil: on all.
	Capturable func(nodeType string) bool
	// Partial, if set, is told of hosts that did not answer: the result lacks what they know. It may be called several times.
	Partial func(hosts []string)
}

// FlowSource gives the flows of now.
type FlowSource interface {
	// Flows asks these hosts, nil for all. What it returns is filtered, sorted, deduplicated and paged over all hosts as s says.
	Flows(ctx context.Context, hosts []string, s *flow.Search) (flows []*flow.Flow, missing []string, err error)
	// Total counts and adds up the flows that pass the filter of s, without fetching them.
	Total(ctx context.Context, hosts []string, s *flow.Search, a flow.Aggregate) (t flow.Total, missing []string, err error)
}

// History gives the topology as it was. From equals to for a point in time.
type History interface {
	// Graph returns the last state of each element at a point, every state within a slice, by UpdatedAt.
	Graph(ctx context.Context, from, to time.Time) ([]*graph.Node, []*graph.Edge, error)
	// NodeMetrics returns, by node ID, what was under this path of nodes within a slice.
	NodeMetrics(ctx context.Context, from, to time.Time, ids []string, path string) (map[string][]field.Object, error)
}

// Storage gives flows as they were.
type Storage interface {
	// Flows returns those with Start ≤ to and Last ≥ from, filtered, sorted, deduplicated and paged as s says.
	Flows(ctx context.Context, from, to time.Time, s *flow.Search) ([]*flow.Flow, error)
	// FlowMetrics returns by UUID the updates with Start ≥ from and Last ≤ to, in order.
	FlowMetrics(ctx context.Context, from, to time.Time, flows []*flow.Flow) (map[string][]flow.Metric, error)
	// RawPackets returns by UUID the packets of this time, by index.
	RawPackets(ctx context.Context, from, to time.Time, flows []*flow.Flow) (map[string][]flow.RawPacket, error)
}

// Totals is what a Storage may be too: it need not hand out flows that are only counted.
type Totals interface {
	// Total counts the flows that Flows would find, or adds a metric of theirs up; of flow.Latest it counts and adds up what FlowMetrics
	// would find of them from since on. Of s it takes the filter.
	Total(ctx context.Context, from, to, since time.Time, s *flow.Search, a flow.Aggregate) (flow.Total, error)
}

// Missing is the error of a History or Storage that answers without some hosts: what it returns beside it holds all the same.
type Missing []string

func (m Missing) Error() string { return "no answer from " + strings.Join(m, ", ") }

// Sentinels found in errors of Run by errors.Is. A Source may return the first two as well.
var (
	ErrNoHistory = errors.New("Backend does not support history")
	ErrNoStorage = errors.New("No storage backend has been configured")
	ErrNoFlows   = errors.New("No flows can be asked for here")
	ErrTooLarge  = errors.New("query holds too many elements")
	ErrNotGraph  = errors.New("Only graph can be outputted as dot")
)

// Error is a mistake of who asks: an impossible combination of steps, an unknown element, a result that is too large. Any
// other error of Run is that of the context or of the Source.
type Error struct {
	Offset int // of the step, in bytes
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// partial passes on which hosts did not answer.
func (r *run) partial(hosts []string) {
	if len(hosts) > 0 && r.src.Partial != nil {
		r.src.Partial(hosts)
	}
}

// archived sorts out what an archive says: nil when its answer holds.
func (r *run) archived(err error) error {
	var missing Missing
	var usage interface{ Usage() bool } // of errors that are up to who asks: too much at once
	switch {
	case err == nil:
		return nil
	case errors.As(err, &missing):
		r.partial(missing)
		return nil
	case errors.Is(err, ErrNoHistory), errors.Is(err, ErrNoStorage), errors.As(err, &usage) && usage.Usage():
		return &Error{Err: err}
	}
	return fmt.Errorf("read history: %w", err)
}
