package etcd

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const childVariable = "SKYDIVE_ETCD_CHILD"

// TestChild is what the processes run that other tests start, and kill: a service that takes part in election x under its name until
// its input ends.
func TestChild(t *testing.T) {
	text := os.Getenv(childVariable)
	if text == "" {
		return // started as an ordinary test
	}
	var cfg Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg, Options{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	go func() {
		<-s.Ready()
		fmt.Println("ready")
		_ = s.Elect(ctx, "x", cfg.Name, func(leading bool) { fmt.Println("leads", leading, time.Now().UnixNano()) })
	}()
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// turn is a change of who leads.
type turn struct {
	leads bool
	at    time.Time
}

type child struct {
	cmd   *exec.Cmd
	ready chan struct{}
	gone  chan struct{}

	mu    sync.Mutex
	turns []turn
}

// last returns the latest turn; zero when there was none.
func (c *child) last() (t turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.turns); n > 0 {
		t = c.turns[n-1]
	}
	return t
}

// spawn starts a service in a process of its own; prefix is a command to run it with.
func spawn(t *testing.T, cfg Config, prefix ...string) *child {
	t.Helper()
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	args := append(prefix, os.Args[0], "-test.run=^TestChild$")
	c := &child{cmd: exec.Command(args[0], args[1:]...), ready: make(chan struct{}), gone: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	c.cmd.Stderr = os.Stderr
	in, err1 := c.cmd.StdinPipe()
	out, err2 := c.cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.gone)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			switch f := strings.Fields(lines.Text()); {
			case len(f) == 1 && f[0] == "ready":
				close(c.ready)
			case len(f) == 3 && f[0] == "leads":
				at, _ := strconv.ParseInt(f[2], 10, 64)
				c.mu.Lock()
				c.turns = append(c.turns, turn{f[1] == "true", time.Unix(0, at)})
				c.mu.Unlock()
			}
		}
		_ = c.cmd.Wait() // killed
	}()
	t.Cleanup(func() {
		in.Close()
		c.kill()
	})
	return c
}

func (c *child) wait(t *testing.T) {
	t.Helper()
	select {
	case <-c.ready:
	case <-time.After(30 * time.Second):
		t.Fatal("not ready in 30 s")
	}
}

// kill ends the process as a crash does.
func (c *child) kill() {
	_ = c.cmd.Process.Signal(syscall.SIGKILL) // it may be gone
	<-c.gone
}

// leader waits for a child other than one to lead.
func leader(t *testing.T, children map[string]*child, other string, within time.Duration) (name string, since time.Time) {
	t.Helper()
	eventually(t, within, "a leader", func() bool {
		for n, c := range children {
			if now := c.last(); n != other && now.leads {
				name, since = n, now.at
				return true
			}
		}
		return false
	})
	return name, since
}

// What was acknowledged is there after kill -9, and what was to end ends at its time.
func TestKillLosesNothing(t *testing.T) {
	t.Parallel()
	cfg := embedded(t, t.TempDir())
	outside := Config{Servers: []string{"http://" + cfg.Listen}, ClientTimeout: 5 * time.Second}
	ctx := t.Context()
	acknowledged := map[string]bool{}
	var end time.Time
	for life := range 3 {
		c := spawn(t, cfg)
		c.wait(t)
		s, stop := run(t, outside)
		if life == 0 {
			end = time.Now().Add(15 * time.Second)
			if err := s.Create(ctx, "/capture/ttl", []byte("1"), 15*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 50 {
			key := fmt.Sprintf("/x/%d/%d", life, i)
			if i == 40 {
				go c.kill()
			}
			short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			if err := s.Put(short, key, []byte("1")); err == nil {
				acknowledged[key] = true
			}
			cancel()
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		<-c.gone
	}
	s, _ := run(t, cfg)
	all, err := s.List(ctx, "/x/")
	if err != nil {
		t.Fatal(err)
	}
	for key := range acknowledged {
		if all[key] == nil {
			t.Errorf("%s is lost", key)
		}
	}
	if len(acknowledged) < 3*20 {
		t.Errorf("only %d writes in three lives", len(acknowledged))
	}
	if time.Now().Before(end) {
		if _, _, err := s.Get(ctx, "/capture/ttl"); err != nil {
			t.Errorf("gone before its time: %v", err)
		}
	}
	eventually(t, time.Until(end)+time.Second, "end of a key", func() bool { _, _, err := s.Get(ctx, "/capture/ttl"); return err != nil })
	if late := time.Since(end); late < -100*time.Millisecond || late > time.Second {
		t.Errorf("ended %v after its time", late)
	}
}

// A leader that is killed together with its member of the cluster – the leading one, in the end – is replaced within 10 s, and nobody
// leads before.
func TestKilledLeaderIsReplaced(t *testing.T) {
	t.Parallel()
	cfgs := cluster(t, 3, certificates(t))
	children := map[string]*child{}
	for _, c := range cfgs {
		children[c.Name] = spawn(t, c)
	}
	for _, c := range children {
		c.wait(t)
	}
	for range 2 {
		first, _ := leader(t, children, "", 20*time.Second)
		killed := time.Now()
		children[first].kill()
		delete(children, first)
		next, since := leader(t, children, "", 10*time.Second)
		t.Logf("%s instead of %s after %v", next, first, since.Sub(killed))
		if since.Before(killed) {
			t.Error("two led")
		}
		for _, c := range cfgs {
			if c.Name == first {
				children[first] = spawn(t, c)
				children[first].wait(t)
			}
		}
	}
}
