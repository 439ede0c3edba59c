package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skydive/src/flow"
	"skydive/src/wire"
	"skydive/src/ws"
)

// recordedFlows are one of each kind, and one with a name that would steer a terminal.
func recordedFlows() []*flow.Flow {
	return []*flow.Flow{
		{
			UUID: "u1", Application: "HTTPS", TrackingID: "d162328a32247338", Last: 1795395011950,
			Network: &flow.Layer{Protocol: flow.IPv4, A: "10.0.0.1", B: "10.0.0.2"}, Transport: &flow.Transport{Protocol: flow.TCP, A: 40000, B: 443},
			Metric: flow.Metric{ABPackets: 12, ABBytes: 1234, BAPackets: 3000, BABytes: 45_678_901, RTT: 12_345_678},
		},
		{
			UUID: "u2", Application: "ICMPv6", TrackingID: "a1", Last: 1795395011951,
			Network: &flow.Layer{Protocol: flow.IPv6, A: "fe80::1", B: "ff02::1"}, ICMP: &flow.ICMP{Type: flow.Echo},
			Metric: flow.Metric{ABPackets: 1, ABBytes: 86},
		},
		{
			UUID: "u3", Application: "DNS\x1b[2J", TrackingID: "b2", Last: 1795395011952,
			Network: &flow.Layer{Protocol: flow.IPv6, A: "::1", B: "::2"}, Transport: &flow.Transport{Protocol: flow.UDP, A: 5, B: 53},
			Metric: flow.Metric{ABBytes: 999_999_999_999_999},
		},
		{UUID: "u4", Application: "ARP", Last: 1795395011953, Link: &flow.Layer{A: "02:00:00:00:00:01", B: "ff:ff:ff:ff:ff:ff"}},
		{UUID: "u5", Last: 1795395011954},
	}
}

func flowsJSON(flows []*flow.Flow) string {
	var text []string
	for _, f := range flows {
		text = append(text, string(f.AppendJSON(nil)))
	}
	return "[" + strings.Join(text, ",") + "]"
}

func clock(ms int64) string { return time.UnixMilli(ms).Format("15:04:05.000") }

func TestFlowList(t *testing.T) {
	flows := recordedFlows()
	table := strings.NewReplacer("@1", clock(flows[0].Last), "@2", clock(flows[1].Last), "@3", clock(flows[2].Last), "@4", clock(flows[3].Last), "@5", clock(flows[4].Last)).Replace(
		`LAST          APP         A                      B                      A→B              B→A              RTT       TRACKING
@1  HTTPS       10.0.0.1:40000         10.0.0.2:443           12/1.2kB         3000/45.7MB      12.346ms  d162328a32247338
@2  ICMPv6      fe80::1                ff02::1                1/86B            0/0B             -         a1
@3  DNS\x1b[2J  [::1]:5                [::2]:53               0/1000TB         0/0B             -         b2
@4  ARP         02:00:00:00:00:01      ff:ff:ff:ff:ff:ff      0/0B             0/0B             -         -
@5  -           -                      -                      0/0B             0/0B             -         -
`)
	var lines strings.Builder
	for _, f := range flows {
		lines.Write(append(f.AppendJSON(nil), '\n'))
	}
	f := newFakeAnalyzer(t, map[string]string{"POST /api/topology": "200 " + flowsJSON(flows)})
	for _, tc := range []struct {
		args     []string
		question string
		want     string
	}{
		{nil, "G.Flows().Sort('Last')", table},
		{[]string{"--format", "json"}, "G.Flows().Sort('Last')", lines.String()},
		{[]string{"--capture", "c-1"}, "G.Flows().Has('CaptureID', 'c-1').Sort('Last')", table},
		{[]string{"--capture", `c')."`}, "G.Flows().Has('CaptureID', 'c).').Sort('Last')", table},
		{[]string{"G.V().Flows()"}, "G.V().Flows()", table},
	} {
		got := f.run(t, "", append([]string{"flow", "list"}, tc.args...)...)
		if got.code != 0 || got.stdout != tc.want {
			t.Errorf("%v: %+v\ngot\n%s\nwant\n%s", tc.args, got.stderr, got.stdout, tc.want)
		}
		if len(f.requests) != 1 || !sameJSON(f.requests[0].Body, fmt.Sprintf(`{"GremlinQuery":%q}`, tc.question)) {
			t.Errorf("%v: asked %+v, want %s", tc.args, f.requests, tc.question)
		}
	}
	f.answers["POST /api/topology"] = "200 []"
	if got := f.run(t, "", "flow", "list"); got.code != 0 || strings.Count(got.stdout, "\n") != 1 || !strings.HasPrefix(got.stdout, "LAST ") {
		t.Errorf("no flows: %+v", got)
	}
	f.answers["POST /api/topology"] = "400 at 3: want a step"
	if got := f.run(t, "", "flow", "list", "G.x"); got.code != 1 || !strings.Contains(got.stderr, "want a step") {
		t.Errorf("a wrong expression: %+v", got)
	}
}

