package probe

import (
	"errors"
	"testing"

	"skydive/src/field"
	"skydive/src/graph"
)

const origin = "agent.ct-host"

// newHost returns a graph with the host that contract examples are of.
func newHost(t *testing.T) (*graph.Graph, Env) {
	t.Helper()
	g := graph.New(graph.Options{Hooks: []func(*graph.Tx){TID(origin)}})
	root, err := AddHost(g, HostNode{ID: "ct-host", Hostname: "name", Origin: origin})
	if err != nil {
		t.Fatal(err)
	}
	return g, Env{Graph: g, Root: root, Host: "ct-host", Origin: origin}
}

func update(t *testing.T, g *graph.Graph, fn func(tx *graph.Tx) error) {
	t.Helper()
	if err := g.Update("", fn); err != nil {
		t.Fatal(err)
	}
}

func tid(g *graph.Graph, id string) string { return g.Snapshot().Node(id).Metadata.Text("TID") }

// The expected values are those of the public Skydive.
func TestTIDRules(t *testing.T) {
	g, env := newHost(t)
	const host = "0e296da6-4083-57de-b2b0-14943eb5691f"
	if got := tid(g, env.Root); got != host {
		t.Errorf("host: %s", got)
	}
	bridge := env.NewNode(field.Make("Name", "br", "Type", "ovsbridge", "UUID", "u1"))
	port := env.NewNode(field.Make("Name", "p", "Type", "ovsport", "UUID", "u2"))
	ns := env.NewNode(field.Make("Name", "a", "Type", "netns", "Path", "/run/netns/a"))
	veth := env.NewNode(field.Make("Name", "vA", "Type", "veth"))
	inside := env.NewNode(field.Make("Name", "eth0", "Type", "veth"))
	fabric := env.NewNode(field.Make("Name", "tor", "Type", "device", "Probe", "fabric"))
	nameless := env.NewNode(field.Make("Type", "ofrule"))
	foreign := &graph.Node{Element: graph.Element{ID: "f", Origin: "agent.other", Metadata: field.Make("Name", "x", "Type", "host")}}
	update(t, g, func(tx *graph.Tx) error {
		return errors.Join(env.AddChild(tx, env.Root, bridge), env.AddChild(tx, bridge.ID, port), env.AddChild(tx, env.Root, ns),
			env.AddChild(tx, env.Root, veth), env.AddChild(tx, ns.ID, inside), tx.AddNode(fabric),
			env.AddChild(tx, env.Root, nameless), tx.AddNode(foreign))
	})
	nsTID := graph.GenID(host + "/run/netns/a" + "netns")
	for _, tc := range []struct{ id, want string }{
		{veth.ID, "69ad7581-51e8-5ab8-94ab-47c496d65380"},
		{bridge.ID, graph.GenID(host + "u1" + "ovsbridge")},
		{port.ID, graph.GenID(host + "u2" + "ovsport")},
		{ns.ID, nsTID},
		{inside.ID, graph.GenID(nsTID + "eth0" + "veth")},
		{fabric.ID, fabric.ID},
		{nameless.ID, ""},
		{"f", ""},
	} {
		if got := tid(g, tc.id); got != tc.want {
			t.Errorf("%v: %s, not %s", g.Snapshot().Node(tc.id).Metadata, got, tc.want)
		}
	}
	if n := g.Snapshot().Node(veth.ID); n.Revision != 1 {
		t.Errorf("setting the TID made revision %d", n.Revision)
	}
}

// The hook alone, in whatever order nodes, types and edges come.
func TestTIDFollowsOwnership(t *testing.T) {
	g, env := newHost(t)
	ns := env.NewNode(field.Make("Name", "a", "Type", "netns", "Path", "/a"))
	intf := env.NewNode(field.Make("Name", "eth0"))
	update(t, g, func(tx *graph.Tx) error { return errors.Join(tx.AddNode(ns), tx.AddNode(intf)) })
	update(t, g, func(tx *graph.Tx) error { return env.Own(tx, ns.ID, intf.ID) })
	if tid(g, ns.ID) != "" || tid(g, intf.ID) != "" {
		t.Fatal("TID without an owner that has one")
	}
	update(t, g, func(tx *graph.Tx) error { return env.Own(tx, env.Root, ns.ID) })
	if tid(g, ns.ID) == "" || tid(g, intf.ID) != "" {
		t.Fatal("TID without a type")
	}
	update(t, g, func(tx *graph.Tx) error {
		_, err := tx.SetNodeMetadata(intf.ID, field.Make("Name", "eth0", "Type", "veth"))
		return err
	})
	first := tid(g, intf.ID)
	if first != graph.GenID(tid(g, ns.ID)+"eth0"+"veth") {
		t.Fatalf("TID %q", first)
	}
	// Another owner, another TID, and one edge only.
	update(t, g, func(tx *graph.Tx) error { return env.Own(tx, env.Root, intf.ID) })
	second := tid(g, intf.ID)
	if second != graph.GenID(tid(g, env.Root)+"eth0"+"veth") {
		t.Fatalf("TID %q", second)
	}
	owners := 0
	for range g.Snapshot().In(intf.ID) {
		owners++
	}
	if owners != 1 {
		t.Errorf("%d owners", owners)
	}
	// Owned again by the same one within a change: it keeps its TID. Without owner: none.
	edge := graph.LinkID(env.Root, intf.ID, Ownership)
	update(t, g, func(tx *graph.Tx) error {
		return errors.Join(tx.DeleteEdge(edge, 0), env.Own(tx, env.Root, intf.ID))
	})
	if tid(g, intf.ID) != second {
		t.Error("TID changed with an edge that was deleted and added")
	}
	update(t, g, func(tx *graph.Tx) error { return tx.DeleteEdge(edge, 0) })
	if got := tid(g, intf.ID); got != "" {
		t.Errorf("TID without owner: %q", got)
	}
}

