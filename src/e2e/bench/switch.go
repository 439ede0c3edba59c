package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"skydive/src/e2e"
)

// A switch of bridges is what measureSwitch and measureRules look at.
const (
	switchBridges = 20
	switchPorts   = 1000
	switchRules   = 10_000
)

// startSwitchSite starts an analyzer, and an agent on a host with a switch.
func (r *run) startSwitchSite() (analyzer, agent *service, sw *e2e.Switch, err error) {
	if analyzer, err = r.startAnalyzer(); err != nil {
		return nil, nil, nil, err
	}
	r.hosts++
	host, err := r.lab.AddHost(fmt.Sprint("h", r.hosts))
	if err == nil {
		if sw, err = host.StartSwitch(); err == nil {
			agent, err = r.startOn(host, "agent", "analyzers: ["+analyzer.addr+"]\n"+sw.Config(), "ovsdb")
		} else if errors.Is(err, e2e.ErrNoSwitch) {
			err = leftOut(err.Error())
		}
	}
	if err != nil {
		analyzer.stop()
	}
	return analyzer, agent, sw, err
}

// counted waits until an analyzer counts at least so many, and tells how long that took.
func (r *run) counted(s *service, query string, want int) (time.Duration, error) {
	begin := time.Now()
	err := r.until(patience, 2*time.Millisecond, query, func() (bool, error) {
		n, err := s.count(r.ctx, query)
		if err == nil && n < want {
			err = fmt.Errorf("%d, want %d", n, want)
		}
		return n >= want, err
	})
	return time.Since(begin), err
}

// measureSwitch is O1: ports of Open vSwitch, from the return of ovs-vsctl until all is in the graph.
func measureSwitch(r *run) ([]value, error) {
	analyzer, agent, sw, err := r.startSwitchSite()
	if err != nil {
		return nil, err
	}
	defer analyzer.stop()
	defer agent.stop()
	ports := r.size(switchPorts/switchBridges, 1)
	var line strings.Builder
	line.WriteString("vsctl")
	for b := range switchBridges {
		fmt.Fprintf(&line, " -- add-br br%d -- set bridge br%d datapath_type=netdev", b, b)
		for p := range ports {
			fmt.Fprintf(&line, " -- add-port br%d p%d-%d -- set interface p%d-%d type=internal external-ids:iface-id=port-%d-%d", b, b, p, b, p, b, p)
		}
	}
	var delay, creation time.Duration
	used, err := agent.during(func() error {
		begin := time.Now()
		if _, err := sw.Script(line.String()); err != nil {
			return err
		}
		creation = time.Since(begin)
		begin = time.Now()
		// Each port with what is known of its interface by kernel and database, whichever comes last.
		if _, err := r.counted(analyzer, "G.V().Has('Type','ovsport').Out().HasKey('ExtID.iface-id').HasKey('IfIndex').Count()", ports*switchBridges); err != nil {
			return err
		}
		delay = time.Since(begin)
		return r.wait(time.Second)
	})
	return []value{
		{Today: delay.Seconds(), Note: fmt.Sprintf("creation took %.2f s", creation.Seconds())},
		{Today: used.CPU.Seconds(), CPU: used.CPU, RSS: used.PeakRSS},
		{Today: megabytes(used.PeakRSS), RSS: used.PeakRSS},
	}, err
}

// measureRules is O2: the OpenFlow rules of a bridge that an agent finds at its start.
func measureRules(r *run) ([]value, error) {
	analyzer, agent, sw, err := r.startSwitchSite()
	if err != nil {
		return nil, err
	}
	defer analyzer.stop()
	agent.stop()
	rules := r.size(switchRules, 10)
	var text strings.Builder
	for i := range rules {
		fmt.Fprintf(&text, "table=%d,priority=%d,cookie=0x%x,tcp,nw_src=10.%d.%d.0/24,nw_dst=192.168.%d.%d,tp_dst=%d actions=set_field:%d->reg3,resubmit(,%d)\n",
			i%20, 100+i%7, i, i>>8&255, i&255, i>>8&255, i&255, 1+i%60000, i, 20+i%20)
	}
	file := filepath.Join(sw.Dir, "rules")
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		return nil, err
	}
	if _, err := sw.Script("vsctl add-br br0 -- set bridge br0 datapath_type=netdev; ovs-ofctl add-flows br0 rules"); err != nil {
		return nil, err
	}
	begin := time.Now()
	if agent, err = r.startOn(agent.host, "agent", "analyzers: ["+analyzer.addr+"]\n"+sw.Config(), "ovsdb"); err != nil {
		return nil, err
	}
	defer agent.stop()
	if _, err = r.counted(analyzer, "G.V().Has('Type','ofrule').Count()", rules); err != nil {
		return nil, err
	}
	delay := time.Since(begin)
	used, err := agent.proc.Usage()
	return []value{
		{Today: delay.Seconds(), Note: "from the start of the agent", CPU: used.CPU},
		{Today: megabytes(used.PeakRSS), RSS: used.PeakRSS},
	}, err
}

// samplesEach and recordsEach are what switches put into a datagram that fills a frame of Ethernet.
const (
	samplesEach = 7
	recordsEach = 30
)

