package analyzer

import (
	"cmp"
	"errors"
	"slices"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
)

// replicaOut is what is to be told: a change; or that this analyzer holds an origin; or a message for one peer.
type replicaOut struct {
	held   *replicaOrigin
	to     *replicaPeer
	letter *wire.Message

	change      graph.Change
	stamp, base wire.Stamp
	asked       string // host id of the holder who is asked for it; "": all are told
	plain       bool   // public analyzers know already
}

// isForeign tells whether somebody else is right about an origin.
func (r *Replicas) isForeign(o *replicaOrigin) bool {
	return o.epoch > 0 && !o.live && o.holder != r.o.HostID
}

// local takes a commit that others in this process made.
func (r *Replicas) local(c *graph.Commit) {
	r.takeNews()
	if c.Source != replicaSource {
		r.written(c.Changes, c.Source == expirySource)
	}
}

// written stamps changes that were made here, and has them told. Those of an expiry are for this analyzer only: others see for themselves
// whether they know of the producer.
func (r *Replicas) written(changes []graph.Change, expiry bool) {
	s := r.store
	for _, ch := range changes {
		key, origin := changed(ch)
		rec := s.records[key]
		switch ch.Kind {
		case graph.NodeDeleted, graph.EdgeDeleted:
			if !rec.alive() {
				continue
			}
			if expiry {
				if key.isEdge && !r.unseenOrigins[rec.origin.name] {
					s.park(rec) // it went with a node of another origin
				} else {
					s.remove(rec)
				}
				continue
			}
			stamp, base := s.next(), rec.stamp
			o := rec.origin
			if o.epoch > 0 {
				s.remove(rec)
				r.spoke(o, stamp)
			} else {
				s.bury(key, origin, stamp, element(ch).DeletedAt)
			}
			r.outs = append(r.outs, r.out(o, ch, stamp, base))
		default:
			var base wire.Stamp
			if rec.alive() {
				base = rec.stamp
			}
			stamp := s.next()
			if ch.Node != nil {
				rec = s.setNode(ch.Node, stamp)
			} else {
				rec = s.setEdge(ch.Edge, stamp)
			}
			r.spoke(rec.origin, stamp)
			r.outs = append(r.outs, r.out(rec.origin, ch, stamp, base))
		}
	}
}

func (r *Replicas) out(o *replicaOrigin, ch graph.Change, stamp, base wire.Stamp) replicaOut {
	out := replicaOut{change: ch, stamp: stamp, base: base, plain: r.fromPlain}
	if r.isForeign(o) {
		out.asked = o.holder
	}
	return out
}

// spoke notes that the holder of an origin, if that is this analyzer, has changed it.
func (r *Replicas) spoke(o *replicaOrigin, stamp wire.Stamp) {
	if o.epoch > 0 && o.holder == r.o.HostID {
		if o.live || o.version > 0 { // else it was so in a former life, and what others have of it is still to come
			o.version = stamp.At
		}
		if o.silent {
			o.silent = false
			r.announce(o)
		}
	}
}

func changed(ch graph.Change) (replicaKey, string) {
	e := element(ch)
	return replicaKey{ch.Edge != nil, e.ID}, e.Origin
}

func element(ch graph.Change) *graph.Element {
	if ch.Edge != nil {
		return &ch.Edge.Element
	}
	return &ch.Node.Element
}

// merge applies what peers said in one transaction, after all that was committed before.
func (r *Replicas) merge(events []replicaEvent) {
	for {
		err := r.o.Graph.Update(replicaSource, func(tx *graph.Tx) error {
			if !r.drain() {
				return errBehind
			}
			for _, e := range events {
				if p := r.peers[e.link.host]; p != nil && p.link == e.link { // else it is of a link that was given up
					r.handle(tx, p, e.msg)
				}
			}
			r.place(tx)
			return nil
		})
		if err == nil {
			return
		}
		r.renew()
	}
}

// drain takes the commits that wait; false: some were lost.
func (r *Replicas) drain() bool {
	for {
		select {
		case c, ok := <-r.commits.C():
			if !ok {
				return false
			}
			r.local(c)
		default:
			r.takeNews()
			return true
		}
	}
}

