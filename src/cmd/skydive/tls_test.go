package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"skydive/src/doctor"
)

func TestTLSInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	got := skydive(t, nil, "", "skydive", "tls", "init", "--dir", dir, "a1=a1.example.org,10.0.0.1", "agent1")
	if got.code != 0 || !strings.Contains(got.stderr, "made     "+dir+"/ca.crt, until ") || !strings.Contains(got.stderr, "(keep "+dir+"/ca.key to yourself") ||
		!strings.Contains(got.stderr, "made     "+dir+"/a1, until ") || !strings.Contains(got.stderr, "(a1 a1.example.org localhost 10.0.0.1 127.0.0.1 ::1)") {
		t.Fatalf("%+v", got)
	}
	// What it prints can be pasted: keys of the configuration, and variables that name files which are there.
	var guide struct {
		TLS       map[string]string `yaml:"tls"`
		Variables map[string]string `yaml:",inline"`
	}
	if err := yaml.Unmarshal([]byte(got.stdout), &guide); err != nil || len(guide.TLS) != 5 || len(guide.Variables) != 5 {
		t.Fatalf("%v\n%s", err, got.stdout)
	}
	for name, value := range guide.Variables {
		key, ok := strings.CutPrefix(name, "skydive_tls_")
		file := strings.ReplaceAll(value, "{{ inventory_hostname }}", "agent1")
		if _, err := os.Stat(file); err != nil || !ok || guide.TLS[key] != "/etc/skydive/tls/"+filepath.Base(file) {
			t.Errorf("%s: %s is %s in the configuration, %v", name, value, guide.TLS[key], err)
		}
	}
	conf := filepath.Join(t.TempDir(), "skydive.yml")
	section, _, _ := strings.Cut(got.stdout[strings.Index(got.stdout, "tls:"):], "\n\n")
	if err := os.WriteFile(conf, []byte(strings.ReplaceAll(section, "/etc/skydive/tls", dir+"/a1")), 0o600); err != nil {
		t.Fatal(err)
	}
	if checked := skydive(t, nil, "", "skydive", "config", "check", conf); checked.code != 0 {
		t.Errorf("%+v", checked)
	}

	// check says what a service would.
	got = skydive(t, nil, "", "skydive", "tls", "check", "--conf", conf)
	if got.code != 0 || got.stderr != "" || !strings.Contains(got.stdout, "ca     "+dir+"/a1/ca.crt: CN=Skydive CA ") || !strings.Contains(got.stdout, "server "+dir+"/a1/server.crt: CN=a1,O=Skydive, until ") ||
		!strings.Contains(got.stdout, "for a1 a1.example.org localhost 10.0.0.1 127.0.0.1 ::1\n") {
		t.Errorf("%+v", got)
	}
	if err := os.Chmod(filepath.Join(dir, "a1", "server.key"), 0o604); err != nil {
		t.Fatal(err)
	}
	if got = skydive(t, nil, "", "skydive", "tls", "check", "--conf", conf); got.code != 0 || !strings.Contains(got.stderr, "warning: the private key "+dir+"/a1/server.key can be read by every user") {
		t.Errorf("%+v", got)
	}
	if err := os.Remove(filepath.Join(dir, "a1", "server.key")); err != nil {
		t.Fatal(err)
	}
	if got = skydive(t, nil, "", "skydive", "tls", "check", "--conf", conf); got.code != 1 || !strings.Contains(got.stderr, "Error: Can't read X509 key pair set in config : cert '"+dir+"/a1/server.crt' key '"+dir+"/a1/server.key' : "+dir+"/a1/server.key does not exist") {
		t.Errorf("%+v", got)
	}
	if got = skydive(t, nil, "analyzers: []\n", "skydive", "tls", "check", "--conf", "-"); got.code != 0 || got.stdout != "TLS is off: no key of the section tls is set\n" {
		t.Errorf("%+v", got)
	}
	got = skydive(t, nil, "", "skydive", "tls", "check", dir+"/ca.crt", dir+"/a1/client.crt", dir+"/a1/client.key", dir+"/a1/server.key")
	if got.code != 1 || !strings.Contains(got.stdout, "\n    signed by "+dir+"/ca.crt\n") || !strings.Contains(got.stdout, "private key, ECDSA P-256, of "+dir+"/a1/client.crt\n") ||
		got.stderr != "error: "+dir+"/a1/server.key does not exist\nError: not all files can be used\n" {
		t.Errorf("%+v", got)
	}
}

func TestTLSWrongArgs(t *testing.T) {
	dir := t.TempDir()
	for args, want := range map[string]string{
		"tls init a1":                                         `Required flag "dir" not set`,
		"tls init --dir " + dir:                               "a host is missing; see skydive tls init --help",
		"tls init --dir " + dir + " --renew":                  "no host is named",
		"tls init --dir " + dir + " a1 --days 0":              "--days: 0 is not between 1 and 36500",
		"tls init --dir " + dir + " ../a1":                    `"../a1" is neither the name of a host nor an address`,
		"tls init --dir " + dir + " a1=10.0.0.":               `a1: "10.0.0." is neither a name nor an address`,
		"tls init --dir " + dir + " a1 --ca-key k":            "--ca-key needs --ca",
		"tls init --dir " + dir + " a1 --ca /nonexistent.crt": "authority: /nonexistent.crt does not exist",
		"tls check /nonexistent":                              "error: /nonexistent does not exist",
		"doctor --as client":                                  `--as: "client" is neither agent nor analyzer`,
		"doctor nonsense:x":                                   `"x" is not a port`,
		"doctor -c /nonexistent":                              "no such file",
	} {
		got := skydive(t, nil, "", append([]string{"skydive"}, strings.Fields(args)...)...)
		if got.code != 1 || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %+v, want %s", args, got, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v %v", entries, err)
	}
}

func TestDoctor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	conf := "analyzers: ['" + addr + "']\n"
	got := skydive(t, nil, conf, "skydive", "doctor", "--conf", "-")
	if got.code != 1 || got.stderr != "Error: something is wrong, see above\n" || !strings.HasPrefix(got.stdout, "this host\n  skipped  certificates  no key of the section tls is set") ||
		!strings.Contains(got.stdout, "\n"+addr+"\n  skipped  dns           it is an address\n  failed   tcp           127.0.0.1 refuses connections to port ") ||
		!strings.Contains(got.stdout, "\n                         → is the analyzer running there") {
		t.Errorf("%+v", got)
	}
	// Another address, a configuration that does not work, and JSON.
	got = skydive(t, nil, conf+"tls: {ca_cert: /nonexistent, client_cert: /nonexistent, client_key: /nonexistent}\n", "skydive", "doctor", "--conf", "-", "--json", "0.0.0.0:1", "--as", "analyzer")
	var reports []doctor.Report
	if err := json.Unmarshal([]byte(got.stdout), &reports); err != nil || got.code != 1 || len(reports) != 2 || reports[1].Address != "127.0.0.1:1" || reports[0].Checks[0].State != doctor.Failed ||
		!strings.Contains(reports[0].Checks[0].Result, "Failed to open root certificate '/nonexistent' : does not exist\nCan't read") {
		t.Errorf("%v %+v", err, got)
	}
	if got = skydive(t, nil, "analyzers: []\n", "skydive", "doctor", "--conf", "-"); got.code != 1 || !strings.Contains(got.stderr, "the configuration names no analyzer (analyzers is empty): give an address") {
		t.Errorf("%+v", got)
	}
}
