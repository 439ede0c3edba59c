package ws

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// inbox is a Session that keeps what it gets.
type inbox struct {
	conn     *Conn
	messages chan string
	closed   chan error
}

func newInbox(c *Conn) *inbox {
	return &inbox{conn: c, messages: make(chan string, 100000), closed: make(chan error, 1)}
}

func (b *inbox) Receive(r io.Reader) error {
	p, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	b.messages <- string(p)
	return nil
}

func (b *inbox) Closed(err error) { b.closed <- err }

// server is an endpoint at /ws/test whose sessions are inboxes, unless changed.
type server struct {
	*Endpoint
	addr    string
	inboxes chan *inbox
	metrics *Metrics
	stop    context.CancelFunc
	stopped chan error
}

func newServer(t testing.TB, change func(*EndpointOptions)) *server {
	t.Helper()
	s := &server{inboxes: make(chan *inbox, 10000), metrics: NewMetrics(prometheus.NewRegistry()), stopped: make(chan error, 1)}
	o := EndpointOptions{
		Path: "/ws/test", HostID: "me", ServiceType: "analyzer",
		Authenticate: func(*http.Request) (string, []*http.Cookie, error) { return "admin", nil, nil },
		Authorize:    func(string, string) bool { return true },
		Connect: func(c *Conn) (Session, error) {
			b := newInbox(c)
			s.inboxes <- b
			return b, nil
		},
		Metrics: s.metrics,
		Logger:  slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	s.Endpoint = NewEndpoint(o)
	mux := http.NewServeMux()
	mux.Handle(o.Path, s.Endpoint)
	h := httptest.NewServer(mux)
	s.addr = h.Listener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() { s.stopped <- s.Run(ctx); close(s.stopped) }()
	t.Cleanup(func() {
		stop()
		<-s.stopped
		h.Close()
	})
	return s
}

func wait[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	timeout := time.NewTimer(10 * time.Second)
	defer timeout.Stop()
	select {
	case v := <-ch:
		return v
	case <-timeout.C:
		t.Fatalf("timeout waiting for %s", what)
		panic("unreachable")
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if <-tick.C; time.Now().After(deadline) {
			t.Fatalf("timeout: %s", what)
		}
	}
}

func value(t testing.TB, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

// dial connects a Conn and runs it with an inbox.
func (s *server) dial(t testing.TB, change func(*DialOptions)) (*inbox, chan error) {
	t.Helper()
	o := DialOptions{Addr: s.addr, Path: s.Path(), ClientType: "tool"}
	if change != nil {
		change(&o)
	}
	c, err := Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	b := newInbox(c)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(context.Background(), func(*Conn) (Session, error) { return b, nil }) }()
	t.Cleanup(func() { c.Close(StatusNormal, ""); <-c.Done() })
	return b, ended
}

// raw is a hand-made client: it does exactly what the test says, no more.
type raw struct {
	net.Conn
	r    *bufio.Reader
	resp *http.Response
}

const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

func dialRaw(t testing.TB, addr, path, headers string) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, addr, headers); err != nil {
		t.Fatal(err)
	}
	c := &raw{Conn: conn, r: bufio.NewReader(conn)}
	c.resp, err = http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *raw) send(op byte, fin bool, payload string) {
	_, _ = c.Write(appendFrame(nil, op, fin, true, []byte(payload)))
}

// frame reads one frame as a client gets it.
func (c *raw) frame() (op byte, fin bool, payload []byte, err error) {
	var h [10]byte
	if _, err = io.ReadFull(c.r, h[:2]); err != nil {
		return
	}
	n := uint64(h[1])
	switch {
	case n == 126:
		_, err = io.ReadFull(c.r, h[:2])
		n = uint64(binary.BigEndian.Uint16(h[:2]))
		h[0] |= 0
	case n == 127:
		_, err = io.ReadFull(c.r, h[2:10])
		n = binary.BigEndian.Uint64(h[2:10])
	}
	if err != nil {
		return
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(c.r, payload)
	return h[0] & 0x0f, h[0]&0x80 != 0, payload, err
}

// next skips pings and returns the next frame.
func (c *raw) next(t testing.TB) (op byte, payload []byte) {
	t.Helper()
	for {
		op, _, payload, err := c.frame()
		if err != nil {
			t.Fatalf("read frame: %v", err)
		}
		if op != opPing {
			return op, payload
		}
	}
}

func closeCode(payload []byte) int {
	if len(payload) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16(payload))
}

