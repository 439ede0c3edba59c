package pubsub

import (
	"fmt"
	"strings"
	"testing"

	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// TestOwn: peers may add to what the service itself keeps up, but neither delete it nor speak in its name.
func TestOwn(t *testing.T) {
	s := newServer(t, ws.Config{})
	own, peerNode := testNode("own", 1), testNode("own2", 1)
	own.Origin, peerNode.Origin = "agent.me", "agent.me"
	link := testEdge("link", "own", "own2")
	link.Origin = "agent.me"
	if err := s.g.Update("", func(tx *graph.Tx) error {
		if err := tx.AddNode(own); err != nil {
			return err
		}
		if err := tx.AddNode(peerNode); err != nil {
			return err
		}
		return tx.AddEdge(link)
	}); err != nil {
		t.Fatal(err)
	}
	p := s.dial(ws.DialOptions{Path: "/ws/publisher", HostID: "p", ClientType: "tool"})
	for _, m := range []*wire.Message{
		{Type: wire.TypeNodeDeleted, Body: own},
		{Type: wire.TypeEdgeDeleted, Body: link},
		{Type: wire.TypeNodeUpdated, Body: testNode("own", 2, "Rack", "r1")},
		{Type: wire.TypeNodeAdded, Body: testNode("mine", 1)},
		{Type: wire.TypeNodeDeleted, Body: testNode("mine", 1)},
	} {
		m.Namespace = "Graph"
		p.send(m.Append(nil, wire.JSON))
	}
	p.sync(wire.SyncRequest{})
	g := s.g.Snapshot()
	if n := g.Node("own"); n == nil || n.Metadata.Text("Rack") != "r1" || n.Origin != "agent.me" || g.Edge("link") == nil || g.Node("mine") != nil {
		t.Errorf("%+v %+v", n, g.Edge("link"))
	}
	if st := s.pub.Status()["p"]; st.Refused != 2 || !strings.Contains(st.RefusedReason, wire.ErrKept.Error()) {
		t.Errorf("%+v", st)
	}

	thief := s.dial(ws.DialOptions{Path: "/ws/publisher", HostID: "me", ClientType: "agent", PersistencePolicy: DeleteOnDisconnect})
	var closed ws.CloseError
	if err := <-thief.closed; !asClose(err, &closed) || closed.Code != ws.StatusNormal || !strings.Contains(closed.Reason, "agent.me") {
		t.Errorf("%v", err)
	}
	if n := s.g.Snapshot().NodeCount(); n != 2 {
		t.Errorf("%d nodes", n)
	}
}

// TestRestartedPublisher: a publisher that counts its revisions anew is followed from its Sync on, whatever the graph counted before. What
// others follow is changed only by what is newer than the graph.
func TestRestartedPublisher(t *testing.T) {
	s := newServer(t, ws.Config{})
	update(t, s.g, func(tx *graph.Tx) error { return tx.AddNode(testNode("other", 7, "Rack", "0")) })
	for _, life := range []struct{ first, second, other int64 }{{6, 7, 8}, {1, 2, 3}, {2, 3, 30}} {
		p := s.dial(ws.DialOptions{Path: "/ws/publisher", HostID: "p", ClientType: "tool"})
		for _, m := range []*wire.Message{
			{Type: wire.TypeSync, Body: &wire.Sync{Nodes: []*graph.Node{testNode("n", life.first, "Rack", "1"), testNode("same", life.first)}}},
			{Type: wire.TypeNodeUpdated, Body: testNode("n", life.second, "Rack", "2")},
			{Type: wire.TypeNodeUpdated, Body: testNode("same", life.second, "Rack", "2")},
			{Type: wire.TypeNodeUpdated, Body: testNode("n", life.second, "Rack", "late")},
			{Type: wire.TypeNodeUpdated, Body: testNode("other", life.other, "Rack", fmt.Sprint(life.other))},
		} {
			m.Namespace = "Graph"
			p.send(m.Append(nil, wire.JSON))
		}
		p.sync(wire.SyncRequest{})
		g := s.g.Snapshot()
		for id, want := range map[string]string{"n": "2", "same": "2", "other": map[int64]string{8: "8", 3: "8", 30: "30"}[life.other]} {
			if n := g.Node(id); n == nil || n.Metadata.Text("Rack") != want {
				t.Errorf("%+v: %s is %+v", life, id, n)
			}
		}
		// What somebody else changes since is newer than what the publisher knows of.
		before := g.Node("other").Revision
		set(t, s.g, "other", "Seen", before)
		set(t, s.g, "other", "Seen", before+1)
		stale := wire.Message{Namespace: "Graph", Type: wire.TypeNodeUpdated, Body: testNode("other", before+1, "Rack", "stale")}
		p.send(stale.Append(nil, wire.JSON))
		p.sync(wire.SyncRequest{})
		if n := s.g.Snapshot().Node("other"); n.Metadata.Text("Rack") == "stale" {
			t.Errorf("%+v: %+v", life, n)
		}
		p.conn.Close(ws.StatusNormal, "")
		eventually(t, "gone", func() bool { return s.pub.Conn("p") == nil })
	}
}
