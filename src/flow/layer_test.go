package flow

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// dnsMessage has a record of every type that records show, as gopacket writes it.
func dnsMessage(t *testing.T) []byte {
	t.Helper()
	name := func(s string) []byte { return []byte(s) }
	record := func(typ layers.DNSType) layers.DNSResourceRecord {
		return layers.DNSResourceRecord{Name: name("a.example.org"), Type: typ, Class: layers.DNSClassIN, TTL: 300}
	}
	a, aaaa, ns, cname, ptr := record(layers.DNSTypeA), record(layers.DNSTypeAAAA), record(layers.DNSTypeNS), record(layers.DNSTypeCNAME), record(layers.DNSTypePTR)
	txt, soa, mx, srv := record(layers.DNSTypeTXT), record(layers.DNSTypeSOA), record(layers.DNSTypeMX), record(layers.DNSTypeSRV)
	a.IP, aaaa.IP = net.IP{192, 0, 2, 1}, net.ParseIP("2001:db8::1")
	ns.NS, cname.CNAME, ptr.PTR = name("ns.example.org"), name("b.example.org"), name("c.example.org")
	txt.TXTs = [][]byte{[]byte("one"), []byte("two\xff")}
	soa.SOA = layers.DNSSOA{MName: name("ns.example.org"), RName: name("root.example.org"), Serial: 1, Refresh: 2, Retry: 3, Expire: 4, Minimum: 5}
	mx.MX = layers.DNSMX{Preference: 10, Name: name("mail.example.org")}
	srv.SRV = layers.DNSSRV{Priority: 1, Weight: 2, Port: 443, Name: name("www.example.org")}
	m := layers.DNS{ID: 77, QR: true, AA: true, RD: true, RA: true, ResponseCode: layers.DNSResponseCodeNXDomain,
		Questions: []layers.DNSQuestion{{Name: name("a.example.org"), Type: layers.DNSTypeA, Class: layers.DNSClassIN}},
		Answers:   []layers.DNSResourceRecord{a, aaaa, cname, ptr, txt, mx, srv}, Authorities: []layers.DNSResourceRecord{ns, soa}}
	b := gopacket.NewSerializeBuffer()
	if err := m.SerializeTo(b, gopacket.SerializeOptions{FixLengths: true}); err != nil {
		t.Fatal(err)
	}
	// EDNS, with an extended response code (BADVERS) and a cookie.
	msg := append(bytes.Clone(b.Bytes()), 0, 0, 41, 4, 0, 1, 0, 0, 0, 0, 6, 0, 10, 0, 2, 'o', 'k')
	binary.BigEndian.PutUint16(msg[10:], 1)
	msg[3] &= 0xf0
	return msg
}

// TestDNS: what a message says, and that it is not said of one that is cut anywhere.
func TestDNS(t *testing.T) {
	msg := dnsMessage(t)
	d := parseDNS(msg, 99)
	if d == nil || !validDNS(msg) {
		t.Fatal("not read")
	}
	record := func(typ string, size uint32) DNSRecord {
		return DNSRecord{Name: "a.example.org", Type: typ, Class: "IN", TTL: 300, DataLength: size}
	}
	a, aaaa, ns, cname, ptr := record("A", 4), record("AAAA", 16), record("NS", 16), record("CNAME", 15), record("PTR", 15)
	txt, soa, mx, srv := record("TXT", 9), record("SOA", 54), record("MX", 20), record("SRV", 23)
	a.IP, aaaa.IP, ns.NS, cname.CName, ptr.PTR = "192.0.2.1", "2001:db8::1", "ns.example.org", "b.example.org", "c.example.org"
	txt.TXTs = []string{"one", "two\ufffd"}
	soa.SOA = &DNSSOA{MName: "ns.example.org", RName: "root.example.org", Serial: 1, Refresh: 2, Retry: 3, Expire: 4, Minimum: 5}
	mx.MX = &DNSMX{Preference: 10, Name: "mail.example.org"}
	srv.SRV = &DNSSRV{Priority: 1, Weight: 2, Port: 443, Name: "www.example.org"}
	want := &DNS{ID: 77, QR: true, OpCode: "Query", AA: true, RD: true, RA: true, ResponseCode: "Bad OPT Version", QDCount: 1, ANCount: 7, NSCount: 2, ARCount: 1,
		Questions: []DNSQuestion{{"a.example.org", "A", "IN"}}, Answers: []DNSRecord{a, aaaa, cname, ptr, txt, mx, srv}, Authorities: []DNSRecord{ns, soa},
		Additionals: []DNSRecord{{Type: "OPT", Class: d.Additionals[0].Class, TTL: 1 << 24, DataLength: 6, OPT: []DNSOption{{Code: "Cookie", Data: "ok"}}}}, Timestamp: 99}
	for i := range want.Answers {
		want.Answers[i].DataLength = d.Answers[i].DataLength // as gopacket compresses or not
	}
	for i := range want.Authorities {
		want.Authorities[i].DataLength = d.Authorities[i].DataLength
	}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("%+v\nwant %+v", d, want)
	}
	for n := range msg {
		if validDNS(msg[:n]) || parseDNS(msg[:n], 1) != nil {
			t.Errorf("%d of %d bytes are read", n, len(msg))
		}
	}
}

