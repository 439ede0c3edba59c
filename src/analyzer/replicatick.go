package analyzer

import (
	"slices"
	"time"

	"skydive/src/graph"
	"skydive/src/wire"
)

// tick does what is due.
func (r *Replicas) tick() {
	now := time.Now()
	if r.store == nil {
		r.takeNews()
		r.farewells()
		return
	}
	r.drainAll()
	r.farewells()
	r.gossip(now)
	for _, p := range r.peers {
		if !p.ours && !p.synced && now.Sub(p.since) > r.timing.plain {
			r.sync(p)
		}
		for _, t := range p.transfers {
			if now.Sub(t.asked) > r.timing.repair {
				r.cancel(t.origin)
			}
		}
		if len(p.missing) > 0 {
			l := new(wire.List)
			for k := range p.missing {
				if l.Items = append(l.Items, wire.Item{Edge: k.isEdge, ID: k.id}); len(l.Items) == transferChunk {
					break
				}
			}
			for _, i := range l.Items {
				delete(p.missing, replicaKey{i.Edge, i.ID})
			}
			r.mail(p, wire.TypeElementsRequest, "", l)
		}
	}
	r.strays(now)
	r.settle()
}

// gossip tells what has changed, and now and then everything.
func (r *Replicas) gossip(now time.Time) {
	connected := r.connected()
	moved := !slices.Equal(connected, r.presence)
	r.presence = connected
	own := make(map[string]bool, len(connected))
	for _, origin := range connected {
		own[origin] = true
	}
	r.mu.Lock()
	r.own = own
	r.told = replicaCounts{
		Elements: len(r.store.records) - r.store.tombstones, Origins: len(r.store.origins), Parked: len(r.store.since),
		Tombstones: r.store.tombstones, Pending: len(r.pending),
	}
	r.mu.Unlock()
	var c *wire.Claims
	switch {
	case now.Sub(r.full) >= r.timing.full:
		c = r.allClaims()
		r.full, r.claimed = now, now
		r.housekeeping(now)
	case now.Sub(r.claimed) >= r.timing.claims:
		c = &wire.Claims{Present: connected}
		for _, o := range r.store.origins {
			// Of what others hold, they tell.
			if o.changed && !(o.live && o.silent) && (o.epoch == 0 || o.holder == r.o.HostID) && !r.unseenOrigins[o.name] {
				c.Claims = append(c.Claims, o.claim(r.isLive(o)))
				o.changed = false
			}
		}
		r.claimed = now
		if len(c.Claims) == 0 && !moved {
			return
		}
	case moved:
		c = &wire.Claims{Present: connected}
	default:
		return
	}
	r.flush()
	m := wire.Message{Namespace: wire.NamespaceReplica, Type: wire.TypeClaims, Status: 200, Body: c}
	var text []byte
	for _, p := range r.peers {
		if !p.synced {
			if text == nil {
				text = m.Append(nil, wire.JSON)
			}
			_ = p.link.conn.Send(text)
		}
	}
}

// housekeeping forgets what is of no use any more.
func (r *Replicas) housekeeping(now time.Time) {
	r.store.purge()
	for name, o := range r.store.origins {
		switch {
		case o.first != nil || o.live || o.repair != nil:
			o.idle = time.Time{}
		case o.idle.IsZero():
			o.idle = now
		case now.Sub(o.idle) > idleAge || o.epoch == 0:
			delete(r.store.origins, name)
			for _, p := range r.peers {
				delete(p.differs, name)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for origin, at := range r.expired {
		if now.Sub(at) > idleAge {
			delete(r.expired, origin)
			r.waiting.Store(true)
		}
	}
}

// farewells deletes what is of agents that took their leave from all analyzers.
func (r *Replicas) farewells() {
	for origin := range r.leaving {
		if r.anywhere(origin) {
			continue
		}
		delete(r.leaving, origin)
		if o := r.store.known(origin); o != nil && (o.live || r.isForeign(o)) {
			continue
		}
		m := wire.Merger{Origin: origin}
		_ = r.o.Graph.Update(agentType, func(tx *graph.Tx) error { m.Delete(tx); return nil })
	}
}

// strays deletes edges whose nodes do not come, if it is this analyzer's to say so: not while there is somebody who may still have them.
func (r *Replicas) strays(now time.Time) {
	for _, p := range r.peers {
		if !p.compared && !p.synced || len(p.transfers)+len(p.queue) > 0 {
			r.quiet = now
		}
	}
	if len(r.store.since) == 0 || now.Sub(r.quiet) < r.timing.park || len(r.Absent()) > 0 {
		return
	}
	for rec, since := range r.store.since {
		if r.store.clock().Sub(since) < r.timing.park || r.isForeign(rec.origin) {
			continue
		}
		gone := *rec.edge
		gone.DeletedAt = graph.At(r.store.clock())
		r.written([]graph.Change{{Kind: graph.EdgeDeleted, OldEdge: rec.edge, Edge: &gone}}, false)
	}
}
