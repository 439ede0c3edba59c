package flow

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"skydive/src/field"
)

// some returns flows named by the letters of names, with times and tracking ids of their own.
func some(names string) []*Flow {
	var flows []*Flow
	for i, n := range names {
		flows = append(flows, &Flow{UUID: string(n), Last: int64(len(names) - i), TrackingID: strings.ToLower(string(n)), Application: string(n)})
	}
	return flows
}

func uuids(flows []*Flow) string {
	var s strings.Builder
	for _, f := range flows {
		s.WriteString(f.UUID)
	}
	return s.String()
}

func TestSearch(t *testing.T) {
	for _, c := range []struct {
		name  string
		s     Search
		flows string // in this order, Last falling
		want  string
	}{
		{"nothing asked", Search{}, "badc", "badc"},
		{"no flows", Search{Sort: true, Dedup: true, From: 3, To: 10}, "", ""},
		{"filter", Search{Filter: AnyText("UUID", "a", "c")}, "badc", "ac"},
		{"sort by default", Search{Sort: true}, "badc", "cdab"},
		{"sort ascending", Search{Sort: true, SortBy: "UUID", Order: Ascending}, "badc", "abcd"},
		{"sort descending", Search{Sort: true, SortBy: "UUID", Order: Descending}, "badc", "dcba"},
		{"sort by an unknown key", Search{Sort: true, SortBy: "x"}, "badc", "badc"},
		{"dedup by default", Search{Dedup: true}, "aAbBa", "ab"},
		{"dedup", Search{Dedup: true, DedupBy: "UUID"}, "aAbBa", "aAbB"},
		{"dedup by an unknown key", Search{Dedup: true, DedupBy: "x"}, "aAbBa", "aAbBa"},
		{"dedup by a list", Search{Dedup: true, DedupBy: "Network"}, "ab", "ab"},
		{"sort, dedup, page", Search{Sort: true, SortBy: "UUID", Dedup: true, From: 1, To: 3}, "cCbBaA", "BC"},
		{"page", Search{From: 1, To: 3}, "abcd", "bc"},
		{"page to the end", Search{From: 2}, "abcd", "cd"},
		{"page beyond the end", Search{From: 2, To: 100}, "abcd", "cd"},
		{"page after the end", Search{From: 1000, To: 1010}, "abcd", ""},
		{"empty page", Search{From: 3, To: 2}, "abcd", ""},
		{"negative page", Search{From: -3, To: -2}, "abcd", "abcd"},
	} {
		if got := uuids(c.s.Apply(some(c.flows))); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	same := []*Flow{{UUID: "x", Network: &Layer{A: "1", B: "2"}}, {UUID: "y", Network: &Layer{A: "1", B: "2"}}, {UUID: "z", Network: &Layer{A: "1"}}}
	if got := uuids((&Search{Dedup: true, DedupBy: "Network"}).Apply(same)); got != "xz" {
		t.Errorf("dedup by a list: %s", got)
	}
	mixed := []*Flow{{UUID: "a"}, {UUID: "b", ICMP: &ICMP{ID: 9}}, {UUID: "c", ICMP: &ICMP{ID: 10}}, {UUID: "d"}}
	for order, want := range map[SortOrder]string{Ascending: "bcad", Descending: "cbad"} {
		if got := uuids((&Search{Sort: true, SortBy: "ICMP.ID", Order: order}).Apply(slices.Clone(mixed))); got != want {
			t.Errorf("order %d with flows that lack the key: %s, want %s", order, got, want)
		}
	}
}

// However flows are spread over agents, asking each its part and finishing gives what one agent with all of them would answer.
func TestPartsFinishAlike(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		var all []*Flow
		for i := range 40 {
			all = append(all, &Flow{UUID: fmt.Sprintf("%02d", i), TrackingID: fmt.Sprint(rnd.IntN(15)), Last: int64(i), Application: fmt.Sprint(rnd.IntN(3))})
		}
		rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		s := &Search{Sort: true, Dedup: rnd.IntN(2) == 0, Order: SortOrder(rnd.IntN(3)), From: int64(rnd.IntN(5)), To: int64(5 + rnd.IntN(10)), Filter: AnyText("Application", "1", "2")}
		agents := make([][]*Flow, 3)
		for _, f := range all {
			i := rnd.IntN(3)
			agents[i] = append(agents[i], f)
		}
		var merged []*Flow
		for _, flows := range agents {
			merged = append(merged, s.Part().Apply(flows)...)
		}
		got, want := uuids(s.Finish(merged)), uuids(s.Apply(slices.Clone(all)))
		if got != want {
			t.Fatalf("round %d: %+v: got %s, want %s", round, s, got, want)
		}
	}
}

func TestAddable(t *testing.T) {
	for _, c := range []struct {
		s    Search
		want bool
	}{{Search{}, true}, {Search{Sort: true, Filter: &Filter{}}, true}, {Search{Dedup: true}, false}, {Search{To: 1}, false}, {Search{From: 1}, false}} {
		if c.s.Addable() != c.want {
			t.Errorf("%+v: %v", c.s, !c.want)
		}
	}
}

