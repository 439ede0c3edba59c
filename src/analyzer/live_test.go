package analyzer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/agent"
	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/resource"
	"skydive/src/wire"
	"skydive/src/ws"
)

// tables are captures of which only the flows matter.
type tables []*flow.Table

func (tables) Start(capture.Node, resource.Capture) error { return nil }
func (tables) Stop(string, string) error                  { return nil }
func (tables) Update(capture.Node)                        {}
func (tables) Gone(string)                                {}
func (t tables) Tables() []*flow.Table                    { return t }

// table has n flows of one packet each from 10.0.0.a, a second apart.
func table(tid string, a byte, n int) *flow.Table {
	t := flow.NewTable(flow.Options{NodeTID: tid, CaptureID: "c"})
	for i := range n {
		f := make([]byte, 14+20+8)
		copy(f, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, a, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, a, 10, 0, 0, 200})
		binary.BigEndian.PutUint16(f[34:], uint16(i+1))
		binary.BigEndian.PutUint16(f[36:], 53)
		binary.BigEndian.PutUint16(f[38:], 8)
		t.Packets([]flow.Packet{{Data: f, Length: len(f), Time: int64(time.Duration(1000+i) * time.Second)}})
	}
	return t
}

// flowAgent runs an agent that has tables.
func flowAgent(t testing.TB, s *server, id string, has tables) {
	g := graph.New(graph.Options{})
	a := agent.New(agent.Options{Graph: g, Analyzers: []string{s.addr}, Logger: slog.New(slog.DiscardHandler), Dial: ws.DialOptions{HostID: id}})
	a.Attach(agent.NewTasks(agent.TasksOptions{Graph: g, Captures: has, Logger: slog.New(slog.DiscardHandler)}))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = a.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
}

// oldAgent answers as public agents of the JSON protocol do, or as it is told.
func oldAgent(t *testing.T, s *server, id string, reply func(*wire.Message, *flow.TableQuery) *wire.Message) {
	p := dial(t, s.addr, id, "")
	go func() {
		for m := range p.got {
			q, err := flow.ParseTableQuery(m.Obj, m.Format == wire.FormatProtobuf)
			if err != nil {
				t.Error(err)
				return
			}
			if r := reply(m, q); r != nil {
				_ = p.conn.Send(r.Append(nil, wire.JSON))
			}
		}
	}()
	t.Cleanup(func() { p.conn.Close(ws.StatusNormal, ""); <-p.end; close(p.got) })
}

func hosts(t testing.TB, s *server, n int) {
	t.Helper()
	until(t, "agents", func() error {
		if h := s.agents.Hosts(); len(h) != n {
			return fmt.Errorf("%v", h)
		}
		return nil
	})
}

