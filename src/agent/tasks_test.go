package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/inject"
	"skydive/src/resource"
	"skydive/src/wire"
	"skydive/src/ws"
)

// deeds notes what it is asked to do.
type deeds struct {
	mu     sync.Mutex
	done   []string
	nodes  map[string]capture.Node
	err    error
	hold   chan struct{} // not nil: starts wait for one value each
	tables []*flow.Table
}

func (d *deeds) note(format string, args ...any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done = append(d.done, fmt.Sprintf(format, args...))
	return d.err
}

func (d *deeds) node(n capture.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nodes[n.ID] = n
}

func (d *deeds) Start(n capture.Node, c resource.Capture) error {
	if d.hold != nil {
		<-d.hold
	}
	d.node(n)
	return d.note("start %s on %s", c.UUID, n.Name)
}
func (d *deeds) Stop(node, id string) error { return d.note("stop %s on %s", id, node) }
func (d *deeds) Update(n capture.Node) {
	d.node(n)
	_ = d.note("update %s up %v ns %q", n.Name, n.Up, n.NetNS)
}
func (d *deeds) Gone(id string)        { _ = d.note("gone %s", id) }
func (d *deeds) Tables() []*flow.Table { return d.tables }
func (d *deeds) has(what string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.done, what) {
		return fmt.Errorf("no %q in %q", what, d.done)
	}
	return nil
}

type injections struct{ *deeds }

func (i injections) Start(n inject.Node, r resource.InjectionRequest) error {
	return i.note("inject %s on %s in %q", r.SrcMAC, n.Name, n.NetNS)
}

// host fills a graph: two namespaces, an interface in each.
func hostGraph(t *testing.T) *graph.Graph {
	g := graph.New(graph.Options{})
	update(t, g, func(tx *graph.Tx) error {
		for _, n := range []*graph.Node{
			node("h", 1, "Type", "host", "Name", "h1", "TID", "th"),
			node("ns", 1, "Type", "netns", "Name", "n", "Path", "/run/netns/n", "TID", "tn"),
			node("eth0", 1, "Type", "device", "Name", "eth0", "TID", "t0", "IfIndex", 2, "State", "UP", "EncapType", "ether", "IPV4", field.List{"10.0.0.1/8"}, "MPLSUDPPort", 6635),
			node("in", 1, "Type", "veth", "Name", "in", "TID", "t1", "IfIndex", 3, "State", "DOWN"),
			node("bare", 1, "Type", "veth"),
		} {
			if err := tx.AddNode(n); err != nil {
				return err
			}
		}
		for _, e := range [][2]string{{"h", "ns"}, {"h", "eth0"}, {"ns", "in"}} {
			if err := own(tx, e[0], e[1]); err != nil {
				return err
			}
		}
		return nil
	})
	return g
}

func own(tx *graph.Tx, parent, child string) error {
	return tx.AddEdge(&graph.Edge{Element: graph.Element{ID: parent + "-" + child, Metadata: field.Make("RelationType", "ownership")}, Parent: parent, Child: child})
}

// running is an agent with tasks, connected to a fake analyzer.
func running(t *testing.T, g *graph.Graph, d *deeds, p wire.Protocol) (*fake, *ws.Conn) {
	f := newFake(t)
	d.nodes = make(map[string]capture.Node)
	tasks := NewTasks(TasksOptions{Graph: g, Captures: d, Injections: injections{d}, Logger: slog.New(slog.DiscardHandler)})
	a := New(Options{Graph: g, Analyzers: []string{f.addr}, Logger: slog.New(slog.DiscardHandler), Dial: ws.DialOptions{HostID: "h1", Protocol: string(p)}})
	a.Attach(tasks)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { _ = a.Run(ctx) })
	all.Go(func() { _ = tasks.Run(ctx) })
	t.Cleanup(func() { cancel(); all.Wait() })
	conn := <-f.conns
	f.next(t) // Sync
	return f, conn
}

