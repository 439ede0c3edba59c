package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"skydive/src/api"
	"skydive/src/auth"
	"skydive/src/auth/keystone"
	"skydive/src/config"
	"skydive/src/graph"
	"skydive/src/rbac"
	"skydive/src/tlsconf"
	"skydive/src/ws"
)

// group runs the parts of a service side by side. The first that fails, or the end of the context, ends all.
type group struct{ parts []func(context.Context) error }

func (g *group) add(run func(context.Context) error) { g.parts = append(g.parts, run) }

func (g *group) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(g.parts))
	for _, run := range g.parts {
		go func() { ended <- run(ctx) }()
	}
	var first error
	for range g.parts {
		if err := <-ended; err != nil && first == nil && !errors.Is(err, context.Canceled) {
			first = err
		}
		cancel()
	}
	return first
}

// service is what an analyzer and an agent are both made of.
type service struct {
	name     string // "analyzer" or "agent"
	cfg      *config.Config
	log      *slog.Logger
	registry *prometheus.Registry
	graph    *graph.Graph
	enforcer *rbac.Enforcer // of users
	peers    *rbac.Enforcer // of agents and analyzers: one who is called like a user gets no rights for that user
	certs    *tlsconf.Certificates
	sockets  *ws.Metrics
	users    *auth.Authenticator // of API, subscribers and publishers
	tickets  *api.Tickets        // of the same
	server   *api.Server
	listen   config.Address
	group
}

// newService prepares a service whose API asks the section auth.<backend> who is calling.
func newService(name, backend string, cfg *config.Config, log *slog.Logger, hooks ...func(*graph.Tx)) (*service, error) {
	s := &service{name: name, cfg: cfg, log: log, registry: prometheus.NewRegistry(), graph: graph.New(graph.Options{Hooks: hooks})}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.sockets = ws.NewMetrics(s.registry)
	var err error
	if s.certs, err = tlsconf.New(tlsFiles(cfg), log); err != nil {
		return nil, err
	}
	s.registry.MustRegister(s.certs)
	s.add(s.certs.Run)
	m := cfg.RBAC.Model
	section := cfg.Backend(backend)
	s.enforcer, err = rbac.New(rbac.Config{Policy: cfg.RBAC.Policy, DefaultRole: section.Role, Await: name == "analyzer" && section.Type != "noauth", Model: rbac.Model{
		RequestDefinition: m.RequestDefinition, PolicyDefinition: m.PolicyDefinition, RoleDefinition: m.RoleDefinition,
		PolicyEffect: m.PolicyEffect, Matchers: m.Matchers,
	}})
	if err != nil {
		return nil, err
	}
	if s.peers, err = s.enforcer.Separate(); err != nil {
		return nil, err
	}
	s.tickets = api.NewTickets(nil)
	s.users, err = s.authenticator(backend, "", s.enforcer)
	return s, err
}

// authenticator builds the backend auth.<name> of those whose rights enforcer knows; role, when given, overrides the role of its users.
func (s *service) authenticator(name, role string, enforcer *rbac.Enforcer) (*auth.Authenticator, error) {
	c := s.cfg.Backend(name)
	return auth.New(name, auth.Config{
		Type: c.Type, File: c.File, Users: c.Users, Role: c.Role,
		AuthURL: c.AuthURL, TenantName: c.TenantName, DomainName: c.DomainName, CACert: c.CACert,
	}, auth.Options{
		Log: s.log, Grant: enforcer.Grant, Role: role, Registerer: s.registry,
		Backends: map[string]func(string, auth.Config) (auth.TokenBackend, error){"keystone": keystone.New},
	})
}

// endpoint describes a WebSocket endpoint of users; its owner adds what it does with them.
func (s *service) endpoint(path string) ws.EndpointOptions {
	authenticate := s.tickets.SocketAuth(s.users, s.enforcer)
	return ws.EndpointOptions{
		Path: path, HostID: s.cfg.HostID, ServiceType: s.name,
		Authenticate: func(r *http.Request) (string, []*http.Cookie, error) {
			if err := s.enforcer.Pending(); err != nil {
				return "", nil, handshakeError{http.StatusServiceUnavailable, err.Error()}
			}
			return authenticate(r)
		},
		Still:     api.SocketStill(s.users),
		Authorize: func(user, path string) bool { return s.enforcer.Allowed(user, "websocket", path) },
		Config:    s.socketConfig(), Metrics: s.sockets, Logger: s.log,
	}
}

// listenerEndpoint describes an endpoint of users who have little to say.
func (s *service) listenerEndpoint(path string) ws.EndpointOptions {
	o := s.endpoint(path)
	o.Config.MaxMessage = 1 << 20
	return o
}

