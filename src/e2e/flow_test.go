package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// often makes flows be reported each second.
const often = quick + "flow: {update: 1, expire: 5}\n"

// netnsPair makes two namespaces, n1 (192.168.9.1) and n2 (192.168.9.2), on a bridge br0 (192.168.9.254) through a1 and a2.
const netnsPair = `ip link add br0 type bridge; ip addr add 192.168.9.254/24 dev br0; ip link set br0 up
	for i in 1 2; do ip netns add n$i; ip link add a$i type veth peer name eth0 netns n$i; ip link set a$i master br0 up
		ip -n n$i addr add 192.168.9.$i/24 dev eth0; ip -n n$i link set lo up; ip -n n$i link set eth0 up; done
	for i in a1 a2 br0; do sysctl -qw net.ipv6.conf.$i.disable_ipv6=1; done
	for i in 1 2; do ip netns exec n$i sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1; done
	for i in 1 2; do n=0; until ip -n n$i -br link show eth0 | grep -qw UP; do n=$((n+1)); [ $n -lt 100 ]; sleep 0.05; done; done`

// flowRecord is a flow as the API shows it.
type flowRecord struct {
	UUID, LayersPath, Application, NodeTID, CaptureID, TrackingID, L3TrackingID, ParentUUID string
	Network                                                                                 struct{ Protocol, A, B string }
	Transport                                                                               struct {
		Protocol string
		A, B     int
	}
	ICMP struct {
		Type string
		ID   int
	}
	Metric    flowMetric
	TCPMetric struct{ ABSynStart, BASynStart, ABFinStart, BAFinStart int64 }
	DNS       struct {
		Questions []struct{ Name string } `json:"questions"`
	}
	Start, Last        int64
	RawPacketsCaptured int
}

type flowMetric struct{ ABPackets, ABBytes, BAPackets, BABytes, Start, Last, RTT int64 }

// capture asks for a capture and waits until it is active on so many nodes.
func capture(t testing.TB, an *Host, nodes int, fields map[string]any) (id string) {
	t.Helper()
	status, text, err := an.Request("POST", an.analyzerAddr(), "/api/capture", fields)
	need(t, err)
	var made struct{ UUID string }
	if status != 201 || json.Unmarshal(text, &made) != nil || made.UUID == "" {
		t.Fatalf("create capture: %d %s", status, text)
	}
	captured(t, an, made.UUID, nodes)
	return made.UUID
}

// captured waits until a capture is active on so many nodes.
func captured(t testing.TB, an *Host, id string, nodes int) {
	t.Helper()
	need(t, Until(10*time.Second, func() error {
		status, text, err := an.Request("GET", an.analyzerAddr(), "/api/capture/"+id, nil)
		if err != nil {
			return err
		}
		var c struct{ Count int }
		if err := json.Unmarshal(text, &c); err != nil || status != 200 || c.Count != nodes {
			return fmt.Errorf("want %d nodes: %d %s", nodes, status, text)
		}
		return nil
	}))
}

// dump runs tcpdump on an interface until stop, which returns the packets once there is one of that size among them: a tcpdump that is
// interrupted forgets what it has not read yet.
func dump(t testing.TB, h *Host, ifname string) (stop func(last int) []dumped) {
	t.Helper()
	file := filepath.Join(h.Dir, ifname+".pcap")
	cmd := h.Command(context.Background(), "tcpdump", "-U", "-n", "-s", "0", "-Z", "root", "-B", "65536", "-i", ifname, "-w", file)
	complaint, err := os.Create(file + ".log")
	need(t, err)
	defer complaint.Close()
	cmd.Stderr = complaint
	need(t, cmd.Start())
	need(t, Until(10*time.Second, func() error {
		text, _ := os.ReadFile(complaint.Name())
		if !bytes.Contains(text, []byte("listening on")) {
			return fmt.Errorf("tcpdump does not listen: %s", text)
		}
		return nil
	}))
	return func(last int) (all []dumped) {
		t.Helper()
		need(t, Until(10*time.Second, func() error {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			all = readDump(t, text)
			if !slices.ContainsFunc(all, func(d dumped) bool { return d.size == last }) {
				return fmt.Errorf("tcpdump has %d packets, none of %d bytes", len(all), last)
			}
			return nil
		}))
		script(t, h, "pkill -INT -x tcpdump || true") // of this host's processes: it has a process namespace of its own
		_ = cmd.Wait()
		return all
	}
}