// until cancels when the text has been written.
type until struct {
	bytes.Buffer
	text   string
	cancel func()
}

func (u *until) Write(p []byte) (int, error) {
	n, err := u.Buffer.Write(p)
	if strings.Contains(u.String(), u.text) {
		u.cancel()
	}
	return n, err
}

func TestFlowListFollows(t *testing.T) {
	flows := recordedFlows()
	endpoint := ws.NewEndpoint(ws.EndpointOptions{
		Path: "/ws/subscriber/flow", HostID: "me", ServiceType: "analyzer", Metrics: ws.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler),
		Authenticate: func(*http.Request) (string, []*http.Cookie, error) { return "admin", nil, nil },
		Authorize:    func(string, string) bool { return true },
		Connect: func(c *ws.Conn) (ws.Session, error) {
			for _, f := range flows[1:] {
				m := wire.Message{Namespace: c.Peer().Namespaces[0], Type: "store", Status: 200, Obj: []byte(flowsJSON([]*flow.Flow{f}))}
				if err := c.Send(m.Append(nil, wire.JSON)); err != nil {
					return nil, err
				}
			}
			return deaf{}, nil
		},
	})
	mux := http.NewServeMux()
	mux.Handle("/ws/subscriber/flow", endpoint)
	mux.HandleFunc("POST /api/topology", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, flowsJSON(flows[:1])) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	for format, want := range map[string]string{"text": "LAST 10.0.0.1:40000 fe80::1 [::1]:5 02:00:00:00:00:01 -", "json": `"u1" "u2" "u3" "u4" "u5"`} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		last := map[string]string{"text": clock(flows[4].Last), "json": `"u5"`}[format]
		out, errs := &until{text: last, cancel: cancel}, &bytes.Buffer{}
		env := &environment{
			Args:  []string{"skydive", "client", "--analyzer", strings.TrimPrefix(server.URL, "http://"), "flow", "list", "--follow", "--format", format},
			Stdin: strings.NewReader(""), Stdout: out, Stderr: errs,
		}
		code := env.run(ctx)
		if code != 0 || errs.Len() > 0 || !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("%s: exit %d, %s%s, %v", format, code, out, errs, ctx.Err())
		}
		rows := strings.Split(strings.TrimSpace(out.String()), "\n")
		for i, w := range strings.Fields(want) {
			if i >= len(rows) || !strings.Contains(rows[i], w) {
				t.Errorf("%s: line %d of\n%swants %s", format, i, out, w)
			}
		}
		cancel()
	}
}

type deaf struct{}

func (deaf) Receive(io.Reader) error { return nil }
func (deaf) Closed(error)            {}

