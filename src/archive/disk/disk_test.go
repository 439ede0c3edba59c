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

	"skydive/src/flow"
)

// opened runs an archive until the test ends or the function that it returns is called.
func opened(t testing.TB, o Options) (*Archive, func()) {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "archive")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(logs{t}, &slog.HandlerOptions{Level: slog.LevelError}))
	}
	a := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	select {
	case <-a.Ready():
	case err := <-ended:
		cancel()
		t.Fatal(err)
	}
	closed := false
	end := func() {
		cancel()
		if closed {
			return
		}
		closed = true
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(end)
	return a, end
}

// logs writes a log to a test.
type logs struct{ t testing.TB }

func (l logs) Write(b []byte) (int, error) {
	l.t.Logf("%s", b)
	return len(b), nil
}

func refused(t *testing.T, o Options) error {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	a := New(o)
	err := a.Run(ctx)
	if err == nil {
		t.Fatal("opened")
	}
	if s := a.Status().(Status); s.State != Closed {
		t.Errorf("state %s after a refusal", s.State)
	}
	return err
}

func contains(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not name %q", err, p)
		}
	}
}

func TestOneProcessHoldsAnArchive(t *testing.T) {
	a, end := opened(t, Options{})
	path := a.o.Path
	contains(t, refused(t, Options{Path: path}), path, fmt.Sprintf("in use by process %d", os.Getpid()))
	end()
	_, end = opened(t, Options{Path: path})
	end()
}

func TestOthersCannotRead(t *testing.T) {
	a, end := opened(t, Options{})
	if err := a.StoreFlows(t.Context(), []*flow.Flow{sample(1, time.Now().UnixMilli())}); err != nil {
		t.Fatal(err)
	}
	end()
	info, err := os.Stat(a.o.Path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("directory %v", info.Mode())
	}
	files, err := os.ReadDir(a.o.Path)
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 && !info.IsDir() {
			t.Errorf("%s: %v %v", f.Name(), info.Mode(), err)
		}
	}
}

func TestForeignDirectoriesAreRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "letters.txt"), []byte("private"), 0o644); err != nil {
		t.Fatal(err)
	}
	contains(t, refused(t, Options{Path: dir}), dir, "holds other files")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, refused(t, Options{Path: file}), file, "not writable")
	contains(t, refused(t, Options{Path: filepath.Join(file, "archive")}), file, "not writable")
}

func TestNothingWorksBeforeAndAfter(t *testing.T) {
	a := New(Options{Path: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	check := func(when string) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond) // questions wait for it to open
		defer cancel()
		if err := a.StoreFlows(ctx, []*flow.Flow{sample(1, 1)}); err == nil {
			t.Error("stored", when)
		}
		if _, err := a.Flows(ctx, time.Now(), time.Now(), nil); err == nil {
			t.Error("flows", when)
		}
		if _, _, err := a.Graph(ctx, time.Now(), time.Now()); err == nil {
			t.Error("graph", when)
		}
	}
	check("before")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	<-a.Ready()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	check("after")
}
