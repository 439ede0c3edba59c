package disk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"skydive/src/flow"
	"skydive/src/graph"
)

// childPath, if set, makes this program another process that stores into an archive until it is killed.
const childPath = "SKYDIVE_ARCHIVE_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		if err := child(path, os.Getenv("SKYDIVE_ARCHIVE_IDLE") == ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child opens the archive, adds a node to its graph, and says "node"; then, unless it is idle, it stores flows in two goroutines and says of
// each batch that was acknowledged which it was.
func child(path string, busy bool) error {
	a := New(Options{Path: path, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))})
	ctx := context.Background()
	ended := make(chan error, 2)
	go func() { ended <- a.Run(ctx) }()
	select {
	case <-a.Ready():
	case err := <-ended:
		return err
	}
	g := graph.New(graph.Options{})
	go func() { ended <- a.Follow(ctx, g) }()
	if err := g.Update("", func(tx *graph.Tx) error { return tx.AddNode(node("n1", "Name", "n1")) }); err != nil {
		return err
	}
	for a.metrics.revisions.get() == 0 {
		<-time.After(time.Millisecond)
	}
	fmt.Println("node")
	if busy {
		var said sync.Mutex
		for worker := range uint64(2) {
			go func() {
				for batch := uint64(0); ; batch++ {
					var flows []*flow.Flow
					for i := range uint64(50) {
						flows = append(flows, childFlow(worker, batch, i, time.Now().UnixMilli()))
					}
					if err := a.StoreFlows(ctx, flows); err != nil {
						ended <- err
						return
					}
					said.Lock()
					fmt.Println(worker, batch)
					said.Unlock()
				}
			}()
		}
	}
	return <-ended
}

func childFlow(worker, batch, i uint64, at int64) *flow.Flow {
	f := sample(worker<<40|batch<<8|i+1, at)
	f.CaptureID = fmt.Sprint(os.Getpid())
	return f
}

// other is a child process.
type other struct {
	cmd   *exec.Cmd
	said  *bufio.Scanner
	wrong strings.Builder
}

func startChild(t *testing.T, path string, env ...string) *other {
	t.Helper()
	o := &other{cmd: exec.Command("/proc/self/exe")}
	o.cmd.Env = append(append(os.Environ(), childPath+"="+path), env...)
	o.cmd.Stderr = &o.wrong
	out, err := o.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	o.said = bufio.NewScanner(out)
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = o.cmd.Process.Kill() // it may have ended
		_, _ = o.cmd.Process.Wait()
	})
	if !o.said.Scan() || o.said.Text() != "node" {
		_ = o.cmd.Wait()
		t.Fatalf("the child said %q, %s", o.said.Text(), o.wrong.String())
	}
	return o
}

// kill ends the process as if the machine's memory had run out, and returns what it had said.
func (o *other) kill(t *testing.T) (said []string) {
	t.Helper()
	if err := o.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for o.said.Scan() {
		said = append(said, o.said.Text())
	}
	err := o.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended before it was killed: %v %s", err, o.wrong.String())
	}
	return said
}

