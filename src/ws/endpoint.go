package ws

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// EndpointOptions are the parts of an Endpoint; all but Config and Still are mandatory.
type EndpointOptions struct {
	Path                string // "/ws/subscriber": what Authorize is asked for, and the metrics label
	HostID, ServiceType string // of this server, told to every client
	// Authenticate says who is calling and which cookies to give back; the text of
	// its error is the body of the 401, or of the Status() that it has.
	Authenticate func(r *http.Request) (user string, cookies []*http.Cookie, err error)
	// Authorize may refuse a known user: 403. Reauthorize asks it again.
	Authorize func(user, path string) bool
	// Still tells whether whoever sent the handshake would be known today. Reauthenticate asks it. Optional.
	Still   func(r *http.Request) bool
	Connect Connect
	Config  Config
	Metrics *Metrics
	Logger  *slog.Logger
}

// Endpoint accepts the WebSocket connections of one path. Host ids are unique
// among them.
type Endpoint struct {
	o       EndpointOptions
	cfg     Config
	metrics *connMetrics
	buffers *sync.Pool

	mu       sync.Mutex             // guards what follows
	taken    map[string]*connection // by host id, from before the handshake to the end
	warned   time.Time              // when a refusal was last logged as a warning
	stopping bool
	empty    chan struct{} // closed when stopping and taken is empty

	conns atomic.Pointer[map[string]*Conn] // accepted by Connect; replaced, never changed
	list  atomic.Pointer[[]*Conn]          // the same for Conns
}

// connection is a taken host id; conn is nil until the handshake is done.
type connection struct {
	addr string
	conn *Conn
	sent *http.Request // the handshake
	gone chan struct{} // closed when the host id is free again
}

// NewEndpoint panics when a mandatory part is missing: an endpoint without
// authorisation must not come into being by forgetting it.
func NewEndpoint(o EndpointOptions) *Endpoint {
	if o.Authenticate == nil || o.Authorize == nil || o.Connect == nil || o.Metrics == nil || o.Logger == nil {
		panic("ws.NewEndpoint: Authenticate, Authorize, Connect, Metrics and Logger are mandatory")
	}
	e := &Endpoint{
		o: o, cfg: o.Config.withDefaults(), metrics: o.Metrics.forConn(o.Path, "server"), buffers: newBuffers(),
		taken: map[string]*connection{}, empty: make(chan struct{}),
	}
	e.conns.Store(&map[string]*Conn{})
	e.list.Store(&[]*Conn{})
	return e
}

// Path is the request path this endpoint is for.
func (e *Endpoint) Path() string { return e.o.Path }

// Conns returns the connections that Connect accepted, in no order. The slice is
// shared and immutable: taking it costs nothing.
func (e *Endpoint) Conns() []*Conn { return *e.list.Load() }

// Conn returns the connection of a host id, nil when there is none.
func (e *Endpoint) Conn(hostID string) *Conn { return (*e.conns.Load())[hostID] }

// Status describes the connections by host id, for /api/status.
func (e *Endpoint) Status() map[string]ConnStatus {
	status := map[string]ConnStatus{}
	for id, c := range *e.conns.Load() {
		status[id] = c.Status()
	}
	return status
}

// Run waits for the end of ctx, then refuses new connections (503), closes all
// others (1001) and returns when they are gone, after two seconds at most.
func (e *Endpoint) Run(ctx context.Context) error {
	<-ctx.Done()
	e.mu.Lock()
	e.stopping = true
	if len(e.taken) == 0 {
		close(e.empty)
	}
	e.mu.Unlock()
	e.each(func(c *Conn) { c.Close(StatusGoingAway, "server is stopping") })
	if !e.waitEmpty(time.Second) {
		e.each(func(c *Conn) { go c.abort() }) // closing TLS may wait for the peer
		if !e.waitEmpty(800 * time.Millisecond) {
			return fmt.Errorf("stop %s: a connection is still being served", e.o.Path)
		}
	}
	return nil
}

func (e *Endpoint) each(f func(*Conn)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.taken {
		if t.conn != nil {
			f(t.conn)
		}
	}
}

func (e *Endpoint) waitEmpty(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-e.empty:
		return true
	case <-t.C:
		return false
	}
}

// refusal is an answer other than 101.
type refusal struct {
	status int
	label  string // metrics
	text   string
}

