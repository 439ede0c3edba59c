package agent

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/wire"
	"skydive/src/ws"
)

const (
	queryLimit    = 4                // flow queries of one analyzer that are answered at a time
	queryWaiting  = 64               // that wait for that
	queryDeadline = 10 * time.Second // after which nobody waits for the answer
	taskWaiting   = 1024             // starts and stops that wait for those before them
)

// session answers what one analyzer asks. Its socket is read on, whatever takes long: starts and stops are done one after the other,
// flow queries some at a time.
type session struct {
	agent    *Agent
	link     *link
	conn     *ws.Conn
	protocol wire.Protocol
	decoder  *wire.Decoder // belongs to the connection's goroutine

	ctx     context.Context // ends with the connection
	cancel  context.CancelFunc
	running sync.WaitGroup
	queries chan *wire.Message
	tasks   chan *wire.Message

	mu      sync.Mutex         // guards streams
	streams map[string]*stream // of packets that the analyzer follows, by UUID of the request
}

func newSession(a *Agent, l *link, c *ws.Conn) (*session, error) {
	s := &session{
		agent: a, link: l, conn: c, decoder: wire.NewDecoder(),
		queries: make(chan *wire.Message, queryWaiting), tasks: make(chan *wire.Message, taskWaiting),
		streams: make(map[string]*stream),
	}
	var err error
	if s.protocol, err = wire.ParseProtocol(c.Peer().Protocol); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for range queryLimit {
		s.running.Go(func() { s.serve(s.queries) })
	}
	s.running.Go(func() { s.serve(s.tasks) })
	return s, nil
}

// Receive queues a request; what is none is counted only.
func (s *session) Receive(r io.Reader) error {
	m, err := s.decoder.Decode(r, s.protocol)
	if err != nil {
		s.agent.metrics.invalid.Inc()
		s.agent.log.Debug("Message from analyzer dropped", "analyzer", s.conn.Peer().HostID, "error", err)
		return nil
	}
	var queue chan<- *wire.Message
	switch onDemand := m.Namespace == wire.NamespaceCapture || m.Namespace == wire.NamespaceInjection; {
	case m.Namespace == wire.NamespaceFlow && m.Type == wire.TypeTableQuery:
		queue = s.queries
	case onDemand && (m.Type == wire.TypeStart || m.Type == wire.TypeStop):
		queue = s.tasks
	case m.Namespace == wire.NamespaceCapture && s.followed(m):
		return nil
	default:
		s.agent.metrics.ignored.Inc()
		return nil
	}
	select {
	case queue <- m:
	default:
		s.send(s.refuse(m, http.StatusServiceUnavailable, "too many requests wait for an answer"))
	}
	return nil
}

// Closed makes room for another master.
func (s *session) Closed(err error) {
	s.agent.gone(s.link, s.conn)
	if abrupt(err) {
		s.agent.broke(s.link)
	}
	s.cancel()
	s.running.Wait()
}

func (s *session) serve(queue <-chan *wire.Message) {
	for {
		select {
		case m := <-queue:
			s.send(s.guarded(m))
		case <-s.ctx.Done():
			return
		}
	}
}

// send sends a reply. An error means that the connection is over, which Closed is told.
func (s *session) send(m *wire.Message) { _ = s.conn.SendWait(s.ctx, m.Append(nil, s.protocol)) }

// guarded is answer; a panic, which would be a fault of ours, costs one answer.
func (s *session) guarded(m *wire.Message) (reply *wire.Message) {
	defer func() {
		if r := recover(); r != nil {
			s.agent.log.Error("panic while answering an analyzer", "namespace", m.Namespace, "type", m.Type, "panic", r, "stack", string(debug.Stack()))
			reply = s.refuse(m, http.StatusInternalServerError, "internal error")
		}
	}()
	return s.answer(m)
}

// noEngine is why a capture or an injection is refused.
const noEngine = "this agent has no engine for captures and packet injections"

// answer returns the reply to a request. Without tasks the agent has no flows, refuses to start anything and, since nothing runs,
// confirms that it is stopped.
func (s *session) answer(m *wire.Message) *wire.Message {
	tasks := s.agent.tasks
	switch {
	case m.Namespace == wire.NamespaceFlow:
		return s.query(m)
	case tasks != nil:
		err := tasks.do(m)
		if err != nil {
			return s.refuse(m, status(err), err.Error())
		}
	case m.Type == wire.TypeStart:
		return s.refuse(m, http.StatusNotImplemented, noEngine)
	}
	reply := m.Reply(replyType(m.Type), http.StatusOK, nil)
	reply.Obj = m.Obj
	return reply
}

func replyType(request string) string {
	switch request {
	case wire.TypeTableQuery:
		return wire.TypeTableResult
	case wire.TypeStart:
		return wire.TypeStartReply
	case wire.TypeFollow:
		return wire.TypeFollowReply
	}
	return wire.TypeStopReply
}

// query answers a query of flows: in protobuf to analyzers that speak it, as public ones expect whatever format they ask in.
func (s *session) query(m *wire.Message) *wire.Message {
	q, err := flow.ParseTableQuery(m.Obj, m.Format == wire.FormatProtobuf)
	if err != nil {
		return s.refuse(m, http.StatusBadRequest, err.Error())
	}
	ctx, cancel := context.WithTimeout(s.ctx, queryDeadline)
	defer cancel()
	var tables []*flow.Table
	if s.agent.tasks != nil {
		tables = s.agent.tasks.o.Captures.Tables()
	}
	r, err := search(ctx, tables, q, replyLimit)
	if err != nil {
		return s.refuse(m, http.StatusInternalServerError, err.Error())
	}
	return s.result(m, r)
}

func (s *session) result(m *wire.Message, r *flow.TableReply) *wire.Message {
	reply := m.Reply(wire.TypeTableResult, r.Status, tableReply{r, s.protocol == wire.Protobuf})
	if s.protocol == wire.Protobuf {
		reply.Format = wire.FormatProtobuf
	}
	return reply
}

// refuse returns a reply that says why there is no other.
func (s *session) refuse(m *wire.Message, status int64, reason string) *wire.Message {
	level := slog.LevelWarn
	if m.Namespace != wire.NamespaceFlow {
		level = slog.LevelDebug // asked again and again: the analyzer says it once, and shows it
	}
	s.agent.log.Log(context.Background(), level, "Request of analyzer refused", "analyzer", s.conn.Peer().HostID, "namespace", m.Namespace, "type", m.Type, "status", status, "reason", reason)
	if m.Namespace == wire.NamespaceFlow {
		return s.result(m, &flow.TableReply{Status: status})
	}
	reply := m.Reply(replyType(m.Type), status, nil)
	reply.Obj = m.Obj
	if v, err := field.ParseJSON(m.Obj); err == nil {
		if task, ok := v.(field.Object); ok {
			if task, err = task.Set("Error", reason); err == nil {
				reply.Obj = field.AppendJSON(nil, task)
			}
		}
	}
	return reply
}
