package analyzer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"skydive/src/agent"
	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/resource"
	"skydive/src/wire"
	"skydive/src/ws"
)

// nowhere takes flows.
type nowhere struct{}

func (nowhere) Flow(*flow.Flow)  {}
func (nowhere) Stats(flow.Stats) {}

// fed is a packet source that a test feeds.
type fed struct {
	capture.Request
	made chan *fed
}

func (f *fed) Run(ctx context.Context, up func(field.Object)) error {
	up(nil)
	f.made <- f
	<-ctx.Done()
	return nil
}
func (f *fed) Counters() capture.Counters { return capture.Counters{} }

// packetAgent is an agent with captures.
type packetAgent struct {
	t        testing.TB
	captures *capture.Manager
	sources  chan *fed
	stop     func()
}

func newPacketAgent(t testing.TB, s *server, id string) *packetAgent {
	t.Helper()
	p := &packetAgent{t: t, sources: make(chan *fed, 10)}
	log, g := slog.New(slog.DiscardHandler), graph.New(graph.Options{})
	p.captures = capture.New(capture.Options{
		Kinds: map[string]capture.Kind{"afpacket": {New: func(r capture.Request) capture.Source { return &fed{r, p.sources} }, Several: true}},
		Sink:  nowhere{}, Publish: func(string, field.List) {}, Log: log, Registerer: prometheus.NewRegistry(),
	})
	a := agent.New(agent.Options{Graph: g, Analyzers: []string{s.addr}, Logger: log, Dial: ws.DialOptions{HostID: id}})
	a.Attach(agent.NewTasks(agent.TasksOptions{Graph: g, Captures: p.captures, Packets: p.captures, Logger: log}))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = a.Run(ctx) })
	running.Go(func() { _ = p.captures.Run(ctx) })
	p.stop = func() { cancel(); running.Wait() }
	t.Cleanup(p.stop)
	return p
}

// capture starts a capture on an interface of the agent's host.
func (p *packetAgent) capture(id, name, netns string) *fed {
	p.t.Helper()
	c := resource.Capture{Identity: resource.Identity{UUID: id}}
	n := capture.Node{ID: name + netns, TID: "tid-" + name + netns, Name: name, Type: "veth", EncapType: "ether", IfIndex: 2, NetNS: netns, Up: true}
	if err := p.captures.Start(n, c); err != nil {
		p.t.Fatal(err)
	}
	return <-p.sources
}

// give has an interface see packets, that carry numbers.
func (f *fed) give(first, n, size int) {
	batch := make([]flow.Packet, n)
	for i := range batch {
		data := make([]byte, size)
		binary.BigEndian.PutUint32(data, uint32(first+i))
		batch[i] = flow.Packet{Data: data, Length: size, Time: int64(first+i) + 1}
	}
	f.Intake.Packets(batch)
}

// reader is who reads a stream, as slowly as it is told.
type reader struct {
	hold sync.Mutex

	mu    sync.Mutex // guards below
	text  []byte     // that is no whole block yet
	order []*seen    // by number of the interface
	begun bool
	fail  error
}

// seen is what the stream says of one interface.
type seen struct {
	name     string
	packets  int // that came
	last     uint32
	lost     uint64
	disorder int // packets behind later ones, and blocks of unknown type
}

func (r *reader) Write(b []byte) (int, error) {
	r.hold.Lock()
	r.hold.Unlock() //nolint:staticcheck // only waits
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return 0, r.fail
	}
	r.text = append(r.text, b...)
	for le := binary.LittleEndian; len(r.text) >= 8; {
		n := int(le.Uint32(r.text[4:]))
		if n < 12 || n > len(r.text) {
			break
		}
		r.block(le.Uint32(r.text), r.text[8:n-4])
		r.text = r.text[n:]
	}
	return len(b), nil
}

func (r *reader) block(typ uint32, b []byte) {
	le := binary.LittleEndian
	switch typ {
	case 0x0a0d0d0a:
		r.begun = true
	case 1:
		r.order = append(r.order, &seen{name: string(b[12 : 12+le.Uint16(b[10:])])})
	case 6:
		s, n := r.order[le.Uint32(b)], binary.BigEndian.Uint32(b[20:])
		if s.packets > 0 && n <= s.last {
			s.disorder++
		}
		s.packets++
		s.last = n
	case 5:
		r.order[le.Uint32(b)].lost = le.Uint64(b[16:])
	default:
		r.order[0].disorder++
	}
}

