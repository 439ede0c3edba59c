package flow

import (
	"math"
	"testing"
	"time"
)

// all returns copies of the flows of a table.
func allOf(t *Table) (all []Flow) {
	t.Search(nil, func(f *Flow) bool {
		c := *f
		if f.Network != nil {
			n := *f.Network
			c.Network = &n
		}
		if f.Transport != nil {
			n := *f.Transport
			c.Transport = &n
		}
		all = append(all, c)
		return true
	})
	return all
}

// tcp4 is a frame from one host to another, or back.
func tcp4(back bool, flags byte) []byte {
	b := make([]byte, 54)
	b[5], b[11], b[12], b[14], b[17], b[23] = 2, 1, 8, 0x45, 40, 6
	copy(b[26:], []byte{10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0, 80})
	if back {
		b[5], b[11] = 1, 2
		copy(b[26:], []byte{10, 0, 0, 2, 10, 0, 0, 1, 0, 80, 0x30, 0x39})
	}
	b[46], b[47] = 5<<4, flags
	return b
}

func TestSampledPacketsStandForOthers(t *testing.T) {
	table := NewTable(Options{NodeTID: "tid", MaxEntries: 10})
	plain := NewTable(Options{NodeTID: "tid", MaxEntries: 10})
	for i, back := range []bool{false, true, false} {
		p := Packet{Data: tcp4(back, tcpSYN|tcpFIN), Length: 1000, Time: 5e9 + int64(i)}
		table.Sampled(&p, Sample{Rate: 512})
		plain.Packets([]Packet{p})
	}
	got, want := allOf(table), allOf(plain)
	if len(got) != 1 || len(want) != 1 {
		t.Fatalf("%d and %d flows", len(got), len(want))
	}
	m := got[0].Metric
	if m.ABPackets != 1024 || m.ABBytes != 1024000 || m.BAPackets != 512 || m.BABytes != 512000 {
		t.Errorf("%+v", m)
	}
	if got[0].UUID != want[0].UUID || got[0].TrackingID != want[0].TrackingID || got[0].LayersPath != want[0].LayersPath {
		t.Errorf("%+v instead of %+v", got[0], want[0])
	}
	if got[0].FinishType != NotFinished || want[0].FinishType != TCPFin || m.RTT != 0 {
		t.Errorf("a sample ends a flow, or has a round-trip time: %+v", got[0])
	}
}

func TestPlacesKeepFlowsApart(t *testing.T) {
	table := NewTable(Options{NodeTID: "tid", MaxEntries: 20})
	port, other, far := table.Place("port", ""), table.Place("", "192.0.2.1"), table.Place("far", "")
	if table.Place("tid", "") != 0 || table.Place("", "") != 0 || table.Place("port", "") != port {
		t.Fatal("places are not what they are called")
	}
	p := Packet{Data: tcp4(false, 0), Length: 54, Time: 5e9}
	arp := Packet{Data: append(make([]byte, 12), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1), Length: 60, Time: 5e9}
	arp.Data = append(arp.Data, make([]byte, 20)...)
	for _, place := range []Place{0, port, other} {
		for range int(place) + 1 {
			table.Sampled(&p, Sample{Place: place, Back: place})
			table.Sampled(&arp, Sample{Place: place, Back: place})
		}
	}
	// The answer comes in at another node, and is part of the flow all the same.
	back := Packet{Data: tcp4(true, 0), Length: 54, Time: 6e9}
	table.Sampled(&back, Sample{Place: far, Back: port})
	all := allOf(table)
	ids := map[string]bool{}
	for _, f := range all {
		ids[f.UUID] = true
		want := map[string]int64{"tid": 0, "port": int64(port) + 1}[f.NodeTID]
		if want != 0 && f.Metric.ABPackets != want {
			t.Errorf("%s: %+v", f.NodeTID, f.Metric)
		}
		if answered := f.Metric.BAPackets == 1; answered != (f.NodeTID == "port" && f.Network != nil) {
			t.Errorf("%s: %+v", f.NodeTID, f.Metric)
		}
	}
	if len(all) != 6 || len(ids) != 6 {
		t.Fatalf("%d flows with %d UUIDs", len(all), len(ids))
	}
	found := 0
	table.Search(AnyText("NodeTID", "port"), func(f *Flow) bool {
		found++
		return f.NodeTID == "port"
	})
	if found != 2 {
		t.Errorf("%d flows of a place", found)
	}
}

