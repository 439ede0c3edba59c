package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func newSwitch(t testing.TB, h *Host) *Switch {
	t.Helper()
	s, err := h.StartSwitch()
	if errors.Is(err, ErrNoSwitch) && os.Getenv("SKYDIVE_CI") != "1" {
		t.Skip(err)
	}
	need(t, err)
	return s
}

// script runs shell lines in the directory of the switch.
func (s *Switch) script(t testing.TB, lines string) string {
	t.Helper()
	out, err := s.Script(lines)
	need(t, err)
	return out
}

// startSwitchAgent starts an agent with the probe of the switch.
func startSwitchAgent(t testing.TB, s *Switch, analyzer *Host) *Process {
	t.Helper()
	p, err := s.host.Start(fmt.Sprintf("host_id: %s\nanalyzers: [%s]\nagent: {topology: {probes: [ovsdb]}}\n%s", s.host.Name, analyzer.analyzerAddr(), often+s.Config()), "agent")
	need(t, err)
	need(t, Until(20*time.Second, func() error { return p.alive(s.host.get(agentAddr, "/api")) }))
	return p
}

// counts waits until a query counts n.
func counts(t testing.TB, h *Host, n int, query string) {
	t.Helper()
	need(t, Until(10*time.Second, func() error {
		var got int
		if err := h.Gremlin(h.analyzerAddr(), query, &got); err != nil {
			return err
		}
		if got != n {
			return fmt.Errorf("%s: %d, not %d", query, got, n)
		}
		return nil
	}))
}

// The table of a bridge, its ports and what Neutron's agents write, as people ask for it.
func TestRootSwitch(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, often)
	s := newSwitch(t, h)
	agent := startSwitchAgent(t, s, an)
	s.script(t, `for b in br0 br1; do vsctl add-br $b -- set bridge $b datapath_type=netdev; done
		for i in 1 2; do ip netns add n$i; ip link add a$i type veth peer name eth0 netns n$i; ip link set a$i up
			ip -n n$i addr add 192.168.9.$i/24 dev eth0; ip -n n$i link set eth0 up
			vsctl add-port br0 a$i tag=7 -- set interface a$i external-ids:iface-id=port-$i external-ids:attached-mac=fa:16:3e:00:00:0$i; done
		vsctl add-port br0 to1 -- set interface to1 type=patch options:peer=to0
		vsctl add-port br1 to0 -- set interface to0 type=patch options:peer=to1
		vsctl add-port br1 vx0 -- set interface vx0 type=vxlan options:remote_ip=192.0.2.9 options:key=5
		vsctl add-port br0 dhcp0 -- set interface dhcp0 type=internal external-ids:iface-id=port-3
		ip netns add q1; ip link set dhcp0 netns q1; ip -n q1 link set dhcp0 up`)
	// Instances: their ports by what Neutron calls them, and what is behind.
	for query, n := range map[string]int{
		"G.V().Has('Type', 'ovsbridge').Count()": 2,
		"G.V().Has('Type', 'ovsbridge', 'Name', 'br0').Out('Type', 'ovsport').Has('Vlans', 7).Dedup().Count()":               2,
		"G.V().Has('ExtID.iface-id', 'port-1', 'Type', 'veth').Both('Type', 'veth').Dedup().Count()":                         1,
		"G.V().Has('Type', 'netns', 'Name', 'q1').Out('Name', 'dhcp0').Has('ExtID.iface-id', 'port-3').Count()":              1,
		"G.V().Has('Name', 'dhcp0', 'Type', 'internal').Count()":                                                             1,
		"G.V().Has('Type', 'patch', 'Name', 'to1').Both('Type', 'patch').Has('Name', 'to0').Dedup().Count()":                 1,
		"G.V().Has('Type', 'vxlan', 'RemoteIP', '192.0.2.9').Count()":                                                        1,
		"G.V().Has('Name', 'br0', 'Type', 'ovsbridge').Out('Type', 'ofrule').Has('Priority', 0, 'Table', 0).Dedup().Count()": 1,
	} {
		counts(t, an, n, query)
	}

	// Rules come and go live.
	s.script(t, "ovs-ofctl add-flow br0 'table=3,priority=77,icmp,nw_src=192.0.2.1,actions=drop'")
	counts(t, an, 1, "G.V().Has('Type', 'ofrule', 'Table', 3, 'Priority', 77).Count()")
	s.script(t, "ovs-ofctl del-flows br0 table=3")
	counts(t, an, 0, "G.V().Has('Type', 'ofrule', 'Table', 3).Count()")

	// What goes while the database is away is gone when it is back.
	s.script(t, "kill -9 $(cat db.pid); ip netns del n2; cp conf.db away.db; "+
		strings.ReplaceAll(StartDatabase, "db.sock", "away.sock")+"; ovs-vsctl --no-wait --db=unix:$PWD/away.sock del-br br1 -- --if-exists del-port br0 to1; kill $(cat db.pid)")
	need(t, Until(10*time.Second, func() error {
		status, err := h.Status(agentAddr)
		if err != nil {
			return err
		}
		if text := fmt.Sprint(status["TopologyProbes"]); !strings.Contains(text, "db.sock") {
			return fmt.Errorf("nothing is said of the database: %s", text)
		}
		return nil
	}))
	s.script(t, StartDatabase)
	counts(t, an, 1, "G.V().Has('Type', 'ovsbridge').Count()")
	counts(t, an, 0, "G.V().Has('Type', 'patch').Count()")
	need(t, agent.alive(nil))
}

