package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// directory is a service that knows users.
type directory struct {
	mu      sync.Mutex
	users   map[string]string // password by name, in lower case
	tokens  map[string]Token
	down    error
	stalled chan struct{} // not nil: answers come when it is closed
	logins  int
	asked   int // Verify
	clock   func() time.Time
}

const tokenLife = time.Hour

func (d *directory) wait(ctx context.Context) error {
	d.mu.Lock()
	stalled, down := d.stalled, d.down
	d.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return down
}

func (d *directory) Login(ctx context.Context, user, password string) (Token, error) {
	d.mu.Lock()
	d.logins++
	d.mu.Unlock()
	if err := d.wait(ctx); err != nil {
		return Token{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	name := strings.ToLower(user)
	if want, ok := d.users[name]; !ok || want != password {
		return Token{}, Refused("no")
	}
	t := Token{ID: fmt.Sprint("token ", d.logins), User: name, Until: d.clock().Add(tokenLife)}
	d.tokens[t.ID] = t
	return t, nil
}

func (d *directory) Verify(ctx context.Context, token string) (Token, error) {
	d.mu.Lock()
	d.asked++
	d.mu.Unlock()
	if err := d.wait(ctx); err != nil {
		return Token{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.tokens[token]
	if !ok || !d.clock().Before(t.Until) {
		return Token{}, Refused("gone")
	}
	return t, nil
}

func (d *directory) Revoke(_ context.Context, token string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.tokens, token)
	return d.down
}

// set changes it, and counts lets it be looked at, while others ask.
func (d *directory) set(change func()) { d.mu.Lock(); defer d.mu.Unlock(); change() }

func (d *directory) counts() (logins, asked int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.logins, d.asked
}

// withDirectory makes an Authenticator in front of a directory; its time is that of the bubble it runs in, if any.
func withDirectory(t testing.TB) (*Authenticator, *directory) {
	d := &directory{users: map[string]string{"ann": "x", "bob": "y"}, tokens: map[string]Token{}, clock: time.Now}
	a := authenticator(t, "cloud", Config{Type: "Keystone", Role: "guest"}, Options{
		Backends: map[string]func(string, Config) (TokenBackend, error){"keystone": func(name string, cfg Config) (TokenBackend, error) {
			if name != "cloud" || cfg.Role != "guest" {
				return nil, errors.New("what is this?")
			}
			return d, nil
		}},
	})
	return a, d
}

// pass lets time go by, in a bubble.
func pass(d time.Duration) { <-time.After(d) }

func status(err error) int {
	var known *Error
	if errors.As(err, &known) {
		return known.Status()
	}
	return 0
}

func TestTokensAreRememberedAndLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, d := withDirectory(t)
		name, token, err := a.Login(request("", ""), "ANN", "x")
		if err != nil || name != "ann" || token != "token 1" || a.Open() {
			t.Fatal(name, token, err)
		}
		with := func(header, value string, want int) {
			t.Helper()
			user, err := a.Authenticate(request(header, value))
			if status(err) != want || (user == "ann") != (want == 0) {
				t.Errorf("%q %v, want %d", user, err, want)
			}
		}
		asked := func(logins, verified int) {
			t.Helper()
			if l, v := d.counts(); l != logins || v != verified {
				t.Errorf("asked for %d logins and %d tokens, want %d and %d", l, v, logins, verified)
			}
		}
		for range 50 {
			with("Cookie", `authtoken="token 1"`, 0)
			with("X-Auth-Token", token, 0)
			with("Authorization", "Bearer "+token, 0)
		}
		asked(1, 0)
		pass(rightFor + time.Second)
		with("X-Auth-Token", token, 0)
		with("X-Auth-Token", token, 0)
		asked(1, 1)

		// A name and a password are as good, and cost one login.
		for range 50 {
			with("Authorization", "Basic "+basic("Ann", "x"), 0)
		}
		asked(2, 1)
		with("X-Auth-Token", basic("ann", "x"), 401) // not where tokens are
		with("X-Auth-Token", basic("ann", "x"), 401)
		asked(2, 2)

		// One that was revoked is noticed in time, and then it is over at once.
		d.set(func() { delete(d.tokens, token) })
		with("X-Auth-Token", token, 0)
		pass(rightFor)
		with("X-Auth-Token", token, 401)
		with("X-Auth-Token", token, 401)
		asked(2, 3)

		// A token ends when it says, and a password is then asked for anew.
		_, token, err = a.Login(request("", ""), "ann", "x")
		if err != nil {
			t.Fatal(err)
		}
		pass(tokenLife - time.Second)
		with("X-Auth-Token", token, 0)
		pass(time.Second)
		with("X-Auth-Token", token, 401)
		with("Authorization", "Basic "+basic("Ann", "x"), 0)
		asked(4, 5)

		// A new password ends the old one.
		d.set(func() { d.users["ann"] = "new" })
		pass(rightFor)
		with("Authorization", "Basic "+basic("Ann", "x"), 401)
		with("Authorization", "Basic "+basic("Ann", "new"), 0)
	})
}

func TestBackendAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, d := withDirectory(t)
		_, token, err := a.Login(request("", ""), "ann", "x")
		if err != nil {
			t.Fatal(err)
		}
		inBy := func(token string) error {
			_, err := a.Authenticate(request("X-Auth-Token", token))
			return err
		}
		d.set(func() { d.down = errors.New("connection refused") })
		pass(rightFor)
		if _, _, err := a.Login(request("", ""), "ann", "x"); status(err) != http.StatusServiceUnavailable || err.Error() != "connection refused" {
			t.Error(err)
		}
		if err := inBy("another"); status(err) != http.StatusServiceUnavailable {
			t.Error(err)
		}
		if w := a.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], "auth.cloud: since ") || !strings.HasSuffix(w[0], ": connection refused") {
			t.Error(w)
		}
		_, before := d.counts()
		for range 100 {
			if err := inBy(token); err != nil {
				t.Fatal(err)
			}
		}
		if _, after := d.counts(); after != before+1 {
			t.Error("asked one that is away:", after-before)
		}
		// Nor is it asked at will by those whom it does not know.
		for i := range 3 * failBurst {
			if err := inBy(fmt.Sprint("another", i)); status(err) != http.StatusServiceUnavailable && err != ErrTooMany {
				t.Fatal(i, err)
			}
		}
		if _, after := d.counts(); after > before+failBurst {
			t.Error("asked", after-before)
		}
		// A backend that does not answer at all costs one wait, not one a request.
		d.set(func() { d.down, d.stalled = nil, make(chan struct{}) })
		pass(awayFor)
		start := time.Now()
		for range 10 {
			if err := inBy(token); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != checkTimeout {
			t.Error("ten requests took", took)
		}
		// Back again.
		d.set(func() { close(d.stalled); d.stalled = nil })
		pass(awayFor)
		if err := inBy(token); err != nil || a.Warnings() != nil {
			t.Error(err, a.Warnings())
		}
		// A token that is over is not let in because nobody can be asked.
		d.set(func() { d.down = errors.New("connection refused") })
		pass(tokenLife)
		if err := inBy(token); status(err) != http.StatusServiceUnavailable {
			t.Error(err)
		}
		d.set(func() { d.down = nil })
		if err := inBy(token); status(err) != http.StatusUnauthorized || a.Warnings() != nil {
			t.Error(err, a.Warnings())
		}
	})
}

// Who has the backend fail – by a name that is too much for it, say – cannot keep a revoked token alive.
func TestRevokedAlthoughOthersFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, d := withDirectory(t)
		_, token, err := a.Login(request("", ""), "ann", "x")
		if err != nil {
			t.Fatal(err)
		}
		pass(rightFor)
		d.set(func() { d.down = errors.New("500"); delete(d.tokens, token) })
		if _, err := a.Authenticate(request("Authorization", "Basic "+basic("\U0001F4A3", "x"))); status(err) != http.StatusServiceUnavailable {
			t.Error(err)
		}
		d.set(func() { d.down = nil })
		if user, err := a.Authenticate(request("X-Auth-Token", token)); status(err) != http.StatusUnauthorized {
			t.Error(user, err)
		}
	})
}

func TestSlowBackendStallsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, d := withDirectory(t)
		_, token, err := a.Login(request("", ""), "ann", "x")
		if err != nil {
			t.Fatal(err)
		}
		d.set(func() { d.stalled = make(chan struct{}) })
		ask := func(address, token string) error {
			r := request("X-Auth-Token", token)
			r.RemoteAddr = address
			_, err := a.Authenticate(r)
			return err
		}
		var wg sync.WaitGroup
		for i := range 2 * maxWaiting {
			wg.Go(func() {
				if err := ask(fmt.Sprintf("10.0.%d.%d:1", i/200, i%200), fmt.Sprint("new ", i)); status(err) != http.StatusServiceUnavailable {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if _, asked := d.counts(); asked != tokenChecks {
			t.Errorf("%d questions at a time, want %d", asked, tokenChecks)
		}
		a.mu.Lock()
		if a.waiting != maxWaiting {
			t.Errorf("%d wait, want %d", a.waiting, maxWaiting)
		}
		a.mu.Unlock()
		start := time.Now()
		a.mu.Lock()
		for id, known := range a.right { // and it would be time to look at them again
			known.again = start
			a.right[id] = known
		}
		a.mu.Unlock()
		for range 100 {
			if err := ask("10.1.0.1:1", token); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Error("a known user waited", took)
		}
		wg.Wait()
		if took := time.Since(start); took != checkTimeout || a.waiting != 0 || len(a.pending) != 0 {
			t.Error(took, a.waiting, a.pending)
		}

		// Those who come with the same token share one question.
		_, before := d.counts()
		for range 20 {
			wg.Go(func() { _ = ask("10.1.0.1:1", "same") })
		}
		synctest.Wait()
		if _, asked := d.counts(); asked != before+1 {
			t.Errorf("asked %d times", asked-before)
		}
		close(d.stalled)
		wg.Wait()
	})
}

func TestLogout(t *testing.T) {
	a, d := withDirectory(t)
	_, token, err := a.Login(request("", ""), "ann", "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Logout(request("", "")); err != nil {
		t.Error(err)
	}
	if err := a.Logout(request("Authorization", "Basic "+basic("ann", "x"))); err != nil || len(d.tokens) != 1 {
		t.Error(err, d.tokens)
	}
	for range 2 { // the second finds nothing to do
		if err := a.Logout(request("X-Auth-Token", token)); err != nil || len(d.tokens) != 0 {
			t.Error(err, d.tokens)
		}
	}
	if user, err := a.Authenticate(request("X-Auth-Token", token)); status(err) != http.StatusUnauthorized {
		t.Error(user, err)
	}
	// Unknown tokens are limited like any others.
	for i := range failBurst + 5 {
		_ = a.Logout(request("X-Auth-Token", fmt.Sprint("guess ", i)))
	}
	if _, asked := d.counts(); asked > failBurst {
		t.Error("asked", asked)
	}
	d.down = errors.New("away")
	other := request("X-Auth-Token", "guess")
	other.RemoteAddr = "10.9.9.9:1"
	if err := a.Logout(other); status(err) != http.StatusServiceUnavailable {
		t.Error(err)
	}
}

// Whoever tries ten thousand passwords, from one address or from many, gets to check few of them and stops nobody who knows.
func TestTenThousandBadLogins(t *testing.T) {
	for what, remote := range map[string]func(int) string{
		"from one address":         func(int) string { return "10.0.0.1:5" },
		"from a thousand":          func(i int) string { return fmt.Sprintf("10.0.%d.%d:5", i%1000/250, i%250) },
		"each from another":        func(i int) string { return fmt.Sprintf("10.%d.%d.9:5", i/250, i%250) },
		"from a network of IPv6":   func(i int) string { return fmt.Sprintf("[2001:db8::%x]:5", i) },
		"from networks of IPv6":    func(i int) string { return fmt.Sprintf("[2001:db8:0:%x::1]:5", i) },
		"from where the user sits": func(int) string { return "192.0.2.1:5" },
	} {
		t.Run(what, func(t *testing.T) {
			now := time.Unix(1000, 0)
			a := authenticator(t, "basic", Config{Users: map[string]string{"bob": "right", "eve": "y"}}, Options{Clock: func() time.Time { return now }})
			try := func(remote, user, password string) error {
				r := request("Authorization", "Basic "+basic(user, password))
				r.RemoteAddr = remote
				_, err := a.Authenticate(r)
				return err
			}
			if err := try("192.0.2.1:5", "bob", "right"); err != nil {
				t.Fatal(err)
			}
			tried := 0
			for i := range 10_000 {
				switch err := try(remote(i), []string{"bob", "Bob", "BOB"}[i%3], fmt.Sprint("guess", i)); err {
				case ErrWrong:
					tried++
				case ErrTooMany:
				default:
					t.Fatal(err)
				}
				now = now.Add(time.Millisecond)
				if i%100 == 0 {
					if err := try("192.0.2.1:6", "bob", "right"); err != nil {
						t.Fatal("one who knows is kept out:", err)
					}
				}
			}
			if limit := nameBurst + 10; tried > limit {
				t.Errorf("%d passwords were tried, want at most %d", tried, limit)
			}
			// Long after, the right password is still no guess, and others were never kept out by guesses about bob.
			now = now.Add(rightFor)
			for i := range 2 * nameBurst {
				_ = try(remote(i), "bob", fmt.Sprint("more", i))
			}
			if err := try("192.0.2.1:6", "bob", "right"); err != nil {
				t.Error(err)
			}
			if err := try("192.0.2.7:6", "eve", "y"); err != nil {
				t.Error(err)
			}
			if len(a.remotes.all) > maxLimiters+1 || len(a.names.all) > maxLimiters+1 || len(a.wrong) > maxWrong {
				t.Error(len(a.remotes.all), len(a.names.all), len(a.wrong))
			}
		})
	}
}

// Credentials that were right are looked at again while somebody guesses about the same name from the same address.
func TestLookingAgainIsNoGuess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := withDirectory(t)
		file := filepath.Join(t.TempDir(), "htpasswd")
		write(t, file, "ann:{SHA}EfatjsUqKYSrqv18O1FlA3hcIHI=\n") // x
		b := authenticator(t, "basic", Config{File: file}, Options{})
		try := func(a *Authenticator, password string) error {
			_, err := a.Authenticate(request("Authorization", "Basic "+basic("ann", password)))
			return err
		}
		for _, a := range []*Authenticator{a, b} {
			if err := try(a, "x"); err != nil {
				t.Fatal(err)
			}
		}
		pass(rightFor)
		write(t, file, "ann:{SHA}EfatjsUqKYSrqv18O1FlA3hcIHI=\nbob:{SHA}EfatjsUqKYSrqv18O1FlA3hcIHI=\n")
		for what, a := range map[string]*Authenticator{"backend": a, "file": b} {
			for i := range 2 * failBurst {
				_ = try(a, fmt.Sprint("guess", i))
			}
			if err := try(a, "a new guess"); err != ErrTooMany {
				t.Error(what, err)
			}
			if err := try(a, "x"); err != nil {
				t.Error(what, "keeps out one who knows:", err)
			}
		}
	})
}

func TestWrongIsRememberedForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, d := withDirectory(t)
		try := func() error {
			_, err := a.Authenticate(request("Authorization", "Basic "+basic("carl", "z")))
			return err
		}
		// A program that was not told the new password.
		for range 10 * failBurst {
			if err := try(); status(err) != http.StatusUnauthorized {
				t.Fatal(err)
			}
		}
		if logins, _ := d.counts(); logins != 1 {
			t.Error("asked", logins)
		}
		if _, err := a.Authenticate(request("Authorization", "Basic "+basic("ann", "x"))); err != nil {
			t.Error(err)
		}
		d.set(func() { d.users["carl"] = "z" })
		pass(wrongFor)
		if err := try(); err != nil {
			t.Error(err)
		}
	})
}