// renew goes on from the graph as it is, after commits were lost: what differs from what is known was changed here.
func (r *Replicas) renew() {
	for c := range r.commits.C() {
		r.local(c)
	}
	commits, snapshot := r.o.Graph.Subscribe(replicaQueue)
	r.commits = commits
	r.takeNews()
	var changes []graph.Change
	for n := range snapshot.Nodes(field.Filter{}) {
		switch rec := r.store.records[replicaKey{false, n.ID}]; {
		case !rec.alive():
			changes = append(changes, graph.Change{Kind: graph.NodeAdded, Node: n})
		case rec.node != n:
			changes = append(changes, graph.Change{Kind: graph.NodeUpdated, OldNode: rec.node, Node: n})
		}
	}
	for e := range snapshot.Edges(field.Filter{}) {
		switch rec := r.store.records[replicaKey{true, e.ID}]; {
		case !rec.alive():
			changes = append(changes, graph.Change{Kind: graph.EdgeAdded, Edge: e})
		case rec.edge != e:
			changes = append(changes, graph.Change{Kind: graph.EdgeUpdated, OldEdge: rec.edge, Edge: e})
		}
	}
	for _, rec := range r.store.records {
		_, parked := r.store.since[rec]
		switch {
		case rec.node != nil && snapshot.Node(rec.id) == nil:
			gone := *rec.node
			gone.DeletedAt = graph.At(r.store.clock())
			changes = append(changes, graph.Change{Kind: graph.NodeDeleted, OldNode: rec.node, Node: &gone})
		case rec.edge != nil && !parked && snapshot.Edge(rec.id) == nil:
			gone := *rec.edge
			gone.DeletedAt = graph.At(r.store.clock())
			changes = append(changes, graph.Change{Kind: graph.EdgeDeleted, OldEdge: rec.edge, Edge: &gone})
		}
	}
	// Edges go before their nodes, and come after them.
	slices.SortStableFunc(changes, func(a, b graph.Change) int { return cmp.Compare(renewOrder[a.Kind], renewOrder[b.Kind]) })
	for i := range changes {
		r.written(changes[i:i+1], r.unseenOrigins[element(changes[i]).Origin])
	}
	r.metrics.lostCommits.Inc()
}

var renewOrder = map[graph.Kind]int{graph.EdgeDeleted: 0, graph.NodeDeleted: 1, graph.NodeAdded: 2, graph.NodeUpdated: 3, graph.EdgeAdded: 4, graph.EdgeUpdated: 5}

// handle takes one message of a peer.
func (r *Replicas) handle(tx *graph.Tx, p *replicaPeer, m *wire.Message) {
	if m.Namespace == wire.NamespaceGraph {
		r.plain(tx, p, m)
		return
	}
	p.ours = true
	if p.synced { // it was only slow
		p.synced = false
		r.mail(p, wire.TypeClaims, "", r.allClaims())
	}
	switch body := m.Body.(type) {
	case *wire.Claims:
		r.claims(p, body)
	case *wire.Claim:
		r.list(p, m, body.Origin)
	case *wire.List:
		if m.Type == wire.TypeElementsRequest {
			r.elements(p, m, body)
		} else {
			r.compareList(tx, p, m, body)
		}
	case *wire.Changes:
		for _, c := range body.Claims {
			r.claim(p, c, false)
		}
		transfer := p.transfers[m.UUID]
		for i := range body.Items {
			r.change(tx, p, &body.Items[i], transfer)
		}
		p.link.received.Add(int64(len(body.Items)))
		r.metrics.received.Add(float64(len(body.Items)))
		if transfer != nil {
			r.fetched(transfer, len(body.Items))
		}
	}
}

// change takes what became of one element, if the peer may say so.
func (r *Replicas) change(tx *graph.Tx, p *replicaPeer, c *wire.ElementChange, transfer *replicaTransfer) {
	s := r.store
	key := replicaKey{c.IsEdge(), c.ID()}
	rec := s.records[key]
	s.see(c.Stamp.At)
	var o *replicaOrigin
	switch {
	case c.Node != nil:
		o = s.origin(c.Node.Origin)
	case c.Edge != nil:
		o = s.origin(c.Edge.Origin)
	case rec.alive():
		o = rec.origin
	case c.For != "":
		return // of what is not there any more
	default:
		p.missing[key] = struct{}{}
		return
	}
	switch {
	case c.For != "":
		if c.For == r.o.HostID && !r.isForeign(o) {
			r.obey(tx, c)
		}
		return
	case r.unseenOrigins[o.name]:
		return
	case o.live || o.epoch > 0 && o.holder != p.link.host && (transfer == nil || transfer.origin != o):
		return // the peer is not the one who knows
	case o.epoch == 0 && rec != nil && !c.Stamp.After(rec.stamp):
		return
	case o.epoch > 0 && rec.alive() && rec.origin == o && rec.stamp == c.Stamp:
		r.heard(o, p, c)
		return
	}
	deleted := c.Type == wire.TypeNodeDeleted || c.Type == wire.TypeEdgeDeleted
	if rec.alive() && rec.origin != o && (deleted || !o.outranks(rec.origin)) {
		return // two producers say that it is theirs
	}
	if c.Update != nil {
		if rec.stamp != c.Base {
			p.missing[key] = struct{}{} // something was changed here meanwhile: the whole is needed
			return
		}
		c = patched(rec, c)
	}
	if deleted {
		at := graph.Time(0)
		if c.Node != nil {
			at = c.Node.DeletedAt
		} else if c.Edge != nil {
			at = c.Edge.DeletedAt
		}
		if rec.alive() {
			r.drop(tx, rec, at)
		}
		if o.epoch == 0 {
			s.bury(key, o.name, c.Stamp, at)
		} else if rec := s.records[key]; rec != nil {
			s.remove(rec)
		}
	} else {
		r.put(tx, c)
	}
	r.heard(o, p, c)
}

