//go:build openstack

// These tests need a real Keystone and a real Neutron: make openstack-test, which says in the environment where they are.

package neutron_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
	"skydive/src/probe/neutron"
	"skydive/src/probe/probetest"
)

func setting(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv("SKYDIVE_TEST_OPENSTACK_" + name)
	if value == "" {
		t.Fatalf("SKYDIVE_TEST_OPENSTACK_%s is not set: make openstack-test runs this beside an OpenStack", name)
	}
	return value
}

// operator is who makes things in Neutron.
type operator struct {
	t          testing.TB
	login      body   // Keystone's answer
	token, url string // of Neutron
	project    string
	name       string // of this test; what it makes is called so, and is removed in the end
}

func newOperator(t testing.TB) *operator {
	t.Helper()
	o := &operator{t: t, name: "t" + strings.ToLower(rand.Text()[:8])}
	domain := body{"name": "Default"}
	header, answer := o.send("POST", setting(t, "AUTH_URL")+"/auth/tokens", body{"auth": body{
		"identity": body{"methods": []string{"password"}, "password": body{"user": body{
			"name": setting(t, "USERNAME"), "password": setting(t, "PASSWORD"), "domain": domain}}},
		"scope": body{"project": body{"name": setting(t, "PROJECT"), "domain": domain}},
	}})
	o.token, o.login = header.Get("X-Subject-Token"), answer
	token := answer["token"].(body)
	o.project = token["project"].(body)["id"].(string)
	for _, service := range token["catalog"].([]any) {
		if s := service.(body); s["type"] == "network" {
			o.url = s["endpoints"].([]any)[0].(body)["url"].(string)
		}
	}
	return o
}

func (o *operator) send(method, url string, what any) (http.Header, body) {
	o.t.Helper()
	var text []byte
	if what != nil {
		var err error
		if text, err = json.Marshal(what); err != nil {
			o.t.Fatal(err)
		}
	}
	r, err := http.NewRequest(method, url, bytes.NewReader(text))
	if err != nil {
		o.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Auth-Token", o.token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		o.t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode >= 300 {
		o.t.Fatalf("%s %s: %s %s %v", method, url, answer.Status, data, err)
	}
	var found body
	if len(data) > 0 {
		if err := json.Unmarshal(data, &found); err != nil {
			o.t.Fatal(err)
		}
	}
	return answer.Header, found
}

func (o *operator) ask(method, path string, what any) body {
	o.t.Helper()
	_, found := o.send(method, o.url+"/v2.0/"+path, what)
	return found
}

// make makes one thing in Neutron.
func (o *operator) make(kind string, what body) body {
	o.t.Helper()
	if what["name"] == nil && kind != "floatingip" {
		what["name"] = o.name
	}
	made := o.ask("POST", kind+"s", body{kind: what})[kind].(body)
	o.t.Cleanup(func() { o.discard(kind, made["id"].(string)) })
	return made
}

