package inject

import (
	"bytes"
	"encoding/binary"
	"net"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"skydive/src/resource"
)

func request(kind string) resource.InjectionRequest {
	r := resource.InjectionRequest{
		UUID: "u", Type: kind, Count: 3, SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		SrcIP: "10.0.0.1", DstIP: "10.0.0.2", SrcPort: 1000, DstPort: 80, ICMPID: 7, Mode: "unique",
	}
	if strings.HasSuffix(kind, "6") {
		r.SrcIP, r.DstIP = "2001:db8::1", "2001:db8::2"
	}
	return r
}

// Every kind of packet decodes to what was asked for, and the checksums are those that an independent implementation computes.
func TestPackets(t *testing.T) {
	for _, kind := range []string{"icmp4", "icmp6", "tcp4", "tcp6", "udp4", "udp6"} {
		for _, framed := range []bool{true, false} {
			for _, payload := range []string{"", "x", "even", strings.Repeat("\xff", 1400)} {
				r := request(kind)
				r.Payload, r.TTL, r.IncrementPayload = payload, 9, 3
				f, err := newForger(&r, framed, 1500)
				if err != nil {
					t.Fatal(err)
				}
				for n := range 3 {
					packet := append([]byte(nil), f.next()...)
					want := len(payload) + 3*n
					if payload == "" {
						want += defaultPayload
					}
					check(t, kind, framed, packet, want)
				}
			}
		}
	}
}

func check(t *testing.T, kind string, framed bool, packet []byte, payload int) {
	t.Helper()
	first := gopacket.Decoder(layers.LayerTypeEthernet)
	v6 := strings.HasSuffix(kind, "6")
	switch {
	case framed:
	case v6:
		first = layers.LayerTypeIPv6
	default:
		first = layers.LayerTypeIPv4
	}
	p := gopacket.NewPacket(packet, first, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("%s: %v\n%x", kind, e.Error(), packet)
	}
	eth, ok := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	if ok != framed || framed && (eth.SrcMAC.String() != "02:00:00:00:00:01" || eth.DstMAC.String() != "02:00:00:00:00:02") {
		t.Fatalf("%s: %+v", kind, eth)
	}
	ip4, _ := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	ip6, _ := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	switch {
	case v6 && (ip6 == nil || ip6.HopLimit != 9 || ip6.SrcIP.String() != "2001:db8::1" || ip6.DstIP.String() != "2001:db8::2"):
		t.Fatalf("%s: %+v", kind, ip6)
	case !v6 && (ip4 == nil || ip4.TTL != 9 || ip4.SrcIP.String() != "10.0.0.1" || ip4.DstIP.String() != "10.0.0.2"):
		t.Fatalf("%s: %+v", kind, ip4)
	}
	var body []byte
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		body = l.Payload
		if !l.SYN || l.ACK || l.SrcPort != 1000 || l.DstPort != 80 || l.Ack != 0 || l.Window == 0 {
			t.Fatalf("%+v", l)
		}
	case *layers.UDP:
		body = l.Payload
		if l.SrcPort != 1000 || l.DstPort != 80 {
			t.Fatalf("%+v", l)
		}
	case nil:
		if i, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
			body = i.Payload
			if i.TypeCode.Type() != layers.ICMPv4TypeEchoRequest || i.Id != 7 || i.Seq != 0 {
				t.Fatalf("%+v", i)
			}
		} else if i, ok := p.Layer(layers.LayerTypeICMPv6Echo).(*layers.ICMPv6Echo); ok {
			body = p.Layer(layers.LayerTypeICMPv6).LayerPayload()[4:]
			if i.Identifier != 7 || i.SeqNumber != 0 {
				t.Fatalf("%+v", i)
			}
		} else {
			t.Fatalf("%s: %v", kind, p)
		}
	}
	if len(body) != payload {
		t.Fatalf("%s: payload of %d, want %d", kind, len(body), payload)
	}
	sameChecksums(t, p, packet)
}

