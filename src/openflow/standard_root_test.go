package openflow

import (
	"encoding/hex"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"skydive/src/ovs/ovstest"
)

// TestRootStandardMatch10 reads rules as a switch without Nicira's extension tells them.
func TestRootStandardMatch10(t *testing.T) {
	s := ovstest.Start(t, ovstest.Namespace(t, "ovb-plain"))
	s.Bridge(t, "br0")
	s.Ofctl(t, "del-flows", s.Mgmt("br0"))
	rules := []string{
		"priority=1,actions=drop",
		"priority=2,in_port=LOCAL,dl_src=00:01:02:03:04:05,dl_dst=06:07:08:09:0a:0b,actions=NORMAL",
		"priority=3,dl_vlan=10,actions=strip_vlan,output:1",
		"priority=4,dl_vlan=10,dl_vlan_pcp=3,actions=output:1",
		"priority=5,dl_vlan_pcp=3,actions=output:1",
		"priority=6,vlan_tci=0,actions=output:1",
		"priority=7,tcp,nw_src=10.0.0.0/8,nw_dst=10.1.2.3,tp_src=1,tp_dst=80,nw_tos=32,actions=mod_nw_src:1.2.3.4,output:1",
		"priority=8,udp,tp_dst=53,actions=output:1",
		"priority=9,icmp,icmp_type=8,icmp_code=0,actions=output:1",
		"priority=10,arp,arp_op=1,arp_spa=10.0.0.0/24,arp_tpa=10.0.0.1,actions=output:1",
		"priority=11,sctp,tp_src=7,actions=enqueue:1:2",
		"priority=12,dl_type=0x88cc,idle_timeout=3,hard_timeout=4,cookie=9,actions=output:1",
		"priority=13,ip,nw_proto=47,actions=output:1",
	}
	for _, r := range rules {
		s.Ofctl(t, "add-flow", s.Mgmt("br0"), r)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(s.Mgmt("br0"), "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	session := newSession(nil, conn)
	if err := session.negotiate([]Version{Version10}); err != nil {
		t.Fatal(err)
	}
	if err := session.send(flowRequest(Version10, false).finish(1)); err != nil {
		t.Fatal(err)
	}
	var ours []string
	for ours == nil {
		m, size, err := session.next(time.Now().Add(patience))
		if err != nil {
			t.Fatal(err)
		}
		if m.kind == typeStats10+1 {
			a, err := readAnswer(Version10, m.body)
			if err == nil {
				err = readRules(Version10, a, func(r *rawRule) { ours = append(ours, canonical(r.keep(Version10).String())) })
			}
			if err != nil || a.kind != statsFlow {
				t.Fatal(a.kind, err)
			}
		}
		if _, err := session.in.Discard(size); err != nil {
			t.Fatal(err)
		}
	}
	oracle := dump(s.Ofctl(t, "-OOpenFlow10", "-Fopenflow10", "dump-flows", s.Mgmt("br0")))
	if len(oracle) != len(rules) {
		t.Fatalf("ovs-ofctl shows %d of %d rules", len(oracle), len(rules))
	}
	slices.Sort(ours)
	if !slices.Equal(ours, oracle) {
		t.Errorf("ours:\n%s\novs-ofctl:\n%s", strings.Join(ours, "\n"), strings.Join(oracle, "\n"))
	}
}

// dump returns the rules that ovs-ofctl shows, made comparable.
func dump(text string) []string {
	var all []string
	for _, line := range strings.Split(text, "\n") {
		if strings.Contains(line, "actions=") {
			all = append(all, canonical(line))
		}
	}
	slices.Sort(all)
	return all
}

// TestStandardMatch11 reads matches as OpenFlow 1.1 has them, which Open vSwitch takes but does not send; ovs-ofctl is asked what
// they mean.
func TestStandardMatch11(t *testing.T) {
	ofctl, err := exec.LookPath("ovs-ofctl")
	if err != nil {
		ovstest.Missing(t, "ovs-ofctl is needed: install the package openvswitch-switch")
	}
	any6, exact4, any4 := ones(6), make([]uint8, 4), ones(4)
	type match struct {
		port, wild     uint32
		source, mask   []uint8
		vlan           uint16
		pcp            uint8
		kind           uint16
		tos, proto     uint8
		from, fromMask []uint8
		to, toMask     []uint8
		tpFrom, tpTo   uint16
		label          uint32
		class          uint8
		metadata       uint64
		metadataMask   uint64
	}
	zero6 := make([]uint8, 6)
	const all = 0x3ff
	base := func(m match) match {
		for _, b := range []*[]uint8{&m.from, &m.to} {
			if *b == nil {
				*b = exact4
			}
		}
		for _, b := range []*[]uint8{&m.fromMask, &m.toMask} {
			if *b == nil {
				*b = any4
			}
		}
		if m.source == nil {
			m.source, m.mask = zero6, any6
		}
		if m.metadataMask == 0 {
			m.metadataMask = 1<<64 - 1
		}
		return m
	}
	for name, m := range map[string]match{
		"all":       {wild: all},
		"port":      {wild: all &^ 1, port: 7},
		"source":    {wild: all, source: []uint8{0, 1, 2, 3, 4, 5}, mask: zero6},
		"some bits": {wild: all, source: []uint8{0, 1, 2, 0, 0, 0}, mask: []uint8{0, 0, 0, 255, 255, 255}},
		"vlan":      {wild: all &^ 2, vlan: 10},
		"priority":  {wild: all &^ 6, vlan: 10, pcp: 5},
		"tagged":    {wild: all &^ 2, vlan: 0xfffe},
		"untagged":  {wild: all &^ 2, vlan: 0xffff},
		"tcp": {wild: all &^ (8 | 32 | 64 | 128), kind: 0x800, proto: 6, tpFrom: 5, tpTo: 80, from: []uint8{10, 0, 0, 0},
			fromMask: []uint8{0, 255, 255, 255}, to: []uint8{1, 2, 3, 4}, toMask: exact4},
		"tos":      {wild: all &^ (8 | 16), kind: 0x800, tos: 32},
		"icmp":     {wild: all &^ (8 | 32 | 64 | 128), kind: 0x800, proto: 1, tpFrom: 8},
		"udp":      {wild: all &^ (8 | 32 | 128), kind: 0x800, proto: 17, tpTo: 53},
		"arp":      {wild: all &^ (8 | 32), kind: 0x806, proto: 2, from: []uint8{1, 2, 3, 4}, fromMask: exact4},
		"mpls":     {wild: all &^ (8 | 256 | 512), kind: 0x8847, label: 99, class: 3},
		"metadata": {wild: all, metadata: 0x1234, metadataMask: ^uint64(0xffff)},
	} {
		t.Run(name, func(t *testing.T) {
			m := base(m)
			std := builder(nil).u16(0).u16(88).u32(m.port).u32(m.wild).u8(m.source...).u8(m.mask...).zeros(6).u8(any6...).
				u16(m.vlan).u8(m.pcp, 0).u16(m.kind).u8(m.tos, m.proto).u8(m.from...).u8(m.fromMask...).u8(m.to...).u8(m.toMask...).
				u16(m.tpFrom).u16(m.tpTo).u32(m.label).u8(m.class).zeros(3).u64(m.metadata).u64(m.metadataMask)
			entry := builder(nil).u16(0).u8(0, 0).zeros(8).u16(5).u16(0).u16(0).zeros(6).u64(0).u64(1).u64(2)
			entry = append(entry, std...).u16(4).u16(24).zeros(4).u16(0).u16(16).u32(1).u16(0).zeros(6)
			entry[0], entry[1] = byte(len(entry)>>8), byte(len(entry))
			message := append(start(Version11, typeMultipart+1).u16(statsFlow).u16(0).zeros(4), entry...).finish(1)
			out, err := exec.Command(ofctl, "ofp-print", hex.EncodeToString(message)).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			a, err := readAnswer(Version11, message[headerSize:])
			if err != nil {
				t.Fatal(err)
			}
			var ours []string
			if err := readRules(Version11, a, func(r *rawRule) {
				if r.Packets != 1 || r.Bytes != 2 {
					t.Errorf("%d packets, %d bytes", r.Packets, r.Bytes)
				}
				ours = append(ours, canonical(r.keep(Version11).String()))
			}); err != nil {
				t.Fatal(err)
			}
			if oracle := dump(string(out)); !slices.Equal(ours, oracle) || len(ours) != 1 {
				t.Errorf("ours %v, ovs-ofctl %v", ours, string(out))
			}
		})
	}
}

// TestRootTakesNoPackets connects to where the switch expects its controller. A packet that goes to the controller must not come.
func TestRootTakesNoPackets(t *testing.T) {
	s := ovstest.Start(t, ovstest.Namespace(t, "ovb-quiet"))
	s.Bridge(t, "br0")
	socket := s.Dir + "/br0.controller"
	s.Vsctl(t, "set-controller", "br0", "punix:"+socket)
	s.Ofctl(t, "del-flows", s.Mgmt("br0"))
	s.Ofctl(t, "add-flow", s.Mgmt("br0"), "actions=CONTROLLER")
	const packetIn = 10
	heard := func(v Version, quiet bool) (packets int) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		session := newSession(nil, conn)
		if err := session.negotiate([]Version{v}); err != nil {
			t.Fatal(err)
		}
		send := func(b []byte) {
			if err := session.send(b); err != nil {
				t.Fatal(err)
			}
		}
		// await waits until the switch has handled all that was sent.
		await := func(xid uint32) {
			send(start(v, typeEchoRequest).finish(xid))
			for {
				m, size, err := session.next(time.Now().Add(patience))
				if err != nil {
					t.Fatal(err)
				}
				switch kind, got := m.kind, m.xid; {
				case kind == packetIn:
					packets++
				case kind == typeError:
					t.Errorf("%v: %v", v, readError(m.body))
				case kind == typeEchoReply && got == xid:
					if _, err := session.in.Discard(size); err != nil {
						t.Fatal(err)
					}
					return
				}
				if _, err := session.in.Discard(size); err != nil {
					t.Fatal(err)
				}
			}
		}
		const setConfig = 9 // without it Open vSwitch sends packets to no client that connects by itself
		send(start(v, setConfig).u16(0).u16(128).finish(1))
		if quiet {
			send(noPackets(v).finish(1))
		}
		await(2)
		for i := range uint32(5) {
			s.Ofctl(t, "packet-out", s.Mgmt("br0"), "in_port=LOCAL packet=ffffffffffff0000000000010800"+strings.Repeat("00", 46)+" actions=table")
			await(10 + i)
		}
		return packets
	}
	for _, v := range []Version{Version10, Version11, Version12, Version13, Version14, Version15} {
		if n := heard(v, true); n != 0 {
			t.Errorf("%v: %d packets came", v, n)
		}
		if n := heard(v, false); n == 0 {
			t.Errorf("%v: no packet came, though none were refused", v)
		}
	}
}
