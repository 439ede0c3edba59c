package analyzer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"skydive/src/agent"
	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/pubsub"
	"skydive/src/wire"
	"skydive/src/ws"
)

// memoryStore is a Store that keeps what it is given, or fails, or waits.
type memoryStore struct {
	mu    sync.Mutex
	flows map[string]int // by UUID: how often
	total int
	most  int // in one batch
	err   error
	hold  chan struct{} // not nil: each call waits for one value
}

func (m *memoryStore) StoreFlows(ctx context.Context, flows []*flow.Flow) error {
	m.mu.Lock()
	hold := m.hold
	m.mu.Unlock()
	if hold != nil {
		<-hold
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	for _, f := range flows {
		m.flows[f.UUID]++
	}
	m.total += len(flows)
	m.most = max(m.most, len(flows))
	return nil
}

func (m *memoryStore) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *memoryStore) count() (total, different int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total, len(m.flows)
}

// flowServer is an analyzer that takes flows.
type flowServer struct {
	agents *Agents
	flows  *Flows
	store  *memoryStore
	addr   string
	stop   func()
	kill   func() // ends it as a crash does
}

// patient makes links end fast, but live also while the processor is kept busy.
var patient = ws.Config{CloseTimeout: 50 * time.Millisecond}

func endpoint(path string) ws.EndpointOptions {
	return ws.EndpointOptions{
		Path: path, HostID: "a1", ServiceType: "analyzer", Config: patient, Metrics: ws.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler),
		Authenticate: func(*http.Request) (string, []*http.Cookie, error) { return "admin", nil, nil },
		Authorize:    func(string, string) bool { return true },
	}
}

