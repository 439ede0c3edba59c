package query

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/gremlin"
)

// agents is a FlowSource in memory, which writes down what it is asked.
type agents struct {
	hosts   map[string][]*flow.Flow
	missing []string
	err     error
	asked   []string
}

func (a *agents) search(ctx context.Context, hosts []string, s *flow.Search) ([]*flow.Flow, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var all []*flow.Flow
	names := hosts
	if hosts == nil {
		for h := range a.hosts {
			names = append(names, h)
		}
	}
	slices.Sort(names)
	for _, h := range names {
		all = append(all, a.hosts[h]...)
	}
	return s.Apply(all), a.err
}

func (a *agents) Flows(ctx context.Context, hosts []string, s *flow.Search) ([]*flow.Flow, []string, error) {
	a.asked = append(a.asked, "flows "+describe(hosts, s))
	found, err := a.search(ctx, hosts, s)
	return found, a.missing, err
}

func (a *agents) Total(ctx context.Context, hosts []string, s *flow.Search, what flow.Aggregate) (flow.Total, []string, error) {
	a.asked = append(a.asked, fmt.Sprintf("total %d %s", what.Metric, describe(hosts, s)))
	found, err := a.search(ctx, hosts, s)
	var t flow.Total
	for _, f := range found {
		t.Add(f, what)
	}
	return t, a.missing, err
}

// describe shows a question; the bound that keeps an answer from being too large is left out.
func describe(hosts []string, s *flow.Search) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v", hosts)
	if s.Filter != nil {
		b.WriteString(" filter")
	}
	if s.Sort {
		fmt.Fprintf(&b, " sort %s %d", s.SortBy, s.Order)
	}
	if s.Dedup {
		fmt.Fprintf(&b, " dedup %s", s.DedupBy)
	}
	if s.To != 0 && s.To-s.From < DefaultLimit/flowWeight {
		fmt.Fprintf(&b, " page %d-%d", s.From, s.To)
	}
	return b.String()
}

// answer runs a query and returns what is written, or the error.
func answer(tb testing.TB, src Source, text string) (string, error) {
	tb.Helper()
	q, err := gremlin.Parse(text)
	if err != nil {
		return "", &Error{Err: err}
	}
	res, err := Run(tb.Context(), q, src)
	if err != nil {
		return "", err
	}
	var buf bytes.Buffer
	if err := res.WriteJSON(tb.Context(), &buf); err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
	return buf.String(), nil
}

func lines(tb testing.TB, name string, each func([]byte)) {
	tb.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		each(sc.Bytes())
	}
	if sc.Err() != nil {
		tb.Fatal(sc.Err())
	}
}

// goldenFlows are the flows over which the cases were recorded, and the interfaces of that host.
func goldenFlows(tb testing.TB) Source {
	tb.Helper()
	var all []*flow.Flow
	lines(tb, "flows.jsonl", func(line []byte) {
		f := new(flow.Flow)
		if err := json.Unmarshal(line, f); err != nil {
			tb.Fatal(err)
		}
		all = append(all, f)
	})
	if len(all) != 76 {
		tb.Fatalf("%d flows", len(all))
	}
	return Source{
		Graph: captured(tb, "golden-agent",
			field.Make("Name", "gd0", "Type", "veth", "TID", "b278a51e-38fa-5a7a-8c56-449044ac6a10", "MAC", "02:aa:00:00:00:01"),
			field.Make("Name", "gd1", "Type", "veth", "TID", "1edb0fbe-0525-532f-afc3-299d9dab0d5b"),
			field.Make("Name", "golden-agent", "Type", "host", "TID", "5c7fdae8-05db-5ef4-8823-99c9e9e60ec5")),
		Flows:      &agents{hosts: map[string][]*flow.Flow{"golden-agent": all}},
		Capturable: func(t string) bool { return t == "veth" },
	}
}