func TestPlacesAreBounded(t *testing.T) {
	table := NewTable(Options{NodeTID: "tid", MaxEntries: 1})
	for i := range 2 * placesMax {
		table.Place("", string(rune(i+1)))
	}
	if len(table.places) != placesMax/2 || table.Place("node", "") == 0 {
		t.Errorf("%d places", len(table.places))
	}
	for i := range 2 * placesMax {
		table.Place(string(rune(i+1)), "")
	}
	if len(table.places) != placesMax || table.Place("late", "") != 0 {
		t.Errorf("%d places", len(table.places))
	}
}

// web is one direction of a connection as an exporter tells of it.
func web(back bool) Record {
	r := Record{
		Version: 4, Proto: 6, SrcPort: 12345, DstPort: 80, Packets: 3, Bytes: 300, Linked: true, Start: 10e9, Last: 20e9,
		Src: [16]byte{10, 0, 0, 1}, Dst: [16]byte{10, 0, 0, 2}, SrcMAC: [6]byte{5: 1}, DstMAC: [6]byte{5: 2},
	}
	if back {
		r.Src, r.Dst, r.SrcPort, r.DstPort, r.SrcMAC, r.DstMAC = r.Dst, r.Src, r.DstPort, r.SrcPort, r.DstMAC, r.SrcMAC
		r.Packets, r.Bytes, r.Start, r.Last = 2, 120, 11e9, 21e9
	}
	return r
}

func TestRecordsOfBothDirectionsAreOneFlow(t *testing.T) {
	packets := NewTable(Options{NodeTID: "tid", MaxEntries: 10})
	packets.Packets([]Packet{{Data: tcp4(false, 0), Length: 54, Time: 10e9}})
	want := allOf(packets)[0]
	for _, order := range [][]bool{{false, true}, {true, false}} {
		table := NewTable(Options{NodeTID: "tid", MaxEntries: 10})
		for _, back := range order {
			table.Records([]Record{web(back)}, 22e9)
		}
		all := allOf(table)
		if len(all) != 1 {
			t.Fatalf("%d flows", len(all))
		}
		f := all[0]
		if f.UUID != want.UUID || f.TrackingID != want.TrackingID || f.L3TrackingID != want.L3TrackingID || f.LayersPath != want.LayersPath {
			t.Errorf("not as from packets: %+v, %+v", f, want)
		}
		if f.Network.A != "10.0.0.1" || f.Transport.A != 12345 || f.Start != 10000 || f.Last != 21000 {
			t.Errorf("A did not begin: %+v", f)
		}
		// With the headers that a capture would have counted.
		if m := f.Metric; m.ABPackets != 3 || m.ABBytes != 342 || m.BAPackets != 2 || m.BABytes != 148 {
			t.Errorf("%+v", m)
		}
	}
}

func TestRecordsCountWhatTheySay(t *testing.T) {
	table := NewTable(Options{NodeTID: "tid", MaxEntries: 10, ExtraTCPMetric: true})
	r := web(false)
	r.Frames, r.Total, r.TCPFlags, r.BackPackets, r.BackBytes = true, true, tcpSYN, 5, 500
	table.Records([]Record{r, r}, 22e9)
	r.Packets, r.Bytes = 7, 700
	r.TCPFlags = tcpFIN
	table.Records([]Record{r}, 23e9)
	f := allOf(table)[0]
	if m := f.Metric; m.ABPackets != 7 || m.ABBytes != 700 || m.BAPackets != 5 || m.BABytes != 500 {
		t.Errorf("totals: %+v", m)
	}
	if f.FinishType != TCPFin || f.TCPMetric == nil || f.TCPMetric.ABSynStart != 10000 || f.TCPMetric.ABFinStart != 20000 {
		t.Errorf("%+v", f)
	}
	bad := web(false)
	bad.Packets, bad.Bytes, bad.Start = -5, 1<<63-1, -1
	table.Records([]Record{bad, bad, {}}, 24e9)
	if m := allOf(table)[0].Metric; m.ABPackets != 7 || m.ABBytes != 1<<63-1 {
		t.Errorf("%+v", m)
	}
	if c := table.Counts(); c.Malformed != 1 {
		t.Errorf("%+v", c)
	}
}

