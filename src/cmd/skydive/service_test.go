package main

import (
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"skydive/src/ws"
)

func TestSocketConfig(t *testing.T) {
	for yaml, want := range map[string]ws.Config{
		"": {PingDelay: 2 * time.Second, PongTimeout: 5 * time.Second, QueueSize: 10000},
		"http: {ws: {ping_delay: 0, queue_size: 7}}\n": {PingDelay: -1, PongTimeout: 5 * time.Second, QueueSize: 7},
		"http: {ws: {ping_delay: 3, pong_timeout: 9}}": {PingDelay: 3 * time.Second, PongTimeout: 9 * time.Second, QueueSize: 10000},
	} {
		s := &service{cfg: loadConfig(t, yaml)}
		if got := s.socketConfig(); got != want {
			t.Errorf("%q: %+v, want %+v", yaml, got, want)
		}
	}
}

func TestStateOfTheUser(t *testing.T) {
	for _, c := range []struct{ environ, want string }{
		{"HOME=/home/u", "/home/u/.local/state/skydive/etcd"},
		{"HOME=/home/u XDG_STATE_HOME=/state", "/state/skydive/etcd"},
		{"", ""}, // nowhere: better the error about the system's directory than data wherever the process happens to be
		{"HOME=relative", ""},
		{"HOME=/", ""},
		{"HOME=/ XDG_STATE_HOME=/state", "/state/skydive/etcd"},
	} {
		env := &environment{Environ: strings.Fields(c.environ)}
		if got := env.ownState("/etcd"); got != c.want {
			t.Errorf("%q: %q, want %q", c.environ, got, c.want)
		}
	}
}

func TestEtcdServers(t *testing.T) {
	for yaml, want := range map[string][]string{
		"":                                  nil, // the embedded one
		"etcd: {servers: ['http://e:1']}\n": {"http://e:1"},
		"etcd: {embedded: false, servers: ['http://e:1']}\n":            {"http://e:1"},
		"etcd: {embedded: false}\n":                                     {"http://127.0.0.1:12379"},
		"etcd: {embedded: false}\nanalyzers: ['a1:8082', '[::1]:82']\n": {"http://a1:12379", "http://[::1]:12379"},
	} {
		if got := etcdServers(loadConfig(t, yaml)); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", yaml, got, want)
		}
	}
}

func TestAnalyzerWarnings(t *testing.T) {
	users := "auth: {people: {type: basic, users: {a: b}}}\nanalyzer: {listen: '0.0.0.0:8082', auth: {api: {backend: people}"
	for yaml, want := range map[string]string{
		"":                                       "",
		"analyzers: ['a1:8082']\n":               "",
		"analyzers: ['a1:8082', 'a2:8082']\n":    "",
		users + "}}\n":                           "analyzer.auth.cluster.backend",
		users + ", cluster: {backend: people}}}": "a section of its own",
	} {
		env := &environment{Environ: []string{"HOME=" + t.TempDir()}}
		c := loadConfig(t, yaml)
		c.Etcd.DataDir = t.TempDir()
		s, err := newAnalyzer(env, c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.server.Warnings(), "\n"); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q in it", yaml, got, want)
		}
	}
}

// In one process the agent shows the analyzer the credentials that the analyzer knows, unless it has its own.
func TestAllInOneCredentials(t *testing.T) {
	for yaml, want := range map[string]string{
		"analyzer: {auth: {cluster: {username: an, password: p1}}}\n":                                                       "an p1",
		"analyzer: {auth: {cluster: {username: an, password: p1}}}\nagent: {auth: {cluster: {username: ag, password: p2}}}": "ag p2",
	} {
		c := agentBeside(loadConfig(t, yaml))
		if got := c.Agent.Auth.Cluster.Username + " " + c.Agent.Auth.Cluster.Password; got != want || len(c.Analyzers) != 1 {
			t.Errorf("%q: %q %v", yaml, got, c.Analyzers)
		}
	}
}

// Where users and agents are known by one section, any user could be an agent: that is said, and what users may do counts for etcd.
func TestOneSectionForUsersAndAgents(t *testing.T) {
	for backend, want := range map[string]bool{"one": true, "ONE": true, "other": false} {
		cfg := loadConfig(t, "auth: {one: {type: basic, role: guest, users: {bob: x}}, other: {type: basic, users: {agent: x}}}\n"+
			"analyzer: {auth: {api: {backend: one}, cluster: {backend: "+backend+"}}}\n")
		if sameUsers(cfg) != want {
			t.Errorf("%s: %v", backend, !want)
		}
		s, err := newService("analyzer", cfg.Analyzer.Auth.API.Backend, cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if list := analyzerWarnings(cfg, s.users, true); (len(list) > 0) != want {
			t.Errorf("%s: %q", backend, list)
		}
		cluster, err := s.authenticator(backend, "admin", s.peers)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.enforcer.SetPolicy(""); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("PUT", "/v2/keys/casbinPolicy", nil)
		r.SetBasicAuth("bob", "x")
		if mayChangeEtcd(s, cluster)(r) {
			t.Errorf("%s: a guest changes the policy", backend)
		}
		r.SetBasicAuth("agent", "x")
		if mayChangeEtcd(s, cluster)(r) == want {
			t.Errorf("%s: agents that have a section of their own, and only these, are trusted with etcd", backend)
		}
	}
}