// ServeHTTP does the handshake and serves the connection until it ends.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.TLS != nil {
		w.Header().Set("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
	}
	peer := peerOf(r)
	if refused := e.admit(w, r, &peer); refused != nil {
		e.o.Metrics.refusals.WithLabelValues(e.o.Path, refused.label).Inc()
		e.o.Logger.Log(r.Context(), e.refusalLevel(refused), "WebSocket handshake refused", "path", e.o.Path, "host", peer.HostID, "type", peer.ServiceType,
			"addr", r.RemoteAddr, "status", refused.status, "reason", refused.text)
		if refused.status != http.StatusUnauthorized {
			w.Header().Set("Connection", "close")
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(refused.status)
		_, _ = w.Write([]byte(refused.text))
		return
	}
	defer e.release(peer.HostID)

	w.Header().Set("X-Host-ID", e.o.HostID)
	w.Header().Set("X-Service-Type", e.o.ServiceType)
	c := newConn(peer, false, e.cfg, e.metrics, e.buffers, e.o.Logger)
	conn, err := websocket.Accept(&hijacker{w, c.link}, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // admit has looked at the Origin
		CompressionMode:    websocket.CompressionDisabled,
		OnPongReceived:     func(context.Context, []byte) { c.heard() },
	})
	if err != nil {
		e.o.Metrics.refusals.WithLabelValues(e.o.Path, "handshake").Inc()
		e.o.Logger.Warn("WebSocket handshake failed", "path", e.o.Path, "addr", r.RemoteAddr, "error", err)
		return
	}
	c.attach(conn)
	e.accept(c)
	err = c.Run(context.Background(), e.connect)
	reason := "closed"
	if err != nil {
		reason = err.Error()
	}
	e.o.Logger.Info("WebSocket peer disconnected", "path", e.o.Path, "host", peer.HostID, "type", peer.ServiceType, "addr", r.RemoteAddr, "reason", reason)
}

// refusalQuiet is the least time between two warnings about refused peers: those come back again and again.
const refusalQuiet = time.Minute

// refusalLevel makes a refusal that somebody should do something about a warning, unless there was one just before.
func (e *Endpoint) refusalLevel(refused *refusal) slog.Level {
	switch refused.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusConflict, http.StatusTooManyRequests:
	default:
		return slog.LevelDebug
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.warned.IsZero() && time.Since(e.warned) < refusalQuiet {
		return slog.LevelDebug
	}
	e.warned = time.Now()
	return slog.LevelWarn
}

// admit decides on the request and takes the host id.
func (e *Endpoint) admit(w http.ResponseWriter, r *http.Request, peer *Peer) *refusal {
	crossSite := foreignOrigin(r)
	if crossSite {
		// A browser adds its cookies to what a page of another site asks for, and a
		// WebSocket is not subject to CORS. Only credentials the page itself knows count.
		r = r.Clone(r.Context())
		r.Header.Del("Cookie")
	}
	user, cookies, err := e.o.Authenticate(r)
	switch {
	case err != nil && crossSite:
		return &refusal{http.StatusForbidden, "origin", fmt.Sprintf("origin %s needs an explicit token: %s", r.Header.Get("Origin"), err)}
	case err != nil:
		status := http.StatusUnauthorized
		if known, ok := errors.AsType[interface {
			error
			Status() int
		}](err); ok {
			status = known.Status()
		}
		return &refusal{status, "unauthenticated", err.Error()}
	}
	for _, cookie := range cookies {
		http.SetCookie(w, cookie)
	}
	if !e.o.Authorize(user, e.o.Path) {
		return &refusal{http.StatusForbidden, "forbidden", fmt.Sprintf("'%s' has no permission on '%s'", user, e.o.Path)}
	}
	if !validUpgrade(r) {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Sec-WebSocket-Version", "13")
		return &refusal{http.StatusUpgradeRequired, "no-upgrade", "this is a WebSocket endpoint: a GET with the upgrade headers of RFC 6455 is needed"}
	}
	peer.User = user

	return e.take(r, peer.HostID)
}

// maxPeers bounds the connections of an endpoint: each may hold as much as Config.QueueBytes.
const maxPeers = 10_000

// take takes a host id. One whose connection is just ending is waited for: a
// client that closes and comes back at once is no duplicate.
func (e *Endpoint) take(r *http.Request, hostID string) *refusal {
	patience := time.NewTimer(2 * time.Second)
	defer patience.Stop()
	for {
		e.mu.Lock()
		other := e.taken[hostID]
		ending := other != nil && other.conn != nil && other.conn.over()
		stopping, full := e.stopping, len(e.taken) >= maxPeers
		if other == nil && !stopping && !full {
			e.taken[hostID] = &connection{addr: r.RemoteAddr, sent: r, gone: make(chan struct{})}
		}
		e.mu.Unlock()
		switch {
		case stopping:
			return &refusal{http.StatusServiceUnavailable, "stopping", "server is stopping"}
		case full && other == nil:
			return &refusal{http.StatusServiceUnavailable, "full", fmt.Sprintf("%d peers are connected to %s already", maxPeers, e.o.Path)}
		case other == nil:
			return nil
		}
		conflict := &refusal{http.StatusConflict, "duplicate", fmt.Sprintf("host id '%s' is already connected to %s from %s: is it set twice?", hostID, e.o.Path, other.addr)}
		if !ending {
			return conflict
		}
		select {
		case <-other.gone:
		case <-patience.C:
			return conflict
		case <-r.Context().Done():
			return conflict
		}
	}
}

