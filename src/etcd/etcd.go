// Package etcd holds what the API stores: it runs an etcd server inside the analyzer, or speaks to servers elsewhere, and gives
// both the same few operations on keys.
//
// It knows nothing of what the values mean. It holds elections among the processes that use the same etcd. The embedded server of a
// single analyzer is meant for loopback, where whoever is on the host may use it; beyond that it uses mutual TLS, and clear text is
// warned about.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// Config says where etcd is. With Embedded a server runs in this process on Listen; its client is the process itself unless Servers
// names others.
type Config struct {
	Embedded     bool
	Listen       string            // host:port of clients; the next port is for peers
	Servers      []string          // URLs of the servers to use instead of the embedded one; user:password@ in them is used
	Name         string            // of the embedded server; a key of Peers when there are any
	DataDir      string            // of the embedded server; made with mode 0700
	Peers        map[string]string // name → peer URL of every embedded server of a cluster; empty for a single one
	MaxWALFiles  int               // kept on disk; 0 keeps all
	MaxSnapFiles int
	TLS          *TLS // nil: clear text, but for https URLs of servers with a certificate that this host trusts
	// ClientTimeout ends a request that got no answer; 0 leaves that to the context of the request.
	ClientTimeout time.Duration
	Debug         bool // log the server's informational messages, too
	quota         int64
}

// Options are what a Service needs from outside.
type Options struct {
	Log *slog.Logger
	// WhoListens explains an address that is taken, such as "pid 12 (etcd)"; "" when it cannot know. May be nil.
	WhoListens func(addr string) string
	// Authorized tells whether a request for /v2/keys that comes from another host, without a client certificate, may be answered. May
	// be nil: then it may not.
	Authorized func(*http.Request) bool
	// Check says what is wrong with a value that somebody is about to store through /v2/keys. May be nil.
	Check func(key string, value []byte) error
}

// ErrNotReady says that etcd did not answer yet, or no more.
var ErrNotReady = errors.New("etcd is not ready")

// Errors of the store; callers that must not import this package find them with errors.Is and the wrapped error of io/fs.
var (
	ErrNotFound = fmt.Errorf("key not found: %w", fs.ErrNotExist)
	ErrExists   = fmt.Errorf("key exists: %w", fs.ErrExist)
	ErrFull     = errors.New("etcd is full and takes no more: delete what is not needed, or see its quota")
)

// State is shown by /api/status.
type State struct {
	Mode    string // "embedded" or "external"
	Address string // listening address, or the servers
	State   string // "starting", "running", "failing" (it answers no more) or "stopped"
	Reason  string `json:",omitempty"` // why it is not running, or answers no requests
	Since   time.Time
	Cluster Cluster
}

// Service is the store, and the embedded server when there is one. All methods may be called by several goroutines, at any time.
type Service struct {
	cfg    Config
	login  *url.Userinfo // for cfg.Servers, which no longer hold it; may be nil
	opts   Options
	ready  chan struct{}
	client atomic.Pointer[clientv3.Client] // nil until ready and after the end
	terms  *terms
	notes  []string // about the configuration, for the log
	tls    *private // copies of the files of cfg.TLS, which Run makes; may be nil

	server atomic.Pointer[embed.Etcd] // nil when there is none that runs
	full   chan struct{}              // a value was refused for want of room; holds one

	mu    sync.Mutex // guards state
	state State

	lost    atomic.Pointer[time.Time] // since when there is no contact; nil while there is
	trouble atomic.Pointer[string]    // what is wrong with the members, found by look; nil is nothing

	asking sync.Mutex // guards seen
	seen   seen
}

// New checks the configuration; Run does the work.
func New(cfg Config, o Options) (*Service, error) {
	// Status and log show the servers: a password must not be among them.
	servers := slices.Clone(cfg.Servers)
	var login *url.Userinfo
	for i, server := range servers {
		if u, err := url.Parse(server); err == nil && u.User != nil {
			login, u.User = u.User, nil
			servers[i] = u.String()
		}
	}
	cfg.Servers, cfg.Peers = servers, maps.Clone(cfg.Peers)
	s := &Service{cfg: cfg, login: login, opts: o, ready: make(chan struct{}), terms: newTerms(), full: make(chan struct{}, 1)}
	if s.opts.WhoListens == nil {
		s.opts.WhoListens = func(string) string { return "" }
	}
	s.encrypt()
	cfg = s.cfg
	switch {
	case !cfg.Embedded && len(cfg.Servers) == 0:
		return nil, errors.New("etcd.servers is empty and etcd.embedded is false: no etcd to use")
	case cfg.Embedded:
		if _, err := cfg.server(zap.NewNop()); err != nil {
			return nil, err
		}
		if cfg.DataDir == "" {
			return nil, errors.New("etcd.data_dir is empty")
		}
	}
	s.state = State{Mode: "external", Address: strings.Join(cfg.Servers, ","), State: "starting", Since: time.Now()}
	if cfg.Embedded {
		s.state.Mode, s.state.Address = "embedded", cfg.Listen
	}
	return s, nil
}

