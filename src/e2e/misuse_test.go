package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRootStartupErrorsSayWhatToDo(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	fails := func(name, config, command string, want ...string) {
		t.Helper()
		p, err := h.Start(config, command)
		need(t, err)
		if err := p.Wait(10 * time.Second); err == nil || !strings.Contains(err.Error(), "exit status 1") {
			t.Errorf("%s: %v, want exit status 1\n%s", name, err, p.Output())
		}
		for _, w := range want {
			if !strings.Contains(p.Output(), w) {
				t.Errorf("%s: %q is not in\n%s", name, w, p.Output())
			}
		}
	}
	fails("broken YAML", "analyzer:\n  listen: [\n", "analyzer", ".yml:2:11")
	fails("wrong type", "flow:\n  expire: soon\n", "analyzer", ".yml:2:11", "flow.expire")
	fails("TLS is not silently left out", "tls: {server_cert: /x, server_key: /y}\n", "analyzer", "tls")
	fails("Keystone is not silently left out", "analyzer: {auth: {cluster: {backend: keystone}}}\n", "analyzer", "keystone")

	first := startAnalyzer(t, h, "")
	fails("port in use", fmt.Sprintf("etcd: {data_dir: %s/other, listen: 127.0.0.1:22379}\n", h.Dir), "analyzer", "127.0.0.1:8082", fmt.Sprint("skydive"))
	first.Kill()

	file := filepath.Join(h.Dir, "not-a-directory")
	need(t, os.WriteFile(file, nil, 0o600))
	p, err := h.Start(fmt.Sprintf("etcd: {data_dir: %s/etcd}\n", file), "analyzer")
	need(t, err)
	if err := p.Wait(15 * time.Second); err == nil || !strings.Contains(p.Output(), file) {
		t.Errorf("data directory that cannot be made: %v\n%s", err, p.Output())
	}
}

func TestRootGremlinErrorsAreAnswered(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	startAnalyzer(t, h, "")
	for query, want := range map[string]string{
		"V()":               "expected `G`",
		"G.V().Foo()":       "Expected step function, got: Foo",
		"G.V(":              "offset 4",
		"G.V().Limit('x')":  "",
		"G.At('soon').V()":  "Time must be in",
		"G.V('nobody')":     "does not exist",
		"G.V().Has(":        "",
		"G.V().Range(1,":    "",
		"G.V().Has('a',-1)": "-",
	} {
		status, text, err := h.Request("POST", h.analyzerAddr(), "/api/topology", map[string]string{"GremlinQuery": query})
		if err != nil || status != 400 || !strings.Contains(string(text), want) {
			t.Errorf("%s: %d %q %v, want 400 with %q", query, status, text, err, want)
		}
	}
}

// TestRootBadClientsHurtNobody connects clients that send rubbish, flood or never read, and checks that a good one goes on.
func TestRootBadClientsHurtNobody(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	analyzer := startAnalyzer(t, h, quick)
	upgrade := func(path, id string) (net.Conn, *bufio.Reader) {
		t.Helper()
		c, err := h.Dial(context.Background(), "tcp", h.analyzerAddr())
		need(t, err)
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Host-ID: %s\r\nX-Client-Type: test\r\n\r\n", path, id)
		r := bufio.NewReader(c)
		line, err := r.ReadString('\n')
		need(t, err)
		if !strings.Contains(line, "101") {
			t.Fatalf("%s: %s", path, line)
		}
		return c, r
	}
	rubbish, answers := upgrade("/ws/publisher", "rubbish")
	rubbish.Write([]byte(strings.Repeat("\xff\x00garbage", 1000)))
	flood, _ := upgrade("/ws/publisher", "flood")
	go func() {
		frame := append([]byte{0x81, 0xfe, 0x03, 0xe8, 0, 0, 0, 0}, strings.Repeat("x", 1000)...)
		for { // until the test ends and closes the connection
			if _, err := flood.Write(frame); err != nil {
				return
			}
		}
	}()
	upgrade("/ws/subscriber", "stalled") // never reads again

	if _, err := io.Copy(io.Discard, answers); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the rubbish client must be dropped: %v", err)
	}
	before, err := analyzer.Usage()
	need(t, err)
	for i := range 200 {
		body := map[string]any{"ID": fmt.Sprint("n", i), "Metadata": map[string]any{"Type": "device", "Name": fmt.Sprint("dev", i), "Padding": strings.Repeat("p", 10000)}}
		start := time.Now()
		status, text, err := h.Request("POST", h.analyzerAddr(), "/api/node", body)
		if err != nil || status != 201 {
			t.Fatalf("node %d: %d %s %v", i, status, text, err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Fatalf("a request took %s while others misbehave", d)
		}
	}
	if n := count(t, h, h.analyzerAddr(), "G.V().Has('Type','device').Count()"); n != 200 {
		t.Errorf("%d nodes, want 200", n)
	}
	after, err := analyzer.Usage()
	need(t, err)
	if grown := after.RSS - before.RSS; grown > 200<<20 {
		t.Errorf("the analyzer grew by %d MiB", grown>>20)
	}
	need(t, Until(10*time.Second, func() error { // the stalled one is evicted
		status, err := h.Status(h.analyzerAddr())
		if err != nil {
			return err
		}
		if s, _ := status["Subscribers"].(map[string]any); s["stalled"] != nil {
			return fmt.Errorf("still there: %v", s["stalled"])
		}
		return nil
	}))
}

// TestRootUnprivilegedAllInOne runs as nobody, without a file: it shows what it may see and says what it lacks.
func TestRootUnprivilegedAllInOne(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	script(t, h, "mkdir -m 777 home; mkdir -p bin; cp "+l.Binary+" bin/skydive; chmod 755 . bin bin/skydive ..")
	need(t, os.Chmod(l.Dir, 0o755))
	cmd := h.Command(context.Background(), "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set=-all",
		"env", "-i", "HOME="+h.Dir+"/home", "PATH=/usr/bin:/bin", h.Dir+"/bin/skydive", "allinone")
	out, err := os.Create(h.Dir + "/allinone.log")
	need(t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	need(t, cmd.Start())
	p := &Process{Name: "allinone", Log: out.Name(), cmd: cmd, done: make(chan struct{})}
	h.processes = append(h.processes, p)
	go func() { p.err = cmd.Wait(); close(p.done) }()
	need(t, Until(20*time.Second, func() error {
		var n int
		err := h.Gremlin("127.0.0.1:8082", "G.V().Has('Name','lo').Count()", &n)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d interfaces lo", n)
		}
		return p.alive(err)
	}))
	need(t, Until(10*time.Second, func() error {
		status, text, err := h.Request("GET", agentAddr, "/api/status", nil)
		if err == nil && (status != 200 || !strings.Contains(string(text), "CAP_SYS_PTRACE")) {
			err = fmt.Errorf("the status does not say what is lacking: %d %s", status, text)
		}
		return err
	}))
	var lacking []any
	need(t, h.Gremlin("127.0.0.1:8082", "G.V().Has('Type','host').Values('MissingCapabilities')", &lacking))
	if len(lacking) == 0 {
		t.Error("the host node does not say what is lacking")
	}
}
