package ws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rights are who may not, and the channel that tells of a change.
type rights struct {
	mu      sync.Mutex
	denied  map[string]bool
	changed chan struct{}
	asked   atomic.Int64
}

func (r *rights) allowed(user, _ string) bool {
	r.asked.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.denied[user]
}

func (r *rights) deny(user string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.denied[user] = true
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *rights) next() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// newGuardedServer takes the user from a header.
func newGuardedServer(t testing.TB, r *rights, config Config) *server {
	return newServer(t, func(o *EndpointOptions) {
		o.Authenticate = func(r *http.Request) (string, []*http.Cookie, error) { return r.Header.Get("X-User"), nil, nil }
		o.Authorize, o.Config = r.allowed, config
	})
}

func as(user string) func(*DialOptions) {
	return func(o *DialOptions) {
		o.HostID, o.Header = user, http.Header{"X-User": {user}}
	}
}

func newRights() *rights { return &rights{denied: map[string]bool{}, changed: make(chan struct{})} }

func TestReauthorizeEndsOnlyWhoLostTheRight(t *testing.T) {
	r := newRights()
	s := newGuardedServer(t, r, Config{})
	alice, aliceEnded := s.dial(t, as("alice"))
	_, bobEnded := s.dial(t, as("bob"))
	eventually(t, "both are connected", func() bool { return len(s.Conns()) == 2 })
	if n := s.Reauthorize(); n != 0 {
		t.Errorf("%d ended without a reason", n)
	}
	r.deny("bob")
	if n := s.Reauthorize(); n != 1 {
		t.Errorf("%d ended, want 1", n)
	}
	var closed CloseError
	if err := wait(t, bobEnded, "the end of bob"); !errors.As(err, &closed) || closed.Code != StatusPolicy || closed.Reason != "'bob' has no permission on '/ws/test' any more" {
		t.Errorf("bob was told %v", err)
	}
	eventually(t, "bob is gone", func() bool { return len(s.Conns()) == 1 })
	if n := s.Reauthorize(); n != 0 {
		t.Errorf("%d ended again", n)
	}
	if err := s.Conn("alice").Send([]byte("still")); err != nil || wait(t, alice.messages, "a message") != "still" {
		t.Errorf("alice was disturbed: %v", err)
	}
	select {
	case err := <-aliceEnded:
		t.Errorf("alice ended: %v", err)
	default:
	}
	if _, err := Dial(t.Context(), DialOptions{Addr: s.addr, Path: s.Path(), ClientType: "tool", HostID: "bob", Header: http.Header{"X-User": {"bob"}}}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("bob came back: %v", err)
	}
}

// What waits for a peer that lost the right is not sent, and one that does not read is cut off.
func TestReauthorizeDropsTheQueue(t *testing.T) {
	r := newRights()
	s := newGuardedServer(t, r, Config{CloseTimeout: 50 * time.Millisecond, WriteTimeout: time.Hour, PingDelay: -1})
	block := make(chan struct{})
	c, err := Dial(t.Context(), DialOptions{Addr: s.addr, Path: s.Path(), ClientType: "tool", HostID: "bob", Header: http.Header{"X-User": {"bob"}}})
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(context.Background(), func(*Conn) (Session, error) { return &stuck{block, &got}, nil })
	}()
	eventually(t, "bob is connected", func() bool { return s.Conn("bob") != nil })
	const messages = 200
	for range messages {
		if err := s.Conn("bob").Send(make([]byte, 256<<10)); err != nil {
			t.Fatal(err)
		}
	}
	r.deny("bob")
	began := time.Now()
	if s.Reauthorize() != 1 {
		t.Fatal("bob stays")
	}
	eventually(t, "bob is gone", func() bool { return len(s.Conns()) == 0 })
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if b := wait(t, s.inboxes, "the session"); !errors.Is(wait(t, b.closed, "the end"), ErrForbidden) {
		t.Error("the session was told another reason")
	}
	close(block)
	wait(t, ended, "the end of the client")
	if got == messages {
		t.Error("everything was sent all the same")
	}
}

// stuck does not read until it may.
type stuck struct {
	block chan struct{}
	got   *int
}

func (s *stuck) Receive(io.Reader) error {
	<-s.block
	*s.got++
	return nil
}

func (s *stuck) Closed(error) {}

