package disk

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
)

// reports returns a function that gives reports evenly spread over a time, a thousand at a time.
func reports(begin, span, total int64) func(first int64) []*flow.Flow {
	batch := make([]*flow.Flow, 1000)
	return func(first int64) []*flow.Flow {
		for i := range batch {
			n := first + int64(i)
			batch[i] = sample(uint64(n+1), begin+n*span/total)
			batch[i].TCPMetric = &flow.TCPMetric{ABSynStart: begin + n, BASynStart: begin + n + 1, ABSynTTL: 64, BASynTTL: 63,
				ABPackets: n % 1000, ABBytes: n % 100000, BAPackets: n % 999, BABytes: n % 99999, ABSawStart: 1}
		}
		return batch
	}
}

// BenchmarkStoreFlows stores records in acknowledged batches of a thousand (P22: 100k records/s on one core).
func BenchmarkStoreFlows(b *testing.B) {
	a, _ := opened(b, Options{})
	now := time.Now().UnixMilli()
	next := reports(now-hour, hour, 1_000_000)
	first := int64(0)
	size := len(next(0)[0].AppendProto(nil))
	var used time.Duration
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		flows := next(first % 1_000_000)
		first += int64(len(flows))
		before := processor(b)
		b.StartTimer()
		if err := a.StoreFlows(b.Context(), flows); err != nil {
			b.Fatal(err)
		}
		used += processor(b) - before
	}
	b.ReportMetric(float64(first)/used.Seconds(), "records/cpu-s")
	b.ReportMetric(float64(first)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(size), "B/record-protobuf")
	b.ReportMetric(float64(a.bytes())/float64(first), "B/record-disk")
}

// records is how many reports the slice is cut out of; SKYDIVE_ARCHIVE_RECORDS=10000000 is the bar.
func records(b *testing.B) int64 {
	if s := os.Getenv("SKYDIVE_ARCHIVE_RECORDS"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	return 200_000
}

// BenchmarkSlice asks for 10 minutes out of a day (P22: less than a second out of 10M records).
func BenchmarkSlice(b *testing.B) {
	total := records(b)
	a, _ := opened(b, Options{})
	begin := time.Now().UnixMilli() - 24*hour
	next := reports(begin, 24*hour, total)
	started := time.Now()
	for n := int64(0); n < total; n += 1000 {
		if err := a.StoreFlows(b.Context(), next(n)); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%d records stored in %v, %d bytes each", total, time.Since(started), a.bytes()/total)
	from, to := ms(begin+12*hour-10*minute), ms(begin+12*hour)
	filter, err := flow.FilterOf(field.Filter{Terms: []field.Term{{Key: "Network", Pred: field.Eq{V: "10.0.3.9"}}}})
	if err != nil {
		b.Fatal(err)
	}
	for name, s := range map[string]*flow.Search{
		"all": {}, "filtered": {Filter: filter}, "latest-20": {Sort: true, Order: flow.Descending, To: 20},
	} {
		b.Run(name, func(b *testing.B) {
			n := 0
			before := processor(b)
			for b.Loop() {
				flows, err := a.Flows(b.Context(), from.Add(-10*time.Minute), to, s) // the question subtracts flow.expire
				if err != nil {
					b.Fatal(err)
				}
				n = len(flows)
			}
			b.ReportMetric(float64(n), "flows")
			b.ReportMetric((processor(b)-before).Seconds()*1000/float64(b.N), "cpu-ms/op")
		})
	}
	for name, what := range map[string]flow.MetricKind{"count": flow.NoMetric, "sum": flow.Latest} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if t, err := a.Total(b.Context(), from.Add(-10*time.Minute), to, from, nil, flow.Aggregate{Metric: what}); err != nil || t.Count == 0 {
					b.Fatal(t, err)
				}
			}
		})
	}
	b.Run("metrics", func(b *testing.B) {
		flows, err := a.Flows(b.Context(), from, to, nil)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := a.FlowMetrics(b.Context(), from, to, flows); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// processor is the time that the process has had a processor: on a machine that others use too, what matters.
func processor(b testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is the memory that the process has in RAM.
func resident(b testing.TB) int64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n << 10
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

// BenchmarkGraphAt asks for the graph at a time, of 20,000 nodes in 10 generations of revisions.
func BenchmarkGraphAt(b *testing.B) {
	const generations = 10
	nodes := 20_000
	if s := os.Getenv("SKYDIVE_ARCHIVE_NODES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			b.Fatal(err)
		}
		nodes = n
	}
	w := newWorld(b, Options{})
	ids := make([]string, nodes)
	for i := range ids {
		ids[i] = graph.NewID()
	}
	started := time.Now()
	for i := 0; i < nodes; i += 500 {
		w.update(func(tx *graph.Tx) error {
			for j := i; j < min(i+500, nodes); j++ {
				n := node(ids[j], "Name", fmt.Sprint("eth", j), "Type", "veth", "MAC", fmt.Sprintf("02:00:00:%02x:%02x:%02x", byte(j>>16), byte(j>>8), byte(j)),
					"State", "UP", "MTU", 1500, "IfIndex", j, "IPV4", []any{"10.0.0.1/24"}, "Generation", 0,
					"Metric", field.Make("RxBytes", j, "TxBytes", j, "Start", 1, "Last", 2))
				if err := tx.AddNode(n); err != nil {
					return err
				}
				if j > 0 {
					e := &graph.Edge{Element: graph.Element{ID: graph.LinkID(ids[j-1], ids[j], "layer2"), Host: "h1", Origin: "agent.h1",
						Revision: 1, Metadata: field.Make("RelationType", "layer2")}, Parent: ids[j-1], Child: ids[j]}
					if err := tx.AddEdge(e); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	total := int64(nodes*2 - 1)
	wait := func() {
		for deadline := time.Now().Add(2 * time.Minute); ; {
			if got, _ := w.a.ledger.total(); got.revisions >= total {
				return
			}
			if time.Now().After(deadline) {
				b.Fatal("not archived")
			}
			<-time.After(time.Millisecond)
		}
	}
	wait()
	begin := w.clock.ms.Load()
	for g := range generations {
		w.clock.forward(hour)
		for i := 0; i < nodes; i += 100 {
			w.clock.forward(1)
			w.update(func(tx *graph.Tx) error {
				for j := i; j < min(i+100, nodes); j++ {
					m, err := tx.Node(ids[j]).Metadata.Set("Generation", int64(g+1))
					if err != nil {
						return err
					}
					if _, err := tx.SetNodeMetadata(ids[j], m); err != nil {
						return err
					}
				}
				return nil
			})
		}
		total += int64(nodes)
		wait()
	}
	s := w.a.Status().(Status)
	b.Logf("%d revisions archived in %v, %d bytes, %d lost", s.Revisions, time.Since(started), s.Bytes, s.Dropped.Commits)
	for name, at := range map[string]int64{"now": w.clock.ms.Load(), "5h-ago": begin + 5*hour + hour/2, "first": begin + 1} {
		b.Run(name, func(b *testing.B) {
			before := processor(b)
			for b.Loop() {
				found, edges, err := w.a.Graph(b.Context(), ms(at), ms(at))
				if err != nil || len(found) != nodes || len(edges) != nodes-1 {
					b.Fatal(len(found), len(edges), err)
				}
			}
			b.ReportMetric((processor(b)-before).Seconds()*1000/float64(b.N), "cpu-ms/op")
		})
	}
}
