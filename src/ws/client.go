package ws

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// dialTimeout bounds one attempt: TCP, TLS and handshake.
const dialTimeout = 10 * time.Second

// DialOptions say whom to connect to and as whom. Only Addr, Path and ClientType
// are mandatory.
type DialOptions struct {
	Addr, Path                                     string             // "127.0.0.1:8082", "/ws/agent/topology"
	TLS                                            func() *tls.Config // asked for each attempt, as certificates change; nil, or nil from it: no TLS
	HostID, ClientType, Protocol                   string
	Namespaces                                     []string
	GremlinFilter, UpdatePolicy, PersistencePolicy string
	Username, Password                             string // Basic authentication when Username is set
	Token                                          string // X-Auth-Token
	Cookies                                        []*http.Cookie
	Header                                         http.Header // further headers
	Config                                         Config
	Metrics                                        *Metrics     // nil: not counted
	Logger                                         *slog.Logger // nil: silent
}

// withDefaults makes the optional parts usable.
func (o DialOptions) withDefaults() DialOptions {
	o.Config = o.Config.withDefaults()
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o DialOptions) tls() *tls.Config {
	if o.TLS == nil {
		return nil
	}
	return o.TLS()
}

func (o DialOptions) url() string {
	scheme := "ws"
	if o.tls() != nil {
		scheme = "wss"
	}
	return (&url.URL{Scheme: scheme, Host: o.Addr, Path: o.Path}).String()
}

func (o DialOptions) header() http.Header {
	h := o.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	for name, value := range map[string]string{
		"X-Host-ID": o.HostID, "X-Client-Type": o.ClientType, "X-Client-Protocol": o.Protocol,
		"X-Gremlin-Filter": o.GremlinFilter, "X-Update-Policy": o.UpdatePolicy,
		"X-Persistence-Policy": o.PersistencePolicy, "X-Auth-Token": o.Token,
	} {
		if value != "" {
			h.Set(name, value)
		}
	}
	for _, namespace := range o.Namespaces {
		h.Add("X-Websocket-Namespace", namespace)
	}
	r := http.Request{Header: h}
	if o.Username != "" {
		r.SetBasicAuth(o.Username, o.Password)
	}
	for _, cookie := range o.Cookies {
		r.AddCookie(cookie)
	}
	return h
}

// DialError explains why there is no connection.
type DialError struct {
	URL    string
	Status int    // of the HTTP answer, 0 when there was none
	Text   string // its body
	Err    error  // what went wrong when there was no answer, or an odd one
}

// Error is one sentence for a person.
func (e *DialError) Error() string {
	why := e.Text
	switch {
	case e.Status != 0 && e.Status != http.StatusSwitchingProtocols:
		why = strings.TrimSuffix(fmt.Sprintf("%d %s: %s", e.Status, http.StatusText(e.Status), e.Text), ": ")
	case e.Err != nil:
		why = e.Err.Error()
	}
	return fmt.Sprintf("connect to %s: %s", e.URL, why)
}

// Unwrap gives the network or TLS error.
func (e *DialError) Unwrap() error { return e.Err }

// Dial makes one connection; Run must then be called on it. Its errors are
// *DialError.
func Dial(ctx context.Context, o DialOptions) (*Conn, error) {
	o = o.withDefaults()
	host, port, _ := net.SplitHostPort(o.Addr)
	number, _ := strconv.Atoi(port)
	c := newConn(Peer{
		Protocol: o.Protocol, Namespaces: []string{"*"}, GremlinFilter: o.GremlinFilter,
		UpdatePolicy: o.UpdatePolicy, PersistencePolicy: o.PersistencePolicy,
		Addr: host, Port: number, Path: o.Path,
	}, true, o.Config, o.Metrics.forConn(o.Path, "client"), newBuffers(), o.Logger)
	c.ownType = o.ClientType

	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: o.tls(),
		DialContext:       (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext,
		DisableKeepAlives: true,                                                   // a refused attempt leaves no connection behind
		TLSNextProto:      map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1: HTTP/2 cannot be upgraded
	}
	heard := func(context.Context, []byte) { c.heard() }
	conn, resp, err := websocket.Dial(ctx, o.url(), &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport:     &roundTripper{transport, c.link},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		HTTPHeader:      o.header(),
		CompressionMode: websocket.CompressionDisabled,
		OnPingReceived:  func(ctx context.Context, p []byte) bool { heard(ctx, p); return true },
		OnPongReceived:  heard,
	})
	if err != nil {
		return nil, dialError(o, resp, err)
	}
	c.attach(conn)
	c.peer.URL = resp.Request.URL
	c.peer.HostID, c.peer.ServiceType = resp.Header.Get("X-Host-ID"), resp.Header.Get("X-Service-Type")
	c.peer.ConnectTime = time.Now()
	if c.peer.HostID == "" || c.peer.ServiceType == "" {
		_ = conn.CloseNow()
		return nil, dialError(o, resp, ErrNotSkydive)
	}
	return c, nil
}

