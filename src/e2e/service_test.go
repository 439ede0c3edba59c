package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRootTwoAnalyzers starts an agent before its two analyzers, and ends the one that it reports to, again and again.
func TestRootTwoAnalyzers(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	analyzers := []*Host{addHost(t, l, "a1"), addHost(t, l, "a2")}
	agent, err := h.Start(fmt.Sprintf("host_id: h1\nanalyzers: [%s, %s]\nagent: {topology: {probes: []}}\n%s", analyzers[0].analyzerAddr(), analyzers[1].analyzerAddr(), quick), "agent")
	need(t, err)
	links := func() map[string]any {
		s, err := h.Status(agentAddr)
		if err != nil {
			return nil
		}
		m, _ := s["Analyzers"].(map[string]any)
		return m
	}
	need(t, Until(10*time.Second, func() error {
		for _, a := range analyzers {
			s, _ := links()[a.analyzerAddr()].(map[string]any)
			if reason, _ := s["Reason"].(string); !strings.Contains(reason, "connection refused") {
				return agent.alive(fmt.Errorf("%v", s))
			}
		}
		return nil
	}))
	processes := []*Process{startAnalyzer(t, analyzers[0], quick), startAnalyzer(t, analyzers[1], quick)}
	for round := range 4 {
		master := -1
		need(t, Until(10*time.Second, func() error {
			all := links()
			for i, a := range analyzers {
				s, _ := all[a.Name].(map[string]any)
				if s["IsConnected"] != true {
					return fmt.Errorf("not connected to both: %v", all)
				}
				if s["IsMaster"] == true {
					master = i
				}
			}
			if master < 0 {
				return fmt.Errorf("no master: %v", all)
			}
			return nil
		}))
		agree(t, 5*time.Second, analyzers[master], h)
		if round%2 == 0 {
			processes[master].Kill()
		} else {
			need(t, processes[master].Signal(syscall.SIGTERM))
			need(t, processes[master].Wait(2*time.Second))
		}
		script(t, h, fmt.Sprintf("ip link add round%d type veth peer name peer%d", round, round))
		agree(t, 5*time.Second, analyzers[1-master], h)
		processes[master] = startAnalyzer(t, analyzers[master], quick)
	}
}

// TestRootConnectionsLeaveNothing connects and disconnects in every way, and holds a thousand idle connections meanwhile.
func TestRootConnectionsLeaveNothing(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	startAnalyzer(t, h, quick)
	need(t, Until(10*time.Second, func() error { return h.get(h.analyzerAddr(), "/api/capture") })) // etcd is up, too
	gauge := func(name string) int {
		status, text, err := h.Request("GET", h.analyzerAddr(), "/metrics", nil)
		need(t, err)
		m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
		if status != 200 || m == nil {
			t.Fatalf("%s: %d %s", name, status, text)
		}
		n, err := strconv.ParseFloat(string(m[1]), 64)
		need(t, err)
		return int(n)
	}
	limit := func(name string) func(int) error {
		before := gauge(name)
		return func(more int) error {
			if n := gauge(name); n > before+more {
				return fmt.Errorf("%s is %d, was %d", name, n, before)
			}
			return nil
		}
	}
	goroutines, files := limit("go_goroutines"), limit("process_open_fds")
	var idle []interface{ Close() error }
	for range 1000 {
		c, err := h.Dial(t.Context(), "tcp", h.analyzerAddr())
		need(t, err)
		idle = append(idle, c)
	}
	for i := range 70 {
		for _, path := range []string{"/ws/agent/topology", "/ws/publisher", "/ws/subscriber"} {
			header := http.Header{"X-Host-ID": {fmt.Sprint("h", i%5)}, "X-Client-Type": {"agent"}, "X-Persistence-Policy": {"DeleteOnDisconnect"}}
			if i%4 == 1 {
				header.Set("X-Gremlin-Filter", "G.V().Has('Name','x').SubGraph()")
			}
			if i%10 == 9 {
				header.Set("X-Client-Protocol", "smoke signals")
			}
			s, answer, text := h.connect(t, h.analyzerAddr(), path, header)
			if s == nil {
				t.Fatalf("%s: %d %s", path, answer.StatusCode, text)
			}
			if i%10 == 9 {
				<-s.closed
				continue
			}
			s.send("SyncRequest", map[string]any{})
			s.send("NodeAdded", map[string]any{"ID": fmt.Sprint(path, i), "Host": fmt.Sprint("h", i%5), "Origin": fmt.Sprint("agent.h", i%5), "Metadata": map[string]any{"Name": "x", "Type": "device"}})
			if i%3 == 0 {
				need(t, s.conn.Close())
			} else {
				s.leave()
			}
		}
	}
	need(t, Until(5*time.Second, func() error { // a question is answered while they are there
		var n int
		err := h.Gremlin(h.analyzerAddr(), "G.V().Count()", &n)
		if err == nil && n != 0 {
			err = fmt.Errorf("%d nodes of peers that have gone", n)
		}
		return err
	}))
	for _, c := range idle {
		c.Close()
	}
	need(t, Until(10*time.Second, func() error { // the analyzer's own may have grown a little since its start; connections were 1210
		if err := goroutines(15); err != nil {
			return err
		}
		return files(15)
	}))
}

