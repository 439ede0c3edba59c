package api

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/query"
)

func node(id string, metadata ...any) *graph.Node {
	return &graph.Node{Element: graph.Element{ID: id, Metadata: field.Make(append([]any{"Name", id, "Type", "device"}, metadata...)...)}}
}

// failing is a store that cannot be reached.
type failing struct{ err error }

func (f failing) Get(context.Context, string) ([]byte, int64, error)          { return nil, 0, f.err }
func (f failing) List(context.Context, string) (map[string][]byte, error)     { return nil, f.err }
func (f failing) Create(context.Context, string, []byte, time.Duration) error { return f.err }
func (f failing) Update(context.Context, string, []byte, int64) (bool, error) { return false, f.err }
func (f failing) Delete(context.Context, string) error                        { return f.err }

func TestWithoutEngine(t *testing.T) {
	s := newServer(t, nil, func(o *Options) { o.Store = newStore(t) })
	for _, c := range []struct {
		kind, body string
		want       int
	}{
		{"capture", `{"GremlinQuery":"G.V()"}`, 501},
		{"capture", `{"GremlinQuery":"G.V("}`, 400},
		{"alert", `{"Expression":"1"}`, 501},
		{"alert", `{}`, 400},
		{"injectpacket", `{"Src":"G.V()","Type":"icmp4"}`, 501},
		{"noderule", `{"Action":"update"}`, 501},
		{"edgerule", `{"Src":"G.V()","Dst":"G.V()","Metadata":{"RelationType":"x"}}`, 501},
		{"workflow", `{"Name":"w","Source":"function() {}"}`, 501},
	} {
		if resp, body := s.do(t, "POST", "/api/"+c.kind, c.body); resp.StatusCode != c.want {
			t.Errorf("%s %s: %d %s", c.kind, c.body, resp.StatusCode, body)
		}
		if resp, body := s.do(t, "GET", "/api/"+c.kind, ""); resp.StatusCode != 200 || body != "{}\n" {
			t.Errorf("%s: %d %q", c.kind, resp.StatusCode, body)
		}
	}
	if resp, _ := s.do(t, "POST", "/api/alert", `{"Expression":"1"}`, "X-Resource-TTL: -1s"); resp.StatusCode != 400 {
		t.Error("negative TTL:", resp.Status)
	}
}

