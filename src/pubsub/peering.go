package pubsub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// PeerCluster is another cluster with which parts of the graph are exchanged.
type PeerCluster struct {
	Name      string   // as this cluster calls it
	Endpoints []string // host:port of its analyzers; one at a time is connected
	// Subscribe is what is taken from it, a Gremlin expression that gives a graph; Publish what it is given, nodes by metadata as
	// "k=v,…", with the edges among them. "*" is everything, "" nothing.
	Subscribe, Publish string
	Username, Password string
}

// PeeringOptions are the parts of Peering.
type PeeringOptions struct {
	Cluster string // the name of this one
	HostID  string // of this analyzer
	Peers   []PeerCluster
	Graph   *graph.Graph
	Dial    ws.DialOptions // TLS, Config and Metrics
	// Elect calls lead when this analyzer begins to be the one of its cluster that does what election names, and when it ends to be, until
	// ctx ends. Nil: it always is.
	Elect func(ctx context.Context, election string, lead func(bool)) error
	// Expiry is how long what a peer gave stays without a connection to it, 35 s when 0.
	Expiry     time.Duration
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not registered
}

const (
	peerPause   = 3 * time.Second  // after all endpoints of a peer were tried
	peerExpiry  = 35 * time.Second // as for agents
	peerType    = "cluster"        // the service type that this cluster announces: what it publishes is of the origin cluster.<name>
	peerOrigin  = "peer."          // and what it takes from a peer of the origin peer.<name>
	peerSource  = "peering"        // of commits
	hubElection = "hub-peering/"
)

// States of a connection, and the reason of the first.
const (
	peerStandby    = "standby"
	peerConnecting = "connecting"
	peerConnected  = "connected"
	peerFailed     = "failed"
	notElected     = "this analyzer is not the one of its cluster that connects"
)

// Peering exchanges parts of the graph with other clusters: one analyzer connects to one analyzer of each. What a peer gives is of the
// origin peer.<its name>, whichever analyzer it comes through, and the peer can neither change nor delete anything else. What came from
// another cluster is not published: a cluster speaks for itself.
type Peering struct {
	o     PeeringOptions
	peers []*peerLink
}

// NewPeering returns inert Peering. The error tells what is wrong with the options.
func NewPeering(o PeeringOptions) (*Peering, error) {
	o.Expiry = cmp.Or(o.Expiry, peerExpiry)
	if o.Elect == nil {
		o.Elect = func(ctx context.Context, _ string, lead func(bool)) error {
			lead(true)
			<-ctx.Done()
			lead(false)
			return nil
		}
	}
	if o.Cluster == "" && len(o.Peers) > 0 {
		return nil, errors.New("peering was requested but analyzer has no cluster name")
	}
	p := &Peering{o: o}
	m := newPeeringMetrics(o.Registerer)
	for _, c := range o.Peers {
		l, err := newPeerLink(o, c, m)
		if err != nil {
			return nil, fmt.Errorf("analyzer.peers.%s: %w", c.Name, err)
		}
		p.peers = append(p.peers, l)
	}
	return p, nil
}

func newPeerLink(o PeeringOptions, c PeerCluster, m *peeringMetrics) (*peerLink, error) {
	l := &peerLink{
		o: o, c: c, log: o.Logger.With("cluster", c.Name), pause: peerPause, state: peerStandby, reason: notElected, since: time.Now(),
		received: m.messages.WithLabelValues(c.Name, "received"), sent: m.messages.WithLabelValues(c.Name, "sent"), refusals: m.refused.WithLabelValues(c.Name),
	}
	switch {
	case c.Name == "":
		return nil, errors.New("a cluster without a name")
	case c.Name == o.Cluster:
		return nil, errors.New("it is this cluster itself")
	case len(c.Endpoints) == 0:
		return nil, errors.New("no endpoints")
	case c.Subscribe != "" && c.Publish != "":
		l.mode, l.path = "both", "/ws/pubsub"
	case c.Subscribe != "":
		l.mode, l.path = "subscribe", "/ws/subscriber"
	case c.Publish != "":
		l.mode, l.path = "publish", "/ws/publisher"
	default:
		return nil, errors.New("neither subscribe_filter nor publish_filter is set")
	}
	if c.Subscribe != "" && c.Subscribe != "*" {
		if _, err := compile(c.Subscribe); err != nil {
			return nil, fmt.Errorf("subscribe_filter: %w", err)
		}
		l.subscribe = c.Subscribe
	}
	if c.Publish != "" && c.Publish != "*" {
		for term := range strings.SplitSeq(c.Publish, ",") {
			key, value, ok := strings.Cut(strings.TrimSpace(term), "=")
			if !ok || key == "" {
				return nil, fmt.Errorf("publish_filter: %q is not of the form key=value", term)
			}
			values := []field.Value{value} // or what it may mean
			if n, err := strconv.ParseInt(value, 10, 64); err == nil {
				values = append(values, n)
			} else if b, err := strconv.ParseBool(value); err == nil {
				values = append(values, b)
			}
			l.publish.Terms = append(l.publish.Terms, field.Term{Key: key, Pred: field.Within{Vs: values}})
		}
	}
	return l, nil
}

