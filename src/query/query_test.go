package query

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/gremlin"
)

// build makes a graph: nodes by ID and metadata, edges as "id parent child relation".
func build(tb testing.TB, nodes map[string]field.Object, edges ...string) *graph.Snapshot {
	tb.Helper()
	g := graph.New(graph.Options{})
	err := g.Update("", func(tx *graph.Tx) error {
		for id, m := range nodes {
			if err := tx.AddNode(&graph.Node{Element: graph.Element{ID: id, Metadata: m}}); err != nil {
				return err
			}
		}
		for _, text := range edges {
			f := strings.Fields(text)
			e := graph.Element{ID: f[0], Metadata: field.Make("RelationType", f[3])}
			if err := tx.AddEdge(&graph.Edge{Element: e, Parent: f[1], Child: f[2]}); err != nil {
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

func parse(tb testing.TB, text string) *gremlin.Query {
	tb.Helper()
	q, err := gremlin.Parse(text)
	if err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
	return q
}

// TestSaneAnswers are the queries that the peer crashes on or answers wrongly, and what it leaves open.
func TestSaneAnswers(t *testing.T) {
	s := goldenGraph(t)
	for query, want := range map[string]string{
		"G.V().Range('a','b')":                                                           "400",
		"G.V().Limit('x')":                                                               "400",
		"G.V().Limit(1.5)":                                                               "400",
		"G.V().Metrics().Aggregates(1,2)":                                                "400",
		"G.V().Has('Type','odd').Sum('Str')":                                             "400",
		"G.V().Has('Name',Metadata('a','b'))":                                            "400",
		"G.V('f0000006-odd1').Values('Float')":                                           "[2.5]",
		"G.V().Has('Type','odd').Sum('Float')":                                           "5.25",
		"G.V('f0000006-odd1').Values('Yes')":                                             "[true]",
		"G.V('a0000002-eth0').Values('Features.gro')":                                    "[true]",
		"G.V().Has('Float',2.5).Values('@ID')":                                           `["f0000006-odd1"]`,
		"G.V('a0000002-eth0').Values('@DeletedAt')":                                      "[null]",
		"G.V('a0000015-web').Values('Container.Hosts.Hostname')":                         `["web"]`,
		"G.V('a0000007-eth0').Values('RoutingTables.Routes.NextHops.IP')":                `[["192.168.10.1"]]`,
		"G.E().Has('Lag.Members','p2').Count()":                                          "1",
		"G.V('a0000007-eth0').NextHop('2001:db8::1')":                                    "[]",
		"G.V().Has('Type','netns').OutE().BothV().SubGraph().V().Count()":                "9",
		"G.V().Has('MTU',OUTSIDE(1000,60000)).Count()":                                   "5",
		"G.V('f0000006-odd1').Both().Dedup().Limit(2).Count()":                           "1",
		"G.V('d0000000-tor1').Out().Dedup().Limit(3).Count()":                            "3",
		"G.V('d0000000-tor1').Out().Dedup().Range(1,3).Count()":                          "2",
		"G.V('d0000000-tor1').Out().Limit(2).Limit(1).Count()":                           "1",
		"G.V().Limit(3).Has('Name','nobody').Count()":                                    "0",
		"G.V().HasEither('Type','host','Name','lo').Has('Type','host').Count()":          "3",
		"G.V().HasEither('Type','host').Has('Name','alpha').Count()":                     "1",
		"G.V().Has('NumStr',1500).Count()":                                               "1",
		"G.V().Has('NumStr',1500.0).Count()":                                             "1",
		"G.V().Has('NumStr',WITHIN(1500,'x')).Count()":                                   "1",
		"G.V().Has('NumStr',WITHOUT(1500)).Has('NumStr').Count()":                        "1",
		"G.V().Has('MTU','1500').Count()":                                                "0",
		"G.V().Has('NumStr',NE(1500)).Count()":                                           "1",
		"G.V().Has('NumStr',NE('1')).Count()":                                            "2",
		"G.V().Has('MTU',WITHOUT(1500)).Has('MTU').Has('MTU',NE(1500)).Count()":          "17",
		"G.V().Select('x')":                                                              "400",
		"G.V().As('x').G.E().Limit(1).G.V('a0000000-host').Select('x').Limit(2).Count()": "2",
		// The shares of a counter add up to it, whatever the width.
		"G.V().Metrics().Aggregates(7).Sum('RxPackets')":                                               "398",
		"G.V().Metrics().Aggregates(7).Sum('RxBytes')":                                                 "249800",
		"G.V().Metrics().Aggregates(45).Sum('RxDropped')":                                              "1",
		"G.V().Metrics().Sum('RxErrors')":                                                              "0",
		"G.V('a0000000-host').Metrics().Keys()":                                                        "null",
		"G.V('a0000002-eth0').Metrics('SFlow').Keys()":                                                 `["IfInOctets","IfOutOctets","Last","Start"]`,
		"G.V().Has('@Host','golden-c').SubGraph().V('a0000000-host')":                                  "400",
		"G.V('a0000006-ns1').Out().SubGraph().V().In().Count()":                                        "0",
		"G.V('a0000006-ns1').BothE().SubGraph().V().In('Name','ns1').Count()":                          "3",
		"G.V('a0000006-ns1').BothE().SubGraph().E().Limit(1).BothV().Count()":                          "2",
		"G.V('a0000006-ns1').BothE().SubGraph().V().Both().Dedup().Count()":                            "5",
		"G.V().Has('Name',REGEX('(eth|lo){1,3}[0-9]{0,4}')).Dedup('Name').Sort('Name').Values('Name')": `["eth0","eth1","lo"]`,
		"G.V().HasEither('Name',REGEX('l{1}o'),'Type','host').Count()":                                 "7",
	} {
		status, answer := ask(t, s, query)
		if want == "400" && status == 400 {
			continue
		}
		if status != 200 || string(answer) != want {
			t.Errorf("%s: %d %s, want %s", query, status, answer, want)
		}
	}
}

func TestExactIntegers(t *testing.T) {
	s := build(t, map[string]field.Object{"a": field.Make("Big", int64(9007199254740993)), "b": field.Make("Big", int64(1))})
	for query, want := range map[string]string{
		"G.V('a').Values('Big')":               "[9007199254740993]",
		"G.V().Sum('Big')":                     "9007199254740994",
		"G.V().Has('Big',9007199254740992)":    "[]",
		"G.V().Sort(DESC,'Big').Values('@ID')": `["a","b"]`,
	} {
		if _, answer := ask(t, s, query); string(answer) != want {
			t.Errorf("%s: %s, want %s", query, answer, want)
		}
	}
}

func TestAggregatesOfAllTimeAreTooMany(t *testing.T) {
	s := build(t, map[string]field.Object{"a": {{Key: "LastUpdateMetric", Value: field.Make("RxBytes", 1, "Start", 1, "Last", int64(math.MaxInt64))}}})
	if status, answer := ask(t, s, "G.V().Metrics().Aggregates(30)"); status != 400 || !strings.Contains(string(answer), "exceeded") {
		t.Errorf("%d %s", status, answer)
	}
}

func TestSortOrders(t *testing.T) {
	s := build(t, map[string]field.Object{
		"int": field.Make("k", 2), "float": field.Make("k", 1.5), "text": field.Make("k", "a"), "bool": field.Make("k", true),
		"list": field.Make("k", []string{"x"}), "none": field.Make(), "int10": field.Make("k", 10),
	})
	_, answer := ask(t, s, "G.V().Sort('k').Values('@ID')")
	if want := `["none","bool","float","int","int10","text","list"]`; string(answer) != want {
		t.Errorf("got %s, want %s", answer, want)
	}
	_, answer = ask(t, s, "G.V().Sort(DESC,'k').Limit(2).Values('@ID')")
	if want := `["list","text"]`; string(answer) != want {
		t.Errorf("got %s, want %s", answer, want)
	}
}

// TestShortestPath has two ways of the same length, a loop, a longer way, and two targets at the same distance.
func TestShortestPath(t *testing.T) {
	named := func(n string) field.Object { return field.Make("Name", n) }
	s := build(t, map[string]field.Object{
		"s": named("s"), "b": named("b"), "c": named("c"), "t2": named("t"), "t1": named("t"), "far": named("far"), "alone": named("alone"),
	}, "1 s c x", "2 b s x", "3 c t1 x", "4 t2 b x", "5 b t1 x", "6 s s x", "7 far s y", "8 t1 far z")
	for query, want := range map[string][]string{
		"G.V('s').ShortestPathTo(Metadata('Name','t'))":                                         {"s b t1"},
		"G.V('s').ShortestPathTo(Metadata('Name','t'),Metadata('RelationType','y'))":            nil,
		"G.V('far').ShortestPathTo(Metadata('Name','b'),Metadata('RelationType','x'))":          nil,
		"G.V('far').ShortestPathTo(Metadata('Name','b'))":                                       {"far s b"},
		"G.V('alone').ShortestPathTo(Metadata('Name','t'))":                                     nil,
		"G.V('t1').ShortestPathTo(Metadata('Name','t'))":                                        {"t1"},
		"G.V().Has('Name',WITHIN('s','far')).Sort('Name').ShortestPathTo(Metadata('Name','c'))": {"far s c", "s c"},
	} {
		for range 5 {
			res, err := Run(t.Context(), parse(t, query), Source{Graph: s})
			if err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			var got []string
			for _, p := range res.(Paths) {
				ids := make([]string, len(p))
				for i, n := range p {
					ids[i] = n.ID
				}
				got = append(got, strings.Join(ids, " "))
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %q, want %q", query, got, want)
			}
		}
	}
}

func TestErrorsTellWhere(t *testing.T) {
	s := goldenGraph(t)
	for query, want := range map[string]int{
		"G.V('nope')":                     2,
		"G.V().E()":                       6,
		"G.V().Count().Limit(1)":          14,
		"G.At('-1m').V()":                 2,
		"G.V().Flows()":                   6,
		"G.V().Flows().Limit(1).Sum('x')": 23,
		"G.V().Out().Sum('Name')":         12,
		"G.V().As('x').Select('')":        14,
	} {
		_, err := Run(t.Context(), parse(t, query), Source{Graph: s})
		var usage *Error
		if !errors.As(err, &usage) || usage.Offset != want || usage.Error() == "" {
			t.Errorf("%s: %#v, want offset %d", query, err, want)
		}
	}
}

func TestTooLarge(t *testing.T) {
	s := goldenGraph(t)
	for _, query := range []string{
		"G.V()" + strings.Repeat(".Both()", 20) + ".Count()",
		"G.V()" + strings.Repeat(".BothE().BothV()", 10) + ".Count()",
		"G.V()" + strings.Repeat(".As('a').Select('a','a')", 20),
		"G.V().As('a').Select(" + strings.Repeat("'a' ", 2000) + ").Values('Name')",
		"G.V().As('a').Select(" + strings.Repeat("'a' ", 500) + ").ShortestPathTo(Metadata('Name','alpha'))",
	} {
		_, err := Run(t.Context(), parse(t, query), Source{Graph: s, Limit: 50_000})
		var usage *Error
		if !errors.Is(err, ErrTooLarge) || !errors.As(err, &usage) {
			t.Errorf("%.40s…: %v", query, err)
		}
	}
	// A few nodes can hold much: what a step makes of it counts.
	list, err := field.Normalize([]map[string]int{{"K": 1, "Text": 2}, {"K": 3, "Text": 4}})
	if err != nil {
		t.Fatal(err)
	}
	for len(list.(field.List)) < 1000 {
		list = slices.Concat(list.(field.List), list.(field.List))
	}
	wide := build(t, map[string]field.Object{"a": field.Make("L", list), "b": field.Make("L", list, "M", 1)})
	for steps, limit := range map[string]int{"Values('L.K')": 1000, "ValueMap('L.K')": 1000, "Dedup('L')": 450} {
		query := "G.V().As('a').Select(" + strings.Repeat("'a' ", 100) + ")." + steps
		if _, err := Run(t.Context(), parse(t, query), Source{Graph: wide, Limit: limit}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", steps, err)
		}
	}
	query := "G.V().Dedup(" + strings.Repeat("'L' ", 10_000) + ").Count()"
	if _, err := Run(t.Context(), parse(t, query), Source{Graph: wide, Limit: 4000}); err != nil {
		t.Errorf("a key asked for again and again: %v", err)
	}
	// What was dropped on the way does not count.
	query = "G.V()" + strings.Repeat(".Has('Name').Dedup('Name').G.V()", 50) + ".Count()"
	if _, err := Run(t.Context(), parse(t, query), Source{Graph: s, Limit: 200}); err != nil {
		t.Error(err)
	}
}

// impatient is a context that ends after it was looked at n times.
type impatient struct {
	context.Context
	mu   sync.Mutex
	left int
}

func (c *impatient) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestEndsWithContext(t *testing.T) {
	s := large(t, 20_000)
	seen := talk(20_000)
	past := &archive{nodes: slices.Collect(s.Nodes(field.Filter{})), edges: slices.Collect(s.Edges(field.Filter{})), flows: seen}
	src := Source{Graph: s, Flows: patient{seen}, History: past, Storage: past}
	many, numbers := make([]string, 2000), make([]string, 2000)
	for i := range many {
		many[i], numbers[i] = fmt.Sprintf("'MTU',GT(%d)", i/2), fmt.Sprint(i+2000)
	}
	for _, query := range []string{
		"G.V()", "G.E()", "G.V().Out()", "G.V().BothE()", "G.E().BothV()", "G.V().Limit(20000).Has('MTU',1)", "G.V().Dedup('MTU')",
		"G.V().Sort('Name')", "G.V().Values('nothing')", "G.V().ValueMap('nothing')", "G.V().Keys()", "G.V().Sum('MTU')",
		"G.V().SubGraph()", "G.E().SubGraph()", "G.V().Descendants('RelationType','layer2',0)", "G.V().NextHop('1.2.3.4')",
		"G.V().Has('Name','n0').ShortestPathTo(Metadata('Name','n19999'))", "G.V().Metrics()", "G.V().Sockets()",
		"G.V().Values('Name').Dedup()", "G.V().Values('Name').Has('a')", "G.V().As('a').Select('a')",
		"G.V().Has('Name',REGEX('(n|[a-z]{1,50}){1,15}[0-9]*'))", "G.V().Has(" + strings.Join(many, ",") + ").Count()",
		"G.V().Has('MTU',WITHIN(" + strings.Join(numbers, " ") + ")).Count()",
		"G.V().Has(" + strings.Repeat("'Type','veth',", 2000) + "'MTU',1500).Count()",
		"G.V().HasEither(" + strings.Repeat("'Type','veth',", 2000) + "'MTU',1).Count()",
		"G.V().Has('" + strings.Repeat("a.", 32000) + "')", "G.V().HasNot('" + strings.Repeat("a.", 32000) + "').Count()",
		"G.Flows().Limit(20000).Has('Application','x')", "G.Flows().Limit(20000).Dedup('UUID')", "G.Flows().Limit(20000).Sort('UUID')",
		"G.Flows().Values('UUID')", "G.Flows().Sum('Metric.Start')", "G.Flows().Metrics()", "G.Flows().Limit(20000).Metrics().Sum('Start')",
		"G.Flows().Metrics().Aggregates()", "G.Flows().RawPackets()", "G.Flows().RawPackets().BPF('port 80')", "G.Flows().Sockets()",
		"G.Flows().Group()", "G.Flows().CaptureNode()", "G.V().Flows()", "G.V().Flows().Count()",
		"G.At(1,1).V().Out()", "G.At(1,1).V().Metrics()", "G.At(1,1).Flows().Metrics()", "G.At(1,1).Flows().RawPackets()",
	} {
		p, err := Compile(parse(t, query), AllSteps)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		for _, n := range []int{0, 1, 3} {
			ctx := &impatient{Context: t.Context(), left: n}
			start := time.Now()
			res, err := p.Run(ctx, src)
			if !errors.Is(err, context.Canceled) || res != nil {
				t.Errorf("%.60s: after %d looks at the context: %v", query, n, err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("%.60s: went on for %v", query, d)
			}
		}
	}
}

type counter struct{ writes, bytes, largest int }

func (c *counter) Write(p []byte) (int, error) {
	c.writes++
	c.bytes += len(p)
	c.largest = max(c.largest, len(p))
	return len(p), nil
}

func TestAnswersAreStreamed(t *testing.T) {
	const nodes = 20_000
	s := large(t, nodes)
	var before, after runtime.MemStats
	var w counter
	res, err := Run(t.Context(), parse(t, "G"), Source{Graph: s})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&before)
	if err := res.WriteJSON(t.Context(), &w); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if w.bytes < nodes*400 || w.largest > bufferSize+4096 || w.writes < w.bytes/(bufferSize+4096) {
		t.Errorf("%+v", w)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > uint64(w.bytes)/4 {
		t.Errorf("%d bytes allocated to write %d", got, w.bytes)
	}
	if err := res.WriteJSON(&impatient{Context: t.Context(), left: 2}, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("went on writing: %v", err)
	}
	r, broken := io.Pipe()
	r.Close()
	if err := res.WriteJSON(t.Context(), broken); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a broken writer is not told: %v", err)
	}
}

func TestBaseSteps(t *testing.T) {
	for query, ok := range map[string]bool{
		"G.V().Has('@Host',NE(''),'Type',Within('veth','bridge')).Dedup().Has('Captures.ID',NEE('uuid'))": true,
		"G.V().ShortestPathTo(Metadata('a','b')).SubGraph()":                                              true,
		"G.V().Metrics()": false, "G.V().Descendants()": false, "G.V().NextHop('1.1.1.1')": false, "G.V().Sockets()": false,
		"G.Workflow('w')": false, "G.Flows()": false,
	} {
		p, err := Compile(parse(t, query), BaseSteps)
		if ok != (err == nil) {
			t.Errorf("%s: %v", query, err)
		}
		if ok && p.String() == "" {
			t.Errorf("%s: no text", query)
		}
	}
}

func TestPlanIsShared(t *testing.T) {
	s := goldenGraph(t)
	p, err := Compile(parse(t, "G.V().Has('Name',REGEX('e.{1,5}')).As('x').Both().SubGraph().V().Out().Dedup().Count()"), AllSteps)
	if err != nil {
		t.Fatal(err)
	}
	var want Result
	if want, err = p.Run(t.Context(), Source{Graph: s}); err != nil || want.(Value).V.(int64) == 0 {
		t.Fatal(want, err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if got, err := p.Run(t.Context(), Source{Graph: s}); err != nil || got != want {
					t.Errorf("%v, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestDOT(t *testing.T) {
	m := func(name string) field.Object {
		return field.Make("Name", name, "Type", "device", "IPV4", []string{"10.0.0.1/24"}, "IfIndex", 3, "MTU", 9)
	}
	s := build(t, map[string]field.Object{"0000first-node": m("first"), "0000second-node": m(`se"c`), "x": m("x")},
		"1 0000first-node 0000second-node layer2", "2 0000first-node x ownership")
	res, err := Run(t.Context(), parse(t, "G.V().Sort('Name').SubGraph()"), Source{Graph: s})
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := WriteDOT(t.Context(), &got, res); err != nil {
		t.Fatal(err)
	}
	const want = `digraph g {
"first-0000firs" [label="first-0000firs\nType = device\nIfIndex = 3\nIPV4 = [10.0.0.1/24]"]
"se\"c-0000seco" [label="se\"c-0000seco\nType = device\nIfIndex = 3\nIPV4 = [10.0.0.1/24]"]
"x-x" [label="x-x\nType = device\nIfIndex = 3\nIPV4 = [10.0.0.1/24]"]
"first-0000firs" -> "se\"c-0000seco" [label=layer2,dir=both]
"first-0000firs" -> "x-x" [label=ownership,dir=forward]
}`
	if got.String() != want {
		t.Errorf("got %s", &got)
	}
	got.Reset()
	if err := WriteDOT(t.Context(), &got, Whole(build(t, nil))); err != nil || got.String() != "digraph g {\n}" {
		t.Errorf("%v: %s", err, &got)
	}
	for _, q := range []string{"G.V()", "G.V().Count()", "G.V().Values('Nope')"} {
		res, err := Run(t.Context(), parse(t, q), Source{Graph: s})
		if err != nil {
			t.Fatal(err)
		}
		if err := WriteDOT(t.Context(), &got, res); !errors.Is(err, ErrNotGraph) {
			t.Errorf("%s: %v", q, err)
		}
	}
}

func TestTopology(t *testing.T) {
	var got bytes.Buffer
	if err := Whole(build(t, nil)).WriteObject(t.Context(), &got); err != nil || got.String() != `{"Nodes":null,"Edges":null}` {
		t.Errorf("%v: %s", err, &got)
	}
}

func FuzzRun(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.Query)
	}
	lines(f, "flow-cases.jsonl", func(line []byte) {
		var v vector
		if err := json.Unmarshal(line, &v); err != nil {
			f.Fatal(err)
		}
		f.Add(v.Query)
		f.Add(strings.Replace(v.Query, "G.", "G.At('-1m',60).", 1))
	})
	s := goldenGraph(f)
	flows, past := goldenFlows(f).Flows, twoStates()
	f.Fuzz(func(t *testing.T, text string) {
		q, err := gremlin.Parse(text)
		if err != nil {
			return
		}
		res, err := Run(t.Context(), q, Source{Graph: s, Limit: 20_000, Flows: flows, History: past, Storage: past})
		if err != nil {
			var usage *Error
			if !errors.As(err, &usage) {
				t.Fatalf("%q: %T %v", text, err, err)
			}
			return
		}
		var buf bytes.Buffer
		if err := res.WriteJSON(t.Context(), &buf); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if _, err := field.ParseJSON(buf.Bytes()); err != nil {
			t.Fatalf("%q: %v: %s", text, err, &buf)
		}
	})
}
