package ovsdb

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/ovs/ovstest"
	"skydive/src/probe"
	"skydive/src/probe/probetest"
)

func TestRootShowsBridgesPortsAndInterfaces(t *testing.T) {
	l := newLab(t, "ova-show")
	l.Bridge(t, "br0")
	l.ip(l.ns, "link add e1 type veth peer name e2")
	l.vsctl("set open_vswitch . ovs_version=3.1.0 external_ids:system-id=chassis1 other_config:a=b")
	l.vsctl("add-port br0 e1 tag=12 -- set interface e1 external_ids:iface-id=abc external_ids:dotted.key=x")
	l.vsctl("add-port br0 i1 -- set interface i1 type=internal")
	l.vsctl("add-port br0 v1 trunks=3,1 vlan_mode=native-untagged -- set interface v1 type=vxlan options:remote_ip=192.0.2.1 options:local_ip=192.0.2.2 options:psk=secret")
	l.start()
	bridge := l.one("Type", "ovsbridge", "Name", "br0")
	port := l.one("Type", "ovsport", "Name", "e1")
	var e1 = l.iface("e1")
	if bridge == nil || port == nil || e1 == nil {
		t.Fatalf("bridge %v, port %v, interface %v", bridge, port, e1)
	}
	if l.owner(bridge).ID != l.Env.Root || l.owner(port).ID != bridge.ID || l.owner(e1).ID != l.Env.Root {
		t.Error("wrong owners")
	}
	if l.linked(bridge, port) == nil || l.linked(port, e1) == nil {
		t.Error("no links")
	}
	l.eventually("interface e1", func() bool {
		e1 = l.iface("e1")
		return value(e1, "OfPort") == int64(1) && value(e1, "ExtID.iface-id") == "abc" && value(e1, "ExtID.dotted.key") == "x" &&
			value(e1, "Type") == "veth" && value(e1, "Driver") == "veth" && value(port, "Vlans") == int64(12)
	})
	l.eventually("interface i1", func() bool {
		i1 := l.iface("i1")
		return value(i1, "Type") == "internal" && i1 != nil && drivenByOVS(i1) && value(i1, "UUID") != nil && l.owner(i1).ID == l.Env.Root
	})
	v1 := l.iface("v1")
	if value(v1, "Type") != "vxlan" || value(v1, "RemoteIP") != "192.0.2.1" || value(v1, "LocalIP") != "192.0.2.2" || l.owner(v1).ID != bridge.ID {
		t.Errorf("tunnel: %v", v1)
	}
	if value(v1, "Ovs.Options.psk") != nil || value(v1, "Ovs.Options.local_ip") == nil {
		t.Errorf("options: %v", value(v1, "Ovs.Options"))
	}
	tunnel := l.one("Type", "ovsport", "Name", "v1")
	if !field.Equal(value(tunnel, "Trunks"), field.List{int64(1), int64(3)}) || value(tunnel, "VlanMode") != "native-untagged" || value(tunnel, "Vlans") != nil {
		t.Errorf("trunk: %v", tunnel)
	}
	system := l.one("Type", "host")
	if module := l.one("Name", "ovs-system"); module != nil {
		system = module
	}
	l.eventually("Open vSwitch as a whole", func() bool {
		system = l.Graph.Snapshot().Node(system.ID)
		return value(system, "Ovs.Version") == "3.1.0" && value(system, "ExtID.system-id") == "chassis1" && value(system, "Ovs.OtherConfig.a") == "b"
	})
	for _, n := range l.Find("Type", "ovsport") {
		if n.Metadata.Text("TID") == "" || l.iface(n.Metadata.Text("Name")).Metadata.Text("TID") == "" {
			t.Errorf("no TID: %v", n.Metadata)
		}
	}
	l.vsctl("del-br br0")
	l.eventually("all gone", func() bool {
		return l.one("Type", "ovsbridge") == nil && len(l.Find("Type", "ovsport")) == 0 && l.iface("v1") == nil && l.iface("i1") == nil &&
			value(l.iface("e1"), "UUID") == nil && value(l.iface("e1"), "ExtID") == nil && value(l.iface("e1"), "Type") == "veth"
	})
}

