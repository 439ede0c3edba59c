package resource

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func kind(t testing.TB, name string) Kind {
	t.Helper()
	for _, k := range Kinds() {
		if k.Name == name {
			return k
		}
	}
	t.Fatal("no kind " + name)
	return Kind{}
}

var now = time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("CET", 3600))

// The JSON of a resource is exactly that of the public API: which fields are always there, which are left out, in this order.
func TestJSON(t *testing.T) {
	for _, c := range []struct{ kind, in, out string }{
		{"capture", `{"GremlinQuery":"G.V()","name":"lower","Unknown":1}`,
			`{"UUID":"","GremlinQuery":"G.V()","Name":"lower","Count":0,"SamplingRate":0,"PollingInterval":0,"ExtraTCPMetric":false,"IPDefrag":false,"ReassembleTCP":false,"LayerKeyMode":"L3"}`},
		{"capture", `{"UUID":"u","GremlinQuery":"G","BPFFilter":"b","Name":"n","Description":"d","Type":"pcap","Count":1,"Port":2,"SamplingRate":3,"PollingInterval":4,"RawPacketLimit":5,"HeaderSize":64,"ExtraTCPMetric":true,"IPDefrag":true,"ReassembleTCP":true,"LayerKeyMode":"L2","ExtraLayers":7,"Target":"h:1","TargetType":"local"}`, ""},
		{"alert", `{"Expression":"1","Action":""}`, `{"UUID":"","Expression":"1","CreateTime":"2026-01-02T02:04:05.000000006Z"}`},
		{"alert", `{"UUID":"u","Name":"n","Description":"d","Expression":"1","Action":"http://x","Trigger":"graph","CreateTime":"2020-01-02T03:04:05Z"}`, ""},
		{"injectpacket", `{"Increment":5}`,
			`{"UUID":"","Src":"","Dst":"","SrcIP":"","DstIP":"","SrcMAC":"","DstMAC":"","SrcPort":0,"DstPort":0,"Type":"","Payload":"","ICMPID":0,"Count":0,"Interval":0,"Mode":"","IncrementPayload":0,"StartTime":"2026-01-02T02:04:05.000000006Z","Pcap":null,"TTL":0}`},
		{"noderule", `{}`, `{"UUID":"","Name":"","Description":"","Metadata":null,"Action":"","Query":""}`},
		{"edgerule", `{"Metadata":{"RelationType":"layer2","K":1}}`, `{"UUID":"","Name":"","Description":"","Src":"","Dst":"","Metadata":{"K":1,"RelationType":"layer2"}}`},
		{"workflow", `{"Name":"w"}`, `{"UUID":"","Name":"w","Title":"","Abstract":"","Description":"","Parameters":null,"Source":""}`},
		{"workflow", `{"UUID":"u","Name":"w","Title":"t","Abstract":"a","Description":"d","Parameters":[{"Name":"p","Description":"d","Type":"choice","Default":"v","Values":[{"Value":"v","Description":"d"}]},{"Name":"q","Description":"","Type":"node","Default":null,"Values":null}],"Source":"f"}`, ""},
	} {
		r, err := kind(t, c.kind).Decode([]byte(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		r.SetDefaults(Defaults{Now: now, LayerKeyMode: "L3"})
		got, err := json.Marshal(r)
		if c.out == "" {
			c.out = c.in
		}
		if err != nil || string(got) != c.out {
			t.Errorf("%s\n got %s\nwant %s %v", c.kind, got, c.out, err)
		}
	}
}

func TestValidate(t *testing.T) {
	const q = `"GremlinQuery":"G.V()"`
	for _, c := range []struct{ kind, in, want string }{
		{"capture", `{` + q + `,"Type":"sflow","HeaderSize":14,"RawPacketLimit":10,"Target":"[::1]:6343"}`, ""},
		{"capture", `{}`, "GremlinQuery: Not a valid Gremlin expression: found \"\", expected `G`"},
		{"capture", `{"GremlinQuery":"G.Foo()"}`, "GremlinQuery: Not a valid Gremlin expression: "},
		{"capture", `{` + q + `,"Type":"dpdk"}`, "Type: Not a valid capture type: dpdk, available types: [afpacket "},
		{"capture", `{` + q + `,"HeaderSize":13}`, "HeaderSize: A valid header size is >= 14 && <= 4096"},
		{"capture", `{` + q + `,"HeaderSize":-1}`, "HeaderSize: "},
		{"capture", `{` + q + `,"RawPacketLimit":11}`, "RawPacketLimit: A valid raw packet limit size is > 0 && <= 10"},
		{"capture", `{` + q + `,"RawPacketLimit":-1}`, "RawPacketLimit: "},
		{"capture", `{` + q + `,"LayerKeyMode":"L4"}`, "LayerKeyMode: Not a valid layer key mode"},
		{"capture", `{` + q + `,"Target":"nohostport"}`, "Target: Not a valid address"},
		{"capture", `{` + q + `,"Target":"10.0.0.1:0","TargetType":"erspanv1"}`, ""},
		{"capture", `{` + q + `,"Target":"10.0.0.1:0","TargetType":"netflowv5"}`, "Target: Not a valid address"},
		{"capture", `{` + q + `,"Port":65536}`, "Port: "},
		{"capture", `{` + q + `,"ExtraLayers":-1}`, "ExtraLayers: "},
		{"injectpacket", `{"Src":"G.V()","Type":"icmp4","Pcap":"cm9vdDp4OjA6MDo="}`, "Pcap: Not a pcap file"},
		{"injectpacket", `{"Src":"G.V()","Type":"icmp4","Pcap":"1MOyoQ=="}`, ""},
		{"injectpacket", `{"Src":"G.V()","Type":"udp4","Payload":"` + strings.Repeat("x", 65528) + `"}`, "Payload: "},
		{"capture", `{` + q + `,"BPFFilter":"tcp port 80 and not host 10.0.0.1"}`, ""},
		{"capture", `{` + q + `,"BPFFilter":"tcp prt 80"}`, "BPFFilter: Not a valid BPF expression: unexpected \"prt\" (at offset 4, want \"and\", \"or\" or the end)"},
		{"capture", `{` + q + `,"Type":"ebpf","BPFFilter":"tcp"}`, "ebpf capture doesn't support BPF filtering"},
		{"capture", `{` + q + `,"Type":"ebpf","RawPacketLimit":1}`, "ebpf capture doesn't support raw packet capture"},
		{"alert", `{"Expression":"x","Trigger":"duration:+1s","Action":"file:///x"}`, ""},
		{"alert", `{}`, "Expression: zero value"},
		{"alert", `{"Expression":"x","Trigger":"never"}`, "Trigger: regular expression mismatch"},
		{"alert", `{"Expression":"x","Trigger":"duration:"}`, "Trigger: regular expression mismatch"},
		{"alert", `{"Expression":"x","Trigger":"duration:abc"}`, "Trigger: want a duration"},
		{"alert", `{"Expression":"x","Trigger":"duration:-1s"}`, "Trigger: want a duration"},
		{"alert", `{"Expression":"x","Action":"ftp://x"}`, "Action: "},
		{"injectpacket", `{"Src":"G.V()","Type":"icmp4","SrcIP":"1.2.3.4","DstIP":"5.6.7.8/24","SrcMAC":"02:00:00:00:00:01","Mode":"random"}`, ""},
		{"injectpacket", `{}`, "given type is not supported"},
		{"injectpacket", `{"Type":"udp6","Mode":"bogus"}`, "given mode is not supported"},
		{"injectpacket", `{"Type":"udp6","SrcIP":"300.1.1.1"}`, "SrcIP: Not a IP or CIDR address"},
		{"injectpacket", `{"Type":"udp6","DstMAC":"zz"}`, "DstMAC: Not a MAC address"},
		{"injectpacket", `{"Type":"udp6"}`, "Src: Not a valid Gremlin expression"},
		{"injectpacket", `{"Src":"G.V()","Dst":"bad(","Type":"udp6"}`, "Dst: Not a valid Gremlin expression"},
		{"noderule", `{"Action":"create","Metadata":{"Type":"x","Name":"y"}}`, ""},
		{"noderule", `{"Action":"update"}`, ""},
		{"noderule", `{"Action":"create","Metadata":{"Type":"netns","Name":"y"}}`, "invalid schema: Metadata: Path is required"},
		{"noderule", `{"Action":"create","Metadata":{"Type":"ovsport","Name":"y","UUID":""}}`, "invalid schema: Metadata.UUID: must not be empty"},
		{"noderule", `{"Action":"create","Metadata":{"Type":1,"Name":"y"}}`, "invalid schema: Metadata.Type: want a string"},
		{"noderule", `{"Action":"update","Metadata":{"Name":"y"}}`, "Name and Type fields can not be changed"},
		{"noderule", `{"Action":"update","Query":"bad("}`, "Query: Not a valid Gremlin expression"},
		{"noderule", `{}`, "Action: regular expression mismatch"},
		{"edgerule", `{"Src":"G.V()","Dst":"G.V()","Metadata":{"RelationType":"x"}}`, ""},
		{"edgerule", `{"Src":"bad","Dst":"G.V()","Metadata":{"RelationType":"x"}}`, "Src: Not a valid Gremlin expression"},
		{"edgerule", `{"Src":"G.V()","Dst":"G.V()"}`, "invalid schema: Metadata: RelationType is required"},
		{"workflow", `{"Name":"w"}`, ""},
		{"workflow", `{}`, "Name: zero value"},
	} {
		r, err := kind(t, c.kind).Decode([]byte(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		err = r.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.kind, c.in, err, c.want)
		}
	}
}

func TestValidateTellsAllFaults(t *testing.T) {
	err := (&Capture{GremlinQuery: "x", HeaderSize: 1}).Validate()
	if err == nil || !strings.Contains(err.Error(), "GremlinQuery: ") || !strings.Contains(err.Error(), "HeaderSize: ") {
		t.Error(err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, k := range Kinds() {
		for _, in := range []string{"", " ", "{", "[]", "null", "5", `{"UUID":5}`, `{} {}`} {
			if _, err := k.Decode([]byte(in)); err == nil {
				t.Errorf("%s: %q accepted", k.Name, in)
			}
		}
		for _, in := range []string{"", "GremlinQuery: [", "- a", "1: {2: 3}\n? [a]\n: b"} {
			if _, err := k.DecodeYAML([]byte(in)); err == nil {
				t.Errorf("%s: YAML %q accepted", k.Name, in)
			}
		}
	}
}

func TestYAMLEqualsJSON(t *testing.T) {
	k := kind(t, "workflow")
	fromYAML, err := k.DecodeYAML([]byte("UUID: u\nName: w\nParameters:\n- Name: p\n  Default: 3\n  Values:\n  - Value: v\nSource: |\n  function() {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	fromJSON, err := k.Decode([]byte(`{"UUID":"u","Name":"w","Parameters":[{"Name":"p","Default":3,"Values":[{"Value":"v"}]}],"Source":"function() {}\n"}`))
	if err != nil || !reflect.DeepEqual(fromYAML, fromJSON) {
		t.Errorf("%+v\n%+v %v", fromYAML, fromJSON, err)
	}
}

func TestConflict(t *testing.T) {
	for _, c := range []struct {
		a, b      Resource
		conflicts bool
	}{
		{&Capture{GremlinQuery: "G.V()"}, &Capture{GremlinQuery: "G.V()"}, true},
		{&Capture{GremlinQuery: "G.V()"}, &Capture{GremlinQuery: "G.V().In()"}, false},
		{&Capture{GremlinQuery: "G", Type: "pcap", BPFFilter: "a"}, &Capture{GremlinQuery: "G", Type: "pcap", BPFFilter: "b"}, false},
		{&Capture{GremlinQuery: "G", Type: "pcap", BPFFilter: "a"}, &Capture{GremlinQuery: "G", Type: "afpacket", BPFFilter: "a"}, false},
		{&Capture{GremlinQuery: "G", Type: "sflow", BPFFilter: "a"}, &Capture{GremlinQuery: "G", Type: "sflow", BPFFilter: "b"}, true},
		{&Capture{GremlinQuery: "G", BPFFilter: "a"}, &Capture{GremlinQuery: "G", BPFFilter: "b"}, false},
		{&Alert{Expression: "1"}, &Alert{Expression: "1"}, false},
		{&Workflow{Name: "w"}, &Workflow{Name: "w"}, true},
		{&Workflow{Name: "w"}, &Workflow{Name: "v"}, false},
	} {
		err := c.a.Conflict(c.b)
		if (err != nil) != c.conflicts {
			t.Errorf("%+v %+v: %v", c.a, c.b, err)
		}
		if _, isCapture := c.a.(*Capture); c.conflicts && errors.Is(err, ErrDuplicate) != isCapture {
			t.Errorf("%+v: %v", c.a, err)
		}
	}
}

func TestNewID(t *testing.T) {
	if a, b := NewID(), NewID(); a == b || len(a) != 36 || a[14] != '4' {
		t.Error(a, b)
	}
}

// No body may panic, and what is valid survives a round trip.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"GremlinQuery":"G.V()"}`, `{"Expression":"1","CreateTime":"2020-01-02T03:04:05Z"}`, `{"Metadata":{"a":[1,{"b":null}]}}`, "Name: x\nParameters: [{Default: 1}]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, k := range Kinds() {
			for _, decode := range []func([]byte) (Resource, error){k.Decode, k.DecodeYAML} {
				r, err := decode(body)
				if err != nil {
					continue
				}
				r.SetDefaults(Defaults{Now: now})
				if r.Validate() != nil {
					continue
				}
				text, err := json.Marshal(r)
				if err != nil {
					t.Fatalf("%s: %v", k.Name, err)
				}
				if again, err := k.Decode(text); err != nil || again.Validate() != nil {
					t.Fatalf("%s: %s does not come back: %v", k.Name, text, err)
				}
			}
		}
	})
}

func TestCaptureType(t *testing.T) {
	for _, c := range []struct{ node, asked, want string }{
		{"veth", "", "afpacket"}, {"veth", "sflow", "sflow"}, {"veth", "netflow", "netflow"}, {"veth", "ovsmirror", "afpacket"},
		{"host", "", ""}, {"host", "afpacket", ""}, {"host", "sflow", "sflow"}, {"host", "netflow", "netflow"}, {"netns", "sflow", ""},
	} {
		if got := CaptureType(c.node, c.asked); got != c.want {
			t.Errorf("%q on %s: %q", c.asked, c.node, got)
		}
	}
	c := Capture{GremlinQuery: "G.V()", Exporters: []Exporter{{"192.0.2.1", 1, "x"}}}
	if err := c.Validate(); err == nil {
		t.Error("a client names exporters")
	}
}
