package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/auth"
	"skydive/src/graph"
	"skydive/src/query"
	"skydive/src/rbac"
	"skydive/src/ws"
)

// silent takes what a peer says.
type silent struct{}

func (silent) Receive(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }
func (silent) Closed(error)              {}

// withSockets is a server with WebSocket endpoints as services have them: of users, and of agents, whom another section knows.
func withSockets(t *testing.T, service string, tickets *Tickets) *testServer {
	metrics := ws.NewMetrics(prometheus.NewRegistry())
	s := newServer(t, map[string]string{"bob": "x", "Eve": "y"}, func(o *Options) {
		o.Service, o.Tickets = service, tickets
		enforcer := o.RBAC.(*rbac.Enforcer)
		cluster, err := auth.New("cluster", auth.Config{Type: "basic", Users: map[string]string{"agent": "z"}}, auth.Options{Log: quiet(), Grant: enforcer.Grant, Role: "admin"})
		if err != nil {
			t.Fatal(err)
		}
		o.Sockets = map[string]http.Handler{}
		for path, authenticate := range map[string]func(*http.Request) (string, []*http.Cookie, error){
			"/ws/subscriber": tickets.SocketAuth(o.Auth, enforcer), "/ws/publisher": tickets.SocketAuth(o.Auth, enforcer),
			"/ws/agent/topology": SocketAuth(cluster, enforcer),
		} {
			e := ws.NewEndpoint(ws.EndpointOptions{
				Path: path, HostID: "here", ServiceType: service, Authenticate: authenticate, Metrics: metrics, Logger: quiet(),
				Authorize: func(user, path string) bool { return enforcer.Allowed(user, "websocket", path) },
				Connect:   func(*ws.Conn) (ws.Session, error) { return silent{}, nil },
			})
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- e.Run(ctx) }()
			t.Cleanup(func() {
				if cancel(); <-done != nil {
					t.Error("an endpoint does not end")
				}
			})
			o.Sockets[path] = e
		}
	})
	return s
}

// upgrade asks for a WebSocket and returns the status of the answer and its cookies.
func (s *testServer) upgrade(t *testing.T, path string, headers ...string) (status int, body string, cookies []*http.Cookie) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range append([]string{"Connection: Upgrade", "Upgrade: websocket", "Sec-Websocket-Version: 13", "Sec-Websocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "X-Client-Type: test"}, headers...) {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusSwitchingProtocols {
		data, _ := io.ReadAll(answer.Body)
		body = string(data)
	}
	return answer.StatusCode, body, answer.Cookies()
}

func (s *testServer) getTicket(t *testing.T, headers ...string) string {
	t.Helper()
	resp, body := s.do(t, "POST", "/api/ticket", "", headers...)
	var got struct {
		Ticket  string
		Expires time.Time
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 || len(got.Ticket) != 64 || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatal(resp.Status, body, err)
	}
	return got.Ticket
}

const bobBasic, eveBasic, agentBasic = "Authorization: Basic Ym9iOng=", "Authorization: Basic RXZlOnk=", "Authorization: Basic YWdlbnQ6eg=="

// Analyzers and agents let nobody in without credentials: not to one path, not to one socket.
func TestNothingIsOpen(t *testing.T) {
	for _, service := range []string{"analyzer", "agent"} {
		t.Run(service, func(t *testing.T) {
			s := withSockets(t, service, NewTickets(nil))
			for _, path := range []string{"/ws/subscriber", "/ws/publisher", "/ws/agent/topology"} {
				if status, body, _ := s.upgrade(t, path); status != 401 || body != "No credentials provided" {
					t.Error(path, status, body)
				}
				if status, body, _ := s.upgrade(t, path, "Authorization: Basic Ym9iOnk="); status != 401 || body != "Wrong credentials" {
					t.Error(path, status, body)
				}
			}
			for _, path := range []string{"GET /api", "GET /api/status", "GET /api/topology", "POST /api/topology", "POST /api/ticket", "GET /metrics"} {
				method, path, _ := strings.Cut(path, " ")
				if resp, body := s.do(t, method, path, ""); resp.StatusCode != 401 {
					t.Error(path, resp.Status, body)
				}
			}
			if status, body, _ := s.upgrade(t, "/ws/subscriber", bobBasic); status != 101 {
				t.Error(status, body)
			}
			if status, body, _ := s.upgrade(t, "/ws/publisher", bobBasic); status != 403 {
				t.Error("a guest publishes:", status, body)
			}
			if status, body, _ := s.upgrade(t, "/ws/agent/topology", bobBasic); status != 401 {
				t.Error("a user is an agent:", status, body)
			}
			if status, body, _ := s.upgrade(t, "/ws/agent/topology", agentBasic); status != 101 {
				t.Error(status, body)
			}
		})
	}
}

