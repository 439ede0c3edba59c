package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// write puts text into a file of its own and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "skydive.yml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// mustLoad loads files given as text.
func mustLoad(t *testing.T, environ []string, flags map[string]string, texts ...string) (*Config, []Problem) {
	t.Helper()
	o := Options{Environ: environ, Flags: flags, Hostname: "h1"}
	for _, text := range texts {
		o.Files = append(o.Files, write(t, text))
	}
	c, problems, err := Load(o)
	if err != nil {
		t.Fatal(err)
	}
	return c, problems
}

func lines(problems []Problem) []string {
	var out []string
	for _, p := range problems {
		if i := strings.Index(p.Source, "skydive.yml"); i > 0 {
			p.Source = p.Source[i:]
		}
		out = append(out, p.String())
	}
	return out
}

func TestDefaults(t *testing.T) {
	c, problems := mustLoad(t, nil, nil)
	if len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
	for _, tc := range []struct{ got, want any }{
		{c.HostID, "h1"},
		{c.Etcd.Name, "h1"},
		{c.Analyzer.Listen, Address{"127.0.0.1", 8082}},
		{c.Agent.Listen.String(), "127.0.0.1:8081"},
		{c.Analyzer.Auth.API.Backend, "noauth"},
		{c.Auth["noauth"], Auth{Type: "noauth", Role: "admin", TenantName: "admin", DomainName: "Default"}},
		{c.Auth["keystone"].Type, "keystone"},
		{c.Agent.Topology.Probes, []string{"ovsdb"}},
		{c.Agent.Topology.Netlink.MetricsUpdate, 30 * time.Second},
		{c.Agent.Topology.Netns.RunPath, "/var/run/netns"},
		{c.HTTP.WS.PingDelay, 2 * time.Second},
		{c.HTTP.WS.QueueSize, 10000},
		{c.Logging.Backends, []string{"stderr"}},
		{c.Etcd.ClientTimeout, 5 * time.Second},
		{c.Etcd.MaxWALFiles, 5},
		{c.Storage["memory"].Driver, "memory"},
		{c.RBAC.Model.PolicyDefinition, []string{"sub, obj, act, eft"}},
		{c.Analyzers == nil, true},
		{c.AnalyzerAddresses(), []Address{{"127.0.0.1", 8082}}},
	} {
		if !reflect.DeepEqual(tc.got, tc.want) {
			t.Errorf("got %#v, want %#v", tc.got, tc.want)
		}
	}
}

// TestEveryKeyOfTheContract holds the names that users' files may have.
func TestEveryKeyOfTheContract(t *testing.T) {
	names, err := os.ReadFile("testdata/keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(names)) {
		if _, ok := schema.key(name); !ok {
			t.Errorf("%s is not known", name)
		}
	}
	env := map[string]string{}
	for _, k := range schema.keys {
		if other := env[k.Env()]; other != "" {
			t.Errorf("%s and %s have the same variable", other, k.Name)
		}
		env[k.Env()] = k.Name
		if k.Doc == "" {
			t.Errorf("%s has no doc", k.Name)
		}
		if k.Kind == Seconds && k.Unit == "" {
			t.Errorf("%s has no unit", k.Name)
		}
	}
}

