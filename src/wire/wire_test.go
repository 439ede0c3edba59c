package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"skydive/src/field"
	"skydive/src/graph"
)

// lines reads a file of JSON lines.
func lines[T any](t testing.TB, name string) (all []T) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewReader(f); ; {
		line, err := s.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			var v T
			if err := json.Unmarshal(line, &v); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			all = append(all, v)
		}
		if err == io.EOF {
			return all
		}
	}
}

// canonical returns JSON text with sorted keys and no blanks.
func canonical(t testing.TB, text []byte) []byte {
	t.Helper()
	v, err := field.ParseJSON(text)
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return field.AppendJSON(nil, v)
}

// TestAgentProtobuf decodes every message of a real agent's life and writes it again, byte for byte. Typed metadata of that agent
// has its keys in another order (Captures, RoutingTables …), and every element a fixed one: there, Obj is compared sorted.
func TestAgentProtobuf(t *testing.T) {
	type line struct {
		Hex     string
		Decoded *struct {
			Namespace, Type, UUID string
			Status                int64
			Format                Format
			Obj                   json.RawMessage
		}
	}
	d := NewDecoder()
	seen, identical := 0, 0
	for _, l := range lines[line](t, "testdata/agent-protobuf.jsonl") {
		want := l.Decoded
		if want == nil {
			continue
		}
		seen++
		raw, err := hex.DecodeString(l.Hex)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Decode(bytes.NewBuffer(slices.Clone(raw)), Protobuf)
		if err != nil {
			t.Errorf("%s %s: %v", want.Namespace, want.Type, err)
			continue
		}
		if got.Namespace != want.Namespace || got.Type != want.Type || got.UUID != want.UUID || got.Status != want.Status || got.Format != want.Format {
			t.Errorf("envelope %+v, want %+v", got, want)
		}
		if (got.Body != nil) != (want.Namespace == NamespaceGraph) {
			t.Errorf("%s %s: body %v", want.Namespace, want.Type, got.Body)
		}
		obj := want.Obj
		if want.Format == FormatJSON {
			text := got.Obj
			if got.Body != nil {
				text = got.Body.AppendJSON(nil)
			}
			if have, want := canonical(t, text), canonical(t, obj); !bytes.Equal(have, want) {
				t.Errorf("%s\nObj  %s\nwant %s", got.Type, have, want)
			}
		}
		out := got.Append(nil, Protobuf)
		if bytes.Equal(out, raw) {
			identical++
		}
		if len(out) != len(raw) {
			t.Errorf("%s: %d bytes, want %d", got.Type, len(out), len(raw))
		}
		if n := bytes.IndexByte(raw, '{'); n > 0 && want.Format == FormatJSON && !bytes.Equal(out[:n], raw[:n]) {
			t.Errorf("%s: envelope %x, want %x", got.Type, out[:n], raw[:n])
		}
	}
	if seen != 85 || identical != 65 {
		t.Errorf("%d messages, %d of them identical", seen, identical)
	}
}

// TestAgentJSON does the same with the messages of a JSON connection, whose exact text the vectors do not keep.
func TestAgentJSON(t *testing.T) {
	type line struct {
		Sends    json.RawMessage                  `json:"agent_sends"`
		Receives []struct{ JSON json.RawMessage } `json:"agent_receives"`
	}
	d := NewDecoder()
	seen := 0
	for _, l := range lines[line](t, "testdata/agent-json.jsonl") {
		texts := []json.RawMessage{l.Sends}
		for _, r := range l.Receives {
			texts = append(texts, r.JSON)
		}
		for _, text := range texts {
			if text == nil {
				continue
			}
			seen++
			m, err := d.Decode(iotest.OneByteReader(bytes.NewReader(text)), JSON)
			if err != nil {
				t.Errorf("%v in %s", err, text)
				continue
			}
			if have, want := canonical(t, m.Append(nil, JSON)), canonical(t, text); !bytes.Equal(have, want) && m.Type != TypeNodeAdded {
				t.Errorf("have %s\nwant %s", have, want)
			}
		}
	}
	if seen != 13 {
		t.Errorf("only %d messages", seen)
	}
}