// Before it is known who asks, nothing large is read.
func TestLoginTakesNoLargeForms(t *testing.T) {
	s := newServer(t, map[string]string{"bob": "x"}, nil)
	form := "Content-Type: application/x-www-form-urlencoded"
	if resp, body := s.do(t, "POST", "/login", "username=bob&password="+strings.Repeat("x", maxLogin), form); resp.StatusCode != 413 {
		t.Error(resp.Status, body)
	}
	if resp, body := s.do(t, "POST", "/login", "username=bob&password="+strings.Repeat("x", maxLogin/2), form); resp.StatusCode != 401 {
		t.Error(resp.Status, body)
	}
}

func TestTickets(t *testing.T) {
	var mu sync.Mutex
	now := time.Unix(1000, 0)
	tickets := NewTickets(func() time.Time { mu.Lock(); defer mu.Unlock(); return now })
	s := withSockets(t, "analyzer", tickets)
	foreign := "Origin: https://evil.example"

	ticket := s.getTicket(t, bobBasic)
	status, body, cookies := s.upgrade(t, "/ws/subscriber?x-host-id=a&x-auth-ticket="+ticket, foreign)
	if status != 101 || len(cookies) != 1 || cookies[0].Name != "permissions" {
		t.Error(status, body, cookies)
	}
	for _, again := range []string{ticket, strings.ToUpper(ticket), "x"} {
		if status, body, _ := s.upgrade(t, "/ws/subscriber?x-auth-ticket="+again); status != 401 || body != "This ticket is unknown, used, or older than 30s" {
			t.Error(status, body)
		}
	}
	// A bad ticket is not mended by what else is there.
	if status, _, _ := s.upgrade(t, "/ws/subscriber?x-auth-ticket=x", bobBasic); status != 401 {
		t.Error(status)
	}
	// It is as good as its owner, for the sockets of users, and nowhere else.
	if status, body, _ := s.upgrade(t, "/ws/publisher?x-auth-ticket="+s.getTicket(t, bobBasic)); status != 403 || !strings.Contains(body, "'bob'") {
		t.Error(status, body)
	}
	if status, body, _ := s.upgrade(t, "/ws/agent/topology?x-auth-ticket="+s.getTicket(t, bobBasic)); status != 401 || body != "No credentials provided" {
		t.Error(status, body)
	}
	ticket = s.getTicket(t, "Cookie: authtoken=Ym9iOng=")
	for _, path := range []string{"/api", "/api/status", "/api/config/x", "/metrics"} {
		if resp, body := s.do(t, "GET", path+"?x-auth-ticket="+ticket, ""); resp.StatusCode != 401 && resp.StatusCode != 404 {
			t.Error(path, resp.Status, body)
		}
	}
	if resp, body := s.do(t, "POST", "/api/ticket?x-auth-ticket="+ticket, ""); resp.StatusCode != 401 {
		t.Error(resp.Status, body)
	}
	// Nor does it wait for ever.
	mu.Lock()
	now = now.Add(ticketLife)
	mu.Unlock()
	if status, body, _ := s.upgrade(t, "/ws/subscriber?x-auth-ticket="+ticket); status != 401 {
		t.Error(status, body)
	}
	if resp, body := s.do(t, "GET", "/api/ticket", "", bobBasic); resp.StatusCode != 405 && resp.StatusCode != 404 {
		t.Error(resp.Status, body)
	}

	// Nobody gets more of them than can be of use, and takes none from others by that.
	got := 0
	for range maxUserTickets + 10 {
		if resp, _ := s.do(t, "POST", "/api/ticket", "", bobBasic); resp.StatusCode == 200 {
			got++
		} else if resp.StatusCode != http.StatusTooManyRequests {
			t.Fatal(resp.Status)
		}
	}
	if got != maxUserTickets {
		t.Errorf("%d tickets, want %d", got, maxUserTickets)
	}
	s.getTicket(t, eveBasic)
	for i := range 2 * maxTickets {
		tickets.issue(fmt.Sprint("user", i), nil)
	}
	if len(tickets.valid) != maxTickets {
		t.Error(len(tickets.valid))
	}
	mu.Lock()
	now = now.Add(ticketLife)
	mu.Unlock()
	if s.getTicket(t, bobBasic); len(tickets.valid) != 1 {
		t.Error(len(tickets.valid))
	}
}

