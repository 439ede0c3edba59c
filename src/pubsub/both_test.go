package pubsub

import (
	"strings"
	"testing"

	"skydive/src/wire"
	"skydive/src/ws"
)

// TestBoth: one connection changes the graph, is told of changes through its filter, and is answered as a subscriber.
func TestBoth(t *testing.T) {
	for _, protocol := range []wire.Protocol{wire.JSON, wire.Protobuf} {
		s := newServer(t, ws.Config{})
		c := s.dial(ws.DialOptions{Path: "/ws/pubsub", HostID: "b", ClientType: "tool", Protocol: string(protocol),
			GremlinFilter: "G.V().Has('Rack', 'r1').SubGraph()", PersistencePolicy: DeleteOnDisconnect})
		say := func(typ string, body wire.Body) {
			m := wire.Message{Namespace: "Graph", Type: typ, Body: body}
			c.send(m.Append(nil, protocol))
		}
		const n = 200
		for i := range n {
			name := string(rune('a'+i%26)) + strings.Repeat("x", i)
			rack := "r2"
			if i%2 == 0 {
				rack = "r1"
			}
			say(wire.TypeNodeAdded, testNode(name, 1, "Rack", rack))
		}
		// The answer has all that was said before, as far as the filter lets it through.
		_, reply := c.sync(wire.SyncRequest{})
		if got := reply.Body.(*wire.Sync); len(got.Nodes) != n/2 || got.Nodes[0].Origin != "tool.b" {
			t.Errorf("%s: %d nodes %+v", protocol, len(got.Nodes), got.Nodes[0])
		}
		all := ""
		if _, reply := c.sync(wire.SyncRequest{GremlinFilter: &all}); len(reply.Body.(*wire.Sync).Nodes) != n {
			t.Errorf("%s: %+v", protocol, reply)
		}
		say(wire.TypeNodeDeleted, testNode("a", 2))
		before, _ := c.until(func(m *wire.Message) bool { return m.Type == wire.TypeNodeDeleted })
		for _, m := range before {
			if m.Type != wire.TypeNodeAdded {
				t.Errorf("%s: %s", protocol, m.Type)
			}
		}
		s.both.Broadcast("Alert", "Alert", []byte(`{}`))
		c.until(func(m *wire.Message) bool { return m.Namespace == "Alert" })
		if st := s.both.Status()["b"]; !st.IsConnected || st.Refused != 0 {
			t.Errorf("%s: %+v", protocol, st)
		}
		c.conn.Close(ws.StatusNormal, "")
		eventually(t, "its nodes go", func() bool { return s.g.Snapshot().NodeCount() == 0 })
		eventually(t, "it is forgotten", func() bool {
			s.both.subscribers.mu.Lock()
			defer s.both.subscribers.mu.Unlock()
			return len(s.both.Status()) == 0 && len(s.both.subscribers.all) == 0
		})
	}
}

func TestBothRefuses(t *testing.T) {
	s := newServer(t, ws.Config{})
	for _, o := range []ws.DialOptions{
		{GremlinFilter: "G.V("}, {GremlinFilter: "G.V().Count()"}, {UpdatePolicy: "some"}, {HostID: "me", ClientType: "agent"},
	} {
		o.Path = "/ws/pubsub"
		if o.ClientType == "" {
			o.HostID, o.ClientType = "b", "tool"
		}
		var closed ws.CloseError
		if err := <-s.dial(o).closed; !asClose(err, &closed) || closed.Code != ws.StatusNormal || closed.Reason == "" {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if len(s.both.Status()) != 0 || len(s.both.subscribers.all) != 0 {
		t.Errorf("%v", s.both.Status())
	}
}