// outranks decides who has an element that two say is theirs: a holder before nobody, then the lesser name.
func (o *replicaOrigin) outranks(other *replicaOrigin) bool {
	switch {
	case o.epoch == 0:
		return other.epoch == 0
	case other.epoch == 0:
		return true
	}
	return o.name < other.name
}

// heard notes how far the holder of an origin was heard.
func (r *Replicas) heard(o *replicaOrigin, p *replicaPeer, c *wire.ElementChange) {
	if o.epoch > 0 && o.holder == p.link.host {
		o.version = max(o.version, c.Stamp.At)
	}
}

// patched is an update as the whole element.
func patched(rec *replicaRecord, c *wire.ElementChange) *wire.ElementChange {
	whole := &wire.ElementChange{Stamp: c.Stamp}
	m := applyOps(rec.element().Metadata, c.Update.Ops)
	if rec.edge != nil {
		e := *rec.edge
		e.Metadata, e.UpdatedAt, e.Revision = m, c.Update.UpdatedAt, c.Update.Revision
		whole.Type, whole.Edge = wire.TypeEdgeUpdated, &e
	} else {
		n := *rec.node
		n.Metadata, n.UpdatedAt, n.Revision = m, c.Update.UpdatedAt, c.Update.Revision
		whole.Type, whole.Node = wire.TypeNodeUpdated, &n
	}
	return whole
}

// applyOps leaves out a step that does not fit.
func applyOps(m field.Object, ops []field.Op) field.Object {
	for i := range ops {
		if next, err := field.Apply(m, ops[i:i+1]); err == nil {
			m = next
		}
	}
	return m
}

// put makes an element as c says, in the graph if it can be there.
func (r *Replicas) put(tx *graph.Tx, c *wire.ElementChange) {
	s := r.store
	if n := c.Node; n != nil {
		n.DeletedAt = 0
		switch old := tx.Node(n.ID); {
		case old == nil:
			r.check(tx.AddNode(n))
		case sameState(&old.Element, &n.Element): // a revision is archived once
			n = old
		default:
			r.check(tx.ReplaceNode(n))
		}
		s.setNode(n, c.Stamp)
		return
	}
	e := c.Edge
	e.DeletedAt = 0
	old := tx.Edge(e.ID)
	if old != nil && (old.Parent != e.Parent || old.Child != e.Child) {
		r.check(tx.DeleteEdge(e.ID, 0))
		old = nil
	}
	var err error
	switch {
	case old == nil:
		err = tx.AddEdge(e)
	case sameState(&old.Element, &e.Element):
		e = old
	default:
		err = tx.ReplaceEdge(e)
	}
	rec := s.setEdge(e, c.Stamp)
	if errors.Is(err, graph.ErrParentNotFound) || errors.Is(err, graph.ErrChildNotFound) {
		s.park(rec)
		return
	}
	r.check(err)
}

func sameState(a, b *graph.Element) bool {
	return a.Revision == b.Revision && a.UpdatedAt == b.UpdatedAt && a.CreatedAt == b.CreatedAt && a.Host == b.Host && a.Origin == b.Origin &&
		field.Equal(a.Metadata, b.Metadata)
}

// check counts what cannot happen.
func (r *Replicas) check(err error) {
	if err != nil {
		r.metrics.refused.Inc()
		r.log.Error("Element of another analyzer cannot be taken", "error", err)
	}
}

