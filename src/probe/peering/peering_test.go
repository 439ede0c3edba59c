package peering

import (
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
	"skydive/src/probe/probetest"
)

func TestPeering(t *testing.T) {
	h := probetest.NewHost(t)
	h.Env.Origin, h.Env.Root, h.Env.Host = "probe.peering", "", ""
	p, err := New(h.Env, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	add := func(pairs ...any) string {
		t.Helper()
		n := probe.Env{Origin: "agent.x"}.NewNode(field.Make(pairs...))
		if err := h.Graph.Update("", func(tx *graph.Tx) error { return tx.AddNode(n) }); err != nil {
			t.Fatal(err)
		}
		return n.ID
	}
	change := func(fn func(tx *graph.Tx) error) {
		t.Helper()
		if err := h.Graph.Update("", fn); err != nil {
			t.Fatal(err)
		}
	}
	// want waits for the only link, "" for none. Commits are heard in order, so once one that comes after has shown, all is settled.
	want := func(what, link string) {
		t.Helper()
		mark := probe.Env{Origin: "probe.peering"}.NewNode(field.Make("Name", "mark"))
		change(func(tx *graph.Tx) error { return tx.AddNode(mark) })
		probetest.Eventually(t, 5*time.Second, what, func() bool { return h.Graph.Snapshot().Node(mark.ID) == nil })
		got := ""
		s := h.Graph.Snapshot()
		for e := range s.Edges(field.Filter{}) {
			got += s.Node(e.Parent).Metadata.Text("Name") + " " + e.Metadata.Text(probe.RelationType) + " " + s.Node(e.Child).Metadata.Text("Name")
		}
		if got != link {
			t.Errorf("%s: %q, want %q", what, got, link)
		}
	}
	const mac = "52:54:00:aa:bb:01"
	tap := add("Name", "tap0", "Type", "tun", "MAC", "fe:54:00:aa:bb:01", "PeerIntfMAC", "52:54:00:AA:BB:01")
	h.Run(t, p)
	want("nobody has it", "")
	eth := add("Name", "eth0", "Type", "device", "MAC", mac)
	want("a guest", "tap0 layer2 eth0")
	bridge := add("Name", "br0", "Type", "bridge", "MAC", mac)
	want("a bridge above it", "tap0 layer2 eth0")
	copied := add("Name", "eth0-copy", "Type", "device", "MAC", mac)
	want("two have the address", "")
	change(func(tx *graph.Tx) error {
		_, err := tx.SetNodeMetadata(copied, field.Make("Name", "eth0-copy", "Type", "device", "MAC", "52:54:00:aa:bb:02"))
		return err
	})
	want("one again", "tap0 layer2 eth0")
	other := add("Name", "tap1", "Type", "tun", "PeerIntfMAC", mac)
	want("two know of it, as while a guest moves", "")
	change(func(tx *graph.Tx) error { return tx.DeleteNode(tap, 0) })
	want("it has moved", "tap1 layer2 eth0")
	change(func(tx *graph.Tx) error { return tx.DeleteNode(eth, 0) })
	want("the guest is gone", "")
	change(func(tx *graph.Tx) error {
		_, err := tx.SetNodeMetadata(other, field.Make("Name", "tap1", "Type", "tun", "PeerIntfMAC", mac, "MAC", mac))
		return err
	})
	want("itself", "")
	change(func(tx *graph.Tx) error { return tx.DeleteNode(bridge, 0) })
}

// TestBeginAgain: after commits were lost, links go with what they were made of.
func TestBeginAgain(t *testing.T) {
	g := graph.New(graph.Options{})
	node := func(pairs ...any) *graph.Node { return probe.Env{}.NewNode(field.Make(pairs...)) }
	tap := node("Name", "tap0", "PeerIntfMAC", "52:54:00:aa:bb:01")
	if err := g.Update("", func(tx *graph.Tx) error {
		if err := tx.AddNode(tap); err != nil {
			return err
		}
		return tx.AddNode(node("Name", "eth0", "MAC", "52:54:00:AA:BB:01"))
	}); err != nil {
		t.Fatal(err)
	}
	w := newWatcher(g, probe.NewDesired(probe.Env{}))
	for range 2 {
		w.Begin(g.Snapshot())
		if len(w.linked) != 1 {
			t.Fatalf("%v", w.linked)
		}
	}
	if err := g.Update("", func(tx *graph.Tx) error { return tx.DeleteNode(tap.ID, 0) }); err != nil {
		t.Fatal(err)
	}
	if w.Begin(g.Snapshot()); len(w.linked)+len(w.knows)+len(w.peers) != 0 {
		t.Errorf("%v", w)
	}
}
