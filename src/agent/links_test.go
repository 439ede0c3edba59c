package agent

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
)

func TestLinks(t *testing.T) {
	g := hostGraph(t)
	change := func(f func(*graph.Tx) error) {
		t.Helper()
		if err := g.Update("", f); err != nil {
			t.Fatal(err)
		}
	}
	node := func(id, kind, name string) *graph.Node {
		return &graph.Node{Element: graph.Element{ID: id, Host: "h1", Origin: "agent.h1", Metadata: field.Make("Name", name, "Type", kind)}}
	}
	change(func(tx *graph.Tx) error {
		_ = tx.AddNode(node("p1", "ovsport", "vnet0"))
		return tx.AddNode(node("other", "ovsport", "mir0"))
	})
	l := NewLinks(g, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = l.Run(ctx) })
	defer running.Wait()
	defer cancel()
	publish := Publish(g, "Captures", slog.New(slog.DiscardHandler))
	shown := func(id string) (v field.Value, linked bool) {
		s := g.Snapshot()
		if n := s.Node(id); n != nil {
			v, _ = n.Metadata.Get("Captures")
		}
		e := s.Edge(graph.LinkID(id, "p1", "mirroring"))
		return v, e != nil && e.Parent == id && e.Child == "p1" && e.Host == "h1" && e.Origin == "agent.h1" && e.Metadata.Text("RelationType") == "mirroring"
	}
	expect := func(id string, want field.List) {
		t.Helper()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		var v field.Value
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-tick.C {
			var linked bool
			if v, linked = shown(id); linked == (want != nil) && (v == nil && want == nil || field.Equal(v, want)) {
				return
			}
		}
		t.Fatalf("node %s shows %v, want %v", id, v, want)
	}
	of, own := field.Make("MirrorOf", "p1"), field.Make("ID", "c1")

	// The node comes after the link, changes hands, and is captured besides.
	end := l.Mirroring("mir0", "p1")
	change(func(tx *graph.Tx) error { return tx.AddNode(node("i1", "tun", "mir0")) })
	expect("i1", field.List{of})
	publish("i1", field.List{own})
	expect("i1", field.List{own, of})
	change(func(tx *graph.Tx) error {
		_ = tx.DeleteNode("i1", 0)
		return tx.AddNode(node("i2", "tun", "tap7"))
	})
	change(func(tx *graph.Tx) error {
		_, err := tx.SetNodeMetadata("i2", field.Make("Name", "mir0", "Type", "internal"))
		return err
	})
	expect("i2", field.List{of})
	publish("i2", nil)
	expect("i2", field.List{of})
	if v, _ := shown("other"); v != nil {
		t.Errorf("the port of the mirror shows %v", v)
	}
	end()
	expect("i2", nil)

	// It is there before the link; the port is gone before its end.
	end = l.Mirroring("mir0", "p1")
	expect("i2", field.List{of})
	change(func(tx *graph.Tx) error { return tx.DeleteNode("p1", 0) })
	end()
	if v, _ := shown("i2"); v != nil {
		t.Errorf("%v stays", v)
	}
	l.Mirroring("mir0", "p1")() // of a port that is not there
	if v, _ := shown("i2"); v != nil {
		t.Errorf("%v stays", v)
	}
}
