package query

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"

	"skydive/src/field"
	"skydive/src/flow"
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

// talk makes n flows of one host, every fourth of them not updated yet.
func talk(n int) []*flow.Flow {
	all := make([]*flow.Flow, n)
	for i := range all {
		start := int64(1_700_000_000_000 + i)
		m := flow.Metric{ABPackets: 10, ABBytes: 1000, BAPackets: 5, BABytes: 500, Start: start, Last: start + 1000}
		f := &flow.Flow{
			UUID: fmt.Sprintf("%016x", i), TrackingID: fmt.Sprintf("%016x", i/2), NodeTID: graph.GenID("tid0"),
			LayersPath: "Ethernet/IPv4/TCP", Application: "TCP", Start: start, Last: start + 1000, Metric: m,
			Link:      &flow.Layer{A: fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8&255, i&255), B: "02:00:00:00:00:00"},
			Network:   &flow.Layer{Protocol: flow.IPv4, A: fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255), B: "10.0.0.1"},
			Transport: &flow.Transport{Protocol: flow.TCP, A: int64(i%60000) + 1024, B: 80},
		}
		if i%4 > 0 {
			f.LastUpdateMetric = &m
		}
		if i%10 == 0 {
			f.LastRawPackets = []flow.RawPacket{{Timestamp: start, Index: 1, Data: make([]byte, 64), LinkType: 1}}
		}
		all[i] = f
	}
	return all
}

// patient is a FlowSource that looks at no context.
type patient struct{ all []*flow.Flow }

func (p patient) Flows(_ context.Context, _ []string, s *flow.Search) ([]*flow.Flow, []string, error) {
	return s.Apply(slices.Clone(p.all)), nil, nil
}

func (p patient) Total(_ context.Context, _ []string, s *flow.Search, a flow.Aggregate) (t flow.Total, _ []string, _ error) {
	for _, f := range p.all {
		if s.Filter.Match(f) {
			t.Add(f, a)
		}
	}
	return t, nil, nil
}

// BenchmarkFlows has the queries of P20 over 50k flows: what agents do in one pass, and what is done with flows that were fetched.
func BenchmarkFlows(b *testing.B) {
	src := Source{Graph: large(b, 1000), Flows: patient{talk(50_000)}}
	for _, q := range []struct{ name, text string }{
		{"P20-HasLimit", "G.Flows().Has('Network','10.0.0.1').Limit(10)"},
		{"P20-Count", "G.Flows().Has('Network','10.0.0.1').Count()"},
		{"P20-Sum", "G.Flows().Has('Network','10.0.0.1').Metrics().Sum()"},
		{"CountAll", "G.Flows().Count()"},
		{"SumBytes", "G.Flows().Sum('Metric.ABBytes')"},
		{"FetchedCount", "G.Flows().Limit(50000).Count()"},
		{"FetchedSum", "G.Flows().Limit(50000).Metrics().Sum()"},
		{"Metrics", "G.Flows().Metrics()"},
		{"Values", "G.Flows().Values('Network.A')"},
		{"Group", "G.Flows().Group().MoreThan()"},
		{"Nodes", "G.Flows().Nodes().Dedup().Count()"},
		{"All", "G.Flows()"},
	} {
		b.Run(q.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				parsed, err := gremlin.Parse(q.text)
				if err != nil {
					b.Fatal(err)
				}
				res, err := Run(b.Context(), parsed, src)
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
