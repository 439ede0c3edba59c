package ondemand

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
)

// cpu is what the process has used.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// world is a graph with an engine, and how many of each there are.
type world struct {
	nodes, hosts int
	queries      []string
}

// large is 100,000 interfaces on 100 hosts, a third of them captured, by 10 captures of which two go by edges.
func large() world {
	w := world{100_000, 100, []string{"G.V().Has('Name','veth7').Out()", "G.V().Has('TID','tid1').ShortestPathTo(Metadata('TID','tid99999'))"}}
	for i := range 8 {
		w.queries = append(w.queries, fmt.Sprintf("G.V().Has('Group',WITHIN(%d,%d))", i, i+100))
	}
	return w
}

// crowded is 10,000 interfaces on 10 hosts and 200 captures, of which 50 go by edges: as many as the product is meant for.
func crowded() world {
	w := world{10_000, 10, nil}
	for i := range 150 {
		w.queries = append(w.queries, fmt.Sprintf("G.V().Has('Group',WITHIN(%d,%d))", i, i+150))
	}
	for i := range 25 {
		w.queries = append(w.queries, fmt.Sprintf("G.V().Has('Name','veth%d').Out()", i))
		w.queries = append(w.queries, fmt.Sprintf("G.V().Has('TID','tid%d').ShortestPathTo(Metadata('TID','tid%d'))", i, 9999-i))
	}
	return w
}

// shows is an agent that does what it is asked for, and shows it.
func shows(g *graph.Graph) func(context.Context, string, *wire.Message) (*wire.Message, error) {
	return func(_ context.Context, _ string, m *wire.Message) (*wire.Message, error) {
		var asked struct {
			NodeID   string
			Resource struct{ UUID string }
		}
		if err := json.Unmarshal(m.Obj, &asked); err != nil {
			return nil, err
		}
		return &wire.Message{Status: 200}, g.Update("agent", func(tx *graph.Tx) error {
			n := tx.Node(asked.NodeID)
			if n == nil {
				return nil
			}
			v, _ := n.Metadata.Get("Captures")
			list, _ := v.(field.List)
			list = slices.DeleteFunc(slices.Clone(list), func(v field.Value) bool { return v.(field.Object).Text("ID") == asked.Resource.UUID })
			if m.Type == wire.TypeStart {
				list = append(list, field.Make("ID", asked.Resource.UUID, "State", "active", "PacketsReceived", 0))
			}
			metadata, err := n.Metadata.Set("Captures", list)
			if err == nil {
				_, err = tx.SetNodeMetadata(n.ID, metadata)
			}
			return err
		})
	}
}

