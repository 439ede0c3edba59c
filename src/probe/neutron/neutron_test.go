package neutron_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe/neutron"
	"skydive/src/probe/probetest"
)

const soon = 30 * time.Second

func TestConfiguration(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*neutron.Config){
		"": func(*neutron.Config) {},
		"auth_url is empty: it is the URL of Keystone":         func(c *neutron.Config) { c.AuthURL = "" },
		"auth_url: want a URL such as":                         func(c *neutron.Config) { c.AuthURL = "http://u:" + password + "@h/" },
		"auth_url: want a URL":                                 func(c *neutron.Config) { c.AuthURL = "h:5000" },
		`endpoint_type must be public, internal or admin, not`: func(c *neutron.Config) { c.EndpointType = "publicURL" },
		"password is empty: it is that of user neutron":        func(c *neutron.Config) { c.Password = "" },
		"username, tenant_name and domain_name must be set":    func(c *neutron.Config) { c.DomainName = "" },
		"times must be positive, not 0s and 30s":               func(c *neutron.Config) { c.Update = 0 },
		"ca_cert: open /does/not/exist":                        func(c *neutron.Config) { c.CACert = "/does/not/exist" },
		"ca_cert: " + empty + " holds no PEM certificate":      func(c *neutron.Config) { c.CACert = empty },
	} {
		cfg := *neutron.Spec.Config().(*neutron.Config)
		cfg.AuthURL, cfg.Password = "http://h:5000/v3", password
		change(&cfg)
		h := probetest.NewHost(t)
		_, err := neutron.New(h.Env, cfg)
		if (err == nil) != (want == "") || err != nil && (!strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), password)) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// instance adds the path from Open vSwitch to an instance, as Nova plugs it when it filters packets by a bridge.
func instance(t testing.TB, h *probetest.Host, port body) (qvo, qvb, qbr, tap string) {
	t.Helper()
	id, mac := text(port, "id"), text(port, "mac_address")
	qvo = add(t, h, "Name", "qvo"+id[:11], "Type", "veth", "MAC", "0a:00:00:00:00:01",
		"ExtID.iface-id", id, "ExtID.attached-mac", strings.ToUpper(mac), "ExtID.vm-uuid", text(port, "device_id"), "ExtID.iface-status", "active")
	qvb = add(t, h, "Name", "qvb"+id[:11], "Type", "veth", "MAC", "0a:00:00:00:00:02")
	qbr = add(t, h, "Name", "qbr"+id[:11], "Type", "bridge", "MAC", "0a:00:00:00:00:02")
	tap = add(t, h, "Name", "tap"+id[:11], "Type", "tun", "MAC", "fe"+mac[2:])
	return qvo, qvb, qbr, tap
}

