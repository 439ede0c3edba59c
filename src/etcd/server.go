package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// server translates the configuration into etcd's.
func (c Config) server(log *zap.Logger) (*embed.Config, error) {
	client, peer, err := c.urls()
	if err != nil {
		return nil, err
	}
	e := embed.NewConfig()
	e.Name, e.Dir = c.Name, c.DataDir
	if e.Name == "" {
		e.Name = embed.DefaultName
	}
	e.ListenClientUrls, e.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	e.ListenPeerUrls, e.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	e.InitialCluster = e.Name + "=" + peer.String()
	e.TickMs, e.ElectionMs = soloTick, soloElection
	if c.secure() {
		if e.ClientTLSInfo, err = c.TLS.server(); err != nil {
			return nil, err
		}
		e.PeerTLSInfo = e.ClientTLSInfo
	}
	// A page in a browser must not reach it through a name of its own that resolves to this address.
	e.HostWhitelist = map[string]struct{}{client.Hostname(): {}, "localhost": {}, "127.0.0.1": {}, "::1": {}}
	if len(c.Peers) > 0 {
		if _, ok := c.Peers[e.Name]; !ok {
			return nil, fmt.Errorf("etcd.name %q is not one of etcd.peers", e.Name)
		}
		var members []string
		for name, at := range c.Peers {
			u, err := url.Parse(at)
			if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return nil, fmt.Errorf("etcd.peers: %q of %s is not a URL", at, name)
			}
			if u.Scheme != peer.Scheme {
				return nil, fmt.Errorf("etcd.peers: %q of %s is not %s: see tls.ca_cert, tls.server_cert and tls.server_key", at, name, peer.Scheme)
			}
			members = append(members, name+"="+at)
			e.HostWhitelist[u.Hostname()] = struct{}{}
			if name == e.Name {
				if len(c.Peers) > 1 && loopback(peer.Hostname()) && !loopback(u.Hostname()) {
					return nil, fmt.Errorf("etcd.listen %q is for this host only, but etcd.peers sends the other members to %q: listen there, or on 0.0.0.0", c.Listen, at)
				}
				e.AdvertisePeerUrls = []url.URL{*u}
				if ip := net.ParseIP(client.Hostname()); ip != nil && ip.IsUnspecified() {
					// The others could not find it there.
					client.Host = net.JoinHostPort(u.Hostname(), client.Port())
					e.AdvertiseClientUrls = []url.URL{client}
				}
			}
		}
		slices.Sort(members)
		e.InitialCluster = strings.Join(members, ",")
	}
	if len(c.Peers) > 1 {
		e.TickMs, e.ElectionMs = 100, 1000
	}
	e.MaxWalFiles, e.MaxSnapFiles = uint(max(0, c.MaxWALFiles)), uint(max(0, c.MaxSnapFiles))
	// A few hundred small resources: a short log in memory, a small file, no history to speak of.
	e.SnapshotCount, e.SnapshotCatchUpEntries = 1000, 100
	if e.QuotaBackendBytes = c.quota; c.quota == 0 {
		e.QuotaBackendBytes = 256 << 20
	}
	e.AutoCompactionMode, e.AutoCompactionRetention = embed.CompactorModeRevision, "1000"
	// The log is synced with each write; this only delays folding it into the database.
	e.BackendBatchInterval = 5 * time.Second
	e.EnableGRPCGateway = false
	// No page of another origin may read its answers; etcd lets all when there are no names here.
	e.CORS = map[string]struct{}{"http://none.invalid": {}}
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	return e, nil
}

