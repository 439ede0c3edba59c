package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// quick makes dead connections be noticed in two seconds instead of seven.
const quick = "http: {ws: {ping_delay: 1, pong_timeout: 1}}\n"

func need(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newLab(t testing.TB) *Lab {
	t.Helper()
	l, err := NewLab()
	if err != nil {
		if os.Getenv("SKYDIVE_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range l.hosts {
				for _, p := range h.processes {
					t.Logf("--- %s of %s:\n%s", p.Name, h.Name, tail(p.Output(), 40))
				}
			}
		}
		l.Close()
	})
	return l
}

func tail(text string, lines int) string {
	all := strings.Split(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func addHost(t testing.TB, l *Lab, name string) *Host {
	t.Helper()
	h, err := l.AddHost(name)
	need(t, err)
	return h
}

func (h *Host) analyzerAddr() string { return h.IP + ":8082" }

const agentAddr = "127.0.0.1:8081"

func startAnalyzer(t testing.TB, h *Host, extra string) *Process {
	t.Helper()
	p, err := h.Start(fmt.Sprintf("host_id: %s\nanalyzer: {listen: 0.0.0.0:8082}\netcd: {data_dir: %s/etcd}\n%s", h.Name, h.Dir, extra), "analyzer")
	need(t, err)
	need(t, Until(20*time.Second, func() error { return p.alive(h.get(h.analyzerAddr(), "/api")) }))
	return p
}

func startAgent(t testing.TB, h, analyzer *Host, extra string) *Process {
	t.Helper()
	p, err := h.Start(fmt.Sprintf("host_id: %s\nanalyzers: [%s]\nagent: {topology: {probes: []}}\n%s", h.Name, analyzer.analyzerAddr(), extra), "agent")
	need(t, err)
	need(t, Until(20*time.Second, func() error { return p.alive(h.get(agentAddr, "/api")) }))
	return p
}

// alive turns the end of the process into the error, since nothing will answer any more.
func (p *Process) alive(err error) error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended (%v): %s", p.Name, p.err, tail(p.Output(), 10))
	default:
		return err
	}
}

func (h *Host) get(addr, path string) error {
	status, text, err := h.Request("GET", addr, path, nil)
	if err == nil && status != 200 {
		err = fmt.Errorf("GET %s: %d %s", path, status, text)
	}
	return err
}

// script runs shell lines on a host.
func script(t testing.TB, h *Host, lines string) string {
	t.Helper()
	out, err := h.Script(lines)
	need(t, err)
	return out
}

// agree waits until the graph of the analyzer shows the interfaces of each host as their kernels do.
func agree(t testing.TB, limit time.Duration, analyzer *Host, hosts ...*Host) {
	t.Helper()
	for _, h := range hosts {
		need(t, Until(limit, func() error { return h.Agree(analyzer, analyzer.analyzerAddr()) }))
	}
}

// count asks for a number.
func count(t testing.TB, h *Host, addr, query string) int {
	t.Helper()
	var n int
	need(t, h.Gremlin(addr, query, &n))
	return n
}
