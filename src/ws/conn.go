package ws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// Conn is one WebSocket connection, of either side. All methods may be called
// from any goroutine.
type Conn struct {
	peer    Peer
	client  bool
	ownType string // client side: the service type it announced
	cfg     Config
	link    *link
	ws      *websocket.Conn
	metrics *connMetrics
	buffers *sync.Pool // of *[]byte, batchSize long
	log     *slog.Logger

	mu      sync.Mutex // guards down to room
	queue   [][]byte   // not yet taken by the writer
	count   int        // messages queued or in the writer's hands
	bytes   int        // their size
	closing []byte     // payload of our close frame; non-nil: nothing more is taken
	evicted bool       // the peer was too slow: the rest of the queue is not for it
	ended   bool       // the stream is gone
	cause   error      // why it ended, the first reason wins
	broken  error      // a failed write; the reader may know better why
	room    chan struct{}

	wake  chan struct{} // the writer has work
	done  chan struct{} // Run is about to return
	alive *time.Timer   // fires when the peer has been silent for too long

	born         time.Time    // of the Conn
	messageSince atomic.Int64 // start of the message being handled, ns since born; 0 = none
	lastReceived atomic.Int64 // link.received at the last look of checkAlive
}

// newConn prepares a connection; attach follows once the handshake is done.
func newConn(peer Peer, client bool, cfg Config, m *connMetrics, buffers *sync.Pool, log *slog.Logger) *Conn {
	c := &Conn{
		peer: peer, client: client, cfg: cfg, metrics: m, buffers: buffers, log: log,
		link: &link{}, born: time.Now(), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	c.alive = time.AfterFunc(math.MaxInt64, c.checkAlive)
	c.alive.Stop() // Run starts it
	return c
}

func (c *Conn) attach(conn *websocket.Conn) {
	conn.SetReadLimit(c.cfg.MaxMessage)
	c.ws = conn
}

// Peer tells who is at the other end.
func (c *Conn) Peer() Peer { return c.peer }

// Done is closed when the connection is over.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Status describes the connection for /api/status.
func (c *Conn) Status() ConnStatus {
	p := c.peer
	s := ConnStatus{
		ServiceType: p.ServiceType, ClientProtocol: p.Protocol, Addr: p.Addr, Port: p.Port,
		IsConnected: true, ConnectTime: p.ConnectTime, RemoteHost: p.HostID,
		State: Connected, Since: p.ConnectTime,
	}
	if c.client {
		s.ServiceType, s.RemoteServiceType = c.ownType, p.ServiceType
	}
	return s
}

// Send queues one message and never blocks. The bytes are shared, not copied:
// encode once, send to many, never change them afterwards. A full queue evicts
// the peer and returns ErrSlowPeer; after that, or after Close, ErrClosed.
func (c *Conn) Send(msg []byte) error {
	c.mu.Lock()
	if c.closing != nil || c.ended {
		c.mu.Unlock()
		return ErrClosed
	}
	if c.full(len(msg)) {
		c.evict()
		c.mu.Unlock()
		c.wakeWriter()
		return ErrSlowPeer
	}
	c.push(msg)
	c.mu.Unlock()
	c.wakeWriter()
	return nil
}

// SendWait is Send for bulk senders: it waits while the queue is full.
func (c *Conn) SendWait(ctx context.Context, msg []byte) error {
	err := c.await(ctx, func() bool { return !c.full(len(msg)) }, func() { c.push(msg) })
	if err == nil {
		c.wakeWriter()
	}
	return err
}

// Flush waits until everything queued so far was handed to the operating system.
func (c *Conn) Flush(ctx context.Context) error {
	return c.await(ctx, func() bool { return c.count == 0 }, func() {})
}

// await calls then, with mu held, once ready reports true.
func (c *Conn) await(ctx context.Context, ready func() bool, then func()) error {
	for {
		c.mu.Lock()
		if c.closing != nil || c.ended {
			c.mu.Unlock()
			return ErrClosed
		}
		if ready() {
			then()
			c.mu.Unlock()
			return nil
		}
		if c.room == nil {
			c.room = make(chan struct{})
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Conn) full(size int) bool {
	return c.count > 0 && (c.count >= c.cfg.QueueSize || c.bytes+size > c.cfg.QueueBytes)
}

func (c *Conn) push(msg []byte) {
	c.queue = append(c.queue, msg)
	c.count++
	c.bytes += len(msg)
}

func (c *Conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// evict is called with mu held.
func (c *Conn) evict() {
	c.evicted, c.cause = true, ErrSlowPeer
	c.closing = closePayload(StatusTryAgain, "too slow: the send queue is full")
	c.metrics.evictions.Inc()
	c.discard()
	c.notify()
	time.AfterFunc(c.cfg.CloseTimeout, c.abort) // the writer may be stuck in the middle of a frame
}

// Close ends the connection gracefully and returns at once: what is queued goes
// out, then the close frame, then the peer has Config.CloseTimeout to answer.
func (c *Conn) Close(code Status, reason string) { c.end(nil, code, reason) }

func (c *Conn) end(cause error, code Status, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing != nil || c.ended {
		return
	}
	c.closing, c.cause = closePayload(code, reason), cause
	c.notify()
	c.wakeWriter()
}

// fail cuts a connection that cannot be closed politely.
func (c *Conn) fail(cause error) {
	c.finish(cause)
	c.abort()
	c.wakeWriter()
}

// abort closes the socket; reader and writer then return.
func (c *Conn) abort() { _ = c.link.Close() }

// lost notes a failed write. The reader ends the connection: it may find the
// close frame that explains it.
func (c *Conn) lost(err error) {
	c.mu.Lock()
	if c.broken == nil {
		c.broken = err
	}
	c.mu.Unlock()
	c.abort()
}

// finish marks the stream as gone and returns why: the first reason wins, and
// there is none when this side closed on purpose.
func (c *Conn) finish(cause error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended && c.closing == nil {
		c.cause = cause
		if _, explained := cause.(CloseError); c.broken != nil && !explained {
			c.cause = fmt.Errorf("write message: %w", c.broken)
		}
	}
	c.ended = true
	c.discard()
	c.notify()
	return c.cause
}

// over reports whether the connection is about to end.
func (c *Conn) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing != nil || c.ended || c.link.closed.Load()
}

// discard drops what the writer has not taken yet; mu is held.
func (c *Conn) discard() {
	c.metrics.dropped.Add(float64(len(c.queue)))
	for _, msg := range c.queue {
		c.count--
		c.bytes -= len(msg)
	}
	c.queue = nil
}

// notify wakes who waits in await; mu is held.
func (c *Conn) notify() {
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}

// Run drives a connection and returns when it is over, with the reason that
// Session.Closed gets. The end of ctx closes it.
func (c *Conn) Run(ctx context.Context, connect Connect) error {
	c.metrics.connections.Inc()
	defer c.metrics.connections.Dec()
	defer context.AfterFunc(ctx, func() {
		c.Close(StatusNormal, "")
		time.AfterFunc(min(c.cfg.CloseTimeout, time.Second), c.abort) // however much is queued
	})()
	c.heard()
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()

	var session Session
	err := c.guard(func() (err error) {
		session, err = connect(c)
		return err
	})
	if err != nil {
		session = nil
		c.refuse(err, StatusNormal)
	}
	err = c.finish(c.read(session))
	c.alive.Stop()
	_ = c.ws.CloseNow()
	c.wakeWriter()
	<-written
	close(c.done)
	if session != nil {
		_ = c.guard(func() error { session.Closed(err); return nil })
	}
	return err
}

// read hands message after message to session until the stream ends.
func (c *Conn) read(session Session) error {
	for {
		_, r, err := c.ws.Reader(context.Background())
		if err != nil {
			return readError(err)
		}
		c.metrics.messagesIn.Inc()
		c.messageSince.Store(int64(time.Since(c.born)))
		m := &message{r: r}
		if session != nil {
			err := c.guard(func() error { return session.Receive(m) })
			if err != nil && (m.err == nil || m.err == io.EOF) { // else it is the stream's fault
				c.refuse(err, StatusPolicy)
				session = nil // what still comes is read, for the peer's close frame, and ignored
			}
		}
		if m.err == nil {
			_, _ = io.Copy(io.Discard, m)
		}
		c.messageSince.Store(0)
		c.metrics.bytesIn.Add(float64(m.n))
		if m.err != io.EOF {
			return readError(m.err)
		}
	}
}

// guard runs a session's method; a panic becomes ErrPanic.
func (c *Conn) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.metrics.panics.Inc()
			c.log.Error("panic while serving a WebSocket peer", "peer", c.peer.HostID, "path", c.peer.Path, "panic", p, "stack", string(debug.Stack()))
			err = ErrPanic
		}
	}()
	return f()
}

