package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"skydive/src/agent"
	"skydive/src/probe"
)

// wellServer answers /healthz with a status, and counts nothing else as an answer.
func wellServer(t *testing.T, status int, text string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			http.Error(w, "no such path "+r.URL.Path, http.StatusTeapot)
			return
		}
		http.Error(w, text, status)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestHealth(t *testing.T) {
	well, ill := wellServer(t, 200, "ok"), wellServer(t, 503, "etcd is not ready\nmore")
	elsewhere := httptest.NewServer(http.RedirectHandler("http://"+well+"/healthz", http.StatusFound))
	t.Cleanup(elsewhere.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent, port := l.Addr().String(), portOf(well)
	closed := closedAddress(t)
	listen := func(analyzer, agent string) []string {
		return []string{"SKYDIVE_ANALYZER_LISTEN=" + analyzer, "SKYDIVE_AGENT_LISTEN=" + agent, "http_proxy=http://" + closed, "HTTP_PROXY=http://" + closed}
	}
	for _, c := range []struct {
		environ []string
		args    string
		code    int
		want    string
	}{
		{listen(well, well), "", 0, "ok: " + well + ", " + well},
		{listen("0.0.0.0:"+port, closed), "", 0, "ok: 0.0.0.0:" + port},
		{listen(closed, well), "", 0, "ok: " + well},
		{listen(well, ill), "", 1, "Error: " + ill + ": 503 Service Unavailable: etcd is not ready\n"},
		{listen(closed, closed), "", 1, "nothing listens on " + closed},
		{listen(well, closed), "analyzer", 0, "ok: " + well},
		{listen(well, closed), "agent", 1, "Error: nothing listens on " + closed},
		{listen(ill, well), "agent", 0, "ok: " + well},
		{listen(closed, closed), "--address " + well, 0, "ok: " + well},
		{nil, "--address " + ill, 1, "503"},
		{nil, "--address " + well + " --ready", 1, "no such path /readyz"},
		{nil, "--address " + strings.TrimPrefix(elsewhere.URL, "http://"), 1, "302 Found"},
		{nil, "--address " + silent + " --timeout 50ms", 1, "no answer in time"},
		{nil, "--address nowhere:port:1", 1, "invalid address"},
		{nil, "server", 1, `"server" is not a service: want analyzer or agent`},
		{nil, "agent analyzer", 1, `unexpected argument "analyzer"`},
		{[]string{"SKYDIVE_AGENT_LISTEN=a:b:c"}, "", 1, "agent.listen"},
	} {
		got := skydive(t, c.environ, "", append([]string{"skydive", "health"}, strings.Fields(c.args)...)...)
		if out := got.stdout + got.stderr; got.code != c.code || !strings.Contains(out, c.want) || strings.Count(out, "\n") != 1 {
			t.Errorf("%v %s: %d %q, want %d and %q in one line", c.environ, c.args, got.code, out, c.code, c.want)
		}
	}
}

func portOf(addr string) string { _, port, _ := net.SplitHostPort(addr); return port }

func closedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

func TestServiceBeside(t *testing.T) {
	for name, c := range map[string]struct {
		processes map[string]string // "<pid> <mount namespace>": command line
		want      *commandLine
	}{
		"alone":                    {map[string]string{"7 A": "skydive health"}, nil},
		"the analyzer":             {map[string]string{"1 A": "/usr/bin/skydive --conf /etc/skydive.yml analyzer --listen=:90", "7 A": "skydive health"}, &commandLine{"analyzer", []string{"/etc/skydive.yml"}, ":90"}},
		"its name twice":           {map[string]string{"1 A": "/usr/bin/skydive --conf a /usr/bin/skydive agent -c b -l 0.0.0.0:8", "7 A": ""}, &commandLine{"agent", []string{"a", "b"}, "0.0.0.0:8"}},
		"beside those of the host": {map[string]string{"1 H": "/sbin/init", "30 B": "skydive analyzer", "50 A": "skydive agent", "7 A": "", "8 A": "skydive health"}, &commandLine{service: "agent"}},
		"two":                      {map[string]string{"2 A": "skydive analyzer", "3 A": "skydive agent", "7 A": ""}, nil},
		"no service":               {map[string]string{"2 A": "skydive client status", "3 A": "bash skydive agent", "4 A": "skydive --nope agent", "7 A": ""}, nil},
	} {
		proc := t.TempDir()
		for key, line := range c.processes {
			pid, ns, _ := strings.Cut(key, " ")
			dir := filepath.Join(proc, pid)
			if err := os.MkdirAll(filepath.Join(dir, "ns"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("mnt:["+ns+"]", filepath.Join(dir, "ns", "mnt")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "cmdline"), []byte(strings.ReplaceAll(line, " ", "\x00")+"\x00"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := serviceBeside(proc, 7); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestHealthOfAnAgent(t *testing.T) {
	for states, well := range map[string]bool{"": true, "running": true, "starting failed absent": true, "running stopped": false, "stopping": false} {
		all := map[string]probe.Status{}
		for i, state := range strings.Fields(states) {
			all[fmt.Sprint(i)] = probe.Status{Status: probe.State(state)}
		}
		if err := supervised(all); (err == nil) != well {
			t.Errorf("%q: %v", states, err)
		}
	}
	links := func(masters ...bool) map[string]agent.AnalyzerStatus {
		all := map[string]agent.AnalyzerStatus{}
		for i, master := range masters {
			all[fmt.Sprint(i)] = agent.AnalyzerStatus{IsMaster: master}
		}
		return all
	}
	for _, c := range []struct {
		analyzers []string
		links     map[string]agent.AnalyzerStatus
		ready     bool
	}{
		{nil, links(), true}, // stands alone
		{[]string{"a"}, links(false), false},
		{[]string{"a", "b"}, links(false, true), true},
	} {
		if err := connected(c.analyzers, c.links); (err == nil) != c.ready {
			t.Errorf("%v %v: %v", c.analyzers, c.links, err)
		}
	}
}