func ask(t *testing.T, f *fake, c *ws.Conn, m wire.Message) *wire.Message {
	t.Helper()
	m.UUID, m.Status = "u-1", 200
	p, _ := wire.ParseProtocol(c.Peer().Protocol)
	_ = c.Send(m.Append(nil, p))
	for {
		if r := f.next(t); r.Namespace != wire.NamespaceGraph {
			return r
		}
	}
}

// TestTasks: starts and stops reach captures and injections with what they must know, and errors come back.
func TestTasks(t *testing.T) {
	g, d := hostGraph(t), &deeds{}
	f, conn := running(t, g, d, wire.Protobuf)
	for _, c := range []struct {
		namespace, typ, obj string
		err                 error
		status              int64
		deed                string
	}{
		{"OnDemandCapture", "Start", `{"NodeID":"eth0","Resource":{"UUID":"c1"}}`, nil, 200, "start c1 on eth0"},
		{"OnDemandCapture", "Start", `{"NodeID":"in","Resource":{"UUID":"c1"}}`, nil, 200, "start c1 on in"},
		{"OnDemandCapture", "Start", `{"NodeID":"nobody","Resource":{"UUID":"c1"}}`, nil, 404, ""},
		{"OnDemandCapture", "Start", `{"NodeID":"bare","Resource":{"UUID":"c1"}}`, nil, 500, ""},
		{"OnDemandCapture", "Start", `{"NodeID":"eth0","Resource":5}`, nil, 400, ""},
		{"OnDemandCapture", "Start", `5`, nil, 400, ""},
		{"OnDemandCapture", "Start", `{"NodeID":"eth0","Resource":{"UUID":"c2"}}`, &capture.RefusedError{Status: 409, Reason: "only one"}, 409, "start c2 on eth0"},
		{"OnDemandCapture", "Start", `{"NodeID":"eth0","Resource":{"UUID":"c2"}}`, errors.New("broken"), 500, "start c2 on eth0"},
		{"OnDemandCapture", "Stop", `{"NodeID":"eth0","Resource":{"UUID":"c1"}}`, nil, 200, "stop c1 on eth0"},
		{"OnDemandCapture", "Stop", `{"NodeID":"eth0","Resource":{"UUID":"c1"}}`, fmt.Errorf("x: %w", capture.ErrNotFound), 200, "stop c1 on eth0"},
		{"OnDemandCapture", "Stop", `{"NodeID":"nobody","Resource":{"UUID":"c1"}}`, nil, 404, ""},
		{"OnDemandPacketInjection", "Start", `{"NodeID":"in","Resource":{"UUID":"p","SrcMAC":"Nlacpt3z"}}`, nil, 200, `inject 36:56:9c:a6:dd:f3 on in in "/run/netns/n"`},
		{"OnDemandPacketInjection", "Start", `{"NodeID":"in","Resource":{"SrcMAC":7}}`, nil, 400, ""},
		{"OnDemandPacketInjection", "Start", `{"NodeID":"in","Resource":{}}`, &inject.RefusedError{Status: 503, Reason: "later"}, 503, ""},
		{"OnDemandPacketInjection", "Stop", `{"NodeID":"in","Resource":{"UUID":"p"}}`, nil, 200, "stop p on in"},
	} {
		d.mu.Lock()
		d.err, d.done = c.err, nil
		d.mu.Unlock()
		r := ask(t, f, conn, wire.Message{Namespace: c.namespace, Type: c.typ, Obj: []byte(c.obj)})
		if r.Namespace != c.namespace || r.Type != c.typ+"Reply" || r.UUID != "u-1" || r.Status != c.status || r.Format != 0 {
			t.Errorf("%s: %+v %s", c.obj, r, r.Obj)
		}
		var said struct{ Error string }
		if _ = json.Unmarshal(r.Obj, &said); c.status == 200 && string(r.Obj) != c.obj || c.status != 200 && said.Error == "" && c.obj != "5" {
			t.Errorf("%s: %s", c.obj, r.Obj)
		}
		if c.err != nil && !errors.Is(c.err, capture.ErrNotFound) && !strings.Contains(said.Error, c.err.Error()) {
			t.Errorf("%s: %q", c.obj, said.Error)
		}
		if c.deed != "" {
			if err := d.has(c.deed); err != nil {
				t.Error(err)
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	want := capture.Node{ID: "eth0", TID: "t0", Name: "eth0", Type: "device", EncapType: "ether", IfIndex: 2, Up: true, MPLSUDPPorts: []uint16{6635}, IPV4: []string{"10.0.0.1/8"}}
	if got := d.nodes["eth0"]; fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("%+v", got)
	}
}

// TestNodesMove: what happens to a node is told to what runs on it, and what happens to others is not.
func TestNodesMove(t *testing.T) {
	g, d := hostGraph(t), &deeds{}
	f, conn := running(t, g, d, wire.JSON)
	for _, id := range []string{"in", "eth0"} {
		ask(t, f, conn, wire.Message{Namespace: "OnDemandCapture", Type: "Start", Obj: []byte(`{"NodeID":"` + id + `","Resource":{"UUID":"c"}}`)})
	}
	set := func(id, key string, v any) {
		update(t, g, func(tx *graph.Tx) error {
			m, err := tx.Node(id).Metadata.Set(key, v)
			if err == nil {
				_, err = tx.SetNodeMetadata(id, m)
			}
			return err
		})
	}
	told := func(what string) {
		t.Helper()
		eventually(t, what, func() error { return d.has(what) })
		d.mu.Lock()
		d.done = nil
		d.mu.Unlock()
	}
	set("in", "State", "UP")
	told(`update in up true ns "/run/netns/n"`)
	set("bare", "State", "UP")
	set("eth0", "Metric", field.Make("RxPackets", 5))
	set("in", "Name", "in2")
	told(`update in2 up true ns "/run/netns/n"`)
	set("ns", "Path", "/proc/5/ns/net")
	told(`update in2 up true ns "/proc/5/ns/net"`)
	update(t, g, func(tx *graph.Tx) error {
		if err := tx.DeleteEdge("ns-in", 0); err != nil {
			return err
		}
		return own(tx, "h", "in")
	})
	told(`update in2 up true ns ""`)
	update(t, g, func(tx *graph.Tx) error { return tx.DeleteNode("in", 0) })
	told("gone in")
	update(t, g, func(tx *graph.Tx) error { return tx.DeleteNode("eth0", 0) })
	eventually(t, "eth0", func() error { return d.has("gone eth0") })
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, done := range d.done {
		if strings.Contains(done, "bare") || strings.Contains(done, "update eth0") {
			t.Errorf("%q", d.done)
		}
	}
}

// TestSlowStart: a start that takes long holds up neither flow queries nor the socket, and what follows it waits.
func TestSlowStart(t *testing.T) {
	d := &deeds{hold: make(chan struct{})}
	f, conn := running(t, hostGraph(t), d, wire.JSON)
	send := func(typ string) {
		m := wire.Message{Namespace: "OnDemandCapture", Type: typ, UUID: typ, Obj: []byte(`{"NodeID":"eth0","Resource":{"UUID":"c"}}`)}
		_ = conn.Send(m.Append(nil, wire.JSON))
	}
	send("Start")
	send("Stop")
	if r := ask(t, f, conn, wire.Message{Namespace: "Flow", Type: "TableQuery", Obj: []byte(`{"Type":"SearchQuery","query":{}}`)}); r.Type != "TableResult" {
		t.Errorf("%+v", r)
	}
	d.hold <- struct{}{}
	for _, want := range []string{"StartReply", "StopReply"} {
		if r := f.next(t); r.Type != want || r.Status != 200 {
			t.Errorf("%+v", r)
		}
	}
}

func TestPublish(t *testing.T) {
	g := hostGraph(t)
	commits, _ := g.Subscribe(100)
	publish := Publish(g, "Captures", slog.New(slog.DiscardHandler))
	list := func(n int) field.List { return field.List{field.Make("ID", "c", "PacketsReceived", n)} }
	publish("eth0", list(1))
	publish("eth0", list(1))
	publish("eth0", list(2))
	publish("eth0", nil)
	publish("eth0", nil)
	publish("nobody", list(1))
	if n := len(commits.C()); n != 3 {
		t.Errorf("%d commits", n)
	}
	if _, ok := g.Snapshot().Node("eth0").Metadata.Get("Captures"); ok {
		t.Error("still there")
	}
	<-commits.C()
	if v, _ := (<-commits.C()).Changes[0].Node.Metadata.Lookup("Captures"); field.Equal(v, list(1)) || v == nil {
		t.Errorf("%v", v)
	}
}

// frame is a UDP datagram between two addresses.
func frame(a, b byte, port uint16) flow.Packet {
	f := make([]byte, 14+20+8+10)
	copy(f, []byte{2, 0, 0, 0, 0, b, 2, 0, 0, 0, 0, a, 8, 0})
	ip := f[14:]
	copy(ip, []byte{0x45, 0, 0, 38, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, a, 10, 0, 0, b})
	binary.BigEndian.PutUint16(ip[20:], port)
	binary.BigEndian.PutUint16(ip[22:], 53)
	binary.BigEndian.PutUint16(ip[24:], 18)
	return flow.Packet{Data: f, Length: len(f), Time: time.Now().UnixNano()}
}

// tables are two flow tables: 20 flows to 10.0.0.2, 5 to 10.0.0.3.
func tables() []*flow.Table {
	one := flow.NewTable(flow.Options{NodeTID: "t0", CaptureID: "c1"})
	two := flow.NewTable(flow.Options{NodeTID: "t1", CaptureID: "c2"})
	for i := range 20 {
		one.Packets([]flow.Packet{frame(1, 2, uint16(1000+i))})
	}
	for i := range 5 {
		two.Packets([]flow.Packet{frame(1, 3, uint16(1000+i)), frame(1, 3, uint16(1000+i))})
	}
	return []*flow.Table{one, two}
}

// TestTableQuery: live queries are answered from all tables, in the format of the peer, and totals are added up here.
func TestTableQuery(t *testing.T) {
	to3, err := flow.FilterOf(field.Filter{Terms: []field.Term{{Key: "Network.B", Pred: field.Eq{V: "10.0.0.3"}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []wire.Protocol{wire.JSON, wire.Protobuf} {
		f, conn := running(t, hostGraph(t), &deeds{tables: tables()}, p)
		query := func(q flow.TableQuery, format wire.Format) *flow.TableReply {
			t.Helper()
			m := wire.Message{Namespace: "Flow", Type: "TableQuery", Format: format, Obj: q.AppendJSON(nil)}
			if format == wire.FormatProtobuf {
				m.Obj = q.AppendProto(nil)
			}
			r := ask(t, f, conn, m)
			if r.Type != "TableResult" || r.Status != 200 || (r.Format == wire.FormatProtobuf) != (p == wire.Protobuf) {
				t.Fatalf("%+v", r)
			}
			reply, err := flow.ParseTableReply(r.Obj, r.Format == wire.FormatProtobuf)
			if err != nil || reply.Status != 200 {
				t.Fatalf("%+v %v", reply, err)
			}
			return reply
		}
		formats := []wire.Format{wire.FormatJSON}
		if p == wire.Protobuf {
			formats = append(formats, wire.FormatProtobuf) // public analyzers send JSON in protobuf, too
		}
		for _, format := range formats {
			r := query(flow.TableQuery{}, format)
			if all, err := r.Flows(); err != nil || len(all) != 25 || len(r.Sets) != 2 || all[0].NodeTID != "t0" || all[0].Network.A != "10.0.0.1" {
				t.Errorf("%d flows, %v", len(all), err)
			}
			if some, _ := query(flow.TableQuery{Search: flow.Search{Filter: to3}}, format).Flows(); len(some) != 5 || some[0].Network.B != "10.0.0.3" || some[0].Metric.ABPackets != 2 {
				t.Errorf("%d flows", len(some))
			}
			if some, _ := query(flow.TableQuery{Search: flow.Search{To: 3}}, format).Flows(); len(some) != 6 {
				t.Errorf("%d flows of two tables", len(some))
			}
			if r := query(flow.TableQuery{Aggregate: &flow.Aggregate{}}, format); r.Total == nil || r.Total.Count != 25 {
				t.Errorf("%+v", r.Total)
			}
			total := query(flow.TableQuery{Search: flow.Search{Filter: to3}, Aggregate: &flow.Aggregate{Metric: flow.Whole}}, format)
			if total.Total == nil || total.Total.Count != 5 || total.Total.Metric.ABPackets != 10 || len(total.Sets) != 0 {
				t.Errorf("%+v", total.Total)
			}
			// Totals of what must be seen as a whole are left to the analyzer.
			if r := query(flow.TableQuery{Search: flow.Search{To: 2}, Aggregate: &flow.Aggregate{}}, format); r.Total != nil || len(r.Sets) != 2 {
				t.Errorf("%+v", r)
			}
		}
		for _, bad := range []string{`"nonsense"`, `[]`, `{"Type":"Other"}`} {
			r := ask(t, f, conn, wire.Message{Namespace: "Flow", Type: "TableQuery", Obj: []byte(bad)})
			reply, err := flow.ParseTableReply(r.Obj, r.Format == wire.FormatProtobuf)
			if r.Status != 400 || err != nil || reply.Status != 400 {
				t.Errorf("%q: %+v %v", bad, r, err)
			}
		}
	}
}

// TestReplyLimit: a search that finds too much is refused, not cut.
func TestReplyLimit(t *testing.T) {
	big := tableOf{&flow.Flow{UUID: strings.Repeat("x", 60<<10)}}
	if _, err := search(t.Context(), []tableOf{{big[0], big[0], big[0]}, {big[0], big[0]}}, &flow.TableQuery{}, 256<<10); !errors.Is(err, errReplyLimit) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := search(ctx, []tableOf{big}, &flow.TableQuery{}, replyLimit); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestFirst: a sorted and limited search sends what comes first, and no more, from however many flows.
func TestFirst(t *testing.T) {
	var flows tableOf
	for i := range 3 * candidates {
		flows = append(flows, &flow.Flow{UUID: fmt.Sprint(i), TrackingID: fmt.Sprint(i % 100), Last: int64(i * 7919 % (3 * candidates))})
	}
	shared := &reused{flows: flows}
	for _, s := range []flow.Search{
		{Sort: true, To: 10}, {Sort: true, Order: flow.Descending, From: 5, To: 12}, {Sort: true, Dedup: true, To: 50}, {Dedup: true, To: 7},
		{Sort: true, To: 2 * candidates}, {Sort: true, To: 1 << 40}, {Sort: true, Dedup: true, To: 1000},
	} {
		r, err := search(t.Context(), []*reused{shared}, &flow.TableQuery{Search: s}, replyLimit)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Flows()
		if err != nil || int64(len(got)) > s.To {
			t.Errorf("%+v: %d flows, %v", s, len(got), err)
		}
		want := s.Finish(slices.Clone(flows))
		got = s.Finish(got)
		if !slices.EqualFunc(got, want, func(a, b *flow.Flow) bool { return a.UUID == b.UUID }) {
			t.Errorf("%+v: %d flows, want %d", s, len(got), len(want))
		}
	}
}

// reused gives the same record again and again, as tables do.
type reused struct {
	flows  tableOf
	record flow.Flow
}

func (r *reused) Total(f *flow.Filter, a flow.Aggregate) flow.Total { return r.flows.Total(f, a) }

func (r *reused) Search(_ *flow.Filter, yield func(*flow.Flow) bool) {
	for _, f := range r.flows {
		if r.record = *f; !yield(&r.record) {
			return
		}
	}
}

type tableOf []*flow.Flow

func (t tableOf) Total(_ *flow.Filter, a flow.Aggregate) (total flow.Total) {
	for _, f := range t {
		total.Add(f, a)
	}
	return total
}

func (t tableOf) Search(_ *flow.Filter, yield func(*flow.Flow) bool) {
	for _, f := range t {
		if !yield(f) {
			return
		}
	}
}