func (e *Endpoint) accept(c *Conn) {
	e.mu.Lock()
	e.taken[c.peer.HostID].conn = c
	if e.stopping {
		c.Close(StatusGoingAway, "server is stopping")
	}
	e.mu.Unlock()
	e.reauthorize(c) // what Reauthorize found changed before it could see this connection
}

// connect checks what the contract wants checked after the 101, then asks the owner.
func (e *Endpoint) connect(c *Conn) (Session, error) {
	p := c.peer
	if p.ServiceType == "" {
		return nil, errors.New("header X-Client-Type is missing")
	}
	if p.Protocol != "" && p.Protocol != "json" && p.Protocol != "protobuf" {
		return nil, fmt.Errorf("X-Client-Protocol '%s' is neither json nor protobuf", p.Protocol)
	}
	session, err := e.o.Connect(c)
	if err != nil {
		return nil, err
	}
	e.o.Logger.Info("WebSocket peer connected", "path", e.o.Path, "host", p.HostID, "type", p.ServiceType, "addr", net.JoinHostPort(p.Addr, strconv.Itoa(p.Port)))
	e.mu.Lock()
	defer e.mu.Unlock()
	conns := maps.Clone(*e.conns.Load())
	conns[p.HostID] = c
	e.publish(conns)
	return session, nil
}

func (e *Endpoint) release(hostID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.taken[hostID].gone)
	delete(e.taken, hostID)
	if _, ok := (*e.conns.Load())[hostID]; ok {
		conns := maps.Clone(*e.conns.Load())
		delete(conns, hostID)
		e.publish(conns)
	}
	if e.stopping && len(e.taken) == 0 {
		close(e.empty)
	}
}

func (e *Endpoint) publish(conns map[string]*Conn) {
	list := slices.Collect(maps.Values(conns))
	e.conns.Store(&conns)
	e.list.Store(&list)
}

// peerOf reads the handshake headers and, for browsers, which cannot set any,
// their lower-case query forms.
func peerOf(r *http.Request) Peer {
	query := r.URL.Query()
	all := func(header string) []string {
		if values := r.Header.Values(header); len(values) > 0 {
			return values
		}
		return query[strings.ToLower(header)]
	}
	one := func(header string) string {
		if values := all(header); len(values) > 0 {
			return values[0]
		}
		return ""
	}
	p := Peer{
		HostID:            one("X-Host-ID"),
		ServiceType:       one("X-Client-Type"),
		Protocol:          one("X-Client-Protocol"),
		Namespaces:        slices.Clone(all("X-Websocket-Namespace")),
		GremlinFilter:     one("X-Gremlin-Filter"),
		UpdatePolicy:      one("X-Update-Policy"),
		PersistencePolicy: r.Header.Get("X-Persistence-Policy"),
		ConnectTime:       time.Now(),
		Path:              r.URL.Path,
		URL:               r.URL,
	}
	if p.HostID == "" {
		p.HostID = r.RemoteAddr
	}
	if len(p.Namespaces) == 0 {
		p.Namespaces = []string{"*"}
	}
	host, port, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	p.Addr = host
	p.Port, _ = strconv.Atoi(port)
	return p
}

// validUpgrade checks what RFC 6455 §4.2.1 demands of the request.
func validUpgrade(r *http.Request) bool {
	has := func(header, token string) bool {
		for _, line := range r.Header.Values(header) {
			for part := range strings.SplitSeq(line, ",") {
				if strings.EqualFold(strings.TrimSpace(part), token) {
					return true
				}
			}
		}
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(r.Header.Get("Sec-WebSocket-Key")))
	return r.Method == http.MethodGet && r.ProtoMajor == 1 && r.ProtoAtLeast(1, 1) &&
		has("Connection", "upgrade") && has("Upgrade", "websocket") &&
		r.Header.Get("Sec-WebSocket-Version") == "13" && err == nil && len(key) == 16
}

// foreignOrigin reports whether a browser sent this from a page of another site.
// Programs send no Origin. X-Forwarded-Host is what a proxy saw as the host; a
// page cannot forge it.
func foreignOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) && !strings.EqualFold(u.Host, r.Header.Get("X-Forwarded-Host"))
}