// sameChecksums writes a packet anew with gopacket's checksums and compares.
func sameChecksums(t *testing.T, p gopacket.Packet, packet []byte) {
	t.Helper()
	var all []gopacket.SerializableLayer
	for _, l := range p.Layers() {
		if n, ok := p.NetworkLayer().(gopacket.NetworkLayer); ok {
			switch l := l.(type) {
			case *layers.TCP:
				_ = l.SetNetworkLayerForChecksum(n)
			case *layers.UDP:
				_ = l.SetNetworkLayerForChecksum(n)
			case *layers.ICMPv6:
				_ = l.SetNetworkLayerForChecksum(n)
			}
		}
		switch l := l.(type) {
		case *layers.ICMPv6:
			all = append(all, l, gopacket.Payload(l.Payload))
		case *layers.ICMPv6Echo, *gopacket.Payload:
		case gopacket.SerializableLayer:
			all = append(all, l)
		}
		if _, ok := l.(*layers.ICMPv6); ok {
			break
		}
		if l.LayerType() == layers.LayerTypeICMPv4 || l.LayerType() == layers.LayerTypeTCP || l.LayerType() == layers.LayerTypeUDP {
			all = append(all, gopacket.Payload(l.LayerPayload()))
		}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true, FixLengths: true}, all...); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(buf.Bytes(), packet) { // padded to what Ethernet asks for
		t.Fatalf("got  %x\nwant %x", packet, buf.Bytes())
	}
}

// A checksum of 0 means none in UDP over IPv4, so it must be sent as 0xffff.
func TestUDPChecksumIsNeverZero(t *testing.T) {
	r := request("udp4")
	r.Payload = "\x00\x00"
	f, err := newForger(&r, false, 1500)
	if err != nil {
		t.Fatal(err)
	}
	// The payload that makes the sum come out at 0xffff.
	packet := f.next()
	f.payload = binary.BigEndian.AppendUint16(nil, binary.BigEndian.Uint16(packet[26:]))
	if packet = f.next(); binary.BigEndian.Uint16(packet[26:]) != 0xffff {
		t.Errorf("%x", packet)
	}
}

func TestRandomMode(t *testing.T) {
	for _, kind := range []string{"icmp4", "udp6"} {
		r := request(kind)
		r.Mode = "random"
		f, err := newForger(&r, false, 1500)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[uint16]bool{}
		for range 100 {
			p := f.next()
			at := 24 // identifier of ICMP
			if kind == "udp6" {
				at = 40
			}
			seen[binary.BigEndian.Uint16(p[at:])] = true
		}
		if len(seen) < 90 || !seen[map[string]uint16{"icmp4": 7, "udp6": 1000}[kind]] {
			t.Errorf("%s: %d", kind, len(seen))
		}
	}
	r := request("tcp4")
	r.SrcPort, r.DstPort = 0, 0
	if _, err := newForger(&r, false, 1500); err != nil || r.SrcPort < firstFreePort || r.DstPort < firstFreePort {
		t.Errorf("%v %+v", err, r)
	}
}

