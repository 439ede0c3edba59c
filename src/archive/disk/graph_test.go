package disk

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
)

// clock is moved by the test.
type clock struct{ ms atomic.Int64 }

func newClock(start int64) *clock {
	c := new(clock)
	c.ms.Store(start)
	return c
}

func (c *clock) now() time.Time  { return time.UnixMilli(c.ms.Load()) }
func (c *clock) forward(n int64) { c.ms.Add(n) }

// world is a graph that an archive follows.
type world struct {
	t      testing.TB
	clock  *clock
	g      *graph.Graph
	a      *Archive
	end    func() // of the archive
	cancel context.CancelFunc
	done   chan error
}

func newWorld(t testing.TB, o Options) *world {
	w := &world{t: t, clock: newClock(time.Now().Add(-24 * time.Hour).Truncate(time.Hour).UnixMilli())}
	o.Clock = w.clock.now
	w.g = graph.New(graph.Options{Clock: w.clock.now})
	w.a, w.end = opened(t, o)
	w.follow()
	return w
}

func (w *world) follow() {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.cancel, w.done = cancel, make(chan error, 1)
	go func() { w.done <- w.a.Follow(ctx, w.g) }()
}

// reopen ends the archive, moves the clock, and opens it again with an empty graph.
func (w *world) reopen(down int64) {
	w.t.Helper()
	w.cancel()
	if err := <-w.done; err != nil {
		w.t.Fatal(err)
	}
	w.end()
	w.clock.forward(down)
	w.g = graph.New(graph.Options{Clock: w.clock.now})
	w.a, w.end = opened(w.t, Options{Path: w.a.o.Path, Clock: w.clock.now})
	w.follow()
}

func (w *world) update(fn func(tx *graph.Tx) error) {
	w.t.Helper()
	if err := w.g.Update("", fn); err != nil {
		w.t.Fatal(err)
	}
}

// archived waits until the archive has got all of the graph.
func (w *world) archived() {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		nodes, edges, err := w.a.Graph(w.t.Context(), ms(1<<46), ms(1<<46))
		if err != nil {
			w.t.Fatal(err)
		}
		want := texts(w.g.Snapshot())
		got := textsOf(nodes, edges)
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("archived %s", difference(got, want))
		}
		<-time.After(2 * time.Millisecond)
	}
}

func texts(s *graph.Snapshot) []string {
	return textsOf(slices.Collect(s.Nodes(field.Filter{})), slices.Collect(s.Edges(field.Filter{})))
}

func textsOf(nodes []*graph.Node, edges []*graph.Edge) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, string(n.AppendJSON(nil)))
	}
	for _, e := range edges {
		list = append(list, string(e.AppendJSON(nil)))
	}
	slices.Sort(list)
	return list
}

// difference shows what of two sorted lists is in one only.
func difference(got, want []string) string {
	var b strings.Builder
	for _, s := range got {
		if !slices.Contains(want, s) {
			fmt.Fprintf(&b, "\n+ %s", s)
		}
	}
	for _, s := range want {
		if !slices.Contains(got, s) {
			fmt.Fprintf(&b, "\n- %s", s)
		}
	}
	return b.String()
}

// counted waits until so many counter records are archived.
func (w *world) counted(n int64) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		got, _ := w.a.ledger.total()
		if got.counters >= n {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d counter records, want %d", got.counters, n)
		}
		<-time.After(100 * time.Microsecond)
	}
}

func (w *world) at(t int64) []string {
	w.t.Helper()
	nodes, edges, err := w.a.Graph(w.t.Context(), ms(t), ms(t))
	if err != nil {
		w.t.Fatal(err)
	}
	return textsOf(nodes, edges)
}

func node(id string, pairs ...any) *graph.Node {
	return &graph.Node{Element: graph.Element{ID: id, Host: "h1", Origin: "agent.h1", Revision: 1, Metadata: field.Make(pairs...)}}
}