func TestRootAnInterfaceIsFollowedIntoOtherNamespaces(t *testing.T) {
	l := newLab(t, "ova-move")
	router, dhcp, decoy := l.netns("ova-move-r"), l.netns("ova-move-d"), l.netns("ova-move-x")
	l.Bridge(t, "br0")
	// An interface of the same name as one of Open vSwitch, made by the same driver, where it does not belong.
	l.ip(decoy, "tuntap add qr-1 mode tap")
	l.vsctl("add-port br0 qr-1 -- set interface qr-1 type=internal external_ids:iface-id=p1")
	l.start()
	in := func(ns, name string) *graph.Node {
		for _, n := range l.Find("Name", name, "Type", "internal") {
			if owner := l.owner(n); owner != nil && owner.Metadata.Text("Name") == ns {
				return n
			}
		}
		return nil
	}
	shown := func(ns, name string) func() bool {
		return func() bool {
			n := in(ns, name)
			return value(n, "ExtID.iface-id") == "p1" && l.linked(l.one("Type", "ovsport", "Name", "qr-1"), n) != nil &&
				len(l.Find("ExtID.iface-id", "p1")) == 1
		}
	}
	l.eventually("in the namespace of the host", shown("h1", "qr-1"))
	l.ip(l.ns, "link set qr-1 netns "+router)
	l.eventually("in the router's", shown(router, "qr-1"))
	l.ip(router, "link set qr-1 name eth0")
	l.eventually("with another name", shown(router, "eth0"))
	l.ip(router, "link set eth0 netns "+dhcp)
	l.eventually("in another one", shown(dhcp, "eth0"))
	if n := l.iface("qr-1"); value(n, "UUID") != nil || value(n, "Type") != "tuntap" {
		t.Errorf("the decoy: %v", n.Metadata)
	}
	l.vsctl("del-port br0 qr-1")
	l.eventually("gone", func() bool { return len(l.Find("ExtID.iface-id", "p1")) == 0 && in(dhcp, "eth0") == nil })
}

func TestRootAnInterfaceThatWasMovedBeforeIsFound(t *testing.T) {
	l := newLab(t, "ova-was")
	router, hidden := l.netns("ova-was-r"), ovstest.Namespace(t, "ova-was-h")
	l.Bridge(t, "br0")
	for _, name := range []string{"qr-1", "qr-2", "qr-3"} {
		l.vsctl("add-port br0 " + name + " -- set interface " + name + " type=internal external_ids:attached-mac=FA:16:3E:00:00:01")
	}
	l.vsctl("remove interface qr-2 external_ids attached-mac")
	l.ip(l.ns, "link set qr-1 address fa:16:3e:00:00:01")
	l.ip(l.ns, "link set qr-1 netns "+router)
	l.ip(l.ns, "link set qr-2 netns "+router)
	l.ip(l.ns, "link set qr-3 netns "+hidden)
	l.eventually("ovs-vswitchd notices", func() bool {
		return l.vsctl("get interface qr-1 ifindex")+l.vsctl("get interface qr-2 ifindex")+l.vsctl("get interface qr-3 ifindex") == "000"
	})
	l.start()
	l.eventually("by address, by name, and a node for the one that nobody sees", func() bool {
		n1, n2, n3 := l.iface("qr-1"), l.iface("qr-2"), l.iface("qr-3")
		return value(n1, "UUID") != nil && l.owner(n1).Metadata.Text("Name") == router &&
			value(n2, "UUID") != nil && l.owner(n2).Metadata.Text("Name") == router &&
			value(n3, "Type") == "internal" && value(n3, "TID") != nil && l.owner(n3).Metadata.Text("Type") == "ovsbridge"
	})
	// Once it can be seen it is one node again.
	l.ip(hidden, "link set qr-3 address fa:16:3e:00:00:03")
	l.vsctl("set interface qr-3 external_ids:attached-mac=fa:16:3e:00:00:03")
	l.ip(hidden, "link set qr-3 netns "+router)
	l.eventually("it shows up", func() bool {
		n := l.iface("qr-3")
		return value(n, "UUID") != nil && l.owner(n).Metadata.Text("Name") == router
	})
}