func TestRecordsNameOtherProtocols(t *testing.T) {
	for _, c := range []struct {
		r    Record
		path string
	}{
		{Record{Version: 4, Proto: 89}, "IPv4/OSPF"},
		{Record{Version: 4, Proto: 253}, "IPv4"},
		{Record{Version: 6, Proto: 58, ICMPType: 128}, "IPv6/ICMPv6/ICMPv6Echo"},
		{Record{Version: 6, Proto: 58, ICMPType: 135}, "IPv6/ICMPv6"},
		{Record{Version: 4, Proto: 132, SrcPort: 1, Linked: true, Tags: 1, VLAN: 7}, "Ethernet/Dot1Q/IPv4/SCTP"},
		{Record{EtherType: 0x806, Linked: true}, "Ethernet/ARP"},
		{Record{EtherType: 0x88cc, Linked: true}, "Ethernet/LinkLayerDiscovery"},
	} {
		table := NewTable(Options{MaxEntries: 10})
		c.r.Packets = 1
		table.Records([]Record{c.r}, 1e9)
		if all := allOf(table); len(all) != 1 || all[0].LayersPath != c.path {
			t.Errorf("%s: %+v", c.path, all)
		}
	}
}

// The record of the other direction may come much later than the last packet: a flow lives from when it was told of.
func TestRecordsLiveFromWhenTheyCame(t *testing.T) {
	table := NewTable(Options{NodeTID: "tid", MaxEntries: 10, Update: time.Minute, Expire: 10 * time.Minute})
	var got []FinishType
	tick := func(s int64) { table.Tick(time.Unix(s, 0), func(f *Flow) { got = append(got, f.FinishType) }) }
	tick(1000)
	r := web(false)
	r.TCPFlags = tcpFIN
	table.Records([]Record{r}, 1000e9)
	tick(1010)
	if len(got) != 0 || table.Len() != 1 {
		t.Fatalf("%v, %d flows", got, table.Len())
	}
	tick(1016)
	if len(got) != 1 || got[0] != TCPFin || table.Len() != 0 {
		t.Fatalf("%v, %d flows", got, table.Len())
	}
	table.Records([]Record{web(true)}, 1016e9)
	tick(1601) // the first expiry after it came
	if table.Len() != 1 {
		t.Fatal("expired")
	}
	tick(2202)
	if table.Len() != 0 || got[len(got)-1] != Timeout {
		t.Fatalf("%v, %d flows", got, table.Len())
	}
}

func BenchmarkRecords(b *testing.B) {
	table := NewTable(Options{NodeTID: "tid", MaxEntries: 100000})
	batch := make([]Record, 30)
	for i := range batch {
		batch[i] = web(i%2 == 0)
		batch[i].SrcPort += uint16(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		table.Records(batch, 1e9)
	}
}

// TestSamplesDoNotWrap: a datagram may say any rate.
func TestSamplesDoNotWrap(t *testing.T) {
	table := NewTable(Options{NodeTID: "tid"})
	frame := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 100, 0, 200, 0, 8, 0, 0}
	for range 5000 {
		table.Sampled(&Packet{Data: frame, Length: 1 << 20, Time: 1e18}, Sample{Rate: math.MaxUint32, First: FirstEthernet})
	}
	all := allOf(table)
	if len(all) != 1 || all[0].Metric.ABBytes != math.MaxInt64 {
		t.Errorf("%+v", all)
	}
}
