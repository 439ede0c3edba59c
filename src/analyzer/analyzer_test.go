package analyzer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"skydive/src/agent"
	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/pubsub"
	"skydive/src/wire"
	"skydive/src/ws"
)

// quick makes links die fast.
var quick = ws.Config{PingDelay: 50 * time.Millisecond, PongTimeout: 150 * time.Millisecond, CloseTimeout: 50 * time.Millisecond}

// server is an analyzer that hears agents.
type server struct {
	agents *Agents
	g      *graph.Graph
	addr   string
	stop   func()
}

func newServer(t testing.TB, id, addr string, o AgentsOptions) *server {
	t.Helper()
	g := graph.New(graph.Options{})
	o.Graph, o.Metrics = g, pubsub.NewMetrics(nil)
	o.Endpoint = ws.EndpointOptions{
		Path: "/ws/agent/topology", HostID: id, ServiceType: "analyzer", Config: quick, Metrics: ws.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler),
		Authenticate: func(*http.Request) (string, []*http.Cookie, error) { return "admin", nil, nil },
		Authorize:    func(string, string) bool { return true },
	}
	s := &server{agents: NewAgents(o), g: g}
	mux := http.NewServeMux()
	mux.Handle("/ws/agent/topology", s.agents)
	h := httptest.NewUnstartedServer(mux)
	if addr != "" {
		h.Listener.Close()
		eventually(t, "port free", func() (err error) { h.Listener, err = net.Listen("tcp", addr); return err })
	}
	h.Start()
	s.addr = h.Listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.agents.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		h.Close()
	})
	t.Cleanup(s.stop)
	return s
}

const patience = 20 * time.Second

