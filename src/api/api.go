// Package api is the HTTP server of analyzers and agents: REST, metrics, the page, and the mount point of WebSocket endpoints.
//
// Every request is authenticated, then authorised, then handled; only the page, the login, preflights and the
// health of the service are open. The package keeps no
// resources and knows no users: a store, an authenticator and an authoriser are given to it. It has no TLS of its own either: Run takes
// any listener.
package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"skydive/src/graph"
	"skydive/src/query"
	"skydive/src/resource"
)

// Authenticator tells who calls. Its errors are shown to the client, with status 401 unless they have a method Status() int.
type Authenticator interface {
	Authenticate(r *http.Request) (user string, err error)
	Open() bool // nobody is asked for credentials
	Logins
}

// Logins gives and takes back tokens. Login returns the user's name as it is known, and no token where none is needed.
type Logins interface {
	Login(r *http.Request, user, password string) (name, token string, err error)
	Logout(r *http.Request) error
}

// Permission is one right of a user: the unnamed struct, so that an Authorizer need not import this package.
type Permission = struct {
	Object, Action string
	Allowed        bool
}

// Authorizer tells what a user may do.
type Authorizer interface {
	Allowed(user, object, action string) bool
	Permissions(user string) []Permission
}

// Store keeps resources under keys such as /capture/<UUID>. An error that is fs.ErrNotExist means that there is no such key, any other
// one that the store cannot be used now.
type Store interface {
	StoreReader
	StoreWriter
}

// StoreReader is the half of a Store that reads. Revisions are for Update.
type StoreReader interface {
	Get(ctx context.Context, key string) (value []byte, revision int64, err error)
	List(ctx context.Context, prefix string) (map[string][]byte, error)
}

// StoreWriter is the half of a Store that writes. Update is false when the value is no more that of the revision.
type StoreWriter interface {
	Create(ctx context.Context, key string, value []byte, ttl time.Duration) error
	Update(ctx context.Context, key string, value []byte, revision int64) (bool, error)
	Delete(ctx context.Context, key string) error
}

// Options of a server. What is marked optional may be left out; its routes are then missing.
type Options struct {
	Host, Version, Service string // shown by GET /api; Service is "analyzer" or "agent"

	Log        *slog.Logger
	Registerer prometheus.Registerer // optional
	Gatherer   prometheus.Gatherer   // optional: GET /metrics

	Auth    Authenticator
	RBAC    Authorizer
	Tickets *Tickets // optional: POST /api/ticket

	Graph  *graph.Graph        // GET /api/topology, and the nodes and edges of analyzers
	Source func() query.Source // what POST /api/topology asks; the graph as it is when nil
	Steps  query.Steps         // agents answer the base steps only
	Store  Store               // optional, analyzers only: resources, nodes and edges can be changed
	// Engines are the kinds of resources that something acts upon. Creating one of another kind is answered 501.
	Engines []string
	// Views give what is shown of a stored resource, by kind: it and what its engine knows of it, all of that when one alone is asked
	// for. Checks tell why a new one cannot work, by kind; whoever asked for it is told. Both are optional.
	Views  map[string]func(r resource.Resource, whole bool) any
	Checks map[string]func(ctx context.Context, r resource.Resource) error
	// Packets writes the packets of a capture, as pcapng, until ctx ends or the capture does; each Write is sent at once. What fails
	// before the first is answered 404 for fs.ErrNotExist, else 503. Optional: GET /api/capture/{id}/pcapng.
	Packets func(ctx context.Context, capture string, w io.Writer) error
	// Pcap reads the flows out of a pcap file. Its errors are answered 400 unless they have a method Status() int. Optional:
	// POST /api/pcap, one at a time.
	Pcap func(ctx context.Context, file io.Reader) error
	// Defaults are given to new resources; Now is set for each.
	Defaults resource.Defaults

	Config   func(key string) (any, bool) // optional: GET /api/config/{key}; it must not show secrets
	Status   map[string]func() any        // the top level of GET /api/status
	Warnings func() []string              // optional: shown by GET /api/status and the page

	// Why the service does not work, and why work should not be sent to it yet; nil when all is well. Everybody may read the
	// errors. Health must not depend on other hosts: whoever watches it restarts a service that is not well.
	Health, Ready func() error // optional

	// Check explains a decision. Policy and Rights are the policy that all analyzers share. All optional: /api/rbac/check and
	// /api/rbac/policy; with Rights, nobody may do anything while the policy is not known.
	Check  func(user, object, action string) any
	Policy Policy
	Rights Rights

	Sockets map[string]http.Handler // by path; they authenticate for themselves, see SocketAuth
}

