package api

import (
	"encoding/json"
	"strings"
	"testing"

	"skydive/src/field"
)

func parse(t testing.TB, text string) field.Value {
	t.Helper()
	v, err := field.ParseJSON([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

// The cases are those of RFC 6902, appendix A, and of RFC 6901, section 5, and what each operation must refuse.
func TestPatch(t *testing.T) {
	for _, c := range []struct{ doc, patch, want string }{
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz","value":"qux"}]`, `{"baz":"qux","foo":"bar"}`},
		{`{"foo":["bar","baz"]}`, `[{"op":"add","path":"/foo/1","value":"qux"}]`, `{"foo":["bar","qux","baz"]}`},
		{`{"baz":"qux","foo":"bar"}`, `[{"op":"remove","path":"/baz"}]`, `{"foo":"bar"}`},
		{`{"foo":["bar","qux","baz"]}`, `[{"op":"remove","path":"/foo/1"}]`, `{"foo":["bar","baz"]}`},
		{`{"baz":"qux","foo":"bar"}`, `[{"op":"replace","path":"/baz","value":"boo"}]`, `{"baz":"boo","foo":"bar"}`},
		{`{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}`, `[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]`, `{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}`},
		{`{"foo":["all","grass","cows","eat"]}`, `[{"op":"move","from":"/foo/1","path":"/foo/3"}]`, `{"foo":["all","cows","eat","grass"]}`},
		{`{"baz":"qux","foo":["a",2,"c"]}`, `[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]`, `{"baz":"qux","foo":["a",2,"c"]}`},
		{`{"baz":"qux"}`, `[{"op":"test","path":"/baz","value":"bar"}]`, ""},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/child","value":{"grandchild":{}}}]`, `{"child":{"grandchild":{}},"foo":"bar"}`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz","value":"qux","xyz":123}]`, `{"baz":"qux","foo":"bar"}`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz/bat","value":"qux"}]`, ""},
		{`{"/":9,"~1":10}`, `[{"op":"test","path":"/~01","value":10}]`, `{"/":9,"~1":10}`},
		{`{"/":9,"~1":10}`, `[{"op":"test","path":"/~01","value":"10"}]`, ""},
		{`{"foo":["bar"]}`, `[{"op":"add","path":"/foo/-","value":["abc","def"]}]`, `{"foo":["bar",["abc","def"]]}`},
		{`{"a/b":1,"m~n":8,"":0}`, `[{"op":"remove","path":"/a~1b"},{"op":"remove","path":"/m~0n"},{"op":"test","path":"/","value":0}]`, `{"":0}`},
		{`{"a":{"b":[1]}}`, `[{"op":"copy","from":"/a/b","path":"/c"},{"op":"add","path":"/c/0","value":0}]`, `{"a":{"b":[1]},"c":[0,1]}`},
		{`{"a":1}`, `[{"op":"replace","path":"","value":{"b":2}}]`, `{"b":2}`},
		{`{"a":1}`, `[{"op":"move","from":"/a","path":"/a"}]`, `{"a":1}`},
		{`{"a.b":1}`, `[{"op":"add","path":"/a.c","value":{"d":2}}]`, `{"a.b":1,"a.c":{"d":2}}`},
		{`{}`, `[{"op":"add","path":"/n","value":null}]`, `{"n":null}`},
		{`{}`, `[{"op":"replace","path":"/new","value":1}]`, `{"new":1}`}, // looser than the RFC, as clients expect
		{`{"a":[1]}`, `[]`, `{"a":[1]}`},
		// refused
		{`{"a":{"b":1}}`, `[{"op":"move","from":"/a","path":"/a/b"}]`, ""},
		{`{"a":1}`, `[{"op":"remove","path":""}]`, ""},
		{`{"a":1}`, `[{"op":"remove","path":"/b"}]`, ""},
		{`{"a":[1]}`, `[{"op":"remove","path":"/a/1"}]`, ""},
		{`{"a":[1]}`, `[{"op":"replace","path":"/a/1","value":1}]`, ""},
		{`{"a":[1]}`, `[{"op":"replace","path":"/a/-","value":1}]`, ""},
		{`{"a":[1]}`, `[{"op":"add","path":"/a/2","value":1}]`, ""},
		{`{"a":[1]}`, `[{"op":"add","path":"/a/00","value":1}]`, ""},
		{`{"a":[1]}`, `[{"op":"add","path":"/a/-1","value":1}]`, ""},
		{`{"a":[1]}`, `[{"op":"add","path":"/a/x","value":1}]`, ""},
		{`{"a":1}`, `[{"op":"add","path":"/a/b","value":1}]`, ""},
		{`{"a":1}`, `[{"op":"copy","from":"/b","path":"/c"}]`, ""},
		{`{"a":1}`, `[{"op":"test","path":"/b","value":null}]`, ""},
	} {
		doc := parse(t, c.doc)
		p, err := parsePatch([]byte(c.patch))
		if err != nil {
			t.Errorf("%s: %v", c.patch, err)
			continue
		}
		got, err := p.apply(doc)
		if c.want == "" {
			if err == nil {
				t.Errorf("%s on %s: %s", c.patch, c.doc, field.AppendJSON(nil, got))
			}
		} else if err != nil || string(field.AppendJSON(nil, got)) != c.want {
			t.Errorf("%s on %s: %s %v, want %s", c.patch, c.doc, field.AppendJSON(nil, got), err, c.want)
		}
		if !field.Equal(doc, parse(t, c.doc)) {
			t.Errorf("%s changed its document to %s", c.patch, field.AppendJSON(nil, doc))
		}
	}
}

