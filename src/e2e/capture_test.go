package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"
)

// taken is what a node says of a capture.
type taken struct {
	ID, Type, State, Error                                                          string
	PacketsReceived, PacketsDropped, PacketsIfDropped, PacketsSeen, PacketsFiltered int64
}

func takenBy(an *Host, node, id string) (c taken, err error) {
	var lists [][]taken
	if err := an.Gremlin(an.analyzerAddr(), "G.V().Has('Name', '"+node+"').Values('Captures')", &lists); err != nil {
		return c, err
	}
	for _, list := range lists {
		for _, c := range list {
			if c.ID == id {
				return c, nil
			}
		}
	}
	return c, fmt.Errorf("%s shows no capture %s", node, id)
}

// TestRootLossIsCounted has an agent stand still while more packets come than its memory for them holds: each is in a flow, or counted as
// dropped, at the analyzer.
func TestRootLossIsCounted(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	const patient = "http: {ws: {ping_delay: 30, pong_timeout: 30}}\nflow: {update: 1, expire: 600}\n"
	startAnalyzer(t, an, patient)
	agent, err := h.Start(fmt.Sprintf("host_id: h1\nanalyzers: [%s]\nagent: {topology: {probes: []}, capture: {ring_size: 1MiB}}\n%s", an.analyzerAddr(), patient), "agent")
	need(t, err)
	script(t, h, netnsPair)
	id := capture(t, an, 1, map[string]any{"GremlinQuery": "G.V().Has('Name', 'a1')", "BPFFilter": "icmp and greater 500"})
	before := counters(t, h, "a1")
	const few, many = 50, 2000
	script(t, h, fmt.Sprintf("ip netns exec n1 ping -q -f -c %d -s 10 192.168.9.2; ip netns exec n1 ping -q -f -c %d -s 1000 192.168.9.2", few, few))
	need(t, Until(10*time.Second, func() error {
		c, err := takenBy(an, "a1", id)
		if err == nil && (c.PacketsReceived != 2*few || c.PacketsDropped != 0 || c.PacketsSeen < 4*few || c.State != "active" || c.Type != "afpacket") {
			err = fmt.Errorf("%+v", c)
		}
		return err
	}))
	need(t, agent.Signal(syscall.SIGSTOP))
	_, stopped := h.Script(fmt.Sprintf("ip netns exec n1 ping -q -f -c %d -s 1000 192.168.9.2", many))
	need(t, agent.Signal(syscall.SIGCONT))
	need(t, stopped)
	need(t, Until(20*time.Second, func() error {
		all := int64(counters(t, h, "a1") - before) // the kernel looks now and then whether a neighbour is still there
		c, err := takenBy(an, "a1", id)
		if err != nil {
			return err
		}
		var flows []flowRecord
		if err := an.Gremlin(an.analyzerAddr(), "G.Flows().Has('CaptureID', '"+id+"')", &flows); err != nil {
			return err
		}
		inFlows := int64(0)
		for _, f := range flows {
			inFlows += f.Metric.ABPackets + f.Metric.BAPackets
		}
		if c.PacketsReceived != 2*(few+many) || c.PacketsDropped == 0 || inFlows+c.PacketsDropped != c.PacketsReceived ||
			c.PacketsSeen != all || c.PacketsFiltered != all-c.PacketsReceived {
			return fmt.Errorf("%d packets in flows, %d seen by the interface, %+v", inFlows, all, c)
		}
		return nil
	}))
}

// TestRootWrongFiltersAreRefused says where a filter is wrong before anything is captured.
func TestRootWrongFiltersAreRefused(t *testing.T) {
	l := newLab(t)
	an := addHost(t, l, "an")
	startAnalyzer(t, an, often)
	for filter, offset := range map[string]int{"tcp prot 80": 4, "host (": 6, "port 99999": 5, "ip[0": 4} {
		status, text, err := an.Request("POST", an.analyzerAddr(), "/api/capture", map[string]any{"GremlinQuery": "G.V()", "BPFFilter": filter})
		need(t, err)
		if status != 400 || !bytes.Contains(text, []byte("BPFFilter")) || !bytes.Contains(text, fmt.Appendf(nil, "at offset %d,", offset)) {
			t.Errorf("%q: %d %s", filter, status, text)
		}
	}
}

// TestRootTargets sends what is captured to collectors, in place of the analyzer.
func TestRootTargets(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, often)
	startAgent(t, h, an, often)
	script(t, h, netnsPair)
	listen := func(network, address string) net.PacketConn {
		var conn net.PacketConn
		need(t, an.Within(func() (err error) {
			conn, err = net.ListenPacket(network, address)
			return err
		}))
		t.Cleanup(func() { conn.Close() })
		need(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
		return conn
	}
	netflow, erspan := listen("udp4", an.IP+":2055"), listen("ip4:47", an.IP)
	const query = "G.V().Has('Name', 'a1')"
	ids := []string{
		capture(t, an, 1, map[string]any{"GremlinQuery": query, "BPFFilter": "icmp", "TargetType": "netflowv5", "Target": an.IP + ":2055"}),
		capture(t, an, 1, map[string]any{"GremlinQuery": query, "BPFFilter": "icmp and greater 100", "TargetType": "erspanv1", "Target": an.IP + ":1"}),
	}
	const pings, size = 20, 300
	script(t, h, fmt.Sprintf("ip netns exec n1 ping -q -i 0.02 -c %d -s %d 192.168.9.2", pings, size))
	buf := make([]byte, 1<<16)
	for frames := 0; frames < 2*pings; frames++ {
		n, _, err := erspan.ReadFrom(buf) // without the IP header
		need(t, err)
		frame := buf[16 : n-4] // behind GRE and ERSPAN, before the checksum
		if be := binary.BigEndian; be.Uint16(buf[2:]) != 0x88be || len(frame) != 14+20+8+size || be.Uint16(frame[12:]) != 0x0800 || frame[23] != 1 {
			t.Fatalf("%d bytes: % x", n, buf[:n])
		}
	}
	for packets, octets := 0, 0; packets < 2*pings || octets < 2*pings*(20+8+size); {
		n, _, err := netflow.ReadFrom(buf)
		if err != nil {
			t.Fatalf("%d packets, %d bytes: %v", packets, octets, err)
		}
		if be := binary.BigEndian; be.Uint16(buf) == 5 && n == 24+48*int(be.Uint16(buf[2:])) {
			for r := buf[24:n]; len(r) > 0; r = r[48:] {
				if r[38] != 1 {
					t.Errorf("a flow of protocol %d", r[38])
				}
				packets, octets = packets+int(be.Uint32(r[16:])), octets+int(be.Uint32(r[20:]))
			}
		} else {
			t.Fatalf("% x", buf[:n])
		}
		if packets > 2*pings || octets > 2*pings*(20+8+size) {
			t.Fatalf("%d packets, %d bytes", packets, octets)
		}
	}
	for _, id := range ids {
		if c, err := takenBy(an, "a1", id); err != nil || c.State != "active" {
			t.Errorf("%+v %v", c, err)
		}
	}
	if n := count(t, an, an.analyzerAddr(), "G.Flows().Count()"); n != 0 {
		t.Errorf("%d flows at the analyzer", n)
	}
	status, text, err := an.Request("POST", an.analyzerAddr(), "/api/capture", map[string]any{"GremlinQuery": query, "TargetType": "netflowv5", "Target": "nowhere"})
	need(t, err)
	if status != 400 || !bytes.Contains(text, []byte("Target")) {
		t.Errorf("a target that is no address: %d %s", status, text)
	}
}