func TestStoreNotReady(t *testing.T) {
	s := newServer(t, nil, func(o *Options) { o.Store, o.Engines = failing{errors.New("etcd is not ready")}, allEngines() })
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/api/capture", ""}, {"GET", "/api/capture/x", ""}, {"DELETE", "/api/alert/x", ""},
		{"POST", "/api/alert", `{"Expression":"1"}`}, {"PATCH", "/api/alert/x", "[]"}, {"POST", "/api/workflow/x/call", "{}"},
	} {
		resp, body := s.do(t, c.method, c.path, c.body)
		if resp.StatusCode != 503 || !strings.Contains(body, "etcd is not ready") || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s %s: %d %s", c.method, c.path, resp.StatusCode, body)
		}
	}
	// What does not need it answers all the same.
	for _, path := range []string{"/api", "/api/status", "/api/topology", "/api/node", "/metrics", "/"} {
		if resp, body := s.do(t, "GET", path, ""); resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

func TestHealth(t *testing.T) {
	var ill, away error
	s := newServer(t, map[string]string{"alice": "secret"}, func(o *Options) {
		o.Health, o.Ready = func() error { return ill }, func() error { return away }
	})
	for _, c := range []struct {
		name           string
		ill, away      error
		healthz, ready int
		text           string
	}{
		{"well", nil, nil, 200, 200, "ok\n"},
		{"not connected", nil, errors.New("no analyzer is connected"), 200, 503, "no analyzer is connected\n"},
		{"not well", errors.New("etcd is not ready"), nil, 503, 503, "etcd is not ready\n"},
	} {
		ill, away = c.ill, c.away
		if resp, _ := s.do(t, "GET", "/healthz", ""); resp.StatusCode != c.healthz {
			t.Errorf("%s: /healthz %s", c.name, resp.Status)
		}
		// Nobody is asked for credentials, and wrong ones do not matter.
		resp, body := s.do(t, "GET", "/readyz", "", "Authorization: Basic eDp5")
		if resp.StatusCode != c.ready || body != c.text || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" ||
			resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("WWW-Authenticate") != "" || len(resp.Cookies()) != 0 {
			t.Errorf("%s: /readyz %s %v %q", c.name, resp.Status, resp.Header, body)
		}
	}
	if resp, body := s.do(t, "HEAD", "/healthz", ""); resp.StatusCode != 503 || body != "" {
		t.Error("HEAD:", resp.Status, body)
	}
	if resp, _ := s.do(t, "POST", "/healthz", "x"); resp.StatusCode != 405 {
		t.Error("POST:", resp.Status)
	}
	without := newServer(t, nil, nil)
	if resp, body := without.do(t, "GET", "/readyz", ""); resp.StatusCode != 200 || body != "ok\n" {
		t.Error("a service without checks:", resp.Status, body)
	}
}

func TestStoredByOthers(t *testing.T) {
	store := newStore(t)
	s := newServer(t, nil, func(o *Options) { o.Store = store })
	for key, value := range map[string]string{"/alert/good": `{"UUID":"good","Expression":"1"}`, "/alert/bad": `not JSON`} {
		if err := store.Create(t.Context(), key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, body := s.do(t, "GET", "/api/alert", ""); !strings.Contains(body, `"good":{"UUID":"good"`) || strings.Contains(body, "bad") {
		t.Error(body)
	}
	if resp, _ := s.do(t, "GET", "/api/alert/bad", ""); resp.StatusCode != 500 {
		t.Error(resp.Status)
	}
	if resp, _ := s.do(t, "DELETE", "/api/alert/bad", ""); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}

func TestConcurrentPatchesAllCount(t *testing.T) {
	store := newStore(t)
	s := newServer(t, nil, func(o *Options) { o.Store = store })
	if err := store.Create(t.Context(), "/workflow/w", []byte(`{"UUID":"w","Name":"w","Parameters":[]}`), 0); err != nil {
		t.Fatal(err)
	}
	const n = 10
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			patch := fmt.Sprintf(`[{"op":"add","path":"/Parameters/-","value":{"Name":"p%d"}}]`, i)
			if resp, body := s.do(t, "PATCH", "/api/workflow/w", patch); resp.StatusCode != 200 {
				t.Error(resp.Status, body)
			}
		})
	}
	wg.Wait()
	var w struct{ Parameters []any }
	_, body := s.do(t, "GET", "/api/workflow/w", "")
	if err := json.Unmarshal([]byte(body), &w); err != nil || len(w.Parameters) != n {
		t.Error(body, err)
	}
}

func TestDuplicatesAtTheSameTime(t *testing.T) {
	s := newServer(t, nil, func(o *Options) { o.Store, o.Engines = newStore(t), allEngines() })
	var mu sync.Mutex
	counts := map[int]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			resp, _ := s.do(t, "POST", "/api/capture", `{"GremlinQuery":"G.V()"}`)
			mu.Lock()
			counts[resp.StatusCode]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if counts[201] != 1 || counts[409] != 7 {
		t.Error(counts)
	}
}

