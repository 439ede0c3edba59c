package query

import (
	"fmt"
	"slices"
	"strings"

	"skydive/src/bpf"
	"skydive/src/flow"
	"skydive/src/gremlin"
)

// gather compiles Flows. What follows it and can be done where the flows are goes along with the question: filters, then order and
// one Dedup, then one Range; or a count or sum instead of the flows themselves.
func (c *compiler) gather(s gremlin.Step) error {
	var q question
	if len(s.Args) > 0 {
		f, err := compileFilter(s.Args, false)
		if err != nil {
			return c.fail(s, "%w", err)
		}
		if q.filter, err = f.travel(); err != nil {
			return c.fail(s, "%w", err)
		}
	}
	for c.next < len(c.steps) {
		if more, err := c.push(&q, c.steps[c.next]); err != nil {
			return err
		} else if !more {
			break
		}
		c.next++
	}
	fetch := fetchFlows(q)
	if !q.Dedup && !q.paged {
		if k, total := c.total(q, fetch); total != nil {
			return c.emit(s, k, total)
		}
	}
	return c.emit(s, flows, fetch)
}

// push adds a step to a question if the answer stays the same.
func (c *compiler) push(q *question, s gremlin.Step) (bool, error) {
	p, paging := pageOf(s)
	switch {
	case q.paged:
		return false, nil
	case paging:
		q.From, q.To, q.paged = p.from, p.to, true
		q.none = p.from >= p.to
		return true, nil
	case s.Kind == gremlin.Dedup && !q.Dedup:
		key, err := c.dedupKey(s)
		q.Dedup, q.DedupBy = true, key
		return true, err
	case s.Kind == gremlin.Sort && !q.Sort:
		key, desc, err := c.flowSorting(s)
		q.Sort, q.SortBy, q.Order = true, key, flow.Ascending
		if desc {
			q.Order = flow.Descending
		}
		return true, err
	case (s.Kind == gremlin.Has || s.Kind == gremlin.HasEither) && !q.Dedup:
		f, err := c.pairs(s)
		if err != nil {
			return false, err
		}
		more, err := f.travel()
		if err != nil {
			return false, nil // it is done here
		}
		q.filter = flow.And(q.filter, more)
		return true, nil
	}
	return false, nil
}

// total compiles a count or sum that follows, or returns nil.
func (c *compiler) total(q question, fetch applier) (kind, applier) {
	if c.next == len(c.steps) {
		return 0, nil
	}
	s := c.steps[c.next]
	switch s.Kind {
	case gremlin.Count:
		c.next++
		return scalar, q.total(flow.Aggregate{}, func(t flow.Total) Value { return Value{t.Count} }, fetch, count)
	case gremlin.Sum:
		key, what, ok := flowSum(s.Args)
		if ok && key != "Start" && key != "Last" && slices.Contains(flowMetricKeys[:], key) { // of times, a total has no sum
			c.next++
			return scalar, q.total(flow.Aggregate{Metric: what}, func(t flow.Total) Value { return Value{metricValue(t.Metric, key)} }, fetch, sumFlows(key, what))
		}
	case gremlin.Metrics:
		if c.next+1 == len(c.steps) || c.steps[c.next+1].Kind != gremlin.Sum || !latest(s.Args) {
			return 0, nil
		}
		sum := c.steps[c.next+1]
		some := func(t flow.Total, v Value) Value {
			if t.Count == 0 {
				return Value{}
			}
			return v
		}
		updates := flow.Aggregate{Metric: flow.Latest}
		if len(sum.Args) == 0 {
			c.next += 2
			return scalar, q.total(updates, func(t flow.Total) Value { return some(t, Value{t.Metric.Object()}) }, fetch, flowUpdates, sumUpdates)
		}
		if key := sum.Args[0].(string); slices.Contains(flowMetricKeys[:], key) {
			c.next += 2
			return scalar, q.total(updates, func(t flow.Total) Value { return some(t, Value{metricValue(t.Metric, key)}) }, fetch, flowUpdates, sumUpdate(key))
		}
	}
	return 0, nil
}