// A connection that was opened with a ticket ends with the credentials that the ticket was got with.
func TestTicketsDoNotOutliveCredentials(t *testing.T) {
	a := &stillAuth{}
	for what, c := range map[string]struct{ query, header, value string }{
		"header": {"", "Authorization", "bob"}, "token": {"", "X-Auth-Token", "bob"}, "cookie": {"", "Cookie", "authtoken=bob"}, "query": {"?x-auth-token=bob", "Accept", "*/*"},
	} {
		a.gone = false
		tickets := NewTickets(nil)
		asks := httptest.NewRequest("POST", "/api/ticket"+c.query, nil)
		asks.Header.Set(c.header, c.value)
		text, _, _ := tickets.issue("bob", credentialsOf(asks))
		opens := httptest.NewRequest("GET", "/ws/subscriber?x-auth-ticket="+text, nil)
		opens.Header.Set("X-Auth-Token", "not his")
		user, _, err := tickets.SocketAuth(a, stubAuth{})(opens)
		still := SocketStill(a)
		if user != "bob" || err != nil || !still(opens) {
			t.Error(what, user, err, still(opens))
		}
		if a.gone = true; still(opens) {
			t.Error(what, "outlives the user")
		}
	}
}

// stillAuth knows bob, who is named by any of the credentials, until he is gone.
type stillAuth struct {
	stubAuth
	gone bool
}

func (a *stillAuth) Authenticate(r *http.Request) (string, error) {
	c, _ := r.Cookie("authtoken")
	named := c != nil && c.Value == "bob" || r.Header.Get("Authorization") == "bob" || r.Header.Get("X-Auth-Token") == "bob"
	if a.gone || !named {
		return "", errors.New("unknown")
	}
	return "bob", nil
}

// Of those who come with one ticket at the same time, one gets in.
func TestTicketRace(t *testing.T) {
	tickets := NewTickets(nil)
	for range 100 {
		text, _, _ := tickets.issue("bob", nil)
		var wg sync.WaitGroup
		in := make(chan string, 8)
		for range cap(in) {
			wg.Go(func() { in <- tickets.redeem(text).user })
		}
		wg.Wait()
		close(in)
		n := 0
		for user := range in {
			if user == "bob" {
				n++
			}
		}
		if n != 1 {
			t.Fatal(n)
		}
	}
}

// A page of another site cannot use what the browser remembers of its user.
func TestForeignPages(t *testing.T) {
	s := withSockets(t, "analyzer", NewTickets(nil))
	cookie, foreign, own := "Cookie: authtoken=Ym9iOng=", "Origin: https://evil.example", "Origin: "+s.URL
	for _, c := range []struct {
		what, path string
		headers    []string
		want       int
	}{
		{"cookie, own page", "", []string{cookie, own}, 101},
		{"cookie, no page", "", []string{cookie}, 101},
		{"cookie, foreign page", "", []string{cookie, foreign}, 403},
		{"cookie, page of another port", "", []string{cookie, "Origin: http://127.0.0.1:1"}, 403},
		{"cookie, sandboxed page", "", []string{cookie, "Origin: null"}, 403},
		{"token in the query, foreign page", "?x-auth-token=Ym9iOng=", []string{cookie, foreign}, 101},
		{"token in a header, foreign page", "", []string{"X-Auth-Token: Ym9iOng=", foreign}, 101},
	} {
		if status, body, _ := s.upgrade(t, "/ws/subscriber"+c.path, c.headers...); status != c.want {
			t.Error(c.what, status, body)
		}
	}
	if resp, body := s.do(t, "POST", "/api/ticket", "", cookie, foreign); resp.StatusCode != 401 {
		t.Error("a foreign page gets a ticket:", resp.Status, body)
	}
}