// discard removes a thing, if it is still there.
func (o *operator) discard(kind, id string) {
	r, err := http.NewRequest("DELETE", o.url+"/v2.0/"+kind+"s/"+id, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	r.Header.Set("X-Auth-Token", o.token)
	if answer, err := http.DefaultClient.Do(r); err == nil {
		answer.Body.Close()
	}
}

func (o *operator) set(kind, id string, what body) {
	o.t.Helper()
	o.ask("PUT", kind+"s/"+id, body{kind: what})
}

func config(t testing.TB) neutron.Config {
	cfg := *neutron.Spec.Config().(*neutron.Config)
	cfg.AuthURL, cfg.Username, cfg.Password = setting(t, "AUTH_URL"), setting(t, "USERNAME"), setting(t, "PASSWORD")
	cfg.TenantName, cfg.RegionName = setting(t, "PROJECT"), setting(t, "REGION")
	cfg.Update = 500 * time.Millisecond
	return cfg
}

// world is a network with a router, a port of an instance that has a floating address, and one of a DHCP server.
type world struct {
	*operator
	net, outside, router, vm, dhcp, floating body
}

func newWorld(t testing.TB) *world {
	w := &world{operator: newOperator(t)}
	w.net = w.make("network", body{})
	id := w.net["id"]
	s4 := w.make("subnet", body{"network_id": id, "ip_version": 4, "cidr": "10.9.0.0/24"})
	w.make("subnet", body{"network_id": id, "ip_version": 6, "cidr": "2001:db8:9::/64", "ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac"})
	w.router = w.make("router", body{})
	w.ask("PUT", "routers/"+text(w.router, "id")+"/add_router_interface", body{"subnet_id": s4["id"]})
	t.Cleanup(func() {
		w.ask("PUT", "routers/"+text(w.router, "id")+"/remove_router_interface", body{"subnet_id": s4["id"]})
	})
	w.outside = w.make("network", body{"router:external": true, "name": w.name + "-out"})
	w.make("subnet", body{"network_id": w.outside["id"], "ip_version": 4, "cidr": "203.0.113.0/24", "enable_dhcp": false})
	w.set("router", text(w.router, "id"), body{"external_gateway_info": body{"network_id": w.outside["id"]}})
	t.Cleanup(func() { w.set("router", text(w.router, "id"), body{"external_gateway_info": nil}) })
	w.vm = w.make("port", body{"network_id": id, "device_owner": "compute:nova", "device_id": "11111111-2222-4333-8444-555555555555", "binding:host_id": "h1"})
	w.dhcp = w.make("port", body{"network_id": id, "device_owner": "network:dhcp", "device_id": "dhcp"})
	w.floating = w.make("floatingip", body{"floating_network_id": w.outside["id"], "port_id": w.vm["id"]})
	return w
}

var record = flag.Bool("record", false, "write what the services answer to testdata, for the tests that need no OpenStack")

// record writes the world down.
func (w *world) record() {
	w.t.Helper()
	dates := regexp.MustCompile(`"\d{4}-\d\d-\d\dT`)
	write := func(name string, answer body) {
		text, err := json.MarshalIndent(answer, "", " ")
		if err != nil {
			w.t.Fatal(err)
		}
		text = dates.ReplaceAll(text, []byte(`"2024-05-01T`))
		if err := os.WriteFile("testdata/"+name+".json", append(text, '\n'), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	ids := "network_id=" + text(w.net, "id") + "&network_id=" + text(w.outside, "id")
	for kind, query := range map[string]string{
		"ports": ids, "subnets": ids, "networks": "name=" + w.name + "&name=" + w.name + "-out", "routers": "name=" + w.name, "floatingips": "id=" + text(w.floating, "id"),
	} {
		write(kind, w.ask("GET", kind+"?"+query, nil))
	}
	_, projects := w.send("GET", setting(w.t, "AUTH_URL")+"/projects", nil)
	write("projects", projects)
	write("tokens", w.login)
}

func TestWhatNeutronHas(t *testing.T) {
	w := newWorld(t)
	if *record {
		w.record()
	}
	h := probetest.NewHost(t)
	id, mac := text(w.vm, "id"), text(w.vm, "mac_address")
	short := id[:11]
	qvo := add(t, h, "Name", "qvo"+short, "Type", "veth", "MAC", "0a:00:00:00:00:01", "ExtID.iface-id", id, "ExtID.attached-mac", mac, "ExtID.vm-uuid", "11111111-2222-4333-8444-555555555555")
	qvb := add(t, h, "Name", "qvb"+short, "Type", "veth", "MAC", "0a:00:00:00:00:02")
	qbr := add(t, h, "Name", "qbr"+short, "Type", "bridge", "MAC", "0a:00:00:00:00:02")
	tap := add(t, h, "Name", "tap"+short, "Type", "tun", "MAC", "fe"+mac[2:])
	dhcp := add(t, h, "Name", "tap"+text(w.dhcp, "id")[:11], "Type", "internal", "MAC", text(w.dhcp, "mac_address"))
	other := add(t, h, "Name", "eth0", "Type", "device", "MAC", "0a:00:00:00:00:03")
	qdhcp := add(t, h, "Name", "qdhcp-"+text(w.net, "id"), "Type", "netns", "Path", "/a")
	qrouter := add(t, h, "Name", "qrouter-"+text(w.router, "id"), "Type", "netns", "Path", "/b")
	run(t, h, config(t))

	vni := int64(w.net["provider:segmentation_id"].(float64))
	took := becomes(t, h, qvo, 10*time.Second,
		"Manager", "neutron", "Neutron.PortID", id, "Neutron.PortName", w.name, "Neutron.NetworkID", w.net["id"], "Neutron.NetworkName", w.name,
		"Neutron.TenantID", w.project, "Neutron.TenantName", setting(t, "PROJECT"), "Neutron.VNI", vni, "Neutron.DeviceOwner", "compute:nova",
		"Neutron.DeviceID", "11111111-2222-4333-8444-555555555555", "Neutron.HostID", "h1", "Neutron.RouterID", nil, "Neutron.FloatingIPs", []any{w.floating["floating_ip_address"]},
		"Neutron.IPV4", []string{address(w.vm, false) + "/24"}, "Neutron.IPV6", []string{address(w.vm, true) + "/64"}, "PeerIntfMAC", nil)
	t.Log("first view after", took)
	for _, node := range []string{qvb, qbr, tap} {
		becomes(t, h, node, 0, "Manager", "neutron", "Neutron.PortID", id, "ExtID.attached-mac", mac, "ExtID.vm-uuid", "11111111-2222-4333-8444-555555555555", "ExtID.iface-id", nil)
	}
	becomes(t, h, tap, 0, "PeerIntfMAC", mac)
	becomes(t, h, qbr, 0, "PeerIntfMAC", nil)
	becomes(t, h, dhcp, 0, "Neutron.PortID", w.dhcp["id"], "Neutron.DeviceOwner", "network:dhcp", "PeerIntfMAC", nil)
	becomes(t, h, qdhcp, 0, "Manager", "neutron", "Neutron.NetworkID", w.net["id"], "Neutron.NetworkName", w.name, "Neutron.VNI", vni, "Neutron.TenantID", w.project)
	becomes(t, h, qrouter, 0, "Manager", "neutron", "Neutron.RouterID", w.router["id"], "Neutron.RouterName", w.name, "Neutron.TenantName", setting(t, "PROJECT"))
	becomes(t, h, other, 0, "Manager", nil, "Neutron", nil)
	if running, reason := h.Running(); !running || reason != "" {
		t.Error(running, reason)
	}
}

func TestNeutronChanges(t *testing.T) {
	w := newWorld(t)
	h := probetest.NewHost(t)
	id := text(w.vm, "id")
	node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", id)
	lone := add(t, h, "Name", "vnet3", "Type", "tun", "MAC", "fe"+text(w.vm, "mac_address")[2:])
	space := add(t, h, "Name", "qrouter-"+text(w.router, "id"), "Type", "netns", "Path", "/b")
	run(t, h, config(t))
	const within = 20 * time.Second
	both := func(pairs ...any) {
		t.Helper()
		for _, id := range []string{node, lone} {
			becomes(t, h, id, within, pairs...)
		}
	}
	both("Neutron.PortID", id, "Neutron.FloatingIPs", []any{w.floating["floating_ip_address"]})
	w.set("port", id, body{"name": "renamed", "device_id": "elsewhere"})
	both("Neutron.PortName", "renamed", "Neutron.DeviceID", "elsewhere")
	w.set("network", text(w.net, "id"), body{"name": "green"})
	both("Neutron.NetworkName", "green")
	w.set("router", text(w.router, "id"), body{"name": "door"})
	becomes(t, h, space, within, "Neutron.RouterName", "door")
	w.set("floatingip", text(w.floating, "id"), body{"port_id": nil})
	both("Neutron.FloatingIPs", nil)
	w.set("port", id, body{"fixed_ips": []any{}})
	both("Neutron.IPV4", nil, "Neutron.IPV6", []any{address(w.vm, true) + "/64"}) // which it makes of the MAC address
	w.set("port", id, body{"mac_address": "fa:16:3e:ff:00:01", "binding:host_id": ""})
	becomes(t, h, lone, within, "Neutron", nil, "Manager", nil)
	becomes(t, h, node, within, "Neutron.HostID", nil)
	w.discard("port", id)
	becomes(t, h, node, within, "Neutron", nil, "Manager", nil, "ExtID.iface-id", id)
	probetest.Eventually(t, within, "a reason", func() bool { _, reason := h.Running(); return strings.Contains(reason, "shows none of the 1 ports") })
}

// A host with as many ports as one request asks for, with one more, and with 2,000, half of them known by their address only.
func TestManyRealPorts(t *testing.T) {
	o := newOperator(t)
	shell(t, "LOAD")
	t.Cleanup(func() { shell(t, "UNLOAD") })
	network := text(o.ask("GET", "networks?name=load", nil)["networks"].([]any)[0].(body), "id")
	var ports []body
	for _, p := range o.ask("GET", "ports?network_id="+network, nil)["ports"].([]any) {
		ports = append(ports, p.(body))
	}
	if len(ports) != 2000 {
		t.Fatal(len(ports), "ports were loaded")
	}
	// As long as these services take to answer somebody else, when others keep the machine busy.
	start := time.Now()
	other := newOperator(t)
	for _, list := range []string{"ports?limit=1000", "ports?limit=1000&marker=" + text(ports[1000], "id"), "networks", "subnets", "floatingips"} {
		other.ask("GET", list, nil)
	}
	other.send("GET", setting(t, "AUTH_URL")+"/projects", nil)
	plain := time.Since(start)
	t.Log("a plain client takes", plain)
	for _, n := range []int{150, 151, len(ports)} {
		h := probetest.NewHost(t)
		nodes := make([]string, n)
		if err := h.Graph.Update("", func(tx *graph.Tx) error {
			for i := range nodes {
				m := field.Make("Name", fmt.Sprint("x", i), "Type", "internal", "ExtID", field.Make("iface-id", ports[i]["id"]))
				if i%2 != 0 {
					m = field.Make("Name", fmt.Sprint("vnet", i), "Type", "tun", "MAC", "fe"+text(ports[i], "mac_address")[2:])
				}
				node := h.Env.NewNode(m)
				nodes[i] = node.ID
				if err := h.Env.AddChild(tx, h.Env.Root, node); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		p, err := neutron.New(h.Env, config(t))
		if err != nil {
			t.Fatal(err)
		}
		neutron.Hurry(p)
		start := time.Now()
		stop := h.Run(t, p)
		for i, node := range nodes {
			becomes(t, h, node, time.Minute, "Neutron.PortID", ports[i]["id"], "Neutron.NetworkName", "load", "Neutron.IPV4", []any{address(ports[i], false) + "/16"})
		}
		took := time.Since(start)
		t.Logf("%d ports after %v", n, took)
		name := fmt.Sprint("last", start.UnixNano())
		o.set("port", text(ports[n-1], "id"), body{"name": name})
		t.Log("a change after", becomes(t, h, nodes[n-1], time.Minute, "Neutron.PortName", name))
		stop()
	}
}

func TestTokensEnd(t *testing.T) {
	w := newWorld(t)
	h := probetest.NewHost(t)
	id := text(w.vm, "id")
	node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", id)
	cfg := config(t)
	cfg.AuthURL = setting(t, "SHORT_AUTH_URL")
	run(t, h, cfg)
	becomes(t, h, node, 20*time.Second, "Neutron.PortID", id)
	reasons := make(map[string]bool)
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); {
		name := "at " + time.Now().Format(time.StampMilli)
		w.set("port", id, body{"name": name})
		becomes(t, h, node, 10*time.Second, "Neutron.PortName", name)
		_, reason := h.Running()
		reasons[reason] = true
	}
	if len(reasons) != 1 || !reasons[""] {
		t.Error(reasons)
	}
}

func TestWithoutTheRight(t *testing.T) {
	w := newWorld(t)
	h := probetest.NewHost(t)
	node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", w.vm["id"])
	cfg := config(t)
	cfg.Username, cfg.Password, cfg.TenantName = setting(t, "MEMBER_USERNAME"), setting(t, "MEMBER_PASSWORD"), setting(t, "MEMBER_PROJECT")
	run(t, h, cfg)
	probetest.Eventually(t, 20*time.Second, "a reason", func() bool {
		_, reason := h.Running()
		return reason == "Neutron shows none of the 1 ports that Open vSwitch has here: may user "+cfg.Username+" see those of all projects?"
	})
	becomes(t, h, node, 0, "Neutron", nil)
}

// shell runs a command of who started the services.
func shell(t testing.TB, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // also when the test is over
	defer cancel()
	if out, err := exec.CommandContext(ctx, "sh", "-c", setting(t, name)).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func TestServicesStop(t *testing.T) {
	w := newWorld(t)
	h := probetest.NewHost(t)
	id := text(w.vm, "id")
	node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", id)
	cfg := config(t)
	s, err := probe.NewSupervisor(probe.Options{
		Graph: h.Graph, Root: h.Env.Root, Host: h.Env.Host, Origin: h.Env.Origin, Names: []string{"neutron"}, Specs: []probe.Spec{neutron.Spec}, Log: h.Env.Log,
		Load: func(_ string, into any) error { *into.(*neutron.Config) = cfg; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	is := func(state probe.State, reason string) {
		t.Helper()
		probetest.Eventually(t, 2*time.Minute, fmt.Sprint(state, ": ", reason), func() bool {
			s := s.Status()["neutron"]
			return s.Status == state && strings.Contains(s.Reason, reason) && (s.Reason == "") == (reason == "")
		})
	}
	stopped := make(map[string]bool)
	stop := func(service string) { t.Helper(); stopped[service] = true; shell(t, "STOP_"+service) }
	start := func(service string) {
		t.Helper()
		if stopped[service] {
			stopped[service] = false
			shell(t, "START_"+service)
		}
	}
	defer start("KEYSTONE")
	defer start("NEUTRON")

	// Neither is there at the start; they come one after the other.
	stop("KEYSTONE")
	stop("NEUTRON")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	is(probe.Failed, "Keystone at "+strings.TrimSuffix(cfg.AuthURL, "/")+"/ cannot be asked: ")
	start("KEYSTONE")
	is(probe.Failed, "Neutron at "+strings.TrimSuffix(w.url, "/")+"/v2.0/ cannot be asked: ")
	start("NEUTRON")
	is(probe.Active, "")
	becomes(t, h, node, 0, "Neutron.PortID", id)

	// And go.
	stop("NEUTRON")
	is(probe.Active, "Neutron at ")
	becomes(t, h, node, 0, "Neutron.PortID", id)
	start("NEUTRON")
	is(probe.Active, "")
	w.set("port", id, body{"name": "back"})
	becomes(t, h, node, 20*time.Second, "Neutron.PortName", "back")
}
