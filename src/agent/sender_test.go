package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/ws"
)

// quick makes links die fast.
var quick = ws.Config{PingDelay: 50 * time.Millisecond, PongTimeout: 150 * time.Millisecond, CloseTimeout: 50 * time.Millisecond}

func record(i int, size int) *flow.Flow {
	return &flow.Flow{UUID: fmt.Sprint(i), LayersPath: "Ethernet/IPv4/TCP", NodeTID: "t", CaptureID: string(make([]byte, size))}
}

// uuids decodes messages.
func uuids(t *testing.T, data []byte) (ids []string) {
	t.Helper()
	var m flow.Message
	if err := m.UnmarshalProto(data); err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Flows {
		ids = append(ids, f.UUID)
	}
	return ids
}

// TestQueue: messages keep to their size, records to their order, memory to its limit.
func TestQueue(t *testing.T) {
	q := newQueue(16*blockSize, 1400, 10)
	put := 0
	for q.flow(record(put, put%700)) == admitted {
		put++
		if put%100 == 0 && q.message(&flow.Message{Stats: &flow.Stats{CaptureID: "c"}}) != admitted {
			t.Fatal("no room for counters")
		}
	}
	if flows, bytes := q.length(); flows != put || bytes != 12*blockSize {
		t.Errorf("%d flows of %d in %d bytes", flows, put, bytes)
	}
	next, stats := 0, 0
	for b := q.take(); b != nil; b = q.take() {
		n := 0
		for m := range b.messages {
			ids := uuids(t, m)
			if len(ids) == 0 {
				stats++
			}
			if len(ids) > 10 || len(m) > 1400 {
				t.Errorf("%d records in %d bytes", len(ids), len(m))
			}
			for _, id := range ids {
				if id != fmt.Sprint(next) {
					t.Fatalf("%s comes instead of %d", id, next)
				}
				next++
			}
			n += len(ids)
		}
		if n != b.flows {
			t.Errorf("%d records, %d counted", n, b.flows)
		}
		q.giveBack(b, true, "a", time.Now())
	}
	q.flush()
	if b := q.take(); b != nil {
		for m := range b.messages {
			next += len(uuids(t, m))
		}
	}
	if next != put || stats != put/100 {
		t.Errorf("%d of %d records, %d of %d counters", next, put, stats, put/100)
	}
	if a := q.flow(record(0, 70000)); a != tooLarge {
		t.Errorf("a record too large for any message: %d", a)
	}
	if a := q.flow(record(0, 50000)); a != admitted {
		t.Errorf("a large record: %d", a)
	}
}

// TestQueueAgain: what was sent to one address just now is there again, before what waits.
func TestQueueAgain(t *testing.T) {
	q := newQueue(64*blockSize, 1400, 10)
	fill := func(id int) {
		q.flow(record(id, 0))
		q.flush()
	}
	start := time.Now()
	for i, to := range []string{"a", "b", "a", "a"} {
		fill(i)
		q.giveBack(q.take(), true, to, start.Add(time.Duration(i)*time.Second))
	}
	fill(4)
	if n := q.again("a", start.Add(time.Second)); n != 2 {
		t.Errorf("%d again", n)
	}
	for _, want := range []int{2, 3, 4} {
		b := q.take()
		if ids := uuids(t, b.data); len(ids) != 1 || ids[0] != fmt.Sprint(want) {
			t.Errorf("%v, want %d", ids, want)
		}
		q.giveBack(b, true, "", start)
	}
	q.forget(start.Add(time.Hour))
	if len(q.sent) != 0 || q.blocks != 0 || !q.empty() {
		t.Errorf("%+v", q)
	}
}

// sending is a FlowSender that runs.
func sending(t *testing.T, a *Agent, o FlowSenderOptions, captures ...func(context.Context) error) (*FlowSender, func() error) {
	t.Helper()
	o.Agent, o.Logger, o.Registerer = a, slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	o.Dial = ws.DialOptions{HostID: "h1", Config: quick}
	s, err := NewFlowSender(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, captures...) }()
	stop := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return s, stop
}

func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// TestNoAnalyzer: records wait, what does not fit is counted, nothing blocks; at the end all is accounted for.
func TestNoAnalyzer(t *testing.T) {
	for _, protocol := range []string{FlowUDP, FlowWebSocket} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close() // nobody is there
		a := start(t, graph.New(graph.Options{}), "", quick, addr)
		s, stop := sending(t, a, FlowSenderOptions{Protocol: protocol, QueueBytes: 8 * blockSize})
		put := 10000
		for i := range put {
			s.Flow(record(i, 100))
		}
		st := s.Status()
		if st.State != flowWaiting || st.Reason == "" || st.Queued == 0 || int64(st.Queued)+st.Lost[reasonFull] != int64(put) || st.Sent != 0 {
			t.Errorf("%+v", st)
		}
		began := time.Now()
		if err := stop(); err != nil || time.Since(began) > 2*drainTime {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		st = s.Status()
		if st.State != flowStopped || st.Lost[reasonFull]+st.Lost[reasonStop] != int64(put) {
			t.Errorf("%+v", st)
		}
		if n := testutil.ToFloat64(s.metrics.queued) + testutil.ToFloat64(s.metrics.lostFull); n != float64(put) {
			t.Errorf("%v counted", n)
		}
	}
}

