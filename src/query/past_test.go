package query

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
)

// archive is a History and a Storage in memory: every state of every element, and all flows.
type archive struct {
	nodes   []*graph.Node
	edges   []*graph.Edge
	metrics map[string][]field.Object // by node
	flows   []*flow.Flow
	updates map[string][]flow.Metric
	packets map[string][]flow.RawPacket

	err   error
	asked []string
}

func (a *archive) ask(what string, from, to time.Time, more ...any) {
	a.asked = append(a.asked, strings.TrimSpace(fmt.Sprintf("%s %d-%d ", what, from.UnixMilli(), to.UnixMilli())+fmt.Sprintln(more...)))
}

func (a *archive) Graph(_ context.Context, from, to time.Time) ([]*graph.Node, []*graph.Edge, error) {
	a.ask("graph", from, to)
	return a.nodes, a.edges, a.err
}

func (a *archive) NodeMetrics(_ context.Context, from, to time.Time, ids []string, path string) (map[string][]field.Object, error) {
	a.ask("metrics", from, to, ids, path)
	found := make(map[string][]field.Object)
	for _, id := range ids {
		found[id] = a.metrics[id]
	}
	return found, a.err
}

func (a *archive) Flows(_ context.Context, from, to time.Time, s *flow.Search) ([]*flow.Flow, error) {
	a.ask("flows", from, to, describe(nil, s))
	var found []*flow.Flow
	for _, f := range a.flows {
		if f.Start <= to.UnixMilli() && f.Last >= from.UnixMilli() {
			found = append(found, f)
		}
	}
	return s.Apply(found), a.err
}

func (a *archive) FlowMetrics(_ context.Context, from, to time.Time, flows []*flow.Flow) (map[string][]flow.Metric, error) {
	a.ask("updates", from, to, len(flows))
	found := make(map[string][]flow.Metric)
	for _, f := range flows {
		for _, m := range a.updates[f.UUID] {
			if m.Start >= from.UnixMilli() && m.Last <= to.UnixMilli() {
				found[f.UUID] = append(found[f.UUID], m)
			}
		}
	}
	return found, a.err
}

func (a *archive) RawPackets(_ context.Context, from, to time.Time, flows []*flow.Flow) (map[string][]flow.RawPacket, error) {
	a.ask("packets", from, to, len(flows))
	return a.packets, a.err
}

func state(id string, at graph.Time, m field.Object) *graph.Node {
	return &graph.Node{Element: graph.Element{ID: id, Metadata: m, Host: "h", CreatedAt: 1, UpdatedAt: at}}
}

func linkState(id, parent, child string, at graph.Time, m field.Object) *graph.Edge {
	return &graph.Edge{Element: graph.Element{ID: id, Metadata: m, CreatedAt: 1, UpdatedAt: at}, Parent: parent, Child: child}
}

// twoStates is an archive in which a bridge and its link changed once, and a third node did not; one link leads out of the archive.
func twoStates() *archive {
	named := func(name, state string) field.Object {
		return field.Make("Name", name, "State", state, "TID", "tid-"+name, "Type", "veth", "MAC", "mac-"+name)
	}
	return &archive{
		nodes: []*graph.Node{
			state("br", 10, named("br", "DOWN")), state("eth", 10, named("eth", "UP")), state("top", 15, named("top", "UP")),
			state("br", 20, named("br", "UP")),
		},
		edges: []*graph.Edge{
			linkState("top-br", "top", "br", 10, field.Make("RelationType", "ownership")),
			linkState("br-eth", "br", "eth", 10, field.Make("RelationType", "layer2", "N", 1)),
			linkState("br-eth", "br", "eth", 20, field.Make("RelationType", "layer2", "N", 2)),
			linkState("eth-gone", "eth", "gone", 20, field.Make("RelationType", "layer2")),
		},
	}
}

