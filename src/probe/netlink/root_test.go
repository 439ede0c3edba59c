package netlink

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/netns"
	"skydive/src/probe"
	"skydive/src/probe/probetest"
)

func list(n *graph.Node, key string) field.List {
	if n == nil {
		return nil
	}
	v, _ := n.Metadata.Lookup(key)
	l, _ := v.(field.List)
	return l
}

func (l *lab) has(ns, name, key, want string) func() bool {
	return func() bool { return show(l.node(ns, name), key) == want }
}

func TestRootBridgeOfNamespaces(t *testing.T) {
	l := newLab(t)
	l.add("a", "b")
	l.ip("", `link add br0 type bridge
link add v0 type veth peer name eth0 netns @a
link set v0 master br0 up
link add v1 type veth peer name eth0 netns @b
link set v1 master br0 up
link set br0 up
addr add 10.9.0.1/24 dev br0`)
	l.ip("a", "link set eth0 up\naddr add 10.9.0.2/24 dev eth0\nroute add default via 10.9.0.1")
	l.start()
	l.verify(time.Second, "", "a", "b")
	v0, v1, br, ea, eb := l.node("", "v0"), l.node("", "v1"), l.node("", "br0"), l.node("a", "eth0"), l.node("b", "eth0")
	if !l.linked(v0, ea, "veth") || !l.linked(v1, eb, "veth") || !l.linked(br, v0, "") || !l.linked(br, v1, "") {
		t.Error("edges are missing")
	}
	if l.layer2(v0) != 2 || l.layer2(ea) != 1 || l.layer2(eb) != 1 || l.layer2(br) != 2 {
		t.Error("there are edges too many")
	}
	for _, tc := range []struct {
		node *graph.Node
		key  string
		want string
	}{
		{l.node("", "lo"), "LinkFlags", "[UP LOOPBACK]"},
		{l.node("", "lo"), "LinkNetNsID", ""},
		{l.node("", "lo"), "EncapType", "loopback"},
		{l.node("", "lo"), "MAC", ""},
		{br, "LinkFlags", "[UP BROADCAST MULTICAST]"},
		{br, "Driver", "bridge"},
		{br, "Type", "bridge"},
		{br, "LinkNetNsID", ""},
		{v0, "Type", "veth"},
		{v0, "Driver", "veth"},
		{v0, "EncapType", "ether"},
		{v0, "PeerIfIndex", show(ea, "IfIndex")},
		{v0, "MasterIndex", show(br, "IfIndex")},
		{v0, "LinkNetNsID", "0"},
		{v0, "LinkNetNsName", "a"},
		{v1, "LinkNetNsName", "b"},
		{ea, "LinkNetNsName", "h1"},
		{ea, "IPV4", "[10.9.0.2/24]"},
		{ea, "Features.rx-vlan-hw-parse", "true"},
	} {
		if got := show(tc.node, tc.key); got != tc.want {
			t.Errorf("%s of %s: %q, not %q", tc.key, show(tc.node, "Name"), got, tc.want)
		}
	}
	ns := l.Find("Type", "netns", "Name", "a")[0].Metadata
	id, err := netns.PathID(l.path("a"))
	if err != nil {
		t.Fatal(err)
	}
	if inode, _ := ns.Int("Inode"); uint64(inode) != id.Inode || ns.Text("Path") != l.path("a") {
		t.Errorf("%v", ns)
	}
	if device, _ := ns.Int("Device"); uint64(device) != id.Device {
		t.Errorf("%v", ns)
	}
}

// Indexes are the same in all namespaces here, which is where peers are easily taken for others.
func TestRootPeersAcrossNamespaces(t *testing.T) {
	l := newLab(t)
	l.add("a", "b", "c", "d")
	l.start()
	l.ip("a", `link add x type veth peer name x netns @b`)
	l.ip("c", `link add x type veth peer name x netns @d`)
	l.ip("a", `link add y type veth peer name y netns @c`)
	l.ip("b", `link add y type veth peer name y netns @d`)
	l.ip("a", `link add z type veth peer name z2`)
	pairs := [][4]string{{"a", "x", "b", "x"}, {"c", "x", "d", "x"}, {"a", "y", "c", "y"}, {"b", "y", "d", "y"}, {"a", "z", "a", "z2"}}
	took := l.eventually("all pairs", func() bool {
		for _, p := range pairs {
			if !l.linked(l.node(p[0], p[1]), l.node(p[2], p[3]), "veth") {
				return false
			}
		}
		return true
	})
	t.Logf("after %v", took)
	for _, p := range pairs {
		a, b := l.node(p[0], p[1]), l.node(p[2], p[3])
		if l.layer2(a) != 1 || l.layer2(b) != 1 {
			t.Errorf("%v: too many edges", p)
		}
		if p[0] != p[2] {
			l.eventually("names of namespaces", func() bool {
				return show(l.node(p[0], p[1]), "LinkNetNsName") == p[2] && show(l.node(p[2], p[3]), "LinkNetNsName") == p[0]
			})
		}
	}
}

