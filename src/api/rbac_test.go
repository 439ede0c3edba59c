package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"skydive/src/auth"
	"skydive/src/etcd"
	"skydive/src/graph"
	"skydive/src/rbac"
)

// kept keeps a policy as cmd does with etcd: under the documented key, followed by a watch.
type kept struct{ store *etcd.Service }

const policyKey = "/casbinPolicy"

func (k kept) Get(ctx context.Context) (string, error) {
	value, _, err := k.store.Get(ctx, policyKey)
	return string(value), err
}
func (k kept) Set(ctx context.Context, csv string) error {
	return k.store.Put(ctx, policyKey, []byte(csv))
}
func (k kept) Delete(ctx context.Context) error { return k.store.Delete(ctx, policyKey) }

// newPolicyServer has a real store, and users whose default role is admin but for guest1's.
func newPolicyServer(t *testing.T, role string) (*testServer, *etcd.Service) {
	t.Helper()
	s, store, follow := newUnfollowedServer(t, role, rbac.Config{})
	follow()
	return s, store
}

// newUnfollowedServer leaves it to the caller when the policy in the store is looked at.
func newUnfollowedServer(t *testing.T, role string, cfg rbac.Config) (*testServer, *etcd.Service, func()) {
	t.Helper()
	store := newStore(t)
	enforcer, err := rbac.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	authenticator, err := auth.New("basic", auth.Config{Users: map[string]string{"alice": "p", "bob": "p", "carol": "p"}, Role: role}, auth.Options{Log: quiet(), Grant: enforcer.Grant})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, nil, func(o *Options) {
		o.Auth, o.RBAC = authenticator, enforcer
		o.Store, o.Policy, o.Rights = store, kept{store}, enforcer
		o.Check = func(user, object, action string) any { return enforcer.Check(user, object, action) }
	})
	s.rbac = enforcer
	return s, store, func() {
		follow := enforcer.Follow(policyKey, quiet())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- store.Watch(ctx, policyKey, func(e etcd.Event) { follow(e.Key, e.Value, e.Synced) })
		}()
		t.Cleanup(func() { cancel(); <-done })
	}
}

// becomes waits until a request is answered as it should.
func (s *testServer) becomes(t *testing.T, user, path string, want int) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; {
		status, text := s.as(t, user, "GET", path, "")
		if status == want {
			return
		}
		if <-tick.C; time.Now().After(deadline) {
			t.Fatalf("%s: %s: %d %s, want %d", user, path, status, text, want)
		}
	}
}

func (s *testServer) as(t testing.TB, user, method, path, body string) (int, string) {
	t.Helper()
	r, _ := http.NewRequest(method, "/", nil)
	r.SetBasicAuth(user, "p")
	resp, text := s.do(t, method, path, body, "Authorization: "+r.Header.Get("Authorization"))
	return resp.StatusCode, text
}

