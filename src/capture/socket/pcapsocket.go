package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"skydive/src/bpf"
	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/flow"
)

// listener is the source of clients that send a pcap stream over TCP, one client after the other.
type listener struct {
	request          capture.Request
	address          string
	minPort, maxPort int

	received, filtered, malformed atomic.Int64

	mu      sync.Mutex // guards all below
	packet  time.Time  // of the latest packet
	arrived time.Time  // when that came; zero: none yet
}

func newListener(r capture.Request, o Options) *listener {
	return &listener{request: r, address: o.BindAddress, minPort: o.MinPort, maxPort: o.MaxPort}
}

// Counters implements capture.Source.
func (l *listener) Counters() capture.Counters {
	return capture.Counters{Received: l.received.Load(), Filtered: l.filtered.Load(), Malformed: l.malformed.Load()}
}

// Now implements capture.Clock: the time of the latest packet and what has passed since it came.
func (l *listener) Now() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.arrived.IsZero() {
		return time.Time{}
	}
	return l.packet.Add(time.Since(l.arrived))
}

// listen takes the first port that is free.
func (l *listener) listen(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	for port := l.minPort; port <= l.maxPort; port++ {
		socket, err := config.Listen(ctx, "tcp", net.JoinHostPort(l.address, strconv.Itoa(port)))
		if err == nil {
			return socket, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("pcap socket: %w", err)
		}
	}
	return nil, fmt.Errorf("pcap socket: no free port from %d to %d", l.minPort, l.maxPort)
}

// Run implements capture.Source.
func (l *listener) Run(ctx context.Context, up func(field.Object)) error {
	socket, err := l.listen(ctx)
	if err != nil {
		return err
	}
	defer socket.Close()
	defer context.AfterFunc(ctx, func() { socket.Close() })()
	up(field.Make("PCAPSocket", socket.Addr().String()))
	for {
		client, err := socket.Accept()
		if ctx.Err() != nil {
			if err == nil {
				client.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("pcap socket: %w", err)
		}
		if err := l.serve(ctx, client); err != nil && ctx.Err() == nil {
			l.malformed.Add(1)
			l.request.Log.Warn("Client of a pcap socket sent off", "client", client.RemoteAddr(), "error", err)
		}
		client.Close() // tells the client that all is counted
	}
}

// serve takes the stream of a client, which the caller closes.
func (l *listener) serve(ctx context.Context, client net.Conn) error {
	defer context.AfterFunc(ctx, func() { client.Close() })()
	p, err := capture.NewPcapReader(client, l.request.SnapLen)
	if err != nil {
		return err
	}
	if first, err := p.FirstLayer(); err != nil {
		return err
	} else if (first == flow.FirstEthernet) != (l.request.Link == bpf.Ethernet) || first == flow.FirstLinuxSLL {
		return fmt.Errorf("packets of link type %d, but the node has %d", p.Link, l.request.Link)
	}
	for {
		batch, err := p.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		l.seen(batch[len(batch)-1].Time)
		if batch = l.filter(batch); len(batch) > 0 {
			l.received.Add(int64(len(batch)))
			l.request.Intake.Packets(batch)
		}
	}
}

func (l *listener) seen(packet int64) {
	now := time.Now()
	l.mu.Lock()
	l.packet, l.arrived = time.Unix(0, packet), now
	l.mu.Unlock()
}

// filter keeps what matches.
func (l *listener) filter(batch []flow.Packet) []flow.Packet {
	f := l.request.Filter
	if f == nil {
		return batch
	}
	kept := batch[:0]
	for _, p := range batch {
		if f.Match(p.Data, p.Length) {
			kept = append(kept, p)
		}
	}
	l.filtered.Add(int64(len(batch) - len(kept)))
	return kept
}
