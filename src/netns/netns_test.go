package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needRoot skips without the privilege to make namespaces; in CI that is a failure.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("SKYDIVE_CI") == "1" {
		t.Fatal("root is needed to make network namespaces")
	}
	t.Skip("root is needed to make network namespaces")
}

// mount makes a new namespace and gives it a name.
func mount(t testing.TB, path string) ID {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unshare", "--net="+path, "true").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { unmount(path) })
	id, err := PathID(path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func unmount(path string) {
	_ = unix.Unmount(path, unix.MNT_DETACH)
	_ = os.Remove(path)
}

// seen collects what a watcher reports.
type seen struct {
	mu   sync.Mutex
	view View
	n    int
}

func (s *seen) report(v View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view, s.n = v, s.n+1
}

func (s *seen) get(id ID) (Namespace, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.view.Namespaces, func(n Namespace) bool { return n.ID == id })
	if i < 0 {
		return Namespace{}, false
	}
	return s.view.Namespaces[i], true
}

func watch(t *testing.T, cfg Config) (*Watcher, *seen) {
	t.Helper()
	s := &seen{}
	w := New(cfg, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, s.report) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	eventually(t, time.Second, "first report", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.n > 0 })
	return w, s
}

// eventually waits for what must come true, longer than told on a busy machine: speed is measured by make bench.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) time.Duration {
	within = max(within, 10*time.Second)
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("%s: not within %v", what, within)
		}
		<-tick.C
	}
	return time.Since(start)
}

func TestPathIDRefusesOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := PathID(path); !errors.Is(err, fs.ErrInvalid) {
		t.Fatalf("ordinary file: %v", err)
	}
	if _, err := PathID("/proc/self/ns/uts"); err != nil {
		t.Logf("other kinds of namespaces are on nsfs too: %v", err)
	}
	id, err := PathID("/proc/self/ns/net")
	if err != nil || id.Inode == 0 || id.Device == 0 {
		t.Fatalf("own namespace: %v %v", id, err)
	}
}

func TestKernelThread(t *testing.T) {
	for _, tc := range []struct {
		stat string
		want bool
	}{
		{"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0", true},
		{"77 (a) S 1 (b) S 1 2 3 4 -1 4194560 0", false},
		{"78 ((sd-pam)) S 0 0 0 0 -1 2129984 0 0", true},
		{"9 (x) S", false},
		{"", false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/stat", []byte(tc.stat), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := isKernelThread(dir); got != tc.want {
			t.Errorf("%q: %v", tc.stat, got)
		}
	}
}

