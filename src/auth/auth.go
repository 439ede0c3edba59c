// Package auth tells who calls: anybody (noauth), or a user of an htpasswd file or of the configuration (basic). Users of Keystone come
// with a later version: until then keystone lets nobody in.
//
// It decides nothing about rights, but sees to it that every authenticated user has at least the default role. There are no sessions:
// the token that a login gives holds the credentials, so it is good on every analyzer and after a restart. Whatever goes wrong, the
// answer is no.
package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is one section auth.<name> of the configuration.
type Config struct {
	Type  string            // noauth, basic or keystone; empty means the name of the section
	File  string            // htpasswd file, read again when it changes; wins over Users
	Users map[string]string // plain passwords by name; the case of names counts
	Role  string            // default role
}

// Options are what an Authenticator needs from outside.
type Options struct {
	Log *slog.Logger
	// Grant gives a user a role if the user has none; called on each authenticated request.
	Grant func(user, role string)
	// Role replaces the default role of the section, when not empty: agents and analyzers are always admin.
	Role       string
	Registerer prometheus.Registerer
	Clock      func() time.Time // time.Now when nil
}

// Error is why a request is not authenticated. Its text may be shown to the client.
type Error struct {
	text   string
	status int
}

func (e *Error) Error() string { return e.text }

// Status is the HTTP status of the answer.
func (e *Error) Status() int { return e.status }

// The reasons.
var (
	ErrNoCredentials = &Error{"No credentials provided", http.StatusUnauthorized}
	ErrWrong         = &Error{"Wrong credentials", http.StatusUnauthorized}
	ErrTooMany       = &Error{"Too many failed logins, try again in some seconds", http.StatusTooManyRequests}
	ErrLater         = &Error{"Authentication by keystone comes with a later version; until then nobody is let in", http.StatusNotImplemented}
)

// Authenticator checks the credentials of requests. Its methods may be called by several goroutines.
type Authenticator struct {
	role      string
	grant     func(user, role string)
	passwords passwords // nil: noauth or closed
	closed    error     // not nil: nobody is let in, and this is why
	clock     func() time.Time
	failures  prometheus.Counter
	limit     *limiter
	checking  chan struct{} // a bcrypt check is slow on purpose: only this many at a time
	key       []byte        // of proven, so that memory holds no plain hash of a password

	mu     sync.Mutex
	proven map[[sha256.Size]byte]time.Time // credentials found right, until when; guarded by mu
}

// passwords knows users.
type passwords interface {
	// check takes as long for a user that does not exist.
	check(user, password string) bool
	// version changes whenever the users may have.
	version() uint64
}

const (
	provenFor = 5 * time.Minute
	maxProven = 1000
)

// New makes the backend of section auth.<name>. It fails when the section cannot authenticate anybody.
func New(name string, cfg Config, o Options) (*Authenticator, error) {
	a := &Authenticator{
		role: cfg.Role, grant: o.Grant, clock: o.Clock,
		checking: make(chan struct{}, 2), key: make([]byte, sha256.Size), proven: map[[sha256.Size]byte]time.Time{},
	}
	if o.Role != "" {
		a.role = o.Role
	}
	if a.clock == nil {
		a.clock = time.Now
	}
	if _, err := rand.Read(a.key); err != nil {
		return nil, fmt.Errorf("auth.%s: %w", name, err)
	}
	a.limit = newLimiter(a.clock)
	kind := strings.ToLower(cfg.Type)
	if kind == "" {
		kind = strings.ToLower(name)
	}
	var err error
	switch kind {
	case "noauth":
	case "basic":
		switch {
		case cfg.File != "":
			a.passwords, err = newHtpasswd(cfg.File, o.Log)
		case len(cfg.Users) > 0:
			a.passwords, err = newInline(cfg.Users)
		default:
			err = errors.New("No htpassword provider set, you set either file or inline sections")
		}
	case "keystone":
		a.closed = ErrLater
		o.Log.Warn("auth." + name + ": authentication by keystone comes with a later version: nobody is let in")
	default:
		err = fmt.Errorf("Authentication type unknown or backend not defined for: %s", name)
	}
	if err != nil {
		return nil, fmt.Errorf("auth.%s: %w", name, err)
	}
	if a.failures, err = failureCounter(o.Registerer, name); err != nil {
		return nil, fmt.Errorf("auth.%s: %w", name, err)
	}
	return a, nil
}

