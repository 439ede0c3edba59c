package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRootHealth follows the health of an agent whose analyzer comes late and goes away: it is well all the time, and ready while the
// analyzer is there. Everything asks for credentials, health does not.
func TestRootHealth(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	const closed = quick + people
	answers := func(addr, path string, status int, text string) error {
		got, body, err := h.Request("GET", addr, path, nil)
		if err == nil && (got != status || string(body) != text) {
			err = fmt.Errorf("%s%s: %d %q, want %d %q", addr, path, got, body, status, text)
		}
		return err
	}
	ask := func(args ...string) (string, error) {
		return h.Run(append([]string{"env", "SKYDIVE_ANALYZER_LISTEN=0.0.0.0:8082", l.Binary, "health"}, args...)...)
	}
	if out, err := ask(); err == nil || !strings.Contains(err.Error(), "nothing listens on 0.0.0.0:8082 nor on 127.0.0.1:8081") {
		t.Errorf("before anything runs: %q %v", out, err)
	}

	agent, err := h.Start(fmt.Sprintf("host_id: h1\nanalyzers: [%s]\nagent: {auth: {api: {backend: people}}}\n%s", h.analyzerAddr(), closed), "agent")
	need(t, err)
	need(t, Until(20*time.Second, func() error { return agent.alive(answers(agentAddr, "/healthz", 200, "ok\n")) }))
	need(t, answers(agentAddr, "/readyz", 503, "no analyzer is connected\n"))
	if out, err := ask(); err != nil || out != "ok: 127.0.0.1:8081\n" {
		t.Errorf("the agent alone: %q %v", out, err)
	}
	if out, err := ask("--ready"); err == nil || !strings.Contains(err.Error(), "no analyzer is connected") {
		t.Errorf("not ready: %q %v", out, err)
	}

	analyzer := startClosed(t, h, "api: {backend: people}", closed)
	need(t, Until(20*time.Second, func() error { return analyzer.alive(answers(h.analyzerAddr(), "/readyz", 200, "ok\n")) }))
	need(t, Until(10*time.Second, func() error { return answers(agentAddr, "/readyz", 200, "ok\n") }))
	for _, addr := range []string{agentAddr, h.analyzerAddr()} {
		if status, body, err := h.Request("GET", addr, "/api/status", nil); err != nil || status != 401 {
			t.Errorf("%s/api/status without credentials: %d %s %v", addr, status, body, err)
		}
	}
	if out, err := ask("--ready"); err != nil || out != "ok: 0.0.0.0:8082, 127.0.0.1:8081\n" {
		t.Errorf("both: %q %v", out, err)
	}

	analyzer.Kill()
	need(t, Until(10*time.Second, func() error { return answers(agentAddr, "/readyz", 503, "no analyzer is connected\n") }))
	need(t, answers(agentAddr, "/healthz", 200, "ok\n"))
	if out, err := ask("analyzer"); err == nil || !strings.Contains(err.Error(), "nothing listens on 0.0.0.0:8082") {
		t.Errorf("the analyzer is gone: %q %v", out, err)
	}
}