// TestRootWithoutPings keeps a connection that says nothing for longer than a ping would have been waited for.
func TestRootWithoutPings(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	startAnalyzer(t, h, "http: {ws: {ping_delay: 0, pong_timeout: 1}}\n")
	startAgent(t, h, h, "http: {ws: {ping_delay: 0, pong_timeout: 1}}\n")
	agree(t, 10*time.Second, h, h)
	connected := func() any {
		s, err := h.Status(h.analyzerAddr())
		need(t, err)
		a, _ := s["Agents"].(map[string]any)["h1"].(map[string]any)
		return a["ConnectTime"]
	}
	since := connected()
	silent, err := h.Dial(t.Context(), "tcp", h.analyzerAddr())
	need(t, err)
	defer silent.Close()
	fmt.Fprint(silent, "GET /ws/subscriber HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Host-ID: silent\r\nX-Client-Type: test\r\nX-Websocket-Namespace: none\r\n\r\n")
	need(t, silent.SetReadDeadline(time.Now().Add(3*time.Second)))
	var got []byte
	for buf := make([]byte, 4096); err == nil; { // until the deadline
		var n int
		n, err = silent.Read(buf)
		got = append(got, buf[:n]...)
	}
	if !os.IsTimeout(err) {
		t.Errorf("%v: the server has closed the connection", err)
	}
	if !strings.HasPrefix(string(got), "HTTP/1.1 101") || !strings.HasSuffix(string(got), "\r\n\r\n") {
		t.Errorf("want nothing but the handshake: %q", got)
	}
	if now := connected(); since == nil || now != since {
		t.Errorf("the agent has reconnected: %v, %v", since, now)
	}
}

// TestRootHangup sends what logrotate sends, and what a terminal sends that is closed.
func TestRootHangup(t *testing.T) {
	// Whoever runs the tests may have had the signal ignored, and so would what they start; a signal that is handled here is not.
	handled := make(chan os.Signal, 1)
	signal.Notify(handled, syscall.SIGHUP)
	defer signal.Stop(handled)
	l := newLab(t)
	h := addHost(t, l, "h1")
	log := filepath.Join(h.Dir, "skydive.log")
	analyzer := startAnalyzer(t, h, fmt.Sprintf("logging: {backends: [file], encoder: json, file: {path: %s}}\n", log))
	need(t, os.Rename(log, log+".1"))
	need(t, analyzer.Signal(syscall.SIGHUP))
	need(t, Until(5*time.Second, func() error { _, err := os.Stat(log); return err }))
	startAgent(t, h, h, quick)
	need(t, Until(5*time.Second, func() error {
		if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), `"msg":"WebSocket peer connected"`) {
			return analyzer.alive(fmt.Errorf("%v %s", err, text))
		}
		return nil
	}))
	agent := h.processes[1]
	need(t, agent.Signal(syscall.SIGHUP))
	if err := agent.Wait(2 * time.Second); err != nil {
		t.Errorf("without a log file SIGHUP ends the service cleanly: %v", err)
	}
}

// TestRootNotesDoNotHideTheKernel changes a node of the agent through the API; what the kernel does to it afterwards must show all the same.
func TestRootNotesDoNotHideTheKernel(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	startAnalyzer(t, h, quick)
	startAgent(t, h, h, quick)
	script(t, h, "ip link add noted type veth peer name other")
	agree(t, 10*time.Second, h, h)
	var nodes []Element
	need(t, h.Gremlin(h.analyzerAddr(), "G.V().Has('Name','noted')", &nodes))
	for i := range 5 {
		status, text, err := h.Request("PATCH", h.analyzerAddr(), "/api/node/"+nodes[0].ID, []any{map[string]any{"op": "add", "path": fmt.Sprint("/Metadata/Note", i), "value": "x"}})
		if err != nil || status != 200 {
			t.Fatalf("%d %s %v", status, text, err)
		}
	}
	script(t, h, "ip link set noted mtu 1300; ip link set noted up; ip addr add 192.0.2.1/24 dev noted")
	agree(t, 5*time.Second, h, h)
	if n := count(t, h, h.analyzerAddr(), "G.V().Has('Name','noted','MTU',1300,'Note4','x').Count()"); n != 1 {
		t.Error("the note is lost")
	}
}
