package analyzer

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"skydive/src/flow"
	"skydive/src/query"
	"skydive/src/wire"
)

// newest makes one list of several, in which each flow is once: as it was last reported.
func newest(answers [][]*flow.Flow) []*flow.Flow {
	answers = slices.DeleteFunc(slices.Clone(answers), func(found []*flow.Flow) bool { return len(found) == 0 })
	switch len(answers) {
	case 0:
		return nil
	case 1:
		return answers[0]
	}
	var out []*flow.Flow
	at := make(map[string]int)
	for _, found := range answers {
		for _, f := range found {
			i, dup := at[f.UUID]
			switch {
			case !dup:
				at[f.UUID] = len(out)
				out = append(out, f)
			case reported(out[i], f) < 0:
				out[i] = f
			}
		}
	}
	return out
}

// reported compares reports of a flow: which came first.
func reported(a, b *flow.Flow) int {
	counted := func(f *flow.Flow) int64 {
		if f.LastUpdateMetric == nil {
			return 0
		}
		return f.LastUpdateMetric.Last
	}
	return cmp.Or(cmp.Compare(a.Last, b.Last), cmp.Compare(counted(a), counted(b)))
}

// united makes one series per flow of those of several archives. What two of them have – reports that an agent repeated when it lost an
// analyzer – is in it once.
func united[T any](answers []map[string][]T, compare func(a, b T) int, same func(a, b T) bool) map[string][]T {
	var out map[string][]T
	for _, found := range answers {
		if out == nil {
			out = found
			continue
		}
		for id, list := range found {
			if len(out[id]) == 0 {
				out[id] = list
				continue
			}
			more := list
			for _, v := range out[id] {
				// The few that are equal to one of the other list are looked for where they would be.
				i, _ := slices.BinarySearchFunc(list, v, compare)
				for ; i < len(list) && compare(list[i], v) == 0; i++ {
					if same(list[i], v) {
						more = slices.DeleteFunc(slices.Clone(more), func(o T) bool { return compare(o, v) == 0 && same(o, v) })
						break
					}
				}
			}
			all := slices.Concat(out[id], more)
			slices.SortStableFunc(all, compare)
			out[id] = all
		}
	}
	return out
}

func samePacket(a, b flow.RawPacket) bool {
	return a.Index == b.Index && a.Timestamp == b.Timestamp && a.LinkType == b.LinkType && bytes.Equal(a.Data, b.Data)
}

// steady tells whether a filter holds for all reports of a flow or for none, whatever was counted in between.
func steady(f *flow.Filter) bool {
	if f == nil || f.Kind == flow.Everything {
		return true
	}
	if f.Kind == flow.Bool {
		return !slices.ContainsFunc(f.Filters, func(sub *flow.Filter) bool { return !steady(sub) })
	}
	root, _, _ := strings.Cut(f.Key, ".")
	switch root {
	case "UUID", "TrackingID", "L3TrackingID", "NodeTID", "LayersPath", "Application", "Link", "Network", "Transport":
		return true
	}
	return false
}

// steadyPart is the part of a filter that is steady: it lets through all that the filter does, and more.
func steadyPart(f *flow.Filter) *flow.Filter {
	switch {
	case steady(f):
		return f
	case f.Kind == flow.Bool && f.Op == flow.OpAnd:
		parts := make([]*flow.Filter, len(f.Filters))
		for i, sub := range f.Filters {
			parts[i] = steadyPart(sub)
		}
		return flow.And(parts...)
	}
	return nil
}

// sharing is the nodes that several archives have flows of.
type sharing struct {
	all   bool // or too many to be named
	nodes []string
}

func (s sharing) none() bool { return !s.all && len(s.nodes) == 0 }

// filter lets through flows of these nodes.
func (s sharing) filter() *flow.Filter {
	if s.all {
		return nil
	}
	return flow.AnyText("NodeTID", s.nodes...)
}

const (
	sharedNodes = 256  // that are named in a question
	knownNodes  = 4096 // that an archive names in an answer
)

// flowNodes is what a storage may be too, so that it need not make flows to tell whose they are.
type flowNodes interface {
	// FlowNodes returns the nodes of the flows that Flows finds without a filter, each once; no more than most.
	FlowNodes(ctx context.Context, from, to time.Time, most int) ([]string, error)
}

// nodesIn returns the nodes that an archive has flows of, as far as they may concern a filter.
func nodesIn(ctx context.Context, s query.Storage, from, to time.Time, f *flow.Filter) ([]string, error) {
	if s, ok := s.(flowNodes); ok {
		return s.FlowNodes(ctx, from, to, knownNodes)
	}
	found, err := s.Flows(ctx, from, to, &flow.Search{Filter: f, Dedup: true, DedupBy: "NodeTID", To: knownNodes})
	return tids(nil, found), err
}

func tids(list []string, flows []*flow.Flow) []string {
	for _, f := range flows {
		list = append(list, f.NodeTID)
	}
	return list
}

// shared finds the nodes whose flows are in several archives, as far as they may concern a filter. Each flow is of one node.
func (q *inquiry) shared(from, to time.Time, f *flow.Filter) (sharing, error) {
	f = steadyPart(f)
	answers, err := askAll(q, func(ctx context.Context) ([]string, error) {
		return nodesIn(ctx, q.a.o.Local, from, to, f)
	}, func(ctx context.Context, host string) (nodes []string, err error) {
		err = q.a.request(ctx, host, wire.TypeArchiveNodes, &flow.ArchiveQuery{From: from.UnixMilli(), To: to.UnixMilli(), Search: flow.Search{Filter: f}},
			func(r *flow.ArchiveReply) { nodes = tids(nodes, r.Flows) })
		return nodes, err
	})
	if err != nil {
		return sharing{}, err
	}
	times := make(map[string]int)
	for _, nodes := range answers {
		if len(nodes) >= knownNodes {
			return sharing{all: true}, nil
		}
		slices.Sort(nodes)
		for _, node := range slices.Compact(nodes) {
			times[node]++
		}
	}
	maps.DeleteFunc(times, func(_ string, n int) bool { return n < 2 })
	if _, unnamed := times[""]; unnamed || len(times) > sharedNodes {
		return sharing{all: true}, nil
	}
	return sharing{nodes: slices.Sorted(maps.Keys(times))}, nil
}