func TestPrecedence(t *testing.T) {
	first := "analyzer: {listen: ':1'}\nagent: {listen: ':1'}\nhost_id: one\nanalyzers: [a:1, b:2]\nui: {theme: dark, topology: {default_filter: x}}\n"
	second := "agent: {listen: ':2'}\nhost_id: two\nanalyzers: [c:3]\nui: {topology: {default_highlight: y}}\n"
	environ := []string{"SKYDIVE_HOST_ID=three", "SKYDIVE_ANALYZER_LISTEN=", "SKYDIVE_AGENT_TOPOLOGY_PROBES=docker  lldp"}
	c, _ := mustLoad(t, environ, map[string]string{"host_id": "four"}, first, second)
	if c.Analyzer.Listen.Port != 1 {
		t.Errorf("an empty variable is not unset: %v", c.Analyzer.Listen)
	}
	if c.Agent.Listen.Port != 2 || !slices.Equal(c.Analyzers, []Address{{"c", 3}}) {
		t.Errorf("the last file does not win: %v %v", c.Agent.Listen, c.Analyzers)
	}
	if c.HostID != "four" {
		t.Errorf("a flag does not win: %s", c.HostID)
	}
	if !slices.Equal(c.Agent.Topology.Probes, []string{"docker", "lldp"}) {
		t.Errorf("the environment does not win: %v", c.Agent.Topology.Probes)
	}
	want := map[string]any{"theme": "dark", "topology": map[string]any{"default_filter": "x", "default_highlight": "y"}}
	if !reflect.DeepEqual(c.UI, want) {
		t.Errorf("maps are not merged: %v", c.UI)
	}
	if c, _ = mustLoad(t, environ, nil, first, second); c.HostID != "three" {
		t.Errorf("environment < file: %s", c.HostID)
	}
}

func TestEnvironment(t *testing.T) {
	for _, tc := range []struct {
		variable, key string
		want          any
	}{
		{"SKYDIVE_ANALYZERS=h1:8082 h2:8083", "analyzers", []string{"h1:8082", "h2:8083"}},
		{"SKYDIVE_ANALYZERS= ", "analyzers", []string{}},
		{"SKYDIVE_ANALYZER_LISTEN=0.0.0.0:8082", "analyzer.listen", "0.0.0.0:8082"},
		{"SKYDIVE_ETCD_EMBEDDED=false", "etcd.embedded", false},
		{"SKYDIVE_ETCD_EMBEDDED=F", "etcd.embedded", false},
		{"SKYDIVE_ETCD_MAX_WAL_FILES=0", "etcd.max_wal_files", int64(0)},
		{"SKYDIVE_AGENT_TOPOLOGY_NETLINK_METRICS_UPDATE=500ms", "agent.topology.netlink.metrics_update", "500ms"},
		{"SKYDIVE_LOGGING_LEVEL=debug", "logging.level", "DEBUG"},
		{`SKYDIVE_UI={"theme":"light","topology":{"favorites":{"My Bridges":"G.V()"}}}`, "ui.topology.favorites", map[string]any{"My Bridges": "G.V()"}},
		{`SKYDIVE_AGENT_METADATA={"Rack":12}`, "agent.metadata.rack", int64(12)},
		{"SKYDIVE_AUTH_API_TYPE=basic", "auth.api.type", "basic"},
		{"SKYDIVE_STORAGE_MYELASTICSEARCH_DRIVER=elasticsearch", "storage.myelasticsearch.driver", "elasticsearch"},
		{"SKYDIVE_STORAGE_MYES_AUTH_USERNAME=u", "storage.myes.auth.username", "u"},
		{"SKYDIVE_STORAGE_ELASTICSEARCH_HOST=elasticsearch:9200", "storage.elasticsearch.host", "elasticsearch:9200"},
		{"SKYDIVE_ANALYZER_TOPOLOGY_FABRIC=A->B C->D", "analyzer.topology.fabric", []string{"A->B", "C->D"}},
		{"SKYDIVE_GRAPH_BACKEND=memory", "analyzer.topology.backend", "memory"},
	} {
		c, _ := mustLoad(t, []string{tc.variable}, nil)
		if got, _ := c.Get(tc.key); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %s = %#v, want %#v", tc.variable, tc.key, got, tc.want)
		}
	}
	c, _ := mustLoad(t, []string{"SKYDIVE_AUTH_MY_API_TYPE=noauth"}, nil, "auth: {my-api: {type: basic, users: {a: b}}}")
	if len(c.Auth) != 4 || c.Auth["my-api"].Type != "noauth" {
		t.Errorf("a variable does not reach the section of a file: %v", c.Auth)
	}
}

