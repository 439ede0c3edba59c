package ovsdb

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/ovs/ovstest"
	"skydive/src/probe/probetest"
)

func read(t testing.TB, file string) json.RawMessage {
	t.Helper()
	data, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// recorded is a server that tells what a real one told once, with the userspace datapath.
func recorded(t testing.TB) (server *ovstest.Fake, updates []json.RawMessage) {
	t.Helper()
	schema, initial := read(t, "schema.json"), read(t, "initial.json")
	if err := json.Unmarshal(read(t, "updates.json"), &updates); err != nil {
		t.Fatal(err)
	}
	return ovstest.StartFake(t, func(method string, _ json.RawMessage) (result, fault any) {
		switch method {
		case "get_schema":
			return schema, nil
		case "monitor_cond":
			return initial, nil
		}
		return nil, "no such method"
	}), updates
}

// kernel adds nodes as the probe netlink does.
func kernel(t testing.TB, h *probetest.Host, links ...field.Object) {
	t.Helper()
	err := h.Graph.Update("", func(tx *graph.Tx) error {
		for _, m := range links {
			if err := h.Env.AddChild(tx, h.Env.Root, h.Env.NewNode(m)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRecordedDatabase(t *testing.T) {
	h := probetest.NewHost(t)
	server, updates := recorded(t)
	link := func(name, kind, driver string, index int, mac string) field.Object {
		return field.Make("Name", name, "Type", kind, "Driver", driver, "IfIndex", index, "MAC", mac)
	}
	kernel(t, h, link("e1", "veth", "veth", 3, "fe:69:68:4b:48:69"), link("e3", "veth", "veth", 5, "ea:37:2b:4f:e6:d1"),
		link("e5", "veth", "veth", 7, "06:8b:63:c5:7b:67"), link("br-int", "tuntap", "tun", 9, "82:63:cc:b3:99:49"),
		link("br-tun", "tuntap", "tun", 10, "f6:8f:35:46:0c:42"), link("tap1", "tuntap", "tun", 11, "9a:73:8c:2d:2b:06"))
	l := &lab{Host: h, TB: t, Server: &ovstest.Server{DB: server.DB}}
	l.startOVS()
	h.Golden(t, "testdata/initial.golden")
	for _, u := range updates {
		server.Send(`{"id":null,"method":"update2","params":["m",` + string(u) + `]}`)
	}
	l.eventually("the last update", func() bool {
		return value(l.one("Type", "ovsbridge", "Name", "br-int"), "Ovs.FailMode") == nil && l.one("Type", "ovsbridge", "Name", "br-new") != nil &&
			l.owner(l.one("Type", "ovsport", "Name", "e1")).Metadata.Text("Name") == "br-tun"
	})
	kernel(t, h, link("br-new", "tuntap", "tun", 12, "be:00:00:00:00:01"))
	l.eventually("the new bridge", func() bool { return value(l.iface("br-new"), "Type") == "internal" })
	h.Golden(t, "testdata/updated.golden")
}

func TestWhatOthersSayStays(t *testing.T) {
	others := field.Make("Name", "e1", "Type", "tuntap", "ExtID", field.Make("vm-uuid", "v"), "Captures", "x")
	first := field.Make("Type", "internal", "OfPort", 1, "ExtID", field.Make("iface-id", "a", "dotted.key", "b"), "Ovs", field.Make("Error", "e"))
	second := field.Make("Type", "internal", "ExtID", field.Make("iface-id", "c"))
	for _, step := range []struct {
		name               string
		all, before, after field.Object
		want               field.Object
	}{
		{"first", others, nil, first, field.Make("Name", "e1", "Type", "internal", "Captures", "x", "OfPort", 1,
			"ExtID", field.Make("vm-uuid", "v", "iface-id", "a", "dotted.key", "b"), "Ovs", field.Make("Error", "e"))},
		{"again", merge(others, nil, first), first, second, field.Make("Name", "e1", "Type", "internal", "Captures", "x",
			"ExtID", field.Make("vm-uuid", "v", "iface-id", "c"))},
		{"taken back", merge(others, nil, first), first, nil, field.Make("Name", "e1", "Captures", "x", "ExtID", field.Make("vm-uuid", "v"))},
		{"changed by others meanwhile", field.Make("OfPort", 7), field.Make("OfPort", 1), nil, field.Make("OfPort", 7)},
		{"an object in place of a value", field.Make("Ovs", 1), nil, first, first},
	} {
		if got := merge(step.all, step.before, step.after); !field.Equal(got, step.want) {
			t.Errorf("%s: %v, want %v", step.name, got, step.want)
		}
	}
}

func TestTheTypeOfOthersComesBack(t *testing.T) {
	h := probetest.NewHost(t)
	kernel(t, h, field.Make("Name", "i1", "Type", "device"))
	node := h.Find("Name", "i1")[0].ID
	var o overlay
	update := func(fn func(tx *graph.Tx) error) string {
		t.Helper()
		if err := h.Graph.Update("", fn); err != nil {
			t.Fatal(err)
		}
		return h.Graph.Snapshot().Node(node).Metadata.Text("Type")
	}
	ours := func(tx *graph.Tx) error { return o.put(tx, node, field.Make("Type", "internal", "UUID", "u")) }
	if got := update(ours); got != "internal" {
		t.Errorf("Type %q", got)
	}
	// The kernel's probe finds out more, and this one says again what it knows.
	update(func(tx *graph.Tx) error {
		m, err := tx.Node(node).Metadata.Set("Type", "tuntap")
		if err == nil {
			_, err = tx.SetNodeMetadata(node, m)
		}
		return err
	})
	if got := update(ours); got != "internal" {
		t.Errorf("Type %q", got)
	}
	if got := update(o.takeOff); got != "tuntap" || o.node != "" {
		t.Errorf("Type %q", got)
	}
	if m := h.Graph.Snapshot().Node(node).Metadata; m.Text("UUID") != "" {
		t.Errorf("left: %v", m)
	}
}

func TestTheKernelModuleHasANodeOfItsOwn(t *testing.T) {
	h := probetest.NewHost(t)
	server, _ := recorded(t)
	l := &lab{Host: h, TB: t, Server: &ovstest.Server{DB: server.DB}}
	l.startOVS()
	if host := l.one("Type", "host"); value(host, "Ovs.Version") != "3.1.0" || value(host, "ExtID.system-id") != "chassis-1" {
		t.Errorf("host: %v", host.Metadata)
	}
	kernel(t, h, field.Make("Name", "ovs-system", "Type", "openvswitch", "IfIndex", 40))
	l.eventually("on the module", func() bool {
		host := l.one("Type", "host")
		return value(l.one("Name", "ovs-system"), "Ovs.DBVersion") == "8.3.1" && value(host, "Ovs") == nil && value(host, "ExtID") == nil
	})
	err := h.Graph.Update("", func(tx *graph.Tx) error { return tx.DeleteNode(l.one("Name", "ovs-system").ID, 0) })
	if err != nil {
		t.Fatal(err)
	}
	l.eventually("on the host again", func() bool { return value(l.one("Type", "host"), "Ovs.Version") == "3.1.0" })
}

func TestAFailureTakesEverythingOut(t *testing.T) {
	h := probetest.NewHost(t)
	server, _ := recorded(t)
	kernel(t, h, field.Make("Name", "e1", "Type", "veth", "IfIndex", 3, "MAC", "fe:69:68:4b:48:69"))
	before := h.Graph.Snapshot()
	l := &lab{Host: h, TB: t, Server: &ovstest.Server{DB: server.DB}}
	done := make(chan error, 1)
	p := l.probe()
	go func() { done <- p.Run(t.Context()) }()
	l.eventually("first view", func() bool { running, _ := h.Running(); return running })
	if value(l.iface("e1"), "UUID") == nil {
		t.Fatal("e1 is not found")
	}
	err := h.Graph.Update("", func(tx *graph.Tx) error { return tx.DeleteNode(l.one("Type", "ovsbridge", "Name", "br-int").ID, 0) })
	if err != nil {
		t.Fatal(err)
	}
	server.Send(`{"id":null,"method":"update2","params":["m",{"Bridge":{"` + brInt + `":{"modify":{"fail_mode":"standalone"}}},` +
		`"Port":{"3b939658-0bba-4728-b089-f0155d9cc339":{"delete":null}}}]}`) // which is undone, too
	if err := <-done; err == nil {
		t.Error("no error")
	}
	after := h.Graph.Snapshot()
	if after.NodeCount() != before.NodeCount() || after.EdgeCount() != before.EdgeCount() {
		t.Errorf("%d nodes and %d edges are left", after.NodeCount(), after.EdgeCount())
	}
	for n := range after.Nodes(field.Filter{}) {
		if !field.Equal(n.Metadata, before.Node(n.ID).Metadata) {
			t.Errorf("left: %v", n.Metadata)
		}
	}
}

// brInt is the UUID of a recorded bridge.
const brInt = "b3cc6382-be5a-4999-972a-d80f64cfce03"

func TestWrongConfigurations(t *testing.T) {
	h := probetest.NewHost(t)
	for _, address := range []string{"", "tcp:", "nonsense:x:y"} {
		cfg := *Spec.Config().(*Config)
		cfg.Address = address
		if _, err := New(h.Env, cfg); err == nil {
			t.Errorf("%q is taken for an address", address)
		}
	}
	if !slices.Equal(Spec.Aliases, nil) || Spec.Name != "ovsdb" {
		t.Error("the probe is not named as in the configuration")
	}
}
