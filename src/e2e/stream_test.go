package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// client prepares skydive client … on a host, as a user would type it.
func client(ctx context.Context, h, analyzer *Host, args ...string) *exec.Cmd {
	return h.Command(ctx, append([]string{"env", "SKYDIVE_ANALYZER=" + analyzer.analyzerAddr(), h.lab.Binary, "client"}, args...)...)
}

// contents are the bytes of packets, sorted.
func contents(packets []dumped) (all []string) {
	for _, p := range packets {
		all = append(all, fmt.Sprintf("%d %x", p.size, p.data))
	}
	slices.Sort(all)
	return all
}

// TestRootStreamAgreesWithTcpdump reads the packets of a capture on two hosts as they come, and compares them with what tcpdump takes at
// the interfaces themselves. A third host joins while the stream is read.
func TestRootStreamAgreesWithTcpdump(t *testing.T) {
	l := newLab(t)
	an, h1, h2, h3 := addHost(t, l, "an"), addHost(t, l, "h1"), addHost(t, l, "h2"), addHost(t, l, "h3")
	analyzer := startAnalyzer(t, an, often)
	agents := []*Process{startAgent(t, h1, an, often), startAgent(t, h2, an, often)}
	id := capture(t, an, 2, map[string]any{
		"GremlinQuery": "G.V().Has('Name', 'eth0', '@Host', Within('h1', 'h2', 'h3'))", "BPFFilter": "icmp", "HeaderSize": 4096,
	})
	idle := make([]Usage, len(agents))
	for i, a := range agents {
		u, err := a.Usage()
		need(t, err)
		idle[i] = u
	}
	file := filepath.Join(an.Dir, "stream.pcapng")
	out, err := os.Create(file)
	need(t, err)
	defer out.Close()
	stream := client(t.Context(), an, an, "capture", "stream", id)
	var complaint bytes.Buffer
	stream.Stdout, stream.Stderr = out, &complaint
	need(t, stream.Start())
	need(t, Until(10*time.Second, func() error {
		if s, err := out.Stat(); err != nil || s.Size() == 0 {
			return fmt.Errorf("no header (%w)", err)
		}
		return nil
	}))
	stops := []func(int) []dumped{dump(t, h1, "eth0"), dump(t, h2, "eth0")}
	script(t, h1, "ping -q -i 0.02 -c 50 "+h2.IP+"; ping -q -i 0.02 -c 10 -s 1400 "+h2.IP+"; ping -q -c 1 -s 700 "+h2.IP)
	const last = 700 + 8 + 20 + 14 // bytes of the packets that tell tcpdump's end: they are not compared
	got := func(n int) (packets []dumped) {
		t.Helper()
		need(t, Until(10*time.Second, func() error {
			text, err := exec.Command("tcpdump", "-r", file, "-w", "-").Output()
			if err != nil {
				return fmt.Errorf("tcpdump: %w", err)
			}
			if packets = readDump(t, text); len(packets) != n {
				return fmt.Errorf("%d packets, want %d", len(packets), n)
			}
			return nil
		}))
		return packets
	}
	const pings = 61
	packets := got(4 * pings) // request and reply, at both ends
	for _, p := range packets {
		if age := time.Since(p.at); age < 0 || age > time.Minute {
			t.Fatalf("a packet of %s ago", age)
		}
	}
	var want []dumped
	for _, stop := range stops {
		for _, p := range stop(last) {
			if c, ok := p.conversation(); ok && c.proto == 1 && p.size != last {
				want = append(want, p)
			}
		}
	}
	packets = slices.DeleteFunc(packets, func(p dumped) bool { return p.size == last })
	if len(want) != 4*pings-4 || !slices.Equal(contents(packets), contents(want)) {
		t.Errorf("%d packets in the stream, %d of tcpdump, which differ", len(packets), len(want))
	}

	startAgent(t, h3, an, often)
	captured(t, an, id, 3)
	need(t, Until(10*time.Second, func() error {
		script(t, h3, "ping -q -c 1 "+an.IP)
		text, err := os.ReadFile(file)
		for _, h := range []string{"h1", "h2", "h3"} {
			if !bytes.Contains(text, []byte(h+"/eth0")) {
				err = fmt.Errorf("no interface %s/eth0 in the stream", h)
			}
		}
		return err
	}))

	// A reader that has enough ends the command, and the stream behind it.
	piped := client(t.Context(), an, an, "capture", "stream", id)
	first := exec.Command("tcpdump", "-n", "-c", "3", "-r", "-")
	pipe, err := piped.StdoutPipe()
	need(t, err)
	first.Stdin = pipe
	var lines bytes.Buffer
	first.Stdout = &lines
	need(t, piped.Start())
	need(t, first.Start())
	done := make(chan error, 1)
	go func() { done <- errors.Join(first.Wait(), pipe.Close()) }()
	for pinging := true; pinging; {
		script(t, h1, "ping -q -c 1 "+h2.IP)
		select {
		case err := <-done:
			need(t, err)
			pinging = false
		default:
		}
	}
	if n := strings.Count(lines.String(), "ICMP echo"); n != 3 {
		t.Errorf("tcpdump says %q", lines.String())
	}
	script(t, h1, "ping -q -i 0.02 -c 5 "+h2.IP) // to nobody
	_ = piped.Wait()                             // its reader has gone

	// The end of the capture is the end of the stream.
	status, answer, err := an.Request("DELETE", an.analyzerAddr(), "/api/capture/"+id, nil)
	if err != nil || status != 200 {
		t.Fatal(status, string(answer), err)
	}
	ended := make(chan error, 1)
	go func() { ended <- stream.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the stream ended with %v: %s", err, &complaint)
		}
	case <-time.After(10 * time.Second):
		t.Error("the stream goes on without the capture")
	}
	for i, a := range agents {
		need(t, Until(10*time.Second, func() error {
			u, err := a.Usage()
			if err == nil && u.Files > idle[i].Files {
				err = fmt.Errorf("agent %d has %d open files, %d before", i, u.Files, idle[i].Files)
			}
			return err
		}))
	}
	if out, err := client(t.Context(), an, an, "capture", "stream", id).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("404")) {
		t.Errorf("stream of no capture: %v: %s", err, out)
	}

	// The end of the analyzer, too.
	id = capture(t, an, 3, map[string]any{"GremlinQuery": "G.V().Has('Name', 'eth0', '@Host', Within('h1', 'h2', 'h3'))", "BPFFilter": "icmp"})
	farewell := client(t.Context(), an, an, "capture", "stream", "--output", file, id)
	need(t, os.Remove(file))
	need(t, farewell.Start())
	need(t, Until(10*time.Second, func() error {
		_, err := os.Stat(file)
		return err
	}))
	need(t, analyzer.Signal(syscall.SIGTERM))
	need(t, analyzer.Wait(10*time.Second))
	_ = farewell.Wait() // its server has gone
}

