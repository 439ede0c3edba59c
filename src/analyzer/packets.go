package analyzer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// ErrStreams tells that as many captures are streamed as may be at a time.
var ErrStreams = errors.New("too many captures are streamed")

const (
	streamLimit     = 16
	streamReconcile = 20 * time.Millisecond // how often is looked who has connected: sooner than an agent captures
	streamSettle    = time.Second           // how long agents are waited for at the beginning
	streamMessage   = 1 << 20               // bytes of one message of packets, of which agents make smaller ones
	streamLinger    = time.Second           // how long packets may still come when the capture has ended
)

// LivePackets streams the packets that agents capture.
type LivePackets struct {
	agents *Agents
	log    *slog.Logger
	settle time.Duration
	active prometheus.Gauge
	sent   prometheus.Counter
	lost   prometheus.Counter
}

// NewLivePackets returns what asks the agents connected to a; reg may be nil.
func NewLivePackets(a *Agents, log *slog.Logger, reg prometheus.Registerer) *LivePackets {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "skydive", Subsystem: "live_packets", Name: name, Help: help})
	}
	l := &LivePackets{
		agents: a, log: log, settle: streamSettle,
		active: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "skydive", Subsystem: "live_packets", Name: "streams", Help: "Captures that are streamed now."}),
		sent:   counter("sent_total", "Packets sent to readers of streams."),
		lost:   counter("lost_total", "Packets that agents could not send because a stream was not read fast enough."),
	}
	if reg != nil {
		reg.MustRegister(l.active, l.sent, l.lost)
	}
	return l
}

// streams are the streams by the UUID of their request.
type streams struct {
	mu   sync.Mutex // guards open
	open map[string]*packetStream
}

func (s *streams) take(c *ws.Conn, m *wire.Message) {
	s.mu.Lock()
	st := s.open[m.UUID]
	s.mu.Unlock()
	if st != nil {
		st.take(c, m)
	}
}

// packetStream is one reader of one capture. What agents send waits in it; they send no more than PacketsWindow messages without being
// told that they were taken.
type packetStream struct {
	uuid string
	wake chan struct{}

	mu     sync.Mutex // guards below
	agents map[*ws.Conn]*streaming
	conns  []*ws.Conn // of which agents was made
	queue  []parcel
}

// streaming is what is known of an agent that was asked.
type streaming struct {
	answered bool
	waiting  int // messages in the queue
}

type parcel struct {
	from *ws.Conn
	m    *wire.Message
}

// take runs on the goroutine of the connection, and does not wait.
func (s *packetStream) take(c *ws.Conn, m *wire.Message) {
	s.mu.Lock()
	if a := s.agents[c]; a != nil && a.waiting <= wire.PacketsWindow && len(m.Obj) <= streamMessage { // more comes from no agent of ours
		a.answered = true
		a.waiting++
		s.queue = append(s.queue, parcel{c, m})
	}
	s.mu.Unlock()
	signal(s.wake)
}

func (s *packetStream) drain() []parcel {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := s.queue
	s.queue = nil
	for _, a := range s.agents {
		a.waiting = 0
	}
	return queue
}

// settled tells whether all agents have answered.
func (s *packetStream) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.agents {
		if !a.answered {
			return false
		}
	}
	return true
}

