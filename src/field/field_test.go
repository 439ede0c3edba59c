package field

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func object(t testing.TB, text string) Object {
	t.Helper()
	v, err := ParseJSON([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v.(Object)
}

func TestLookupFollowsDotsAndLists(t *testing.T) {
	o := object(t, `{"A":{"B":{"C":1}},"L":[{"IP":"1.1.1.1"},{"IP":"2.2.2.2"},{"X":1}],"N":[{"M":[{"K":1},{"K":2}]},{"M":[{"K":3}]}],
		"Labels":{"com.x.role":"proxy"},"Nil":null,"E":{}}`)
	for path, want := range map[string]string{
		"A.B.C":             "1",
		"A.B":               `{"C":1}`,
		"L.IP":              `["1.1.1.1","2.2.2.2"]`,
		"N.M.K":             "[1,2,3]",
		"Labels.com.x.role": `"proxy"`,
		"Nil":               "null",
		"E":                 "{}",
	} {
		v, ok := o.Lookup(path)
		if got := string(AppendJSON(nil, v)); !ok || got != want {
			t.Errorf("%s: %s %v, want %s", path, got, ok, want)
		}
	}
	for _, path := range []string{"A.X", "A.B.C.D", "L.Y", "", ".", "A.", "Z"} {
		if v, ok := o.Lookup(path); ok {
			t.Errorf("%q found %v", path, v)
		}
	}
}

func TestSetAndDeleteCopy(t *testing.T) {
	o := object(t, `{"A":{"B":1},"S":"x"}`)
	set, err := o.Set("A.C.D", int64(2))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(AppendJSON(nil, set)); got != `{"A":{"B":1,"C":{"D":2}},"S":"x"}` {
		t.Error(got)
	}
	if got := string(AppendJSON(nil, set.Delete("A.C.D"))); got != `{"A":{"B":1},"S":"x"}` {
		t.Errorf("an emptied parent must go: %s", got)
	}
	if got := string(AppendJSON(nil, o)); got != `{"A":{"B":1},"S":"x"}` {
		t.Errorf("the original changed: %s", got)
	}
	if _, err := o.Set("S.T", int64(1)); !errors.Is(err, ErrNotObject) {
		t.Errorf("got %v", err)
	}
}

func TestNumbersKeepTheirValue(t *testing.T) {
	for in, want := range map[string]string{
		"1": "1", "1.0": "1", "-7": "-7", "2.5": "2.5", "9007199254740993": "9007199254740993",
		"9223372036854775807": "9223372036854775807", "1e3": "1000", "1e400": "",
	} {
		v, err := ParseJSON([]byte(in))
		if want == "" {
			if err == nil {
				t.Errorf("%s was accepted as %v", in, v)
			}
			continue
		}
		if got := string(AppendJSON(nil, v)); err != nil || got != want {
			t.Errorf("%s → %s, %v; want %s", in, got, err, want)
		}
	}
}

func TestNormalizeTakesAnyGoValue(t *testing.T) {
	type port uint16
	v, err := Normalize(map[string]any{"a": port(80), "b": []int{1, 2}, "c": map[string]string{"x": "y"}, "d": (*int)(nil), "e": float32(0.5), "f": 3.0})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(AppendJSON(nil, v)); got != `{"a":80,"b":[1,2],"c":{"x":"y"},"d":null,"e":0.5,"f":3}` {
		t.Error(got)
	}
	if _, err := Normalize(make(chan int)); err == nil {
		t.Error("a channel became metadata")
	}
}

func TestDiffTurnsOneObjectIntoTheOther(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var random func(depth int) Object
	random = func(depth int) Object {
		o := Object{}
		for _, k := range []string{"a", "b", "c", "d", "e.f"} {
			var v Value
			switch n := rnd.IntN(8); {
			case n == 0:
				continue
			case n < 4 && depth > 0:
				v = random(depth - 1)
			case n < 6:
				v = int64(rnd.IntN(3))
			default:
				v = List{int64(rnd.IntN(2)), "x"}
			}
			o = append(o, Entry{k, v})
		}
		return sorted(o)
	}
	for range 5000 {
		a, b := random(2), random(2)
		// At the top a key with a dot cannot be told from a path; on the wire it never is one.
		drop := func(o Object) Object { return slices.DeleteFunc(o, func(e Entry) bool { return e.Key == "e.f" }) }
		a, b = drop(a), drop(b)
		got, err := Apply(a, Diff(a, b))
		if err != nil || !Equal(got, b) {
			t.Fatalf("from %s by %v: %s, %v; want %s", AppendJSON(nil, a), Diff(a, b), AppendJSON(nil, got), err, AppendJSON(nil, b))
		}
	}
}

func TestPredicates(t *testing.T) {
	regex := func(s string) Predicate {
		p, err := NewRegex(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	cidr, err := NewIPv4Range("10.99.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	list := List{"a", "b"}
	for _, c := range []struct {
		name string
		p    Predicate
		v    Value
		ok   bool
		want bool
	}{
		{"eq", Eq{"x"}, "x", true, true}, {"eq missing", Eq{"x"}, nil, false, false}, {"eq list", Eq{"b"}, list, true, true},
		{"text is no number", Eq{"1500"}, int64(1500), true, false}, {"whole float", Eq{1.0}, int64(1), true, true},
		{"exact big", Eq{int64(9007199254740993)}, int64(9007199254740992), true, false},
		{"ne missing", Ne{"x"}, nil, false, false}, {"ne", Ne{"x"}, "y", true, true}, {"nee missing", Nee{"x"}, nil, false, true},
		{"lt", Lt{5}, int64(4), true, true}, {"lt text", Lt{5}, "4", true, true}, {"lt word", Lt{5}, "four", true, false},
		{"gt list", Gt{5}, List{int64(1), int64(9)}, true, true}, {"lte", Lte{5}, int64(5), true, true}, {"gte", Gte{5}, 4.9, true, false},
		{"inside", Inside{1, 3}, int64(1), true, false}, {"between", Between{1, 3}, int64(1), true, true}, {"between end", Between{1, 3}, int64(3), true, false},
		{"number as text", Eq{int64(1500)}, "1500", true, true}, {"float as text", Eq{1234567.5}, "1234567.5", true, true},
		{"number is no other text", Eq{int64(1500)}, "1500a", true, false}, {"number is no empty text", Eq{int64(0)}, "", true, false},
		{"big number as text", Eq{int64(9007199254740993)}, "9007199254740992", true, false}, {"number in list", Ne{int64(2)}, List{"1", "2"}, true, false},
		{"within numbers as text", Within{[]Value{int64(1), "x"}}, "1", true, true}, {"infinity is a word", Gt{5}, "inf", true, false},
		{"infinity is a word, signed", Gt{5}, "+Infinity", true, false}, {"exponent", Gt{5}, "1e5", true, true}, {"nan", Eq{int64(1)}, "NaN", true, false},
		{"outside", Outside{1, 3}, int64(4), true, true}, {"outside missing", Outside{1, 3}, nil, false, false},
		{"within", Within{[]Value{"a", int64(1)}}, int64(1), true, true}, {"without missing", Without{[]Value{"a"}}, nil, false, true},
		{"regex whole", regex("a.c"), "abc", true, true}, {"regex part", regex("b"), "abc", true, false}, {"regex or", regex("ab|cd"), "cd", true, true},
		{"regex flags", regex("(?i)AB.*"), "abc", true, true}, {"regex list", regex("b+"), list, true, true},
		{"cidr", cidr, "10.99.0.1/24", true, true}, {"cidr out", cidr, "10.98.0.1", true, false}, {"cidr v6", cidr, "::1", true, false},
	} {
		if got := c.p.Match(c.v, c.ok); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	for _, bad := range []string{"^a", "a$", "("} {
		if _, err := NewRegex(bad); err == nil {
			t.Errorf("regex %q accepted", bad)
		}
	}
}

// TestADecoderKeepsNothingOfItsInput reads many values with one Decoder, out of one buffer that is overwritten each time.
func TestADecoderKeepsNothingOfItsInput(t *testing.T) {
	d := NewDecoder()
	var texts []string
	var values []Value
	for i := range 5000 {
		texts = append(texts, fmt.Sprintf(`{"A%d":"b%d","L":[%d,%d.5,"\u00e9%d","%040d"],"O":{"K":"v%d"},"P":{"K":%d,"M":{"N":"%d"}},"Same":{"RelationType":"layer2"}}`,
			i%7, i%1500, i%700, i, i%3, i, i%4, i%5, i%6))
		in := []byte(texts[i])
		v, err := d.Value(NewJSON(bytes.NewBuffer(in)))
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
		for j := range in {
			in[j] = 'x'
		}
	}
	for i, v := range values {
		if want := object(t, texts[i]); !Equal(v, want) {
			t.Fatalf("%s became %s", texts[i], AppendJSON(nil, v))
		}
		if i > 0 && &values[i].(Object)[4].Value.(Object)[0] != &values[0].(Object)[4].Value.(Object)[0] {
			t.Fatalf("value %d has a copy of what all have", i)
		}
	}
}

func FuzzParseJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5,"x\u00e9\ud800",null,true,{}]}`, `[[[[`, `{"a":1,"a":2}`, "\"\xff\"", `1e999`, `{"é":"\\"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := ParseJSON(in)
		if err != nil {
			return
		}
		out := AppendJSON(nil, v)
		if !json.Valid(out) {
			t.Fatalf("%q became %q, which is not JSON", in, out)
		}
		back, err := ParseJSON(out)
		if err != nil || !Equal(v, back) {
			t.Fatalf("%q → %q → %v %v", in, out, back, err)
		}
	})
}

func BenchmarkDecodeObject(b *testing.B) {
	text := []byte(`{"Name":"n12345","Type":"veth","TID":"69ad7581-51e8-5ab8-94ab-47c496d65380","MAC":"02:00:00:00:00:01","IfIndex":12,"MTU":1500,"State":"UP","Driver":"veth"}`)
	d := NewDecoder()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Value(NewJSON(&oneShot{text})); err != nil {
			b.Fatal(err)
		}
	}
}

type oneShot struct{ b []byte }

func (r *oneShot) Read(p []byte) (int, error) { n := copy(p, r.b); r.b = r.b[n:]; return n, nil }

func TestNoPathMakesATreeTooDeepToSend(t *testing.T) {
	deep := strings.Repeat("a.", 1_000_000) + "a"
	if _, err := (Object{}).Set(deep, int64(1)); !errors.Is(err, ErrTooDeep) {
		t.Errorf("a million levels: %v", err)
	}
	if _, err := Apply(nil, []Op{{OpSet, deep, nil}}); !errors.Is(err, ErrTooDeep) {
		t.Errorf("a million levels by an update: %v", err)
	}
	if o := (Object{}).Delete(deep); len(o) != 0 {
		t.Error(o)
	}
	var v Value = int64(1)
	for range maxDepth / 2 {
		v = List{v}
	}
	for levels := 1; levels < 2*maxDepth; levels++ {
		o, err := (Object{}).Set(strings.Repeat("a.", levels-1)+"a", v)
		if _, readable := ParseJSON(AppendJSON(nil, o)); err == nil && readable != nil || err != nil && levels <= maxDepth/2 {
			t.Errorf("%d levels: set %v, read %v", levels, err, readable)
		}
	}
}

func TestAKeyThatHoldsDotsIsChangedInPlace(t *testing.T) {
	o := object(t, `{"a.b":1,"c":{"d.e":1},"f.g":1}`)
	for _, to := range []string{`{"a.b":2,"c":{"d.e":1},"f.g":1}`, `{"a.b":1,"c":{"d.e":2},"f.g":1}`, `{"a.b":1,"c":{"d.e":1}}`, `{"a.b":1,"f.g":1}`} {
		got, err := Apply(o, Diff(o, object(t, to)))
		if text := string(AppendJSON(nil, got)); err != nil || text != to {
			t.Errorf("%s, %v; want %s", text, err, to)
		}
	}
	got, err := o.Set("c.d.e", int64(2))
	if text := string(AppendJSON(nil, got)); err != nil || text != `{"a.b":1,"c":{"d.e":2},"f.g":1}` {
		t.Error(text, err)
	}
	if text := string(AppendJSON(nil, o.Delete("c.d.e"))); text != `{"a.b":1,"f.g":1}` {
		t.Error(text)
	}
}

func TestAnEmptyListInAListIsThere(t *testing.T) {
	o := object(t, `{"L":[{"X":[]}]}`)
	if v, ok := o.Lookup("L.X"); !ok || string(AppendJSON(nil, v)) != "[]" {
		t.Errorf("%v %v", v, ok)
	}
}

func TestFloatsAreWrittenAsJavaScriptDoes(t *testing.T) {
	for in, want := range map[float64]string{1234567.5: "1234567.5", 0.000001: "0.000001", 1e-7: "1e-07", 1e21: "1e+21", 123456789012345678000.5: "123456789012345680000"} {
		if got := string(AppendJSON(nil, in)); got != want {
			t.Errorf("%v: %s, want %s", in, got, want)
		}
	}
}
