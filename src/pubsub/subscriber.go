package pubsub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/gremlin"
	"skydive/src/query"
	"skydive/src/wire"
	"skydive/src/ws"
)

// SubscriberOptions are the parts of Subscribers.
type SubscriberOptions struct {
	Endpoint ws.EndpointOptions // all but Connect
	Graph    *graph.Graph
	History  query.History // nil: questions about the past are answered with 400
	Metrics  *Metrics
}

// Subscribers is an endpoint that tells its peers what happens in a graph.
type Subscribers struct {
	*ws.Endpoint
	o      SubscriberOptions
	bad    complaints
	shared shared

	events, resyncs, invalid, ignored prometheus.Counter

	mu  sync.Mutex // guards all
	all map[*subscriber]struct{}
}

const (
	commitQueue  = 1024 // commits that a subscriber may be behind before it is told the difference only
	requestQueue = 16   // requests of one subscriber that wait for an answer
	noticeQueue  = 256  // broadcasts that wait for one subscriber
	mirrorLimit  = 1024 // elements that a subscriber was told of since its snapshot, before it takes a new one
)

// NewSubscribers returns an inert endpoint.
func NewSubscribers(o SubscriberOptions) *Subscribers {
	path := o.Endpoint.Path
	s := &Subscribers{
		o: o, bad: complaints{log: o.Endpoint.Logger}, all: make(map[*subscriber]struct{}),
		events: o.Metrics.events.WithLabelValues(path), resyncs: o.Metrics.resyncs.WithLabelValues(path),
		invalid: o.Metrics.messages.WithLabelValues(path, "invalid"), ignored: o.Metrics.messages.WithLabelValues(path, "other"),
	}
	o.Endpoint.Connect = s.connect
	s.Endpoint = ws.NewEndpoint(o.Endpoint)
	return s
}

// Broadcast tells all subscribers of a namespace something that is not in the graph: obj is JSON. A subscriber that does not take
// its broadcasts is disconnected.
func (s *Subscribers) Broadcast(namespace, typ string, obj []byte) {
	m := wire.Message{Namespace: namespace, Type: typ, UUID: graph.NewID(), Status: 200, Obj: obj}
	encoded := map[wire.Protocol][]byte{}
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.all))
	s.mu.Unlock()
	for _, c := range all {
		if !c.conn.Peer().Wants(namespace) {
			continue
		}
		if encoded[c.protocol] == nil {
			encoded[c.protocol] = m.Append(nil, c.protocol)
		}
		select {
		case c.notices <- encoded[c.protocol]:
		default:
			c.conn.Close(ws.StatusTryAgain, "too slow: too many notifications wait")
		}
	}
}

// subscriber is one connected peer. Its goroutine, run, owns all but the channels.
type subscriber struct {
	s        *Subscribers
	conn     *ws.Conn
	ctx      context.Context
	cancel   context.CancelFunc
	done     chan struct{} // run has returned
	requests chan *wire.Message
	notices  chan []byte

	decoder  *wire.Decoder // belongs to the connection's goroutine
	protocol wire.Protocol
	graph    bool // it wants the namespace Graph

	variant variant
	filter  *query.Plan // nil: the whole graph
	commits *graph.Subscription
	next    *graph.Commit // taken from commits already
	told    *mirror       // without filter
	part    *part         // with filter: what it lets through, as told
}

// errNotGraph is the answer to a filter that selects something else.
var errNotGraph = errors.New("did not return a graph")

