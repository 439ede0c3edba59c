package main

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"skydive/src/archive/disk"
	"skydive/src/graph"
)

// TestArchiveInUse: an archive that cannot be opened ends the service with the reason; it does not go on without history in silence.
func TestArchiveInUse(t *testing.T) {
	dir := t.TempDir()
	open := func() *disk.Archive { return disk.New(disk.Options{Path: dir, Logger: slog.New(slog.DiscardHandler)}) }
	ctx, cancel := context.WithCancel(t.Context())
	holder, done := open(), make(chan error, 1)
	go func() { done <- holder.Run(ctx) }()
	defer func() { cancel(); <-done }()
	<-holder.Ready()
	second, ended := open(), make(chan error, 1)
	go func() {
		ended <- (&archives{topology: second, flows: second}).run(ctx, graph.New(graph.Options{}), func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		})
	}()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "in use by process") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("nobody is told: %+v", second.Status())
	}
}