func TestElements(t *testing.T) {
	s := newServer(t, nil, func(o *Options) {
		o.Store = failing{errors.New("unused")}
		o.Graph = graph.New(graph.Options{Hooks: []func(*graph.Tx){func(tx *graph.Tx) {
			if n := tx.Node("hooked"); n != nil {
				_, _ = tx.SetNodeMetadata(n.ID, field.Make("Name", "hooked", "Type", "x", "TID", "by hook"))
			}
		}}})
	})
	if _, body := s.do(t, "POST", "/api/node", `{"ID":"hooked","Metadata":{"Type":"x","Name":"hooked"},"DeletedAt":5}`); !strings.Contains(body, `"TID":"by hook"`) || !strings.Contains(body, `"DeletedAt":null`) {
		t.Error(body)
	}
	if resp, body := s.do(t, "POST", "/api/node", `{"ID":"a/b c","Metadata":{"Type":"x","Name":"n","a.b":1}}`); resp.StatusCode != 201 {
		t.Error(resp.Status, body)
	}
	if resp, body := s.do(t, "GET", "/api/node/a/b%20c", ""); resp.StatusCode != 200 {
		t.Error(resp.Status, body)
	}
	for _, c := range []struct {
		patch string
		want  int
		has   string
	}{
		{`[{"op":"replace","path":"/Metadata/a.b","value":2}]`, 200, `"a.b":2`},
		{`[{"op":"remove","path":"/Metadata"}]`, 200, `"Metadata":{"Name":"n","Type":"x"}`},
		{`[{"op":"replace","path":"/Metadata","value":{"Name":"other","TID":"t"}}]`, 304, ""},
		{`[{"op":"replace","path":"/Metadata","value":5}]`, 400, "object"},
		{`[{"op":"replace","path":"","value":5}]`, 400, "object"},
		{`{}`, 400, "incorrect JSON patch"},
	} {
		if resp, body := s.do(t, "PATCH", "/api/node/a/b%20c", c.patch); resp.StatusCode != c.want || !strings.Contains(body, c.has) {
			t.Errorf("%s: %d %s", c.patch, resp.StatusCode, body)
		}
	}
	if resp, body := s.do(t, "POST", "/api/edge", `{"ID":"e","Parent":"hooked","Child":"a/b c","Metadata":{"RelationType":"x"}}`); resp.StatusCode != 201 {
		t.Error(resp.Status, body)
	}
	for _, c := range []struct {
		patch string
		want  int
	}{
		{`[{"op":"remove","path":"/Metadata/RelationType"}]`, 400},
		{`[{"op":"replace","path":"/Metadata/RelationType","value":""}]`, 400},
		{`[{"op":"replace","path":"/Child","value":"hooked"}]`, 400},
		{`[{"op":"replace","path":"/Host","value":"h"}]`, 304},
	} {
		if resp, body := s.do(t, "PATCH", "/api/edge/e", c.patch); resp.StatusCode != c.want {
			t.Errorf("%s: %d %s", c.patch, resp.StatusCode, body)
		}
	}
	if resp, _ := s.do(t, "POST", "/api/node", `{"ID":"x","Metadata":{"Type":"x","Name":"n"},"Pad":"`+strings.Repeat("x", maxBody)+`"}`); resp.StatusCode != 413 {
		t.Error("too large:", resp.Status)
	}
}

func TestAgentHasFewerRoutes(t *testing.T) {
	s := newServer(t, nil, func(o *Options) { o.Service, o.Steps = "agent", query.BaseSteps })
	for path, want := range map[string]int{"/api": 200, "/api/topology": 200, "/api/status": 200, "/api/capture": 404, "/api/node": 404, "/api/config/ui": 404} {
		if resp, _ := s.do(t, "GET", path, ""); resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
	for q, want := range map[string]int{"G.V().Count()": 200, "G.V().Descendants()": 400} {
		if resp, body := s.do(t, "POST", "/api/topology", fmt.Sprintf("{%q:%q}", "GremlinQuery", q)); resp.StatusCode != want {
			t.Errorf("%s: %d %s", q, resp.StatusCode, body)
		}
	}
	if _, body := s.do(t, "GET", "/api", ""); body != `{"Host":"golden-analyzer","Version":"test","Service":"agent"}`+"\n" {
		t.Error(body)
	}
}

func TestGremlinErrorsTellWhere(t *testing.T) {
	s := newServer(t, nil, nil)
	for q, want := range map[string]string{"G.V().Foo()": "Expected step function, got: Foo (at offset 6", "G.V('x')": "Node 'x' does not exist", "G.V().Has('a',5": "offset 15"} {
		if resp, body := s.do(t, "POST", "/api/topology", fmt.Sprintf("{%q:%q}", "GremlinQuery", q)); resp.StatusCode != 400 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", q, resp.StatusCode, body)
		}
	}
}