func TestExchange(t *testing.T) {
	for _, protocol := range []string{"", "json", "protobuf"} {
		t.Run("protocol "+protocol, func(t *testing.T) {
			s := newServer(t, nil)
			client, _ := s.dial(t, func(o *DialOptions) { o.Protocol, o.HostID = protocol, "h1" })
			served := wait(t, s.inboxes, "connection")
			if p := client.conn.Peer(); p.HostID != "me" || p.ServiceType != "analyzer" {
				t.Errorf("client sees %+v", p)
			}
			if p := served.conn.Peer(); p.HostID != "h1" || p.ServiceType != "tool" || p.Binary() != (protocol == "protobuf") || p.Origin() != "tool.h1" || p.User != "admin" {
				t.Errorf("server sees %+v", p)
			}
			// Sizes around every border: length encodings, masks, batches, fragments.
			for _, n := range []int{0, 1, 7, 125, 126, 127, 65535, 65536, batchSize - maxHeader, batchSize - maxHeader + 1, batchSize, 3*batchSize + 17} {
				text := strings.Repeat("0123456789abcdef", n/16+1)[:n]
				if err := client.conn.Send([]byte(text)); err != nil {
					t.Fatal(err)
				}
				if got := wait(t, served.messages, "message to server"); got != text {
					t.Fatalf("%d bytes: server got %d", n, len(got))
				}
				if err := served.conn.Send([]byte(text)); err != nil {
					t.Fatal(err)
				}
				if got := wait(t, client.messages, "message to client"); got != text {
					t.Fatalf("%d bytes: client got %d", n, len(got))
				}
			}
			if s.Conn("h1") != served.conn || len(s.Conns()) != 1 || !s.Status()["h1"].IsConnected {
				t.Errorf("endpoint does not list the connection: %v", s.Status())
			}
			client.conn.Close(StatusNormal, "bye")
			var closed CloseError
			if err := wait(t, served.closed, "Closed"); !errors.As(err, &closed) || closed.Code != 1000 || closed.Reason != "bye" {
				t.Errorf("server was told %v", err)
			}
			if err := wait(t, client.closed, "Closed"); err != nil {
				t.Errorf("client that closed was told %v", err)
			}
			eventually(t, "host id is free again", func() bool { return s.Conn("h1") == nil })
			if err := served.conn.Send(nil); !errors.Is(err, ErrClosed) {
				t.Errorf("Send after the end: %v", err)
			}
			if err := client.conn.Flush(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("Flush after the end: %v", err)
			}
		})
	}
}

// Frames as the server writes them: text or binary by protocol, unmasked, whole.
func TestOpcode(t *testing.T) {
	s := newServer(t, nil)
	for _, c := range []struct {
		protocol string
		op       byte
	}{{"", opText}, {"json", opText}, {"protobuf", opBinary}} {
		raw := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\nX-Client-Protocol: "+c.protocol+"\r\n")
		served := wait(t, s.inboxes, "connection")
		_ = served.conn.Send([]byte("{}"))
		if op, payload := raw.next(t); op != c.op || string(payload) != "{}" {
			t.Errorf("protocol %q: opcode %d, payload %q", c.protocol, op, payload)
		}
		// Text and binary, in pieces with a ping between them.
		raw.send(opText, false, "a")
		raw.send(opPing, true, "x")
		raw.send(opContinuation, false, "b")
		raw.send(opContinuation, true, "c")
		raw.send(opBinary, true, "d")
		if op, payload := raw.next(t); op != 0xa || string(payload) != "x" {
			t.Errorf("no pong: opcode %d, payload %q", op, payload)
		}
		if got := wait(t, served.messages, "message") + wait(t, served.messages, "message"); got != "abcd" {
			t.Errorf("got %q", got)
		}
	}
}

func TestPingAtOnce(t *testing.T) {
	s := newServer(t, func(o *EndpointOptions) { o.Config.PingDelay = time.Hour })
	raw := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\n")
	if op, _, payload, err := raw.frame(); err != nil || op != opPing || len(payload) != 0 {
		t.Errorf("first frame: opcode %d %q %v, want an empty ping", op, payload, err)
	}
}

