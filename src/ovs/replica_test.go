package ovs

import (
	"encoding/json"
	"reflect"
	"testing"
)

const testSchema = `{"name":"x","tables":{"T":{"columns":{
	"name":{"type":"string"},"n":{"type":{"key":"integer","min":0,"max":1}},"set":{"type":{"key":"integer","min":0,"max":"unlimited"}},
	"pair":{"type":{"key":"string","min":0,"max":2}},"map":{"type":{"key":"string","value":"string","min":0,"max":"unlimited"}},
	"refs":{"type":{"key":{"type":"uuid","refTable":"U"},"min":0,"max":"unlimited"}},
	"odd":{"type":["new","kind"]},"odder":{"type":{"max":{}}},"oddest":7}}}}`

func testReplica(t testing.TB) *replica {
	t.Helper()
	s, err := parseSchema(json.RawMessage(testSchema))
	if err == nil {
		t.Fatal("a column that is no object was taken")
	}
	s, err = parseSchema(json.RawMessage(testSchema[:len(testSchema)-len(`,"oddest":7}}}}`)] + "}}}}"))
	if err != nil {
		t.Fatal(err)
	}
	return newReplica(s)
}

func TestUpdatesWithDifferences(t *testing.T) {
	r := testReplica(t)
	apply := func(text string) Row {
		t.Helper()
		changes, err := r.update2(json.RawMessage(text))
		if err != nil || len(changes) != 1 {
			t.Fatalf("%s: %v, %v", text, changes, err)
		}
		return changes[0].New
	}
	row := apply(`{"T":{"a":{"initial":{"name":"x","n":1,"set":["set",[1,2]],"map":["map",[["k","v"],["l","w"]]],"refs":["uuid","u1"]}}}}`)
	if row.Text("name") != "x" || len(row.UUIDs("refs")) != 1 {
		t.Errorf("initial: %v", row)
	}
	row = apply(`{"T":{"a":{"modify":{"n":["set",[]],"set":["set",[2,3]],"map":["map",[["k","v"],["l","z"],["m","y"]]],"refs":["set",[["uuid","u1"],["uuid","u2"]]]}}}}`)
	if _, has := row.Int("n"); has || row.Text("name") != "x" {
		t.Errorf("single values: %v", row)
	}
	if got := row.Ints("set"); !reflect.DeepEqual(got, []int64{1, 3}) {
		t.Errorf("set: %v", got)
	}
	if got := row.Map("map"); !reflect.DeepEqual(got, map[string]string{"l": "z", "m": "y"}) {
		t.Errorf("map: %v", got)
	}
	if got := row.UUIDs("refs"); !reflect.DeepEqual(got, []UUID{"u2"}) {
		t.Errorf("references: %v", got)
	}
	row = apply(`{"T":{"a":{"modify":{"set":3}}}}`)
	if got := row.Ints("set"); !reflect.DeepEqual(got, []int64{1}) {
		t.Errorf("set without one of its two: %v", got)
	}
	if row = apply(`{"T":{"a":{"delete":null}}}`); row != nil || r.rows != 0 {
		t.Errorf("deleted: %v, %d rows", row, r.rows)
	}
	if row = apply(`{"T":{"b":{"insert":{}}}}`); row == nil {
		t.Error("a row of defaults is none")
	}
}

func TestTheOldRowStaysAsItWas(t *testing.T) {
	r := testReplica(t)
	for _, text := range []string{
		`{"T":{"a":{"insert":{"name":"x","set":["set",[1]],"map":["map",[["k","v"]]]}}}}`,
		`{"T":{"a":{"modify":{"name":"y","set":2,"map":["map",[["k","v"],["l","w"]]]}}}}`,
	} {
		changes, err := r.update2(json.RawMessage(text))
		if err != nil {
			t.Fatal(err)
		}
		old := changes[0].Old
		if old == nil {
			continue
		}
		if old.Text("name") != "x" || len(old.Ints("set")) != 1 || old.MapText("map", "k") != "v" || len(old.Map("map")) != 1 {
			t.Errorf("old: %v", old)
		}
	}
}

func TestUpdatesOfRFC7047(t *testing.T) {
	r := testReplica(t)
	changes, err := r.update1(json.RawMessage(`{"T":{"a":{"new":{"name":"x","n":2}},"b":{"new":{"name":"y"}}}}`))
	if err != nil || len(changes) != 2 || changes[0].UUID != "a" || changes[0].Old != nil {
		t.Fatalf("%v, %v", changes, err)
	}
	changes, err = r.update1(json.RawMessage(`{"T":{"a":{"old":{"n":2},"new":{"name":"x","n":3}},"b":{"old":{"name":"y"}}}}`))
	if err != nil || len(changes) != 2 || changes[0].Old.Text("n") != "2" || changes[0].New.Text("n") != "3" || changes[1].New != nil || r.rows != 1 {
		t.Fatalf("%v, %v", changes, err)
	}
}

