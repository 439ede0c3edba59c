package analyzer

import (
	"slices"
	"strings"
	"time"

	"skydive/src/pubsub"
	"skydive/src/wire"
)

func (r *Replicas) hasBegun(origin string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.talking[origin]
	return t != nil && t.began
}

// takeNews hears of producers.
func (r *Replicas) takeNews() {
	if !r.waiting.Load() {
		return
	}
	r.mu.Lock()
	r.waiting.Store(false)
	news := r.news
	r.news = nil
	talking := make(map[string]bool, len(news))
	for _, n := range news {
		talking[n.origin] = r.talking[n.origin] != nil
		if n.event == producerBegins {
			delete(r.expired, n.origin)
		}
	}
	clear(r.unseenOrigins)
	for origin := range r.expired {
		r.unseenOrigins[origin] = true
	}
	r.mu.Unlock()
	for _, n := range news {
		switch n.event {
		case producerBegins:
			delete(r.leaving, n.origin)
			if r.store != nil && talking[n.origin] {
				r.hold(n.origin)
				r.store.origin(n.origin).silent = true
			}
		case producerBegan:
			if r.store == nil {
				continue
			}
			if o := r.store.origin(n.origin); o.live && o.silent {
				o.silent = false
				r.announce(o)
			}
		case producerLeft:
			if talking[n.origin] {
				continue
			}
			if o := r.store.known(n.origin); o != nil && o.live {
				o.live, o.changed = false, true
				r.succeed(o)
			}
			if n.farewell {
				r.leaving[n.origin] = true
			}
		}
	}
}

// hold makes this analyzer right about an origin: it hears the producer.
func (r *Replicas) hold(origin string) {
	o := r.store.origin(origin)
	epoch := o.epoch
	for _, p := range r.peers {
		epoch = max(epoch, p.claims[origin].Epoch)
	}
	o.holder, o.epoch = r.o.HostID, max(epoch+1, r.clock().UnixMilli())
	o.version = r.store.next().At
	o.live, o.fresh, o.changed = true, false, true
	r.cancel(o)
	r.deliver(o) // what waited for another is in the graph, and this analyzer is right about that
}

// allClaims is all that is known of origins.
func (r *Replicas) allClaims() *wire.Claims {
	c := &wire.Claims{Full: true, Present: r.connected(), Addrs: r.itself()}
	for _, o := range r.store.origins {
		if (o.first != nil || o.epoch > 0) && !(o.live && o.silent) && !r.unseenOrigins[o.name] {
			c.Claims = append(c.Claims, o.claim(r.isLive(o)))
		}
	}
	return c
}

// isLive tells whether the holder hears the producer: it says so itself.
func (r *Replicas) isLive(o *replicaOrigin) bool {
	if o.holder == r.o.HostID {
		return o.live
	}
	if p := r.peers[o.holder]; p != nil {
		c := p.claims[o.name]
		return c.Live && c.Holder == o.holder && c.Epoch == o.epoch
	}
	return false
}

