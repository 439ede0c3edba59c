// Package pubsub serves /ws/publisher and /ws/subscriber of agents and analyzers: what publishers send changes the graph, and what
// changes in the graph is told to subscribers, each through its own filter and update policy.
//
// Neither side can hurt the other: publishers are slowed by TCP when the graph does not keep up, and a subscriber that falls
// behind is told the difference once it has caught up, instead of every event in between.
package pubsub

import (
	"log/slog"
	"sync"
	"time"

	"skydive/src/wire"
	"skydive/src/ws"
)

// protocol returns what a peer speaks; the endpoint has refused what is not known.
func protocol(p ws.Peer) wire.Protocol {
	if p.Binary() {
		return wire.Protobuf
	}
	return wire.JSON
}

// complaints logs what peers do wrong, at most once a second: who sends one bad message often sends thousands.
type complaints struct {
	log *slog.Logger

	mu      sync.Mutex // guards the rest
	next    time.Time
	skipped int
}

func (c *complaints) warn(text string, peer ws.Peer, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Before(c.next) {
		c.skipped++
		return
	}
	c.next = now.Add(time.Second)
	c.log.Warn(text, "path", peer.Path, "host", peer.HostID, "type", peer.ServiceType, "error", err, "skipped", c.skipped)
	c.skipped = 0
}
