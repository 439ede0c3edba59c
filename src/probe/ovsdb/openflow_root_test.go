package ovsdb

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
)

func withRules(c *Config) { c.Openflow.Enable = true }

// rule returns the only rule of a bridge with a name.
func (l *lab) rule(bridge, name string) *graph.Node {
	n := l.one("Type", "ofrule", "Name", name)
	if n == nil || l.owner(n) == nil || l.owner(n).Metadata.Text("Name") != bridge {
		return nil
	}
	return n
}

func TestRootOpenflow(t *testing.T) {
	l := newLab(t, "ovb-rules")
	l.Bridge(t, "br0", "br1")
	for _, b := range []string{"br0", "br1"} {
		l.Ofctl(t, "del-flows", l.Mgmt(b))
	}
	add := func(bridge, rule string) { l.Ofctl(t, "-OOpenFlow13", "add-flow", l.Mgmt(bridge), rule) }
	add("br0", "table=2,priority=7,cookie=0xfedcba9876543210,idle_timeout=60,tcp,nw_src=10.0.0.0/8,tp_dst=80,actions=set_field:1.2.3.4->ip_dst,output:1,goto_table:3")
	add("br0", "priority=1,actions=drop")
	l.Ofctl(t, "-OOpenFlow13", "add-group", l.Mgmt("br0"), "group_id=5,type=select,bucket=weight:3,actions=output:1")
	stop := l.start(withRules)

	const name = "table=2,priority=7,tcp,nw_src=10.0.0.0/8,tp_dst=80"
	l.eventually("a rule", func() bool { return l.rule("br0", name) != nil })
	n := l.rule("br0", name)
	for path, want := range map[string]field.Value{
		"Cookie": "0xfedcba9876543210", "Table": int64(2), "Priority": int64(7), "IdleTimeout": int64(60), "HardTimeout": int64(0),
		"GotoTable":               int64(3),
		"Filters.Type":            field.List{"dl_type", "nw_src", "nw_proto", "tp_dst"},
		"Filters.Value":           field.List{int64(0x800), "10.0.0.0", int64(6), int64(80)},
		"Filters.Mask":            field.List{"8"},
		"Actions.Type":            field.List{"set_field", "output"},
		"Actions.Arguments.Field": field.List{"ip_dst"},
		"Actions.Arguments.Port":  field.List{int64(1)},
	} {
		if got := value(n, path); !field.Equal(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	if n.Metadata.Text("TID") == "" || n.Host != l.Env.Host || n.Origin != l.Env.Origin {
		t.Errorf("TID %q, host %q, origin %q", n.Metadata.Text("TID"), n.Host, n.Origin)
	}
	l.eventually("a rule that drops", func() bool {
		return field.Equal(value(l.rule("br0", "table=0,priority=1"), "Actions.Type"), field.List{"drop"})
	})
	l.eventually("a group", func() bool {
		g := l.one("Type", "ofgroup", "Name", "group_id=5")
		return g != nil && g.Metadata.Text("GroupType") == "select" && field.Equal(value(g, "Buckets.Weight"), field.List{int64(3)})
	})
	l.eventually("how the bridge is spoken to", func() bool {
		return value(l.one("Type", "ovsbridge", "Name", "br0"), "OpenFlow.Version") == "OpenFlow14"
	})

	// The same rule on another bridge is another node; it goes with its bridge.
	add("br1", "priority=1,actions=drop")
	l.eventually("two rules that read alike", func() bool { return len(l.Find("Type", "ofrule", "Name", "table=0,priority=1")) == 2 })
	l.vsctl("del-br br1")
	l.eventually("one of them", func() bool { return len(l.Find("Type", "ofrule", "Name", "table=0,priority=1")) == 1 })

	// A rule whose actions change stays the node that it was; with another cookie it is another.
	l.Ofctl(t, "-OOpenFlow13", "mod-flows", l.Mgmt("br0"), "table=2,tcp,actions=output:4")
	l.eventually("other actions", func() bool {
		n := l.rule("br0", name)
		return field.Equal(value(n, "Actions.Arguments.Port"), field.List{int64(4)}) && value(n, "GotoTable") == nil
	})
	if l.rule("br0", name).ID != n.ID {
		t.Error("a rule with other actions is another node")
	}
	add("br0", "table=2,priority=7,cookie=0x1,tcp,nw_src=10.0.0.0/8,tp_dst=80,actions=drop")
	l.eventually("another cookie", func() bool {
		n := l.rule("br0", name)
		return n != nil && n.Metadata.Text("Cookie") == "0x1"
	})
	if l.rule("br0", name).ID == n.ID {
		t.Error("a rule with another cookie is the same node")
	}
	l.Ofctl(t, "-OOpenFlow13", "del-groups", l.Mgmt("br0"))
	l.eventually("no group", func() bool { return len(l.Find("Type", "ofgroup")) == 0 })

	// A bridge that refuses says why; its rules go, and come back.
	l.vsctl("set bridge br0 protocols=OpenFlow15")
	l.eventually("a reason", func() bool {
		return strings.Contains(fmt.Sprint(value(l.one("Type", "ovsbridge", "Name", "br0"), "OpenFlow.Error")), "no version in common")
	})
	l.eventually("no rules", func() bool { return len(l.Find("Type", "ofrule")) == 0 })
	l.vsctl("set bridge br0 protocols=OpenFlow13")
	l.eventually("the rules again", func() bool { return l.rule("br0", name) != nil })
	stop()
}

// TestRootOpenflowCounters sends packets through a rule; rules that count nothing are not revised.
func TestRootOpenflowCounters(t *testing.T) {
	l := newLab(t, "ovb-count")
	l.Bridge(t, "br0")
	l.Ofctl(t, "del-flows", l.Mgmt("br0"))
	l.Ofctl(t, "add-flow", l.Mgmt("br0"), "priority=1,arp,actions=drop")
	l.Ofctl(t, "add-flow", l.Mgmt("br0"), "priority=1,in_port=LOCAL,ip,actions=drop")
	l.start(withRules, func(c *Config) { c.Openflow.Poll = 100 * time.Millisecond })
	const counting, idle = "table=0,priority=1,ip,in_port=LOCAL", "table=0,priority=1,arp"
	l.eventually("rules", func() bool { return l.rule("br0", counting) != nil && l.rule("br0", idle) != nil })
	before := l.rule("br0", idle).Revision
	frame := "ffffffffffff0000000000010800" + strings.Repeat("00", 46)
	send := func(packets int64) {
		for range packets {
			l.Ofctl(t, "packet-out", l.Mgmt("br0"), "in_port=LOCAL packet="+frame+" actions=table")
		}
	}
	sum := func(path string) int64 { n, _ := value(l.rule("br0", counting), path).(int64); return n }
	send(3)
	l.eventually("3 packets", func() bool { return sum("Metric.RxPackets") == 3 && sum("Metric.RxBytes") == 180 })
	send(2)
	l.eventually("2 more", func() bool {
		return sum("Metric.RxPackets") == 5 && sum("LastUpdateMetric.RxPackets") >= 1 && sum("LastUpdateMetric.Start") > 0
	})
	polls := time.NewTimer(500 * time.Millisecond)
	revision := l.rule("br0", counting).Revision
	<-polls.C
	if got := l.rule("br0", counting).Revision; got != revision {
		t.Errorf("revised %d times though nothing changed", got-revision)
	}
	if got := l.rule("br0", idle).Revision; got != before {
		t.Errorf("a rule without packets was revised %d times", got-before)
	}
}

// TestRootTenThousandRules finds, loses and follows them; how long that takes and what memory it needs is told, and judged by O2 of the benchmarks.
func TestRootTenThousandRules(t *testing.T) {
	const count = 10_000
	l := newLab(t, "ovb-many")
	l.Bridge(t, "br0")
	l.Ofctl(t, "del-flows", l.Mgmt("br0"))
	var b strings.Builder
	for i := range count {
		fmt.Fprintf(&b, "table=%d,priority=%d,cookie=0x%x,tcp,in_port=%d,nw_src=10.%d.%d.0/24,tp_dst=%d,"+
			"actions=load:0x%x->NXM_NX_REG0[],resubmit(,%d),output:%d\n", i%10, 100+i%50, i, i%200+1, i/256, i%256, i%60000+1, i, i%10+11, i%200+1)
	}
	path := filepath.Join(l.Dir, "rules")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Ofctl(t, "add-flows", l.Mgmt("br0"), path)
	debug.FreeOSMemory()
	before, began := resident(t), time.Now()
	l.start(withRules)
	all := func() bool { return len(l.Find("Type", "ofrule")) == count }
	l.eventually("all rules", all)
	took := time.Since(began)
	// Gone, and added while they are followed.
	began = time.Now()
	l.Ofctl(t, "del-flows", l.Mgmt("br0"))
	l.eventually("no rules", func() bool { return len(l.Find("Type", "ofrule")) == 0 })
	gone := time.Since(began)
	l.Ofctl(t, "add-flows", l.Mgmt("br0"), path)
	began = time.Now()
	l.eventually("all rules again", all)
	again := time.Since(began)
	after := resident(t)
	t.Logf("%d rules in %v; gone in %v; added live, %v after ovs-ofctl returned; resident %d MB, %d MB before", count, took, gone, again,
		after>>20, before>>20)
	n := l.Find("Type", "ofrule")[0]
	if edge := l.Graph.Snapshot().Edge(graph.LinkID(l.owner(n).ID, n.ID, probe.Ownership)); edge == nil {
		t.Error("no edge from the bridge")
	}
}

func resident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}
