//go:build openstack

// These tests need a real Keystone: make openstack-test, which runs them beside one.

package keystone_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/api"
	"skydive/src/auth"
	"skydive/src/auth/keystone"
	"skydive/src/graph"
	"skydive/src/query"
	"skydive/src/rbac"
)

type object = map[string]any

// operator is who looks after the Keystone of the tests.
type operator struct {
	t     testing.TB
	url   string
	token string
	name  string // of this test; what it makes begins with it
	roles map[string]string
}

func setting(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv("SKYDIVE_TEST_OPENSTACK_" + name)
	if value == "" {
		t.Fatalf("SKYDIVE_TEST_OPENSTACK_%s is not set: make openstack-test runs this beside a Keystone", name)
	}
	return value
}

// base is the URL without the version: configurations may leave it out.
func base(url string) string { return strings.TrimSuffix(url, "/v3") }

func newOperator(t testing.TB) *operator {
	o := &operator{t: t, url: base(setting(t, "AUTH_URL")), name: "t" + strings.ToLower(rand.Text()[:8]), roles: map[string]string{}}
	o.token = o.login("admin", setting(t, "PASSWORD"), "default", object{"project": object{"name": "admin", "domain": object{"id": "default"}}})
	for _, role := range o.ask("GET", "/roles", nil)["roles"].([]any) {
		o.roles[role.(object)["name"].(string)] = role.(object)["id"].(string)
	}
	return o
}

