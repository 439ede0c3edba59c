package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// chapter puts a file of testdata/seed into the scratch directory of a host: the very text of the document that users follow.
func chapter(t *testing.T, h *Host, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "seed", name))
	need(t, err)
	need(t, os.WriteFile(filepath.Join(h.Dir, name), text, 0o644))
	return string(text)
}

// curl asks from a host as its users do, and returns status and body.
func (h *Host) curl(args ...string) (status, body string, err error) {
	out, err := h.Run(append([]string{"curl", "-sS", "--max-time", "20", "-w", "\n%{http_code}"}, args...)...)
	cut := strings.LastIndexByte(out, '\n')
	if cut < 0 {
		return "", out, err
	}
	return out[cut+1:], out[:cut], err
}

// TestRootDocumentTLS follows the chapter on TLS line by line, with the one line that it leaves out: what becomes ca.domain.com.crt.
func TestRootDocumentTLS(t *testing.T) {
	l := newLab(t)
	an, h1 := addHost(t, l, "analyzer"), addHost(t, l, "agent")
	chapter(t, an, "skydive-openssl.cnf")
	script(t, an, "mkdir analyzer agent")
	script(t, an, chapter(t, an, "certificates.sh"))
	script(t, an, "cat analyzer/analyzer.domain.com.crt agent/agent.domain.com.crt > ca.domain.com.crt")
	config := chapter(t, an, "tls.yml")
	for _, h := range []*Host{an, h1} {
		script(t, h, fmt.Sprintf("mount -t tmpfs tmpfs /etc/ssl/certs && cp %[1]s/*.crt %[1]s/analyzer/* %[1]s/agent/* /etc/ssl/certs", an.Dir))
	}
	script(t, an, "ip addr add 192.168.1.1/24 dev eth0")
	script(t, h1, "ip addr add 192.168.1.2/24 dev eth0")
	const addr = "192.168.1.1:8082"
	own := []string{"--cacert", "/etc/ssl/certs/ca.domain.com.crt", "--cert", "/etc/ssl/certs/agent.domain.com.crt", "--key", "/etc/ssl/certs/agent.domain.com.key"}
	cli := func(h *Host, args ...string) (string, error) {
		return h.Run(slices.Concat([]string{l.Binary, "client", "--analyzer", addr}, own, args)...)
	}

	analyzer, err := an.Start(fmt.Sprintf("%shost_id: an\nanalyzer: {listen: 0.0.0.0:8082}\netcd: {data_dir: %s/etcd}\n%s", config, an.Dir, quick), "analyzer")
	need(t, err)
	need(t, Until(20*time.Second, func() error {
		_, err := cli(an, "status")
		return analyzer.alive(err)
	}))
	agent, err := h1.Start(config+"host_id: h1\nanalyzers: ["+addr+"]\nagent: {topology: {probes: []}}\n"+quick, "agent")
	need(t, err)
	sees := func(limit time.Duration) {
		t.Helper()
		need(t, Until(limit, func() error {
			out, err := cli(h1, "query", "G.V().Has('Type', 'host', 'Name', Ne('')).Out('Name', 'eth0').Values('Name')")
			if err == nil && !strings.Contains(out, "eth0") {
				err = fmt.Errorf("the analyzer shows no interface of the agent: %s", out)
			}
			return agent.alive(err)
		}))
	}
	sees(15 * time.Second)

	t.Run("curl", func(t *testing.T) {
		for _, c := range []struct {
			name, url string
			args      []string
			status    string
		}{
			{"with a certificate", "https://" + addr + "/api/status", own, "200"},
			{"without", "https://" + addr + "/api/status", own[:2], "200"},
			{"clear text", "http://" + addr + "/api/status", nil, "400"},
		} {
			if status, body, err := an.curl(slices.Concat(c.args, []string{c.url})...); err != nil || status != c.status {
				t.Errorf("%s: %s %s %v, want %s", c.name, status, body, err, c.status)
			}
		}
		if _, _, err := an.curl("https://" + addr + "/api/status"); err == nil {
			t.Error("a certificate that nobody vouches for is believed")
		}
	})
	t.Run("an agent without certificate", func(t *testing.T) {
		status, body, err := h1.curl(append(own[:2:2], "-H", "X-Client-Type: agent", "-H", "X-Host-ID: rogue", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket",
			"-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==", "https://"+addr+"/ws/agent/topology")...)
		if err != nil || status != "403" || !strings.Contains(body, "certificate") {
			t.Errorf("%s %q %v, want 403 and what is missing", status, body, err)
		}
	})
	t.Run("flows go encrypted, too", func(t *testing.T) {
		if out := agent.Output() + analyzer.Output(); strings.Contains(out, "unencrypted") {
			t.Error(tail(out, 20))
		}
		out, err := an.Run("ss", "-Hlun", "sport", "=", ":8082")
		if err != nil || strings.Contains(out, "8082") {
			t.Errorf("the analyzer takes datagrams: %s %v", out, err)
		}
	})
	t.Run("an agent of another authority", func(t *testing.T) {
		h2 := addHost(t, l, "stranger")
		script(t, h2, "ip addr add 192.168.1.3/24 dev eth0")
		chapter(t, h2, "skydive-openssl.cnf")
		script(t, h2, "mkdir analyzer agent")
		script(t, h2, chapter(t, h2, "certificates.sh"))
		for name, ca := range map[string]string{"strange": "cat agent/agent.domain.com.crt", "known": "cat agent/agent.domain.com.crt " + an.Dir + "/ca.domain.com.crt"} {
			script(t, h2, ca+" > "+name+".crt")
			p, err := h2.Start(fmt.Sprintf("tls: {ca_cert: %[1]s/%[2]s.crt, client_cert: %[1]s/agent/agent.domain.com.crt, client_key: %[1]s/agent/agent.domain.com.key}\n"+
				"host_id: stranger\nanalyzers: [%[3]s]\nagent: {topology: {probes: []}}\n", h2.Dir, name, addr), "agent")
			need(t, err)
			want := map[string]string{"strange": "authority", "known": "not connected"}[name]
			need(t, Until(10*time.Second, func() error {
				if out := p.Output(); !strings.Contains(out, want) {
					return p.alive(fmt.Errorf("the agent does not say what is wrong (%s): %s", want, tail(out, 5)))
				}
				return nil
			}))
			p.Kill()
		}
		if out, err := cli(an, "query", "G.V().Has('Name', 'stranger').Count()"); err != nil || strings.TrimSpace(out) != "0" {
			t.Errorf("%s %v", out, err)
		}
	})
	t.Run("new certificates without restart", func(t *testing.T) {
		before := script(t, an, "openssl x509 -noout -serial -in analyzer/analyzer.domain.com.crt")
		script(t, an, "chmod u+w analyzer/* agent/*; rm -r analyzer agent; mkdir analyzer agent")
		script(t, an, chapter(t, an, "certificates.sh"))
		script(t, an, "cat analyzer/analyzer.domain.com.crt agent/agent.domain.com.crt > ca.domain.com.crt")
		for _, h := range []*Host{an, h1} {
			script(t, h, fmt.Sprintf("cp -f %[1]s/*.crt %[1]s/analyzer/* %[1]s/agent/* /etc/ssl/certs", an.Dir))
		}
		need(t, Until(30*time.Second, func() error {
			out, err := an.Script("openssl s_client -connect " + addr + " </dev/null 2>/dev/null | openssl x509 -noout -serial")
			if err == nil && out == before {
				err = fmt.Errorf("the analyzer still shows the old certificate")
			}
			return err
		}))
		agent.Kill()
		agent, err = h1.Start(config+"host_id: h1\nanalyzers: ["+addr+"]\nagent: {topology: {probes: []}}\n"+quick, "agent")
		need(t, err)
		sees(15 * time.Second)
	})
	t.Run("the doctor is content", func(t *testing.T) {
		file := filepath.Join(h1.Dir, "doctor.yml")
		need(t, os.WriteFile(file, []byte(config+"host_id: h1\nanalyzers: ["+addr+"]\n"), 0o644))
		if out, err := h1.Run(l.Binary, "doctor", "--conf", file); err != nil {
			t.Errorf("%s %v", out, err)
		}
	})
}

