package ws

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestDialErrors(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/401":
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte("Wrong credentials"))
		case "/301":
			http.Redirect(w, r, "/404", http.StatusMovedPermanently)
		case "/ok":
			_, _ = w.Write([]byte("a web page"))
		case "/other":
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Sec-WebSocket-Accept", acceptKey(r.Header.Get("Sec-WebSocket-Key")))
			w.WriteHeader(http.StatusSwitchingProtocols)
		default:
			http.NotFound(w, r)
		}
	}))
	defer h.Close()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := free.Addr().String()
	free.Close()
	addr, tlsAddr := h.Listener.Addr().String(), s.Listener.Addr().String()
	for _, c := range []struct {
		addr, path string
		tls        *tls.Config
		status     int
		text       string
	}{
		{addr, "/401", nil, 401, "connect to ws://" + addr + "/401: 401 Unauthorized: Wrong credentials"},
		{addr, "/404", nil, 404, "404 Not Found: 404 page not found"},
		{addr, "/301", nil, 301, "301 Moved Permanently"},
		{addr, "/ok", nil, 200, "200 OK: a web page"},
		{addr, "/other", nil, 101, ErrNotSkydive.Error()},
		{closed, "/", nil, 0, "connection refused"},
		{tlsAddr, "/", nil, 400, "Client sent an HTTP request to an HTTPS server"},
		{tlsAddr, "/", &tls.Config{}, 0, "certificate"},
		{addr, "/", &tls.Config{}, 0, "HTTP response to HTTPS client"},
	} {
		_, err := Dial(t.Context(), DialOptions{Addr: c.addr, Path: c.path, TLS: func() *tls.Config { return c.tls }, ClientType: "agent"})
		var dial *DialError
		if !errors.As(err, &dial) {
			t.Errorf("%s%s: %v is no DialError", c.addr, c.path, err)
			continue
		}
		if dial.Status != c.status || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "failed to WebSocket dial: failed to send") {
			t.Errorf("%s: status %d, %q, want %d, %q", c.path, dial.Status, err, c.status, c.text)
		}
	}
}

func TestDialSends(t *testing.T) {
	requests := make(chan *http.Request, 1)
	s := newServer(t, func(o *EndpointOptions) {
		o.Authenticate = func(r *http.Request) (string, []*http.Cookie, error) {
			requests <- r
			return "u", nil, nil
		}
	})
	s.dial(t, func(o *DialOptions) {
		o.HostID, o.ClientType, o.Protocol = "h", "seed", "json"
		o.Namespaces = []string{"flow", "stats"}
		o.GremlinFilter, o.UpdatePolicy, o.PersistencePolicy = "G", "partial", "DeleteOnDisconnect"
		o.Username, o.Password, o.Token = "user", "pass", "tok"
		o.Cookies = []*http.Cookie{{Name: "a", Value: "b"}}
		o.Header = http.Header{"X-More": {"1"}}
	})
	r := wait(t, requests, "request")
	user, password, _ := r.BasicAuth()
	if user != "user" || password != "pass" || r.Header.Get("X-Auth-Token") != "tok" || r.Header.Get("X-More") != "1" {
		t.Errorf("headers %v", r.Header)
	}
	if cookie, err := r.Cookie("a"); err != nil || cookie.Value != "b" {
		t.Errorf("cookie %v %v", cookie, err)
	}
	p := wait(t, s.inboxes, "connection").conn.Peer()
	if p.HostID != "h" || p.ServiceType != "seed" || p.Protocol != "json" || len(p.Namespaces) != 2 ||
		p.GremlinFilter != "G" || p.UpdatePolicy != "partial" || p.PersistencePolicy != "DeleteOnDisconnect" {
		t.Errorf("server sees %+v", p)
	}
}

