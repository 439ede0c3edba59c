package sampled

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/flow"
)

func TestListen(t *testing.T) {
	first, err := Listen(t.Context(), "", "127.0.0.1", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	port := first.LocalAddr().(*net.UDPAddr).Port
	if _, err := Listen(t.Context(), "", "127.0.0.1", port, port); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the same port again: %v", err)
	}
	if _, err := Listen(t.Context(), "/run/netns/ovd-nothing", "", 1, 1); !errors.Is(err, capture.ErrGone) {
		t.Errorf("no namespace: %v", err)
	}
	for _, c := range []struct {
		all  []string
		want string
	}{{nil, ""}, {[]string{"10.0.0.1/24"}, "10.0.0.1"}, {[]string{"10.0.0.1"}, "10.0.0.1"}, {[]string{"10.0.0.1/24", "10.0.1.1/24"}, ""}, {[]string{"x"}, ""}} {
		if got := hostOf(capture.Node{IPV4: c.all}); got != c.want {
			t.Errorf("%v: %s", c.all, got)
		}
	}
}

// TestRun sends to a socket until it is closed.
func TestRun(t *testing.T) {
	conn, err := Listen(t.Context(), "", "127.0.0.1", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	table := flow.NewTable(flow.Options{MaxEntries: 100})
	s := Netflow(capture.Request{Intake: capture.NewTableIntake(table), Log: slog.New(slog.DiscardHandler)}, conn, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	up, done := make(chan field.Object, 1), make(chan error, 1)
	go func() { done <- s.Run(ctx, func(o field.Object) { up <- o }) }()
	if o := <-up; o.Text("NetFlowSocket") != conn.LocalAddr().String() {
		t.Errorf("shown: %v", o)
	}
	to, err := net.Dial("udp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	for _, d := range [][]byte{datagrams(t, "softflowd-5")[0], {1}} {
		if _, err := to.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	deadline, tick := time.After(10*time.Second), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n := s.Counters(); n.Received != 4 || n.Malformed != 1; n = s.Counters() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%+v", n)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if table.Len() != 2 {
		t.Errorf("%d flows", table.Len())
	}
}
