// Package auth tells who calls: anybody (noauth), a user of an htpasswd file or of the configuration (basic), or a user whom another
// service knows (keystone).
//
// It decides nothing about rights, but sees to it that every authenticated user has at least the default role. There are no sessions:
// what a login gives is good on every analyzer and after a restart, for it is the credentials themselves, or a token of the service
// that knows the user. Whatever goes wrong, the answer is no.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
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

	// Of type keystone.
	AuthURL    string
	TenantName string // project that users must have a role in
	DomainName string // domain of the project and of the users
	CACert     string // authorities that signed Keystone's certificate; the system's when empty
}

// Token is what a TokenBackend knows of a user.
type Token struct {
	ID    string
	User  string // as the backend writes the name
	Until time.Time
}

// TokenBackend is a service that knows users and gives them tokens. Its methods may be called by several goroutines. An error that is
// an *Error of status 401 means no; any other one that nothing is known.
type TokenBackend interface {
	Login(ctx context.Context, user, password string) (Token, error)
	Verify(ctx context.Context, token string) (Token, error)
	Revoke(ctx context.Context, token string) error
}

// Options are what an Authenticator needs from outside.
type Options struct {
	Log *slog.Logger
	// Grant gives a user a role if the user has none; called on each authenticated request.
	Grant func(user, role string)
	// Role replaces the default role of the section, when not empty: agents and analyzers are always admin.
	Role string
	// Backends make what the types other than noauth and basic ask; name is that of the section.
	Backends   map[string]func(name string, cfg Config) (TokenBackend, error)
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

// Refused is the error of credentials that are wrong.
func Refused(text string) *Error { return &Error{text, http.StatusUnauthorized} }

// Unavailable is the error of credentials that cannot be checked now.
func Unavailable(text string) *Error { return &Error{text, http.StatusServiceUnavailable} }

// The reasons.
var (
	ErrNoCredentials = Refused("No credentials provided")
	ErrWrong         = Refused("Wrong credentials")
	ErrTooMany       = &Error{"Too many failed logins, try again in some seconds", http.StatusTooManyRequests}
	ErrBusy          = Unavailable("Too many logins at the same time, try again in some seconds")
)

// Authenticator checks the credentials of requests. Its methods may be called by several goroutines.
type Authenticator struct {
	name      string // of the section
	role      string
	grant     func(user, role string)
	passwords passwords    // of type basic
	tokens    TokenBackend // of types that others know the users of
	log       *slog.Logger
	clock     func() time.Time
	failures  prometheus.Counter
	remotes   *limiter // by address
	names     *limiter // by name of the user, over all addresses
	checking  chan struct{}
	key       []byte // of fingerprint, so that memory holds no plain hash of a password

	mu      sync.Mutex // guards all below
	right   map[fingerprint]verdict
	wrong   map[fingerprint]verdict
	pending map[fingerprint]*check
	waiting int       // checks, pending or not
	away    time.Time // since when the backend does not answer
	retry   time.Time // until then nobody who was let in before waits for it
	reason  error     // of away
}

// A check of a password is slow on purpose; one by another service costs no time of ours.
const (
	passwordChecks = 2
	tokenChecks    = 32
)

// New makes the backend of section auth.<name>. It fails when the section cannot authenticate anybody.
func New(name string, cfg Config, o Options) (*Authenticator, error) {
	a := &Authenticator{
		name: name, role: cfg.Role, grant: o.Grant, log: o.Log, clock: o.Clock,
		checking: make(chan struct{}, passwordChecks), key: make([]byte, sha256.Size),
		right: map[fingerprint]verdict{}, wrong: map[fingerprint]verdict{}, pending: map[fingerprint]*check{},
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
	a.remotes, a.names = newLimiter(a.clock, failBurst), newLimiter(a.clock, nameBurst)
	kind := strings.ToLower(cfg.Type)
	if kind == "" {
		kind = strings.ToLower(name)
	}
	var err error
	switch backend := o.Backends[kind]; {
	case kind == "noauth":
	case kind == "basic":
		switch {
		case cfg.File != "":
			a.passwords, err = newHtpasswd(cfg.File, o.Log)
		case len(cfg.Users) > 0:
			a.passwords, err = newInline(cfg.Users)
		default:
			err = errors.New("No htpassword provider set, you set either file or inline sections")
		}
	case backend != nil:
		a.checking = make(chan struct{}, tokenChecks)
		a.tokens, err = backend(name, cfg)
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
func (a *Authenticator) Open() bool { return a.passwords == nil && a.tokens == nil }

// Warnings are what whoever looks after the service should know.
func (a *Authenticator) Warnings() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away.IsZero() {
		return nil
	}
	return []string{fmt.Sprintf("auth.%s: since %s only users who were let in before are let in: %s", a.name, a.away.UTC().Format(time.RFC3339), a.reason)}
}

// Authenticate returns the user who sent a request. The error is an *Error, whose text and Status are meant for the client.
func (a *Authenticator) Authenticate(r *http.Request) (user string, err error) {
	if a.Open() {
		return a.welcome("admin"), nil
	}
	text, basic := credentials(r)
	if text == "" {
		return "", ErrNoCredentials
	}
	token := Token{}
	if a.tokens != nil && !basic {
		token, err = a.checkToken(r, text)
	} else if user, password, ok := decode(text); ok {
		token, err = a.checkPassword(r, user, password, false)
	} else {
		a.failures.Inc()
		err = ErrWrong
	}
	if err != nil {
		return "", err
	}
	return a.welcome(token.User), nil
}

// Login checks a user and a password. It returns the user's name – others may write it another way than it was given – and the token
// for later requests; that is empty when none is needed.
func (a *Authenticator) Login(r *http.Request, user, password string) (name, token string, err error) {
	if user == "" || password == "" {
		return "", "", ErrNoCredentials
	}
	if a.Open() {
		return a.welcome("admin"), "", nil
	}
	found, err := a.checkPassword(r, user, password, true)
	if err != nil {
		return "", "", err
	}
	return a.welcome(found.User), found.ID, nil
}

// Logout makes the token of a request worthless, where that can be done.
func (a *Authenticator) Logout(r *http.Request) error {
	text, basic := credentials(r)
	if a.tokens == nil || basic || text == "" {
		return nil
	}
	// Nobody makes us ask for nothing.
	if _, err := a.checkToken(r, text); isRefused(err) {
		return nil
	} else if err != nil {
		return err
	}
	a.forget(a.fingerprint("token", text))
	_, err := a.limited(r.Context(), func(ctx context.Context) (Token, error) { return Token{}, a.tokens.Revoke(ctx, text) })
	return err
}

func (a *Authenticator) welcome(user string) string {
	if a.grant != nil {
		a.grant(user, a.role)
	}
	return user
}

// credentials finds those of a request: cookie, Authorization, X-Auth-Token, query – the first that is there counts, right or wrong.
// basic tells that they are a name and a password for sure.
func credentials(r *http.Request) (text string, basic bool) {
	if c, err := r.Cookie("authtoken"); err == nil && c.Value != "" {
		return c.Value, false
	}
	if h := r.Header.Get("Authorization"); h != "" {
		if scheme, rest, ok := strings.Cut(h, " "); ok && (strings.EqualFold(scheme, "Basic") || strings.EqualFold(scheme, "Bearer")) {
			return strings.TrimSpace(rest), strings.EqualFold(scheme, "Basic")
		}
		return h, false
	}
	if h := r.Header.Get("X-Auth-Token"); h != "" {
		return h, false
	}
	return r.URL.Query().Get("x-auth-token"), false
}

func encode(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
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