// A procfs of links in a directory: what an unprivileged agent sees, and the lowest process of each namespace.
func TestProcessesScan(t *testing.T) {
	root := t.TempDir()
	for pid, inode := range map[int]int{9: 50, 10: 50, 11: 51} {
		dir := fmt.Sprintf("%s/%d/ns", root, pid)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(fmt.Sprintf("net:[%d]", inode), dir+"/net"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(root+"/notapid", 0o755); err != nil {
		t.Fatal(err)
	}
	p := processes{root: root, device: 4}
	lowest, hidden, err := p.scan()
	if err != nil || hidden || len(lowest) != 2 || lowest[ID{4, 50}] != 9 || lowest[ID{4, 51}] != 11 {
		t.Fatalf("%v %v %v", lowest, hidden, err)
	}
}

func TestRootNames(t *testing.T) {
	needRoot(t)
	run := filepath.Join(t.TempDir(), "does", "not", "exist", "yet")
	_, s := watch(t, Config{RunPath: run})
	if err := os.MkdirAll(run, 0o755); err != nil {
		t.Fatal(err)
	}
	a := mount(t, run+"/a")
	took := eventually(t, time.Second, "namespace in a new directory", func() bool { _, ok := s.get(a); return ok })
	t.Logf("in a new directory: %v", took)

	b := mount(t, run+"/b")
	took = eventually(t, 300*time.Millisecond, "second namespace", func() bool { _, ok := s.get(b); return ok })
	t.Logf("in a known directory: %v", took)

	// A second name, by symbolic link; then the first goes.
	if err := os.Symlink(run+"/a", run+"/0-also-a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "two names", func() bool { n, _ := s.get(a); return n.String() == "0-also-a,a" })
	if err := os.Remove(run + "/0-also-a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "one name", func() bool { n, _ := s.get(a); return n.String() == "a" })

	unmount(run + "/b")
	took = eventually(t, 300*time.Millisecond, "removal", func() bool { _, ok := s.get(b); return !ok })
	t.Logf("removal: %v", took)

	// The directory goes and comes back.
	unmount(run + "/a")
	if err := os.Remove(run); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "all gone", func() bool { _, ok := s.get(a); return !ok })
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	c := mount(t, run+"/c")
	eventually(t, 1500*time.Millisecond, "namespace in the recreated directory", func() bool { _, ok := s.get(c); return ok })
}

func TestRootProcesses(t *testing.T) {
	needRoot(t)
	w, s := watch(t, Config{ProcPath: "/proc"})
	cmd := exec.Command("unshare", "-n", "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	own, err := PathID("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var id ID
	eventually(t, time.Second, "unshare", func() bool {
		id, err = PathID(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
		return err == nil && id != own
	})
	w.Rescan()
	eventually(t, 500*time.Millisecond, "anonymous namespace", func() bool { _, ok := s.get(id); return ok })
	eventually(t, 3*time.Second, "its command", func() bool { n, _ := s.get(id); return n.Command == "sleep" })
	n, _ := s.get(id)
	if n.PID != cmd.Process.Pid || !strings.HasSuffix(n.Path(), fmt.Sprintf("/%d/ns/net", n.PID)) {
		t.Fatalf("%+v %s", n, n.Path())
	}
	f, err := n.Open()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, 2*time.Second, "end of the namespace", func() bool { _, ok := s.get(id); return !ok })
	if _, err := n.Open(); !errors.Is(err, ErrGone) {
		t.Fatalf("open of a dead namespace: %v", err)
	}
}

func TestRootNameGoesProcessStays(t *testing.T) {
	needRoot(t)
	run := t.TempDir()
	_, s := watch(t, Config{RunPath: run, ProcPath: "/proc"})
	id := mount(t, run+"/a")
	eventually(t, time.Second, "named", func() bool { n, _ := s.get(id); return n.String() == "a" })
	cmd := exec.Command("nsenter", "--net="+run+"/a", "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	eventually(t, time.Second, "process in it", func() bool {
		got, err := PathID(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
		return err == nil && got == id
	})
	unmount(run + "/a")
	eventually(t, time.Second, "anonymous", func() bool {
		n, ok := s.get(id)

		return ok && len(n.Names) == 0 && n.PID == cmd.Process.Pid
	})
}

func TestRootDo(t *testing.T) {
	needRoot(t)
	path := t.TempDir() + "/a"
	id := mount(t, path)
	f, err := OpenPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	own, err := PathID("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			err := Do(f, func() error {
				got, err := PathID("/proc/thread-self/ns/net")
				if err == nil && got != id {
					err = fmt.Errorf("in %v, not %v", got, id)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			if got, err := PathID("/proc/thread-self/ns/net"); err != nil || got != own {
				t.Errorf("back in %v, not %v: %v", got, own, err)
			}
		})
	}
	wg.Wait()
	want := errors.New("from inside")
	if err := Do(f, func() error { return want }); err != want {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if r := recover(); r != "inside" {
				t.Errorf("recovered %v", r)
			}
		}()
		_ = Do(f, func() error { panic("inside") })
	}()
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := Do(file, func() error { return nil }); err == nil {
		t.Error("entered /dev/null")
	}
}

func BenchmarkScan(b *testing.B) {
	p := processes{root: "/proc"}
	for b.Loop() {
		if _, _, err := p.scan(); err != nil {
			b.Fatal(err)
		}
	}
}
