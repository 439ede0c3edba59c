package e2e

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// caller sends requests as one user.
type caller struct {
	from           *Host
	addr           string
	user, password string
}

func (c caller) ask(t testing.TB, method, path string, body any) (int, string) {
	t.Helper()
	var in bytes.Buffer
	if body != nil {
		need(t, json.NewEncoder(&in).Encode(body))
	}
	req, err := http.NewRequest(method, "http://"+c.addr+path, &in)
	need(t, err)
	if c.user != "" {
		req.SetBasicAuth(c.user, c.password)
	}
	client := c.from.HTTP()
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	need(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	need(t, err)
	return res.StatusCode, string(text)
}

// status returns the value at a path of keys in /api/status.
func (c caller) status(t testing.TB, keys ...string) any {
	t.Helper()
	code, text := c.ask(t, "GET", "/api/status", nil)
	if code != 200 {
		t.Fatalf("status for %s: %d %s", c.user, code, text)
	}
	var v any
	need(t, json.Unmarshal([]byte(text), &v))
	for _, key := range keys {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	return v
}

// socket asks for a WebSocket and returns the status of the answer.
func (c caller) socket(t testing.TB, path string) (int, string) {
	t.Helper()
	h := http.Header{"X-Client-Type": {"test"}}
	if c.user != "" {
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password)))
	}
	s, answer, text := c.from.connect(t, c.addr, path, h)
	if s != nil {
		s.leave()
	}
	return answer.StatusCode, text
}

func htpasswd(t testing.TB, file string, users ...string) {
	t.Helper()
	var text strings.Builder
	for _, u := range users {
		name, password, _ := strings.Cut(u, ":")
		sum := sha1.Sum([]byte(password))
		fmt.Fprintf(&text, "%s:{SHA}%s\n", name, base64.StdEncoding.EncodeToString(sum[:]))
	}
	need(t, os.WriteFile(file+".new", []byte(text.String()), 0o600))
	need(t, os.Rename(file+".new", file))
}

// secrets are the passwords of this file; none may ever be seen.
var secrets = []string{"Wonder-Land", "Gast-Haus", "Car-Wash", "Clu-ster", "Wrong-One"}

