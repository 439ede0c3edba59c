package ovsdb

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/ovs"
	"skydive/src/ovs/ovstest"
	"skydive/src/probe"
	"skydive/src/probe/probetest"
)

func TestALongOutageEndsTheRun(t *testing.T) {
	h := probetest.NewHost(t)
	v := newView(&Probe{env: h.Env, metrics: newMetrics(nil)})
	defer v.stopTimers()
	gone := errors.New("gone")
	if err := v.event(event{err: gone}); !errors.Is(err, gone) {
		t.Errorf("never connected: %v", err)
	}
	if err := v.event(event{batch: ovs.Batch{Initial: true}}); err != nil {
		t.Fatal(err)
	}
	if err := v.publish(); err != nil {
		t.Fatal(err)
	}
	if running, reason := h.Running(); !running || reason != "" {
		t.Errorf("running %t, %q", running, reason)
	}
	if err := v.event(event{err: gone}); err != nil {
		t.Errorf("at once: %v", err)
	}
	if _, reason := h.Running(); !strings.Contains(reason, "gone") {
		t.Errorf("reason %q", reason)
	}
	v.down = time.Now().Add(-2 * patience)
	if err := v.event(event{err: gone}); !errors.Is(err, gone) {
		t.Errorf("after long: %v", err)
	}
}

func TestWhatCanBeDoneIsSaid(t *testing.T) {
	for _, test := range []struct {
		address string
		err     error
		want    string
		absent  bool
	}{
		{"unix:/run/x/db.sock", fs.ErrNotExist, "no Open vSwitch database at /run/x/db.sock", true},
		{"unix:/run/x/db.sock", syscall.EACCES, "may not use /run/x/db.sock: run the Ansible roles again", false},
		{"unix:/run/x/db.sock", syscall.ECONNREFUSED, "connection refused", false},
		{"tcp:host:1", fs.ErrNotExist, "file does not exist", false},
	} {
		p := &Probe{cfg: Config{Address: test.address}}
		err := p.explain(test.err)
		if !strings.HasPrefix(err.Error(), test.want) || errors.Is(err, probe.ErrUnavailable) != test.absent {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}

func TestLostCommitsAreMadeUpFor(t *testing.T) {
	h := probetest.NewHost(t)
	server, _ := recorded(t)
	l := &lab{Host: h, TB: t, Server: &ovstest.Server{DB: server.DB}}
	running, goOn := make(chan struct{}), make(chan struct{})
	h.Env.Running = func(string) {
		running <- struct{}{}
		<-goOn
	}
	p := l.probe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	<-running
	kernel(t, h, field.Make("Name", "e1", "Type", "veth", "IfIndex", 3, "MAC", "fe:69:68:4b:48:69"))
	for n := range 2 * queueLength { // more than may wait: the commit of e1 is lost
		err := h.Graph.Update("", func(tx *graph.Tx) error {
			m, err := tx.Node(h.Env.Root).Metadata.Set("Number", int64(n))
			if err == nil {
				_, err = tx.SetNodeMetadata(h.Env.Root, m)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	close(goOn)
	l.eventually("e1 is found", func() bool { return value(l.iface("e1"), "UUID") != nil })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAServerThatHangsUpIsNotAskedAllTheTime: what it has may be much.
func TestAServerThatHangsUpIsNotAskedAllTheTime(t *testing.T) {
	h := probetest.NewHost(t)
	schema, initial := read(t, "schema.json"), read(t, "initial.json")
	var asked atomic.Int32
	var server *ovstest.Fake
	server = ovstest.StartFake(t, func(method string, _ json.RawMessage) (result, fault any) {
		switch method {
		case "get_schema":
			asked.Add(1)
			return schema, nil
		case "monitor_cond":
			time.AfterFunc(10*time.Millisecond, func() { server.Hangup() })
			return initial, nil
		}
		return nil, "no such method"
	})
	l := &lab{Host: h, TB: t, Server: &ovstest.Server{DB: server.DB}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := l.probe().Run(ctx); err != nil {
		t.Fatal(err)
	}
	if n := asked.Load(); n < 2 || n > 6 {
		t.Errorf("asked %d times in 2 s", n)
	}
}