// encrypt makes all URLs of a cluster that uses TLS https ones.
func (s *Service) encrypt() {
	note := func(key, url string) {
		s.notes = append(s.notes, fmt.Sprintf("%s: %s is taken as https, because TLS is configured", key, url))
	}
	var changed bool
	if s.cfg.secure() {
		for _, name := range slices.Sorted(maps.Keys(s.cfg.Peers)) {
			at := s.cfg.Peers[name]
			if s.cfg.Peers[name], changed = encrypt(at); changed {
				note("etcd.peers", at)
			}
		}
	}
	for i, at := range s.cfg.Servers {
		secure, changed := encrypt(at)
		switch {
		case changed && s.cfg.secure(): // the embedded servers of this cluster
			s.cfg.Servers[i] = secure
			note("etcd.servers", at)
		case changed && s.cfg.TLS != nil && !s.cfg.Embedded:
			s.notes = append(s.notes, "etcd.servers: "+at+" is used in clear text, although TLS is configured; say https to change that")
		}
	}
}

// Ready is closed once requests are answered.
func (s *Service) Ready() <-chan struct{} { return s.ready }

func (s *Service) setState(state, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.State != state || s.state.Reason != reason {
		s.state.State, s.state.Reason, s.state.Since = state, reason, time.Now()
	}
}

// Run serves until ctx ends. An error says why etcd could not be had: a port that is taken, a directory that is locked or not
// writable, a server that died.
func (s *Service) Run(ctx context.Context) (err error) {
	defer func() {
		s.client.Store(nil)
		reason := "shut down"
		if err != nil {
			reason = err.Error()
		}
		s.setState("stopped", reason)
	}()
	log, fatal := newLog(s.opts.Log.Handler(), s.cfg.Debug, ctx.Done())
	for _, note := range s.notes {
		s.opts.Log.Warn("etcd: " + note)
	}
	defer s.copyFiles(ctx)()
	if !s.cfg.Embedded {
		return s.external(ctx, log)
	}
	if !s.cfg.onLoopback() && !s.cfg.secure() {
		s.opts.Log.Warn("etcd listens beyond loopback without TLS: anybody who reaches it can change captures and policies",
			"address", s.cfg.Listen)
	}
	server, err := s.start(ctx, log, fatal)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	s.server.Store(server)
	defer s.server.Store(nil)
	defer s.loopbackKeys(ctx)()
	clientFailed := make(chan error, 1)
	running, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	clients.Go(func() { s.look(running, server) })
	if len(s.cfg.Servers) > 0 {
		clients.Go(func() {
			if err := s.external(running, log); err != nil {
				clientFailed <- err
			}
		})
	} else {
		clients.Go(func() { s.serve(running, v3client.New(server.Server)) })
	}
	select {
	case <-ctx.Done():
	case err = <-clientFailed:
	case err = <-server.Err():
	case err = <-fatal:
	case <-server.Server.StopNotify():
		err = s.stopped(errors.New("the embedded etcd server stopped by itself"))
	}
	cancel()
	clients.Wait()
	if !s.stop(server) {
		s.opts.Log.Warn("etcd did not stop in time; its log is replayed at the next start")
	}
	return err
}

// dialLimit is how long servers elsewhere may take to answer the first request, before there is another.
const dialLimit = 10 * time.Second

// errNever is in errors that do not go away by themselves.
var errNever = errors.New("see etcd.servers and tls")

// external keeps a client of other servers; gRPC reconnects by itself.
func (s *Service) external(ctx context.Context, log *zap.Logger) error {
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	var client *clientv3.Client
	for {
		var err error
		if client == nil {
			if client, err = s.dial(ctx, s.cfg.Servers, log); errors.Is(err, errNever) {
				return err
			}
		}
		if err == nil {
			try, cancel := context.WithTimeout(ctx, dialLimit)
			_, err = client.Get(try, "/")
			cancel()
		}
		if err == nil {
			break
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = s.explain(ctx, err)
		}
		s.setState("starting", err.Error())
		select {
		case <-ctx.Done():
			if client != nil {
				client.Close()
			}
			return nil
		case <-retry.C:
		}
	}
	defer client.Close()
	s.serve(ctx, client)
	return nil
}

// serve lets everybody use a client until ctx ends.
func (s *Service) serve(ctx context.Context, c *clientv3.Client) {
	s.client.Store(c)
	s.setState("running", "")
	close(s.ready)
	var expiring sync.WaitGroup
	expiring.Go(func() { s.expire(ctx) })
	s.keepTerm(ctx, c)
	expiring.Wait()
	s.client.Store(nil)
}
