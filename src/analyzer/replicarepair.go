package analyzer

import (
	"cmp"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// replicaPeer is what Run knows of an analyzer that is connected.
type replicaPeer struct {
	link      *replicaLink
	since     time.Time
	ours      bool // it speaks the namespace Replica
	synced    bool // it does not, and was sent the graph
	compared  bool // it has told all of its claims
	claims    map[string]wire.Claim
	present   map[string]bool
	differs   map[string]difference
	transfers map[string]*replicaTransfer // by UUID
	queue     []*replicaOrigin            // to compare
	missing   map[replicaKey]struct{}     // elements to ask for
	rivals    map[string]time.Time        // origins whose producer is connected there and here, and since when
}

// difference is that an origin is not the same here and there.
type difference struct {
	mine, theirs uint64 // digests
	times        int
	repaired     time.Time // when all that can be had was had
}

// replicaTransfer makes one origin equal to what a peer has: first the list of its elements, then those that are missing.
type replicaTransfer struct {
	uuid     string
	origin   *replicaOrigin
	from     *replicaPeer
	holder   string
	epoch    int64
	version  int64
	want     []replicaKey
	listed   bool
	elements int
	asked    time.Time
}

const (
	transferLimit = 4    // of one peer at a time
	transferChunk = 1000 // elements in one message
	changesChunk  = 1000
	mergeLimit    = 4096 // changes in one transaction, which others wait for
	pendingLimit  = 10000
	idleAge       = time.Hour   // of an origin without elements, until nobody remembers who was right about it
	settledAge    = time.Minute // until a difference that could not be repaired is tried again
	rivalAge      = 15 * time.Second
	stubborn      = 5 // claims that differ while they change, until they are compared nevertheless
)

// guarded survives a panic, which would be a fault of ours: everything known of the peers is forgotten, and had anew.
func (r *Replicas) guarded(f func()) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("panic while replicating, starting over", "panic", p, "stack", string(debug.Stack()))
			r.metrics.refused.Inc()
			if r.commits != nil {
				r.commits.Close()
			}
			r.store, r.commits, r.outs, r.pending = nil, nil, nil, nil
			for host, p := range r.peers {
				p.link.conn.Close(ws.StatusInternal, "internal error")
				delete(r.peers, host)
			}
		}
	}()
	f()
}

// take takes an event, and what waits behind it.
func (r *Replicas) take(e replicaEvent) {
	var events []replicaEvent
	items := 0
	for more := true; more; {
		switch {
		case e.hook != nil:
			e.hook()
		case e.up || e.down:
			if len(events) > 0 {
				r.merge(events)
				events = nil
			}
			if e.up {
				r.up(e.link)
			} else {
				r.down(e.link)
			}
		case r.store != nil:
			events = append(events, e)
			if c, ok := e.msg.Body.(*wire.Changes); ok {
				items += len(c.Items)
			}
		}
		if more = len(events) < replicaBacklog && items < mergeLimit; more {
			select {
			case e = <-r.inbox:
			default:
				more = false
			}
		}
	}
	if len(events) > 0 {
		r.merge(events)
	}
}

// up begins with a peer by telling it all claims.
func (r *Replicas) up(l *replicaLink) {
	if r.store == nil {
		var snapshot *graph.Snapshot
		r.commits, snapshot = r.o.Graph.Subscribe(replicaQueue)
		r.store = newReplicaStore(r.stampBy(), r.clock, snapshot)
		r.mu.Lock()
		talking := maps.Clone(r.talking)
		r.mu.Unlock()
		for origin := range talking {
			r.hold(origin)
			r.store.origin(origin).silent = !r.hasBegun(origin)
		}
	}
	r.drainAll()
	p := &replicaPeer{
		link: l, since: time.Now(), ours: l.ours, claims: make(map[string]wire.Claim), present: make(map[string]bool),
		differs: make(map[string]difference), transfers: make(map[string]*replicaTransfer), missing: make(map[replicaKey]struct{}),
		rivals: make(map[string]time.Time),
	}
	if old := r.peers[l.host]; old != nil {
		delete(r.peers, l.host)
		r.forget(old)
	}
	r.flush() // not for p: its claims hold these changes already
	r.peers[l.host] = p
	if p.ours || l.outgoing {
		r.mail(p, wire.TypeClaims, "", r.allClaims())
	} else {
		r.sync(p)
	}
}

func (r *Replicas) down(l *replicaLink) {
	if p := r.peers[l.host]; p != nil && p.link == l {
		delete(r.peers, l.host)
		r.forget(p)
		r.log.Info("Analyzer is not connected any more", "analyzer", l.host)
	}
}