// TestRootAuthentication runs analyzer and agents with credentials on every side, right and wrong ones.
func TestRootAuthentication(t *testing.T) {
	l := newLab(t)
	an, h1, h2 := addHost(t, l, "an"), addHost(t, l, "h1"), addHost(t, l, "h2")
	file := filepath.Join(an.Dir, "htpasswd")
	htpasswd(t, file, "Agent:Clu-ster")
	analyzer := startClosed(t, an, "api: {backend: People}, cluster: {backend: Cluster}", quick+fmt.Sprintf(`
auth:
  People: {type: basic, users: {Alice: Wonder-Land, guy: Gast-Haus, Carol: Car-Wash}, role: guest}
  Cluster: {type: basic, file: %s}
rbac: {policy: ["g, Alice, admin", "g, Carol, locked", "p, locked, topology, read, deny", "p, locked, status, read, allow"]}
`, file))
	start := func(h *Host, password string) *Process {
		t.Helper()
		p, err := h.Start(fmt.Sprintf(`
host_id: %s
analyzers: [%s]
agent: {auth: {api: {backend: local}, cluster: {username: Agent, password: %s}}, topology: {probes: []}}
auth: {local: {type: basic, users: {Alice: Wonder-Land}}}
logging: {level: DEBUG}
%s`, h.Name, an.analyzerAddr(), password, quick), "agent")
		need(t, err)
		need(t, Until(20*time.Second, func() error { return p.alive(h.get(agentAddr, "/")) }))
		return p
	}
	agents := []*Process{start(h1, "Clu-ster"), start(h2, "Wrong-One")}

	alice := caller{h1, an.analyzerAddr(), "Alice", "Wonder-Land"}
	guy := caller{h1, an.analyzerAddr(), "guy", "Gast-Haus"}
	carol := caller{h1, an.analyzerAddr(), "Carol", "Car-Wash"}
	stranger := caller{h1, an.analyzerAddr(), "", ""}
	local := caller{h2, agentAddr, "Alice", "Wonder-Land"}
	count := func(query string) (n int) {
		code, text := alice.ask(t, "POST", "/api/topology", map[string]string{"GremlinQuery": query})
		if code != 200 || json.Unmarshal([]byte(text), &n) != nil {
			t.Errorf("%s: %d %s", query, code, text)
		}
		return n
	}
	appears := func(host string) {
		t.Helper()
		need(t, Until(20*time.Second, func() error {
			if count("G.V().Has('Type','host','Name','"+host+"').Count()") != 1 {
				return errors.New(host + " is not in the graph")
			}
			return nil
		}))
	}
	appears("h1")

	t.Run("wrong credentials of an agent", func(t *testing.T) {
		analyzers := local.status(t, "Analyzers", an.analyzerAddr())
		need(t, Until(10*time.Second, func() error {
			analyzers = local.status(t, "Analyzers", an.analyzerAddr())
			s, _ := analyzers.(map[string]any)
			if reason, _ := s["Reason"].(string); s["State"] != "failed" || s["IsConnected"] != false || !strings.HasSuffix(reason, "401 Unauthorized: Wrong credentials") {
				return fmt.Errorf("%v", s)
			}
			return nil
		}))
		if n := count("G.V().Has('@Host','h2').Count()"); n != 0 {
			t.Errorf("%d nodes of an agent that may not in", n)
		}
		if !strings.Contains(agents[1].Output(), "401 Unauthorized: Wrong credentials") {
			t.Error("the agent's log does not say why it is not connected")
		}
		if out := analyzer.Output(); !strings.Contains(out, "WebSocket handshake refused") || !strings.Contains(out, "host=h2") {
			t.Error("the analyzer's log does not say who is refused")
		}
		htpasswd(t, file, "Agent:Clu-ster", "Other:x") // the others stay connected
		agents[1].Kill()
		agents[1] = start(h2, "Clu-ster")
		appears("h2")
	})

	t.Run("who may what", func(t *testing.T) {
		node := map[string]any{"ID": "n", "Metadata": map[string]any{"Name": "n", "Type": "device"}}
		g := map[string]string{"GremlinQuery": "G.V().Count()"}
		for _, c := range []struct {
			who          caller
			method, path string
			body         any
			want         int
			text         string
		}{
			{stranger, "GET", "/api", nil, 401, "No credentials provided"},
			{stranger, "GET", "/metrics", nil, 401, "No credentials provided"},
			{caller{h1, an.analyzerAddr(), "Alice", "Wrong-One"}, "GET", "/api", nil, 401, "Wrong credentials"},
			{caller{h1, an.analyzerAddr(), "alice", "Wonder-Land"}, "GET", "/api", nil, 401, "Wrong credentials"},
			{caller{h1, an.analyzerAddr(), "Agent", "Clu-ster"}, "GET", "/api", nil, 401, "Wrong credentials"},
			{alice, "GET", "/api", nil, 200, `"analyzer"`},
			{alice, "POST", "/api/node", node, 201, `"ID":"n"`},
			{alice, "GET", "/api/config/logging.level", nil, 200, `"INFO"`},
			// The role of the section is there with the first request, without a login before.
			{guy, "POST", "/api/topology", g, 200, ""},
			{guy, "GET", "/api/status", nil, 200, ""},
			{guy, "GET", "/api/node", nil, 405, "'guy' has no 'read' permission on 'node'"},
			{guy, "POST", "/api/node", node, 405, "'guy' has no 'write' permission on 'node'"},
			{guy, "DELETE", "/api/node/n", nil, 405, "'guy' has no 'write' permission on 'node'"},
			{guy, "GET", "/api/config/logging.level", nil, 405, "'guy' has no 'read' permission on 'config'"},
			{carol, "POST", "/api/topology", g, 405, "'Carol' has no 'read' permission on 'topology'"},
			{carol, "GET", "/api/status", nil, 200, ""},
			{local, "GET", "/api", nil, 200, `"agent"`},
			{caller{h2, agentAddr, "", ""}, "GET", "/api", nil, 401, "No credentials provided"},
		} {
			code, text := c.who.ask(t, c.method, c.path, c.body)
			if code != c.want || !strings.Contains(text, c.text) {
				t.Errorf("%s %s as %q: %d %q, want %d %q", c.method, c.path, c.who.user, code, text, c.want, c.text)
			}
		}
		for _, c := range []struct {
			who  caller
			path string
			want int
		}{
			{stranger, "/ws/subscriber", 401},
			{guy, "/ws/subscriber", 101},
			{guy, "/ws/publisher", 403},
			{carol, "/ws/subscriber", 403},
			{alice, "/ws/publisher", 101},
			{alice, "/ws/agent/topology", 401}, // known to the API, not to the cluster
			{caller{h1, an.analyzerAddr(), "Agent", "Clu-ster"}, "/ws/agent/topology", 101},
			{caller{h1, an.analyzerAddr(), "Agent", "Clu-ster"}, "/ws/publisher", 401},
			{caller{h2, agentAddr, "", ""}, "/ws/subscriber", 401},
			{caller{h2, agentAddr, "", ""}, "/ws/publisher", 401},
			{local, "/ws/subscriber", 101},
		} {
			if code, text := c.who.socket(t, c.path); code != c.want {
				t.Errorf("%s as %q: %d %q, want %d", c.path, c.who.user, code, text, c.want)
			}
		}
	})

	t.Run("command line", func(t *testing.T) {
		run := func(user, password string, args ...string) (string, error) {
			cmd := h1.Command(t.Context(), append([]string{"env", "SKYDIVE_ANALYZER=" + an.analyzerAddr(), "SKYDIVE_USERNAME=" + user, "SKYDIVE_PASSWORD=" + password, l.Binary, "client"}, args...)...)
			out, err := cmd.CombinedOutput()
			return string(out), err
		}
		if out, err := run("Alice", "Wonder-Land", "query", "G.V().Has('Type','host').Count()"); err != nil || strings.TrimSpace(out) != "2" {
			t.Errorf("%v %s", err, out)
		}
		graph := filepath.Join(h1.Dir, "graph.json")
		need(t, os.WriteFile(graph, []byte(`[{"Nodes":[{"ID":"i","Metadata":{"Name":"i","Type":"device"}}],"Edges":null}]`), 0o600))
		if out, err := run("Alice", "Wonder-Land", "topology", "import", "--file", graph); err != nil {
			t.Errorf("%v %s", err, out)
		}
		for _, c := range [][]string{
			{"Alice", "Wrong-One", "401 Unauthorized: Wrong credentials", "status"},
			{"", "", "401 Unauthorized: No credentials provided", "status"},
			{"guy", "Gast-Haus", "405 Method Not Allowed: 'guy' has no 'read' permission on 'capture'", "capture", "list"},
			{"guy", "Gast-Haus", "403 Forbidden: 'guy' has no permission on '/ws/publisher'", "topology", "import", "--file", graph},
		} {
			out, err := run(c[0], c[1], c[3:]...)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, c[2]) {
				t.Errorf("%v: %v %s", c, err, out)
			}
		}
	})

	t.Run("secrets are nowhere", func(t *testing.T) {
		shown := map[string]string{"log of the analyzer": analyzer.Output(), "log of the agent": agents[0].Output(), "log of the other agent": agents[1].Output()}
		for _, key := range []string{"auth", "auth.people", "auth.people.users", "auth.people.users.Alice", "auth.People.Users.alice", "analyzer", "agent", "http", "etcd"} {
			_, shown["/api/config/"+key] = alice.ask(t, "GET", "/api/config/"+key, nil)
		}
		_, shown["status"] = alice.ask(t, "GET", "/api/status", nil)
		_, shown["metrics"] = alice.ask(t, "GET", "/metrics", nil)
		_, shown["status of the agent"] = local.ask(t, "GET", "/api/status", nil)
		for _, h := range []*Host{an, h1, h2} {
			text, err := h.Script("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; for f in *.yml; do " + l.Binary + " -c $f config dump; done")
			need(t, err)
			shown["processes and configuration of "+h.Name] = text
		}
		for where, text := range shown {
			for _, s := range secrets {
				if strings.Contains(text, s) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("Alice:"+s))) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("Agent:"+s))) {
					t.Errorf("%s shows %s", where, s)
				}
			}
		}
		if !strings.Contains(shown["/api/config/auth.people.users"], `"Alice"`) || !strings.Contains(shown["processes and configuration of an"], "Alice: '*") {
			t.Error("the names of users must be shown as they are written")
		}
	})
}

