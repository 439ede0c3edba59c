package config

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the generated files of the repository")

const secrets = `
auth.api: {type: basic, users: {Bob: s3cret}}
analyzer.auth.cluster: {username: u, password: s3cret}
agent.auth.cluster.password: s3cret
http.cookie: {token: s3cret}
storage.es: {driver: elasticsearch, auth: {password: s3cret}, hosts: ["http://u:s3cret@h:9200"]}
etcd.servers: ["http://u:s3cret@h:2379"]
agent.topology.neutron.password: s3cret
analyzer.peers: {east: {password: s3cret, endpoints: [h:1]}}
storage.odb.password: s3cret
`

func TestSecretsAreHidden(t *testing.T) {
	c, _ := mustLoad(t, nil, nil, secrets)
	var b bytes.Buffer
	if err := c.Dump(&b); err != nil {
		t.Fatal(err)
	}
	for _, k := range c.order {
		v, _ := c.Get(k)
		section, _ := c.Get(k[:max(0, strings.LastIndexByte(k, '.'))])
		for _, x := range []any{v, section} {
			if strings.Contains(fmt.Sprint(x), "s3cret") {
				t.Errorf("Get(%s) tells a secret: %v", k, x)
			}
		}
	}
	if strings.Contains(b.String(), "s3cret") {
		t.Errorf("Dump tells a secret:\n%s", b.String())
	}
	if c.Auth["api"].Users["Bob"] != "s3cret" || c.Agent.Auth.Cluster.Password != "s3cret" {
		t.Error("the struct has lost the secrets")
	}
	if _, _, err := Load(Options{Environ: []string{"SKYDIVE_HTTP_COOKIE={s3cret"}}); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("an error tells a secret: %v", err)
	}
}

func TestGet(t *testing.T) {
	c, _ := mustLoad(t, nil, nil, "analyzers: [h:1]\nui: {theme: dark, topology: {favorites: {My.Own: g}}}\nstorage.es.driver: elasticsearch\n")
	for key, want := range map[string]any{
		"analyzer.listen":              "127.0.0.1:8082",
		"ANALYZER.LISTEN":              "127.0.0.1:8082",
		"analyzers":                    []string{"h:1"},
		"logging.level":                "INFO",
		"flow.expire":                  int64(600),
		"http.ws.ping_delay":           int64(2),
		"ui.theme":                     "dark",
		"ui.topology.favorites":        map[string]any{"My.Own": "g"},
		"ui.topology.favorites.my.own": "g",
		"analyzer.topology.probes":     []string{},
		"storage.es":                   map[string]any{"driver": "elasticsearch", "max_age": int64(604800), "max_size": "10GiB"},
		"analyzer.auth.cluster":        map[string]any{"backend": "noauth"},
		"nope":                         nil,
		"":                             nil,
		"ui.nope":                      nil,
		"host_id.x":                    nil,
		"etcd.servers":                 nil,
	} {
		got, ok := c.Get(key)
		if !reflect.DeepEqual(got, want) || ok != (want != nil) {
			t.Errorf("%s: %#v %v, want %#v", key, got, ok, want)
		}
	}
}

// TestDumpLoads: what is dumped is a configuration that means the same.
func TestDumpLoads(t *testing.T) {
	c, _ := mustLoad(t, nil, nil, "analyzers: []\nhost_id: x\nauth.true.type: noauth\nlogging.level: debug\nagent.topology.netlink.metrics_update: 90s\nagent.metadata: {a.b: [1, 'two', true]}\n")
	var b bytes.Buffer
	if err := c.Dump(&b); err != nil {
		t.Fatal(err)
	}
	again, problems := mustLoad(t, nil, nil, b.String())
	if len(problems) != 0 {
		t.Errorf("problems %v in\n%s", problems, b.String())
	}
	c.values, c.order, again.values, again.order = nil, nil, nil, nil
	if !reflect.DeepEqual(c, again) {
		t.Errorf("differs:\n%+v\n%+v", c, again)
	}
}

// TestSample: the sample is clean as it is, and clean with every setting on;
// then it means the defaults but for the examples.
func TestSample(t *testing.T) {
	var b bytes.Buffer
	if err := Sample(&b); err != nil {
		t.Fatal(err)
	}
	if problems := Check(Options{Files: []string{"-"}, Stdin: &b}); len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
	if err := Sample(&b); err != nil {
		t.Fatal(err)
	}
	on := regexp.MustCompile(`(?m)^#(\S|  )`).ReplaceAllString(b.String(), "$1")
	if problems := Check(Options{Files: []string{"-"}, Stdin: strings.NewReader(on)}); len(problems) != 0 {
		t.Errorf("problems %v in\n%s", problems, on)
	}
	c, _ := mustLoad(t, nil, nil, on)
	plain, _ := mustLoad(t, nil, nil)
	for _, k := range plain.order {
		if _, shown := sampleText[schema.generic(k)]; shown {
			continue
		}
		got, _ := c.Get(k)
		if want, _ := plain.Get(k); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the sample says %v, the default is %v", k, got, want)
		}
	}
	for _, k := range schema.keys {
		if name := strings.Replace(k.Name, anyName, "example", 1); k.Status == Active && c.values[name].source == "" {
			t.Errorf("%s is not in the sample", k.Name)
		}
	}
}

// TestGeneratedFiles: the files of the repository are what the code says.
func TestGeneratedFiles(t *testing.T) {
	for file, generate := range map[string]func(io.Writer) error{
		"../../docs/configuration.md":   Reference,
		"../../etc/skydive.yml.default": Sample,
	} {
		var b bytes.Buffer
		if err := generate(&b); err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(got, b.Bytes()) {
			t.Errorf("%s is not what the code says (%v): run go test ./src/config -update", file, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	for _, s := range []string{secrets, "a: b: c", "auth: {type: x, a: {<<: *b}}", "ui: &a {x: *a}", "ui: {1: 2, ~: 3}", "analyzer: {listen: :http}", "---\n...\n", "\xff", "? [a]\n: b", "agent.metadata.x.y: 1"} {
		f.Add(s, "{}")
	}
	f.Fuzz(func(t *testing.T, text, env string) {
		c, _, err := Load(Options{Files: []string{"-"}, Stdin: strings.NewReader(text), Hostname: "h", Environ: []string{"SKYDIVE_UI=" + env, "SKYDIVE_AUTH_" + env, "SKYDIVE_ANALYZERS=" + env}})
		if err != nil {
			return
		}
		if err := c.Dump(io.Discard); err != nil {
			t.Error(err)
		}
		for _, k := range c.order {
			if _, ok := c.Get(k); !ok {
				t.Errorf("no value of %q", k)
			}
		}
		_ = c.CheckService("analyzer")
	})
}
