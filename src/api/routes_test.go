package api

import (
	"context"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/graph"
)

// routes are all of them: how each stands in the code, what must be asked of the authoriser, and a request for it. An object of "open"
// means that nobody is asked for credentials, one of "" that any known user may.
func routes() []route {
	list := []route{
		{`"GET /api"`, "GET", "/api", "", ""},
		{`"POST /login"`, "POST", "/login", "open", ""},
		{`"/login"`, "GET", "/login", "open", ""},
		{`"POST /logout"`, "POST", "/logout", "open", ""},
		{`"POST /api/ticket"`, "POST", "/api/ticket", "", ""},
		{`"GET /api/topology"`, "GET", "/api/topology", "topology", "read"},
		{`"POST /api/topology"`, "POST", "/api/topology", "topology", "read"},
		{`"GET /api/status"`, "GET", "/api/status", "status", "read"},
		{`"GET /healthz"`, "GET", "/healthz", "open", ""},
		{`"GET /readyz"`, "GET", "/readyz", "open", ""},
		{`"GET /api/config/{key}"`, "GET", "/api/config/ui", "config", "read"},
		{`"GET /metrics"`, "GET", "/metrics", "status", "read"},
		{`"POST /api/workflow/{id}/call"`, "POST", "/api/workflow/x/call", "workflow.call", "write"},
		{`"GET /api/capture/{id}/pcapng"`, "GET", "/api/capture/x/pcapng", "capture", "rawpackets"},
		{`"POST /api/pcap"`, "POST", "/api/pcap", "pcap", "write"},
		{`"GET /api/rbac/check"`, "GET", "/api/rbac/check?user=other&object=a&action=b", "rbac", "read"},
		{`"GET /api/rbac/policy"`, "GET", "/api/rbac/policy", "rbac", "read"},
		{`"PUT /api/rbac/policy"`, "PUT", "/api/rbac/policy", "rbac", "write"},
		{`"DELETE /api/rbac/policy"`, "DELETE", "/api/rbac/policy", "rbac", "write"},
		{`"GET /debug/pprof/{$}"`, "GET", "/debug/pprof/", "debug", "read"},
		{`"GET /debug/pprof/{name}"`, "GET", "/debug/pprof/heap", "debug", "read"},
		{`"GET /ui"`, "GET", "/ui", "open", ""},
		{`"GET /ui_v2"`, "GET", "/ui_v2", "open", ""},
		{`"GET /ui_v2/"`, "GET", "/ui_v2/x", "open", ""},
	}
	for _, page := range []string{"/", "/ui/", "/ui/login", "/ui/topology", "/ui/preference", "/ui/status"} {
		list = append(list, route{`"GET " + path`, "GET", page, "open", ""})
	}
	for _, kind := range []string{"alert", "capture", "edge", "edgerule", "injectpacket", "node", "noderule", "workflow"} {
		list = append(list,
			route{`"GET " + path`, "GET", "/api/" + kind, kind, "read"},
			route{`"POST " + path`, "POST", "/api/" + kind, kind, "write"},
			route{`"GET " + path + "/{id...}"`, "GET", "/api/" + kind + "/x", kind, "read"},
			route{`"PATCH " + path + "/{id...}"`, "PATCH", "/api/" + kind + "/x", kind, "write"},
			route{`"DELETE " + path + "/{id...}"`, "DELETE", "/api/" + kind + "/x", kind, "write"})
	}
	return list
}

type route struct{ code, method, path, object, action string }

// asked is an authoriser that allows nothing, and an authenticator that knows whoever brings a header; both remember what they were asked.
type asked struct {
	stubAuth
	mu    sync.Mutex
	calls []string
}

func (a *asked) Authenticate(r *http.Request) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, "who")
	if r.Header.Get("X-Auth-Token") == "" {
		return "", failf(http.StatusUnauthorized, "No credentials provided")
	}
	return "bob", nil
}

func (a *asked) Open() bool { return false }

func (a *asked) Allowed(user, object, action string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, user+" "+object+" "+action)
	return false
}

func (a *asked) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := a.calls
	a.calls = nil
	return calls
}

func TestEachRouteAsksForItsRight(t *testing.T) {
	a := &asked{}
	registry := prometheus.NewRegistry()
	s, err := New(Options{
		Service: "analyzer", Auth: a, RBAC: a, Log: quiet(), Graph: graph.New(graph.Options{}), Registerer: registry, Gatherer: registry,
		Store: failing{}, Engines: allEngines(), Tickets: NewTickets(nil),
		Packets: func(context.Context, string, io.Writer) error { return nil },
		Pcap:    func(context.Context, io.Reader) error { return nil },
		Config:  func(string) (any, bool) { return nil, false },
		Check:   func(string, string, string) any { return nil },
		Policy:  failingPolicy{}, Rights: settled{},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &testServer{Server: httptest.NewServer(s.Handler())}
	defer server.Close()
	for _, r := range routes() {
		resp, body := server.do(t, r.method, r.path, "")
		calls := a.take()
		if r.object == "open" {
			if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusNotFound {
				t.Errorf("%s %s: %s %s", r.method, r.path, resp.Status, body)
			}
			continue
		}
		if resp.StatusCode != http.StatusUnauthorized || !slices.Equal(calls, []string{"who"}) {
			t.Errorf("%s %s without credentials: %s, asked %q", r.method, r.path, resp.Status, calls)
		}
		resp, body = server.do(t, r.method, r.path, "", "X-Auth-Token: t")
		calls = a.take()
		want := []string{"who"}
		if r.object != "" {
			want = append(want, "bob "+r.object+" "+r.action)
		}
		refused := resp.StatusCode == http.StatusMethodNotAllowed && strings.Contains(body, fmt.Sprintf("'bob' has no '%s' permission on '%s'", r.action, r.object))
		if !slices.Equal(calls, want) || refused != (r.object != "") {
			t.Errorf("%s %s: asked %q, want %q: %s %s", r.method, r.path, calls, want, resp.Status, body)
		}
	}
	for _, path := range []string{"/debug/vars", "/debug", "/debug/pprof", "/api/", "/api/logout", "/dede/", "/rpc", "/../etc/passwd", "/ui/../api/topology"} {
		if resp, body := server.do(t, "GET", path, ""); resp.StatusCode == 200 {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
}

// settled are rights that never change.
type settled struct{}

func (settled) Pending() error                                         { return nil }
func (settled) Changed() <-chan struct{}                               { return nil }
func (settled) TryPolicy(string, string, string, string) (bool, error) { return true, nil }

// A route that is in the code must be in the table above.
func TestTableOfRoutesIsComplete(t *testing.T) {
	known := map[string]bool{"path": true} // the sockets of Options, which authenticate for themselves
	for _, r := range routes() {
		known[r.code] = true
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"handle", "handleLarge", "Handle", "HandleFunc"}, fun.Sel.Name) {
				return true
			}
			var pattern strings.Builder
			_ = format.Node(&pattern, set, call.Args[0])
			if found++; pattern.String() != "pattern" && !known[pattern.String()] { // handle itself passes it on
				t.Errorf("%s: the route %s is not in the table of this test", set.Position(call.Pos()), pattern.String())
			}
			return true
		})
	}
	if found < 30 {
		t.Errorf("only %d routes found in the code", found)
	}
}
