package netlink

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"skydive/src/netns"
	"skydive/src/probe"
	"skydive/src/probe/probetest"
)

// recorded reads a file of messages in hexadecimal, one a line.
func recorded(t testing.TB, file string) []byte {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the messages were recorded on a little-endian machine")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		b, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
		all = append(all, make([]byte, align(len(b))-len(b))...)
	}
	return all
}

// offline returns a mirror without a kernel: what it asks goes nowhere.
func offline(t testing.TB, h *probetest.Host) *mirror {
	t.Helper()
	p, err := New(h.Env, *Spec.Config().(*Config))
	if err != nil {
		t.Fatal(err)
	}
	group, ctx := probe.NewGroup(context.Background())
	t.Cleanup(func() { _ = group.Stop() })
	m := newMirror(p.(*Probe), group, ctx)
	m.root = m.add(netns.Namespace{ID: netns.ID{Device: 4, Inode: 1}})
	m.root.node, m.root.sock = h.Env.Root, &socket{fd: -1, port: 1, done: make(chan struct{})}
	other := m.add(netns.Namespace{ID: netns.ID{Device: 4, Inode: 2}, Names: []netns.Name{{Name: "a", Path: "/nowhere/a"}}})
	other.sock = &socket{fd: -1, port: 1, done: make(chan struct{})}
	m.touchNamespace(other)
	return m
}

func (m *mirror) feed(t testing.TB, ns *namespace, b []byte) {
	t.Helper()
	buf := m.buffers.get()
	buf.n = copy(buf.data[:], b)
	if err := m.receive(inbound{from: ns, sock: ns.sock, buf: buf}); err != nil {
		t.Fatal(err)
	}
}

// TestGoldenDebian is about kinds that the kernels of test machines may lack, from what Debian's kernel really said.
func TestGoldenDebian(t *testing.T) {
	h := probetest.NewHost(t)
	m := offline(t, h)
	m.namespaces = map[netns.ID]*namespace{m.root.info.ID: m.root}
	m.renamed = nil
	m.feed(t, m.root, recorded(t, "testdata/debian-6.1.hex"))
	if err := m.publish(); err != nil {
		t.Fatal(err)
	}
	h.Golden(t, "testdata/debian-6.1.golden.json")
	l := &lab{Host: h, TB: t}
	for _, tc := range [][3]string{
		{"d0", "Type", "dummy"}, {"d0", "AltNames", "[the-first-dummy]"}, {"d0", "IPV6", "[2001:db8::1/64 "},
		{"d0.42", "Type", "vlan"}, {"d0.42", "Vlan", "42"}, {"d0.42", "IPV4", "[10.1.2.3/24]"}, {"qinq", "Vlan", "4094"},
		{"lacp0", "Type", "bond"}, {"lacp0", "BondMode", "802.3ad"}, {"bond1", "BondMode", "active-backup"},
		{"slave0", "BondSlave.State", "ACTIVE"}, {"slave0", "BondSlave.MiiStatus", "UP"}, {"slave0", "BondSlave.AggregatorId", "1"},
		{"slave1", "BondSlave.Type", "bond"}, {"vrf7", "Type", "vrf"}, {"ipvl0", "Type", "ipvlan"}, {"gnv0", "Type", "geneve"},
		{"gre1", "EncapType", "gre"}, {"ipip1", "EncapType", "ipip"}, {"wg0", "EncapType", "none"}, {"wg0", "Type", "wireguard"},
	} {
		if got := show(l.node("", tc[0]), tc[1]); !strings.HasPrefix(got, tc[2]) {
			t.Errorf("%s of %s: %q, not %q", tc[1], tc[0], got, tc[2])
		}
	}
	for _, e := range [][3]string{{"d0", "d0.42", "vlan"}, {"d0.42", "qinq", "vlan"}, {"d0", "ipvl0", "ipvlan"}, {"lacp0", "slave0", ""}, {"bond1", "slave1", ""}} {
		if !l.linked(l.node("", e[0]), l.node("", e[1]), e[2]) {
			t.Errorf("no edge %v", e)
		}
	}
}

