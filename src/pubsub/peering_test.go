package pubsub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// quick makes links end fast. However slow the machine, none is given up.
var quick = ws.Config{PongTimeout: time.Minute, CloseTimeout: 50 * time.Millisecond}

// office is an election among those who know it.
type office struct {
	mu    sync.Mutex
	names []string
	leads func(bool)
}

func (o *office) elect(ctx context.Context, name string, lead func(bool)) error {
	o.mu.Lock()
	o.names, o.leads = append(o.names, name), lead
	o.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (o *office) is(t *testing.T, leading bool) {
	t.Helper()
	eventually(t, "a candidate", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.leads != nil
	})
	o.leads(leading)
}

// peering starts Peering of the cluster west with east, in graph g.
func peering(t *testing.T, g *graph.Graph, c PeerCluster, change func(*PeeringOptions)) *Peering {
	t.Helper()
	c.Name = "east"
	o := PeeringOptions{Cluster: "west", HostID: "w1", Peers: []PeerCluster{c}, Graph: g, Logger: slog.New(slog.DiscardHandler),
		Dial: ws.DialOptions{Config: quick}, Registerer: prometheus.NewRegistry(), Expiry: time.Hour}
	if change != nil {
		change(&o)
	}
	p, err := NewPeering(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range p.peers {
		l.pause = 20 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

func update(t *testing.T, g *graph.Graph, fn func(*graph.Tx) error) {
	t.Helper()
	if err := g.Update("test", fn); err != nil {
		t.Fatal(err)
	}
}

func set(t *testing.T, g *graph.Graph, id, key string, value any) {
	t.Helper()
	update(t, g, func(tx *graph.Tx) error {
		m, err := tx.Node(id).Metadata.Set(key, value)
		if err == nil {
			_, err = tx.SetNodeMetadata(id, m)
		}
		return err
	})
}

// contentsOf describes the elements of an origin, or of all when it is empty.
func contentsOf(g *graph.Graph, origin string) string {
	var out []string
	snapshot := g.Snapshot()
	for n := range snapshot.Nodes(field.Filter{}) {
		if origin == "" || n.Origin == origin {
			out = append(out, fmt.Sprintf("%s:%s", n.ID, n.Metadata.Text("Rack")))
		}
	}
	for e := range snapshot.Edges(field.Filter{}) {
		if origin == "" || e.Origin == origin {
			out = append(out, fmt.Sprintf("%s(%s,%s)", e.ID, e.Parent, e.Child))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func holds(t *testing.T, g *graph.Graph, origin, want string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("it holds %q, not %q", contentsOf(g, origin), want)
		}
	}()
	eventually(t, want, func() bool { return contentsOf(g, origin) == want })
}

// TestPeeringSubscribe: what a peer has through the filter is here, and follows it; nothing else is touched.
func TestPeeringSubscribe(t *testing.T) {
	for filter, want := range map[string]string{"*": "a:r1 b:r2 ab(a,b)", "G.V().Has('Rack', 'r1').SubGraph()": "a:r1"} {
		east, g := newServer(t, quick), graph.New(graph.Options{})
		update(t, east.g, func(tx *graph.Tx) error {
			for _, n := range []*graph.Node{testNode("a", 1, "Rack", "r1"), testNode("b", 1, "Rack", "r2"), testNode("own", 7, "Rack", "r1")} {
				if err := tx.AddNode(n); err != nil {
					return err
				}
			}
			back := testNode("echo", 1, "Rack", "r1") // which this cluster once gave it, and has not any more
			back.Origin = "cluster.west"
			if err := tx.AddNode(back); err != nil {
				return err
			}
			return tx.AddEdge(testEdge("ab", "a", "b"))
		})
		update(t, g, func(tx *graph.Tx) error { return tx.AddNode(testNode("own", 3, "Rack", "mine")) })
		p := peering(t, g, PeerCluster{Endpoints: []string{east.addr}, Subscribe: filter}, nil)
		fields := strings.Fields(want)
		slices.Sort(fields)
		holds(t, g, "peer.east", strings.Join(fields, " "))
		set(t, east.g, "a", "Rack", "r3")
		set(t, east.g, "own", "Rack", "r1")
		update(t, east.g, func(tx *graph.Tx) error { return tx.AddNode(testNode("c", 1, "Rack", "r1")) })
		if filter == "*" {
			update(t, east.g, func(tx *graph.Tx) error { return tx.DeleteNode("b", 0) })
			holds(t, g, "peer.east", "a:r3 c:r1")
		} else {
			holds(t, g, "peer.east", "c:r1")
		}
		update(t, east.g, func(tx *graph.Tx) error {
			if err := tx.DeleteNode("own", 0); err != nil {
				return err
			}
			return tx.DeleteNode("c", 0)
		})
		eventually(t, "c goes", func() bool { return g.Snapshot().Node("c") == nil })
		if n := g.Snapshot().Node("own"); n == nil || n.Metadata.Text("Rack") != "mine" || n.Origin != "agent.h" {
			t.Errorf("%+v", n)
		}
		if n := g.Snapshot().Node("echo"); n != nil {
			t.Errorf("%+v", n)
		}
		st := p.Status()["east"]
		if st.State != peerConnected || st.Mode != "subscribe" || st.Endpoint != east.addr || st.Refused == 0 || st.Connection.RemoteHost != "golden-analyzer" {
			t.Errorf("%+v", st)
		}
	}
}

// TestPeeringPublish gives a peer, in random order, what a filter says, and compares what it has with what it should have.
func TestPeeringPublish(t *testing.T) {
	for _, filter := range []string{"*", "Rack=1", "Rack=1,Type=device", "Up=true"} {
		t.Run(filter, func(t *testing.T) {
			seed := rand.Uint64()
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			rng := rand.New(rand.NewPCG(seed, 2))
			east, g := newServer(t, quick), graph.New(graph.Options{})
			from := testNode("transit", 1, "Rack", int64(1), "Up", true)
			from.Origin = "peer.north"
			update(t, g, func(tx *graph.Tx) error { return tx.AddNode(from) })
			p := peering(t, g, PeerCluster{Endpoints: []string{east.addr}, Publish: filter}, nil)
			wants := func(n *graph.Node) bool {
				rack, _ := n.Metadata.Int("Rack")
				up, _ := n.Metadata.Get("Up")
				return n.ID != "transit" && (filter == "*" || strings.HasPrefix(filter, "Rack=1") && rack == 1 || filter == "Up=true" && up == true)
			}
			for round := range 6 {
				for range 60 {
					update(t, g, func(tx *graph.Tx) error {
						id, other := fmt.Sprint("n", rng.IntN(12)), fmt.Sprint("n", rng.IntN(12))
						n := tx.Node(id)
						switch {
						case n == nil:
							return tx.AddNode(testNode(id, 1, "Rack", rng.Int64N(3), "Up", rng.IntN(2) == 0))
						case rng.IntN(6) == 0:
							return tx.DeleteNode(id, 0)
						case rng.IntN(3) == 0 && tx.Node(other) != nil:
							edge := id + "-" + other
							if tx.Edge(edge) == nil {
								return tx.AddEdge(testEdge(edge, id, other))
							}
							return tx.DeleteEdge(edge, 0)
						}
						m, err := n.Metadata.Set([]string{"Rack", "Up"}[0], rng.Int64N(3))
						if err == nil && rng.IntN(2) == 0 {
							m, err = m.Set("Up", rng.IntN(2) == 0)
						}
						if err == nil {
							_, err = tx.SetNodeMetadata(id, m)
						}
						return err
					})
				}
				if round == 3 { // what is deleted meanwhile is missed
					addr := east.addr
					east.stop()
					update(t, g, func(tx *graph.Tx) error {
						for i := range 4 {
							if id := fmt.Sprint("n", i); tx.Node(id) != nil {
								if err := tx.DeleteNode(id, 0); err != nil {
									return err
								}
							}
						}
						return nil
					})
					old := east.g.Snapshot()
					east = serverAt(t, quick, "golden-analyzer", addr)
					east.load(&wire.Sync{Nodes: slices.Collect(old.Nodes(field.Filter{})), Edges: slices.Collect(old.Edges(field.Filter{}))})
				}
				want := graph.New(graph.Options{})
				update(t, want, func(tx *graph.Tx) error {
					now := g.Snapshot()
					for n := range now.Nodes(field.Filter{}) {
						if wants(n) {
							n := *n
							if err := tx.AddNode(&n); err != nil {
								return err
							}
						}
					}
					for e := range now.Edges(field.Filter{}) {
						if tx.Node(e.Parent) != nil && tx.Node(e.Child) != nil {
							e := *e
							if err := tx.AddEdge(&e); err != nil {
								return err
							}
						}
					}
					return nil
				})
				holds(t, east.g, "", contentsOf(want, ""))
				difference := ""
				t.Cleanup(func() {
					if t.Failed() {
						t.Log(difference)
					}
				})
				eventually(t, "equal metadata", func() bool {
					for n := range east.g.Snapshot().Nodes(field.Filter{}) {
						if mine := g.Snapshot().Node(n.ID); n.Origin != "cluster.west" || !field.Equal(n.Metadata, mine.Metadata) {
							difference = fmt.Sprintf("round %d: there %+v, here %+v", round, n, mine)
							return false
						}
					}
					difference = ""
					return true
				})
				eventually(t, "figures", func() bool { return p.Status()["east"].Published == len(strings.Fields(contentsOf(want, ""))) })
			}
		})
	}
}

// TestPeeringBoth: two clusters that give each other all they have end with the same graph, and go on from there; what one deletes does not
// come back from the other.
func TestPeeringBoth(t *testing.T) {
	east, g := newServer(t, quick), graph.New(graph.Options{})
	update(t, east.g, func(tx *graph.Tx) error { return tx.AddNode(testNode("e", 1)) })
	update(t, g, func(tx *graph.Tx) error { return tx.AddNode(testNode("w", 1)) })
	peering(t, g, PeerCluster{Endpoints: []string{east.addr}, Subscribe: "*", Publish: "*"}, nil)
	holds(t, g, "", "e: w:")
	holds(t, east.g, "", "e: w:")
	set(t, east.g, "e", "Rack", "1")
	set(t, g, "w", "Rack", "2")
	holds(t, g, "", "e:1 w:2")
	holds(t, east.g, "cluster.west", "w:2")
	for _, c := range east.both.Conns() {
		c.Close(ws.StatusNormal, "")
	}
	update(t, g, func(tx *graph.Tx) error { return tx.DeleteNode("w", 0) })
	update(t, east.g, func(tx *graph.Tx) error { return tx.DeleteNode("e", 0) })
	holds(t, g, "", "")
	holds(t, east.g, "", "")
}

// TestPeeringFailOver: another analyzer of the peer takes over; what is gone there goes here; without any, all goes in the end.
func TestPeeringFailOver(t *testing.T) {
	one, two, g := serverAt(t, quick, "e1", ""), serverAt(t, quick, "e2", ""), graph.New(graph.Options{})
	for _, s := range []*server{one, two} {
		update(t, s.g, func(tx *graph.Tx) error { return tx.AddNode(testNode("a", 1)) })
	}
	update(t, one.g, func(tx *graph.Tx) error { return tx.AddNode(testNode("b", 1)) })
	update(t, two.g, func(tx *graph.Tx) error { return tx.AddNode(testNode("c", 1)) })
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.Addr().String()
	free.Close()
	p := peering(t, g, PeerCluster{Endpoints: []string{nobody, one.addr, two.addr}, Subscribe: "*"}, func(o *PeeringOptions) { o.Expiry = 2 * time.Second })
	holds(t, g, "peer.east", "a: b:")
	a := g.Snapshot().Node("a")
	one.stop()
	holds(t, g, "peer.east", "a: c:")
	if n := g.Snapshot().Node("a"); n != a {
		t.Error("what both have was touched")
	}
	if st := p.Status()["east"]; st.Endpoint != two.addr || st.Connection == nil || st.Connection.RemoteHost != "e2" || st.Elements != 2 {
		t.Errorf("%+v", st)
	}
	addr := two.addr
	two.stop()
	holds(t, g, "", "")
	eventually(t, "a reason", func() bool {
		st := p.Status()["east"]
		return st.State == peerFailed && strings.Contains(st.Reason, "refused") && !st.Since.IsZero() && st.Connection == nil
	})
	again := serverAt(t, quick, "e2", addr)
	update(t, again.g, func(tx *graph.Tx) error { return tx.AddNode(testNode("d", 1)) })
	holds(t, g, "peer.east", "d:")
}

// TestPeeringLeads: of two analyzers of a cluster the elected one connects, and what the peer gave outlives the change.
func TestPeeringLeads(t *testing.T) {
	east := newServer(t, quick)
	update(t, east.g, func(tx *graph.Tx) error { return tx.AddNode(testNode("a", 1)) })
	g := graph.New(graph.Options{}) // of both, as if it were replicated
	first, second := &office{}, &office{}
	c := PeerCluster{Endpoints: []string{east.addr}, Subscribe: "*", Publish: "*"}
	a := peering(t, g, c, func(o *PeeringOptions) { o.Elect = first.elect })
	b := peering(t, g, c, func(o *PeeringOptions) { o.Elect, o.HostID = second.elect, "w2" })
	if st := a.Status()["east"]; st.State != peerStandby || st.Reason == "" {
		t.Errorf("%+v", st)
	}
	first.is(t, true)
	holds(t, g, "peer.east", "a:")
	node := g.Snapshot().Node("a")
	if name := first.names[0]; name != "hub-peering/west/east" {
		t.Error(name)
	}
	first.is(t, false)
	second.is(t, true)
	eventually(t, "the other connects", func() bool {
		return b.Status()["east"].State == peerConnected && a.Status()["east"].State == peerStandby
	})
	update(t, g, func(tx *graph.Tx) error { return tx.AddNode(testNode("w", 1)) })
	holds(t, east.g, "", "a: w:")
	if n := g.Snapshot().Node("a"); n != node {
		t.Error("it was touched")
	}
	// There and back, faster than connections end.
	for range 5 {
		second.is(t, false)
		second.is(t, true)
	}
	update(t, g, func(tx *graph.Tx) error { return tx.DeleteNode("w", 0) })
	holds(t, east.g, "", "a:")
	eventually(t, "one connection", func() bool { return b.Status()["east"].State == peerConnected && len(east.both.Conns()) == 1 })
}

// TestPeeringRefused: what is wrong is told at the start, or in the status.
func TestPeeringRefused(t *testing.T) {
	good := PeerCluster{Name: "east", Endpoints: []string{"h:1"}, Subscribe: "*"}
	for want, change := range map[string]func(*PeeringOptions, *PeerCluster){
		"no cluster name":  func(o *PeeringOptions, _ *PeerCluster) { o.Cluster = "" },
		"itself":           func(_ *PeeringOptions, c *PeerCluster) { c.Name = "west" },
		"without a name":   func(_ *PeeringOptions, c *PeerCluster) { c.Name = "" },
		"no endpoints":     func(_ *PeeringOptions, c *PeerCluster) { c.Endpoints = nil },
		"neither":          func(_ *PeeringOptions, c *PeerCluster) { c.Subscribe = "" },
		"subscribe_filter": func(_ *PeeringOptions, c *PeerCluster) { c.Subscribe = "G.V(" },
		"publish_filter":   func(_ *PeeringOptions, c *PeerCluster) { c.Publish = "Rack" },
	} {
		o, c := PeeringOptions{Cluster: "west", Logger: slog.New(slog.DiscardHandler)}, good
		change(&o, &c)
		o.Peers = []PeerCluster{c}
		if _, err := NewPeering(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}

	fault := errors.New("no election")
	p, err := NewPeering(PeeringOptions{Cluster: "west", Peers: []PeerCluster{good}, Graph: graph.New(graph.Options{}), Logger: slog.New(slog.DiscardHandler),
		Elect: func(context.Context, string, func(bool)) error { return fault }})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); !errors.Is(err, fault) || !strings.Contains(err.Error(), "east") {
		t.Error(err)
	}

	east := serverAt(t, quick, "w1", "")
	other := newServer(t, quick)
	for want, c := range map[string]PeerCluster{
		"wrong password": {Endpoints: []string{other.addr}, Subscribe: "*", Username: "u", Password: "wrong"},
		"itself":         {Endpoints: []string{east.addr}, Subscribe: "*"},
		"did not return": {Endpoints: []string{other.addr}, Subscribe: "G.V().Count()"},
	} {
		p := peering(t, graph.New(graph.Options{}), c, nil)
		eventually(t, want, func() bool {
			st := p.Status()["east"]
			return st.State == peerFailed && strings.Contains(st.Reason, want)
		})
	}
}