// TestGraphAtAnyTime changes a graph at random, remembers how it was, and asks the archive – also after it was opened anew.
func TestGraphAtAnyTime(t *testing.T) {
	for _, seed := range []uint64{1, 2, 3} {
		rng := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(t, Options{})
		type moment struct {
			at   int64
			want []string
		}
		var moments []moment
		ids := make([]string, 30)
		for i := range ids {
			ids[i] = graph.NewID()
			if i%7 == 0 {
				ids[i] = fmt.Sprintf("node/%d", i)
			}
		}
		remember := func() {
			w.archived()
			moments = append(moments, moment{w.clock.ms.Load(), texts(w.g.Snapshot())})
		}
		for step := range 400 {
			w.clock.forward(1 + rng.Int64N(4*minute))
			w.update(func(tx *graph.Tx) error {
				for range 1 + rng.IntN(12) {
					id, far := ids[rng.IntN(len(ids))], ids[rng.IntN(len(ids))]
					n := tx.Node(id)
					switch k := rng.IntN(10); {
					case n == nil:
						if err := tx.AddNode(node(id, "Name", id, "Type", "veth", "N", rng.IntN(5))); err != nil {
							return err
						}
					case k == 0:
						if err := tx.DeleteNode(id, 0); err != nil {
							return err
						}
					case k < 3 && tx.Node(far) != nil && tx.Edge(graph.EdgeID(id, far)) == nil:
						e := &graph.Edge{Element: graph.Element{ID: graph.EdgeID(id, far), Metadata: field.Make("RelationType", "layer2")}, Parent: id, Child: far}
						if err := tx.AddEdge(e); err != nil {
							return err
						}
					case k < 8:
						m, err := n.Metadata.Set("LastUpdateMetric.RxBytes", rng.Int64N(1e6))
						if err != nil {
							return err
						}
						if m, err = m.Set("Metric.RxBytes", rng.Int64N(1e9)); err != nil {
							return err
						}
						if _, err := tx.SetNodeMetadata(id, m); err != nil {
							return err
						}
					default:
						m, err := n.Metadata.Set("State.Deep", rng.Int64N(100))
						if err != nil {
							return err
						}
						if _, err := tx.SetNodeMetadata(id, m); err != nil {
							return err
						}
					}
				}
				return nil
			})
			if step%10 == 0 {
				remember()
			}
			if step == 200 {
				remember()
				w.archived()
				before := w.clock.ms.Load()
				w.reopen(hour)
				gap := w.clock.ms.Load() - hour/2
				if got := w.at(gap); len(got) > 0 {
					t.Fatalf("seed %d: %d elements while nobody looked: %s", seed, len(got), got[0])
				}
				if got := w.at(before); !slices.Equal(got, moments[len(moments)-1].want) {
					t.Fatalf("seed %d: at the end of the first process %s", seed, difference(got, moments[len(moments)-1].want))
				}
			}
		}
		remember()
		for i, m := range moments {
			if got := w.at(m.at); !slices.Equal(got, m.want) {
				t.Fatalf("seed %d, moment %d: %s", seed, i, difference(got, m.want))
			}
		}
		if got := w.at(moments[0].at - hour); len(got) > 0 {
			t.Error("before anything", got)
		}
		marks := 0
		low := []byte{spaceMark}
		if err := scan(t.Context(), w.a.db, low, upper(low), func(_, _ []byte) error { marks++; return nil }); err != nil || marks < 3 {
			t.Errorf("%d checkpoints %v: the test does not test them", marks, err)
		}
		w.cancel()
		w.end()
	}
}

func TestRevisionsOfASlice(t *testing.T) {
	w := newWorld(t, Options{})
	t0 := w.clock.ms.Load()
	set := func(id string, v int) func(tx *graph.Tx) error {
		return func(tx *graph.Tx) error {
			m, err := tx.Node(id).Metadata.Set("N", int64(v))
			if err == nil {
				_, err = tx.SetNodeMetadata(id, m)
			}
			return err
		}
	}
	step := func(fn func(tx *graph.Tx) error) {
		w.clock.forward(1000)
		w.update(fn)
		w.archived()
	}
	step(func(tx *graph.Tx) error { return tx.AddNode(node("a", "N", 0)) })        // 1 s
	step(func(tx *graph.Tx) error { return tx.AddNode(node("b", "N", 0)) })        // 2 s
	step(set("a", 1))                                                              // 3 s
	step(set("a", 2))                                                              // 4 s
	step(func(tx *graph.Tx) error { return tx.DeleteNode("b", 0) })                // 5 s
	step(set("a", 3))                                                              // 6 s
	step(func(tx *graph.Tx) error { return tx.AddNode(node("c", "N", 0)) })        // 7 s
	w.reopen(10 * second)                                                          // ends at 7 s
	step(func(tx *graph.Tx) error { return tx.AddNode(node("a", "N", int64(3))) }) // 18 s
	for _, c := range []struct {
		from, to int64
		want     string
	}{
		{0, 500, ""},
		{0, 1500, "a0"},
		{1500, 2500, "a0 b0"},
		{2500, 4500, "a0 b0 a1 a2"},
		{3500, 5500, "b0! a1 a2"},
		{4500, 6500, "b0! a2 a3"},
		{6500, 7000, "a3 c0"},
		{6500, 8000, "a3! c0!"},
		{8000, 9000, ""},
		{8000, 18500, "a3"},
	} {
		nodes, edges, err := w.a.Graph(t.Context(), ms(t0+c.from), ms(t0+c.to))
		if err != nil || len(edges) > 0 {
			t.Fatal(edges, err)
		}
		var got []string
		for _, n := range nodes {
			v, _ := n.Metadata.Int("N")
			s := fmt.Sprintf("%s%d", n.ID, v)
			if n.DeletedAt != 0 {
				s += "!"
			}
			got = append(got, s)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%d–%d: %v, want %s", c.from, c.to, got, c.want)
		}
	}
}