func samplePolicy(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../rbac/testdata/mypolicy.csv")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The sample, set through the API, is in force with the answer, and held by the routes themselves.
func TestPolicyThroughTheAPI(t *testing.T) {
	s, _ := newPolicyServer(t, "admin")
	expect := func(user, method, path, body string, want int, has string) {
		t.Helper()
		if status, text := s.as(t, user, method, path, body); status != want || !strings.Contains(text, has) {
			t.Errorf("%s: %s %s: %d %q, want %d %q", user, method, path, status, text, want, has)
		}
	}
	expect("carol", "GET", "/api/rbac/policy", "", 404, "no policy is stored")
	expect("carol", "DELETE", "/api/rbac/policy", "", 404, "no policy is stored")
	expect("bob", "GET", "/api/topology", "", 200, "")
	sample := samplePolicy(t)
	expect("carol", "PUT", "/api/rbac/policy", sample, 200, "")
	expect("carol", "PUT", "/api/rbac/policy", sample, 200, "") // again
	expect("carol", "GET", "/api/rbac/policy", "", 200, sample)
	const query = `{"GremlinQuery":"G.V()"}`
	for _, c := range []struct {
		method, path, body string
		alice, bob         int
	}{
		{"GET", "/api/topology", "", 200, 405},
		{"POST", "/api/topology", query, 200, 405},
		{"GET", "/api/alert", "", 200, 200},
		{"POST", "/api/alert", "{}", 405, 405},
		{"GET", "/api/capture", "", 200, 200},
		{"POST", "/api/capture", query, 501, 405}, // allowed, and nothing captures here
		{"DELETE", "/api/capture/x", "", 404, 405},
		{"GET", "/api/status", "", 405, 405},
		{"GET", "/api/node", "", 405, 405},
		{"GET", "/api/workflow", "", 405, 405},
		{"GET", "/metrics", "", 405, 405},
		{"GET", "/api/rbac/policy", "", 405, 405},
		{"PUT", "/api/rbac/policy", "", 405, 405},
		{"DELETE", "/api/rbac/policy?force=true", "", 405, 405},
	} {
		expect("alice", c.method, c.path, c.body, c.alice, "")
		expect("bob", c.method, c.path, c.body, c.bob, "")
	}
	// What is wrong is refused with its line, and nothing changes.
	expect("carol", "PUT", "/api/rbac/policy", "# mine\r\np, bob, topology, read\r\n", 400, `line 2 "p, bob, topology, read": want 4 words`)
	expect("carol", "PUT", "/api/rbac/policy", strings.Repeat("#", 1<<20+1), 400, "bytes, more than")
	expect("carol", "PUT", "/api/rbac/policy", strings.Repeat("#", maxBody+1), 413, "")
	expect("carol", "GET", "/api/rbac/policy", "", 200, sample)
	// Who would lock oneself out is warned.
	expect("carol", "PUT", "/api/rbac/policy", "g, carol, guests", 409, "'carol' could not change the policy any more")
	expect("carol", "PUT", "/api/rbac/policy?force=true", "g, carol, guests", 200, "")
	expect("carol", "PUT", "/api/rbac/policy", sample, 405, "")
	expect("alice", "DELETE", "/api/rbac/policy", "", 200, "") // an admin again: no line is about alice now
	expect("carol", "GET", "/api/topology", "", 200, "")
	expect("bob", "GET", "/api/topology", "", 200, "")
}

// What is stored past the API – with curl, or by another analyzer – is followed; what is wrong with it is told.
func TestPolicyStoredByOthers(t *testing.T) {
	s, store := newPolicyServer(t, "admin")
	becomes := func(user, path string, want int) { t.Helper(); s.becomes(t, user, path, want) }
	put := func(text string) {
		t.Helper()
		if err := store.Put(t.Context(), policyKey, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	put(samplePolicy(t))
	becomes("bob", "/api/topology", 405)
	put("p, bob, topology, read, allow\np, bob")
	resp, text := s.do(t, "GET", "/api/rbac/policy", "", "Authorization: Basic Y2Fyb2w6cA==")
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get(policyErrorHeader), `line 2 "p, bob"`) || !strings.HasSuffix(text, "p, bob") {
		t.Errorf("%s %v %s", resp.Status, resp.Header, text)
	}
	put("p, bob, status, read, deny") // the broken one was passed by: events come in order
	becomes("bob", "/api/status", 405)
	becomes("bob", "/api/topology", 200)
	// The admin is locked out: etcd is the way back in.
	put("p, admin, rbac, write, deny\np, admin, rbac, read, deny")
	becomes("carol", "/api/rbac/policy", 405)
	if err := store.Delete(t.Context(), policyKey); err != nil {
		t.Fatal(err)
	}
	becomes("carol", "/api/rbac/policy", 404)
}

// After a restart there is no last good policy: with a broken one nobody is let in, but to mend it.
func TestBrokenPolicyAtStart(t *testing.T) {
	s, store, follow := newUnfollowedServer(t, "admin", rbac.Config{Await: true})
	if err := store.Put(t.Context(), policyKey, []byte("p, bob, topology, read, deny\np, bob")); err != nil {
		t.Fatal(err)
	}
	if status, text := s.as(t, "carol", "GET", "/api/topology", ""); status != 503 || !strings.Contains(text, "not known yet") {
		t.Errorf("%d %s", status, text)
	}
	changed := s.rbac.Changed()
	follow()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for s.rbac.Status().State != "failed" {
		if <-tick.C; time.Now().After(deadline) {
			t.Fatalf("%+v", s.rbac.Status())
		}
	}
	for _, user := range []string{"bob", "carol"} {
		if status, text := s.as(t, user, "GET", "/api/topology", ""); status != 503 || !strings.Contains(text, "line 2") {
			t.Errorf("%s: %d %s", user, status, text)
		}
	}
	if status, text := s.as(t, "carol", "PUT", "/api/rbac/policy", "p, bob, topology, read, deny"); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	<-changed
	s.becomes(t, "carol", "/api/topology", 200)
	s.becomes(t, "bob", "/api/topology", 405)
}

func TestCheckOverTheAPI(t *testing.T) {
	s, _ := newPolicyServer(t, "guest")
	for _, c := range []struct {
		user, query string
		want        int
		allowed     bool
	}{
		{"bob", "object=topology&action=read", 200, true},
		{"bob", "user=bob&object=capture&action=write", 200, false},
		{"bob", "user=alice&object=topology&action=read", 405, false},
		{"bob", "object=topology", 400, false},
		{"bob", "action=read", 400, false},
	} {
		status, text := s.as(t, c.user, "GET", "/api/rbac/check?"+c.query, "")
		var x struct {
			User, Reason string
			Allowed      bool
			Roles, Rules []any
		}
		if status != c.want || status == 200 && (json.Unmarshal([]byte(text), &x) != nil || x.User != "bob" || x.Reason == "" || x.Allowed != c.allowed || len(x.Roles) != 1 || len(x.Rules) != 1) {
			t.Errorf("%+v: %d %s", c, status, text)
		}
	}
	if resp, _ := s.do(t, "GET", "/api/rbac/check?user=admin&object=topology&action=read", ""); resp.StatusCode != 401 {
		t.Error(resp.Status)
	}
}

// failingPolicy cannot be reached.
type failingPolicy struct{}

func (failingPolicy) Get(context.Context) (string, error) { return "", errors.New("etcd is not ready") }
func (failingPolicy) Set(context.Context, string) error   { return errors.New("etcd is not ready") }
func (failingPolicy) Delete(context.Context) error        { return fs.ErrNotExist }

func TestPolicyNotAvailable(t *testing.T) {
	s := newServer(t, nil, func(o *Options) { o.Policy, o.Rights = failingPolicy{}, o.RBAC.(*rbac.Enforcer) })
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		resp, text := s.do(t, method, "/api/rbac/policy", "")
		if resp.StatusCode != 503 || !strings.Contains(text, "etcd is not ready") || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %s %s", method, resp.Status, text)
		}
	}
}

