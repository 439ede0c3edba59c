package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// fake is an analyzer that keeps what agents send, as slowly as it is told.
type fake struct {
	protocol wire.Protocol
	addr     string
	conns    chan *ws.Conn
	got      chan *wire.Message
	hold     sync.Mutex // while locked nothing is read
}

type fakeSession struct {
	f *fake
	p wire.Protocol
}

func (s fakeSession) Receive(r io.Reader) error {
	s.f.hold.Lock()
	s.f.hold.Unlock() //nolint:staticcheck // only waits
	m, err := wire.NewDecoder().Decode(r, s.p)
	if err == nil {
		s.f.got <- m
	}
	return err
}
func (fakeSession) Closed(error) {}

func newFake(t *testing.T) *fake {
	f := &fake{conns: make(chan *ws.Conn, 10), got: make(chan *wire.Message, 1<<16)}
	e := ws.NewEndpoint(ws.EndpointOptions{
		Path: path, HostID: "a1", ServiceType: "analyzer", Metrics: ws.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler),
		Authenticate: func(*http.Request) (string, []*http.Cookie, error) { return "admin", nil, nil },
		Authorize:    func(string, string) bool { return true },
		Connect: func(c *ws.Conn) (ws.Session, error) {
			p, err := wire.ParseProtocol(c.Peer().Protocol)
			f.conns <- c
			return fakeSession{f, p}, err
		},
	})
	h := httptest.NewServer(e)
	f.addr = h.Listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; h.Close() })
	return f
}

func (f *fake) next(t *testing.T) *wire.Message {
	t.Helper()
	select {
	case m := <-f.got:
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("nothing comes")
	}
	return nil
}