// Captures on bridges and ports count a ping between two namespaces, and leave the database as it was.
func TestRootSwitchCaptures(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, often)
	s := newSwitch(t, h)
	s.script(t, `vsctl add-br br0 -- set bridge br0 datapath_type=netdev
		for i in 1 2; do ip netns add n$i; ip link add a$i type veth peer name eth0 netns n$i; ip link set a$i up
			ip -n n$i addr add 192.168.9.$i/24 dev eth0; ip -n n$i link set eth0 up; vsctl add-port br0 a$i; done
		ip netns exec n1 ping -qc1 -w5 192.168.9.2`)
	agent := startSwitchAgent(t, s, an)
	rows := func() string {
		return s.script(t, `for table in Mirror sFlow NetFlow IPFIX; do echo $table $(vsctl --columns=_uuid list $table | wc -w); done; echo $(vsctl list-ports br0)`)
	}
	before := rows()
	const bridge, port = "G.V().Has('Type', 'ovsbridge', 'Name', 'br0')", "G.V().Has('Type', 'ovsport', 'Name', 'a1')"
	for _, c := range []struct {
		kind, query string
		fields      map[string]any
	}{
		{"ovsmirror", port, nil},
		{"ovssflow", bridge, map[string]any{"SamplingRate": 1, "PollingInterval": 1}},
		{"ovsnetflow", bridge, nil},
		{"ovsipfix", bridge, map[string]any{"SamplingRate": 1}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			fields := map[string]any{"GremlinQuery": c.query, "Type": c.kind}
			for k, v := range c.fields {
				fields[k] = v
			}
			id := capture(t, an, 1, fields)
			pinged := 0
			need(t, Until(20*time.Second, func() error {
				pinged += 10
				script(t, h, "ip netns exec n1 ping -qc10 -i0.01 -w5 192.168.9.2")
				var flows []flowRecord
				if err := an.Gremlin(an.analyzerAddr(), "G.Flows().Has('CaptureID', '"+id+"', 'LayersPath', Regex('.*ICMPv4.*'))", &flows); err != nil {
					return err
				}
				for _, f := range flows {
					ends := []string{f.Network.A, f.Network.B} // records of a switch come in any order
					slices.Sort(ends)
					if f.Metric.ABPackets > 0 && f.Metric.BAPackets > 0 && slices.Equal(ends, []string{"192.168.9.1", "192.168.9.2"}) {
						return nil
					}
				}
				return fmt.Errorf("%d pings, and no flow of both directions in %+v", pinged, flows)
			}))
			if status, text, err := an.Request("DELETE", an.analyzerAddr(), "/api/capture/"+id, nil); err != nil || status != 200 {
				t.Fatal(status, string(text), err)
			}
			need(t, Until(10*time.Second, func() error {
				if now := rows(); now != before {
					return fmt.Errorf("left behind:\n%s", now)
				}
				return nil
			}))
		})
	}

	// What a killed agent left is swept when it starts anew, and put back for as long as the capture is wanted.
	id := capture(t, an, 2, map[string]any{"GremlinQuery": "G.V().Has('Type', 'ovsport', 'Name', Within('a1', 'a2'))"})
	mirrors := func() []string { return strings.Fields(s.script(t, "vsctl --bare --columns=name list Mirror")) }
	first := mirrors()
	agent.Kill()
	startSwitchAgent(t, s, an)
	captured(t, an, id, 2)
	if now := mirrors(); len(now) != 2 || len(first) != 2 {
		t.Errorf("mirrors %v, and %v before", now, first)
	}
	if status, text, err := an.Request("DELETE", an.analyzerAddr(), "/api/capture/"+id, nil); err != nil || status != 200 {
		t.Fatal(status, string(text), err)
	}
	need(t, Until(10*time.Second, func() error {
		if now := rows(); now != before {
			return fmt.Errorf("left behind:\n%s", now)
		}
		return nil
	}))

	// The user's own row is not taken over.
	s.script(t, "vsctl -- --id=@s create sFlow targets='\"127.0.0.1:9\"' agent=lo -- set bridge br0 sflow=@s")
	status, text, err := an.Request("POST", an.analyzerAddr(), "/api/capture", map[string]any{"GremlinQuery": bridge, "Type": "ovssflow"})
	if err != nil || status != 201 {
		t.Fatal(status, string(text), err)
	}
	need(t, Until(10*time.Second, func() error {
		var captures [][]struct{ State, Error string }
		if err := an.Gremlin(an.analyzerAddr(), bridge+".Values('Captures')", &captures); err != nil {
			return err
		}
		for _, c := range slices.Concat(captures...) {
			if c.State == "error" && c.Error != "" {
				return nil
			}
		}
		return fmt.Errorf("the bridge does not say that its sFlow is somebody else's: %+v", captures)
	}))
	if own := s.script(t, "vsctl --bare --columns=targets list sFlow"); own != "127.0.0.1:9" {
		t.Errorf("the user's sFlow is now %q", own)
	}
}

