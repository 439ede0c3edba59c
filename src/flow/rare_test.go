package flow

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// udpFrame is an Ethernet frame with a UDP packet to the port.
func udpFrame(dport uint16, payload []byte) []byte {
	b := slices.Concat(frame(2, 42, true), payload)
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
	binary.BigEndian.PutUint16(b[36:], dport)
	binary.BigEndian.PutUint16(b[38:], uint16(len(b)-34))
	return b
}

// pathOf is the LayersPath of the flow that a frame makes, or of all of them, outermost first.
func pathOf(t *testing.T, data []byte) string {
	t.Helper()
	table := NewTable(Options{})
	table.Packets([]Packet{{Data: data, Length: len(data), Time: 1}})
	var paths []string
	table.Each(func(f *Flow) bool { paths = append(paths, f.LayersPath); return true })
	return strings.Join(paths, " | ")
}

// etherFrame is an Ethernet frame.
func etherFrame(typ uint16, payload ...[]byte) []byte {
	b := slices.Concat(frame(1, 64, false)[:14], slices.Concat(payload...))
	binary.BigEndian.PutUint16(b[12:], typ)
	return b
}

// ipFrame is an Ethernet frame with an IPv4 packet.
func ipFrame(proto byte, payload ...[]byte) []byte {
	b := slices.Concat(frame(1, 64, false)[:34], slices.Concat(payload...))
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
	b[23] = proto
	return b
}