func TestTableQueryTravels(t *testing.T) {
	for _, q := range []TableQuery{
		{},
		{Search: Search{From: 1, To: 2, Sort: true, Dedup: true, DedupBy: "a", SortBy: "b", Order: Ascending}},
		{Aggregate: &Aggregate{}},
		{Aggregate: &Aggregate{Update}, Search: Search{Filter: textFilter("a", "b")}},
	} {
		for name, parse := range map[string]func() (*TableQuery, error){
			"protobuf": func() (*TableQuery, error) { return ParseTableQuery(q.AppendProto(nil), true) },
			"JSON":     func() (*TableQuery, error) { return ParseTableQuery(q.AppendJSON(nil), false) },
		} {
			got, err := parse()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if string(got.AppendJSON(nil)) != string(q.AppendJSON(nil)) {
				t.Errorf("%s: got %s, want %s", name, got.AppendJSON(nil), q.AppendJSON(nil))
			}
		}
	}
	want := `{"Type":"SearchQuery","query":{"PaginationRange":{"From":0,"To":5},"Sort":true,"SortBy":"Last","SortOrder":1}}`
	if got := string((&TableQuery{Search: Search{To: 5, Sort: true, SortBy: "Last", Order: Ascending}}).AppendJSON(nil)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, s := range []string{`{}`, `[]`, `{"Type":"Other","query":{}}`, `{"Type":"SearchQuery","query":{"SortOrder":3}}`, `{"Type":"SearchQuery","query":{"Filter":{"x":{}}}}`, `{"Type":"SearchQuery","query":{},"Aggregate":9}`} {
		if _, err := ParseTableQuery([]byte(s), false); err == nil {
			t.Errorf("%s was accepted", s)
		}
	}
	for _, s := range []string{"", "0a0141", "0a", "0a0b536561726368517565727912023803", "0a0b5365617263685175657279a00609"} {
		if _, err := ParseTableQuery(unhex(t, s), true); err == nil {
			t.Errorf("%s was accepted", s)
		}
	}
}

func TestTableReplyTravels(t *testing.T) {
	set := (&Set{Flows: []*Flow{typical()}, Start: 1, Last: 2}).AppendProto(nil)
	for _, r := range []TableReply{
		{Status: 200},
		{Status: 200, Sets: [][]byte{set, nil, set}},
		{Status: 200, Total: &Total{}},
		{Status: 200, Total: &Total{Count: 5, Metric: typical().Metric}},
	} {
		for name, parse := range map[string]func() (*TableReply, error){
			"protobuf": func() (*TableReply, error) { return ParseTableReply(r.AppendProto(nil), true) },
			"JSON":     func() (*TableReply, error) { return ParseTableReply(r.AppendJSON(nil), false) },
		} {
			got, err := parse()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if string(got.AppendJSON(nil)) != string(r.AppendJSON(nil)) {
				t.Errorf("%s: got %s, want %s", name, got.AppendJSON(nil), r.AppendJSON(nil))
			}
			flows, err := got.Flows()
			if err != nil || len(flows) != len(r.Sets)*2/3 {
				t.Errorf("%s: %d flows, %v", name, len(flows), err)
			}
		}
	}
	if got := string((&TableReply{Status: 200}).AppendJSON(nil)); got != `{"Status":200,"FlowSetBytes":[]}` {
		t.Errorf("empty reply is %s", got)
	}
	for _, s := range []string{`[]`, `{"FlowSetBytes":{}}`, `{"FlowSetBytes":[1]}`, `{"FlowSetBytes":["*"]}`, `{"Total":1}`} {
		if _, err := ParseTableReply([]byte(s), false); err == nil {
			t.Errorf("%s was accepted", s)
		}
	}
	if r, err := ParseTableReply([]byte(`{"Status":500,"FlowSetBytes":null}`), false); err != nil || r.Status != 500 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestTotals(t *testing.T) {
	whole := Metric{10, 100, 1, 9, 50, 60, 7}
	last := Metric{1, 10, 0, 0, 55, 60, 7}
	flows := []*Flow{{Metric: whole, LastUpdateMetric: &last}, {Metric: whole}, {Metric: whole, LastUpdateMetric: &Metric{}}}
	for kind, want := range map[MetricKind]Metric{
		NoMetric: {},
		Whole:    {30, 300, 3, 27, 50, 60, 21},
		Update:   {1, 10, 0, 0, 55, 60, 7},
		Latest:   {11, 110, 1, 9, 50, 60, 14},
	} {
		var a, b Total
		for i, f := range flows {
			if i == 0 {
				a.Add(f, Aggregate{kind})
			} else {
				b.Add(f, Aggregate{kind})
			}
		}
		b.Merge(&a)
		if b != (Total{3, want}) {
			t.Errorf("kind %d: got %+v, want %+v", kind, b, want)
		}
	}
}

func BenchmarkSearchApply(b *testing.B) {
	flows := make([]*Flow, 50_000)
	for i := range flows {
		f := *typical()
		f.Network = &Layer{Protocol: IPv4, A: fmt.Sprintf("10.%d.%d.1", i>>8, i&255), B: "10.0.0.2"}
		flows[i] = &f
	}
	filter, err := FilterOf(field.Filter{Terms: []field.Term{{Key: "Network", Pred: field.Eq{V: "10.0.77.1"}}}})
	if err != nil {
		b.Fatal(err)
	}
	s := &Search{Filter: filter, Sort: true}
	buf := make([]*Flow, len(flows))
	b.ReportAllocs()
	for b.Loop() {
		copy(buf, flows)
		if len(s.Apply(buf)) != 1 {
			b.Fatal("wrong")
		}
	}
}
