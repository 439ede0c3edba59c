package flow

import (
	"bytes"
	"encoding/hex"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
)

// lines reads a file of testdata.
func lines(t testing.TB, name string) []string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// golden decodes the datagrams that a public agent sent.
func golden(t testing.TB) []*Flow {
	t.Helper()
	var flows []*Flow
	for _, line := range lines(t, "wire-datagrams.hex") {
		var m Message
		if err := m.UnmarshalProto(unhex(t, line)); err != nil {
			t.Fatal(err)
		}
		if len(m.Flows) != 1 || m.Stats != nil {
			t.Fatalf("%d flows, stats %v in a datagram, want one flow", len(m.Flows), m.Stats)
		}
		flows = append(flows, m.Flows...)
	}
	return flows
}

func TestDatagramsOfPublicAgentsAreEncodedAlike(t *testing.T) {
	seen := map[string]bool{}
	for i, line := range lines(t, "wire-datagrams.hex") {
		want := unhex(t, line)
		var m Message
		if err := m.UnmarshalProto(want); err != nil {
			t.Fatal(err)
		}
		if got := m.AppendProto(nil); !bytes.Equal(got, want) {
			t.Errorf("line %d:\n got %x\nwant %x", i+1, got, want)
		}
		f := m.Flows[0]
		for name, there := range map[string]bool{
			"DNS": f.DNS != nil, "DHCPv4": f.DHCPv4 != nil, "VRRPv2": f.VRRPv2 != nil, "TCPMetric": f.TCPMetric != nil, "IPMetric": f.IPMetric != nil,
			"ICMP": f.ICMP != nil, "raw": len(f.LastRawPackets) > 0, "parent": f.ParentUUID != "", "VLAN": f.Link != nil && f.Link.ID != 0,
			"no link": f.Link == nil, "no network": f.Network == nil, "RTT": f.Metric.RTT != 0,
		} {
			seen[name] = seen[name] || there
		}
	}
	for name, ok := range seen {
		if !ok {
			t.Errorf("no datagram of testdata has %s", name)
		}
	}
}

func TestStatsOfPublicAgents(t *testing.T) {
	datagram := unhex(t, "12280a2430356235633736642d396535332d346231322d623630622d366466363434643734393535103f")
	var m Message
	if err := m.UnmarshalProto(datagram); err != nil {
		t.Fatal(err)
	}
	want := &Stats{CaptureID: "05b5c76d-9e53-4b12-b60b-6df644d74955", FlowCount: 63}
	if len(m.Flows) != 0 || !reflect.DeepEqual(m.Stats, want) {
		t.Errorf("got %+v, want %+v", m.Stats, want)
	}
	if got := m.AppendProto(nil); !bytes.Equal(got, datagram) {
		t.Errorf("encoded as %x", got)
	}
}

// full returns a record in which no field is zero.
func full() *Flow {
	f := new(Flow)
	fill(reflect.ValueOf(f).Elem(), new(int64))
	f.Link.Protocol, f.Network.Protocol, f.Transport.Protocol = IPv4, IPv6, SCTP
	return f
}

func fill(v reflect.Value, n *int64) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.String:
		v.SetString(strings.Repeat("x", int(*n%5)+1) + "ü")
	case reflect.Int64:
		v.SetInt(*n * 1_000_000_007)
	case reflect.Uint32:
		v.SetUint(uint64(*n) * 1_000_003)
	case reflect.Uint8:
		v.SetUint(uint64(*n%3) + 1)
	case reflect.Bool:
		v.SetBool(true)
	default:
		panic(v.Kind())
	}
}