func TestRootSameNamesElsewhere(t *testing.T) {
	l := newLab(t, "ova-same")
	other := l.netns("ova-same-o")
	for _, ns := range []string{l.ns, other} {
		l.ip(ns, "link add e1 index 700 type veth peer name e2")
		l.ip(ns, "link add e3 index 701 type veth peer name e4")
	}
	l.Bridge(t, "br0")
	l.vsctl("add-bond br0 bond0 e1 e3 bond_mode=active-backup")
	l.vsctl("add-port br0 e9 -- set interface e9 type=vxlan options:remote_ip=192.0.2.1")
	l.ip(other, "link add e9 type veth peer name e10")
	l.start()
	bond := l.one("Type", "ovsport", "Name", "bond0")
	for _, name := range []string{"e1", "e3"} {
		l.eventually("the right "+name, func() bool {
			linked := 0
			for _, n := range l.Find("Name", name, "Type", "veth") {
				owner := l.owner(n).ID
				if (owner == l.Env.Root) != (value(n, "UUID") != nil) {
					return false
				}
				if l.linked(bond, n) != nil {
					linked++
				}
			}
			return linked == 1
		})
	}
	if value(bond, "BondMode") != "active-backup" {
		t.Errorf("bond: %v", bond.Metadata)
	}
	if n := l.one("Name", "e9", "Type", "veth"); value(n, "UUID") != nil {
		t.Error("a tunnel was taken for an interface of the kernel")
	}
	// A port takes another interface.
	l.ip(l.ns, "link add e5 type veth peer name e6")
	l.vsctl("-- --id=@i create interface name=e5 -- add port bond0 interfaces @i")
	l.eventually("three in the bond", func() bool { return l.linked(bond, l.iface("e5")) != nil })
	id := l.vsctl("get interface e3 _uuid")
	l.vsctl("remove port bond0 interfaces " + id)
	l.eventually("two in the bond", func() bool {
		for _, n := range l.Find("Name", "e3", "Type", "veth") {
			if value(n, "UUID") != nil || l.linked(bond, n) != nil {
				return false
			}
		}
		return true
	})
}

func TestRootWhatGoesAwayWhileThereIsNoConnection(t *testing.T) {
	l := newLab(t, "ova-lost")
	l.Bridge(t, "br0", "br1")
	l.vsctl("add-port br0 i1 -- set interface i1 type=internal external_ids:n=1")
	l.vsctl("add-port br0 v1 -- set interface v1 type=vxlan options:remote_ip=192.0.2.1")
	l.start()
	kept := l.one("Type", "ovsbridge", "Name", "br0").ID
	l.KillDB(t)
	l.eventually("the trouble is told", func() bool { _, reason := l.Running(); return strings.Contains(reason, "is lost") })
	if l.one("Type", "ovsbridge", "Name", "br0") == nil {
		t.Error("the view is not kept")
	}
	l.KillSwitch(t) // it would put back what it has
	transaction := `["Open_vSwitch",{"op":"update","table":"Open_vSwitch","where":[],"row":{"bridges":["set",[["uuid","` + l.uuid("br0") + `"]]]}},
		{"op":"update","table":"Bridge","where":[["name","==","br0"]],"row":{"ports":["set",[["uuid","` + l.portUUID("br0") + `"],["uuid","` + l.portUUID("i1") + `"]]]}},
		{"op":"update","table":"Interface","where":[["name","==","i1"]],"row":{"external_ids":["map",[["m","2"]]]}}]`
	if out := l.Server.Run(t, "ovsdb-tool", "transact", l.Dir+"/conf.db", transaction); strings.Contains(out, "error") {
		t.Fatal(out)
	}
	l.StartDB(t)
	l.eventually("as the database has it now", func() bool {
		_, reason := l.Running()
		i1 := l.iface("i1")
		return reason == "" && l.one("Type", "ovsbridge") != nil && len(l.Find("Type", "ovsport")) == 2 && l.iface("v1") == nil &&
			value(i1, "ExtID.m") == "2" && value(i1, "ExtID.n") == nil
	})
	if l.one("Type", "ovsbridge").ID != kept {
		t.Error("the bridge has another identifier")
	}
	if n := l.iface("br1"); value(n, "UUID") != nil { // still in the kernel: ovs-vswitchd does not run
		t.Errorf("interface of the other bridge: %v", n.Metadata)
	}
	l.StartSwitch(t)
	l.vsctl("add-port br0 i2 -- set interface i2 type=internal")
	l.eventually("a port after that", func() bool { return value(l.iface("i2"), "OfPort") != nil })
}