// attr and link build messages byte by byte, for what can be recorded nowhere here: cards with virtual functions (linux/if_link.h).
func attr(kind int, value ...[]byte) []byte {
	v := slices.Concat(value...)
	b := order.AppendUint16(nil, uint16(4+len(v)))
	b = order.AppendUint16(b, uint16(kind))
	b = append(b, v...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

func word(ns ...uint32) []byte {
	var b []byte
	for _, n := range ns {
		b = order.AppendUint32(b, n)
	}
	return b
}

func linkMessage(kind uint16, index int, attrs ...[]byte) []byte {
	fixed := make([]byte, unix.SizeofIfInfomsg)
	order.PutUint16(fixed[2:], unix.ARPHRD_ETHER)
	order.PutUint32(fixed[4:], uint32(index))
	order.PutUint32(fixed[8:], unix.IFF_UP|unix.IFF_BROADCAST|unix.IFF_DEBUG|unix.IFF_MULTICAST)
	return packed(kind, append(fixed, slices.Concat(attrs...)...))
}

// packed puts the header of a message before its body.
func packed(kind uint16, body []byte) []byte {
	r := newRequest(int(kind), 0)
	r.AddRawData(body)
	return r.Serialize()
}

func TestVirtualFunctions(t *testing.T) {
	mac := func(last byte) []byte {
		return append([]byte{2, 0, 0, 0, 0, last}, make([]byte, 26)...) // MAX_ADDR_LEN
	}
	msg := linkMessage(unix.RTM_NEWLINK, 7, attr(unix.IFLA_IFNAME, []byte("enp1s0\x00")), attr(unix.IFLA_NUM_VF, word(2)),
		attr(unix.IFLA_PERM_ADDRESS, []byte{2, 0, 0, 0, 0, 9}),
		attr(unix.IFLA_XDP, attr(unix.IFLA_XDP_ATTACHED, []byte{2}), attr(unix.IFLA_XDP_PROG_ID, word(33))),
		attr(unix.IFLA_VFINFO_LIST,
			attr(unix.IFLA_VF_INFO, attr(unix.IFLA_VF_MAC, word(0), mac(1)), attr(unix.IFLA_VF_VLAN, word(0, 0, 0)),
				attr(unix.IFLA_VF_SPOOFCHK, word(0, 1)), attr(unix.IFLA_VF_LINK_STATE, word(0, 2))),
			attr(unix.IFLA_VF_INFO, attr(unix.IFLA_VF_MAC, word(1), mac(2)), attr(unix.IFLA_VF_VLAN, word(1, 100, 3)),
				attr(unix.IFLA_VF_TX_RATE, word(1, 1000)), attr(unix.IFLA_VF_SPOOFCHK, word(1, 0xffffffff)))))
	h := probetest.NewHost(t)
	m := offline(t, h)
	m.feed(t, m.root, msg)
	// An event without them does not take them away.
	m.feed(t, m.root, linkMessage(unix.RTM_NEWLINK, 7, attr(unix.IFLA_IFNAME, []byte("enp1s0\x00")), attr(unix.IFLA_MTU, word(9000))))
	if err := m.publish(); err != nil {
		t.Fatal(err)
	}
	n := (&lab{Host: h, TB: t}).node("", "enp1s0")
	for key, want := range map[string]string{
		"Vfs.MAC": "[02:00:00:00:00:01 02:00:00:00:00:02]", "Vfs.ID": "[1]", "Vfs.Vlan": "[100]", "Vfs.Qos": "[3]", "Vfs.TxRate": "[1000]",
		"Vfs.Spoofchk": "[true]", "Vfs.LinkState": "[2]", "MTU": "9000", "LinkFlags": "[UP BROADCAST MULTICAST]",
	} {
		if got := show(n, key); got != want {
			t.Errorf("%s: %q, not %q", key, got, want)
		}
	}
}

func TestMalformedMessages(t *testing.T) {
	count := func(b []byte) (n, bad int) {
		for _, err := range messages(b) {
			if err != nil {
				bad++
			} else {
				n++
			}
		}
		return n, bad
	}
	good := linkMessage(unix.RTM_NEWLINK, 7, attr(unix.IFLA_IFNAME, []byte("x\x00")))
	for _, tc := range []struct {
		b      []byte
		n, bad int
	}{
		{nil, 0, 0},
		{good, 1, 0},
		{append(slices.Clone(good), good...), 2, 0},
		{good[:len(good)-1], 0, 1},
		{append(slices.Clone(good), make([]byte, 16)...), 1, 1}, // a length of 0 must not loop for ever
		{append(slices.Clone(good), 1, 2, 3), 1, 0},
	} {
		if n, bad := count(tc.b); n != tc.n || bad != tc.bad {
			t.Errorf("%x: %d messages and %d errors, not %d and %d", tc.b, n, bad, tc.n, tc.bad)
		}
	}
	// A bridge says of its ports with family AF_BRIDGE; its RTM_DELLINK is not the end of the port.
	port := bytes.Clone(good)
	port[headerLen] = unix.AF_BRIDGE
	if _, ok := parseLink(port[headerLen:]); ok {
		t.Error("a message of a bridge is taken for one of an interface")
	}
}

// FuzzParse feeds arbitrary bytes to everything that reads messages.
func FuzzParse(f *testing.F) {
	for msg := range messages(recorded(f, "testdata/debian-6.1.hex")) {
		f.Add(msg.body)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for range messages(b) {
		}
		if l, ok := parseLink(b); ok && (l.index <= 0 || l.name == "") {
			t.Errorf("%+v", l)
		}
		if _, a, ok := parseAddress(b); ok && !a.prefix.IsValid() {
			t.Errorf("%+v", a)
		}
		if index, k, n, ok := parseNeighbor(b); ok {
			n.object(k, index)
		}
		if k, hops, ok := parseRoute(b); ok && (!k.dst.IsValid() || len(hops) == 0) {
			t.Errorf("%+v %v", k, hops)
		}
	})
}

// FuzzHandle feeds arbitrary bytes to the whole way from socket to graph. The order of maps makes its coverage vary: run it with
// -fuzzminimizetime 10x.
func FuzzHandle(f *testing.F) {
	for msg := range messages(recorded(f, "testdata/debian-6.1.hex")) {
		b := packed(msg.kind, msg.body)
		f.Add(b, b)
	}
	f.Add(linkMessage(unix.RTM_DELLINK, 1, attr(unix.IFLA_IFNAME, []byte("lo\x00"))), []byte{})
	peer := func(index, other int) []byte {
		return linkMessage(unix.RTM_NEWLINK, index, attr(unix.IFLA_IFNAME, []byte("v\x00")), attr(unix.IFLA_LINK, word(uint32(other))),
			attr(unix.IFLA_LINK_NETNSID, word(0)), attr(unix.IFLA_LINKINFO, attr(unix.IFLA_INFO_KIND, []byte("veth\x00"))))
	}
	f.Add(peer(2, 3), peer(3, 2))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		if len(first) > bufferSize || len(second) > bufferSize {
			return
		}
		m := offline(t, probetest.NewHost(t))
		for _, ns := range m.namespaces {
			m.feed(t, ns, first)
			m.feed(t, ns, second)
		}
		if err := m.publish(); err != nil {
			t.Fatal(err)
		}
		m.rereadStale()
		m.feed(t, m.root, second)
		m.remove(m.namespaces[netns.ID{Device: 4, Inode: 2}])
		if err := m.publish(); err != nil {
			t.Fatal(err)
		}
		if err := m.withdraw(); err != nil {
			t.Fatal(err)
		}
		if n := m.env.Graph.Snapshot().NodeCount(); n != 1 {
			t.Fatalf("%d nodes left", n)
		}
	})
}