func TestRootRename(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ip("", "link add eth7 type ifb\nlink add other type veth peer name other2")
	eth7 := l.await("", "eth7")
	tid := show(eth7, "TID")
	if tid != graph.GenID(show(l.Graph.Snapshot().Node(l.Env.Root), "TID")+"eth7"+"ifb") {
		t.Errorf("TID %s", tid)
	}
	l.ip("", "link set eth7 name eth8\nlink set eth8 addrgenmode none")
	eth8 := l.await("", "eth8")
	if eth8.ID != eth7.ID || show(eth8, "TID") != tid {
		t.Errorf("renamed: ID %s → %s, TID %s → %s", eth7.ID, eth8.ID, tid, show(eth8, "TID"))
	}
	l.ip("", "link add eth7 type ifb")
	other := show(l.await("", "eth7"), "TID")
	if other == tid || other == "" {
		t.Errorf("TID of the new holder of the name: %q", other)
	}
	// Two names change places.
	l.ip("", "link set eth7 name tmp\nlink set eth8 name eth7\nlink set tmp name eth8")
	l.eventually("exchange", func() bool {
		a, b := l.node("", "eth7"), l.node("", "eth8")
		return a != nil && b != nil && a.ID == eth7.ID
	})
	if show(l.node("", "eth7"), "TID") != tid || show(l.node("", "eth8"), "TID") != other {
		t.Error("TIDs went with the names")
	}
	l.ip("", "link set eth7 up\nlink property add dev eth7 altname a-very-long-alternative-name-of-an-interface")
	l.eventually("alternative name", l.has("", "eth7", "AltNames", "[a-very-long-alternative-name-of-an-interface]"))
}

func TestRootMove(t *testing.T) {
	l := newLab(t)
	l.add("a", "b")
	l.ip("", "link add v0 type veth peer name v1")
	l.start()
	l.eventually("pair in the host", func() bool { return l.linked(l.node("", "v0"), l.node("", "v1"), "veth") })
	// While both ends are down, the kernel tells nothing to the end that stays.
	l.ip("", "link set v1 netns @a")
	l.eventually("pair from host to a", func() bool { return l.linked(l.node("", "v0"), l.node("a", "v1"), "veth") })
	l.eventually("what stays knows", l.has("", "v0", "LinkNetNsName", "a"))
	l.ip("a", "link set v1 netns @b")
	l.eventually("pair from host to b", func() bool { return l.linked(l.node("", "v0"), l.node("b", "v1"), "veth") })
	l.eventually("what stays knows", l.has("", "v0", "LinkNetNsName", "b"))
	l.ip("", "link set v0 netns @b")
	l.eventually("pair in b", func() bool { return l.linked(l.node("b", "v0"), l.node("b", "v1"), "veth") })
	l.eventually("no other namespace", func() bool {
		return show(l.node("b", "v0"), "LinkNetNsID") == "" && show(l.node("b", "v1"), "LinkNetNsID") == ""
	})
	if n := l.layer2(l.node("b", "v0")); n != 1 {
		t.Errorf("%d edges", n)
	}
	l.verify(time.Second, "", "a", "b")
	if l.node("", "v0") != nil || l.node("a", "v1") != nil {
		t.Error("ghosts")
	}
	// A macvlan whose parent stays behind.
	l.ip("b", "link add m0 link v0 type macvlan mode bridge\nlink set m0 netns @a")
	l.eventually("parent elsewhere", func() bool { return l.linked(l.node("b", "v0"), l.node("a", "m0"), "macvlan") })
	l.eventually("its namespace", l.has("a", "m0", "LinkNetNsName", "b"))
}

