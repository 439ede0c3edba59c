package main

import (
	"context"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"skydive/src/api"
	"skydive/src/auth"
	"skydive/src/graph"
	"skydive/src/rbac"
)

// heldPolicy is in force as soon as it is stored.
type heldPolicy struct {
	mu       sync.Mutex
	text     *string
	enforcer *rbac.Enforcer
}

func (p *heldPolicy) Get(context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.text == nil {
		return "", fs.ErrNotExist
	}
	return *p.text, nil
}

func (p *heldPolicy) Set(_ context.Context, csv string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = &csv
	_ = p.enforcer.SetPolicy(csv) // the status tells
	return nil
}

func (p *heldPolicy) Delete(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = nil
	return p.enforcer.SetPolicy("")
}

func TestClientRBAC(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	enforcer, err := rbac.New(rbac.Config{DefaultRole: "guest"})
	if err != nil {
		t.Fatal(err)
	}
	users, err := auth.New("basic", auth.Config{Users: map[string]string{"carol": "p", "eve": "p"}, Role: "guest"}, auth.Options{Log: quiet, Grant: enforcer.Grant})
	if err != nil {
		t.Fatal(err)
	}
	enforcer.Grant("carol", "admin")
	policy := &heldPolicy{enforcer: enforcer}
	server, err := api.New(api.Options{
		Service: "analyzer", Log: quiet, Auth: users, RBAC: enforcer, Graph: graph.New(graph.Options{}), Policy: policy, Rights: enforcer,
		Check: func(user, object, action string) any { return enforcer.Check(user, object, action) },
	})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(server.Handler())
	defer h.Close()
	as := func(user, stdin string, args ...string) result {
		t.Helper()
		environ := []string{"SKYDIVE_ANALYZER=" + strings.TrimPrefix(h.URL, "http://"), "SKYDIVE_USERNAME=" + user, "SKYDIVE_PASSWORD=p"}
		return skydive(t, environ, stdin, append([]string{"skydive", "client", "rbac"}, args...)...)
	}
	expect := func(got result, code int, stdout, stderr string) {
		t.Helper()
		if got.code != code || got.stdout != stdout || !strings.Contains(got.stderr, stderr) || stderr == "" && got.stderr != "" {
			t.Errorf("%d %q %q, want %d %q %q", got.code, got.stdout, got.stderr, code, stdout, stderr)
		}
	}
	file := filepath.Join(t.TempDir(), "mypolicy.csv")
	if err := os.WriteFile(file, []byte("# mine\r\np, guests, topology, read, allow\r\ng, bob, guests\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(as("carol", "", "policy", "get"), 1, "", "no policy is stored")
	expect(as("carol", "", "policy", "delete"), 1, "", "no policy is stored")
	expect(as("carol", "", "policy", "set"), 1, "", "a file, or - for standard input is missing")
	expect(as("carol", "", "policy", "set", "/no/such/file"), 1, "", "/no/such/file")
	expect(as("carol", "", "policy", "set", file), 0, "+ p, guests, topology, read, allow\n+ g, bob, guests\n", "")
	expect(as("carol", "", "policy", "set", file), 0, "No rule changed\n", "")
	expect(as("carol", "", "policy", "get"), 0, "# mine\r\np, guests, topology, read, allow\r\ng, bob, guests\r\n", "")
	expect(as("carol", "p, guests, topology, read, allow\np, bob, topology, read, deny\ng, bob, guests\n", "policy", "set", "-"), 0, "+ p, bob, topology, read, deny\n", "")
	expect(as("carol", "p, a, b, c, allow\np, bob\n", "policy", "set", "-"), 1, "", `400 Bad Request: line 2 "p, bob"`)
	expect(as("carol", "", "policy", "set", "/dev/zero"), 1, "", "bytes, more than")
	expect(as("carol", "g, carol, guests\n", "policy", "set", "-"), 1, "", "'carol' could not change the policy any more")
	expect(as("eve", "", "policy", "get"), 1, "", "405 Method Not Allowed: 'eve' has no 'read' permission on 'rbac'")
	expect(as("eve", "", "policy", "set", file), 1, "", "'eve' has no 'write' permission on 'rbac'")

	expect(as("carol", "", "check", "bob", "topology", "read"), 0, `refused: denied by "p, bob, topology, read, deny" (etcd, line 2), though "p, guests, topology, read, allow" (etcd, line 1) allows it
  role  guests of bob  (etcd, line 3)
  rule  p, guests, topology, read, allow  (etcd, line 1)
  rule  p, bob, topology, read, deny  (etcd, line 2)
`, "")
	expect(as("eve", "", "check", "eve", "status", "read"), 0, `allowed: allowed by "p, guest, status, read, allow" (bundled policy, line 26)
  role  guest of eve  (by default)
  rule  p, guest, status, read, allow  (bundled policy, line 26)
`, "")
	expect(as("eve", "", "check", "bob", "status", "read"), 1, "", "'eve' has no 'read' permission on 'rbac'")
	expect(as("carol", "", "check", "bob", "topology"), 1, "", "is missing")
	if got := as("carol", "", "check", "bob", "topology", "read", "--json"); got.code != 0 || !strings.Contains(got.stdout, "\"Allowed\": false,\n") {
		t.Errorf("%+v", got)
	}

	broken := "p, bob"
	policy.text = &broken
	if got := as("carol", "", "policy", "get"); got.code != 0 || got.stdout != broken || !strings.Contains(got.stderr, `not in force: line 1 "p, bob"`) {
		t.Errorf("%+v", got)
	}
	expect(as("carol", "", "policy", "delete"), 0, "- p, bob\n", "")
	expect(as("carol", "g, carol, guests\n", "policy", "set", "-", "--force"), 0, "+ g, carol, guests\n", "")
	expect(as("carol", "", "policy", "delete"), 1, "", "'carol' has no 'write' permission on 'rbac'")
}
