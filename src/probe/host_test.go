package probe

import (
	"slices"
	"testing"

	"skydive/src/graph"
)

func TestAddHost(t *testing.T) {
	g := graph.New(graph.Options{})
	id, err := AddHost(g, HostNode{ID: "h", Hostname: "real", Origin: "agent.h", Metadata: map[string]any{"rack.row": 3, "note": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	n := g.Snapshot().Node(id)
	row, _ := n.Metadata.Int("rack.row")
	if n.Host != "h" || n.Origin != "agent.h" || n.Revision != 1 || row != 3 || n.Metadata.Text("Name") != "h" ||
		n.Metadata.Text("Hostname") != "real" || n.Metadata.Text("Type") != "host" || n.Metadata.Text("TID") != graph.GenID("h") {
		t.Errorf("%+v", n)
	}
	if _, err := AddHost(g, HostNode{ID: "h", Metadata: map[string]any{"Name.x": 1}}); err == nil {
		t.Error("a key below a scalar was taken")
	}
}

func TestMissingCapabilities(t *testing.T) {
	for _, tc := range []struct {
		status string
		want   []string
	}{
		{"Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n", nil},
		{"CapEff:\t0000000000003000\n", []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}},
		{"CapEff:\t0000000000000000\n", []string{"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}},
		{"", nil},
	} {
		if got := missing(tc.status); !slices.Equal(got, tc.want) {
			t.Errorf("%q: %v", tc.status, got)
		}
	}
}