// TestShadow is the trap of the public product: the client's own variable took
// every analyzer key away.
func TestShadow(t *testing.T) {
	c, problems := mustLoad(t, []string{"SKYDIVE_ANALYZER=h:8082", "SKYDIVE_AGENT=x", "SKYDIVE_ETCD=x", "SKYDIVE_AUTH=x", "SKYDIVE_EMBEDDED=true"}, nil, "analyzer: {listen: '9'}")
	if c.Analyzer.Listen.Port != 9 || c.Analyzer.Topology.Backend != "disk" || !c.Etcd.Embedded || len(problems) != 0 {
		t.Errorf("shadowed: %+v %+v %v", c.Analyzer, c.Etcd, problems)
	}
}

func TestMapsKeepCase(t *testing.T) {
	c, problems := mustLoad(t, nil, nil, `
AGENT:
  Metadata: {Rack.Row: 3, Site: {Name: Paris}, since: 2020-01-02}
auth:
  API:
    Type: basic
    users: {Bob: 0123, a.b: yes}
ui.theme: dark
ui:
  topology.favorites: {All Hosts: G.V()}
http.cookie: {JSESSION: x}
`)
	if len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
	if want := (map[string]string{"Bob": "0123", "a.b": "yes"}); !reflect.DeepEqual(c.Auth["api"].Users, want) {
		t.Errorf("users %v", c.Auth["api"].Users)
	}
	if want := (map[string]any{"Rack.Row": int64(3), "Site": map[string]any{"Name": "Paris"}, "since": "2020-01-02"}); !reflect.DeepEqual(c.Agent.Metadata, want) {
		t.Errorf("metadata %#v", c.Agent.Metadata)
	}
	if c.UI["theme"] != "dark" || c.HTTP.Cookie["JSESSION"] != "x" {
		t.Errorf("dotted keys: %v %v", c.UI, c.HTTP.Cookie)
	}
}

