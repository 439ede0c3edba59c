package query

import (
	"fmt"
	"io"
	"testing"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/gremlin"
)

// large makes n nodes and n edges: node i is the parent of i+1, so that the way from one end to the other visits all.
func large(tb testing.TB, n int) *graph.Snapshot {
	tb.Helper()
	g := graph.New(graph.Options{})
	err := g.Update("", func(tx *graph.Tx) error {
		ids := make([]string, n)
		for i := range n {
			ids[i] = graph.GenID(fmt.Sprint("node", i))
			m := field.Make("Name", fmt.Sprint("n", i), "Type", []string{"veth", "bridge", "device", "netns"}[i%4],
				"TID", graph.GenID(fmt.Sprint("tid", i)), "MAC", fmt.Sprintf("02:00:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255),
				"IfIndex", i, "MTU", 1500, "State", "UP", "Driver", "veth")
			e := graph.Element{ID: ids[i], Metadata: m, Host: fmt.Sprint("host", i%100), Origin: "agent.h", CreatedAt: 1, UpdatedAt: 1, Revision: 1}
			if err := tx.AddNode(&graph.Node{Element: e}); err != nil {
				return err
			}
		}
		for i := range n {
			parent, child := ids[i], ids[(i+1)%n]
			e := graph.Element{ID: graph.EdgeID(parent, child), Metadata: field.Make("RelationType", "layer2"), Host: "h", Origin: "agent.h", CreatedAt: 1, UpdatedAt: 1, Revision: 1}
			if i == n-1 { // closing the ring would halve the way
				child = ids[n/2]
			}
			if err := tx.AddEdge(&graph.Edge{Element: e, Parent: parent, Child: child}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return g.Snapshot()
}

// BenchmarkQuery has the queries of P8 to P14 over 100k nodes and 100k edges, each from text to written answer.
func BenchmarkQuery(b *testing.B) {
	s := large(b, 100_000)
	id := graph.GenID("node500")
	for _, q := range []struct{ name, text string }{
		{"P8-V", "G.V('" + id + "')"},
		{"P9-Name", "G.V().Has('Name','n500')"},
		{"P10-TypeCount", "G.V().Has('Type','veth').Count()"},
		{"P11-OutOut", "G.V().Has('Name','n500').Out().Out()"},
		{"P12-Regex", "G.V().Has('Name',Regex('n50.*')).Count()"},
		{"P13-G", "G"},
		{"P14-Path", "G.V().Has('Name','n0').ShortestPathTo(Metadata('Name','n99999')).Dedup().Count()"},
		{"V", "G.V()"},
		{"MTUCount", "G.V().Has('MTU',GT(1400)).Count()"},
		{"Dedup", "G.V().Both().Dedup().Count()"},
		{"Sort", "G.V().Sort('Name').Limit(3)"},
		{"Keys", "G.V().Keys()"},
		{"SubGraph", "G.V().Has('Type','veth').Both().SubGraph().V().Count()"},
	} {
		b.Run(q.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				parsed, err := gremlin.Parse(q.text)
				if err != nil {
					b.Fatal(err)
				}
				res, err := Run(b.Context(), parsed, Source{Graph: s})
				if err != nil {
					b.Fatal(err)
				}
				if err := res.WriteJSON(b.Context(), io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
