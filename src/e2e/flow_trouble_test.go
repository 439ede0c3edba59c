package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRootFlowsSurviveACutOff takes an agent off the network while it captures: what flows counted meanwhile arrives afterwards.
func TestRootFlowsSurviveACutOff(t *testing.T) {
	for _, protocol := range []string{"udp", "websocket"} {
		t.Run(protocol, func(t *testing.T) {
			l := newLab(t)
			an, h := addHost(t, l, "an"), addHost(t, l, "h1")
			config := quick + "flow: {update: 1, expire: 600, protocol: " + protocol + "}\n"
			startAnalyzer(t, an, config)
			startAgent(t, h, an, config)
			script(t, h, netnsPair)
			capture(t, an, 1, map[string]any{"GremlinQuery": "G.V().Has('Name', 'a1')"})
			script(t, h, "ip netns exec n1 ping -q -i 0.1 -c 100 192.168.9.2 >/dev/null 2>&1 &")
			arrived := func(least int64) error {
				var sum struct{ ABPackets, BAPackets int64 }
				err := an.Gremlin(an.analyzerAddr(), "G.At('-1s', 600).Flows().Has('ICMP.Type', 'ECHO').Metrics().Sum()", &sum)
				if err == nil && (sum.ABPackets < least || least == 100 && sum.BAPackets != 100) {
					err = fmt.Errorf("the archive has %+v, want %d", sum, least)
				}
				return err
			}
			need(t, Until(10*time.Second, func() error { return arrived(5) }))
			need(t, h.Connect(false))
			need(t, Until(20*time.Second, func() error { // the analyzer gives up
				if n := count(t, an, an.analyzerAddr(), "G.V().Has('@Host', 'h1').Count()"); n != 0 {
					return fmt.Errorf("%d nodes", n)
				}
				return nil
			}))
			need(t, h.Connect(true))
			need(t, Until(30*time.Second, func() error { return arrived(100) }))
			status, err := h.Status(agentAddr)
			need(t, err)
			flows, _ := status["Flows"].(map[string]any)
			if flows["Protocol"] != protocol || flows["State"] != "sending" || flows["Lost"] != nil {
				t.Errorf("status %v", flows)
			}
		})
	}
}

// TestRootSilentAgentIsNamed has an agent stand still while it is asked for its flows.
func TestRootSilentAgentIsNamed(t *testing.T) {
	l := newLab(t)
	an, h1, h2 := addHost(t, l, "an"), addHost(t, l, "h1"), addHost(t, l, "h2")
	const patient = "http: {ws: {ping_delay: 30, pong_timeout: 30}}\n"
	startAnalyzer(t, an, patient)
	startAgent(t, h1, an, patient)
	silent := startAgent(t, h2, an, patient)
	for _, h := range []*Host{h1, h2} {
		script(t, h, netnsPair)
	}
	capture(t, an, 2, map[string]any{"GremlinQuery": "G.V().Has('Name', 'a1')"})
	for _, h := range []*Host{h1, h2} {
		script(t, h, "ip netns exec n1 ping -q -c 2 -i 0.2 192.168.9.2")
	}
	ask := func() (hosts int, partial string) {
		t.Helper()
		res, err := an.HTTP().Post("http://"+an.analyzerAddr()+"/api/topology", "application/json",
			strings.NewReader(`{"GremlinQuery": "G.Flows().Has('ICMP.Type', 'ECHO').Dedup('UUID')"}`))
		need(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		need(t, err)
		var flows []flowRecord
		if err := json.Unmarshal(text, &flows); err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", res.StatusCode, text)
		}
		return len(flows), res.Header.Get("X-Skydive-Partial")
	}
	need(t, Until(5*time.Second, func() error {
		if n, partial := ask(); n != 2 || partial != "" {
			return fmt.Errorf("flows of %d hosts, without %q", n, partial)
		}
		return nil
	}))
	need(t, silent.Signal(syscall.SIGSTOP))
	begin := time.Now()
	if n, partial := ask(); n != 1 || partial != "h2" || time.Since(begin) > 15*time.Second {
		t.Errorf("flows of %d hosts, without %q, in %s", n, partial, time.Since(begin))
	}
	need(t, silent.Signal(syscall.SIGCONT))
	need(t, Until(10*time.Second, func() error {
		if n, partial := ask(); n != 2 || partial != "" {
			return fmt.Errorf("flows of %d hosts, without %q", n, partial)
		}
		return nil
	}))
}