func (c *Conn) refuse(err error, code Status) {
	if errors.Is(err, ErrPanic) {
		code = StatusInternal
	}
	c.end(err, code, err.Error())
}

// message is a received message; it remembers how reading it ended.
type message struct {
	r   io.Reader
	n   int64
	err error
}

func (m *message) Read(p []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	n, err := m.r.Read(p)
	m.n += int64(n)
	m.err = err
	return n, err
}

func readError(err error) error {
	var closed websocket.CloseError
	if errors.As(err, &closed) {
		return CloseError{Status(closed.Code), closed.Reason}
	}
	return fmt.Errorf("read message: %w", err)
}

// checkAlive runs when no pong came for PingDelay+PongTimeout. A pong cannot come
// in the middle of a frame, so a long message that makes progress is excused.
func (c *Conn) checkAlive() {
	received := c.link.received.Load()
	progress := c.lastReceived.Swap(received) != received || !c.link.reading.Load()
	since := c.messageSince.Load()
	if progress && since != 0 && time.Since(c.born)-time.Duration(since) > c.cfg.PingDelay {
		c.alive.Reset(c.cfg.PongTimeout)
		return
	}
	c.metrics.timeouts.Inc()
	c.fail(ErrPongTimeout)
}

// heard gives the peer time until its next pong, if it is asked for any.
func (c *Conn) heard() {
	if c.cfg.PingDelay > 0 {
		c.alive.Reset(c.cfg.PingDelay + c.cfg.PongTimeout)
	}
}
