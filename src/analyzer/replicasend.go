package analyzer

import (
	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
)

// mail queues a message behind the changes before it; it is encoded outside of transactions.
func (r *Replicas) mail(p *replicaPeer, typ, uuid string, body wire.Body) {
	r.outs = append(r.outs, replicaOut{to: p, letter: &wire.Message{Namespace: wire.NamespaceReplica, Type: typ, UUID: uuid, Status: 200, Body: body}})
}

// settle does what follows from an event.
func (r *Replicas) settle() {
	if r.store == nil {
		return
	}
	if len(r.store.came) > 0 {
		r.merge(nil)
	}
	r.flush()
}

// flush sends what is queued, in its order: a list must say how things are after the changes before it, and before those after it.
func (r *Replicas) flush() {
	var claims []wire.Claim
	var items []wire.ElementChange
	var plain []*replicaPeer
	ours := false
	for _, p := range r.peers {
		if p.synced {
			plain = append(plain, p)
		} else {
			ours = true
		}
	}
	tell := func() {
		if len(items) == 0 && len(claims) == 0 {
			return
		}
		m := wire.Message{Namespace: wire.NamespaceReplica, Type: wire.TypeChanges, Status: 200, Body: &wire.Changes{Claims: claims, Items: items}}
		text := m.Append(nil, wire.JSON)
		for _, p := range r.peers {
			if !p.synced && p.link.conn.Send(text) == nil { // an error means that the connection is over
				p.link.sent.Add(int64(len(items)))
				r.metrics.sent.Add(float64(len(items)))
			}
		}
		clear(items)
		claims, items = nil, items[:0]
	}
	for i := range r.outs {
		out := &r.outs[i]
		switch {
		case out.letter != nil:
			tell()
			if r.peers[out.to.link.host] == out.to {
				_ = out.to.link.conn.Send(out.letter.Append(nil, wire.JSON))
			}
			continue
		case out.held != nil:
			tell()
			claims = append(claims, out.held.claim(out.held.live))
			continue
		case !out.plain:
			for _, p := range plain {
				_ = p.link.conn.Send(wire.Event(out.change, true).Append(nil, wire.JSON))
				p.link.sent.Add(1)
			}
		}
		switch {
		case out.asked != "":
			r.request(*out)
		case ours:
			if items = append(items, wire.NewElementChange(out.change, out.stamp, out.base)); len(items) == changesChunk {
				tell()
			}
		}
	}
	tell()
	clear(r.outs)
	if r.outs = r.outs[:0]; cap(r.outs) > 1<<14 {
		r.outs = nil // a burst must not keep its memory
	}
}

// request asks the holder of an origin for a change.
func (r *Replicas) request(out replicaOut) {
	p := r.peers[out.asked]
	if p == nil {
		r.pend(out)
		return
	}
	c := wire.NewElementChange(out.change, out.stamp, out.base)
	c.For = out.asked
	m := wire.Message{Namespace: wire.NamespaceReplica, Type: wire.TypeChanges, Status: 200, Body: &wire.Changes{Items: []wire.ElementChange{c}}}
	_ = p.link.conn.Send(m.Append(nil, wire.JSON))
}

// pend keeps a change for the holder of its origin, who is away.
func (r *Replicas) pend(out replicaOut) {
	if len(r.pending) >= pendingLimit {
		r.pending = r.pending[1:]
		r.metrics.lostPending.Inc()
	}
	r.pending = append(r.pending, out)
}

// deliver sends the holder of an origin what waited for it.
func (r *Replicas) deliver(o *replicaOrigin) {
	if len(r.pending) == 0 {
		return
	}
	rest := r.pending[:0]
	for _, out := range r.pending {
		if _, origin := changed(out.change); origin != o.name {
			rest = append(rest, out)
		} else if r.isForeign(o) && !r.unseenOrigins[o.name] {
			out.asked = o.holder
			if r.peers[o.holder] == nil {
				rest = append(rest, out)
			} else {
				out.plain = true
				r.outs = append(r.outs, out)
			}
		}
	}
	clear(r.pending[len(rest):])
	r.pending = rest
}

// announce tells, before the next changes, that this analyzer is right about an origin.
func (r *Replicas) announce(o *replicaOrigin) { r.outs = append(r.outs, replicaOut{held: o}) }

// sync sends a public analyzer the graph.
func (r *Replicas) sync(p *replicaPeer) {
	g := r.o.Graph.Snapshot()
	m := &wire.Message{Namespace: wire.NamespaceGraph, Type: wire.TypeSync, UUID: graph.NewID(), Status: 200,
		Body: wire.NewSync(g.Nodes(field.Filter{}), g.Edges(field.Filter{}))}
	r.outs = append(r.outs, replicaOut{to: p, letter: m})
	p.synced = true
	r.log.Info("Analyzer is a public one: what differs after a partition stays different", "analyzer", p.link.host)
}