func (w world) start(b *testing.B) (*graph.Graph, *Engine) {
	g := graph.New(graph.Options{})
	if err := g.Update("", func(tx *graph.Tx) error {
		for i := range w.nodes {
			m := field.Make("Type", "veth", "Name", fmt.Sprintf("veth%d", i%1000), "TID", fmt.Sprint("tid", i), "State", "UP", "MTU", 1500, "Group", i%300,
				"Metric", field.Make("RxPackets", 0, "TxPackets", 0), "LastUpdateMetric", field.Make("RxPackets", 0))
			if err := tx.AddNode(&graph.Node{Element: graph.Element{ID: fmt.Sprint("n", i), Host: fmt.Sprint("h", i%w.hosts), Metadata: m}}); err != nil {
				return err
			}
			if i > 0 {
				if err := tx.AddEdge(&graph.Edge{Element: graph.Element{ID: fmt.Sprint("e", i), Metadata: field.Make("RelationType", "layer2")}, Parent: fmt.Sprint("n", i/2), Child: fmt.Sprint("n", i)}); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	e := NewCaptures(Options{
		Graph: g, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Ask: shows(g),
		Watch: func(ctx context.Context, _ string, fn func(string, []byte, bool)) error {
			for i, q := range w.queries {
				fn(fmt.Sprint("/capture/c", i), fmt.Appendf(nil, `{"UUID":"c%d","GremlinQuery":"%s"}`, i, q), false)
			}
			fn("", nil, true)
			<-ctx.Done()
			return nil
		},
	})
	done := make(chan error, 1)
	go func() { done <- e.Run(b.Context()) }()
	b.Cleanup(func() {
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	tick, deadline := time.NewTicker(10*time.Millisecond), time.After(2*time.Minute)
	defer tick.Stop()
	for i := 0; i < len(w.queries); {
		if s, n := e.Status(fmt.Sprint("c", i), false); n > 0 && s.State == Active {
			i++
			continue
		}
		select {
		case <-tick.C:
		case <-deadline:
			b.Fatalf("capture %d never began", i)
		}
	}
	return g, e
}

// touch is one commit of an agent that reports counters of a host.
func (w world) touch(b *testing.B, g *graph.Graph, round int) {
	err := g.Update("agent", func(tx *graph.Tx) error {
		for i := range w.nodes / w.hosts {
			id := fmt.Sprint("n", i*w.hosts+round%w.hosts)
			old := tx.Node(id)
			m, err := old.Metadata.Set("Metric", field.Make("RxPackets", round, "TxPackets", round))
			if err != nil {
				return err
			}
			if m, err = m.Set("LastUpdateMetric", field.Make("RxPackets", round)); err != nil {
				return err
			}
			if v, _ := m.Get("Captures"); v != nil {
				list := slices.Clone(v.(field.List))
				for i := range list {
					if list[i], err = list[i].(field.Object).Set("PacketsReceived", round); err != nil {
						return err
					}
				}
				if m, err = m.Set("Captures", list); err != nil {
					return err
				}
			}
			if _, err := tx.SetNodeMetadata(id, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkCounters is what updates of counters cost the engine, of 1,000 nodes an iteration: the difference between with and without.
func BenchmarkCounters(b *testing.B) {
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("engine=%v", with), func(b *testing.B) {
			w := large()
			g, e := w.start(b)
			if !with {
				e.mu.Lock() // it reads no commits; its subscription is soon lost
				defer e.mu.Unlock()
			}
			began, round := cpu(b), 0
			b.ResetTimer()
			for b.Loop() {
				w.touch(b, g, round)
				round++
			}
			b.ReportMetric(float64(cpu(b)-began)/float64(round)/1000, "cpu-ns/update")
		})
	}
}

// BenchmarkCommit is the engine's part alone.
func BenchmarkCommit(b *testing.B) {
	for name, w := range map[string]world{"large": large(), "crowded": crowded()} {
		b.Run(name, func(b *testing.B) {
			g, e := w.start(b)
			commits, _ := g.Subscribe(4)
			w.touch(b, g, 1)
			c := <-commits.C()
			commits.Close()
			b.ReportAllocs()
			for b.Loop() {
				e.mu.Lock()
				e.commit(c)
				e.mu.Unlock()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/update")
		})
	}
}

// BenchmarkAppears is how long after an interface appeared its agent is asked, while others change, and what that takes of a processor.
func BenchmarkAppears(b *testing.B) {
	for name, w := range map[string]world{"large": large(), "crowded": crowded()} {
		b.Run(name, func(b *testing.B) {
			g, e := w.start(b)
			asked := make(chan string, 1)
			e.mu.Lock()
			ask := e.o.Ask
			e.o.Ask = func(ctx context.Context, host string, m *wire.Message) (*wire.Message, error) {
				if host == "new" {
					select {
					case asked <- host:
					default: // for another capture
					}
				}
				return ask(ctx, host, m)
			}
			e.mu.Unlock()
			n, began := 0, cpu(b)
			for b.Loop() {
				w.touch(b, g, n)
				// It comes with an edge, so that the captures that go by edges must be looked at again.
				if err := g.Update("agent", func(tx *graph.Tx) error {
					id := fmt.Sprint("new", n)
					return errors.Join(
						tx.AddNode(&graph.Node{Element: graph.Element{ID: id, Host: "new", Metadata: field.Make("Type", "veth", "Name", "x", "Group", 3)}}),
						tx.AddEdge(&graph.Edge{Element: graph.Element{ID: "e" + id, Metadata: field.Make("RelationType", "layer2")}, Parent: "n1", Child: id}))
				}); err != nil {
					b.Fatal(err)
				}
				n++
				select {
				case <-asked:
				case <-time.After(10 * time.Second):
					b.Fatal("never asked")
				}
			}
			b.ReportMetric(float64(cpu(b)-began)/float64(b.Elapsed()), "processors")
		})
	}
}

// BenchmarkLinks is how long it takes until a change of edges is known to all of many captures that go by them.
func BenchmarkLinks(b *testing.B) {
	w := crowded()
	g, e := w.start(b)
	began := cpu(b)
	n := 0
	stale := func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, x := range e.entries {
			if x.whole {
				return true
			}
		}
		return !e.settled.IsZero()
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for b.Loop() {
		if err := g.Update("agent", func(tx *graph.Tx) error {
			n++
			return tx.AddEdge(&graph.Edge{Element: graph.Element{ID: fmt.Sprint("link", n), Metadata: field.Make("RelationType", "layer2")}, Parent: fmt.Sprint("n", n), Child: fmt.Sprint("n", n+5000)})
		}); err != nil {
			b.Fatal(err)
		}
		<-tick.C
		for stale() {
			<-tick.C
		}
	}
	b.ReportMetric(float64(cpu(b)-began)/float64(b.Elapsed()), "processors")
}