func node(id string, revision int64, metadata ...any) *graph.Node {
	return &graph.Node{Element: graph.Element{ID: id, Host: "h", Origin: "agent.h", CreatedAt: 1700000000000, UpdatedAt: 1700000001000,
		Revision: revision, Metadata: field.Make(append([]any{"Name", id, "Type", "device"}, metadata...)...)}}
}

func edge(id, parent, child string) *graph.Edge {
	return &graph.Edge{Element: graph.Element{ID: id, Host: "h", Origin: "agent.h", CreatedAt: 1700000000000, UpdatedAt: 1700000001000,
		Revision: 1, Metadata: field.Make("RelationType", "layer2")}, Parent: parent, Child: child}
}

func TestEncode(t *testing.T) {
	filter := "G.V()"
	for _, c := range []struct {
		m           Message
		text, proto string
	}{
		{Message{Namespace: "Graph", Type: "SyncReply", UUID: "u", Status: 200, Body: &Sync{}},
			`{"Namespace":"Graph","Type":"SyncReply","UUID":"u","Status":200,"Obj":{"Nodes":null,"Edges":null}}`,
			"0a054772617068120953796e635265706c791a017520c801321b" + hex.EncodeToString([]byte(`{"Nodes":null,"Edges":null}`))},
		{Message{Namespace: "Graph", Type: "SyncReply", Status: 400},
			`{"Namespace":"Graph","Type":"SyncReply","Status":400,"Obj":null}`, "0a054772617068120953796e635265706c79209003" + "32046e756c6c"},
		{Message{Namespace: "Graph", Type: "SyncReply", Status: 400, Body: Text(`no "graph"`)},
			`{"Namespace":"Graph","Type":"SyncReply","Status":400,"Obj":"no \"graph\""}`, ""},
		{Message{Namespace: "Graph", Type: "SyncRequest", Body: &SyncRequest{GremlinFilter: &filter, Time: 5}},
			`{"Namespace":"Graph","Type":"SyncRequest","Obj":{"GremlinFilter":"G.V()","Time":5}}`, ""},
		{Message{Namespace: "Graph", Type: "NodePartiallyUpdated", Body: &PartialUpdate{ID: "a", UpdatedAt: 5, Revision: 2,
			Ops: []field.Op{{Type: field.OpSet, Key: "a.b", Value: int64(1)}, {Type: field.OpDelete, Key: "c"}}}},
			`{"Namespace":"Graph","Type":"NodePartiallyUpdated","Obj":{"ID":"a","UpdatedAt":5,"Revision":2,"Ops":[{"Type":1,"Key":"a.b","Value":1},{"Type":2,"Key":"c","Value":null}]}}`, ""},
		{Message{Namespace: "Graph", Type: "EdgePartiallyUpdated", Body: &PartialUpdate{ID: "a", UpdatedAt: 5, Revision: 2}},
			`{"Namespace":"Graph","Type":"EdgePartiallyUpdated","Obj":{"ID":"a","UpdatedAt":5,"Revision":2,"Ops":null}}`, ""},
		{Message{Namespace: "Graph", Type: "EdgeAdded", Body: edge("e", "a", "b")},
			`{"Namespace":"Graph","Type":"EdgeAdded","Obj":{"ID":"e","Metadata":{"RelationType":"layer2"},"Host":"h","Origin":"agent.h","CreatedAt":1700000000000,"UpdatedAt":1700000001000,"DeletedAt":null,"Revision":1,"Parent":"a","Child":"b"}}`, ""},
		{Message{Namespace: "Flow", Type: "TableResult", Status: 200, Format: FormatProtobuf, Obj: []byte{8, 200, 1}},
			"", "0a04466c6f77120b5461626c65526573756c7420c80128013203" + "08c801"},
	} {
		if c.text != "" {
			if got := c.m.Append([]byte("x"), JSON); string(got) != "x"+c.text {
				t.Errorf("JSON\n%s, want\n%s", got[1:], c.text)
			}
		}
		if c.proto != "" {
			if got := hex.EncodeToString(c.m.Append([]byte{0xff}, Protobuf)); got != "ff"+c.proto {
				t.Errorf("protobuf\n%s, want\n%s", got[2:], c.proto)
			}
		}
		for _, p := range []Protocol{JSON, Protobuf} {
			if p == JSON && c.m.Format == FormatProtobuf {
				continue
			}
			got, err := NewDecoder().Decode(bytes.NewReader(c.m.Append(nil, p)), p)
			if err != nil || !bytes.Equal(got.Append(nil, p), c.m.Append(nil, p)) {
				t.Errorf("%s round trip: %v, %+v", p, err, got)
			}
		}
	}
}

