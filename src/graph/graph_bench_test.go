package graph

import (
	"fmt"
	"runtime"
	"testing"

	"skydive/src/field"
)

const big = 100_000

// fill makes big nodes with 8 metadata keys in a chain of edges.
func fill(b testing.TB, g *Graph, first int) {
	must(b, g.Update("", func(tx *Tx) error {
		for i := first; i < first+big; i++ {
			id := NewID()
			must(b, tx.AddNode(&Node{Element{ID: id, Host: "h", Origin: "agent.h", Revision: 1, Metadata: field.Make(
				"Name", fmt.Sprint("n", i), "Type", "veth", "TID", NewID(), "MAC", fmt.Sprintf("02:00:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255),
				"IfIndex", i, "MTU", 1500, "State", "UP", "Driver", "veth")}}))
			if prev := tx.View.s.slots; prev.n > 1 {
				must(b, tx.AddEdge(&Edge{Element: Element{ID: NewID(), Host: "h", Origin: "agent.h", Metadata: field.Make("RelationType", "layer2")},
					Parent: last, Child: id}))
			}
			last = id
		}
		return nil
	}))
}

var last string

func BenchmarkFill(b *testing.B) {
	for b.Loop() {
		g := New(Options{})
		fill(b, g, 0)
		b.StopTimer()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&after)
		g.Snapshot()
		runtime.KeepAlive(g)
		g = nil
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/big, "B/node")
		b.StartTimer()
	}
}

func BenchmarkUpdateBetweenSnapshots(b *testing.B) {
	g := New(Options{})
	fill(b, g, 0)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		g.Snapshot()
		i++
		must(b, g.Update("", func(tx *Tx) error {
			return tx.AddNode(node(fmt.Sprint("new", i), "Name", fmt.Sprint("x", i), "Type", "t"))
		}))
	}
}

func BenchmarkSelect(b *testing.B) {
	g := New(Options{})
	fill(b, g, 0)
	v := g.Snapshot().View
	re, _ := field.NewRegex("n50.*")
	for name, term := range map[string]field.Term{
		"name":  {Key: "Name", Pred: field.Eq{V: "n500"}},
		"type":  {Key: "Type", Pred: field.Eq{V: "veth"}},
		"regex": {Key: "Name", Pred: re},
		"scan":  {Key: "IfIndex", Pred: field.Eq{V: int64(500)}},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				v.CountNodes(field.Filter{Terms: []field.Term{term}})
			}
		})
	}
}
