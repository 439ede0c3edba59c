package etcd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Full of history it makes room for itself; full of values it says so, and takes values again once there are fewer.
func TestFull(t *testing.T) {
	t.Parallel()
	cfg := embedded(t, t.TempDir())
	cfg.quota = 8 << 20
	s, _ := run(t, cfg)
	ctx := t.Context()
	value := bytes.Repeat([]byte("v"), 200<<10)
	fill := func(key func(int) string) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond) // the size is known with the next batch
		defer tick.Stop()
		for i := range 600 {
			if err := s.Put(ctx, key(i), value); err != nil {
				if !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
				return
			}
			<-tick.C
		}
		t.Fatal("never full")
	}
	fill(func(int) string { return "/same" })
	eventually(t, 10*time.Second, "room after history", func() bool { return s.Put(ctx, "/same", value) == nil })
	if st := s.Status(); st.Reason != "" || st.Cluster.Size >= cfg.quota || len(st.Cluster.Members) != 1 || !st.Cluster.Members[0].Leader {
		t.Errorf("%+v", st)
	}
	fill(func(i int) string { return fmt.Sprintf("/many/%d", i) })
	for range 3 {
		if err := s.Put(ctx, "/more", value); !errors.Is(err, ErrFull) {
			t.Errorf("%v", err)
		}
	}
	if st := s.Status(); st.Reason != ErrFull.Error() || !slices.Contains(st.Cluster.Alarms, "NOSPACE") || st.Cluster.Quota != cfg.quota {
		t.Errorf("%+v", st)
	}
	if err := s.Create(ctx, "/capture/ttl", []byte("1"), time.Minute); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	all, err := s.List(ctx, "/many/")
	if err != nil {
		t.Fatal(err)
	}
	for key := range all {
		if err := s.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "room after deleting", func() bool { return s.Put(ctx, "/more", value) == nil })
}

// Whatever is damaged, there is no panic: it starts and has what it had, or says which directory to look after.
func TestDamagedData(t *testing.T) {
	t.Parallel()
	good := t.TempDir()
	s, stop := run(t, embedded(t, good))
	for i := range 200 {
		if err := s.Put(t.Context(), fmt.Sprintf("/x/%d", i), []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	wal, err := filepath.Glob(filepath.Join(good, "member", "wal", "*.wal"))
	if err != nil || len(wal) == 0 {
		t.Fatal(wal, err)
	}
	log, err := filepath.Rel(good, wal[0])
	if err != nil {
		t.Fatal(err)
	}
	db := filepath.Join("member", "snap", "db")
	damage := func(at int64, what []byte) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(what, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	rubbish := bytes.Repeat([]byte("rubbish."), 512)
	for name, c := range map[string]struct {
		file string
		do   func(*testing.T, string)
	}{
		"log: rubbish at its beginning": {log, damage(0, rubbish)},
		"log: rubbish in the middle":    {log, damage(6000, rubbish)},
		"log: one byte":                 {log, damage(7001, []byte{0xff})},
		"log: empty": {log, func(t *testing.T, file string) {
			if err := os.Truncate(file, 0); err != nil {
				t.Fatal(err)
			}
		}},
		"log: gone": {log, func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}},
		"database: rubbish at its beginning": {db, damage(0, bytes.Repeat(rubbish, 4))},
		"database: rubbish in the middle":    {db, damage(8192, bytes.Repeat(rubbish, 8))},
		"database: gone": {db, func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}},
		"database: cut": {db, func(t *testing.T, file string) {
			if err := os.Truncate(file, 9000); err != nil {
				t.Fatal(err)
			}
		}},
		"database: empty": {db, func(t *testing.T, file string) {
			if err := os.Truncate(file, 0); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "damaged")
			if err != nil {
				t.Fatal(err)
			}
			// A server that gave up may be making its next file.
			t.Cleanup(func() { eventually(t, 10*time.Second, "removal", func() bool { return os.RemoveAll(dir) == nil }) })
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			c.do(t, filepath.Join(dir, c.file))
			m := begin(t, embedded(t, dir), quiet())
			select {
			case <-m.Ready():
				all, err := m.List(t.Context(), "/x/")
				t.Logf("started, with %d keys, %v", len(all), err)
			case err := <-m.ended:
				m.ended <- err
				if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "move it away") {
					t.Errorf("no advice: %v", err)
				}
				t.Log(err)
			case <-time.After(20 * time.Second):
				t.Errorf("neither started nor failed: %+v", m.Status())
			}
		})
	}
}
