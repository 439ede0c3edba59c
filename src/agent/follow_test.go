package agent

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"skydive/src/capture"
	"skydive/src/flow"
	"skydive/src/wire"
	"skydive/src/ws"
)

// tap hands to followers what the test feeds.
type tap struct {
	feed  chan capture.Batch
	busy  bool
	mu    sync.Mutex
	ended int
}

func (s *tap) Follow(ctx context.Context, id string, began func(), deliver func(capture.Batch) error) error {
	if s.busy {
		return capture.ErrBusy
	}
	defer func() { s.mu.Lock(); s.ended++; s.mu.Unlock() }()
	began()
	for {
		select {
		case b := <-s.feed:
			if err := deliver(b); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *tap) over(n int) func() error {
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.ended != n {
			return fmt.Errorf("%d streams have ended", s.ended)
		}
		return nil
	}
}

func followed(t *testing.T, p wire.Protocol, packets Packets) (*fake, *ws.Conn, func()) {
	f, g := newFake(t), hostGraph(t)
	a := New(Options{Graph: g, Analyzers: []string{f.addr}, Logger: slog.New(slog.DiscardHandler), Dial: ws.DialOptions{HostID: "h1", Protocol: string(p)}})
	a.Attach(NewTasks(TasksOptions{Graph: g, Captures: &deeds{nodes: map[string]capture.Node{}}, Packets: packets, Logger: slog.New(slog.DiscardHandler)}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.Run(ctx) }()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	conn := <-f.conns
	f.next(t) // Sync
	return f, conn, stop
}

// TestFollow: packets go to who asked, no more than have room; they end when the analyzer says so, and with the connection.
func TestFollow(t *testing.T) {
	before := runtime.NumGoroutine()
	s := &tap{feed: make(chan capture.Batch)}
	f, conn, stop := followed(t, wire.Protobuf, s)
	say := func(typ, uuid, obj string) {
		m := wire.Message{Namespace: wire.NamespaceCapture, Type: typ, UUID: uuid, Status: 200, Obj: []byte(obj)}
		if err := conn.Send(m.Append(nil, wire.Protobuf)); err != nil {
			t.Fatal(err)
		}
	}
	next := func(typ, uuid string, status int64) *wire.Message {
		t.Helper()
		m := f.next(t)
		if m.Namespace != wire.NamespaceCapture || m.Type != typ || m.UUID != uuid || m.Status != status {
			t.Fatalf("%+v %s, want %s of %s", m, m.Obj, typ, uuid)
		}
		return m
	}
	say("Follow", "s1", `{"CaptureID":"c1"}`)
	next("FollowReply", "s1", 200)
	say("Follow", "s1", `{"CaptureID":"c1"}`) // the same one

	batch := capture.Batch{
		Node: capture.Node{TID: "t0", Name: "eth0", NetNS: "/run/netns/n"}, Link: 1, Lost: 3,
		Packets: []flow.Packet{{Data: []byte("abc"), Length: 60, Time: 5}, {Data: []byte("d"), Length: 1, Time: 6}},
	}
	for range wire.PacketsWindow {
		s.feed <- batch
	}
	for range wire.PacketsWindow {
		m := next("Packets", "s1", 200)
		var p wire.Packets
		if err := p.UnmarshalProto(m.Obj); err != nil || p.NodeTID != "t0" || p.Name != "eth0" || p.NetNS != "/run/netns/n" || p.Link != 1 || p.Lost != 3 ||
			len(p.Packets) != 2 || string(p.Packets[0].Data) != "abc" || p.Packets[0].Length != 60 || p.Packets[1].Time != 6 {
			t.Fatalf("%+v: %v", p, err)
		}
	}
	s.feed <- batch // is taken, but has no room: what comes next is an answer
	say("Follow", "s2", `{}`)
	next("FollowReply", "s2", 400)
	say("Taken", "s1", `{}`)
	next("Packets", "s1", 200)
	for range 100 {
		say("Taken", "s1", `{}`) // more than is true
	}
	say("Follow", "s2", `{"CaptureID":"c1"}`)
	next("FollowReply", "s2", 200)
	say("Unfollow", "s1", `{}`)
	eventually(t, "end of the first stream", s.over(1))
	say("Unfollow", "unknown", `{}`)
	s.feed <- batch
	next("Packets", "s2", 200)
	stop()
	eventually(t, "end of the connection", s.over(2))
	eventually(t, "goroutines", func() error {
		if n := runtime.NumGoroutine(); n > before+8 { // of the fake and its server
			return fmt.Errorf("%d goroutines, %d before", n, before)
		}
		return nil
	})
}

func TestFollowRefused(t *testing.T) {
	for _, c := range []struct {
		protocol wire.Protocol
		packets  Packets
		status   int64
		reason   string
	}{
		{wire.JSON, &tap{}, 501, "protobuf"},
		{wire.Protobuf, nil, 501, noEngine},
		{wire.Protobuf, &tap{busy: true}, 503, capture.ErrBusy.Error()},
	} {
		f, conn, _ := followed(t, c.protocol, c.packets)
		m := wire.Message{Namespace: wire.NamespaceCapture, Type: wire.TypeFollow, UUID: "s", Status: 200, Obj: []byte(`{"CaptureID":"c"}`)}
		if err := conn.Send(m.Append(nil, c.protocol)); err != nil {
			t.Fatal(err)
		}
		if r := f.next(t); r.Type != wire.TypeFollowReply || r.UUID != "s" || r.Status != c.status || !strings.Contains(string(r.Obj), c.reason) {
			t.Errorf("%+v %s", r, r.Obj)
		}
	}
}

// TestFollowLimit: an analyzer cannot ask for any number of streams.
func TestFollowLimit(t *testing.T) {
	f, conn, _ := followed(t, wire.Protobuf, &tap{feed: make(chan capture.Batch)})
	got := map[int64]int{}
	for i := range streamLimit + 1 {
		m := wire.Message{Namespace: wire.NamespaceCapture, Type: wire.TypeFollow, UUID: fmt.Sprint(i), Status: 200, Obj: []byte(`{"CaptureID":"c"}`)}
		if err := conn.Send(m.Append(nil, wire.Protobuf)); err != nil {
			t.Fatal(err)
		}
	}
	for range streamLimit + 1 {
		got[f.next(t).Status]++
	}
	if got[200] != streamLimit || got[503] != 1 {
		t.Errorf("%v", got)
	}
}
