package analyzer

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"skydive/src/archive/disk"
	"skydive/src/field"
	"skydive/src/graph"
)

// history is the archive of an analyzer through all its lives, and what its graphs committed.
type history struct {
	path  string
	began time.Time

	mu   sync.Mutex
	told map[string]string // revision → a word on it
}

func newHistory(t testing.TB) *history {
	return &history{path: t.TempDir(), began: time.Now(), told: make(map[string]string)}
}

// revision names one state of an element.
func revision(e *graph.Element) string {
	return fmt.Sprintf("%s %d %d %s", e.ID, e.UpdatedAt, e.Revision, field.AppendJSON(nil, e.Metadata))
}

// follow archives what is committed to g, as an analyzer does, until ctx ends; ready is closed once it does so.
func (h *history) follow(ctx context.Context, t testing.TB, g *graph.Graph, ready chan<- struct{}) {
	commits, _ := g.Subscribe(1 << 16)
	archive := disk.New(disk.Options{Path: h.path, Logger: testLog()})
	open, closed := context.WithCancel(context.Background())
	var running, following sync.WaitGroup
	running.Go(func() {
		if err := archive.Run(open); err != nil {
			t.Error(err)
		}
	})
	following.Go(func() {
		if err := archive.Follow(ctx, g); err != nil {
			t.Error(err)
		}
	})
	<-archive.Ready()
	close(ready)
	stopped := ctx.Done()
	for commits != nil {
		select {
		case c, ok := <-commits.C():
			if !ok {
				commits = nil
				continue
			}
			h.note(c)
		case <-stopped:
			stopped = nil
			following.Wait()
			commits.Close() // what is in it still comes
		}
	}
	following.Wait()
	closed()
	running.Wait()
}

// note takes a commit down. What was over within its millisecond is below the resolution of a history.
func (h *history) note(c *graph.Commit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ch := range c.Changes {
		var old, now *graph.Element
		if ch.Node != nil {
			now = &ch.Node.Element
		} else {
			now = &ch.Edge.Element
		}
		if ch.OldNode != nil {
			old = &ch.OldNode.Element
		} else if ch.OldEdge != nil {
			old = &ch.OldEdge.Element
		}
		gone := ch.Kind == graph.NodeDeleted || ch.Kind == graph.EdgeDeleted
		if at := max(now.DeletedAt, now.UpdatedAt); old != nil && old.UpdatedAt >= at {
			delete(h.told, revision(old))
		}
		if !gone {
			h.told[revision(now)] = ch.Kind.String()
		}
	}
}

// whole tells whether the archive has every revision that was committed. The analyzer must be down.
func (h *history) whole(t testing.TB) error {
	archive := disk.New(disk.Options{Path: h.path, Logger: testLog()})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := archive.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer cancel()
	<-archive.Ready()
	nodes, edges, err := archive.Graph(ctx, h.began, time.Now())
	if err != nil {
		return err
	}
	found := make(map[string]bool, len(nodes)+len(edges))
	for _, n := range nodes {
		found[revision(&n.Element)] = true
	}
	for _, e := range edges {
		found[revision(&e.Element)] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	missing, one := 0, ""
	for r, kind := range h.told {
		if !found[r] {
			missing++
			one = kind + " " + r
		}
	}
	if missing > 0 || len(h.told) == 0 {
		return fmt.Errorf("%d of %d revisions are not among the %d of the archive, such as %s", missing, len(h.told), len(found), one)
	}
	return nil
}
