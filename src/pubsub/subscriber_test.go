package pubsub

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// load puts a graph in place.
func (s *server) load(sync *wire.Sync) {
	s.t.Helper()
	if err := s.g.Update("", func(tx *graph.Tx) error {
		for _, n := range sync.Nodes {
			if err := tx.AddNode(n); err != nil {
				return err
			}
		}
		for _, e := range sync.Edges {
			if err := tx.AddEdge(e); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) subscriber(o ws.DialOptions) *client {
	s.t.Helper()
	o.Path, o.ClientType = "/ws/subscriber", "tool"
	if o.HostID == "" {
		o.HostID = graph.NewID()
	}
	c := s.dial(o)
	eventually(s.t, "subscriber", func() bool { return s.subs.Conn(o.HostID) != nil })
	return c
}

// TestSyncRequestVectors sends the recorded requests and compares the answers. An error is compared by its status; its text is ours.
func TestSyncRequestVectors(t *testing.T) {
	type line struct {
		Subscriber string
		Note       string
		Sends      json.RawMessage
		SendsHex   string `json:"sends_hex"`
		Receives   []frame
	}
	lines := readLines[line](t, "testdata/syncrequest.jsonl")
	s := newServer(t, ws.Config{})
	s.load(lines[0].Receives[0].golden(t).Body.(*wire.Sync))
	subs := map[string]*client{}
	for name, o := range map[string]ws.DialOptions{
		"full": {}, "filter": {GremlinFilter: upFilter}, "alert-only": {Namespaces: []string{"Alert"}}, "protobuf": {Protocol: "protobuf"},
	} {
		o.HostID = "sub-" + name + "2-" + name
		subs[name] = s.subscriber(o)
	}
	subs["json, binary frame"] = s.subscriber(ws.DialOptions{}) // the transport takes either kind of frame, which is tested there
	answers := 0
	for i, l := range lines {
		if i == 36 { // JSON text to a protobuf connection
			l.Subscriber = "protobuf"
		}
		c := subs[l.Subscriber]
		msg := []byte(l.Sends)
		if l.SendsHex != "" {
			msg = must(hex.DecodeString(l.SendsHex))
		}
		c.send(msg)
		if len(l.Receives) == 0 && l.Subscriber == "alert-only" {
			s.subs.Broadcast("Alert", "x", []byte("1"))
			if before, _ := c.until(func(m *wire.Message) bool { return m.Namespace == "Alert" }); len(before) > 0 {
				t.Errorf("%d: %d answers", i, len(before))
			}
			continue
		}
		got, _ := c.sync(wire.SyncRequest{})
		got = slices.DeleteFunc(got, func(m *wire.Message) bool { return m.Namespace == "Alert" })
		if len(got) != len(l.Receives) {
			t.Errorf("%d %s: %d answers, want %d", i, l.Sends, len(got), len(l.Receives))
			continue
		}
		for j, f := range l.Receives {
			answers++
			want, have := f.golden(t), got[j]
			if have.Type != want.Type || have.UUID != want.UUID || have.Status != want.Status {
				t.Errorf("%d %s: answer %+v, want %+v", i, l.Sends, have, want)
			}
			if want.Status != 200 {
				if (string(have.Obj) == "null") != (string(want.Obj) == "null") || want.Obj[0] == '"' && !strings.HasPrefix(string(have.Obj), string(want.Obj[:len(want.Obj)-1])) {
					t.Errorf("%d %s: text %s, want %s", i, l.Sends, have.Obj, want.Obj)
				}
				continue
			}
			if have, want := graphOf(have.Body.(*wire.Sync)), graphOf(want.Body.(*wire.Sync)); !slices.Equal(have, want) {
				t.Errorf("%d %s: graph\n%q, want\n%q", i, l.Sends, have, want)
			}
		}
	}
	if answers != 27 {
		t.Errorf("%d answers compared", answers)
	}
}

// TestHandshake: what is refused after the 101, by closing with 1000.
func TestHandshake(t *testing.T) {
	s := newServer(t, ws.Config{})
	for _, c := range []struct {
		o  ws.DialOptions
		ok bool
	}{
		{ws.DialOptions{GremlinFilter: "G.V().Has('Name','zz').SubGraph()"}, true},
		{ws.DialOptions{GremlinFilter: "G"}, true},
		{ws.DialOptions{GremlinFilter: "G.V()"}, false},
		{ws.DialOptions{GremlinFilter: "bad("}, false},
		{ws.DialOptions{UpdatePolicy: "partial"}, true},
		{ws.DialOptions{UpdatePolicy: "FULL"}, true},
		{ws.DialOptions{UpdatePolicy: "some"}, false},
		{ws.DialOptions{Namespaces: []string{"Alert"}}, true},
	} {
		c.o.Path, c.o.ClientType, c.o.HostID = "/ws/subscriber", "tool", graph.NewID()
		peer := s.dial(c.o)
		if c.ok {
			eventually(t, "accepted", func() bool { return s.subs.Conn(c.o.HostID) != nil })
			continue
		}
		var closed ws.CloseError
		if err := <-peer.closed; !asClose(err, &closed) || closed.Code != ws.StatusNormal {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}

func asClose(err error, to *ws.CloseError) bool {
	c, ok := err.(ws.CloseError)
	*to = c
	return ok
}

func testNode(id string, revision int64, metadata ...any) *graph.Node {
	return &graph.Node{Element: graph.Element{ID: id, Host: "h", Origin: "agent.h", CreatedAt: 1, UpdatedAt: graph.Time(revision), Revision: revision,
		Metadata: field.Make(append([]any{"Name", id, "Type", "device"}, metadata...)...)}}
}

func testEdge(id, parent, child string) *graph.Edge {
	return &graph.Edge{Element: graph.Element{ID: id, Host: "h", Origin: "agent.h", CreatedAt: 1, UpdatedAt: 1, Revision: 1,
		Metadata: field.Make("RelationType", "layer2")}, Parent: parent, Child: child}
}

// copyOf follows a subscriber's messages as a strict client would: an event that does not fit what it knows is an error.
type copyOf struct {
	t     *testing.T
	nodes map[string]*graph.Node
	edges map[string]*graph.Edge
}

func (c *copyOf) follow(m *wire.Message) {
	c.t.Helper()
	bad := false
	switch b := m.Body.(type) {
	case *wire.Sync:
		c.nodes, c.edges = map[string]*graph.Node{}, map[string]*graph.Edge{}
		for _, n := range b.Nodes {
			c.nodes[n.ID] = n
		}
		for _, e := range b.Edges {
			c.edges[e.ID] = e
		}
	case *graph.Node:
		_, known := c.nodes[b.ID]
		bad = known == (m.Type == wire.TypeNodeAdded)
		if c.nodes[b.ID] = b; m.Type == wire.TypeNodeDeleted {
			delete(c.nodes, b.ID)
		}
	case *graph.Edge:
		_, known := c.edges[b.ID]
		bad = known == (m.Type == wire.TypeEdgeAdded) || m.Type == wire.TypeEdgeAdded && (c.nodes[b.Parent] == nil || c.nodes[b.Child] == nil)
		if c.edges[b.ID] = b; m.Type == wire.TypeEdgeDeleted {
			delete(c.edges, b.ID)
		}
	case *wire.PartialUpdate:
		n, ok := c.nodes[b.ID]
		if bad = !ok; ok {
			next := *n
			next.Metadata = must(field.Apply(n.Metadata, b.Ops))
			next.UpdatedAt, next.Revision = b.UpdatedAt, b.Revision
			c.nodes[b.ID] = &next
		}
	}
	if bad {
		c.t.Errorf("%s does not fit: %s", m.Type, m.Body.AppendJSON(nil))
	}
}

func (c *copyOf) graph() []string {
	s := &wire.Sync{}
	for _, n := range c.nodes {
		s.Nodes = append(s.Nodes, n)
	}
	for _, e := range c.edges {
		s.Edges = append(s.Edges, e)
	}
	return graphOf(s)
}

// TestSlowSubscriber stops reading while the graph changes far more than all queues hold. The graph must not wait, and the
// subscriber must know exactly the graph in the end, though it never got most events.
func TestSlowSubscriber(t *testing.T) {
	for _, o := range []ws.DialOptions{{}, {UpdatePolicy: "partial"}, {GremlinFilter: "G.V().Has('Even',true).SubGraph()"}} {
		t.Run(fmt.Sprint(o.UpdatePolicy, o.GremlinFilter), func(t *testing.T) {
			s := newServer(t, ws.Config{QueueSize: 4, QueueBytes: 64 << 10})
			blob := strings.Repeat("x", 8000)
			update := func(f func(tx *graph.Tx) error) {
				t.Helper()
				if err := s.g.Update("", f); err != nil {
					t.Fatal(err)
				}
			}
			add := func(id int, revision int64) *graph.Node {
				return testNode(fmt.Sprint("n", id), revision, "Blob", blob, "Even", id%2 == 0)
			}
			update(func(tx *graph.Tx) error { return tx.AddNode(add(0, 1)) })
			c := s.subscriber(o)
			held := make(chan struct{})
			follow := &copyOf{t: t}
			c.send((&wire.Message{Namespace: "Graph", Type: "SyncRequest", UUID: "first", Body: &wire.SyncRequest{}}).Append(nil, wire.JSON))
			_, reply := c.until(func(m *wire.Message) bool { return m.UUID == "first" })
			follow.follow(reply)
			c.hold(held)

			for i := 1; i < 2000; i++ {
				update(func(tx *graph.Tx) error {
					if err := tx.AddNode(add(i, 1)); err != nil {
						return err
					}
					if i%3 == 0 && tx.Node(fmt.Sprint("n", i-2)) != nil {
						if err := tx.AddEdge(testEdge(fmt.Sprint("e", i), fmt.Sprint("n", i-2), fmt.Sprint("n", i))); err != nil {
							return err
						}
					}
					if i%5 == 0 {
						return tx.DeleteNode(fmt.Sprint("n", i-1), 0)
					}
					return tx.ReplaceNode(add(0, int64(i+1)))
				})
			}
			close(held)
			got, last := c.sync(wire.SyncRequest{})
			for _, m := range got {
				follow.follow(m)
			}
			have := follow.graph()
			if want := graphOf(last.Body.(*wire.Sync)); !slices.Equal(have, want) {
				t.Errorf("the subscriber knows %d elements, the graph has %d", len(have), len(want))
			}
			if o.GremlinFilter == "" && testutil.ToFloat64(s.subs.resyncs) == 0 { // a filter takes all commits that wait at once
				t.Error("no commit was lost: the test is too mild")
			}
		})
	}
}

// hold makes the client stop reading until release is closed, by waiting in the receipt of a broadcast.
func (c *client) hold(release chan struct{}) { c.held.Store(&release) }

// TestLargeCommit: one commit with many more events than any queue holds reaches a healthy subscriber whole.
func TestLargeCommit(t *testing.T) {
	s := newServer(t, ws.Config{QueueSize: 100})
	c := s.subscriber(ws.DialOptions{})
	big := &wire.Sync{}
	for i := range 5_000 {
		big.Nodes = append(big.Nodes, testNode(fmt.Sprint("n", i), 1))
	}
	s.load(big)
	got, _ := c.sync(wire.SyncRequest{})
	if len(got) != 5_000 {
		t.Errorf("%d events", len(got))
	}
}

// TestFilterDoesNotSeeStaleSnapshots changes one node to and fro and checks that a filter subscriber can follow each event.
func TestFilterFollows(t *testing.T) {
	s := newServer(t, ws.Config{})
	s.load(&wire.Sync{Nodes: []*graph.Node{testNode("a", 1, "State", "UP"), testNode("b", 1, "State", "UP")}, Edges: []*graph.Edge{testEdge("ab", "a", "b")}})
	c := s.subscriber(ws.DialOptions{GremlinFilter: upFilter})
	follow := &copyOf{t: t}
	_, reply := c.sync(wire.SyncRequest{})
	follow.follow(reply)
	for i := int64(2); i < 500; i++ {
		state := "UP"
		if i%3 != 0 {
			state = "DOWN"
		}
		if err := s.g.Update("", func(tx *graph.Tx) error {
			if i%50 == 49 {
				return tx.DeleteNode("a", 0)
			}
			if i%50 == 0 {
				if err := tx.AddNode(testNode("a", i, "State", "UP")); err != nil {
					return err
				}
				return tx.AddEdge(testEdge("ab", "a", "b"))
			}
			return tx.ReplaceNode(testNode("a", i, "State", state))
		}); err != nil {
			t.Fatal(err)
		}
	}
	got, last := c.sync(wire.SyncRequest{})
	for _, m := range got {
		follow.follow(m)
	}
	if have, want := follow.graph(), graphOf(last.Body.(*wire.Sync)); !slices.Equal(have, want) {
		t.Errorf("have\n%q, want\n%q", have, want)
	}
}

// past is what a graph was: two nodes, a link between them, and one whose other end is older than the archive.
type past struct {
	asked chan time.Time
	err   error
}

func (p past) Graph(_ context.Context, from, to time.Time) ([]*graph.Node, []*graph.Edge, error) {
	p.asked <- from
	p.asked <- to
	return []*graph.Node{testNode("a", 3), testNode("b", 4)}, []*graph.Edge{testEdge("ab", "a", "b"), testEdge("ax", "a", "x")}, p.err
}

func (past) NodeMetrics(context.Context, time.Time, time.Time, []string, string) (map[string][]field.Object, error) {
	return nil, nil
}

func TestSyncRequestOfThePast(t *testing.T) {
	s := newServer(t, ws.Config{})
	p := past{asked: make(chan time.Time, 2)}
	s.subs.o.History = p
	c := s.subscriber(ws.DialOptions{})
	filter := "G.V().Has('Name','a').SubGraph()"
	for _, test := range []struct {
		request wire.SyncRequest
		want    int
	}{{wire.SyncRequest{Time: 5000}, 3}, {wire.SyncRequest{Time: 5000, GremlinFilter: &filter}, 1}} { // the filter stays
		_, m := c.sync(test.request)
		body, ok := m.Body.(*wire.Sync)
		if m.Status != 200 || !ok || len(graphOf(body)) != test.want {
			t.Errorf("%+v", m)
		}
		for range 2 {
			if at := <-p.asked; at.UnixMilli() != 5000 {
				t.Errorf("asked for %v", at)
			}
		}
	}
	p.err = io.ErrUnexpectedEOF
	s = newServer(t, ws.Config{})
	s.subs.o.History = p
	if _, m := s.subscriber(ws.DialOptions{}).sync(wire.SyncRequest{Time: 5000}); m.Status != 400 {
		t.Errorf("%+v", m)
	}
}

// TestBroadcast: each subscriber that wants the namespace gets it, and one that does not take its broadcasts is disconnected.
func TestBroadcast(t *testing.T) {
	s := newServer(t, ws.Config{})
	all, alerts, other := s.subscriber(ws.DialOptions{Protocol: "protobuf"}), s.subscriber(ws.DialOptions{Namespaces: []string{"Alert"}}), s.subscriber(ws.DialOptions{Namespaces: []string{"Other"}})
	s.subs.Broadcast("Alert", "Alert", []byte(`{"UUID":"u"}`))
	s.subs.Broadcast("Other", "End", []byte(`1`))
	for c, want := range map[*client]string{all: "Alert", alerts: "Alert", other: "Other"} {
		_, m := c.until(func(*wire.Message) bool { return true })
		if m.Namespace != want || m.Status != 200 || m.UUID == "" {
			t.Errorf("%+v", m)
		}
	}
}

// TestDeleteOnDisconnect also covers who comes back before and after.
func TestDeleteOnDisconnect(t *testing.T) {
	s := newServer(t, ws.Config{})
	dial := func(policy string) *client {
		return s.dial(ws.DialOptions{Path: "/ws/publisher", HostID: "p", ClientType: "tool", PersistencePolicy: policy})
	}
	leave := func(c *client) {
		c.conn.Close(ws.StatusNormal, "")
		<-c.closed
		eventually(t, "gone", func() bool { return s.pub.Conn("p") == nil })
	}
	add := (&wire.Message{Namespace: "Graph", Type: wire.TypeNodeAdded, Body: testNode("a", 1)}).Append(nil, wire.JSON)
	for _, c := range []struct {
		policy string
		send   bool
		nodes  int
	}{{"Persistent", true, 1}, {"", false, 1}, {DeleteOnDisconnect, false, 1}, {DeleteOnDisconnect, true, 0}} {
		p := dial(c.policy)
		if c.send {
			p.send(add)
		}
		p.sync(wire.SyncRequest{})
		leave(p)
		if got := s.g.Snapshot().NodeCount(); got != c.nodes {
			t.Errorf("%+v: %d nodes", c, got)
		}
	}
}

// TestPublisherStatus: what is refused shows, and the connection lives.
func TestPublisherStatus(t *testing.T) {
	s := newServer(t, ws.Config{})
	p := s.dial(ws.DialOptions{Path: "/ws/publisher", HostID: "p", ClientType: "tool"})
	for _, text := range []string{
		`{"Namespace":"Graph","Type":"NodeAdded","Obj":{"ID":"x","Metadata":{}}}`, `nonsense`, `{"Namespace":"Flow","Type":"x","Obj":1}`,
		`{"Namespace":"Graph","Type":"Sync","Obj":{"Nodes":[{"ID":"ok","Metadata":{"Name":"n","Type":"t"}},{"ID":"y"}]}}`,
	} {
		p.send([]byte(text))
	}
	_, m := p.sync(wire.SyncRequest{Time: 5})
	if m.Status != 400 {
		t.Errorf("question about the past: %d", m.Status)
	}
	st := s.pub.Status()["p"]
	if st.Refused != 2 || !strings.Contains(st.RefusedReason, wire.ErrInvalid.Error()) || st.ServiceType != "tool" || s.g.Snapshot().NodeCount() != 1 {
		t.Errorf("%+v", st)
	}
}

// TestMessagesGather: messages that come one by one share transactions, of which there is at most one in each batchPause.
func TestMessagesGather(t *testing.T) {
	const messages = 2000
	s := newServer(t, ws.Config{})
	p := s.dial(ws.DialOptions{Path: "/ws/publisher", HostID: "p", ClientType: "tool"})
	commits, _ := s.g.Subscribe(messages)
	defer commits.Close()
	begin := time.Now()
	for i := range messages {
		p.send((&wire.Message{Namespace: "Graph", Type: wire.TypeNodeAdded, Body: testNode(fmt.Sprint(i), 1)}).Append(nil, wire.JSON))
	}
	nodes := 0
	for most := 1; nodes < messages; most++ {
		nodes += len((<-commits.C()).Changes)
		if took := time.Since(begin); time.Duration(most-1)*batchPause > took {
			t.Fatalf("%d transactions in %s", most, took)
		}
	}
}