// TestRootInjectionArrives sends packets from one host to a namespace of another, and finds them in the flows of both.
func TestRootInjectionArrives(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, often)
	startAgent(t, h, an, often)
	script(t, h, netnsPair)
	capture(t, an, 2, map[string]any{"GremlinQuery": "G.V().Has('Name', Regex('a[12]'))"})
	status, text, err := an.Request("POST", an.analyzerAddr(), "/api/injectpacket", map[string]any{
		"Src": "G.V().Has('Type', 'netns', 'Name', 'n1').Out().Has('Name', 'eth0')", "Dst": "G.V().Has('Type', 'netns', 'Name', 'n2').Out().Has('Name', 'eth0')",
		"Type": "udp4", "DstPort": 4321, "SrcPort": 1234, "Payload": "abcd", "Count": 7, "Interval": 20,
	})
	need(t, err)
	if status != 201 {
		t.Fatalf("%d %s", status, text)
	}
	need(t, Until(10*time.Second, func() error {
		var flows []flowRecord
		if err := an.Gremlin(an.analyzerAddr(), "G.Flows().Has('Transport.B', 4321)", &flows); err != nil {
			return err
		}
		if len(flows) != 2 || flows[0].TrackingID != flows[1].TrackingID || flows[0].UUID == flows[1].UUID ||
			flows[0].Metric.ABPackets != 7 || flows[1].Metric.ABPackets != 7 || flows[0].Network.A != "192.168.9.1" || flows[0].Network.B != "192.168.9.2" {
			return fmt.Errorf("%+v", flows)
		}
		return nil
	}))
}

// TestRootRefusedCaptureIsShown asks for what agents cannot do.
func TestRootRefusedCaptureIsShown(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, often)
	agent := startAgent(t, h, an, often)
	script(t, h, netnsPair)
	id := capture(t, an, 0, map[string]any{"GremlinQuery": "G.V().Has('Name', 'a1')", "Type": "ebpf"})
	shown := func(want int) {
		t.Helper()
		need(t, Until(10*time.Second, func() error {
			var lists [][]struct{ ID, State, Error string }
			if err := an.Gremlin(an.analyzerAddr(), "G.V().Has('Captures.State', 'error').Values('Captures')", &lists); err != nil {
				return err
			}
			if len(lists) != want || want > 0 && (len(lists[0]) != 1 || lists[0][0].ID != id || !strings.Contains(lists[0][0].Error, "ebpf")) {
				return fmt.Errorf("%+v", lists)
			}
			return nil
		}))
	}
	shown(1)
	status, text, err := an.Request("GET", an.analyzerAddr(), "/api/capture/"+id, nil)
	if err != nil || status != 200 || !strings.Contains(string(text), `"State":"error"`) || !strings.Contains(string(text), "a1 on h1: ") {
		t.Fatal(status, string(text), err)
	}
	if status, text, err := an.Request("DELETE", an.analyzerAddr(), "/api/capture/"+id, nil); err != nil || status != 200 {
		t.Fatal(status, string(text), err)
	}
	shown(0)
	if n := strings.Count(agent.Output(), "WARN"); n != 0 {
		t.Errorf("%d warnings of the agent, though the analyzer tells: %s", n, agent.Output())
	}
}

// TestRootArchiveIsHeldByOne starts a second analyzer on the archive of the first: it says who is in the way, and ends.
func TestRootArchiveIsHeldByOne(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	first := startAnalyzer(t, h, "storage: {disk: {driver: disk, path: "+h.Dir+"/archive}}\n")
	second, err := h.Start(fmt.Sprintf("host_id: h2\nanalyzer: {listen: 127.0.0.1:9082}\netcd: {data_dir: %s/etcd2, listen: 127.0.0.1:22379}\n"+
		"storage: {disk: {driver: disk, path: %s/archive}}\n", h.Dir, h.Dir), "analyzer")
	need(t, err)
	if err := second.Wait(20 * time.Second); err == nil {
		t.Error("the second one ends well")
	}
	if text := second.Output(); !strings.Contains(text, "archive "+h.Dir+"/archive is in use by process ") {
		t.Error(text)
	}
	need(t, first.alive(nil))
}