func (o *operator) send(method, path, subject string, body any) (*http.Response, object) {
	o.t.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			o.t.Fatal(err)
		}
	}
	r, err := http.NewRequest(method, o.url+"/v3"+path, bytes.NewReader(text))
	if err != nil {
		o.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for name, value := range map[string]string{"X-Auth-Token": o.token, "X-Subject-Token": subject} {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		o.t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode >= 300 {
		o.t.Fatalf("%s %s: %s %s %v", method, path, answer.Status, data, err)
	}
	var found object
	if len(data) > 0 {
		if err := json.Unmarshal(data, &found); err != nil {
			o.t.Fatal(err)
		}
	}
	return answer, found
}

func (o *operator) ask(method, path string, body any) object {
	o.t.Helper()
	_, found := o.send(method, path, "", body)
	return found
}

// make makes a domain, project or user and returns its id.
func (o *operator) make(kind, name string, more object) string {
	o.t.Helper()
	what := object{"name": name}
	for key, value := range more {
		what[key] = value
	}
	return o.ask("POST", "/"+kind+"s", object{kind: what})[kind].(object)["id"].(string)
}

func (o *operator) grant(project, user, role string) {
	o.t.Helper()
	o.ask("PUT", "/projects/"+project+"/users/"+user+"/roles/"+o.roles[role], nil)
}

// login gets a token as a user does who has nothing to do with Skydive.
func (o *operator) login(user, password, domain string, scope any) string {
	o.t.Helper()
	answer, _ := o.send("POST", "/auth/tokens", "", object{"auth": object{"scope": scope, "identity": object{
		"methods": []string{"password"}, "password": object{"user": object{"name": user, "password": password, "domain": object{"id": domain}}}}}})
	return answer.Header.Get("X-Subject-Token")
}

// projectIn is a scope.
func projectIn(id string) object { return object{"project": object{"id": id}} }

// team is a project with a member, named as the operator.
func (o *operator) team() (project, user string) {
	o.t.Helper()
	project = o.make("project", o.name, object{"domain_id": "default"})
	user = o.make("user", o.name+"-ann", object{"domain_id": "default", "password": password})
	o.grant(project, user, "member")
	return project, user
}

func (o *operator) section() auth.Config {
	return auth.Config{Type: "keystone", AuthURL: o.url, TenantName: o.name, DomainName: "Default", Role: "guest"}
}

func (o *operator) backend(change func(*auth.Config)) auth.TokenBackend {
	o.t.Helper()
	cfg := o.section()
	if change != nil {
		change(&cfg)
	}
	k, err := keystone.New("cloud", cfg)
	if err != nil {
		o.t.Fatal(err)
	}
	return k
}

const password = "pass:w ö%"

func refused(t testing.TB, err error, text string) {
	t.Helper()
	var known *auth.Error
	if !errors.As(err, &known) || known.Status() != http.StatusUnauthorized || !strings.Contains(err.Error(), text) {
		t.Errorf("%v, want a refusal: %s", err, text)
	}
}

func TestLoginAndVerify(t *testing.T) {
	o := newOperator(t)
	project, user := o.team()
	other := o.make("project", o.name+"-other", object{"domain_id": "default"})
	o.grant(other, user, "member")
	ctx, ann := t.Context(), o.name+"-ann"

	k := o.backend(nil)
	token, err := k.Login(ctx, ann, password)
	if err != nil || token.User != ann || token.ID == "" || time.Until(token.Until) < 50*time.Minute {
		t.Fatal(token, err)
	}
	if again, err := k.Verify(ctx, token.ID); err != nil || again != token {
		t.Error(again, err)
	}
	if upper, err := k.Login(ctx, strings.ToUpper(ann), password); err != nil || upper.User != ann {
		t.Error("the name is not the one that Keystone has:", upper.User, err)
	}
	for _, url := range []string{"/", "/v3", "/v3/", "/v2.0"} {
		if _, err := o.backend(func(c *auth.Config) { c.AuthURL += url }).Login(ctx, ann, password); err != nil {
			t.Error(url, err)
		}
	}

	const said = "Keystone: The request you have made requires authentication. (wrong user or password, or no role in project "
	for what, login := range map[string]func() (auth.Token, error){
		"wrong password": func() (auth.Token, error) { return k.Login(ctx, ann, password+"x") },
		"unknown user":   func() (auth.Token, error) { return k.Login(ctx, o.name+"-eve", password) },
		"no project": func() (auth.Token, error) {
			return o.backend(func(c *auth.Config) { c.TenantName = "none" }).Login(ctx, ann, password)
		},
		"another domain": func() (auth.Token, error) {
			return o.backend(func(c *auth.Config) { c.DomainName = "none" }).Login(ctx, ann, password)
		},
		"no role there": func() (auth.Token, error) {
			return o.backend(func(c *auth.Config) { c.TenantName = "admin" }).Login(ctx, ann, password)
		},
	} {
		_, err := login()
		if refused(t, err, said); t.Failed() {
			t.Log(what)
		}
	}

	// Tokens of other places.
	_, err = k.Verify(ctx, o.login(ann, password, "default", projectIn(other)))
	refused(t, err, "Tenant mismatch")
	_, err = k.Verify(ctx, o.login(ann, password, "default", "unscoped"))
	refused(t, err, "Tenant mismatch")
	_, err = k.Verify(ctx, "gAAAAAno-token-of-this-keystone")
	refused(t, err, "Keystone: ")

	// The same names in another domain are somebody else's.
	domain := o.make("domain", o.name, nil)
	twin := o.make("user", ann, object{"domain_id": domain, "password": "other"})
	theirs := o.make("project", o.name, object{"domain_id": domain})
	o.grant(theirs, twin, "member")
	o.grant(project, twin, "member")
	_, err = k.Verify(ctx, o.login(ann, "other", domain, projectIn(theirs)))
	refused(t, err, "Domain mismatch")
	_, err = k.Verify(ctx, o.login(ann, "other", domain, projectIn(project)))
	refused(t, err, "Domain mismatch")
	_, err = k.Login(ctx, ann, "other")
	refused(t, err, said)
	if token, err := o.backend(func(c *auth.Config) { c.DomainName = o.name }).Login(ctx, ann, "other"); err != nil || token.User != ann {
		t.Error(token, err)
	}
}

func TestTokensEnd(t *testing.T) {
	o := newOperator(t)
	_, user := o.team()
	ctx, ann, k := t.Context(), o.name+"-ann", o.backend(nil)
	login := func(k auth.TokenBackend) auth.Token {
		t.Helper()
		token, err := k.Login(ctx, ann, password)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	token := login(k)
	if err := k.Revoke(ctx, token.ID); err != nil {
		t.Error(err)
	}
	_, err := k.Verify(ctx, token.ID)
	refused(t, err, "expired or was revoked")
	if err := k.Revoke(ctx, token.ID); err != nil {
		t.Error("twice:", err)
	}

	token = login(k)
	o.send("DELETE", "/auth/tokens", token.ID, nil)
	_, err = k.Verify(ctx, token.ID)
	refused(t, err, "expired or was revoked")

	warm := *o // the first answer of a Keystone takes long
	warm.url = base(setting(t, "SHORT_AUTH_URL"))
	warm.login(ann, password, "default", "unscoped")
	short := o.backend(func(c *auth.Config) { c.AuthURL = warm.url })
	token = login(short)
	if left := time.Until(token.Until); left > 20*time.Second {
		t.Fatal("tokens of the short Keystone are good for", left)
	}
	if _, err := short.Verify(ctx, token.ID); err != nil {
		t.Error(err)
	}
	<-time.After(time.Until(token.Until) + 1100*time.Millisecond)
	_, err = short.Verify(ctx, token.ID)
	refused(t, err, "expired or was revoked")

	token = login(k)
	o.ask("PATCH", "/users/"+user, object{"user": object{"enabled": false}})
	_, err = k.Verify(ctx, token.ID)
	refused(t, err, "expired or was revoked")
	_, err = k.Login(ctx, ann, password)
	refused(t, err, "requires authentication")
}

// front is a Keystone behind TLS.
func front(t testing.TB, to string) (address, ca string) {
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(target))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.StartTLS()
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.URL, ca
}

func TestBehindTLS(t *testing.T) {
	o := newOperator(t)
	o.team()
	address, ca := front(t, o.url)
	if token, err := o.backend(func(c *auth.Config) { c.AuthURL, c.CACert = address, ca }).Login(t.Context(), o.name+"-ann", password); err != nil {
		t.Error(token, err)
	}
	var known *auth.Error
	if _, err := o.backend(func(c *auth.Config) { c.AuthURL = address }).Login(t.Context(), o.name+"-ann", password); !errors.As(err, &known) || known.Status() != 503 {
		t.Error("without its authority:", err)
	}
}

// run runs a shell command of the launcher.
func run(t testing.TB, command string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// until asks again and again until an answer comes, for a minute.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	end, tick := time.After(time.Minute), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-end:
			t.Fatal("not in a minute: ", what)
		case <-tick.C:
		}
	}
}

