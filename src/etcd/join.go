package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// askLimit is how long another member may take to answer a newcomer.
const askLimit = 2 * time.Second

// joinLimit is how long a newcomer waits for a cluster to take it.
const joinLimit = 30 * time.Second

// remote is a member as the peers of a running cluster describe it.
type remote struct {
	Name       string   `json:"name"` // none until it has started
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"` // none until it has started
}

// join makes a server without data a member of the cluster that its peers run already, if they do: it is announced to them and then
// starts as one more member instead of founding a cluster. A member of the same address whose data is lost is removed first.
func (s *Service) join(ctx context.Context, e *embed.Config, log *zap.Logger) error {
	if logs, err := filepath.Glob(filepath.Join(e.Dir, "member", "wal", "*.wal")); len(s.cfg.Peers) < 2 || err != nil || len(logs) > 0 {
		return err
	}
	me := e.AdvertisePeerUrls[0].String()
	members, err := s.askPeers(ctx, e)
	if err != nil || len(members) == 0 {
		return err
	}
	var addresses []string
	for _, m := range members {
		if slices.Contains(m.PeerURLs, me) {
			if len(m.ClientURLs) == 0 && m.Name == e.Name {
				return nil // a cluster that is just being founded, by us as well
			}
			continue
		}
		addresses = append(addresses, m.ClientURLs...)
	}
	if len(addresses) == 0 {
		return nil // founded, too, but by others first
	}
	list, err := s.announce(ctx, addresses, me, log)
	if err != nil {
		return fmt.Errorf("join the etcd cluster of %s: %w", strings.Join(addresses, ", "), err)
	}
	e.ClusterState = embed.ClusterStateFlagExisting
	e.InitialCluster = strings.Join(list, ",")
	s.opts.Log.Info("etcd joins a cluster that is there already", "members", e.InitialCluster)
	return nil
}

// askPeers returns the members of the running cluster as the first peer that answers knows them; none when nobody runs one.
func (s *Service) askPeers(ctx context.Context, e *embed.Config) ([]remote, error) {
	client, done, err := s.web()
	if err != nil {
		return nil, err
	}
	defer done()
	for _, name := range slices.Sorted(maps.Keys(s.cfg.Peers)) {
		if name == e.Name {
			continue
		}
		members, err := askPeer(ctx, client, s.cfg.Peers[name])
		if err == nil && len(members) > 0 {
			return members, nil
		}
		s.opts.Log.Debug("etcd: a peer runs no cluster", "peer", name, "error", err)
	}
	return nil, ctx.Err()
}

// web returns a client for questions that are asked by HTTP, and what ends its connections.
func (s *Service) web() (client *http.Client, done func(), err error) {
	transport := &http.Transport{}
	if s.cfg.TLS != nil {
		if transport.TLSClientConfig, err = s.cfg.TLS.client(); err != nil {
			return nil, nil, err
		}
	}
	return &http.Client{Timeout: askLimit, Transport: transport}, transport.CloseIdleConnections, nil
}

// explain adds to the silence of servers elsewhere what a plain request to each of them runs into.
func (s *Service) explain(ctx context.Context, err error) error {
	client, done, failed := s.web()
	if failed != nil {
		return failed
	}
	defer done()
	for _, at := range s.cfg.Servers {
		r, failed := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(at, "/")+"/version", nil)
		if failed == nil {
			var reply *http.Response
			if reply, failed = client.Do(r); failed == nil {
				reply.Body.Close()
			}
		}
		if failed != nil {
			err = fmt.Errorf("%w; %w", err, failed)
		}
	}
	return err
}

func askPeer(ctx context.Context, client *http.Client, at string) (members []remote, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(at, "/")+"/members", nil)
	if err != nil {
		return nil, err
	}
	reply, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return nil, errors.New(reply.Status)
	}
	return members, json.NewDecoder(io.LimitReader(reply.Body, 1<<20)).Decode(&members)
}

