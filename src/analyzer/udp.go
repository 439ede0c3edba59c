package analyzer

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"skydive/src/ws"
)

// receiver takes the datagrams of agents. One goroutine does nothing but empty the socket, so that the kernel need not drop; another
// one takes apart what the first has gathered. Between them is a bounded store, so that a burst is survived also where the system does
// not grant a large socket buffer.
type receiver struct {
	listen  string
	agents  *Agents
	metrics *flowMetrics
	log     *slog.Logger
	take    func(data []byte, patience <-chan time.Time)
	state   state

	mu      sync.Mutex // guards below
	addr    string     // that is listened on
	buffer  int
	refused string

	known  senders
	warned time.Time
}

const (
	readBuffer   = 32 << 20 // of the socket, as far as the system allows
	datagrams    = 64       // read at once
	datagramSize = 64 << 10
	heapSize     = 32 << 20               // bytes that wait to be taken apart
	heapKeep     = 4 << 20                // memory that is kept while nothing waits
	grace        = 10 * time.Second       // during which the flows of an agent that has left may still come
	farewell     = 300 * time.Millisecond // what comes is still taken
	rebind       = 5 * time.Second
	refusalQuiet = time.Minute
)

func newReceiver(listen string, a *Agents, m *flowMetrics, log *slog.Logger, take func([]byte, <-chan time.Time)) *receiver {
	r := &receiver{listen: listen, agents: a, metrics: m, log: log, take: take}
	r.known.gone = make(map[netip.Addr]time.Time)
	r.state.set("starting", "")
	return r
}

// run receives until ctx ends. While it cannot, it says so and tries again.
func (r *receiver) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.serve(ctx)
		if ctx.Err() != nil {
			break
		}
		if r.state.set("failing", err.Error()) {
			r.log.Error("Flows cannot be received by UDP", "listen", r.listen, "error", err)
		}
		select {
		case <-time.After(rebind):
		case <-ctx.Done():
		}
	}
	r.state.set("stopped", "")
}

func (r *receiver) serve(ctx context.Context) error {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp", r.listen)
	if err != nil {
		return err
	}
	conn := pc.(*net.UDPConn)
	defer conn.Close()
	// At the end agents must first hear that they are to send elsewhere.
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now().Add(farewell)) })()
	size, err := prepare(conn)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", r.listen, err)
	}
	r.mu.Lock()
	r.addr, r.buffer = conn.LocalAddr().String(), size
	r.mu.Unlock()
	r.state.set("running", "")
	r.log.Info("Flows are received by UDP", "listen", conn.LocalAddr().String(), "buffer", size)

	h := &heap{some: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	var opening sync.WaitGroup
	opening.Go(func() {
		for data, ends := h.swap(nil, nil); ends != nil; data, ends = h.swap(data, ends) {
			start := 0
			for _, end := range ends {
				r.take(data[start:end], nil)
				start = end
			}
		}
	})
	defer opening.Wait()
	defer h.close()
	return r.read(ipv4.NewPacketConn(conn), h)
}

// prepare enlarges the buffer of the socket, and has it count what does not fit.
func prepare(conn *net.UDPConn) (size int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		// Beyond the limit of the system only with CAP_NET_ADMIN.
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, readBuffer) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, readBuffer)
		}
		if size, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
		}
	})
	return size, errors.Join(controlErr, err)
}

// read empties the socket.
func (r *receiver) read(conn *ipv4.PacketConn, h *heap) error {
	msgs := make([]ipv4.Message, datagrams)
	for i := range msgs {
		msgs[i] = ipv4.Message{Buffers: [][]byte{make([]byte, datagramSize)}, OOB: make([]byte, unix.CmsgSpace(4))}
	}
	var dropped uint32
	for {
		n, err := conn.ReadBatch(msgs, 0)
		if err != nil {
			return fmt.Errorf("receive datagrams: %w", err)
		}
		r.known.update(r.agents.Conns(), time.Now())
		taken := 0
		for i := range msgs[:n] {
			m := &msgs[i]
			if d, ok := overflow(m.OOB[:m.NN]); ok && d != dropped {
				r.metrics.lostKernel.Add(float64(d - dropped)) // right also when the counter wraps
				dropped = d
			}
			if r.allowed(m.Addr) {
				h.put(m.Buffers[0][:m.N])
				taken++
			}
		}
		r.metrics.datagrams.Add(float64(taken))
		signal(h.some)
	}
}