func TestTIDOutlivesRenames(t *testing.T) {
	g, env := newHost(t)
	add := func(name string) *graph.Node {
		n := env.NewNode(field.Make("Name", name, "Type", "veth"))
		update(t, g, func(tx *graph.Tx) error { return env.AddChild(tx, env.Root, n) })
		return n
	}
	natural := graph.GenID(tid(g, env.Root) + "eth0" + "veth")
	first := add("eth0")
	// Metadata without the TID, as a probe that knows nothing of it would set.
	update(t, g, func(tx *graph.Tx) error {
		_, err := tx.SetNodeMetadata(first.ID, field.Make("Name", "eth9", "Type", "veth"))
		return err
	})
	if tid(g, first.ID) != natural {
		t.Errorf("after a rename: %s", tid(g, first.ID))
	}
	second, third := add("eth0"), add("eth0")
	seen := map[string]bool{natural: true}
	for _, n := range []*graph.Node{second, third} {
		if got := tid(g, n.ID); got == "" || seen[got] {
			t.Errorf("TID %q is taken", got)
		} else {
			seen[got] = true
		}
	}
	if tid(g, second.ID) != graph.GenID(tid(g, env.Root)+"eth0"+"veth"+"#2") {
		t.Error("the series of a name is not the same each time")
	}
	// Once all are gone the name has its own again.
	update(t, g, func(tx *graph.Tx) error {
		return errors.Join(tx.DeleteNode(first.ID, 0), tx.DeleteNode(second.ID, 0), tx.DeleteNode(third.ID, 0))
	})
	if got := tid(g, add("eth0").ID); got != natural {
		t.Errorf("TID %q", got)
	}
}

func TestLink(t *testing.T) {
	g, env := newHost(t)
	n := env.NewNode(field.Make("Name", "x", "Type", "veth"))
	var first, second string
	update(t, g, func(tx *graph.Tx) (err error) {
		if err = env.AddChild(tx, env.Root, n); err != nil {
			return err
		}
		if first, err = env.Link(tx, env.Root, n.ID, Layer2, field.Make("Type", "vlan")); err != nil {
			return err
		}
		second, err = env.Link(tx, env.Root, n.ID, Layer2, nil)
		return err
	})
	e := g.Snapshot().Edge(first)
	if first != second || e == nil || e.ID != graph.LinkID(env.Root, n.ID, Layer2) {
		t.Fatalf("%s %s %v", first, second, e)
	}
	if !field.Equal(e.Metadata, field.Make(RelationType, Layer2)) || e.Host != "ct-host" || e.Origin != origin {
		t.Errorf("%+v", e)
	}
}

// A publisher may announce anything, a circle of owners too; the graph's lock is held meanwhile.
func TestTIDEndsInACircleOfOwners(t *testing.T) {
	g, _ := newHost(t)
	element := func(id string, pairs ...any) graph.Element {
		return graph.Element{ID: id, Origin: origin, Metadata: field.Make(pairs...)}
	}
	update(t, g, func(tx *graph.Tx) error {
		own := func(id, parent, child string) error {
			return tx.AddEdge(&graph.Edge{Element: element(id, "RelationType", "ownership"), Parent: parent, Child: child})
		}
		return errors.Join(
			tx.AddNode(&graph.Node{Element: element("a", "Name", "a", "Type", "ovsbridge", "UUID", "a")}),
			tx.AddNode(&graph.Node{Element: element("b", "Name", "b", "Type", "x")}),
			own("ab", "a", "b"), own("ba", "b", "a"))
	})
	if a, b := tid(g, "a"), tid(g, "b"); a != "" || b != "" {
		t.Errorf("TIDs %q and %q came from nowhere", a, b)
	}
}
