package wire

import (
	"bytes"
	"reflect"
	"testing"

	"skydive/src/field"
	"skydive/src/graph"
)

// replicaMessages are one of each type, and as what they are written: what analyzers of other versions read and write.
var replicaMessages = []struct {
	typ  string
	body Body
	obj  string
}{
	{TypeClaims, &Claims{
		Full: true,
		Claims: []Claim{
			{Origin: "agent.h1", Holder: "a1", Epoch: 1700000000000, Live: true, Version: 111411200000000001, Digest: 1<<63 + 5, Count: 12},
			{Origin: "cli.x"},
		},
		Present: []string{"agent.h1", "agent.h2"},
		Addrs:   []string{"10.0.0.1:8082"},
	}, `{"Full":true,"Claims":[{"Origin":"agent.h1","Holder":"a1","Epoch":1700000000000,"Live":true,"Version":111411200000000001,"Digest":-9223372036854775803,"Count":12},{"Origin":"cli.x"}],"Present":["agent.h1","agent.h2"],"Addrs":["10.0.0.1:8082"]}`},
	{TypeClaims, &Claims{}, `{"Full":false,"Claims":null,"Present":null}`},
	{TypeListRequest, &Claim{Origin: "agent.h1"}, `{"Origin":"agent.h1"}`},
	{TypeList, &List{Claim: Claim{Origin: "cli.x", Digest: 7, Count: 1}, Items: []Item{{ID: "n", Stamp: Stamp{5, 6}}, {Edge: true, ID: "e\"", Stamp: Stamp{7, 1<<32 - 1}, Gone: 9}}},
		`{"Claim":{"Origin":"cli.x","Digest":7,"Count":1},"Items":[[0,"n",5,6,0],[1,"e\"",7,4294967295,9]]}`},
	{TypeElementsRequest, &List{Items: []Item{{ID: "n"}}}, `{"Claim":{"Origin":""},"Items":[[0,"n",0,0,0]]}`},
	{TypeChanges, &Changes{
		Claims: []Claim{{Origin: "agent.h1", Holder: "a1", Epoch: 3}},
		Items: []ElementChange{
			{Type: TypeNodeAdded, Stamp: Stamp{1, 2}, Node: node("a", 1)},
			{Type: TypeNodePartiallyUpdated, Stamp: Stamp{3, 2}, Base: Stamp{1, 2}, Update: &PartialUpdate{ID: "a", UpdatedAt: 5, Revision: 2, Ops: []field.Op{{Type: field.OpSet, Key: "x.y", Value: int64(1)}}}},
			{Type: TypeEdgeDeleted, Stamp: Stamp{4, 2}, For: "a2", Edge: &graph.Edge{Element: graph.Element{ID: "e", Origin: "agent.h2", DeletedAt: 8}}},
		},
	}, `{"Claims":[{"Origin":"agent.h1","Holder":"a1","Epoch":3}],"Items":[` +
		`{"Type":"NodeAdded","At":1,"By":2,"Obj":` + string(node("a", 1).AppendJSON(nil)) + `},` +
		`{"Type":"NodePartiallyUpdated","At":3,"By":2,"BaseAt":1,"BaseBy":2,"Obj":{"ID":"a","UpdatedAt":5,"Revision":2,"Ops":[{"Type":1,"Key":"x.y","Value":1}]}},` +
		`{"Type":"EdgeDeleted","At":4,"By":2,"For":"a2","Obj":{"ID":"e","Metadata":{},"Host":"","Origin":"agent.h2","CreatedAt":null,"UpdatedAt":null,"DeletedAt":8,"Revision":0,"Parent":"","Child":""}}]}`},
	{TypeElements, &Changes{}, `{"Items":null}`},
}

func TestReplicaMessages(t *testing.T) {
	d := NewDecoder()
	for _, c := range replicaMessages {
		m := &Message{Namespace: NamespaceReplica, Type: c.typ, UUID: "u", Status: 200, Body: c.body}
		text := m.Append(nil, JSON)
		want := `{"Namespace":"Replica","Type":"` + c.typ + `","UUID":"u","Status":200,"Obj":` + c.obj + `}`
		if string(text) != want {
			t.Errorf("%s is written\n%s\nnot\n%s", c.typ, text, want)
		}
		got, err := d.Decode(bytes.NewReader(text), JSON)
		if err != nil {
			t.Errorf("%s: %v", c.typ, err)
			continue
		}
		if again := got.Append(nil, JSON); !bytes.Equal(again, text) || reflect.TypeOf(got.Body) != reflect.TypeOf(c.body) {
			t.Errorf("%s is read as %T\n%s", c.typ, got.Body, again)
		}
	}
}

