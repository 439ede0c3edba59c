package graph

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"skydive/src/field"
)

const big = 100_000

// elements reads big nodes with 8 metadata keys, and edges that make a chain of them, from JSON as a Sync brings them.
func elements(b *testing.B) (nodes []*Node, edges []*Edge) {
	var text, edgeText []byte
	for i := range big {
		e := Element{ID: GenID("node", fmt.Sprint(i)), Host: "h", Origin: "agent.h", CreatedAt: 1, UpdatedAt: 1, Revision: 1}
		e.Metadata = field.Make("Name", fmt.Sprint("n", i), "Type", "veth", "TID", GenID("tid", fmt.Sprint(i)),
			"MAC", fmt.Sprintf("02:00:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255), "IfIndex", i, "MTU", 1500, "State", "UP", "Driver", "veth")
		text = (&Node{e}).AppendJSON(text)
		child := e.ID
		e.ID, e.Metadata = GenID("edge", fmt.Sprint(i)), field.Make("RelationType", "layer2")
		edgeText = (&Edge{Element: e, Parent: GenID("node", fmt.Sprint(max(i-1, 0))), Child: child}).AppendJSON(edgeText)
	}
	values := field.NewDecoder()
	in := field.NewJSON(bytes.NewBuffer(text))
	for range big {
		n, err := DecodeNode(in, values)
		must(b, err)
		nodes = append(nodes, n)
	}
	in = field.NewJSON(bytes.NewBuffer(edgeText))
	for range big {
		e, err := DecodeEdge(in, values)
		must(b, err)
		edges = append(edges, e)
	}
	return nodes, edges
}

func fill(b *testing.B, g *Graph, nodes []*Node, edges []*Edge) {
	must(b, g.Update("", func(tx *Tx) error {
		for _, n := range nodes {
			if err := tx.AddNode(n); err != nil {
				return err
			}
		}
		for _, e := range edges {
			if err := tx.AddEdge(e); err != nil {
				return err
			}
		}
		return nil
	}))
}

func filled(b *testing.B) *Graph {
	g := New(Options{})
	nodes, edges := elements(b)
	fill(b, g, nodes, edges)
	return g
}

// BenchmarkFill adds 100k nodes and 100k edges in one Update. B/node is the memory of a node and its edge, their own and that of
// the graph.
func BenchmarkFill(b *testing.B) {
	b.ReportAllocs()
	var before, after runtime.MemStats
	for b.Loop() {
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&before)
		nodes, edges := elements(b)
		g := New(Options{})
		runtime.GC()
		b.StartTimer()
		fill(b, g, nodes, edges)
		b.StopTimer()
		nodes, edges = nil, nil
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/big, "B/node")
		runtime.KeepAlive(g)
		b.StartTimer()
	}
}

func BenchmarkDecodeNode(b *testing.B) {
	nodes, _ := elements(b)
	text := nodes[12345].AppendJSON(nil)
	values, in := field.NewDecoder(), field.NewJSON(bytes.NewBuffer(nil))
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		in.Reset(bytes.NewBuffer(text), in.Options())
		_, err := DecodeNode(in, values)
		must(b, err)
	}
}

func BenchmarkUpdateBetweenSnapshots(b *testing.B) {
	g := filled(b)
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
	g := filled(b)
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