// TestDNSIsBounded: pointers that go in circles, names that are too long and sections that are huge.
func TestDNSIsBounded(t *testing.T) {
	head := func(questions, answers byte) []byte {
		return []byte{0, 1, 0x80, 0, 0, questions, 0, answers, 0, 0, 0, 0}
	}
	in := []byte{0, 1, 0, 1}
	label := append([]byte{63}, bytes.Repeat([]byte{'x'}, 63)...)
	for name, msg := range map[string][]byte{
		"pointer to itself":  slices.Concat(head(1, 0), []byte{0xc0, 12}, in),
		"circle":             slices.Concat(head(1, 0), []byte{1, 'a', 0xc0, 12}, in),
		"pointer outside":    slices.Concat(head(1, 0), []byte{0xff, 0xff}, in),
		"long name":          slices.Concat(head(1, 0), label, label, label, label, label, []byte{0}, in),
		"reserved label":     slices.Concat(head(1, 0), []byte{0x80, 0}, in),
		"data end in a name": slices.Concat(head(0, 1), []byte{0, 0, 2, 0, 1, 0, 0, 0, 1, 0, 1, 3, 'a', 'b', 'c', 0}),
		"text past the data": slices.Concat(head(0, 1), []byte{0, 0, 16, 0, 1, 0, 0, 0, 1, 0, 2, 200, 1}, make([]byte, 300)),
	} {
		if validDNS(msg) || parseDNS(msg, 1) != nil {
			t.Errorf("%s is read", name)
		}
	}
	msg := head(255, 0)
	for range 255 {
		msg = slices.Concat(msg, []byte{0}, in)
	}
	if d := parseDNS(msg, 1); d == nil || d.QDCount != 255 || len(d.Questions) != dnsRecords || d.Questions[0].Name != "" {
		t.Errorf("%+v", d)
	}
}

