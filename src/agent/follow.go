package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"skydive/src/capture"
	"skydive/src/wire"
)

// Packets are those that captures take: capture.Manager.
type Packets interface {
	Follow(ctx context.Context, captureID string, began func(), deliver func(capture.Batch) error) error
}

// stream is one capture whose packets the analyzer follows.
type stream struct {
	cancel context.CancelFunc
	room   chan struct{} // as many as there may be more messages on their way
}

// streamLimit is how many one analyzer may ask for: more than it gets.
const streamLimit = 32

// followed does what a message says of streams; it tells whether there was something to do.
func (s *session) followed(m *wire.Message) bool {
	switch m.Type {
	case wire.TypeFollow:
		s.begin(m)
	case wire.TypeUnfollow, wire.TypeTaken:
		s.mu.Lock()
		defer s.mu.Unlock()
		st := s.streams[m.UUID]
		switch {
		case st == nil: // just ended
		case m.Type == wire.TypeUnfollow:
			st.cancel()
		default:
			select {
			case st.room <- struct{}{}:
			default: // more than we have sent
			}
		}
	default:
		return false
	}
	return true
}

// begin begins a stream. A second request of the same name is the first one, repeated.
func (s *session) begin(m *wire.Message) {
	var asked wire.Stream
	refuse := func(status int64, reason string) { s.send(s.refuse(m, status, reason)) }
	switch err := json.Unmarshal(m.Obj, &asked); {
	case err != nil || asked.CaptureID == "":
		refuse(http.StatusBadRequest, "no capture is named")
		return
	case s.protocol != wire.Protobuf:
		refuse(http.StatusNotImplemented, "packets need the protocol protobuf")
		return
	case s.agent.tasks == nil || s.agent.tasks.o.Packets == nil:
		refuse(http.StatusNotImplemented, noEngine)
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	st := &stream{cancel, make(chan struct{}, wire.PacketsWindow)}
	for range wire.PacketsWindow {
		st.room <- struct{}{}
	}
	s.mu.Lock()
	_, known := s.streams[m.UUID]
	full := len(s.streams) >= streamLimit
	if !known && !full {
		s.streams[m.UUID] = st
	}
	s.mu.Unlock()
	if known || full {
		cancel()
		if !known {
			refuse(http.StatusServiceUnavailable, capture.ErrBusy.Error())
		}
		return
	}
	s.running.Go(func() {
		defer cancel()
		err := s.stream(ctx, st, m, asked.CaptureID)
		s.mu.Lock()
		delete(s.streams, m.UUID)
		s.mu.Unlock()
		if errors.Is(err, capture.ErrBusy) {
			refuse(http.StatusServiceUnavailable, err.Error())
		}
	})
}

// stream sends the packets of a capture until ctx ends. While as many are on their way as may, they wait, and are lost in the end.
func (s *session) stream(ctx context.Context, st *stream, m *wire.Message, captureID string) error {
	return s.agent.tasks.o.Packets.Follow(ctx, captureID, func() {
		reply := m.Reply(wire.TypeFollowReply, http.StatusOK, nil)
		reply.Obj = m.Obj
		s.send(reply)
	}, func(b capture.Batch) error {
		select {
		case <-st.room:
		case <-ctx.Done():
			return ctx.Err()
		}
		packets := m.Reply(wire.TypePackets, http.StatusOK, &wire.Packets{
			NodeTID: b.Node.TID, Name: b.Node.Name, NetNS: b.Node.NetNS, Link: b.Link, Lost: b.Lost, Packets: b.Packets,
		})
		packets.Format = wire.FormatProtobuf
		return s.conn.SendWait(ctx, packets.Append(nil, s.protocol))
	})
}