// A right that is lost between the question and the connection is not missed.
func TestRightLostDuringTheHandshake(t *testing.T) {
	var asked atomic.Int64
	s := newServer(t, func(o *EndpointOptions) {
		o.Authorize = func(string, string) bool { return asked.Add(1) == 1 }
	})
	_, ended := s.dial(t, nil)
	var closed CloseError
	if err := wait(t, ended, "the end"); !errors.As(err, &closed) || closed.Code != StatusPolicy {
		t.Errorf("told %v", err)
	}
}

func TestKeepAuthorized(t *testing.T) {
	r := newRights()
	first, second := newGuardedServer(t, r, Config{}), newGuardedServer(t, r, Config{})
	_, one := first.dial(t, as("bob"))
	_, other := second.dial(t, as("bob"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- KeepAuthorized(ctx, r.next, first, second) }()
	eventually(t, "it began", func() bool { return r.asked.Load() > 0 && len(first.Conns())+len(second.Conns()) == 2 })
	r.deny("carol")
	r.deny("bob")
	wait(t, one, "the end of the first")
	wait(t, other, "the end of the second")
	cancel()
	if err := wait(t, done, "the end of KeepAuthorized"); err != nil {
		t.Error(err)
	}
}

// Who is no user any more does not stay, and what a page of another site brought along by the browser does not count later either.
func TestReauthenticate(t *testing.T) {
	var mu sync.Mutex
	removed := map[string]bool{}
	s := newServer(t, func(o *EndpointOptions) {
		o.Authenticate = func(r *http.Request) (string, []*http.Cookie, error) {
			if user := r.Header.Get("X-User"); user != "" {
				return user, nil, nil
			}
			return "", nil, errors.New("No credentials provided")
		}
		o.Still = func(r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			return !removed[r.Header.Get("X-User")] && r.Header.Get("Cookie") == ""
		}
	})
	_, alice := s.dial(t, func(o *DialOptions) {
		as("alice")(o)
		o.Header.Set("Origin", "http://elsewhere.example")
		o.Header.Set("Cookie", "authtoken=x")
	})
	_, bob := s.dial(t, as("bob"))
	eventually(t, "both are connected", func() bool { return len(s.Conns()) == 2 })
	if n := s.Reauthenticate(); n != 0 {
		t.Fatalf("%d ended without a reason", n)
	}
	mu.Lock()
	removed["bob"] = true
	mu.Unlock()
	if n := s.Reauthenticate(); n != 1 {
		t.Errorf("%d ended, want 1", n)
	}
	var closed CloseError
	if err := wait(t, bob, "the end of bob"); !errors.As(err, &closed) || closed.Code != StatusPolicy || closed.Reason != "the credentials of 'bob' do not count any more" {
		t.Errorf("bob was told %v", err)
	}
	select {
	case err := <-alice:
		t.Errorf("alice ended: %v", err)
	default:
	}
	if n := newServer(t, nil).Reauthenticate(); n != 0 {
		t.Errorf("%d ended where nobody is asked", n)
	}
}

func TestReauthorizeWhileOthersComeAndGo(t *testing.T) {
	r := newRights()
	s := newGuardedServer(t, r, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- KeepAuthorized(ctx, r.next, s) }()
	var wg sync.WaitGroup
	for _, user := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			for range 10 {
				c, err := Dial(t.Context(), DialOptions{Addr: s.addr, Path: s.Path(), ClientType: "tool", HostID: user, Header: http.Header{"X-User": {user}}})
				if err != nil {
					continue // denied by now
				}
				ended := make(chan error, 1)
				go func() {
					ended <- c.Run(context.Background(), func(c *Conn) (Session, error) { return newInbox(c), nil })
				}()
				c.Close(StatusNormal, "")
				<-ended
			}
			r.deny(user)
		})
	}
	wg.Wait()
	eventually(t, "nobody is left", func() bool { return len(s.Conns()) == 0 })
	cancel()
	<-done
}

func TestPeersAreBounded(t *testing.T) {
	s := newServer(t, nil)
	s.mu.Lock()
	for i := range maxPeers {
		s.taken[fmt.Sprint("host", i)] = &connection{gone: make(chan struct{})}
	}
	s.mu.Unlock()
	_, err := Dial(t.Context(), DialOptions{Addr: s.addr, Path: s.Path(), ClientType: "tool", HostID: "another"})
	if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "10000 peers") {
		t.Error(err)
	}
	s.mu.Lock()
	clear(s.taken)
	s.mu.Unlock()
	s.dial(t, nil)
}