// What the recorded answers make of an instance, whole.
func TestWhatIsSaid(t *testing.T) {
	c, h := newCloud(t), probetest.NewHost(t)
	port, out := c.vm(), c.first("floatingips", "status", "DOWN")
	net := c.first("networks", "id", text(port, "network_id"))
	router := c.first("routers", "status", "ACTIVE")
	inside, outside := c.first("ports", "device_owner", "network:router_interface"), c.first("ports", "device_owner", "network:router_gateway")
	dhcp := c.first("ports", "device_owner", "network:dhcp")
	qvo, qvb, qbr, tap := instance(t, h, port)
	mac, vm := text(port, "mac_address"), text(port, "device_id")
	internal := func(prefix string, port body) string {
		return add(t, h, "Name", prefix+text(port, "id")[:11], "Type", "internal", "MAC", port["mac_address"], "ExtID.iface-id", port["id"], "ExtID.attached-mac", port["mac_address"])
	}
	qr, qg, tapd := internal("qr-", inside), internal("qg-", outside), internal("tap", dhcp)
	rest := map[string][]any{
		"qdhcp-" + text(net, "id"):                     {"Manager", "neutron", "Neutron.NetworkID", net["id"], "Neutron.NetworkName", net["name"], "Neutron.VNI", net["provider:segmentation_id"], "Neutron.TenantName", "service", "Neutron.PortID", nil},
		"qrouter-" + text(router, "id"):                {"Manager", "neutron", "Neutron.RouterID", router["id"], "Neutron.RouterName", router["name"], "Neutron.TenantID", router["tenant_id"], "Neutron.TenantName", "service"},
		"snat-" + text(router, "id"):                   {"Manager", "neutron", "Neutron.RouterID", router["id"]},
		"ovnmeta-" + text(net, "id"):                   {"Manager", "neutron", "Neutron.NetworkID", net["id"]},
		"qrouter-00000000-0000-4000-8000-000000000000": {"Manager", "neutron", "Neutron", nil},
		"qrouter-x":               {"Manager", nil},
		"x-" + text(router, "id"): {"Manager", nil},
		"ns1":                     {"Manager", nil},
	}
	ids := make(map[string]string)
	for name := range rest {
		ids[name] = add(t, h, "Name", name, "Type", "netns", "Path", "/"+name)
	}
	run(t, h, c.config())

	becomes(t, h, qvo, soon, "Neutron", body{
		"PortID": port["id"], "PortName": port["name"], "TenantID": port["tenant_id"], "TenantName": "service", "NetworkID": net["id"], "NetworkName": net["name"],
		"VNI": net["provider:segmentation_id"], "DeviceID": vm, "DeviceOwner": "compute:nova", "HostID": "h1", "FloatingIPs": []any{out["floating_ip_address"]},
		"IPV4": []any{address(port, false) + "/24"}, "IPV6": []any{address(port, true) + "/64"},
	}, "Manager", "neutron", "PeerIntfMAC", nil, "ExtID.attached-mac", strings.ToUpper(mac))
	about := says(h, qvo)
	neutronOf, _ := about.Get("Neutron")
	for _, id := range []string{qvb, qbr, tap} {
		becomes(t, h, id, 0, "Manager", "neutron", "Neutron", neutronOf, "ExtID", body{"attached-mac": mac, "vm-uuid": vm})
	}
	becomes(t, h, tap, 0, "PeerIntfMAC", mac)
	becomes(t, h, qbr, 0, "PeerIntfMAC", nil)
	becomes(t, h, qvb, 0, "PeerIntfMAC", nil)
	for _, id := range []string{qr, qg} {
		becomes(t, h, id, 0, "Neutron.RouterID", router["id"], "Neutron.RouterName", router["name"], "PeerIntfMAC", nil)
	}
	becomes(t, h, qr, 0, "Neutron.IPV4", []any{"10.9.0.1/24"})
	becomes(t, h, qg, 0, "Neutron.NetworkName", text(net, "name")+"-out", "Neutron.TenantID", nil)
	becomes(t, h, tapd, 0, "Neutron.DeviceOwner", "network:dhcp", "Neutron.RouterID", nil, "PeerIntfMAC", nil)
	for name, pairs := range rest {
		becomes(t, h, ids[name], 0, pairs...)
	}
	if running, reason := h.Running(); !running || reason != "" {
		t.Error(running, reason)
	}
}