// drop deletes an element of the graph. Edges that go with a node are this analyzer's to delete only if it is right about them.
func (r *Replicas) drop(tx *graph.Tx, rec *replicaRecord, at graph.Time) {
	if rec.edge != nil {
		if tx.Edge(rec.id) != nil {
			r.check(tx.DeleteEdge(rec.id, at))
		}
		return
	}
	if tx.Node(rec.id) == nil {
		return
	}
	before := len(tx.Changes())
	r.check(tx.DeleteNode(rec.id, at))
	var mine []graph.Change
	for _, ch := range tx.Changes()[before:] {
		if ch.Kind != graph.EdgeDeleted {
			continue
		}
		edge := r.store.records[replicaKey{true, ch.Edge.ID}]
		switch {
		case !edge.alive():
		case edge.origin.epoch > 0 && !r.isForeign(edge.origin) && edge.origin.repair == nil:
			mine = append(mine, ch)
		default:
			r.store.park(edge)
		}
	}
	r.written(mine, false)
}

// obey carries out what another analyzer asks the holder for: somebody changed there what this analyzer is right about.
func (r *Replicas) obey(tx *graph.Tx, c *wire.ElementChange) {
	before := len(tx.Changes())
	isEdge, id := c.IsEdge(), c.ID()
	node, edge := tx.Node(id), tx.Edge(id)
	var err error
	switch c.Type {
	case wire.TypeNodeAdded, wire.TypeEdgeAdded:
		if c.Node != nil && node == nil {
			err = tx.AddNode(c.Node)
		} else if c.Edge != nil && edge == nil {
			err = tx.AddEdge(c.Edge)
		}
	case wire.TypeNodeDeleted:
		if node != nil {
			err = tx.DeleteNode(id, c.Node.DeletedAt)
		}
	case wire.TypeEdgeDeleted:
		if edge != nil {
			err = tx.DeleteEdge(id, c.Edge.DeletedAt)
		}
	default:
		if !isEdge && node != nil {
			n := *node
			revise(&n.Element, c)
			err = tx.ReplaceNode(&n)
		} else if isEdge && edge != nil {
			e := *edge
			revise(&e.Element, c)
			err = tx.ReplaceEdge(&e)
		}
	}
	if err != nil {
		r.metrics.refused.Inc()
		r.log.Debug("Request of another analyzer refused", "element", id, "error", err)
	}
	r.written(slices.Clone(tx.Changes()[before:]), false)
}

// revise makes a new revision of e, as c says.
func revise(e *graph.Element, c *wire.ElementChange) {
	switch {
	case c.Update != nil:
		e.Metadata, e.UpdatedAt = applyOps(e.Metadata, c.Update.Ops), c.Update.UpdatedAt
	case c.Node != nil:
		e.Metadata, e.UpdatedAt = c.Node.Metadata, c.Node.UpdatedAt
	case c.Edge != nil:
		e.Metadata, e.UpdatedAt = c.Edge.Metadata, c.Edge.UpdatedAt
	}
	e.Revision++
}

// place puts edges into the graph whose nodes have come.
func (r *Replicas) place(tx *graph.Tx) {
	s := r.store
	for _, id := range s.came {
		for rec := range s.waiting[id] {
			if tx.Node(rec.edge.Parent) == nil || tx.Node(rec.edge.Child) == nil || tx.Edge(rec.id) != nil {
				continue
			}
			e := *rec.edge // what was in a graph must not be changed
			stamp := rec.stamp
			if err := tx.AddEdge(&e); err != nil {
				r.check(err)
				continue
			}
			s.setEdge(&e, stamp)
		}
	}
	s.came = s.came[:0]
}

// plain takes a message of a public analyzer: what is unknown in a Sync is added, and events count by their revision.
func (r *Replicas) plain(tx *graph.Tx, p *replicaPeer, m *wire.Message) {
	if p.ours {
		return
	}
	before := len(tx.Changes())
	known := func(origin string) bool { // better than it can
		o := r.store.known(origin)
		return o != nil && o.epoch > 0
	}
	switch body := m.Body.(type) {
	case *wire.Sync:
		for _, n := range body.Nodes {
			if tx.Node(n.ID) == nil && !known(n.Origin) {
				n.DeletedAt = 0
				r.check(tx.AddNode(n))
			}
		}
		for _, e := range body.Edges {
			if tx.Edge(e.ID) == nil && tx.Node(e.Parent) != nil && tx.Node(e.Child) != nil && !known(e.Origin) {
				e.DeletedAt = 0
				r.check(tx.AddEdge(e))
			}
		}
	case *wire.SyncRequest:
	default:
		merger := wire.Merger{Origin: analyzerType + "." + p.link.host, Refused: func(error) { r.metrics.refused.Inc() }}
		merger.Apply(tx, m)
	}
	changes := slices.Clone(tx.Changes()[before:])
	p.link.received.Add(int64(len(changes)))
	r.fromPlain = true
	r.written(changes, false)
	r.fromPlain = false
}
