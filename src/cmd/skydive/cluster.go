package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"

	"skydive/src/analyzer"
	"skydive/src/api"
	"skydive/src/auth"
	"skydive/src/config"
	"skydive/src/etcd"
	"skydive/src/pubsub"
	"skydive/src/query"
)

// policyKey is where etcd keeps the policy that all analyzers share.
const policyKey = "/casbinPolicy"

// newStore makes the analyzer's etcd.
func newStore(env *environment, s *service, cluster *auth.Authenticator) (*etcd.Service, error) {
	cfg := s.cfg
	o := etcd.Config{
		Embedded: cfg.Etcd.Embedded, Listen: cfg.Etcd.Listen.String(), Servers: etcdServers(cfg), Name: cfg.Etcd.Name,
		DataDir: env.stateDir(cfg.Etcd.DataDir, s.log), Peers: cfg.Etcd.Peers,
		MaxWALFiles: cfg.Etcd.MaxWALFiles, MaxSnapFiles: cfg.Etcd.MaxSnapFiles, ClientTimeout: cfg.Etcd.ClientTimeout, Debug: cfg.Etcd.Debug,
	}
	if c := cfg.TLS; s.certs.Enabled() {
		o.TLS = &etcd.TLS{CAFile: c.CACert, CertFile: c.ServerCert, KeyFile: c.ServerKey, ClientCertFile: c.ClientCert, ClientKeyFile: c.ClientKey}
	}
	return etcd.New(o, etcd.Options{
		Log: s.log, WhoListens: api.WhoListens,
		Authorized: mayChangeEtcd(s, cluster),
		Check: func(key string, value []byte) error {
			if key != policyKey {
				return nil
			}
			_, err := s.enforcer.TryPolicy(string(value), "", "", "")
			return err
		},
	})
}

// mayChangeEtcd tells whether who sent a request has credentials of the cluster, and may change the policy.
func mayChangeEtcd(s *service, cluster *auth.Authenticator) func(*http.Request) bool {
	return func(r *http.Request) bool {
		if cluster.Open() {
			return false
		}
		who, rights := cluster, s.peers
		if sameUsers(s.cfg) { // some of whom may do little
			who, rights = s.users, s.enforcer
		}
		user, err := who.Authenticate(r)
		return err == nil && rights.Allowed(user, "rbac", "write")
	}
}

// sameUsers tells whether agents and analyzers are known by the same section of auth as users, who can then pass for them.
func sameUsers(cfg *config.Config) bool {
	a := cfg.Analyzer.Auth
	return strings.EqualFold(a.API.Backend, a.Cluster.Backend)
}

// etcdServers returns the URLs of the etcd servers to use; none means the embedded one. Without that, and without URLs, they are where
// the analyzers are.
func etcdServers(cfg *config.Config) []string {
	servers := cfg.Etcd.Servers
	if cfg.Etcd.Embedded || len(servers) > 0 {
		return servers
	}
	scheme := "http://"
	if cfg.TLS.ClientCert != "" || cfg.TLS.ServerCert != "" {
		scheme = "https://"
	}
	for _, a := range cfg.AnalyzerAddresses() {
		a.Port = 12379
		servers = append(servers, scheme+a.String())
	}
	return servers
}

// policy is the policy in etcd, for the API.
type policy struct{ store *etcd.Service }

// Get returns it; fs.ErrNotExist when there is none.
func (p policy) Get(ctx context.Context) (string, error) {
	text, _, err := p.store.Get(ctx, policyKey)
	return string(text), err
}

// Set replaces it.
func (p policy) Set(ctx context.Context, csv string) error {
	return p.store.Put(ctx, policyKey, []byte(csv))
}

// Delete drops it.
func (p policy) Delete(ctx context.Context) error { return p.store.Delete(ctx, policyKey) }

// followPolicy keeps the rights as the policy in etcd says.
func (s *service) followPolicy(store *etcd.Service) func(context.Context) error {
	follow := s.enforcer.Follow(policyKey, s.log)
	return func(ctx context.Context) error {
		return store.Watch(ctx, policyKey, func(e etcd.Event) { follow(e.Key, e.Value, e.Synced) })
	}
}

// shared tells whether other analyzers may use the same etcd.
func shared(cfg *config.Config) bool {
	return !cfg.Etcd.Embedded || len(cfg.Etcd.Servers) > 0 || len(cfg.Etcd.Peers) > 1
}

// elect stands for an election among the analyzers of one etcd. The only one of its kind always leads.
func (s *service) elect(store *etcd.Service, name string) (leads func() bool) {
	if !shared(s.cfg) {
		return func() bool { return true }
	}
	var leading atomic.Bool
	s.add(func(ctx context.Context) error {
		err := store.Elect(ctx, name, s.cfg.HostID, leading.Store)
		leading.Store(false)
		if ctx.Err() != nil || errors.Is(err, etcd.ErrNotReady) {
			return nil // the end; what ended etcd says why
		}
		return err
	})
	return leading.Load
}

// newReplicas makes what keeps the graph equal to those of the other analyzers, and lets all of them ask each other's archive.
func (s *service) newReplicas(cluster *auth.Authenticator, agents *analyzer.Agents, kept *archives, publishers ...*pubsub.Publisher) *analyzer.Replicas {
	var addrs []string
	for _, a := range s.cfg.Analyzers {
		addrs = append(addrs, a.String())
	}
	o := analyzer.ReplicasOptions{
		Graph: s.graph, HostID: s.cfg.HostID, Addrs: addrs, Endpoint: s.clusterEndpoint("/ws/replication", cluster), Agents: agents, Publishers: publishers,
		Dial: s.dial(s.cfg.Analyzer.Auth.Cluster.Username, s.cfg.Analyzer.Auth.Cluster.Password), Logger: s.log, Registerer: s.registry,
	}
	var storage query.Storage
	if kept.flows != nil { // an interface that holds a nil pointer is not nil
		storage = kept.flows
	}
	o.Answer = analyzer.NewArchiveAnswers(storage, s.log, s.registry).Answer
	r := analyzer.NewReplicas(o)
	if len(addrs) > 1 {
		kept.host = s.cfg.HostID
	}
	if storage != nil && len(addrs) > 0 {
		kept.all = analyzer.NewArchivedFlows(analyzer.ArchivedFlowsOptions{HostID: s.cfg.HostID, Local: storage, Peers: r, Logger: s.log, Registerer: s.registry})
	}
	return r
}

// newPeering makes what exchanges parts of the graph with other clusters.
func (s *service) newPeering(store *etcd.Service) (*pubsub.Peering, error) {
	peers, err := s.cfg.Analyzer.ClusterPeers()
	if err != nil {
		return nil, err
	}
	o := pubsub.PeeringOptions{Cluster: s.cfg.Analyzer.Cluster, HostID: s.cfg.HostID, Graph: s.graph, Dial: s.dial("", ""), Logger: s.log, Registerer: s.registry}
	if shared(s.cfg) {
		o.Elect = func(ctx context.Context, election string, lead func(bool)) error {
			return store.Elect(ctx, election, s.cfg.HostID, lead)
		}
	}
	for _, p := range peers {
		c := pubsub.PeerCluster{Name: p.Name, Subscribe: p.Subscribe, Publish: p.Publish, Username: p.Username, Password: p.Password}
		for _, e := range p.Endpoints {
			c.Endpoints = append(c.Endpoints, e.String())
		}
		o.Peers = append(o.Peers, c)
	}
	return pubsub.NewPeering(o)
}