// eventually waits until ok has nothing to complain of.
func eventually(t testing.TB, what string, ok func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// shown is a graph as text, sorted. Revision and UpdatedAt are part of it: they must arrive, too.
func shown(g *graph.Graph) string {
	var all []string
	s := g.Snapshot()
	for n := range s.Nodes(field.Filter{}) {
		all = append(all, string(n.AppendJSON(nil)))
	}
	for e := range s.Edges(field.Filter{}) {
		all = append(all, string(e.AppendJSON(nil)))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func same(t *testing.T, what string, a, b *graph.Graph) {
	t.Helper()
	eventually(t, what, func() error {
		if x, y := shown(a), shown(b); x != y {
			return fmt.Errorf("graphs differ:\n%s\n--\n%s", x, y)
		}
		return nil
	})
}

func nodes(t *testing.T, what string, g *graph.Graph, n int) {
	t.Helper()
	eventually(t, what, func() error {
		if got := g.Snapshot().NodeCount(); got != n {
			return fmt.Errorf("%d nodes", got)
		}
		return nil
	})
}

// host is an agent process: a local graph, and the agent that forwards it.
type host struct {
	t     *testing.T
	id    string
	g     *graph.Graph
	agent *agent.Agent
	stop  func()
}

func newHost(t *testing.T, id string, analyzers ...string) *host {
	h := &host{t: t, id: id, g: graph.New(graph.Options{})}
	h.agent = agent.New(agent.Options{
		Graph: h.g, Analyzers: analyzers, Logger: slog.New(slog.DiscardHandler), Dial: ws.DialOptions{HostID: id, Config: quick},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.agent.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(h.stop)
	return h
}

// grow adds interfaces to the host, and changes and deletes some.
func (h *host) grow(n int) {
	h.t.Helper()
	root := graph.GenID(h.id) // a real agent makes up another one in each life
	element := func(id string, metadata ...any) graph.Element {
		return graph.Element{ID: id, Host: h.id, Origin: "agent." + h.id, Revision: 1, Metadata: field.Make(metadata...)}
	}
	for i := range n {
		id := graph.NewID()
		err := h.g.Update("", func(tx *graph.Tx) error {
			if tx.Node(root) == nil {
				if err := tx.AddNode(&graph.Node{Element: element(root, "Name", h.id, "Type", "host")}); err != nil {
					return err
				}
			}
			if err := tx.AddNode(&graph.Node{Element: element(id, "Name", fmt.Sprint("if", i), "Type", "veth")}); err != nil {
				return err
			}
			return tx.AddEdge(&graph.Edge{Element: element(graph.LinkID(root, id, "ownership"), "RelationType", "ownership"), Parent: root, Child: id})
		})
		if err == nil {
			err = h.g.Update("", func(tx *graph.Tx) error {
				if i%5 == 4 {
					return tx.DeleteNode(id, 0)
				}
				m, err := tx.Node(id).Metadata.Set("Deep.MTU", int64(1500+i))
				if err == nil {
					_, err = tx.SetNodeMetadata(id, m)
				}
				return err
			})
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

// TestLife is an agent's life seen by an analyzer: late start, changes, end, new life, restart of the analyzer.
func TestLife(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	h := newHost(t, "h1", s.addr)
	h.grow(20)
	same(t, "start", h.g, s.g)
	h.grow(20)
	same(t, "changes", h.g, s.g)
	st := h.agent.Status()["a1"]
	if !st.IsMaster || !st.IsConnected || st.RemoteServiceType != "analyzer" || st.ClientProtocol != "protobuf" {
		t.Errorf("status of the agent: %+v", st)
	}
	if st := s.agents.Status()["h1"]; st.ServiceType != "agent" || !st.IsConnected || st.Refused != 0 {
		t.Errorf("status of the analyzer: %+v", st)
	}

	h.stop() // and with it the connection
	nodes(t, "after the agent", s.g, 0)
	h = newHost(t, "h1", s.addr)
	h.grow(10)
	same(t, "second life", h.g, s.g)

	s.stop()
	h.grow(10)
	s = newServer(t, "a1", s.addr, AgentsOptions{})
	same(t, "analyzer restarted", h.g, s.g)
	h.grow(3)
	same(t, "changes after", h.g, s.g)
}

// TestSyncReplaces: what an agent had before is replaced in one commit, so that nobody sees both or none.
func TestSyncReplaces(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	first, _ := s.g.Subscribe(100)
	p := dial(t, s.addr, "h1", "Persistent")
	sync := func(id string) {
		n := &graph.Node{Element: graph.Element{ID: id, Host: "h1", Origin: "agent.h1", Revision: 1}}
		p.send(&wire.Message{Namespace: "Graph", Type: "Sync", Body: &wire.Sync{Nodes: []*graph.Node{n}}})
	}
	sync("old")
	sync("new")
	nodes(t, "both", s.g, 1)
	eventually(t, "two commits", func() error {
		if len(first.C()) != 2 {
			return fmt.Errorf("%d commits", len(first.C()))
		}
		return nil
	})
	<-first.C()
	if c := <-first.C(); len(c.Changes) != 2 || c.Changes[0].Kind != graph.NodeDeleted || c.Changes[1].Kind != graph.NodeAdded {
		t.Errorf("%+v", c)
	}
}

// TestElection: one of several analyzers is told, and when it is lost another.
func TestElection(t *testing.T) {
	a, b := newServer(t, "a", "", AgentsOptions{}), newServer(t, "b", "", AgentsOptions{})
	h := newHost(t, "h1", a.addr, b.addr)
	h.grow(10)
	eventually(t, "both connected", func() error {
		for _, id := range []string{"a", "b"} {
			if !h.agent.Status()[id].IsConnected {
				return fmt.Errorf("not to %s", id)
			}
		}
		return nil
	})
	master, other := a, b
	if h.agent.Status()["b"].IsMaster {
		master, other = b, a
	}
	same(t, "master", h.g, master.g)
	if got := other.g.Snapshot().NodeCount(); got != 0 {
		t.Errorf("the other has %d nodes", got)
	}
	master.stop()
	h.grow(10)
	same(t, "new master", h.g, other.g)
}

// TestSameHostID: the second agent is refused, and its status says by what.
func TestSameHostID(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	first := newHost(t, "h1", s.addr)
	first.grow(1)
	same(t, "first", first.g, s.g)
	second := newHost(t, "h1", s.addr)
	eventually(t, "refusal", func() error {
		st := second.agent.Status()[s.addr]
		if !strings.Contains(st.Reason, "409") || !strings.Contains(st.Reason, "127.0.0.1:") || st.IsMaster {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	same(t, "first is untouched", first.g, s.g)
}

// peer is an agent of the test's own.
type peer struct {
	t    *testing.T
	conn *ws.Conn
	got  chan *wire.Message
	end  chan error
}

func (p *peer) Receive(r io.Reader) error {
	m, err := wire.NewDecoder().Decode(r, wire.JSON)
	if err == nil {
		p.got <- m
	}
	return err
}
func (p *peer) Closed(err error) { p.end <- err }

func dial(t *testing.T, addr, host, policy string) *peer {
	t.Helper()
	conn, err := ws.Dial(t.Context(), ws.DialOptions{Addr: addr, Path: "/ws/agent/topology", HostID: host, ClientType: "agent", Protocol: "json", PersistencePolicy: policy, Config: quick})
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t, conn, make(chan *wire.Message, 1000), make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = conn.Run(ctx, func(*ws.Conn) (ws.Session, error) { return p, nil })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

func (p *peer) send(m *wire.Message) { p.raw(m.Append(nil, wire.JSON)) }

func (p *peer) raw(text []byte) {
	p.t.Helper()
	if err := p.conn.SendWait(p.t.Context(), text); err != nil {
		p.t.Fatal(err)
	}
}

// barrier waits until all that was sent is done.
func (p *peer) barrier() {
	p.t.Helper()
	p.send(&wire.Message{Namespace: "Graph", Type: "SyncRequest", UUID: "b", Body: &wire.SyncRequest{}})
	if m := <-p.got; m.UUID != "b" {
		p.t.Fatalf("unexpected %+v", m)
	}
}

// TestAgentVectors replays what an agent sent to a public analyzer, and compares the graph after each step.
func TestAgentVectors(t *testing.T) {
	type graphs []json.RawMessage
	type line struct {
		Step  string
		Sends json.RawMessage `json:"agent_sends"`
		Graph graphs
	}
	decode := func(g graphs) *wire.Sync {
		m, err := wire.NewDecoder().Decode(strings.NewReader(`{"Namespace":"Graph","Type":"Sync","Obj":`+string(g[0])+`}`), wire.JSON)
		if err != nil {
			t.Fatal(err)
		}
		return m.Body.(*wire.Sync)
	}
	s := newServer(t, "golden-analyzer", "", AgentsOptions{})
	text, err := os.ReadFile("testdata/agent-json.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var lines []line
	for raw := range bytes.Lines(text) {
		var l line
		if len(bytes.TrimSpace(raw)) > 0 {
			if err := json.Unmarshal(raw, &l); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, l)
		}
	}
	// What is there at the end was there before.
	if err := s.g.Update("", func(tx *graph.Tx) error {
		for _, n := range decode(lines[len(lines)-1].Graph).Nodes {
			if err := tx.AddNode(n); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	p := dial(t, s.addr, "fakeagent", "DeleteOnDisconnect")
	compared := 0
	for _, l := range lines {
		if l.Sends != nil {
			p.raw(l.Sends)
		}
		if l.Step == "agent closed" {
			p.conn.Close(ws.StatusNormal, "")
			<-p.end
			nodes(t, l.Step, s.g, 3)
		} else {
			p.barrier()
		}
		if l.Graph == nil {
			continue
		}
		compared++
		want := graph.New(graph.Options{})
		if err := want.Update("", func(tx *graph.Tx) error {
			w := decode(l.Graph)
			for _, n := range w.Nodes {
				if n.ID == "odd" { // its time is that of the server
					n.CreatedAt = s.g.Snapshot().Node("odd").CreatedAt
					n.UpdatedAt = n.CreatedAt
				}
				if err := tx.AddNode(n); err != nil {
					return err
				}
			}
			for _, e := range w.Edges {
				if err := tx.AddEdge(e); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if have, want := shown(s.g), shown(want); have != want {
			t.Errorf("after %s:\n%s\nwant\n%s", l.Step, have, want)
		}
	}
	if compared != 5 {
		t.Errorf("%d graphs compared", compared)
	}
}

// TestOwner: an agent cannot touch what another host or the analyzer has, nor speak in their name; all else it sends counts.
func TestOwner(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	victim := newHost(t, "victim", s.addr)
	victim.grow(3)
	same(t, "victim", victim.g, s.g)
	target := graph.GenID("victim")

	p := dial(t, s.addr, "h1", "Persistent")
	node := func(id, host, origin string) *graph.Node {
		return &graph.Node{Element: graph.Element{ID: id, Host: host, Origin: origin, Revision: 99}}
	}
	send := func(typ string, body wire.Body) { p.send(&wire.Message{Namespace: "Graph", Type: typ, Body: body}) }
	send(wire.TypeNodeUpdated, node(target, "h1", "agent.h1"))
	send(wire.TypeNodePartiallyUpdated, &wire.PartialUpdate{ID: target, Revision: 99})
	send(wire.TypeNodeDeleted, node(target, "h1", "agent.h1"))
	send(wire.TypeNodeAdded, node("x", "victim", "agent.victim"))
	send(wire.TypeNodeAdded, node("x", "h1", "agent.victim"))
	send(wire.TypeNodeAdded, node("x", "h1", "analyzer.a1"))
	send(wire.TypeSync, &wire.Sync{Nodes: []*graph.Node{node(target, "h1", "agent.h1"), node("mine", "h1", "agent.h1"), node("relayed", "h1", "tool.t")}})
	p.barrier()
	if got := s.g.Snapshot().NodeCount(); got != victim.g.Snapshot().NodeCount()+2 {
		t.Errorf("%d nodes", got)
	}
	if st := s.agents.Status()["h1"]; st.Refused != 7 || !strings.Contains(st.RefusedReason, wire.ErrForeign.Error()) || !st.IsConnected {
		t.Errorf("%+v", st)
	}
	if n := s.g.Snapshot().Node(target); n == nil || n.Revision == 99 {
		t.Errorf("%+v", n)
	}
	p.conn.Close(ws.StatusNormal, "")
	<-p.end
	victim.grow(3)
	eventually(t, "the victim works on", func() error {
		if s.g.Snapshot().NodeCount() != victim.g.Snapshot().NodeCount()+2 {
			return fmt.Errorf("%d nodes", s.g.Snapshot().NodeCount())
		}
		return nil
	})
}

// TestSweep runs the expiry by hand, over the hours.
func TestSweep(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{Expiry: time.Hour}) // its own watch stays out of the way
	p := dial(t, s.addr, "gone", "Persistent")
	q := dial(t, s.addr, "there", "Persistent")
	for id, c := range map[string]*peer{"gone": p, "there": q} {
		c.send(&wire.Message{Namespace: "Graph", Type: wire.TypeNodeAdded, Body: &graph.Node{Element: graph.Element{ID: id, Host: id, Origin: "agent." + id}}})
		c.barrier()
	}
	sweep := func(at time.Time, nodes ...string) {
		t.Helper()
		s.agents.sweep(at)
		var have []string
		for n := range s.g.Snapshot().Nodes(field.Filter{}) {
			have = append(have, n.ID)
		}
		if slices.Sort(have); !slices.Equal(have, nodes) {
			t.Errorf("at %s: %v, want %v", at, have, nodes)
		}
	}
	start := time.Now()
	sweep(start, "gone", "there")
	p.conn.Close(ws.StatusNormal, "")
	<-p.end
	eventually(t, "disconnected", func() error {
		if s.agents.Conn("gone") != nil {
			return fmt.Errorf("still there")
		}
		return nil
	})
	sweep(start.Add(59*time.Minute), "gone", "there")
	sweep(start.Add(61*time.Minute), "there")
	sweep(start.Add(200*time.Minute), "there")
}

// TestExpiry: nodes that are there when the analyzer starts, and whose agent does not come, go by themselves.
func TestExpiry(t *testing.T) {
	g := graph.New(graph.Options{})
	add := func(id, origin string) {
		if err := g.Update("", func(tx *graph.Tx) error {
			return tx.AddNode(&graph.Node{Element: graph.Element{ID: id, Origin: origin}})
		}); err != nil {
			t.Fatal(err)
		}
	}
	add("a", "agent.lost")
	add("b", "api.a1")
	o := AgentsOptions{Graph: g, Metrics: pubsub.NewMetrics(nil), Expiry: 100 * time.Millisecond, Endpoint: ws.EndpointOptions{
		Metrics: ws.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler),
		Authenticate: func(*http.Request) (string, []*http.Cookie, error) { return "", nil, nil },
		Authorize:    func(string, string) bool { return true },
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	a := NewAgents(o)
	go func() { done <- a.Run(ctx) }()
	nodes(t, "expiry", g, 1)
	cancel()
	if err := <-done; err != nil || g.Snapshot().Node("b") == nil {
		t.Errorf("%v", err)
	}
}

// wireTap is a TCP relay that can go silent or die, as networks and processes do.
type wireTap struct {
	t      *testing.T
	l      net.Listener
	mu     sync.Mutex
	target string
	conns  []net.Conn
	silent bool
}

func newTap(t *testing.T, target string) *wireTap { return newTapAt(t, "127.0.0.1:0", target) }

func newTapAt(t *testing.T, addr, target string) *wireTap {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	tap := &wireTap{t: t, target: target, l: l}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tap.mu.Lock()
			target := tap.target
			tap.mu.Unlock()
			d, err := net.Dial("tcp", target)
			if err != nil {
				c.Close()
				continue
			}
			tap.mu.Lock()
			tap.conns = append(tap.conns, c, d)
			tap.mu.Unlock()
			running.Go(func() { tap.copy(c, d) })
			running.Go(func() { tap.copy(d, c) })
		}
	})
	t.Cleanup(func() { l.Close(); tap.cut(); running.Wait() })
	return tap
}

func (w *wireTap) copy(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		silent := w.silent
		w.mu.Unlock()
		if err == nil && !silent {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			if !silent {
				from.Close()
				to.Close()
			}
			return
		}
	}
}

func (w *wireTap) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// to has new connections go elsewhere.
func (w *wireTap) to(target string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.target = target
}

func (w *wireTap) silence(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = on
}

// TestBadNetwork cuts and silences the link again and again while the graph changes; in the end the graphs are equal.
func TestBadNetwork(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	tap := newTap(t, s.addr)
	h := newHost(t, "h1", tap.l.Addr().String())
	h.grow(10)
	same(t, "start", h.g, s.g)
	for i := range 3 {
		if i%2 == 0 {
			tap.cut()
			h.grow(15)
		} else {
			tap.silence(true)
			h.grow(15)
			nodes(t, "a dead link is noticed, and the agent's nodes go", s.g, 0)
			tap.silence(false)
			tap.cut()
		}
		same(t, fmt.Sprint("round ", i), h.g, s.g)
	}
	if st := s.agents.Status()["h1"]; st.Refused != 0 {
		t.Errorf("%+v", st)
	}
}
