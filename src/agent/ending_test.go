package agent

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"skydive/src/flow"
)

// slowWay takes a while for each block.
type slowWay struct{ changed chan struct{} }

func (w slowWay) reachable() (map[string]reach, <-chan struct{}) {
	return map[string]reach{"a": {up: true}}, w.changed
}

func (slowWay) send(ctx context.Context, _ string, _ *block) error {
	return wait(ctx, 200*time.Millisecond)
}

func (slowWay) refusing() []string { return nil }
func (slowWay) close()             {}

// TestEndWhileSending: a slow analyzer does not hold up the end, however much is queued.
func TestEndWhileSending(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	s, err := NewFlowSender(FlowSenderOptions{Agent: New(Options{Logger: quiet}), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	s.way = slowWay{make(chan struct{})}
	f := &flow.Flow{UUID: "abc", NodeTID: string(make([]byte, 300))}
	for len(s.queue.ready) < 60 {
		s.queue.flow(f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > drainTime+2*time.Second {
		t.Errorf("the end took %s", took)
	}
	if left, _ := s.queue.length(); left == 0 || s.Status().Lost == nil {
		t.Errorf("%d records left, lost %v", left, s.Status().Lost)
	}
}