// dumped is a packet of a pcap file.
type dumped struct {
	at   time.Time
	size int // on the wire
	data []byte
}

func readDump(t testing.TB, text []byte) (all []dumped) {
	t.Helper()
	if len(text) < 24 || binary.LittleEndian.Uint32(text) != 0xa1b2c3d4 {
		t.Fatalf("not a pcap file: % x", text[:min(len(text), 24)])
	}
	for text = text[24:]; len(text) >= 16; {
		n := int(binary.LittleEndian.Uint32(text[8:]))
		if len(text) < 16+n {
			break
		}
		all = append(all, dumped{
			time.Unix(int64(binary.LittleEndian.Uint32(text)), int64(binary.LittleEndian.Uint32(text[4:]))*1000),
			int(binary.LittleEndian.Uint32(text[12:])), text[16 : 16+n],
		})
		text = text[16+n:]
	}
	return all
}

// conversation is a flow's addresses, the smaller end first.
type conversation struct {
	proto     byte
	low, high netip.AddrPort
}

func between(proto byte, a, b netip.AddrPort) conversation {
	if b.Compare(a) < 0 {
		a, b = b, a
	}
	return conversation{proto, a, b}
}

// conversation returns that of an IPv4 packet over Ethernet.
func (d dumped) conversation() (c conversation, ok bool) {
	f := d.data
	if len(f) < 34 || binary.BigEndian.Uint16(f[12:]) != 0x0800 {
		return c, false
	}
	ip := f[14:]
	from, _ := netip.AddrFromSlice(ip[12:16])
	to, _ := netip.AddrFromSlice(ip[16:20])
	var ports [2]uint16
	if l4 := ip[int(ip[0]&15)*4:]; (ip[9] == 6 || ip[9] == 17) && len(l4) >= 4 {
		ports[0], ports[1] = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	}
	known := ip[9] == 1 || ip[9] == 6 || ip[9] == 17 // not what the hosts' kernels tell each other of multicast
	return between(ip[9], netip.AddrPortFrom(from, ports[0]), netip.AddrPortFrom(to, ports[1])), known
}

func (f flowRecord) conversation() (conversation, error) {
	proto, known := map[string]byte{"TCP": 6, "UDP": 17, "": 1}[f.Transport.Protocol]
	a, err1 := netip.ParseAddr(f.Network.A)
	b, err2 := netip.ParseAddr(f.Network.B)
	if !known {
		err1 = fmt.Errorf("protocol %s", f.Transport.Protocol)
	}
	return between(proto, netip.AddrPortFrom(a, uint16(f.Transport.A)), netip.AddrPortFrom(b, uint16(f.Transport.B))), errors.Join(err1, err2)
}

// answerNames answers every DNS query for an address with 192.0.2.1, on port 53 of the host, until the connection is closed.
func answerNames(t testing.TB, h *Host) {
	t.Helper()
	var conn net.PacketConn
	need(t, h.Within(func() (err error) {
		conn, err = net.ListenPacket("udp4", "0.0.0.0:53")
		return err
	}))
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			end := 12 + bytes.IndexByte(buf[12:n], 0) + 5 // of the question
			reply := append(slices.Clone(buf[:2]), 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0)
			reply = append(append(reply, buf[12:end]...), 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1)
			if _, err := conn.WriteTo(reply, from); err != nil {
				return
			}
		}
	}()
}