// TestRootDocumentRBAC uploads the document's policy with the document's command and asks for every right of every user.
func TestRootDocumentRBAC(t *testing.T) {
	l := newLab(t)
	an := addHost(t, l, "an")
	p, err := an.Start(fmt.Sprintf("host_id: an\nanalyzer: {listen: 0.0.0.0:8082, auth: {api: {backend: api}}}\netcd: {data_dir: %s/etcd}\n"+
		"auth: {api: {type: basic, users: {alice: a-secret, bob: b-secret, carol: c-secret}, role: guest}}\nrbac: {policy: ['g, carol, admin']}\n", an.Dir), "analyzer")
	need(t, err)
	secrets := map[string]string{"alice": "a-secret", "bob": "b-secret", "carol": "c-secret"}
	const query, capture = `{"GremlinQuery": "G.V().Count()"}`, `{"GremlinQuery": "G.V().Has('Name', 'none%d')"}`
	asked := 0
	ask := func(user, method, path, body string) string {
		t.Helper()
		args := []string{"-u", user + ":" + secrets[user], "-X", method, "http://127.0.0.1:8082" + path}
		if body != "" {
			asked++ // there is only one capture of its kind
			args = append(args, "-H", "Content-Type: application/json", "-d", strings.ReplaceAll(body, "%d", strconv.Itoa(asked)))
		}
		status, _, err := an.curl(args...)
		if err != nil {
			return err.Error()
		}
		if status == "201" {
			return "200"
		}
		return status
	}
	need(t, Until(20*time.Second, func() error {
		if s := ask("carol", "GET", "/api/capture", ""); s != "200" {
			return p.alive(fmt.Errorf("GET /api/capture: %s", s))
		}
		return nil
	}))
	type right struct{ method, path, body string }
	rights := []right{
		{"GET", "/api/alert", ""}, {"GET", "/api/capture", ""}, {"POST", "/api/topology", query}, {"POST", "/api/capture", capture},
		{"GET", "/api/topology", ""}, {"GET", "/api/status", ""}, {"GET", "/api/workflow", ""}, {"GET", "/api/injectpacket", ""}, {"GET", "/api/config/host_id", ""},
	}
	check := func(user string, limit time.Duration, want ...string) {
		t.Helper()
		need(t, Until(limit, func() error {
			for i, r := range rights {
				if got := ask(user, r.method, r.path, r.body); got != want[i] {
					return fmt.Errorf("%s: %s %s: %s, want %s", user, r.method, r.path, got, want[i])
				}
			}
			return nil
		}))
	}
	const no, yes = "405", "200"
	check("alice", time.Second, no, no, yes, no, yes, yes, no, no, no) // a guest
	chapter(t, an, "mypolicy.csv")
	out := script(t, an, chapter(t, an, "upload.sh"))
	if !strings.Contains(out, `"action":"set"`) || !strings.Contains(out, "/casbinPolicy") {
		t.Errorf("the upload answers %s", out)
	}
	check("alice", 5*time.Second, yes, yes, yes, yes, yes, no, no, no, no)
	check("bob", time.Second, yes, yes, no, no, no, no, no, no, no)
	check("carol", time.Second, yes, yes, yes, yes, yes, yes, yes, yes, yes)

	client := func(user string, args ...string) (string, error) {
		return an.Run(append([]string{"env", "SKYDIVE_USERNAME=" + user, "SKYDIVE_PASSWORD=" + secrets[user], l.Binary, "client"}, args...)...)
	}
	t.Run("a decision is explained", func(t *testing.T) {
		out, err := client("carol", "rbac", "check", "bob", "topology", "read")
		if err != nil || !strings.Contains(out, "p, bob, topology, read, deny") {
			t.Errorf("%s %v", out, err)
		}
		if out, err := client("bob", "rbac", "policy", "get"); err == nil {
			t.Errorf("bob reads the policy: %s", out)
		}
	})
	t.Run("a broken policy changes nothing", func(t *testing.T) {
		need(t, os.WriteFile(filepath.Join(an.Dir, "broken.csv"), []byte("p, guests, alert, read, allow\np, alice, capture\n"), 0o644))
		if out, err := client("carol", "rbac", "policy", "set", filepath.Join(an.Dir, "broken.csv")); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s %v", out, err)
		}
		if out := script(t, an, "curl -sS -X PUT --data-urlencode value@broken.csv http:/localhost:12379/v2/keys/casbinPolicy"); !strings.Contains(out, "line 2") {
			t.Errorf("the upload answers %s", out)
		}
		check("alice", time.Second, yes, yes, yes, yes, yes, no, no, no, no)
	})
	t.Run("changed", func(t *testing.T) {
		need(t, os.WriteFile(filepath.Join(an.Dir, "next.csv"), []byte("p, bob, status, read, allow\n"), 0o644))
		if out, err := client("carol", "rbac", "policy", "set", filepath.Join(an.Dir, "next.csv")); err != nil {
			t.Errorf("%s %v", out, err)
		}
		check("bob", 5*time.Second, no, no, yes, no, yes, yes, no, no, no) // a guest again, by default
	})
	t.Run("deleted", func(t *testing.T) {
		script(t, an, "curl -sS -X DELETE http:/localhost:12379/v2/keys/casbinPolicy")
		check("alice", 5*time.Second, no, no, yes, no, yes, yes, no, no, no)
	})
	t.Run("after a restart", func(t *testing.T) {
		script(t, an, chapter(t, an, "upload.sh"))
		check("bob", 5*time.Second, yes, yes, no, no, no, no, no, no, no)
		p.Kill()
		p, err = an.Start(fmt.Sprintf("host_id: an\nanalyzer: {listen: 0.0.0.0:8082, auth: {api: {backend: api}}}\netcd: {data_dir: %s/etcd}\n"+
			"auth: {api: {type: basic, users: {alice: a-secret, bob: b-secret, carol: c-secret}, role: guest}}\nrbac: {policy: ['g, carol, admin']}\n", an.Dir), "analyzer")
		need(t, err)
		check("bob", 20*time.Second, yes, yes, no, no, no, no, no, no, no)
	})
}

