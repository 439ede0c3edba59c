package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestRootCommandLine walks through what an operator types.
func TestRootCommandLine(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	startAnalyzer(t, h, quick)
	startAgent(t, h, h, quick)
	agree(t, 10*time.Second, h, h)
	run := func(code int, args ...string) string {
		t.Helper()
		cmd := h.Command(t.Context(), append([]string{"env", "SKYDIVE_ANALYZER=" + h.analyzerAddr(), l.Binary}, args...)...)
		var complaint strings.Builder
		cmd.Stderr = &complaint
		out, err := cmd.Output()
		var exit *exec.ExitError
		got := 0
		if errors.As(err, &exit) {
			got = exit.ExitCode()
		} else {
			need(t, err)
		}
		if got != code {
			t.Errorf("%v: exit %d, want %d: %s%s", args, got, code, out, complaint.String())
		}
		return string(out) + complaint.String()
	}
	contains := func(text string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%q is not in\n%s", w, text)
			}
		}
	}
	contains(run(0, "client", "query", "G.V().Has('Name','lo')"), "\t\t\"ID\"", `"Name": "lo"`)
	contains(run(0, "client", "query", "G.V().Has('Name','lo').Count()", "--format", "json"), "1")
	contains(run(0, "client", "query", "G", "--format", "dot"), "digraph g {", "->")
	contains(run(1, "client", "query", "G.V().Foo()"), "400", "Foo")
	run(1, "client", "query")
	contains(run(0, "client", "status"), `"Agents"`, `"h1"`, `"IsConnected": true`)
	contains(run(0, "version"), "github.com/skydive-project/skydive")
	run(1, "nonsense")
	contains(run(1, "client", "--analyzer", "127.0.0.1:1", "status"), "connection refused", "Is an analyzer running there?")
	run(1, "client", "query", "G", "--nonsense")

	created := run(0, "client", "node", "create", "--node-name", "tor1", "--node-type", "switch", "--metadata", "Rack=r1, Pos.U=7")
	var node struct{ ID string }
	need(t, json.Unmarshal([]byte(created), &node))
	contains(run(0, "client", "node", "get", node.ID), `"Rack": "r1"`, `"tor1"`)
	contains(run(0, "client", "node", "update", node.ID, "-a", "Ports=48", "-r", "Rack"), `"Ports": 48`)
	contains(run(0, "client", "node", "update", node.ID, "-a", "Ports=48"), "Not modified")
	var host []struct{ ID string }
	need(t, json.Unmarshal([]byte(run(0, "client", "query", "G.V().Has('Type','host')")), &host))
	contains(run(0, "client", "edge", "create", "--parent", node.ID, "--child", host[0].ID, "--edge-type", "layer2"), `"RelationType": "layer2"`)
	contains(run(0, "client", "query", "G.V('"+node.ID+"').Out().Values('Name')"), `"h1"`)

	export := run(0, "client", "topology", "export")
	need(t, os.WriteFile(h.Dir+"/graph.json", []byte(export), 0o600))
	run(0, "client", "node", "delete", node.ID)
	contains(run(1, "client", "node", "get", node.ID), "404")
	run(0, "client", "topology", "import", "--file", h.Dir+"/graph.json")
	need(t, Until(5*time.Second, func() error {
		var n int
		return h.Gremlin(h.analyzerAddr(), "G.V('"+node.ID+"').Count()", &n)
	}))
	var capture struct{ UUID string }
	need(t, json.Unmarshal([]byte(run(0, "client", "capture", "create", "--gremlin", "G.V().Has('Name', 'nowhere')")), &capture))
	contains(run(0, "client", "capture", "list"), capture.UUID)
	run(0, "client", "capture", "delete", capture.UUID)
	contains(run(0, "client", "capture", "list"), "{}")
}
