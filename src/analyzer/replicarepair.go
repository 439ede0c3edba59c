package analyzer

import (
	"cmp"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/pubsub"
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

func (r *Replicas) hasBegun(origin string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.talking[origin]
	return t != nil && t.began
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

func (r *Replicas) cancel(o *replicaOrigin) {
	if t := o.repair; t != nil {
		delete(t.from.transfers, t.uuid)
		o.repair = nil
		r.more(t.from)
	}
}

// allClaims is all that is known of origins.
func (r *Replicas) allClaims() *wire.Claims {
	c := &wire.Claims{Full: true, Present: r.connected()}
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
		for rec := range o.all() {
			if _, there := has[rec]; there {
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

// sync sends a public analyzer the graph.
func (r *Replicas) sync(p *replicaPeer) {
	g := r.o.Graph.Snapshot()
	m := &wire.Message{Namespace: wire.NamespaceGraph, Type: wire.TypeSync, UUID: graph.NewID(), Status: 200,
		Body: wire.NewSync(g.Nodes(field.Filter{}), g.Edges(field.Filter{}))}
	r.outs = append(r.outs, replicaOut{to: p, letter: m})
	p.synced = true
	r.log.Info("Analyzer is a public one: what differs after a partition stays different", "analyzer", p.link.host)
}

func (r *Replicas) clock() time.Time { return r.wall() }