// TestExtraLayers: DNS is that of the last message, DHCP and VRRP of the first; only what was asked for is there.
func TestExtraLayers(t *testing.T) {
	msg := dnsMessage(t)
	later := bytes.Clone(msg)
	later[1] = 78
	dhcp := func(secs byte) []byte {
		b := make([]byte, 244)
		copy(b, []byte{1, 1, 6, 2, 0, 0, 0, 9, 0, secs, 0x80})
		copy(b[44:], "server")
		copy(b[108:], "file")
		copy(b[236:], []byte{0x63, 0x82, 0x53, 0x63, 255})
		return udpFrame(67, b)
	}
	vrrp := func(version byte) []byte {
		b := frame(1, 64, false)
		b[23] = 112
		copy(b[34:], []byte{version<<4 | 1, 7, 100, 1, 0, 5, 0, 0, 10, 0, 0, 1})
		return b
	}
	for mask := range 8 {
		table := NewTable(Options{ExtraLayers: mask})
		for _, f := range [][]byte{udpFrame(53, msg), udpFrame(53, later), udpFrame(53, msg[:20]), dhcp(3), dhcp(4), dhcp(4)[:200], vrrp(2), vrrp(3)} {
			table.Packets([]Packet{{Data: f, Length: len(f), Time: 5}})
		}
		got := 0
		table.Each(func(f *Flow) bool {
			if f.DNS != nil {
				got |= ExtraDNS
				if f.DNS.ID != 78 || f.DNS.Timestamp != 5 {
					t.Errorf("%+v", f.DNS)
				}
			}
			if d := f.DHCPv4; d != nil {
				got |= ExtraDHCPv4
				if d.HardwareLen != 6 || d.HardwareOpts != 2 || d.Secs != 3 || d.Flags != 0x8000 || d.Xid != 0 || !strings.HasPrefix(string(d.ServerName), "server\x00") ||
					!strings.HasPrefix(string(d.File), "file\x00") {
					t.Errorf("%+v", d)
				}
			}
			if v := f.VRRPv2; v != nil {
				got |= ExtraVRRP
				if !reflect.DeepEqual(*v, VRRPv2{Version: 2, VirtualRtrID: 7, Priority: 100, AdverInt: 5}) {
					t.Errorf("%+v", v)
				}
			}
			return true
		})
		if got != mask {
			t.Errorf("asked for %d, got %d", mask, got)
		}
	}
}

// TestICMP: types of both versions are one enumeration; echoes have an identifier and belong together, errors a code.
func TestICMP(t *testing.T) {
	for _, c := range []struct {
		v6        bool
		typ, code byte
		want      string
	}{
		{false, 0, 0, "ECHO 0 77"}, {false, 8, 0, "ECHO 0 77"}, {false, 3, 3, "DESTINATION_UNREACHABLE 3 0"}, {false, 4, 0, "SOURCE_QUENCH 0 0"}, {false, 5, 1, "REDIRECT 1 0"},
		{false, 9, 0, "ROUTER 0 0"}, {false, 10, 0, "ROUTER 0 0"}, {false, 11, 1, "TIME_EXCEEDED 1 0"}, {false, 12, 0, "PARAMETER_PROBLEM 0 0"}, {false, 13, 0, "TIMESTAMP 0 77"},
		{false, 15, 0, "INFO 0 77"}, {false, 16, 0, "INFO 0 77"}, {false, 17, 0, "ADDRESS_MASK 0 77"}, {false, 18, 0, "ADDRESS_MASK 0 77"}, {false, 42, 0, "UNKNOWN 0 0"},
		{true, 128, 0, "ECHO 0 77"}, {true, 129, 0, "ECHO 0 77"}, {true, 1, 4, "DESTINATION_UNREACHABLE 4 0"}, {true, 2, 0, "PACKET_TOO_BIG 0 0"}, {true, 3, 1, "TIME_EXCEEDED 1 0"},
		{true, 4, 0, "PARAMETER_PROBLEM 0 0"}, {true, 133, 0, "ROUTER 0 0"}, {true, 134, 0, "ROUTER 0 0"}, {true, 135, 0, "NEIGHBOR 0 0"}, {true, 136, 0, "NEIGHBOR 0 0"},
		{true, 137, 0, "REDIRECT 0 0"}, {true, 200, 0, "UNKNOWN 0 0"},
	} {
		b := frame(1, 64, false)
		header := []byte{c.typ, c.code, 0, 0, 0, 0, 0, 0}
		if strings.HasSuffix(c.want, "77") {
			header[5] = 77
		}
		if c.v6 {
			b = append(b[:54], header...)
			copy(b[12:], []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 64})
		} else {
			b[23] = 1
			copy(b[34:], header)
		}
		table := NewTable(Options{})
		table.Packets([]Packet{{Data: b, Length: len(b), Time: 1}})
		table.Each(func(f *Flow) bool {
			if got := fmt.Sprint(f.ICMP.Type, " ", f.ICMP.Code, " ", f.ICMP.ID); got != c.want || f.Transport != nil {
				t.Errorf("%+v: %s", c, got)
			}
			return true
		})
		if table.Len() != 1 {
			t.Errorf("%+v: %d flows", c, table.Len())
		}
	}
}