func TestPanicIsAnAnswer(t *testing.T) {
	calls := 0
	s := newServer(t, nil, func(o *Options) {
		o.Status = map[string]func() any{"X": func() any {
			if calls++; calls == 1 {
				panic("boo")
			}
			return 1
		}}
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, want := range []int{500, 200} { // on the same connection
		fmt.Fprint(conn, "GET /api/status HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != want {
			t.Errorf("%s %v", resp.Status, err)
		}
	}
	if _, body := s.do(t, "GET", "/metrics", ""); !strings.Contains(body, "skydive_api_panics_total 1") || !strings.Contains(body, `skydive_api_requests_total{code="500",route="GET /api/status"} 1`) {
		t.Error(body)
	}
}

// An answer that breaks off must not look whole.
func TestPanicWithinALargeAnswer(t *testing.T) {
	s := newServer(t, nil, func(o *Options) {
		o.Config = func(string) (any, bool) { return marshaler(func() ([]byte, error) { panic("boo") }), true }
	})
	if resp, _ := s.do(t, "GET", "/api/config/x", ""); resp.StatusCode != 500 {
		t.Error(resp.Status)
	}
	late, err := New(Options{Auth: stubAuth{}, RBAC: stubAuth{}, Log: quiet(), Graph: graph.New(graph.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	late.handle("GET /late", func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = w.Write([]byte(strings.Repeat("x", 100_000)))
		return errors.New("broke off")
	})
	server := httptest.NewServer(late.Handler())
	defer server.Close()
	for _, encoding := range []string{"", "gzip"} {
		r, _ := http.NewRequest("GET", server.URL+"/late", nil)
		r.Header.Set("Accept-Encoding", encoding)
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			continue // compressed, it was not even begun
		}
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("read to its end")
		}
		resp.Body.Close()
	}
}

type marshaler func() ([]byte, error)

func (m marshaler) MarshalJSON() ([]byte, error) { return m() }

type stubAuth struct{}

func (stubAuth) Authenticate(*http.Request) (string, error)                  { return "admin", nil }
func (stubAuth) Login(*http.Request, string, string) (string, string, error) { return "admin", "", nil }
func (stubAuth) Logout(*http.Request) error                                  { return nil }
func (stubAuth) Open() bool                                                  { return true }
func (stubAuth) Allowed(string, string, string) bool                         { return true }
func (stubAuth) Permissions(string) []Permission                             { return nil }

func TestCompression(t *testing.T) {
	s := newServer(t, nil, nil)
	var nodes []*graph.Node
	for i := range 2000 {
		nodes = append(nodes, node(fmt.Sprint("n", i)))
	}
	s.add(t, nodes, nil)
	_, plain := s.do(t, "GET", "/api/topology", "")
	for accept, zipped := range map[string]bool{"gzip": true, "deflate, gzip;q=0.5": true, "*": true, "gzip;q=0": false, "br": false, "": false} {
		resp, body := s.do(t, "GET", "/api/topology", "", "Accept-Encoding: "+accept)
		if (resp.Header.Get("Content-Encoding") == "gzip") != zipped || resp.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: %v", accept, resp.Header)
		}
		if zipped {
			r, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(r)
			if err != nil || string(text) != plain {
				t.Errorf("%q: %d bytes, not %d, %v", accept, len(text), len(plain), err)
			}
		} else if body != plain {
			t.Errorf("%q: %d bytes, not %d", accept, len(body), len(plain))
		}
	}
	if resp, body := s.do(t, "HEAD", "/api/topology", "", "Accept-Encoding: gzip"); resp.StatusCode != 200 || body != "" {
		t.Error(resp.Status, body)
	}
}

func TestLoginAndCookies(t *testing.T) {
	s := newServer(t, map[string]string{"bob": "x"}, nil)
	resp, body := s.do(t, "POST", "/login", "username=bob&password=x", "Content-Type: application/x-www-form-urlencoded", "Origin: http://ui.example")
	if resp.StatusCode != 200 || resp.Header.Get("Access-Control-Allow-Origin") != "http://ui.example" {
		t.Fatal(resp.Status, body)
	}
	cookies := map[string]*http.Cookie{}
	for _, c := range resp.Cookies() {
		cookies[c.Name] = c
	}
	token, permissions := cookies["authtoken"], cookies["permissions"]
	if token == nil || !token.HttpOnly || token.SameSite != http.SameSiteLaxMode || token.Path != "/" || permissions == nil || permissions.HttpOnly {
		t.Fatal(resp.Header)
	}
	text, err := base64.StdEncoding.DecodeString(permissions.Value)
	if err != nil || !strings.Contains(string(text), `{"Object":"status","Action":"read","Allowed":true}`) {
		t.Errorf("%s %v", text, err)
	}
	if resp, body := s.do(t, "GET", "/api/status", "", "Cookie: authtoken="+token.Value); resp.StatusCode != 200 {
		t.Error(resp.Status, body)
	}
	if resp, body := s.do(t, "GET", "/metrics", ""); resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") != "" {
		t.Error(resp.Status, body)
	}
	guess := func(i int) int {
		resp, _ := s.do(t, "POST", "/login", fmt.Sprintf("username=bob&password=wrong%d", i), "Content-Type: application/x-www-form-urlencoded")
		return resp.StatusCode
	}
	last := 0
	for i := range 40 {
		last = guess(i)
	}
	if last != http.StatusTooManyRequests {
		t.Error("guessing goes on:", last)
	}
}

