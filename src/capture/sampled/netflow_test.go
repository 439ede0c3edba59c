package sampled

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"skydive/src/bpf"
	"skydive/src/capture"
	"skydive/src/flow"
	"skydive/src/resource"
)

// line is what tests compare of a flow.
func line(f flow.Flow) string {
	a, b := "", ""
	if f.Network != nil {
		a, b = f.Network.A, f.Network.B
	}
	if f.Transport != nil {
		a, b = fmt.Sprint(a, ":", f.Transport.A), fmt.Sprint(b, ":", f.Transport.B)
	}
	m := f.Metric
	return fmt.Sprintf("%s %s>%s %d/%d %d/%d %d", f.LayersPath, a, b, m.ABPackets, m.ABBytes, m.BAPackets, m.BABytes, f.FinishType)
}

func lines(all []flow.Flow) (got []string) {
	for _, f := range all {
		got = append(got, line(f))
	}
	slices.Sort(got)
	return got
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\ninstead of\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What Open vSwitch and softflowd have sent of real traffic.
func TestRealExports(t *testing.T) {
	for _, c := range []struct {
		name    string
		options Options
		want    []string
	}{
		{"ovs-netflow5", Options{Whole: true}, []string{
			"IPv4/ICMPv4 10.77.0.1>10.77.0.2 5/420 5/420 0",
			"IPv4/ICMPv4 10.77.0.2>10.77.0.1 5/780 0/0 0",
			"IPv4/UDP 10.77.0.1:40001>10.77.0.2:5353 5/640 0/0 0",
		}},
		{"ovs-ipfix", Options{Entering: true}, []string{
			"Ethernet/IPv4/ICMPv4 10.77.0.1>10.77.0.2 5/490 5/490 0",
			"Ethernet/IPv4/TCP 10.77.0.1:40000>10.77.0.2:8086 12/15280 2/140 0",
			"Ethernet/IPv6/ICMPv6/ICMPv6Echo fd77::1>fd77::2 3/354 3/354 0",
		}},
		{"softflowd-5", Options{}, []string{
			"IPv4/ICMPv4 10.77.0.1>10.77.0.2 4/336 4/336 0",
			"IPv4/TCP 10.77.0.1:59149>10.77.0.2:8082 8/3424 6/322 2",
		}},
		{"softflowd-9", Options{}, []string{
			"Ethernet/IPv4/ICMPv4 10.77.0.1>10.77.0.2 4/392 4/392 0",
			"Ethernet/IPv4/ICMPv4 10.77.0.2>10.77.0.1 5/850 0/0 0",
			"Ethernet/IPv4/TCP 10.77.0.1:59149>10.77.0.2:8082 8/3536 6/406 2",
			"Ethernet/IPv4/UDP 10.77.0.1:40001>10.77.0.2:5353 5/710 0/0 0",
			"Ethernet/IPv6/ICMPv6/ICMPv6Echo fd77::1>fd77::2 3/354 3/354 0",
			"Ethernet/IPv6/TCP fd77::1:39293>fd77::2:8083 8/3696 6/526 2",
		}},
		{"softflowd-9-sampled", Options{}, []string{ // one of two: everything is told of twice
			"IPv4/ICMPv4 10.77.0.1>10.77.0.2 8/672 0/0 0",
			"IPv4/ICMPv4 10.77.0.2>10.77.0.1 4/624 0/0 0",
			"IPv4/TCP 10.77.0.1:59149>10.77.0.2:8082 6/3224 8/420 2",
			"IPv4/UDP 10.77.0.1:40001>10.77.0.2:5353 6/768 0/0 0",
			"IPv6/ICMPv6/ICMPv6Echo fd77::1>fd77::2 6/624 0/0 0",
			"IPv6/TCP fd77::1:39293>fd77::2:8083 8/3448 6/436 2",
		}},
		{"softflowd-biflow", Options{}, []string{ // it has one record for both directions of ICMP messages that are none
			"IPv4/ICMPv4 10.77.0.1>10.77.0.2 4/336 9/1116 0",
			"IPv4/TCP 10.77.0.1:59149>10.77.0.2:8082 8/3424 6/322 2",
			"IPv4/UDP 10.77.0.1:40001>10.77.0.2:5353 5/640 0/0 0",
			"IPv6/ICMPv6 fd77::1>fd77::2 0/0 3/312 0",
			"IPv6/ICMPv6/ICMPv6Echo fd77::1>fd77::2 3/312 0/0 0",
			"IPv6/TCP fd77::1:39293>fd77::2:8083 8/3584 6/442 2",
		}},
	} {
		r := newReplay(t, func(q capture.Request, _ Options) *Source { return Netflow(q, nil, c.options) }, flow.Options{}, resource.Capture{})
		r.feed(time.Now(), exporterAddress, datagrams(t, c.name)...)
		expect(t, c.name, lines(r.flows()), c.want...)
		if n := r.Counters(); n.Malformed+n.Missing+n.Repeated+n.Unknown > 1 || n.Malformed+n.Repeated+n.Unknown > 0 {
			t.Errorf("%s: %+v", c.name, n)
		}
	}
}

// The same packets by themselves, and as softflowd tells of them: identifiers agree wherever the records say all that they depend on.
func TestIdentifiersAreThoseOfPackets(t *testing.T) {
	file, err := os.Open("testdata/softflowd.pcap")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	packets := map[string]flow.Flow{}
	if _, err := capture.ReadPcap(t.Context(), file, flow.Options{}, func(f *flow.Flow) { packets[f.TrackingID] = *f }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"softflowd-9", "softflowd-ipfix"} {
		r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
		r.feed(time.Now(), exporterAddress, datagrams(t, name)...)
		same := 0
		for _, f := range r.flows() {
			if f.Transport == nil {
				continue // the identifier of an echo is not told
			}
			p, ok := packets[f.TrackingID]
			if !ok || p.L3TrackingID != f.L3TrackingID || p.LayersPath != f.LayersPath {
				t.Errorf("%s: no packets of %+v", name, f)
				continue
			}
			if p.Metric.ABPackets != f.Metric.ABPackets || p.Metric.ABBytes != f.Metric.ABBytes || p.Metric.BABytes != f.Metric.BABytes {
				t.Errorf("%s: %+v, by packets %+v", name, f.Metric, p.Metric)
			}
			same++
		}
		if same != 3 {
			t.Errorf("%s: %d flows", name, same)
		}
	}
}

// message is an export message of IPFIX or NetFlow version 9 in the making.
type message struct {
	version                  uint16
	uptime, at, number, part uint32
	body                     []byte
}

func (m message) set(id uint16, body ...byte) message {
	m.body = binary.BigEndian.AppendUint16(slices.Clip(m.body), id)
	m.body = append(binary.BigEndian.AppendUint16(m.body, uint16(len(body)+4)), body...)
	return m
}

func (m message) bytes() (b []byte) {
	b = binary.BigEndian.AppendUint16(b, m.version)
	if m.version == ipfix {
		b = binary.BigEndian.AppendUint16(b, uint16(headerX+len(m.body)))
	} else {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, 1), m.uptime)
	}
	for _, v := range []uint32{m.at, m.number, m.part} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(b, m.body...)
}