func TestCaptureStream(t *testing.T) {
	const packets = "\x0a\x0d\x0d\x0apackets\x00"
	f := newFakeAnalyzer(t, map[string]string{"GET /api/capture/c%2F1/pcapng": "200 " + packets})
	if got := f.run(t, "", "capture", "stream", "c/1"); got.code != 0 || got.stdout != packets || got.stderr != "" {
		t.Errorf("%+v", got)
	}
	file := filepath.Join(t.TempDir(), "p.pcapng")
	if got := f.run(t, "", "capture", "stream", "c/1", "-o", file); got.code != 0 || got.stdout != "" {
		t.Errorf("%+v", got)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != packets {
		t.Errorf("%q %v", data, err)
	}
	for args, want := range map[string]string{
		"zzz":                  "Error: Failed to stream capture, 404 Not Found: Capture 'zzz' not found\n",
		"c/1 --output /nope/p": "write packets",
		"c/1 c/2":              "one capture at a time",
		"":                     "an ID is missing",
	} {
		if got := f.run(t, "", append([]string{"capture", "stream"}, strings.Fields(args)...)...); got.code != 1 || got.stdout != "" || !strings.Contains(got.stderr, want) {
			t.Errorf("%q: %+v, want %s", args, got, want)
		}
	}
	// What is cut off is an error, lest it be taken for whole.
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, packets)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(cut.Close)
	got := skydive(t, nil, "", "skydive", "client", "--analyzer", strings.TrimPrefix(cut.URL, "http://"), "capture", "stream", "x")
	if got.code != 1 || got.stdout != packets || !strings.Contains(got.stderr, "stream packets") {
		t.Errorf("%+v", got)
	}
}

// TestCaptureFlags: every flag of the contract, in its place.
func TestCaptureFlags(t *testing.T) {
	f := newFakeAnalyzer(t, map[string]string{"POST /api/capture": "201 {}", "POST /api/injectpacket": "201 {}"})
	for _, tc := range []struct{ args, body, ttl string }{
		{"capture create --gremlin G --bpf icmp --name n --description d --type pcap --port 6343 --samplingrate 2 --pollinginterval 3 --header-size 64 --rawpacket-limit 5 " +
			"--extra-tcp-metric --ip-defrag --reassemble-tcp --layer-key-mode L3 --extra-layer VRRP --extra-layer DNS --extra-layer DHCPv4 --target h:1 --target-type erspanv1 --ttl 90000",
			`{"GremlinQuery":"G","BPFFilter":"icmp","Name":"n","Description":"d","Type":"pcap","Port":6343,"SamplingRate":2,"PollingInterval":3,"HeaderSize":64,"RawPacketLimit":5,
			"ExtraTCPMetric":true,"IPDefrag":true,"ReassembleTCP":true,"LayerKeyMode":"L3","ExtraLayers":7,"Target":"h:1","TargetType":"erspanv1"}`, "1m30s"},
		{"capture create", `{"GremlinQuery":"","BPFFilter":"","Name":"","Description":"","Type":"","Port":0,"SamplingRate":1,"PollingInterval":10,"HeaderSize":0,"RawPacketLimit":0,
			"ExtraTCPMetric":false,"IPDefrag":false,"ReassembleTCP":false,"LayerKeyMode":"L2","ExtraLayers":0,"Target":"","TargetType":""}`, ""},
		{"injection create --src S --dst D --src-ip 1.1.1.1 --dst-ip 2.2.2.2 --src-mac a --dst-mac b --src-port 1 --dst-port 2 --type udp4 --payload p --id 7 --mode random --count 3 --inc-payload -4 --interval 1000 --ttl 9",
			`{"Src":"S","Dst":"D","SrcIP":"1.1.1.1","DstIP":"2.2.2.2","SrcMAC":"a","DstMAC":"b","SrcPort":1,"DstPort":2,"Type":"udp4","Payload":"p","Pcap":null,"ICMPID":7,"Mode":"random","Count":3,
			"IncrementPayload":-4,"Interval":1000,"TTL":9}`, "8s"},
		{"inject-packet create --src S", `{"Src":"S","Dst":"","SrcIP":"","DstIP":"","SrcMAC":"","DstMAC":"","SrcPort":0,"DstPort":0,"Type":"icmp4","Payload":"","Pcap":null,"ICMPID":0,"Mode":"unique","Count":1,
			"IncrementPayload":0,"Interval":0,"TTL":64}`, "5s"},
	} {
		got := f.run(t, "", strings.Fields(tc.args)...)
		if got.code != 0 || len(f.requests) != 1 {
			t.Errorf("%s: %+v", tc.args, got)
			continue
		}
		if r := f.requests[0]; !sameJSON(r.Body, tc.body) || r.Header.Get("X-Resource-TTL") != tc.ttl {
			t.Errorf("%s: sent %s, TTL %s\nwant %s, %s", tc.args, r.Body, r.Header.Get("X-Resource-TTL"), tc.body, tc.ttl)
		}
	}
}