func TestSocketAuth(t *testing.T) {
	s := newServer(t, map[string]string{"bob": "x"}, func(o *Options) {
		authenticate := SocketAuth(o.Auth, o.RBAC)
		o.Sockets = map[string]http.Handler{"/ws/test": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, cookies, err := authenticate(r)
			for _, c := range cookies {
				http.SetCookie(w, c)
			}
			if _, _, hijack := w.(http.Hijacker).Hijack(); hijack != nil || err != nil || user != "bob" || len(cookies) != 2 {
				panic(fmt.Sprint(user, cookies, err))
			}
		})}
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /ws/test HTTP/1.1\r\nHost: x\r\nCookie: authtoken=%s\r\n\r\n", base64.StdEncoding.EncodeToString([]byte("bob:x")))
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection was not handed over:", err)
	}
}

func TestPage(t *testing.T) {
	s := newServer(t, map[string]string{"bob": "x"}, func(o *Options) {
		o.Host = "<script>"
		o.Warnings = func() []string { return []string{"mind the <gap>"} }
	})
	for _, path := range []string{"/", "/ui/", "/ui/login", "/ui/topology"} {
		resp, body := s.do(t, "GET", path, "")
		if resp.StatusCode != 200 || !strings.Contains(body, "&lt;script&gt;") || !strings.Contains(body, "mind the &lt;gap&gt;") ||
			!strings.Contains(body, "/api/status") || resp.Header.Get("Content-Security-Policy") == "" {
			t.Error(path, resp.Status, body)
		}
	}
	for path, to := range map[string]string{"/ui": "/ui/", "/ui_v2": "/ui/", "/ui_v2/x/y": "/ui/", "/api/": "/api", "/login": "/", "/metrics/": "/metrics"} {
		if resp, _ := s.do(t, "GET", path, ""); resp.StatusCode/100 != 3 || resp.Header.Get("Location") != to {
			t.Error(path, resp.Status, resp.Header)
		}
	}
	for _, path := range []string{"/ui/none.js", "/etc/passwd", "/ui/../x", "//evil.example/"} {
		if resp, _ := s.do(t, "GET", path, ""); resp.StatusCode == 200 || strings.Contains(resp.Header.Get("Location"), "//evil") {
			t.Error(path, resp.Status, resp.Header)
		}
	}
}

func TestWarningsInStatus(t *testing.T) {
	s := newServer(t, nil, func(o *Options) {
		o.Warnings = func() []string { return []string{"w"} }
		o.Status = map[string]func() any{"Probes": func() any { return map[string]string{"netlink": "running"} }}
	})
	if _, body := s.do(t, "GET", "/api/status", ""); body != `{"Probes":{"netlink":"running"},"Warnings":["w"]}`+"\n" {
		t.Error(body)
	}
}

