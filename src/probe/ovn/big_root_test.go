package ovn

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"skydive/src/ovs/ovstest"
	"skydive/src/probe/probetest"
)

// TestRootManyPorts: 10,000 ports on 100 switches.
func TestRootManyPorts(t *testing.T) {
	s := start(t, ovstest.Namespace(t, "ovh-many"), nbSchema)
	for sw := range 100 { // ovn-nbctl looks at all that is there, each time
		var operations, names []string
		for port := range 100 {
			name := fmt.Sprintf("p%d-%d", sw, port)
			names = append(names, fmt.Sprintf(`["named-uuid","u%d"]`, port))
			operations = append(operations, fmt.Sprintf(`{"op":"insert","table":"Logical_Switch_Port","uuid-name":"u%d","row":{"name":"%s","addresses":"00:00:00:00:00:01 10.0.0.11"}}`, port, name))
		}
		s.transact(append(operations, fmt.Sprintf(`{"op":"insert","table":"Logical_Switch","row":{"name":"sw%d","ports":["set",[%s]]}}`, sw, strings.Join(names, ",")))...)
	}
	h := host(t)
	run(t, h, Config{Address: s.DB})
	complete := func() bool {
		return len(h.Find("Type", "LogicalSwitchPort")) == 10000 && len(h.Find("Type", "LogicalSwitch")) == 100
	}
	t.Logf("all is shown after %v", probetest.Eventually(t, 10*time.Second, "all", complete))
	s.ctl("lsp-add", "sw5", "new")
	t.Logf("a new port after %v", probetest.Eventually(t, 2*time.Second, "one more", func() bool { return one(h, "LogicalSwitchPort", "new") != nil }))
	s.ctl("ls-del", "sw7")
	t.Logf("a switch is gone with its ports after %v", probetest.Eventually(t, 2*time.Second, "fewer", func() bool {
		return len(h.Find("Type", "LogicalSwitchPort")) == 9901
	}))
}