// TestRootFlowsAgreeWithTcpdump sends what people send between two namespaces, and compares every flow with what tcpdump and the
// interface counted.
func TestRootFlowsAgreeWithTcpdump(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, often)
	startAgent(t, h, an, quick+"flow: {update: 1, expire: 60}\n")
	script(t, h, netnsPair)
	answerNames(t, h)
	script(t, h, `head -c 300000 /dev/zero >page
		ip netns exec n2 python3 -m http.server -b 192.168.9.2 8000 >/dev/null 2>&1 &
		ip netns exec n2 iperf3 -s -1 >/dev/null 2>&1 &
		ip netns exec n2 iperf3 -s -1 -p 5202 >/dev/null 2>&1 &
		for port in 8000 5201 5202; do i=0; until ip netns exec n2 ss -Hltn "sport = :$port" | grep -q .; do i=$((i+1)); [ $i -lt 100 ]; sleep 0.1; done; done`)
	id := capture(t, an, 1, map[string]any{"GremlinQuery": "G.V().Has('Name', 'a1')", "RawPacketLimit": 5, "ExtraTCPMetric": true, "ExtraLayers": 2})
	stop := dump(t, h, "a1")
	before := counters(t, h, "a1")
	script(t, h, `ip netns exec n1 ping -q -i 0.05 -c 20 192.168.9.2
		ip netns exec n1 curl -sS -o /dev/null http://192.168.9.2:8000/page
		ip netns exec n1 dig +short +tries=1 @192.168.9.254 www.example.org
		ip netns exec n1 iperf3 -c 192.168.9.2 -n 20M >/dev/null
		ip netns exec n1 iperf3 -c 192.168.9.2 -p 5202 -u -b 20M -n 500K >/dev/null
		ip netns exec n1 ping -q -c 1 -s 999 192.168.9.254`)
	packets := stop(14 + 20 + 8 + 999)
	after := counters(t, h, "a1")

	want := map[conversation]flowMetric{}
	total := 0
	for _, p := range packets {
		if c, ok := p.conversation(); ok {
			m := want[c]
			m.ABPackets, m.ABBytes = m.ABPackets+1, m.ABBytes+int64(p.size)
			want[c] = m
			total++
		}
	}
	if len(want) < 5 || total < 100 {
		t.Fatalf("tcpdump saw %d packets in %d conversations", total, len(want))
	}
	var flows []flowRecord
	need(t, Until(10*time.Second, func() error {
		flows = nil
		if err := an.Gremlin(an.analyzerAddr(), fmt.Sprintf("G.Flows().Has('CaptureID', '%s', 'LayersPath', Regex('Ethernet/IPv4/(ICMPv4|TCP|UDP).*'))", id), &flows); err != nil {
			return err
		}
		got := map[conversation]flowMetric{}
		for _, f := range flows {
			c, err := f.conversation()
			if err != nil {
				return fmt.Errorf("%+v: %w", f, err)
			}
			m := got[c]
			m.ABPackets += f.Metric.ABPackets + f.Metric.BAPackets
			m.ABBytes += f.Metric.ABBytes + f.Metric.BABytes
			got[c] = m
		}
		for c, m := range want {
			if got[c] != m {
				return fmt.Errorf("%v: flows have %d packets, %d bytes; tcpdump %d, %d", c, got[c].ABPackets, got[c].ABBytes, m.ABPackets, m.ABBytes)
			}
		}
		if len(got) != len(want) {
			return fmt.Errorf("flows of %d conversations, tcpdump saw %d", len(got), len(want))
		}
		return nil
	}))

	seen := map[string]bool{}
	for _, f := range flows {
		kind := f.LayersPath
		seen[kind] = true
		if f.NodeTID == "" || f.TrackingID == "" || f.UUID == "" || f.Start == 0 || f.Last < f.Start {
			t.Errorf("incomplete flow %+v", f)
		}
		switch {
		case f.ICMP.Type == "ECHO" && f.Network.B == "192.168.9.2":
			if f.Metric.ABPackets != 20 || f.Metric.BAPackets != 20 || f.Metric.RTT <= 0 || f.Metric.RTT > int64(time.Second) || f.Network.A != "192.168.9.1" {
				t.Errorf("ping: %+v", f)
			}
		case f.Transport.Protocol == "TCP":
			if f.Network.A != "192.168.9.1" || f.Metric.RTT <= 0 || f.TCPMetric.ABSynStart == 0 || f.TCPMetric.BASynStart < f.TCPMetric.ABSynStart || f.Transport.B == 8000 && f.TCPMetric.ABFinStart == 0 {
				t.Errorf("TCP: %+v", f)
			}
		case f.Application == "DNS":
			if len(f.DNS.Questions) != 1 || f.DNS.Questions[0].Name != "www.example.org" {
				t.Errorf("DNS: %+v", f)
			}
		}
	}
	for _, kind := range []string{"Ethernet/IPv4/ICMPv4", "Ethernet/IPv4/TCP", "Ethernet/IPv4/UDP/DNS"} {
		if !seen[kind] {
			t.Errorf("no flow with layers %s in %v", kind, seen)
		}
	}

	// The first five packets of a flow are those that tcpdump has first of that conversation.
	for _, f := range flows {
		c, _ := f.conversation()
		var answer []map[string][]struct {
			Data     []byte
			Index    int
			LinkType int
		}
		need(t, Until(10*time.Second, func() error {
			answer = nil
			err := an.Gremlin(an.analyzerAddr(), fmt.Sprintf("G.At('-1s', 600).Flows().Has('UUID', '%s').RawPackets()", f.UUID), &answer)
			if err == nil && (len(answer) != 1 || f.RawPacketsCaptured != len(answer[0][f.UUID])) {
				err = fmt.Errorf("%v: %d raw packets, answer %v", c, f.RawPacketsCaptured, answer)
			}
			return err
		}))
		n := 0
		for _, p := range packets {
			if pc, _ := p.conversation(); pc != c || n == len(answer[0][f.UUID]) {
				continue
			}
			raw := answer[0][f.UUID][n]
			if n++; raw.Index != n || raw.LinkType != 1 || !bytes.Equal(raw.Data, p.data[:min(len(p.data), 256)]) {
				t.Errorf("%v: raw packet %d is % x, tcpdump has % x", c, n, raw.Data, p.data[:min(len(p.data), 256)])
			}
		}
		if n != min(5, int(want[c].ABPackets)) {
			t.Errorf("%v: %d raw packets of %d", c, n, want[c].ABPackets)
		}
	}

	// Everything that the interface counted was given to the capture.
	need(t, Until(5*time.Second, func() error {
		var lists [][]struct{ PacketsReceived, PacketsDropped int }
		if err := an.Gremlin(an.analyzerAddr(), "G.V().Has('Name', 'a1').Values('Captures')", &lists); err != nil {
			return err
		}
		if got, least := lists[0][0].PacketsReceived, after-before; lists[0][0].PacketsDropped != 0 || got < least {
			return fmt.Errorf("the capture got %+v, the interface counted %d", lists[0][0], least)
		}
		return nil
	}))
}