// As long as the policy of etcd is not known, what the bundled one allows might be denied.
func TestNobodyMayBeforeThePolicyIsKnown(t *testing.T) {
	waiting, err := rbac.New(rbac.Config{Await: true})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, nil, func(o *Options) {
		o.RBAC, o.Rights, o.Policy = waiting, waiting, failingPolicy{}
		o.Check = func(user, object, action string) any { return waiting.Check(user, object, action) }
	})
	for path, want := range map[string]int{
		"/api": 200, "/": 200, "/healthz": 200, "/readyz": 200, "/api/topology": 503, "/api/status": 503, "/metrics": 503, "/debug/pprof/heap": 503,
		"/api/rbac/check?object=topology&action=read": 200,
	} {
		if resp, text := s.do(t, "GET", path, ""); resp.StatusCode != want || want == 503 && !strings.Contains(text, "not known yet") {
			t.Errorf("%s: %s %s", path, resp.Status, text)
		}
	}
	if _, text := s.do(t, "GET", "/api/rbac/policy", ""); !strings.Contains(text, "etcd is not ready") {
		t.Error("the policy cannot be looked at, to mend it:", text)
	}
	if err := waiting.SetPolicy(""); err != nil {
		t.Fatal(err)
	}
	if resp, _ := s.do(t, "GET", "/api/topology", ""); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}