func TestAnalyzersUnsetOrEmpty(t *testing.T) {
	for text, want := range map[string][]Address{
		"":                       {{"127.0.0.1", 8082}},
		"analyzers:":             {{"127.0.0.1", 8082}},
		"analyzers: []":          {},
		"analyzers: ''":          {},
		"analyzers: a:1 b:2":     {{"a", 1}, {"b", 2}},
		"analyzers: ['[::1]:5']": {{"::1", 5}},
	} {
		c, _ := mustLoad(t, nil, nil, text)
		if got := c.AnalyzerAddresses(); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for _, tc := range []struct {
		text string
		want []string
	}{
		{"analyser:\n  listen: 1\n", []string{"skydive.yml:1:1: unknown key analyser; did you mean analyzer?"}},
		{"analyzer:\n  lisetn: 1\n", []string{"skydive.yml:2:3: unknown key analyzer.lisetn; did you mean analyzer.listen?"}},
		{"agent: {runc: {run_path: [/x]}}", []string{"skydive.yml:1:9: unknown key agent.runc; did you mean agent.topology.runc.run_path?"}},
		{"zzzzzzzz: 1", []string{"skydive.yml:1:1: unknown key zzzzzzzz"}},
		{"analyzer: {topology: {k8s: {cluster_name: a}}}", []string{"skydive.yml:1:43: analyzer.topology.k8s.cluster_name: not in this version"}},
		{"dpdk: {debug: 1}", []string{"skydive.yml:1:15: dpdk.debug: not supported"}},
		{"cache.expire: 1", []string{"skydive.yml:1:15: cache.expire: has no effect"}},
		{"graph: {backend: memory}", []string{"skydive.yml:1:18: Config value 'graph.backend' is now deprecated. Please use 'analyzer.topology.backend' instead"}},
		{"auth: {type: noauth}", []string{"skydive.yml:1:14: Config value 'auth.type' is now deprecated. Please use 'agent.auth.api.backend', 'analyzer.auth.api.backend', 'analyzer.auth.cluster.backend' instead"}},
	} {
		_, problems := mustLoad(t, nil, nil, tc.text)
		if got := lines(problems); !slices.Equal(got, tc.want) {
			t.Errorf("%q\ngot  %q\nwant %q", tc.text, got, tc.want)
		}
	}
}

func TestRenamedKeys(t *testing.T) {
	for _, r := range renames {
		if _, ok := schema.key(r.new); !ok {
			t.Errorf("%s is not known", r.new)
		}
		if _, ok := schema.key(r.old); ok {
			t.Errorf("%s is old and new", r.old)
		}
	}
	c, _ := mustLoad(t, nil, nil, "auth: {type: basic, analyzer_username: u, analyzer_password: p}\nnetns.run_path: /n\nanalyzer.auth.cluster.backend: noauth\n")
	if c.Agent.Auth.API.Backend != "basic" || c.Analyzer.Auth.API.Backend != "basic" || c.Agent.Auth.Cluster.Password != "p" || c.Agent.Topology.Netns.RunPath != "/n" {
		t.Errorf("old keys are not honoured: %+v", c.Agent)
	}
	if c.Analyzer.Auth.Cluster.Backend != "noauth" {
		t.Errorf("an old key beats the new one: %+v", c.Analyzer.Auth)
	}
}

// bomb returns entries that stand for 10^9 nodes.
func bomb() string {
	text := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"
	for i := range 8 {
		text += fmt.Sprintf(", a%d: &a%d [%s]", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d , ", i), 10), ", "))
	}
	return text
}

func TestErrors(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"a: 1\nb: 2: 3\n", "skydive.yml:2:5: YAML syntax: mapping values are not allowed in this context"},
		{"analyzer:\n  listen: x\n\tagent: y\n", "skydive.yml:3:1: YAML syntax: found a tab character that violates indentation"},
		{"host_id: \"abc\nanalyzer:\n  listen: 1\n", "skydive.yml:1:10: YAML syntax: found unexpected end of stream"},
		{"host_id: a\nfoo\netcd: {}\n", "skydive.yml:2:1: YAML syntax: could not find expected ':'"},
		{"host_id: *x\n", "skydive.yml:1:10: YAML syntax: unknown anchor 'x' referenced"},
		{"- a\n", "skydive.yml:1:1: want a mapping of keys, not a list"},
		{"host_id: a\n---\nhost_id: b\n", "skydive.yml:2:1: a second YAML document begins here: only one is read"},
		{"host_id: a\nHost_ID: b\n", "skydive.yml:2:1: key Host_ID is already given in line 1"},
		{"analyzer: 3\n", "skydive.yml:1:11: analyzer is a section: want a mapping of keys, not a single value"},
		{"agent: {auth: {cluster: hunter2}}\n", "skydive.yml:1:25: agent.auth.cluster is a section: want a mapping of keys, not a single value"},
		{"auth: {basic: {users: hunter2}}\n", "skydive.yml:1:23: auth.basic.users: want a map, not a single value"},
		{"host_id: [a]\n", "skydive.yml:1:10: host_id: want a string, not a list"},
		{"analyzer:\n  listen: a:b:c\n", `skydive.yml:2:11: invalid value for analyzer.listen (a:b:c): invalid address "a:b:c": want host:port, [IPv6]:port, :port or port`},
		{"analyzers:\n  - a:1\n  - nowhere\n", `skydive.yml:3:5: invalid value for analyzers (nowhere): invalid address "nowhere": "nowhere" is not a port`},
		{"etcd: {max_wal_files: -1}", "skydive.yml:1:23: invalid value for etcd.max_wal_files (-1): want at least 0"},
		{"flow:\n  expire: 0", "skydive.yml:2:11: invalid value for flow.expire (0): want at least 1"},
		{"flow.protocol: tcp", "skydive.yml:1:16: Invalid protocol: tcp (flow.protocol)"},
		{"logging.backends: [stderr, foo]", "skydive.yml:1:28: Invalid logging backend: foo"},
		{"etcd.embedded: maybe", "skydive.yml:1:16: invalid value for etcd.embedded (maybe): want true or false"},
		{"http.ws.queue_size: 1.5", "skydive.yml:1:21: invalid value for http.ws.queue_size (1.5): want a whole number"},
		{"agent.metadata: 3", "skydive.yml:1:17: agent.metadata: want a map"},
		{"auth.x.users: {bob: [1]}", `skydive.yml:1:21: auth.x.users: want a text for "bob"`},
		{"logging.level: loud", "skydive.yml:1:16: invalid value for logging.level (loud): want DEBUG or INFO or NOTICE or WARNING or ERROR or CRITICAL"},
		{"ui: &a {<<: [*a, *a]}", "skydive.yml:1:14: aliases that contain themselves, or too many of them"},
		{"ui: &a {x: *a}", "skydive.yml:1:12: aliases that contain themselves, or too many of them"},
		{"ui: {" + bomb() + "}", "aliases that contain themselves, or too many of them"},
	} {
		_, _, err := Load(Options{Files: []string{write(t, tc.text)}})
		if err == nil {
			t.Errorf("%q: no error", tc.text)
			continue
		}
		got := err.Error()
		if got = got[strings.Index(got, "skydive.yml"):]; got != tc.want && !strings.Contains(got, tc.want) {
			t.Errorf("%q\ngot  %s\nwant %s", tc.text, got, tc.want)
		}
	}
}