func TestSlowPeerIsEvicted(t *testing.T) {
	s := newServer(t, func(o *EndpointOptions) { o.Config = Config{QueueSize: 50, CloseTimeout: 100 * time.Millisecond} })
	good, _ := s.dial(t, func(o *DialOptions) { o.HostID = "good" })
	goodServed := wait(t, s.inboxes, "connection")
	dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\nX-Host-ID: slow\r\n") // never reads
	slow := wait(t, s.inboxes, "connection")

	msg := []byte(strings.Repeat("x", 100<<10))
	var err error
	start, sent := time.Now(), 0
	for ; err == nil && sent < 10000; sent++ {
		err = slow.conn.Send(msg)
	}
	if !errors.Is(err, ErrSlowPeer) {
		t.Fatalf("after %d messages: %v, want ErrSlowPeer", sent, err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Send blocked: %v", took)
	}
	if err := slow.conn.Send(msg); !errors.Is(err, ErrClosed) {
		t.Errorf("Send to an evicted peer: %v", err)
	}
	if err := wait(t, slow.closed, "eviction"); !errors.Is(err, ErrSlowPeer) {
		t.Errorf("Closed(%v)", err)
	}
	if n := value(t, s.metrics.evictions.WithLabelValues("/ws/test", "server")); n != 1 {
		t.Errorf("evictions = %v", n)
	}
	if n := value(t, s.metrics.dropped.WithLabelValues("/ws/test", "server")); n < 10 {
		t.Errorf("dropped = %v: the messages it did not get must be counted", n)
	}
	_ = goodServed.conn.Send([]byte("still here"))
	if got := wait(t, good.messages, "message to the other peer"); got != "still here" {
		t.Errorf("other peer got %q", got)
	}
}

// An evicted peer that does read is told why.
func TestEvictionReason(t *testing.T) {
	s := newServer(t, func(o *EndpointOptions) { o.Config.QueueBytes = 1 << 20 })
	raw := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\n")
	served := wait(t, s.inboxes, "connection")
	msg := make([]byte, 900<<10)
	for served.conn.Send(msg) == nil {
	}
	for {
		op, payload := raw.next(t)
		if op != opClose {
			continue
		}
		if closeCode(payload) != int(StatusTryAgain) || !strings.Contains(string(payload), "too slow") {
			t.Errorf("close frame %q", payload)
		}
		return
	}
}

func TestSendWait(t *testing.T) {
	s := newServer(t, func(o *EndpointOptions) { o.Config.QueueSize = 1 })
	client, _ := s.dial(t, func(o *DialOptions) { o.Config.QueueSize = 3 })
	served := wait(t, s.inboxes, "connection")
	const n = 5000
	for i := range n {
		if err := client.conn.SendWait(t.Context(), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.conn.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	client.conn.Close(StatusNormal, "")
	for i := range n {
		if got := wait(t, served.messages, "message"); got != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, got)
		}
	}
}

// Close delivers what is queued, SendWait gives up with its context.
func TestCloseDelivers(t *testing.T) {
	s := newServer(t, nil)
	client, _ := s.dial(t, nil)
	served := wait(t, s.inboxes, "connection")
	for i := range 1000 {
		_ = client.conn.Send(fmt.Append(nil, i))
	}
	client.conn.Close(StatusNormal, "")
	wait(t, served.closed, "close")
	if len(served.messages) != 1000 {
		t.Errorf("%d of 1000 messages arrived before the close", len(served.messages))
	}
}

func TestSendWaitCancelled(t *testing.T) {
	s := newServer(t, func(o *EndpointOptions) { o.Config = Config{QueueSize: 1, CloseTimeout: 50 * time.Millisecond} })
	dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\n") // never reads
	served := wait(t, s.inboxes, "connection")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for {
		if err := served.conn.SendWait(ctx, make([]byte, 1<<20)); err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			return
		}
	}
}

func TestStalledReaderIsDropped(t *testing.T) {
	s := newServer(t, func(o *EndpointOptions) { o.Config = Config{WriteTimeout: 150 * time.Millisecond} })
	dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\n")
	served := wait(t, s.inboxes, "connection")
	_ = served.conn.Send(make([]byte, 64<<20))
	if err := wait(t, served.closed, "write timeout"); !errors.Is(err, ErrWriteTimeout) {
		t.Errorf("Closed(%v)", err)
	}
}

func TestPongTimeout(t *testing.T) {
	short := Config{PingDelay: 50 * time.Millisecond, PongTimeout: 200 * time.Millisecond, CloseTimeout: 50 * time.Millisecond}
	s := newServer(t, func(o *EndpointOptions) { o.Config = short })
	silent := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\nX-Host-ID: silent\r\n")
	served := wait(t, s.inboxes, "connection")
	live, _ := s.dial(t, func(o *DialOptions) { o.HostID, o.Config = "live", short })
	liveServed := wait(t, s.inboxes, "connection")

	// Data is no sign of life, pongs are.
	stop := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				silent.send(opText, true, "hello")
			case <-stop:
				return
			}
		}
	})
	start := time.Now()
	err := wait(t, served.closed, "pong timeout")
	close(stop)
	sender.Wait()
	if took := time.Since(start); !errors.Is(err, ErrPongTimeout) || took < 200*time.Millisecond || took > 3*time.Second {
		t.Errorf("Closed(%v) after %v", err, took)
	}
	_ = liveServed.conn.Send([]byte("x"))
	wait(t, live.messages, "message to the peer that answers pings")
}