// words are numbers of two bytes.
func words(all ...uint16) (b []byte) {
	for _, v := range all {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return b
}

// simple is a template of version 4, ports, protocol, packets, bytes and interfaces.
func simple(id uint16) []byte {
	return words(id, 9, 8, 4, 12, 4, 7, 2, 11, 2, 4, 1, 2, 4, 1, 4, 10, 2, 14, 2)
}

// simpleRecord is a record of simple.
func simpleRecord(from, to byte, sport, dport uint16, packets, octets uint32, in, out uint16) []byte {
	b := []byte{10, 0, 0, from, 10, 0, 0, to}
	b = append(append(b, words(sport, dport)...), 17)
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, packets), octets)
	return append(b, words(in, out)...)
}

const now = 1_800_000_000

func at(seconds int64) time.Time { return time.Unix(now+seconds, 0) }

func TestFabricNodesHaveTheirFlows(t *testing.T) {
	c := resource.Capture{Exporters: []resource.Exporter{
		{Address: "192.0.2.7", IfIndex: 1, TID: "tor1"}, {Address: "192.0.2.7", IfIndex: 2, TID: "tor2"}, {Address: "192.0.2.8", IfIndex: 1, TID: "other"},
	}}
	r := newReplay(t, offNetflow, flow.Options{}, c)
	m := message{version: ipfix, at: now}.set(setTemplates, simple(300)...)
	m = m.set(300, slices.Concat(
		simpleRecord(1, 2, 1000, 53, 10, 1000, 1, 2), simpleRecord(2, 1, 53, 1000, 8, 800, 2, 1), // both directions, each where it comes in
		simpleRecord(1, 3, 1000, 53, 1, 100, 1, 9), simpleRecord(3, 1, 53, 1000, 2, 200, 9, 1), // the other side is no node
		simpleRecord(4, 5, 1, 2, 3, 300, 8, 9),
	)...)
	r.feed(at(0), exporterAddress, m.bytes())
	// Another device sees the last of these, too.
	r.feed(at(0), netip.MustParseAddr("192.0.2.9"), m.bytes())
	got := map[string][]string{}
	ids := map[string]bool{}
	for _, f := range r.flows() {
		got[f.NodeTID] = append(got[f.NodeTID], line(f))
		ids[f.UUID] = true
	}
	expect(t, "tor2", got["tor2"])
	slices.Sort(got["tor1"])
	expect(t, "tor1", got["tor1"], "IPv4/UDP 10.0.0.1:1000>10.0.0.2:53 10/1000 8/800 0", "IPv4/UDP 10.0.0.1:1000>10.0.0.3:53 1/100 2/200 0")
	slices.Sort(got["tid"])
	expect(t, "tid", got["tid"], "IPv4/UDP 10.0.0.4:1>10.0.0.5:2 3/300 0/0 0", "IPv4/UDP 10.0.0.4:1>10.0.0.5:2 3/300 0/0 0",
		"IPv4/UDP 10.0.0.1:1000>10.0.0.2:53 10/1000 8/800 0", "IPv4/UDP 10.0.0.1:1000>10.0.0.3:53 1/100 2/200 0")
	if len(ids) != 6 {
		t.Errorf("%d UUIDs", len(ids))
	}
	// The fabric changes while it runs.
	r.Map([]capture.Exporter{{Address: "192.0.2.7", IfIndex: 8, TID: "tor8"}})
	m.number, m.body = 5, nil
	r.feed(at(1), exporterAddress, m.set(300, simpleRecord(6, 7, 1, 2, 3, 300, 8, 1)...).bytes())
	if !slices.ContainsFunc(r.flows(), func(f flow.Flow) bool { return f.NodeTID == "tor8" }) {
		t.Error("not mapped anew")
	}
	if n := r.Counters(); n.Missing != 0 || n.Received != 11 {
		t.Errorf("%+v", n)
	}
}