// TestRootDocumentEnvironment sets what the chapter on environment variables sets.
func TestRootDocumentEnvironment(t *testing.T) {
	l := newLab(t)
	an := addHost(t, l, "an")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	launch := func(args ...string) {
		cmd := an.Command(ctx, append([]string{"env"}, args...)...)
		log, err := os.Create(filepath.Join(an.Dir, args[len(args)-1]+".log"))
		need(t, err)
		cmd.Stdout, cmd.Stderr = log, log
		need(t, cmd.Start())
		t.Cleanup(func() { cancel(); cmd.Wait(); log.Close() })
	}
	need(t, os.WriteFile(filepath.Join(an.Dir, "file.yml"), []byte("analyzer:\n  listen: 127.0.0.1:8082\netcd: {data_dir: "+an.Dir+"/etcd}\nui: {theme: dark}\n"), 0o644))
	launch("SKYDIVE_ANALYZER_LISTEN=127.0.0.1:9092", `SKYDIVE_UI={"theme":"light"}`, l.Binary, "--conf", filepath.Join(an.Dir, "file.yml"), "analyzer")
	launch("SKYDIVE_AGENT_TOPOLOGY_PROBES=netlink netns lldp", "SKYDIVE_ANALYZERS=127.0.0.1:9092", l.Binary, "agent")
	get := func(url, want string) {
		t.Helper()
		need(t, Until(20*time.Second, func() error {
			var text string
			err := an.Within(func() error {
				res, err := an.HTTP().Get(url)
				if err != nil {
					return err
				}
				defer res.Body.Close()
				if res.StatusCode != http.StatusOK {
					return fmt.Errorf("%s", res.Status)
				}
				body, err := io.ReadAll(res.Body)
				text = string(body)
				return err
			})
			if err == nil && !strings.Contains(text, want) {
				err = fmt.Errorf("%s: %s, want %s", url, text, want)
			}
			return err
		}))
	}
	get("http://127.0.0.1:9092/api/config/analyzer.listen", "127.0.0.1:9092")
	get("http://127.0.0.1:9092/api/config/ui.theme", `"light"`)
	get("http://127.0.0.1:8081/api/status", `"lldp"`)
	get("http://127.0.0.1:9092/api/status", `"IsConnected":true`)
}