// TestEveryState walks a slice of time in which elements have several states.
func TestEveryState(t *testing.T) {
	src := Source{Graph: build(t, nil), History: twoStates()}
	for query, want := range map[string]string{
		"V().Count()":                                "4",
		"V().Has('Name','br').Count()":               "2",
		"V().Has('Name','br').Values('State')":       `["DOWN","UP"]`,
		"V('br').Values('State')":                    `["DOWN","UP"]`,
		"V('br').Has('State','UP').Count()":          "1",
		"V('nope')":                                  "400",
		"V().Dedup().Values('Name')":                 `["br","eth","top"]`,
		"V().Dedup('Name','State').Count()":          "4",
		"V().Sort('State').Limit(1).Values('State')": `["DOWN"]`,
		"E().Count()":                                "4",
		"E('br-eth').BothV().Count()":                "6", // two states of the link, with two and one of its ends
		"E().Has('N',2).Count()":                     "1",
		"V('top').Out().Values('State')":             `["DOWN","UP"]`,
		"V('top').Out('State','UP').Count()":         "1",
		"V('eth').In().Count()":                      "2",
		"V('eth').Both().Count()":                    "2",
		"V('eth').InE().Count()":                     "2",
		"V('eth').InE('N',1).Count()":                "1",
		"V('eth').OutE().OutV().Count()":             "0",
		"V('top').OutE().Count()":                    "1",
		"V('top').Descendants('RelationType','ownership').Values('State')":                   `["UP","DOWN","UP"]`,
		"V('top').Descendants('RelationType','ownership','RelationType','layer2',0).Count()": "4",
		"V('top').ShortestPathTo(Metadata('Name','eth')).Dedup().Values('Name')":             `["top","br","eth"]`,
		"V('eth').ShortestPathTo(Metadata('Name','br')).Dedup().Values('State')":             `["UP","UP"]`,
		"V('br').ShortestPathTo(Metadata('State','DOWN')).Dedup().Values('State')":           `["UP"]`,
		"V().SubGraph().V().Count()":                        "4",
		"V().SubGraph().E().Count()":                        "3",
		"V('br').SubGraph().V().Values('State')":            `["DOWN","UP"]`,
		"V().Has('State','UP').SubGraph().V().Count()":      "3",
		"V().Has('State','UP').SubGraph().E().Count()":      "3",
		"V().Has('State','UP').SubGraph('N',1).E().Count()": "1",
		"V().SubGraph().V('top').Out().Count()":             "2",
		"V('eth').BothE().SubGraph().V().Count()":           "3",
		"V('eth').BothE().BothE()":                          "400",
		"V('br').As('x').G.V('eth').Select('x').Count()":    "2",
		"V().Keys()": `["@CreatedAt","@DeletedAt","@Host","@ID","@Origin","@Revision","@UpdatedAt","MAC","Name","State","TID","Type"]`,
	} {
		got, err := answer(t, src, "G.At(100,50)."+query)
		var usage *Error
		if want == "400" && errors.As(err, &usage) {
			continue
		}
		if err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", query, got, err, want)
		}
	}
	res, err := Run(t.Context(), parse(t, "G.At(100,50)"), src)
	if err != nil {
		t.Fatal(err)
	}
	if g := res.(Graph); len(slices.Collect(g.Nodes())) != 4 || len(slices.Collect(g.Edges())) != 4 {
		t.Error(g)
	}
	var dot bytes.Buffer
	if err := WriteDOT(t.Context(), &dot, res); err != nil || dot.Len() == 0 {
		t.Error(err)
	}
}