func TestTLS(t *testing.T) {
	s := newServer(t, nil)
	h := httptest.NewTLSServer(s.Endpoint)
	defer h.Close()
	c, err := Dial(t.Context(), DialOptions{Addr: h.Listener.Addr().String(), Path: "/ws/test", ClientType: "agent",
		TLS: func() *tls.Config { return h.Client().Transport.(*http.Transport).TLSClientConfig }})
	if err != nil {
		t.Fatal(err)
	}
	b := newInbox(c)
	go func() { _ = c.Run(context.Background(), func(*Conn) (Session, error) { return b, nil }) }()
	served := wait(t, s.inboxes, "connection")
	big := strings.Repeat("x", 1<<20)
	_ = served.conn.Send([]byte(big))
	_ = c.Send([]byte(big))
	if wait(t, b.messages, "message") != big || wait(t, served.messages, "message") != big {
		t.Error("message differs")
	}
	c.Close(StatusNormal, "")
	<-c.Done()
}

func TestClientReconnects(t *testing.T) {
	s := newServer(t, nil)
	refuse := errors.New("not today")
	attempts := make(chan int)
	proceed := make(chan struct{})
	inboxes := make(chan *inbox, 10)
	accept := make(chan error, 10)
	client := NewClient(ClientOptions{
		DialOptions: DialOptions{Addr: s.addr, Path: "/ws/test", HostID: "h1", ClientType: "agent", Protocol: "protobuf"},
		Connect: func(c *Conn) (Session, error) {
			if err := <-accept; err != nil {
				return nil, err
			}
			b := newInbox(c)
			inboxes <- b
			return b, nil
		},
		Backoff: func(n int) time.Duration { attempts <- n; <-proceed; return 0 },
	})
	if status := client.Status(); status.State != Connecting || status.IsConnected || status.Addr != "127.0.0.1" || status.ServiceType != "agent" {
		t.Errorf("before Run: %+v", status)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- client.Run(ctx) }()

	accept <- nil
	first := wait(t, s.inboxes, "first connection")
	eventually(t, "client is connected", func() bool { return client.Conn() != nil })
	if status := client.Status(); status.State != Connected || status.RemoteHost != "me" {
		t.Errorf("connected: %+v", status)
	}
	first.conn.Close(StatusGoingAway, "restart")
	wait(t, inboxes, "inbox")
	if n := wait(t, attempts, "back-off"); n != 1 {
		t.Errorf("first back-off has attempt %d", n)
	}
	if status := client.Status(); status.State != Failed || !strings.Contains(status.Reason, "restart") || client.Conn() != nil {
		t.Errorf("after the loss: %+v", status)
	}
	proceed <- struct{}{}
	accept <- refuse
	if n := wait(t, attempts, "back-off"); n != 1 {
		t.Errorf("back-off after a connection that was made has attempt %d", n)
	}
	if status := client.Status(); status.Reason != refuse.Error() {
		t.Errorf("after own refusal: %+v", status)
	}
	s.stop()
	<-s.stopped
	proceed <- struct{}{}
	for want := 2; want < 4; want++ {
		if n := wait(t, attempts, "back-off"); n != want {
			t.Errorf("back-off has attempt %d, want %d", n, want)
		}
		if status := client.Status(); !strings.Contains(status.Reason, "503") {
			t.Errorf("while the server is stopping: %+v", status)
		}
		if want == 2 {
			proceed <- struct{}{}
		}
	}
	cancel()
	proceed <- struct{}{}
	if err := wait(t, ended, "end of Run"); err != nil {
		t.Error(err)
	}
}

