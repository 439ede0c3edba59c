package flow

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// vectorNode is the node on which the public flows were recorded.
const vectorNode = "b278a51e-38fa-5a7a-8c56-449044ac6a10"

// vector is a flow that the public software made of a file. RTT and the times of TCPMetric are 1 if they were known.
type vector struct {
	File, UUID, LayersPath, Application string
	Link, Network                       *struct {
		Protocol, A, B string
		ID             int64
	}
	Transport *struct {
		Protocol string
		A, B, ID int64
	}
	ICMP *struct {
		Type     string
		Code, ID uint32
	}
	Metric                               struct{ ABPackets, ABBytes, BAPackets, BABytes, RTT int64 }
	Start                                int64
	TrackingID, L3TrackingID, ParentUUID string
	TCPMetric                            *TCPMetric
	IPMetric                             *IPMetric
	RawPacketsCaptured                   int64
	FinishType                           FinishType
	DNS                                  map[string]any
	DHCPv4                               *struct {
		HardwareLen  uint32 `json:"hardware_len"`
		HardwareOpts uint32 `json:"hardware_opts"`
		Secs, Flags  uint32
		ServerName   []byte `json:"server_name"`
		File         []byte
	}
	VRRPv2 *struct {
		Version      uint32
		VirtualRtrID uint32 `json:"virtual_rtrID"`
		Priority     uint32
		AdverInt     uint32 `json:"adver_int"`
	}
}

var vectorProtocols = []string{"ETHERNET", "IPV4", "TCP", "UDP", "SCTP", "IPV6", "ICMPV4", "ICMPV6"}

var vectorICMP = []string{"UNKNOWN", "DESTINATION_UNREACHABLE", "ECHO", "NEIGHBOR", "ADDRESS_MASK", "INFO", "PARAMETER_PROBLEM", "REDIRECT",
	"ROUTER", "SOURCE_QUENCH", "TIME_EXCEEDED", "TIMESTAMP", "PACKET_TOO_BIG"}

// line is what two flows are compared by.
func (v *vector) line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", v.LayersPath, v.Application)
	if v.Link != nil {
		fmt.Fprintf(&b, " link %s>%s %d", v.Link.A, v.Link.B, v.Link.ID)
	}
	if v.Network != nil {
		fmt.Fprintf(&b, " %s %s>%s %d", v.Network.Protocol, v.Network.A, v.Network.B, v.Network.ID)
	}
	if v.Transport != nil {
		fmt.Fprintf(&b, " %s %d>%d %d", v.Transport.Protocol, v.Transport.A, v.Transport.B, v.Transport.ID)
	}
	if v.ICMP != nil {
		fmt.Fprintf(&b, " %s %d %d", v.ICMP.Type, v.ICMP.Code, v.ICMP.ID)
	}
	fmt.Fprintf(&b, " l3 %s id %s metric %v", v.L3TrackingID, v.TrackingID, v.Metric)
	if v.TCPMetric != nil {
		fmt.Fprintf(&b, " tcp %+v", *v.TCPMetric)
	}
	if v.IPMetric != nil {
		fmt.Fprintf(&b, " ip %+v", *v.IPMetric)
	}
	if v.RawPacketsCaptured != 0 {
		fmt.Fprintf(&b, " raw %d", v.RawPacketsCaptured)
	}
	if v.FinishType != 0 {
		fmt.Fprintf(&b, " finish %d", v.FinishType)
	}
	if v.DNS != nil {
		fmt.Fprintf(&b, " dns %v", v.DNS)
	}
	if v.DHCPv4 != nil {
		fmt.Fprintf(&b, " dhcp %+v", *v.DHCPv4)
	}
	if v.VRRPv2 != nil {
		fmt.Fprintf(&b, " vrrp %+v", *v.VRRPv2)
	}
	return b.String()
}

func known(n int64) int64 { return min(n, 1) }