func (l *lab) uuid(bridge string) string {
	l.Helper()
	return string(l.one("Type", "ovsbridge", "Name", bridge).Metadata.Text("UUID"))
}

func (l *lab) portUUID(port string) string {
	l.Helper()
	return string(l.one("Type", "ovsport", "Name", port).Metadata.Text("UUID"))
}

func TestRootNoDatabase(t *testing.T) {
	l := newLab(t, "ova-none", ovstest.NoSwitch)
	l.StopDB(t)
	err := l.probe().Run(t.Context())
	if !errors.Is(err, probe.ErrUnavailable) {
		t.Errorf("without a socket: %v", err)
	}
	l.StartDB(t)
	l.KillDB(t)
	if err := l.probe().Run(t.Context()); err == nil || errors.Is(err, probe.ErrUnavailable) {
		t.Errorf("with the socket of a server that crashed: %v", err)
	}
}

func TestRootWhileTheSwitchDoesNotRun(t *testing.T) {
	l := newLab(t, "ova-down")
	l.Bridge(t, "br0")
	l.vsctl("add-port br0 i1 -- set interface i1 type=internal")
	l.ip(l.ns, "link add e1 type veth peer name e2")
	l.vsctl("add-port br0 e1")
	l.KillSwitch(t)
	l.KillDB(t) // with it goes what ovs-vswitchd said of the kernel
	l.StartDB(t)
	l.start()
	l.eventually("by name", func() bool {
		i1, e1 := l.iface("i1"), l.iface("e1")
		return value(i1, "UUID") != nil && value(i1, "EncapType") == "ether" && value(e1, "UUID") != nil && value(e1, "Type") == "veth"
	})
	l.StartSwitch(t)
	l.eventually("nothing changes", func() bool {
		i1 := l.iface("i1")
		return l.vsctl("get interface i1 ifindex") != "[]" && value(i1, "UUID") != nil && value(i1, "EncapType") == "ether"
	})
}

func TestRootStatisticsWhenWanted(t *testing.T) {
	l := newLab(t, "ova-stats")
	l.Bridge(t, "br0")
	l.vsctl("add-port br0 i1 -- set interface i1 type=internal")
	l.vsctl("set open_vswitch . other_config:stats-update-interval=1000")
	stop := l.start()
	l.ip(l.ns, "link set i1 up")
	l.eventually("statistics in the database", func() bool { return strings.Contains(l.vsctl("get interface i1 statistics"), "rx_packets=") })
	if value(l.iface("i1"), "Ovs.Metric") != nil {
		t.Error("statistics that nobody asked for")
	}
	stop()
	l = &lab{Host: probetest.NewHost(t), TB: t, Server: l.Server, ns: l.ns, run: l.run}
	l.start(func(c *Config) { c.EnableStats = true })
	l.eventually("a first reading", func() bool { return value(l.iface("i1"), "Ovs.Metric.Last") != nil })
	l.ip(l.ns, "addr add 192.0.2.1/24 dev i1") // duplicate address detection and the like send packets
	l.eventually("a difference", func() bool {
		if out, err := exec.Command("ip", "netns", "exec", l.ns, "ping", "-c", "1", "-W", "1", "192.0.2.2").CombinedOutput(); err == nil {
			t.Fatalf("somebody answers: %s", out)
		}
		n := l.iface("i1")
		rx, _ := value(n, "Ovs.LastUpdateMetric.RxPackets").(int64)
		tx, _ := value(n, "Ovs.LastUpdateMetric.TxPackets").(int64) // as the kernel module has it
		start, _ := value(n, "Ovs.LastUpdateMetric.Start").(int64)
		last, _ := value(n, "Ovs.LastUpdateMetric.Last").(int64)
		return rx+tx > 0 && 0 < start && start < last
	})
}

