package etcd

import (
	"context"
	"sync"
	"testing"
	"time"
)

// elector is one who takes part in an election of a test.
type elector struct {
	told   chan bool
	cancel context.CancelFunc
	done   chan struct{}
}

func elect(t *testing.T, s *Service, election, id string) *elector {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	e := &elector{told: make(chan bool, 100), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		_ = s.Elect(ctx, election, id, func(leading bool) { e.told <- leading })
	}()
	t.Cleanup(e.stop)
	return e
}

func (e *elector) stop() { e.cancel(); <-e.done }

func (e *elector) expect(t *testing.T, leading bool, within time.Duration) {
	t.Helper()
	select {
	case got := <-e.told:
		if got != leading {
			t.Fatalf("told %v, wanted %v", got, leading)
		}
	case <-time.After(within):
		t.Fatalf("not told %v in %v", leading, within)
	}
}

func (e *elector) silent(t *testing.T) {
	t.Helper()
	select {
	case got := <-e.told:
		t.Fatalf("told %v", got)
	default:
	}
}

func TestElection(t *testing.T) {
	s, _ := run(t, embedded(t, t.TempDir()))
	ctx := t.Context()
	a := elect(t, s, "x", "a")
	a.expect(t, true, 5*time.Second)
	b, other := elect(t, s, "x", "b"), elect(t, s, "xy", "b")
	other.expect(t, true, 5*time.Second)
	if v, _, err := s.Get(ctx, "/elections/x"); err != nil || string(v) != "a" {
		t.Errorf("%q %v", v, err)
	}
	b.silent(t)
	a.stop() // gives it back
	a.expect(t, false, time.Second)
	b.expect(t, true, 5*time.Second)
	// Somebody deletes the key: whoever leads takes it back.
	events := make(chan Event, 10)
	go func() { _ = s.Watch(ctx, "/elections/x", func(e Event) { events <- e }) }()
	for !next(t, events).Synced {
	}
	if err := s.Delete(ctx, "/elections/x"); err != nil {
		t.Fatal(err)
	}
	for e := next(t, events); e.Key != "/elections/x" || string(e.Value) != "b"; e = next(t, events) {
	}
	b.silent(t)
	b.stop()
	if _, _, err := s.Get(ctx, "/elections/x"); err == nil {
		t.Error("the key outlives its holder")
	}
}

// What an earlier life of the same id left behind is taken over at once, once; another id waits.
func TestElectionInherits(t *testing.T) {
	s, _ := run(t, embedded(t, t.TempDir()))
	for _, office := range []string{"/elections/x", "/elections/y"} {
		if err := s.Create(t.Context(), office, []byte("a"), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	b := elect(t, s, "y", "b")
	a := elect(t, s, "x", "a")
	a.expect(t, true, 5*time.Second)
	b.silent(t)
	if err := s.Put(t.Context(), "/elections/x", []byte("a")); err != nil { // somebody of the same name, who is not this process
		t.Fatal(err)
	}
	a.expect(t, false, 5*time.Second)
	if err := s.Delete(t.Context(), "/elections/x"); err != nil {
		t.Fatal(err)
	}
	a.expect(t, true, 5*time.Second)
}

// When the service ends, whoever leads is told, and the office is free for others at once.
func TestElectionEndsWithTheService(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	run(t, cfg)
	first, stopFirst := run(t, Config{Servers: []string{"http://" + cfg.Listen}, ClientTimeout: 5 * time.Second})
	second, _ := run(t, Config{Servers: []string{"http://" + cfg.Listen}, ClientTimeout: 5 * time.Second})
	a := elect(t, first, "x", "a")
	a.expect(t, true, 5*time.Second)
	b := elect(t, second, "x", "b")
	if err := stopFirst(); err != nil {
		t.Fatal(err)
	}
	a.expect(t, false, time.Second)
	b.expect(t, true, 2*time.Second)
	<-a.done
}

// At no time do two lead, whatever comes and goes.
func TestOneLeaderAtATime(t *testing.T) {
	s, _ := run(t, embedded(t, t.TempDir()))
	var mu sync.Mutex
	leaders, most, turns := 0, 0, 0
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, id := range []string{"a", "b", "c"} {
		wg.Go(func() {
			for ctx.Err() == nil {
				life, end := context.WithTimeout(ctx, 300*time.Millisecond)
				_ = s.Elect(life, "x", id, func(leading bool) {
					mu.Lock()
					defer mu.Unlock()
					if leading {
						leaders, turns = leaders+1, turns+1
					} else {
						leaders--
					}
					most = max(most, leaders)
				})
				end()
			}
		})
	}
	wg.Wait()
	if most != 1 || leaders != 0 || turns < 4 {
		t.Errorf("at most %d at a time, %d left, %d turns", most, leaders, turns)
	}
}