// counters are the packets that an interface has received and sent.
func counters(t testing.TB, h *Host, ifname string) (n int) {
	t.Helper()
	for _, field := range strings.Fields(script(t, h, "ip -json -s link show "+ifname+` | python3 -c 'import json,sys; s=json.load(sys.stdin)[0]["stats64"]; print(s["rx"]["packets"], s["tx"]["packets"])'`)) {
		i, err := strconv.Atoi(field)
		need(t, err)
		n += i
	}
	return n
}

// TestRootCapturesFollowTheGraph: a capture is a question to the graph, whose answer changes.
func TestRootCapturesFollowTheGraph(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, often)
	agent := startAgent(t, h, an, often)
	id := capture(t, an, 0, map[string]any{"GremlinQuery": "G.V().Has('Name', Regex('cap.*'))"})
	within := func(nodes int, what, lines string) {
		t.Helper()
		script(t, h, lines)
		begin := time.Now()
		captured(t, an, id, nodes)
		if took := time.Since(begin); took > 2*time.Second { // a second is promised; the machine may be busy
			t.Errorf("%s took %s", what, took)
		}
	}
	within(1, "an interface that appears", "ip link add cap0 type veth peer name other0; ip link set cap0 up; ip link set other0 up")
	within(2, "one in a namespace", "ip netns add n1; ip link add cap1 netns n1 type veth peer name other1; ip -n n1 link set cap1 up; ip link set other1 up")
	within(3, "a tap", "ip tuntap add captap mode tap; ip link set captap up")
	within(2, "one that is renamed", "ip link set cap0 down; ip link set cap0 name away0; ip link set away0 up")
	within(1, "one that is deleted", "ip link del other1")
	within(0, "one that goes down", "ip link set captap down")
	within(1, "and up again", "ip link set captap up")
	for _, query := range []string{"G.V().Has('Name', 'away0').Has('Captures').Count()"} {
		if n := count(t, an, an.analyzerAddr(), query); n != 0 {
			t.Errorf("%s: %d", query, n)
		}
	}
	need(t, agent.Signal(15))
	need(t, agent.Wait(10*time.Second))
	captured(t, an, id, 0)
	startAgent(t, h, an, often)
	captured(t, an, id, 1)
	if status, text, err := an.Request("DELETE", an.analyzerAddr(), "/api/capture/"+id, nil); err != nil || status != 200 {
		t.Fatal(status, string(text), err)
	}
	need(t, Until(5*time.Second, func() error {
		if n := count(t, an, an.analyzerAddr(), "G.V().HasKey('Captures').Count()"); n != 0 {
			return fmt.Errorf("%d nodes are captured", n)
		}
		return nil
	}))
	if status, text, _ := an.Request("POST", an.analyzerAddr(), "/api/capture", map[string]any{"GremlinQuery": "G.V()", "BPFFilter": "tcp prot 80"}); status != 400 || !bytes.Contains(text, []byte("BPFFilter")) {
		t.Errorf("a wrong filter: %d %s", status, text)
	}
}

