package disk

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
)

// TestSlicesOfTheGraph compares slices with a list of all revisions, and their edges with points in time.
func TestSlicesOfTheGraph(t *testing.T) {
	type revision struct {
		id         string
		n          int64
		begin, end int64 // end 0: still there
		gone       int64 // it ended by deletion
	}
	for _, seed := range []uint64{5, 6} {
		rng := rand.New(rand.NewPCG(seed, 5))
		w := newWorld(t, Options{MaxAge: 24 * time.Hour})
		begin := w.clock.ms.Load()
		var model []revision
		current := make(map[string]int) // ID: where in the model
		value := int64(0)
		for step := range 300 {
			w.clock.forward(1 + rng.Int64N(3*minute))
			now := w.clock.ms.Load()
			w.update(func(tx *graph.Tx) error {
				id := fmt.Sprint("n", rng.IntN(12))
				at, there := current[id]
				value++
				switch {
				case !there:
					current[id] = len(model)
					model = append(model, revision{id: id, n: value, begin: now})
					return tx.AddNode(node(id, "N", value, "Metric", map[string]any{"RxBytes": value}))
				case rng.IntN(4) == 0:
					model[at].end, model[at].gone = now, now
					delete(current, id)
					return tx.DeleteNode(id, 0)
				case rng.IntN(3) == 0: // counters make no revision
					m, err := tx.Node(id).Metadata.Set("Metric.RxBytes", value)
					if err == nil {
						_, err = tx.SetNodeMetadata(id, m)
					}
					return err
				}
				model[at].end = now
				current[id] = len(model)
				model = append(model, revision{id: id, n: value, begin: now})
				m, err := tx.Node(id).Metadata.Set("N", value)
				if err == nil {
					_, err = tx.SetNodeMetadata(id, m)
				}
				return err
			})
			w.archived() // before the clock goes on: what arrives late is filed late
			if step == 150 {
				ended := w.clock.ms.Load() + 1 // the first moment at which it is not known to be there
				for _, at := range current {
					model[at].end, model[at].gone = ended, ended
				}
				clear(current)
				w.reopen(hour)
			}
		}
		w.archived()
		end := w.clock.ms.Load()
		for range 200 {
			low, high := begin+rng.Int64N(end-begin), begin+rng.Int64N(end-begin)
			if low > high {
				low, high = high, low
			}
			if low == high {
				continue
			}
			var want []string
			for _, r := range model {
				if r.begin <= high && (r.end == 0 || r.end > low) {
					deleted := r.gone
					if r.gone > high {
						deleted = 0
					}
					want = append(want, fmt.Sprint(r.id, " ", r.n, " ", deleted))
				}
			}
			nodes, _, err := w.a.Graph(t.Context(), ms(low), ms(high))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			last := graph.Time(0)
			for _, n := range nodes {
				v, _ := n.Metadata.Int("N")
				got = append(got, fmt.Sprint(n.ID, " ", v, " ", int64(n.DeletedAt)))
				if n.UpdatedAt < last {
					t.Error("not by UpdatedAt")
				}
				last = n.UpdatedAt
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, %d–%d: %s", seed, low-begin, high-begin, difference(got, want))
			}
			for _, at := range []int64{low, high} {
				nodes, _, err := w.a.Graph(t.Context(), ms(at), ms(at))
				if err != nil {
					t.Fatal(err)
				}
				var want, got []string
				for _, r := range model {
					if r.begin <= at && (r.end == 0 || r.end > at) {
						want = append(want, fmt.Sprint(r.id, " ", r.n))
					}
				}
				for _, n := range nodes {
					v, _ := n.Metadata.Int("N")
					got = append(got, fmt.Sprint(n.ID, " ", v))
				}
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("seed %d, %d: %s", seed, at-begin, difference(got, want))
				}
			}
		}
		w.cancel()
		w.end()
	}
}

// TestTotals compares totals with those of the flows that are found.
func TestTotals(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	end := time.Now().UnixMilli()
	begin := end - 3*hour
	a, _ := opened(t, Options{})
	var reports []*flow.Flow
	for n := range uint64(700) {
		at := begin + rng.Int64N(3*hour)
		f := sample(n+1, at)
		f.Start = at
		for at < end && rng.IntN(10) > 0 {
			next := at + minute
			f.Last = at + rng.Int64N(minute)
			f.Metric.ABBytes += 10
			f.LastUpdateMetric = &flow.Metric{ABBytes: rng.Int64N(100), RTT: rng.Int64N(9), Start: at, Last: next}
			if rng.IntN(8) == 0 {
				f.LastUpdateMetric = nil
			}
			g := *f
			reports = append(reports, &g)
			at = next
		}
	}
	store(t, a, reports...)
	filter, err := flow.FilterOf(field.Filter{Terms: []field.Term{{Key: "Transport.A", Pred: field.Lt{N: 20_000}}}})
	if err != nil {
		t.Fatal(err)
	}
	counts := 0
	for i := range 24 {
		low, high := begin+rng.Int64N(3*hour), begin+rng.Int64N(3*hour)
		if low > high {
			low, high = high, low
		}
		since := low
		if i%4 == 0 {
			low, since = high-10*minute, 0 // a point in time
		}
		for _, s := range []*flow.Search{nil, {}, {Filter: filter}} {
			found, err := a.Flows(t.Context(), ms(low), ms(high), s)
			if err != nil {
				t.Fatal(err)
			}
			counts += len(found)
			for _, what := range []flow.MetricKind{flow.NoMetric, flow.Latest, flow.Whole, flow.Update} {
				var want flow.Total
				if what == flow.Latest {
					series, err := a.FlowMetrics(t.Context(), ms(since), ms(high), found)
					if err != nil {
						t.Fatal(err)
					}
					for _, list := range series {
						for i := range list {
							want.Count++
							want.Metric.Add(&list[i])
						}
					}
				} else {
					for _, f := range found {
						want.Add(f, flow.Aggregate{Metric: what})
					}
				}
				got, err := a.Total(t.Context(), ms(low), ms(high), ms(since), s, flow.Aggregate{Metric: what})
				if err != nil || got != want {
					t.Fatalf("metric %v: %+v %v, want %+v", what, got, err, want)
				}
			}
		}
	}
	if counts == 0 {
		t.Error("nothing was found")
	}
}

func TestAfter(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 500 {
		ids := make([]flowID, rng.IntN(40))
		for i := range ids {
			ids[i][8], ids[i][0] = byte(rng.IntN(60)), byte(rng.IntN(2))
		}
		slices.SortFunc(ids, flowID.compare)
		var id flowID
		id[8], id[0] = byte(rng.IntN(60)), byte(rng.IntN(2))
		want := 0
		for want < len(ids) && ids[want].compare(id) < 0 {
			want++
		}
		if got := after(ids, id); got != want {
			t.Fatalf("%d, want %d of %v before %v", got, want, ids, id)
		}
	}
}
