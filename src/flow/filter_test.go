package flow

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"skydive/src/field"
)

func mustRegex(t testing.TB, expr string) field.Predicate {
	t.Helper()
	p, err := field.NewRegex(expr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustRange(t testing.TB, cidr string) field.Predicate {
	t.Helper()
	p, err := field.NewIPv4Range(cidr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What agents are asked must hold for exactly the flows for which the question holds – evaluated here, and after travelling.
func TestFilterOfMeansTheSame(t *testing.T) {
	flows := append(golden(t), typical(), full(), &Flow{}, &Flow{Application: "80", Network: &Layer{A: "<nil>"}},
		&Flow{Metric: Metric{ABBytes: 1 << 60, BABytes: -1 << 60}})
	keys := []string{
		"UUID", "Application", "ParentUUID", "Start", "Link", "Network", "Transport", "Network.A", "Network.B", "Transport.A", "Transport.B",
		"Network.Protocol", "TCP.A", "TCP", "UDP.B", "SCTP", "IPV4.A", "IPV6.B", "IPV6", "ETHERNET.A", "ETHERNET", "ICMP.Type", "ICMP.ID", "Metric.ABBytes",
		"Metric.BABytes", "LastUpdateMetric.ABPackets", "TCPMetric.ABSynTTL", "DNS.QR", "DNS.ResponseCode", "DNS.Questions.Name", "RawPacketsCaptured",
		"FinishType", "NoSuchKey", "No.Such.Key",
	}
	values := []field.Value{"10.1.0.1", "TCP", "80", "", "DNS", "ECHO", "IPV6", "02:00:00:00:01:01", "www.example.org", "No Error", int64(80), int64(0), int64(53), int64(40000), int64(77), true, false, 80.5}
	var predicates []field.Predicate
	for _, v := range values {
		predicates = append(predicates, field.Eq{V: v}, field.Ne{V: v}, field.Nee{V: v})
	}
	for _, n := range []float64{0, 1, 53, 79.5, 80, 80.5, 372, 40000, -1, 1e19, -1e19, math.MaxInt64, math.MinInt64, math.Inf(1), math.Inf(-1), math.NaN()} {
		predicates = append(predicates, field.Lt{N: n}, field.Lte{N: n}, field.Gt{N: n}, field.Gte{N: n},
			field.Inside{A: n, B: n + 20}, field.Between{A: n, B: n + 20}, field.Outside{A: n, B: n + 20})
	}
	predicates = append(predicates, field.Within{Vs: values}, field.Without{Vs: values}, field.Within{}, field.Without{}, field.Exists{}, field.Missing{},
		mustRegex(t, "TCP"), mustRegex(t, ".*TCP|UDP"), mustRegex(t, "(?i)dns"), mustRegex(t, ".*"), mustRegex(t, `10\.1\..*`),
		mustRange(t, "10.0.0.0/8"), mustRange(t, "10.1.0.1/32"), mustRange(t, "0.0.0.0/0"))
	holds := 0
	check := func(ff field.Filter, name string) {
		f, err := FilterOf(ff)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		proto, text := overProto(t, f), overJSON(t, f)
		for i, fl := range flows {
			want := ff.Match(fl)
			if want {
				holds++
			}
			if f.Match(fl) != want {
				t.Fatalf("%s on flow %d (%s): %v, want %v; filter %s", name, i, fl.AppendJSON(nil), !want, want, f.AppendJSON(nil))
			}
			if proto.Match(fl) != want || text.Match(fl) != want {
				t.Fatalf("%s on flow %d changed on its way: %s", name, i, f.AppendJSON(nil))
			}
		}
	}
	for _, k := range keys {
		for _, p := range predicates {
			check(field.Filter{Terms: []field.Term{{Key: k, Pred: p}}}, fmt.Sprintf("%s %T%v", k, p, p))
		}
	}
	for _, either := range []bool{false, true} {
		check(field.Filter{Any: either}, "no terms")
		check(field.Filter{Any: either, Terms: []field.Term{{Key: "Transport", Pred: field.Eq{V: int64(80)}}, {Key: "Network", Pred: field.Ne{V: "10.1.0.1"}}, {Key: "Application", Pred: field.Nee{V: "DNS"}}}}, "three terms")
	}
	if holds < 1000 {
		t.Errorf("filters held %d times only: the flows are too plain to prove anything", holds)
	}
}

func overProto(t testing.TB, f *Filter) *Filter {
	t.Helper()
	back, err := decodeFilter(f.AppendProto(nil), 0)
	if err != nil {
		t.Fatal(err)
	}
	return back
}

func overJSON(t testing.TB, f *Filter) *Filter {
	t.Helper()
	text := f.AppendJSON(nil)
	if !json.Valid(text) {
		t.Fatalf("not JSON: %s", text)
	}
	v, err := field.ParseJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	back, err := readFilter(v, 0)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return back
}

type strange struct{}

func (strange) Match(field.Value, bool) bool { return true }

func TestFilterOfRefuses(t *testing.T) {
	for _, p := range []field.Predicate{strange{}, field.Eq{V: field.List{}}, field.Ne{V: nil}, field.Without{Vs: []field.Value{field.Object{}}}, mustRegex(t, strings.Repeat("a", maxRegex))} {
		if f, err := FilterOf(field.Filter{Terms: []field.Term{{Key: "Network", Pred: p}}}); err == nil {
			t.Errorf("%T became %s", p, f.AppendJSON(nil))
		}
	}
}

func TestCombinations(t *testing.T) {
	yes, no := AnyText("Application", "a", "b"), AnyText("Application", "c")
	f := &Flow{Application: "b"}
	for name, c := range map[string]struct {
		f    *Filter
		want bool
	}{
		"nil":                 {nil, true},
		"empty":               {&Filter{}, true},
		"empty OR":            {&Filter{Kind: Bool, Op: OpOr}, true}, // as public agents have it
		"empty AND":           {&Filter{Kind: Bool, Op: OpAnd}, true},
		"empty NOT":           {&Filter{Kind: Bool, Op: OpNot}, true},
		"NOT of all holding":  {&Filter{Kind: Bool, Op: OpNot, Filters: []*Filter{yes, yes}}, false},
		"NOT of one failing":  {&Filter{Kind: Bool, Op: OpNot, Filters: []*Filter{yes, no}}, true},
		"And()":               {And(), true},
		"And(nil)":            {And(nil, nil), true},
		"And of both":         {And(yes, nil, no), false},
		"And of one":          {And(nil, yes), true},
		"Or()":                {Or(), false},
		"Or of both":          {Or(no, yes), true},
		"Or of none":          {Or(no, no), false},
		"Not":                 {Not(no), true},
		"Not(nil)":            {Not(nil), false},
		"Not(And())":          {Not(And()), false},
		"AnyText of nothing":  {AnyText("Application"), false},
		"everything in an Or": {Or(no, &Filter{}), true},
	} {
		if got := c.f.Match(f); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
		if got := overProto(t, c.f).Match(f); got != c.want {
			t.Errorf("%s by protobuf: %v", name, got)
		}
		if got := overJSON(t, c.f).Match(f); got != c.want {
			t.Errorf("%s by JSON: %v", name, got)
		}
	}
}

func TestFiltersInJSON(t *testing.T) {
	for _, c := range []struct {
		f    *Filter
		want string
	}{
		{nil, `{}`},
		{textFilter("Application", "TCP"), `{"TermStringFilter":{"Key":"Application","Value":"TCP"}}`},
		{numberFilter(TermInt64, "Transport.B", 80), `{"TermInt64Filter":{"Key":"Transport.B","Value":80}}`},
		{numberFilter(TermBool, "DNS.QR", 1), `{"TermBoolFilter":{"Key":"DNS.QR","Value":true}}`},
		{numberFilter(GteInt64, "Start", 5), `{"GteInt64Filter":{"Key":"Start","Value":5}}`},
		{Not(nullFilter("ICMP")), `{"BoolFilter":{"Op":2,"Filters":[{"NullFilter":{"Key":"ICMP"}}]}}`},
	} {
		if got := string(c.f.AppendJSON(nil)); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	// Other spellings that peers use.
	for _, s := range []string{
		`{"BoolFilter":{"Op":"AND","Filters":[{"TermInt64Filter":{"Key":"Transport.B","Value":"443"}}]}}`,
		`{"BoolFilter":{"Op":1,"Filters":[{"TermInt64Filter":{"Key":"Transport.B","Value":443},"TermStringFilter":null,"RegexFilter":null}]}}`,
		`{"BoolFilter":{}}`, `{}`, `null`,
	} {
		v, err := field.ParseJSON([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		if f, err := readFilter(v, 0); err != nil || !f.Match(typical()) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestBadFiltersAreRefused(t *testing.T) {
	for _, s := range []string{
		`[]`, `{"NewFilter":{"Key":"a"}}`, `{"":{}}`, `{"TermStringFilter":1}`, `{"TermInt64Filter":{"Key":"a","Value":"x"}}`, `{"TermInt64Filter":{"Key":"a","Value":1.5}}`,
		`{"BoolFilter":{"Op":3}}`, `{"BoolFilter":{"Op":"XOR"}}`, `{"BoolFilter":{"Filters":{}}}`, `{"BoolFilter":{"Filters":[{"X":{}}]}}`,
		`{"RegexFilter":{"Key":"a","Value":"("}}`, `{"IPV4RangeFilter":{"Key":"a","Value":"10.0.0.0"}}`, `{"IPV4RangeFilter":{"Key":"a","Value":"::/0"}}`,
	} {
		v, err := field.ParseJSON([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		if f, err := readFilter(v, 0); err == nil {
			t.Errorf("%s was taken for %s", s, f.AppendJSON(nil))
		}
	}
	for _, s := range []string{"6200", "42020803", "4a050a0161120128", "5a00", "0a", "4202" + "1205"} {
		if f, err := decodeFilter(unhex(t, s), 0); err == nil {
			t.Errorf("%s was taken for %s", s, f.AppendJSON(nil))
		}
	}
	deep := textFilter("a", "b")
	for range maxFilterDepth + 1 {
		deep = Not(deep)
	}
	if _, err := decodeFilter(deep.AppendProto(nil), 0); err != errFilterDepth {
		t.Errorf("protobuf: %v", err)
	}
	v := field.Value(field.Make("NullFilter", field.Make("Key", "a")))
	for range maxFilterDepth + 1 {
		v = field.Make("BoolFilter", field.Make("Filters", field.List{v}))
	}
	if _, err := readFilter(v, 0); err != errFilterDepth {
		t.Errorf("JSON: %v", err)
	}
}

func TestQueriesOfPublicAnalyzers(t *testing.T) {
	var searches []Search
	for _, line := range lines(t, "wire-queries.hex") {
		typ, obj, _ := strings.Cut(line, " ")
		if typ != "TableQuery" {
			continue
		}
		want := unhex(t, obj)
		q, err := ParseTableQuery(want, true)
		if err != nil {
			t.Fatal(err)
		}
		if got := q.AppendProto(nil); !bytes.Equal(got, want) {
			t.Errorf("encoded as %x, want %x", got, want)
		}
		back, err := ParseTableQuery(q.AppendJSON(nil), false)
		if err != nil {
			t.Fatal(err)
		}
		if got := back.AppendProto(nil); !bytes.Equal(got, want) {
			t.Errorf("by JSON encoded as %x, want %x", got, want)
		}
		if q.Aggregate != nil {
			t.Error("a public analyzer asked for a total")
		}
		searches = append(searches, q.Search)
	}
	if len(searches) != 4 {
		t.Fatalf("%d queries", len(searches))
	}
	if s := searches[0]; !reflect.DeepEqual(s, Search{}) {
		t.Errorf("first query is %+v", s)
	}
	s := searches[1]
	s.Filter = nil
	if !reflect.DeepEqual(s, Search{To: 10, Sort: true, SortBy: "Last", Order: Descending, Dedup: true, DedupBy: "TrackingID"}) {
		t.Errorf("second query is %+v", s)
	}
	hit := &Flow{Network: &Layer{A: "10.1.0.2", B: "10.1.0.1"}, NodeTID: "2152238d-b50a-5019-b617-966e2764c8d9"}
	if !searches[1].Filter.Match(hit) || searches[1].Filter.Match(typical()) {
		t.Error("second query finds the wrong flows")
	}
}

func FuzzTableQuery(f *testing.F) {
	for _, line := range lines(f, "wire-queries.hex") {
		_, obj, _ := strings.Cut(line, " ")
		f.Add(unhex(f, obj))
	}
	f.Add([]byte(`{"Type":"SearchQuery","query":{"Filter":{"BoolFilter":{"Op":1,"Filters":[{"RegexFilter":{"Key":"Application","Value":"^T"}},{"IPV4RangeFilter":{"Key":"Network","Value":"10.0.0.0/8"}}]}},"PaginationRange":{"To":5},"Sort":true,"SortBy":"Last","SortOrder":1},"Aggregate":2}`))
	f.Add([]byte(`{"Status":200,"FlowSetBytes":["AA=="],"Total":{"Count":1}}`))
	flows := []*Flow{typical(), full(), {}}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, protobuf := range []bool{true, false} {
			if q, err := ParseTableQuery(b, protobuf); err == nil {
				if _, err := ParseTableQuery(q.AppendProto(nil), true); err != nil && !strings.Contains(err.Error(), "regular expression") {
					t.Fatalf("%s: %v", q.AppendJSON(nil), err)
				}
				if _, err := ParseTableQuery(q.AppendJSON(nil), false); err != nil && !strings.Contains(err.Error(), "regular expression") {
					t.Fatalf("%s: %v", q.AppendJSON(nil), err)
				}
				q.Search.Apply(append([]*Flow(nil), flows...))
			}
			if r, err := ParseTableReply(b, protobuf); err == nil {
				if _, err := r.Flows(); err == nil {
					r.AppendJSON(r.AppendProto(nil))
				}
			}
		}
	})
}
