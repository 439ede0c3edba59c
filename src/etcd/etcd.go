// Package etcd holds what the API stores: it runs an etcd server inside the analyzer, or speaks to servers elsewhere, and gives
// both the same few operations on keys.
//
// It knows nothing of what the values mean. Elections are not here yet. The embedded server of a single analyzer is meant for
// loopback: it has neither TLS nor authentication, so anything else is warned about.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/v3"
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
	// ClientTimeout ends a request that got no answer; 0 leaves that to the context of the request.
	ClientTimeout time.Duration
	Debug         bool // log the server's informational messages, too
}

// Options are what a Service needs from outside.
type Options struct {
	Log *slog.Logger
	// WhoListens explains an address that is taken, such as "pid 12 (etcd)"; "" when it cannot know. May be nil.
	WhoListens func(addr string) string
}

// ErrNotReady says that etcd did not answer yet, or no more.
var ErrNotReady = errors.New("etcd is not ready")

// Errors of the store; callers that must not import this package find them with errors.Is and the wrapped error of io/fs.
var (
	ErrNotFound = fmt.Errorf("key not found: %w", fs.ErrNotExist)
	ErrExists   = fmt.Errorf("key exists: %w", fs.ErrExist)
)

// State is shown by /api/status.
type State struct {
	Mode    string // "embedded" or "external"
	Address string // listening address, or the servers
	State   string // "starting", "running" or "stopped"
	Reason  string `json:",omitempty"` // why it is not running
	Since   time.Time
}

// Service is the store, and the embedded server when there is one. All methods may be called by several goroutines, at any time.
type Service struct {
	cfg    Config
	login  *url.Userinfo // for cfg.Servers, which no longer hold it; may be nil
	opts   Options
	ready  chan struct{}
	client atomic.Pointer[clientv3.Client] // nil until ready and after the end

	mu    sync.Mutex // guards state
	state State
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
	cfg.Servers = servers
	s := &Service{cfg: cfg, login: login, opts: o, ready: make(chan struct{})}
	if s.opts.WhoListens == nil {
		s.opts.WhoListens = func(string) string { return "" }
	}
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

// Ready is closed once requests are answered.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Status tells how it stands.
func (s *Service) Status() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

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
	if !s.cfg.Embedded {
		return s.external(ctx, log)
	}
	host, _, _ := net.SplitHostPort(s.cfg.Listen)
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		s.opts.Log.Warn("etcd listens beyond loopback without authentication: anybody who reaches it can change captures and policies",
			"address", s.cfg.Listen)
	}
	server, err := s.start(ctx, log, fatal)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	clientFailed := make(chan error, 1)
	running, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	if len(s.cfg.Servers) > 0 {
		clients.Go(func() {
			if err := s.external(running, log); err != nil {
				clientFailed <- err
			}
		})
	} else {
		s.serve(v3client.New(server.Server))
	}
	select {
	case <-ctx.Done():
	case err = <-clientFailed:
	case err = <-server.Err():
	case err = <-fatal:
	case <-server.Server.StopNotify():
		err = errors.New("the embedded etcd server stopped by itself")
	}
	s.client.Store(nil)
	cancel()
	clients.Wait()
	if !s.stop(server) {
		s.opts.Log.Warn("etcd did not stop in time; its log is replayed at the next start")
	}
	return err
}

// external keeps a client of other servers; gRPC reconnects by itself.
func (s *Service) external(ctx context.Context, log *zap.Logger) error {
	password, _ := s.login.Password()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: s.cfg.Servers, Username: s.login.Username(), Password: password, Logger: log, Context: ctx,
		DialKeepAliveTime: 30 * time.Second, DialKeepAliveTimeout: 10 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("use etcd servers %s: %w", strings.Join(s.cfg.Servers, ","), err)
	}
	defer client.Close()
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := client.Get(try, "/")
		cancel()
		if err == nil {
			break
		}
		s.setState("starting", err.Error())
		select {
		case <-ctx.Done():
			return nil
		case <-retry.C:
		}
	}
	s.serve(client)
	<-ctx.Done()
	s.client.Store(nil)
	return nil
}

func (s *Service) serve(c *clientv3.Client) {
	s.client.Store(c)
	s.setState("running", "")
	close(s.ready)
}