// TestRootStreamNobodyReads streams much to who does not read: the capture loses nothing for that, and the stream says what it lacks.
func TestRootStreamNobodyReads(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, often)
	agent := startAgent(t, h, an, often)
	script(t, h, netnsPair)
	id := capture(t, an, 1, map[string]any{"GremlinQuery": "G.V().Has('Name', 'a1')", "BPFFilter": "udp"})
	remote := an.HTTP()
	defer remote.CloseIdleConnections()
	res, err := remote.Get("http://" + an.analyzerAddr() + "/api/capture/" + id + "/pcapng")
	need(t, err)
	defer res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/x-pcapng" {
		t.Fatal(res.Status, res.Header)
	}
	before, err := agent.Usage()
	need(t, err)
	script(t, h, `ip netns exec n2 iperf3 -s -1 >/dev/null 2>&1 &
		i=0; until ip netns exec n2 ss -Hltn "sport = :5201" | grep -q .; do i=$((i+1)); [ $i -lt 100 ]; sleep 0.1; done
		ip netns exec n1 iperf3 -c 192.168.9.2 -u -b 100M -l 100 -n 20M >/dev/null`)
	var c taken
	last := int64(-1)
	need(t, Until(20*time.Second, func() error {
		if c, err = takenBy(an, "a1", id); err != nil || c.PacketsReceived < 200_000 || c.PacketsReceived != last {
			err = fmt.Errorf("%+v, %d before (%w)", c, last, err)
			last = c.PacketsReceived
		}
		return err
	}))
	if c.PacketsDropped != 0 {
		t.Errorf("the capture itself lost packets: %+v", c)
	}
	if after, err := agent.Usage(); err != nil || after.RSS-before.RSS > 64<<20 {
		t.Errorf("the agent took %d MB more (%v)", (after.RSS-before.RSS)>>20, err)
	}
	packets, lost := int64(0), int64(0)
	for block := range blocks(t, res.Body) {
		switch binary.LittleEndian.Uint32(block) {
		case 6:
			packets++
		case 5:
			lost = int64(binary.LittleEndian.Uint64(block[24:]))
		}
		if packets+lost == c.PacketsReceived {
			break
		}
	}
	if lost == 0 || packets < 10_000 || packets+lost != c.PacketsReceived {
		t.Errorf("%d packets and %d lost in the stream, the capture took %d", packets, lost, c.PacketsReceived)
	}
}

