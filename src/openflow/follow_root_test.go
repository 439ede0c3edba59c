package openflow

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skydive/src/ovs/ovstest"
)

// TestRootFollows looks at rules as they come, change and go, in each version that has a monitor.
func TestRootFollows(t *testing.T) {
	s := ovstest.Start(t, ovstest.Namespace(t, "ovb-follow"))
	for _, v := range []Version{Version10, Version13, Version14, Version15} {
		t.Run(v.String(), func(t *testing.T) {
			bridge := fmt.Sprintf("b%d", v)
			s.Bridge(t, bridge)
			s.Ofctl(t, "del-flows", s.Mgmt(bridge))
			// With counters read this seldom, only the monitor can tell what happens.
			r := follow(t, Options{Address: s.Mgmt(bridge), Versions: []Version{v}, Poll: time.Hour})
			<-r.connected
			expect := func(want ...string) {
				t.Helper()
				r.until(strings.Join(want, " and "), func() bool { return strings.Join(r.list(), "|") == strings.Join(want, "|") })
			}
			s.Ofctl(t, "-OOpenFlow13", "add-flow", s.Mgmt(bridge), "priority=7,tcp,tp_dst=80,idle_timeout=99,actions=output:1")
			expect("idle_timeout=99,priority=7,tcp,tp_dst=80 actions=output:1")
			s.Ofctl(t, "-OOpenFlow13", "mod-flows", s.Mgmt(bridge), "tcp,tp_dst=80,actions=output:2")
			expect("idle_timeout=99,priority=7,tcp,tp_dst=80 actions=output:2")
			s.Ofctl(t, "-OOpenFlow13", "add-flow", s.Mgmt(bridge), "cookie=0x5,priority=7,tcp,tp_dst=80,actions=drop")
			expect("cookie=0x5,priority=7,tcp,tp_dst=80 actions=drop")
			s.Ofctl(t, "-OOpenFlow13", "del-flows", s.Mgmt(bridge), "tcp")
			expect()
			// A thousand at once, and gone at once.
			s.Ofctl(t, "add-flows", s.Mgmt(bridge), manyRules(t, 1000))
			r.until("1000 rules", func() bool { return len(r.rules) == 1000 })
			s.Ofctl(t, "del-flows", s.Mgmt(bridge))
			r.until("no rules", func() bool { return len(r.rules) == 0 })
		})
	}
}

// manyRules writes a file of rules for ovs-ofctl add-flows.
func manyRules(t testing.TB, n int) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "table=%d,priority=%d,cookie=0x%x,tcp,in_port=%d,nw_src=10.%d.%d.0/24,tp_dst=%d,"+
			"actions=load:0x%x->NXM_NX_REG0[],resubmit(,%d),output:%d\n", i%10, 100+i%50, i, i%200+1, i/256, i%256, i%60000+1, i, i%10+11, i%200+1)
	}
	path := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRootReconnects ends the switch, starts it again with other rules, and expects just those.
func TestRootReconnects(t *testing.T) {
	s := ovstest.Start(t, ovstest.Namespace(t, "ovb-again"))
	s.Bridge(t, "br0")
	s.Ofctl(t, "del-flows", s.Mgmt("br0"))
	s.Ofctl(t, "add-flow", s.Mgmt("br0"), "priority=1,in_port=1,actions=drop")
	r := follow(t, Options{Address: s.Mgmt("br0"), Versions: []Version{Version10, Version14}})
	if v := <-r.connected; v != Version14 {
		t.Errorf("speaks %v", v)
	}
	r.until("one rule", func() bool { return len(r.rules) == 1 })
	s.KillSwitch(t)
	if err := <-r.lost; err == nil {
		t.Error("no reason")
	}
	s.StartSwitch(t)
	<-r.connected
	r.until("the rule of a new bridge", func() bool { return strings.Join(r.list(), "|") == "priority=0 actions=NORMAL" })
}

// TestRootVersions looks at what is spoken with bridges that allow some versions only.
func TestRootVersions(t *testing.T) {
	s := ovstest.Start(t, ovstest.Namespace(t, "ovb-vers"))
	s.Bridge(t, "br0")
	all := []Version{Version10, Version11, Version12, Version13, Version14, Version15}
	for _, c := range []struct {
		allowed string
		want    Version
	}{
		{"[]", Version15}, {"OpenFlow10", Version10}, {"OpenFlow11", Version11}, {"OpenFlow12", Version12},
		{"[OpenFlow10,OpenFlow12]", Version10}, {"[OpenFlow11,OpenFlow12]", Version12}, {"[OpenFlow10,OpenFlow13]", Version13},
	} {
		s.Vsctl(t, "set", "bridge", "br0", "protocols="+c.allowed)
		r := follow(t, Options{Address: s.Mgmt("br0"), Versions: all})
		if v := <-r.connected; v != c.want {
			t.Errorf("allowed %s: speaks %v, want %v", c.allowed, v, c.want)
		}
		r.until("the first rule", func() bool { return len(r.rules) == 1 })
	}
	s.Vsctl(t, "set", "bridge", "br0", "protocols=OpenFlow12")
	r := follow(t, Options{Address: s.Mgmt("br0"), Versions: []Version{Version14}})
	if err := <-r.lost; !strings.Contains(err.Error(), "no version in common") {
		t.Errorf("reason: %v", err)
	}
}