// A switch that no agent sees sends samples to one that listens: they are flows of the port of the fabric by which the packets came in, for
// whoever asks for them there, live and later.
func TestRootSwitchOfTheFabric(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	rules := "['TOR1[Name=tor1] -> TOR1_PORT1[Exporter=10.111.0.1, IfIndex=7]', 'TOR1_PORT1 --> *[Type=host, Name=h1]/lo']"
	p, err := an.Start(fmt.Sprintf("host_id: an\netcd: {data_dir: %s/etcd}\nanalyzer: {listen: 0.0.0.0:8082, topology: {fabric: %s}}\n%s", an.Dir, rules, often), "analyzer")
	need(t, err)
	need(t, Until(20*time.Second, func() error { return p.alive(an.get(an.analyzerAddr(), "/api")) }))
	startAgent(t, h, an, often)
	counts(t, an, 1, "G.V().Has('Name', 'TOR1_PORT1').Both('Name', 'lo').Count()")
	id := capture(t, an, 1, map[string]any{"GremlinQuery": "G.V().Has('Type', 'host', 'Name', 'h1')", "Type": "sflow"})
	conn, err := an.Dial(t.Context(), "udp", h.IP+":6343") // from the analyzer's address, which stands for the switch's
	need(t, err)
	defer conn.Close()
	frame := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 100, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2, 0x30, 0x39, 0, 53}, make([]byte, 26)...)
	for i := range uint32(2) { // by the port that is known, and by another
		_, err := conn.Write(AppendSFlow(nil, [4]byte{10, 111, 0, 1}, i, Sample{Sequence: i, Rate: 100, Input: 7 + i, Output: 9, Length: 118, Header: frame}))
		need(t, err)
	}
	for _, at := range []string{"G", "G.At('-1s', 60)"} {
		need(t, Until(15*time.Second, func() error {
			var flows []flowRecord
			if err := an.Gremlin(an.analyzerAddr(), at+".V().Has('Name', 'TOR1_PORT1').Flows()", &flows); err != nil {
				return err
			}
			if len(flows) != 1 || flows[0].Metric.ABPackets != 100 || flows[0].Metric.ABBytes != 100*114 || flows[0].CaptureID != id {
				return fmt.Errorf("%s: %+v", at, flows)
			}
			return nil
		}))
	}
	counts(t, an, 1, "G.At('-1s', 60).V().Has('Type', 'host', 'Name', 'h1').Flows().Count()")
}
