package analyzer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
	running  sync.WaitGroup // until Run has heard of the link
	serving  sync.WaitGroup // answers

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
		l.serving.Go(func() { l.answer(m) })
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
	l.serving.Wait()
	l.r.mu.Lock()
	if l.r.links[l.host] == l {
		delete(l.r.links, l.host)
	}
	l.r.mu.Unlock()
	close(l.gone)
	l.tell(replicaEvent{link: l, down: true})
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