// interfaces returns what the stream says so far.
func (r *reader) interfaces(t testing.TB) map[string]seen {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string]seen{}
	for _, s := range r.order {
		if _, ok := all[s.name]; ok {
			t.Fatalf("interface %s twice", s.name)
		}
		all[s.name] = *s
	}
	return all
}

func (r *reader) started() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.begun {
		return errors.New("no header")
	}
	return nil
}

// has waits until an interface has so many packets, sent or lost, in order.
func (r *reader) has(t testing.TB, name string, n int) (s seen) {
	t.Helper()
	until(t, "packets of "+name, func() error {
		all := r.interfaces(t)
		if s = all[name]; s.packets+int(s.lost) != n {
			return fmt.Errorf("%d interfaces, %+v", len(all), s)
		}
		return nil
	})
	if s.disorder > 0 {
		t.Fatalf("%+v", s)
	}
	return s
}

type following struct {
	*reader
	stop  context.CancelFunc
	ended chan struct{}
	done  chan error
}

func follow(t testing.TB, l *LivePackets, id string) *following {
	ctx, cancel := context.WithCancel(context.Background())
	f := &following{&reader{}, cancel, make(chan struct{}), make(chan error, 1)}
	go func() { f.done <- l.Follow(ctx, id, f.ended, f.reader) }()
	until(t, "header", f.started)
	return f
}

func (f *following) end(t testing.TB) {
	t.Helper()
	f.stop()
	if err := <-f.done; err != nil {
		t.Error(err)
	}
}

// TestLivePackets: packets of a capture on several hosts are one stream, also those of hosts, captures and connections that come later.
func TestLivePackets(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	reg := prometheus.NewRegistry()
	live := NewLivePackets(s.agents, slog.New(slog.DiscardHandler), reg)
	h1 := newPacketAgent(t, s, "h1")
	dial(t, s.addr, "old", "") // an agent of the protocol JSON
	hosts(t, s, 2)
	eth0 := h1.capture("c1", "eth0", "")
	other := h1.capture("c2", "eth0", "")
	f := follow(t, live, "c1")
	second := follow(t, live, "c1")

	eth0.give(0, 10, 60)
	other.give(1000, 10, 60)
	f.has(t, "h1/eth0", 10)
	inside, same := h1.capture("c1", "eth0", "/run/netns/blue"), h1.capture("c1", "eth0", "/proc/7/ns/net")
	inside.give(0, 1, 60)
	same.give(0, 2, 60)
	f.has(t, "h1/blue/eth0", 1)
	f.has(t, "h1/eth0#tid-eth0/proc/7/ns/net", 2)

	h2 := newPacketAgent(t, s, "h2")
	late := h2.capture("c1", "eth1", "")
	n := 0
	until(t, "packets of the host that came later", func() error { // from whenever it is followed on
		late.give(n, 1, 60)
		n++
		if f.interfaces(t)["h2/eth1"].packets == 0 {
			return errors.New("none")
		}
		return nil
	})
	h2.stop()
	eth0.give(10, 5, 60)
	f.has(t, "h1/eth0", 15)
	second.has(t, "h1/eth0", 15)
	if all := f.interfaces(t); len(all) != 4 {
		t.Errorf("%d interfaces", len(all))
	}
	if v, err := testutil.GatherAndCount(reg); err != nil || v != 3 || testutil.ToFloat64(live.active) != 2 || testutil.ToFloat64(live.sent) < 30 {
		t.Errorf("metrics: %d, %v", v, err)
	}

	// The reader leaves: the agent stops.
	second.end(t)
	f.mu.Lock()
	f.fail = errors.New("broken pipe")
	f.mu.Unlock()
	eth0.give(15, 1, 60)
	if err := <-f.done; err == nil || !strings.Contains(err.Error(), "broken pipe") {
		t.Error(err)
	}
	quiet(t, s, h1)

	// The capture ends: what was taken before is still sent.
	f = follow(t, live, "c1")
	eth0.give(20, 3, 60)
	close(f.ended)
	if err := <-f.done; err != nil {
		t.Error(err)
	}
	f.has(t, "h1/eth0", 3)
	f.stop()
	quiet(t, s, h1)
}

// quiet waits until nobody follows any more.
func quiet(t testing.TB, s *server, h *packetAgent) {
	t.Helper()
	if n := len(s.agents.streams.open); n != 0 {
		t.Errorf("%d streams", n)
	}
	free := func() error { // all that an agent allows can be had
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		for range 16 {
			began := make(chan error, 1)
			running.Go(func() {
				err := h.captures.Follow(ctx, "x", func() { began <- nil }, func(capture.Batch) error { return nil })
				select {
				case began <- err:
				default:
				}
			})
			if err := <-began; err != nil {
				return err
			}
		}
		return nil
	}
	until(t, "end of the streams at the agent", free)
}