// A negative PingDelay switches pings off, and with them the timeout of pongs that nobody asks for.
func TestNoPings(t *testing.T) {
	off := Config{PingDelay: -1, PongTimeout: 20 * time.Millisecond}
	s := newServer(t, func(o *EndpointOptions) { o.Config = off })
	silent := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\nX-Host-ID: silent\r\n")
	served := wait(t, s.inboxes, "connection")
	client, _ := s.dial(t, func(o *DialOptions) { o.HostID, o.Config = "client", off })
	wait(t, s.inboxes, "connection")
	_ = silent.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if op, _, _, err := silent.frame(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("opcode %d, %v: want nothing from the server", op, err)
	}
	_ = silent.SetReadDeadline(time.Now().Add(10 * time.Second))
	_ = served.conn.Send([]byte("still here"))
	if _, _, payload, err := silent.frame(); err != nil || string(payload) != "still here" {
		t.Errorf("%q %v", payload, err)
	}
	_ = s.Conn("client").Send([]byte("you too"))
	if got := wait(t, client.messages, "message"); got != "you too" {
		t.Error(got)
	}
}

// A message that takes longer than the pong timeout to arrive, or to handle, does
// not cost the connection: its sender cannot pong in the middle of a frame.
func TestLongMessageIsNoTimeout(t *testing.T) {
	s := newServer(t, func(o *EndpointOptions) {
		o.Config = Config{PingDelay: 40 * time.Millisecond, PongTimeout: 100 * time.Millisecond}
	})
	slow := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\n")
	served := wait(t, s.inboxes, "connection")
	frame := appendFrame(nil, opBinary, true, true, make([]byte, 100))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := range frame { // about one second
		<-tick.C
		if _, err := slow.Write(frame[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if got := wait(t, served.messages, "slow message"); len(got) != 100 {
		t.Errorf("got %d bytes", len(got))
	}
}

func TestClientDropsDeadServer(t *testing.T) {
	hold := make(chan struct{})
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Host-ID", "dead")
		w.Header().Set("X-Service-Type", "analyzer")
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Sec-WebSocket-Accept", acceptKey(r.Header.Get("Sec-WebSocket-Key")))
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			defer conn.Close()
		}
		<-hold
	}))
	defer h.Close()
	defer close(hold)
	c, err := Dial(t.Context(), DialOptions{Addr: h.Listener.Addr().String(), Path: "/", ClientType: "agent",
		Config: Config{PingDelay: 50 * time.Millisecond, PongTimeout: 100 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context(), func(*Conn) (Session, error) { return nil, nil }); !errors.Is(err, ErrPongTimeout) {
		t.Errorf("Run: %v", err)
	}
}

type badSession struct {
	receive func() error
	closed  chan error
	all     bool // read the message first
}

func (b *badSession) Receive(r io.Reader) error {
	if b.all {
		_, _ = io.Copy(io.Discard, r)
	}
	return b.receive()
}

func (b *badSession) Closed(err error) { b.closed <- err }

func TestHandlerFailures(t *testing.T) {
	refused := errors.New("that is not a message")
	for name, c := range map[string]struct {
		receive func() error
		code    Status
		want    error
	}{
		"error":              {func() error { return refused }, StatusPolicy, refused},
		"error, read it all": {func() error { return refused }, StatusPolicy, refused},
		"panic":              {func() error { panic("boo") }, StatusInternal, ErrPanic},
	} {
		t.Run(name, func(t *testing.T) {
			bad := &badSession{c.receive, make(chan error, 1), strings.Contains(name, "all")}
			s := newServer(t, func(o *EndpointOptions) {
				connect := o.Connect
				o.Connect = func(c *Conn) (Session, error) {
					if c.Peer().HostID == "bad" {
						return bad, nil
					}
					return connect(c)
				}
			})
			other, _ := s.dial(t, func(o *DialOptions) { o.HostID = "other" })
			served := wait(t, s.inboxes, "connection")
			raw := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\nX-Host-ID: bad\r\n")
			raw.send(opText, true, "1")
			raw.send(opText, true, "2")
			op, payload := raw.next(t)
			if op != opClose || closeCode(payload) != int(c.code) || string(payload[2:]) != c.want.Error() {
				t.Errorf("opcode %d, payload %q", op, payload)
			}
			raw.send(opClose, true, string(payload))
			if err := wait(t, bad.closed, "Closed"); !errors.Is(err, c.want) {
				t.Errorf("Closed(%v)", err)
			}
			_ = other.conn.Send([]byte("x"))
			wait(t, served.messages, "message of the other peer")
			if n := value(t, s.metrics.panics.WithLabelValues("/ws/test", "server")); (n == 1) != (name == "panic") {
				t.Errorf("panics = %v", n)
			}
		})
	}
}

func TestMaxMessage(t *testing.T) {
	s := newServer(t, func(o *EndpointOptions) { o.Config.MaxMessage = 1000 })
	raw := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\n")
	served := wait(t, s.inboxes, "connection")
	raw.send(opText, true, strings.Repeat("x", 1000))
	if got := wait(t, served.messages, "message"); len(got) != 1000 {
		t.Errorf("got %d bytes", len(got))
	}
	raw.send(opText, true, strings.Repeat("x", 1001))
	if op, payload := raw.next(t); op != opClose || closeCode(payload) != int(StatusTooBig) {
		t.Errorf("opcode %d, payload %q", op, payload)
	}
}

func TestStop(t *testing.T) {
	s := newServer(t, nil)
	polite, _ := s.dial(t, func(o *DialOptions) { o.HostID = "polite" })
	stalled := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\nX-Host-ID: stalled\r\n")
	for range 2 {
		b := wait(t, s.inboxes, "connection")
		if b.conn.Peer().HostID == "stalled" {
			_ = b.conn.Send(make([]byte, 64<<20))
		}
	}
	start := time.Now()
	s.stop()
	if err := wait(t, s.stopped, "end of Run"); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("stopping took %v", took)
	}
	var closed CloseError
	if err := wait(t, polite.closed, "close"); !errors.As(err, &closed) || closed.Code != StatusGoingAway {
		t.Errorf("polite peer was told %v", err)
	}
	if len(s.Conns()) != 0 {
		t.Errorf("%d connections left", len(s.Conns()))
	}
	late := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\n")
	if late.resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after the stop: %d", late.resp.StatusCode)
	}
	stalled.Close()
}

