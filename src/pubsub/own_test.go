package pubsub

import (
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