func TestWhatIsToldTwiceCountsOnce(t *testing.T) {
	r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
	template := append(words(300, 10), simple(300)[4:]...)
	template = append(template, words(61, 1)...)
	m := message{version: ipfix, at: now}.set(setTemplates, template...)
	rec := simpleRecord(1, 2, 1, 2, 10, 1000, 1, 2)
	m = m.set(300, append(append(append(slices.Clone(rec), 0), rec...), 1)...) // coming in at 1, and leaving by 2
	m = m.set(300, append(simpleRecord(3, 4, 1, 2, 5, 500, 7, 2), 1)...)       // only told of where it leaves
	r.feed(at(0), exporterAddress, m.bytes(), m.bytes())
	expect(t, "directions", lines(r.flows()), "IPv4/UDP 10.0.0.1:1>10.0.0.2:2 10/1000 0/0 0", "IPv4/UDP 10.0.0.3:1>10.0.0.4:2 5/500 0/0 0")
	if n := r.Counters(); n.Repeated != 1 {
		t.Errorf("%+v", n)
	}
}

func TestSequenceGaps(t *testing.T) {
	r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
	one := simpleRecord(1, 2, 1, 2, 1, 100, 1, 2)
	feed := func(number uint32, records int) {
		m := message{version: ipfix, at: now, number: number}.set(setTemplates, simple(300)...)
		if records > 0 {
			m = m.set(300, slices.Repeat(one, records)...)
		}
		r.feed(at(0), exporterAddress, m.bytes())
	}
	for _, step := range []struct {
		number  uint32
		records int
		missing int64
	}{
		{math.MaxUint32 - 1, 1, 0}, {math.MaxUint32, 1, 0}, {0, 2, 0}, // it wraps
		{5, 1, 3}, {2, 3, 0}, // overtaken
		{6, 0, 0}, {10, 1, 4},
		{2_000_000_000, 1, 4}, {2_000_000_001, 1, 4}, // begun anew
	} {
		feed(step.number, step.records)
		if n := r.Counters(); n.Missing != step.missing {
			t.Errorf("%d: %d missing instead of %d", step.number, n.Missing, step.missing)
		}
	}
}