// TestRootSameHostID starts a second agent with the host id of another one: it is told so, and takes over when the first is gone.
func TestRootSameHostID(t *testing.T) {
	l := newLab(t)
	an, h1, h2 := addHost(t, l, "an"), addHost(t, l, "h1"), addHost(t, l, "h2")
	startAnalyzer(t, an, quick)
	first := startAgent(t, h1, an, quick)
	agree(t, 10*time.Second, an, h1)
	h2.Name = "h1"
	second := startAgent(t, h2, an, quick)
	var reason string
	need(t, Until(10*time.Second, func() error {
		s, err := h2.Status(agentAddr)
		if err != nil {
			return err
		}
		a, _ := s["Analyzers"].(map[string]any)[an.analyzerAddr()].(map[string]any)
		if reason, _ = a["Reason"].(string); !strings.Contains(reason, "409 Conflict: host id 'h1' is already connected") {
			return fmt.Errorf("%v", a)
		}
		return nil
	}))
	if !strings.Contains(reason, h1.IP) || !strings.Contains(second.Output(), "409 Conflict") {
		t.Errorf("reason %q does not say who has it, or the log nothing:\n%s", reason, second.Output())
	}
	agree(t, 10*time.Second, an, h1) // it was not disturbed
	need(t, first.Signal(syscall.SIGTERM))
	need(t, first.Wait(2*time.Second))
	agree(t, 10*time.Second, an, h2)
}

