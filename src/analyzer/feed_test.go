package analyzer

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"testing"
	"time"

	"skydive/src/agent"
	"skydive/src/flow"
	"skydive/src/wire"
	"skydive/src/ws"
)

// subscriber listens to the feed.
type subscriber struct {
	protocol wire.Protocol
	got      chan *wire.Message
}

func (s subscriber) Receive(r io.Reader) error {
	m, err := wire.NewDecoder().Decode(r, s.protocol)
	if err == nil {
		s.got <- m
	}
	return err
}
func (subscriber) Closed(error) {}

func subscribe(t *testing.T, s *flowServer, id string, p wire.Protocol, namespaces ...string) subscriber {
	t.Helper()
	conn, err := ws.Dial(t.Context(), ws.DialOptions{Addr: s.addr, Path: "/ws/subscriber/flow", HostID: id, ClientType: "tool", Protocol: string(p), Namespaces: namespaces})
	if err != nil {
		t.Fatal(err)
	}
	sub := subscriber{p, make(chan *wire.Message, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = conn.Run(ctx, func(*ws.Conn) (ws.Session, error) { return sub, nil })
	}()
	t.Cleanup(func() { cancel(); <-done })
	until(t, id, func() error {
		if s.flows.Feed().Conn(id) == nil {
			return errors.New("not connected")
		}
		return nil
	})
	return sub
}

func (s subscriber) next(t *testing.T) *wire.Message {
	t.Helper()
	select {
	case m := <-s.got:
		return m
	case <-time.After(patience):
		t.Fatal("nothing comes")
	}
	return nil
}

// sameJSON compares what two texts mean.
func sameJSON(t *testing.T, got, want []byte) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal(got, &a); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if err := json.Unmarshal(want, &b); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// TestFeed: subscribers are told what public ones are, each once what it asked for, and go on when another one leaves.
func TestFeed(t *testing.T) {
	text, err := os.ReadFile("testdata/flow-subscriber.json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Flow, Stats, Capture struct{ Obj json.RawMessage }
		Protobuf             string
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	var records []*flow.Flow
	if err := json.Unmarshal(want.Flow.Obj, &records); err != nil || len(records) != 3 {
		t.Fatal(err, len(records))
	}
	capture := records[0].CaptureID
	s := newFlowServer(t, FlowsOptions{Delay: 50 * time.Millisecond})
	h := newFlowHost(t, "h1", agent.FlowUDP, 0, s.addr)
	all, gone := subscribe(t, s, "all", wire.JSON), subscribe(t, s, "gone", wire.JSON, "flow")
	flows, stats := subscribe(t, s, "flows", wire.Protobuf, "flow"), subscribe(t, s, "stats", wire.JSON, "stats")
	one, other := subscribe(t, s, "one", wire.JSON, "flow/"+capture), subscribe(t, s, "other", wire.JSON, "flow/other", "Graph")

	h.sender.Stats(flow.Stats{CaptureID: capture, FlowCount: 3})
	for _, sub := range []subscriber{all, stats} {
		m := sub.next(t)
		sameJSON(t, m.Obj, want.Stats.Obj)
		if m.Namespace != "stats" || m.Type != "stats" || m.UUID == "" || m.Status != 200 {
			t.Errorf("%+v", m)
		}
	}
	for round := range 2 {
		for _, r := range records {
			h.sender.Flow(r)
		}
		for sub, namespace := range map[subscriber]string{all: "flow", flows: "flow", one: "flow/" + capture, gone: "flow"} {
			if sub == gone && round == 1 {
				continue
			}
			m := sub.next(t)
			sameJSON(t, m.Obj, want.Flow.Obj)
			if m.Namespace != namespace || m.Type != "store" || m.UUID == "" || m.Status != 200 || m.Format != 0 {
				t.Errorf("%+v", m)
			}
		}
		if round == 0 {
			s.flows.Feed().Conn("gone").Close(ws.StatusNormal, "")
			until(t, "leaves", func() error {
				if s.flows.Feed().Conn("gone") != nil {
					return errors.New("still there")
				}
				return nil
			})
		}
	}
	if len(other.got)+len(stats.got) != 0 {
		t.Error("told what was not asked for")
	}
}

// TestFeedBatches: a hundred flows at a time, without waiting for more.
func TestFeedBatches(t *testing.T) {
	s := newFlowServer(t, FlowsOptions{Delay: time.Hour})
	h := newFlowHost(t, "h1", agent.FlowWebSocket, 0, s.addr)
	sub := subscribe(t, s, "s", wire.JSON)
	for i := range 250 {
		r := record(i)
		r.CaptureID = fmt.Sprint(i % 2)
		h.sender.Flow(r)
	}
	arrived(t, s.store, 250)
	for range 2 {
		var got []*flow.Flow
		if m := sub.next(t); json.Unmarshal(m.Obj, &got) != nil || len(got) != 100 {
			t.Errorf("%d", len(got))
		}
	}
	one := subscribe(t, s, "one", wire.JSON, "flow/1")
	for i := range 50 {
		r := record(1000 + i)
		r.CaptureID = fmt.Sprint(i % 2)
		h.sender.Flow(r)
	}
	var got []*flow.Flow
	if m := one.next(t); json.Unmarshal(m.Obj, &got) != nil || len(got) != 50 || got[3].CaptureID != "1" {
		t.Errorf("%d", len(got))
	}
}

// TestPublicDatagrams: what a public agent sent is taken.
func TestPublicDatagrams(t *testing.T) {
	s := newFlowServer(t, FlowsOptions{})
	dial(t, s.addr, "h1", "") // its agent
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stats := subscribe(t, s, "stats", wire.JSON, "stats")
	text, err := os.ReadFile("testdata/datagrams.hex")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "agent", func() error {
		if len(s.agents.Hosts()) == 0 {
			return errors.New("not connected")
		}
		return nil
	})
	n := 0
	for line := range bytes.Lines(text) {
		data, err := hex.DecodeString(string(bytes.TrimSpace(line)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(data); err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 {
			for _, bad := range []string{"", "\xff", "nonsense", "\x0a\x05abc"} {
				if _, err := c.Write([]byte(bad)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	arrived(t, s.store, 3) // of three flows, twice each
	sameJSON(t, stats.next(t).Obj, []byte(`{"CaptureID":"24ad430c-82f7-4828-af91-9929919d1653","FlowCount":1,"FlowDropped":0,"KernelFlowDropped":0,"PacketsDropped":0,"PacketsReceived":0}`))
	until(t, "all", func() error {
		st := s.flows.Status()
		if st.Received != 6 || st.Lost[lossInvalid] != 3 || st.UDP.Datagrams != int64(n)+4 || st.Stored != 6 {
			return fmt.Errorf("%+v %+v", st, st.UDP)
		}
		return nil
	})
}