func TestEveryFieldTravels(t *testing.T) {
	f := full()
	var back Flow
	if err := back.UnmarshalProto(f.AppendProto(nil)); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f, &back) {
		t.Errorf("got %+v\nwant %+v", &back, f)
	}
	back = Flow{}
	if err := back.UnmarshalJSON(f.AppendJSON(nil)); err != nil {
		t.Fatal(err)
	}
	f.LastRawPackets = nil // never in JSON
	if !reflect.DeepEqual(f, &back) {
		t.Errorf("JSON: got %+v\nwant %+v", &back, f)
	}
	for _, stamp := range []int64{-1, -1e9, -1e9 - 1, 1, math.MaxInt64, math.MinInt64 + 1e9} {
		g := Flow{DNS: &DNS{Timestamp: stamp}}
		if err := back.UnmarshalProto(g.AppendProto(nil)); err != nil || back.DNS.Timestamp != stamp {
			t.Errorf("timestamp %d came back as %d, %v", stamp, back.DNS.Timestamp, err)
		}
	}
}

func TestNothingOfTheBufferIsKept(t *testing.T) {
	for _, big := range []int{10, 5000} { // with texts in one string, and each by itself
		f := full()
		f.Application = strings.Repeat("a", big)
		b := f.AppendProto(nil)
		var back Flow
		if err := back.UnmarshalProto(b); err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] = 0xff
		}
		if !reflect.DeepEqual(f, &back) {
			t.Errorf("application of %d bytes: got %+v", big, &back)
		}
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	var f Flow
	for _, c := range []string{
		"0a0161" + "f03f01",               // number 1022
		"0a0161" + "f13f0000000000000000", // 64 bits
		"0a0161" + "f53f00000000",         // 32 bits
		"0a0161" + "f33f0801f43f",         // a group
		"0a0161" + "f23f03616263",         // bytes
		"0a0161" + "5203616263",           // bytes where Start, a number, belongs
		"0a0161" + "1001",                 // a number where LayersPath, a text, belongs
	} {
		if err := f.UnmarshalProto(unhex(t, c)); err != nil {
			t.Errorf("%s: %v", c, err)
		}
		if f.UUID != "a" || f.Start != 0 || f.LayersPath != "" {
			t.Errorf("%s: got %+v", c, f)
		}
	}
}

func TestMalformedRecordsAreRefused(t *testing.T) {
	var f Flow
	for _, c := range []string{
		"0a", "0a05", "0a0561", "00", "0801ff", "50ffffffffffffffffffff01", "a20105", "a201021aff", "f33f", "f43f", "0f",
	} {
		if err := f.UnmarshalProto(unhex(t, c)); err == nil {
			t.Errorf("%s was taken for %+v", c, f)
		}
	}
	long := Flow{LastRawPackets: make([]RawPacket, maxElements+1)}
	if err := f.UnmarshalProto(long.AppendProto(nil)); err == nil {
		t.Errorf("%d packets of one flow were taken", maxElements+1)
	}
}

func TestTextsThatAreNotUTF8AreRepaired(t *testing.T) {
	f := Flow{DNS: &DNS{Questions: []DNSQuestion{{Name: "a\xff.example"}}, Answers: []DNSRecord{{TXTs: []string{"\xc0", ""}}}}}
	var back Flow
	if err := back.UnmarshalProto(f.AppendProto(nil)); err != nil {
		t.Fatal(err)
	}
	if got := back.DNS.Questions[0].Name; got != "a\uFFFD.example" {
		t.Errorf("name is %q", got)
	}
	if got := back.DNS.Answers[0].TXTs; !reflect.DeepEqual(got, []string{"\uFFFD", ""}) {
		t.Errorf("texts are %q", got)
	}
}