func TestRootIndexReuse(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ip("", "link add v0 index 100 type veth peer name v1 index 101")
	first := l.await("", "v0")
	l.ip("", "link del v0\nlink add br9 index 100 type bridge\nlink add i9 index 101 type ifb")
	l.verify(time.Second, "")
	second := l.await("", "br9")
	if second.ID == first.ID || l.layer2(second) != 0 || show(second, "PeerIfIndex") != "" {
		t.Errorf("a bridge with the index of a veth: %v", second.Metadata)
	}
}

func TestRootKinds(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ip("", `link add p0 type veth peer name p1
link add mv0 link p0 type macvlan mode bridge
link add mt0 link p0 type macvtap mode bridge
link add vx0 type vxlan id 42 dev p0 remote 192.0.2.1 local 192.0.2.2 dstport 4789
link add vx6 type vxlan id 43 dev p0 group ff05::1 dstport 8472
link add vx1 type vxlan id 44 dstport 4790
link add i0 type ifb
link add b0 type bridge
tuntap add dev t0 mode tap
tuntap add dev t1 mode tun
link set p0 up
link set t1 up`)
	l.await("", "t1")
	l.verify(time.Second, "")
	p0 := l.node("", "p0")
	for _, tc := range [][3]string{
		{"mv0", "Type", "macvlan"}, {"mv0", "ParentIndex", show(p0, "IfIndex")}, {"mv0", "Driver", "macvlan"},
		{"mt0", "Type", "macvtap"},
		{"vx0", "Type", "vxlan"}, {"vx0", "Vxlan.ID", "42"}, {"vx0", "Vxlan.Remote", "192.0.2.1"}, {"vx0", "Vxlan.Local", "192.0.2.2"},
		{"vx0", "Vxlan.Port", "4789"}, {"vx0", "ParentIndex", show(p0, "IfIndex")},
		{"vx6", "Vxlan.Remote", "ff05::1"}, {"vx6", "Vxlan.Port", "8472"},
		{"vx1", "Vxlan.ID", "44"}, {"vx1", "ParentIndex", ""}, {"vx1", "Vxlan.Remote", ""},
		{"i0", "Type", "ifb"}, {"b0", "Type", "bridge"},
		{"t0", "Type", "tuntap"}, {"t0", "EncapType", "ether"}, {"t0", "Driver", "tun"},
		{"t1", "Type", "tuntap"}, {"t1", "EncapType", "none"}, {"t1", "LinkFlags", "[UP POINTTOPOINT MULTICAST]"}, {"t1", "MAC", ""},
		{"p0", "LinkNetNsID", ""}, {"mv0", "LinkNetNsID", ""},
	} {
		if got := show(l.node("", tc[0]), tc[1]); got != tc[2] {
			t.Errorf("%s of %s: %q, not %q", tc[1], tc[0], got, tc[2])
		}
	}
	for name, kind := range map[string]string{"mv0": "macvlan", "mt0": "macvtap", "vx0": "vxlan", "vx6": "vxlan"} {
		child := l.node("", name)
		if !l.linked(p0, child, kind) || l.layer2(child) != 1 {
			t.Errorf("edge from parent to %s", name)
		}
		for e := range l.Graph.Snapshot().In(child.ID) {
			if relation(e) == probe.Layer2 && e.Parent != p0.ID {
				t.Errorf("%s is not the child", name)
			}
		}
	}
	if n := l.layer2(l.node("", "vx1")); n != 0 {
		t.Errorf("%d edges of a vxlan without parent", n)
	}
}

func TestRootBridgePorts(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ip("", "link add b0 type bridge\nlink add b1 type bridge\nlink add v0 type veth peer name v1\nlink set v0 master b0")
	l.eventually("port", func() bool { return l.linked(l.node("", "b0"), l.node("", "v0"), "") })
	l.ip("", "link set v0 master b1")
	l.eventually("other bridge", func() bool { return l.linked(l.node("", "b1"), l.node("", "v0"), "") })
	l.ip("", "link set v0 nomaster")
	l.eventually("no bridge", func() bool { return l.layer2(l.node("", "v0")) == 1 && show(l.node("", "v0"), "MasterIndex") == "" })
	l.ip("", "link set v0 master b0\nlink del b0")
	l.eventually("bridge deleted", func() bool { return l.node("", "b0") == nil && l.layer2(l.node("", "v0")) == 1 })
	l.verify(time.Second, "")
}

