package analyzer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"skydive/src/pubsub"
	"skydive/src/wire"
	"skydive/src/ws"
)

// ErrNoAnalyzer tells that an analyzer is not connected.
var ErrNoAnalyzer = errors.New("this analyzer is not connected")

// Reasons for which a connection between analyzers is not kept. The other side reads the text.
var (
	errItself = errors.New("this is the analyzer itself")
	errLinked = errors.New("already connected")
)

const (
	replicaPath    = "/ws/replication"
	analyzerType   = "analyzer"
	processPrefix  = "process:" // of the namespace by which a server knows its own process as a client
	answerLimit    = 8          // questions of one analyzer that are answered at a time
	replicaPause   = 800 * time.Millisecond
	refusedFactor  = 5 // longer after an answer that the next attempt will most likely get again
	replicaBacklog = 256
)

// replicaLink is a connection to another analyzer.
type replicaLink struct {
	r        *Replicas
	host     string
	conn     *ws.Conn
	outgoing bool
	ours     bool          // known to speak the namespace Replica
	decoder  *wire.Decoder // belongs to the connection's goroutine
	answers  chan struct{} // holds a token for each that is being made
	ctx      context.Context
	cancel   context.CancelFunc
	gone     chan struct{}
	running  sync.WaitGroup

	sent, received atomic.Int64 // changes
}

// replicaEvent is a message, or that a link came or went, or something else to do between others.
type replicaEvent struct {
	link *replicaLink
	msg  *wire.Message
	up   bool
	down bool
	hook func()
}

// accept takes a connection that another analyzer made.
func (r *Replicas) accept(c *ws.Conn) (ws.Session, error) {
	p := c.Peer()
	if p.HostID == r.o.HostID {
		if slices.Contains(p.Namespaces, processPrefix+r.process) {
			return nil, errItself
		}
		return nil, fmt.Errorf("host id %s is that of this analyzer, too: give %s another host_id", r.o.HostID, net.JoinHostPort(p.Addr, fmt.Sprint(p.Port)))
	}
	if p.Binary() {
		return nil, errors.New("X-Client-Protocol of analyzers is json")
	}
	return r.join(c, false)
}