// clusterEndpoint describes an endpoint of agents and analyzers. With TLS they have to show a certificate, besides what cluster asks for.
func (s *service) clusterEndpoint(path string, cluster *auth.Authenticator) ws.EndpointOptions {
	o, authenticate := s.endpoint(path), api.SocketAuth(cluster, s.peers)
	// A password that changed must not throw out all agents at once, nor a policy that is not known yet keep them out.
	o.Still = nil
	o.Authorize = func(user, path string) bool { return s.peers.Allowed(user, "websocket", path) }
	o.Authenticate = func(r *http.Request) (string, []*http.Cookie, error) {
		if s.certs.Enabled() && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
			return "", nil, handshakeError{http.StatusForbidden, "agents and analyzers have to show a certificate of a known authority here (tls.client_cert, tls.client_key)"}
		}
		return authenticate(r)
	}
	return o
}

// handshakeError is why a WebSocket is refused before anybody is asked for credentials.
type handshakeError struct {
	status int
	text   string
}

func (e handshakeError) Error() string { return e.text }

// Status is that of the answer.
func (e handshakeError) Status() int { return e.status }

// dial is how to connect to analyzers.
func (s *service) dial(username, password string) ws.DialOptions {
	return ws.DialOptions{
		HostID: s.cfg.HostID, ClientType: s.name, Username: username, Password: password, Cookies: cookies(s.cfg),
		TLS: s.certs.Client, Config: s.socketConfig(), Metrics: s.sockets, Logger: s.log,
	}
}

func (s *service) socketConfig() ws.Config {
	c := s.cfg.HTTP.WS
	if c.PingDelay == 0 {
		c.PingDelay = -1 // off; to ws 0 is its default
	}
	return ws.Config{PingDelay: c.PingDelay, PongTimeout: c.PongTimeout, QueueSize: c.QueueSize}
}

// serve makes the HTTP server of the service.
func (s *service) serve(listen config.Address, o api.Options) (err error) {
	o.Host, o.Version, o.Service = s.cfg.HostID, buildVersion(), s.name
	o.Log, o.Registerer, o.Gatherer, o.Graph = s.log, s.registry, s.registry, s.graph
	o.Auth, o.RBAC, o.Tickets = s.users, s.enforcer, s.tickets
	var endpoints []interface{ Reauthorize() int }
	for _, socket := range o.Sockets {
		if e, ok := socket.(interface{ Reauthorize() int }); ok {
			endpoints = append(endpoints, e)
		}
	}
	s.add(func(ctx context.Context) error { return ws.KeepAuthorized(ctx, s.enforcer.Changed, endpoints...) })
	s.listen = listen
	s.server, err = api.New(o)
	return err
}

// run runs the service until ctx ends. The address is taken before anything else starts: a second instance leaves no trace.
func (s *service) run(ctx context.Context) error {
	listener, err := api.Listen(s.listen.String())
	if err != nil {
		return err
	}
	serves := s.certs.Server()
	if serves != nil {
		listener = tls.NewListener(listener, serves)
	}
	s.log.Info("listening", "address", s.listen.String(), "tls", serves != nil, "version", buildVersion())
	s.add(func(ctx context.Context) error { return s.server.Run(ctx, listener) })
	garbage := analyzerGarbage
	if s.name == "agent" {
		garbage = agentGarbage
	}
	s.add(func(ctx context.Context) error { return tendMemory(ctx, garbage) })
	return s.group.run(ctx)
}

// tlsFiles are the certificates of the configuration.
func tlsFiles(cfg *config.Config) tlsconf.Files {
	c := cfg.TLS
	return tlsconf.Files{
		CACert: c.CACert, ServerCert: c.ServerCert, ServerKey: c.ServerKey, ClientCert: c.ClientCert, ClientKey: c.ClientKey,
		RequireClientCert: c.RequireClientCert,
	}
}

// systemState is where services keep their data unless told otherwise.
const systemState = "/var/lib/skydive"

// stateDir returns dir, or its like below the user's own state when dir is the system's and cannot be written: a single node works
// without root. A directory that somebody asked for is never replaced.
func (env *environment) stateDir(dir string, log *slog.Logger) string {
	below, isSystem := strings.CutPrefix(dir, systemState)
	if !isSystem || writable(dir) {
		return dir
	}
	own := env.ownState(below)
	if own == "" {
		return dir
	}
	log.Info("data goes to the user's own directory", "instead_of", dir, "directory", own)
	return own
}

// ownState returns where the user's state of this program is; "" when the environment does not tell, or when it tells what is said of
// users without a home, as in containers.
func (env *environment) ownState(below string) string {
	base, home := env.getenv("XDG_STATE_HOME"), env.getenv("HOME")
	if base == "" && home != "/" {
		base = filepath.Join(home, ".local", "state")
	}
	if !filepath.IsAbs(base) {
		return ""
	}
	return filepath.Join(base, "skydive", below)
}

func writable(dir string) bool {
	if err := os.MkdirAll(dir, 0o700); err != nil { // as etcd wants it
		return false
	}
	probe, err := os.CreateTemp(dir, ".writable-")
	if err != nil {
		return false
	}
	probe.Close()
	os.Remove(probe.Name())
	return true
}

// cookies turns http.cookie into what is sent to analyzers.
func cookies(c *config.Config) []*http.Cookie {
	var list []*http.Cookie
	for name, value := range c.HTTP.Cookie {
		list = append(list, &http.Cookie{Name: name, Value: value})
	}
	return list
}
