package pubsub

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// benchServer is a server and a connected publisher, without a testing.T.
func benchServer(b *testing.B) (_ *graph.Graph, _ *ws.Conn, _ chan []byte, stop func()) {
	g := graph.New(graph.Options{})
	pub := NewPublisher(PublisherOptions{Graph: g, Source: "publisher", Metrics: NewMetrics(nil), Endpoint: ws.EndpointOptions{
		Path: "/ws/publisher", HostID: "a", ServiceType: "analyzer", Metrics: ws.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler),
		Authenticate: func(*http.Request) (string, []*http.Cookie, error) { return "admin", nil, nil },
		Authorize:    func(string, string) bool { return true },
	}})
	h := httptest.NewServer(pub)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = pub.Run(ctx) }()
	conn, err := ws.Dial(ctx, ws.DialOptions{Addr: h.Listener.Addr().String(), Path: "/ws/publisher", HostID: "p", ClientType: "tool"})
	if err != nil {
		b.Fatal(err)
	}
	answers := make(chan []byte, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = conn.Run(ctx, func(*ws.Conn) (ws.Session, error) { return answerer(answers), nil })
	}()
	return g, conn, answers, func() { cancel(); <-over; <-done; h.Close() }
}

type answerer chan []byte

func (a answerer) Receive(r io.Reader) error {
	b, err := io.ReadAll(r)
	a <- b[:min(len(b), 100)]
	return err
}
func (answerer) Closed(error) {}

// fleet is n nodes with 8 metadata keys, and as many edges.
func fleet(n int) *wire.Sync {
	s := &wire.Sync{}
	for i := range n {
		v := testNode(graph.GenID("node", fmt.Sprint(i)), 1, "TID", graph.GenID("tid", fmt.Sprint(i)), "MAC", fmt.Sprintf("02:00:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255),
			"IfIndex", i, "MTU", 1500, "State", "UP", "Driver", "veth", "Name", fmt.Sprint("n", i))
		s.Nodes = append(s.Nodes, v)
		s.Edges = append(s.Edges, testEdge(graph.GenID("edge", fmt.Sprint(i)), s.Nodes[i/2].ID, v.ID))
	}
	return s
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

var request = (&wire.Message{Namespace: "Graph", Type: "SyncRequest", Body: &wire.SyncRequest{Time: 1}}).Append(nil, wire.JSON)

// BenchmarkSync sends 100k nodes and 100k edges as one message, until they are in the graph (P6).
func BenchmarkSync(b *testing.B) {
	text := (&wire.Message{Namespace: "Graph", Type: "Sync", Status: 200, Body: fleet(100_000)}).Append(nil, wire.JSON)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		b.StopTimer()
		g, conn, answers, stop := benchServer(b)
		before := heap()
		b.StartTimer()
		_ = conn.SendWait(context.Background(), text)
		_ = conn.SendWait(context.Background(), request) // answered with 400 once the Sync is done
		<-answers
		b.StopTimer()
		if g.Snapshot().EdgeCount() != 100_000 {
			b.Fatal("not there")
		}
		b.ReportMetric(float64(heap()-before)/100_000, "B/node")
		runtime.KeepAlive(g)
		stop()
		b.StartTimer()
	}
	b.ReportMetric(200_000*float64(b.N)/b.Elapsed().Seconds(), "elements/s")
}

// BenchmarkMessages sends 10k nodes and 10k edges, a message each (P7).
func BenchmarkMessages(b *testing.B) {
	s := fleet(10_000)
	var msgs [][]byte
	for _, n := range s.Nodes {
		msgs = append(msgs, (&wire.Message{Namespace: "Graph", Type: wire.TypeNodeAdded, UUID: graph.NewID(), Body: n}).Append(nil, wire.JSON))
	}
	for _, e := range s.Edges {
		msgs = append(msgs, (&wire.Message{Namespace: "Graph", Type: wire.TypeEdgeAdded, UUID: graph.NewID(), Body: e}).Append(nil, wire.JSON))
	}
	for b.Loop() {
		b.StopTimer()
		g, conn, answers, stop := benchServer(b)
		b.StartTimer()
		for _, m := range msgs {
			_ = conn.SendWait(context.Background(), m)
		}
		_ = conn.SendWait(context.Background(), request)
		<-answers
		if g.Snapshot().EdgeCount() != 10_000 {
			b.Fatal("not there")
		}
		b.StopTimer()
		stop()
		b.StartTimer()
	}
	b.ReportMetric(20_000*float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

// BenchmarkEncode encodes one update as subscribers get it.
func BenchmarkEncode(b *testing.B) {
	n := fleet(1).Nodes[0]
	m := *n
	m.Metadata, _ = n.Metadata.Set("MTU", int64(9000))
	ch := graph.Change{Kind: graph.NodeUpdated, OldNode: n, Node: &m}
	for _, v := range []variant{{wire.JSON, false}, {wire.JSON, true}, {wire.Protobuf, false}} {
		b.Run(fmt.Sprint(v), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				v.encode(ch)
			}
		})
	}
}

// BenchmarkFanOut tells each of 200 subscribers of updates of a node of 1 KiB (P23); server and clients share the machine.
func BenchmarkFanOut(b *testing.B) {
	const subscribers, updates = 200, 500
	g := graph.New(graph.Options{})
	subs := NewSubscribers(SubscriberOptions{Graph: g, Metrics: NewMetrics(nil), Endpoint: ws.EndpointOptions{
		Path: "/ws/subscriber", HostID: "a", ServiceType: "analyzer", Metrics: ws.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler),
		Authenticate: func(*http.Request) (string, []*http.Cookie, error) { return "admin", nil, nil },
		Authorize:    func(string, string) bool { return true },
	}})
	h := httptest.NewServer(subs)
	ctx, cancel := context.WithCancel(context.Background())
	var over sync.WaitGroup
	over.Go(func() { _ = subs.Run(ctx) })
	b.Cleanup(func() { cancel(); over.Wait(); h.Close() })
	node := func(revision int64) *graph.Node {
		return testNode("a", revision, "Blob", strings.Repeat("x", 800))
	}
	if err := g.Update("", func(tx *graph.Tx) error { return tx.AddNode(node(0)) }); err != nil {
		b.Fatal(err)
	}
	got := make(counter, 1024)
	for i := range subscribers {
		conn, err := ws.Dial(ctx, ws.DialOptions{Addr: h.Listener.Addr().String(), Path: "/ws/subscriber", HostID: fmt.Sprint(i), ClientType: "tool"})
		if err != nil {
			b.Fatal(err)
		}
		over.Go(func() { _ = conn.Run(ctx, func(*ws.Conn) (ws.Session, error) { return got, nil }) })
	}
	for len(subs.Conns()) < subscribers {
		runtime.Gosched()
	}
	revision := int64(0)
	for b.Loop() {
		for range updates {
			revision++
			if err := g.Update("", func(tx *graph.Tx) error { return tx.ReplaceNode(node(revision)) }); err != nil {
				b.Fatal(err)
			}
		}
		for range subscribers * updates {
			<-got
		}
	}
	b.ReportMetric(subscribers*updates*float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

// counter counts messages.
type counter chan struct{}

func (c counter) Receive(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	c <- struct{}{}
	return err
}
func (counter) Closed(error) {}
