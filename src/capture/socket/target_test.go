package socket

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"skydive/src/bpf"
	"skydive/src/capture"
	"skydive/src/flow"
	"skydive/src/resource"
)

// v5 is a record of NetFlow version 5, in the order of the wire.
type v5 struct {
	Src, Dst, NextHop             [4]byte
	Input, Output                 uint16
	Packets, Octets, First, Last  uint32
	SrcPort, DstPort              uint16
	Pad1, TCPFlags, Proto, ToS    uint8
	SrcAS, DstAS                  uint16
	SrcMask, DstMask, Pad2a, Pad2 uint8
}

// v5Header is what a datagram begins with.
type v5Header struct {
	Version, Count                           uint16
	Uptime, Seconds, Nanoseconds, Sequence   uint32
	EngineType, EngineID, Sampling, Interval uint8
}

// exporting returns a target, and what it sends.
func exporting(t *testing.T, now func() time.Time) (*netflow, func() (v5Header, []v5)) {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	conn, err := net.Dial("udp", l.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	n := netflowOn(conn, 7, now)
	return n, func() (h v5Header, records []v5) {
		t.Helper()
		buf := make([]byte, 2000)
		if err := l.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		got, _, err := l.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		r := bytes.NewReader(buf[:got])
		if err := binary.Read(r, binary.BigEndian, &h); err != nil {
			t.Fatal(err)
		}
		records = make([]v5, h.Count)
		if err := binary.Read(r, binary.BigEndian, records); err != nil || r.Len() != 0 {
			t.Fatalf("%v, %d bytes more", err, r.Len())
		}
		return h, records
	}
}

func TestNetflow(t *testing.T) {
	boot := time.UnixMilli(1700000000123)
	now := boot
	n, receive := exporting(t, func() time.Time { return now })
	ip := &flow.Layer{Protocol: flow.IPv4, A: "10.0.0.1", B: "10.0.0.2"}
	ports := &flow.Transport{Protocol: flow.TCP, A: 40000, B: 80}
	at := func(s int64) int64 { return boot.UnixMilli() + s*1000 }
	both := &flow.Metric{ABPackets: 3, ABBytes: 300, BAPackets: 2, BABytes: 200, Start: at(1), Last: at(9)}
	for _, f := range []flow.Flow{
		{LayersPath: "Ethernet/IPv4/TCP", Network: ip, Transport: ports, Metric: flow.Metric{ABPackets: 99}, LastUpdateMetric: both},
		{LayersPath: "Ethernet/Dot1Q/IPv4/UDP/DNS", Network: ip, Transport: &flow.Transport{Protocol: flow.UDP, A: 5, B: 53},
			Metric: flow.Metric{ABPackets: 1, ABBytes: 100, Start: at(-5), Last: at(2)}}, // before the first report, and before the capture
		{LayersPath: "Ethernet/IPv4/ICMPv4", Network: ip, ICMP: &flow.ICMP{Type: flow.Echo}, LastUpdateMetric: both},
		{LayersPath: "IPv4/GRE", Network: ip, LastUpdateMetric: both},
		{LayersPath: "Ethernet/IPv4/IPSecESP", Network: ip, LastUpdateMetric: &flow.Metric{ABPackets: 1, ABBytes: 10}},
		{LayersPath: "Ethernet/IPv6/TCP", Network: &flow.Layer{Protocol: flow.IPv6, A: "::1", B: "::2"}, LastUpdateMetric: both},
		{LayersPath: "Ethernet/ARP", LastUpdateMetric: both},
		{LayersPath: "Ethernet/IPv4/TCP", Network: ip, Transport: ports, LastUpdateMetric: &flow.Metric{}}, // nothing new
	} {
		n.Flow(&f)
	}
	now = boot.Add(time.Minute)
	n.Flush()
	h, records := receive()
	if h != (v5Header{Version: 5, Count: 8, Uptime: 60000, Seconds: uint32(now.Unix()), Nanoseconds: 123000000}) {
		t.Errorf("%+v", h)
	}
	var got []string
	for _, r := range records {
		got = append(got, fmt.Sprintf("%v:%d>%v:%d %d %d/%d %d-%d if %d,%d", netip.AddrFrom4(r.Src), r.SrcPort, netip.AddrFrom4(r.Dst), r.DstPort, r.Proto,
			r.Packets, r.Octets, r.First, r.Last, r.Input, r.Output))
	}
	want := []string{
		"10.0.0.1:40000>10.0.0.2:80 6 3/258 1000-9000 if 7,7", "10.0.0.2:80>10.0.0.1:40000 6 2/172 1000-9000 if 7,7",
		"10.0.0.1:5>10.0.0.2:53 17 1/82 0-2000 if 7,7",
		"10.0.0.1:0>10.0.0.2:2048 1 3/258 1000-9000 if 7,7", "10.0.0.2:0>10.0.0.1:0 1 2/172 1000-9000 if 7,7",
		"10.0.0.1:0>10.0.0.2:0 47 3/300 1000-9000 if 7,7", "10.0.0.2:0>10.0.0.1:0 47 2/200 1000-9000 if 7,7",
		"10.0.0.1:0>10.0.0.2:0 50 1/0 0-0 if 7,7",
	}
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("got\n%s\nwant\n%s", a, b)
	}

	// Datagrams are full, and the sequence counts records.
	for range 20 {
		n.Flow(&flow.Flow{LayersPath: "IPv4/TCP", Network: ip, Transport: ports, LastUpdateMetric: both})
	}
	n.Flush()
	n.Flush() // nothing left
	for _, want := range []struct{ count, seq int }{{30, 8}, {10, 38}} {
		if h, _ := receive(); int(h.Count) != want.count || int(h.Sequence) != want.seq {
			t.Errorf("%+v, want %+v", h, want)
		}
	}

	// What does not fit in 32 bits comes in several records.
	n.Flow(&flow.Flow{LayersPath: "IPv4/TCP", Network: ip, Transport: ports, LastUpdateMetric: &flow.Metric{ABPackets: 30e6, ABBytes: 30e9}})
	n.Flush()
	_, records = receive()
	var packets, octets uint64
	for _, r := range records {
		packets += uint64(r.Packets)
		octets += uint64(r.Octets)
	}
	if packets != 30e6 || octets != 30e9 || len(records) <= 30_000_000_000/math.MaxUint32 {
		t.Errorf("%d packets, %d octets in %d records", packets, octets, len(records))
	}
	if err := n.Close(); err != nil || n.Lost() != 0 {
		t.Errorf("%v, %d lost", err, n.Lost())
	}
	n.Flow(&flow.Flow{LayersPath: "IPv4/TCP", Network: ip, Transport: ports, LastUpdateMetric: both})
	if n.Flush(); n.Lost() != 2 {
		t.Errorf("%d lost", n.Lost())
	}
}