// TestLayers: headers that few networks have.
func TestLayers(t *testing.T) {
	whole := frame(3, 64, true)
	ip, udp := whole[14:], whole[34:]
	ip6 := slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(udp)), 17, 64}, make([]byte, 32), udp)
	label := []byte{0, 1, 1, 64}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"PPPoE", etherFrame(0x8864, []byte{0x11, 0, 0, 1, 0, 52, 0, 0x21}, ip), "Ethernet/PPPoE/PPP/IPv4/UDP"},
		{"PPPoE, IPv6", etherFrame(0x8864, []byte{0x11, 0, 0, 1, 0, 72, 0, 0x57}, ip6), "Ethernet/PPPoE/PPP/IPv6/UDP"},
		{"PPPoE, MPLS", etherFrame(0x8864, []byte{0x11, 0, 0, 1, 0, 72, 2, 0x81}, label, ip), "Ethernet/PPPoE/PPP/MPLS | IPv4/UDP"},
		{"PPPoE, short protocol", etherFrame(0x8864, []byte{0x11, 0, 0, 1, 0, 51, 0x21}, ip), "Ethernet/PPPoE/PPP/IPv4/UDP"},
		{"PPPoE, LCP", etherFrame(0x8864, []byte{0x11, 0, 0, 1, 0, 6, 0xc0, 0x21, 1, 1, 0, 4}), "Ethernet/PPPoE/PPP"},
		{"PPPoE, cut", etherFrame(0x8864, []byte{0x11, 0, 0, 1}), "Ethernet"},
		{"SNAP", etherFrame(58, []byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, ip), "Ethernet/LLC/SNAP/IPv4/UDP"},
		{"LLC, cut", etherFrame(2, []byte{0xaa, 0xaa}), "Ethernet"},
		{"Ethernet in Ethernet", etherFrame(0x6558, whole), "Ethernet/Ethernet/IPv4/UDP"},
		{"VLAN, cut", etherFrame(0x8100, []byte{0, 1}), "Ethernet"},
		{"ARP, cut", etherFrame(0x0806, make([]byte, 4)), "Ethernet"},
		{"MPLS", etherFrame(0x8847, label, ip6), "Ethernet/MPLS | IPv6/UDP"},
		{"MPLS, Ethernet", etherFrame(0x8848, label, whole), "Ethernet/MPLS | Ethernet/IPv4/UDP"},
		{"MPLS without end", etherFrame(0x8847, []byte{0, 1, 0, 64}), "Ethernet/MPLS"},
		{"AH", ipFrame(51, []byte{17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, udp), "Ethernet/IPv4/IPSecAH/UDP"},
		{"AH, cut", ipFrame(51, []byte{17, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}), "Ethernet/IPv4"},
		{"ESP, cut", ipFrame(50, make([]byte, 7)), "Ethernet/IPv4"},
		{"EtherIP", ipFrame(97, []byte{0x30, 0}, whole), "Ethernet/IPv4/EtherIP/Ethernet/IPv4/UDP"},
		{"MPLS in IP", ipFrame(137, label, ip), "Ethernet/IPv4/MPLS | IPv4/UDP"},
		{"no next header", ipFrame(59, []byte{1}), "Ethernet/IPv4"},
		{"ICMP, cut", ipFrame(1, make([]byte, 7)), "Ethernet/IPv4"},
		{"ICMPv6, cut", etherFrame(0x86dd, ip6[:6], []byte{58, 64}, ip6[8:40], []byte{128, 0, 0, 0, 0}), "Ethernet/IPv6/ICMPv6"},
		{"TCP, cut", ipFrame(6, make([]byte, 19)), "Ethernet/IPv4/TCP"},
		{"SCTP, cut", ipFrame(132, make([]byte, 11)), "Ethernet/IPv4/SCTP"},
		{"GRE", ipFrame(47, []byte{0xb0, 0, 8, 0}, make([]byte, 12), ip), "Ethernet/IPv4/GRE | IPv4/UDP"},
		{"GRE, routing", ipFrame(47, []byte{0x40, 0, 8, 0, 0, 0, 0, 0, 8, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0, 0}, ip), "Ethernet/IPv4/GRE | IPv4/UDP"},
		{"GRE, routing without end", ipFrame(47, []byte{0x40, 0, 8, 0, 0, 0, 0, 0, 8, 0, 0, 200}), "Ethernet/IPv4"},
		{"PPTP", ipFrame(47, []byte{0x30, 0x81, 0x88, 0x0b}, make([]byte, 12), []byte{0xff, 3, 0, 0x21}, ip), "Ethernet/IPv4/GRE | PPP/IPv4/UDP"},
		{"GRE, cut", ipFrame(47, []byte{0x20, 0, 8, 0}), "Ethernet/IPv4"},
		{"Geneve, Ethernet", udpFrame(6081, slices.Concat([]byte{1, 0, 0x65, 0x58, 0, 0, 7, 0, 0, 0, 0, 0}, whole)), "Ethernet/IPv4/UDP/Geneve | Ethernet/IPv4/UDP"},
		{"Geneve, options cut", udpFrame(6081, []byte{63, 0, 0x65, 0x58, 0, 0, 7, 0}), "Ethernet/IPv4/UDP"},
		{"large segment", slices.Concat(whole[:16], []byte{0, 0}, whole[18:]), "Ethernet/IPv4/UDP"},
	} {
		if got := pathOf(t, c.data); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func words(ns ...uint32) (b []byte) {
	for _, n := range ns {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// TestRareLayers: what is only named is named as by gopacket, whatever else is in the frame.
func TestRareLayers(t *testing.T) {
	ip := frame(3, 64, true)[14:]
	// A flow sample with a path through more networks than there is memory for.
	sflow := slices.Concat(words(5, 1, 0x0a000001, 0, 1, 1, 1), words(1, 200, 1, 1, 1, 1, 0, 1, 1, 1), words(1003, 100, 1, 0x0a000001, 1, 1, 1, 1), words(2, 1<<32-1))
	gtp := func(flags byte, head []byte, payload []byte) []byte {
		b := append([]byte{flags, 255, 0, 0, 0, 0, 0, 1}, head...)
		b = append(b, payload...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)-8))
		return udpFrame(2152, b)
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"sFlow", udpFrame(6343, sflow), "Ethernet/IPv4/UDP/SFlow"},
		{"no sFlow", udpFrame(6343, words(4, 1, 0, 0, 0, 0, 0)), "Ethernet/IPv4/UDP"},
		{"short sFlow", udpFrame(6343, words(5, 1)), "Ethernet/IPv4/UDP"},
		{"GTP", gtp(0x30, nil, ip), "Ethernet/IPv4/UDP/GTPv1U/IPv4/UDP"},
		{"GTP with sequence number", gtp(0x32, []byte{0, 1, 0, 0}, ip), "Ethernet/IPv4/UDP/GTPv1U/IPv4/UDP"},
		{"GTP with extensions", gtp(0x34, []byte{0, 1, 0, 0x85, 1, 0, 0, 0}, ip), "Ethernet/IPv4/UDP/GTPv1U/IPv4/UDP"},
		{"GTP with an empty extension", gtp(0x34, []byte{0, 1, 0, 0x85, 0, 0, 0, 0}, ip), "Ethernet/IPv4/UDP"},
		{"GTP with a cut extension", gtp(0x34, []byte{0, 1, 0, 0x85, 200, 0, 0, 0}, nil), "Ethernet/IPv4/UDP"},
		{"sFlow in GTP", gtp(0x30, nil, udpFrame(6343, sflow)[14:]), "Ethernet/IPv4/UDP/GTPv1U/IPv4/UDP/SFlow"},
		{"GTP in GTP", gtp(0x30, nil, gtp(0x30, nil, gtp(0x30, nil, gtp(0x30, nil, ip)[14:])[14:])[14:]),
			"Ethernet/IPv4/UDP/GTPv1U/IPv4/UDP/GTPv1U/IPv4/UDP/GTPv1U/IPv4"},
		{"NTP", udpFrame(123, append([]byte{0x23}, make([]byte, 47)...)), "Ethernet/IPv4/UDP/NTP"},
		{"cut NTP", udpFrame(123, []byte{0x23}), "Ethernet/IPv4/UDP"},
		{"SIP", udpFrame(5060, []byte("OPTIONS sip:a@b SIP/2.0\r\nVia: x\r\n\r\n")), "Ethernet/IPv4/UDP/SIP"},
		{"EAPOL", etherFrame(0x888e, []byte{1, 1, 0, 0}), "Ethernet/EAPOL"},
		{"EAP", etherFrame(0x888e, []byte{1, 0, 0, 5, 1, 1, 0, 5, 1}), "Ethernet/EAPOL/EAP"},
		{"PPPoE discovery", etherFrame(0x8863, []byte{0x11, 9, 0, 0, 0, 0, 1, 1}), "Ethernet/PPPoE"},
		{"802.3 in a VLAN", etherFrame(0x8100, []byte{0, 7, 0, 3, 0x42, 0x42, 3, 9, 9, 9, 9, 9}), "Ethernet/Dot1Q/LLC"},
		{"no such type", etherFrame(0x9999, []byte{1, 2, 3}), "Ethernet"},
		{"LLC", etherFrame(3, []byte{0x42, 0x42, 3}), "Ethernet/LLC"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := pathOf(t, c.data)
		runtime.ReadMemStats(&after)
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s: %d bytes allocated", c.name, n)
		}
	}
}