// announce adds a member to a running cluster and returns all members as etcd wants them at the first start. One that has the same
// address and is not just announced has lost its data, and is replaced.
func (s *Service) announce(ctx context.Context, addresses []string, me string, log *zap.Logger) ([]string, error) {
	client, err := s.dial(ctx, addresses, log)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	known, err := client.MemberList(ctx, clientv3.WithSerializable()) // there is no quorum when a second one is announced already
	if err != nil {
		return nil, err
	}
	now := known.Members
	announced := false
	for _, m := range known.Members {
		if !slices.Contains(m.PeerURLs, me) {
			continue
		}
		if announced = m.Name == "" && len(m.ClientURLs) == 0; announced {
			continue
		}
		s.opts.Log.Warn("etcd: the data of this member is lost; it is replaced by a new one, which gets all from the others", "member", m.Name)
		if err := retry(ctx, func() error { _, err := client.MemberRemove(ctx, m.ID); return err }); err != nil {
			return nil, noQuorum(err)
		}
	}
	if !announced {
		err := retry(ctx, func() error {
			r, err := client.MemberAdd(ctx, []string{me})
			if err == nil {
				now = r.Members
			}
			return err
		})
		if err != nil {
			return nil, noQuorum(err)
		}
	}
	names := map[string]string{} // by URL
	for name, at := range s.cfg.Peers {
		names[at] = name
	}
	var list []string
	for _, m := range now {
		for _, at := range m.PeerURLs {
			name := m.Name
			if name == "" {
				if name = names[at]; name == "" {
					return nil, fmt.Errorf("member %s has not started yet and is not one of etcd.peers", at)
				}
			}
			list = append(list, name+"="+at)
		}
	}
	return list, nil
}

// retry repeats a change of members while the cluster has not settled since the last one, or since it started.
func retry(ctx context.Context, change func() error) error {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		err := change()
		if !errors.Is(err, rpctypes.ErrUnhealthy) && !errors.Is(err, rpctypes.ErrMemberNotEnoughStarted) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-again.C:
		}
	}
}

func noQuorum(err error) error {
	return fmt.Errorf("%w: a cluster takes members only while more than half of those it has are up", err)
}

// dial returns a client of servers.
func (s *Service) dial(ctx context.Context, servers []string, log *zap.Logger) (*clientv3.Client, error) {
	cfg := clientv3.Config{
		Endpoints: servers, Username: s.login.Username(), Logger: log, Context: ctx,
		DialTimeout: dialLimit, DialKeepAliveTime: 30 * time.Second, DialKeepAliveTimeout: 10 * time.Second,
	}
	cfg.Password, _ = s.login.Password()
	if s.cfg.TLS != nil {
		var err error
		if cfg.TLS, err = s.cfg.TLS.client(); err != nil {
			return nil, fmt.Errorf("%w: %w", errNever, err)
		}
	}
	client, err := clientv3.New(cfg)
	switch {
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return nil, fmt.Errorf("use etcd servers %s: %w: %w", strings.Join(servers, ","), errNever, err)
	case err != nil:
		return nil, fmt.Errorf("use etcd servers %s: %w", strings.Join(servers, ","), err)
	}
	return client, nil
}

// move tells the cluster where this member is to be found, when that has changed: a lone one was on loopback.
func (s *Service) move(ctx context.Context, server *embed.Etcd, advertised url.URL) {
	id := server.Server.MemberID()
	m := server.Server.Cluster().Member(id)
	if len(s.cfg.Peers) == 0 || m == nil || slices.Equal(m.PeerURLs, []string{advertised.String()}) {
		return
	}
	was := strings.Join(m.PeerURLs, ",")
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m.PeerURLs = []string{advertised.String()}
	if _, err := server.Server.UpdateMember(ctx, *m); err != nil {
		s.opts.Log.Warn("etcd: the other members still look for this one at its former address", "was", was, "now", advertised.String(), "error", err)
	}
}
