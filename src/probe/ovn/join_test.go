package ovn

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
)

// TestJoin compares the edges in a graph with those that a look at all pairs finds.
func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := graph.New(graph.Options{})
		d := probe.NewDesired(probe.Env{Graph: g, Origin: "probe.ovn", Log: slog.New(slog.DiscardHandler), Running: func(string) {}})
		for i := range 6 {
			d.Node(fmt.Sprint("l", i), field.Make("Name", "l"))
			d.Node(fmt.Sprint("r", i), field.Make("Name", "r"))
		}
		d.Known()
		ctx, cancel := context.WithCancel(t.Context())
		work, done := make(chan func() error), make(chan error)
		go func() { done <- d.Run(ctx, nil, work) }()
		random := rand.New(rand.NewPCG(3, 4))
		j := newJoin(d, mapping)
		left, right := map[string]string{}, map[string]string{}
		for step := range 3000 {
			i, key := random.IntN(6), [...]string{"", "a", "b"}[random.IntN(3)]
			work <- func() error {
				switch {
				case step%1000 == 999:
					j.clearLeft()
					clear(left)
				case random.IntN(2) == 0:
					j.setLeft(fmt.Sprint("l", i), key)
					left[fmt.Sprint("l", i)] = key
				default:
					j.setRight(fmt.Sprint("r", i), key)
					right[fmt.Sprint("r", i)] = key
				}
				return nil
			}
			synctest.Wait()
			var want, got []string
			for l, key := range left {
				for r, other := range right {
					if key == other && key != "" {
						want = append(want, l+r)
					}
				}
			}
			for e := range g.Snapshot().Edges(field.Filter{}) {
				got = append(got, e.Parent+e.Child)
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("step %d: left %v, right %v: %v", step, left, right, got)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