// When nobody is asked for credentials, a page of another host that a browser on this host shows gets nothing, and no page is an agent.
func TestForeignPagesWithoutAuthentication(t *testing.T) {
	var open stubAuth
	user, peer := NewTickets(nil).SocketAuth(open, open), SocketAuth(open, open)
	s := newOpen(t, func(*Options) {})
	for _, c := range []struct {
		what, remote, origin, site string
		user, peer                 bool
	}{
		{"a program", "127.0.0.1:5000", "", "", true, true},
		{"our page", "127.0.0.1:5000", "http://localhost:8082", "same-origin", true, false},
		{"a page of this host", "127.0.0.1:5000", "http://localhost:3000", "same-site", true, false},
		{"another host's", "127.0.0.1:5000", "https://evil.example", "cross-site", false, false},
		{"another host's, old browser", "[::1]:5000", "https://evil.example", "", false, false},
		{"a name like ours", "127.0.0.1:5000", "https://localhost.evil.example", "cross-site", false, false},
		{"a sandbox", "127.0.0.1:5000", "null", "cross-site", false, false},
		{"beyond loopback, as was asked for", "192.0.2.1:5000", "http://ui.example", "cross-site", true, false},
	} {
		r := httptest.NewRequest("POST", "http://localhost:8082/api/topology", nil)
		r.RemoteAddr = c.remote
		for name, value := range map[string]string{"Origin": c.origin, "Sec-Fetch-Site": c.site} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		_, _, userErr := user(r)
		_, _, peerErr := peer(r)
		if (userErr == nil) != c.user || (peerErr == nil) != c.peer {
			t.Error(c.what, userErr, peerErr)
		}
		w := httptest.NewRecorder()
		if s.Handler().ServeHTTP(w, r); (w.Code != 403) != c.user {
			t.Error(c.what, w.Code, w.Body)
		}
	}
}

func cookiesOf(list []*http.Cookie) map[string]*http.Cookie {
	found := map[string]*http.Cookie{}
	for _, c := range list {
		found[c.Name] = c
	}
	return found
}

func TestLogoutTakesTheCookiesBack(t *testing.T) {
	s := newServer(t, map[string]string{"bob": "x"}, nil)
	for _, header := range []string{"Cookie: authtoken=Ym9iOng=; permissions=x", "Accept: */*"} {
		resp, body := s.do(t, "POST", "/logout", "", header)
		cookies := cookiesOf(resp.Cookies())
		if resp.StatusCode != 204 || body != "" || len(cookies) != 2 {
			t.Fatal(resp.Status, body, resp.Cookies())
		}
		for name, c := range cookies {
			if c.MaxAge >= 0 || c.Value != "" || c.Path != "/" || c.HttpOnly != (name == "authtoken") {
				t.Error(c)
			}
		}
	}
	if resp, _ := s.do(t, "GET", "/logout", ""); resp.StatusCode == 204 || len(resp.Cookies()) > 0 {
		t.Error("an image of a foreign page logs out:", resp.Status)
	}
}