// join makes a connection the link to its host, if it is the one to keep: of two, that which the lower host id made.
func (r *Replicas) join(c *ws.Conn, outgoing bool) (ws.Session, error) {
	host := c.Peer().HostID
	l := &replicaLink{
		r: r, host: host, conn: c, outgoing: outgoing, ours: slices.Contains(c.Peer().Namespaces, wire.NamespaceReplica) && !outgoing,
		decoder: wire.NewDecoder(), answers: make(chan struct{}, answerLimit), gone: make(chan struct{}),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.links[host]; old != nil {
		if old.outgoing == outgoing || outgoing != (r.o.HostID < host) {
			return nil, errLinked
		}
		old.conn.Close(ws.StatusNormal, errLinked.Error())
	}
	r.links[host] = l
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.running.Go(func() { l.tell(replicaEvent{link: l, up: true}) })
	return l, nil
}

// tell hands over to Run, as long as that runs.
func (l *replicaLink) tell(e replicaEvent) {
	select {
	case l.r.inbox <- e:
	case <-l.r.stop:
	}
}

// Receive takes one message.
func (l *replicaLink) Receive(in io.Reader) error {
	l.running.Wait() // Run hears of the link first
	m, err := l.decoder.Decode(in, wire.JSON)
	if err != nil {
		l.r.metrics.invalid.Inc()
		l.r.log.Warn("Message from analyzer dropped", "analyzer", l.host, "error", err)
		if m != nil && m.Namespace == wire.NamespaceReplica {
			return fmt.Errorf("what follows would not be understood: %w", err) // a new connection begins with a comparison
		}
		return nil
	}
	switch m.Namespace {
	case wire.NamespaceReplica, wire.NamespaceGraph:
		if m.Body != nil {
			l.tell(replicaEvent{link: l, msg: m})
		}
		return nil
	}
	if l.r.questions.take(l.conn, m) || l.r.o.Answer == nil {
		return nil
	}
	select {
	case l.answers <- struct{}{}:
		go l.answer(m)
	default:
		l.reply(m.Reply(m.Type, http.StatusServiceUnavailable, wire.Text("too many questions wait for an answer")))
	}
	return nil
}

func (l *replicaLink) answer(m *wire.Message) {
	defer func() {
		if p := recover(); p != nil { // a fault of ours costs one answer
			l.r.log.Error("panic while answering an analyzer", "analyzer", l.host, "namespace", m.Namespace, "type", m.Type, "panic", p)
			l.reply(m.Reply(m.Type, http.StatusInternalServerError, wire.Text("internal error")))
		}
		<-l.answers
	}()
	if reply := l.r.o.Answer(l.ctx, m); reply != nil {
		l.reply(reply)
	}
}

// reply waits for room: an answer must not cost the link.
func (l *replicaLink) reply(m *wire.Message) { _ = l.conn.SendWait(l.ctx, m.Append(nil, wire.JSON)) }

// Closed forgets the link.
func (l *replicaLink) Closed(error) {
	l.cancel()
	l.running.Wait()
	l.r.mu.Lock()
	if l.r.links[l.host] == l {
		delete(l.r.links, l.host)
	}
	l.r.mu.Unlock()
	close(l.gone)
	l.tell(replicaEvent{link: l, down: true})
}

// replicaDial keeps up the connection to one address.
type replicaDial struct {
	r    *Replicas
	addr string
	o    ws.DialOptions

	mu     sync.Mutex // guards below
	host   string     // of the analyzer at addr; "" while it was never reached
	itself bool
	conn   *ws.Conn
	state  ws.State
	reason string
	since  time.Time
}

func newReplicaDial(r *Replicas, addr string) *replicaDial {
	o := r.o.Dial
	o.Addr, o.Path, o.HostID, o.ClientType, o.Protocol = addr, replicaPath, r.o.HostID, analyzerType, string(wire.JSON)
	o.Namespaces = []string{"*", wire.NamespaceReplica, processPrefix + r.process}
	return &replicaDial{r: r, addr: addr, o: o, state: ws.Connecting, since: time.Now()}
}

func (d *replicaDial) run(ctx context.Context) {
	for ctx.Err() == nil {
		pause := replicaPause + rand.N(replicaPause/2)
		conn, err := ws.Dial(ctx, d.o)
		var refused *ws.DialError
		switch {
		case errors.As(err, &refused) && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden || refused.Status == http.StatusTooManyRequests):
			pause *= refusedFactor
		case err == nil:
			err = d.keep(ctx, conn)
		}
		if ctx.Err() != nil {
			return
		}
		d.set(nil, ws.Failed, err)
		if errors.Is(err, errItself) {
			<-ctx.Done() // should the name come to mean another host, that one connects to here
			return
		}
		d.wait(ctx, pause)
	}
}

// keep runs a connection until it ends, and says why.
func (d *replicaDial) keep(ctx context.Context, conn *ws.Conn) error {
	host := conn.Peer().HostID
	d.mu.Lock()
	d.host = host
	d.mu.Unlock()
	var refused error
	err := conn.Run(ctx, func(c *ws.Conn) (ws.Session, error) {
		if host == d.r.o.HostID {
			return nil, nil // it says why that is
		}
		var s ws.Session
		if s, refused = d.r.join(c, true); refused != nil {
			return nil, refused
		}
		d.set(c, ws.Connected, nil)
		d.r.log.Info("Connected to analyzer", "analyzer", host, "addr", d.addr)
		return s, nil
	})
	var farewell ws.CloseError
	switch {
	case refused != nil:
		return refused
	case errors.As(err, &farewell) && farewell.Reason == errLinked.Error():
		return errLinked
	case errors.As(err, &farewell) && farewell.Reason == errItself.Error() && host == d.r.o.HostID:
		return errItself
	case err == nil:
		return errLinked // another link took its place
	}
	return err
}