// Run keeps up the connections that this analyzer is elected for until ctx ends, or an election fails.
func (p *Peering) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	errs := make([]error, len(p.peers))
	for i, l := range p.peers {
		all.Go(func() {
			if errs[i] = l.run(ctx); errs[i] != nil {
				cancel()
			}
		})
	}
	<-ctx.Done() // also when there are no peers
	all.Wait()
	return errors.Join(errs...)
}

// PeeringStatus is the connection to one cluster in /api/status.
type PeeringStatus struct {
	Mode   string // subscribe, publish or both
	State  string // standby, connecting, connected or failed
	Reason string `json:",omitempty"`
	Since  time.Time
	// Endpoint is what is connected, or was tried last.
	Endpoint      string         `json:",omitempty"`
	Connection    *ws.ConnStatus `json:",omitempty"`
	Elements      int            // of the peer that are in the graph
	Published     int            // elements that the peer was given
	Refused       int64          `json:",omitempty"` // elements of the peer that the graph did not take
	RefusedReason string         `json:",omitempty"` // of the last one
}

// Status describes the connections by name of the cluster.
func (p *Peering) Status() map[string]PeeringStatus {
	status := make(map[string]PeeringStatus, len(p.peers))
	g := p.o.Graph.Snapshot()
	for _, l := range p.peers {
		st := l.status()
		origin := field.Filter{Terms: []field.Term{{Key: "@Origin", Pred: field.Eq{V: l.origin()}}}}
		for range g.Nodes(origin) {
			st.Elements++
		}
		for range g.Edges(origin) {
			st.Elements++
		}
		status[l.c.Name] = st
	}
	return status
}

// peeringMetrics count what is exchanged with other clusters.
type peeringMetrics struct {
	messages *prometheus.CounterVec // cluster, direction
	refused  *prometheus.CounterVec // cluster
}

func newPeeringMetrics(reg prometheus.Registerer) *peeringMetrics {
	m := &peeringMetrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "skydive", Subsystem: "peering", Name: "messages_total", Help: "Graph messages exchanged with other clusters.",
		}, []string{"cluster", "direction"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "skydive", Subsystem: "peering", Name: "refused_elements_total", Help: "Nodes and edges of other clusters that the graph did not take.",
		}, []string{"cluster"}),
	}
	if reg != nil {
		reg.MustRegister(m.messages, m.refused)
	}
	return m
}

// peerLink is the connection to one cluster.
type peerLink struct {
	o         PeeringOptions
	c         PeerCluster
	log       *slog.Logger
	mode      string
	path      string
	subscribe string       // Gremlin, "" for everything
	publish   field.Filter // of nodes
	pause     time.Duration

	received, sent, refusals prometheus.Counter
	published                atomic.Int64

	mu       sync.Mutex // guards below
	state    string
	reason   string
	since    time.Time
	endpoint string
	conn     *ws.Conn
	refused  int64
	refusal  string
}

func (l *peerLink) origin() string { return peerOrigin + l.c.Name }

// run takes part in the election, and connects while it is won.
func (l *peerLink) run(ctx context.Context) error {
	var working sync.WaitGroup
	defer working.Wait()
	stop := func() {}
	defer func() { stop() }()
	ended := make(chan struct{}) // of the last term
	close(ended)
	err := l.o.Elect(ctx, hubElection+l.o.Cluster+"/"+l.c.Name, func(leads bool) {
		stop() // and not waited for: who elects is in a hurry
		if !leads {
			return
		}
		term, cancel := context.WithCancel(ctx)
		last := ended
		stop, ended = cancel, make(chan struct{})
		end := ended
		working.Go(func() {
			defer close(end)
			<-last
			l.work(term)
		})
	})
	if err != nil {
		return fmt.Errorf("election for the connection to cluster %s: %w", l.c.Name, err)
	}
	return nil
}

