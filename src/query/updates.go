package query

import (
	"slices"
	"time"

	"skydive/src/flow"
)

// flowMetricKeys are the fields of a metric of a flow.
var flowMetricKeys = [...]string{"ABBytes", "ABPackets", "BABytes", "BAPackets", "Last", "RTT", "Start"}

func metricValue(m flow.Metric, key string) int64 {
	switch key {
	case "ABBytes":
		return m.ABBytes
	case "ABPackets":
		return m.ABPackets
	case "BABytes":
		return m.BABytes
	case "BAPackets":
		return m.BAPackets
	case "Last":
		return m.Last
	case "RTT":
		return m.RTT
	}
	return m.Start
}

// flowUpdates takes from each flow of now its last update, all of it where there was none yet; of those of the past what is
// archived. Flows that share a UUID share their series.
func flowUpdates(r *run, in Result) (Result, error) {
	all := in.(Flows)
	var stored map[string][]flow.Metric
	if r.slice != nil {
		var err error
		stored, err = r.src.Storage.FlowMetrics(r.ctx, r.since(), r.slice.Last, all)
		if err = r.archived(err); err != nil {
			return nil, err
		}
	}
	var out FlowMetrics
	at := make(map[string]int, len(all))
	now := make([]flow.Metric, 0, len(all)) // one allocation for all
	for _, f := range all {
		i, dup := at[f.UUID]
		var ms []flow.Metric
		switch n := len(now); {
		case r.slice == nil:
			now = append(now, *f.Latest())
			ms = now[n : n+1 : n+1]
		case !dup:
			ms = stored[f.UUID]
		}
		if !r.hold(1 + len(ms)) {
			return nil, r.err
		}
		switch {
		case dup:
			out[i].Metrics = append(out[i].Metrics, ms...)
		case len(ms) > 0:
			at[f.UUID] = len(out)
			out = append(out, FlowSeries{f.UUID, ms})
		}
	}
	return out, nil
}

// since is from when on what belongs to flows of the past is wanted: all of it where one point in time is meant.
func (r *run) since() time.Time {
	if r.slice.Point {
		return time.Unix(0, 0)
	}
	return r.slice.Start
}

// sumFlows adds up one field of a metric; a flow that was not updated yet has nothing to add.
func sumFlows(key string, what flow.MetricKind) applier {
	return func(r *run, in Result) (Result, error) {
		var sum int64
		for _, f := range in.(Flows) {
			switch {
			case what == flow.Whole:
				sum += metricValue(f.Metric, key)
			case f.LastUpdateMetric != nil:
				sum += metricValue(*f.LastUpdateMetric, key)
			}
			if !r.ok() {
				return nil, r.err
			}
		}
		return Value{sum}, nil
	}
}

// flat returns the metrics of all series.
func (m FlowMetrics) flat(r *run) []flow.Metric {
	if !r.hold(m.size()) {
		return nil
	}
	all := make([]flow.Metric, 0, m.size())
	for _, s := range m {
		if all = append(all, s.Metrics...); !r.ok() {
			return nil
		}
	}
	return all
}

func sumUpdates(r *run, in Result) (Result, error) {
	all := in.(FlowMetrics).flat(r)
	if len(all) == 0 {
		return Value{nil}, r.err
	}
	sum := flow.Sum(all)
	return Value{sum.Object()}, nil
}

func sumUpdate(key string) applier {
	return func(r *run, in Result) (Result, error) {
		all := in.(FlowMetrics).flat(r)
		switch {
		case len(all) == 0:
			return Value{nil}, r.err
		case key == "Start" || key == "Last":
			return Value{metricValue(flow.Sum(all), key)}, nil
		}
		var sum int64
		for i := range all {
			sum += metricValue(all[i], key)
		}
		return Value{sum}, nil
	}
}

func updateKeys(_ *run, in Result) (Result, error) {
	var keys Values
	if len(in.(FlowMetrics)) > 0 {
		for _, k := range flowMetricKeys {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// aggregateUpdates cuts time into slices of width milliseconds, from the start of the Context or of the earliest metric.
func aggregateUpdates(width int64) applier {
	return func(r *run, in Result) (Result, error) {
		all := in.(FlowMetrics).flat(r)
		if r.err != nil {
			return nil, r.err
		}
		all = slices.DeleteFunc(all, func(m flow.Metric) bool { return m.Start <= 0 || m.Last < m.Start }) // no place in time
		if len(all) == 0 {
			return FlowMetrics{{ID: "Aggregated"}}, nil
		}
		span := flow.Sum(all)
		start, last := span.Start, span.Last
		if s := r.slice; s != nil && !s.Point {
			start, last = s.Start.UnixMilli(), s.Last.UnixMilli()
		}
		if n := (last-start-1)/width + 1; n > maxSlices {
			return nil, usage("Aggregates available slices exceeded: %d/%d", n, maxSlices)
		}
		slices, err := flow.Aggregates(all, start, last, width)
		if err != nil {
			return nil, &Error{Err: err}
		}
		return FlowMetrics{{"Aggregated", slices}}, nil
	}
}