// TestKilledWhileStoring kills a process in the middle of its work, several times: what it acknowledged is there.
func TestKilledWhileStoring(t *testing.T) {
	path := filepath.Join(t.TempDir(), "archive")
	rng := rand.New(rand.NewPCG(1, 9))
	began := time.Now().Add(-time.Minute)
	want := make(map[string]map[string]bool) // by process: flows
	for range 5 {
		o := startChild(t, path)
		var said []string
		for range 20 + rng.IntN(200) { // so many batches later
			if !o.said.Scan() {
				t.Fatal("the child ended: ", o.wrong.String())
			}
			said = append(said, o.said.Text())
		}
		pid := fmt.Sprint(o.cmd.Process.Pid)
		want[pid] = make(map[string]bool)
		for _, line := range append(said, o.kill(t)...) {
			var worker, batch uint64
			if n, _ := fmt.Sscan(line, &worker, &batch); n != 2 {
				t.Fatalf("the child said %q", line) // lines are written as a whole
			}
			for i := range uint64(50) {
				want[pid][childFlow(worker, batch, i, 0).UUID] = true
			}
		}
		a, end := opened(t, Options{Path: path})
		found, err := a.Flows(t.Context(), began, time.Now(), nil)
		if err != nil {
			t.Fatal(err)
		}
		have := make(map[string]bool)
		for _, f := range found {
			if f.CaptureID == pid {
				have[f.UUID] = true
			}
		}
		missing := 0
		for id := range want[pid] {
			if !have[id] {
				missing++
			}
		}
		if missing > 0 || len(have) < len(want[pid]) {
			t.Fatalf("%d of %d acknowledged flows are lost", missing, len(want[pid]))
		}
		if s := a.Status().(Status); s.FlowRecords < int64(len(want[pid])) {
			t.Errorf("%+v", s)
		}
		t.Logf("%d acknowledged, %d there", len(want[pid]), len(have))
		end()
	}
}

// TestKilledWhileIdle: what was in the graph of a process that was killed ended when it was killed, or within a second, not when it last wrote.
func TestKilledWhileIdle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "archive")
	o := startChild(t, path, "SKYDIVE_ARCHIVE_IDLE=1")
	there := time.Now()
	<-time.After(3500 * time.Millisecond) // it is idle that long
	o.kill(t)
	killed := time.Now()
	<-time.After(1200 * time.Millisecond) // nobody runs that long
	a, _ := opened(t, Options{Path: path})
	for _, c := range []struct {
		at   time.Time
		want int
	}{{there, 1}, {killed.Add(-100 * time.Millisecond), 1}, {killed.Add(1100 * time.Millisecond), 0}, {time.Now(), 0}} {
		nodes, _, err := a.Graph(t.Context(), c.at, c.at)
		if err != nil || len(nodes) != c.want {
			t.Errorf("%v before it was killed: %d nodes, want %d %v", killed.Sub(c.at), len(nodes), c.want, err)
		}
	}
	nodes, _, err := a.Graph(t.Context(), there, time.Now())
	if err != nil || len(nodes) != 1 {
		t.Fatal(len(nodes), err)
	}
	if ended := time.UnixMilli(int64(nodes[0].DeletedAt)); ended.Before(killed.Add(-100*time.Millisecond)) || ended.After(killed.Add(1100*time.Millisecond)) {
		t.Errorf("it ended %v before it was killed", killed.Sub(ended))
	}
}

func TestAnotherProcessHoldsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "archive")
	o := startChild(t, path, "SKYDIVE_ARCHIVE_IDLE=1")
	contains(t, refused(t, Options{Path: path}), path, fmt.Sprintf("in use by process %d:", o.cmd.Process.Pid), "own path")
	// It goes on.
	o.kill(t)
	_, end := opened(t, Options{Path: path})
	end()
}

// TestRootNotWritable is another user's process.
func TestRootNotWritable(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for p := dir; p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self := filepath.Join(dir, "program")
	if err := copyFile(self, "/proc/self/exe"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "archive")
	_, end := opened(t, Options{Path: path})
	end()
	for _, path := range []string{path, filepath.Join(dir, "new")} {
		cmd := exec.Command(self)
		cmd.Env = []string{childPath + "=" + path}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		text, err := cmd.CombinedOutput()
		if err == nil {
			t.Fatalf("%s: opened", path)
		}
		contains(t, errors.New(string(text)), path, "not writable", "permission denied", "user")
	}
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// needRoot skips a test that cannot work, but not where all must.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("SKYDIVE_CI") == "1" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// inNamespace runs the test once more in a mount namespace of its own, and returns true there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const inside = "SKYDIVE_ARCHIVE_NAMESPACE"
	if os.Getenv(inside) != "" {
		if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	needRoot(t)
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=2m"}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", slices.Clip(args)...)
	cmd.Env = append(os.Environ(), inside+"=1", "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}