func TestHistory(t *testing.T) {
	now := time.UnixMilli(1_700_000_061_000)
	a := twoStates()
	src := Source{Graph: build(t, nil), History: a, Now: func() time.Time { return now }, Limit: 100}
	metric := func(start, last int) field.Object { return field.Make("RxBytes", 10, "Start", start, "Last", last) }
	a.metrics = map[string][]field.Object{"br": {metric(80_000, 90_000), metric(60_000, 70_000), metric(60_000, 70_000), metric(70_000, 100_000)}}
	for query, want := range map[string]struct{ answer, asked string }{
		"G.At(NOW).V().Count()":    {"4", "graph 1700000061000-1700000061000"},
		"G.At(NOW,60).V().Count()": {"4", "graph 1700000001000-1700000061000"},
		// What begins or ends outside of the slice does not count.
		"G.At(100,50).V('br').Metrics()": {
			`[{"br":[{"Last":70000,"RxBytes":10,"Start":60000},{"Last":90000,"RxBytes":10,"Start":80000}]}]`,
			"graph 50000-100000; metrics 50000-100000 [br] LastUpdateMetric"},
		"G.At(100,40).V().Metrics('Ovs').Aggregates(10).Count()": {"1", "graph 60000-100000; metrics 60000-100000 [br eth top] Ovs.LastUpdateMetric"},
		"G.At(101,50).V().Metrics().Aggregates(25)": {
			`[{"Aggregated":[{"Last":76000,"RxBytes":12,"Start":51000},{"Last":101000,"RxBytes":18,"Start":76000}]}]`,
			"graph 51000-101000; metrics 51000-101000 [br eth top] LastUpdateMetric"},
		"G.At(100).V().Metrics()": {"[]", "graph 100000-100000"}, // a point shows what nodes show
		"G.V().Count()":           {"0", ""},
	} {
		a.asked = nil
		got, err := answer(t, src, query)
		if asked := strings.Join(a.asked, "; "); err != nil || got != want.answer || asked != want.asked {
			t.Errorf("%s: %s %v, want %s\nasked %s, want %s", query, got, err, want.answer, asked, want.asked)
		}
	}
	shown := field.Make("LastUpdateMetric", field.Make("RxBytes", 7, "Start", 1, "Last", 2))
	a.nodes = []*graph.Node{state("n", 1, shown)}
	if got, err := answer(t, src, "G.At(100).V().Metrics()"); got != `[{"n":[{"Last":2,"RxBytes":7,"Start":1}]}]` || err != nil {
		t.Error(got, err)
	}
	src.Limit = 3
	a.nodes, a.edges = twoStates().nodes, nil
	if _, err := answer(t, src, "G.At(NOW).V().Limit(1)"); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	src.Limit = 0
	var missing []string
	src.Partial = func(hosts []string) { missing = hosts }
	a.err = fmt.Errorf("asking others: %w", Missing{"h1", "h2"})
	if got, err := answer(t, src, "G.At(NOW).V().Count()"); got != "4" || err != nil || !slices.Equal(missing, []string{"h1", "h2"}) {
		t.Error(got, err, missing)
	}
	var usage *Error
	a.err = io.ErrUnexpectedEOF
	if _, err := answer(t, src, "G.At(NOW).V()"); !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &usage) {
		t.Errorf("%v", err)
	}
	a.err = ErrNoHistory
	if _, err := answer(t, src, "G.At(NOW).V()"); !errors.Is(err, ErrNoHistory) || !errors.As(err, &usage) {
		t.Errorf("%v", err)
	}
	src.History = nil
	if _, err := answer(t, src, "G.At(NOW).V()"); !errors.Is(err, ErrNoHistory) || !errors.As(err, &usage) {
		t.Errorf("%v", err)
	}
}

