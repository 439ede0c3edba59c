package pubsub

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// server is an analyzer with nothing but a graph, a publisher and a subscriber endpoint.
type server struct {
	t    *testing.T
	g    *graph.Graph
	pub  *Publisher
	subs *Subscribers
	both *Both
	addr string
	stop func()
}

func newServer(t *testing.T, cfg ws.Config) *server { return serverAt(t, cfg, "golden-analyzer", "") }

// serverAt is a server of a host id, at an address or, without one, at any.
func serverAt(t *testing.T, cfg ws.Config, hostID, addr string) *server {
	t.Helper()
	s := &server{t: t, g: graph.New(graph.Options{})}
	metrics, wsMetrics := NewMetrics(nil), ws.NewMetrics(nil)
	endpoint := func(path string) ws.EndpointOptions {
		return ws.EndpointOptions{
			Path: path, HostID: hostID, ServiceType: "analyzer", Config: cfg, Metrics: wsMetrics, Logger: slog.New(slog.DiscardHandler),
			Authenticate: func(r *http.Request) (string, []*http.Cookie, error) {
				if _, password, _ := r.BasicAuth(); password == "wrong" {
					return "", nil, errors.New("wrong password")
				}
				return "admin", nil, nil
			},
			Authorize: func(string, string) bool { return true },
		}
	}
	publisher := PublisherOptions{Endpoint: endpoint("/ws/publisher"), Graph: s.g, Source: "publisher", Metrics: metrics, Own: "agent.me"}
	subscriber := SubscriberOptions{Endpoint: endpoint("/ws/subscriber"), Graph: s.g, Metrics: metrics}
	s.pub, s.subs = NewPublisher(publisher), NewSubscribers(subscriber)
	publisher.Endpoint = endpoint("/ws/pubsub")
	s.both = NewBoth(publisher, subscriber)
	mux := http.NewServeMux()
	mux.Handle("/ws/publisher", s.pub)
	mux.Handle("/ws/subscriber", s.subs)
	mux.Handle("/ws/pubsub", s.both)
	h := httptest.NewUnstartedServer(mux)
	if addr != "" {
		h.Listener.Close()
		eventually(t, "port free", func() bool {
			var err error
			h.Listener, err = net.Listen("tcp", addr)
			return err == nil
		})
	}
	h.Start()
	s.addr = h.Listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	runs := []func(context.Context) error{s.pub.Run, s.subs.Run, s.both.Run}
	done := make(chan error, len(runs))
	for _, run := range runs {
		go func() { done <- run(ctx) }()
	}
	s.stop = sync.OnceFunc(func() {
		cancel()
		for range runs {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		h.Close()
	})
	t.Cleanup(s.stop)
	return s
}

// client is a raw peer: it keeps what it gets.
type client struct {
	t      *testing.T
	conn   *ws.Conn
	got    chan []byte
	closed chan error
	held   atomic.Pointer[chan struct{}]
}

func (c *client) Receive(r io.Reader) error {
	if held := c.held.Load(); held != nil {
		<-*held
	}
	b, err := io.ReadAll(r)
	c.got <- b
	return err
}
func (c *client) Closed(err error) { c.closed <- err }

func (s *server) dial(o ws.DialOptions) *client {
	s.t.Helper()
	o.Addr = s.addr
	conn, err := ws.Dial(s.t.Context(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &client{t: s.t, conn: conn, got: make(chan []byte, 1<<17), closed: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = conn.Run(ctx, func(*ws.Conn) (ws.Session, error) { return c, nil })
	}()
	s.t.Cleanup(func() { cancel(); <-done })
	return c
}

func (c *client) send(msg []byte) {
	c.t.Helper()
	if err := c.conn.SendWait(c.t.Context(), msg); err != nil {
		c.t.Fatal(err)
	}
}

const patience = 20 * time.Second

func (c *client) protocol() wire.Protocol { return protocol(c.conn.Peer()) }

// until returns what comes before the message that stop accepts, and that one.
func (c *client) until(stop func(*wire.Message) bool) (before []*wire.Message, last *wire.Message) {
	c.t.Helper()
	timeout := time.After(patience)
	d := wire.NewDecoder()
	for {
		select {
		case b := <-c.got:
			m, err := d.Decode(bytes.NewReader(b), c.protocol())
			if err != nil {
				c.t.Fatal(err)
			}
			if stop(m) {
				return before, m
			}
			before = append(before, m)
		case err := <-c.closed:
			c.t.Fatalf("connection closed: %v", err)
		case <-timeout:
			c.t.Fatal("nothing comes")
		}
	}
}

// sync asks for the graph and returns what came before the answer, and the answer.
func (c *client) sync(request wire.SyncRequest) ([]*wire.Message, *wire.Message) {
	c.t.Helper()
	m := wire.Message{Namespace: "Graph", Type: "SyncRequest", UUID: graph.NewID(), Body: &request}
	c.send(m.Append(nil, c.protocol()))
	return c.until(func(got *wire.Message) bool { return got.UUID == m.UUID })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("never: %s", what)
		}
	}
}

type frame struct {
	Hex  string
	JSON json.RawMessage
}

// golden is a frame as this test compares it.
func (f frame) golden(t *testing.T) *wire.Message {
	t.Helper()
	text, p := []byte(f.JSON), wire.JSON
	if f.Hex != "" {
		var err error
		if text, err = hex.DecodeString(f.Hex); err != nil {
			t.Fatal(err)
		}
		p = wire.Protobuf
	}
	m, err := wire.NewDecoder().Decode(bytes.NewReader(text), p)
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return m
}

// recordedSince is when the vectors were recorded: later times were set by the server and are not compared.
const recordedSince = 1790000000000

// elementOf shows an element without what may differ: server-set times, and an origin that the public server let publishers forge.
func elementOf(e *graph.Element, more ...string) string {
	c := *e
	if c.Origin == "ignored" { // listed fault 3: overwritten everywhere
		c.Origin = "pubtype.pubhost"
	}
	for _, at := range []*graph.Time{&c.CreatedAt, &c.UpdatedAt, &c.DeletedAt} {
		if *at > recordedSince {
			*at = 1
		}
	}
	return fmt.Sprintf("%s %s %s %s %d/%d/%d r%d %v", c.ID, field.AppendJSON(nil, c.Metadata), c.Host, c.Origin, c.CreatedAt, c.UpdatedAt, c.DeletedAt, c.Revision, more)
}

func graphOf(s *wire.Sync) (all []string) {
	for _, n := range s.Nodes {
		all = append(all, elementOf(&n.Element))
	}
	for _, e := range s.Edges {
		all = append(all, elementOf(&e.Element, e.Parent, e.Child))
	}
	slices.Sort(all)
	return all
}

// told shows a message as this test compares it. Deleted elements are compared by ID only: the public server shows what the
// deleting message said of them, we show what was deleted. Partial updates are compared by their effect on the node before.
func told(t *testing.T, m *wire.Message, before *graph.Snapshot, after *graph.Snapshot) string {
	t.Helper()
	head := fmt.Sprintf("%s %s %d ", m.Namespace, m.Type, m.Status)
	switch b := m.Body.(type) {
	case nil:
		return head + string(field.AppendJSON(nil, must(field.ParseJSON(m.Obj))))
	case *graph.Node:
		if m.Type == wire.TypeNodeDeleted {
			return head + b.ID
		}
		return head + elementOf(&b.Element)
	case *graph.Edge:
		if m.Type == wire.TypeEdgeDeleted {
			return head + b.ID
		}
		return head + elementOf(&b.Element, b.Parent, b.Child)
	case *wire.PartialUpdate:
		if b.UpdatedAt > recordedSince {
			b.UpdatedAt = 1
		}
		return fmt.Sprintf("%s %s %d r%d", head, b.ID, b.UpdatedAt, b.Revision)
	}
	t.Fatalf("unexpected body %T", m.Body)
	return ""
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func readLines[T any](t *testing.T, name string) (all []T) {
	t.Helper()
	for line := range bytes.Lines(must(os.ReadFile(name))) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}

const upFilter = "G.V().Has('State','UP').SubGraph()"

// TestPubsubVectors replays what a publisher sent to a public server, and compares what six subscribers get and the graph after
// each step. Differences on purpose are listed in different.
func TestPubsubVectors(t *testing.T) {
	type step struct {
		Note        string
		Sends       json.RawMessage    `json:"publisher_sends"`
		SendsText   string             `json:"publisher_sends_text"`
		Receives    []frame            `json:"publisher_receives"`
		Subscribers map[string][]frame `json:"subscribers_receive"`
		GraphAfter  json.RawMessage    `json:"graph_after"`
		Request     []json.RawMessage  `json:"rest_request"`
	}
	// What ours does differently, by note and subscriber ("graph" = the graph afterwards), and why.
	different := map[string]map[string]string{
		// Fault 4: the revision of an edge update is stored …
		"EdgeUpdated, revision 2": {"*": `RelationType":"layer2","Weight":2} hx pubtype.pubhost 1700000000000/1700000002000/0 r2`},
		// … so the same one is not applied again.
		"EdgeUpdated, revision 2 again, other metadata": {"*": ""},
		// Fault 3: n1 is of this origin, so the Sync without it deletes it; n7 is as it was and not touched.
		"second Sync of the same origin: n1 is not in it, n8 is new": {
			"*":      "NodeDeleted n1, NodeDeleted n3, NodeDeleted n4, NodeAdded n8",
			"filter": "NodeDeleted n1, NodeDeleted n4, NodeAdded n8", "filter-partial": "NodeDeleted n1, NodeDeleted n4, NodeAdded n8",
			"graph": "n7, n8"},
		"publisher closes (policy DeleteOnDisconnect)": {"*": "NodeDeleted n7, NodeDeleted n8", "graph": ""},
		"1.5 s later": {"graph": ""},
		"a persistent publisher connects (same identity) and adds n20": {"graph": "n20"},
		"it closes": {"graph": "n20"},
	}

	s := newServer(t, ws.Config{})
	subs := map[string]*client{}
	for name, o := range map[string]ws.DialOptions{
		"full": {}, "partial": {UpdatePolicy: "partial"}, "filter": {GremlinFilter: upFilter},
		"filter-partial": {GremlinFilter: upFilter, UpdatePolicy: "partial"}, "alert-only": {Namespaces: []string{"Alert"}},
		"protobuf": {Protocol: "protobuf"},
	} {
		o.Path, o.HostID, o.ClientType = "/ws/subscriber", "sub-"+name, "tool"
		subs[name] = s.dial(o)
		eventually(t, "subscriber "+name, func() bool { return s.subs.Conn("sub-"+name) != nil })
	}
	publisher := func(policy string) *client {
		return s.dial(ws.DialOptions{Path: "/ws/publisher", HostID: "pubhost", ClientType: "pubtype", PersistencePolicy: policy})
	}
	pub := publisher(DeleteOnDisconnect)
	rest := map[string]func(path string, body json.RawMessage) error{
		"POST /api/node": func(_ string, body json.RawMessage) error {
			n := &graph.Node{}
			if err := json.Unmarshal(body, n); err != nil {
				return err
			}
			n.Origin = "api.golden-analyzer"
			return s.g.Update("", func(tx *graph.Tx) error { return tx.AddNode(n) })
		},
		"POST /api/edge": func(_ string, body json.RawMessage) error {
			e := &graph.Edge{}
			if err := json.Unmarshal(body, e); err != nil {
				return err
			}
			e.Origin = "api.golden-analyzer"
			return s.g.Update("", func(tx *graph.Tx) error { return tx.AddEdge(e) })
		},
		"PATCH /api/node/r1": func(string, json.RawMessage) error {
			return s.g.Update("", func(tx *graph.Tx) error {
				_, err := tx.SetNodeMetadata("r1", must(tx.Node("r1").Metadata.Set("K", field.Make("x", 1))))
				return err
			})
		},
		"DELETE /api/node/r1": func(string, json.RawMessage) error {
			return s.g.Update("", func(tx *graph.Tx) error { return tx.DeleteNode("r1", 0) })
		},
	}
	steps := readLines[step](t, "testdata/pubsub.jsonl")
	if len(steps) != 45 {
		t.Fatalf("%d steps", len(steps))
	}
	for _, st := range steps {
		before := s.g.Snapshot()
		switch {
		case st.Sends != nil:
			if strings.HasPrefix(st.Note, "a persistent publisher") {
				pub = publisher("Persistent")
			}
			pub.send(st.Sends)
		case st.SendsText != "":
			pub.send([]byte(st.SendsText))
		case st.Request != nil:
			var method, path string
			_ = json.Unmarshal(st.Request[0], &method)
			_ = json.Unmarshal(st.Request[1], &path)
			if f := rest[method+" "+path]; f != nil {
				body := json.RawMessage(nil)
				if len(st.Request) > 2 {
					body = st.Request[2]
				}
				if err := f(path, body); err != nil {
					t.Fatal(err)
				}
			}
		case strings.HasSuffix(st.Note, "closes") || strings.HasPrefix(st.Note, "publisher closes"):
			pub.conn.Close(ws.StatusNormal, "")
			<-pub.closed
			eventually(t, "publisher gone", func() bool { return len(s.pub.Status()) == 0 && s.pub.Conn("pubhost") == nil })
		}
		// Notifications come from parts outside this package; the vectors say which.
		for _, f := range st.Subscribers["full"] {
			if m := f.golden(t); m.Namespace != wire.NamespaceGraph {
				s.subs.Broadcast(m.Namespace, m.Type, m.Obj)
			}
		}
		if st.Sends != nil || st.SendsText != "" {
			got, reply := pub.sync(wire.SyncRequest{})
			want := map[bool]int{true: 1}[len(st.Receives) > 0]
			if len(got) != want {
				t.Errorf("%s: publisher got %d messages", st.Note, len(got))
			}
			if want == 1 && (got[0].UUID != "req-1" || !reflect.DeepEqual(graphOf(got[0].Body.(*wire.Sync)), graphOf(reply.Body.(*wire.Sync)))) {
				t.Errorf("%s: reply %+v", st.Note, got[0])
			}
		}
		after := s.g.Snapshot()
		s.subs.Broadcast(wire.NamespaceAlert, "Barrier", []byte("null"))
		for name, sub := range subs {
			var got []*wire.Message
			if name != "alert-only" {
				got, _ = sub.sync(wire.SyncRequest{})
			}
			barrier := func(m *wire.Message) bool { return m.Type == "Barrier" }
			if i := slices.IndexFunc(got, barrier); i >= 0 {
				got = slices.Delete(got, i, i+1)
			} else {
				more, _ := sub.until(barrier)
				got = append(got, more...)
			}
			// A notification may overtake an event or be overtaken.
			slices.SortStableFunc(got, func(a, b *wire.Message) int { return strings.Compare(b.Namespace, a.Namespace) })
			var have, want []string
			for _, m := range got {
				if u, ok := m.Body.(*wire.PartialUpdate); ok {
					checkOps(t, st.Note, u, before, after)
				}
				have = append(have, told(t, m, before, after))
			}
			for _, f := range st.Subscribers[name] {
				want = append(want, told(t, f.golden(t), before, after))
			}
			diff, ok := different[st.Note][name]
			if !ok && name != "alert-only" {
				diff, ok = different[st.Note]["*"]
			}
			switch {
			case ok && diff == "":
				want = nil
			case ok && strings.HasPrefix(diff, "Node"):
				want = strings.Split(diff, ", ")
				for i := range have {
					words := strings.Fields(have[i])
					have[i] = words[1] + " " + words[3]
				}
				slices.Sort(have)
				slices.Sort(want)
			case ok: // what the one message says of the element
				if len(have) != 1 || !strings.Contains(have[0], diff) && !strings.HasSuffix(have[0], "r2") {
					t.Errorf("%s: %s got %q, want %q", st.Note, name, have, diff)
				}
				continue
			}
			if !slices.Equal(have, want) {
				t.Errorf("%s: %s got\n  %s\nwant\n  %s", st.Note, name, strings.Join(have, "\n  "), strings.Join(want, "\n  "))
			}
		}
		checkGraph(t, st.Note, st.GraphAfter, after, different[st.Note])
	}
}

// checkOps proves that a partial update leads from the element before the step to the one after it (listed fault 5: the public
// server sends no operations after full updates and of edges).
func checkOps(t *testing.T, note string, u *wire.PartialUpdate, before, after *graph.Snapshot) {
	t.Helper()
	var old, now field.Object
	if n := after.Node(u.ID); n != nil {
		old, now = before.Node(u.ID).Metadata, n.Metadata
	} else {
		old, now = before.Edge(u.ID).Metadata, after.Edge(u.ID).Metadata
	}
	if got, err := field.Apply(old, u.Ops); err != nil || !field.Equal(got, now) {
		t.Errorf("%s: operations %v on %v give %v, want %v (%v)", note, u.Ops, old, got, now, err)
	}
}

func checkGraph(t *testing.T, note string, want json.RawMessage, have *graph.Snapshot, different map[string]string) {
	t.Helper()
	got := wire.NewSync(have.Nodes(field.Filter{}), have.Edges(field.Filter{}))
	if ids, ok := different["graph"]; ok {
		var all []string
		for _, n := range got.Nodes {
			all = append(all, n.ID)
		}
		slices.Sort(all)
		if strings.Join(all, ", ") != ids || len(got.Edges) != 0 {
			t.Errorf("%s: graph %v", note, all)
		}
		return
	}
	var golden []json.RawMessage
	if err := json.Unmarshal(want, &golden); err != nil {
		t.Fatal(err)
	}
	m := frame{JSON: fmt.Appendf(nil, `{"Namespace":"Graph","Type":"Sync","Obj":%s}`, golden[0])}.golden(t)
	w := m.Body.(*wire.Sync)
	for _, e := range w.Edges {
		if e.ID == "e2" && e.Revision == 1 && e.UpdatedAt == 1700000002000 { // listed fault 4
			e.Revision, e.Metadata = 2, field.Make("RelationType", "layer2", "Weight", 2)
		}
	}
	if have, want := graphOf(got), graphOf(w); !slices.Equal(have, want) {
		t.Errorf("%s: graph\n  %s\nwant\n  %s", note, strings.Join(have, "\n  "), strings.Join(want, "\n  "))
	}
}