// work connects to one endpoint after the other until ctx ends.
func (l *peerLink) work(ctx context.Context) {
	lost := time.Now()
	expired := false
	for ctx.Err() == nil {
		for _, addr := range l.c.Endpoints {
			l.set(peerConnecting, "", addr, nil)
			connected, err := l.connect(ctx, addr)
			if ctx.Err() != nil {
				break
			}
			if connected {
				lost, expired = time.Now(), false
			}
			l.failed(addr, err)
			if !expired && l.mode != "publish" && time.Since(lost) >= l.o.Expiry {
				expired = true
				l.expire()
			}
		}
		wait := time.NewTimer(l.pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
	l.set(peerStandby, notElected, "", nil)
}

// connect keeps one connection until it ends, and tells whether there was one.
func (l *peerLink) connect(ctx context.Context, addr string) (connected bool, err error) {
	o := l.o.Dial
	o.Addr, o.Path, o.HostID, o.ClientType, o.Protocol = addr, l.path, l.o.Cluster, peerType, string(wire.JSON)
	o.Namespaces, o.GremlinFilter, o.Username, o.Password = []string{wire.NamespaceGraph}, l.subscribe, l.c.Username, l.c.Password
	o.Logger = l.log
	conn, err := ws.Dial(ctx, o)
	if err != nil {
		return false, err
	}
	var s *peerSession
	err = conn.Run(ctx, func(c *ws.Conn) (ws.Session, error) {
		if host := c.Peer().HostID; host == l.o.HostID {
			return nil, errors.New("this is the analyzer itself")
		}
		connected = true
		l.set(peerConnected, "", addr, c)
		l.log.Info("Connected to cluster", "addr", addr, "analyzer", c.Peer().HostID)
		s = newPeerSession(l, c)
		return s, nil
	})
	switch {
	case s != nil && s.failure() != nil:
		err = s.failure()
	case err == nil:
		err = errors.New("closed")
	}
	return connected, err
}

// expire deletes what the peer gave.
func (l *peerLink) expire() {
	m := wire.Merger{Origin: l.origin()}
	n := 0
	_ = l.o.Graph.Update(peerSource, func(tx *graph.Tx) error {
		n = tx.CountNodes(field.Filter{Terms: []field.Term{{Key: "@Origin", Pred: field.Eq{V: l.origin()}}}})
		m.Delete(tx)
		return nil
	})
	if n > 0 {
		l.log.Warn("Cluster did not come back, its nodes are deleted", "nodes", n, "after", l.o.Expiry)
	}
}

// failed logs a reason once, however often it repeats.
func (l *peerLink) failed(addr string, err error) {
	l.mu.Lock()
	known := l.reason == err.Error() && l.state != peerConnected
	l.mu.Unlock()
	if !known {
		l.log.Warn("Not connected to cluster, retrying", "addr", addr, "reason", err)
	}
	l.set(peerFailed, err.Error(), addr, nil)
}

// set enters a state. An attempt to connect keeps the reason why there is none.
func (l *peerLink) set(state, reason, addr string, conn *ws.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if state == peerConnecting && l.state == peerFailed {
		l.endpoint = addr
		return
	}
	if l.state != state {
		l.since = time.Now()
	}
	l.state, l.reason, l.endpoint, l.conn = state, reason, addr, conn
}

// refuse notes that the graph did not take an element.
func (l *peerLink) refuse(err error) {
	l.refusals.Inc()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused++
	l.refusal = err.Error()
}

func (l *peerLink) status() PeeringStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := PeeringStatus{
		Mode: l.mode, State: l.state, Reason: l.reason, Since: l.since, Endpoint: l.endpoint,
		Published: int(l.published.Load()), Refused: l.refused, RefusedReason: l.refusal,
	}
	if l.conn != nil {
		c := l.conn.Status()
		st.Connection = &c
	}
	return st
}

// foreign tells whether an element came from another cluster.
func foreign(e *graph.Element) bool {
	return strings.HasPrefix(e.Origin, peerOrigin) || strings.HasPrefix(e.Origin, peerType+".")
}

// echo tells whether an element that a peer has is of this cluster: it came there by this connection, or by that of the peer to here.
func (l *peerLink) echo(e *graph.Element) bool {
	return e.Origin == peerType+"."+l.o.Cluster || e.Origin == peerOrigin+l.o.Cluster
}

// own is a copy of a Sync without what is of this cluster.
func (l *peerLink) own(s *wire.Sync) *wire.Sync {
	return &wire.Sync{
		Nodes: slices.DeleteFunc(s.Nodes, func(n *graph.Node) bool { return l.echo(&n.Element) }),
		Edges: slices.DeleteFunc(s.Edges, func(e *graph.Edge) bool { return l.echo(&e.Element) }),
	}
}