// sflowDatagram has a header of 128 bytes of each sampled frame.
func sflowDatagram(buf []byte, n int) []byte {
	var samples [samplesEach]e2e.Sample
	for i := range samples {
		seq := n*samplesEach + i
		samples[i] = e2e.Sample{Sequence: uint32(seq), Rate: 100, Input: 1, Output: 2, Length: 1500, Header: frame(seq%50_000, 128)}
	}
	return e2e.AppendSFlow(buf, [4]byte{192, 0, 2, 9}, uint32(n), samples[:]...)
}

// netflowDatagram is one of NetFlow version 5.
func netflowDatagram(buf []byte, n int) []byte {
	be := binary.BigEndian
	buf = be.AppendUint16(buf, 5)
	buf = be.AppendUint16(buf, recordsEach)
	now := time.Now()
	buf = be.AppendUint32(buf, 3_600_000) // ms since the switch started
	buf = be.AppendUint32(buf, uint32(now.Unix()))
	buf = be.AppendUint32(buf, uint32(now.Nanosecond()))
	buf = be.AppendUint32(buf, uint32(n*recordsEach))
	buf = be.AppendUint32(buf, 0)
	for i := range recordsEach {
		flow := (n*recordsEach + i) % 50_000
		record := make([]byte, 48)
		from := client(flow)
		copy(record, from[:])
		copy(record[4:], []byte{192, 168, 0, 1})
		be.PutUint16(record[12:], 1)
		be.PutUint16(record[14:], 2)
		be.PutUint32(record[16:], 10)
		be.PutUint32(record[20:], 6000)
		be.PutUint32(record[24:], 3_590_000)
		be.PutUint32(record[28:], 3_599_000)
		be.PutUint16(record[32:], uint16(1024+flow/1000))
		be.PutUint16(record[34:], 443)
		record[37], record[38] = 0x18, 6
		buf = append(buf, record...)
	}
	return buf
}

// decoded are the benchmarks of src/capture/sampled, in the order of the first rows of O3.
var decoded = []string{"sflow_of_8_samples", "netflow5_of_30_records", "netflow9_of_24_records", "ipfix_of_24_records"}

// measureSampled is O3: what a thread needs to decode a datagram and to count what is in it, and what an agent with many flows needs in
// all, its reception by the kernel included.
func measureSampled(r *run) ([]value, error) {
	values, err := r.decodes()
	if err != nil {
		return nil, err
	}
	for _, l := range []struct {
		kind, port string
		datagram   func([]byte, int) []byte
	}{{"sflow", "6343", sflowDatagram}, {"netflow", "2055", netflowDatagram}} {
		v, err := r.listened(l.kind, l.port, l.datagram)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}

// decodes runs the package's own benchmarks; the last value is the most allocations of any.
func (r *run) decodes() ([]value, error) {
	text, err := exec.CommandContext(r.ctx, "go", "test", "-run", "^$", "-bench", "Datagram", "-benchmem", "-cpu", "1", "-benchtime",
		strconv.Itoa(r.size(200_000, 100))+"x", "./src/capture/sampled").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test: %w: %s", err, text)
	}
	values := make([]value, len(decoded)+1)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		for i, name := range decoded {
			if len(fields) == 0 || fields[0] != "BenchmarkDatagram/"+name {
				continue
			}
			for j := 3; j < len(fields); j += 2 {
				n, err := strconv.ParseFloat(fields[j-1], 64)
				if err != nil {
					return nil, fmt.Errorf("%q: %w", line, err)
				}
				switch fields[j] {
				case "cpu-ns/op":
					values[i].Today = n / 1000
				case "allocs/op":
					values[len(decoded)].Today = max(values[len(decoded)].Today, n)
				}
			}
		}
	}
	for i, name := range decoded {
		if values[i].Today == 0 {
			return nil, fmt.Errorf("no figure of %s in %s", name, text)
		}
	}
	return values, nil
}

func (r *run) listened(kind, port string, datagram func([]byte, int) []byte) (value, error) {
	s, err := r.startSite(kind, 60)
	if err != nil {
		return value{}, err
	}
	defer s.stop()
	conn, err := s.agent.host.Dial(r.ctx, "udp", "127.0.0.1:"+port)
	if err != nil {
		return value{}, err
	}
	defer conn.Close()
	// Full speed, but never more than the socket holds for a busy agent: this is no test of the kernel's patience.
	const burst = 64
	total := r.size(100_000, burst)
	var buf []byte
	used, err := s.agent.during(func() error {
		for n := range total {
			buf = datagram(buf[:0], n)
			if _, err := conn.Write(buf); err != nil {
				return err
			}
			if n%burst == burst-1 {
				if err := r.wait(2 * time.Millisecond); err != nil {
					return err
				}
			}
		}
		return r.wait(time.Second)
	})
	if err != nil {
		return value{}, err
	}
	var flows int
	flows, err = s.analyzer.count(r.ctx, "G.Flows().Count()")
	return value{
		Today: float64(used.CPU.Microseconds()) / float64(total), CPU: used.CPU, RSS: used.PeakRSS,
		Note: fmt.Sprintf("%d datagrams, %d flows", total, flows),
	}, err
}