func newFlowServer(t testing.TB, o FlowsOptions) *flowServer {
	t.Helper()
	s := &flowServer{store: &memoryStore{flows: make(map[string]int)}}
	s.agents = NewAgents(AgentsOptions{Endpoint: endpoint("/ws/agent/topology"), Graph: graph.New(graph.Options{}), Metrics: pubsub.NewMetrics(nil)})
	mux := http.NewServeMux()
	h := httptest.NewServer(mux)
	s.addr = h.Listener.Addr().String()
	o.Agents, o.Intake, o.Feed = s.agents, endpoint("/ws/agent/flow"), endpoint("/ws/subscriber/flow")
	o.Logger, o.Registerer = slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	if o.Listen == "" {
		o.Listen = s.addr
	}
	if o.Store == nil {
		o.Store = s.store
	}
	s.flows = NewFlows(o)
	for path, handler := range map[string]http.Handler{"/ws/agent/topology": s.agents, "/ws/agent/flow": s.flows.Intake(), "/ws/subscriber/flow": s.flows.Feed()} {
		mux.Handle(path, handler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{s.agents.Run, s.flows.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	s.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		h.Close()
	})
	s.kill = h.CloseClientConnections
	t.Cleanup(s.stop)
	until(t, "the receiver", func() error {
		if st := s.flows.Status().UDP; st.State != "running" {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	return s
}

func until(t testing.TB, what string, ok func() error) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(60 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// flowHost is an agent that has flows.
type flowHost struct {
	agent  *agent.Agent
	sender *agent.FlowSender
	stop   func()
}

func newFlowHost(t testing.TB, id, protocol string, queue int, analyzers ...string) *flowHost {
	t.Helper()
	dial := ws.DialOptions{HostID: id, Config: patient}
	h := &flowHost{agent: agent.New(agent.Options{Graph: graph.New(graph.Options{}), Analyzers: analyzers, Logger: slog.New(slog.DiscardHandler), Dial: dial})}
	var err error
	h.sender, err = agent.NewFlowSender(agent.FlowSenderOptions{
		Agent: h.agent, Protocol: protocol, Dial: dial, QueueBytes: queue, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = h.agent.Run(ctx) })
	running.Go(func() { _ = h.sender.Run(ctx) })
	h.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(h.stop)
	return h
}

// record is a record as a capture gives it.
func record(i int) *flow.Flow {
	return &flow.Flow{
		UUID: fmt.Sprintf("%016x", i), LayersPath: "Ethernet/IPv4/TCP", Application: "TCP", Start: 1795400417831, Last: 1795400417929,
		Link:             &flow.Layer{Protocol: flow.Ethernet, A: "02:00:00:00:01:01", B: "02:00:00:00:01:02"},
		Network:          &flow.Layer{Protocol: flow.IPv4, A: fmt.Sprintf("10.1.%d.%d", i>>8&255, i&255), B: "10.1.0.2"},
		Transport:        &flow.Transport{Protocol: flow.TCP, A: int64(1024 + i%60000), B: 80},
		Metric:           flow.Metric{ABPackets: 6, ABBytes: 372, BAPackets: 4, BABytes: 534, Start: 1795400417831, Last: 1795400417929, RTT: 15909634},
		LastUpdateMetric: &flow.Metric{ABPackets: 6, ABBytes: 372, BAPackets: 4, BABytes: 534, Start: 1795400417831, Last: 1795400417929},
		NodeTID:          "215223d8-b50a-5019-b617-966e2764c8d9", CaptureID: "24ad430c-82f7-4828-af91-9929919d1653",
		TrackingID: "6b94986be9052495", L3TrackingID: "7b0ad9f2d2a01911",
	}
}

func arrived(t testing.TB, s *memoryStore, n int) {
	t.Helper()
	until(t, "flows", func() error {
		if total, different := s.count(); different != n {
			return fmt.Errorf("%d flows, %d different, of %d", total, different, n)
		}
		return nil
	})
}

// TestFlows: what a capture hands over arrives, by either protocol, complete and once.
func TestFlows(t *testing.T) {
	for _, protocol := range []string{agent.FlowUDP, agent.FlowWebSocket} {
		s := newFlowServer(t, FlowsOptions{})
		h := newFlowHost(t, "h1", protocol, 0, s.addr)
		for i := range 5000 { // from before it is connected
			h.sender.Flow(record(i))
		}
		arrived(t, s.store, 5000)
		h.sender.Flow(record(5000)) // alone
		arrived(t, s.store, 5001)
		if total, _ := s.store.count(); total != 5001 {
			t.Errorf("%s: %d stored", protocol, total)
		}
		st, at := h.sender.Status(), s.flows.Status()
		if st.State != "sending" || st.Sent != 5001 || st.Queued != 0 || st.Lost != nil || at.Received != 5001 || at.Lost != nil {
			t.Errorf("%s: %+v %+v", protocol, st, at)
		}
		// What is there at the end is sent, too.
		for i := range 5000 {
			h.sender.Flow(record(10000 + i))
		}
		h.stop()
		arrived(t, s.store, 10001)
		s.stop()
	}
}

var errFull = errors.New("disk full")

// TestStoreFails: an error of the store costs what it was given, is shown, and ends by itself; subscribers notice nothing.
func TestStoreFails(t *testing.T) {
	s := newFlowServer(t, FlowsOptions{Delay: time.Millisecond})
	h := newFlowHost(t, "h1", agent.FlowUDP, 0, s.addr)
	sub := subscribe(t, s, "s", wire.JSON, "flow")
	s.store.fail(errFull)
	h.sender.Flow(record(1))
	sub.next(t)
	until(t, "failure", func() error {
		if st := s.flows.Status(); st.Store.State != "failing" || st.Store.Reason != "disk full" || st.Lost[lossStore] != 1 || st.Store.Since.IsZero() {
			return fmt.Errorf("%+v %+v", st, st.Store)
		}
		return nil
	})
	s.store.fail(nil)
	h.sender.Flow(record(2))
	arrived(t, s.store, 1)
	until(t, "recovery", func() error {
		if st := s.flows.Status(); st.Store.State != "running" || st.Store.Reason != "" || st.Stored != 1 {
			return fmt.Errorf("%+v %+v", st, st.Store)
		}
		return nil
	})
}

// TestSlowStore: what a slow store does not take in time is lost for it, counted, and told to subscribers all the same; agents on
// WebSocket are made to wait first.
func TestSlowStore(t *testing.T) {
	for _, protocol := range []string{agent.FlowUDP, agent.FlowWebSocket} {
		s := newFlowServer(t, FlowsOptions{MaxBuffer: 500, Delay: time.Millisecond})
		s.store.hold = make(chan struct{})
		release := sync.OnceFunc(func() { close(s.store.hold) })
		t.Cleanup(release) // before that of the server, which waits for its store
		h := newFlowHost(t, "h1", protocol, 0, s.addr)
		sub := subscribe(t, s, "s", wire.JSON, "flow")
		const n = 2000
		for i := 0; i < n; i += 100 {
			for j := range 100 {
				h.sender.Flow(record(i + j))
			}
			for told := 0; told < 100; {
				var got []*flow.Flow
				if err := json.Unmarshal(sub.next(t).Obj, &got); err != nil {
					t.Fatal(err)
				}
				told += len(got)
			}
		}
		until(t, "all", func() error {
			if st := s.flows.Status(); st.Received != n || st.Lost[lossFull] == 0 || st.Queued == 0 {
				return fmt.Errorf("%+v", st)
			}
			return nil
		})
		release()
		until(t, "rest", func() error {
			if st := s.flows.Status(); st.Stored+st.Lost[lossFull] != n || st.Queued != 0 || len(st.Lost) != 1 {
				return fmt.Errorf("%+v", st)
			}
			return nil
		})
		s.stop()
	}
}

// TestBlackHole: what was sent into a connection that breaks then, without anybody to take it, is sent once more.
func TestBlackHole(t *testing.T) {
	before := newFlowServer(t, FlowsOptions{Listen: "127.0.0.1:0"})
	tap := newTap(t, before.addr)
	addr := tap.l.Addr().String()
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	hole, err := net.ListenUDP("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	h := newFlowHost(t, "h1", agent.FlowUDP, 0, addr)
	for i := range 3000 {
		h.sender.Flow(record(i))
	}
	until(t, "sent", func() error {
		if st := h.sender.Status(); st.Sent != 3000 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	hole.Close()
	after := newFlowServer(t, FlowsOptions{Listen: addr})
	tap.to(after.addr)
	tap.cut()
	arrived(t, after.store, 3000)
	if st := h.sender.Status(); st.Repeated != 3000 || st.Lost != nil {
		t.Errorf("%+v", st)
	}
}

// TestAnalyzerRestarts: while the analyzer is away records wait, and it has all of them in the end.
func TestAnalyzerRestarts(t *testing.T) {
	for _, protocol := range []string{agent.FlowUDP, agent.FlowWebSocket} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp := l.Addr().String() // free for UDP, most likely
		s := newFlowServer(t, FlowsOptions{Listen: udp})
		l.Close()
		tap := newTapAt(t, udp, s.addr)
		h := newFlowHost(t, "h1", protocol, 0, udp)
		seen := make(map[string]bool)
		for round := range 4 {
			for i := range 1000 {
				h.sender.Flow(record(round*1000 + i))
			}
			if round%2 == 0 { // else it goes in the middle of it
				until(t, "round", func() error {
					if collect(s.store, seen); !seen[record(round*1000+999).UUID] {
						return fmt.Errorf("%s: %+v", protocol, h.sender.Status())
					}
					return nil
				})
			}
			s.stop()
			collect(s.store, seen)
			for i := range 500 {
				h.sender.Flow(record(10000 + round*1000 + i))
			}
			s = newFlowServer(t, FlowsOptions{Listen: udp})
			tap.to(s.addr)
		}
		until(t, "all", func() error {
			collect(s.store, seen)
			if len(seen) != 6000 {
				return fmt.Errorf("%s: %d; %+v", protocol, len(seen), h.sender.Status())
			}
			return nil
		})
		if st := h.sender.Status(); st.Lost != nil {
			t.Errorf("%+v", st)
		}
		h.stop()
		s.stop()
	}
}

func collect(m *memoryStore, seen map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.flows {
		seen[id] = true
	}
}

// TestStranger: datagrams of hosts without an agent are refused, those of an agent that has just left are not.
func TestStranger(t *testing.T) {
	s := newFlowServer(t, FlowsOptions{})
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(i int) {
		if _, err := c.Write(flow.AppendMessageFlow(nil, record(i))); err != nil {
			t.Fatal(err)
		}
	}
	send(1)
	until(t, "refusal", func() error {
		if st := s.flows.Status(); st.Lost[lossRefused] != 1 || st.UDP.LastRefused != c.LocalAddr().String() || st.Received != 0 {
			return fmt.Errorf("%+v %+v", st, st.UDP)
		}
		return nil
	})
	p := dial(t, s.addr, "h1", "")
	until(t, "agent", func() error {
		if len(s.agents.Hosts()) == 0 {
			return errors.New("not connected")
		}
		return nil
	})
	send(2)
	arrived(t, s.store, 1)
	p.conn.Close(ws.StatusNormal, "")
	<-p.end
	send(3)
	arrived(t, s.store, 2)
}

func TestSenders(t *testing.T) {
	s, at := senders{gone: make(map[netip.Addr]time.Time)}, time.Now()
	conns := func(addrs ...string) (list []*ws.Conn) {
		for _, a := range addrs {
			list = append(list, connFrom(t, a))
		}
		return list
	}
	has := func(want bool, addrs ...string) {
		t.Helper()
		for _, a := range addrs {
			if s.has(netip.MustParseAddr(a), at) != want {
				t.Errorf("%s: not %v", a, want)
			}
		}
	}
	s.update(nil, at)
	has(false, "127.0.0.1")
	one := conns("127.0.0.1", "::1")
	s.update(one, at)
	s.update(one, at.Add(time.Hour))
	has(true, "127.0.0.1", "::1")
	has(false, "10.0.0.1")
	s.update(one[1:], at)
	has(true, "127.0.0.1", "::1")
	at = at.Add(grace + 1)
	has(false, "127.0.0.1")
	has(true, "::1")
	s.update(nil, at)
	if len(s.gone) != 1 {
		t.Errorf("%v", s.gone)
	}
}

// connFrom is a connection to a server that is at an address of this host.
func connFrom(t *testing.T, ip string) *ws.Conn {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *ws.Conn, 1)
	o := endpoint("/x")
	o.Connect = func(c *ws.Conn) (ws.Session, error) { got <- c; return nil, nil }
	h := httptest.NewUnstartedServer(ws.NewEndpoint(o))
	h.Listener.Close()
	h.Listener = l
	h.Start()
	c, err := ws.Dial(t.Context(), ws.DialOptions{Addr: l.Addr().String(), Path: "/x", HostID: "h", ClientType: agentType})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx, func(*ws.Conn) (ws.Session, error) { return nil, nil }) }()
	t.Cleanup(func() { cancel(); <-done; h.Close() })
	return <-got
}

// TestKernelDrops: what the kernel drops because nobody reads is counted.
func TestKernelDrops(t *testing.T) {
	s := newFlowServer(t, FlowsOptions{Listen: "127.0.0.1:0"})
	dial(t, s.addr, "h1", "")
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn := pc.(*net.UDPConn)
	if _, err := prepare(conn); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadBuffer(8192); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(n int) {
		for range n {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(100)
	r := newReceiver("", s.agents, newFlowMetrics(nil, nil, nil), slog.New(slog.DiscardHandler), nil)
	h := &heap{some: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	done := make(chan error)
	go func() { done <- r.read(ipv4.NewPacketConn(conn), h) }()
	taken := func() int64 { return value(r.metrics.datagrams) + value(r.metrics.lostRefused) }
	until(t, "the first are read", func() error {
		if taken() == 0 {
			return errors.New("none")
		}
		return nil
	})
	until(t, "the dropped are counted", func() error {
		send(1)
		if n := value(r.metrics.lostKernel); n == 0 || n > 100 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	conn.Close()
	if err := <-done; err == nil {
		t.Error("no error")
	}
}

// TestPortTaken: the receiver says what is wrong, and receives once the port is free.
func TestPortTaken(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := newReceiver(pc.LocalAddr().String(), nil, newFlowMetrics(nil, nil, nil), slog.New(slog.DiscardHandler), nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.run(ctx) }()
	for _, want := range []string{"failing", "running"} {
		until(t, want, func() error {
			if st := r.status(); st.State != want || (st.Reason != "") != (want == "failing") {
				return fmt.Errorf("%+v", st)
			}
			return nil
		})
		pc.Close()
	}
	cancel()
	<-done
	if st := r.status(); st.State != "stopped" {
		t.Errorf("%+v", st)
	}
}

// TestBatches: order, sizes, delay and end.
func TestBatches(t *testing.T) {
	b := newBatches(10)
	some := func(n int) []*flow.Flow { return make([]*flow.Flow, n) }
	if !b.put(some(25), nil) || b.put(some(1), nil) {
		t.Error("an empty queue takes all, a full one nothing")
	}
	for _, want := range []int{7, 7, 7} {
		if got, ok := b.next(3, 7, time.Hour); len(got) != want || !ok {
			t.Errorf("%d", len(got))
		}
	}
	if got, _ := b.next(5, 7, time.Millisecond); len(got) != 4 {
		t.Errorf("%d", len(got))
	}
	b.put(some(10), nil)
	took := make(chan bool)
	go func() { took <- b.put(some(3), time.After(time.Hour)) }()
	if got, _ := b.next(10, 10, time.Hour); len(got) != 10 || !<-took {
		t.Errorf("%d", len(got))
	}
	if b.put(some(8), time.After(time.Millisecond)) {
		t.Error("patience without end")
	}
	go b.close()
	if got, ok := b.next(10, 10, time.Hour); len(got) != 3 || !ok {
		t.Errorf("%d", len(got))
	}
	if got, ok := b.next(10, 10, time.Hour); got != nil || ok {
		t.Errorf("%d", len(got))
	}
}

// TestNothingStays: agents and analyzers come and go, and leave no goroutine.
func TestNothingStays(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		s := newFlowServer(t, FlowsOptions{})
		var hosts []*flowHost
		for i, protocol := range []string{agent.FlowUDP, agent.FlowWebSocket} {
			h := newFlowHost(t, fmt.Sprint("h", i), protocol, 0, s.addr)
			h.sender.Flow(record(i))
			hosts = append(hosts, h)
		}
		arrived(t, s.store, 2)
		hosts[0].stop()
		s.stop()
		hosts[1].stop()
	}
	http.DefaultClient.CloseIdleConnections()
	until(t, "goroutines", func() error {
		if n := runtime.NumGoroutine(); n > before+2 {
			return fmt.Errorf("%d, %d before", n, before)
		}
		return nil
	})
}

// BenchmarkTick is the tick of half a million flows.
func BenchmarkTick(b *testing.B) {
	const n = 500000
	records := make([]*flow.Flow, 1000)
	for _, protocol := range []string{agent.FlowUDP, agent.FlowWebSocket} {
		b.Run(protocol, func(b *testing.B) {
			s := newFlowServer(b, FlowsOptions{})
			h := newFlowHost(b, "h1", protocol, 0, s.addr)
			for i := range records {
				records[i] = record(i)
			}
			until(b, "connection", func() error {
				if !h.agent.Status()["a1"].IsConnected {
					return errors.New("none")
				}
				return nil
			})
			for b.Loop() {
				before, _ := s.store.count()
				start := time.Now()
				var usage unix.Rusage
				_ = unix.Getrusage(unix.RUSAGE_SELF, &usage)
				for i := range n {
					h.sender.Flow(records[i%len(records)])
				}
				b.ReportMetric(time.Since(start).Seconds(), "s/queued")
				until(b, "flows", func() error {
					got, _ := s.store.count()
					st := h.sender.Status()
					lost := int64(0)
					for _, l := range st.Lost {
						lost += l
					}
					if st.Queued > 0 || got-before+int(lost) < n && s.flows.Status().Lost == nil {
						return fmt.Errorf("%d of %d; sender %+v; analyzer %+v", got-before, n, st, s.flows.Status())
					}
					return nil
				})
				got, _ := s.store.count()
				b.ReportMetric(float64(n-got+before), "lost")
				var after unix.Rusage
				_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
				b.ReportMetric(float64(after.Utime.Nano()+after.Stime.Nano()-usage.Utime.Nano()-usage.Stime.Nano())/1e9, "cpu-s")
				b.Logf("sender %+v; analyzer %+v", h.sender.Status().Lost, s.flows.Status().Lost)
			}
		})
	}
}