// TestDecodeLenient holds what senders may get wrong without losing their message, and what makes it dropped.
func TestDecodeLenient(t *testing.T) {
	text := func(typ, obj string) string { return `{"Namespace":"Graph","Type":"` + typ + `","Obj":` + obj + `}` }
	proto := func(m Message) string { return string(m.Append(nil, Protobuf)) }
	n := `{"ID":"a","Metadata":{"Name":"x"}}`
	for _, c := range []struct {
		name, in string
		p        Protocol
		body     string // of the decoded message, "" = an error
	}{
		{"plain", text("NodeAdded", n), JSON, "*graph.Node"},
		{"Obj first", `{"Obj":` + n + `,"Type":"NodeAdded","Namespace":"Graph"}`, JSON, "*graph.Node"},
		{"unknown members", `{"More":{"a":[1,2]},"Namespace":"Graph","Type":"NodeAdded","Format":0,"Obj":{"ID":"a","X":[{}]}}`, JSON, "*graph.Node"},
		{"null members", `{"UUID":null,"Status":null,"Namespace":"Graph","Type":"NodeAdded","Obj":` + n + `}`, JSON, "*graph.Node"},
		{"Obj twice", `{"Namespace":"Graph","Type":"NodeAdded","Obj":{"ID":"z"},"Obj":` + n + `}`, JSON, "*graph.Node"},
		{"bad UTF-8", text("NodeAdded", "{\"ID\":\"a\",\"Metadata\":{\"k\":\"\xff\"}}"), JSON, "*graph.Node"},
		{"null request", text("SyncRequest", "null"), JSON, "*wire.SyncRequest"},
		{"null filter", text("SyncRequest", `{"GremlinFilter":null}`), JSON, "*wire.SyncRequest"},
		{"null graph", text("Sync", `{"Nodes":null,"Edges":null}`), JSON, "*wire.Sync"},
		{"error reply", `{"Namespace":"Graph","Type":"SyncReply","Status":400,"Obj":"why"}`, JSON, "<nil>"},
		{"error reply, status last", `{"Namespace":"Graph","Type":"SyncReply","Obj":"why","Status":400}`, JSON, "<nil>"},
		{"unknown type", text("NodeExploded", n), JSON, "<nil>"},
		{"unknown namespace", `{"Namespace":"Foo","Type":"NodeAdded","Obj":` + n + `}`, JSON, "<nil>"},
		{"unknown protobuf fields", "\x3a\x01x\x40\x05\x4d1234\x5112345678" + proto(Message{Namespace: "Graph", Type: "NodeAdded", Obj: []byte(n)}), Protobuf, "*graph.Node"},
		{"empty protobuf Obj", "\x0a\x04Flow\x28\x01", Protobuf, "<nil>"},

		{"not JSON", "not json", JSON, ""},
		{"empty", "", JSON, ""},
		{"no Obj", `{"Namespace":"Graph","Type":"NodeAdded"}`, JSON, ""},
		{"no ID", text("NodeAdded", `{"Metadata":{}}`), JSON, ""},
		{"null node", text("NodeAdded", `null`), JSON, ""},
		{"request: array", text("SyncRequest", `[]`), JSON, ""},
		{"request: text", text("SyncRequest", `"x"`), JSON, ""},
		{"request: number", text("SyncRequest", `{"GremlinFilter":5}`), JSON, ""},
		{"request: fraction", text("SyncRequest", `{"Time":5.5}`), JSON, ""},
		{"partial without ID", text("NodePartiallyUpdated", `{"Revision":1}`), JSON, ""},
		{"cut", text("NodeAdded", n)[:60], JSON, ""},
		{"more behind", text("NodeAdded", n) + "{}", JSON, ""},
		{"one bad node", text("Sync", `{"Nodes":[`+n+`,{}]}`), JSON, ""},
		{"unknown format", "\x28\x02" + proto(Message{Namespace: "Graph", Type: "NodeAdded", Obj: []byte(n)}), Protobuf, ""},
		{"JSON to protobuf", text("NodeAdded", n), Protobuf, ""},
		{"cut protobuf", proto(Message{Namespace: "Graph", Type: "NodeAdded", Obj: []byte(n)})[:30], Protobuf, ""},
		{"huge name", "\x0a\xff\xff\xff\xff\x0f", Protobuf, ""},
		{"huge Obj", "\x0a\x05Graph\x32\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Protobuf, ""},
	} {
		m, err := NewDecoder().Decode(strings.NewReader(c.in), c.p)
		got := fmt.Sprintf("%T", m.Body)
		if err != nil {
			got = ""
		}
		if got != c.body {
			t.Errorf("%s: %s, %v; want %q", c.name, got, err, c.body)
		}
		if n, ok := m.Body.(*graph.Node); ok && err == nil && n.ID != "a" {
			t.Errorf("%s: node %s", c.name, n.ID)
		}
	}
}

func TestProtocol(t *testing.T) {
	for in, want := range map[string]Protocol{"": JSON, "json": JSON, "protobuf": Protobuf, "JSON": "", "xml": ""} {
		if got, err := ParseProtocol(in); got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

// bigSync is a graph of n nodes with 8 metadata keys, and as many edges.
func bigSync(n int) *Sync {
	s := &Sync{}
	for i := range n {
		v := node(graph.GenID("node", fmt.Sprint(i)), 1, "TID", graph.GenID("tid", fmt.Sprint(i)), "MAC", fmt.Sprintf("02:00:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255),
			"IfIndex", i, "MTU", 1500, "State", "UP", "Driver", "veth", "Name", fmt.Sprint("n", i))
		s.Nodes = append(s.Nodes, v)
		s.Edges = append(s.Edges, edge(graph.GenID("edge", fmt.Sprint(i)), s.Nodes[i/2].ID, v.ID))
	}
	return s
}

// endless feeds a Sync of n copies of one node without ever holding its text.
type endless struct {
	head, item, tail []byte
	n                int
	rest             []byte
}

func (e *endless) Read(p []byte) (int, error) {
	for len(e.rest) == 0 {
		switch {
		case e.head != nil:
			e.rest, e.head = e.head, nil
		case e.n > 0:
			e.n--
			e.rest = e.item
		case e.tail != nil:
			e.rest, e.tail = e.tail, nil
		default:
			return 0, io.EOF
		}
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// TestDecodeStreams proves that a Sync is not gathered as text first: what is allocated is far less than the text.
func TestDecodeStreams(t *testing.T) {
	item := fmt.Appendf(nil, `,{"ID":"a","Skipped":"%s"}`, strings.Repeat("x", 2000))
	const n = 5000
	for p, in := range map[Protocol]*endless{
		JSON:     {head: []byte(`{"Namespace":"Graph","Type":"Sync","Status":200,"Obj":{"Nodes":[{"ID":"b"}`), item: item, n: n, tail: []byte("]}}")},
		Protobuf: {head: append(protoHead(len(item)*n+len(`{"Nodes":[{"ID":"b"}]}`)), `{"Nodes":[{"ID":"b"}`...), item: item, n: n, tail: []byte("]}")},
	} {
		d := NewDecoder()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m, err := d.Decode(in, p)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if got := len(m.Body.(*Sync).Nodes); got != n+1 {
			t.Errorf("%s: %d nodes", p, got)
		}
		// The skipped texts pass the field decoder, which copies each; they must not live on.
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > int64(len(item)*n/3) {
			t.Errorf("%s: %d bytes live after %d of text", p, grown, len(item)*n)
		}
		runtime.KeepAlive(m)
	}
}

func protoHead(n int) []byte {
	m := Message{Namespace: NamespaceGraph, Type: TypeSync, Status: 200, Obj: make([]byte, n)}
	out := m.Append(nil, Protobuf)
	return out[:len(out)-n]
}

func FuzzDecodeJSON(f *testing.F)     { fuzz(f, JSON) }
func FuzzDecodeProtobuf(f *testing.F) { fuzz(f, Protobuf) }

// fuzz checks that no input panics, and that what was decoded survives a round trip.
func fuzz(f *testing.F, p Protocol) {
	filter := "G"
	for _, m := range []Message{
		{Namespace: "Graph", Type: "Sync", UUID: "u", Status: 200, Body: bigSync(2)},
		{Namespace: "Graph", Type: "SyncRequest", Body: &SyncRequest{GremlinFilter: &filter, Time: 1}},
		{Namespace: "Graph", Type: "NodeUpdated", Body: node("a", 2, "x", []any{1.5, nil, "z"})},
		{Namespace: "Graph", Type: "EdgePartiallyUpdated", Body: &PartialUpdate{ID: "a", Ops: []field.Op{{Type: 1, Key: "k.l", Value: true}}}},
		{Namespace: "Graph", Type: "SyncReply", Status: 400, Body: Text("bad")},
		{Namespace: "Flow", Type: "TableQuery", Obj: []byte(`{}`)},
	} {
		f.Add(m.Append(nil, p))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := NewDecoder().Decode(bytes.NewReader(in), p)
		if err != nil {
			return
		}
		out := m.Append(nil, p)
		again, err := NewDecoder().Decode(bytes.NewReader(out), p)
		if err != nil {
			t.Fatalf("%v\nin  %q\nout %q", err, in, out)
		}
		if !reflect.DeepEqual(again.Append(nil, p), out) {
			t.Fatalf("in    %q\nout   %q\nagain %q", in, out, again.Append(nil, p))
		}
	})
}

func BenchmarkDecodeSync(b *testing.B) {
	for _, p := range []Protocol{JSON, Protobuf} {
		m := &Message{Namespace: NamespaceGraph, Type: TypeSync, Status: 200, Body: bigSync(20_000)}
		text := m.Append(nil, p)
		b.Run(string(p), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := NewDecoder().Decode(struct{ io.Reader }{bytes.NewReader(text)}, p); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(40_000*float64(b.N)/b.Elapsed().Seconds(), "elements/s")
		})
	}
}

func BenchmarkDecodeNode(b *testing.B) {
	m := &Message{Namespace: NamespaceGraph, Type: TypeNodeAdded, UUID: graph.NewID(), Status: 200, Body: bigSync(1).Nodes[0]}
	text := m.Append(nil, JSON)
	d := NewDecoder()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Decode(bytes.NewReader(text), JSON); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeSync(b *testing.B) {
	m := &Message{Namespace: NamespaceGraph, Type: TypeSync, Status: 200, Body: bigSync(20_000)}
	b.ReportAllocs()
	for b.Loop() {
		m.Append(nil, Protobuf)
	}
	b.ReportMetric(40_000*float64(b.N)/b.Elapsed().Seconds(), "elements/s")
}

// TestEvent: an update that paths cannot name is told as a whole.
func TestEvent(t *testing.T) {
	for _, c := range []struct {
		partial  bool
		old, new *graph.Node
		want     string
	}{
		{true, node("a", 1), node("a", 2, "x", 1), "NodePartiallyUpdated"},
		{false, node("a", 1), node("a", 2, "x", 1), "NodeUpdated"},
		{true, node("a", 1, "k.l", 1), node("a", 2, "k.l", 2), "NodeUpdated"},
		{true, node("a", 1), node("a", 2, "k.l", 2), "NodeUpdated"},
	} {
		m := Event(graph.Change{Kind: graph.NodeUpdated, OldNode: c.old, Node: c.new}, c.partial)
		if m.Type != c.want || m.Status != 200 || m.UUID == "" {
			t.Errorf("%+v: %+v", c, m)
		}
		if u, ok := m.Body.(*PartialUpdate); ok {
			if got, err := field.Apply(c.old.Metadata, u.Ops); err != nil || !field.Equal(got, c.new.Metadata) {
				t.Errorf("%v: %v, %v", u.Ops, got, err)
			}
		}
	}
}
