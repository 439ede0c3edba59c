package pubsub

import (
	"context"
	"io"

	"skydive/src/wire"
	"skydive/src/ws"
)

// Both is an endpoint whose peers are publishers and subscribers at once, on one connection: /ws/pubsub.
type Both struct {
	*ws.Endpoint
	publisher   *Publisher
	subscribers *Subscribers
}

// NewBoth returns an inert endpoint, that of p; what s says of an endpoint does not count.
func NewBoth(p PublisherOptions, s SubscriberOptions) *Both {
	endpoint := p.Endpoint
	s.Endpoint = endpoint
	b := &Both{publisher: NewPublisher(p), subscribers: NewSubscribers(s)}
	endpoint.Connect = b.connect
	b.Endpoint = ws.NewEndpoint(endpoint)
	b.publisher.Endpoint, b.subscribers.Endpoint = b.Endpoint, b.Endpoint
	return b
}

// Publisher is the half that writes what peers send into the graph.
func (b *Both) Publisher() *Publisher { return b.publisher }

// Run serves peers until ctx ends.
func (b *Both) Run(ctx context.Context) error { return b.publisher.Run(ctx) }

// Status describes the connections by host id.
func (b *Both) Status() map[string]PublisherStatus { return b.publisher.Status() }

// Broadcast tells all peers something that is not in the graph, as Subscribers.Broadcast does.
func (b *Both) Broadcast(namespace, typ string, obj []byte) {
	b.subscribers.Broadcast(namespace, typ, obj)
}

// both is one connected peer.
type both struct {
	publisher  *session
	subscriber *subscriber
}

func (b *Both) connect(c *ws.Conn) (ws.Session, error) {
	p, err := b.publisher.connect(c)
	if err != nil {
		return nil, err
	}
	s, err := b.subscribers.connect(c)
	if err != nil {
		p.Closed(nil)
		return nil, err
	}
	return &both{p.(*session), s.(*subscriber)}, nil
}

// Receive takes one message: what asks for the graph is answered as to a subscriber, and once all before it has been done.
func (b *both) Receive(r io.Reader) error {
	m, ok := b.publisher.decode(r)
	if !ok {
		return nil
	}
	if _, asks := m.Body.(*wire.SyncRequest); !asks || m.Namespace != wire.NamespaceGraph {
		return b.publisher.take(m)
	}
	b.publisher.p.graphMessages.Inc()
	if !b.publisher.p.wait(order{from: b.publisher}) {
		return nil
	}
	return b.subscriber.take(m)
}

// Closed ends both halves.
func (b *both) Closed(err error) {
	b.subscriber.Closed(err)
	b.publisher.Closed(err)
}