func (s *Subscribers) connect(conn *ws.Conn) (ws.Session, error) {
	peer := conn.Peer()
	c := &subscriber{
		s: s, conn: conn, done: make(chan struct{}), requests: make(chan *wire.Message, requestQueue),
		notices: make(chan []byte, noticeQueue), decoder: wire.NewDecoder(), protocol: protocol(peer), graph: peer.Wants(wire.NamespaceGraph),
	}
	if !strings.EqualFold(peer.UpdatePolicy, "full") && !strings.EqualFold(peer.UpdatePolicy, "partial") && peer.UpdatePolicy != "" {
		return nil, fmt.Errorf("X-Update-Policy '%s' is neither full nor partial", peer.UpdatePolicy)
	}
	// Public servers accept any case but know only this spelling.
	c.variant = variant{c.protocol, peer.UpdatePolicy == "partial"}
	filter, err := compile(peer.GremlinFilter)
	if err != nil {
		return nil, fmt.Errorf("X-Gremlin-Filter: %w", err)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	var snapshot *graph.Snapshot
	c.commits, snapshot = s.o.Graph.Subscribe(commitQueue)
	if err := c.show(filter, snapshot); err != nil {
		c.cancel()
		c.commits.Close()
		return nil, fmt.Errorf("X-Gremlin-Filter: %w", err)
	}
	if !c.graph {
		c.commits.Close()
	}
	s.mu.Lock()
	s.all[c] = struct{}{}
	s.mu.Unlock()
	go c.run()
	return c, nil
}

// compile reads a filter; none, and the one that lets everything through, are nil.
func compile(text string) (*query.Plan, error) {
	if text == "" {
		return nil, nil
	}
	q, err := gremlin.Parse(text)
	if err != nil {
		return nil, err
	}
	plan, err := query.Compile(q, query.AllSteps)
	if err != nil {
		return nil, err
	}
	if plan.String() == "G" {
		return nil, nil
	}
	return plan, nil
}

// Receive takes requests; everything else that a subscriber may send is ignored.
func (c *subscriber) Receive(r io.Reader) error {
	m, err := c.decoder.Decode(r, c.protocol)
	if err != nil {
		c.s.invalid.Inc()
		c.s.bad.warn("Message from subscriber dropped", c.conn.Peer(), err)
		return nil
	}
	return c.take(m)
}

func (c *subscriber) take(m *wire.Message) error {
	if _, ok := m.Body.(*wire.SyncRequest); !ok || !c.graph {
		c.s.ignored.Inc()
		return nil
	}
	select {
	case c.requests <- m:
		return nil
	default:
		return errors.New("too many requests wait for an answer")
	}
}

// Closed ends the goroutine.
func (c *subscriber) Closed(error) {
	c.s.mu.Lock()
	delete(c.s.all, c)
	c.s.mu.Unlock()
	c.cancel()
	<-c.done
}

func (c *subscriber) run() {
	defer close(c.done)
	defer func() { c.commits.Close() }()
	for c.ctx.Err() == nil {
		if err := c.step(); err != nil {
			c.conn.Close(ws.StatusNormal, err.Error())
			<-c.ctx.Done()
		}
	}
}

// step does the next thing that waits. A panic in a query or an encoding costs this subscriber its connection, nobody else.
func (c *subscriber) step() (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.s.o.Endpoint.Logger.Error("panic while serving a subscriber, it is disconnected", "host", c.conn.Peer().HostID,
				"panic", r, "stack", string(debug.Stack()))
			err = errors.New("internal error")
		}
	}()
	if commit := c.next; commit != nil {
		c.next = nil
		return c.tell(commit)
	}
	var commits <-chan *graph.Commit
	if c.graph {
		commits = c.commits.C()
	}
	select {
	case <-c.ctx.Done():
		return nil
	case msg := <-c.notices:
		return c.conn.SendWait(c.ctx, msg)
	case m := <-c.requests:
		return c.answer(m)
	case commit, ok := <-commits:
		if ok {
			return c.tell(commit)
		}
		_, err := c.renew()
		return err
	}
}

// tell passes on a commit, and with a filter as many more as are waiting: it is run once for all of them.
func (c *subscriber) tell(commit *graph.Commit) error {
	if c.filter == nil {
		if err := c.send(c.s.shared.messages(commit, c.variant)); err != nil {
			return err
		}
		if c.told.apply(commit); c.told.size() > mirrorLimit {
			_, err := c.renew()
			return err
		}
		return nil
	}
	commits := []*graph.Commit{commit}
	for {
		select {
		case commit, ok := <-c.commits.C():
			if ok {
				commits = append(commits, commit)
				continue
			}
		default:
		}
		return c.tellPart(commits, c.s.o.Graph.Snapshot())
	}
}

// tellPart runs the filter over a snapshot and tells what has changed by it: what commits deleted, in their order; what else has
// come into the filter or left it; then updates. What came into the filter by an update is told that, too, as public servers do.
func (c *subscriber) tellPart(commits []*graph.Commit, snapshot *graph.Snapshot) error {
	to, err := c.cut(c.filter, snapshot)
	if err != nil {
		return err
	}
	var deleted, updated []graph.Change
	for _, commit := range commits {
		for _, ch := range commit.Changes {
			switch {
			case ch.Kind == graph.NodeDeleted && c.part.nodes[ch.Node.ID] != nil:
				delete(c.part.nodes, ch.Node.ID)
				deleted = append(deleted, ch)
			case ch.Kind == graph.EdgeDeleted && c.part.edges[ch.Edge.ID] != nil:
				delete(c.part.edges, ch.Edge.ID)
				deleted = append(deleted, ch)
			case ch.Kind == graph.NodeUpdated && c.part.nodes[ch.Node.ID] == nil && to.nodes[ch.Node.ID] == ch.Node,
				ch.Kind == graph.EdgeUpdated && c.part.edges[ch.Edge.ID] == nil && to.edges[ch.Edge.ID] == ch.Edge:
				updated = append(updated, ch)
			}
		}
	}
	changes := slices.Concat(deleted, diff(c.part, to, snapshot), updated)
	c.part = to
	return c.send(c.variant.all(changes))
}

