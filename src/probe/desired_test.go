package probe

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"skydive/src/field"
	"skydive/src/graph"
)

type blind struct{ begun atomic.Int32 }

func (b *blind) Begin(*graph.Snapshot) { b.begun.Add(1) }
func (b *blind) See(graph.Change)      {}

// TestDesiredWins lets somebody change a graph at random, and wants the elements of one origin to be as desired each time it is quiet, and
// those of others untouched.
func TestDesiredWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := graph.New(graph.Options{})
		ran := 0
		env := Env{Graph: g, Origin: "probe.test", Log: slog.New(slog.DiscardHandler), Running: func(string) { ran++ }}
		d := NewDesired(env)
		work := make(chan func() error)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		watcher := new(blind)
		go func() { done <- d.Run(ctx, watcher, work) }()
		do := func(fn func()) {
			work <- func() error { fn(); return nil }
			synctest.Wait()
		}
		random := rand.New(rand.NewPCG(1, 2))
		own := func(i int) string { return fmt.Sprint("own", i) }
		foreign := func(i int) string { return fmt.Sprint("foreign", i) }
		const n = 12
		any := func() string {
			if random.IntN(2) == 0 {
				return own(random.IntN(n))
			}
			return foreign(random.IntN(n))
		}
		leftover := env.NewNode(field.Make("Name", "leftover"))
		if err := g.Update("", func(tx *graph.Tx) error { return tx.AddNode(leftover) }); err != nil {
			t.Fatal(err)
		}
		do(func() { d.Node(own(0), field.Make("Name", "0")) })
		if g.Snapshot().Node(leftover.ID) == nil || g.Snapshot().Node(own(0)) != nil || ran != 0 {
			t.Fatal("something was done before all was known")
		}
		do(d.Known)
		if g.Snapshot().Node(leftover.ID) != nil || g.Snapshot().Node(own(0)) == nil || ran != 1 {
			t.Fatal("what is known is not so")
		}
		var edges []string
		for range 3000 {
			switch random.IntN(7) {
			case 0:
				do(func() { d.Node(own(random.IntN(n)), field.Make("Name", "x", "K", random.IntN(3))) })
			case 1:
				do(func() { d.DropNode(own(random.IntN(n))) })
			case 2:
				do(func() { edges = append(edges, d.Edge(any(), any(), Layer2, field.Make("K", random.IntN(3)))) })
			case 3:
				if len(edges) > 0 {
					do(func() { d.DropEdge(edges[random.IntN(len(edges))]) })
				}
			default: // somebody else
				_ = g.Update("other", func(tx *graph.Tx) error {
					id := any()
					switch {
					case tx.Node(id) == nil:
						origin := "agent.x"
						if random.IntN(4) == 0 {
							origin = env.Origin
						}
						if origin != env.Origin && id[0] == 'o' {
							return nil
						}
						return tx.AddNode(&graph.Node{Element: graph.Element{ID: id, Origin: origin, Revision: 1, Metadata: field.Make("Name", "y")}})
					case random.IntN(2) == 0:
						_, err := tx.SetNodeMetadata(id, field.Make("Name", "z", "K", random.IntN(3)))
						return err
					case random.IntN(2) == 0:
						for e := range tx.Out(id) {
							return tx.DeleteEdge(e.ID, 0)
						}
						return nil
					}
					return tx.DeleteNode(id, 0)
				})
				synctest.Wait()
			}
			check(t, g.Snapshot(), d)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		check(t, g.Snapshot(), d)
		if err := d.Clear(); err != nil {
			t.Error(err)
		}
		check(t, g.Snapshot(), NewDesired(env))
		if watcher.begun.Load() != 1 {
			t.Errorf("began %d times", watcher.begun.Load())
		}
	})
}

// check wants the elements of the origin to be the desired ones.
func check(t *testing.T, s *graph.Snapshot, d *Desired) {
	t.Helper()
	for n := range s.Nodes(field.Filter{}) {
		if want, ok := d.nodes[n.ID]; n.Origin == d.env.Origin && (!ok || !field.Equal(want, n.Metadata)) {
			t.Fatalf("node %s is %v, not %v", n.ID, n.Metadata, want)
		}
	}
	for id := range d.nodes {
		if s.Node(id) == nil {
			t.Fatalf("no node %s", id)
		}
	}
	for e := range s.Edges(field.Filter{}) {
		if want, ok := d.edges[e.ID]; !ok || !field.Equal(want.metadata, e.Metadata) {
			t.Fatalf("edge %s is %v, not %v", e.ID, e.Metadata, want.metadata)
		}
	}
	for id, e := range d.edges {
		if s.Node(e.parent) != nil && s.Node(e.child) != nil && s.Edge(id) == nil {
			t.Fatalf("no edge %s", id)
		}
	}
}

// TestDesiredThatFellBehind compares everything once commits are lost.
func TestDesiredThatFellBehind(t *testing.T) {
	g := graph.New(graph.Options{})
	running := make(chan struct{}, 16)
	env := Env{Graph: g, Origin: "probe.test", Log: slog.New(slog.DiscardHandler), Running: func(string) { running <- struct{}{} }}
	d := NewDesired(env)
	d.Node("a", field.Make("Name", "a"))
	d.Known()
	work := make(chan func() error)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	watcher := new(blind)
	go func() { done <- d.Run(ctx, watcher, work) }()
	<-running
	work <- func() error { // while it is busy
		for i := range desiredQueue + 2 {
			if err := g.Update("", func(tx *graph.Tx) error {
				_, err := tx.SetNodeMetadata("a", field.Make("Name", "a", "I", i))
				return err
			}); err != nil {
				return err
			}
		}
		d.Known()
		return nil
	}
	<-running
	for d := 0; watcher.begun.Load() < 2; d++ {
		work <- func() error { return nil }
	}
	work <- func() error { return nil }
	if n := g.Snapshot().Node("a"); n.Metadata.Text("Name") != "a" || len(n.Metadata) != 1 {
		t.Errorf("%v", n.Metadata)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