// Follow writes the packets of a capture on all hosts as pcapng until ctx ends, the capture does – which ended tells –, or w fails.
// Agents that connect later are included. The header is written as soon as no packet is missed.
func (l *LivePackets) Follow(ctx context.Context, captureID string, ended <-chan struct{}, w io.Writer) error {
	request, err := json.Marshal(wire.Stream{CaptureID: captureID})
	if err != nil {
		return fmt.Errorf("follow capture: %w", err)
	}
	s := &packetStream{uuid: graph.NewID(), wake: make(chan struct{}, 1), agents: make(map[*ws.Conn]*streaming)}
	if !l.register(s) {
		return ErrStreams
	}
	l.active.Inc()
	defer l.active.Dec()
	defer l.farewell(s)

	out := newPacketWriter(w)
	tick := time.NewTicker(streamReconcile)
	defer tick.Stop()
	settle := time.After(l.settle)
	started, late := false, false
	var linger <-chan time.Time
	for {
		l.reconcile(s, request)
		if !started && (late || s.settled()) {
			if err := out.Start(); err != nil {
				return fmt.Errorf("stream packets: %w", err)
			}
			started = true
		}
		if started {
			if err := l.write(out, s); err != nil {
				return fmt.Errorf("stream packets: %w", err)
			}
		}
		select {
		case <-s.wake:
		case <-tick.C:
		case <-settle:
			late = true
		case <-ended:
			ended, linger = nil, time.After(streamLinger)
		case <-linger:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *LivePackets) register(s *packetStream) bool {
	all := &l.agents.streams
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.open) >= streamLimit {
		return false
	}
	if all.open == nil {
		all.open = make(map[string]*packetStream)
	}
	all.open[s.uuid] = s
	return true
}

// farewell tells agents that the stream is over.
func (l *LivePackets) farewell(s *packetStream) {
	all := &l.agents.streams
	all.mu.Lock()
	delete(all.open, s.uuid)
	all.mu.Unlock()
	for c := range s.agents {
		s.tell(c, wire.TypeUnfollow, []byte("{}"))
	}
}

// tell never waits. An error means that the connection is over, and the stream there with it.
func (s *packetStream) tell(c *ws.Conn, typ string, obj []byte) {
	m := &wire.Message{Namespace: wire.NamespaceCapture, Type: typ, UUID: s.uuid, Status: 200, Obj: obj}
	_ = c.Send(m.Append(nil, wire.Protobuf))
}

// reconcile asks agents that were not asked yet, and forgets those that have gone. Agents of the protocol JSON have no such packets.
func (l *LivePackets) reconcile(s *packetStream, request []byte) {
	conns := l.agents.Conns()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(conns) == len(s.conns) && (len(conns) == 0 || &conns[0] == &s.conns[0]) {
		return // the very list, which nobody changes
	}
	s.conns = conns
	for _, c := range conns {
		if p := c.Peer(); s.agents[c] == nil && p.ServiceType == agentType && p.Binary() {
			s.agents[c] = &streaming{}
			s.tell(c, wire.TypeFollow, request)
		}
	}
	for c := range s.agents {
		if !slices.Contains(conns, c) {
			delete(s.agents, c)
		}
	}
}

// write gives the reader what waits, and makes room for more.
func (l *LivePackets) write(out *packetWriter, s *packetStream) error {
	queue := s.drain()
	taken := make([]*ws.Conn, 0, len(queue))
	for _, p := range queue {
		host := p.from.Peer().HostID
		if p.m.Type == wire.TypeFollowReply {
			if p.m.Status >= 400 {
				l.log.Warn("Agent does not stream packets", "host", host, "status", p.m.Status, "answer", string(p.m.Obj))
			}
			continue
		}
		var packets wire.Packets
		if err := packets.UnmarshalProto(p.m.Obj); err != nil {
			l.log.Warn("Packets of an agent are dropped", "host", host, "error", err)
			continue // and makes no room for more of that kind
		}
		taken = append(taken, p.from)
		lost, err := out.packets(p.from, &packets)
		l.sent.Add(float64(len(packets.Packets)))
		l.lost.Add(float64(lost))
		if err != nil {
			return err
		}
	}
	err := out.Flush()
	for _, c := range taken {
		s.tell(c, wire.TypeTaken, []byte("{}"))
	}
	return err
}

// packetWriter names interfaces, and adds up what they have lost.
type packetWriter struct {
	*flow.PcapngWriter
	nodes map[nodeKey]*packetNode
	names map[string]bool
}

type nodeKey struct{ host, tid string }

type packetNode struct {
	name  string
	from  *ws.Conn // whose count is seen: another begins anew, as does another capture on the node
	seen  int64
	total int64 // lost
}

func newPacketWriter(w io.Writer) *packetWriter {
	return &packetWriter{flow.NewPcapngWriter(w), make(map[nodeKey]*packetNode), make(map[string]bool)}
}

// packets writes packets of one node; it returns how many were lost since the last.
func (w *packetWriter) packets(from *ws.Conn, p *wire.Packets) (lost int64, err error) {
	key := nodeKey{from.Peer().HostID, p.NodeTID}
	n := w.nodes[key]
	if n == nil {
		n = &packetNode{name: w.name(key, p)}
		w.nodes[key] = n
	}
	if n.from != from || p.Lost < n.seen {
		n.from, n.seen = from, 0
	}
	lost, n.seen = p.Lost-n.seen, p.Lost
	n.total += lost
	last := time.Now().UnixNano()
	for i := range p.Packets {
		k := &p.Packets[i]
		if err := w.Packet(n.name, p.Link, k.Time, k.Length, k.Data); err != nil {
			return lost, err
		}
		last = k.Time
	}
	if lost > 0 {
		err = w.Lost(n.name, p.Link, last, n.total)
	}
	return lost, err
}

// name returns a name that no other node of the stream has: host/interface or, in a network namespace, host/namespace/interface.
func (w *packetWriter) name(key nodeKey, p *wire.Packets) string {
	parts := []string{key.host}
	if dir, base := path.Split(p.NetNS); strings.HasSuffix(dir, "netns/") {
		parts = append(parts, base)
	}
	name := strings.Join(append(parts, p.Name), "/")
	if w.names[name] {
		name += "#" + key.tid
	}
	w.names[name] = true
	return name
}
