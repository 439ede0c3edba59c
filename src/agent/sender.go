package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"skydive/src/flow"
	"skydive/src/ws"
)

// Protocols by which flows travel.
const (
	FlowUDP       = "udp"
	FlowWebSocket = "websocket"
)

// FlowSenderOptions are the parts of a FlowSender.
type FlowSenderOptions struct {
	Agent      *Agent         // whose analyzers get the flows
	Protocol   string         // FlowUDP, also when empty, or FlowWebSocket
	Dial       ws.DialOptions // of FlowWebSocket: TLS, HostID, credentials
	QueueBytes int            // memory for what waits; 64 MiB
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// FlowSender sends flow records to the analyzers: what is queued together to one of those that are connected, chosen at random. While
// none is, records wait. Whatever does not fit into the queue or cannot be sent is counted; what was sent to an analyzer that vanished
// just afterwards is sent once more, for it may not have arrived. It implements capture.Sink.
type FlowSender struct {
	o       FlowSenderOptions
	queue   *queue
	way     way
	metrics *flowMetrics
	// doubtful is how long it takes to notice a broken connection: what was sent meanwhile may be lost.
	doubtful time.Duration

	born     time.Time
	progress atomic.Int64 // when something was sent, ns since born: that clock never goes back

	mu     sync.Mutex // guards below
	state  string
	reason string
	since  time.Time
}

// way is how blocks get to an analyzer.
type way interface {
	// reachable returns who can be sent to now, and a channel that is closed when that changes.
	reachable() (map[string]reach, <-chan struct{})
	// send returns once the operating system has taken b.
	send(ctx context.Context, to string, b *block) error
	// refusing returns who has refused what was sent since the last call.
	refusing() []string
	close()
}

// reach is the state of the connection to an analyzer.
type reach struct {
	up     bool
	broken int // connections that ended without a farewell so far
	left   int // connections that ended with one, but what was sent meanwhile may be lost
}

const (
	ahead     = 4 << 20                // bytes that are queued while records are being sent
	patience  = time.Second            // without progress
	longAgo   = -1 << 62               // ns; progress that there never was
	stopTime  = 5 * time.Second        // for captures to end, before they are not waited for any more
	linger    = 100 * time.Millisecond // how long records wait for more to go with them
	parting   = 300 * time.Millisecond // of a connection that ends with a farewell
	drainTime = time.Second            // for what is queued at the end
	slowdown  = time.Second            // before the next attempt after an error
)

// States of a FlowSender in /api/status.
const (
	flowSending = "sending"
	flowWaiting = "waiting" // for an analyzer
	flowFailing = "failing"
	flowStopped = "stopped"
)

var errNoAnalyzer = errors.New("no analyzer is connected")

// NewFlowSender returns an inert FlowSender.
func NewFlowSender(o FlowSenderOptions) (*FlowSender, error) {
	s := &FlowSender{o: o, state: flowWaiting, reason: errNoAnalyzer.Error(), since: time.Now(), born: time.Now()}
	s.progress.Store(longAgo)
	s.doubtful = max(0, cmp.Or(o.Dial.Config.PingDelay, 2*time.Second)) + cmp.Or(o.Dial.Config.PongTimeout, 5*time.Second) + time.Second
	limit := cmp.Or(o.QueueBytes, 64<<20)
	switch o.Protocol {
	case "", FlowUDP:
		s.o.Protocol = FlowUDP
		size := 1400 // nothing is fragmented on usual networks, tunnels apart
		if local(o.Agent.links) {
			size = 32000 // less than the buffer of public analyzers
		}
		s.queue = newQueue(limit, size, 1000)
		s.way = newUDPWay(o.Agent)
	case FlowWebSocket:
		s.queue = newQueue(limit, 32000, 100)
		s.way = newSocketWay(o)
	default:
		return nil, fmt.Errorf("flow protocol %q is neither %s nor %s", o.Protocol, FlowUDP, FlowWebSocket)
	}
	s.metrics = newFlowMetrics(o.Registerer, s.queue.length)
	return s, nil
}

// local tells whether all analyzers are on this host.
func local(links []*link) bool {
	return !slices.ContainsFunc(links, func(l *link) bool {
		host, _, err := net.SplitHostPort(l.addr)
		ip, notIP := netip.ParseAddr(host)
		return err != nil || host != "localhost" && (notIP != nil || !ip.IsLoopback())
	})
}

// Flow queues a record, and does not keep it. While records are being sent it waits when more than a little is queued: the report of a large
// table is then neither lost nor all in memory at once. Else a record that finds no room is lost, and counted.
func (s *FlowSender) Flow(f *flow.Flow) {
	for s.queue.waiting() > ahead && s.moving() {
		s.wait()
	}
	a := s.queue.flow(f)
	for a == queueFull && s.moving() {
		s.wait()
		a = s.queue.flow(f)
	}
	s.count(a)
}

// moving tells whether records are being sent.
func (s *FlowSender) moving() bool {
	return time.Since(s.born)-time.Duration(s.progress.Load()) < patience
}

// wait returns when more may be queued than before, or nothing happens.
func (s *FlowSender) wait() {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-s.queue.room:
		if s.queue.waiting() <= ahead {
			signal(s.queue.room) // for others who wait
		}
	case <-t.C:
	}
}

// Stats queues the counters of a capture.
func (s *FlowSender) Stats(stats flow.Stats) {
	if s.queue.message(&flow.Message{Stats: &stats}) != admitted {
		s.metrics.lostStats.Inc()
	}
}

func (s *FlowSender) count(a admission) {
	switch a {
	case admitted:
		s.metrics.queued.Inc()
	case queueFull:
		s.metrics.lostFull.Inc()
	case tooLarge:
		s.metrics.lostLarge.Inc()
	}
}

