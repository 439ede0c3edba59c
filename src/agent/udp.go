package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// udpWay sends datagrams. Nothing tells whether they arrive, hence they are not sent faster than an analyzer can be expected to take
// and to store them.
type udpWay struct {
	agent   *Agent
	targets map[string]*udpTarget
	known   map[string]reach // while the agent was still connected
	tokens  float64          // bytes that may be sent at once
	filled  time.Time
}

type udpTarget struct {
	conn  *net.UDPConn
	batch *ipv4.PacketConn
	msgs  []ipv4.Message
}

const (
	rate       = 24 << 20  // bytes a second: some 75000 records
	burst      = 128 << 10 // bytes that may be sent at once: less than fits into a socket buffer of usual size
	sendBuffer = 1 << 20
	bufferWait = 5 * time.Millisecond // while the system is short of buffers
	bufferTurn = 200                  // times that it may be
)

func newUDPWay(a *Agent) *udpWay {
	return &udpWay{agent: a, targets: make(map[string]*udpTarget), known: make(map[string]reach)}
}

func (u *udpWay) reachable() (map[string]reach, <-chan struct{}) {
	now, changed, stopped := u.agent.reachable()
	if stopped {
		// The agent has said goodbye on purpose. Analyzers still take its datagrams for a while.
		return u.known, changed
	}
	for addr, r := range now {
		if t := u.targets[addr]; t != nil && !r.up {
			t.conn.Close() // its name may mean another address the next time
			delete(u.targets, addr)
		}
	}
	u.known = maps.Clone(now)
	return now, changed
}

func (u *udpWay) refusing() (addrs []string) {
	for addr, t := range u.targets {
		if raw, err := t.conn.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				if e, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && e == int(unix.ECONNREFUSED) {
					addrs = append(addrs, addr)
				}
			})
		}
	}
	return addrs
}

func (u *udpWay) close() {
	for _, t := range u.targets {
		t.conn.Close()
	}
}

func (u *udpWay) target(ctx context.Context, to string) (*udpTarget, error) {
	if t := u.targets[to]; t != nil {
		return t, nil
	}
	c, err := (&net.Dialer{Timeout: slowdown}).DialContext(ctx, "udp", to)
	if err != nil {
		return nil, err
	}
	conn := c.(*net.UDPConn)
	_ = conn.SetWriteBuffer(sendBuffer) // the system may allow less
	t := &udpTarget{conn: conn, batch: ipv4.NewPacketConn(conn)}
	u.targets[to] = t
	return t, nil
}

func (u *udpWay) send(ctx context.Context, to string, b *block) error {
	t, err := u.target(ctx, to)
	if err != nil {
		return err
	}
	n := 0
	for m := range b.messages {
		if n == len(t.msgs) {
			t.msgs = append(t.msgs, ipv4.Message{Buffers: make([][]byte, 1)})
		}
		t.msgs[n].Buffers[0] = m
		n++
	}
	if err := u.pace(ctx, len(b.data)); err != nil {
		return err
	}
	for rest, short := t.msgs[:n], 0; len(rest) > 0; {
		done, err := t.batch.WriteBatch(rest, 0)
		if done > 0 {
			rest = rest[done:]
			continue
		}
		switch {
		case errors.Is(err, unix.ENOBUFS) && short < bufferTurn:
			short++
			if err := wait(ctx, bufferWait); err != nil {
				return err
			}
		case errors.Is(err, unix.EMSGSIZE):
			rest = rest[1:] // it will never pass
		case err != nil:
			return fmt.Errorf("send to %s: %w", to, err)
		}
	}
	return nil
}

// pace waits until so many bytes may be sent.
func (u *udpWay) pace(ctx context.Context, bytes int) error {
	for {
		now := time.Now()
		u.tokens = min(burst, u.tokens+rate*now.Sub(u.filled).Seconds())
		u.filled = now
		if u.tokens >= float64(bytes) || u.tokens >= burst {
			u.tokens -= float64(bytes)
			return nil
		}
		if err := wait(ctx, time.Duration((float64(bytes)-u.tokens)/rate*float64(time.Second))); err != nil {
			return err
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