func TestCookiesUnderTLS(t *testing.T) {
	s := newServer(t, map[string]string{"bob": "x"}, func(o *Options) { o.Tickets = NewTickets(nil) })
	for what, c := range map[string]struct {
		encrypted bool
		proto     string
		secure    bool
	}{"clear text": {}, "TLS": {encrypted: true, secure: true}, "behind a proxy": {proto: "https", secure: true}, "behind a proxy, clear text": {proto: "http"}} {
		r := httptest.NewRequest("POST", "/login", strings.NewReader("username=bob&password=x"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if c.encrypted {
			r.TLS = &tls.ConnectionState{}
		}
		if c.proto != "" {
			r.Header.Set("X-Forwarded-Proto", c.proto)
		}
		w := httptest.NewRecorder()
		s.Config.Handler.ServeHTTP(w, r)
		cookies := cookiesOf(w.Result().Cookies())
		if w.Code != 200 || len(cookies) != 2 || w.Header().Get("Cache-Control") != "no-store" {
			t.Fatal(what, w.Code, w.Header())
		}
		for _, cookie := range cookies {
			if cookie.Secure != c.secure || cookie.SameSite != http.SameSiteLaxMode {
				t.Error(what, cookie)
			}
		}
	}
}

// awayAuth is an Authenticator whose users somebody else knows, who does not answer; names are as they are there.
type awayAuth struct{ stubAuth }

func (awayAuth) Open() bool { return false }
func (awayAuth) Authenticate(*http.Request) (string, error) {
	return "", auth.Unavailable("the directory is away")
}
func (awayAuth) Login(_ *http.Request, user, _ string) (string, string, error) {
	if user == "BOB" {
		return "bob", "t", nil
	}
	return "", "", auth.Unavailable("the directory is away")
}
func (awayAuth) Logout(*http.Request) error { return auth.Unavailable("the directory is away") }

func TestDirectoryAway(t *testing.T) {
	enforcer, err := rbac.New(rbac.Config{Policy: []string{"p, bob, own, read, allow"}})
	if err != nil {
		t.Fatal(err)
	}
	server, err := New(Options{Auth: awayAuth{}, RBAC: enforcer, Log: quiet(), Graph: graph.New(graph.Options{}), Steps: query.AllSteps, Service: "analyzer"})
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{Server: httptest.NewServer(server.Handler())}
	defer s.Close()
	form := "Content-Type: application/x-www-form-urlencoded"
	for _, c := range [][]string{{"GET", "/api/status", ""}, {"POST", "/login", "username=a&password=b"}} {
		resp, body := s.do(t, c[0], c[1], c[2], form)
		if resp.StatusCode != 503 || body != "the directory is away\n" || resp.Header.Get("Retry-After") == "" {
			t.Error(resp.Status, body)
		}
	}
	if resp, body := s.do(t, "POST", "/logout", ""); resp.StatusCode != 204 || len(resp.Cookies()) != 2 {
		t.Error("nobody can log out while the directory is away:", resp.Status, body)
	}
	// The rights are those of the user as the directory writes the name.
	if resp, body := s.do(t, "POST", "/login", "username=BOB&password=x", form); resp.StatusCode != 200 || !strings.Contains(body, `"Object":"own"`) {
		t.Error(resp.Status, body)
	}
}

// Ten thousand bad logins cost few checks of a password, and one who knows gets in all the while, from the same address too.
func TestTenThousandBadLogins(t *testing.T) {
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte("bob:$2a$04$v96oenH6v65Ry6cQ79mF3OVEx6MDwmj1NIpqB6kc8tLNnCamVoXX.\n"), 0o600); err != nil { // x
		t.Fatal(err)
	}
	s := newServer(t, nil, func(o *Options) {
		var err error
		o.Auth, err = auth.New("basic", auth.Config{File: file, Role: "guest"}, auth.Options{Log: quiet(), Grant: o.RBAC.(*rbac.Enforcer).Grant, Registerer: o.Registerer})
		if err != nil {
			t.Fatal(err)
		}
	})
	ask := func(remote, path, form string) int {
		r := httptest.NewRequest("POST", path, strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if form == "" {
			r.Method = "GET"
			r.SetBasicAuth("bob", "x")
		}
		r.RemoteAddr = remote
		w := httptest.NewRecorder()
		s.Config.Handler.ServeHTTP(w, r)
		return w.Code
	}
	if code := ask("192.0.2.1:5", "/api/status", ""); code != 200 {
		t.Fatal(code)
	}
	var wg sync.WaitGroup
	var tried, kept atomic.Int64
	const guesses, clients = 10_000, 20
	start := time.Now()
	for c := range clients {
		wg.Go(func() {
			for i := range guesses / clients {
				switch code := ask(fmt.Sprintf("192.0.2.%d:5", c%4), "/login", fmt.Sprintf("username=bob&password=guess%d-%d", c, i)); code {
				case 401:
					tried.Add(1)
				case 429:
				default:
					t.Error(code)
				}
				if i%10 == 0 {
					if code := ask("192.0.2.1:6", "/api/status", ""); code != 200 {
						kept.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	if limit := 100 + int64(took/time.Second); tried.Load() > limit || kept.Load() > 0 {
		t.Errorf("%d passwords were tried in %s, want at most %d; one who knows was kept out %d times", tried.Load(), took, limit, kept.Load())
	}
}