// Which nodes are found, and by what.
func TestMatching(t *testing.T) {
	c, h := newCloud(t), probetest.NewHost(t)
	port := c.vm()
	id, mac := text(port, "id"), text(port, "mac_address")
	const elsewhere = "fa:16:3e:00:00:99"
	// Two networks may have the same address.
	one := c.twin("ports", port, body{"id": "aaaaaaaa-1111-4000-8000-000000000000", "mac_address": elsewhere, "binding:host_id": "h2"})
	two := c.twin("ports", port, body{"id": "bbbbbbbb-2222-4000-8000-000000000000", "mac_address": elsewhere, "binding:host_id": "host1"})
	c.twin("ports", port, body{"id": "cccccccc-2222-4000-8000-000000000000", "mac_address": "fa:16:3e:00:00:98", "binding:host_id": ""})
	c.twin("ports", port, body{"id": "dddddddd-2222-4000-8000-000000000000", "mac_address": "fa:16:3e:00:00:98", "binding:host_id": ""})
	cases := []struct {
		what  string
		node  []any
		found any
	}{
		{"iface-id alone", []any{"Name", "x", "Type", "internal", "ExtID.iface-id", id}, id},
		{"iface-id in capitals", []any{"Name", "x2", "Type", "internal", "ExtID.iface-id", strings.ToUpper(id)}, id},
		{"iface-id goes before attached-mac", []any{"Name", "x3", "Type", "internal", "ExtID.iface-id", one["id"], "ExtID.attached-mac", mac}, one["id"]},
		{"iface-id of a port that is gone", []any{"Name", "x4", "Type", "internal", "ExtID.iface-id", "eeeeeeee-2222-4000-8000-000000000000", "ExtID.attached-mac", mac}, nil},
		{"iface-id of something else", []any{"Name", "x5", "Type", "internal", "ExtID.iface-id", "my pod&id=x"}, nil},
		{"attached-mac", []any{"Name", "x6", "Type", "veth", "ExtID.attached-mac", mac}, id},
		{"attached-mac goes before MAC", []any{"Name", "tap0", "Type", "tun", "MAC", elsewhere, "ExtID.attached-mac", strings.ToUpper(mac)}, id},
		{"MAC and a name", []any{"Name", "tap" + id[:11], "Type", "tun", "MAC", mac}, id},
		{"MAC and any hexadecimal name", []any{"Name", "tap0a", "Type", "tun", "MAC", mac}, id},
		{"MAC of a router's interface", []any{"Name", "qr-12345678-9a", "Type", "device", "MAC", mac}, id},
		{"MAC of a gateway", []any{"Name", "qg-12345678-9a", "Type", "device", "MAC", mac}, id},
		{"MAC of libvirt's", []any{"Name", "vnet12", "Type", "tun", "MAC", "fe" + mac[2:]}, id},
		{"MAC of libvirt's, on a tap", []any{"Name", "tap" + id[:11], "Type", "tun", "MAC", "fe" + mac[2:]}, id},
		{"MAC alone", []any{"Name", "eth0", "Type", "device", "MAC", mac}, nil},
		{"a name alone", []any{"Name", "tap" + id[:11], "Type", "tun", "MAC", "0a:00:00:00:00:07"}, nil},
		{"a name that is none", []any{"Name", "tapestry", "Type", "tun", "MAC", mac}, nil},
		{"vnet without a number", []any{"Name", "vnet", "Type", "tun", "MAC", mac}, nil},
		{"a port of Open vSwitch, which has interfaces", []any{"Name", "tap" + id[:11], "Type", "ovsport", "MAC", mac, "UUID", "u"}, nil},
		{"no MAC", []any{"Name", "tap0b", "Type", "tun"}, nil},
		{"no name", []any{"Type", "tun", "MAC", mac}, nil},
		{"one of two by the name", []any{"Name", "tapaaaaaaaa-11", "Type", "tun", "MAC", elsewhere}, one["id"]},
		{"one of two by the host", []any{"Name", "vnet3", "Type", "tun", "MAC", elsewhere}, two["id"]},
		{"neither of two", []any{"Name", "vnet4", "Type", "tun", "MAC", "fa:16:3e:00:00:98"}, nil},
	}
	ids := make([]string, len(cases))
	for i, x := range cases {
		ids[i] = add(t, h, x.node...)
	}
	foreign := h.Env.NewNode(field.Make("Name", "x", "Type", "internal", "ExtID", field.Make("iface-id", id)))
	foreign.Origin = "agent.other"
	if err := h.Graph.Update("", func(tx *graph.Tx) error { return tx.AddNode(foreign) }); err != nil {
		t.Fatal(err)
	}
	run(t, h, c.config())
	becomes(t, h, ids[0], soon, "Neutron.PortID", id)
	for i, x := range cases {
		t.Run(x.what, func(t *testing.T) {
			manager := any(nil)
			if x.found != nil {
				manager = "neutron"
			}
			becomes(t, h, ids[i], 0, "Neutron.PortID", x.found, "Manager", manager)
		})
	}
	if v, ok := says(h, foreign.ID).Get("Neutron"); ok {
		t.Error("a node of another host:", v)
	}
	gauge(t, h, "skydive_neutron_matched_nodes", 13)
	gauge(t, h, "skydive_neutron_unknown_nodes", 5)
}

