// Package analyzer merges the graphs of agents: /ws/agent/topology, what an agent may change there, and what becomes of its nodes
// when it goes.
//
// A host may only change what is its own. What it is refused is counted and shown, and its connection lives.
package analyzer

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/pubsub"
	"skydive/src/wire"
	"skydive/src/ws"
)

// AgentsOptions are the parts of Agents.
type AgentsOptions struct {
	Endpoint ws.EndpointOptions // all but Connect
	Graph    *graph.Graph
	Metrics  *pubsub.Metrics
	// Expiry is how long nodes of an agent stay without a sign of life when its connection did not end properly; 0: five times the
	// ping delay plus pong timeout of Endpoint.Config, 35 s by default.
	Expiry time.Duration
}

// cluster is what the other analyzers know of agents: Replicas.
type cluster interface {
	// elsewhere lists the origins that any of them hears now.
	elsewhere() []string
	// unseen tells that the elements of an origin go, because nobody has for long.
	unseen(origin string)
}

// Agents is the endpoint of the agents.
type Agents struct {
	*pubsub.Publisher
	graph     *graph.Graph
	expiry    time.Duration
	liveness  liveness
	cluster   cluster // nil: there are no other analyzers
	log       *slog.Logger
	questions questions
	streams   streams
}

// expiryCheck is how often dead origins are looked for, and so how exact Expiry is.
const expiryCheck = 5 * time.Second

// agentType is the service type that agents announce; it begins their origin.
const agentType = "agent"

// NewAgents returns an inert endpoint.
func NewAgents(o AgentsOptions) *Agents {
	config := o.Endpoint.Config
	timeout := max(0, cmp.Or(config.PingDelay, 2*time.Second)) + cmp.Or(config.PongTimeout, 5*time.Second)
	a := &Agents{graph: o.Graph, expiry: cmp.Or(o.Expiry, 5*timeout), log: o.Endpoint.Logger}
	a.liveness.seen = make(map[string]time.Time)
	a.Publisher = pubsub.NewPublisher(pubsub.PublisherOptions{
		Endpoint: o.Endpoint, Graph: o.Graph, Source: agentType, Metrics: o.Metrics, Merger: merger,
		Other: a.other,
	})
	return a
}

// other takes what is not of the graph: replies.
func (a *Agents) other(c *ws.Conn, m *wire.Message) {
	if m.Namespace == wire.NamespaceCapture && (m.Type == wire.TypePackets || m.Type == wire.TypeFollowReply) {
		a.streams.take(c, m)
		return
	}
	a.questions.take(c, m)
}

// merger gives the rules for one agent: an element is its own when it carries its origin or, for what was published to the agent by
// others, its host – but no other agent or analyzer as origin.
func merger(peer ws.Peer) wire.Merger {
	origin, host := peer.Origin(), peer.HostID
	return wire.Merger{Origin: origin, Said: make(map[string]int64), Owns: func(e *graph.Element) bool {
		return e.Origin == origin ||
			e.Host == host && !strings.HasPrefix(e.Origin, agentType+".") && !strings.HasPrefix(e.Origin, "analyzer.")
	}}
}

// Run serves agents until ctx ends.
func (a *Agents) Run(ctx context.Context) error {
	expired := make(chan struct{})
	go func() {
		defer close(expired)
		a.watch(ctx)
	}()
	err := a.Publisher.Run(ctx)
	<-expired
	return err
}

// watch looks for dead origins. What is in the graph already – read back from an archive – has its agents still to come.
func (a *Agents) watch(ctx context.Context) {
	for n := range a.graph.Snapshot().Nodes(field.Filter{}) {
		if strings.HasPrefix(n.Origin, agentType+".") {
			a.liveness.hear(n.Origin, time.Now())
		}
	}
	tick := time.NewTicker(min(expiryCheck, a.expiry/4))
	defer tick.Stop()
	for {
		a.sweep(time.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// expirySource labels commits of elements that go because nobody has seen their producer for long.
const expirySource = "expiry"

// sweep notes who is connected at now, and deletes what is left of those who have not been for long. First come the signs of life: after
// this process stood still, those of others are as old as its own.
func (a *Agents) sweep(now time.Time) {
	for _, c := range a.Conns() {
		a.liveness.mark(c.Peer().Origin(), now)
	}
	if a.cluster != nil {
		for _, origin := range a.cluster.elsewhere() {
			a.liveness.mark(origin, now)
		}
	}
	for _, origin := range a.liveness.stale(now.Add(-a.expiry)) {
		if a.cluster != nil {
			a.cluster.unseen(origin)
		}
		deleted := 0
		m := wire.Merger{Origin: origin}
		_ = a.graph.Update(expirySource, func(tx *graph.Tx) error {
			deleted = tx.CountNodes(field.Filter{Terms: []field.Term{{Key: "@Origin", Pred: field.Eq{V: origin}}}})
			m.Delete(tx)
			return nil
		})
		if deleted > 0 {
			a.log.Warn("Agent did not come back, its nodes are deleted", "origin", origin, "nodes", deleted, "after", a.expiry)
		}
		a.liveness.forget(origin)
	}
}