// vectorOf brings a flow into the form of the recorded ones.
func vectorOf(file string, f *Flow) vector {
	v := vector{File: file, UUID: f.UUID, LayersPath: f.LayersPath, Application: f.Application, Start: f.Start, TrackingID: f.TrackingID,
		L3TrackingID: f.L3TrackingID, ParentUUID: f.ParentUUID, RawPacketsCaptured: f.RawPacketsCaptured, FinishType: f.FinishType}
	m := f.Metric
	v.Metric = struct{ ABPackets, ABBytes, BAPackets, BABytes, RTT int64 }{m.ABPackets, m.ABBytes, m.BAPackets, m.BABytes, known(m.RTT)}
	layer := func(l *Layer) *struct {
		Protocol, A, B string
		ID             int64
	} {
		if l == nil {
			return nil
		}
		return &struct {
			Protocol, A, B string
			ID             int64
		}{vectorProtocols[l.Protocol], l.A, l.B, l.ID}
	}
	v.Link, v.Network = layer(f.Link), layer(f.Network)
	if l := f.Transport; l != nil {
		v.Transport = &struct {
			Protocol string
			A, B, ID int64
		}{vectorProtocols[l.Protocol], l.A, l.B, l.ID}
	}
	if l := f.ICMP; l != nil {
		v.ICMP = &struct {
			Type     string
			Code, ID uint32
		}{vectorICMP[l.Type], l.Code, l.ID}
	}
	if f.TCPMetric != nil {
		c := *f.TCPMetric
		for _, p := range []*int64{&c.ABSynStart, &c.BASynStart, &c.ABFinStart, &c.BAFinStart, &c.ABRstStart, &c.BARstStart} {
			*p = known(*p)
		}
		v.TCPMetric = &c
	}
	if f.IPMetric != nil {
		c := *f.IPMetric
		v.IPMetric = &c
	}
	if f.DNS != nil {
		v.DNS = dnsMap(f.DNS)
	}
	if d := f.DHCPv4; d != nil {
		v.DHCPv4 = &struct {
			HardwareLen  uint32 `json:"hardware_len"`
			HardwareOpts uint32 `json:"hardware_opts"`
			Secs, Flags  uint32
			ServerName   []byte `json:"server_name"`
			File         []byte
		}{d.HardwareLen, d.HardwareOpts, d.Secs, d.Flags, d.ServerName, d.File}
	}
	if d := f.VRRPv2; d != nil {
		v.VRRPv2 = &struct {
			Version      uint32
			VirtualRtrID uint32 `json:"virtual_rtrID"`
			Priority     uint32
			AdverInt     uint32 `json:"adver_int"`
		}{d.Version, d.VirtualRtrID, d.Priority, d.AdverInt}
	}
	return v
}

// object is an object of JSON without its zero members.
func object(pairs ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		if n, ok := pairs[i+1].(uint32); ok {
			pairs[i+1] = float64(n)
		}
		if v := reflect.ValueOf(pairs[i+1]); v.IsValid() && !v.IsZero() {
			m[pairs[i].(string)] = pairs[i+1]
		}
	}
	return m
}

func dnsMap(d *DNS) map[string]any {
	var questions []any
	for _, q := range d.Questions {
		questions = append(questions, object("name", q.Name, "type", q.Type, "class", q.Class))
	}
	records := func(rs []DNSRecord) (list []any) {
		for _, r := range rs {
			m := object("name", r.Name, "type", r.Type, "class", r.Class, "TTL", r.TTL, "data_length", r.DataLength, "IP", r.IP, "NS", r.NS,
				"c_name", r.CName, "PTR", r.PTR)
			if len(r.TXTs) > 0 {
				var txts []any
				for _, s := range r.TXTs {
					txts = append(txts, s)
				}
				m["TXTs"] = txts
			}
			if s := r.SOA; s != nil {
				m["SOA"] = object("m_name", s.MName, "r_name", s.RName, "serial", s.Serial, "refresh", s.Refresh, "retry", s.Retry, "expire", s.Expire,
					"minimum", s.Minimum)
			}
			if s := r.MX; s != nil {
				m["MX"] = object("preference", s.Preference, "name", s.Name)
			}
			list = append(list, m)
		}
		return list
	}
	return object("ID", d.ID, "QR", d.QR, "op_code", d.OpCode, "AA", d.AA, "TC", d.TC, "RD", d.RD, "RA", d.RA, "z", d.Z, "response_code", d.ResponseCode,
		"q_d_count", d.QDCount, "a_n_count", d.ANCount, "n_s_count", d.NSCount, "a_r_count", d.ARCount, "questions", questions,
		"answers", records(d.Answers), "authorities", records(d.Authorities), "additionals", records(d.Additionals))
}

