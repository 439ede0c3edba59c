// Package inject forges packets, or takes them from a pcap file, and sends them from an interface in any network namespace.
//
// What is sent is fully told: addresses, ports, how many and how often. Nothing is looked up, nothing is received, and what does not
// fit the interface is refused before the first packet rather than cut.
package inject

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/resource"
)

// Node is an interface to send from.
type Node struct {
	ID        string
	Name      string // of the interface
	EncapType string // "ether": what takes frames where the kernel's type of the interface is not known here
	NetNS     string // path of its network namespace; "" is that of the process
}

// Options of a Manager.
type Options struct {
	Publish    func(nodeID string, injections field.List) // what the node shall show under PacketInjections; nil: the key is removed
	Limit      int                                        // injections at a time; 0: 256
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not registered
}

const (
	defaultLimit = 256
	reportEvery  = 3 * time.Second
	remembered   = 1024 // injections that ended, so that they are not begun again by a request that comes twice
	payloadShown = 256  // bytes of it in metadata
)

// RefusedError tells why an injection was not begun, with a status as of HTTP.
type RefusedError struct {
	Status int
	Reason string
}

func (e *RefusedError) Error() string { return e.Reason }

// ErrNotFound tells that there is no such injection.
var ErrNotFound = errors.New("no such packet injection")

// Manager sends for the nodes of a host.
type Manager struct {
	o       Options
	metrics *metrics
	group   sync.WaitGroup

	publishing sync.Mutex // keeps lists in order

	mu      sync.Mutex // guards all below
	ctx     context.Context
	running []*injection // in order of their start
	ended   map[key]struct{}
	order   []key // of ended, oldest first
}

type key struct{ node, id string }

// injection is one that was begun.
type injection struct {
	key
	shown  field.Object // but for the count; nil until the interface is open
	sent   atomic.Uint64
	cancel context.CancelFunc
	done   chan struct{}
}

// New returns a Manager that begins nothing until Run.
func New(o Options) *Manager {
	if o.Limit <= 0 {
		o.Limit = defaultLimit
	}
	return &Manager{o: o, metrics: newMetrics(o.Registerer), ended: make(map[key]struct{})}
}

// Run lets injections be begun until ctx ends, which ends them.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	<-ctx.Done()
	m.mu.Lock()
	m.ctx = nil
	m.mu.Unlock()
	m.group.Wait()
	return nil
}

// Start begins to send. It returns a *RefusedError when that is not possible, and nil for what is under way or has just ended.
func (m *Manager) Start(node Node, r resource.InjectionRequest) error {
	if r.UUID == "" {
		return &RefusedError{http.StatusBadRequest, "a packet injection needs a UUID"}
	}
	i := &injection{key: key{node.ID, r.UUID}, done: make(chan struct{})}
	m.mu.Lock()
	if m.ctx == nil {
		m.mu.Unlock()
		return &RefusedError{http.StatusServiceUnavailable, "packets cannot be sent while the agent starts or ends"}
	}
	if _, did := m.ended[i.key]; did || m.find(i.key) != nil {
		m.mu.Unlock()
		return nil
	}
	if len(m.running) >= m.o.Limit {
		m.mu.Unlock()
		return &RefusedError{http.StatusServiceUnavailable, fmt.Sprintf("%d packet injections are under way on this host; more are not begun", m.o.Limit)}
	}
	ctx, cancel := context.WithCancel(m.ctx)
	i.cancel = cancel
	m.running = append(m.running, i)
	m.metrics.running.Inc()
	m.group.Add(1)
	m.mu.Unlock()

	port, frames, err := prepare(node, &r)
	if err != nil {
		cancel()
		m.remove(i, false)
		close(i.done)
		m.group.Done()
		return &RefusedError{http.StatusInternalServerError, err.Error()}
	}
	m.mu.Lock()
	i.shown = show(&r)
	m.mu.Unlock()
	m.publish(node.ID)
	m.o.Logger.Info("Sending packets", "id", r.UUID, "interface", node.Name, "type", r.Type, "from", r.SrcIP, "to", r.DstIP, "count", r.Count)
	go func() {
		defer m.group.Done()
		defer close(i.done)
		defer cancel()
		err := transmit(ctx, port, frames, &r, func(sent uint64) {
			m.metrics.packets.Add(float64(sent - i.sent.Swap(sent)))
			m.publish(node.ID)
		})
		port.close()
		m.remove(i, true)
		m.publish(node.ID)
		if err != nil && ctx.Err() == nil {
			m.metrics.failures.Inc()
			m.o.Logger.Warn("Sending packets failed", "id", r.UUID, "interface", node.Name, "sent", i.sent.Load(), "error", err)
			return
		}
		m.o.Logger.Info("Packets are sent", "id", r.UUID, "interface", node.Name, "sent", i.sent.Load())
	}()
	return nil
}

