package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// deliveryTimeout is how long the server may take to read what was published
// before the connection is cut. It is long: a graph of 100,000 elements may be
// queued in front of the close frame.
const deliveryTimeout = 2 * time.Minute

// DialOptions are those of a WebSocket to path: address, TLS and credentials are
// this client's.
func (c *Client) DialOptions(path string) ws.DialOptions {
	o := ws.DialOptions{Addr: c.addr, Path: path, TLS: c.TLS, Logger: c.o.Logger}
	if token := c.token.Load(); token != nil {
		o.Token = *token
	} else {
		o.Username, o.Password = c.o.Username, c.o.Password
	}
	return o
}

// PublisherOptions say as what elements are published; the origin of the elements
// becomes "<ClientType>.<HostID>".
type PublisherOptions struct {
	Path        string // /ws/publisher
	HostID      string // the host name
	ClientType  string // CLI
	Persistence string // Persistent, or DeleteOnDisconnect
}

// Publisher sends graph elements.
type Publisher struct {
	conn *ws.Conn
}

// Publish connects, runs fn and closes once the server has read everything that
// fn sent. It is an error too when the server ends the connection before.
func (c *Client) Publish(ctx context.Context, o PublisherOptions, fn func(*Publisher) error) error {
	d := c.DialOptions(cmp.Or(o.Path, "/ws/publisher"))
	d.HostID, d.ClientType, d.PersistencePolicy = o.HostID, cmp.Or(o.ClientType, "CLI"), cmp.Or(o.Persistence, "Persistent")
	if d.HostID == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		d.HostID = name
	}
	d.Config.CloseTimeout = deliveryTimeout
	conn, err := ws.Dial(ctx, d)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- conn.Run(ctx, func(*ws.Conn) (ws.Session, error) { return nil, nil }) }()
	err = fn(&Publisher{conn: conn})
	if errors.Is(err, ws.ErrClosed) {
		err = nil // the reason comes from the connection
	}
	conn.Close(ws.StatusNormal, "")
	if closed := <-ended; err == nil && closed != nil {
		err = fmt.Errorf("publish: %w", closed)
	}
	return cmp.Or(err, ctx.Err())
}

// Send publishes one message, waiting while too many are on their way. It may be
// called by one goroutine at a time.
func (p *Publisher) Send(ctx context.Context, m *wire.Message) error {
	return p.conn.SendWait(ctx, m.Append(nil, wire.JSON))
}

// AddNode publishes a node.
func (p *Publisher) AddNode(ctx context.Context, n *graph.Node) error {
	return p.Send(ctx, &wire.Message{Namespace: wire.NamespaceGraph, Type: wire.TypeNodeAdded, UUID: graph.NewID(), Status: http.StatusOK, Body: n})
}

// AddEdge publishes an edge; its nodes must be there already.
func (p *Publisher) AddEdge(ctx context.Context, e *graph.Edge) error {
	return p.Send(ctx, &wire.Message{Namespace: wire.NamespaceGraph, Type: wire.TypeEdgeAdded, UUID: graph.NewID(), Status: http.StatusOK, Body: e})
}

// SubscriberOptions say what to receive.
type SubscriberOptions struct {
	Path          string // /ws/subscriber
	HostID        string // "": the server takes the address
	ClientType    string // CLI
	Protocol      string // json or protobuf
	GremlinFilter string // only this sub-graph
	UpdatePolicy  string // full or partial
	Namespaces    []string
	Sync          bool       // ask for the graph first; a SyncReply answers
	Time          graph.Time // the graph as it was then; 0 = now
}

// Stop, returned by a subscriber's handler, ends the subscription without error.
var Stop = errors.New("stop")

// Subscribe connects and calls handle for each message, in order, until ctx ends,
// handle returns an error, or the connection is lost. The end of ctx and Stop are
// no errors. Messages that cannot be decoded are logged and left out.
func (c *Client) Subscribe(ctx context.Context, o SubscriberOptions, handle func(*wire.Message) error) error {
	d := c.DialOptions(cmp.Or(o.Path, "/ws/subscriber"))
	d.HostID, d.ClientType, d.Protocol = o.HostID, cmp.Or(o.ClientType, "CLI"), o.Protocol
	d.GremlinFilter, d.UpdatePolicy, d.Namespaces = o.GremlinFilter, o.UpdatePolicy, o.Namespaces
	protocol, err := wire.ParseProtocol(o.Protocol)
	if err != nil {
		return err
	}
	conn, err := ws.Dial(ctx, d)
	if err != nil {
		return err
	}
	s := &subscription{client: c, conn: conn, handle: handle, protocol: protocol, decoder: wire.NewDecoder()}
	err = conn.Run(ctx, func(*ws.Conn) (ws.Session, error) {
		if !o.Sync {
			return s, nil
		}
		request := wire.Message{Namespace: wire.NamespaceGraph, Type: wire.TypeSyncRequest, UUID: graph.NewID(), Status: http.StatusOK, Body: &wire.SyncRequest{Time: o.Time}}
		return s, conn.Send(request.Append(nil, protocol))
	})
	if s.err != nil {
		err = s.err
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, Stop) {
		return nil
	}
	return fmt.Errorf("subscribe: %w", err)
}

// subscription is the session of a subscriber.
type subscription struct {
	client   *Client
	conn     *ws.Conn
	handle   func(*wire.Message) error
	protocol wire.Protocol
	decoder  *wire.Decoder
	err      error // from handle; nothing is handed to it afterwards
}

// Receive hands a message on.
func (s *subscription) Receive(r io.Reader) error {
	if s.err != nil {
		return nil
	}
	m, err := s.decoder.Decode(r, s.protocol)
	if err != nil {
		s.client.o.Logger.Warn("message of the server cannot be decoded", "path", s.conn.Peer().Path, "error", err)
		return nil
	}
	if s.err = s.handle(m); s.err != nil {
		s.conn.Close(ws.StatusNormal, "")
	}
	return nil
}

// Closed has nothing to do: Subscribe returns the reason.
func (s *subscription) Closed(error) {}