// listenUDP listens beside an HTTP server.
func listenUDP(t *testing.T, addr string) *net.UDPConn {
	t.Helper()
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUDP("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestRefused: while no analyzer listens for datagrams they are sent again, and the status says why.
func TestRefused(t *testing.T) {
	f := newFake(t)
	a := start(t, graph.New(graph.Options{}), "", ws.Config{}, f.addr)
	<-f.conns
	s, _ := sending(t, a, FlowSenderOptions{})
	s.Flow(record(1, 0))
	eventually(t, "first", func() error {
		if s.Status().Sent == 0 {
			return errors.New("not sent")
		}
		return nil
	})
	s.Flow(record(2, 0))
	eventually(t, "refusal", func() error {
		if st := s.Status(); st.State != flowFailing || st.Repeated != 1 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	c := listenUDP(t, f.addr)
	got, buf := map[string]int{}, make([]byte, 1<<16)
	for len(got) < 2 {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range uuids(t, buf[:n]) {
			got[id]++
		}
	}
	eventually(t, "sending", func() error {
		if st := s.Status(); st.State != flowSending || st.Reason != "" || st.Queued != 0 || st.Lost != nil {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}

// TestLastFlows: what captures give at their end is sent before Run returns.
func TestLastFlows(t *testing.T) {
	f := newFake(t)
	c := listenUDP(t, f.addr)
	a := start(t, graph.New(graph.Options{}), "", ws.Config{}, f.addr)
	<-f.conns
	var s *FlowSender
	ready := make(chan struct{})
	s, stop := sending(t, a, FlowSenderOptions{}, func(ctx context.Context) error {
		<-ctx.Done()
		<-ready
		for i := range 500 {
			s.Flow(record(i, 100))
		}
		s.Stats(flow.Stats{CaptureID: "c", PacketsReceived: 5})
		return errors.New("ended")
	})
	close(ready)
	if err := stop(); err == nil || err.Error() != "ended" {
		t.Errorf("%v", err)
	}
	buf, got, stats := make([]byte, 1<<16), 0, 0
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for got < 500 || stats == 0 {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("%d: %v", got, err)
		}
		var m flow.Message
		if err := m.UnmarshalProto(buf[:n]); err != nil {
			t.Fatal(err)
		}
		if got += len(m.Flows); m.Stats != nil {
			stats++
			if m.Flows != nil || m.Stats.PacketsReceived != 5 {
				t.Errorf("%+v", m)
			}
		}
	}
}

// TestPatience: while the queue is full and records are being sent, a capture is made to wait instead of losing any.
func TestPatience(t *testing.T) {
	f := newFake(t)
	c := listenUDP(t, f.addr)
	a := start(t, graph.New(graph.Options{}), "", ws.Config{}, f.addr)
	<-f.conns
	go func() {
		buf := make([]byte, 1<<16)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	}()
	s, _ := sending(t, a, FlowSenderOptions{QueueBytes: 8 * blockSize})
	s.Flow(record(0, 0))
	eventually(t, "first", func() error {
		if s.Status().Sent == 0 {
			return errors.New("not sent")
		}
		return nil
	})
	for i := range 20000 { // many times what fits
		s.Flow(record(i, 250))
	}
	eventually(t, "all", func() error {
		if st := s.Status(); st.Sent != 20001 || st.Lost != nil {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}

func TestProtocol(t *testing.T) {
	if _, err := NewFlowSender(FlowSenderOptions{Agent: New(Options{}), Protocol: "smoke"}); err == nil {
		t.Error("taken")
	}
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "localhost:1": true, "[::1]:1": true, "10.0.0.1:1": false, "analyzer:1": false, "": false} {
		if got := local([]*link{{addr: addr}}); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

// TestDatagramsLikePublicAgents: one record is sent as public agents do, byte for byte.
func TestDatagramsLikePublicAgents(t *testing.T) {
	q := newQueue(16*blockSize, 1400, 10)
	f := &flow.Flow{UUID: "87f23c13149c0cfa"}
	q.flow(f)
	q.message(&flow.Message{Stats: &flow.Stats{CaptureID: "24ad430c-82f7-4828-af91-9929919d1653", FlowCount: 1}})
	q.flow(f)
	q.flush()
	var got []string
	for m := range q.take().messages {
		got = append(got, fmt.Sprintf("%x", m))
	}
	want := "12280a2432346164343330632d383266372d343832382d616639312d3939323939313964313635331001"
	if len(got) != 3 || got[1] != want || got[0] != got[2] {
		t.Errorf("%q", got)
	}
}