// Run sends until ctx ends, and then for a second at most what is still queued. The captures, which it is given so that they end
// before it does, run as long.
func (s *FlowSender) Run(ctx context.Context, captures ...func(context.Context) error) error {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var running sync.WaitGroup
	errs := make([]error, len(captures))
	for i, run := range captures {
		running.Go(func() { errs[i] = run(ctx) })
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		running.Wait()
		<-ctx.Done()
	}()
	if w, ok := s.way.(*socketWay); ok {
		done := make(chan struct{})
		go func() { defer close(done); w.run(sending) }()
		defer func() { stop(); <-done }()
	}
	s.loop(sending, ctx.Done(), ended)
	s.way.close()
	s.set(flowStopped, "")
	left, _ := s.queue.length()
	s.metrics.lostStop.Add(float64(left))
	<-ended
	return errors.Join(errs...)
}

// loop sends until the queue is empty after ended, which comes after stop.
func (s *FlowSender) loop(ctx context.Context, stop, ended <-chan struct{}) {
	before := make(map[string]reach)
	lingering, tick := time.NewTimer(linger), time.NewTimer(s.doubtful)
	defer lingering.Stop()
	defer tick.Stop()
	partial, ending, late := false, false, false
	var stopping <-chan time.Time
	var drained <-chan time.Time
	for {
		reachable, changed := s.way.reachable()
		for addr, r := range reachable {
			switch was := before[addr]; {
			case r.broken != was.broken:
				s.repeat(addr, s.doubtful)
			case r.left != was.left:
				s.repeat(addr, parting)
			}
			before[addr] = r
		}
		var b *block
		to := pick(reachable)
		if to != "" {
			if partial || ending {
				s.queue.flush()
				partial = false
			}
			b = s.queue.take()
		}
		if b != nil {
			err := s.way.send(ctx, to, b)
			s.queue.giveBack(b, err == nil, to, time.Now())
			if err == nil {
				if !late {
					s.progress.Store(int64(time.Since(s.born)))
				}
				s.metrics.sent.Add(float64(b.flows))
				s.metrics.sentMessages.Add(float64(len(b.ends)))
				s.set(flowSending, "")
				select { // an end must be seen also while there is always more to send
				case <-stop:
					stop, stopping = nil, time.After(stopTime)
				case <-stopping:
					stopping, late = nil, true
					s.progress.Store(longAgo)
				case <-ended:
					ending, ended = true, nil
					drained = time.After(drainTime)
				case <-drained:
					return
				default:
				}
				continue
			}
			s.metrics.errors.Inc()
			s.set(flowFailing, err.Error())
			if errors.Is(err, unix.ECONNREFUSED) {
				s.repeat(to, s.doubtful)
			}
		} else if to == "" {
			s.set(flowWaiting, errNoAnalyzer.Error())
		} else {
			s.found()
		}
		if ending && b == nil && s.queue.empty() {
			return
		}
		full := s.queue.full
		if to == "" || b != nil {
			full = nil
		}
		var pause <-chan time.Time
		if b != nil {
			pause = time.After(slowdown)
		}
		select {
		case <-pause:
		case <-changed:
		case <-full:
		case <-s.queue.some:
			lingering.Reset(linger)
		case <-lingering.C:
			partial = true
		case <-tick.C:
			for _, addr := range s.way.refusing() {
				s.repeat(addr, s.doubtful)
			}
			s.queue.forget(time.Now().Add(-s.doubtful))
			tick.Reset(s.doubtful / 2)
		case <-stop:
			stop, stopping = nil, time.After(stopTime)
		case <-stopping:
			late = true
			s.progress.Store(longAgo)
		case <-ended:
			ending, ended = true, nil
			drained = time.After(drainTime)
		case <-drained:
			return
		}
	}
}

// repeat queues anew what was sent to an analyzer just before it was lost.
func (s *FlowSender) repeat(addr string, since time.Duration) {
	if n := s.queue.again(addr, time.Now().Add(-since)); n > 0 {
		s.metrics.repeated.Add(float64(n))
		s.o.Logger.Info("Analyzer was lost, the latest flows are sent once more", "analyzer", addr, "flows", n)
	}
}

// pick chooses any of those that are up.
func pick(reachable map[string]reach) (to string) {
	n := 0
	for addr, r := range reachable {
		if r.up {
			if n++; rand.IntN(n) == 0 {
				to = addr
			}
		}
	}
	return to
}

func (s *FlowSender) set(state, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == state && s.reason == reason {
		return
	}
	if s.state != state {
		s.since = time.Now()
	}
	if state == flowFailing && s.reason != reason {
		s.o.Logger.Warn("Flows cannot be sent, they wait", "reason", reason)
	}
	s.state, s.reason = state, reason
}

// found ends the wait for an analyzer, also while there is nothing to send.
func (s *FlowSender) found() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == flowWaiting {
		s.state, s.reason, s.since = flowSending, "", time.Now()
	}
}

// FlowSenderStatus is a FlowSender in /api/status.
type FlowSenderStatus struct {
	Protocol string
	State    string
	Reason   string `json:",omitempty"`
	Since    time.Time
	Queued   int              // records that wait
	Sent     int64            // records
	Repeated int64            // records sent once more
	Lost     map[string]int64 `json:",omitempty"` // records, by reason
}

// Status describes the sender.
func (s *FlowSender) Status() FlowSenderStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := FlowSenderStatus{Protocol: s.o.Protocol, State: s.state, Reason: s.reason, Since: s.since}
	st.Queued, _ = s.queue.length()
	s.metrics.fill(&st)
	return st
}
