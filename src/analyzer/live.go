package analyzer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/flow"
	"skydive/src/wire"
)

// LiveFlows asks agents for the flows that they see now. It implements query.FlowSource.
type LiveFlows struct {
	agents   *Agents
	log      *slog.Logger
	asked    *prometheus.CounterVec // result: answered | failed
	seconds  prometheus.Histogram
	deadline time.Duration
}

// liveDeadline is how long an agent has to answer.
const liveDeadline = 10 * time.Second

// NewLiveFlows returns what asks the agents connected to a; reg may be nil.
func NewLiveFlows(a *Agents, log *slog.Logger, reg prometheus.Registerer) *LiveFlows {
	l := &LiveFlows{
		agents: a, log: log, deadline: liveDeadline,
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "skydive", Subsystem: "live_flows", Name: "questions_total", Help: "Flow queries put to agents, by result.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "skydive", Subsystem: "live_flows", Name: "answer_seconds", Help: "Time until an agent has answered a flow query.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
	}
	if reg != nil {
		reg.MustRegister(l.asked, l.seconds)
	}
	return l
}

// maxLive is how many flows of all agents together are taken for one answer: each takes up to a kilobyte while it is made.
const maxLive = 1 << 20

type tooMany struct{}

func (tooMany) Error() string {
	return fmt.Sprintf("more than %d flows are found: narrow it down with Has or Limit, or count them", maxLive)
}

// Usage tells that it is up to who asks.
func (tooMany) Usage() bool { return true }

// Flows returns the flows that s asks for, of hosts or, when that is nil, of all that are connected. Hosts that did not answer are
// missing: named, and no error. When there may be too many to gather they are counted first.
func (l *LiveFlows) Flows(ctx context.Context, hosts []string, s *flow.Search) (flows []*flow.Flow, missing []string, err error) {
	if hosts == nil {
		hosts = l.agents.Hosts()
	}
	var silent []string
	if s.To <= 0 || s.To > maxLive/int64(len(hosts)+1) {
		t, missing, err := l.Total(ctx, hosts, &flow.Search{Filter: s.Filter}, flow.Aggregate{})
		switch {
		case err != nil:
			return nil, nil, err
		case t.Count > maxLive:
			return nil, nil, tooMany{}
		}
		// Who did not answer this is not waited for again.
		silent = missing
		hosts = slices.DeleteFunc(slices.Clone(hosts), func(host string) bool { return slices.Contains(silent, host) })
	}
	answers, missing, err := l.ask(ctx, hosts, &flow.TableQuery{Search: *s.Part()})
	if err != nil {
		return nil, nil, err
	}
	missing = append(silent, missing...)
	for _, a := range answers {
		flows = append(flows, a.flows...)
	}
	return s.Finish(flows), missing, nil
}

// Total returns the total of the flows that s asks for. Agents add up themselves where that is possible and they know how.
func (l *LiveFlows) Total(ctx context.Context, hosts []string, s *flow.Search, a flow.Aggregate) (t flow.Total, missing []string, err error) {
	if !s.Addable() {
		flows, missing, err := l.Flows(ctx, hosts, s)
		for _, f := range flows {
			t.Add(f, a)
		}
		return t, missing, err
	}
	answers, missing, err := l.ask(ctx, hosts, &flow.TableQuery{Search: *s, Aggregate: &a})
	for _, answer := range answers {
		if answer.total != nil {
			t.Merge(answer.total)
			continue
		}
		for _, f := range answer.flows {
			t.Add(f, a)
		}
	}
	return t, missing, err
}

// answer is what one agent says.
type answer struct {
	flows []*flow.Flow
	total *flow.Total
	err   error
}

// ask puts a query to the agents of hosts, all at the same time, and returns the answers in the order of the hosts. The only error is
// that of ctx.
func (l *LiveFlows) ask(ctx context.Context, hosts []string, q *flow.TableQuery) (answers []answer, missing []string, err error) {
	if hosts == nil {
		hosts = l.agents.Hosts()
	} else {
		hosts = slices.Clone(hosts)
		slices.Sort(hosts)
		hosts = slices.Compact(hosts)
	}
	answers = make([]answer, len(hosts))
	var asking sync.WaitGroup
	for i, host := range hosts {
		asking.Go(func() {
			start := time.Now()
			answers[i] = l.one(ctx, host, q)
			if answers[i].err == nil {
				l.seconds.Observe(time.Since(start).Seconds())
			}
		})
	}
	asking.Wait()
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("ask agents for flows: %w", err)
	}
	for i, a := range answers {
		if a.err == nil {
			l.asked.WithLabelValues("answered").Inc()
			continue
		}
		l.asked.WithLabelValues("failed").Inc()
		missing = append(missing, hosts[i])
		l.log.Warn("Flows of a host are missing in an answer", "host", hosts[i], "error", a.err)
	}
	return answers, missing, nil
}

// one asks one agent: in protobuf, whatever it speaks otherwise, unless that is JSON.
func (l *LiveFlows) one(ctx context.Context, host string, q *flow.TableQuery) answer {
	conn, err := l.agents.agent(host)
	if err != nil {
		return answer{err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, l.deadline)
	defer cancel()
	m := &wire.Message{Namespace: wire.NamespaceFlow, Type: wire.TypeTableQuery}
	if conn.Peer().Binary() {
		m.Format, m.Obj = wire.FormatProtobuf, q.AppendProto(nil)
	} else {
		m.Obj = q.AppendJSON(nil)
	}
	m, err = ask(ctx, &l.agents.questions, conn, m)
	if err != nil {
		return answer{err: err}
	}
	r, err := flow.ParseTableReply(m.Obj, m.Format == wire.FormatProtobuf)
	if err != nil {
		return answer{err: fmt.Errorf("answer of host %s: %w", host, err)}
	}
	if m.Status >= 400 || r.Status != 200 {
		return answer{err: fmt.Errorf("host %s answers with status %d: %w", host, max(m.Status, r.Status), errRefused)}
	}
	flows, err := r.Flows()
	if err != nil {
		return answer{err: fmt.Errorf("answer of host %s: %w", host, err)}
	}
	return answer{flows: flows, total: r.Total}
}

var errRefused = errors.New("the agent did not answer the query")