// Open tells that no credentials are asked for.
func (a *Authenticator) Open() bool { return a.passwords == nil && a.closed == nil }

// Authenticate returns the user who sent a request. The error is an *Error, whose text and Status are meant for the client.
func (a *Authenticator) Authenticate(r *http.Request) (user string, err error) {
	if a.closed != nil {
		return "", a.closed
	}
	if a.Open() {
		return a.welcome("admin"), nil
	}
	t := token(r)
	if t == "" {
		return "", ErrNoCredentials
	}
	user, password, ok := decode(t)
	if !ok {
		a.failures.Inc()
		return "", ErrWrong
	}
	return a.verify(r, user, password)
}

// Login checks a user and a password, and returns the token for later requests; it is empty when none is needed.
func (a *Authenticator) Login(r *http.Request, user, password string) (token string, err error) {
	if user == "" || password == "" {
		return "", ErrNoCredentials
	}
	if a.closed != nil {
		return "", a.closed
	}
	if a.Open() {
		a.welcome("admin")
		return "", nil
	}
	if _, err := a.verify(r, user, password); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password)), nil
}

func (a *Authenticator) welcome(user string) string {
	if a.grant != nil {
		a.grant(user, a.role)
	}
	return user
}

func (a *Authenticator) verify(r *http.Request, user, password string) (string, error) {
	mac := hmac.New(sha256.New, a.key)
	fmt.Fprintf(mac, "%d %d ", a.passwords.version(), len(user))
	io.WriteString(mac, user+password)
	id := [sha256.Size]byte(mac.Sum(nil))
	now := a.clock()
	a.mu.Lock()
	until, ok := a.proven[id]
	a.mu.Unlock()
	if ok && now.Before(until) {
		return a.welcome(user), nil
	}
	remote := remoteOf(r.RemoteAddr)
	if !a.limit.take(remote) {
		a.failures.Inc()
		return "", ErrTooMany
	}
	select {
	case a.checking <- struct{}{}:
		defer func() { <-a.checking }()
	case <-r.Context().Done():
		return "", ErrWrong
	}
	if !a.passwords.check(user, password) {
		a.failures.Inc()
		return "", ErrWrong
	}
	a.limit.giveBack(remote)
	a.mu.Lock()
	if len(a.proven) >= maxProven {
		clear(a.proven)
	}
	a.proven[id] = now.Add(provenFor)
	a.mu.Unlock()
	return a.welcome(user), nil
}

// token finds the credentials of a request: cookie, Authorization, X-Auth-Token, query – the first that is there counts, right or wrong.
func token(r *http.Request) string {
	if c, err := r.Cookie("authtoken"); err == nil && c.Value != "" {
		return c.Value
	}
	if h := r.Header.Get("Authorization"); h != "" {
		if scheme, rest, ok := strings.Cut(h, " "); ok && (strings.EqualFold(scheme, "Basic") || strings.EqualFold(scheme, "Bearer")) {
			return strings.TrimSpace(rest)
		}
		return h
	}
	if h := r.Header.Get("X-Auth-Token"); h != "" {
		return h
	}
	return r.URL.Query().Get("x-auth-token")
}

func decode(token string) (user, password string, ok bool) {
	// A browser may drop the padding of a cookie, and a query turns + into a blank.
	token = strings.TrimRight(strings.ReplaceAll(token, " ", "+"), "=")
	text, err := base64.RawStdEncoding.DecodeString(token)
	if err != nil {
		return "", "", false
	}
	user, password, ok = strings.Cut(string(text), ":")
	return user, password, ok && user != ""
}