// wait is until the next attempt: not while the host is connected by another link.
func (d *replicaDial) wait(ctx context.Context, pause time.Duration) {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return
	}
	for {
		d.mu.Lock()
		host, itself := d.host, d.itself
		d.mu.Unlock()
		d.r.mu.Lock()
		l := d.r.links[host]
		d.r.mu.Unlock()
		if l == nil || itself {
			return
		}
		select {
		case <-l.gone:
		case <-ctx.Done():
			return
		}
		t.Reset(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// set notes the state, and logs a reason once, however often it repeats.
func (d *replicaDial) set(conn *ws.Conn, state ws.State, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	reason := ""
	itself := errors.Is(err, errItself)
	if err != nil {
		reason = err.Error()
	}
	if state == ws.Failed && !itself && !errors.Is(err, errLinked) && reason != d.reason {
		d.r.log.Warn("Not connected to analyzer, retrying", "addr", d.addr, "reason", reason)
	}
	if state != d.state {
		d.since = time.Now()
	}
	d.conn, d.state, d.reason = conn, state, reason
	d.itself = itself
}

// alone tells whether every address is known to be this analyzer itself, and nobody else has connected.
func (r *Replicas) alone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.links) > 0 {
		return false
	}
	for _, d := range r.dials {
		d.mu.Lock()
		itself := d.itself
		d.mu.Unlock()
		if !itself {
			return false
		}
	}
	return true
}

// Hosts names the analyzers that are connected, sorted.
func (r *Replicas) Hosts() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	hosts := make([]string, 0, len(r.links))
	for host := range r.links {
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	return hosts
}

// Absent names the analyzers that are not connected, sorted: by host id, or by address when they never were.
func (r *Replicas) Absent() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var absent []string
	for _, d := range r.dials {
		d.mu.Lock()
		name, itself := d.host, d.itself || d.host == r.o.HostID
		d.mu.Unlock()
		if itself || r.links[name] != nil {
			continue
		}
		if name == "" {
			name = d.addr
		}
		if !slices.Contains(absent, name) {
			absent = append(absent, name)
		}
	}
	slices.Sort(absent)
	return absent
}

// Request asks the analyzer of a host and waits for its reply, as long as ctx allows; whatever Status the reply has is for the caller to
// look at. A UUID is made up when m has none. The error wraps ErrNoAnalyzer when it is not connected, or goes before it answers.
func (r *Replicas) Request(ctx context.Context, host string, m *wire.Message) (*wire.Message, error) {
	r.mu.Lock()
	l := r.links[host]
	r.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("analyzer %s: %w", host, ErrNoAnalyzer)
	}
	reply, err := ask(ctx, &r.questions, l.conn, m)
	if errors.Is(err, ErrNoAgent) {
		err = fmt.Errorf("analyzer %s: %w: it left before it answered", host, ErrNoAnalyzer)
	}
	return reply, err
}

// ReplicaStatus is a connection to another analyzer in /api/status.
type ReplicaStatus struct {
	ws.ConnStatus
	Sent, Received int64          // changes
	Repair         *replicaRepair `json:",omitempty"` // the last
}

// replicaRepair is when what an analyzer has was found to differ, and was made equal.
type replicaRepair struct {
	At       time.Time
	Origin   string
	Elements int
	Count    int64 // of all since the start
}

// replicaCounts is what Run has at hand.
type replicaCounts struct {
	Elements, Origins, Parked, Tombstones, Pending int
}

// ReplicationStatus is the state of all in /api/status.
type ReplicationStatus struct {
	State  string // alone, connected, or partitioned
	Reason string `json:",omitempty"`
	replicaCounts
}

// ReplicasStatus is Peers in /api/status.
type ReplicasStatus struct {
	Incomers, Outgoers map[string]ReplicaStatus
	Replication        ReplicationStatus
}