// A stream of packets ends when its user loses the right.
func TestStreamEndsWithTheRight(t *testing.T) {
	s := newServer(t, map[string]string{"alice": "p"}, func(o *Options) {
		o.Rights = o.RBAC.(*rbac.Enforcer)
		o.Packets = func(ctx context.Context, _ string, w io.Writer) error {
			if _, err := io.WriteString(w, "packet"); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}
	})
	s.rbac.Grant("alice", "admin")
	r, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/api/capture/x/pcapng", nil)
	r.SetBasicAuth("alice", "p")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, len("packet"))); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp.Status, err)
	}
	if err := s.rbac.SetPolicy("p, bob, capture, rawpackets, deny"); err != nil { // not about alice
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, resp.Body); ended <- err }()
	select {
	case err := <-ended:
		t.Fatal("ended with a policy that is not about its user:", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := s.rbac.SetPolicy("p, alice, capture, rawpackets, deny"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the stream looks whole")
		}
	case <-time.After(10 * time.Second):
		t.Error("the stream goes on")
	}
}

// Without authentication everybody is admin; a policy is then taken from this host only, and from no page.
func TestOpenServerTakesNoPolicyFromElsewhere(t *testing.T) {
	enforcer, err := rbac.New(rbac.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	stored := ""
	s := newOpen(t, func(o *Options) {
		o.RBAC, o.Rights = enforcer, enforcer
		o.Policy = memoryPolicy{&mu, &stored, enforcer}
	})
	for _, c := range []struct {
		name, remote, host, origin, site string
		want                             int
	}{
		{"this host", "127.0.0.1:5000", "127.0.0.1:8082", "", "", 200},
		{"by name", "127.0.0.1:5000", "localhost:8082", "", "", 200},
		{"IPv6", "[::1]:5000", "[::1]:8082", "", "", 200},
		{"mapped", "[::ffff:127.0.0.1]:5000", "localhost", "", "", 200},
		{"our page", "127.0.0.1:5000", "localhost:8082", "http://localhost:8082", "same-origin", 200},
		{"another host", "192.0.2.1:5000", "127.0.0.1:8082", "", "", 403},
		{"a page", "127.0.0.1:5000", "localhost:8082", "http://evil.example", "cross-site", 403},
		{"a page, old browser", "127.0.0.1:5000", "localhost:8082", "http://evil.example", "", 403},
		{"a picture in a page", "127.0.0.1:5000", "localhost:8082", "", "cross-site", 403},
		{"another port", "127.0.0.1:5000", "localhost:8082", "http://localhost:3000", "same-site", 403},
		{"a name that resolves to this host", "127.0.0.1:5000", "evil.example:8082", "http://evil.example:8082", "same-origin", 403},
	} {
		for _, ask := range [][2]string{{"PUT", "/api/rbac/policy"}, {"DELETE", "/api/rbac/policy"}, {"GET", "/debug/pprof/cmdline"}, {"GET", "/debug/pprof/"}} {
			mu.Lock()
			stored = "p, before, b, c, allow"
			mu.Unlock()
			r := httptest.NewRequest(ask[0], "http://"+c.host+ask[1], strings.NewReader(fmt.Sprintf("p, %s, b, c, allow", strings.ReplaceAll(c.name, ",", ""))))
			r.RemoteAddr = c.remote
			for name, value := range map[string]string{"Origin": c.origin, "Sec-Fetch-Site": c.site} {
				if value != "" {
					r.Header.Set(name, value)
				}
			}
			want := c.want
			if want == 200 && ask[1] == "/debug/pprof/cmdline" {
				want = 404 // the command line is nobody's business
			}
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%s: %v: %d %s, want %d", c.name, ask, w.Code, w.Body, want)
			}
		}
	}
}

