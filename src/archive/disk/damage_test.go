package disk

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"skydive/src/flow"
)

// failing is a disk that, when it is told to, fails to write some files.
type failing struct {
	vfs.FS
	suffix string // of their names
	broken atomic.Bool
	failed atomic.Int64
}

func (f *failing) wrap(file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return failingFile{file, f}, nil
}

func (f *failing) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if !strings.HasSuffix(name, f.suffix) {
		return f.FS.Create(name, c)
	}
	return f.wrap(f.FS.Create(name, c))
}

func (f *failing) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if !strings.HasSuffix(to, f.suffix) {
		return f.FS.ReuseForWrite(from, to, c)
	}
	return f.wrap(f.FS.ReuseForWrite(from, to, c))
}

func (f *failing) fails() bool {
	if f.broken.Load() {
		f.failed.Add(1)
		return true
	}
	return false
}

type failingFile struct {
	vfs.File
	fs *failing
}

func (f failingFile) Write(b []byte) (int, error) {
	if f.fs.fails() {
		return 0, syscall.EIO
	}
	return f.File.Write(b)
}

func (f failingFile) SyncData() error {
	if f.fs.fails() {
		return syscall.EIO
	}
	return f.File.SyncData()
}

// TestDiskThatFails: an archive whose disk fails ends its work and says so, whether the log fails or a table that is written behind it;
// nobody is held up, nothing is tried again and again, and what was acknowledged is there afterwards.
func TestDiskThatFails(t *testing.T) {
	for _, suffix := range []string{".log", ".sst"} {
		t.Run(suffix, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "archive")
			a := New(Options{Path: path, Logger: slog.New(slog.DiscardHandler)})
			disk := &failing{FS: vfs.Default, suffix: suffix}
			a.fs = disk
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- a.Run(ctx) }()
			<-a.Ready()
			now := time.Now().UnixMilli()
			store(t, a, sample(1, now), sample(2, now))
			disk.broken.Store(true)
			if suffix == ".sst" {
				if _, err := a.db.AsyncFlush(); err != nil {
					t.Fatal(err)
				}
				becomes(t, a, Failed)
			}
			quick(t, "the first refusal", func() {
				if err := a.StoreFlows(t.Context(), []*flow.Flow{sample(3, now)}); !errors.Is(err, ErrStopped) {
					t.Error(err)
				}
			})
			s := becomes(t, a, Failed)
			if !strings.Contains(s.Reason, "input/output error") || !strings.Contains(s.Reason, "restart") || s.Dropped.Flows != 1 {
				t.Errorf("%+v", s)
			}
			quick(t, "more refusals", func() {
				for range 10 {
					if err := a.StoreFlows(t.Context(), []*flow.Flow{sample(4, now)}); !errors.Is(err, ErrStopped) {
						t.Error(err)
					}
				}
			})
			quick(t, "a question", func() {
				limited, stop := context.WithTimeout(t.Context(), time.Second)
				defer stop()
				if found, err := a.Flows(limited, ms(now-hour), ms(now), nil); err == nil && len(found) < 2 {
					t.Error(len(found))
				}
			})
			tries := disk.failed.Load()
			<-time.After(300 * time.Millisecond) // a loop would turn
			if more := disk.failed.Load() - tries; more > 0 {
				t.Errorf("%d more tries", more)
			}
			cancel()
			quick(t, "the end", func() { <-ended }) // whatever it says: it is said already

			copied := filepath.Join(t.TempDir(), "archive") // the engine that failed still holds the other
			if err := os.CopyFS(copied, os.DirFS(path)); err != nil {
				t.Fatal(err)
			}
			again, _ := opened(t, Options{Path: copied})
			if have := stored(t, again, 1, 2); have != 2 {
				t.Errorf("%d of 2 acknowledged flows", have)
			}
		})
	}
}

