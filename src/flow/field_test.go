package flow

import (
	"slices"
	"strings"
	"testing"

	"skydive/src/field"
)

func TestField(t *testing.T) {
	tcp := typical()
	v6 := &Flow{Network: &Layer{Protocol: IPv6, A: "::1", B: "::2", ID: 5}, Transport: &Transport{Protocol: UDP, A: 53, B: 1000}}
	rich := full()
	list := func(vs ...any) field.List { return vs }
	for _, c := range []struct {
		f    *Flow
		path string
		want field.Value // nil: missing
	}{
		{tcp, "UUID", "9452595d6e2f33ae"},
		{tcp, "ParentUUID", ""},
		{tcp, "Start", int64(1795395009944)},
		{tcp, "RawPacketsCaptured", int64(0)},
		{tcp, "FinishType", int64(0)},
		{tcp, "Link", list("36:56:9c:a6:dd:f3", "6e:6e:b0:ab:41:4e")},
		{tcp, "Network", list("10.99.0.1", "10.99.0.2")},
		{tcp, "Transport", list(int64(44444), int64(443))},
		{tcp, "Link.A", "36:56:9c:a6:dd:f3"},
		{tcp, "Link.ID", int64(0)},
		{tcp, "Link.Protocol", "ETHERNET"},
		{tcp, "Network.Protocol", "IPV4"},
		{tcp, "Transport.B", int64(443)},
		{tcp, "Transport.C", nil},
		{tcp, "TCP.B", int64(443)},
		{tcp, "TCP", list(int64(44444), int64(443))},
		{tcp, "UDP.B", nil},
		{tcp, "SCTP", nil},
		{tcp, "ETHERNET.B", "6e:6e:b0:ab:41:4e"},
		{tcp, "IPV4.A", "10.99.0.1"},
		{tcp, "IPV6.A", nil},
		{tcp, "IPV6", nil},
		{tcp, "Metric.ABBytes", int64(141000)},
		{tcp, "Metric.RTT", int64(1234567)},
		{tcp, "LastUpdateMetric.BABytes", int64(1200)},
		{tcp, "TCPMetric.ABSynStart", nil},
		{tcp, "IPMetric", nil},
		{tcp, "DNS.QR", nil},
		{tcp, "ANodeTID", nil},
		{tcp, "Nonsense.A", nil},
		{tcp, "", nil},
		{tcp, ".", nil},
		{tcp, "Metric", field.Make("ABPackets", 300, "ABBytes", 141000, "BAPackets", 200, "BABytes", 12000, "Start", 1795395009944, "Last", 1795395011950, "RTT", 1234567)},
		{v6, "IPV6.B", "::2"},
		{v6, "Network.ID", int64(5)},
		{v6, "UDP.A", int64(53)},
		{v6, "TCP.A", nil},
		{v6, "Link", nil},
		{v6, "Link.A", nil},
		{v6, "LastUpdateMetric.Start", nil},
		{v6, "ICMP.Type", nil},
		{rich, "ICMP.Type", rich.ICMP.Type.String()},
		{rich, "ICMP.ID", int64(rich.ICMP.ID)},
		{rich, "DNS.QR", true},
		{rich, "DNS.QDCount", int64(rich.DNS.QDCount)},
		{rich, "DNS.q_d_count", int64(rich.DNS.QDCount)},
		{rich, "DNS.Questions.Name", list(rich.DNS.Questions[0].Name, rich.DNS.Questions[1].Name)},
		{rich, "DNS.questions.name", list(rich.DNS.Questions[0].Name, rich.DNS.Questions[1].Name)},
		{rich, "DNS.Answers.SOA.MName", list(rich.DNS.Answers[0].SOA.MName, rich.DNS.Answers[1].SOA.MName)},
		{rich, "DNS.Timestamp.Seconds", rich.DNS.Timestamp / 1e9},
		{rich, "DHCPv4.HardwareLen", int64(rich.DHCPv4.HardwareLen)},
		{rich, "VRRPv2.VirtualRtrID", int64(rich.VRRPv2.VirtualRtrID)},
		{rich, "LastRawPackets.Index", list(rich.LastRawPackets[0].Index, rich.LastRawPackets[1].Index)},
	} {
		got, ok := c.f.Field(c.path)
		if ok != (c.want != nil) || ok && !field.Equal(got, c.want) {
			t.Errorf("%s is %v, %v; want %v", c.path, got, ok, c.want)
		}
	}
}

func TestZeroFieldsOfDNSAreThere(t *testing.T) {
	f := Flow{DNS: &DNS{Answers: []DNSRecord{{Name: "a"}}}}
	for path, want := range map[string]field.Value{"DNS.TC": false, "DNS.NSCount": int64(0), "DNS.Answers.TTL": field.List{int64(0)}} {
		if got, ok := f.Field(path); !ok || !field.Equal(got, want) {
			t.Errorf("%s is %v, %v; want %v", path, got, ok, want)
		}
	}
	for _, path := range []string{"DNS.Additionals.Name", "DNS.Answers.MX.Name", "DNS.Questions"} {
		if got, ok := f.Field(path); ok {
			t.Errorf("%s is %v, want nothing", path, got)
		}
	}
}

func TestValueShowsObjectsWhole(t *testing.T) {
	f := typical()
	for _, c := range []struct {
		path, want string
		ok         bool
	}{
		{"Transport", `{"A":44444,"B":443,"ID":0,"Protocol":"TCP"}`, true},
		{"Network", `{"A":"10.99.0.1","B":"10.99.0.2","ID":0,"Protocol":"IPV4"}`, true},
		{"ICMP", `null`, true},
		{"TCPMetric", `null`, true},
		{"ICMP.Type", `null`, false},
		{"Transport.A", `44444`, true},
		{"ANodeTID", `null`, false},
	} {
		v, ok := f.Value(c.path)
		if got := string(field.AppendJSON(nil, v)); got != c.want || ok != c.ok {
			t.Errorf("%s: %s, %v; want %s, %v", c.path, got, ok, c.want, c.ok)
		}
	}
	f = full()
	v, _ := f.Value("ICMP")
	var back struct{ Flow }
	text := `{"ICMP":` + string(field.AppendJSON(nil, v)) + `}`
	if err := back.UnmarshalJSON([]byte(text)); err != nil || *back.ICMP != *f.ICMP {
		t.Errorf("ICMP is %s", text)
	}
}

func TestKeys(t *testing.T) {
	want := lines(t, "wire-keys.txt")         // of a public analyzer
	want = append(want, "RawPacketsCaptured") // which knows this one only below itself
	slices.Sort(want)
	got := Keys()
	if !slices.Equal(got, want) {
		for _, k := range got {
			if !slices.Contains(want, k) {
				t.Errorf("%s should not be there", k)
			}
		}
		for _, k := range want {
			if !slices.Contains(got, k) {
				t.Errorf("%s is missing", k)
			}
		}
	}
	f := full()
	for _, k := range got {
		if _, ok := f.Field(k); !ok {
			t.Errorf("a flow that has everything lacks %s", k)
		}
		if _, ok := f.Value(k); !ok {
			t.Errorf("a flow that has everything cannot show %s", k)
		}
	}
}

func BenchmarkField(b *testing.B) {
	f := typical()
	for _, path := range []string{"Network.A", "Application", "Metric.ABBytes", "NodeTID", "Network"} {
		b.Run(strings.ReplaceAll(path, ".", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := f.Field(path); !ok {
					b.Fatal(path)
				}
			}
		})
	}
}