func TestTemplatesAreBoundedAndExpire(t *testing.T) {
	r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
	data := message{version: ipfix, at: now, number: 1}.set(300, simpleRecord(1, 2, 1, 2, 1, 100, 1, 2)...).bytes()
	r.feed(at(0), exporterAddress, data)
	if n := r.Counters(); n.Unknown != 1 || n.Received != 0 {
		t.Errorf("without a template: %+v", n)
	}
	r.feed(at(0), exporterAddress, message{version: ipfix, at: now}.set(setTemplates, simple(300)...).bytes(), slices.Concat(data[:8], words(0, 9), data[12:]))
	if n := r.Counters(); n.Received != 1 {
		t.Errorf("with it: %+v", n)
	}
	// 23 hours later it holds, and two days later it does not.
	r.feed(at(23*3600), exporterAddress, slices.Concat(data[:8], words(0, 10), data[12:]))
	r.feed(at(48*3600), exporterAddress, slices.Concat(data[:8], words(0, 11), data[12:]))
	if n := r.Counters(); n.Received != 2 || n.Unknown != 2 {
		t.Errorf("old: %+v", n)
	}
	// Withdrawn, one or all.
	define := func(number uint32) {
		r.feed(at(48*3600), exporterAddress, message{version: ipfix, at: now, number: number}.set(setTemplates, simple(300)...).bytes())
	}
	for i, withdrawal := range []uint16{300, setTemplates} {
		define(uint32(20 + i))
		if len(r.exporters.all) != 1 || r.exporters.fields == 0 {
			t.Fatal("not defined")
		}
		r.feed(at(48*3600), exporterAddress, message{version: ipfix, at: now, number: uint32(30 + i)}.set(setTemplates, words(withdrawal, 0)...).bytes())
		if r.exporters.fields != 0 {
			t.Errorf("%d fields are left", r.exporters.fields)
		}
	}
	for i := range 2 * templatesMax {
		r.feed(at(48*3600), exporterAddress, message{version: ipfix, at: now, number: uint32(i)}.set(setTemplates, simple(uint16(256+i))...).bytes())
	}
	for _, e := range r.exporters.all {
		if len(e.templates) != templatesMax || r.exporters.fields != 10*templatesMax {
			t.Errorf("%d templates of %d fields", len(e.templates), r.exporters.fields)
		}
	}
	// Exporters that nobody has heard of push out others, with their templates.
	for i := range 2 * exportersMax {
		r.feed(at(48*3600), exporterAddress, message{version: ipfix, part: uint32(i + 1), at: now}.set(setTemplates, simple(300)...).bytes())
	}
	sum := 0
	for _, e := range r.exporters.all {
		sum += 10 * len(e.templates)
	}
	if len(r.exporters.all) != exportersMax || sum != r.exporters.fields {
		t.Errorf("%d exporters, %d fields, counted %d", len(r.exporters.all), sum, r.exporters.fields)
	}
	r.feed(at(73*3600), exporterAddress, data)
	if len(r.exporters.all) != 1 || r.exporters.fields != 0 {
		t.Errorf("%d exporters, %d fields after a day of silence", len(r.exporters.all), r.exporters.fields)
	}
}

func TestVersion9BeginsAnew(t *testing.T) {
	r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
	m := message{version: netflow9, at: now, uptime: 3_600_000, number: 7}
	data := m.set(300, simpleRecord(1, 2, 1, 2, 1, 100, 1, 2)...)
	r.feed(at(0), exporterAddress, m.set(0, simple(300)...).bytes())
	data.number = 8
	r.feed(at(0), exporterAddress, data.bytes())
	data.number, data.uptime = 0, 1000
	r.feed(at(0), exporterAddress, data.bytes())
	if n := r.Counters(); n.Received != 1 || n.Unknown != 1 || n.Missing != 0 {
		t.Errorf("%+v", n)
	}
}