func TestSources(t *testing.T) {
	broken := write(t, "a: b: c")
	for _, tc := range []struct {
		o    Options
		want string // part of the error; "" = none
	}{
		{Options{DefaultPath: filepath.Join(t.TempDir(), "absent.yml")}, ""},
		{Options{DefaultPath: broken}, "1:5: YAML syntax"},
		{Options{Files: []string{filepath.Join(t.TempDir(), "absent.yml")}}, "no such file"},
		{Options{Backend: "etcd", Files: []string{"http://h/x"}}, "not in this version"},
		{Options{Backend: "zoo"}, "Invalid backend: zoo"},
		{Options{Files: []string{"-"}, Stdin: strings.NewReader("x: 'y")}, "stdin:1:4: YAML syntax"},
		{Options{Environ: []string{"SKYDIVE_ETCD_EMBEDDED=2"}}, "environment variable SKYDIVE_ETCD_EMBEDDED: invalid value"},
		{Options{Environ: []string{"SKYDIVE_UI={"}}, "want JSON"},
		{Options{Flags: map[string]string{"analyzer.listen": "x"}}, "flag --listen: invalid value"},
	} {
		_, _, err := Load(tc.o)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v, want %q", tc.o, err, tc.want)
		}
	}
	c, _, err := Load(Options{Files: []string{"-"}, Stdin: strings.NewReader("host_id: piped")})
	if err != nil || c.HostID != "piped" {
		t.Errorf("stdin: %v %v", c, err)
	}
}

func TestMergeKeys(t *testing.T) {
	c, _ := mustLoad(t, nil, nil, "auth:\n  a: &base {type: basic, role: ops}\n  b:\n    <<: *base\n    role: admin\n")
	if got := c.Auth["b"]; got.Type != "basic" || got.Role != "admin" {
		t.Errorf("auth.b = %+v", got)
	}
}

