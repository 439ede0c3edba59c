package disk

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"skydive/src/flow"
	"skydive/src/graph"
)

// smallDisk mounts a file system of 24 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// ballast takes what is free but so much.
func ballast(t *testing.T, dir string, but int64) (file string) {
	t.Helper()
	file = filepath.Join(dir, "ballast")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	for {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(dir, &fs); err != nil {
			t.Fatal(err)
		}
		if int64(fs.Bavail)*fs.Bsize <= but {
			return file
		}
		if _, err := f.Write(page); err != nil {
			if full(err) {
				return file
			}
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

// becomes waits for a state.
func becomes(t *testing.T, a *Archive, s State) Status {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		now := a.Status().(Status)
		if now.State == s {
			return now
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v, want %s", now, s)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// quick fails when something takes longer than nobody else may be held up.
func quick(t *testing.T, what string, fn func()) {
	t.Helper()
	began := time.Now()
	fn()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("%s took %v", what, took)
	}
}

// storing stores batches of flows until one is refused, and returns what was acknowledged.
func storing(t *testing.T, a *Archive, first uint64) (stored uint64, err error) {
	t.Helper()
	now := time.Now().UnixMilli()
	for n := first; n < first+1_000_000; n += 1000 {
		var flows []*flow.Flow
		for i := range uint64(1000) {
			flows = append(flows, sample(n+i, now))
		}
		quick(t, "a batch", func() { err = a.StoreFlows(t.Context(), flows) })
		if err != nil {
			return n - first, err
		}
	}
	t.Fatal("a disk of 24 MiB takes a million flows")
	return 0, nil
}

// stored tells how many of the flows from first on the archive has.
func stored(t *testing.T, a *Archive, first, n uint64) (have uint64) {
	t.Helper()
	all, err := a.Flows(t.Context(), time.Now().Add(-time.Hour), time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool, len(all))
	for _, f := range all {
		ids[f.UUID] = true
	}
	for i := range n {
		if ids[sample(first+i, 0).UUID] {
			have++
		}
	}
	return have
}

// TestRootFullDisk fills a disk under an archive, which stops, says so, holds up nobody, and goes on when there is room.
func TestRootFullDisk(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := smallDisk(t)
	a, end := opened(t, Options{Path: filepath.Join(dir, "archive"), MinFree: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	g := graph.New(graph.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() { followed <- a.Follow(ctx, g) }()
	change := func(id string) {
		if err := g.Update("", func(tx *graph.Tx) error { return tx.AddNode(node(id, "Name", id)) }); err != nil {
			t.Fatal(err)
		}
	}
	nodes := func() (ids []string) {
		found, _, err := a.Graph(t.Context(), ms(1<<46), ms(1<<46))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range found {
			ids = append(ids, n.ID)
		}
		slices.Sort(ids)
		return ids
	}
	change("before")
	for deadline := time.Now().Add(10 * time.Second); !slices.Equal(nodes(), []string{"before"}); {
		if time.Now().After(deadline) {
			t.Fatal(nodes())
		}
		<-time.After(time.Millisecond)
	}
	file := ballast(t, dir, 10<<20)
	n, err := storing(t, a, 1)
	if !errors.Is(err, ErrStopped) {
		t.Fatal(n, err)
	}
	contains(t, err, "disk full")
	s := becomes(t, a, Stopped)
	if !strings.Contains(s.Reason, "disk full") || s.Dropped.Flows != 1000 || s.FlowRecords < int64(n) {
		t.Errorf("%+v", s)
	}
	t.Logf("%d flows stored, then: %v", n, err)
	// While it is stopped: refusals at once, each counted; answers as ever; the graph goes its way.
	quick(t, "100 refusals", func() {
		for range 100 {
			if err := a.StoreFlows(t.Context(), []*flow.Flow{sample(1, time.Now().UnixMilli())}); !errors.Is(err, ErrStopped) {
				t.Fatal(err)
			}
		}
	})
	if s := a.Status().(Status); s.Dropped.Flows != 1100 {
		t.Errorf("%+v", s)
	}
	quick(t, "a question", func() {
		if have := stored(t, a, 1, n); have != n {
			t.Errorf("%d of %d acknowledged flows while it is stopped", have, n)
		}
	})
	quick(t, "a change of the graph", func() { change("meanwhile") })
	ballast(t, dir, 0)
	if s := a.Status().(Status); s.State != Stopped {
		t.Errorf("%+v", s)
	}
	remove(t, file)
	becomes(t, a, Running)
	quick(t, "storing", func() { store(t, a, sample(7_000_000, time.Now().UnixMilli())) })
	for deadline := time.Now().Add(10 * time.Second); !slices.Equal(nodes(), []string{"before", "meanwhile"}); {
		if time.Now().After(deadline) {
			t.Fatal(nodes())
		}
		<-time.After(time.Millisecond)
	}
	if s := a.Status().(Status); s.Dropped.Commits != 1 || s.Reason != "" {
		t.Errorf("%+v", s)
	}
	if have := stored(t, a, 1, n) + stored(t, a, 7_000_000, 1); have != n+1 {
		t.Errorf("%d of %d acknowledged flows", have, n+1)
	}
	cancel()
	if err := <-followed; err != nil {
		t.Error(err)
	}
	end()
}

// TestRootClosedOnAFullDisk ends an archive whose writes wait for room: at once, and nothing that it acknowledged is lost.
func TestRootClosedOnAFullDisk(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := smallDisk(t)
	o := Options{Path: filepath.Join(dir, "archive"), MinFree: 1, Logger: slog.New(slog.DiscardHandler)} // it finds out by writing
	a, end := opened(t, o)
	n, err := storing(t, a, 1)
	if !errors.Is(err, ErrStopped) {
		t.Fatal(n, err)
	}
	ballast(t, dir, 0)
	if s := a.Status().(Status); s.State != Stopped || !strings.Contains(s.Reason, "no space left") {
		t.Errorf("%+v", s)
	}
	quick(t, "closing", end)
	quick(t, "a question", func() {
		if _, err := a.Flows(t.Context(), time.Now(), time.Now(), nil); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	copied := filepath.Join(t.TempDir(), "archive") // as the next process finds it: this one's engine was left alone
	if err := os.CopyFS(copied, os.DirFS(o.Path)); err != nil {
		t.Fatal(err)
	}
	a, _ = opened(t, Options{Path: copied})
	if have := stored(t, a, 1, n); have != n {
		t.Errorf("%d of %d acknowledged flows", have, n)
	}
}

// TestRootOpenedOnAFullDisk: an archive that finds no room waits for it, and its end waits for nothing.
func TestRootOpenedOnAFullDisk(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := smallDisk(t)
	o := Options{MinFree: 1, Logger: slog.New(slog.DiscardHandler)}
	for _, name := range []string{"first", "second"} {
		o.Path = filepath.Join(dir, name)
		a, end := opened(t, o)
		store(t, a, sample(1, time.Now().UnixMilli()))
		end()
	}
	file := ballast(t, dir, 0)
	a := New(o)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	becomes(t, a, Stopped)
	if err := a.StoreFlows(t.Context(), []*flow.Flow{sample(2, 1)}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	cancel()
	quick(t, "giving up", func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	ballast(t, dir, 0)
	o.Path = filepath.Join(dir, "first")
	a = New(o)
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- a.Run(ctx) }()
	becomes(t, a, Stopped)
	remove(t, file)
	becomes(t, a, Running)
	if have := stored(t, a, 1, 1); have != 1 {
		t.Error("the flow is lost")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