// connected lists the producers whose elements go with them and that are connected here, sorted.
func (r *Replicas) connected() []string {
	list := []string{}
	for _, c := range r.o.Agents.Conns() {
		list = append(list, c.Peer().Origin())
	}
	for _, publisher := range r.o.Publishers {
		for _, c := range publisher.Conns() {
			if c.Peer().PersistencePolicy == pubsub.DeleteOnDisconnect {
				list = append(list, c.Peer().Origin())
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// claims takes what a peer says of itself.
func (r *Replicas) claims(p *replicaPeer, body *wire.Claims) {
	r.locate(p.link.host, body.Addrs)
	if body.Full {
		before := p.claims
		p.claims = make(map[string]wire.Claim, len(body.Claims))
		defer func() {
			for origin := range before {
				if _, still := p.claims[origin]; !still && r.store.origins[origin] != nil {
					r.succeed(r.store.origins[origin])
				}
			}
			p.compared = true
		}()
		for _, c := range body.Claims { // first all: who knows best depends on it
			p.claims[c.Origin] = c
		}
	}
	before := p.present
	p.present = make(map[string]bool, len(body.Present))
	for _, origin := range body.Present {
		p.present[origin] = true
	}
	r.spread()
	for origin := range before {
		if !p.present[origin] && !strings.HasPrefix(origin, agentType+".") && !r.anywhere(origin) {
			r.o.Agents.liveness.forget(origin) // it left, and whom it was connected to has seen to its elements
		}
	}
	for _, c := range body.Claims {
		r.claim(p, c, true)
	}
}

// spread notes where producers are, for those outside of Run.
func (r *Replicas) spread() {
	present := make(map[string]bool)
	now := time.Now()
	for _, p := range r.peers {
		for origin := range p.present {
			present[origin] = true
			r.o.Agents.liveness.mark(origin, now)
			r.seen(origin)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.present = present
}

// anywhere tells whether a producer is connected to any analyzer.
func (r *Replicas) anywhere(origin string) bool {
	for _, p := range r.peers {
		if p.present[origin] {
			return true
		}
	}
	return slices.Contains(r.connected(), origin)
}

// claim takes what a peer says of one origin.
func (r *Replicas) claim(p *replicaPeer, c wire.Claim, exact bool) {
	p.claims[c.Origin] = c
	r.store.see(c.Version)
	switch now := time.Now(); {
	case c.Live: // also when it is connected to analyzers only that this one cannot reach
		r.o.Agents.liveness.mark(c.Origin, now)
		r.seen(c.Origin)
	case r.unseenOrigins[c.Origin]:
		return // this analyzer has given it up: until the producer shows itself somewhere
	case strings.HasPrefix(c.Origin, agentType+"."):
		r.o.Agents.liveness.hear(c.Origin, now)
	}
	o := r.store.origin(c.Origin)
	if o.live {
		r.defend(p, o, c)
		return
	}
	r.elect(o)
	if o.holder == p.link.host {
		r.deliver(o)
	}
	if exact {
		r.compare(p, o, c)
	}
}

// seen takes back that nobody has seen a producer for long.
func (r *Replicas) seen(origin string) {
	if r.unseenOrigins[origin] {
		delete(r.unseenOrigins, origin)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.expired, origin)
	}
}

// defend is for what others say of an origin whose producer is connected here. A claim of a former holder must not look later than this
// one when the producer has gone. And one who hears it, too, is mistaken as long as it takes to notice a broken connection; if it stays so, there
// are two producers of one name.
func (r *Replicas) defend(p *replicaPeer, o *replicaOrigin, c wire.Claim) {
	if !c.Live || c.Holder != p.link.host {
		delete(p.rivals, o.name)
		if c.Epoch >= o.epoch && !c.Live {
			o.epoch, o.changed = c.Epoch+1, true
			if !o.silent {
				r.announce(o)
			}
		}
		return
	}
	since, known := p.rivals[o.name]
	if !known {
		p.rivals[o.name] = time.Now()
	} else if time.Since(since) > rivalAge {
		p.rivals[o.name] = time.Now()
		addr := ""
		if conn := r.o.Agents.Conn(strings.TrimPrefix(o.name, agentType+".")); conn != nil {
			addr = conn.Peer().Addr
		}
		r.log.Error("Two agents have the same host_id: one is connected here, the other to another analyzer; give one of them another host_id",
			"origin", o.name, "addr", addr, "analyzer", p.link.host)
		r.metrics.rivals.Inc()
	}
}

// succeed is elect when the one who was right may be so no more: what its successor said meanwhile was passed over, so all is compared.
func (r *Replicas) succeed(o *replicaOrigin) {
	if !r.elect(o) {
		return
	}
	if p := r.peers[o.holder]; p != nil && !slices.Contains(p.queue, o) {
		p.queue = append(p.queue, o)
		r.more(p)
	}
}

// elect finds out who is right about an origin, and tells whether that is another than before.
func (r *Replicas) elect(o *replicaOrigin) bool {
	if o.live || r.unseenOrigins[o.name] {
		return false // who hears the producer does not ask others
	}
	best := wire.Claim{Holder: o.holder, Epoch: o.epoch}
	for _, p := range r.peers {
		if c := p.claims[o.name]; c.Holder == o.holder && c.Epoch == o.epoch {
			best.Live = best.Live || c.Live
		}
	}
	for _, p := range r.peers {
		if c := p.claims[o.name]; c.Epoch > 0 && claimOrder(c, best) > 0 {
			best = c
		}
	}
	if best.Epoch == o.epoch && best.Holder == o.holder {
		return false
	}
	r.cancel(o)
	o.holder, o.epoch, o.version, o.fresh, o.changed = best.Holder, best.Epoch, 0, true, true
	r.deliver(o)
	return true
}
