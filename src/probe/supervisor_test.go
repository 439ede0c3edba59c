package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/graph"
)

type probeFunc func(ctx context.Context, env Env) error

type funcProbe struct {
	env Env
	run probeFunc
}

func (p funcProbe) Run(ctx context.Context) error { return p.run(ctx, p.env) }

type testConfig struct{ Value string }

func define(name string, run probeFunc) Spec {
	return Define(name, "a test", testConfig{"default"}, func(env Env, c testConfig) (Probe, error) {
		if c.Value == "bad" {
			return nil, errors.New("bad value")
		}
		return funcProbe{env, run}, nil
	})
}

// supervised runs probes in a bubble of fake time.
func supervised(t *testing.T, specs []Spec, names []string, load func(string, any) error, test func(s *Supervisor, host func() *graph.Node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g, env := newHost(t)
		s, err := NewSupervisor(Options{
			Graph: g, Root: env.Root, Host: env.Host, Origin: env.Origin, Specs: specs, Names: names, Load: load,
			Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		test(s, func() *graph.Node { return g.Snapshot().Node(env.Root) })
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestSupervisorStates(t *testing.T) {
	block := func(ctx context.Context, env Env) error { env.Running(""); <-ctx.Done(); return nil }
	specs := []Spec{
		define("good", block).Alias("fine"),
		define("slow", func(ctx context.Context, env Env) error { <-ctx.Done(); return nil }),
		define("blind", func(ctx context.Context, env Env) error { env.Running("no privilege"); <-ctx.Done(); return nil }),
		define("missing", func(context.Context, Env) error { return fmt.Errorf("no socket: %w", ErrUnavailable) }),
		define("misconfigured", block),
		define("unused", block),
	}
	load := func(name string, into any) error {
		c := into.(*testConfig)
		if c.Value != "default" {
			t.Errorf("%s: default is %q", name, c.Value)
		}
		if name == "misconfigured" {
			c.Value = "bad"
		}
		return nil
	}
	names := []string{"good", "fine", "good", "slow", "blind", "missing", "misconfigured", "unheard", "vpp"}
	supervised(t, specs, names, load, func(s *Supervisor, host func() *graph.Node) {
		want := map[string]Status{
			"good":          {Status: Active},
			"slow":          {Status: Starting},
			"blind":         {Status: Active, Reason: "no privilege"},
			"missing":       {Status: Absent, Reason: "no socket: not available on this host"},
			"misconfigured": {Status: Failed, Reason: "probe misconfigured: bad value"},
			"unheard":       {Status: Absent, Reason: "this version has no such probe"},
			"vpp":           {Status: Absent, Reason: "not supported"},
		}
		got := s.Status()
		if len(got) != len(want) {
			t.Errorf("%v", got)
		}
		for name, w := range want {
			if g := got[name]; g.Status != w.Status || g.Reason != w.Reason || g.Since.IsZero() {
				t.Errorf("%s: %+v", name, g)
			}
			if m := host().Metadata; m.Text("Probes."+name+".Status") != string(w.Status) || m.Text("Probes."+name+".Reason") != w.Reason {
				t.Errorf("host node says of %s: %v", name, m)
			}
		}
		revision := host().Revision
		after(10 * time.Minute)
		if r := host().Revision; r != revision {
			t.Errorf("%d revisions of the host node while nothing changes", r-revision)
		}
	})
}

func TestSupervisorStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, env := newHost(t)
		release := make(chan struct{})
		spec := define("p", func(ctx context.Context, env Env) error { env.Running(""); <-ctx.Done(); <-release; return nil })
		s, err := NewSupervisor(Options{Graph: g, Root: env.Root, Specs: []Spec{spec}, Names: []string{"p"}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		if got := s.Status()["p"].Status; got != Stopping {
			t.Errorf("while it ends: %s", got)
		}
		close(release)
		<-done
		if got := s.Status()["p"].Status; got != Stopped {
			t.Errorf("at the end: %s", got)
		}
	})
}

func TestSupervisorBacksOff(t *testing.T) {
	var starts []time.Time
	spec := define("p", func(ctx context.Context, env Env) error {
		starts = append(starts, time.Now())
		env.Running("")
		if len(starts) == 9 {
			<-time.After(2 * time.Minute) // a good run
		}
		return errors.New("lost")
	})
	supervised(t, []Spec{spec}, []string{"p"}, nil, func(s *Supervisor, host func() *graph.Node) {
		after(10 * time.Minute)
		if got := s.Status()["p"]; got.Status != Failed || got.Reason != "lost" {
			t.Errorf("%+v", got)
		}
		want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 121, 2}
		for i, w := range want {
			if got := starts[i+1].Sub(starts[i]); got != w*time.Second {
				t.Errorf("start %d after %v, not %v", i+1, got, w*time.Second)
			}
		}
	})
}

func TestSupervisorCatchesPanics(t *testing.T) {
	var turns atomic.Int32
	spec := define("p", func(ctx context.Context, env Env) error {
		switch turns.Add(1) {
		case 1:
			panic("first")
		case 2:
			group, ctx := NewGroup(ctx)
			group.Go(func() error { panic("in a goroutine") })
			<-ctx.Done()
			return group.Stop()
		case 3:
			group, ctx := NewGroup(ctx)
			group.Go(func() error { return errors.New("failed") })
			group.Go(func() error { <-ctx.Done(); return ctx.Err() })
			<-ctx.Done()
			return group.Stop()
		}
		env.Running("")
		<-ctx.Done()
		return nil
	})
	supervised(t, []Spec{spec}, []string{"p"}, nil, func(s *Supervisor, host func() *graph.Node) {
		for _, want := range []string{"panic: first", "panic: in a goroutine", "failed"} {
			if got := s.Status()["p"]; got.Status != Failed || got.Reason != want {
				t.Errorf("%+v, not %q", got, want)
			}
			after(time.Duration(1<<turns.Load()) * time.Second / 2)
		}
		if got := s.Status()["p"]; got.Status != Active || turns.Load() != 4 {
			t.Errorf("%+v after %d turns", got, turns.Load())
		}
	})
}

func TestSpecConfig(t *testing.T) {
	spec := define("p", nil)
	a, b := spec.Config().(*testConfig), spec.Config().(*testConfig)
	if a == b || *a != (testConfig{"default"}) {
		t.Errorf("%v %v", a, b)
	}
	a.Value = "changed"
	if spec.Config().(*testConfig).Value != "default" {
		t.Error("defaults can be changed")
	}
	if _, err := NewSupervisor(Options{Graph: graph.New(graph.Options{}), Root: "none"}); err == nil {
		t.Error("a supervisor without host node")
	}
}

// Analyzers have no host node; their probes run again whenever they are elected.
func TestSupervisorOfAnAnalyzer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := graph.New(graph.Options{})
		var log bytes.Buffer
		origins := make(chan string, 2)
		s, err := NewSupervisor(Options{
			Graph: g, Origin: "probe", Names: []string{"p", "k8s"}, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Specs: []Spec{define("p", func(ctx context.Context, env Env) error {
				origins <- env.Origin
				env.Running("")
				<-ctx.Done()
				return nil
			})},
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := s.Status()["p"].Status; got != Stopped {
				t.Errorf("before: %s", got)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- s.Run(ctx) }()
			if got := <-origins; got != "probe.p" {
				t.Errorf("origin %s", got)
			}
			synctest.Wait()
			if got := s.Status()["p"].Status; got != Active {
				t.Errorf("while it is run: %s", got)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := g.Snapshot().NodeCount(); n != 0 {
			t.Errorf("%d nodes", n)
		}
		if got := s.Status()["k8s"]; got.Status != Absent || strings.Count(log.String(), "level=WARN") != 1 || !strings.Contains(log.String(), "this version has no such probe") {
			t.Errorf("%+v\n%s", got, log.String())
		}
	})
}
