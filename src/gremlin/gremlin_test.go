package gremlin

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

type vector struct {
	Section, Query string
	Status         int
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
	if sc.Err() != nil || len(vs) < 500 {
		tb.Fatalf("%d vectors, %v", len(vs), sc.Err())
	}
	return vs
}

// plain drops what canonical text does not carry.
func plain(q *Query) []Step {
	steps := make([]Step, len(q.Steps))
	for i, s := range q.Steps {
		steps[i] = Step{Kind: s.Kind, Args: s.Args}
	}
	return steps
}

func TestVectorsParse(t *testing.T) {
	for _, v := range vectors(t) {
		q, err := Parse(v.Query)
		switch {
		case v.Query == "G.V().Keys('x')":
			if err == nil { // the peer ignores parameters of Keys, we refuse them
				t.Errorf("%s: accepted", v.Query)
			}
		case v.Query == "G.Flows().RawPackets().BPF()", v.Section == "lexer and grammar" && v.Status == 400:
			if err == nil {
				t.Errorf("%s: accepted", v.Query)
			}
		case v.Status == 200 && err != nil:
			t.Errorf("%s: %v", v.Query, err)
		case err == nil:
			again, err := Parse(q.String())
			if err != nil || !reflect.DeepEqual(plain(q), plain(again)) {
				t.Errorf("%s: canonical %s: %v", v.Query, q, err)
			}
		}
	}
}

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		"g":                           "G",
		" G . v ( ) \n.\tCOUNT()":     "G.V().Count()",
		`G.V().Has("Name','x')`:       "G.V().Has('Name','x')",
		"G.V().Has(,'a',,1 ,)":        "G.V().Has('a',1)",
		"G.V().has('a',1.50)":         "G.V().Has('a',1.5)",
		"G.V().has('a',2.)":           "G.V().Has('a',2.0)",
		"G.V().has('a',True)":         "G.V().Has('a',true)",
		"G.V().has('a',outside(1 2))": "G.V().Has('a',OUTSIDE(1,2))",
		"G.At(now,forever).V()":       "G.Context(NOW,FOREVER).V()",
		"G.Flows().Node()":            "G.Flows().CaptureNode()",
		"G.V().As('a').G.E()":         "G.V().As('a').G.E()",
		"G.V().Sort(desc,'k')":        "G.V().Sort(DESC,'k')",
		"G.V().ShortestPathTo(metadata('a' 1),METADATA())": "G.V().ShortestPathTo(Metadata('a',1),Metadata())",
		"G.V().Has('a',Within('x',1,true))":                "G.V().Has('a',WITHIN('x',1,true))",
		"G.V().Has('a',Regex('a|b'))":                      "G.V().Has('a',REGEX('a|b'))",
		"G.Workflow('w','a',1)":                            "G.Workflow('w','a',1)",
		"G.V().Descendants('a','b','a','c',0)":             "G.V().Descendants('a','b','a','c',0)",
	} {
		q, err := Parse(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if q.String() != want {
			t.Errorf("%s: got %s, want %s", in, q, want)
		}
	}
}