// TestReplicaRefused: what cannot be is an error, and neither a panic nor half a message.
func TestReplicaRefused(t *testing.T) {
	d := NewDecoder()
	for typ, objs := range map[string][]string{
		TypeClaims: {`[]`, `{"Full":1}`, `{"Claims":[{"Origin":"x","Epoch":5}]}`, `{"Claims":[{"Origin":"x","Holder":"a"}]}`, `{"Claims":[{"Origin":"x","Version":9000000000000000000}]}`,
			`{"Claims":[{"Origin":"x","Count":-1}]}`, `{"Present":[1]}`},
		TypeList:        {`{"Items":[[0,"",1,1,0]]}`, `{"Items":[[0,"a",-1,1,0]]}`, `{"Items":[[0,"a",1,4294967296,0]]}`, `{"Items":[[0,"a",1,1]]}`, `{"Items":[[0,"a",1,1,0,0]]}`, `{"Items":[{}]}`},
		TypeListRequest: {`"x"`, `{"Live":"yes"}`},
		TypeChanges: {`{"Items":[{"Type":"NodeAdded","At":1,"By":1,"Obj":{}}]}`, `{"Items":[{"Obj":{"ID":"a"},"Type":"NodeAdded"}]}`, `{"Items":[{"Type":"Sync","Obj":{"Nodes":[]}}]}`,
			`{"Items":[{"Type":"NodeAdded","At":9000000000000000000,"Obj":{"ID":"a"}}]}`, `{"Items":[{"Type":"NodeAdded"}]}`, `{"Items":[{"Type":"NodePartiallyUpdated","Obj":null}]}`},
	} {
		for _, obj := range objs {
			m, err := d.Decode(bytes.NewReader([]byte(`{"Namespace":"Replica","Type":"`+typ+`","Obj":`+obj+`}`)), JSON)
			if err == nil {
				t.Errorf("%s %s is read as %+v", typ, obj, m.Body)
			}
		}
	}
	if m, err := d.Decode(bytes.NewReader([]byte(`{"Namespace":"Replica","Type":"Later","Obj":{"a":1}}`)), JSON); err != nil || m.Body != nil || string(m.Obj) != `{"a":1}` {
		t.Errorf("a type of a later version: %+v, %v", m, err)
	}
}

// TestElementChange: an update is told as what changed if that can be named, and what goes without what it was.
func TestElementChange(t *testing.T) {
	old, now, dotted := node("a", 1, "x", 1), node("a", 2, "x", 2), node("a", 3, "x.y", 2)
	base, stamp := Stamp{1, 1}, Stamp{2, 1}
	for i, c := range []struct {
		change graph.Change
		base   Stamp
		typ    string
		edge   bool
	}{
		{graph.Change{Kind: graph.NodeAdded, Node: now}, Stamp{}, TypeNodeAdded, false},
		{graph.Change{Kind: graph.NodeUpdated, OldNode: old, Node: now}, base, TypeNodePartiallyUpdated, false},
		{graph.Change{Kind: graph.NodeUpdated, OldNode: old, Node: now}, Stamp{}, TypeNodeUpdated, false},
		{graph.Change{Kind: graph.NodeUpdated, OldNode: now, Node: dotted}, base, TypeNodeUpdated, false},
		{graph.Change{Kind: graph.NodeDeleted, OldNode: now, Node: now}, base, TypeNodeDeleted, false},
		{graph.Change{Kind: graph.EdgeUpdated, OldEdge: edge("a", "b", "c"), Edge: edge("a", "b", "c")}, base, TypeEdgePartiallyUpdated, true},
		{graph.Change{Kind: graph.EdgeDeleted, OldEdge: edge("a", "b", "c"), Edge: edge("a", "b", "c")}, base, TypeEdgeDeleted, true},
	} {
		got := NewElementChange(c.change, stamp, c.base)
		if got.Type != c.typ || got.ID() != "a" || got.IsEdge() != c.edge || got.Stamp != stamp || (got.Update != nil) != (got.Base == base) {
			t.Errorf("%d: %+v", i, got)
		}
		if deleted := c.change.Kind == graph.NodeDeleted; deleted && len(got.Node.Metadata) != 0 {
			t.Errorf("%d: %+v", i, got.Node)
		}
	}
}

func FuzzReplica(f *testing.F) {
	for _, c := range replicaMessages {
		f.Add(c.typ, []byte(c.obj))
	}
	d := NewDecoder()
	f.Fuzz(func(t *testing.T, typ string, obj []byte) {
		text := append(append(field.AppendString([]byte(`{"Namespace":"Replica","Type":`), typ), `,"Obj":`...), obj...)
		m, err := d.Decode(bytes.NewReader(append(text, '}')), JSON)
		if err != nil || m.Body == nil {
			return
		}
		// What is read can be written, and is the same when read again.
		once := m.Append(nil, JSON)
		again, err := NewDecoder().Decode(bytes.NewReader(once), JSON)
		if err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if twice := again.Append(nil, JSON); !bytes.Equal(once, twice) {
			t.Fatalf("%s\n%s", once, twice)
		}
	})
}