func TestRefused(t *testing.T) {
	for want, edit := range map[string]func(*resource.InjectionRequest){
		"packets of type \"icmp\" are not known":                                                  func(r *resource.InjectionRequest) { r.Type = "icmp" },
		"the source address \"\" is none":                                                         func(r *resource.InjectionRequest) { r.SrcIP = "" },
		"the destination address ::1 does not fit packets of type udp4":                           func(r *resource.InjectionRequest) { r.DstIP = "::1" },
		"source and destination MAC are needed":                                                   func(r *resource.InjectionRequest) { r.DstMAC = nil },
		"at least one packet":                                                                     func(r *resource.InjectionRequest) { r.Count = 0 },
		"a payload cannot grow by -1 bytes":                                                       func(r *resource.InjectionRequest) { r.IncrementPayload = -1 },
		"a packet of 1501 bytes does not fit the interface, which takes 1500":                     func(r *resource.InjectionRequest) { r.Payload = strings.Repeat("x", 1473) },
		"1474 packets that grow by 1 bytes each do not fit the interface, which takes 1500 bytes": func(r *resource.InjectionRequest) { r.Payload, r.Count, r.IncrementPayload = "x", 1474-1+1, 1 },
		"18446744073709551615 packets that grow by 9223372036854775807 bytes each do not fit":     func(r *resource.InjectionRequest) { r.Count, r.IncrementPayload = 1<<64-1, 1<<63-1 },
	} {
		r := request("udp4")
		edit(&r)
		if _, err := newForger(&r, true, 1500); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	r := request("udp4")
	r.Payload, r.Count, r.IncrementPayload = "xx", 1471, 1
	if f, err := newForger(&r, true, 1500); err != nil {
		t.Error(err)
	} else {
		for range 1470 {
			f.next()
		}
		if n := len(f.next()); n != 1500+ethernetSize {
			t.Errorf("the last packet has %d bytes", n)
		}
	}
}

// pcapFile makes a file of packets.
func pcapFile(order binary.AppendByteOrder, magic, link uint32, packets ...string) []byte {
	f := order.AppendUint32(nil, magic)
	f = append(f, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0)
	f = order.AppendUint32(f, 65535)
	f = order.AppendUint32(f, link)
	for _, p := range packets {
		f = append(f, 0, 0, 0, 0, 0, 0, 0, 0)
		f = order.AppendUint32(f, uint32(len(p)))
		f = order.AppendUint32(f, uint32(len(p)))
		f = append(f, p...)
	}
	return f
}

func TestPcap(t *testing.T) {
	frame, other := strings.Repeat("a", 60), strings.Repeat("b", 1518)
	for _, file := range [][]byte{
		pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1, frame, other), pcapFile(binary.BigEndian, 0xa1b2c3d4, 1, frame, other),
		pcapFile(binary.LittleEndian, 0xa1b23c4d, 1, frame, other), pcapFile(binary.BigEndian, 0xa1b23c4d, 1, frame, other),
	} {
		r, err := newReplay(file, true, 1500)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{frame, other, frame, other, frame} {
			if got := string(r.next()); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
	}
	good := pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1, frame)
	for want, c := range map[string]struct {
		file   []byte
		framed bool
	}{
		"shorter than its header":                       {good[:23], true},
		"not a pcap file: it begins with 61616161":      {[]byte(frame), true},
		"pcapng files are not supported":                {pcapFile(binary.LittleEndian, 0x0a0d0d0a, 1), true},
		"holds no packet":                               {good[:24], true},
		"ends within the header of packet 1":            {good[:30], true},
		"ends within packet 1":                          {good[:50], true},
		"packet 1 of the pcap file has 1519 bytes":      {pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1, other+"b"), true},
		"packet 1 of the pcap file has 13 bytes, less":  {pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1, frame[:13]), true},
		"link type 1; the interface takes IP packets":   {good, false},
		"link type 101; the interface takes Ethernet":   {pcapFile(binary.LittleEndian, 0xa1b2c3d4, 101, frame), true},
		"link type 113; the interface takes Ethernet":   {pcapFile(binary.LittleEndian, 0xa1b2c3d4, 113, frame), true},
		"packet 1 of the pcap file has 1518 bytes; the": {pcapFile(binary.LittleEndian, 0xa1b2c3d4, 101, other), false},
	} {
		if _, err := newReplay(c.file, c.framed, 1500); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := newReplay(pcapFile(binary.LittleEndian, 0xa1b2c3d4, 101, frame), false, 1500); err != nil {
		t.Error(err)
	}
}

func FuzzPcap(f *testing.F) {
	f.Add(pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1, "aaaaaaaaaaaaaaaaaa", "b"))
	f.Add(pcapFile(binary.BigEndian, 0xa1b23c4d, 101, "a"))
	f.Add(append(pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1), 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, file []byte) {
		packets, _, err := parsePcap(file)
		total := 24
		for _, p := range packets {
			total += 16 + len(p)
		}
		if err == nil && total != len(file) {
			t.Errorf("%d bytes of %d", total, len(file))
		}
	})
}

func BenchmarkForge(b *testing.B) {
	r := request("udp4")
	r.Count = 1
	f, err := newForger(&r, true, 1500)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		f.next()
	}
}