// TestPastFlows asks an archive that holds two flows on node eth, the second of them silent for long.
func TestPastFlows(t *testing.T) {
	a := twoStates()
	end := func(mac string) *flow.Layer { return &flow.Layer{A: mac, B: "mac-br"} }
	a.flows = []*flow.Flow{
		{UUID: "f1", TrackingID: "t", NodeTID: "tid-eth", Start: 40_000, Last: 90_000, Link: end("mac-top"), Metric: flow.Metric{ABBytes: 100}},
		{UUID: "f2", TrackingID: "t", NodeTID: "tid-eth", Start: 10_000, Last: 20_000, Link: end("mac-x"), Metric: flow.Metric{ABBytes: 1}},
	}
	a.updates = map[string][]flow.Metric{"f1": {
		{ABBytes: 10, Start: 40_000, Last: 50_000}, {ABBytes: 30, Start: 50_000, Last: 60_000}, {ABBytes: 60, Start: 60_000, Last: 90_000, RTT: 5},
	}}
	a.packets = map[string][]flow.RawPacket{"f1": {{Timestamp: 1, Index: 1, Data: []byte("data"), LinkType: 1}}, "other": {{Index: 9}}}
	src := Source{Graph: build(t, nil), History: a, Storage: a, FlowExpire: 10 * time.Second}
	for query, want := range map[string]struct{ answer, asked string }{
		// The silence that a flow is allowed is in the question; the graph is not needed.
		"G.At(100).Flows().Values('UUID')":                             {`["f1"]`, "flows 90000-100000 []"},
		"G.At(100,65).Flows().Values('UUID')":                          {`["f1"]`, "flows 25000-100000 []"},
		"G.At(100,90).Flows().Sort('Start').Limit(1).Count()":          {"1", "flows 0-100000 [] sort Start 1 page 0-1"},
		"G.At(100,200).Flows().CaptureNode().Count()":                  {"2", "flows 0-100000 []; graph 0-100000"},
		"G.At(100,FOREVER).Flows().Count()":                            {"2", "flows 0-100000 []"},
		"G.At(100,90).Flows().Count()":                                 {"2", "flows 0-100000 []"},
		"G.At(100,90).Flows().Sum('Metric.ABBytes')":                   {"101", "flows 0-100000 []"},
		"G.At(100,90).Flows('UUID','f2').CaptureNode().Values('Name')": {`["eth"]`, "flows 0-100000 [] filter; graph 10000-100000"},
		"G.At(100,90).Flows().Both().Dedup().Values('Name')":           {`["top","br"]`, "flows 0-100000 []; graph 10000-100000"},
		"G.At(100,90).V('eth').Flows().Group().MoreThan()": {
			`[{"t":[` + string(a.flows[0].AppendJSON(nil)) + `,` + string(a.flows[1].AppendJSON(nil)) + `]}]`,
			"graph 10000-100000; flows 0-100000 [] filter"},
		"G.At(100,90).V('top').Flows()": {"[]", "graph 10000-100000; flows 0-100000 [] filter"},
		"G.At(100,51).Flows().Metrics()": {
			`[{"f1":[{"ABPackets":0,"ABBytes":30,"BAPackets":0,"BABytes":0,"Start":50000,"Last":60000},` +
				`{"ABPackets":0,"ABBytes":60,"BAPackets":0,"BABytes":0,"Start":60000,"Last":90000,"RTT":5}]}]`,
			"flows 39000-100000 []; updates 49000-100000 1"},
		"G.At(80).Flows().Metrics().Sum('ABBytes')": {"40", "flows 70000-80000 []; updates 0-80000 1"},
		"G.At(100,51).Flows().Metrics().Sum()":      {`{"ABBytes":90,"ABPackets":0,"BABytes":0,"BAPackets":0,"Last":90000,"RTT":5,"Start":50000}`, "flows 39000-100000 []; updates 49000-100000 1"},
		"G.At(110,70).Flows().Metrics().Aggregates(30)": {
			`[{"Aggregated":[{"ABPackets":0,"ABBytes":60,"BAPackets":0,"BABytes":0,"Start":40000,"Last":70000,"RTT":5},` +
				`{"ABPackets":0,"ABBytes":40,"BAPackets":0,"BABytes":0,"Start":70000,"Last":100000,"RTT":5}]}]`,
			"flows 30000-110000 []; updates 40000-110000 1"},
		"G.At(100,90).Flows().RawPackets()":            {`[{"f1":[{"Timestamp":1,"Index":1,"Data":"ZGF0YQ==","LinkType":1}]}]`, "flows 0-100000 []; packets 10000-100000 2"},
		"G.At(100).Flows().RawPackets().BPF('less 1')": {`[{"f1":null}]`, "flows 90000-100000 []; packets 0-100000 1"},
	} {
		a.asked = nil
		got, err := answer(t, src, query)
		if asked := strings.Join(a.asked, "; "); err != nil || got != want.answer || asked != want.asked {
			t.Errorf("%s: %s %v, want %s\nasked %s, want %s", query, got, err, want.answer, asked, want.asked)
		}
	}
	if got, err := answer(t, src, "G.At(100,90).Flows().Metrics().Aggregates(1).Count()"); got != "1" || err != nil {
		t.Error(got, err)
	}
	var usage *Error
	if _, err := answer(t, src, "G.At(100000,99990).Flows().Metrics().Aggregates(1)"); !errors.As(err, &usage) || !strings.Contains(err.Error(), "exceeded") {
		t.Error(err)
	}
	a.err = io.ErrUnexpectedEOF
	for _, query := range []string{"G.At(100,90).Flows()", "G.At(100,90).Flows().Count()"} {
		if _, err := answer(t, src, query); !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &usage) {
			t.Errorf("%s: %v", query, err)
		}
	}
	a.err = nil
	src.History = nil
	if _, err := answer(t, src, "G.At(100,90).Flows().CaptureNode()"); !errors.Is(err, ErrNoHistory) || !errors.As(err, &usage) {
		t.Error(err)
	}
	if got, err := answer(t, src, "G.At(100,90).Flows().Count()"); got != "2" || err != nil {
		t.Error(got, err)
	}
	src.Storage = nil
	if _, err := answer(t, src, "G.At(100,90).Flows()"); !errors.Is(err, ErrNoStorage) || !errors.As(err, &usage) || err.Error() != "No storage backend has been configured" {
		t.Error(err)
	}
}
