package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"skydive/src/graph"
	"skydive/src/probe"
)

type onlyRuns struct{ running, turns *atomic.Int32 }

func (p onlyRuns) Run(ctx context.Context) error {
	p.turns.Add(1)
	if p.running.Add(1) > 1 {
		panic("twice at once")
	}
	<-ctx.Done()
	p.running.Add(-1)
	return nil
}

// TestProbesRunWhileElected: never twice at once, however quickly an election is won again.
func TestProbesRunWhileElected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p onlyRuns
		p.running, p.turns = new(atomic.Int32), new(atomic.Int32)
		spec := probe.Define("p", "", struct{}{}, func(probe.Env, struct{}) (probe.Probe, error) { return p, nil })
		supervisor, err := probe.NewSupervisor(probe.Options{
			Graph: graph.New(graph.Options{}), Origin: analyzerOrigin, Specs: []probe.Spec{spec}, Names: []string{"p"}, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		probes := &analyzerProbes{Supervisor: supervisor}
		want := func(what string, running int32, state probe.State, reason bool) {
			t.Helper()
			synctest.Wait()
			s := probes.Status()["p"]
			if p.running.Load() != running || s.Status != state || (s.Reason != "") != reason {
				t.Errorf("%s: %d running, %+v", what, p.running.Load(), s)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		want("before", 0, probe.Stopped, true)
		done := make(chan error)
		lead := make(chan func(bool), 1)
		go func() {
			done <- probes.stand(ctx, func(ctx context.Context, fn func(bool)) error { lead <- fn; <-ctx.Done(); fn(false); return nil })
		}()
		fn := <-lead
		want("not elected", 0, probe.Stopped, true)
		fn(true)
		want("elected", 1, probe.Starting, false)
		for range 3 {
			fn(false)
			fn(true)
		}
		want("elected again", 1, probe.Starting, false)
		fn(false)
		want("another one is", 0, probe.Stopped, true)
		fn(true)
		want("and again", 1, probe.Starting, false)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want("the end", 0, probe.Stopped, true)
	})
}