func TestRootAddressesAndRoutes(t *testing.T) {
	l := newLab(t)
	l.ip("", "link add v0 type veth peer name v1\nlink set v0 up\nlink set v1 up\naddr add 10.1.0.1/24 dev v0")
	l.start()
	l.ip("", `addr add 10.1.0.2/24 dev v0
addr add 10.2.0.1/16 dev v0
addr add 10.3.0.1 peer 10.3.0.2/32 dev v0
addr add 2001:db8::1/64 dev v0 nodad
addr add 10.9.0.1/24 dev v1`)
	l.eventually("all addresses, in order", l.has("", "v0", "IPV4", "[10.1.0.1/24 10.2.0.1/16 10.3.0.1/32 10.1.0.2/24]"))
	l.verify(time.Second, "")
}

// dadLimit leaves time for duplicate address detection: an IPv6 address is in a dump at once, but told of only when it is done (RFC 4862
// §5.4, up to two seconds).
const dadLimit = 6 * time.Second

func TestRootRoutes(t *testing.T) {
	l := newLab(t)
	l.ip("", `link add v0 type veth peer name v1
link add w0 type veth peer name w1
link set v0 up
link set v1 up
link set w0 up
link set w1 up
addr add 10.1.0.1/24 dev v0
addr add 10.2.0.1/24 dev w0
addr add 2001:db8:1::1/64 dev v0 nodad
addr add 2001:db8:2::1/64 dev w0 nodad`)
	l.start()
	l.verify(dadLimit, "")
	steps := []string{
		"route add default via 10.1.0.254",
		"route add 192.0.2.0/24 nexthop via 10.1.0.3 nexthop via 10.2.0.3 weight 2",
		"route add 198.51.100.0/24 dev w0 metric 7 table 1000",
		"route append 198.51.100.0/24 via 10.2.0.9 metric 7 table 1000",
		"route replace default via 10.2.0.254",
		"route add ::/0 via 2001:db8:1::9",
		"route append ::/0 via 2001:db8:2::9",
		"route add 2001:db8:9::/64 dev v0 metric 1024\nroute append 2001:db8:9::/64 dev w0 metric 1024",
		"route del ::/0 via 2001:db8:1::9",
		"route replace 2001:db8:9::/64 dev v0 metric 1024",
		"route del 198.51.100.0/24 dev w0 metric 7 table 1000",
		"addr add 10.7.0.1/24 dev w0\nroute add 203.0.113.0/24 dev v0 src 10.7.0.1",
		"addr del 10.7.0.1/24 dev w0", // takes the route of v0 that prefers it
		"route add default dev v0 metric 99",
		"link set v0 down", // takes routes without a word
		"link set v0 up",
		"link set w0 name w9",
		"link del w9",
	}
	for _, step := range steps {
		l.ip("", step)
		func() {
			defer func() {
				if t.Failed() {
					t.Logf("after %q", step)
				}
			}()
			l.verify(dadLimit, "")
		}()
	}
	n := l.node("", "v0")
	if n == nil {
		t.Fatal("no v0")
	}
}

// Two routes have the same key here, and the kernel keeps one of them while the interface is down.
func TestRootSameAddressTwice(t *testing.T) {
	l := newLab(t)
	l.ip("", `link add v0 type veth peer name v1
link add w0 type veth peer name w1
link set v0 up
link set v1 up
link set w0 up
link set w1 up`)
	l.ip("", "link set v0 addrgenmode none\nlink set w0 addrgenmode none")
	l.start()
	l.verify(dadLimit, "")
	for _, step := range []string{
		"addr add 10.1.0.1/24 dev v0", "addr add 10.1.0.1/24 dev w0", "link set v0 down", "link set v0 up", "link set w0 down", "link set w0 up",
		"link set w0 down", "addr del 10.1.0.1/24 dev v0", "link set w0 up", "addr add 10.1.0.1/24 dev v0", "link set v0 down", "addr del 10.1.0.1/24 dev w0", "link set v0 up", "addr add 10.1.0.1/24 dev w0", "link del v0",
	} {
		l.ip("", step)
		l.verify(dadLimit, "")
	}
}