// forget gives up what was under way with a peer, and looks who knows best now.
func (r *Replicas) forget(p *replicaPeer) {
	for _, t := range p.transfers {
		t.origin.repair = nil
	}
	clear(p.transfers)
	r.spread()
	if r.store == nil {
		return
	}
	for _, o := range r.store.origins {
		r.succeed(o)
		for _, q := range r.peers {
			if c, ok := q.claims[o.name]; ok && q != p {
				r.compare(q, o, c)
			}
		}
	}
}

// drainAll is drain outside of a transaction.
func (r *Replicas) drainAll() {
	if !r.drain() {
		r.renew()
	}
}

func (r *Replicas) cancel(o *replicaOrigin) {
	if t := o.repair; t != nil {
		delete(t.from.transfers, t.uuid)
		o.repair = nil
		r.more(t.from)
	}
}

// compare begins a repair when a peer, who should have the same, has not.
func (r *Replicas) compare(p *replicaPeer, o *replicaOrigin, c wire.Claim) {
	if o.live || c.Epoch != o.epoch || c.Holder != o.holder {
		return
	}
	fromHolder := o.holder == p.link.host
	if c.Digest == o.digest && c.Count == o.count {
		delete(p.differs, o.name)
		if o.epoch > 0 {
			o.version = max(o.version, c.Version)
			o.fresh = o.fresh && !fromHolder
		}
		return
	}
	d := p.differs[o.name]
	if d.mine != o.digest || d.theirs != c.Digest {
		d.repaired = time.Time{}
	}
	again := d.times > 0 && d.mine == o.digest && d.theirs == c.Digest
	d.mine, d.theirs, d.times = o.digest, c.Digest, d.times+1
	p.differs[o.name] = d
	if o.repair != nil || slices.Contains(p.queue, o) || time.Since(d.repaired) < settledAge {
		return
	}
	switch {
	case o.epoch == 0: // both have what counts
		if p.compared && !again && d.times < stubborn {
			return
		}
	case fromHolder:
		// A holder that knows less has begun a new life: it takes from us.
		if c.Version < o.version || !o.fresh && p.compared && d.times < 2 {
			return
		}
	case r.peers[o.holder] != nil || c.Version <= o.version:
		return // the holder itself tells; or the peer knows less
	}
	d.times = 0
	p.differs[o.name] = d
	p.queue = append(p.queue, o)
	r.more(p)
}

// more begins repairs that wait, some at a time.
func (r *Replicas) more(p *replicaPeer) {
	for len(p.queue) > 0 && len(p.transfers) < transferLimit {
		o := p.queue[0]
		p.queue = p.queue[1:]
		if o.repair != nil || o.live || r.store.origins[o.name] != o {
			continue
		}
		t := &replicaTransfer{uuid: graph.NewID(), origin: o, from: p, holder: o.holder, epoch: o.epoch, asked: time.Now()}
		o.repair = t
		p.transfers[t.uuid] = t
		r.mail(p, wire.TypeListRequest, t.uuid, &wire.Claim{Origin: o.name})
	}
}

// list answers what this analyzer has of an origin.
func (r *Replicas) list(p *replicaPeer, m *wire.Message, origin string) {
	l := &wire.List{Claim: wire.Claim{Origin: origin}}
	if o := r.store.origins[origin]; o != nil && !r.unseenOrigins[origin] {
		l.Claim = o.claim(r.isLive(o))
		l.Items = make([]wire.Item, 0, o.count)
		for rec := range o.all() {
			if rec.alive() || o.epoch == 0 {
				l.Items = append(l.Items, wire.Item{Edge: rec.isEdge, ID: rec.id, Stamp: rec.stamp, Gone: rec.gone})
			}
		}
	}
	r.mail(p, wire.TypeList, m.UUID, l)
}

// elements answers with elements.
func (r *Replicas) elements(p *replicaPeer, m *wire.Message, l *wire.List) {
	c := &wire.Changes{Items: make([]wire.ElementChange, 0, len(l.Items))}
	for _, i := range l.Items {
		rec := r.store.records[replicaKey{i.Edge, i.ID}]
		switch {
		case rec == nil || r.unseenOrigins[rec.origin.name]:
		case rec.node != nil:
			c.Items = append(c.Items, wire.ElementChange{Type: wire.TypeNodeAdded, Stamp: rec.stamp, Node: rec.node})
		case rec.edge != nil:
			c.Items = append(c.Items, wire.ElementChange{Type: wire.TypeEdgeAdded, Stamp: rec.stamp, Edge: rec.edge})
		default:
			c.Items = append(c.Items, rec.burial())
		}
	}
	r.mail(p, wire.TypeElements, m.UUID, c)
}

