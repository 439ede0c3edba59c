package analyzer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/pubsub"
	"skydive/src/wire"
	"skydive/src/ws"
)

func (s *replica) status() ReplicasStatus { return s.replicas.Status().(ReplicasStatus) }

// TestReplicaItself: an analyzer that finds only itself at its addresses is alone, says so, keeps nothing, and behaves as one that has no
// addresses at all.
func TestReplicaItself(t *testing.T) {
	addr := freeAddrs(t, 1)[0]
	alias := newTap(t, addr)
	s := newReplica(t, "a1", addr, replicaSetup{addrs: func(string) []string { return []string{addr, alias.l.Addr().String(), addr} }})
	eventually(t, "alone", func() error {
		if st := s.status(); st.Replication.State != "alone" || len(st.Incomers)+len(st.Outgoers) > 0 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	if hosts, absent := s.replicas.Hosts(), s.replicas.Absent(); len(hosts)+len(absent) > 0 {
		t.Errorf("hosts %v, absent %v", hosts, absent)
	}
	p := dial(t, addr, "h1", pubsub.DeleteOnDisconnect)
	p.send(&wire.Message{Namespace: "Graph", Type: "Sync", Body: &wire.Sync{Nodes: []*graph.Node{{Element: graph.Element{ID: "n", Host: "h1", Origin: "agent.h1"}}}}})
	nodes(t, "agent", s.g, 1)
	alias.cut() // the agent's connection is not that
	p.conn.Close(ws.StatusTryAgain, "")
	nodes(t, "agent is gone", s.g, 0)
	s.stop()
	if s.replicas.store != nil {
		t.Error("it keeps what nobody will ask for")
	}
}

// TestReplicaSameHostID: two analyzers of one name do not mix, and each says who the other is.
func TestReplicaSameHostID(t *testing.T) {
	addrs := freeAddrs(t, 2)
	setup := replicaSetup{addrs: func(string) []string { return addrs }}
	a, b := newReplica(t, "a1", addrs[0], setup), newReplica(t, "a1", addrs[1], setup)
	for i, s := range []*replica{a, b} {
		eventually(t, "refused", func() error {
			for _, st := range s.status().Outgoers {
				if st.State == ws.Failed && fmt.Sprintf("127.0.0.1:%d", st.Port) == addrs[1-i] && strings.Contains(st.Reason, "another host_id") && strings.Contains(st.Reason, "127.0.0.1:") {
					return nil
				}
			}
			return fmt.Errorf("%+v", s.status())
		})
	}
	a.add("n")
	if b.g.Snapshot().NodeCount() > 0 || len(a.replicas.Hosts()) > 0 {
		t.Error("they are connected")
	}
}

// TestReplicaAway: who cannot be reached is named, with the reason.
func TestReplicaAway(t *testing.T) {
	addrs := freeAddrs(t, 2)
	s := newReplica(t, "a1", addrs[0], replicaSetup{addrs: func(string) []string { return addrs }})
	eventually(t, "refused", func() error {
		st := s.status()
		if out := st.Outgoers[addrs[1]]; out.State != ws.Failed || !strings.Contains(out.Reason, "refused") || out.Since.IsZero() || st.Replication.State != "partitioned" {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	if absent := s.replicas.Absent(); !slices.Equal(absent, addrs[1:]) {
		t.Errorf("%v", absent)
	}
	if _, err := s.replicas.Request(t.Context(), "a2", &wire.Message{Namespace: "Archive", Type: "X"}); !errors.Is(err, ErrNoAnalyzer) {
		t.Errorf("%v", err)
	}
}

// TestReplicaRequest: analyzers can ask each other for whatever they agree on.
func TestReplicaRequest(t *testing.T) {
	blocked := make(chan struct{})
	all := newReplicas(t, 2, replicaSetup{answer: func(ctx context.Context, m *wire.Message) *wire.Message {
		switch m.Type {
		case "Echo":
			reply := m.Reply("EchoReply", 200, nil)
			reply.Obj = m.Obj
			return reply
		case "Block":
			close(blocked)
			<-ctx.Done()
		case "Panic":
			panic("as asked for")
		}
		return nil
	}})
	// Of two connections one is given up: a question may be lost with it.
	ask := func(ctx context.Context, typ string) (m *wire.Message, err error) {
		eventually(t, "asked", func() error {
			m, err = all[0].replicas.Request(ctx, "a2", &wire.Message{Namespace: "Archive", Type: typ, Obj: []byte(`{"a":1}`)})
			if errors.Is(err, ErrNoAnalyzer) {
				return err
			}
			return nil
		})
		return m, err
	}
	m, err := ask(t.Context(), "Echo")
	if err != nil || m.Type != "EchoReply" || string(m.Obj) != `{"a":1}` {
		t.Errorf("%+v %v", m, err)
	}
	if m, err = ask(t.Context(), "Panic"); err != nil || m.Status != http.StatusInternalServerError {
		t.Errorf("%+v %v", m, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = ask(ctx, "None"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := all[0].replicas.Request(t.Context(), "a2", &wire.Message{Namespace: "Archive", Type: "Block"})
		done <- err
	}()
	select {
	case <-blocked:
	case <-time.After(patience):
		t.Fatal("not asked")
	}
	all[1].stop()
	if err := <-done; !errors.Is(err, ErrNoAnalyzer) {
		t.Errorf("%v", err)
	}
}

// publish connects a publisher.
func publish(t *testing.T, addr, id, policy string) *peer {
	t.Helper()
	conn, err := ws.Dial(t.Context(), ws.DialOptions{Addr: addr, Path: "/ws/publisher", HostID: id, ClientType: "tool", Protocol: "json", PersistencePolicy: policy, Config: quick})
	if err != nil {
		t.Fatal(err)
	}
	return runPeer(t, conn)
}

func runPeer(t *testing.T, conn *ws.Conn) *peer {
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

func tool(id string) *graph.Node {
	return &graph.Node{Element: graph.Element{ID: id, Metadata: field.Make("Name", id, "Type", "device")}}
}

// TestReplicaPublisher: what a publisher left at one analyzer stays when it goes on at another, though these could not talk; and what goes with
// its connection goes everywhere, but not while it has another.
func TestReplicaPublisher(t *testing.T) {
	c := newChaos(t, 1, 2, 0)
	c.linked()
	a, b := c.all[0], c.all[1]
	p := publish(t, a.addr, "p", "Persistent")
	p.send(&wire.Message{Namespace: "Graph", Type: wire.TypeNodeAdded, Body: tool("x")})
	equal(t, "x", a, b)
	nodes(t, "x", b.g, 1)
	c.cut("a1", "a2")
	unlinked(t, a)
	unlinked(t, b)
	p.send(&wire.Message{Namespace: "Graph", Type: wire.TypeNodeAdded, Body: tool("y")})
	nodes(t, "y", a.g, 2)
	p.conn.Close(ws.StatusNormal, "")
	q := publish(t, b.addr, "p", "Persistent")
	q.send(&wire.Message{Namespace: "Graph", Type: wire.TypeNodeAdded, Body: tool("z")})
	nodes(t, "z", b.g, 2)
	c.heal()
	c.linked()
	nodes(t, "all", a.g, 3)
	equal(t, "all", a, b)

	one := publish(t, a.addr, "e", pubsub.DeleteOnDisconnect)
	one.send(&wire.Message{Namespace: "Graph", Type: wire.TypeNodeAdded, Body: tool("passing")})
	nodes(t, "passing", b.g, 4)
	two := publish(t, b.addr, "e", pubsub.DeleteOnDisconnect)
	eventually(t, "known at the other", func() error {
		a.replicas.mu.Lock()
		defer a.replicas.mu.Unlock()
		if !a.replicas.present["tool.e"] {
			return errors.New("not yet")
		}
		return nil
	})
	two.send(&wire.Message{Namespace: "Graph", Type: wire.TypeNodeAdded, Body: tool("passing too")})
	nodes(t, "passing too", a.g, 5)
	one.conn.Close(ws.StatusNormal, "")
	<-one.end
	eventually(t, "disconnected", func() error {
		if a.publisher.Conn("e") != nil {
			return errors.New("still there")
		}
		return nil
	})
	a.add("mark") // behind all that may have come of it
	nodes(t, "it is still there", b.g, 6)
	two.conn.Close(ws.StatusNormal, "")
	for _, s := range c.all {
		nodes(t, "gone with its last connection", s.g, 4)
	}
}

// TestReplicaPublic: a public analyzer is sent the graph and then events, adds what it has, and is not confused with what it does not know.
func TestReplicaPublic(t *testing.T) {
	all := newReplicas(t, 2, replicaSetup{})
	all[0].add("ours")
	equal(t, "start", all...)
	conn, err := ws.Dial(t.Context(), ws.DialOptions{Addr: all[0].addr, Path: "/ws/replication", HostID: "public", ClientType: "analyzer", Protocol: "json", Config: quick})
	if err != nil {
		t.Fatal(err)
	}
	p := runPeer(t, conn)
	next := func(typ string) *wire.Message {
		t.Helper()
		for {
			select {
			case m := <-p.got:
				if m.Namespace != "Graph" {
					t.Errorf("sent %s %s", m.Namespace, m.Type)
				}
				if m.Type == typ {
					return m
				}
				t.Errorf("sent %s", m.Type)
			case <-time.After(patience):
				t.Fatalf("no %s", typ)
			}
		}
	}
	if s := next("Sync").Body.(*wire.Sync); len(s.Nodes) != 1 || s.Nodes[0].ID != "ours" {
		t.Errorf("%+v", s)
	}
	theirs := &graph.Node{Element: graph.Element{ID: "theirs", Origin: "agent.h7", Host: "h7", CreatedAt: 5, UpdatedAt: 5, Revision: 1}}
	p.send(&wire.Message{Namespace: "Graph", Type: "Sync", Body: &wire.Sync{Nodes: []*graph.Node{theirs}}})
	for _, s := range all {
		nodes(t, "theirs", s.g, 2)
	}
	update := *theirs
	update.Revision, update.UpdatedAt, update.Metadata = 2, 9, field.Make("k", "v")
	p.send(&wire.Message{Namespace: "Graph", Type: wire.TypeNodeUpdated, Body: &update})
	text(t, "update", "theirs", "k", "v", all...)
	all[0].set("ours", "k", "w")
	if u := next("NodePartiallyUpdated").Body.(*wire.PartialUpdate); u.ID != "ours" || len(u.Ops) != 1 {
		t.Errorf("%+v", u)
	}
	p.send(&wire.Message{Namespace: "Graph", Type: wire.TypeNodeDeleted, Body: &update})
	for _, s := range all {
		nodes(t, "deleted", s.g, 1)
	}
	all[0].delete("ours")
	if n := next("NodeDeleted").Body.(*graph.Node); n.ID != "ours" {
		t.Errorf("%+v", n)
	}
}

// TestReplicaOverflow: commits that were lost are made good from the graph.
func TestReplicaOverflow(t *testing.T) {
	all := newReplicas(t, 2, replicaSetup{})
	all[0].add("a")
	all[0].add("b")
	all[0].update(func(tx *graph.Tx) error {
		return tx.AddEdge(&graph.Edge{Element: graph.Element{ID: "ab", Origin: "api.a1"}, Parent: "a", Child: "b"})
	})
	equal(t, "start", all...)
	done := make(chan struct{})
	hold := make(chan struct{})
	all[0].replicas.inbox <- replicaEvent{hook: func() { close(done); <-hold }} // Run does nothing else meanwhile
	<-done
	for i := range replicaQueue + 10 {
		all[0].update(func(tx *graph.Tx) error {
			m, err := tx.Node("a").Metadata.Set("N", int64(i))
			if err == nil {
				_, err = tx.SetNodeMetadata("a", m)
			}
			return err
		})
	}
	all[0].delete("b")
	all[0].add("c")
	close(hold)
	equal(t, "after the overflow", all...)
	nodes(t, "b has gone", all[1].g, 2)
	if value(all[0].replicas.metrics.lostCommits) != 1 {
		t.Error("nothing was lost")
	}
}

// TestReplicaPanic: a fault of ours costs the connections, and nothing else.
func TestReplicaPanic(t *testing.T) {
	all := newReplicas(t, 2, replicaSetup{})
	all[0].add("a")
	equal(t, "start", all...)
	all[0].replicas.inbox <- replicaEvent{hook: func() { panic("as asked for") }}
	all[0].add("b")
	all[1].add("c")
	linked(t, all...)
	nodes(t, "all", all[0].g, 3)
	equal(t, "after the fault", all...)
}

// TestReplicaGarbage: whatever comes from a peer, what is there stays.
func TestReplicaGarbage(t *testing.T) {
	s := newReplica(t, "a1", freeAddrs(t, 1)[0], replicaSetup{})
	conn, err := ws.Dial(t.Context(), ws.DialOptions{Addr: s.addr, Path: "/ws/replication", HostID: "a2", ClientType: "analyzer", Protocol: "json",
		Namespaces: []string{"*", wire.NamespaceReplica}, Config: quick})
	if err != nil {
		t.Fatal(err)
	}
	s.add("n")
	before := shown(s.g)
	p := runPeer(t, conn)
	for _, text := range []string{
		`{"Namespace":"Replica","Type":"Elements","UUID":"x","Obj":{"Items":[{"Type":"NodeDeleted","At":1,"By":1,"Obj":{"ID":"n","Origin":"api.a1"}}]}}`,
		`{"Namespace":"Replica","Type":"Changes","Obj":{"Items":[{"Type":"EdgeAdded","At":1,"By":1,"Obj":{"ID":"e","Origin":"api.a2","Parent":"n","Child":"nowhere"}}]}}`,
		`{"Namespace":"Replica","Type":"Changes","Obj":{"Items":[{"Type":"NodePartiallyUpdated","At":1,"By":1,"Obj":{"ID":"nothing","Ops":null}}]}}`,
		`{"Namespace":"Replica","Type":"Changes","Obj":{"Claims":[{"Origin":"agent.x","Holder":"a9","Epoch":1}],"Items":[{"Type":"NodeAdded","At":1,"By":1,"Obj":{"ID":"x","Origin":"agent.x"}}]}}`,
		`{"Namespace":"Replica","Type":"List","UUID":"x","Obj":{"Claim":{"Origin":"api.a1"},"Items":[]}}`,
		`{"Namespace":"Replica","Type":"ListRequest","Obj":{"Origin":"nothing"}}`,
		`{"Namespace":"Replica","Type":"ElementsRequest","Obj":{"Items":[[1,"nothing",0,0,0]]}}`,
		`{"Namespace":"Replica","Type":"Claims","Obj":null}`,
		`{"Namespace":"Graph","Type":"NodeDeleted","Obj":{"ID":"n"}}`, // one of ours does not say it like that
		`{"Namespace":"Later","Type":"Unknown","Obj":null}`,
		`{"Namespace":"Replica","Type":"Claims","Obj":{"Full":5}}`,
	} {
		p.raw([]byte(text))
	}
	var farewell ws.CloseError
	if err := <-p.end; !errors.As(err, &farewell) || farewell.Code != ws.StatusPolicy {
		t.Errorf("%v", err)
	}
	eventually(t, "disconnected", func() error {
		if hosts := s.replicas.Hosts(); len(hosts) > 0 {
			return fmt.Errorf("%v", hosts)
		}
		return nil
	})
	if after := shown(s.g); after != before {
		t.Errorf("%s\n--\n%s", before, after)
	}
}