// TestRootForeignNodes lets an agent speak for another host; nothing of that host changes, and the status tells.
func TestRootForeignNodes(t *testing.T) {
	l := newLab(t)
	an, h1 := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, quick)
	startAgent(t, h1, an, quick)
	agree(t, 10*time.Second, an, h1)
	before, err := an.Graph(an.analyzerAddr())
	need(t, err)
	s, _, _ := an.connect(t, an.analyzerAddr(), "/ws/agent/topology", http.Header{"X-Host-ID": {"liar"}, "X-Client-Type": {"agent"}, "X-Persistence-Policy": {"DeleteOnDisconnect"}})
	claim := func(id, host, origin string) map[string]any {
		return map[string]any{"ID": id, "Host": host, "Origin": origin, "Revision": 1000, "UpdatedAt": 1, "CreatedAt": 1, "Metadata": map[string]any{"Name": "claimed", "Type": "device"}}
	}
	victim := before.Nodes[0].ID
	s.send("Sync", map[string]any{"Nodes": []any{claim(victim, "liar", "agent.liar"), claim("mine", "liar", "agent.liar")}})
	s.send("NodeUpdated", claim(victim, "liar", "agent.liar"))
	s.send("NodePartiallyUpdated", map[string]any{"ID": victim, "Revision": 1000, "UpdatedAt": 1, "Ops": []any{map[string]any{"Type": 1, "Key": "Name", "Value": "claimed"}}})
	s.send("NodeDeleted", claim(victim, "h1", "agent.h1"))
	s.send("EdgeDeleted", map[string]any{"ID": before.Edges[0].ID, "Host": "liar", "Origin": "agent.liar", "Parent": before.Edges[0].Parent, "Child": before.Edges[0].Child, "Metadata": map[string]any{}})
	s.send("NodeAdded", claim("new1", "h1", "agent.h1"))
	s.send("NodeAdded", claim("new2", "liar", "agent.h1"))
	need(t, Until(10*time.Second, func() error {
		status, err := an.Status(an.analyzerAddr())
		if err != nil {
			return err
		}
		liar, _ := status["Agents"].(map[string]any)["liar"].(map[string]any)
		if reason, _ := liar["RefusedReason"].(string); liar["Refused"] != float64(7) || !strings.Contains(reason, "belongs to another host") {
			return fmt.Errorf("%v", liar)
		}
		return nil
	}))
	agree(t, 5*time.Second, an, h1)
	if n := count(t, an, an.analyzerAddr(), "G.V().Has('Name','claimed').Count()"); n != 1 {
		t.Errorf("%d nodes are claimed, want the liar's own", n)
	}
	after, err := an.Graph(an.analyzerAddr())
	need(t, err)
	if len(after.Nodes) != len(before.Nodes)+1 || len(after.Edges) != len(before.Edges) {
		t.Errorf("%d nodes and %d edges became %d and %d", len(before.Nodes), len(before.Edges), len(after.Nodes), len(after.Edges))
	}
	s.leave()
	need(t, Until(5*time.Second, func() error { // its own node goes with it
		var n int
		err := an.Gremlin(an.analyzerAddr(), "G.V().Has('Name','claimed').Count()", &n)
		if err == nil && n != 0 {
			err = fmt.Errorf("%d nodes of the liar are left", n)
		}
		return err
	}))
}