func (c *compiler) flowsStep(s gremlin.Step) (bool, error) {
	if p, ok := pageOf(s); ok {
		return true, c.emit(s, flows, cut[Flows](p))
	}
	switch s.Kind {
	case gremlin.Has, gremlin.HasEither:
		f, err := c.pairs(s)
		if err != nil {
			return true, err
		}
		p := c.paging()
		return true, c.emit(s, flows, func(r *run, in Result) (Result, error) { return Flows(pick(r, in.(Flows), f, p)), nil })
	case gremlin.Dedup:
		key, err := c.dedupKey(s)
		if err != nil {
			return true, err
		}
		p := c.paging()
		return true, c.emit(s, flows, func(r *run, in Result) (Result, error) {
			return Flows(dedup(r, in.(Flows), []string{key}, p, nil)), nil
		})
	case gremlin.Sort:
		key, desc, err := c.flowSorting(s)
		if err != nil {
			return true, err
		}
		return true, c.emit(s, flows, func(r *run, in Result) (Result, error) { return Flows(sorted(r, in.(Flows), key, desc)), nil })
	case gremlin.Count:
		return true, c.emit(s, scalar, count)
	case gremlin.Values:
		return true, c.emit(s, list, flowValues(s.Args[0].(string)))
	case gremlin.Keys:
		return true, c.emit(s, list, flowKeys)
	case gremlin.Sum:
		key, what, ok := flowSum(s.Args)
		if !ok {
			return true, c.fail(s, "Sum accepts only sub fields of Metric and LastUpadteMetric")
		}
		if !slices.Contains(flowMetricKeys[:], key) {
			return true, c.fail(s, "Field not found: %s", s.Args[0])
		}
		return true, c.emit(s, scalar, sumFlows(key, what))
	case gremlin.Metrics:
		if !latest(s.Args) {
			return true, c.fail(s, "Metric field unknown : %v", s.Args)
		}
		return true, c.emit(s, updates, flowUpdates)
	case gremlin.RawPackets:
		return true, c.emit(s, packets, rawPackets)
	case gremlin.Sockets:
		return true, c.emit(s, sockets, flowSockets)
	case gremlin.Group:
		return true, c.emit(s, groups, groupFlows)
	case gremlin.In, gremlin.Out, gremlin.Both, gremlin.Nodes, gremlin.Hops, gremlin.CaptureNode:
		f, err := c.filters(s, s.Args)
		if err != nil {
			return true, err
		}
		return true, c.emit(s, nodes, flowNodes(s.Kind, f, c.paging()))
	}
	return false, nil
}

func (c *compiler) updatesStep(s gremlin.Step) (bool, error) {
	switch s.Kind {
	case gremlin.Aggregates:
		return true, c.emit(s, updates, aggregateUpdates(sliceWidth(s)))
	case gremlin.Sum:
		if len(s.Args) == 0 {
			return true, c.emit(s, scalar, sumUpdates)
		}
		key := s.Args[0].(string)
		if !slices.Contains(flowMetricKeys[:], key) {
			return true, c.fail(s, "Field not found: %s", key)
		}
		return true, c.emit(s, scalar, sumUpdate(key))
	case gremlin.Count:
		return true, c.emit(s, scalar, count)
	case gremlin.Keys:
		return true, c.emit(s, list, updateKeys)
	}
	return false, nil
}

func (c *compiler) partsStep(s gremlin.Step) (bool, error) {
	switch {
	case c.kind == groups && s.Kind == gremlin.MoreThan:
		return true, c.emit(s, groups, moreThanOne)
	case c.kind == packets && s.Kind == gremlin.BPF:
		f, err := compileBPF(s.Args[0].(string))
		if err != nil {
			return true, c.fail(s, "%w", err)
		}
		return true, c.emit(s, packets, f.apply)
	}
	return false, nil
}

// knownFlowKey tells whether some flow may have the key.
func knownFlowKey(key string) bool {
	root, _, _ := strings.Cut(key, ".")
	switch root {
	case "ETHERNET", "IPV4", "IPV6", "TCP", "UDP", "SCTP":
		return true
	}
	return slices.ContainsFunc(flow.Keys(), func(k string) bool { return k == root || strings.HasPrefix(k, root+".") })
}

func (c *compiler) dedupKey(s gremlin.Step) (string, error) {
	key := "TrackingID"
	switch {
	case len(s.Args) > 1:
		return "", c.fail(s, "Dedup of flows accepts one key : %v", s.Args)
	case len(s.Args) == 1:
		key = s.Args[0].(string)
	}
	if !knownFlowKey(key) {
		return "", c.fail(s, "Field not found: %s", key)
	}
	return key, nil
}

func (c *compiler) flowSorting(s gremlin.Step) (string, bool, error) {
	key, desc := sorting(s.Args, "Last")
	if !knownFlowKey(key) {
		return "", false, c.fail(s, "Field not found: %s", key)
	}
	return key, desc, nil
}

// flowSum reads the parameter of Sum: a field of one of the metrics.
func flowSum(args []gremlin.Arg) (key string, what flow.MetricKind, ok bool) {
	if len(args) == 0 {
		return "", 0, false
	}
	if key, ok = strings.CutPrefix(args[0].(string), "Metric."); ok {
		return key, flow.Whole, true
	}
	key, ok = strings.CutPrefix(args[0].(string), "LastUpdateMetric.")
	return key, flow.Update, ok
}

// latest tells whether the parameter of Metrics names the metric that flows have.
func latest(args []gremlin.Arg) bool { return len(args) == 0 || args[0] == "LastUpdateMetric" }

// sliceWidth is the parameter of Aggregates, in milliseconds.
func sliceWidth(s gremlin.Step) int64 {
	if len(s.Args) == 1 {
		return s.Args[0].(int64) * 1000
	}
	return 30_000
}

// packetLimit is how much of a packet filters look at.
const packetLimit = 256

// packetFilter is a BPF step: the expression, for each type of link on which flows have packets.
type packetFilter map[uint32]*bpf.Filter

func compileBPF(expr string) (packetFilter, error) {
	f := packetFilter{}
	for _, link := range [...]bpf.LinkType{bpf.Ethernet, bpf.RawIP, bpf.IPv4, bpf.IPv6} {
		compiled, err := bpf.Compile(expr, link, packetLimit)
		switch {
		case err == nil:
			f[uint32(link)] = compiled
		case link == bpf.Ethernet:
			return nil, fmt.Errorf("BPF filter %q: %w", expr, err)
		}
		// What only Ethernet has matches nothing elsewhere.
	}
	return f, nil
}
