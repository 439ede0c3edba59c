// Package agent forwards the local graph to the analyzers.
//
// It connects to all of them, but tells the graph to one, the master: everything once, then each change. When the master is lost
// another takes over. Nothing waits in the agent for ever: when changes come faster than the master takes them, the graph as it
// is then is sent instead of what happened meanwhile.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// Options are the parts of an Agent.
type Options struct {
	Graph      *graph.Graph
	Analyzers  []string       // host:port of each; none: the agent stands alone
	Dial       ws.DialOptions // how to connect to each: TLS, HostID, credentials; Protocol is protobuf when empty
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// Agent forwards one graph.
type Agent struct {
	graph   *graph.Graph
	log     *slog.Logger
	metrics *metrics
	links   []*link
	tasks   *Tasks // nil: analyzers may ask for none

	mu      sync.Mutex // guards below, and conn and broken of each link
	master  *link
	changed chan struct{}   // closed when a link comes or goes, then replaced
	running context.Context // of Run
}

// link is the connection to one analyzer.
type link struct {
	addr   string
	client *ws.Client
	conn   *ws.Conn // nil while there is none
	since  time.Time
	broken int // connections that ended without a farewell
}

// path is where analyzers listen for agents.
const path = "/ws/agent/topology"

// commitQueue is how many commits the master may be behind before it is sent the whole graph again.
const commitQueue = 4096

// New returns an inert Agent.
func New(o Options) *Agent {
	a := &Agent{graph: o.Graph, log: o.Logger, metrics: newMetrics(o.Registerer), changed: make(chan struct{})}
	dial := o.Dial
	dial.Path, dial.ClientType, dial.PersistencePolicy = path, "agent", "DeleteOnDisconnect"
	dial.Namespaces, dial.Logger = []string{"*"}, o.Logger
	if dial.Protocol == "" {
		dial.Protocol = string(wire.Protobuf)
	}
	for i, addr := range o.Analyzers {
		if slices.Contains(o.Analyzers[:i], addr) {
			continue // it would refuse the second connection of one host
		}
		l := &link{addr: addr}
		dial.Addr = addr
		l.client = ws.NewClient(ws.ClientOptions{DialOptions: dial, Connect: func(c *ws.Conn) (ws.Session, error) {
			s, err := newSession(a, l, c)
			if err != nil {
				return nil, err
			}
			a.come(l, c)
			return s, nil
		}})
		a.links = append(a.links, l)
	}
	return a
}

// Attach has analyzers' requests done by t. It must be called before Run.
func (a *Agent) Attach(t *Tasks) { a.tasks = t }

// Run connects and forwards until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	a.running = ctx
	a.mu.Unlock()
	var running sync.WaitGroup
	defer running.Wait()
	for _, l := range a.links {
		running.Go(func() { _ = l.client.Run(ctx) }) // returns only with ctx
	}
	for {
		l, conn := a.elect(ctx)
		if conn == nil {
			return nil
		}
		a.log.Info("Analyzer is master", "analyzer", conn.Peer().HostID, "addr", l.addr)
		err := a.forward(ctx, conn)
		a.gone(l, conn)
		a.log.Info("Master is lost", "analyzer", conn.Peer().HostID, "reason", err)
	}
}

// AnalyzerStatus is a connection in /api/status.
type AnalyzerStatus struct {
	ws.ConnStatus
	IsMaster bool
}

// Status describes the connections by host id, or by address while the host id is not known.
func (a *Agent) Status() map[string]AnalyzerStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	status := make(map[string]AnalyzerStatus, len(a.links))
	for _, l := range a.links {
		s := AnalyzerStatus{l.client.Status(), l == a.master}
		key := s.RemoteHost
		if _, taken := status[key]; key == "" || taken {
			key = l.addr
		}
		status[key] = s
	}
	return status
}

// come notes that an analyzer is connected.
func (a *Agent) come(l *link, c *ws.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l.conn, l.since = c, time.Now()
	a.tell()
	time.AfterFunc(settling, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.tell()
	})
}

// settling is how long an analyzer may take to know that datagrams of this host are to be taken from now on.
const settling = 250 * time.Millisecond

// tell wakes who waits for a change; mu is held.
func (a *Agent) tell() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// reachable returns by address which analyzers take datagrams, a channel that is closed when that may have changed, and whether the agent
// itself is ending the connections.
func (a *Agent) reachable() (state map[string]reach, changed <-chan struct{}, stopped bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	state = make(map[string]reach, len(a.links))
	for _, l := range a.links {
		state[l.addr] = reach{up: l.conn != nil && time.Since(l.since) >= settling, broken: l.broken}
	}
	return state, a.changed, a.running != nil && a.running.Err() != nil
}

// abrupt tells whether a connection ended in a way that leaves open what arrived.
func abrupt(err error) bool {
	var farewell ws.CloseError
	return err != nil && (!errors.As(err, &farewell) || farewell.Code == ws.StatusTryAgain)
}

// broke notes that a connection ended like that.
func (a *Agent) broke(l *link) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l.broken++
	a.tell()
}

// gone notes that it is no more.
func (a *Agent) gone(l *link, c *ws.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l.conn != c {
		return
	}
	l.conn = nil
	if a.master == l {
		a.master = nil
	}
	a.tell()
}

// elect waits for a connected analyzer and makes it master: the first that is there or, of several, any. It returns nothing when
// ctx ends.
func (a *Agent) elect(ctx context.Context) (*link, *ws.Conn) {
	for ctx.Err() == nil {
		a.mu.Lock()
		connected := slices.DeleteFunc(slices.Clone(a.links), func(l *link) bool { return l.conn == nil })
		if len(connected) > 0 {
			a.master = connected[rand.IntN(len(connected))]
			l, conn := a.master, a.master.conn
			a.mu.Unlock()
			return l, conn
		}
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return nil, nil
}

// forward sends the graph and its changes to conn until that ends.
func (a *Agent) forward(ctx context.Context, conn *ws.Conn) error {
	protocol, _ := wire.ParseProtocol(conn.Peer().Protocol) // Connect has checked it
	send := func(m *wire.Message) error { return conn.SendWait(ctx, m.Append(nil, protocol)) }
	for {
		commits, snapshot := a.graph.Subscribe(commitQueue)
		sync := wire.NewSync(snapshot.Nodes(field.Filter{}), snapshot.Edges(field.Filter{}))
		err := send(&wire.Message{Namespace: wire.NamespaceGraph, Type: wire.TypeSync, UUID: graph.NewID(), Status: 200, Body: sync})
		a.metrics.syncs.Inc()
		if err == nil {
			err = a.follow(commits, conn, send)
		}
		commits.Close()
		if err != nil {
			return err
		}
		a.metrics.lost.Inc()
		a.log.Warn("Changes come faster than the master takes them, sending the whole graph", "analyzer", conn.Peer().HostID)
	}
}

// follow sends changes until the connection ends, or until some were lost, then it returns nil.
func (a *Agent) follow(commits *graph.Subscription, conn *ws.Conn, send func(*wire.Message) error) error {
	for {
		select {
		case commit, ok := <-commits.C():
			if !ok {
				return nil
			}
			for _, ch := range commit.Changes {
				if err := send(wire.Event(ch, true)); err != nil {
					return err
				}
			}
			a.metrics.events.Add(float64(len(commit.Changes)))
		case <-conn.Done():
			return ws.ErrClosed
		}
	}
}