// overflow reads how many datagrams the kernel has dropped so far; it says so once there are any.
func overflow(oob []byte) (uint32, bool) {
	if len(oob) < unix.CmsgSpace(4) {
		return 0, false
	}
	h, data, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil || h.Level != unix.SOL_SOCKET || h.Type != unix.SO_RXQ_OVFL || len(data) < 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(data), true
}

// allowed tells whether a datagram comes from a host whose agent is connected, or was until a moment ago.
func (r *receiver) allowed(from net.Addr) bool {
	addr, ok := from.(*net.UDPAddr)
	if !ok {
		return false
	}
	ip := addr.AddrPort().Addr().Unmap()
	if r.known.has(ip, time.Now()) {
		return true
	}
	r.metrics.lostRefused.Inc()
	r.mu.Lock()
	r.refused = addr.String()
	r.mu.Unlock()
	if now := time.Now(); now.Sub(r.warned) > refusalQuiet {
		r.warned = now
		r.log.Warn("Flows refused: no agent is connected from this address. Where addresses are translated or proxies are used, flow.protocol websocket is needed", "from", addr.String())
	}
	return false
}

func (r *receiver) status() *UDPStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &UDPStatus{StateStatus: r.state.status(), Listen: cmp.Or(r.addr, r.listen), ReadBuffer: r.buffer, LastRefused: r.refused}
}

// senders are the addresses of connected agents.
type senders struct {
	seen []*ws.Conn // that now was made from; a list of connections never changes
	now  map[netip.Addr]bool
	gone map[netip.Addr]time.Time // not in now any more, since when
}

func (s *senders) update(conns []*ws.Conn, at time.Time) {
	if s.now != nil && len(conns) == len(s.seen) && (len(conns) == 0 || &conns[0] == &s.seen[0]) {
		return
	}
	before := s.now
	s.seen, s.now = conns, make(map[netip.Addr]bool, len(conns))
	for _, c := range conns {
		if p := c.Peer(); p.ServiceType == agentType {
			if ip, err := netip.ParseAddr(p.Addr); err == nil {
				s.now[ip.Unmap()] = true
			}
		}
	}
	for ip := range before {
		if !s.now[ip] {
			s.gone[ip] = at
		}
	}
	for ip, left := range s.gone {
		if at.Sub(left) > grace {
			delete(s.gone, ip)
		}
	}
}

func (s *senders) has(ip netip.Addr, at time.Time) bool {
	if s.now[ip] {
		return true
	}
	left, ok := s.gone[ip]
	return ok && at.Sub(left) <= grace
}

// heap is where datagrams wait to be taken apart.
type heap struct {
	some, room chan struct{}

	mu     sync.Mutex // guards below
	data   []byte
	ends   []int
	closed bool
}

// put adds a datagram, and waits while there is no room: the kernel holds what comes meanwhile, and counts what it drops.
func (h *heap) put(d []byte) {
	for {
		h.mu.Lock()
		if len(h.data) == 0 || len(h.data)+len(d) <= heapSize {
			h.data = append(h.data, d...)
			h.ends = append(h.ends, len(h.data))
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()
		signal(h.some)
		<-h.room
	}
}

// swap takes all that is there, once there is something, for empty memory in its place. It returns nothing after close.
func (h *heap) swap(data []byte, ends []int) ([]byte, []int) {
	if cap(data) > heapKeep {
		data, ends = nil, nil
	}
	for {
		h.mu.Lock()
		if len(h.ends) > 0 {
			data, h.data = h.data, data[:0]
			ends, h.ends = h.ends, ends[:0]
			h.mu.Unlock()
			signal(h.room)
			return data, ends
		}
		closed := h.closed
		h.mu.Unlock()
		if closed {
			return nil, nil
		}
		<-h.some
	}
}

func (h *heap) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	signal(h.some)
}