// blocks yields those of a pcapng stream.
func blocks(t testing.TB, r io.Reader) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		head := make([]byte, 8)
		for {
			if _, err := io.ReadFull(r, head); err != nil {
				t.Errorf("the stream ends: %v", err)
				return
			}
			block := make([]byte, binary.LittleEndian.Uint32(head[4:]))
			copy(block, head)
			if _, err := io.ReadFull(r, block[8:]); err != nil {
				t.Errorf("the stream ends within a block: %v", err)
				return
			}
			if !yield(block) {
				return
			}
		}
	}
}

// TestRootPcapImport gives the analyzer files, whose flows are then where they belong: at the time of their packets.
func TestRootPcapImport(t *testing.T) {
	l := newLab(t)
	an := addHost(t, l, "an")
	startAnalyzer(t, an, often)
	old, err := os.ReadFile("../capture/testdata/udp.pcap")
	need(t, err)
	const then = 1700000003 // when its packets were
	recent := slices.Clone(old)
	moved := time.Now().Add(-time.Hour).Unix() - then
	for at := 24; at < len(recent); at += 16 + int(binary.LittleEndian.Uint32(recent[at+8:])) {
		binary.LittleEndian.PutUint32(recent[at:], binary.LittleEndian.Uint32(recent[at:])+uint32(moved))
	}
	packets := readDump(t, old)
	size := 0
	for _, p := range packets {
		size += p.size
	}
	for name, file := range map[string][]byte{"old": old, "recent": recent} {
		path := filepath.Join(an.Dir, name+".pcap")
		need(t, os.WriteFile(path, file, 0o600))
		if out, err := client(t.Context(), an, an, "pcap", "--trace", path).CombinedOutput(); err != nil {
			t.Fatalf("import %s: %v: %s", name, err, out)
		}
	}
	expect := func(name string, at int64) {
		t.Helper()
		var flows []flowRecord
		need(t, Until(10*time.Second, func() error {
			flows = nil
			query := fmt.Sprintf("G.At(%d, 60).Flows().Has('Transport.Protocol', 'UDP')", (at+30)*1000)
			if err := an.Gremlin(an.analyzerAddr(), query, &flows); err != nil || len(flows) == 0 {
				return fmt.Errorf("%s: %d flows (%w)", name, len(flows), err)
			}
			return nil
		}))
		n, bytes := 0, 0
		for _, f := range flows {
			n += int(f.Metric.ABPackets + f.Metric.BAPackets)
			bytes += int(f.Metric.ABBytes + f.Metric.BABytes)
			if f.Start < at*1000 || f.Last > at*1000+999 {
				t.Errorf("%s: flow from %d to %d", name, f.Start, f.Last)
			}
		}
		if n != len(packets) || bytes != size {
			t.Errorf("%s: %d packets and %d bytes in %d flows, the file has %d and %d", name, n, bytes, len(flows), len(packets), size)
		}
	}
	expect("recent", then+moved)
	expect("old", then)
	if n := count(t, an, an.analyzerAddr(), "G.Flows().Count()"); n != 0 {
		t.Errorf("%d flows of the past are present", n)
	}
	var here int
	need(t, an.Gremlin(an.analyzerAddr(), "G.At('-30m', 7200).Flows().Has('Transport.Protocol', 'UDP').Count()", &here))
	if here == 0 {
		t.Error("the last two hours have no flow")
	}

	// What is no pcap file is refused with a reason; one that breaks off counts as far as it goes.
	for _, c := range []struct{ name, body, reason string }{
		{"text", "hello, this is no pcap file at all", "not a pcap file"},
		{"nothing", "", "not a pcap file"},
		{"cut", string(old[:len(old)-5]), "unexpected EOF"},
	} {
		client := an.HTTP()
		res, err := client.Post("http://"+an.analyzerAddr()+"/api/pcap", "application/octet-stream", strings.NewReader(c.body))
		need(t, err)
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		client.CloseIdleConnections()
		if res.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), c.reason) {
			t.Errorf("%s: %d %s", c.name, res.StatusCode, text)
		}
	}
}