// Status describes the connections by host id, or by address while that is not known. That to itself is not shown.
func (r *Replicas) Status() any {
	absent, alone := r.Absent(), r.alone()
	r.mu.Lock()
	defer r.mu.Unlock()
	st := ReplicasStatus{Incomers: map[string]ReplicaStatus{}, Outgoers: map[string]ReplicaStatus{}}
	for host, l := range r.links {
		s := ReplicaStatus{ConnStatus: l.conn.Status(), Sent: l.sent.Load(), Received: l.received.Load()}
		if last, ok := r.last[host]; ok {
			s.Repair = &last
		}
		if l.outgoing {
			st.Outgoers[host] = s
		} else {
			st.Incomers[host] = s
		}
	}
	for _, d := range r.dials {
		d.mu.Lock()
		name := d.host
		if name == "" {
			name = d.addr
		}
		if !d.itself && r.links[name] == nil && d.conn == nil {
			host, port, _ := net.SplitHostPort(d.addr)
			var number int
			_, _ = fmt.Sscan(port, &number)
			st.Outgoers[name] = ReplicaStatus{ConnStatus: ws.ConnStatus{
				ServiceType: analyzerType, ClientProtocol: string(wire.JSON), Addr: host, Port: number, State: d.state, Reason: d.reason, Since: d.since,
			}}
		}
		d.mu.Unlock()
	}
	st.Replication = ReplicationStatus{State: "connected", replicaCounts: r.told}
	switch {
	case alone:
		st.Replication.State = "alone"
	case len(absent) > 0:
		st.Replication.State, st.Replication.Reason = "partitioned", "not connected: "+strings.Join(absent, ", ")
	}
	return st
}

// producerNews is that a producer begins to talk, that its first message is in the graph, or that it has gone.
type producerNews struct {
	origin   string
	event    producerEvent
	farewell bool
}

type producerEvent int

const (
	producerBegins producerEvent = iota
	producerBegan
	producerLeft
)

func (r *Replicas) isAgent(p ws.Peer) bool {
	return p.Path == r.o.Agents.Path() && p.ServiceType == agentType
}

// Begins is told before the first message of a producer is applied: of an agent, this analyzer is right from now on.
func (r *Replicas) Begins(peer ws.Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isAgent(peer) {
		t := r.talking[peer.Origin()]
		if t == nil {
			t = new(talk)
			r.talking[peer.Origin()] = t
		}
		t.connections++
	}
	r.note(producerNews{origin: peer.Origin(), event: producerBegins})
}

// Began is told when that message is applied.
func (r *Replicas) Began(peer ws.Peer) {
	if r.isAgent(peer) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if t := r.talking[peer.Origin()]; t != nil {
			t.began = true
		}
		r.note(producerNews{origin: peer.Origin(), event: producerBegan})
	}
}

// Left is told that a producer has gone, and all it said is applied. The answer is whether its elements stay nevertheless.
func (r *Replicas) Left(peer ws.Peer, err error) bool {
	origin, isAgent, alone := peer.Origin(), r.isAgent(peer), r.alone()
	r.mu.Lock()
	defer r.mu.Unlock()
	if isAgent {
		if t := r.talking[origin]; t != nil {
			if t.connections--; t.connections <= 0 {
				delete(r.talking, origin)
			}
		}
	}
	// An agent may come back, or be elsewhere already, and so may a publisher. If it took its leave, or was there before, its elements go
	// once it is nowhere.
	stays := !alone && (isAgent || r.present[origin])
	var close ws.CloseError
	farewell := !isAgent || errors.As(err, &close) && close.Code != ws.StatusTryAgain
	r.note(producerNews{origin: origin, event: producerLeft, farewell: farewell && stays && peer.PersistencePolicy == pubsub.DeleteOnDisconnect})
	return stays
}

// note is called with mu held.
func (r *Replicas) note(n producerNews) {
	r.news = append(r.news, n)
	r.waiting.Store(true)
	signal(r.wake)
}

// elsewhere lists the origins that are connected to any of the analyzers, but for agents of this one.
func (r *Replicas) elsewhere() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]string, 0, len(r.present)+len(r.own))
	for origin := range r.present {
		all = append(all, origin)
	}
	for origin := range r.own {
		all = append(all, origin)
	}
	return all
}

// unseen is told that the elements of an origin go, because nobody has heard of it for long.
func (r *Replicas) unseen(origin string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expired[origin] = time.Now()
	r.waiting.Store(true)
}