func where(t *testing.T, key string, p field.Predicate) *flow.Filter {
	t.Helper()
	f, err := flow.FilterOf(field.Filter{Terms: []field.Term{{Key: key, Pred: p}}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestLiveFlows: answers of several agents are one, as if they were one table.
func TestLiveFlows(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	live := NewLiveFlows(s.agents, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if flows, missing, err := live.Flows(t.Context(), nil, &flow.Search{}); len(flows)+len(missing) != 0 || err != nil {
		t.Errorf("nobody is there: %v %v %v", flows, missing, err)
	}
	flowAgent(t, s, "h1", tables{table("t1", 1, 10), table("t2", 2, 10)})
	flowAgent(t, s, "h2", tables{table("t3", 1, 10)}) // the other end of the same flows
	old := make(chan *flow.TableQuery, 1000)
	oldAgent(t, s, "h3", func(m *wire.Message, q *flow.TableQuery) *wire.Message {
		old <- q
		var set []byte
		table("t4", 4, 10).Each(func(f *flow.Flow) bool {
			if q.Search.Filter == nil || q.Search.Filter.Match(f) {
				set = flow.AppendMessageFlow(set, f)
			}
			return true
		})
		r := m.Reply(wire.TypeTableResult, 200, nil)
		r.Obj = (&flow.TableReply{Status: 200, Sets: [][]byte{set}}).AppendJSON(nil)
		return r
	})
	hosts(t, s, 3)
	dns := where(t, "Application", field.Eq{V: "UDP"})
	for _, c := range []struct {
		hosts []string
		s     flow.Search
		want  int
		first string // port
	}{
		{nil, flow.Search{}, 40, ""},
		{[]string{"h1"}, flow.Search{Filter: dns}, 20, ""},
		{[]string{"h2", "h1", "h2"}, flow.Search{}, 30, ""},
		{[]string{}, flow.Search{}, 0, ""},
		{nil, flow.Search{Filter: where(t, "NodeTID", field.Eq{V: "t3"})}, 10, ""},
		{nil, flow.Search{Filter: where(t, "Network.A", field.Eq{V: "10.0.0.4"})}, 10, ""},
		{nil, flow.Search{To: 7}, 7, ""},
		{nil, flow.Search{From: 35, To: 50}, 5, ""},
		{nil, flow.Search{Sort: true, SortBy: "Last", Order: flow.Descending, To: 4}, 4, "10"},
		{nil, flow.Search{Sort: true, SortBy: "Last", From: 4, To: 6}, 2, "2"},
		{nil, flow.Search{Dedup: true}, 30, ""},
		{nil, flow.Search{Dedup: true, DedupBy: "NodeTID", To: 9}, 4, ""},
	} {
		flows, missing, err := live.Flows(t.Context(), c.hosts, &c.s)
		if err != nil || missing != nil || len(flows) != c.want {
			t.Fatalf("%v %+v: %d flows, missing %v, %v", c.hosts, c.s, len(flows), missing, err)
		}
		if c.first != "" && fmt.Sprint(flows[0].Transport.A) != c.first {
			t.Errorf("%+v: begins with %+v", c.s, flows[0].Transport)
		}
		total, missing, err := live.Total(t.Context(), c.hosts, &c.s, flow.Aggregate{Metric: flow.Whole})
		if err != nil || missing != nil || total.Count != int64(c.want) || total.Metric.ABPackets != int64(c.want) || total.Metric.ABBytes != int64(42*c.want) {
			t.Errorf("%v %+v: %+v, missing %v, %v", c.hosts, c.s, total, missing, err)
		}
	}
	aggregates := 0
	for len(old) > 0 {
		if (<-old).Aggregate != nil {
			aggregates++
		}
	}
	if aggregates == 0 {
		t.Error("no total was asked for")
	}
}

// TestLiveFlowsMissing: agents that refuse, talk nonsense, leave or say nothing are named, and cost no more than their deadline.
func TestLiveFlowsMissing(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	live := NewLiveFlows(s.agents, slog.New(slog.DiscardHandler), nil)
	live.deadline = 200 * time.Millisecond
	flowAgent(t, s, "good", tables{table("t1", 1, 10)})
	answer := func(status int64, obj string) func(*wire.Message, *flow.TableQuery) *wire.Message {
		return func(m *wire.Message, _ *flow.TableQuery) *wire.Message {
			r := m.Reply(wire.TypeTableResult, status, nil)
			r.Obj = []byte(obj)
			return r
		}
	}
	oldAgent(t, s, "refuses", answer(400, `{"Status":400,"FlowSetBytes":null}`))
	oldAgent(t, s, "inside", answer(200, `{"Status":500,"FlowSetBytes":[]}`))
	oldAgent(t, s, "nonsense", answer(200, `{"Status":200,"FlowSetBytes":["//8="]}`))
	oldAgent(t, s, "text", answer(200, `"what?"`))
	oldAgent(t, s, "silent", func(*wire.Message, *flow.TableQuery) *wire.Message { return nil })
	hosts(t, s, 6)
	want := []string{"absent", "inside", "nonsense", "refuses", "silent", "text"}
	for range 2 {
		began := time.Now()
		flows, missing, err := live.Flows(t.Context(), append(s.agents.Hosts(), "absent"), &flow.Search{})
		if slices.Sort(missing); err != nil || len(flows) != 10 || !slices.Equal(missing, want) || time.Since(began) > 5*time.Second {
			t.Errorf("%d flows, missing %v, %v", len(flows), missing, err)
		}
		total, missing, err := live.Total(t.Context(), append(s.agents.Hosts(), "absent"), &flow.Search{}, flow.Aggregate{})
		if slices.Sort(missing); err != nil || total.Count != 10 || !slices.Equal(missing, want) {
			t.Errorf("%+v, missing %v, %v", total, missing, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := live.Flows(ctx, nil, &flow.Search{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if n := len(s.agents.questions.open); n != 0 {
		t.Errorf("%d questions are open", n)
	}
}

// BenchmarkLive asks an agent with 50000 flows.
func BenchmarkLive(b *testing.B) {
	s := newServer(b, "a1", "", AgentsOptions{})
	flowAgent(b, s, "h1", tables{table("t1", 1, 50000)})
	hosts(b, s, 1)
	live := NewLiveFlows(s.agents, slog.New(slog.DiscardHandler), nil)
	filter, err := flow.FilterOf(field.Filter{Terms: []field.Term{{Key: "Network", Pred: field.Eq{V: "10.0.0.1"}}}})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("limit", func(b *testing.B) {
		for b.Loop() {
			if flows, _, err := live.Flows(b.Context(), nil, &flow.Search{Filter: filter, To: 10}); len(flows) != 10 || err != nil {
				b.Fatal(len(flows), err)
			}
		}
	})
	b.Run("count", func(b *testing.B) {
		for b.Loop() {
			if total, _, err := live.Total(b.Context(), nil, &flow.Search{}, flow.Aggregate{}); total.Count != 50000 || err != nil {
				b.Fatal(total, err)
			}
		}
	})
	b.Run("sum", func(b *testing.B) {
		for b.Loop() {
			if total, _, err := live.Total(b.Context(), nil, &flow.Search{}, flow.Aggregate{Metric: flow.Whole}); total.Metric.ABPackets != 50000 || err != nil {
				b.Fatal(total, err)
			}
		}
	})
	b.Run("filtered-count", func(b *testing.B) {
		for b.Loop() {
			if total, _, err := live.Total(b.Context(), nil, &flow.Search{Filter: filter}, flow.Aggregate{}); total.Count != 50000 || err != nil {
				b.Fatal(total, err)
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if flows, _, err := live.Flows(b.Context(), nil, &flow.Search{}); len(flows) != 50000 || err != nil {
				b.Fatal(len(flows), err)
			}
		}
	})
}
