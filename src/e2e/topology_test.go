package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRootGraphFollowsTheKernel changes the networks of three hosts in every way that this kernel knows, and compares the analyzer's
// graph with what each kernel says after every step.
func TestRootGraphFollowsTheKernel(t *testing.T) {
	l := newLab(t)
	an := addHost(t, l, "an")
	startAnalyzer(t, an, quick)
	var hosts []*Host
	for _, name := range []string{"h1", "h2", "h3"} {
		h := addHost(t, l, name)
		startAgent(t, h, an, quick)
		hosts = append(hosts, h)
	}
	agree(t, 10*time.Second, an, hosts...)

	for _, step := range []struct{ name, lines string }{
		{"bridge and veth pairs", `ip link add br0 type bridge; ip link set br0 up
			for i in 1 2 3; do ip link add v$i type veth peer name p$i; ip link set v$i master br0 up; done`},
		{"namespaces", `for i in 1 2 3; do ip netns add n$i; ip link set p$i netns n$i; ip -n n$i link set p$i name eth0
			ip -n n$i addr add 192.168.9.$i/24 dev eth0; ip -n n$i link set eth0 up; done`},
		{"several addresses", `ip addr add 192.168.9.254/24 dev br0; ip addr add 192.168.8.1/24 dev br0; ip addr add 2001:db8::1/64 dev br0 nodad
			ip -n n1 addr add 192.168.9.11/24 dev eth0; ip -n n1 addr del 192.168.9.1/24 dev eth0`},
		{"other kinds", `ip link add mv0 link eth0 type macvlan mode bridge; ip link add vx0 type vxlan id 42 dstport 4789 remote 10.111.0.250 dev eth0
			ip tuntap add tun0 mode tun; ip tuntap add tap0 mode tap; ip link set tap0 master br0 up`},
		{"mtu, mac, state", `ip link set v1 mtu 1400; ip link set mv0 address 02:00:00:00:00:aa up; ip link set br0 down; ip link set br0 up`},
		{"rename", `ip link set v2 down; ip link set v2 name renamed; ip link set renamed up; ip -n n2 link set eth0 down; ip -n n2 link set eth0 name uplink`},
		{"moves", `ip link set v3 netns n1; ip -n n3 link set eth0 netns n2; ip link set mv0 netns n3; ip link set tap0 nomaster`},
		{"namespace of a process only", `unshare --net sh -c 'ip link set lo up; ip link add hidden type veth peer name hidden2; echo $$ > anon.pid; exec sleep 600' >/dev/null 2>&1 &
			for i in 1 2 3 4 5 6 7 8 9; do [ -s anon.pid ] && break; sleep 0.1; done`},
		{"deletions", `ip link del renamed; ip netns del n3; ip link del vx0; ip tuntap del tun0 mode tun`},
		{"end of the process", `kill $(cat anon.pid)`},
		{"everything gone", `ip netns del n1; ip netns del n2; ip link del br0; ip tuntap del tap0 mode tap; ip link del v1 2>/dev/null || true`},
	} {
		for _, h := range hosts {
			script(t, h, step.lines)
		}
		for _, h := range hosts {
			if err := Until(8*time.Second, func() error { return h.Agree(an, an.analyzerAddr()) }); err != nil {
				t.Fatalf("after %q: %v", step.name, err)
			}
		}
	}
	if n := count(t, an, an.analyzerAddr(), "G.V().Has('Type','netns').Count()"); n != 0 {
		t.Errorf("%d namespaces are left in the graph", n)
	}
}

func TestRootLinksBetweenInterfaces(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, quick)
	startAgent(t, h, an, quick)
	// Both namespaces use the same interface indexes and names on purpose.
	script(t, h, `for i in 1 2; do ip netns add n$i; ip link add a$i type veth peer name eth0 netns n$i; done
		ip link add br0 type bridge; ip link set a1 master br0
		ip -n n1 link add x type veth peer name y netns n2
		ip link add mv0 link eth0 type macvlan; ip link add vx0 type vxlan id 42 dstport 4789 remote 10.111.0.250 dev eth0`)
	agree(t, 10*time.Second, an, h)
	for query, want := range map[string]string{
		"G.V().Has('Name','a1','@Host','h1').BothE('Type','veth').BothV().Has('Name','eth0').In('Type','netns').Values('Name')": "n1",
		"G.V().Has('Name','a2').BothE('Type','veth').BothV().Has('Name','eth0').In('Type','netns').Values('Name')":              "n2",
		"G.V().Has('Name','x').BothE('Type','veth').BothV().Has('Name','y').In('Type','netns').Values('Name')":                  "n2",
		"G.V().Has('Name','x').In('Type','netns').Values('Name')":                                                               "n1",
		"G.V().Has('Name','a1').InE('RelationType','layer2').InV().Has('Type','bridge').Values('Name')":                         "br0",
		"G.V().Has('Name','mv0').BothE('RelationType','layer2').BothV().Has('Name','eth0').Values('Name')":                      "eth0",
		"G.V().Has('Name','vx0').BothE('RelationType','layer2').BothV().Has('Name','eth0').Values('Name')":                      "eth0",
	} {
		if err := Until(5*time.Second, func() error {
			var got []string
			if err := an.Gremlin(an.analyzerAddr(), query, &got); err != nil {
				return err
			}
			if names := strings.Join(got, " "); names != want {
				return fmt.Errorf("%q, want %q", names, want)
			}
			return nil
		}); err != nil {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// TestRootTIDIsStable renames an interface and restarts the agent: what people refer to must not change.
func TestRootTIDIsStable(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, quick)
	agent := startAgent(t, h, an, quick)
	script(t, h, "ip link add one type veth peer name two")
	tid := func(name string) (id string) {
		t.Helper()
		need(t, Until(10*time.Second, func() error {
			var got []string
			if err := an.Gremlin(an.analyzerAddr(), fmt.Sprintf("G.V().Has('Name','%s').Values('TID')", name), &got); err != nil {
				return err
			}
			if len(got) != 1 {
				return fmt.Errorf("%d nodes named %s with a TID", len(got), name)
			}
			id = got[0]
			return nil
		}))
		return id
	}
	before, host := tid("one"), tid("h1")
	script(t, h, "ip link set one name uno")
	if after := tid("uno"); after != before {
		t.Errorf("renaming changed the TID from %s to %s", before, after)
	}
	script(t, h, "ip link set uno name one")
	need(t, agent.Signal(15))
	need(t, Until(5*time.Second, func() error { return agent.Wait(0) }))
	startAgent(t, h, an, quick)
	if after := tid("one"); after != before {
		t.Errorf("restarting the agent changed the TID from %s to %s", before, after)
	}
	if after := tid("h1"); after != host {
		t.Errorf("restarting the agent changed the host's TID from %s to %s", host, after)
	}
}