func (c Config) urls() (client, peer url.URL, err error) {
	host, text, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return client, peer, fmt.Errorf("etcd.listen %q: %w", c.Listen, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || port == math.MaxUint16 {
		return client, peer, fmt.Errorf("etcd.listen %q: want a port from 1 to 65534, the next one is used too", c.Listen)
	}
	scheme := "http"
	if c.secure() {
		scheme = "https"
	}
	at := func(port uint64) url.URL {
		return url.URL{Scheme: scheme, Host: net.JoinHostPort(host, strconv.FormatUint(port, 10))}
	}
	return at(port), at(port + 1), nil
}

// aloneMark is a file in the data directory with which an operator makes the only member that is left a cluster of its own.
const aloneMark = "force-new-cluster"

// leaderLimit is how long a start may go without a leader before that is logged.
const leaderLimit = 10 * time.Second

// start returns a server that answers requests, or an error that says what is in its way.
func (s *Service) start(ctx context.Context, log *zap.Logger, fatal <-chan error) (*embed.Etcd, error) {
	copied := s.cfg
	copied.TLS = s.files()
	cfg, err := copied.server(log)
	if err != nil {
		return nil, err
	}
	cfg.UserHandlers = map[string]http.Handler{}
	newKeys(s, ctx.Done()).mount(cfg.UserHandlers)
	if err := claim(s.cfg.DataDir); err != nil {
		return nil, err
	}
	failed := func(err error) (*embed.Etcd, error) {
		if errors.Is(err, syscall.EADDRINUSE) {
			err = s.taken(cfg, err)
		}
		return nil, s.advise(fmt.Errorf("start embedded etcd in %s: %w", s.cfg.DataDir, err))
	}
	applied, err := inspect(s.cfg.DataDir)
	if err != nil {
		return failed(err)
	}
	if err := s.join(ctx, cfg, log); err != nil {
		return nil, err
	}
	alone := filepath.Join(s.cfg.DataDir, aloneMark)
	_, err = os.Stat(alone)
	cfg.ForceNewCluster = err == nil
	type result struct {
		server *embed.Etcd
		err    error
	}
	started := make(chan result, 1) // stays empty after last words: etcd waits for the goroutine that spoke them
	go func() {
		defer func() {
			if p := recover(); p != nil { // it trusts its files too much
				started <- result{nil, fmt.Errorf("etcd gave up: %v", p)}
			}
		}()
		if err := s.readdress(log); err != nil {
			started <- result{nil, err}
			return
		}
		server, err := embed.StartEtcd(cfg)
		started <- result{server, err}
	}()
	var server *embed.Etcd
	select {
	case r := <-started:
		if r.err != nil {
			return failed(r.err)
		}
		server = r.server
	case err := <-fatal:
		return failed(err)
	}
	if len(s.cfg.Peers) <= 1 {
		hastening, cancel := context.WithCancel(ctx)
		defer cancel()
		go hasten(hastening, server) // not waited for: in a server that is broken it may never get its answer
	}
	look := time.NewTicker(time.Second)
	defer look.Stop()
	begun, said, wasCut := time.Now(), false, false
	for {
		select {
		case <-server.Server.ReadyNotify():
			s.move(ctx, server, cfg.AdvertisePeerUrls[0])
			if cfg.ForceNewCluster {
				if err := os.Remove(alone); err != nil {
					s.opts.Log.Warn("etcd: remove it, or this member leaves its cluster at each start", "error", err)
				}
			}
			return server, nil
		case <-look.C:
			if server.Server.Leader() == 0 {
				now := local(server)
				why := cmp.Or(s.cfg.stale(now.Members), noLeader(now)+"; to go on with this member alone, for good, create "+alone+" and start it again")
				s.setState("starting", why)
				if !said && time.Since(begun) > leaderLimit {
					said = true
					s.opts.Log.Warn("etcd: " + why)
				}
			}
			if short := cut(server, applied); !short || !wasCut {
				wasCut = short
				continue
			}
			err = fmt.Errorf("the write-ahead log ends at change %d, but the database has %d: the log is damaged", server.Server.CommittedIndex(), applied)
		case <-ctx.Done():
			err = ctx.Err()
		case err = <-server.Err():
			err = s.stopped(err)
		case err = <-fatal:
		case <-server.Server.StopNotify():
			err = s.stopped(errors.New("it stopped by itself"))
		}
		s.stop(server)
		return failed(err)
	}
}

// stopped adds to why a server stopped what it does not say.
func (s *Service) stopped(err error) error {
	if err == nil || len(s.cfg.Peers) < 2 {
		return err
	}
	return fmt.Errorf("%w: when the other members have removed this one, it stops, and its data is of no use", err)
}

// stopGrace is how long clients of the embedded server may finish; a service has 2 s to end.
const stopGrace = 1200 * time.Millisecond

// stop ends the server; false when it had to be cut off.
func (s *Service) stop(server *embed.Etcd) bool {
	closed := make(chan struct{})
	go func() { defer close(closed); server.Close() }()
	select {
	case <-closed:
		return true
	case <-time.After(stopGrace):
	}
	// Streams of remote clients hold up the graceful way; cut the server off under them.
	go server.Server.HardStop()
	select {
	case <-closed:
		return true
	case <-time.After(stopGrace / 4):
		return false
	}
}

// claim makes the data directory and makes sure that it can be written and is nobody else's: etcd itself would wait for the lock
// for ever.
func claim(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make etcd data directory: %w", err)
	}
	probe, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("write to etcd data directory %s: %w", dir, errors.Unwrap(err))
	}
	probe.Close()
	os.Remove(probe.Name())
	name := filepath.Join(dir, "member", "snap", "db")
	db, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open etcd data: %w", err)
	}
	defer db.Close() // drops the lock, too
	if unix.Flock(int(db.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return fmt.Errorf("etcd data directory %s is in use by %s", dir, lockHolder(db))
	}
	return nil
}

// lockHolder names the process that holds the lock of a file, from /proc/locks.
func lockHolder(f *os.File) string {
	const unknown = "another process"
	var st unix.Stat_t
	locks, err := os.ReadFile("/proc/locks")
	if err != nil || unix.Fstat(int(f.Fd()), &st) != nil {
		return unknown
	}
	id := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF
		if f := strings.Fields(line); len(f) > 5 && f[5] == id {
			name, _ := os.ReadFile(filepath.Join("/proc", f[4], "comm"))
			return strings.TrimSpace(fmt.Sprintf("pid %s (%s)", f[4], strings.TrimSpace(string(name))))
		}
	}
	return unknown
}

// taken says which of the two addresses is in use, and by whom.
func (s *Service) taken(cfg *embed.Config, err error) error {
	for _, u := range []url.URL{cfg.ListenClientUrls[0], cfg.ListenPeerUrls[0]} {
		l, failed := net.Listen("tcp", u.Host)
		if failed == nil {
			l.Close()
			continue
		}
		if who := s.opts.WhoListens(u.Host); who != "" {
			return fmt.Errorf("%s is in use by %s: %w", u.Host, who, syscall.EADDRINUSE)
		}
		return fmt.Errorf("%s is in use: %w", u.Host, syscall.EADDRINUSE)
	}
	return err
}
