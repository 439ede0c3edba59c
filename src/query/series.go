package query

import (
	"cmp"
	"slices"

	"skydive/src/field"
	"skydive/src/gremlin"
)

// metricPath tells where nodes keep the metric that a Metrics step names.
func metricPath(args []gremlin.Arg) (string, bool) {
	if len(args) == 0 {
		return "LastUpdateMetric", true
	}
	switch args[0] {
	case "LastUpdateMetric":
		return "LastUpdateMetric", true
	case "SFlow", "SFlow.LastUpdateMetric":
		return "SFlow.LastUpdateMetric", true
	case "Ovs", "Ovs.LastUpdateMetric":
		return "Ovs.LastUpdateMetric", true
	}
	return "", false
}

// interfaceMetrics are the counters of an interface; those that are 0 are left out of nodes.
var interfaceMetrics = [...]string{
	"Collisions", "Multicast", "RxBytes", "RxCompressed", "RxCrcErrors", "RxDropped", "RxErrors", "RxFifoErrors",
	"RxFrameErrors", "RxLengthErrors", "RxMissedErrors", "RxOverErrors", "RxPackets", "TxAbortedErrors", "TxBytes",
	"TxCarrierErrors", "TxCompressed", "TxDropped", "TxErrors", "TxFifoErrors", "TxHeartbeatErrors", "TxPackets",
	"TxWindowErrors", "Start", "Last",
}

// nodeMetrics takes a metric from each node once per start; within a slice of time those that lie wholly within, which the History
// knows rather than the states of the node.
func nodeMetrics(path string) applier {
	return func(r *run, in Result) (Result, error) {
		s := r.slice
		sliced := s != nil && !s.Point
		var ids []string
		var past map[string][]field.Object
		if sliced {
			var err error
			ids = idsOf(in.(Nodes))
			past, err = r.src.History.NodeMetrics(r.ctx, s.Start, s.Last, ids, path)
			if err = r.archived(err); err != nil {
				return nil, err
			}
		}
		type period struct {
			id    string
			start int64
		}
		var found Metrics
		seen := make(map[period]struct{})
		at := make(map[string]int)
		add := func(id string, m field.Object) {
			if m = numbersOf(m); len(m) == 0 {
				return
			}
			start, _ := m.Int("Start")
			last, _ := m.Int("Last")
			if sliced && (start <= s.Start.UnixMilli() || last >= s.Last.UnixMilli()) {
				return
			}
			p := period{id, start}
			if _, dup := seen[p]; dup {
				return
			}
			seen[p] = struct{}{}
			i, ok := at[id]
			if !ok {
				i = len(found)
				at[id] = i
				found = append(found, Series{ID: id})
			}
			found[i].Metrics = append(found[i].Metrics, m)
			r.hold(1)
		}
		for _, id := range ids {
			for _, m := range past[id] {
				if !r.ok() {
					return nil, r.err
				}
				add(id, m)
			}
		}
		for _, n := range in.(Nodes) {
			if sliced || !r.ok() {
				break
			}
			v, _ := n.Metadata.Lookup(path)
			if m, ok := v.(field.Object); ok {
				add(n.ID, m)
			}
		}
		for _, s := range found {
			slices.SortStableFunc(s.Metrics, func(a, b field.Object) int {
				x, _ := a.Int("Start")
				y, _ := b.Int("Start")
				return cmp.Compare(x, y)
			})
		}
		return found, nil
	}
}