// readPcap reads a little-endian pcap file of Ethernet frames.
func readPcap(t testing.TB, file string) []Packet {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < 24 || binary.LittleEndian.Uint32(b) != 0xa1b2c3d4 || binary.LittleEndian.Uint32(b[20:]) != 1 {
		t.Fatalf("%s: not such a pcap file", file)
	}
	var ps []Packet
	for b = b[24:]; len(b) >= 16; {
		le := binary.LittleEndian
		n := int(le.Uint32(b[8:]))
		ps = append(ps, Packet{Data: b[16 : 16+n], Length: int(le.Uint32(b[12:])),
			Time: int64(le.Uint32(b))*int64(time.Second) + int64(le.Uint32(b[4:]))*int64(time.Microsecond)})
		b = b[16+n:]
	}
	return ps
}

func readVectors(t testing.TB, name string) map[string][]vector {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "flows-"+name+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := map[string][]vector{}
	for s := bufio.NewScanner(f); s.Scan(); {
		var v vector
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		m[v.File] = append(m[v.File], v)
	}
	return m
}

// replay gives the flows of a file.
func replay(t testing.TB, o Options, file string) []Flow {
	table := NewTable(o)
	table.Packets(readPcap(t, filepath.Join("testdata", "pcap", file)))
	var flows []Flow
	table.Each(func(f *Flow) bool {
		flows = append(flows, clone(f))
		return true
	})
	return flows
}

// clone copies what a record points to.
func clone(f *Flow) Flow {
	c := *f
	for _, p := range []any{&c.Link, &c.Network, &c.Transport, &c.ICMP, &c.LastUpdateMetric, &c.TCPMetric, &c.IPMetric} {
		v := reflect.ValueOf(p).Elem()
		if !v.IsNil() {
			n := reflect.New(v.Type().Elem())
			n.Elem().Set(v.Elem())
			v.Set(n)
		}
	}
	return c
}

// expected changes a recorded flow where ours differs on purpose.
func expected(o Options, v vector) []vector {
	is := func(file string) bool { return strings.HasPrefix(v.File, file) }
	switch {
	// VLAN ids are part of the key (but where only network and transport tell flows apart).
	case is("08") && !o.L3 && v.Transport.A == 1000:
		other := v
		link := *v.Link
		link.ID = 200
		other.Link = &link
		v.Metric.ABPackets, v.Metric.ABBytes = 2, 132
		other.Metric.ABPackets, other.Metric.ABBytes, other.Metric.BAPackets, other.Metric.BABytes = 1, 66, 0, 0
		if v.RawPacketsCaptured == 4 {
			v.RawPacketsCaptured, other.RawPacketsCaptured = 3, 1
		}
		return []vector{v, other}
	// So is the IP protocol.
	case is("22") && v.LayersPath == "Ethernet/IPv4/IPSecESP":
		ospf, unknown := v, v
		ospf.LayersPath, ospf.Application = "Ethernet/IPv4/OSPF", "OSPF"
		unknown.LayersPath, unknown.Application = "Ethernet/IPv4", "IPv4"
		v.Metric.ABPackets, v.Metric.ABBytes = 1, 82
		ospf.Metric.ABPackets, ospf.Metric.ABBytes = 1, 78
		unknown.Metric.ABPackets, unknown.Metric.ABBytes = 1, 74
		if v.RawPacketsCaptured == 3 {
			v.RawPacketsCaptured, ospf.RawPacketsCaptured, unknown.RawPacketsCaptured = 1, 1, 1
		}
		return []vector{v, ospf, unknown}
	// Ports tell the direction where MAC and IP addresses are the same.
	case is("23") && v.Metric.ABPackets == 0:
		v.Metric.ABPackets, v.Metric.ABBytes, v.Metric.BAPackets, v.Metric.BABytes = 1, 62, 1, 62
	// A header that is cut off has no addresses and no ports.
	case is("26") && v.LayersPath == "Ethernet/IPv4":
		v.Network, v.L3TrackingID, v.TrackingID = nil, "ef46db3751d8e999", "f71d20f6ca8ec6a6"
	case is("26") && v.LayersPath == "Ethernet/IPv4/TCP":
		v.Transport, v.TCPMetric = nil, nil
	}
	return []vector{v}
}