func TestPatchSyntax(t *testing.T) {
	for _, text := range []string{
		``, `{`, `{}`, `5`, `[5]`, `[{}]`, `[{"op":"add"}]`, `[{"op":"add","path":"/a"}]`, `[{"op":"test","path":"/a"}]`, `[{"op":5,"path":"/a"}]`,
		`[{"op":"jump","path":"/a"}]`, `[{"op":"remove","path":"a"}]`, `[{"op":"remove","path":"/~"}]`, `[{"op":"remove","path":"/~2"}]`,
		`[{"op":"copy","path":"/a"}]`, `[{"op":"move","from":"b","path":"/a"}]`, `[] []`,
		`[{"op":"remove","path":"` + strings.Repeat("/a", maxNesting+1) + `"}]`,
		`[` + strings.Repeat(`{"op":"remove","path":"/a"},`, maxOperations) + `{"op":"remove","path":"/a"}]`,
	} {
		if _, err := parsePatch([]byte(text)); err == nil {
			t.Errorf("%.60s accepted", text)
		}
	}
}

// A patch of a few hundred bytes must not make a document that fills the memory, or one too deep to be read again.
func TestPatchCannotExplode(t *testing.T) {
	double := `{"op":"copy","from":"/a","path":"/a/-"},`
	for name, text := range map[string]string{
		"copies": `[` + strings.Repeat(double, 100) + strings.TrimSuffix(double, ",") + `]`,
		"depth":  `[` + strings.Repeat(`{"op":"add","path":"/b","value":{}},{"op":"move","from":"/a","path":"/b/a"},{"op":"move","from":"/b","path":"/a"},`, 100) + `{"op":"test","path":"","value":null}]`,
	} {
		p, err := parsePatch([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if name == "depth" {
			p = p[:len(p)-1]
		}
		if got, err := p.apply(parse(t, `{"a":["`+strings.Repeat("x", 1000)+`"]}`)); err == nil {
			t.Errorf("%s: %d bytes", name, len(field.AppendJSON(nil, got)))
		}
	}
}

func FuzzPatch(f *testing.F) {
	f.Add(`{"a":[1,{"b":2}],"c":{"d":null}}`, `[{"op":"add","path":"/a/0","value":1},{"op":"move","from":"/c","path":"/e"},{"op":"copy","from":"/a","path":"/c"}]`)
	f.Add(`{"a":1}`, `[{"op":"test","path":"/a","value":1},{"op":"replace","path":"/a","value":{}},{"op":"remove","path":"/a"}]`)
	f.Add(`[[]]`, `[{"op":"copy","from":"/0","path":"/0/-"}]`)
	f.Fuzz(func(t *testing.T, text, operations string) {
		doc, err := field.ParseJSON([]byte(text))
		if err != nil {
			return
		}
		p, err := parsePatch([]byte(operations))
		if err != nil {
			return
		}
		got, err := p.apply(doc)
		if err != nil {
			return
		}
		if again := field.AppendJSON(nil, got); !json.Valid(again) {
			t.Fatalf("not JSON: %s", again)
		} else if back, err := field.ParseJSON(again); err != nil || !field.Equal(back, got) {
			t.Fatalf("%s does not come back: %v", again, err) // keys sorted and unique, not too deep
		}
		if !field.Equal(doc, parse(t, text)) {
			t.Fatal("the document was changed")
		}
	})
}