// TestCountersAreNoRevisions: an hour of counters, a second apart, of 100 interfaces.
func TestCountersAreNoRevisions(t *testing.T) {
	const interfaces, seconds = 100, 900
	w := newWorld(t, Options{})
	w.update(func(tx *graph.Tx) error {
		for i := range interfaces {
			n := node(fmt.Sprint("if", i), "Name", fmt.Sprint("eth", i), "Type", "device",
				"Captures", []any{map[string]any{"ID": "c1", "State": "active", "PacketsReceived": 0}},
				"Ovs", map[string]any{"Version": "2.17", "Metric": map[string]any{"RxBytes": 0}})
			if err := tx.AddNode(n); err != nil {
				return err
			}
		}
		return nil
	})
	w.archived()
	start := w.a.Status().(Status).Revisions
	begin := w.clock.ms.Load()
	for s := range int64(seconds) {
		w.clock.forward(second)
		now := w.clock.ms.Load()
		w.update(func(tx *graph.Tx) error {
			for i := range interfaces {
				id := fmt.Sprint("if", i)
				m := tx.Node(id).Metadata
				for path, v := range map[string]any{
					"Metric":           field.Make("RxBytes", (s+1)*1000, "Start", begin, "Last", now),
					"LastUpdateMetric": field.Make("RxBytes", 1000, "Start", now-second, "Last", now),
					"SFlow":            field.Make("Metric", field.Make("IfInOctets", s)),
					"Ovs":              field.Make("Version", "2.17", "Metric", field.Make("RxBytes", s)),
					"Captures":         field.List{field.Make("ID", "c1", "State", "active", "PacketsReceived", s)},
				} {
					var err error
					if m, err = m.Set(path, v); err != nil {
						return err
					}
				}
				if _, err := tx.SetNodeMetadata(id, m); err != nil {
					return err
				}
			}
			return nil
		})
		w.counted(interfaces * (s + 2))
	}
	w.archived()
	st := w.a.Status().(Status)
	if st.Revisions != start {
		t.Errorf("%d revisions", st.Revisions-start)
	}
	if st.Dropped.Commits > 0 {
		t.Fatal("commits were lost: the test cannot tell")
	}
	if want := int64(interfaces * (seconds + 1)); st.CounterRecords != want {
		t.Errorf("%d counter records, want %d", st.CounterRecords, want)
	}
	got, err := w.a.NodeMetrics(t.Context(), ms(begin+5*minute), ms(begin+10*minute), []string{"if7", "if8", "absent"}, "LastUpdateMetric")
	if err != nil || len(got) != 2 || len(got["if7"]) != 300 {
		t.Fatal(len(got["if7"]), err)
	}
	for i, m := range got["if7"] {
		if at, _ := m.Int("Start"); at != begin+5*minute+int64(i)*second {
			t.Fatal(i, at-begin, m)
		}
	}
	all, err := w.a.NodeMetrics(t.Context(), ms(0), ms(1<<50), []string{"if3"}, "Metric")
	if err != nil || len(all["if3"]) != 1 { // by Start, which is one
		t.Error(len(all["if3"]), err)
	}
	nodes, _, err := w.a.Graph(t.Context(), ms(begin+10*minute), ms(begin+10*minute))
	if err != nil || len(nodes) != interfaces {
		t.Fatal(len(nodes), err)
	}
	for _, n := range nodes {
		if v, _ := n.Metadata.Int("Metric.RxBytes"); v != 600*1000 || n.Revision != 601 || int64(n.UpdatedAt) != begin+10*minute {
			t.Fatalf("%s", n.AppendJSON(nil))
		}
		if v, _ := n.Metadata.Lookup("Captures.PacketsReceived"); !field.Equal(v, field.List{int64(599)}) {
			t.Fatal(v)
		}
	}
	t.Logf("%d counter records take %d bytes on disk", st.CounterRecords, st.Bytes)

	// What does not count is a revision.
	w.update(func(tx *graph.Tx) error {
		m := tx.Node("if0").Metadata
		m, _ = m.Set("Captures", field.List{field.Make("ID", "c1", "State", "error", "PacketsReceived", 5)})
		_, err := tx.SetNodeMetadata("if0", m)
		return err
	})
	w.archived()
	w.update(func(tx *graph.Tx) error {
		m := tx.Node("if0").Metadata
		m, _ = m.Set("Ovs.Version", "3.1")
		_, err := tx.SetNodeMetadata("if0", m)
		return err
	})
	w.archived()
	if n := w.a.Status().(Status).Revisions - start; n != 2 {
		t.Errorf("%d revisions, want 2", n)
	}
}