func dialError(o DialOptions, resp *http.Response, err error) error {
	o.Metrics.dialFailures.WithLabelValues(o.Path).Inc()
	e := &DialError{URL: o.url(), Err: err}
	var inner *url.Error
	if errors.As(err, &inner) {
		e.Err = inner.Err // the library and net/http each add a prefix that says nothing
	}
	if op, ok := e.Err.(*net.OpError); ok && op.Source != nil {
		same := *op // with the local port, the reason of each attempt would be another one
		same.Source = nil
		e.Err = &same
	}
	if resp != nil {
		e.Status = resp.StatusCode
		if resp.Body != nil {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
			e.Text = strings.TrimSpace(string(text))
		}
	}
	return e
}

// ClientOptions are the parts of a Client.
type ClientOptions struct {
	DialOptions
	Connect Connect
	// Backoff is the pause before the next attempt, the first being 1; see pause. Nil: one
	// second, give or take a fifth so that a thousand agents do not come at once.
	Backoff func(attempt int) time.Duration
}

// Client keeps one connection up.
type Client struct {
	o      ClientOptions
	mu     sync.Mutex // guards what follows
	conn   *Conn
	state  State
	reason string
	since  time.Time
}

// NewClient panics without Connect.
func NewClient(o ClientOptions) *Client {
	if o.Connect == nil {
		panic("ws.NewClient: Connect is mandatory")
	}
	o.DialOptions = o.withDefaults()
	if o.Backoff == nil {
		o.Backoff = func(int) time.Duration { return 800*time.Millisecond + rand.N(400*time.Millisecond) }
	}
	return &Client{o: o, state: Connecting, since: time.Now()}
}

// Run connects, and reconnects for ever, until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		conn, err := Dial(ctx, c.o.DialOptions)
		if err == nil {
			err = conn.Run(ctx, c.connect)
			attempt = 1
		}
		if ctx.Err() != nil {
			return nil
		}
		c.failed(err)
		pause := time.NewTimer(c.pause(attempt, err))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
	}
}

// pause is the back-off, five times of it after an answer that the next attempt will most likely get again: whoever tries too often
// with wrong credentials is answered 429 instead of the reason, and so are others behind the same address.
func (c *Client) pause(attempt int, err error) time.Duration {
	d := c.o.Backoff(attempt)
	var refused *DialError
	if errors.As(err, &refused) {
		switch refused.Status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
			d *= 5
		}
	}
	return d
}

// connect publishes the connection once the owner has accepted it.
func (c *Client) connect(conn *Conn) (Session, error) {
	session, err := c.o.Connect(conn)
	if err == nil {
		c.set(conn, Connected, "")
		c.o.Logger.Info("connected", "url", c.o.url(), "host", conn.peer.HostID)
	}
	return session, err
}

// failed logs a reason once, however often it repeats.
func (c *Client) failed(err error) {
	reason := "closed"
	if err != nil {
		reason = err.Error()
	}
	if reason != c.lastReason() {
		c.o.Logger.Warn("not connected, retrying", "url", c.o.url(), "reason", reason)
	}
	c.set(nil, Failed, reason)
}

func (c *Client) lastReason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

func (c *Client) set(conn *Conn, state State, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state != c.state {
		c.since = time.Now()
	}
	c.conn, c.state, c.reason = conn, state, reason
}

// Conn returns the connection, nil while there is none.
func (c *Client) Conn() *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// Status describes the connection, or why there is none, for /api/status.
func (c *Client) Status() ConnStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		return c.conn.Status()
	}
	host, port, _ := net.SplitHostPort(c.o.Addr)
	number, _ := strconv.Atoi(port)
	return ConnStatus{
		ServiceType: c.o.ClientType, ClientProtocol: c.o.Protocol, Addr: cmp.Or(host, c.o.Addr), Port: number,
		State: c.state, Reason: c.reason, Since: c.since,
	}
}
