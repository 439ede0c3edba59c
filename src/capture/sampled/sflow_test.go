package sampled

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"skydive/src/bpf"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/resource"
)

// xdr are numbers of four bytes.
func xdr(all ...uint32) (b []byte) {
	for _, v := range all {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// structure is one that says its own length.
func structure(format uint32, body ...[]byte) []byte {
	b := slices.Concat(body...)
	return append(xdr(format, uint32(len(b))), b...)
}

func sflowDatagram(number, uptime uint32, samples ...[]byte) []byte {
	return append(xdr(5, 1, 0xc0000207, 0, number, uptime, uint32(len(samples))), slices.Concat(samples...)...)
}

// frame is one of UDP; back: from the second host to the first.
func frame(back bool, size int) []byte {
	b := make([]byte, 42)
	b[5], b[11], b[12], b[14], b[23] = 2, 1, 8, 0x45, 17
	binary.BigEndian.PutUint16(b[16:], uint16(size-14))
	copy(b[26:], []byte{10, 0, 0, 1, 10, 0, 0, 2, 0, 100, 0, 200})
	if back {
		b[5], b[11] = 1, 2
		copy(b[26:], []byte{10, 0, 0, 2, 10, 0, 0, 1, 0, 200, 0, 100})
	}
	binary.BigEndian.PutUint16(b[38:], uint16(size-34))
	return b
}

// raw is the record of a frame, with the length that includes its check sequence.
func raw(b []byte, size int) []byte {
	padded := append(slices.Clone(b), make([]byte, -len(b)&3)...)
	return structure(rawHeader, xdr(headerEthernet, uint32(size+4), 4, uint32(len(b))), padded)
}

func sample(source, rate, dropped, in, out uint32, records ...[]byte) []byte {
	return structure(flowSample, xdr(1, source, rate, 1000, dropped, in, out, uint32(len(records))), slices.Concat(records...))
}

func TestRealSFlow(t *testing.T) {
	r := newReplay(t, offSFlow, flow.Options{}, resource.Capture{})
	r.feed(time.Now(), exporterAddress, datagrams(t, "ovs-sflow")...)
	expect(t, "Open vSwitch", lines(r.flows()),
		"Ethernet/IPv4/ICMPv4 10.77.0.1>10.77.0.2 5/490 5/490 0",
		"Ethernet/IPv4/TCP 10.77.0.1:40000>10.77.0.2:8086 18/21196 14/934 0",
		"Ethernet/IPv6/ICMPv6/ICMPv6Echo fd77::1>fd77::2 3/354 3/354 0",
		"Ethernet/IPv6/TCP fd77::1:40000>fd77::2:8087 12/15320 7/610 0",
	)
	if n := r.Counters(); n.Malformed+n.Missing+n.Repeated != 0 || n.Received != 67 {
		t.Errorf("%+v", n)
	}
}

// gopacket understands the same of what Open vSwitch has sent.
func TestSFlowAsGopacket(t *testing.T) {
	for i, d := range datagrams(t, "ovs-sflow") {
		p := gopacket.NewPacket(d, layers.LayerTypeSFlow, gopacket.Default)
		theirs, ok := p.Layer(layers.LayerTypeSFlow).(*layers.SFlowDatagram)
		if !ok {
			continue // it stops at formats that it does not know
		}
		var want []flow.Packet
		for _, s := range theirs.FlowSamples {
			for _, record := range s.Records {
				if raw, ok := record.(layers.SFlowRawPacketFlowRecord); ok {
					want = append(want, flow.Packet{Data: raw.Header.Data(), Length: int(raw.FrameLength - raw.PayloadRemoved)})
				}
			}
		}
		r := newReplay(t, offSFlow, flow.Options{RawPacketLimit: 10}, resource.Capture{})
		r.feed(time.Now(), exporterAddress, d)
		if n := r.Counters(); int(n.Received) != len(want) {
			t.Errorf("datagram %d: %d samples, gopacket finds %d", i, n.Received, len(want))
		}
		bytes := int64(0)
		for _, p := range want {
			bytes += int64(p.Length)
		}
		for _, f := range r.flows() {
			bytes -= f.Metric.ABBytes + f.Metric.BABytes
		}
		if bytes != 0 {
			t.Errorf("datagram %d: bytes differ by %d", i, bytes)
		}
	}
}

func TestSamplesAreScaled(t *testing.T) {
	c := resource.Capture{Exporters: []resource.Exporter{{Address: "192.0.2.7", IfIndex: 3, TID: "tor3"}, {Address: "192.0.2.7", IfIndex: 4, TID: "tor4"}}}
	r := newReplay(t, offSFlow, flow.Options{}, c)
	expanded := structure(expandedFlowSample, xdr(1, 0, 4, 256, 1000, 9, 0, 4, 0, 3, 1), raw(frame(true, 500), 500))
	r.feed(at(0), exporterAddress, sflowDatagram(1, 1, sample(3, 256, 7, 3, 4, raw(frame(false, 1000), 1000)), expanded))
	all := r.flows()
	expect(t, "scaled", lines(all), "Ethernet/IPv4/UDP 10.0.0.1:100>10.0.0.2:200 256/256000 256/128000 0")
	if all[0].NodeTID != "tor3" {
		t.Errorf("at %s", all[0].NodeTID)
	}
	// What the exporter had no time for, and what was lost on the way.
	r.feed(at(0), exporterAddress, sflowDatagram(4, 2, sample(3, 256, 12, 3, 4, raw(frame(false, 1000), 1000))))
	if n := r.Counters(); n.IfDropped != 5 || n.Missing != 2 || n.Received != 3 {
		t.Errorf("%+v", n)
	}
	// Both directions of each interface: what leaves by 4 is of 4.
	leaving := sample(4, 1, 12, 3, 4, raw(frame(false, 100), 100))
	r.feed(at(0), exporterAddress, sflowDatagram(5, 3, leaving))
	if all := r.flows(); len(all) != 2 {
		t.Errorf("%v", lines(all))
	}
}

func TestSampledFields(t *testing.T) {
	ethernet := structure(sampledEthernet, xdr(1004), []byte{0, 0, 0, 0, 0, 1, 0, 0}, []byte{0, 0, 0, 0, 0, 2, 0, 0}, xdr(0x0800))
	ip4 := structure(sampledIPv4, xdr(990, 6), []byte{10, 0, 0, 1, 10, 0, 0, 2}, xdr(1000, 80, 2, 0))
	ip6 := structure(sampledIPv6, xdr(990, 17), netip.MustParseAddr("2001:db8::1").AsSlice(), netip.MustParseAddr("2001:db8::2").AsSlice(), xdr(1000, 53, 0, 0))
	r := newReplay(t, offSFlow, flow.Options{}, resource.Capture{})
	r.feed(at(0), exporterAddress, sflowDatagram(1, 1, sample(3, 10, 0, 3, 4, ethernet, ip4), sample(3, 10, 0, 3, 4, ip6)))
	expect(t, "fields", lines(r.flows()), "Ethernet/IPv4/TCP 10.0.0.1:1000>10.0.0.2:80 10/10040 0/0 0", "IPv6/UDP 2001:db8::1:1000>2001:db8::2:53 10/9900 0/0 0")
	// IP without a link layer.
	packet := frame(false, 42)[14:]
	bare := structure(rawHeader, xdr(headerIPv4, 28, 0, uint32(len(packet))), packet)
	r = newReplay(t, offSFlow, flow.Options{}, resource.Capture{})
	f, err := bpf.Compile("udp port 200", bpf.Ethernet, 256)
	if err != nil {
		t.Fatal(err)
	}
	r.request.Filter = f
	r.feed(at(0), exporterAddress, sflowDatagram(1, 1, sample(3, 1, 0, 3, 4, bare), sample(3, 1, 0, 3, 4, raw(frame(false, 60), 60))))
	expect(t, "bare", lines(r.flows()), "IPv4/UDP 10.0.0.1:100>10.0.0.2:200 1/28 0/0 0", "Ethernet/IPv4/UDP 10.0.0.1:100>10.0.0.2:200 1/60 0/0 0")
}

func TestBrokenSFlow(t *testing.T) {
	good := sflowDatagram(1, 1, sample(3, 1, 0, 3, 4, raw(frame(false, 100), 100)))
	long := slices.Clone(good)
	binary.BigEndian.PutUint32(long[len(long)-48:], math.MaxUint32) // of the header
	many := slices.Clone(good)
	binary.BigEndian.PutUint32(many[24:], math.MaxUint32)
	for name, c := range map[string]struct {
		d        []byte
		received int64
	}{
		"empty": {nil, 0}, "version": {xdr(4, 1, 2, 3), 0}, "cut": {good[:len(good)-4], 0}, "no end of samples": {many, 1}, "header too long": {long, 0},
	} {
		r := newReplay(t, offSFlow, flow.Options{}, resource.Capture{})
		r.feed(at(0), exporterAddress, c.d)
		if n := r.Counters(); n.Malformed != 1 || n.Received != c.received {
			t.Errorf("%s: %+v", name, n)
		}
	}
}

// counts is a counter sample of an interface with so many bytes and packets received, and the memory that Open vSwitch uses.
func counts(index uint32, octets uint64, packets, memory uint32) []byte {
	generic := xdr(index, 6, 0, 1000000000, 1, 3, uint32(octets>>32), uint32(octets), packets, 0, 0, 0, 0, math.MaxUint32)
	generic = append(generic, xdr(0, 0, 0, 0, 0, 0, 0, 0)...)
	return structure(counterSample, xdr(1, index, 2), structure(1, generic), structure(2203, xdr(0, 0, 0, memory, 0, 2*memory, 5, 6, 7, 8)))
}

func TestCountersAndGauges(t *testing.T) {
	r := newReplay(t, offSFlow, flow.Options{}, resource.Capture{})
	number := func(path string) int64 {
		t.Helper()
		v, _ := r.meters.metrics.Lookup(path)
		n, _ := v.(int64)
		return n
	}
	check := func(what string, want map[string]int64) {
		t.Helper()
		for path, n := range want {
			if got := number(path); got != n {
				t.Errorf("%s: %s is %d instead of %d", what, path, got, n)
			}
		}
	}
	report := func(s int64, from string, d []byte) {
		r.feed(at(s), netip.MustParseAddr(from), d)
		r.meters.report(at(s))
	}
	report(0, "192.0.2.7", sflowDatagram(1, 1000, counts(1, 5000, math.MaxUint32-9, 18)))
	check("first", map[string]int64{
		"IfMetrics.1.IfInOctets": 5000, "Metric.IfInOctets": 5000, "Metric.IfInUcastPkts": math.MaxUint32 - 9, "LastUpdateMetric.IfInOctets": 0,
		"Metric.OvsAppMemUsed": 18, "Metric.OvsAppMemMax": 36, "LastUpdateMetric.OvsAppMemUsed": 18, "Metric.IfInUnknownProtos": 0, "Metric.OvsAppFdOpen": 5,
	})
	report(10, "192.0.2.7", sflowDatagram(2, 11000, counts(1, 5500, 10, 17), counts(2, 100, 1, 17))) // the packets wrap
	check("second", map[string]int64{
		"IfMetrics.1.IfInOctets": 5500, "IfMetrics.2.IfInOctets": 100, "Metric.IfInOctets": 5600, "LastUpdateMetric.IfInOctets": 500,
		"Metric.IfInUcastPkts": math.MaxUint32 + 12, "LastUpdateMetric.IfInUcastPkts": 20, "Metric.OvsAppMemUsed": 34,
		"LastUpdateMetric.Start": now * 1000, "LastUpdateMetric.Last": (now + 10) * 1000,
	})
	report(20, "192.0.2.7", sflowDatagram(3, 500, counts(1, 70, 7, 17))) // begun anew
	check("restarted", map[string]int64{"IfMetrics.1.IfInOctets": 5570, "LastUpdateMetric.IfInOctets": 70, "LastUpdateMetric.IfInUcastPkts": 7})
	other := sflowDatagram(1, 1, counts(1, 33, 3, 1))
	binary.BigEndian.PutUint32(other[8:], 0xc0000208)
	report(30, "192.0.2.8", other)
	interfaces, _ := r.meters.metrics.Lookup("IfMetrics")
	if o, _ := interfaces.(field.Object).Get("192.0.2.8/1"); o == nil {
		t.Errorf("%v", interfaces)
	}
	// Long after, all but one are gone; what they have counted is not.
	report(2000, "192.0.2.8", slices.Concat(other[:16], xdr(2), other[20:]))
	check("gone", map[string]int64{"IfMetrics.1.IfInOctets": 0, "Metric.IfInOctets": 5570 + 100 + 33, "LastUpdateMetric.IfInOctets": 0, "Metric.OvsAppMemUsed": 1})
}

func TestInterfacesAreBounded(t *testing.T) {
	r := newReplay(t, offSFlow, flow.Options{}, resource.Capture{})
	for i := range uint32(3 * portsMax) {
		r.feed(at(0), exporterAddress, sflowDatagram(i, i, counts(i, 1, 1, 1), sample(i, 1, 0, i, i+1, raw(frame(false, 60), 60))))
	}
	for _, e := range r.exporters.all {
		if len(e.ports) != portsMax || len(e.pools) != portsMax {
			t.Errorf("%d ports, %d pools", len(e.ports), len(e.pools))
		}
	}
	if len(r.meters.sources) != sourcesMax {
		t.Errorf("%d sources", len(r.meters.sources))
	}
	r.meters.report(at(1))
	if n, _ := r.meters.metrics.Get("Omitted"); n != int64(3*portsMax-sourcesMax) {
		t.Errorf("%v samples of others omitted", n)
	}
	if n := r.Counters(); n.Received != 3*portsMax || n.Malformed != 0 {
		t.Errorf("%+v", n)
	}
}

// TestAnExporterThatWasForgottenHasNotBegunAnew: not either when it has been up for more than the 25 days that half of the clock has.
func TestAnExporterThatWasForgottenHasNotBegunAnew(t *testing.T) {
	r := newReplay(t, offSFlow, flow.Options{}, resource.Capture{})
	r.feed(at(0), exporterAddress, sflowDatagram(1, 1<<31-1, counts(1, 5000, 1, 1)))
	for _, e := range r.exporters.all {
		r.forget(e) // pushed out by others
	}
	r.feed(at(1), exporterAddress, sflowDatagram(2, 1<<31+999, counts(1, 5500, 1, 1)))
	r.meters.report(at(2))
	if n, _ := r.meters.metrics.Lookup("Metric.IfInOctets"); n != int64(5500) {
		t.Errorf("%v octets", n)
	}
}

// TestInterfacesOfAllExportersAreBounded: a sender has as many names as it likes.
func TestInterfacesOfAllExportersAreBounded(t *testing.T) {
	r := newReplay(t, offSFlow, flow.Options{}, resource.Capture{})
	for part := range uint32(2*portsAll/portsMax/3 + 2) {
		for i := range uint32(portsMax) {
			d := sflowDatagram(i, i, sample(i, 1, 0, i, i+1, raw(frame(false, 60), 60)))
			binary.BigEndian.PutUint32(d[12:], part)
			r.feed(at(0), exporterAddress, d)
		}
	}
	sum := 0
	for _, e := range r.exporters.all {
		sum += len(e.ports) + len(e.pools)
	}
	if sum != portsAll || r.exporters.ports != sum {
		t.Errorf("%d interfaces and samplers, counted %d", sum, r.exporters.ports)
	}
	for _, e := range r.exporters.all {
		r.forget(e)
	}
	if r.exporters.ports != 0 {
		t.Errorf("%d are left", r.exporters.ports)
	}
}