// compared takes out of a flow of ours what cannot be compared with the recorded one.
func compared(o Options, want, got vector) vector {
	// The public software does not count packets without a network layer in mode L3.
	if zero := want.Metric; o.L3 && zero.ABPackets+zero.BAPackets == 0 {
		got.Metric = want.Metric
	}
	// It shows the counters of reassembly when a stream has ended; ours are there from the beginning.
	if o.ReassembleTCP && got.TCPMetric != nil {
		m := *got.TCPMetric
		if m.ABSawEnd == 0 {
			m.ABPackets, m.ABBytes, m.ABSawStart, m.ABSegmentOutOfOrder = 0, 0, 0, 0
		}
		if m.BASawEnd == 0 {
			m.BAPackets, m.BABytes, m.BASawStart, m.BASegmentOutOfOrder = 0, 0, 0, 0
		}
		if !o.ExtraTCPMetric && want.TCPMetric != nil {
			m.ABFinStart, m.BAFinStart, m.ABRstStart, m.BARstStart = want.TCPMetric.ABFinStart, want.TCPMetric.BAFinStart, want.TCPMetric.ABRstStart, want.TCPMetric.BARstStart
		}
		got.TCPMetric = &m
		if want.TCPMetric == nil {
			got.TCPMetric = nil
		}
	}
	return got
}

func TestVectors(t *testing.T) {
	for _, set := range []struct {
		name string
		o    Options
	}{
		{"pcapsocket-default", Options{}},
		{"pcapsocket-l3", Options{L3: true}},
		{"pcapsocket-extratcp", Options{ExtraTCPMetric: true}},
		{"pcapsocket-reassemble", Options{ReassembleTCP: true}},
		{"pcapsocket-all", Options{ExtraTCPMetric: true, ReassembleTCP: true, ExtraLayers: 7, RawPacketLimit: 10, HeaderSize: 64}},
	} {
		t.Run(set.name, func(t *testing.T) {
			onlyTCP := strings.HasSuffix(set.name, "tcp") || strings.HasSuffix(set.name, "reassemble") // the file has no others
			for file, vectors := range readVectors(t, set.name) {
				got := map[string][]vector{}
				n := 0
				for _, f := range replay(t, set.o, file) {
					if onlyTCP && !strings.Contains(f.LayersPath, "TCP") {
						continue
					}
					v := vectorOf(file, &f)
					got[v.id()] = append(got[v.id()], v)
					n++
				}
				for _, v := range vectors {
					for _, want := range expected(set.o, v) {
						n--
						ours := got[want.id()]
						if !slices.ContainsFunc(ours, func(v vector) bool {
							v = compared(set.o, want, v)
							return v.line() == want.line()
						}) {
							t.Errorf("%s: no flow %s", file, want.line())
							for _, v := range ours {
								t.Errorf("          but %s", v.line())
							}
						}
					}
				}
				if n != 0 {
					t.Errorf("%s: %d flows too many: %v", file, n, got)
				}
			}
		})
	}
}

// id finds the flow to compare with.
func (v *vector) id() string { return fmt.Sprint(v.LayersPath, v.TrackingID) }

// The UUIDs of the public flows follow from their start and their parent.
func TestVectorUUIDs(t *testing.T) {
	for _, set := range []struct {
		name string
		o    Options
	}{{"pcapsocket-default", Options{}}, {"pcapsocket-l3", Options{L3: true}}} {
		checked := 0
		for file, vectors := range readVectors(t, set.name) {
			table := NewTable(set.o)
			table.Packets(readPcap(t, filepath.Join("testdata", "pcap", file)))
			keys := map[string]key{}
			for n := range uint32(segmentEntries) {
				if e := table.hot(n); e.flags&live != 0 {
					var r record
					table.record(e, n, &r)
					v := vectorOf(file, &r.flow)
					v.UUID, v.ParentUUID = "", ""
					keys[v.line()] = key{e.m0, e.m1, e.a, e.vlan, e.meta, e.parent, e.b, e.c, e.d}
				}
			}
			for _, v := range vectors {
				k, ok := keys[v.line()]
				if !ok {
					continue // one of the differences of TestVectors
				}
				k.parent = 0
				if v.ParentUUID != "" {
					var err error
					if k.parent, err = strconv.ParseUint(v.ParentUUID, 16, 64); err != nil {
						t.Fatal(err)
					}
				}
				if got := string(hexID(nil, k.ids(v.Start, place{tid: vectorNode}).uuid)); got != v.UUID {
					t.Errorf("%s %s: UUID %s of %s", set.name, file, got, v.line())
				}
				checked++
			}
		}
		if checked < 70 {
			t.Errorf("%s: only %d UUIDs checked", set.name, checked)
		}
	}
}