func TestConcurrentSendAndClose(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		s := newServer(t, func(o *EndpointOptions) { o.Config.CloseTimeout = 100 * time.Millisecond })
		defer s.stop()
		var all sync.WaitGroup
		for i := range 20 {
			client, ended := s.dial(t, nil)
			served := wait(t, s.inboxes, "connection")
			for range 4 {
				all.Go(func() {
					for range 200 {
						_ = client.conn.Send([]byte("to server"))
						_ = served.conn.Send([]byte("to client"))
					}
				})
			}
			all.Go(func() { served.conn.Close(StatusNormal, "server") })
			if i%2 == 0 {
				all.Go(func() { client.conn.Close(StatusNormal, "client") })
			}
			all.Go(func() { wait(t, ended, "end of Run") })
		}
		all.Wait()
		s.stop()
		wait(t, s.stopped, "end of endpoint")
	}()
	// Two goroutines per connection must be gone; the HTTP server of the test stays.
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before+5 })
}

// Rubbish on one connection hurts no other.
func FuzzStream(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x81, 0x85, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add([]byte{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add(appendFrame(nil, opClose, true, true, []byte{3}))
	f.Add(appendFrame(nil, opContinuation, true, true, []byte("x")))
	f.Add(appendFrame(appendFrame(nil, opText, false, true, []byte("x")), opText, true, true, nil))
	f.Add(appendFrame(nil, opPing, false, true, make([]byte, 126)))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	s := newServer(f, func(o *EndpointOptions) {
		o.Config.MaxMessage = 1 << 20
		o.Connect = func(c *Conn) (Session, error) { return newInbox(c), nil }
	})
	good, _ := s.dial(f, func(o *DialOptions) { o.HostID = "good" })
	eventually(f, "good peer is listed", func() bool { return s.Conn("good") != nil })
	f.Fuzz(func(t *testing.T, b []byte) {
		raw := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\nX-Host-ID: bad\r\n")
		_, _ = raw.Write(b)
		raw.send(opClose, true, "")
		_ = raw.Conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, raw)
		raw.Close()
		eventually(t, "bad peer is gone", func() bool { return s.Conn("bad") == nil })
		if err := s.Conn("good").Send([]byte("ok")); err != nil {
			t.Fatal(err)
		}
		wait(t, good.messages, "message to the good peer")
	})
}