// runServer runs a server on a free port of an address; stop returns what Run returned and how long it took.
func runServer(t *testing.T, host string, edit func(*Options)) (url string, stop func() (error, time.Duration)) {
	t.Helper()
	l, err := Listen(net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Service: "analyzer", Auth: stubAuth{}, RBAC: stubAuth{}, Log: quiet(), Graph: graph.New(graph.Options{})}
	if edit != nil {
		edit(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	var once sync.Once
	stop = func() (err error, took time.Duration) {
		once.Do(func() {
			began := time.Now()
			cancel()
			err = <-done
			took = time.Since(began)
		})
		return err, took
	}
	t.Cleanup(func() { _, _ = stop() })
	return fmt.Sprintf("http://127.0.0.1:%d", l.Addr().(*net.TCPAddr).Port), stop
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestListeningBeyondLoopbackIsWarnedAbout(t *testing.T) {
	url, _ := runServer(t, "0.0.0.0", nil)
	if body := get(t, url+"/api/status"); !strings.Contains(body, "beyond loopback without authentication") {
		t.Error(body)
	}
	if body := get(t, url+"/"); !strings.Contains(body, "beyond loopback without authentication") {
		t.Error(body)
	}
	url, _ = runServer(t, "127.0.0.1", nil)
	if body := get(t, url+"/api/status"); strings.Contains(body, "beyond") {
		t.Error(body)
	}
}

// endless asks a question that never ends by itself.
type endless struct{ asked chan struct{} }

func (e endless) Graph(ctx context.Context, _, _ time.Time) ([]*graph.Node, []*graph.Edge, error) {
	e.asked <- struct{}{}
	<-ctx.Done()
	return nil, nil, ctx.Err()
}

func (endless) NodeMetrics(context.Context, time.Time, time.Time, []string, string) (map[string][]field.Object, error) {
	return nil, nil
}

const timeQuery = `{"GremlinQuery":"G.At('-1m').V()"}`

func TestShutdownEndsQueriesInTime(t *testing.T) {
	e := endless{make(chan struct{}, 1)}
	g := graph.New(graph.Options{})
	url, stop := runServer(t, "127.0.0.1", func(o *Options) {
		o.Source = func() query.Source { return query.Source{Graph: g.Snapshot(), History: e} }
	})
	answered := make(chan error, 1)
	go func() {
		resp, err := http.Post(url+"/api/topology", "application/json", strings.NewReader(timeQuery))
		if err == nil {
			resp.Body.Close()
		}
		answered <- err
	}()
	<-e.asked
	if err, took := stop(); err != nil || took > 2*time.Second {
		t.Error(err, took)
	}
	if err := <-answered; err == nil {
		t.Error("answered")
	}
	url, stop = runServer(t, "127.0.0.1", nil)
	get(t, url+"/api")
	if err, took := stop(); err != nil || took > time.Second {
		t.Error("idle:", err, took)
	}
}

func TestQueryEndsWithItsRequest(t *testing.T) {
	e := endless{make(chan struct{}, 1)}
	ended := make(chan struct{})
	g := graph.New(graph.Options{})
	s := newServer(t, nil, func(o *Options) {
		o.Source = func() query.Source { return query.Source{Graph: g.Snapshot(), History: waiting{e, ended}} }
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "POST", s.URL+"/api/topology", strings.NewReader(timeQuery))
	go func() {
		if resp, err := http.DefaultClient.Do(r); err == nil {
			resp.Body.Close()
		}
	}()
	<-e.asked
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the query goes on without its client")
	}
}

// halfDeaf has agents of which some do not answer.
type halfDeaf struct{}

func (halfDeaf) Flows(context.Context, []string, *flow.Search) ([]*flow.Flow, []string, error) {
	return []*flow.Flow{{UUID: "f"}}, []string{"h2", "h1", "h2"}, nil
}

func (halfDeaf) Total(context.Context, []string, *flow.Search, flow.Aggregate) (flow.Total, []string, error) {
	return flow.Total{Count: 1}, nil, nil
}

func TestPartialAnswersSaySo(t *testing.T) {
	g := graph.New(graph.Options{})
	s := newServer(t, nil, func(o *Options) {
		o.Source = func() query.Source { return query.Source{Graph: g.Snapshot(), Flows: halfDeaf{}} }
	})
	for ask, want := range map[string]string{"G.Flows().Values('UUID')": "h1,h2", "G.Flows().Count()": "", "G": ""} {
		resp, err := http.Post(s.URL+"/api/topology", "application/json", strings.NewReader(`{"GremlinQuery":"`+ask+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("X-Skydive-Partial"); got != want || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s, missing %q, want %q", ask, resp.Status, got, want)
		}
	}
}

type waiting struct {
	endless
	ended chan struct{}
}

func (w waiting) Graph(ctx context.Context, from, to time.Time) ([]*graph.Node, []*graph.Edge, error) {
	defer close(w.ended)
	return w.endless.Graph(ctx, from, to)
}

func TestPortInUse(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	_, err = Listen(addr)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d (api.test)", os.Getpid())) {
		t.Error(err)
	}
	if who := WhoListens("127.0.0.1:1"); who != "" {
		t.Error(who)
	}
	for _, addr := range []string{"", "nonsense", "127.0.0.1", "127.0.0.1:http"} {
		if who := WhoListens(addr); who != "" {
			t.Error(addr, who)
		}
	}
	if _, err := Listen("192.0.2.1:80"); err == nil || !strings.Contains(err.Error(), "192.0.2.1:80") {
		t.Error(err)
	}
	six, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here")
	}
	defer six.Close()
	if who := WhoListens(six.Addr().String()); !strings.Contains(who, fmt.Sprint(os.Getpid())) {
		t.Error(who)
	}
}

func TestNewNeedsGuards(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a server without an authoriser")
		}
	}()
	_, _ = New(Options{Auth: stubAuth{}, Log: quiet(), Graph: graph.New(graph.Options{})})
}