func TestRowsHideHowTheServerWrites(t *testing.T) {
	var row Row
	text := `{"one":5,"few":["set",[3,1]],"none":["set",[]],"float":1.5,"large":1e999,"yes":true,"map":["map",[["a",1],["b",["uuid","u"]],[2,"c"],"x"]],
		"odd":["tuple",[1]],"null":null,"deep":["set",[["set",[["set",[]]]]]],"big":9223372036854775808}`
	if err := json.Unmarshal([]byte(text), &row); err != nil {
		t.Fatal(err)
	}
	if got := row.Ints("one"); len(got) != 1 || got[0] != 5 {
		t.Errorf("one: %v", got)
	}
	if got := row.Ints("few"); len(got) != 2 || got[0] != 1 {
		t.Errorf("few: %v", got)
	}
	if _, ok := row.Int("none"); ok || row.Text("none") != "" || row.Text("few") != "" || row.Text("missing") != "" {
		t.Error("none, few or missing has a value")
	}
	if yes, ok := row.Bool("yes"); !yes || !ok {
		t.Error("yes is not true")
	}
	if got := row.Map("map"); got["a"] != "1" || got["b"] != "u" || got["2"] != "c" || len(got) != 3 {
		t.Errorf("map: %v", got)
	}
	if n, ok := row.MapInt("map", "a"); n != 1 || !ok {
		t.Error("map has no number")
	}
	if row.Text("float") != "1.5" || row.Text("large") != "1e999" || row.Text("big") == "" {
		t.Errorf("numbers: %v", row)
	}
	_, _ = row.UUIDs("odd"), row.Strings("deep")
}

func TestValuesAreWrittenInTheNotationOfOVSDB(t *testing.T) {
	for want, v := range map[string]any{
		`"x"`:                                "x",
		`["uuid","u"]`:                       UUID("u"),
		`["named-uuid","n"]`:                 NamedUUID("n"),
		`["set",[]]`:                         []string(nil),
		`["set",["a"]]`:                      []string{"a"},
		`["set",[["uuid","u"]]]`:             []UUID{"u"},
		`["set",[1,true]]`:                   []any{1, true},
		`["map",[["a","b"],["c","d"]]]`:      map[string]string{"c": "d", "a": "b"},
		`["map",[["a",["named-uuid","n"]]]]`: map[string]any{"a": NamedUUID("n")},
		`{"c":["set",[3]]}`:                  Row{"c": []int64{3}},
	} {
		got, err := json.Marshal(encode(v))
		if err != nil || string(got) != want {
			t.Errorf("%#v: %s, want %s (%v)", v, got, want, err)
		}
	}
}

// FuzzUpdates lets a server send anything.
func FuzzUpdates(f *testing.F) {
	f.Add(`{"T":{"a":{"initial":{"name":"x","set":["set",[1,2]]}}}}`, `{"T":{"a":{"modify":{"set":["set",[2,["set",[]]]],"map":["map",[["k",["set",[1]]]]]}}}}`)
	f.Add(`{"T":{"a":{"insert":{"map":["map",[["k","v"]]]}}}}`, `{"T":{"a":{"delete":{}}},"U":null}`)
	f.Add(`{"T":{"a":{"new":{"map":7}}}}`, `{"T":{"a":{"old":{"map":7}},"b":null,"c":{"modify":{"map":["map",[]]}}}}`)
	f.Fuzz(func(t *testing.T, first, second string) {
		for _, take := range []func(*replica, json.RawMessage) ([]Change, error){(*replica).update1, (*replica).update2} {
			r := testReplica(t)
			for _, text := range []string{first, second} {
				changes, err := take(r, json.RawMessage(text))
				if err != nil {
					continue
				}
				for _, c := range changes {
					if c.Old == nil && c.New == nil {
						t.Error("a change of nothing into nothing")
					}
					for column := range c.New {
						_, _, _ = c.New.Text(column), c.New.Strings(column), c.New.Map(column)
						_, _ = c.New.UUIDs(column), c.New.Ints(column)
					}
				}
			}
			rows := 0
			for _, table := range r.tables {
				rows += len(table)
			}
			if rows != r.rows {
				t.Errorf("%d rows are counted as %d", rows, r.rows)
			}
		}
	})
}

// FuzzAnswers lets a server answer anything to the requests of a connection and of a transaction.
func FuzzAnswers(f *testing.F) {
	f.Add(testSchema)
	f.Add(`[{"uuid":["uuid","x"],"count":1},{"rows":[{"a":["set",[]]}]},null]`)
	f.Add(`[{"error":"constraint violation","details":"x"}]`)
	f.Add(`{"tables":{"T":{"columns":{"c":{"type":{"key":{"type":"uuid","refTable":"U"},"value":7,"max":-1e300,"min":{}}}}}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		data := json.RawMessage(text)
		if s, err := parseSchema(data); err == nil {
			for table := range s {
				if len(s.columns(Table{Name: table})) != len(s[table]) {
					t.Errorf("table %q has other columns than it has", table)
				}
			}
		}
		if results, err := parseResults(data, 2); err == nil && len(results) != 2 {
			t.Errorf("%d results of 2 operations", len(results))
		}
		if parseError(data) == nil {
			t.Error("an error that is none")
		}
	})
}