func TestSyntaxErrors(t *testing.T) {
	for _, c := range []struct {
		in     string
		offset int
		found  string
		text   string
	}{
		{"", 0, "", "found \"\", expected `G`"},
		{"V()", 0, "V", "found \"V\", expected `G`"},
		{"G V()", 2, "V", "found \"V\", expected `.`"},
		{"G.V().As('a').G()", 15, "(", "found \"(\", expected `.`"},
		{"G.Foo()", 2, "Foo", "Expected step function, got: Foo"},
		{"G.V", 3, "", "Expected left parenthesis, got: "},
		{"G.V(", 4, "", "Expected right parenthesis"},
		{"G.V('x", 6, "", "Expected right parenthesis"},
		{"G.V().Has('MTU',-1)", 16, "-", "Unexpected token while parsing parameters, got: -"},
		{"G.V().Has('MTU',1e3)", 17, "e", "Unexpected token while parsing parameters, got: e"},
		{"G.\rV()", 2, "\r", "Expected step function, got: \r"},
		{"G.V().Has('MTU',GT(1,2))", 16, "GT", "One parameter expected with GT: [1 2]"},
		{"G.V().Has('MTU',INSIDE(1))", 16, "INSIDE", "Two parameters expected with INSIDE: [1]"},
		{"G.V().Has('MTU',LT('a'))", 19, "a", "LT values should be of int64 type"},
		{"G.V().Has('a',NE(NE(1)))", 17, "NE", "Unexpected token while parsing parameters, got: NE"},
		{"G.V().Has('a',Metadata('a','b'))", 14, "Metadata", "value of a should be a plain value or a predicate"},
		{"G.V().Has('a','b','c')", 6, "Has", "params should be a list of key,value"},
		{"G.V().Has('a',REGEX('^a'))", 20, "^a", "Regex are anchored by default, ^ and $ don't have to be provided"},
		{"G.V().Has('a',REGEX(1))", 20, "1", "REGEX predicate expects a string as parameter, got: [1]"},
		{"G.V().Has('a',99999999999999999999)", 14, "99999999999999999999", "Invalid number: 99999999999999999999"},
		{"G.V().Has('a',1.2.3)", 14, "1.2.3", "Invalid number: 1.2.3"},
		{"G.V().Limit('x')", 12, "x", "Limit parameters have to be integers : [x]"},
		{"G.V(1)", 4, "1", "V parameter must be a string : [1]"},
		{"G.At('garbage')", 5, "garbage", "Time must be in RFC1123 or in Go Duration format"},
		{"G.V().NextHop('zz')", 14, "zz", "NextHop parameter have to be a valid IP address"},
		{"G.V().Has('a',IPV4RANGE('::/0'))", 24, "::/0", "invalid CIDR address: ::/0"},
		{"G.V().Has('a',é)", 14, "é", "Unexpected token while parsing parameters, got: é"},
		{"G.Captures()", 2, "Captures", "Expected step function, got: Captures"},
	} {
		_, err := Parse(c.in)
		var se *SyntaxError
		if !errors.As(err, &se) {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if se.Offset != c.offset || se.Found != c.found || se.Text != c.text || se.Want == "" {
			t.Errorf("%q: %#v", c.in, se)
		}
		if !strings.HasPrefix(err.Error(), c.text) {
			t.Errorf("%q: message %q", c.in, err)
		}
	}
}

func TestBounds(t *testing.T) {
	for name, in := range map[string]string{
		"length": "G.V('" + strings.Repeat("x", MaxLength) + "')",
		"steps":  "G" + strings.Repeat(".V()", MaxSteps+1),
		"depth":  "G.V().Has('a'," + strings.Repeat("NE(", 10000) + "1" + strings.Repeat(")", 10000) + ")",
		"regex":  "G.V().Has('a',REGEX('" + strings.Repeat("a", MaxRegex+1) + "'))",
		"open":   "G.V(" + strings.Repeat("(", 60000),
		// Both would compile to gigabytes.
		"repetition":  "G.V().Has('a',REGEX('(" + strings.Repeat("a", 3000) + "){1000}'))",
		"repetitions": "G.V()" + strings.Repeat(".Has('a',REGEX('(abcd){999}'))", 20),
	} {
		start := time.Now()
		if _, err := Parse(in); err == nil {
			t.Errorf("%s: accepted", name)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%s: message of %d bytes", name, len(err.Error()))
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("%s: took %v", name, d)
		}
	}
	for _, in := range []string{"G" + strings.Repeat(".V()", MaxSteps), "G.V()" + strings.Repeat(".Has('a',REGEX('[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'))", 100)} {
		if _, err := Parse(in); err != nil {
			t.Error(err)
		}
	}
}

func TestBase(t *testing.T) {
	for k := G; k < kinds; k++ {
		q := k.String()
		if q == "" || steps[k].check == nil {
			t.Fatalf("step %d is not described", k)
		}
	}
	if !Select.Base() || !Context.Base() || Flows.Base() || Workflow.Base() || Descendants.Base() {
		t.Error("base steps")
	}
}

func TestNew(t *testing.T) {
	q, err := New(Call(V), Call(Has, "Name", Text(`it's "me"`), "MTU", Is(GT, 1500)), Call(Limit, 3))
	if err != nil {
		t.Fatal(err)
	}
	const want = `G.V().Has('Name',REGEX('it\x27s \x22me\x22'),'MTU',GT(1500)).Limit(3)`
	if q.String() != want {
		t.Errorf("got %s", q)
	}
	again, err := Parse(q.String())
	if err != nil || !reflect.DeepEqual(plain(q), plain(again)) {
		t.Errorf("%v: %#v", err, again)
	}
	re := regexp.MustCompile("^(?:" + q.Steps[1].Args[1].(*Predicate).Args[0].(string) + ")$")
	if !re.MatchString(`it's "me"`) || re.MatchString("its me") {
		t.Errorf("%s does not match exactly", re)
	}
	for _, text := range []string{`it's 5$`, `^'`, `'$$`, "'\n\\"} {
		q, err := New(Call(V), Call(Has, "Name", Text(text)))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		re := regexp.MustCompile("^(?:" + q.Steps[1].Args[1].(*Predicate).Args[0].(string) + ")$")
		if again, err := Parse(q.String()); err != nil || again.String() != q.String() || !re.MatchString(text) {
			t.Errorf("%q became %s, %v", text, q, err)
		}
	}
	for name, steps := range map[string][]Step{
		"quote":         {Call(V, "it's")},
		"arity":         {Call(Limit)},
		"negative":      {Call(Limit, -1)},
		"negative zero": {Call(Has, "a", -1.5)},
		"type":          {Call(V, uint8(1))},
		"kind":          {Call(0)},
		"predicate":     {Call(Has, "a", Is(0))},
		"nested":        {Call(Has, "a", Is(NE, Is(NE, 1)))},
	} {
		if q, err := New(steps...); err == nil {
			t.Errorf("%s: accepted as %s", name, q)
		}
	}
	if _, err := New(Call(V, "it's")); !errors.Is(err, ErrQuote) {
		t.Error(err)
	}
	if s, err := Quote("a"); s != "'a'" || err != nil {
		t.Error(s, err)
	}
	if _, err := Quote("'"); !errors.Is(err, ErrQuote) {
		t.Error(err)
	}
}

func TestSlice(t *testing.T) {
	now := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]Slice{
		"G.At('-1m')":                           {now.Add(-time.Minute), now.Add(-time.Minute), true},
		"G.At(NOW)":                             {now, now, true},
		"G.At('-1m',30)":                        {now.Add(-90 * time.Second), now.Add(-time.Minute), false},
		"G.At('-1m','30s')":                     {now.Add(-90 * time.Second), now.Add(-time.Minute), false},
		"G.At(NOW,FOREVER)":                     {time.Unix(0, 0), now, false},
		"G.Context(1700000000)":                 {time.Unix(1700000000, 0), time.Unix(1700000000, 0), true},
		"G.Context(1700000000000)":              {time.UnixMilli(1700000000000), time.UnixMilli(1700000000000), true},
		"G.At('Sun, 06 Nov 2016 08:49:37 GMT')": {time.Unix(1478422177, 0), time.Unix(1478422177, 0), true},
	} {
		q, err := Parse(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		got, err := q.Steps[0].Slice(now)
		if err != nil || !got.Start.Equal(want.Start) || !got.Last.Equal(want.Last) || got.Point != want.Point {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"G.At('-1m','-1m')", "G.At(NOW,NOW)", "G.At(FOREVER)", "G.At(1.5)", "G.At(1,9223372036854775807)"} {
		if _, err := Parse(in); err == nil {
			t.Errorf("%s: accepted", in)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.Query)
	}
	f.Fuzz(func(t *testing.T, in string) {
		q, err := Parse(in)
		if err != nil {
			var se *SyntaxError
			if !errors.As(err, &se) || se.Offset < 0 || se.Offset > len(in) || se.Want == "" {
				t.Fatalf("%q: %#v", in, err)
			}
			return
		}
		canonical := q.String()
		if len(canonical) > MaxLength {
			return // a number or a comma written longer than it came
		}
		again, err := Parse(canonical)
		if err != nil || !reflect.DeepEqual(plain(q), plain(again)) {
			t.Fatalf("%q: canonical %q: %v", in, canonical, err)
		}
		built, err := New(q.Steps...)
		if err != nil || built.String() != canonical {
			t.Fatalf("%q: built %v: %v", in, built, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("G.V().Has('@Host',NE(''),'Type',Within('veth','bridge')).Dedup().Has('Captures.ID',NEE('uuid'))"); err != nil {
			b.Fatal(err)
		}
	}
}