func TestSamplingOfOptions(t *testing.T) {
	record := simpleRecord(1, 2, 1, 2, 3, 300, 1, 2)
	for name, c := range map[string]struct {
		template, option []byte // of an options template 301
		rate             int
	}{
		"one of n":    {words(301, 2, 1, 149, 4, 34, 4), words(0, 1, 0, 100), 100},
		"space":       {words(301, 3, 1, 149, 4, 305, 4, 306, 4), words(0, 1, 0, 1, 0, 99), 100},
		"population":  {words(301, 3, 1, 149, 4, 309, 4, 310, 4), words(0, 1, 0, 2, 0, 100), 50},
		"probability": {words(301, 2, 1, 149, 4, 311, 8), append(words(0, 1), binary.BigEndian.AppendUint64(nil, math.Float64bits(0.001))...), 1000},
		"interface":   {words(301, 2, 1, 10, 4, 34, 4), words(0, 1, 0, 7), 7},
		"not that":    {words(301, 2, 1, 10, 4, 34, 4), words(0, 5, 0, 7), 1},
		"nonsense":    {words(301, 2, 1, 149, 4, 311, 8), append(words(0, 1), binary.BigEndian.AppendUint64(nil, math.Float64bits(math.NaN()))...), 1},
	} {
		r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
		m := message{version: ipfix, at: now}.set(setTemplates, simple(300)...).set(setOptions, c.template...).set(301, c.option...).set(300, record...)
		r.feed(at(0), exporterAddress, m.bytes())
		expect(t, name, lines(r.flows()), fmt.Sprintf("IPv4/UDP 10.0.0.1:1>10.0.0.2:2 %d/%d 0/0 0", 3*c.rate, 300*c.rate))
	}
	// A sampler of its own for each record.
	r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
	template := append(words(300, 10), simple(300)[4:]...)
	template = append(template, words(302, 2)...)
	m := message{version: ipfix, at: now}.set(setTemplates, template...).set(setOptions, words(301, 3, 1, 302, 2, 305, 4, 306, 4)...)
	m = m.set(301, words(9, 0, 1, 0, 9)...).set(300, append(slices.Clone(record), 0, 9)...).set(300, append(simpleRecord(3, 4, 1, 2, 3, 300, 1, 2), 0, 8)...)
	r.feed(at(0), exporterAddress, m.bytes())
	expect(t, "samplers", lines(r.flows()), "IPv4/UDP 10.0.0.1:1>10.0.0.2:2 30/3000 0/0 0", "IPv4/UDP 10.0.0.3:1>10.0.0.4:2 3/300 0/0 0")
}

// As in appendix A of RFC 5103, with fields of variable length between (RFC 7011, section 7).
func TestBiflowAndVariableLength(t *testing.T) {
	r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
	template := words(300, 12, 152, 8, 153, 8, 8, 4, 12, 4, 7, 2, 11, 2, 4, 1, 371, 65535, 1, 4, 2, 4, 0x8000|1, 4, 0, reversePEN, 0x8000|2, 4, 0, reversePEN)
	record := binary.BigEndian.AppendUint64(nil, (now-10)*1000)
	record = binary.BigEndian.AppendUint64(record, (now-3)*1000)
	record = append(record, 192, 0, 2, 2, 192, 0, 2, 3)
	record = append(append(record, words(32770, 80)...), 6)
	long := slices.Repeat([]byte{'x'}, 300)
	for _, text := range [][]byte{{3, 'a', 'b', 'c'}, append([]byte{255, 1, 44}, long...), {0}} {
		m := message{version: ipfix, at: now, number: uint32(len(text))}.set(setTemplates, template...)
		m = m.set(300, slices.Concat(record, text, words(0, 18000, 0, 65, 0, 128, 0, 110))...)
		r.feed(at(0), exporterAddress, m.bytes())
	}
	all := r.flows()
	expect(t, "biflow", lines(all), "IPv4/TCP 192.0.2.2:32770>192.0.2.3:80 195/54000 330/384 0")
	if f := all[0]; f.Start != (now-10)*1000 || f.Last != (now-3)*1000 {
		t.Errorf("from %d to %d", f.Start, f.Last)
	}
	if n := r.Counters(); n.Malformed != 0 || n.Received != 3 {
		t.Errorf("%+v", n)
	}
}

func TestClocksThatAreWrong(t *testing.T) {
	for _, ahead := range []int64{0, 3, -3, 86400, -20 * 365 * 86400} {
		r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
		template := append(words(300, 11), simple(300)[4:]...)
		template = append(template, words(158, 4, 159, 4)...)
		record := append(simpleRecord(1, 2, 1, 2, 1, 100, 1, 2), 0, 0x4c, 0x4b, 0x40, 0, 0x0f, 0x42, 0x40) // 5 s and 1 s before
		r.feed(at(0), exporterAddress, message{version: ipfix, at: uint32(now + ahead)}.set(setTemplates, template...).set(300, record...).bytes())
		f := r.flows()[0]
		shift := ahead
		if ahead > 5 || ahead < -5 {
			shift = 0
		}
		if last := min(now-1+shift, now) * 1000; f.Last != last || f.Start != (now-5+shift)*1000 {
			t.Errorf("%d s: from %d to %d", ahead, f.Start-now*1000, f.Last-now*1000)
		}
	}
}

