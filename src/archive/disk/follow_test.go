package disk

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
)

// TestFollowDamaged: a damaged record is the end of the archive, not of who follows the graph.
func TestFollowDamaged(t *testing.T) {
	a := New(Options{Path: filepath.Join(t.TempDir(), "archive"), Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended, followed := make(chan error, 1), make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	<-a.Ready()
	if err := a.db.Set([]byte("oaq"), []byte("no record"), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	g := graph.New(graph.Options{})
	if err := g.Update("", func(tx *graph.Tx) error {
		for i := range 10 {
			if err := tx.AddNode(&graph.Node{Element: graph.Element{ID: fmt.Sprint("n", i), Metadata: field.Make("Name", "n", "Type", "t")}}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	go func() { followed <- a.Follow(ctx, g) }()
	becomes(t, a, Failed)
	select {
	case err := <-followed:
		t.Error("Follow has ended:", err)
	default:
	}
	cancel()
	if err := <-followed; err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestDirectoryVanishes: whoever deletes the directory of a running archive ends the archive, and nothing else.
func TestDirectoryVanishes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "archive")
	a := New(Options{Path: path, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	<-a.Ready()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	writing, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	for n := 0; a.Status().(Status).State == Running; n++ { // until the engine wants a new file
		flows := make([]*flow.Flow, 1000)
		for i := range flows {
			flows[i] = sample(uint64(n*1000+i), time.Now().UnixMilli())
		}
		if err := a.StoreFlows(writing, flows); err != nil && writing.Err() != nil {
			t.Fatal(err)
		}
	}
	if s := a.Status().(Status); s.State != Failed || s.Reason == "" {
		t.Errorf("%+v", s)
	}
	cancel()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), path) { // its goroutines are stuck: it cannot close
		t.Error(err)
	}
}
