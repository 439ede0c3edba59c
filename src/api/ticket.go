package api

import (
	"crypto/rand"
	"encoding/hex"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A browser's WebSocket cannot have headers, and what is in its URL ends up in logs: so the URL has a ticket, which is worth nothing
// once it was used.
const (
	ticketLife     = 30 * time.Second
	maxTickets     = 1024
	maxUserTickets = 64
	ticketQuery    = "x-auth-ticket"
)

// Tickets lets users whom a server knows in through its WebSockets, once each. They are good in this process only.
type Tickets struct {
	clock func() time.Time

	mu    sync.Mutex
	valid map[string]ticket // guarded by mu
}

type ticket struct {
	user  string
	until time.Time
	proof http.Header // the credentials that it was got with
}

// NewTickets makes a store without tickets; clock is time.Now when nil.
func NewTickets(clock func() time.Time) *Tickets {
	if clock == nil {
		clock = time.Now
	}
	return &Tickets{clock: clock, valid: map[string]ticket{}}
}

// issue returns a new ticket; not ok when the user, or all users together, have too many. proof has
// the credentials of the user.
func (t *Tickets) issue(user string, proof http.Header) (text string, until time.Time, ok bool) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails, or ends the program
	text = hex.EncodeToString(secret[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	now, his := t.clock(), 0
	for id, v := range t.valid {
		switch {
		case !now.Before(v.until):
			delete(t.valid, id)
		case v.user == user:
			his++
		}
	}
	if his >= maxUserTickets || len(t.valid) >= maxTickets {
		return "", time.Time{}, false
	}
	until = now.Add(ticketLife)
	t.valid[text] = ticket{user, until, proof}
	return text, until, true
}

// redeem uses up a ticket; it is nobody's when there is none.
func (t *Tickets) redeem(text string) ticket {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.valid[text]
	delete(t.valid, text)
	if !ok || !t.clock().Before(v.until) {
		return ticket{}
	}
	return v
}

// credentialsOf returns those that a request is authenticated by, all as headers.
func credentialsOf(r *http.Request) http.Header {
	proof := http.Header{}
	for _, name := range []string{"Cookie", "Authorization", "X-Auth-Token"} {
		proof[name] = r.Header[name]
	}
	if token := r.URL.Query().Get("x-auth-token"); proof.Get("X-Auth-Token") == "" && token != "" {
		proof.Set("X-Auth-Token", token)
	}
	return proof
}

// SocketAuth returns how a WebSocket endpoint authenticates: as REST does, and with tickets; its answer carries the permissions of the
// user. Tickets must only be taken where those are let in who may get one: not by the endpoints of agents and analyzers.
func (t *Tickets) SocketAuth(auth Authenticator, rbac Authorizer) func(*http.Request) (user string, cookies []*http.Cookie, err error) {
	return func(r *http.Request) (user string, cookies []*http.Cookie, err error) {
		if err := stranger(auth, r); err != nil {
			return "", nil, err
		}
		text := ""
		if t != nil && strings.Contains(r.URL.RawQuery, ticketQuery) {
			text = r.URL.Query().Get(ticketQuery)
		}
		if text == "" {
			user, err = auth.Authenticate(r)
		} else if got := t.redeem(text); got.user != "" {
			user = got.user
			maps.Copy(r.Header, got.proof) // for SocketStill: the connection must not outlive them
		} else {
			err = failf(http.StatusUnauthorized, "This ticket is unknown, used, or older than %s", ticketLife)
		}
		if err != nil {
			return "", nil, err
		}
		cookies = []*http.Cookie{permissionsCookie(r, rbac.Permissions(user))}
		if c, err := r.Cookie("authtoken"); text == "" && err == nil && strings.TrimSpace(c.Value) != "" {
			cookies = append(cookies, tokenCookie(r, c.Value))
		}
		return user, cookies, nil
	}
}

// ticket gives user a ticket.
func (s *Server) ticket(w http.ResponseWriter, r *http.Request, user string) error {
	text, until, ok := s.Tickets.issue(user, credentialsOf(r))
	if !ok {
		return failf(http.StatusTooManyRequests, "Too many tickets that were not used: wait %s", ticketLife)
	}
	w.Header().Set("Cache-Control", "no-store")
	return writeJSON(w, struct {
		Ticket  string
		Expires time.Time
	}{text, until.UTC()})
}
