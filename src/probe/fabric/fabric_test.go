package fabric

import (
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
	"skydive/src/probe/probetest"
)

// host is a graph as an analyzer has it; the node of probetest's host stands for what an agent reports.
func host(t *testing.T) *probetest.Host {
	h := probetest.NewHost(t)
	h.Env.Host, h.Env.Origin, h.Env.Root = "", "probe.fabric", ""
	return h
}

func run(t *testing.T, h *probetest.Host, rules ...string) (stop func()) {
	t.Helper()
	p, err := New(h.Env, Config{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	stop = h.Run(t, p)
	probetest.Eventually(t, 5*time.Second, "runs", func() bool { ok, _ := h.Running(); return ok })
	return stop
}

func update(t *testing.T, h *probetest.Host, fn func(tx *graph.Tx) error) {
	t.Helper()
	if err := h.Graph.Update("", fn); err != nil {
		t.Fatal(err)
	}
}

// reported adds a node as an agent reports it, below another or on its own, and returns its ID.
func reported(t *testing.T, h *probetest.Host, owner string, pairs ...any) string {
	t.Helper()
	env := probe.Env{Host: "h2", Origin: "agent.h2"}
	n := env.NewNode(field.Make(pairs...))
	update(t, h, func(tx *graph.Tx) error {
		if owner == "" {
			return tx.AddNode(n)
		}
		return env.AddChild(tx, owner, n)
	})
	return n.ID
}

// links lists edges as "parent relation child", by name.
func links(h *probetest.Host) map[string]bool {
	all := make(map[string]bool)
	s := h.Graph.Snapshot()
	for e := range s.Edges(field.Filter{}) {
		all[s.Node(e.Parent).Metadata.Text("Name")+" "+e.Metadata.Text(probe.RelationType)+" "+s.Node(e.Child).Metadata.Text("Name")] = true
	}
	return all
}

func TestGolden(t *testing.T) {
	h := host(t)
	h1 := reported(t, h, "", "Type", "host", "Name", "h1b", "Rack", 7)
	reported(t, h, h1, "Type", "device", "Name", "eth0", "MTU", 1500)
	reported(t, h, h1, "Type", "device", "Name", "eth1")
	run(t, h,
		"TOR1[Name=tor1, Vendor=Acme Inc., Where.Row=3] -> TOR1_PORT1[Name=port1, MTU=1500]",
		"TOR1 -> [Color=red,Type=cable] TOR1_PORT2[Name=port2,Type=port]",
		"TOR1_PORT1 --> SPINE[Type=switch]",
		"TOR1_PORT1 -> *[Type=host,Name=h1b]/eth0",
		"TOR1_PORT2-->[Speed=10]*[Rack=7]/eth1[Type=device]",
		"*[Type=host,Name=h1b]/eth1 --> SPINE",
	)
	h.Golden(t, "testdata/graph.json")
	for _, n := range h.Find("Probe", "fabric") {
		if n.Origin != "probe.fabric" || n.Host != "" || n.Metadata.Text("TID") != n.ID {
			t.Errorf("%+v", n.Element)
		}
	}
	if n := h.Find("Name", "tor1"); len(n) != 1 || n[0].ID != graph.GenID("fabricTOR1") {
		t.Errorf("%v", n)
	}
}

func TestLinksFollowWhatAgentsReport(t *testing.T) {
	h := host(t)
	run(t, h, "P1 -> *[Type=host,Name=x]/eth0[State=UP]", "P2 --> *[Type=host]/eth0")
	want := func(what string, names ...string) {
		t.Helper()
		probetest.Eventually(t, 5*time.Second, what, func() bool {
			n := 0
			for l := range links(h) {
				if strings.Contains(l, "layer2") {
					n++
				}
			}
			for _, name := range names {
				if !links(h)[name] {
					return false
				}
			}
			return n == len(names)
		})
	}
	want("nothing yet")
	x := reported(t, h, "", "Type", "host", "Name", "x")
	want("no interface yet")
	eth0 := reported(t, h, x, "Type", "device", "Name", "eth0", "State", "DOWN")
	want("it is down", "P2 layer2 eth0")
	set := func(id, key, value string) {
		t.Helper()
		update(t, h, func(tx *graph.Tx) error {
			m, err := tx.Node(id).Metadata.Set(key, value)
			if err == nil {
				_, err = tx.SetNodeMetadata(id, m)
			}
			return err
		})
	}
	set(eth0, "State", "UP")
	want("it is up", "P1 layer2 eth0", "P2 layer2 eth0")
	set(x, "Name", "y")
	want("another host", "P2 layer2 eth0")
	set(x, "Name", "x")
	want("renamed", "P1 layer2 eth0", "P2 layer2 eth0")
	set(eth0, "Name", "eth9")
	want("another interface")
	set(eth0, "Name", "eth0")
	want("and back", "P1 layer2 eth0", "P2 layer2 eth0")

	// It moves to a namespace of that name below another owner.
	env := probe.Env{Host: "h2", Origin: "agent.h2"}
	ns := reported(t, h, x, "Type", "netns", "Name", "ns", "Path", "/ns")
	update(t, h, func(tx *graph.Tx) error { return env.Own(tx, ns, eth0) })
	want("not the host's any more")
	update(t, h, func(tx *graph.Tx) error { return env.Own(tx, x, eth0) })
	want("the host's again", "P1 layer2 eth0", "P2 layer2 eth0")

	if !links(h)["x ownership eth0"] || links(h)["P1 ownership eth0"] {
		t.Error("the fabric took an interface from its host")
	}

	// The agent begins a new life: other nodes of the same names.
	update(t, h, func(tx *graph.Tx) error {
		for _, id := range []string{eth0, ns, x} {
			if err := tx.DeleteNode(id, 0); err != nil {
				return err
			}
		}
		return nil
	})
	want("gone")
	x = reported(t, h, "", "Type", "host", "Name", "x")
	reported(t, h, x, "Type", "device", "Name", "eth0", "State", "UP")
	want("there again", "P1 layer2 eth0", "P2 layer2 eth0")
}

func TestWhatIsConfiguredNoMoreGoes(t *testing.T) {
	h := host(t)
	x := reported(t, h, "", "Type", "host", "Name", "x")
	reported(t, h, x, "Type", "device", "Name", "eth0")
	alien := reported(t, h, "", "Type", "fabric", "Name", "rule", "Probe", "fabric") // of a rule: another origin
	stop := run(t, h, "A -> B", "B -> *[Type=host]/eth0", "A --> C")
	a := h.Find("Name", "A")[0]
	if l := links(h); !l["B layer2 eth0"] || !l["A ownership B"] || !l["A layer2 C"] {
		t.Fatal(l)
	}
	stop()
	if l := links(h); !l["B layer2 eth0"] || !l["A ownership B"] {
		t.Fatalf("stopping removed something: %v", l)
	}
	// The next one, perhaps on another analyzer, is told less.
	run(t, h, "A --> C")
	probetest.Eventually(t, 5*time.Second, "the rest is gone", func() bool {
		l := links(h)
		return len(h.Find("Name", "B")) == 0 && !l["B layer2 eth0"] && !l["A ownership B"] && l["A layer2 C"]
	})
	if again := h.Find("Name", "A")[0]; again != a {
		t.Errorf("what stays was touched: %+v", again)
	}
	if h.Graph.Snapshot().Node(alien) == nil {
		t.Error("a node of another origin is gone")
	}
}

func TestWhatOthersDeleteComesBack(t *testing.T) {
	h := host(t)
	run(t, h, "A -> B")
	update(t, h, func(tx *graph.Tx) error { return tx.DeleteNode(id("A"), 0) })
	probetest.Eventually(t, 5*time.Second, "A is back", func() bool { l := links(h); return l["A ownership B"] && l["A layer2 B"] })
	// And what another analyzer has from an earlier configuration, and sends late, goes.
	old := probe.Env{Origin: "probe.fabric"}.NewNode(field.Make("Name", "old", "Type", "device"))
	update(t, h, func(tx *graph.Tx) error { return tx.AddNode(old) })
	probetest.Eventually(t, 5*time.Second, "gone", func() bool { return len(h.Find("Name", "old")) == 0 })
}

func TestSyntax(t *testing.T) {
	for _, tc := range []struct {
		rules []string
		want  string // of the error; "" for none
	}{
		{nil, ""},
		{[]string{"A -> B", "B-->C", "  C[ Name = c ,k=] ->[a=b]D  "}, ""},
		{[]string{"A[Name=a,", "MTU=1500]", "->", "B[Name=b]", "B-->*[Type=host,Name=h]/eth0"}, ""}, // as the environment gives it
		{[]string{"sw-1/2->Ethernet1/2", "*/eth0 -> A"}, ""},
		{[]string{"A -> B", "A"}, "rule 2, column 2: Fabric link definition should have two endpoints: want -> or --> after the first, found the end"},
		{[]string{"A"}, "rule 1, column 2: Fabric link definition should have two endpoints: "},
		{[]string{"A->"}, "rule 1, column 4: Fabric link definition should have two endpoints: want a node, found the end"},
		{[]string{"A -> B", "é[k] -> C"}, `rule 2, column 3: want key=value, found "k"`},
		{[]string{"é[a=b, =c] -> C"}, `rule 1, column 8: want key=value, found "=c"`},
		{[]string{"A[a=b -> C"}, "rule 1, column 2: no ] closes this ["},
		{[]string{"A -> B -> C"}, `rule 1, column 8: want the end of the rule, found "-> C"`},
		{[]string{"A->B->C"}, "rule 2, column 1: Fabric link definition should have two endpoints: "}, // may be two rules of the environment
		{[]string{"A -> *[Type=host]"}, "rule 1, column 18: want /, and the name of a node below, found the end"},
		{[]string{"A -> *[Type=host]/[x=y]"}, `rule 1, column 19: want the name of a node below, found "[x=y]"`},
		{[]string{"*[Type=host]/a -> *[Type=host]/b"}, "rule 1, column 19: one end of a link must be a node of the fabric, without *"},
		{[]string{"A -> A"}, "rule 1, column 6: A is linked with itself"},
		{[]string{"A -> B", "B -> C", "C -> A"}, "rule 3, column 6: C cannot own A, which owns it"},
		{[]string{"A[k=v,k.x=v] -> B"}, `rule 1, column 1: set "k.x": "k" is not an object`},
		{[]string{"A -> [k=v,k.x=v] B"}, `rule 1, column 6: set "k.x": "k" is not an object`},
	} {
		err := Check(tc.rules)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tc.want)) {
			t.Errorf("%q\ngot  %v\nwant %s", tc.rules, err, tc.want)
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, s := range []string{"A -> B", "A[k=v]-->[a=b]*[c=d]/e[f=g]", "A->B C->D", "[", "*", "A->*[", "\xff->\xff", "A[a.b.c=1] -> B\nB -> A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, rules := range [][]string{{s}, strings.Fields(s), strings.Split(s, "\n")} {
			if err := Check(rules); err != nil {
				if e, ok := err.(*SyntaxError); !ok || e.Rule < 1 || e.Column < 1 {
					t.Errorf("%q: %#v", rules, err)
				}
				continue
			}
			compiled, _ := compile(rules)
			for child := range compiled.owners {
				for up, n := compiled.owners[child], 0; up != ""; up, n = compiled.owners[up], n+1 {
					if n > len(compiled.owners) {
						t.Fatalf("%q: a circle of owners", rules)
					}
				}
			}
		}
	})
}