func gauge(t testing.TB, h *probetest.Host, name string, want float64) {
	t.Helper()
	all, err := h.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range all {
		if family.GetName() == name {
			if got := family.GetMetric()[0].GetGauge().GetValue(); got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
			return
		}
	}
	t.Errorf("no metric %s", name)
}

// What is shown follows Neutron, and what others say of the nodes.
func TestFollowing(t *testing.T) {
	c, h := newCloud(t), probetest.NewHost(t)
	port := c.vm()
	id, mac := text(port, "id"), text(port, "mac_address")
	net := c.first("networks", "id", text(port, "network_id"))
	router := c.first("routers", "status", "ACTIVE")
	qvo, qvb, qbr, tap := instance(t, h, port)
	lone := add(t, h, "Name", "vnet7", "Type", "tun", "MAC", mac)
	space := add(t, h, "Name", "qrouter-"+text(router, "id"), "Type", "netns", "Path", "/r")
	run(t, h, c.config())
	both := func(pairs ...any) {
		t.Helper()
		for _, node := range []string{qvo, lone} {
			becomes(t, h, node, soon, pairs...)
		}
	}
	both("Neutron.PortID", id)
	put(t, h, qvo, "Metric", field.Make("RxPackets", 5)) // another's

	c.revise(port, "name", "db")
	both("Neutron.PortName", "db")
	c.revise(port, "fixed_ips", append(port["fixed_ips"].([]any), body{"subnet_id": "gone", "ip_address": "192.0.2.7"}))
	both("Neutron.IPV4", []any{address(port, false) + "/24", "192.0.2.7"})
	c.change(func() { net["name"] = "green" })
	both("Neutron.NetworkName", "green")
	c.change(func() { router["name"] = "door" })
	becomes(t, h, space, soon, "Neutron.RouterName", "door")
	f := c.first("floatingips", "port_id", id)
	extra := c.twin("floatingips", f, body{"id": "11111111-0000-4000-8000-000000000000", "floating_ip_address": "203.0.113.2"})
	both("Neutron.FloatingIPs", []any{"203.0.113.2", f["floating_ip_address"]})
	c.remove("floatingips", extra)
	c.change(func() { f["port_id"] = nil })
	both("Neutron.FloatingIPs", nil)

	// The address of the port changes, and with it what Open vSwitch says.
	const other = "fa:16:3e:aa:bb:cc"
	c.revise(port, "mac_address", other)
	becomes(t, h, lone, soon, "Neutron", nil, "Manager", nil)
	put(t, h, qvo, "ExtID.attached-mac", other)
	becomes(t, h, tap, soon, "PeerIntfMAC", other, "ExtID.attached-mac", other)
	put(t, h, lone, "MAC", other)
	both("Neutron.PortID", id)

	// The tap comes and goes; what is last on the way changes.
	remove(t, h, tap)
	becomes(t, h, qbr, soon, "PeerIntfMAC", other)
	tap = add(t, h, "Name", "tap"+id[:11], "Type", "tun", "MAC", "fe"+other[2:])
	becomes(t, h, tap, soon, "PeerIntfMAC", other, "Neutron.PortID", id)
	becomes(t, h, qbr, soon, "PeerIntfMAC", nil)

	// Somebody replaces all that is said of a node.
	if err := h.Graph.Update("", func(tx *graph.Tx) error {
		_, err := tx.SetNodeMetadata(lone, field.Make("Name", "vnet7", "Type", "tun", "MAC", other))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	both("Neutron.PortID", id)

	// Open vSwitch forgets the interface: nothing of it stays on the way.
	put(t, h, qvo, "ExtID", nil)
	becomes(t, h, qvb, soon, "ExtID", nil, "Neutron", nil, "Manager", nil)
	becomes(t, h, qbr, soon, "ExtID", nil, "Neutron", nil)
	becomes(t, h, tap, soon, "ExtID", nil, "PeerIntfMAC", nil, "Neutron.PortID", id) // by its address
	becomes(t, h, qvo, soon, "Neutron", nil, "Manager", nil, "Metric.RxPackets", 5)
	put(t, h, qvo, "ExtID", field.Make("iface-id", id, "attached-mac", other, "vm-uuid", "vm"))
	becomes(t, h, qvb, soon, "ExtID.vm-uuid", "vm", "Neutron.PortID", id)

	c.remove("ports", port)
	both("Neutron", nil, "Manager", nil)
	becomes(t, h, tap, soon, "Neutron", nil, "Manager", nil, "PeerIntfMAC", other)
	becomes(t, h, qvo, 0, "ExtID.iface-id", id, "Metric.RxPackets", 5)
	c.remove("routers", router)
	becomes(t, h, space, soon, "Neutron", nil, "Manager", "neutron")
}

// put sets a value of a node as another probe does; nil: deletes it.
func put(t testing.TB, h *probetest.Host, id, key string, v any) {
	t.Helper()
	if err := h.Graph.Update("", func(tx *graph.Tx) error {
		m := tx.Node(id).Metadata
		var err error
		if v == nil {
			m = m.Delete(key)
		} else if m, err = m.Set(key, v); err != nil {
			return err
		}
		_, err = tx.SetNodeMetadata(id, m)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, h *probetest.Host, id string) {
	t.Helper()
	if err := h.Graph.Update("", func(tx *graph.Tx) error { return tx.DeleteNode(id, 0) }); err != nil {
		t.Fatal(err)
	}
}

// A node that is new is asked for at once, alone; one whose port is known not at all.
func TestNewNodes(t *testing.T) {
	c, h := newCloud(t), probetest.NewHost(t)
	port := c.vm()
	id := text(port, "id")
	cfg := c.config()
	cfg.Update = time.Hour
	run(t, h, cfg)
	probetest.Eventually(t, soon, "the first look", func() bool { ok, _ := h.Running(); return ok })
	if calls := fmt.Sprint(c.take()); calls != "[ports fields:1]" {
		t.Error("with nothing to ask for:", calls)
	}
	qvo, _, _, tap := instance(t, h, port)
	took := becomes(t, h, qvo, soon, "Neutron.PortID", id)
	becomes(t, h, tap, soon, "Neutron.PortID", id)
	if took > time.Second {
		t.Error("found after", took)
	}
	want := "[ports fields:11 id:1 ports fields:11 mac_address:2 networks fields:5 id:1 subnets fields:2 id:2 floatingips fields:3 port_id:1 projects]"
	if calls := fmt.Sprint(c.take()); calls != want {
		t.Error("for the first:", calls)
	}
	again := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", id)
	becomes(t, h, again, soon, "Neutron.PortID", id)
	second := c.twin("ports", port, body{"id": "aaaaaaaa-1111-4000-8000-000000000000", "mac_address": "fa:16:3e:00:00:99"})
	c.twin("floatingips", c.first("floatingips", "port_id", id), body{"id": "11111111-0000-4000-8000-000000000000", "floating_ip_address": "203.0.113.2", "port_id": second["id"]})
	other := add(t, h, "Name", "y", "Type", "internal", "ExtID.iface-id", second["id"])
	becomes(t, h, other, soon, "Neutron.PortID", second["id"], "Neutron.FloatingIPs", []any{"203.0.113.2"})
	becomes(t, h, qvo, 0, "Neutron.PortID", id, "Neutron.FloatingIPs", []any{c.first("floatingips", "port_id", id)["floating_ip_address"]})
	if calls := fmt.Sprint(c.take()); calls != "[ports fields:11 id:1 floatingips fields:3 port_id:1]" {
		t.Error("for another:", calls)
	}
}

// A look asks once for each kind, and for what hardly ever changes only now and then.
func TestLooks(t *testing.T) {
	c, h := newCloud(t), probetest.NewHost(t)
	port := c.vm()
	second := c.twin("ports", port, body{"id": "aaaaaaaa-1111-4000-8000-000000000000", "mac_address": "fa:16:3e:00:00:99"})
	add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", port["id"])
	tap := add(t, h, "Name", "vnet1", "Type", "tun", "MAC", "fe:16:3e:00:00:99")
	run(t, h, c.config())
	becomes(t, h, tap, soon, "Neutron.PortID", second["id"])
	count := make(map[string]int)
	probetest.Eventually(t, soon, "20 looks", func() bool {
		for _, call := range c.take() {
			count[call]++
		}
		return count["floatingips fields:3 port_id:2"] >= 20
	})
	looks := count["floatingips fields:3 port_id:2"]
	first := map[string]int{"ports fields:11 id:1": 1, "ports fields:11 mac_address:2": 1, "projects": 1}
	for call, n := range count {
		want := first[call]
		switch call {
		case "ports fields:11 id:2":
			want = looks - 1
		case "floatingips fields:3 port_id:2":
			want = looks
		case "networks fields:5 id:1", "subnets fields:2 id:2":
			want = looks / 4
		}
		if n < want || n > want+1 {
			t.Error(call, "was asked", n, "times in", looks, "looks")
		}
	}
}

// With more nodes than fit into a request the collections are read, each once, and after that only what changed.
func TestManyPorts(t *testing.T) {
	const ours, others = 2000, 3000
	c, h := newCloud(t), probetest.NewHost(t)
	vm := c.vm()
	ports := make([]body, 0, ours+others)
	for i := range ours + others {
		ports = append(ports, c.twin("ports", vm, body{
			"id": fmt.Sprintf("%08x-0000-4000-8000-000000000000", i), "mac_address": fmt.Sprintf("fa:16:3e:01:%02x:%02x", i>>8, i&255), "name": fmt.Sprint("p", i),
		}))
	}
	nodes := make([]string, ours)
	if err := h.Graph.Update("", func(tx *graph.Tx) error {
		for i := range nodes {
			id, mac := text(ports[i], "id"), text(ports[i], "mac_address")
			m := field.Make("Name", "tap"+id[:11], "Type", "tun", "MAC", mac)
			if i%2 == 0 {
				m, _ = m.Set("ExtID", field.Make("iface-id", id, "attached-mac", mac))
			}
			n := h.Env.NewNode(m)
			nodes[i] = n.ID
			if err := h.Env.AddChild(tx, h.Env.Root, n); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	run(t, h, c.config())
	for i, node := range nodes {
		becomes(t, h, node, soon, "Neutron.PortID", ports[i]["id"], "Neutron.PortName", ports[i]["name"])
	}
	took := time.Since(start)
	t.Logf("%d of %d ports after %v", ours, ours+others, took)
	var list []string
	probetest.Eventually(t, soon, "a second look", func() bool { list = append(list, c.take()...); return len(list) >= 16 })
	first := []string{
		"ports fields:11", "ports fields:11 marker", "ports fields:11 marker", "ports fields:11 marker", "ports fields:11 marker", "ports fields:11 marker",
		"networks fields:5 id:1", "subnets fields:2 id:2", "floatingips fields:3", "projects",
	}
	if fmt.Sprint(list[:len(first)]) != fmt.Sprint(first) {
		t.Error("first look:", list[:len(first)])
	}
	second := []string{
		"ports fields:4", "ports fields:4 marker", "ports fields:4 marker", "ports fields:4 marker", "ports fields:4 marker", "ports fields:4 marker", "floatingips fields:3",
	}
	for i, call := range list[len(first):] {
		if i < len(second) && call != second[i] {
			t.Error("second look:", list[len(first):])
			break
		}
	}

	for i := range 3 {
		c.revise(ports[i], "name", "changed")
		becomes(t, h, nodes[i], soon, "Neutron.PortName", "changed")
	}
	read := 0
	for _, call := range c.take() {
		if strings.Contains(call, "ports fields:11") {
			read++
			if !strings.HasPrefix(call, "ports fields:11 id:") {
				t.Error("for a change:", call)
			}
		}
	}
	if read < 1 || read > 3 {
		t.Error(read, "reads for 3 changes")
	}
	for i := range 500 {
		c.revise(ports[i], "name", "again")
	}
	for i := range 500 {
		becomes(t, h, nodes[i], soon, "Neutron.PortName", "again")
	}
	c.remove("ports", ports[0])
	becomes(t, h, nodes[0], soon, "Neutron", nil)
	becomes(t, h, nodes[1], 0, "Neutron.PortName", "again")
}

// A server that gives less than what is asked for is asked until it says that there is no more.
func TestPages(t *testing.T) {
	c, h := newCloud(t), probetest.NewHost(t)
	c.maxPage = 7
	vm := c.vm()
	var last string
	for i := range 200 {
		p := c.twin("ports", vm, body{"id": fmt.Sprintf("%08x-0000-4000-8000-000000000000", i), "mac_address": fmt.Sprintf("fa:16:3e:01:%02x:%02x", i>>8, i&255)})
		last = add(t, h, "Name", fmt.Sprint("x", i), "Type", "internal", "ExtID.iface-id", p["id"])
	}
	run(t, h, c.config())
	becomes(t, h, last, soon, "Neutron.PortID", "000000c7-0000-4000-8000-000000000000")
	gauge(t, h, "skydive_neutron_matched_nodes", 200)
}

func TestRegions(t *testing.T) {
	c := newCloud(t)
	id := text(c.vm(), "id")
	for _, x := range []struct{ region, kind, want string }{
		{"RegionOne", "public", ""}, {"regionOne", "internal", ""}, {"", "admin", ""},
		{"two", "public", `Keystone's catalogue has no public endpoint of type network in region "two", only admin in RegionOne, internal in RegionOne, public in RegionOne`},
	} {
		h := probetest.NewHost(t)
		cfg := c.config()
		cfg.RegionName, cfg.EndpointType = x.region, x.kind
		if x.want == "" {
			node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", id)
			run(t, h, cfg)
			becomes(t, h, node, soon, "Neutron.PortID", id)
		} else if err := fails(t, h, cfg); err == nil || err.Error() != x.want {
			t.Error(err)
		}
	}
}

// fails runs a probe that is to end with an error.
func fails(t testing.TB, h *probetest.Host, cfg neutron.Config) error {
	t.Helper()
	p, err := neutron.New(h.Env, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	return p.Run(ctx)
}

func TestBehindTLS(t *testing.T) {
	c := newCloud(t)
	id := text(c.vm(), "id")
	front := httptest.NewUnstartedServer(c)
	front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	front.StartTLS()
	t.Cleanup(front.Close)
	c.URL = front.URL
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*neutron.Config){
		func(cfg *neutron.Config) { cfg.Insecure = true },
		func(cfg *neutron.Config) { cfg.CACert = ca },
	} {
		h := probetest.NewHost(t)
		node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", id)
		cfg := c.config()
		change(&cfg)
		run(t, h, cfg)
		becomes(t, h, node, soon, "Neutron.PortID", id)
	}
	if err := fails(t, probetest.NewHost(t), c.config()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error("with a certificate that nobody knows:", err)
	}
}

// A subscription that is lost is begun anew.
func TestCommitsLost(t *testing.T) {
	c, h := newCloud(t), probetest.NewHost(t)
	id := text(c.vm(), "id")
	p, err := neutron.New(h.Env, c.config())
	if err != nil {
		t.Fatal(err)
	}
	neutron.SetQueue(p, 1)
	gone := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", id)
	h.Run(t, p)
	becomes(t, h, gone, soon, "Neutron.PortID", id)
	var nodes []string
	for i := range 300 {
		nodes = append(nodes, add(t, h, "Name", fmt.Sprint("y", i), "Type", "internal", "ExtID.iface-id", id))
	}
	remove(t, h, gone)
	for _, node := range nodes {
		becomes(t, h, node, soon, "Neutron.PortID", id)
	}
}

// The secret is neither in what is logged nor in what is shown.
func TestSecrets(t *testing.T) {
	c, h := newCloud(t), probetest.NewHost(t)
	var log strings.Builder
	h.Env.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.Env.Registerer = prometheus.NewRegistry()
	c.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		text, _ := io.ReadAll(r.Body)
		answer(w, 400, `{"error":{"code":400,"message":"cannot read","request":`+string(text)+`}}`)
		return true
	})
	err := fails(t, h, c.config())
	if err == nil || !strings.Contains(err.Error(), "cannot read") {
		t.Fatal(err)
	}
	graph, _ := h.Graph.Snapshot().Node(h.Env.Root).MarshalJSON()
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), log.String(), string(graph)} {
		if strings.Contains(text, "s3cr3t") || strings.Contains(text, "gAAAA") {
			t.Error("a secret is shown:", text)
		}
	}
}