// captured makes nodes of one host; their IDs are their names.
func captured(tb testing.TB, host string, nodes ...field.Object) *graph.Snapshot {
	tb.Helper()
	g := graph.New(graph.Options{})
	err := g.Update("", func(tx *graph.Tx) error {
		for _, m := range nodes {
			if err := tx.AddNode(&graph.Node{Element: graph.Element{ID: m.Text("Name"), Host: host, Metadata: m}}); err != nil {
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

func TestFlowVectors(t *testing.T) {
	src := goldenFlows(t)
	n := 0
	lines(t, "flow-cases.jsonl", func(line []byte) {
		var v vector
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatal(err)
		}
		if v.Query == "" {
			return // how they were recorded
		}
		n++
		got, err := answer(t, src, v.Query)
		var usage *Error
		switch {
		case v.Status == 400 && errors.As(err, &usage):
		case err != nil || v.Status != 200:
			t.Errorf("%s: %s %v, want %d", v.Query, got, err, v.Status)
		case v.Query == "G.Flows().Group()": // the number of groups was recorded
			if groups, err := field.ParseJSON([]byte(got)); err != nil || fmt.Sprint(len(groups.(field.List)[0].(field.Object))) != string(v.Answer) {
				t.Errorf("%s: %s %v", v.Query, got, err)
			}
		case !same(t, v.Answer, []byte(got), v.Unordered, 0):
			t.Errorf("%s:\n got %s\nwant %s", v.Query, got, v.Answer)
		}
	})
	if n != 58 {
		t.Errorf("%d cases", n)
	}
}

// TestFlowQuirks are the queries of which the peer makes nothing sane.
func TestFlowQuirks(t *testing.T) {
	src := goldenFlows(t)
	for query, want := range map[string]string{
		"G.Flows().Has('TCP.A',40000).Count()":                                                 "1",
		"G.Flows().Has('UDP.B',53).Count()":                                                    "4",
		"G.Flows().Has('SCTP.A',3000).Count()":                                                 "1",
		"G.Flows().Limit('x')":                                                                 "400",
		"G.Flows().Limit(0)":                                                                   "[]",
		"G.Flows().Range(5,5).Count()":                                                         "0",
		"G.Flows().Range(70,1000).Count()":                                                     "6",
		"G.Flows().Metrics().Keys()":                                                           `["ABBytes","ABPackets","BABytes","BAPackets","Last","RTT","Start"]`,
		"G.Flows().Dedup('Network.A','Network.B')":                                             "400",
		"G.Flows().Sort('Nonsense')":                                                           "400",
		"G.Flows().Dedup('Nonsense')":                                                          "400",
		"G.Flows().Metrics('Ovs')":                                                             "400",
		"G.Flows().Metrics('LastUpdateMetric').Count()":                                        "76",
		"G.Flows().Sum('LastUpdateMetric.ABBytes')":                                            "0",
		"G.Flows().Sum('LastUpdateMetric.RTT')":                                                "0",
		"G.Flows().Sum('Metric.Nope')":                                                         "400",
		"G.Flows().Metrics().Sum('Nope')":                                                      "400",
		"G.Flows().Sort(ASC)":                                                                  "400",
		"G.Flows().Has('Application','NTP').Values('Nope')":                                    "400",
		"G.Flows().Has('ANodeTID','x').Count()":                                                "0",
		"G.Flows().Has('Transport',REGEX('.*'))":                                               "[]", // ports are numbers
		"G.Flows().Has('Network',REGEX('10.1.0.(1|9)')).Count()":                               "1",
		"G.Flows().Has('Network',REGEX('10.1.0.1{1,2}')).Count()":                              "1",
		"G.Flows().Has('Application','NTP').Values('LastUpdateMetric')":                        "[null]",
		"G.Flows().Sort(DESC,'Metric.ABBytes').Limit(1).Has('Application','SCTPData').Count()": "0",
		"G.Flows().Dedup('Application').Has('Application','TCP').Count()":                      "1",
		"G.Flows().Limit(3).Sort('Transport.A').Dedup('UUID').Limit(2).Count()":                "2",
		"G.Flows().Limit(50).Limit(60).Range(40,55).Count()":                                   "10",
		"G.Flows().Has('Network','10.27.0.1').Sort('Transport.A').Sort(DESC,'Transport.A').Limit(1).Count()": "1",
		"G.Flows().HasKey('Network')": "400", "G.Flows().HasNot('Network')": "400", "G.Flows().ValueMap('Network')": "400",
		"G.Flows().Group().Count()": "400", "G.Flows().MoreThan()": "400", "G.Flows().RawPackets().Count()": "400",
		"G.Flows().BPF('port 80')": "400", "G.Flows().Aggregates()": "400", "G.Flows().Group('x').MoreThan(3)": "[]",
		"G.Flows().Metrics().Metrics()": "400", "G.V().Hops()": "400", "G.E().Flows()": "400", "G.Flows().As('x')": "400",
		"G.Flows().Sockets().Count()": "400", "G.Flows().NextHop('1.1.1.1')": "400", "G.Flows().Sum()": "400",
		"G.Flows().HasEither('Network')": "400", "G.Flows().Metrics().Aggregates(0)": "400",
	} {
		got, err := answer(t, src, query)
		var usage *Error
		if want == "400" && errors.As(err, &usage) {
			continue
		}
		if err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", query, got, err, want)
		}
	}
}

// TestPushDown tells what travels to the agents, and what is done with their answer.
func TestPushDown(t *testing.T) {
	src := goldenFlows(t)
	a := src.Flows.(*agents)
	for query, want := range map[string]string{
		"G.Flows()": "flows []",
		"G.Flows().Has('Network','10.1.0.1').Limit(10)":                                  "flows [] filter page 0-10",
		"G.Flows('Network','10.1.0.1').HasEither('Application','TCP','Application','x')": "flows [] filter",
		"G.Flows().Sort().Has('Application','TCP').Dedup().Range(2,4)":                   "flows [] filter sort Last 1 dedup TrackingID page 2-4",
		"G.V().Flows().Sort(DESC,'Last').Dedup('TrackingID').Limit(10)":                  "flows [golden-agent] filter sort Last 2 dedup TrackingID page 0-10",
		"G.Flows().Dedup('UUID').Sort('Start').Limit(2).Limit(1)":                        "flows [] sort Start 1 dedup UUID page 0-2",
		"G.Flows().Dedup().Has('Application','TCP').Limit(1)":                            "flows [] dedup TrackingID",
		"G.Flows().Limit(3).Has('Application','TCP').Count()":                            "flows [] page 0-3",
		"G.Flows().Count()": "total 0 []",
		"G.Flows().Has('Network','10.1.0.1').Sort().Count()":                                   "total 0 [] filter",
		"G.V().Has('Name','gd0').Flows().Count()":                                              "total 0 [golden-agent] filter",
		"G.Flows().Dedup().Count()":                                                            "flows [] dedup TrackingID",
		"G.Flows().Sum('Metric.ABBytes')":                                                      "total 2 []",
		"G.Flows().Sum('LastUpdateMetric.ABBytes')":                                            "total 3 []",
		"G.Flows().Sum('Metric.RTT')":                                                          "total 2 []",
		"G.Flows().Sum('Metric.Start')":                                                        "flows []",
		"G.Flows().Metrics().Sum()":                                                            "total 1 []",
		"G.Flows().Has('Application','TCP').Metrics().Sum('BABytes')":                          "total 1 [] filter",
		"G.Flows().Metrics().Sum('Last')":                                                      "total 1 []",
		"G.Flows().Limit(1).Metrics().Sum()":                                                   "flows [] page 0-1",
		"G.Flows().Metrics().Count()":                                                          "flows []",
		"G.V().Has('Type','host').Flows().Count()":                                             "",
		"G.V().Has('Type','host').Flows()":                                                     "",
		"G.Flows().Limit(0)":                                                                   "",
		"G.V('gd0').ShortestPathTo(Metadata('Name','gd0')).Flows().Has('Application','DNS')":   "flows [golden-agent] filter",
		"G.Flows().Has('Network',REGEX('(10|11).{1,9}')).Has('Metric.ABBytes',GT(1.5)).Sort()": "flows [] filter sort Last 1",
	} {
		a.asked = nil
		if _, err := answer(t, src, query); err != nil {
			t.Errorf("%s: %v", query, err)
		}
		if got := strings.Join(a.asked, "; "); got != want {
			t.Errorf("%s: asked %q, want %q", query, got, want)
		}
	}
}

// TestTotalsAreThoseOfTheFlows compares what agents add up with what is added up here.
func TestTotalsAreThoseOfTheFlows(t *testing.T) {
	src := goldenFlows(t)
	for i, f := range src.Flows.(*agents).hosts["golden-agent"] {
		if i%2 == 0 {
			m := f.Metric
			m.ABBytes, m.Start = m.ABBytes/2+1, m.Start+1
			f.LastUpdateMetric = &m
		}
	}
	for _, end := range []string{"Count()", "Sum('Metric.ABBytes')", "Sum('LastUpdateMetric.BAPackets')", "Metrics().Sum()", "Metrics().Sum('ABBytes')"} {
		for _, start := range []string{"G.Flows().", "G.Flows().Has('Application','TCP').", "G.V().Flows().", "G.Flows().Has('Application','none')."} {
			got, err := answer(t, src, start+end)
			want, err2 := answer(t, src, start+"Limit(1000)."+end)
			if err != nil || err2 != nil || got != want || got == "" {
				t.Errorf("%s%s: %s %v, want %s %v", start, end, got, err, want, err2)
			}
		}
	}
	if got, err := answer(t, src, "G.Flows().Has('Application','none').Metrics().Sum()"); got != "null" || err != nil {
		t.Error(got, err)
	}
}

func TestFlowsOfManyNodes(t *testing.T) {
	src := goldenFlows(t)
	nodes := []field.Object{field.Make("Name", "gd0", "Type", "veth", "TID", "b278a51e-38fa-5a7a-8c56-449044ac6a10")}
	for i := range nodeTerms {
		nodes = append(nodes, field.Make("Name", fmt.Sprint(i), "Type", "veth", "TID", fmt.Sprint("tid", i)))
	}
	src.Graph = captured(t, "golden-agent", nodes...)
	for query, want := range map[string]string{
		"G.V().Flows().Count()":                                                              "76",
		"G.V().Flows().Limit(7).Count()":                                                     "7",
		"G.V().Flows().Has('Application','DNS').Count()":                                     "4",
		"G.V().Has('Name',NE('gd0')).Limit(10).Flows().Count()":                              "0",
		"G.V().Flows('Application','DNS').Sort(DESC,'Start').Limit(1).Values('Transport.A')": "[33004]",
		"G.V().Flows().Sum('Metric.BAPackets')":                                              "35",
	} {
		if got, err := answer(t, src, query); got != want || err != nil {
			t.Errorf("%s: %s %v, want %s", query, got, err, want)
		}
	}
}

func TestFlowSourceFails(t *testing.T) {
	src := goldenFlows(t)
	a := src.Flows.(*agents)
	var missing []string
	src.Partial = func(hosts []string) { missing = append(missing, hosts...) }
	a.missing = []string{"h7"}
	for _, query := range []string{"G.Flows().Limit(1).Count()", "G.Flows().Count()"} {
		missing = nil
		if got, err := answer(t, src, query); err != nil || got == "0" || !slices.Equal(missing, a.missing) {
			t.Errorf("%s: %s %v, missing %v", query, got, err, missing)
		}
	}
	a.err = io.ErrUnexpectedEOF
	for _, query := range []string{"G.Flows()", "G.Flows().Count()"} {
		var usage *Error
		if _, err := answer(t, src, query); !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &usage) {
			t.Errorf("%s: %v", query, err)
		}
	}
	a.err, a.asked = nil, nil
	bare := src
	bare.Graph = captured(t, "", field.Make("Name", "rack", "TID", "t", "Type", "veth"))
	for query, want := range map[string]string{"G.V().Flows()": "[]", "G.V().Flows().Count()": "0"} {
		if got, err := answer(t, bare, query); got != want || err != nil || a.asked != nil {
			t.Errorf("%s: %s %v, asked %v: nobody has such a node", query, got, err, a.asked)
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := Run(ctx, parse(t, "G.Flows()"), src); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	src.Limit = 75 * flowWeight
	if _, err := answer(t, src, "G.Flows()"); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	src.Limit = 76*flowWeight + 1
	if _, err := answer(t, src, "G.Flows()"); err != nil {
		t.Error(err)
	}
	src.Flows = nil
	for _, query := range []string{"G.Flows()", "G.V().Flows().Count()", "G.V('gd1').Flows()", "G.Flows().Limit(0)"} {
		var usage *Error
		if _, err := answer(t, src, query); !errors.Is(err, ErrNoFlows) || !errors.As(err, &usage) {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// TestEndsOfFlows finds nodes and sockets at both ends of flows.
func TestEndsOfFlows(t *testing.T) {
	socket := func(name, protocol, local string, localPort int, remote string, remotePort int) field.Object {
		return field.Make("Name", name, "Protocol", protocol, "LocalAddress", local, "LocalPort", localPort,
			"RemoteAddress", remote, "RemotePort", remotePort, "State", "ESTABLISHED", "Pid", 1)
	}
	nodes := []field.Object{
		field.Make("Name", "cap", "TID", "t1", "MAC", "m1"),
		field.Make("Name", "a", "TID", "t2", "MAC", "ma"),
		field.Make("Name", "vf", "TID", "t3", "MAC", "mv", "PeerIntfMAC", "mb"),
		field.Make("Name", "later", "TID", "t4", "MAC", "mb"),
		field.Make("Name", "client", "Sockets", field.List{
			socket("curl", "TCP", "10.0.0.1", 4000, "10.0.0.2", 80), socket("dig", "UDP", "10.0.0.1", 4000, "10.0.0.2", 80),
			socket("ping6", "TCP", "2001:db8::1", 4000, "2001:db8::2", 80),
		}),
		field.Make("Name", "server", "Sockets", field.List{
			socket("nginx", "TCP", "::ffff:10.0.0.2", 80, "10.0.0.1", 4000), socket("nginx", "TCP", "0.0.0.0", 80, "0.0.0.0", 0), "junk",
			field.Make("Protocol", "TCP"), socket("x", "SCTP", "10.0.0.2", 80, "10.0.0.1", 4000),
		}),
	}
	transport := func(p flow.Protocol) *flow.Transport { return &flow.Transport{Protocol: p, A: 4000, B: 80} }
	seen := []*flow.Flow{
		{UUID: "web", NodeTID: "t1", Link: &flow.Layer{A: "ma", B: "mb"}, Network: &flow.Layer{A: "10.0.0.1", B: "10.0.0.2"}, Transport: transport(flow.TCP)},
		{UUID: "six", NodeTID: "t9", Network: &flow.Layer{A: "2001:db8:0::2", B: "2001:db8::1"}, Transport: &flow.Transport{Protocol: flow.TCP, A: 80, B: 4000}},
		{UUID: "sctp", NodeTID: "", Link: &flow.Layer{}, Network: &flow.Layer{A: "10.0.0.1", B: "10.0.0.2"}, Transport: transport(flow.SCTP)},
		{UUID: "odd", Network: &flow.Layer{A: "<nil>", B: "<nil>"}, Transport: transport(flow.TCP)},
		{UUID: "arp"},
	}
	src := Source{Graph: captured(t, "h", nodes...), Flows: &agents{hosts: map[string][]*flow.Flow{"h": seen}}}
	for query, want := range map[string]string{
		"G.Flows().In().Values('Name')":                                                      `["a"]`,
		"G.Flows().Out().Values('Name')":                                                     `["vf"]`,
		"G.Flows().Out().Has('Name','later').Values('Name')":                                 `["later"]`, // the first that passes
		"G.Flows().Out('Name','later').Values('Name')":                                       `["later"]`,
		"G.Flows().Both().Values('Name')":                                                    `["a","vf"]`,
		"G.Flows().Nodes().Values('Name')":                                                   `["cap","a","vf"]`,
		"G.Flows().Nodes().Limit(2).Values('Name')":                                          `["cap","a"]`,
		"G.Flows().Hops().Values('Name')":                                                    `["cap"]`,
		"G.Flows().CaptureNode().Values('Name')":                                             `["cap"]`,
		"G.Flows().Node('Name','x').Values('Name')":                                          `null`,
		"G.Flows().Sockets().Values('Name')":                                                 `["curl","nginx","ping6"]`,
		"G.Flows('UUID','web').Sockets().Has('Name','nginx','Pid',1).Values('LocalAddress')": `["::ffff:10.0.0.2"]`,
		"G.Flows('UUID','sctp').Sockets()":                                                   "[]",
		"G.Flows('UUID','odd').Sockets()":                                                    "[]",
		"G.Flows().Sockets().Values('Nope')":                                                 "400",
		"G.Flows('UUID','six').Sockets()":                                                    `[{"six":[` + string(field.AppendJSON(nil, socket("ping6", "TCP", "2001:db8::1", 4000, "2001:db8::2", 80))) + `]}]`,
		"G.V('client').Sockets().Values('Name')":                                             `["curl","dig","ping6"]`,
		"G.V().Sockets().Has('Name','ping6','Pid',1).Values('Name')":                         `["ping6"]`,
	} {
		got, err := answer(t, src, query)
		var usage *Error
		if want == "400" && errors.As(err, &usage) {
			continue
		}
		if err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", query, got, err, want)
		}
	}
}

func TestRawPackets(t *testing.T) {
	data, err := os.ReadFile("testdata/rawpackets.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded []map[string][]flow.RawPacket
	if err := json.Unmarshal(data, &recorded); err != nil {
		t.Fatal(err)
	}
	all := []*flow.Flow{{UUID: "none"}}
	packets := 0
	for uuid, ps := range recorded[0] {
		all = append(all, &flow.Flow{UUID: uuid, LastRawPackets: ps})
		packets += len(ps)
	}
	src := Source{Graph: build(t, nil), Flows: &agents{hosts: map[string][]*flow.Flow{"h": all}}}
	got, err := answer(t, src, "G.Flows().RawPackets()")
	if err != nil || packets == 0 || !same(t, data, []byte(got), false, 0) {
		t.Errorf("%s %v", got, err)
	}
	res, err := Run(t.Context(), parse(t, "G.Flows().RawPackets().BPF('udp port 53')"), src)
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, l := range res.(RawPackets) {
		if l.Flow == nil {
			t.Error("packets without their flow")
		}
		left += len(l.Packets)
	}
	if len(res.(RawPackets)) != len(recorded[0]) || left != 2 {
		t.Errorf("%d packets of %d flows are left of %d", left, len(res.(RawPackets)), packets)
	}
	if got, err := answer(t, src, "G.Flows().RawPackets().BPF('udp port 53').BPF('port 54').BPF('less 10000')"); err != nil || strings.Count(got, "null") != len(recorded[0]) {
		t.Error(got, err)
	}
	// The same frame without its Ethernet header; another type of link has no packets that pass.
	frame := recorded[0]["1116d013877cc001"][0].Data
	src.Flows = &agents{hosts: map[string][]*flow.Flow{"h": {{UUID: "l3", LastRawPackets: []flow.RawPacket{
		{Index: 1, Data: frame[14:], LinkType: 228}, {Index: 2, Data: frame[14:], LinkType: 229}, {Index: 3, Data: frame, LinkType: 7},
	}}}}}
	if got, err := answer(t, src, "G.Flows().RawPackets().BPF('udp port 53')"); err != nil || strings.Count(got, "Index") != 1 || !strings.Contains(got, `"Index":1`) {
		t.Error(got, err)
	}
	var usage *Error
	if _, err := answer(t, src, "G.Flows().RawPackets().BPF('udp prot 53')"); !errors.As(err, &usage) || usage.Offset != 23 {
		t.Errorf("%v", err)
	}
}

// TestFlowsOfExporters asks every host for the flows of a node that tells which interface of a device it is: any of them may listen.
func TestFlowsOfExporters(t *testing.T) {
	src := goldenFlows(t)
	src.Graph = captured(t, "", field.Make("Name", "tor", "Type", "device", "TID", "b278a51e-38fa-5a7a-8c56-449044ac6a10", "Exporter", "192.0.2.7", "IfIndex", "1"))
	a := src.Flows.(*agents)
	got, err := answer(t, src, "G.V().Flows().Count()")
	if err != nil || got != "76" || strings.Join(a.asked, "; ") != "total 0 [] filter" {
		t.Errorf("%s %v, asked %q", got, err, a.asked)
	}
}
