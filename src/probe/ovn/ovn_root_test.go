package ovn

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/ovs/ovstest"
	"skydive/src/probe"
	"skydive/src/probe/probetest"
)

const nbSchema = "/usr/share/ovn/ovn-nb.ovsschema"

// nb is a northbound database.
type nb struct {
	*ovstest.Server
	t *testing.T
}

func start(t *testing.T, netns, schema string, options ...ovstest.Option) nb {
	t.Helper()
	if _, err := exec.LookPath("ovn-nbctl"); err != nil {
		ovstest.Missing(t, "ovn-nbctl is needed: install the package ovn-common")
	}
	if _, err := os.Stat(nbSchema); err != nil {
		ovstest.Missing(t, nbSchema+" is needed: install the package ovn-central")
	}
	return nb{ovstest.Start(t, netns, append(options, ovstest.Schema(schema, database))...), t}
}

// ctl runs ovn-nbctl.
func (s nb) ctl(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("ovn-nbctl", append([]string{"--db=" + s.DB, "--timeout=20"}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("ovn-nbctl %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// host is a graph as an analyzer has it.
func host(t *testing.T) *probetest.Host {
	h := probetest.NewHost(t)
	h.Env.Host, h.Env.Origin, h.Env.Root = "", "probe.ovn", ""
	return h
}

func run(t *testing.T, h *probetest.Host, c Config) (stop func()) {
	t.Helper()
	if c.Expiry == 0 {
		c.Expiry = 35 * time.Second
	}
	p, err := New(h.Env, c)
	if err != nil {
		t.Fatal(err)
	}
	return h.Run(t, p)
}

// edges lists edges of a relation as "parent child", by name.
func edges(h *probetest.Host, relation string) map[string]bool {
	all := make(map[string]bool)
	s := h.Graph.Snapshot()
	for e := range s.Edges(field.Filter{Terms: []field.Term{{Key: probe.RelationType, Pred: field.Eq{V: relation}}}}) {
		all[s.Node(e.Parent).Metadata.Text("Name")+" "+s.Node(e.Child).Metadata.Text("Name")] = true
	}
	return all
}

// one returns the only node of a type and name, or nil.
func one(h *probetest.Host, kind, name string) *graph.Node {
	if found := h.Find("Type", kind, "Name", name); len(found) == 1 {
		return found[0]
	}
	return nil
}

// typical makes a router between two switches.
func (s nb) typical() {
	s.t.Helper()
	s.ctl("ls-add", "sw0", "--", "ls-add", "sw1", "--", "lr-add", "r0",
		"--", "lrp-add", "r0", "r0-sw0", "00:00:00:00:ff:01", "10.0.0.1/24",
		"--", "lsp-add", "sw0", "sw0-r0", "--", "lsp-set-type", "sw0-r0", "router", "--", "lsp-set-addresses", "sw0-r0", "router",
		"--", "lsp-set-options", "sw0-r0", "router-port=r0-sw0",
		"--", "lsp-add", "sw0", "vm1", "--", "lsp-set-addresses", "vm1", "00:00:00:00:00:01 10.0.0.11",
		"--", "lsp-add", "sw1", "vm2",
		"--", "acl-add", "sw0", "to-lport", "1001", "ip4", "drop",
		"--", "lr-nat-add", "r0", "snat", "192.0.2.1", "10.0.0.0/24",
		"--", "lr-route-add", "r0", "0.0.0.0/0", "192.0.2.254",
		"--", "lb-add", "lb0", "10.0.0.100:80", "10.0.0.11:80", "--", "ls-lb-add", "sw0", "lb0",
		"--", "set", "logical_switch_port", "vm1", "external_ids:neutron.network=n1", `external_ids:neutron\:port=p1`,
		"--", "lsp-set-port-security", "vm1", "00:00:00:00:00:01", "--", "set", "logical_switch_port", "vm1", "tag_request=7", "enabled=true")
}

func TestRootNorthbound(t *testing.T) {
	s := start(t, ovstest.Namespace(t, "ovh-nb"), nbSchema)
	h := host(t)
	run(t, h, Config{Address: s.DB})
	probetest.Eventually(t, 5*time.Second, "runs", func() bool { ok, _ := h.Running(); return ok })
	begin := time.Now()
	s.typical()
	done := time.Now()
	probetest.Eventually(t, 2*time.Second, "everything", func() bool { return one(h, "LogicalSwitchPort", "vm1") != nil && len(edges(h, "layer2")) == 1 })
	t.Logf("ovn-nbctl took %v, the graph followed %v later", done.Sub(begin), time.Since(done))

	vm1 := one(h, "LogicalSwitchPort", "vm1")
	uuid := s.ctl("get", "logical_switch_port", "vm1", "_uuid")
	if vm1.ID != graph.GenID(uuid) || vm1.Origin != "probe.ovn" || vm1.Host != "" {
		t.Errorf("%+v", vm1.Element)
	}
	want := `{"Manager":"ovn","Name":"vm1","OVN":{"Addresses":["00:00:00:00:00:01 10.0.0.11"],"Enabled":[true],` +
		`"ExternalIDs":{"neutron.network":"n1","neutron:port":"p1"},"ExternalIDsMeta":{"neutron":{"network":"n1"},"neutron:port":"p1"},` +
		`"Name":"vm1","PortSecurity":["00:00:00:00:00:01"],"TagRequest":[7],"Type":""},"Type":"LogicalSwitchPort","UUID":"` + uuid + `"}`
	if got, _ := json.Marshal(vm1.Metadata); string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	acl := h.Find("Type", "ACL")
	if len(acl) != 1 || acl[0].Metadata.Text("Name") != acl[0].Metadata.Text("UUID") || acl[0].Metadata.Text("OVN.Action") != "drop" {
		t.Fatalf("%v", acl)
	}
	if p, ok := acl[0].Metadata.Int("OVN.Priority"); !ok || p != 1001 {
		t.Errorf("%v", acl[0].Metadata)
	}
	name := func(kind string) string {
		found := h.Find("Type", kind)
		if len(found) != 1 {
			t.Fatalf("%s: %v", kind, found)
		}
		return found[0].Metadata.Text("Name")
	}
	got := edges(h, "ovn")
	for _, want := range []string{"sw0 sw0-r0", "sw0 vm1", "sw1 vm2", "r0 r0-sw0", "sw0 " + name("ACL"), "r0 " + name("NAT"), "r0 " + name("LogicalRouterStaticRoute"), "sw0 lb0"} {
		if !got[want] {
			t.Errorf("no edge %s", want)
		}
		delete(got, want)
	}
	if len(got) > 0 {
		t.Errorf("unexpected edges %v", got)
	}
	if !edges(h, "layer2")["sw0-r0 r0-sw0"] {
		t.Error(edges(h, "layer2"))
	}

	// The router's port comes and goes.
	s.ctl("lrp-del", "r0-sw0")
	probetest.Eventually(t, 2*time.Second, "no router port", func() bool { return len(edges(h, "layer2")) == 0 && one(h, "LogicalRouterPort", "r0-sw0") == nil })
	s.ctl("lrp-add", "r0", "r0-sw0", "00:00:00:00:ff:01", "10.0.0.1/24")
	probetest.Eventually(t, 2*time.Second, "router port is back", func() bool { return edges(h, "layer2")["sw0-r0 r0-sw0"] && edges(h, "ovn")["r0 r0-sw0"] })
	s.ctl("ls-lb-del", "sw0", "lb0", "--", "lsp-set-options", "sw0-r0", "router-port=other")
	probetest.Eventually(t, 2*time.Second, "references follow", func() bool { return len(edges(h, "layer2")) == 0 && !edges(h, "ovn")["sw0 lb0"] })
	s.ctl("ls-del", "sw0")
	probetest.Eventually(t, 2*time.Second, "what a switch has goes with it", func() bool {
		return one(h, "LogicalSwitchPort", "vm1") == nil && len(h.Find("Type", "ACL")) == 0 && one(h, "LogicalSwitch", "sw0") == nil
	})
}

func TestRootInterfacesAreMapped(t *testing.T) {
	s := start(t, ovstest.Namespace(t, "ovh-map"), nbSchema)
	h := host(t)
	tap := func(iface string) string {
		n := &graph.Node{Element: graph.Element{ID: graph.NewID(), Host: "c1", Origin: "agent.c1", Metadata: field.Make("Name", "tap1", "Type", "tun", "ExtID", field.Make("iface-id", iface))}}
		if err := h.Graph.Update("", func(tx *graph.Tx) error { return tx.AddNode(n) }); err != nil {
			t.Fatal(err)
		}
		return n.ID
	}
	mapped := func(names string) func() bool {
		return func() bool { m := edges(h, "mapping"); return len(m) == 1 && m[names] }
	}
	first := tap("vm1")
	s.typical()
	run(t, h, Config{Address: s.DB})
	probetest.Eventually(t, 5*time.Second, "mapped", mapped("tap1 vm1"))
	if err := h.Graph.Update("", func(tx *graph.Tx) error { return tx.DeleteNode(first, 0) }); err != nil {
		t.Fatal(err)
	}
	probetest.Eventually(t, 2*time.Second, "gone", func() bool { return len(edges(h, "mapping")) == 0 })
	second := tap("none")
	if err := h.Graph.Update("", func(tx *graph.Tx) error {
		m, err := tx.Node(second).Metadata.Set("ExtID.iface-id", "vm2")
		if err == nil {
			_, err = tx.SetNodeMetadata(second, m)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	probetest.Eventually(t, 2*time.Second, "mapped by an update", mapped("tap1 vm2"))
	s.ctl("lsp-del", "vm2")
	probetest.Eventually(t, 2*time.Second, "the logical port is gone", func() bool { return len(edges(h, "mapping")) == 0 })
	s.ctl("lsp-add", "sw1", "vm2")
	probetest.Eventually(t, 2*time.Second, "and back", mapped("tap1 vm2"))
}

func TestRootServerIsKilled(t *testing.T) {
	s := start(t, ovstest.Namespace(t, "ovh-kill"), nbSchema)
	s.typical()
	h := host(t)
	run(t, h, Config{Address: s.DB})
	probetest.Eventually(t, 5*time.Second, "shown", func() bool { return one(h, "LogicalSwitch", "sw1") != nil })
	before := one(h, "LogicalSwitch", "sw1")
	s.KillDB(t)
	probetest.Eventually(t, 5*time.Second, "it says so", func() bool {
		_, reason := h.Running()
		return strings.HasPrefix(reason, "not connected, what is shown is as of ")
	})
	if one(h, "LogicalSwitch", "sw0") == nil {
		t.Fatal("a switch went with the database")
	}
	// While nobody looks, a switch goes and another one comes.
	change := exec.Command("ovsdb-tool", "transact", filepath.Join(s.Dir, "conf.db"),
		`["OVN_Northbound",{"op":"delete","table":"Logical_Switch","where":[["name","==","sw0"]]},{"op":"insert","table":"Logical_Switch","row":{"name":"sw2"}}]`)
	if out, err := change.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.StartDB(t)
	took := probetest.Eventually(t, 10*time.Second, "purged", func() bool {
		_, reason := h.Running()
		return reason == "" && one(h, "LogicalSwitch", "sw2") != nil && one(h, "LogicalSwitch", "sw0") == nil && one(h, "LogicalSwitchPort", "vm1") == nil
	})
	t.Logf("as it is %v after the server was back", took)
	if after := one(h, "LogicalSwitch", "sw1"); after.Revision != before.Revision {
		t.Errorf("a switch that did not change has revision %d, had %d", after.Revision, before.Revision)
	}
}

// A server that does not come back is no reason to show for ever what it said.
func TestRootServerStaysAway(t *testing.T) {
	s := start(t, ovstest.Namespace(t, "ovh-away"), nbSchema)
	s.typical()
	h := host(t)
	p, err := New(h.Env, Config{Address: s.DB, Expiry: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(t.Context()) }()
	probetest.Eventually(t, 5*time.Second, "shown", func() bool { return one(h, "LogicalSwitch", "sw1") != nil })
	s.KillDB(t)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Error(err)
	}
	if left := h.Find("Manager", "ovn"); len(left) > 0 {
		t.Errorf("%d nodes are left", len(left))
	}
}

func TestAddressesThatCannotBe(t *testing.T) {
	h := host(t)
	for _, c := range []Config{{Address: ""}, {Address: "unix:"}, {Address: "tcp:a:1", Cert: "x"}} {
		if _, err := New(h.Env, c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	p, err := New(h.Env, Config{Address: "unix:" + filepath.Join(t.TempDir(), "none.sock"), Expiry: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); !errors.Is(err, probe.ErrUnavailable) {
		t.Errorf("no socket: %v", err)
	}
}