// Stop ends an injection, and waits for its end; ErrNotFound when it is not under way.
func (m *Manager) Stop(nodeID, id string) error {
	m.mu.Lock()
	i := m.find(key{nodeID, id})
	m.mu.Unlock()
	if i == nil {
		return fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	i.cancel()
	<-i.done
	return nil
}

// Gone ends what is sent from a node that is no more.
func (m *Manager) Gone(nodeID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range m.running {
		if i.node == nodeID {
			i.cancel()
		}
	}
}

func (m *Manager) find(k key) *injection {
	for _, i := range m.running {
		if i.key == k {
			return i
		}
	}
	return nil
}

// remove forgets an injection, but not that it was done.
func (m *Manager) remove(i *injection, did bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n, other := range m.running {
		if other == i {
			m.running = append(m.running[:n:n], m.running[n+1:]...)
			m.metrics.running.Dec()
			break
		}
	}
	if !did {
		return
	}
	if len(m.order) == remembered {
		delete(m.ended, m.order[0])
		m.order = m.order[1:]
	}
	m.ended[i.key] = struct{}{}
	m.order = append(m.order, i.key)
}

// publish writes what runs on a node.
func (m *Manager) publish(nodeID string) {
	if m.o.Publish == nil {
		return
	}
	m.publishing.Lock()
	defer m.publishing.Unlock()
	var list field.List
	m.mu.Lock()
	for _, i := range m.running {
		if i.node == nodeID && i.shown != nil {
			shown, err := i.shown.Set("PacketCount", int64(i.sent.Load()))
			if err != nil { // not of a key of one level; if ever, the rest is still true
				m.o.Logger.Error("The count of an injection cannot be shown", "error", err)
				shown = i.shown
			}
			list = append(list, shown)
		}
	}
	m.mu.Unlock()
	m.o.Publish(nodeID, list)
}

// show is an injection as metadata. What a pcap file holds is not for everybody: its length and digest tell which it is.
func show(r *resource.InjectionRequest) field.Object {
	mac := func(a net.HardwareAddr) any {
		if len(a) == 0 {
			return nil
		}
		return base64.StdEncoding.EncodeToString(a)
	}
	payload := r.Payload
	if len(payload) > payloadShown {
		payload = strings.ToValidUTF8(payload[:payloadShown], "") + "…"
	}
	pairs := []any{
		"UUID", r.UUID, "SrcIP", r.SrcIP, "SrcMAC", mac(r.SrcMAC), "SrcPort", r.SrcPort, "DstIP", r.DstIP, "DstMAC", mac(r.DstMAC), "DstPort", r.DstPort,
		"Type", r.Type, "Count", r.Count, "ICMPID", r.ICMPID, "Interval", r.Interval, "Mode", r.Mode, "IncrementPayload", r.IncrementPayload,
		"Payload", payload, "Pcap", nil, "TTL", r.TTL, "ID", r.UUID, "State", "active", "PacketCount", 0,
	}
	if len(r.Pcap) > 0 {
		sum := sha256.Sum256(r.Pcap)
		pairs = append(pairs, "PcapLength", len(r.Pcap), "PcapSHA256", hex.EncodeToString(sum[:]))
	}
	return field.Make(pairs...)
}

// Once sends from an interface and returns when that is done, or ctx ends; progress is called now and then, and at the end.
func Once(ctx context.Context, node Node, r resource.InjectionRequest, progress func(sent uint64)) (sent uint64, err error) {
	port, frames, err := prepare(node, &r)
	if err != nil {
		return 0, err
	}
	defer port.close()
	err = transmit(ctx, port, frames, &r, func(n uint64) {
		sent = n
		if progress != nil {
			progress(n)
		}
	})
	return sent, err
}

type metrics struct {
	packets, failures prometheus.Counter
	running           prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		packets:  prometheus.NewCounter(prometheus.CounterOpts{Namespace: "skydive", Subsystem: "inject", Name: "packets_total", Help: "Packets sent by packet injections."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "skydive", Subsystem: "inject", Name: "failures_total", Help: "Packet injections that ended early."}),
		running:  prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "skydive", Subsystem: "inject", Name: "running", Help: "Packet injections under way."}),
	}
	if reg != nil {
		reg.MustRegister(m.packets, m.failures, m.running)
	}
	return m
}