func TestRootColumnsThatWeDoNotKnow(t *testing.T) {
	data, err := os.ReadFile("/usr/share/openvswitch/vswitch.ovsschema")
	if err != nil {
		ovstest.Missing(t, err.Error())
	}
	var schema map[string]any
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	tables := schema["tables"].(map[string]any)
	columns := func(table string) map[string]any { return tables[table].(map[string]any)["columns"].(map[string]any) }
	for _, table := range []string{"Open_vSwitch", "Bridge", "Port", "Interface"} {
		columns(table)["of_the_future"] = map[string]any{"type": map[string]any{"key": "string", "value": "real", "min": 0, "max": "unlimited"}}
	}
	delete(columns("Port"), "bond_active_slave")
	delete(columns("Interface"), "mtu")
	delete(columns("Bridge"), "fail_mode")
	if data, err = json.Marshal(schema); err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/schema"
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, "ova-future", ovstest.Schema(file, "Open_vSwitch"))
	l.vsctl("--no-wait add-br br0 -- add-port br0 v1 -- set interface v1 type=vxlan")
	if out := l.Server.Run(t, "ovsdb-client", "transact", l.DB, `["Open_vSwitch",{"op":"update","table":"Interface","where":[],
		"row":{"of_the_future":["map",[["a",1.5]]]}}]`); strings.Contains(out, "error") {
		t.Fatal(out)
	}
	l.startOVS()
	l.eventually("what we know", func() bool { return value(l.iface("v1"), "Type") == "vxlan" })
}

func TestRootNothingIsLeftOpen(t *testing.T) {
	l := newLab(t, "ova-leak")
	l.Bridge(t, "br0")
	turn := func() { l.startOVS()(); l.Graph.Update("", l.clear) }
	turn()
	goroutines, files := handles(t)
	for range 5 {
		turn()
	}
	l.eventually("goroutines end", func() bool { now, _ := handles(t); return now <= goroutines })
	if _, now := handles(t); now > files {
		t.Errorf("%d files are open, were %d", now, files)
	}
}

// clear empties the graph but for the host.
func (l *lab) clear(tx *graph.Tx) error {
	var all []string
	for n := range tx.Nodes(field.Filter{}) {
		if n.ID != l.Env.Root {
			all = append(all, n.ID)
		}
	}
	for _, id := range all {
		if err := tx.DeleteNode(id, 0); err != nil {
			return err
		}
	}
	return nil
}

func TestRootPermissionDenied(t *testing.T) {
	const variable = "SKYDIVE_TEST_OVSDB"
	if address := os.Getenv(variable); address != "" { // as another user, see below
		cfg := *Spec.Config().(*Config)
		cfg.Address = address
		p, err := New(probetest.NewHost(t).Env, cfg)
		if err != nil {
			t.Fatal(err)
		}
		err = p.Run(t.Context())
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "run the Ansible roles again") {
			t.Errorf("%v", err)
		}
		return
	}
	l := newLab(t, "ova-perm", ovstest.NoSwitch)
	if err := os.Chmod(l.Dir, 0o755); err != nil { // the socket itself is for root only
		t.Fatal(err)
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	copied := l.Dir + "/test"
	if err := os.WriteFile(copied, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "-test.run=^TestRootPermissionDenied$", "-test.v")
	cmd.Dir = l.Dir
	cmd.Env = append(os.Environ(), variable+"="+l.DB)
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRootOverTCPAndTLS(t *testing.T) {
	l := &lab{TB: t, Server: ovstest.Start(t, "", ovstest.NoSwitch, ovstest.TCP, ovstest.TLS)} // the ports are those of our own namespace
	l.vsctl("--no-wait add-br br0")
	address, ca, cert, key := l.TLS(t)
	certificates := func() *tls.Config {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Error(err)
		}
		pem, err := os.ReadFile(ca)
		if err != nil {
			t.Error(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.Address = l.TCP(t) },
		func(c *Config) { c.Address, c.TLS = address, certificates },
	} {
		l.Host = probetest.NewHost(t)
		stop := l.startOVS(change)
		if l.one("Type", "ovsbridge", "Name", "br0") == nil {
			t.Error("no bridge")
		}
		stop()
	}
}