func TestSetOfPublicAgents(t *testing.T) {
	for _, line := range lines(t, "wire-queries.hex") {
		typ, obj, _ := strings.Cut(line, " ")
		if typ != "TableResult" {
			continue
		}
		r, err := ParseTableReply(unhex(t, obj), true)
		if err != nil {
			t.Fatal(err)
		}
		if r.Status != 200 || len(r.Sets) != 1 || r.Total != nil {
			t.Fatalf("got %+v", r)
		}
		var s Set
		if err := s.UnmarshalProto(r.Sets[0]); err != nil {
			t.Fatal(err)
		}
		if len(s.Flows) != 1 || s.Start != s.Flows[0].Start || s.Last != s.Flows[0].Last {
			t.Errorf("set of %d flows from %d to %d", len(s.Flows), s.Start, s.Last)
		}
		if got := s.AppendProto(nil); !bytes.Equal(got, r.Sets[0]) {
			t.Errorf("set encoded as %x", got)
		}
		if got := r.AppendProto(nil); !bytes.Equal(got, unhex(t, obj)) {
			t.Errorf("reply encoded as %x", got)
		}
	}
}

func FuzzFlowProto(f *testing.F) {
	for _, line := range lines(f, "wire-datagrams.hex") {
		f.Add(unhex(f, line))
	}
	f.Add((&Message{Flows: []*Flow{full()}, Stats: &Stats{CaptureID: "x"}}).AppendProto(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, back Message
		if m.UnmarshalProto(b) != nil {
			return
		}
		once := m.AppendProto(nil)
		if err := back.UnmarshalProto(once); err != nil {
			t.Fatalf("%x: %v", once, err)
		}
		if twice := back.AppendProto(nil); !bytes.Equal(once, twice) {
			t.Fatalf("%x became %x", once, twice)
		}
		for _, fl := range m.Flows {
			var again Flow
			text := fl.AppendJSON(nil)
			if err := again.UnmarshalJSON(text); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			for _, k := range Keys() {
				fl.Field(k)
			}
		}
	})
}

// typical is what most records of TCP are like.
func typical() *Flow {
	return &Flow{
		UUID: "9452595d6e2f33ae", LayersPath: "Ethernet/IPv4/TCP", Application: "HTTPS", Start: 1795395009944, Last: 1795395011950,
		Link:             &Layer{Protocol: Ethernet, A: "36:56:9c:a6:dd:f3", B: "6e:6e:b0:ab:41:4e"},
		Network:          &Layer{Protocol: IPv4, A: "10.99.0.1", B: "10.99.0.2"},
		Transport:        &Transport{Protocol: TCP, A: 44444, B: 443},
		Metric:           Metric{300, 141000, 200, 12000, 1795395009944, 1795395011950, 1234567},
		LastUpdateMetric: &Metric{30, 14100, 20, 1200, 1795395009944, 1795395011950, 1234567},
		NodeTID:          "69ad7581-51e8-5ab8-94ab-47c496d65380", CaptureID: "05b5c76d-9e53-4b12-b60b-6df644d74955",
		TrackingID: "d162328a32247338", L3TrackingID: "4f06744493b33567",
	}
}

func TestEncodingTakesNoMemory(t *testing.T) {
	f, buf := full(), make([]byte, 0, 64<<10)
	if n := testing.AllocsPerRun(100, func() { buf = AppendMessageFlow(buf[:0], f) }); n != 0 {
		t.Errorf("protobuf: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { buf = typical().AppendProto(buf[:0]) }); n > 5 { // those of typical itself
		t.Errorf("protobuf: %v allocations", n)
	}
	g := typical()
	if n := testing.AllocsPerRun(100, func() { buf = g.AppendJSON(buf[:0]) }); n != 0 {
		t.Errorf("JSON: %v allocations", n)
	}
}

func BenchmarkFlowAppendProto(b *testing.B) {
	f, buf := typical(), make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendMessageFlow(buf[:0], f)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkFlowUnmarshalProto(b *testing.B) {
	data := typical().AppendProto(nil)
	var f Flow
	b.ReportAllocs()
	for b.Loop() {
		if err := f.UnmarshalProto(data); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(data)))
}

func BenchmarkFlowAppendJSON(b *testing.B) {
	f, buf := typical(), make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		buf = f.AppendJSON(buf[:0])
	}
	b.SetBytes(int64(len(buf)))
}
