package agent

import (
	"io"

	"skydive/src/field"
	"skydive/src/wire"
	"skydive/src/ws"
)

// session answers what one analyzer asks.
type session struct {
	agent    *Agent
	link     *link
	conn     *ws.Conn
	protocol wire.Protocol
	decoder  *wire.Decoder
}

// Receive answers a request, so that the analyzer never waits for its timeout; what is not a request is counted only.
func (s *session) Receive(r io.Reader) error {
	m, err := s.decoder.Decode(r, s.protocol)
	if err != nil {
		s.agent.metrics.invalid.Inc()
		s.agent.log.Debug("Message from analyzer dropped", "analyzer", s.conn.Peer().HostID, "error", err)
		return nil
	}
	reply := s.answer(m)
	if reply == nil {
		s.agent.metrics.ignored.Inc()
		return nil
	}
	// An error means that the connection is over, which Closed is told.
	_ = s.conn.Send(reply.Append(nil, s.protocol))
	return nil
}

// Closed makes room for another master.
func (s *session) Closed(error) { s.agent.gone(s.link, s.conn) }

// noEngine is why a capture or an injection is refused.
const noEngine = "this agent has no engine for captures and packet injections"

// answer returns the reply to a request, nil if m is none. This agent takes no captures: it has no flows, refuses to start one
// and, since none runs, confirms that it is stopped.
func (s *session) answer(m *wire.Message) *wire.Message {
	switch {
	case m.Namespace == wire.NamespaceFlow && m.Type == wire.TypeTableQuery:
		reply := m.Reply(wire.TypeTableResult, 200, nil)
		if s.protocol == wire.Protobuf {
			reply.Format, reply.Obj = wire.FormatProtobuf, []byte{0x08, 0xc8, 0x01} // flow.TableReply{Status: 200}
		} else {
			reply.Obj = []byte(`{"Status":200,"FlowSetBytes":[]}`)
		}
		return reply
	case m.Namespace != wire.NamespaceCapture && m.Namespace != wire.NamespaceInjection:
	case m.Type == wire.TypeStart:
		s.agent.log.Warn("Request of analyzer refused", "analyzer", s.conn.Peer().HostID, "namespace", m.Namespace, "reason", noEngine)
		reply := m.Reply(wire.TypeStartReply, 501, nil)
		reply.Obj = m.Obj
		if v, err := field.ParseJSON(m.Obj); err == nil {
			if task, ok := v.(field.Object); ok {
				if task, err = task.Set("Error", noEngine); err == nil {
					reply.Obj = field.AppendJSON(nil, task)
				}
			}
		}
		return reply
	case m.Type == wire.TypeStop:
		reply := m.Reply(wire.TypeStopReply, 200, nil)
		reply.Obj = m.Obj
		return reply
	}
	return nil
}