// Server answers HTTP requests.
type Server struct {
	Options
	metrics metrics
	mux     *http.ServeMux
	routes  http.Handler
	gzips   sync.Pool
	exposed atomic.Bool // beyond loopback without authentication

	importing sync.Mutex // a pcap file
}

// Limits of what clients can hold or make the server hold.
const (
	maxHeader     = 64 << 10
	maxBody       = 4 << 20
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	// stallTimeout ends a request whose body, or whose reader, does not get on.
	stallTimeout = 30 * time.Second
	// shutdownGrace is what requests get to finish in; a service has 2 s to end.
	shutdownGrace = 1200 * time.Millisecond
)

// New makes a server. It panics when Auth, RBAC, Log or Graph is missing: there is no way to leave them out safely.
func New(o Options) (*Server, error) {
	if o.Auth == nil || o.RBAC == nil || o.Log == nil || o.Graph == nil {
		panic("api: Auth, RBAC, Log and Graph are needed")
	}
	if o.Source == nil {
		g := o.Graph
		o.Source = func() query.Source { return query.Source{Graph: g.Snapshot()} }
	}
	s := &Server{Options: o, mux: http.NewServeMux()}
	var err error
	if s.metrics, err = newMetrics(o.Registerer); err != nil {
		return nil, fmt.Errorf("register metrics of the API: %w", err)
	}
	s.mount()
	s.routes = s.recovered(s.crossOrigin(http.HandlerFunc(s.dispatch)))
	return s, nil
}

// Handler answers as the server does.
func (s *Server) Handler() http.Handler { return s.routes }

func (s *Server) mount() {
	s.handle("GET /api", s.guarded("", "", s.about))
	s.mountLogin()
	s.handle("GET /api/topology", s.guarded("topology", "read", s.topology))
	s.handle("POST /api/topology", s.guarded("topology", "read", s.query))
	s.handle("GET /api/status", s.guarded("status", "read", s.status))
	s.handle("GET /healthz", well(s.Health))
	s.handle("GET /readyz", well(s.Health, s.Ready))
	if s.Config != nil {
		s.handle("GET /api/config/{key}", s.guarded("config", "read", s.setting))
	}
	if s.Gatherer != nil {
		// Metrics tell no more than the status, so the same right is asked for.
		exposition := promhttp.HandlerFor(s.Gatherer, promhttp.HandlerOpts{DisableCompression: true})
		s.handle("GET /metrics", s.guarded("status", "read", func(w http.ResponseWriter, r *http.Request) error {
			exposition.ServeHTTP(w, r)
			return nil
		}))
	}
	if s.Store != nil {
		s.mountResources()
	}
	s.mountPackets()
	s.mountRBAC()
	s.mountDebug()
	for path, socket := range s.Sockets {
		s.mux.Handle(path, socket)
	}
	s.mountPage()
}

// handler is a route; its error is sent to the client by fail.
type handler func(w http.ResponseWriter, r *http.Request) error

func (s *Server) handle(pattern string, h handler) {
	s.mux.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := s.reply(w, r)
		defer out.finish()
		if err := h(out, limited(w, r)); err != nil {
			s.fail(out, r, err)
		}
	}))
}

// dispatch finds the route. A path with a needless slash at its end is redirected, as clients are used to.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request) {
	if path, slash := strings.CutSuffix(r.URL.Path, "/"); slash && path != "" {
		if _, pattern := s.mux.Handler(r); pattern == "" || strings.HasSuffix(pattern, "/{id...}") && r.Method == http.MethodGet {
			bare := r.Clone(r.Context())
			bare.URL.Path, bare.URL.RawPath = path, ""
			if _, pattern := s.mux.Handler(bare); pattern != "" {
				http.Redirect(w, r, bare.URL.String(), http.StatusMovedPermanently)
				return
			}
		}
	}
	s.mux.ServeHTTP(w, r)
}

// Run serves until ctx ends; then requests get a moment to finish.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	if addr, ok := l.Addr().(*net.TCPAddr); ok && !addr.IP.IsLoopback() && s.Auth.Open() {
		s.exposed.Store(true)
		s.Log.Warn(s.exposure(), "address", l.Addr().String())
	}
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := &http.Server{
		Handler: s.routes, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the API: %w", err)
	case <-ctx.Done():
	}
	grace, stop := context.WithTimeout(base, shutdownGrace)
	defer stop()
	if err := server.Shutdown(grace); err != nil {
		cancel() // ends queries
		server.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

func (s *Server) exposure() string {
	return "the API of this " + s.Service + " listens beyond loopback without authentication"
}

// warnings are what whoever looks after the service should know.
func (s *Server) warnings() []string {
	list := []string{}
	if s.exposed.Load() {
		list = append(list, s.exposure())
	}
	if s.Warnings != nil {
		list = append(list, s.Warnings()...)
	}
	return list
}