// The end of the context closes the connection politely.
func TestClientStops(t *testing.T) {
	s := newServer(t, nil)
	client := NewClient(ClientOptions{
		DialOptions: DialOptions{Addr: s.addr, Path: "/ws/test", ClientType: "agent"},
		Connect:     func(*Conn) (Session, error) { return nil, nil },
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- client.Run(ctx) }()
	served := wait(t, s.inboxes, "connection")
	eventually(t, "client is connected", func() bool { return client.Conn() != nil })
	cancel()
	if err := wait(t, ended, "end of Run"); err != nil {
		t.Error(err)
	}
	var closed CloseError
	if err := wait(t, served.closed, "close"); !errors.As(err, &closed) || closed.Code != StatusNormal {
		t.Errorf("server was told %v", err)
	}
}

// However stuck the server is, and however patient the configuration, a client
// that is told to stop does so.
func TestClientStopsThoughStuck(t *testing.T) {
	hold := make(chan struct{})
	s := newServer(t, func(o *EndpointOptions) {
		o.Connect = func(*Conn) (Session, error) {
			return &badSession{func() error { <-hold; return nil }, make(chan error, 1), false}, nil
		}
	})
	defer close(hold)
	c, err := Dial(t.Context(), DialOptions{Addr: s.addr, Path: "/ws/test", ClientType: "CLI", Config: Config{CloseTimeout: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, func(*Conn) (Session, error) { return nil, nil }) }()
	_ = c.Send(make([]byte, 64<<20))
	start := time.Now()
	cancel()
	if wait(t, ended, "end of Run"); time.Since(start) > 1900*time.Millisecond {
		t.Errorf("took %v", time.Since(start))
	}
}

// The proxy of the environment is asked; net/http reads it once per process, so
// this runs in one of its own.
func TestProxy(t *testing.T) {
	const child = "WS_TEST_PROXY_CHILD"
	if os.Getenv(child) != "" {
		_, err := Dial(t.Context(), DialOptions{Addr: "analyzer.example:8082", Path: "/ws/test", ClientType: "agent"})
		if err == nil || !strings.Contains(err.Error(), "proxy says no") {
			t.Error(err)
		}
		return
	}
	asked := make(chan string, 1)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.String()
		http.Error(w, "proxy says no", http.StatusBadGateway)
	}))
	defer proxy.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxy$")
	cmd.Env = append(os.Environ(), child+"=1", "HTTP_PROXY="+proxy.URL, "http_proxy="+proxy.URL, "NO_PROXY=", "no_proxy=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := wait(t, asked, "request"); got != "http://analyzer.example:8082/ws/test" {
		t.Errorf("proxy was asked for %s", got)
	}
}

// Who is refused for its credentials waits longer: it would use up what its address may try, and be told that instead of the reason.
func TestPauseAfterRefusal(t *testing.T) {
	c := NewClient(ClientOptions{
		DialOptions: DialOptions{Addr: "127.0.0.1:1", Path: "/ws/test", ClientType: "agent"},
		Connect:     func(*Conn) (Session, error) { return nil, nil },
		Backoff:     func(int) time.Duration { return time.Second },
	})
	for status, want := range map[int]time.Duration{
		0: time.Second, http.StatusConflict: time.Second, http.StatusServiceUnavailable: time.Second,
		http.StatusUnauthorized: 5 * time.Second, http.StatusForbidden: 5 * time.Second, http.StatusTooManyRequests: 5 * time.Second,
	} {
		if got := c.pause(1, &DialError{Status: status}); got != want {
			t.Errorf("after %d: %v, want %v", status, got, want)
		}
	}
}

// A server that resets every attempt gives the same reason each time, so it is logged once; and it has failed since the first.
func TestSameFailureIsOne(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.(*net.TCPConn).SetLinger(0) // reset, with bytes unread
			_ = conn.Close()
		}
	}()
	var log lockedBuffer
	attempts := make(chan int)
	proceed := make(chan struct{})
	c := NewClient(ClientOptions{
		DialOptions: DialOptions{Addr: l.Addr().String(), Path: "/ws/test", ClientType: "agent", Logger: slog.New(slog.NewTextHandler(&log, nil))},
		Connect:     func(*Conn) (Session, error) { return nil, nil },
		Backoff:     func(n int) time.Duration { attempts <- n; <-proceed; return 0 },
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	wait(t, attempts, "back-off")
	first := c.Status()
	if first.State != Failed || first.Reason == "" {
		t.Errorf("%+v", first)
	}
	for range 3 {
		proceed <- struct{}{}
		wait(t, attempts, "back-off")
		if s := c.Status(); s.State != Failed || s.Reason != first.Reason || s.Since != first.Since {
			t.Errorf("%+v, want it as at first %+v", s, first)
		}
	}
	cancel()
	proceed <- struct{}{}
	wait(t, ended, "end of Run")
	if n := strings.Count(log.String(), "not connected"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