// TestRootHistoryAnswersAfterAKill ends an all-in-one as a power cut would, and asks what was before.
func TestRootHistoryAnswersAfterAKill(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "h1")
	config := fmt.Sprintf("host_id: h1\netcd: {data_dir: %s/etcd}\nagent: {topology: {probes: []}}\n%s", h.Dir, often)
	const addr = "127.0.0.1:8082"
	start := func() *Process {
		p, err := h.Start(config, "allinone")
		need(t, err)
		need(t, Until(20*time.Second, func() error { return p.alive(h.get(addr, "/api")) }))
		return p
	}
	p := start()
	script(t, h, netnsPair)
	h.IP = "127.0.0.1" // where its analyzer is
	capture(t, h, 1, map[string]any{"GremlinQuery": "G.V().Has('Name', 'a1')", "RawPacketLimit": 2})
	script(t, h, "ip netns exec n1 ping -q -i 0.05 -c 10 192.168.9.2; ip netns exec n1 ping -q -i 0.2 -c 15 192.168.9.254")
	const past = "G.At('-1s', 600).Flows().Has('ICMP.Type', 'ECHO', 'Network', '192.168.9.2')"
	var flows []flowRecord
	need(t, Until(10*time.Second, func() error {
		flows = nil
		if err := h.Gremlin(addr, past, &flows); err != nil || len(flows) != 1 || flows[0].Metric.ABPackets != 10 {
			return fmt.Errorf("%+v (%w)", flows, err)
		}
		return nil
	}))
	const gateway = "G.At('-1s', 600).Flows().Has('ICMP.Type', 'ECHO', 'Network', '192.168.9.254')"
	need(t, Until(10*time.Second, func() error {
		var sum struct{ ABPackets, BAPackets int }
		if err := h.Gremlin(addr, gateway+".Metrics().Sum()", &sum); err != nil || sum.ABPackets != 15 || sum.BAPackets != 15 {
			return fmt.Errorf("%+v (%w)", sum, err)
		}
		return nil
	}))
	stamp := time.Now()
	need(t, Until(10*time.Second, func() error { // what is there at stamp is in the archive
		if n := count(t, h, addr, fmt.Sprintf("G.At(%d).V().Has('Type', 'netns').Count()", stamp.UnixMilli())); n != 2 {
			return fmt.Errorf("%d namespaces", n)
		}
		return nil
	}))
	script(t, h, "ip netns del n2")
	need(t, Until(10*time.Second, func() error {
		if n := count(t, h, addr, "G.V().Has('Type', 'netns').Count()"); n != 1 {
			return fmt.Errorf("%d namespaces", n)
		}
		return nil
	}))
	p.Kill()
	start()
	need(t, Until(10*time.Second, func() error {
		var again []flowRecord
		if err := h.Gremlin(addr, past, &again); err != nil || len(again) != 1 || again[0].Metric != flows[0].Metric || again[0].UUID != flows[0].UUID {
			return fmt.Errorf("%+v, want %+v (%w)", again, flows, err)
		}
		return nil
	}))
	for query, want := range map[string]int{
		"G.V().Has('Type', 'netns').Count()":                                                         1,
		fmt.Sprintf("G.At(%d).V().Has('Type', 'netns').Count()", stamp.UnixMilli()):                  2,
		fmt.Sprintf("G.At(%d).V().Has('Name', 'n2').Out('Name', 'eth0').Count()", stamp.UnixMilli()): 1,
		past + ".Count()": 1,
	} {
		need(t, Until(10*time.Second, func() error {
			if n := count(t, h, addr, query); n != want {
				return fmt.Errorf("%s: %d, want %d", query, n, want)
			}
			return nil
		}))
	}
	var series []struct{ Aggregated []flowMetric }
	need(t, h.Gremlin(addr, gateway+".Metrics().Aggregates(1)", &series))
	sum := int64(0)
	for _, m := range series[0].Aggregated {
		sum += m.ABPackets + m.BAPackets
	}
	if len(series[0].Aggregated) < 2 || sum != 30 {
		t.Errorf("15 pings over 3 s are %+v", series)
	}
	var raw []map[string][]struct{ Data []byte }
	need(t, h.Gremlin(addr, past+".RawPackets()", &raw))
	if len(raw) != 1 || len(raw[0][flows[0].UUID]) != 2 {
		t.Errorf("raw packets: %+v", raw)
	}
}
