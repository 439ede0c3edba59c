package analyzer

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/pubsub"
	"skydive/src/wire"
	"skydive/src/ws"
)

var fastReplicas = replicaTiming{
	tick: 20 * time.Millisecond, claims: 50 * time.Millisecond, full: 300 * time.Millisecond,
	repair: 2 * time.Second, park: 2 * time.Second, plain: 300 * time.Millisecond,
}

// replica is an analyzer process of a cluster.
type replica struct {
	t          testing.TB
	id, addr   string
	g          *graph.Graph
	agents     *Agents
	publisher  *pubsub.Publisher
	replicas   *Replicas
	stop, kill func()
}

// replicaSetup is what the processes of a cluster have in common.
type replicaSetup struct {
	addrs  func(id string) []string // where it dials
	expiry time.Duration
	log    *slog.Logger
	wall   func() time.Time
	config ws.Config // of all connections; quick by default
	answer func(context.Context, *wire.Message) *wire.Message
	kept   map[string]*history // by id; those of others are not archived
}

func testLog() *slog.Logger {
	if os.Getenv("REPLICA_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// newReplica starts a process that listens on an address.
func newReplica(t testing.TB, id, addr string, o replicaSetup) *replica {
	t.Helper()
	log := testLog().With("at", id)
	config := cmp.Or(o.config, quick)
	endpoint := func(path string) ws.EndpointOptions {
		return ws.EndpointOptions{
			Path: path, HostID: id, ServiceType: "analyzer", Config: config, Metrics: ws.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler),
			Authenticate: func(*http.Request) (string, []*http.Cookie, error) { return "admin", nil, nil },
			Authorize:    func(string, string) bool { return true },
		}
	}
	s := &replica{t: t, id: id, addr: addr, g: graph.New(graph.Options{})}
	metrics := pubsub.NewMetrics(nil)
	s.agents = NewAgents(AgentsOptions{Endpoint: endpoint("/ws/agent/topology"), Graph: s.g, Metrics: metrics, Expiry: o.expiry})
	s.publisher = pubsub.NewPublisher(pubsub.PublisherOptions{Endpoint: endpoint("/ws/publisher"), Graph: s.g, Source: "publisher", Metrics: metrics})
	var addrs []string
	if o.addrs != nil {
		addrs = o.addrs(id)
	}
	s.replicas = NewReplicas(ReplicasOptions{
		Graph: s.g, HostID: id, Addrs: addrs, Dial: ws.DialOptions{Config: config}, Endpoint: endpoint("/ws/replication"),
		Agents: s.agents, Publishers: []*pubsub.Publisher{s.publisher}, Logger: log, Answer: o.answer,
	})
	s.replicas.timing = fastReplicas
	if o.wall != nil {
		s.replicas.wall = o.wall
	}
	mux := http.NewServeMux()
	mux.Handle("/ws/agent/topology", s.agents)
	mux.Handle("/ws/publisher", s.publisher)
	mux.Handle("/ws/replication", s.replicas)
	h := httptest.NewUnstartedServer(mux)
	h.Listener.Close()
	recorded, over := context.WithCancel(context.Background())
	var recording sync.WaitGroup
	if kept := o.kept[id]; kept != nil {
		ready := make(chan struct{})
		recording.Go(func() { kept.follow(recorded, t, s.g, ready) })
		<-ready
	}
	eventually(t, "port free", func() (err error) { h.Listener, err = net.Listen("tcp", addr); return err })
	h.Start()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{s.agents.Run, s.publisher.Run, s.replicas.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	s.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		h.Close()
		over()
		recording.Wait()
	})
	t.Cleanup(s.stop)
	return s
}

// freeAddrs returns addresses that were free just now. They are not among those that the kernel gives to connections, so that they are free
// again for a process that comes back.
func freeAddrs(t testing.TB, n int) (addrs []string) {
	t.Helper()
	for tries := 0; len(addrs) < n; tries++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000)))
		switch {
		case err == nil:
			defer l.Close()
			addrs = append(addrs, l.Addr().String())
		case tries > 100:
			t.Fatal(err)
		}
	}
	return addrs
}

// newReplicas starts a cluster of n, each of which dials all.
func newReplicas(t testing.TB, n int, o replicaSetup) []*replica {
	t.Helper()
	addrs := freeAddrs(t, n)
	o.addrs = func(string) []string { return addrs }
	var all []*replica
	for i, addr := range addrs {
		all = append(all, newReplica(t, fmt.Sprintf("a%d", i+1), addr, o))
	}
	linked(t, all...)
	return all
}

// linked waits until each is connected to all others.
func linked(t testing.TB, all ...*replica) {
	t.Helper()
	eventually(t, "connected", func() error {
		for _, s := range all {
			if hosts := s.replicas.Hosts(); len(hosts) != len(all)-1 {
				return fmt.Errorf("%s only to %v", s.id, hosts)
			}
		}
		return nil
	})
}

// equal waits until all graphs are the same.
func equal(t testing.TB, what string, all ...*replica) {
	t.Helper()
	eventually(t, what, func() error {
		for _, s := range all[1:] {
			if a, b := shown(all[0].g), shown(s.g); a != b {
				return fmt.Errorf("%s and %s differ:\n%s\n--\n%s", all[0].id, s.id, a, b)
			}
		}
		return nil
	})
}

func (s *replica) update(fn func(tx *graph.Tx) error) {
	s.t.Helper()
	if err := s.g.Update("api", fn); err != nil {
		s.t.Fatal(err)
	}
}

// add makes a node through the API of the analyzer.
func (s *replica) add(id string) {
	s.t.Helper()
	s.update(func(tx *graph.Tx) error {
		return tx.AddNode(&graph.Node{Element: graph.Element{ID: id, Origin: "api." + s.id, Revision: 1, Metadata: field.Make("Name", id, "Type", "device")}})
	})
}

func (s *replica) delete(id string) {
	s.t.Helper()
	s.update(func(tx *graph.Tx) error { return tx.DeleteNode(id, 0) })
}

// TestReplication: what one analyzer is told, all have.
func TestReplication(t *testing.T) {
	all := newReplicas(t, 3, replicaSetup{})
	h := newHost(t, "h1", all[0].addr, all[1].addr, all[2].addr)
	h.grow(20)
	for _, s := range all {
		same(t, "graph of "+s.id, h.g, s.g)
	}
	all[1].add("made")
	equal(t, "made through the API", all...)
	h.grow(20)
	equal(t, "more", all...)
	nodes(t, "all", all[2].g, h.g.Snapshot().NodeCount()+1)
	all[2].delete("made")
	for _, s := range all {
		same(t, "deleted at "+s.id, h.g, s.g)
	}
	h.stop()
	for _, s := range all {
		nodes(t, "agent has left "+s.id, s.g, 0)
	}
}