// Keystone is killed and started again while users are logged in.
func TestKeystoneStops(t *testing.T) {
	o := newOperator(t)
	_, user := o.team()
	var ahead atomic.Int64
	a, err := auth.New("cloud", o.section(), auth.Options{
		Log:      slog.New(slog.DiscardHandler),
		Backends: map[string]func(string, auth.Config) (auth.TokenBackend, error){"keystone": keystone.New},
		Clock:    func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ann := o.name + "-ann"
	byToken := func(token string) *http.Request {
		r := httptest.NewRequest("GET", "/api", nil)
		r.Header.Set("X-Auth-Token", token)
		return r
	}
	byName := httptest.NewRequest("GET", "/api", nil)
	byName.SetBasicAuth(ann, password)
	is := func(r *http.Request, want int) {
		t.Helper()
		user, err := a.Authenticate(r)
		got := 200
		var known *auth.Error
		if errors.As(err, &known) {
			got = known.Status()
		}
		if got != want || (user == ann) != (want == 200) {
			t.Errorf("%d %q %v, want %d", got, user, err, want)
		}
	}
	_, token, err := a.Login(byName, ann, password)
	if err != nil {
		t.Fatal(err)
	}
	fresh := o.login(ann, password, "default", object{"project": object{"name": o.name, "domain": object{"id": "default"}}})
	is(byToken(token), 200)
	is(byName, 200)

	run(t, setting(t, "STOP_KEYSTONE"))
	started := false
	start := func() {
		if !started {
			started = true
			run(t, setting(t, "START_KEYSTONE"))
		}
	}
	defer start()
	until(t, "Keystone is away", func() bool {
		answer, err := http.Get(o.url + "/v3")
		if err == nil {
			answer.Body.Close()
		}
		return err != nil
	})
	is(byToken(token), 200)
	is(byToken(fresh), 503)
	ahead.Add(int64(10 * time.Minute)) // time to look at all of them again
	is(byToken(token), 200)
	is(byName, 200)
	_, _, err = a.Login(byName, ann, password)
	var known *auth.Error
	if want := "Keystone at " + o.url + "/v3/ cannot be asked: "; !errors.As(err, &known) || known.Status() != 503 || !strings.HasPrefix(err.Error(), want) {
		t.Error(err)
	}
	if w := a.Warnings(); len(w) != 1 || !strings.Contains(w[0], "cannot be asked") {
		t.Error(w)
	}

	start()
	until(t, "a login after Keystone came back", func() bool { _, _, err := a.Login(byName, ann, password); return err == nil })
	is(byToken(fresh), 200)
	is(byToken(token), 200)
	if w := a.Warnings(); w != nil {
		t.Error(w)
	}

	// What was revoked meanwhile is noticed when its time has come.
	o.send("DELETE", "/auth/tokens", token, nil)
	ahead.Add(int64(5 * time.Minute))
	is(byToken(token), 401)
	is(byToken(fresh), 200)
	o.ask("PATCH", "/users/"+user, object{"user": object{"enabled": false}})
	is(byToken(fresh), 200)
	ahead.Add(int64(5 * time.Minute))
	is(byToken(fresh), 401)
	is(byName, 401)
}

// Users of Keystone log in as those of an htpasswd file do, and are held to their role.
func TestUsersAreHeldToTheirRole(t *testing.T) {
	o := newOperator(t)
	project, _ := o.team()
	o.grant(project, o.make("user", o.name+"-bob", object{"domain_id": "default", "password": password}), "reader")
	ann, bob := o.name+"-ann", o.name+"-bob"
	enforcer, err := rbac.New(rbac.Config{Policy: []string{"p, ops, config, read, allow", "p, ops, status, read, allow", "g, " + bob + ", ops"}})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	users, err := auth.New("cloud", o.section(), auth.Options{
		Log: log, Grant: enforcer.Grant, Backends: map[string]func(string, auth.Config) (auth.TokenBackend, error){"keystone": keystone.New},
	})
	if err != nil {
		t.Fatal(err)
	}
	server, err := api.New(api.Options{
		Service: "analyzer", Log: log, Auth: users, RBAC: enforcer, Tickets: api.NewTickets(nil), Registerer: prometheus.NewRegistry(),
		Graph: graph.New(graph.Options{}), Steps: query.AllSteps, Config: func(string) (any, bool) { return "x", true },
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, body string, edit func(*http.Request)) (*http.Response, string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if edit != nil {
			edit(r)
		}
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, r)
		return w.Result(), w.Body.String()
	}
	login := func(user, password string) (*http.Response, string) {
		return ask("POST", "/login", url.Values{"username": {user}, "password": {password}}.Encode(), nil)
	}
	if answer, text := login(ann, "wrong"); answer.StatusCode != 401 || !strings.HasPrefix(text, "Keystone: ") || len(answer.Cookies()) != 0 {
		t.Error(answer.Status, text)
	}
	for user, want := range map[string]map[string]int{
		ann: {"GET /api/status": 200, "GET /api/config/x": 405}, // a guest, by default
		bob: {"GET /api/status": 200, "GET /api/config/x": 200, "GET /api/topology": 405},
	} {
		answer, text := login(strings.ToUpper(user), password)
		var given struct{ Token string }
		if err := json.Unmarshal([]byte(text), &given); err != nil || answer.StatusCode != 200 || len(answer.Cookies()) != 2 {
			t.Fatal(answer.Status, text, err)
		}
		for what, code := range want {
			method, path, _ := strings.Cut(what, " ")
			for how, edit := range map[string]func(*http.Request){
				"cookie": func(r *http.Request) { r.AddCookie(answer.Cookies()[0]) },
				"header": func(r *http.Request) { r.Header.Set("X-Auth-Token", given.Token) },
				"bearer": func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+given.Token) },
				"query":  func(r *http.Request) { r.URL.RawQuery = url.Values{"x-auth-token": {given.Token}}.Encode() },
				"basic":  func(r *http.Request) { r.SetBasicAuth(user, password) },
			} {
				if answer, text := ask(method, path, "", edit); answer.StatusCode != code {
					t.Errorf("%s %s by %s: %s %s, want %d", user, what, how, answer.Status, text, code)
				}
			}
		}
		withCookie := func(r *http.Request) { r.AddCookie(answer.Cookies()[0]) }
		if answer, text := ask("POST", "/api/ticket", "", withCookie); answer.StatusCode != 200 {
			t.Error(answer.Status, text)
		}
		if answer, text := ask("POST", "/logout", "", withCookie); answer.StatusCode != 204 {
			t.Error(answer.Status, text)
		}
		if answer, text := ask("GET", "/api/status", "", withCookie); answer.StatusCode != 401 {
			t.Error("after the logout:", answer.Status, text)
		}
		_, err := o.backend(nil).Verify(t.Context(), given.Token)
		refused(t, err, "expired or was revoked")
	}
}