func TestERSPANFrame(t *testing.T) {
	e := &erspan{index: 0x12345, seq: 9}
	plain := traffic(1, 200)[0]
	tagged := append(append(bytes.Clone(plain[:12]), 0x81, 0, 0, 100), plain[12:]...)
	for _, c := range []struct {
		name      string
		p         flow.Packet
		encap     int
		truncated bool
	}{
		{"plain", flow.Packet{Data: plain, Length: 200}, 0, false},
		{"cut", flow.Packet{Data: plain[:64], Length: 200}, 0, true},
		{"tagged", flow.Packet{Data: tagged, Length: 204}, 3, false},
	} {
		raw := e.frame(c.p)
		g := gopacket.NewPacket(raw, layers.LayerTypeGRE, gopacket.Default)
		gre, _ := g.Layer(layers.LayerTypeGRE).(*layers.GRE)
		span, _ := g.Layer(layers.LayerTypeERSPANII).(*layers.ERSPANII)
		if gre == nil || span == nil || !gre.SeqPresent || gre.Seq != 9 || gre.Protocol != layers.EthernetTypeERSPAN {
			t.Fatalf("%s: %v", c.name, g)
		}
		if span.Version != 1 || span.SessionID != 1 || span.Index != 0x12345 || span.IsTruncated != c.truncated || int(span.TrunkEncap) != c.encap {
			t.Errorf("%s: %+v", c.name, span)
		}
		inner := raw[erspanHeaders:]
		if n := len(inner) - 4; !bytes.Equal(inner[:n], c.p.Data) || binary.LittleEndian.Uint32(inner[n:]) != crc32.ChecksumIEEE(c.p.Data) {
			t.Errorf("%s: %x", c.name, inner)
		}
	}
}

func TestWhatTargetsSendCanBeLeftOut(t *testing.T) {
	for name, kind := range Targets() {
		expr := "not ((host 192.0.2.9) and (" + strings.ReplaceAll(kind.Exclude, "%port", "2055") + "))"
		f, err := bpf.Compile(expr, bpf.Ethernet, 256)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, other := range Targets() {
			sent := udp(100, netip.MustParseAddrPort("10.0.0.1:1024"), netip.MustParseAddrPort("192.0.2.9:2055"))
			if other.SnapLen != 0 {
				sent[14+9] = 47
			}
			if got := f.Match(sent, len(sent)); got != (other.Exclude != kind.Exclude) {
				t.Errorf("%s: %v for %s", name, got, other.Exclude)
			}
		}
		if _, err := kind.New(capture.TargetRequest{Address: "nowhere", Link: bpf.Ethernet}); err == nil {
			t.Errorf("%s: an address without port is taken", name)
		}
	}
}

// All the way: what passes an interface arrives at the collectors, and nothing at the Sink.
func TestRootTargets(t *testing.T) {
	w := newWire(t)
	gre, err := net.ListenPacket("ip4:47", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer gre.Close()
	collector, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	m, r := managing(t, Options{})
	n := node(t, w.right, "wr0")
	mirror, export := captureOf("mirror"), captureOf("export")
	mirror.TargetType, mirror.Target = "erspanv1", "127.0.0.1:0"
	export.TargetType, export.Target = "netflowv5", collector.LocalAddr().String()
	for _, c := range []resource.Capture{mirror, export} {
		if err := m.Start(n, c); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "active", func() bool { return r.count("active", n.ID) == 2 })
	frames := traffic(3, 1514)
	if _, err := newSender(t, w.left, "wl0").send(frames, 3, 0); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3000)
	for i, f := range frames {
		if err := gre.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		got, _, err := gre.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if got != erspanHeaders+len(f)+4 || !bytes.Equal(buf[erspanHeaders:got-4], f) || binary.BigEndian.Uint32(buf[4:]) != uint32(i) {
			t.Errorf("mirrored %d: %x", i, buf[:got])
		}
	}
	for _, id := range []string{"mirror", "export"} {
		if err := m.Stop(n.ID, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := collector.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	got, _, err := collector.ReadFrom(buf)
	if err != nil || got != netflowHeader+3*netflowRecord || buf[netflowHeader+38] != 17 {
		t.Errorf("exported %x, %v", buf[:got], err)
	}
	if len(r.flows) != 0 || len(m.Tables()) != 0 {
		t.Errorf("%d flows at the sink, %d tables", len(r.flows), len(m.Tables()))
	}
}