func TestRootNeighbors(t *testing.T) {
	l := newLab(t)
	l.ip("", "link add b0 type bridge\nlink add v0 type veth peer name v1\nlink set v0 master b0 up\nlink set v1 up\nlink set b0 up\naddr add 10.1.0.1/24 dev b0")
	l.start()
	l.ip("", "neigh add 10.1.0.7 lladdr 02:00:00:00:00:07 nud permanent dev b0\nneigh add 2001:db8::7 lladdr 02:00:00:00:00:08 nud reachable dev b0")
	l.eventually("neighbours", l.has("", "b0", "Neighbors.MAC", "[02:00:00:00:00:07 02:00:00:00:00:08]"))
	n := l.node("", "b0")
	if got := show(n, "Neighbors.IP") + show(n, "Neighbors.State"); got != "[10.1.0.7 2001:db8::7][NUD_PERMANENT NUD_REACHABLE]" {
		t.Error(got)
	}
	// A state alone is shown within the second, not at once.
	before := l.node("", "b0").Revision
	for range 50 {
		l.ip("", "neigh change 10.1.0.7 lladdr 02:00:00:00:00:07 nud reachable dev b0\nneigh change 10.1.0.7 lladdr 02:00:00:00:00:07 nud permanent dev b0")
	}
	l.ip("", "neigh change 10.1.0.7 lladdr 02:00:00:00:00:07 nud stale dev b0")
	l.eventually("state", func() bool { return strings.Contains(show(l.node("", "b0"), "Neighbors.State"), "STALE") })
	if n := l.node("", "b0").Revision - before; n > 4 {
		t.Errorf("%d revisions for states of one neighbour", n)
	}
	l.ip("", "neigh del 10.1.0.7 dev b0\nneigh del 2001:db8::7 dev b0")
	l.eventually("no neighbours", l.has("", "b0", "Neighbors", ""))

	bridge := func(args ...string) {
		t.Helper()
		out, err := exec.Command("nsenter", append([]string{"--net=" + l.root, "bridge"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	bridge("fdb", "add", "02:00:00:00:00:99", "dev", "v0", "master", "static")
	l.eventually("entry", func() bool { return strings.Contains(show(l.node("", "v0"), "FDB.MAC"), "02:00:00:00:00:99") })
	bridge("fdb", "del", "02:00:00:00:00:99", "dev", "v0", "master")
	l.eventually("no entry", func() bool { return !strings.Contains(show(l.node("", "v0"), "FDB.MAC"), "02:00:00:00:00:99") })
	l.ip("", "link add vx0 type vxlan id 5 dstport 4789")
	l.await("", "vx0")
	bridge("fdb", "append", "00:00:00:00:00:00", "dev", "vx0", "dst", "192.0.2.7")
	l.eventually("vxlan entry", l.has("", "vx0", "FDB.IP", "[192.0.2.7]"))
}

func TestRootMetrics(t *testing.T) {
	l := newLab(t)
	l.add("a")
	l.ip("", "link add v0 type veth peer name v1 netns @a\nlink set v0 addrgenmode none up\naddr add 10.1.0.1/24 dev v0\nneigh add 10.1.0.2 lladdr 02:00:00:00:00:01 dev v0 nud permanent")
	l.ip("a", "link set v1 addrgenmode none up")
	l.start(func(c *Config) { c.MetricsUpdate = time.Second })
	send := func(packets int) {
		l.sh(fmt.Sprintf("for i in $(seq %d); do bash -c 'echo > /dev/udp/10.1.0.2/9'; done", packets))
	}
	sent := func(key string, want int64) func() bool {
		return func() bool { n, _ := l.node("", "v0").Metadata.Int(key); return n == want }
	}
	base, _ := l.node("", "v0").Metadata.Int("Metric.TxPackets")
	send(3)
	l.eventually("counter", sent("Metric.TxPackets", base+3))
	l.eventually("growth", sent("LastUpdateMetric.TxPackets", 3))
	m := l.node("", "v0").Metadata
	start, _ := m.Int("LastUpdateMetric.Start")
	last, _ := m.Int("LastUpdateMetric.Last")
	if d := last - start; d < 500 || d > 2500 {
		t.Errorf("growth within %d ms", d)
	}
	if _, zero := m.Lookup("Metric.RxErrors"); zero {
		t.Error("zero counters are shown")
	}
	revision := l.node("", "v0").Revision
	quiet := time.NewTimer(2200 * time.Millisecond)
	<-quiet.C
	if r := l.node("", "v0").Revision; r != revision {
		t.Errorf("%d revisions while nothing moves", r-revision)
	}
}

func TestRootAnonymousNamespace(t *testing.T) {
	l := newLab(t)
	l.start(func(c *Config) { c.Netns.ProcPath = "/proc" })
	cmd := exec.Command("nsenter", "--net="+l.root, "unshare", "-n", "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	defer kill()
	name := fmt.Sprintf("sleep-%d", cmd.Process.Pid)
	l.eventually("namespace of a process", func() bool { return l.node(name, "lo") != nil })
	ns := l.Find("Type", "netns", "Name", name)[0]
	if got, want := ns.Metadata.Text("Path"), fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid); got != want {
		t.Errorf("path %s", got)
	}
	// It gets a name, and loses it.
	if err := os.WriteFile(l.path("named"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.sh(fmt.Sprintf("mount --bind /proc/%d/ns/net %s", cmd.Process.Pid, l.path("named")))
	l.eventually("name", func() bool { return l.node("named", "lo") != nil })
	again := l.Find("Type", "netns", "Name", "named")[0]
	if again.ID != ns.ID || again.Metadata.Text("Path") != l.path("named") {
		t.Errorf("%v", again.Metadata)
	}
	unmount(l.path("named"))
	l.eventually("no name", func() bool { return l.node(name, "lo") != nil })
	// A veth to it makes it known at once, without a scan being due.
	l.ip("", fmt.Sprintf("link add v0 type veth peer name v1 netns %d", cmd.Process.Pid))
	l.eventually("pair", func() bool { return l.linked(l.node("", "v0"), l.node(name, "v1"), "veth") })
	kill()
	took := l.eventually("end", func() bool { return len(l.Find("Type", "netns", "Name", name)) == 0 })
	took += l.eventually("end of the pair, which our socket must not delay", func() bool { return l.node("", "v0") == nil })
	t.Logf("gone after %v", took)
}

func TestRootSeveralNames(t *testing.T) {
	l := newLab(t)
	l.add("a")
	l.start()
	l.await("a", "lo")
	l.sh("touch 0 && mount --bind a 0")
	l.eventually("two names", func() bool {
		ns := l.Find("Type", "netns", "Name", "a")
		return len(ns) == 1 && fmt.Sprint(list(ns[0], "Names")) == "[0 a]"
	})
	id := l.Find("Type", "netns", "Name", "a")[0].ID
	unmount(l.path("a"))
	l.eventually("the other name", func() bool {
		ns := l.Find("Type", "netns", "Name", "0")
		return len(ns) == 1 && ns[0].ID == id && ns[0].Metadata.Text("Path") == l.path("0") && list(ns[0], "Names") == nil
	})
	l.await("0", "lo")
}

func TestRootDeadNamespaceIsNotKept(t *testing.T) {
	l := newLab(t)
	l.add("a")
	l.ip("", "link add v0 type veth peer name v1 netns @a\nlink add b0 type bridge\nlink set v0 master b0")
	l.start(func(c *Config) { c.Netns.ProcPath = "/proc" })
	l.eventually("pair", func() bool { return l.linked(l.node("", "v0"), l.node("a", "v1"), "veth") })
	unmount(l.path("a"))
	took := l.eventually("end of the veth", func() bool { return l.node("", "v0") == nil && len(l.Find("Type", "netns", "Name", "a")) == 0 })
	t.Logf("after %v", took)
	l.verify(time.Second, "")
}

// A queue for a handful of messages overflows; the graph must come right nevertheless.
func TestRootOverrun(t *testing.T) {
	l := newLab(t)
	l.add("a")
	l.start(func(c *Config) { c.ReceiveBuffer = 4096 })
	var commands strings.Builder
	for i := range 150 {
		fmt.Fprintf(&commands, "link add v%d type veth peer name w%d\nlink set v%d up\naddr add 10.%d.0.1/24 dev v%d\n", i, i, i, i, i)
	}
	l.ip("", commands.String())
	l.ip("a", commands.String())
	l.verify(6*time.Second, "", "a")
	commands.Reset()
	for i := range 100 {
		fmt.Fprintf(&commands, "link del v%d\n", i)
	}
	l.ip("", commands.String())
	l.verify(6*time.Second, "", "a")
	if overruns := l.count("skydive_netlink_overruns_total"); overruns == 0 {
		t.Error("nothing was lost: this test proves nothing")
	}
	if l.count("skydive_netlink_resyncs_total") == 0 {
		t.Error("resyncs are not counted")
	}
}

// count returns the value of a metric.
func (l *lab) count(name string) float64 {
	l.Helper()
	families, err := l.Registry.Gather()
	if err != nil {
		l.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

// What others write to a node of ours stays.
func TestRootForeignMetadata(t *testing.T) {
	l := newLab(t)
	l.ip("", "link add v0 type veth peer name v1")
	l.start()
	n := l.await("", "v0")
	err := l.Graph.Update("", func(tx *graph.Tx) error {
		m, err := tx.Node(n.ID).Metadata.Set("ExtID.vm", "x")
		if err == nil {
			_, err = tx.SetNodeMetadata(n.ID, m)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l.ip("", "link set v0 mtu 1400")
	l.eventually("change", l.has("", "v0", "MTU", "1400"))
	if show(l.node("", "v0"), "ExtID.vm") != "x" || show(l.node("", "v0"), "TID") == "" {
		t.Error("lost what others wrote")
	}
}

// TestRootChaos does what comes to mind to interfaces in four namespaces, and compares at the end.
func TestRootChaos(t *testing.T) {
	l := newLab(t)
	namespaces := []string{"", "a", "b", "c"}
	l.add(namespaces[1:]...)
	l.start()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	name := func() string { return fmt.Sprintf("i%d", r.IntN(12)) }
	where := func() string {
		if ns := namespaces[1+r.IntN(3)]; r.IntN(4) > 0 {
			return "netns @" + ns
		}
		return ""
	}
	commands := func() string {
		a, b := name(), name()
		switch r.IntN(10) {
		case 0, 1, 2:
			return fmt.Sprintf("link add %s type veth peer name %s %s", a, b, where())
		case 3:
			return fmt.Sprintf("link add %s type bridge\nlink set %s up", a, a)
		case 4:
			return fmt.Sprintf("link set %s down\nlink set %s name %s", a, a, b)
		case 5:
			return fmt.Sprintf("link set %s %s", a, where())
		case 6:
			return fmt.Sprintf("link set %s up\naddr add 10.%d.0.%d/24 dev %s", a, r.IntN(9), 1+r.IntN(9), a)
		case 7:
			return fmt.Sprintf("link set %s master %s", a, b)
		case 8:
			return fmt.Sprintf("link add %s link %s type macvlan mode bridge", a, b)
		}
		return "link del " + a
	}
	for range 40 {
		var batch strings.Builder
		for range 8 {
			batch.WriteString(commands() + "\n")
		}
		cmd := exec.Command("nsenter", "--net="+l.path(namespaces[r.IntN(4)]), "ip", "-force", "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.ReplaceAll(batch.String(), "@", l.run+"/"))
		_ = cmd.Run() // much of it is impossible
	}
	l.verify(3*time.Second, namespaces...)
	l.eventually("pairs", func() bool {
		snap := l.Graph.Snapshot()
		for n := range snap.Nodes(field.Filter{Terms: []field.Term{{Key: "Type", Pred: field.Eq{V: "veth"}}}}) {
			pairs := 0
			for _, side := range []iter.Seq[*graph.Edge]{snap.In(n.ID), snap.Out(n.ID)} {
				for e := range side {
					if e.Metadata.Text("Type") != "veth" {
						continue
					}
					pairs++
					a, b := snap.Node(e.Parent).Metadata, snap.Node(e.Child).Metadata
					if show(&graph.Node{Element: graph.Element{Metadata: a}}, "PeerIfIndex") != show(&graph.Node{Element: graph.Element{Metadata: b}}, "IfIndex") {
						return false
					}
				}
			}
			if pairs != 1 {
				return false
			}
		}
		return true
	})
	l.eventually("one parent each", func() bool {
		snap := l.Graph.Snapshot()
		for n := range snap.Nodes(field.Filter{Terms: []field.Term{{Key: "Type", Pred: field.Eq{V: "macvlan"}}}}) {
			parents := 0
			for e := range snap.In(n.ID) {
				if e.Metadata.Text("Type") != "macvlan" {
					continue
				}
				if parents++; show(snap.Node(e.Parent), "IfIndex") != show(n, "ParentIndex") {
					return false
				}
			}
			if parents != 1 {
				return false
			}
		}
		return true
	})
}

// TestUnprivileged runs the probe as an ordinary user, in a process of its own when this one is root.
func TestUnprivileged(t *testing.T) {
	const runEnv, rootEnv = "NETLINK_TEST_RUN", "NETLINK_TEST_ROOT"
	if os.Geteuid() == 0 {
		l := newLab(t)
		dir, err := os.MkdirTemp("", "netlink") // the directories of tests are closed to others
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unmount(dir + "/a"); _ = os.RemoveAll(dir) })
		l.run = dir
		l.add("a")
		binary, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(dir+"/test", binary, 0o755), os.Chmod(dir, 0o755), os.Chmod(dir+"/test", 0o755)); err != nil {
			t.Fatal(err)
		}
		l.ip("", "link add v0 type veth peer name v1\naddr add 10.1.2.3/24 dev v0")
		cmd := exec.Command("nsenter", "--net="+l.root, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
			"--inh-caps=-all", "--no-new-privs", dir+"/test", "-test.run", "^TestUnprivileged$", "-test.v")
		cmd.Env = append(os.Environ(), runEnv+"="+dir, rootEnv+"=1", "TMPDIR=/tmp")
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestUnprivileged") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	l := &lab{Host: probetest.NewHost(t), TB: t, root: "/proc/self/ns/net", run: os.Getenv(runEnv)}
	l.start(func(c *Config) { c.Netns.ProcPath = "/proc" })
	l.await("", "lo")
	_, reason := l.Running()
	if os.Getenv(rootEnv) == "" {
		return // an ordinary user's test run: what else there is is not known
	}
	for _, want := range []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"} {
		if !strings.Contains(reason, want) {
			t.Errorf("reason %q does not name %s", reason, want)
		}
	}
	if missing := fmt.Sprint(list(l.Graph.Snapshot().Node(l.Env.Root), "MissingCapabilities")); !strings.Contains(missing, "CAP_NET_ADMIN") {
		t.Errorf("host node says %s", missing)
	}
	if show(l.node("", "v0"), "IPV4") != "[10.1.2.3/24]" || show(l.node("", "v0"), "Driver") != "veth" {
		t.Errorf("%v", l.node("", "v0"))
	}
	if len(l.Find("Type", "netns", "Name", "a")) != 1 {
		t.Error("the namespace is not shown")
	}
}

// A probe that fails takes out what it put in, and the supervisor has it put in again.
func TestRootRestart(t *testing.T) {
	l := newLab(t)
	l.add("a")
	l.ip("", "link add v0 type veth peer name v1 netns @a")
	s, err := probe.NewSupervisor(probe.Options{
		Graph: l.Graph, Root: l.Env.Root, Host: l.Env.Host, Origin: l.Env.Origin, Log: l.Env.Log, Registerer: l.Registry,
		Specs: []probe.Spec{Spec}, Names: []string{"netlink", "netns"},
		Load: func(_ string, into any) error {
			c := into.(*Config)
			c.Root, c.Netns = l.root, netns.Config{RunPath: l.run}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.Run(t, s)
	state := func() probe.State { return s.Status()["netlink"].Status }
	l.eventually("start", func() bool { return state() == probe.Active })
	if len(s.Status()) != 1 {
		t.Errorf("%v", s.Status())
	}
	first := l.await("", "v0")
	if err := l.Graph.Update("", func(tx *graph.Tx) error { return tx.DeleteNode(first.ID, 0) }); err != nil {
		t.Fatal(err)
	}
	l.ip("", "link set v0 mtu 1300")
	l.eventually("failure", func() bool { return state() == probe.Failed })
	if n := l.Graph.Snapshot().NodeCount(); n != 1 {
		t.Errorf("%d nodes are left", n)
	}
	l.eventually("restart", func() bool { return state() == probe.Active })
	l.verify(time.Second, "", "a")
	if n := l.node("", "v0"); n.ID == first.ID || show(n, "TID") != show(first, "TID") || !l.linked(n, l.node("a", "v1"), "veth") {
		t.Error("not what it was before")
	}
}
