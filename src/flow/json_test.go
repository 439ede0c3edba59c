package flow

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestFlowsAreShownAsByThePublicSkydive(t *testing.T) {
	shown := lines(t, "wire-flows.jsonl") // what a query showed of each datagram's flow, before it ended
	for i, f := range golden(t) {
		f.LastUpdateMetric, f.FinishType = nil, NotFinished
		if got := string(f.AppendJSON(nil)); got != shown[i] {
			t.Errorf("flow %d:\n got %s\nwant %s", i+1, got, shown[i])
		}
	}
}

func TestJSONOfPublicFlowsIsReadAndWrittenAlike(t *testing.T) {
	for _, want := range append(lines(t, "wire-flows.jsonl"), lines(t, "wire-subscriber.jsonl")...) {
		var f Flow
		if err := json.Unmarshal([]byte(want), &f); err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		got, err := json.Marshal(&f)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
}

func TestJSONLeavesOut(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Flow
		want string
	}{
		{"nothing set", Flow{}, `{"Metric":{"ABPackets":0,"ABBytes":0,"BAPackets":0,"BABytes":0,"Start":0,"Last":0},"Start":0,"Last":0,"ParentUUID":"","RawPacketsCaptured":0}`},
		{"empty objects", Flow{Link: &Layer{}, Transport: &Transport{}, ICMP: &ICMP{}, IPMetric: &IPMetric{}, TCPMetric: &TCPMetric{ABSynTTL: 64}, LastRawPackets: make([]RawPacket, 1), FinishType: TCPRst},
			`{"Link":{"Protocol":"ETHERNET","A":"","B":"","ID":0},"Transport":{"Protocol":"ETHERNET","A":0,"B":0,"ID":0},"ICMP":{"Type":"UNKNOWN"},` +
				`"Metric":{"ABPackets":0,"ABBytes":0,"BAPackets":0,"BABytes":0,"Start":0,"Last":0},` +
				`"TCPMetric":{"ABSynStart":0,"BASynStart":0,"ABSynTTL":64,"ABFinStart":0,"BAFinStart":0,"ABRstStart":0,"BARstStart":0,` +
				`"ABSegmentOutOfOrder":0,"ABSegmentSkipped":0,"ABSegmentSkippedBytes":0,"ABPackets":0,"ABBytes":0,"ABSawStart":0,"ABSawEnd":0,` +
				`"BASegmentOutOfOrder":0,"BASegmentSkipped":0,"BASegmentSkippedBytes":0,"BAPackets":0,"BABytes":0,"BASawStart":0,"BASawEnd":0},` +
				`"IPMetric":{"Fragments":0,"FragmentErrors":0},"Start":0,"Last":0,"ParentUUID":"","RawPacketsCaptured":0,"FinishType":3}`},
	} {
		if got := string(c.f.AppendJSON(nil)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
	stats := Stats{CaptureID: "c", FlowCount: 4, PacketsReceived: 20}
	want := `{"CaptureID":"c","FlowCount":4,"FlowDropped":0,"KernelFlowDropped":0,"PacketsDropped":0,"PacketsReceived":20}`
	if got := string(stats.AppendJSON(nil)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	raw := RawPacket{Timestamp: 5, Index: 1, Data: []byte("abc"), LinkType: 1}
	if got := string(raw.AppendJSON(nil)); got != `{"Timestamp":5,"Index":1,"Data":"YWJj","LinkType":1}` {
		t.Errorf("packet is %s", got)
	}
}

// Releases up to 0.28.0 wrote other names below DNS and VRRPv2, and times as text.
func TestJSONOfOlderReleases(t *testing.T) {
	const old = `{"UUID":"u","DNS":{"ID":7,"QR":true,"OpCode":"Query","ResponseCode":"No Error","QDCount":1,"ANCount":2,"NSCount":3,"ARCount":4,
		"Questions":[{"Name":"a","Type":"A","Class":"IN"}],
		"Answers":[{"Name":"a","Type":"CNAME","Class":"IN","TTL":60,"DataLength":17,"CNAME":"b","TXTs":["x"],"SOA":{"MName":"m","RName":"r","Serial":1},
			"MX":{"Preference":10,"Name":"n"},"OPT":[{"Code":"c","Data":"d"}]}],
		"Timestamp":"2024-01-02T03:04:05.000000006Z"},"VRRPv2":{"Version":2,"VirtualRtrID":51,"CountIPAddr":1},"DHCPv4":{"HardwareLen":6,"ServerName":"YQ=="}}`
	var f Flow
	if err := f.UnmarshalJSON([]byte(old)); err != nil {
		t.Fatal(err)
	}
	want := Flow{UUID: "u", DNS: &DNS{
		ID: 7, QR: true, OpCode: "Query", ResponseCode: "No Error", QDCount: 1, ANCount: 2, NSCount: 3, ARCount: 4,
		Questions: []DNSQuestion{{"a", "A", "IN"}},
		Answers: []DNSRecord{{Name: "a", Type: "CNAME", Class: "IN", TTL: 60, DataLength: 17, CName: "b", TXTs: []string{"x"},
			SOA: &DNSSOA{MName: "m", RName: "r", Serial: 1}, MX: &DNSMX{10, "n"}, OPT: []DNSOption{{"c", "d"}}}},
		Timestamp: 1704164645_000000006,
	}, VRRPv2: &VRRPv2{Version: 2, VirtualRtrID: 51, CountIPAddr: 1}, DHCPv4: &DHCPv4{HardwareLen: 6, ServerName: []byte("a")}}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got %+v\nwant %+v", f, want)
	}
}

func TestJSONThatIsNoFlowIsRefused(t *testing.T) {
	for _, s := range []string{
		``, `[]`, `{`, `{"UUID":1}`, `{"Start":"x"}`, `{"Link":[]}`, `{"Link":{"Protocol":1}}`, `{"Link":{"Protocol":"IP"}}`, `{"ICMP":{"Code":-1}}`,
		`{"ICMP":{"Type":"echo"}}`, `{"FinishType":256}`, `{"Metric":5}`, `{"DNS":{"timestamp":5}}`, `{"DNS":{"timestamp":"yesterday"}}`,
		`{"DNS":{"questions":{}}}`, `{"DNS":{"questions":[1]}}`, `{"DNS":{"answers":[{"TXTs":[1]}]}}`, `{"DNS":{"answers":[{"TXTs":1}]}}`, `{"DHCPv4":{"file":"*"}}`,
	} {
		var f Flow
		if err := f.UnmarshalJSON([]byte(s)); err == nil {
			t.Errorf("%s was taken for %+v", s, f)
		}
	}
	var f Flow
	if err := f.UnmarshalJSON([]byte(`{"UUID":"a","New":{"x":1},"Network":null,"LastRawPackets":[{"Index":1}]}`)); err != nil || f.UUID != "a" || f.LastRawPackets != nil {
		t.Errorf("got %+v, %v", f, err)
	}
}

func TestNamesOfNumbersWithoutOne(t *testing.T) {
	f := Flow{Link: &Layer{Protocol: 77}, ICMP: &ICMP{Type: 99}}
	text := string(f.AppendJSON(nil))
	if !strings.Contains(text, `"Protocol":"77"`) || !strings.Contains(text, `"Type":"99"`) {
		t.Errorf("got %s", text)
	}
	var back Flow
	if err := back.UnmarshalJSON([]byte(text)); err != nil || back.Link.Protocol != 77 || back.ICMP.Type != 99 {
		t.Errorf("got %+v, %v", back.Link, err)
	}
	if TCPFin.String() != "TCP_FIN" || FinishType(9).String() != "9" {
		t.Error("names of finish types")
	}
}
