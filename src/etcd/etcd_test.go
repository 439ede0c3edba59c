package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// nextPort is where freeListen looks next: below the ports that the kernel gives to connections, and elsewhere in each process.
var nextPort = func() *atomic.Int64 {
	n := new(atomic.Int64)
	n.Store(int64(os.Getpid()) * 998)
	return n
}()

// freeListen returns an address whose port and next port nobody uses.
func freeListen(t *testing.T) string {
	t.Helper()
	for range 500 {
		port := 15000 + nextPort.Add(2)%16000
		address := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		next, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		l.Close()
		if err == nil {
			next.Close()
			return address
		}
	}
	t.Fatal("no two free ports in a row")
	return ""
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func embedded(t *testing.T, dir string) Config {
	return Config{Embedded: true, Listen: freeListen(t), DataDir: dir, MaxWALFiles: 5, MaxSnapFiles: 5, ClientTimeout: 5 * time.Second}
}

// run starts a service and waits until it is ready; stop ends it and returns what Run returned.
func run(t *testing.T, cfg Config) (s *Service, stop func() error) {
	t.Helper()
	s, err := New(cfg, Options{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	select {
	case <-s.Ready():
	case err := <-done:
		done <- err
		t.Fatalf("Run: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("not ready in 20 s")
	}
	return s, stop
}

func TestStore(t *testing.T) {
	s, _ := run(t, embedded(t, t.TempDir()))
	ctx := t.Context()
	if _, _, err := s.Get(ctx, "/capture/a"); !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of nothing: %v", err)
	}
	if err := s.Create(ctx, "/capture/a", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, "/capture/a", []byte("2"), time.Minute); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create: %v", err)
	}
	value, revision, err := s.Get(ctx, "/capture/a")
	if err != nil || string(value) != "1" {
		t.Fatalf("Get: %q %v", value, err)
	}
	if done, err := s.Update(ctx, "/capture/a", []byte("3"), revision); err != nil || !done {
		t.Errorf("Update: %v %v", done, err)
	}
	if done, err := s.Update(ctx, "/capture/a", []byte("4"), revision); err != nil || done {
		t.Errorf("Update of a stale revision: %v %v", done, err)
	}
	if err := s.Create(ctx, "/alert/b", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(ctx, "/capture/"); err != nil || len(list) != 1 || string(list["/capture/a"]) != "3" {
		t.Errorf("List: %q %v", list, err)
	}
	if err := s.Delete(ctx, "/capture/a"); err != nil {
		t.Error(err)
	}
	if err := s.Delete(ctx, "/capture/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second Delete: %v", err)
	}
}

func TestNotReadyBeforeAndAfter(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	idle, err := New(cfg, Options{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := idle.List(t.Context(), "/"); !errors.Is(err, ErrNotReady) {
		t.Errorf("before Run: %v", err)
	}
	s, stop := run(t, cfg)
	if st := s.Status(); st.State != "running" || st.Mode != "embedded" || st.Address != cfg.Listen || st.Since.IsZero() {
		t.Errorf("status %+v", st)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(t.Context(), "/"); !errors.Is(err, ErrNotReady) {
		t.Errorf("after Run: %v", err)
	}
	if st := s.Status(); st.State != "stopped" {
		t.Errorf("status %+v", st)
	}
}

// next returns the next event, or fails.
func next(t *testing.T, events <-chan Event) Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no event in 30 s")
		return Event{}
	}
}

func TestWatchSeesUpdatesAndExpiry(t *testing.T) {
	s, _ := run(t, embedded(t, t.TempDir()))
	ctx := t.Context()
	if err := s.Create(ctx, "/capture/old", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	events := make(chan Event, 10)
	go func() { _ = s.Watch(ctx, "/capture/", func(e Event) { events <- e }) }()
	if e := next(t, events); e.Key != "/capture/old" || string(e.Value) != "1" {
		t.Errorf("first %+v", e)
	}
	if e := next(t, events); !e.Synced {
		t.Errorf("second %+v", e)
	}
	began := time.Now()
	if err := s.Create(ctx, "/capture/ttl", []byte("2"), 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if e := next(t, events); e.Key != "/capture/ttl" || string(e.Value) != "2" {
		t.Errorf("third %+v", e)
	}
	_, revision, err := s.Get(ctx, "/capture/ttl")
	if err != nil {
		t.Fatal(err)
	}
	if done, err := s.Update(ctx, "/capture/ttl", []byte("3"), revision); !done || err != nil {
		t.Fatalf("Update: %v %v", done, err)
	}
	if e := next(t, events); e.Key != "/capture/ttl" || string(e.Value) != "3" {
		t.Errorf("fourth %+v", e)
	}
	if e := next(t, events); e.Key != "/capture/ttl" || e.Value != nil {
		t.Errorf("expiry %+v", e)
	}
	if took := time.Since(began); took < 300*time.Millisecond || took > 5*time.Second {
		t.Errorf("expired after %v, wanted 300 ms", took)
	}
}

// A key that outlives its process is deleted by its lease.
func TestLeaseEndsWithoutTheProcess(t *testing.T) {
	dir := t.TempDir()
	s, stop := run(t, embedded(t, dir))
	if err := s.Create(t.Context(), "/alert/ttl", []byte("1"), time.Second); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s, _ = run(t, embedded(t, dir))
	events := make(chan Event, 10)
	go func() { _ = s.Watch(t.Context(), "/alert/", func(e Event) { events <- e }) }()
	deadline := time.After(40 * time.Second)
	for {
		select {
		case e := <-events:
			if e.Key == "/alert/ttl" && e.Value == nil {
				return
			}
			if e.Synced {
				if list, err := s.List(t.Context(), "/alert/"); err == nil && len(list) == 0 {
					return
				}
			}
		case <-deadline:
			t.Fatal("the key did not expire")
		}
	}
}

func TestDataSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	s, stop := run(t, embedded(t, dir))
	if err := s.Create(t.Context(), "/workflow/a", []byte("keep"), 0); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s, _ = run(t, embedded(t, dir)) // on other ports
	if v, _, err := s.Get(t.Context(), "/workflow/a"); err != nil || string(v) != "keep" {
		t.Errorf("%q %v", v, err)
	}
}

// A log of some length is replayed before anything else happens: it starts each time, at once.
func TestStartsWithALongLog(t *testing.T) {
	dir := t.TempDir()
	s, stop := run(t, embedded(t, dir))
	for i := range 350 {
		if err := s.Put(t.Context(), fmt.Sprintf("/x/%d", i), []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	for range 30 {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		s, stop = run(t, embedded(t, dir))
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("an election of %v", took)
		}
	}
	if all, err := s.List(t.Context(), "/x/"); err != nil || len(all) != 350 {
		t.Errorf("%d keys, %v", len(all), err)
	}
}

func runError(t *testing.T, cfg Config, who func(string) string) string {
	t.Helper()
	s, err := New(cfg, Options{Log: quiet(), WhoListens: who})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = s.Run(ctx)
	if err == nil {
		t.Fatal("no error")
	}
	if st := s.Status(); st.State != "stopped" || st.Reason != err.Error() {
		t.Errorf("status %+v", st)
	}
	return err.Error()
}

func TestStartSaysWhatIsInTheWay(t *testing.T) {
	t.Run("locked", func(t *testing.T) {
		dir := t.TempDir()
		run(t, embedded(t, dir))
		got := runError(t, embedded(t, dir), nil)
		if !strings.Contains(got, dir) || !strings.Contains(got, fmt.Sprintf("pid %d", os.Getpid())) && !strings.Contains(got, "another process") {
			t.Error(got)
		}
	})
	t.Run("port", func(t *testing.T) {
		for _, which := range []int{0, 1} {
			cfg := embedded(t, t.TempDir())
			client, peer, _ := cfg.urls()
			addr := []string{client.Host, peer.Host}[which]
			l, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			got := runError(t, cfg, func(a string) string { return "pid 7 of " + a })
			l.Close()
			if !strings.Contains(got, addr+" is in use by pid 7 of "+addr) {
				t.Error(got)
			}
		}
	})
	t.Run("not a directory", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := runError(t, embedded(t, file), nil); !strings.Contains(got, file) {
			t.Error(got)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		dir := t.TempDir()
		snap := filepath.Join(dir, "member", "snap")
		if err := os.MkdirAll(snap, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(snap, "db"), bytes.Repeat([]byte("rubbish"), 5000), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := runError(t, embedded(t, dir), nil); !strings.Contains(got, dir) {
			t.Error(got)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []Config{
		{},
		{Embedded: true, DataDir: "/x"},
		{Embedded: true, DataDir: "/x", Listen: "127.0.0.1"},
		{Embedded: true, DataDir: "/x", Listen: "127.0.0.1:0"},
		{Embedded: true, DataDir: "/x", Listen: "127.0.0.1:65535"},
		{Embedded: true, Listen: "127.0.0.1:12379"},
		{Embedded: true, DataDir: "/x", Listen: "127.0.0.1:12379", Name: "a", Peers: map[string]string{"b": "http://127.0.0.1:12380"}},
		{Embedded: true, DataDir: "/x", Listen: "127.0.0.1:12379", Name: "b", Peers: map[string]string{"b": "nonsense"}},
	} {
		if _, err := New(c, Options{Log: quiet()}); err == nil {
			t.Errorf("%+v accepted", c)
		}
	}
}

// A remote client with an open stream must not delay the end of the service beyond 2 s.
func TestStopsInTimeDespiteStreams(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	_, stop := run(t, cfg)
	remote, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + cfg.Listen}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	watching := remote.Watch(clientv3.WithRequireLeader(t.Context()), "/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if r := <-watching; !r.Created {
		t.Fatalf("watch %+v", r)
	}
	began := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestExternalServers(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	late, err := New(Config{Servers: []string{"http://" + cfg.Listen}, ClientTimeout: 5 * time.Second}, Options{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- late.Run(ctx) }()
	if _, _, err := late.Get(ctx, "/x"); !errors.Is(err, ErrNotReady) {
		t.Errorf("nobody there: %v", err)
	}
	run(t, cfg)
	select {
	case <-late.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("the client never found the server")
	}
	if err := late.Create(ctx, "/x", []byte("1"), 0); err != nil {
		t.Error(err)
	}
	if st := late.Status(); st.Mode != "external" || st.State != "running" {
		t.Errorf("%+v", st)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestThreePeers(t *testing.T) {
	peers, cfgs := map[string]string{}, []Config{}
	for i := range 3 {
		c := embedded(t, t.TempDir())
		c.Name = fmt.Sprintf("m%d", i)
		_, peer, err := c.urls()
		if err != nil {
			t.Fatal(err)
		}
		peers[c.Name] = peer.String()
		cfgs = append(cfgs, c)
	}
	services := make([]*Service, len(cfgs))
	var wg sync.WaitGroup
	for i, c := range cfgs {
		c.Peers = peers
		var err error
		if services[i], err = New(c, Options{Log: quiet()}); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { _ = services[i].Run(t.Context()) })
	}
	t.Cleanup(wg.Wait) // after t.Context ends
	for _, s := range services {
		select {
		case <-s.Ready():
		case <-time.After(20 * time.Second):
			t.Fatal("no quorum in 20 s")
		}
	}
	if err := services[0].Create(t.Context(), "/x", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if v, _, err := services[2].Get(t.Context(), "/x"); err != nil || string(v) != "1" {
		t.Errorf("%q %v", v, err)
	}
}

func TestLogGoesToSlog(t *testing.T) {
	for _, verbose := range []bool{false, true} {
		var text bytes.Buffer
		log := zap.New(logCore{log: slog.NewTextHandler(&text, nil), verbose: verbose}).With(zap.String("member", "m"))
		log.Info("detail", zap.Int("n", 1))
		log.Warn("trouble", zap.Error(errors.New("boo")), zap.Duration("took", time.Second))
		if strings.Contains(text.String(), "detail") != verbose {
			t.Errorf("verbose %v: %s", verbose, &text)
		}
		for _, want := range []string{"level=WARN", `msg="etcd: trouble"`, "member=m", "error=boo", "took=1s"} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s lacks %s", &text, want)
			}
		}
	}
}

// A clean end is no reason to complain.
func TestStopsSilently(t *testing.T) {
	var text lockedBuffer
	s, err := New(embedded(t, t.TempDir()), Options{Log: slog.New(slog.NewTextHandler(&text, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	started := text.String() // about the test's own directory
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := strings.TrimPrefix(text.String(), started); got != "" {
		t.Error(got)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The user and the password of a URL are used, and shown nowhere.
func TestServersWithCredentials(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	run(t, cfg)
	root, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + cfg.Listen}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ctx := t.Context()
	_, err1 := root.UserAdd(ctx, "root", "hunter:2")
	_, err2 := root.UserGrantRole(ctx, "root", "root")
	_, err3 := root.AuthEnable(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	var text lockedBuffer
	use := func(password string) *Service {
		s, err := New(Config{Servers: []string{"http://root:" + password + "@" + cfg.Listen}}, Options{Log: slog.New(slog.NewTextHandler(&text, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
		return s
	}
	wrong := use("wrong")
	s := use("hunter:2")
	select {
	case <-s.Ready():
	case <-time.After(60 * time.Second): // passwords are slow on purpose
		t.Fatalf("not ready: %+v", s.Status())
	}
	if err := s.Create(ctx, "/capture/a", []byte("1"), 0); err != nil {
		t.Error(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); wrong.Status().Reason == "" && time.Now().Before(deadline); {
		<-tick.C
	}
	if reason := wrong.Status().Reason; !strings.Contains(reason, "authentication failed") {
		t.Errorf("wrong password: %q", reason)
	}
	for _, shown := range []string{text.String(), fmt.Sprintf("%+v %+v", s.Status(), wrong.Status())} {
		if strings.Contains(shown, "hunter") || strings.Contains(shown, "wrong@") {
			t.Errorf("password in %s", shown)
		}
	}
}
