package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// session is the server's end of one connection.
type session struct {
	receive  func(*wire.Message) error
	protocol wire.Protocol
	decoder  *wire.Decoder
	closed   chan error
}

func (s *session) Receive(r io.Reader) error {
	m, err := s.decoder.Decode(r, s.protocol)
	if err != nil {
		return err
	}
	return s.receive(m)
}

func (s *session) Closed(err error) { s.closed <- err }

// newServer serves path with sessions made by connect.
func newServer(t *testing.T, path string, connect func(*ws.Conn) func(*wire.Message) error) (*Client, chan error) {
	t.Helper()
	closed := make(chan error, 10)
	endpoint := ws.NewEndpoint(ws.EndpointOptions{
		Path: path, HostID: "me", ServiceType: "analyzer", Metrics: ws.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler),
		Authenticate: func(r *http.Request) (string, []*http.Cookie, error) {
			if user, password, _ := r.BasicAuth(); user != "admin" || password != "p" {
				return "", nil, errors.New("Wrong credentials")
			}
			return "admin", nil, nil
		},
		Authorize: func(string, string) bool { return true },
		Connect: func(c *ws.Conn) (ws.Session, error) {
			protocol, err := wire.ParseProtocol(c.Peer().Protocol)
			return &session{connect(c), protocol, wire.NewDecoder(), closed}, err
		},
	})
	mux := http.NewServeMux()
	mux.Handle(path, endpoint)
	return newClient(t, mux, Options{Username: "admin", Password: "p"}), closed
}

func TestPublish(t *testing.T) {
	var peer ws.Peer
	var got []*wire.Message
	c, closed := newServer(t, "/ws/publisher", func(conn *ws.Conn) func(*wire.Message) error {
		peer = conn.Peer()
		return func(m *wire.Message) error { got = append(got, m); return nil }
	})
	const n = 30000 // more than a send queue holds
	err := c.Publish(t.Context(), PublisherOptions{HostID: "h"}, func(p *Publisher) error {
		for i := range n {
			node := &graph.Node{Element: graph.Element{ID: fmt.Sprint(i), Metadata: field.Make("Name", fmt.Sprint("n", i))}}
			if err := p.AddNode(t.Context(), node); err != nil {
				return err
			}
		}
		return p.AddEdge(t.Context(), &graph.Edge{Element: graph.Element{ID: "e"}, Parent: "0", Child: "1"})
	})
	if err != nil {
		t.Fatal(err)
	}
	// All of it was read before Publish returned, or is being told now.
	<-closed
	if len(got) != n+1 {
		t.Fatalf("server got %d of %d messages", len(got), n+1)
	}
	if node, ok := got[n-1].Body.(*graph.Node); !ok || got[n-1].Type != "NodeAdded" || got[n-1].Namespace != "Graph" || node.ID != fmt.Sprint(n-1) {
		t.Errorf("last node: %+v", got[n-1])
	}
	if edge, ok := got[n].Body.(*graph.Edge); !ok || got[n].Type != "EdgeAdded" || edge.Parent != "0" || edge.Child != "1" {
		t.Errorf("edge: %+v", got[n])
	}
	if peer.Origin() != "CLI.h" || peer.PersistencePolicy != "Persistent" || peer.Protocol != "" {
		t.Errorf("server sees %+v", peer)
	}
}

func TestPublishRefused(t *testing.T) {
	c, _ := newServer(t, "/ws/publisher", func(conn *ws.Conn) func(*wire.Message) error {
		return func(m *wire.Message) error { return errors.New("disk is full") }
	})
	err := c.Publish(t.Context(), PublisherOptions{}, func(p *Publisher) error {
		for {
			if err := p.AddNode(t.Context(), &graph.Node{Element: graph.Element{ID: "n"}}); err != nil {
				return err
			}
		}
	})
	if err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("Publish: %v, want the server's reason", err)
	}
	own := errors.New("file is broken")
	if err := c.Publish(t.Context(), PublisherOptions{}, func(p *Publisher) error { return own }); !errors.Is(err, own) {
		t.Errorf("Publish: %v, want fn's error", err)
	}
	bad, err := New(Options{Analyzer: c.Addr(), Username: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	if err := bad.Publish(t.Context(), PublisherOptions{}, func(*Publisher) error { return nil }); err == nil || !strings.Contains(err.Error(), "401 Unauthorized: Wrong credentials") {
		t.Errorf("Publish: %v, want the refusal", err)
	}
}

func TestSubscribe(t *testing.T) {
	for _, protocol := range []wire.Protocol{wire.JSON, wire.Protobuf} {
		c, _ := newServer(t, "/ws/subscriber", func(conn *ws.Conn) func(*wire.Message) error {
			if p := conn.Peer(); p.GremlinFilter != "G" || p.UpdatePolicy != "partial" || !p.Wants("Graph") || p.Wants("Alert") {
				t.Errorf("server sees %+v", p)
			}
			return func(m *wire.Message) error {
				request, ok := m.Body.(*wire.SyncRequest)
				if !ok || m.Type != "SyncRequest" || request.Time != 5 || request.GremlinFilter != nil {
					t.Errorf("request %+v", m)
				}
				node := &graph.Node{Element: graph.Element{ID: "n", Metadata: field.Make("Name", "eth0")}}
				_ = conn.Send(m.Reply(wire.TypeSyncReply, 200, &wire.Sync{Nodes: []*graph.Node{node}}).Append(nil, protocol))
				_ = conn.Send([]byte("\xffrubbish"))
				for range 3 {
					_ = conn.Send((&wire.Message{Namespace: "Graph", Type: wire.TypeNodeUpdated, Status: 200, Body: node}).Append(nil, protocol))
				}
				return nil
			}
		})
		var types []string
		options := SubscriberOptions{Protocol: string(protocol), GremlinFilter: "G", UpdatePolicy: "partial", Namespaces: []string{"Graph"}, Sync: true, Time: 5}
		err := c.Subscribe(t.Context(), options, func(m *wire.Message) error {
			types = append(types, m.Type)
			if sync, ok := m.Body.(*wire.Sync); ok && (len(sync.Nodes) != 1 || sync.Nodes[0].ID != "n") {
				t.Errorf("sync %+v", sync)
			}
			if len(types) == 3 {
				return Stop
			}
			return nil
		})
		if err != nil || strings.Join(types, " ") != "SyncReply NodeUpdated NodeUpdated" {
			t.Errorf("got %v, %v", types, err)
		}
		own := errors.New("enough")
		if err := c.Subscribe(t.Context(), options, func(*wire.Message) error { return own }); !errors.Is(err, own) {
			t.Errorf("handler's error: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := c.Subscribe(ctx, options, func(*wire.Message) error { cancel(); return nil }); err != nil {
			t.Errorf("end of the context: %v", err)
		}
	}
}

func TestSubscribeLost(t *testing.T) {
	c, _ := newServer(t, "/ws/subscriber", func(conn *ws.Conn) func(*wire.Message) error {
		return func(*wire.Message) error { conn.Close(ws.StatusGoingAway, "server is stopping"); return nil }
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := c.Subscribe(ctx, SubscriberOptions{Sync: true}, func(*wire.Message) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "server is stopping") {
		t.Errorf("got %v", err)
	}
}