// TestNamesAreBounded: frames cannot fill memory with paths that differ.
func TestNamesAreBounded(t *testing.T) {
	table := NewTable(Options{MaxEntries: 10})
	for n := range 2 * namesMax {
		// Extension headers in an order of their own.
		data := slices.Concat(frame(1, 64, false)[:14], []byte{0x60, 0, 0, 0, 0, 0, 0, 64}, bytes.Repeat([]byte{1}, 32))
		binary.BigEndian.PutUint32(data[22:], uint32(n)) // a flow of its own
		next := 20                                       // of the header before
		data[12], data[13] = 0x86, 0xdd
		for digits := n; len(data) < 54+10*8; digits /= 3 {
			data[next] = []byte{0, 60, 43}[digits%3]
			next = len(data)
			data = append(data, 59, 0, 1, 4, 0, 0, 0, 0)
		}
		binary.BigEndian.PutUint16(data[18:], uint16(len(data)-54))
		table.Packets([]Packet{{Data: data, Length: len(data), Time: 1}})
	}
	if n := len(table.names.paths); n != namesMax {
		t.Errorf("%d paths", n)
	}
	table.Packets([]Packet{{Data: frame(1, 64, false), Length: 64, Time: 2}})
	table.Search(textFilter("Network.A", "10.0.0.0"), func(f *Flow) bool {
		if f.LayersPath != "" || f.Application != "" {
			t.Errorf("%+v", f)
		}
		return true
	})
}