// Whatever is sent to whatever route, the server answers, never with a fault of its own.
func FuzzRequests(f *testing.F) {
	for _, seed := range []struct{ method, path, body string }{
		{"POST", "/api/topology", `{"GremlinQuery":"G.V().Has('Name',Regex('a.*')).Out()"}`},
		{"POST", "/api/node", `{"ID":"x","Metadata":{"Type":"a","Name":"b"},"CreatedAt":1}`},
		{"PATCH", "/api/node/n", `[{"op":"add","path":"/Metadata/x","value":{"y":[1]}}]`},
		{"PATCH", "/api/edge/e", `[{"op":"copy","from":"/Metadata","path":"/Metadata/m"}]`},
		{"POST", "/api/edge", `{"ID":"f","Parent":"n","Child":"m","Metadata":{"RelationType":"x"}}`},
		{"POST", "/api/capture", `{"GremlinQuery":"G.V()","BPFFilter":"tcp"}`},
		{"DELETE", "/api/node/n", ""},
		{"POST", "/login?username=a", "password=%zz"},
		{"GET", "/ui/%2e%2e/", ""},
		{"OPTIONS", "/api", ""},
	} {
		f.Add(seed.method, seed.path, seed.body)
	}
	f.Fuzz(func(t *testing.T, method, path, body string) {
		g := graph.New(graph.Options{})
		err := g.Update("", func(tx *graph.Tx) error {
			edge := &graph.Edge{Element: graph.Element{ID: "e", Metadata: field.Make("RelationType", "x")}, Parent: "n", Child: "m"}
			return errors.Join(tx.AddNode(node("n")), tx.AddNode(node("m")), tx.AddEdge(edge))
		})
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Options{Auth: stubAuth{}, RBAC: stubAuth{}, Log: quiet(), Graph: g, Store: failing{errors.New("none")}, Engines: allEngines()})
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body))))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError {
			t.Fatalf("%s %q %q: %s", method, path, body, w.Body)
		}
	})
}

func BenchmarkQueryByID(b *testing.B) {
	s := newServer(b, nil, nil)
	s.add(b, []*graph.Node{node("n")}, nil)
	client := http.Client{}
	for b.Loop() {
		resp, err := client.Post(s.URL+"/api/topology", "application/json", strings.NewReader(`{"GremlinQuery":"G.V('n')"}`))
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}