// memoryPolicy is one that is in force at once.
type memoryPolicy struct {
	mu       *sync.Mutex
	stored   *string
	enforcer *rbac.Enforcer
}

func (p memoryPolicy) Get(context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *p.stored, nil
}

func (p memoryPolicy) Set(_ context.Context, csv string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	*p.stored = csv
	return p.enforcer.SetPolicy(csv)
}

func (p memoryPolicy) Delete(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	*p.stored = ""
	return p.enforcer.SetPolicy("")
}

// newOpen makes a server that asks nobody for credentials.
func newOpen(t testing.TB, edit func(*Options)) *Server {
	t.Helper()
	o := Options{Service: "analyzer", Auth: stubAuth{}, RBAC: stubAuth{}, Log: quiet(), Graph: graph.New(graph.Options{})}
	edit(&o)
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A policy of many lines must not make headers that no browser takes.
func TestManyPermissionsAreNoCookie(t *testing.T) {
	s := newServer(t, map[string]string{"alice": "p"}, nil)
	login := func() (cookie string, list int) {
		resp, body := s.do(t, "POST", "/login", "username=alice&password=p", "Content-Type: application/x-www-form-urlencoded")
		for _, c := range resp.Cookies() {
			if c.Name == "permissions" {
				cookie = c.Value
			}
		}
		return cookie, strings.Count(body, `"Object"`)
	}
	before, few := login()
	if before == "" || few == 0 {
		t.Fatal("no permissions at all")
	}
	var policy strings.Builder
	for i := range 100 {
		fmt.Fprintf(&policy, "p, guest, object%d, read, allow\n", i)
	}
	if err := s.rbac.SetPolicy(policy.String()); err != nil {
		t.Fatal(err)
	}
	if after, many := login(); after != "" || many != few+100 {
		t.Errorf("%d bytes of cookie, %d permissions", len(after), many)
	}
}

func TestSocketStill(t *testing.T) {
	file := filepath.Join(t.TempDir(), "htpasswd")
	write := func(users ...string) {
		t.Helper()
		text := ""
		for _, user := range users {
			text += user + ":{SHA}UWuXg/ylF+7L0dBk2i0WUxCxl1k=\n" // p
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("alice", "bob")
	users, err := auth.New("basic", auth.Config{File: file}, auth.Options{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	still := SocketStill(users)
	handshake := func(user, query string) *http.Request {
		r := httptest.NewRequest("GET", "/ws/subscriber"+query, nil)
		r.SetBasicAuth(user, "p")
		return r
	}
	for _, user := range []string{"alice", "bob"} {
		if _, err := users.Authenticate(handshake(user, "")); err != nil || !still(handshake(user, "")) {
			t.Fatal(user, err)
		}
	}
	write("alice", "carol", "dave")
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for still(handshake("bob", "")) { // the file is looked at now and then
		if <-tick.C; time.Now().After(deadline) {
			t.Fatal("bob was removed, and is still known")
		}
	}
	if !still(handshake("alice", "")) {
		t.Error("alice is gone as well")
	}
	if !still(handshake("alice", "?"+ticketQuery+"=used")) {
		t.Error("a ticket that was used ends its connection")
	}
	if still(handshake("bob", "?"+ticketQuery+"=used")) || still(handshake("bob", "?"+ticketQuery+"=")) {
		t.Error("a ticket keeps a connection")
	}
	if !SocketStill(away{})(handshake("bob", "")) {
		t.Error("connections end because nobody can be asked")
	}
}

// away is an authentication that cannot be reached.
type away struct{ stubAuth }

func (away) Authenticate(*http.Request) (string, error) { return "", awayError{} }

type awayError struct{}

func (awayError) Error() string { return "Keystone is away" }
func (awayError) Status() int   { return http.StatusServiceUnavailable }
