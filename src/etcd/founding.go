package etcd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// Members that are started without data must not found a cluster while one that has data is only away: there would be two. So each of them
// answers, on the port that etcd gets later, that it has none, and founds a cluster only when all of its peers say the same at one time. The
// first of them then starts etcd, and the others find their own names in the list that it shows, which no member has that was added later.

// waitingHeader is in the answers of a member that has no data; its value is the cluster that it would found.
const waitingHeader = "X-Skydive-Etcd-Waiting"

const (
	askLimit  = 2 * time.Second        // for a peer to answer
	askOften  = 200 * time.Millisecond // between questions, at first
	askRarely = time.Second
	patience  = 5 * time.Second // until it is said that it waits, and questions become rare
)

// remote is a member as the peers of a running cluster describe it.
type remote struct {
	Name       string   `json:"name"` // none until it has started
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"` // none until it has started
}

// peerAnswer is what a peer says about itself.
type peerAnswer struct {
	cluster string // the ID of the one it runs
	members []remote
	waiting string // the cluster that it would found, as it has no data
	err     error
}

// join returns once a server without data may start: as a member of the cluster that its peers run, which it is announced to, or as one of
// those who found one together. A member of the same address whose data is lost is removed first.
func (s *Service) join(ctx context.Context, e *embed.Config, zlog *zap.Logger) error {
	if logs, err := filepath.Glob(filepath.Join(e.Dir, "member", "wal", "*.wal")); len(s.cfg.Peers) < 2 || err != nil || len(logs) > 0 {
		return err
	}
	stop, err := answerWaiting(ctx, e)
	if errors.Is(err, syscall.EADDRINUSE) {
		err = s.taken(e, err)
	}
	if err != nil {
		return fmt.Errorf("start embedded etcd: %w", err)
	}
	defer stop()
	client, done, err := s.web()
	if err != nil {
		return err
	}
	defer done()
	begun, again, often, said := time.Now(), time.NewTicker(askOften), true, ""
	defer again.Stop()
	for {
		why, who, err := s.tryJoin(ctx, e, client, zlog)
		if err != nil || why == "" {
			return err
		}
		s.setState("starting", why)
		if time.Since(begun) > patience {
			if often {
				often = false
				again.Reset(askRarely)
			}
			if said != who {
				said = who
				s.opts.Log.Warn("etcd waits: " + why)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
}

// tryJoin asks all peers once. Unless the server may start now it tells why not, and because of whom.
func (s *Service) tryJoin(ctx context.Context, e *embed.Config, client *http.Client, zlog *zap.Logger) (why, who string, _ error) {
	answers := s.askPeers(ctx, e.Name, client)
	if ctx.Err() != nil {
		return "", "", ctx.Err()
	}
	var silent, reasons, others, running []string
	clusters := map[string][]remote{}
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		at := fmt.Sprintf("%s at %s", name, s.cfg.Peers[name])
		switch a := answers[name]; {
		case a.err != nil:
			silent, reasons = append(silent, name), append(reasons, fmt.Sprintf("%s (%v)", at, a.err))
		case a.waiting == "":
			clusters[a.cluster] = a.members
			running = append(running, at)
		case a.waiting != e.InitialCluster:
			others = append(others, fmt.Sprintf("etcd.peers of %s is %s, but here it is %s", at, a.waiting, e.InitialCluster))
		}
	}
	switch {
	case len(clusters) > 1:
		text := strings.Join(running, " and ")
		return text + " run clusters of their own; the status of each says which of their data directories is to be moved away", text, nil
	case len(clusters) == 1:
		for _, members := range clusters {
			why, err := s.enter(ctx, e, members, zlog)
			return why, strings.Join(running, " "), err
		}
	case len(others) > 0:
		text := strings.Join(others, "; ")
		return text + ": make them the same on all analyzers", text, nil
	case len(silent) > 0:
		return "no data here, and no answer from " + strings.Join(reasons, ", ") + ", which may have some: a cluster is founded once all of etcd.peers are up and empty; " +
			"one that is gone for good must be taken out of etcd.peers on all analyzers", strings.Join(silent, " "), nil
	}
	return "", "", nil
}

// enter makes a server a member of a running cluster, unless it tells why that cannot be yet.
func (s *Service) enter(ctx context.Context, e *embed.Config, members []remote, zlog *zap.Logger) (why string, _ error) {
	me := e.AdvertisePeerUrls[0]
	var addresses, list []string
	founder := false
	for _, m := range members {
		for _, at := range m.PeerURLs {
			list = append(list, m.Name+"="+at)
			if !same(me, at) {
				return fmt.Sprintf("member %s of the cluster of etcd.peers has not said yet that it is no longer at %s", m.Name, at), nil
			}
		}
		if slices.Contains(m.PeerURLs, me.String()) {
			founder = len(m.ClientURLs) == 0 && m.Name == e.Name
			continue
		}
		for _, at := range m.ClientURLs {
			if same(me, at) {
				addresses = append(addresses, at)
			}
		}
	}
	slices.Sort(list)
	if founder {
		if now := strings.Join(list, ","); now != e.InitialCluster {
			return fmt.Sprintf("a cluster of %s was founded, but etcd.peers is %s: make them the same on all analyzers", now, e.InitialCluster), nil
		}
		return "", nil // it is just being founded, by us as well
	}
	if len(addresses) == 0 {
		return "the cluster of etcd.peers does not say yet where it takes requests", nil
	}
	list, err := s.announce(ctx, addresses, me.String(), zlog)
	if errors.Is(err, errNever) || ctx.Err() != nil {
		return "", err
	}
	if err != nil {
		return fmt.Sprintf("join the etcd cluster of %s: %v", strings.Join(addresses, ", "), err), nil
	}
	e.ClusterState = embed.ClusterStateFlagExisting
	e.InitialCluster = strings.Join(list, ",")
	s.opts.Log.Info("etcd joins a cluster that is there already", "members", e.InitialCluster)
	return "", nil
}

// same tells whether an address of a member is of the kind that this one has: a lone member was on loopback, and may have had no TLS.
func same(me url.URL, at string) bool {
	u, err := url.Parse(at)
	return err == nil && u.Scheme == me.Scheme && (loopback(me.Hostname()) || !loopback(u.Hostname()))
}

// answerWaiting tells whoever asks at the port for peers that there is no data here, until stop is called.
func answerWaiting(ctx context.Context, e *embed.Config) (stop func(), err error) {
	at := e.ListenPeerUrls[0]
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", at.Host)
	if err != nil {
		return nil, err
	}
	if at.Scheme == "https" {
		secure, err := e.PeerTLSInfo.ServerConfig()
		if err != nil {
			l.Close()
			return nil, err
		}
		secure.NextProtos = []string{"http/1.1"}
		l = tls.NewListener(l, secure)
	}
	founding := e.InitialCluster
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(waitingHeader, founding)
			http.Error(w, "no data here: waiting for the other members", http.StatusServiceUnavailable)
		}),
		ReadTimeout: askLimit, WriteTimeout: askLimit, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // peers in clear text, which say so themselves
	}
	server.SetKeepAlivesEnabled(false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // when it is closed; if it fails before that, the others get no answer and wait
	}()
	return func() { _ = server.Close(); <-done }, nil
}

