package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// joinLimit is how long a newcomer waits for a cluster to take it, before it looks again: of two that come at the same time one is
// forgotten, and gets no answer.
const joinLimit = 5 * time.Second

// web returns a client for questions that are asked by HTTP, and what ends its connections.
func (s *Service) web() (client *http.Client, done func(), err error) {
	transport := &http.Transport{DisableKeepAlives: true} // a member that waits hands its port over to etcd
	if files := s.files(); files != nil {
		if transport.TLSClientConfig, err = files.client(); err != nil {
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
		if _, err := client.MemberRemove(ctx, m.ID); err != nil {
			return nil, noQuorum(err)
		}
		s.opts.Log.Warn("etcd: the data of this member is lost; it is replaced by a new one, which gets all from the others", "member", m.Name)
	}
	if !announced {
		r, err := client.MemberAdd(ctx, []string{me})
		if err != nil {
			return nil, noQuorum(err)
		}
		now = r.Members
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

func noQuorum(err error) error {
	return fmt.Errorf("%w: a cluster takes members, one after the other, only while more than half of those it has are up", err)
}

// dial returns a client of servers.
func (s *Service) dial(ctx context.Context, servers []string, log *zap.Logger) (*clientv3.Client, error) {
	cfg := clientv3.Config{
		Endpoints: servers, Username: s.login.Username(), Logger: log, Context: ctx,
		DialTimeout: dialLimit, DialKeepAliveTime: 30 * time.Second, DialKeepAliveTimeout: 10 * time.Second,
	}
	cfg.Password, _ = s.login.Password()
	if files := s.files(); files != nil {
		var err error
		if cfg.TLS, err = files.client(); err != nil {
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