// TestDamagedFiles damages each file of an archive in turn: it is opened or refused, answers or says that it is damaged, and what it says
// tells what to do.
func TestDamagedFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "archive")
	a, end := opened(t, Options{Path: path})
	now := time.Now().UnixMilli()
	for n := range uint64(20) {
		var flows []*flow.Flow
		for i := range uint64(500) {
			flows = append(flows, sample(n*500+i+1, now-int64(n)*minute))
		}
		store(t, a, flows...)
	}
	if err := a.db.Flush(); err != nil {
		t.Fatal(err)
	}
	store(t, a, sample(1<<30, now))
	end()
	files, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	refusals, errs, damaged := 0, 0, int64(0)
	for _, file := range files {
		for _, how := range []string{"flipped", "cut", "emptied", "missing"} {
			copied := filepath.Join(t.TempDir(), "archive")
			if err := os.CopyFS(copied, os.DirFS(path)); err != nil {
				t.Fatal(err)
			}
			harm(t, filepath.Join(copied, file.Name()), how)
			what := file.Name() + " " + how
			a := New(Options{Path: copied, Logger: slog.New(slog.DiscardHandler)})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- a.Run(ctx) }()
			select {
			case err := <-ended:
				cancel()
				if err == nil {
					t.Fatal(what)
				}
				refusals++
				contains(t, err, copied, "another path") // and what to do
				if strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: %q", what, err)
				}
				continue
			case <-a.Ready():
			}
			found, err := a.Flows(t.Context(), ms(now-hour), ms(now), nil)
			switch {
			case err != nil && !errors.Is(err, ErrDamaged):
				t.Errorf("%s: %v", what, err)
			case err != nil:
				errs++
			case len(found) < 10_001:
				t.Logf("%s: %d flows", what, len(found))
			}
			if _, _, err := a.Graph(t.Context(), ms(now), ms(now)); err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("%s: %v", what, err)
			}
			damaged += a.Status().(Status).Dropped.Damaged
			quick(t, what, func() {
				if err := a.StoreFlows(t.Context(), []*flow.Flow{sample(1<<31, now)}); err != nil && !errors.Is(err, ErrStopped) {
					t.Errorf("%s: %v", what, err)
				}
			})
			cancel()
			quick(t, what, func() { <-ended })
		}
	}
	t.Logf("%d files: %d refusals, %d wrong answers refused, %d counted", len(files), refusals, errs, damaged)
	if refusals == 0 || errs == 0 || damaged == 0 {
		t.Error("the test damages nothing")
	}
}

func harm(t *testing.T, file, how string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	switch how {
	case "missing":
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		return
	case "emptied":
		text = nil
	case "cut":
		text = text[:len(text)/2]
	default:
		for i := len(text) / 4; i < len(text); i += 1 + len(text)/16 {
			text[i] ^= 0x55
		}
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestArchivesOfOthers(t *testing.T) {
	write := func(what string, change func(path string) error) string {
		path := filepath.Join(t.TempDir(), "archive")
		_, end := opened(t, Options{Path: path})
		end()
		if err := change(path); err != nil {
			t.Fatal(what, err)
		}
		return path
	}
	engine := func(path string, change func(db *pebble.DB) error) error {
		db, err := pebble.Open(path, &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
		if err != nil {
			return err
		}
		return errors.Join(change(db), db.Close())
	}
	for what, c := range map[string]struct {
		change func(path string) error
		says   []string
	}{
		"newer": {func(path string) error {
			return engine(path, func(db *pebble.DB) error {
				return db.Set([]byte{spaceVersion}, []byte("skydive archive 2"), pebble.Sync)
			})
		}, []string{`written as "skydive archive 2"`, "another path"}},
		"foreign": {func(path string) error {
			return engine(path, func(db *pebble.DB) error {
				return errors.Join(db.Delete([]byte{spaceVersion}, pebble.Sync), db.Set([]byte("key"), nil, pebble.Sync))
			})
		}, []string{"another program", "another path"}},
		"newer engine": {func(path string) error {
			found, err := filepath.Glob(filepath.Join(path, "marker.format-version.*"))
			if err != nil || len(found) != 1 {
				return errors.Join(err, errors.New("no marker"))
			}
			return os.Rename(found[0], filepath.Join(path, "marker.format-version.999999.999"))
		}, []string{"newer", "another path"}},
	} {
		path := write(what, c.change)
		contains(t, refused(t, Options{Path: path}), append(c.says, path)...)
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(string, ...any) { runtime.Goexit() }