// idsOf returns the IDs of nodes, each once.
func idsOf(in Nodes) []string {
	seen := make(map[string]struct{}, len(in))
	var ids []string
	for _, n := range in {
		if _, dup := seen[n.ID]; !dup {
			seen[n.ID] = struct{}{}
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// numbersOf leaves the counters of an object that are not 0.
func numbersOf(o field.Object) field.Object {
	plain := true
	for _, e := range o {
		n, ok := e.Value.(int64)
		plain = plain && ok && n != 0
	}
	if plain {
		return o
	}
	var out field.Object
	for _, e := range o {
		if n, ok := e.Value.(int64); ok && n != 0 {
			out = append(out, e)
		}
	}
	return out
}

// tally adds up metrics: counters are summed, the earliest Start and the latest Last kept.
type tally struct {
	counters    map[string]int64
	start, last int64
	some        bool
}

func (t *tally) add(m field.Object) {
	if t.counters == nil {
		t.counters = make(map[string]int64)
	}
	for _, e := range m {
		n := e.Value.(int64)
		switch e.Key {
		case "Start":
			if !t.some || n < t.start {
				t.start = n
			}
		case "Last":
			t.last = max(t.last, n)
		default:
			t.counters[e.Key] += n
		}
	}
	t.some = true
}

func (t *tally) object() field.Object {
	o := make(field.Object, 0, len(t.counters)+2)
	for k, n := range t.counters {
		o = append(o, field.Entry{Key: k, Value: n})
	}
	o = append(o, field.Entry{Key: "Start", Value: t.start}, field.Entry{Key: "Last", Value: t.last})
	slices.SortFunc(o, func(a, b field.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return numbersOf(o)
}

func sumMetrics(r *run, in Result) (Result, error) {
	var sum tally
	for _, s := range in.(Metrics) {
		for _, m := range s.Metrics {
			if sum.add(m); !r.ok() {
				return nil, r.err
			}
		}
	}
	if !sum.some {
		return Value{nil}, nil
	}
	return Value{sum.object()}, nil
}

func sumMetric(key string) applier {
	return func(r *run, in Result) (Result, error) {
		known := slices.Contains(interfaceMetrics[:], key)
		some := false
		var sum tally
		for _, s := range in.(Metrics) {
			for _, m := range s.Metrics {
				n, ok := m.Get(key)
				if ok {
					sum.add(field.Object{{Key: key, Value: n}})
				}
				known = known || ok
				some = true
				if !r.ok() {
					return nil, r.err
				}
			}
		}
		switch {
		case !some:
			return Value{nil}, nil
		case !known:
			return nil, usage("Field not found: %s", key)
		case key == "Start":
			return Value{sum.start}, nil
		case key == "Last":
			return Value{sum.last}, nil
		}
		return Value{sum.counters[key]}, nil
	}
}

// metricKeys lists the counters that the metrics may have; those of interfaces are known even where all are 0.
func metricKeys(r *run, in Result) (Result, error) {
	seen := make(map[string]struct{})
	foreign := false
	for _, s := range in.(Metrics) {
		for _, m := range s.Metrics {
			for _, e := range m {
				seen[e.Key] = struct{}{}
				foreign = foreign || !slices.Contains(interfaceMetrics[:], e.Key)
			}
			if !r.ok() {
				return nil, r.err
			}
		}
	}
	if len(seen) > 0 && !foreign {
		for _, k := range interfaceMetrics {
			seen[k] = struct{}{}
		}
	}
	return keyList(seen), nil
}

// maxSlices bounds the answer of Aggregates.
const maxSlices = 10_000

// aggregate cuts time into slices of width milliseconds, from the start of the Context or of the earliest metric, and shares
// every metric out among the slices that it overlaps, in proportion. The shares of a counter add up to the counter. Metrics
// without an interval have no place in time and are left out.
func aggregate(width int64) applier {
	return func(r *run, in Result) (Result, error) {
		var all tally
		for _, s := range in.(Metrics) {
			for _, m := range s.Metrics {
				if start, last, ok := interval(m); ok {
					all.add(field.Object{{Key: "Start", Value: start}, {Key: "Last", Value: last}})
				}
			}
		}
		if s := r.slice; s != nil && !s.Point {
			all.start, all.last = s.Start.UnixMilli(), s.Last.UnixMilli()
		}
		if !all.some {
			return Metrics{{ID: "Aggregated"}}, nil
		}
		n := (all.last-all.start-1)/width + 1
		if n > maxSlices {
			return nil, usage("Aggregates available slices exceeded: %d/%d", n, maxSlices)
		}
		slots := make([]tally, max(n, 1))
		for _, s := range in.(Metrics) {
			for _, m := range s.Metrics {
				if start, last, ok := interval(m); ok && !share(r, slots, m, start, last, all.start, width) {
					return nil, r.err
				}
			}
		}
		var out []field.Object
		for i := range slots {
			if t := &slots[i]; t.some {
				t.start = all.start + int64(i)*width
				t.last = min(t.start+width, all.last)
				out = append(out, t.object())
			}
		}
		return Metrics{{"Aggregated", out}}, nil
	}
}

func interval(m field.Object) (start, last int64, ok bool) {
	start, _ = m.Int("Start")
	last, _ = m.Int("Last")
	return start, last, start > 0 && last >= start
}

// share adds to each slot its part of m.
func share(r *run, slots []tally, m field.Object, start, last, origin, width int64) bool {
	part := make(field.Object, 0, len(m))
	first := min(max((start-origin)/width, 0), int64(len(slots))-1)
	for i := first; i < int64(len(slots)); i++ {
		from := max(origin+i*width, start)
		to := min(origin+(i+1)*width, last)
		if from > last || to < from || from == to && start != last {
			break
		}
		part = part[:0]
		for _, e := range m {
			if e.Key == "Start" || e.Key == "Last" {
				continue
			}
			n := e.Value.(int64)
			if start != last {
				n = portion(n, to-start, last-start) - portion(n, from-start, last-start)
			}
			if n != 0 {
				part = append(part, field.Entry{Key: e.Key, Value: n})
			}
		}
		slots[i].add(part)
		if !r.ok() {
			return false
		}
		if start == last {
			break
		}
	}
	return true
}

// portion is n × part / whole, rounded down.
func portion(n, part, whole int64) int64 {
	if part >= whole {
		return n
	}
	// In two steps, since n × part may exceed 64 bits.
	return n/whole*part + int64(float64(n%whole)*(float64(part)/float64(whole)))
}