// askPeers asks all other members at the same time.
func (s *Service) askPeers(ctx context.Context, me string, client *http.Client) map[string]peerAnswer {
	answers := map[string]peerAnswer{}
	var guard sync.Mutex
	var asking sync.WaitGroup
	for name, at := range s.cfg.Peers {
		if name != me {
			asking.Go(func() {
				a := askPeer(ctx, client, at)
				guard.Lock()
				defer guard.Unlock()
				answers[name] = a
			})
		}
	}
	asking.Wait()
	return answers
}

// askPeer asks a member which cluster it runs.
func askPeer(ctx context.Context, client *http.Client, at string) (a peerAnswer) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(at, "/")+"/members", nil)
	if err != nil {
		return peerAnswer{err: err}
	}
	reply, err := client.Do(r)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the address is known
		}
		return peerAnswer{err: err}
	}
	defer reply.Body.Close()
	if a.waiting = reply.Header.Get(waitingHeader); a.waiting != "" {
		return a
	}
	if reply.StatusCode != http.StatusOK {
		return peerAnswer{err: errors.New(reply.Status)}
	}
	a.cluster = reply.Header.Get("X-Etcd-Cluster-ID")
	if err := json.NewDecoder(io.LimitReader(reply.Body, 1<<20)).Decode(&a.members); err != nil {
		return peerAnswer{err: err}
	}
	if len(a.members) == 0 {
		return peerAnswer{err: errors.New("a cluster without members")}
	}
	return a
}