func TestFilterOfRecords(t *testing.T) {
	for expr, want := range map[string]int{
		"port 8082": 1, "tcp": 2, "icmp": 2, "ip6": 2, "host 10.77.0.2 and udp": 1, "ether src 02:00:00:00:00:09": 0, "vlan": 0,
		"ether host 02:00:00:00:00:01": 6, "icmp[icmptype] == icmp-unreach": 1, "icmp6": 1,
	} {
		f, err := bpf.Compile(expr, bpf.Ethernet, 256)
		if err != nil {
			t.Fatal(err)
		}
		r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
		r.request.Filter = f
		r.feed(time.Now(), exporterAddress, datagrams(t, "softflowd-9")...)
		if all := r.flows(); len(all) != want {
			t.Errorf("%s: %v", expr, lines(all))
		}
		if n := r.Counters(); n.Received+n.Filtered != 10 {
			t.Errorf("%s: %+v", expr, n)
		}
	}
}

func TestBrokenNetflow(t *testing.T) {
	good := message{version: ipfix, at: now}.set(setTemplates, simple(300)...).set(300, simpleRecord(1, 2, 1, 2, 1, 1, 1, 2)...).bytes()
	five := datagrams(t, "softflowd-5")[0]
	for name, d := range map[string][]byte{
		"empty": {}, "version": words(7, 1, 2), "short": good[:15], "longer than the datagram": good[:len(good)-1], "cut version 5": five[:len(five)-1],
		"set of no length": message{version: ipfix}.set(300).bytes()[:16],
		"fields missing":   message{version: ipfix}.set(setTemplates, words(300, 9, 8, 4)...).bytes(),
		"too many fields":  message{version: ipfix}.set(setTemplates, words(300, 60000)...).bytes(),
		"reserved id":      message{version: ipfix}.set(setTemplates, words(5, 1, 8, 4)...).bytes(),
		"no record":        message{version: ipfix}.set(setTemplates, words(300, 1, 8, 0)...).bytes(),
	} {
		r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
		if name == "set of no length" {
			d = append(slices.Clone(d), 1, 44, 0, 3)
			binary.BigEndian.PutUint16(d[2:], uint16(len(d)))
		}
		r.feed(at(0), exporterAddress, d)
		if n := r.Counters(); n.Malformed != 1 || n.Received != 0 {
			t.Errorf("%s: %+v", name, n)
		}
	}
}

// TestRatesStayWhenTheFabricChanges: exporters say rarely how they sample.
func TestRatesStayWhenTheFabricChanges(t *testing.T) {
	r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
	m := message{version: ipfix, at: now}.set(setTemplates, simple(300)...).set(setOptions, words(301, 2, 1, 10, 4, 34, 4)...).set(301, words(0, 1, 0, 7)...)
	r.feed(at(0), exporterAddress, m.bytes())
	r.Map([]capture.Exporter{{Address: "192.0.2.7", IfIndex: 9, TID: "tor9"}})
	m = message{version: ipfix, at: now, number: 1}.set(300, simpleRecord(1, 2, 1, 2, 3, 300, 1, 2)...)
	r.feed(at(1), exporterAddress, m.bytes())
	expect(t, "scaled", lines(r.flows()), "IPv4/UDP 10.0.0.1:1>10.0.0.2:2 21/2100 0/0 0")
}

// TestOneExporterDoesNotTakeAllTemplates, nor one that has many names.
func TestOneExporterDoesNotTakeAllTemplates(t *testing.T) {
	r := newReplay(t, offNetflow, flow.Options{}, resource.Capture{})
	wide := words(0, templateField)
	for range templateField {
		wide = append(wide, words(1, 8)...)
	}
	for part := range uint32(2) {
		for i := range templatesMax {
			binary.BigEndian.PutUint16(wide, uint16(256+i))
			r.feed(at(int64(part)), netip.MustParseAddr("192.0.2.66"), message{version: ipfix, at: now, part: part, number: uint32(i)}.set(setTemplates, wide...).bytes())
		}
	}
	m := message{version: ipfix, at: now}.set(setTemplates, simple(300)...).set(300, simpleRecord(1, 2, 1, 2, 3, 300, 1, 2)...)
	r.feed(at(2), exporterAddress, m.bytes())
	if n := r.Counters(); n.Received != 1 || r.exporters.fields > fieldsMax {
		t.Errorf("%+v, %d fields", n, r.exporters.fields)
	}
}
