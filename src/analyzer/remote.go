package analyzer

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/flow"
	"skydive/src/query"
	"skydive/src/wire"
)

// Peers are the other analyzers of the cluster.
type Peers interface {
	// Hosts names those that are connected.
	Hosts() []string
	// Absent names those that should be, and are not.
	Absent() []string
	// Request asks one and waits for its answer, as long as ctx allows.
	Request(ctx context.Context, host string, m *wire.Message) (*wire.Message, error)
}

// ArchivedFlowsOptions are the parts of ArchivedFlows; all but Registerer are mandatory.
type ArchivedFlowsOptions struct {
	HostID     string        // of this analyzer
	Local      query.Storage // its archive, which may be a query.Totals too
	Peers      Peers
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// ArchivedFlows is the archives of all analyzers of a cluster as one: each has the flows that it received itself. It implements
// query.Storage and query.Totals; who did not answer is named in a query.Missing.
//
// A flow may be in several archives: its agent lost an analyzer and went on with another. It is found once, as it was last reported to any
// of them, and counted once, with what was counted for it in all.
type ArchivedFlows struct {
	o       ArchivedFlowsOptions
	members members
	asked   *prometheus.CounterVec // result: answered | failed | absent
	seconds prometheus.Histogram
	timeout time.Duration // for one message
}

var _ interface {
	query.Storage
	query.Totals
} = (*ArchivedFlows)(nil)

// archiveDeadline is how long another analyzer has to answer.
const archiveDeadline = liveDeadline

// NewArchivedFlows returns what asks the archives.
func NewArchivedFlows(o ArchivedFlowsOptions) *ArchivedFlows {
	a := &ArchivedFlows{
		o: o, timeout: archiveDeadline, members: members{log: o.Logger},
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "skydive", Subsystem: "remote_archives", Name: "questions_total", Help: "Questions put to the archives of other analyzers, by result.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "skydive", Subsystem: "remote_archives", Name: "answer_seconds", Help: "Time until the archive of another analyzer has answered.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(a.asked, a.seconds)
	}
	return a
}

// Flows asks all archives for what s may find, and makes one answer of it.
func (a *ArchivedFlows) Flows(ctx context.Context, from, to time.Time, s *flow.Search) ([]*flow.Flow, error) {
	if s == nil {
		s = new(flow.Search)
	}
	q := a.inquire(ctx)
	if len(q.hosts) == 0 {
		found, err := a.o.Local.Flows(ctx, from, to, s)
		return found, q.err(err)
	}
	answers, err := q.flows(from, to, s.Part())
	if err != nil {
		return nil, err
	}
	cut := func(found []*flow.Flow) bool { return s.To > 0 && int64(len(found)) >= s.To }
	if s.Dedup || !steady(s.Filter) || slices.ContainsFunc(answers, cut) {
		// What an archive takes for the last word on a flow may have let it pass, or let it displace others, wrongly.
		answers, err = q.settle(from, to, s, answers)
		if err != nil {
			return nil, err
		}
	}
	return s.Finish(newest(answers)), q.err(nil)
}

// settle replaces the answers to s, if some flows are in several archives, by answers in which each flow is as it was last reported.
func (q *inquiry) settle(from, to time.Time, s *flow.Search, answers [][]*flow.Flow) ([][]*flow.Flow, error) {
	shared, err := q.shared(from, to, s.Filter)
	if err != nil || shared.none() {
		return answers, err
	}
	answers = nil
	if !shared.all {
		rest := s.Part()
		rest.Filter = flow.And(s.Filter, flow.Not(shared.filter()))
		if answers, err = q.flows(from, to, rest); err != nil {
			return nil, err
		}
	}
	all, err := q.whole(from, to, s.Filter, shared)
	return append(answers, all), err
}

// whole returns the flows of shared nodes that pass a filter, each as it was last reported.
func (q *inquiry) whole(from, to time.Time, f *flow.Filter, shared sharing) ([]*flow.Flow, error) {
	answers, err := q.flows(from, to, &flow.Search{Filter: flow.And(steadyPart(f), shared.filter())})
	if err != nil {
		return nil, err
	}
	return (&flow.Search{Filter: f}).Apply(newest(answers)), nil
}

// Total adds the totals of all archives up. Flows of nodes that several have flows of are fetched and counted here.
func (a *ArchivedFlows) Total(ctx context.Context, from, to, since time.Time, s *flow.Search, what flow.Aggregate) (flow.Total, error) {
	if s == nil {
		s = new(flow.Search)
	}
	q := a.inquire(ctx)
	if len(q.hosts) == 0 {
		t, err := total(ctx, a.o.Local, from, to, since, s, what)
		return t, q.err(err)
	}
	shared, err := q.shared(from, to, s.Filter)
	if err != nil {
		return flow.Total{}, err
	}
	var sum flow.Total
	if !shared.all {
		rest := flow.Search{Filter: s.Filter}
		if !shared.none() {
			rest.Filter = flow.And(s.Filter, flow.Not(shared.filter()))
		}
		totals, err := askAll(q, func(ctx context.Context) (flow.Total, error) {
			return total(ctx, a.o.Local, from, to, since, &rest, what)
		}, func(ctx context.Context, host string) (t flow.Total, err error) {
			err = a.request(ctx, host, wire.TypeArchiveTotal, &flow.ArchiveQuery{
				From: from.UnixMilli(), To: to.UnixMilli(), Since: since.UnixMilli(), Search: rest, Aggregate: what,
			}, func(r *flow.ArchiveReply) {
				if r.Total != nil {
					t.Merge(r.Total)
				}
			})
			return t, err
		})
		if err != nil {
			return flow.Total{}, err
		}
		for i := range totals {
			sum.Merge(&totals[i])
		}
	}
	if !shared.none() {
		found, err := q.whole(from, to, s.Filter, shared)
		if err != nil {
			return flow.Total{}, err
		}
		if err := count(&sum, found, what, func() (map[string][]flow.Metric, error) { return q.metrics(since, to, found) }); err != nil {
			return flow.Total{}, err
		}
	}
	return sum, q.err(nil)
}

// count adds flows to a total, or what was counted for them in the slice.
func count(t *flow.Total, flows []*flow.Flow, what flow.Aggregate, updates func() (map[string][]flow.Metric, error)) error {
	if what.Metric != flow.Latest {
		for _, f := range flows {
			t.Add(f, what)
		}
		return nil
	}
	if len(flows) == 0 {
		return nil
	}
	found, err := updates()
	if err != nil {
		return err
	}
	for _, ms := range found {
		t.Merge(&flow.Total{Count: int64(len(ms)), Metric: flow.Sum(ms)})
	}
	return nil
}

// total is the total of one archive, be it able to tell without the flows or not.
func total(ctx context.Context, from query.Storage, low, high, since time.Time, s *flow.Search, what flow.Aggregate) (flow.Total, error) {
	if totals, ok := from.(query.Totals); ok {
		return totals.Total(ctx, low, high, since, s, what)
	}
	found, err := from.Flows(ctx, low, high, s)
	if err != nil {
		return flow.Total{}, err
	}
	var t flow.Total
	err = count(&t, found, what, func() (map[string][]flow.Metric, error) { return from.FlowMetrics(ctx, since, high, found) })
	return t, err
}

// FlowMetrics returns what all archives have counted for flows.
func (a *ArchivedFlows) FlowMetrics(ctx context.Context, from, to time.Time, flows []*flow.Flow) (map[string][]flow.Metric, error) {
	q := a.inquire(ctx)
	found, err := q.metrics(from, to, flows)
	return found, q.err(err)
}

func (q *inquiry) metrics(from, to time.Time, flows []*flow.Flow) (map[string][]flow.Metric, error) {
	answers, err := askAll(q, func(ctx context.Context) (map[string][]flow.Metric, error) {
		return q.a.o.Local.FlowMetrics(ctx, from, to, flows)
	}, func(ctx context.Context, host string) (map[string][]flow.Metric, error) {
		found := make(map[string][]flow.Metric)
		return found, q.a.series(ctx, host, wire.TypeArchiveMetrics, from, to, flows, func(s flow.ArchiveSeries) {
			found[s.UUID] = append(found[s.UUID], s.Metrics...)
		})
	})
	return united(answers, func(a, b flow.Metric) int { return cmp.Or(cmp.Compare(a.Last, b.Last), cmp.Compare(a.Start, b.Start)) },
		func(a, b flow.Metric) bool { return a == b }), err
}

// RawPackets returns the packets of flows that all archives have.
func (a *ArchivedFlows) RawPackets(ctx context.Context, from, to time.Time, flows []*flow.Flow) (map[string][]flow.RawPacket, error) {
	q := a.inquire(ctx)
	answers, err := askAll(q, func(ctx context.Context) (map[string][]flow.RawPacket, error) {
		return a.o.Local.RawPackets(ctx, from, to, flows)
	}, func(ctx context.Context, host string) (map[string][]flow.RawPacket, error) {
		found := make(map[string][]flow.RawPacket)
		return found, a.series(ctx, host, wire.TypeArchiveRawPackets, from, to, flows, func(s flow.ArchiveSeries) {
			found[s.UUID] = append(found[s.UUID], s.Packets...)
		})
	})
	return united(answers, func(a, b flow.RawPacket) int { return cmp.Compare(a.Index, b.Index) }, samePacket), q.err(err)
}

// flows asks all archives.
func (q *inquiry) flows(from, to time.Time, s *flow.Search) ([][]*flow.Flow, error) {
	answers, err := askAll(q, func(ctx context.Context) ([]*flow.Flow, error) {
		return q.a.o.Local.Flows(ctx, from, to, s)
	}, func(ctx context.Context, host string) (found []*flow.Flow, err error) {
		err = q.a.request(ctx, host, wire.TypeArchiveFlows, &flow.ArchiveQuery{From: from.UnixMilli(), To: to.UnixMilli(), Search: *s},
			func(r *flow.ArchiveReply) { found = append(found, r.Flows...) })
		return found, err
	})
	n := 0
	for _, found := range answers {
		n += len(found)
	}
	if err == nil && n > maxLive {
		return nil, fmt.Errorf("archived flows: %w", tooMany{})
	}
	return answers, err
}