// TestSlowReader: who does not read holds up neither the capture nor the graph, and is told what it missed.
func TestSlowReader(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	live := NewLivePackets(s.agents, slog.New(slog.DiscardHandler), nil)
	h := newPacketAgent(t, s, "h1")
	hosts(t, s, 1)
	eth0 := h.capture("c1", "eth0", "")
	f, quick := follow(t, live, "c1"), follow(t, live, "c1")
	f.hold.Lock()
	const rounds, each, size = 400, 100, 1000 // 40 MB
	var worst time.Duration
	for i := range rounds {
		begin := time.Now()
		eth0.give(i*each, each, size)
		worst = max(worst, time.Since(begin))
		quick.has(t, "h1/eth0", (i+1)*each)
	}
	if worst > time.Second {
		t.Errorf("the capture waited %s", worst)
	}
	if conn := s.agents.Conn("h1"); conn == nil {
		t.Fatal("the agent was disconnected")
	}
	if _, err := s.agents.Request(t.Context(), "h1", &wire.Message{Namespace: "OnDemandCapture", Type: "Stop", Obj: []byte(`{"NodeID":"x"}`)}); err != nil {
		t.Errorf("requests are held up: %v", err)
	}
	f.hold.Unlock()
	got := f.has(t, "h1/eth0", rounds*each)
	if bytes := got.packets * size; got.lost == 0 || bytes < 4<<20 || bytes > 12<<20 {
		t.Errorf("%d packets sent, %d lost", got.packets, got.lost)
	}
	if quick.has(t, "h1/eth0", rounds*each).lost != 0 {
		t.Error("the quick reader lost packets")
	}
	f.end(t)
	quick.end(t)
	quiet(t, s, h)
}

// TestStreamLimit: any number of readers cannot come; when they go, nothing is left of them.
func TestStreamLimit(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	live := NewLivePackets(s.agents, slog.New(slog.DiscardHandler), nil)
	h := newPacketAgent(t, s, "h1")
	hosts(t, s, 1)
	eth0 := h.capture("c1", "eth0", "")
	before := runtime.NumGoroutine()
	for range 3 {
		var all []*following
		for range streamLimit {
			all = append(all, follow(t, live, "c1"))
		}
		if err := live.Follow(t.Context(), "c1", nil, &reader{}); !errors.Is(err, ErrStreams) {
			t.Fatal(err)
		}
		eth0.give(0, 5, 60)
		for _, f := range all {
			f.has(t, "h1/eth0", 5)
			f.end(t)
		}
		quiet(t, s, h)
	}
	until(t, "goroutines", func() error {
		if n := runtime.NumGoroutine(); n > before+2 {
			return fmt.Errorf("%d goroutines, %d before", n, before)
		}
		return nil
	})
}

// TestSilentAgent: an agent that does not know how costs a second, not the stream.
func TestSilentAgent(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	live := NewLivePackets(s.agents, slog.New(slog.DiscardHandler), nil)
	live.settle = 10 * time.Millisecond
	conn, err := ws.Dial(t.Context(), ws.DialOptions{Addr: s.addr, Path: "/ws/agent/topology", HostID: "h1", ClientType: "agent", Protocol: "protobuf"})
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t, conn, make(chan *wire.Message, 1000), make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = conn.Run(ctx, func(*ws.Conn) (ws.Session, error) { return nil, nil })
	}()
	defer func() { cancel(); <-done }()
	hosts(t, s, 1)
	f := follow(t, live, "c1")
	// Nonsense, and more than it may send, does no harm.
	var uuid string
	s.agents.streams.mu.Lock()
	for uuid = range s.agents.streams.open {
	}
	s.agents.streams.mu.Unlock()
	m := wire.Message{Namespace: "OnDemandCapture", Type: "Packets", UUID: uuid, Status: 200, Format: wire.FormatProtobuf, Obj: []byte{0x32, 1}}
	for range 100 {
		p.raw(m.Append(nil, wire.Protobuf))
	}
	m.Body = &wire.Packets{NodeTID: "t", Name: "x", Link: 1, Packets: []flow.Packet{{Data: []byte{0, 0, 0, 1}, Length: 4, Time: 1}}}
	until(t, "packets", func() error {
		p.raw(m.Append(nil, wire.Protobuf))
		if f.interfaces(t)["h1/x"].packets == 0 {
			return errors.New("none")
		}
		return nil
	})
	f.end(t)
}