// renew subscribes anew and returns the snapshot from which the new subscription goes on. What the old one still holds is told
// first; when it was lost, the difference to the snapshot is.
func (c *subscriber) renew() (*graph.Snapshot, error) {
	old := c.commits
	var snapshot *graph.Snapshot
	c.commits, snapshot = c.s.o.Graph.Subscribe(commitQueue)
	old.Close()
	// A commit between the two calls is in both; the new subscription tells which are not in the snapshot.
	select {
	case c.next = <-c.commits.C():
	default:
	}
	var commits []*graph.Commit
	for commit := range old.C() {
		if c.next == nil || commit.Seq < c.next.Seq {
			commits = append(commits, commit)
		}
	}
	if old.Lost() {
		c.s.resyncs.Inc()
	}
	if c.filter != nil {
		return snapshot, c.tellPart(commits, snapshot)
	}
	for _, commit := range commits {
		if err := c.send(c.s.shared.messages(commit, c.variant)); err != nil {
			return nil, err
		}
		c.told.apply(commit)
	}
	told := c.told
	c.told = newMirror(snapshot)
	if !old.Lost() {
		return snapshot, nil
	}
	return snapshot, c.send(c.variant.all(diff(told, snapshot, snapshot)))
}

// show makes a filter the present one, over a snapshot that equals what the subscriber is about to know.
func (c *subscriber) show(filter *query.Plan, snapshot *graph.Snapshot) error {
	if filter == nil {
		c.filter, c.part, c.told = nil, nil, newMirror(snapshot)
		return nil
	}
	p, err := c.cut(filter, snapshot)
	if err == nil {
		c.filter, c.part, c.told = filter, p, nil
	}
	return err
}

// cut runs a filter.
func (c *subscriber) cut(filter *query.Plan, snapshot *graph.Snapshot) (*part, error) {
	result, err := filter.Run(c.ctx, query.Source{Graph: snapshot, History: c.s.o.History})
	if err != nil {
		return nil, err
	}
	g, ok := result.(query.Graph)
	if !ok {
		return nil, fmt.Errorf("Gremlin query '%s' %w", filter, errNotGraph)
	}
	return newPart(g.Nodes(), g.Edges()), nil
}

// answer answers a SyncRequest, and installs the filter that it may bring. After an error nothing has changed.
func (c *subscriber) answer(m *wire.Message) error {
	request := m.Body.(*wire.SyncRequest)
	filter, variant := c.filter, c.variant
	refuse := func(err error) error {
		text := err.Error()
		if request.GremlinFilter != nil && !errors.Is(err, errNotGraph) {
			text = fmt.Sprintf("Invalid Gremlin filter '%s' for client %s: %s", *request.GremlinFilter, c.conn.Peer().HostID, text)
		}
		return c.reply(m, 400, wire.Text(text))
	}
	if request.GremlinFilter != nil {
		var err error
		if filter, err = compile(*request.GremlinFilter); err != nil {
			return refuse(err)
		}
		variant.partial = variant.partial && filter == nil // as public servers do
	}
	var answer contents
	if request.Time != 0 {
		past, err := c.past(request.Time)
		if err != nil {
			return c.reply(m, 400, nil)
		}
		if answer = past; filter != nil {
			if answer, err = c.cut(filter, past); err != nil {
				return refuse(err)
			}
		}
	}
	snapshot, err := c.renew()
	if err != nil {
		return err
	}
	if err := c.show(filter, snapshot); err != nil {
		return refuse(err)
	}
	c.variant = variant
	if answer == nil {
		if answer = snapshot; filter != nil {
			answer = c.part
		}
	}
	return c.reply(m, 200, wire.NewSync(answer.Nodes(field.Filter{}), answer.Edges(field.Filter{})))
}

// past returns the graph as it was.
func (c *subscriber) past(at graph.Time) (*graph.Snapshot, error) {
	if c.s.o.History == nil {
		return nil, query.ErrNoHistory
	}
	t := time.UnixMilli(int64(at))
	nodes, edges, err := c.s.o.History.Graph(c.ctx, t, t)
	var missing query.Missing
	if err != nil && !errors.As(err, &missing) {
		return nil, fmt.Errorf("read history: %w", err)
	}
	g := graph.New(graph.Options{})
	err = g.Update("", func(tx *graph.Tx) error {
		for _, n := range nodes {
			n := *n
			if err := tx.AddNode(&n); err != nil {
				return fmt.Errorf("node %s of history: %w", n.ID, err)
			}
		}
		for _, e := range edges {
			e := *e
			// An end may be older than the archive.
			if err := tx.AddEdge(&e); err != nil && !errors.Is(err, graph.ErrParentNotFound) && !errors.Is(err, graph.ErrChildNotFound) {
				return fmt.Errorf("edge %s of history: %w", e.ID, err)
			}
		}
		return nil
	})
	return g.Snapshot(), err
}

func (c *subscriber) reply(m *wire.Message, status int64, body wire.Body) error {
	return c.conn.SendWait(c.ctx, m.Reply(wire.TypeSyncReply, status, body).Append(nil, c.variant.protocol))
}

// send sends messages and counts them as events.
func (c *subscriber) send(msgs iter.Seq[[]byte]) error {
	n := 0
	defer func() { c.s.events.Add(float64(n)) }()
	for msg := range msgs {
		if err := c.conn.SendWait(c.ctx, msg); err != nil {
			return err
		}
		n++
	}
	return nil
}
