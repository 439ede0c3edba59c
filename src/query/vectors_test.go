package query

import (
	"bufio"
	"bytes"
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/gremlin"
)

type vector struct {
	Section, Query string
	Status         int
	Answer         json.RawMessage
	Unordered      bool
	Debatable      bool
}

func vectors(tb testing.TB) []vector {
	tb.Helper()
	f, err := os.Open("testdata/cases.jsonl")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var vs []vector
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var v vector
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			tb.Fatal(err)
		}
		vs = append(vs, v)
	}
	if sc.Err() != nil || len(vs) != 505 {
		tb.Fatalf("%d vectors, %v", len(vs), sc.Err())
	}
	return vs
}

func goldenGraph(tb testing.TB) *graph.Snapshot {
	tb.Helper()
	data, err := os.ReadFile("testdata/graph.json")
	if err != nil {
		tb.Fatal(err)
	}
	var all struct {
		Nodes []*graph.Node
		Edges []*graph.Edge
	}
	if err := json.Unmarshal(data, &all); err != nil {
		tb.Fatal(err)
	}
	g := graph.New(graph.Options{})
	err = g.Update("", func(tx *graph.Tx) error {
		for _, n := range all.Nodes {
			asRecorded(tb, n)
			if err := tx.AddNode(n); err != nil {
				return err
			}
		}
		for _, e := range all.Edges {
			if err := tx.AddEdge(e); err != nil {
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

// recorded are the metrics of nodes which the peer's Aggregates had aligned to its slices, in the graph itself, before the
// answers were recorded (ours only reads): times in seconds after 1.7e9.
var recorded = map[string][2]int64{
	"a0000002-eth0":  {0, 60},
	"a0000003-br0":   {0, 60},
	"a0000004-veth1": {0, 60},
	"a0000005-veth2": {60, 120},
	"b0000004-bond0": {0, 60},
}

func asRecorded(tb testing.TB, n *graph.Node) {
	at, ok := recorded[n.ID]
	if !ok {
		return
	}
	for i, key := range []string{"LastUpdateMetric.Start", "LastUpdateMetric.Last"} {
		var err error
		if n.Metadata, err = n.Metadata.Set(key, 1_700_000_000_000+1000*at[i]); err != nil {
			tb.Fatal(err)
		}
	}
}

// different lists every vector that we answer otherwise, with the reason and our answer: "400" or JSON.
var different = map[string]struct{ why, ours string }{
	"": {"the API answers an empty query itself, with 204", "400"},

	"G.V().Has('Int',42.9).Values('@ID')": {"floats are compared as they are, not cut to integers", "null"},
	"G.V().Has('Type',WITHIN()).Count()":  {"nothing equals one of none", "0"},
	"G.V().Keys('x')":                     {"Keys has no parameter to ignore", "400"},

	"G.V('a0000015-web').Keys()": {"the keys that can be asked for, those in labels and lists included",
		`["@CreatedAt","@DeletedAt","@Host","@ID","@Origin","@Revision","@UpdatedAt","Container","Container.Hosts",` +
			`"Container.Hosts.Hostname","Container.Hosts.IP","Container.ID","Container.Image","Container.ImageID",` +
			`"Container.InitProcessPID","Container.Labels","Container.Labels.com","Container.Labels.com.example",` +
			`"Container.Labels.com.example.role","Container.Labels.com.example.weight","Container.Labels.ready",` +
			`"Container.Labels.tier","Container.Runtime","Container.Status","Name","TID","Type"]`},
	"G.V('f0000006-odd1').Keys()": {"keys of objects in lists are listed",
		`["@CreatedAt","@DeletedAt","@Host","@ID","@Origin","@Revision","@UpdatedAt","Big","Bools","EmptyList","EmptyMap",` +
			`"EmptyStr","Float","FloatInt","Int","Ints","Mixed","Name","Neg","Nested","Nested.L1","Nested.L1.L2",` +
			`"Nested.L1.L2.L3","Nested.L1.L2.N","Nested.List","Nested.List.K","Nested.List.V","No","NumStr","Str","Strs",` +
			`"Type","Yes","Zero"]`},
	"G.V('a0000002-eth0').Keys()": {"only the keys that are there, not every field of a known type",
		`["@CreatedAt","@DeletedAt","@Host","@ID","@Origin","@Revision","@UpdatedAt","Captures","Captures.BPFFilter",` +
			`"Captures.Error","Captures.ID","Captures.Name","Captures.PacketsDropped","Captures.PacketsIfDropped",` +
			`"Captures.PacketsReceived","Captures.State","Captures.Type","Driver","EncapType","FDB","FDB.Flags",` +
			`"FDB.IfIndex","FDB.MAC","FDB.State","FDB.Vlan","Features","Features.gro","Features.rx-checksum",` +
			`"Features.tx-checksum","IPV4","IPV6","IfIndex","LastUpdateMetric","LastUpdateMetric.Last",` +
			`"LastUpdateMetric.RxBytes","LastUpdateMetric.RxPackets","LastUpdateMetric.Start","LastUpdateMetric.TxBytes",` +
			`"LastUpdateMetric.TxPackets","LinkFlags","MAC","MTU","Metric","Metric.Last","Metric.RxBytes",` +
			`"Metric.RxDropped","Metric.RxPackets","Metric.Start","Metric.TxBytes","Metric.TxPackets","Name","Neighbors",` +
			`"Neighbors.Flags","Neighbors.IP","Neighbors.IfIndex","Neighbors.MAC","Neighbors.State","Probe",` +
			`"RoutingTables","RoutingTables.ID","RoutingTables.Routes","RoutingTables.Routes.NextHops",` +
			`"RoutingTables.Routes.NextHops.IP","RoutingTables.Routes.NextHops.IfIndex",` +
			`"RoutingTables.Routes.NextHops.Priority","RoutingTables.Routes.Prefix","RoutingTables.Routes.Protocol",` +
			`"RoutingTables.Src","SFlow","SFlow.IfMetrics","SFlow.IfMetrics.2","SFlow.IfMetrics.2.IfInOctets",` +
			`"SFlow.IfMetrics.2.IfOutOctets","SFlow.LastUpdateMetric","SFlow.LastUpdateMetric.IfInOctets",` +
			`"SFlow.LastUpdateMetric.IfOutOctets","SFlow.LastUpdateMetric.Last","SFlow.LastUpdateMetric.Start",` +
			`"SFlow.Metric","SFlow.Metric.IfInOctets","SFlow.Metric.IfOutOctets","SFlow.Metric.Last",` +
			`"SFlow.Metric.Start","Speed","State","TID","Type"]`},

	"G.Flows().RawPackets().BPF('blah blah')": {"an expression that means nothing is refused, not ignored", "400"},
}

// ask runs a query as the API does: 400 for whatever the user did wrong.
func ask(tb testing.TB, s *graph.Snapshot, text string) (status int, answer []byte) {
	tb.Helper()
	q, err := gremlin.Parse(text)
	if err != nil {
		return 400, []byte(err.Error())
	}
	res, err := Run(tb.Context(), q, Source{Graph: s, Flows: &agents{}})
	if err != nil {
		if _, ok := err.(*Error); !ok {
			tb.Fatalf("%s: error of type %T: %v", text, err, err)
		}
		return 400, []byte(err.Error())
	}
	var buf bytes.Buffer
	if err := res.WriteJSON(tb.Context(), &buf); err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
	return 200, buf.Bytes()
}

func TestVectors(t *testing.T) {
	s := goldenGraph(t)
	used := 0
	for _, v := range vectors(t) {
		status, answer := ask(t, s, v.Query)
		if d, ok := different[v.Query]; ok {
			used++
			if d.why == "" {
				t.Errorf("%s: differs without a reason", v.Query)
			}
			if d.ours == "400" && status == 400 || d.ours != "400" && status == 200 && same(t, []byte(d.ours), answer, v.Unordered, 0) {
				continue
			}
			t.Errorf("%s: %d %s, meant to be %s", v.Query, status, answer, d.ours)
			continue
		}
		if status != v.Status {
			t.Errorf("%s: status %d, want %d: %s", v.Query, status, v.Status, answer)
			continue
		}
		slack := int64(0)
		if strings.Contains(v.Query, "Aggregates") {
			slack = 1 // the peer truncates every share
		}
		if status == 200 && !same(t, v.Answer, answer, v.Unordered, slack) {
			t.Errorf("%s:\n got %s\nwant %s", v.Query, answer, v.Answer)
		}
	}
	if used != len(different) {
		t.Errorf("%d of the %d differences were met", used, len(different))
	}
}

// same compares as the vectors ask for: lists of unordered answers, and those inside a graph, as multisets.
func same(t *testing.T, want, got []byte, unordered bool, slack int64) bool {
	a, err := field.ParseJSON(want)
	if err != nil {
		t.Fatal(err)
	}
	b, err := field.ParseJSON(got)
	if err != nil {
		t.Errorf("answer is not JSON: %v: %s", err, got)
		return false
	}
	if unordered {
		a, b = ordered(a, 2), ordered(b, 2)
	}
	return near(a, b, slack)
}

// ordered sorts a list, and the lists Nodes and Edges of objects in it.
func ordered(v field.Value, depth int) field.Value {
	switch v := v.(type) {
	case field.List:
		out := make(field.List, len(v))
		for i := range v {
			out[i] = v[i]
			if _, ok := v[i].(field.Object); ok {
				out[i] = ordered(v[i], depth-1)
			}
		}
		slices.SortFunc(out, func(a, b field.Value) int {
			return bytes.Compare(field.AppendJSON(nil, a), field.AppendJSON(nil, b))
		})
		return out
	case field.Object:
		if _, ok := v.Get("Nodes"); ok && len(v) == 2 && depth > 0 {
			nodes, _ := v.Get("Nodes")
			edges, _ := v.Get("Edges")
			return field.Make("Nodes", ordered(nodes, depth-1), "Edges", ordered(edges, depth-1))
		}
	}
	return v
}

func near(a, b field.Value, slack int64) bool {
	if slack == 0 {
		return field.Equal(a, b)
	}
	switch a := a.(type) {
	case int64:
		b, ok := b.(int64)
		return ok && math.Abs(float64(a-b)) <= float64(slack)
	case field.List:
		b, ok := b.(field.List)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !near(a[i], b[i], slack) {
				return false
			}
		}
		return true
	case field.Object: // a counter that is left out is 0
		b, ok := b.(field.Object)
		for _, e := range a {
			if v, there := b.Get(e.Key); there && !near(e.Value, v, slack) || !there && !near(e.Value, int64(0), slack) {
				return false
			}
		}
		for _, e := range b {
			if _, there := a.Get(e.Key); !there && !near(e.Value, int64(0), slack) {
				return false
			}
		}
		return ok
	}
	return field.Equal(a, b)
}
