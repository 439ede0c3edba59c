package analyzer

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"skydive/src/wire"
	"skydive/src/ws"
)

// TestRequest: a reply finds who asked, in whatever order replies come; nobody answers for another.
func TestRequest(t *testing.T) {
	s := newServer(t, "a1", "", AgentsOptions{})
	h1, h2 := dial(t, s.addr, "h1", ""), dial(t, s.addr, "h2", "")
	eventually(t, "both connected", func() error {
		if hosts := fmt.Sprint(s.agents.Hosts()); hosts != "[h1 h2]" {
			return errors.New(hosts)
		}
		return nil
	})
	type answer struct {
		m   *wire.Message
		err error
	}
	ask := func(ctx context.Context, host, uuid string) <-chan answer {
		c := make(chan answer, 1)
		go func() {
			m, err := s.agents.Request(ctx, host, &wire.Message{Namespace: "OnDemandCapture", Type: "Start", UUID: uuid, Obj: []byte(`{}`)})
			c <- answer{m, err}
		}()
		return c
	}
	first := ask(t.Context(), "h1", "u1")
	m1 := <-h1.got
	second := ask(t.Context(), "h1", "")
	m2 := <-h1.got
	if m1.UUID != "u1" || m1.Namespace != "OnDemandCapture" || m1.Type != "Start" || m1.Status != 200 || m2.UUID == "" {
		t.Errorf("%+v %+v", m1, m2)
	}
	reply := func(p *peer, m *wire.Message, status int64) {
		p.send(&wire.Message{Namespace: m.Namespace, Type: "StartReply", UUID: m.UUID, Status: status, Obj: []byte(`1`)})
	}
	reply(h2, m1, 666)
	reply(h2, &wire.Message{Namespace: "OnDemandCapture", UUID: "unknown"}, 666)
	h2.barrier() // what h2 said was looked at
	reply(h1, m2, 404)
	reply(h1, m2, 666)
	reply(h1, m1, 200)
	if a := <-second; a.err != nil || a.m.Status != 404 || a.m.Type != "StartReply" {
		t.Errorf("%+v", a)
	}
	if a := <-first; a.err != nil || a.m.Status != 200 || string(a.m.Obj) != "1" {
		t.Errorf("%+v", a)
	}

	if _, err := s.agents.Request(t.Context(), "nobody", &wire.Message{}); !errors.Is(err, ErrNoAgent) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if a := <-ask(ctx, "h1", ""); !errors.Is(a.err, context.DeadlineExceeded) {
		t.Errorf("%+v", a)
	}
	left := ask(t.Context(), "h2", "")
	<-h2.got
	h2.conn.Close(ws.StatusNormal, "")
	if a := <-left; !errors.Is(a.err, ErrNoAgent) {
		t.Errorf("%+v", a)
	}
	if n := len(s.agents.questions.open); n != 0 {
		t.Errorf("%d questions are still open", n)
	}
}