func TestCheckService(t *testing.T) {
	for _, tc := range []struct{ text, service, want string }{
		{"", "analyzer", ""},
		{"", "agent", ""},
		{"tls.server_cert: /x", "analyzer", "skydive.yml:1:18: tls.server_cert is set, and tls.server_key is not"},
		{"tls.client_key: /x", "agent", "tls.client_key is set, and tls.client_cert is not"},
		{"tls: {server_cert: '', require_client_cert: false}", "analyzer", ""},
		{"tls: {server_cert: /c, server_key: /k}", "analyzer", ""},
		{"tls: {require_client_cert: true}", "analyzer", "tls.require_client_cert is set, and TLS is not"},
		{"tls: {ca_cert: /a}", "agent", "tls.ca_cert is set, and no certificate is"},
		{"analyzer.auth.api.backend: keystone\nauth.keystone.auth_url: http://k:5000/v3", "analyzer", ""},
		{"analyzer.auth.cluster.backend: keystone", "analyzer", "Authentication URL empty (auth.keystone.auth_url)"},
		{"analyzer.auth.api.backend: keystone", "agent", ""},
		{"analyzer.peers: {east: {endpoints: [e:8082], subscribe_filter: '*'}}", "analyzer", "skydive.yml:1:17: peering was requested but analyzer has no cluster name"},
		{"analyzer.cluster: west\nanalyzer.peers: {east: {endpoints: [e:8082], publish_filter: 'Type=host'}}", "analyzer", ""},
		{"analyzer.cluster: west\nanalyzer.peers: {east: {endpoints: [e:8082]}}", "analyzer", "neither subscribe_filter nor publish_filter"},
		{"analyzer.cluster: west\nanalyzer.peers: {east: {publish_filter: '*'}}", "analyzer", "analyzer.peers.east has no endpoints"},
		{"analyzer.cluster: west\nanalyzer.peers: {east: {endpoints: [a b], publish_filter: '*'}}", "analyzer", "analyzer.peers.east.endpoints: "},
		{"analyzer.cluster: west\nanalyzer.peers: {east: {endpoint: a}}", "analyzer", "unknown key endpoint"},
		{"agent.auth.api.backend: nope", "agent", "Authentication type unknown or backend not defined for: nope"},
		{"analyzer.auth.cluster.backend: basic", "analyzer", "No htpassword provider set, you set either file or inline sections"},
		{"analyzer.auth.api.backend: Ops\nauth.ops: {type: basic, users: {a: b}}", "analyzer", ""},
		{"analyzer.topology.backend: elasticsearch", "analyzer", "storage elasticsearch comes with a later version"},
		{"analyzer.flow.backend: nope", "analyzer", "storage backend not defined: nope"},
		{"analyzer.topology.backend: mem2\nstorage.mem2.driver: memory", "analyzer", ""},
	} {
		c, _ := mustLoad(t, nil, nil, tc.text)
		err := c.CheckService(tc.service)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%q %s: %v, want %q", tc.text, tc.service, err, tc.want)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Setenv("SKYDIVE_ETCD_EMBEDDED", "rubbish") // not asked
	checks := map[string]func(*Config) error{"analyzer.topology.fabric": func(c *Config) error {
		if slices.Contains(c.Analyzer.Topology.Fabric, "bad") {
			return errors.New("rule 1 is bad")
		}
		return nil
	}}
	for text, want := range map[string][]Severity{
		"host_id: a":                             nil,
		"nope: a":                                {Unknown},
		"tls.ca_cert: ''":                        nil,
		"tls.server_key: /k":                     {Refusal},
		"a: b: c":                                {Error},
		"analyzer: {topology: {fabric: [good]}}": nil,
		"analyzer: {topology: {fabric: [bad]}}":  {Refusal},
	} {
		var got []Severity
		for _, p := range Check(Options{Files: []string{write(t, text)}, Checks: checks}) {
			got = append(got, p.Severity)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]string{
		"a:1": "a:1", ":8082": "127.0.0.1:8082", "8082": "127.0.0.1:8082", "[::1]:5": "[::1]:5", "http": "127.0.0.1:80",
		"h:https": "h:443", "0.0.0.0:0": "0.0.0.0:0",
		"": "", ":": "", "a:": "", "::1:5": "", "a": "", "a:70000": "", "a:-1": "", "http://a:1": "", "a b:1": "", "u@h:1": "",
	} {
		got, err := ParseAddress(text)
		if want == "" && err == nil || want != "" && (err != nil || got.String() != want) {
			t.Errorf("%q: %v %v, want %q", text, got, err, want)
		}
	}
	if a, _ := ParseAddress("127.0.0.2:1"); !a.Loopback() {
		t.Error("127.0.0.2 is loopback")
	}
	if a, _ := ParseAddress("0.0.0.0:1"); a.Loopback() {
		t.Error("0.0.0.0 is not loopback")
	}
}