func start(t *testing.T, g *graph.Graph, protocol wire.Protocol, cfg ws.Config, addr string) *Agent {
	a := New(Options{Graph: g, Analyzers: []string{addr}, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Dial: ws.DialOptions{HostID: "h1", Protocol: string(protocol), Config: cfg}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return a
}

func node(id string, at graph.Time, metadata ...any) *graph.Node {
	return &graph.Node{Element: graph.Element{ID: id, Host: "h1", Origin: "agent.h1", CreatedAt: at, Revision: 1, Metadata: field.Make(metadata...)}}
}

func update(t *testing.T, g *graph.Graph, f func(*graph.Tx) error) {
	t.Helper()
	if err := g.Update("", f); err != nil {
		t.Fatal(err)
	}
}

// TestForward checks the very messages: a Sync sorted by creation, then each change as what changed.
func TestForward(t *testing.T) {
	for _, p := range []wire.Protocol{wire.JSON, ""} {
		f, g := newFake(t), graph.New(graph.Options{})
		update(t, g, func(tx *graph.Tx) error {
			for i, id := range []string{"b", "c", "a"} {
				if err := tx.AddNode(node(id, graph.Time(i+1), "Name", id)); err != nil {
					return err
				}
			}
			return tx.AddEdge(&graph.Edge{Element: graph.Element{ID: "e", CreatedAt: 1}, Parent: "a", Child: "b"})
		})
		start(t, g, p, ws.Config{}, f.addr)
		peer := (<-f.conns).Peer()
		if peer.Origin() != "agent.h1" || peer.PersistencePolicy != "DeleteOnDisconnect" || !peer.Wants("x") || peer.Binary() != (p == "") {
			t.Errorf("%+v", peer)
		}
		m := f.next(t)
		s, ok := m.Body.(*wire.Sync)
		if !ok || m.Type != wire.TypeSync || m.Status != 200 || m.UUID == "" || len(s.Nodes) != 3 || len(s.Edges) != 1 ||
			s.Nodes[0].ID != "b" || s.Nodes[1].ID != "c" || s.Nodes[2].ID != "a" {
			t.Fatalf("%+v", m)
		}
		update(t, g, func(tx *graph.Tx) error {
			if _, err := tx.SetNodeMetadata("a", field.Make("Name", "a", "MTU", 1400)); err != nil {
				return err
			}
			if _, err := tx.SetEdgeMetadata("e", field.Make("W", 1)); err != nil {
				return err
			}
			if err := tx.AddNode(node("d", 9)); err != nil {
				return err
			}
			return tx.DeleteNode("b", 7)
		})
		for _, want := range []string{
			`NodePartiallyUpdated {"ID":"a","UpdatedAt":T,"Revision":2,"Ops":[{"Type":1,"Key":"MTU","Value":1400}]}`,
			`EdgePartiallyUpdated {"ID":"e","UpdatedAt":T,"Revision":1,"Ops":[{"Type":1,"Key":"W","Value":1}]}`,
			`NodeAdded {"ID":"d","Metadata":{},"Host":"h1","Origin":"agent.h1","CreatedAt":9,"UpdatedAt":9,"DeletedAt":null,"Revision":1}`,
			`EdgeDeleted {"ID":"e","Metadata":{"W":1},"Host":"","Origin":"","CreatedAt":1,"UpdatedAt":T,"DeletedAt":7,"Revision":1,"Parent":"a","Child":"b"}`,
			`NodeDeleted {"ID":"b","Metadata":{"Name":"b"},"Host":"h1","Origin":"agent.h1","CreatedAt":1,"UpdatedAt":1,"DeletedAt":7,"Revision":1}`,
		} {
			m := f.next(t)
			switch b := m.Body.(type) {
			case *wire.PartialUpdate:
				b.UpdatedAt = 1
			case *graph.Edge:
				b.UpdatedAt = 1
			}
			got := fmt.Sprintf("%s %s", m.Type, m.Body.AppendJSON(nil))
			if want := replaceT(want); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
	}
}

func replaceT(s string) string {
	out := []byte{}
	for i := 0; i < len(s); i++ {
		if i+2 < len(s) && s[i:i+2] == ":T" {
			out = append(out, ":1"...)
			i++
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

// TestFlood: a master that reads nothing for a while does not hold the local graph up, is sent the whole graph instead of what it
// missed, and then has all of it.
func TestFlood(t *testing.T) {
	f, g := newFake(t), graph.New(graph.Options{})
	a := start(t, g, wire.JSON, ws.Config{QueueSize: 10, QueueBytes: 1 << 16}, f.addr)
	<-f.conns
	f.next(t) // the empty Sync
	blob := make([]byte, 3000)
	for i := range blob {
		blob[i] = 'x'
	}
	f.hold.Lock()
	for i := range commitQueue + 2500 {
		update(t, g, func(tx *graph.Tx) error {
			if i > 100 {
				if err := tx.DeleteNode(fmt.Sprint(i-100), 0); err != nil {
					return err
				}
			}
			return tx.AddNode(node(fmt.Sprint(i), 1, "Blob", string(blob)))
		})
	}
	f.hold.Unlock()
	known := map[string]bool{}
	for len(known) != 101 || !known[fmt.Sprint(commitQueue+2499)] {
		switch m := f.next(t); b := m.Body.(type) {
		case *wire.Sync:
			known = map[string]bool{}
			for _, n := range b.Nodes {
				known[n.ID] = true
			}
		case *graph.Node:
			if m.Type == wire.TypeNodeAdded {
				known[b.ID] = true
			} else {
				delete(known, b.ID)
			}
		}
	}
	if n := testutil.ToFloat64(a.metrics.lost); n == 0 {
		t.Error("nothing was lost: the test floods too little")
	}
}

// TestRequests: whatever an analyzer asks is answered.
func TestRequests(t *testing.T) {
	start1 := `{"NodeID":"n","Resource":{"UUID":"u","Count":0}}`
	for _, c := range []struct {
		protocol          wire.Protocol
		namespace, typ    string
		format            wire.Format
		obj               string
		wantType, wantObj string
		wantStatus        int64
		wantFormat        wire.Format
	}{
		{wire.JSON, "OnDemandCapture", "Start", 0, start1, "StartReply", `{"Error":"` + noEngine + `","NodeID":"n","Resource":{"Count":0,"UUID":"u"}}`, 501, 0},
		{wire.Protobuf, "OnDemandPacketInjection", "Start", 0, start1, "StartReply", `{"Error":"` + noEngine + `","NodeID":"n","Resource":{"Count":0,"UUID":"u"}}`, 501, 0},
		{wire.Protobuf, "OnDemandCapture", "Start", 0, `5`, "StartReply", `5`, 501, 0},
		{wire.JSON, "OnDemandCapture", "Stop", 0, start1, "StopReply", start1, 200, 0},
		{wire.JSON, "Flow", "TableQuery", 0, `{"Type":"SearchQuery","query":{}}`, "TableResult", `{"Status":200,"FlowSetBytes":[]}`, 200, 0},
		{wire.Protobuf, "Flow", "TableQuery", 1, "\x0a\x0bSearchQuery\x12\x00", "TableResult", "\x08\xc8\x01", 200, 1},
	} {
		f := newFake(t)
		start(t, graph.New(graph.Options{}), c.protocol, ws.Config{}, f.addr)
		conn := <-f.conns
		f.next(t)
		for _, noise := range []string{`nonsense`, `{"Namespace":"Foo","Type":"Bar","Obj":1}`, `{"Namespace":"OnDemandCapture","Type":"Bar","Obj":1}`} {
			_ = conn.Send([]byte(noise))
		}
		request := wire.Message{Namespace: c.namespace, Type: c.typ, UUID: "u-1", Status: 200, Format: c.format, Obj: []byte(c.obj)}
		_ = conn.Send(request.Append(nil, c.protocol))
		m := f.next(t)
		if m.Namespace != c.namespace || m.Type != c.wantType || m.UUID != "u-1" || m.Status != c.wantStatus || m.Format != c.wantFormat || string(m.Obj) != c.wantObj {
			t.Errorf("%s %s: %+v %s", c.protocol, c.typ, m, m.Obj)
		}
	}
}

// TestAlone: without analyzers the agent does nothing, and ends.
func TestAlone(t *testing.T) {
	a := New(Options{Graph: graph.New(graph.Options{}), Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Run(ctx); err != nil || len(a.Status()) != 0 {
		t.Error(err, a.Status())
	}
}

// TestSameAnalyzerTwice: an address that is listed twice is one analyzer, which would refuse the second connection for ever.
func TestSameAnalyzerTwice(t *testing.T) {
	a := New(Options{Graph: graph.New(graph.Options{}), Logger: slog.New(slog.DiscardHandler), Analyzers: []string{"a:1", "b:1", "a:1"}})
	if status := a.Status(); len(status) != 2 || len(a.links) != 2 {
		t.Errorf("%v", status)
	}
}