// burial tells that an element was deleted.
func (rec *replicaRecord) burial() wire.ElementChange {
	e := graph.Element{ID: rec.id, Origin: rec.origin.name, DeletedAt: rec.gone}
	if rec.isEdge {
		return wire.ElementChange{Type: wire.TypeEdgeDeleted, Stamp: rec.stamp, Edge: &graph.Edge{Element: e}}
	}
	return wire.ElementChange{Type: wire.TypeNodeDeleted, Stamp: rec.stamp, Node: &graph.Node{Element: e}}
}

// compareList deletes what a peer, who knows better, does not have, and asks for what is missing.
func (r *Replicas) compareList(tx *graph.Tx, p *replicaPeer, m *wire.Message, l *wire.List) {
	t := p.transfers[m.UUID]
	if t == nil || t.listed {
		return
	}
	o, s := t.origin, r.store
	if o.live || l.Claim.Holder != o.holder || l.Claim.Epoch != o.epoch || l.Claim.Origin != o.name || o.epoch > 0 && l.Claim.Version < o.version {
		r.cancel(o)
		return
	}
	t.listed, t.version = true, l.Claim.Version
	var has map[*replicaRecord]struct{}
	if o.epoch > 0 {
		has = make(map[*replicaRecord]struct{}, len(l.Items))
	}
	for _, i := range l.Items {
		s.see(i.Stamp.At)
		key := replicaKey{i.Edge, i.ID}
		rec := s.records[key]
		switch {
		case o.epoch > 0:
			if rec.alive() && rec.origin == o {
				has[rec] = struct{}{}
			}
			if !rec.alive() || rec.origin != o || rec.stamp != i.Stamp {
				t.want = append(t.want, key)
			}
		case rec != nil && !i.Stamp.After(rec.stamp) || rec != nil && rec.origin.epoch > 0 && rec.alive():
		case i.Gone != 0:
			if rec.alive() {
				r.drop(tx, rec, i.Gone)
				t.elements++
			}
			s.bury(key, o.name, i.Stamp, i.Gone)
		default:
			t.want = append(t.want, key)
		}
	}
	if o.epoch > 0 {
		var gone []*replicaRecord // collected first: what goes takes others with it
		for rec := range o.all() {
			if _, there := has[rec]; !there {
				gone = append(gone, rec)
			}
		}
		for _, rec := range gone {
			if s.records[rec.replicaKey] != rec || rec.origin != o {
				continue
			}
			if rec.alive() {
				r.drop(tx, rec, 0)
				t.elements++
			}
			s.remove(rec)
		}
	}
	slices.SortFunc(t.want, func(a, b replicaKey) int { return cmp.Compare(order(a), order(b)) })
	r.fetch(t)
}

// order puts nodes before edges.
func order(k replicaKey) int {
	if k.isEdge {
		return 1
	}
	return 0
}

// fetch asks for the next elements, or ends the repair.
func (r *Replicas) fetch(t *replicaTransfer) {
	if len(t.want) > 0 {
		n := min(len(t.want), transferChunk)
		l := &wire.List{Items: make([]wire.Item, n)}
		for i, k := range t.want[:n] {
			l.Items[i] = wire.Item{Edge: k.isEdge, ID: k.id}
		}
		t.want, t.asked = t.want[n:], time.Now()
		r.mail(t.from, wire.TypeElementsRequest, t.uuid, l)
		return
	}
	o, p := t.origin, t.from
	if o.epoch > 0 && o.epoch == t.epoch && o.holder == t.holder {
		o.version = max(o.version, t.version)
		o.fresh = false
	}
	o.changed = true
	p.differs[o.name] = difference{mine: o.digest, theirs: p.claims[o.name].Digest, repaired: time.Now()}
	r.cancel(o)
	r.metrics.repairs.Inc()
	r.metrics.repaired.Add(float64(t.elements))
	r.mu.Lock()
	r.last[p.link.host] = replicaRepair{At: time.Now(), Origin: o.name, Elements: t.elements, Count: r.last[p.link.host].Count + 1}
	r.mu.Unlock()
	if t.elements > 0 {
		r.log.Info("Graph made equal to that of another analyzer", "analyzer", p.link.host, "origin", o.name, "elements", t.elements)
	}
}

// fetched goes on with a repair once elements have come.
func (r *Replicas) fetched(t *replicaTransfer, n int) {
	if t.origin.repair == t && t.listed {
		t.elements += n
		r.fetch(t)
	}
}

func (r *Replicas) clock() time.Time { return r.wall() }
