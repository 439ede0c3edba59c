package main

import "time"

// A benchmark measures one or more rows of the table.
type benchmark struct {
	id      string
	what    string // what is measured; the rows say which part of it
	once    bool   // not repeated: what it does is long, and varies little
	rows    []row
	measure func(*run) ([]value, error) // one value for each row
}

// row is one figure with what it is compared to; 0 where there is nothing to compare to.
type row struct {
	part      string
	unit      string // "s", "ms", "µs", "MB", "kB", "%", "/s" or "" for a plain number
	reference float64
	bar       float64
}

// more tells that a higher figure is better.
func (r row) more() bool { return r.unit == "/s" }

// value is what one run found for a row.
type value struct {
	Today float64       `json:"today"`
	CPU   time.Duration `json:"cpu,omitempty"` // user and system time of the process measured
	RSS   int64         `json:"rss,omitempty"` // its peak, in bytes
	Note  string        `json:"note,omitempty"`
}

// benchmarks lists all, with the figures of the public Skydive and the bars.
func benchmarks() []benchmark {
	return []benchmark{
		{"P1", "start to first API answer", false, []row{
			{"analyzer", "s", 0.73, 0.8}, {"agent", "s", 0.06, 0.05}, {"allinone", "s", 0.83, 0.8},
		}, measureStart},
		{"P2", "idle", false, []row{
			{"analyzer RSS", "MB", 134, 80}, {"analyzer CPU", "%", 0.5, 0.3},
			{"agent RSS", "MB", 119, 35}, {"agent CPU", "%", 0.1, 0.1},
			{"allinone RSS", "MB", 371, 90}, {"allinone CPU", "%", 0, 0},
		}, measureIdle},
		{"P3", "binary", true, []row{{"stripped", "MB", 146, 70}}, measureBinary},
		{"P4", "200 namespaces + a veth each into a bridge", false, []row{
			{"last netns seen", "s", 0.4, 0.3}, {"last veth seen", "s", 15, 0.5}, {"last edge seen", "s", 15, 0.5},
			{"agent CPU", "s", 7.1, 1}, {"agent peak RSS", "MB", 195, 60}, {"files per namespace", "", 4.1, 2},
		}, measureCreation},
		{"P5", "the same deleted", false, []row{{"graph agrees with the kernel", "s", never, 1}}, measureDeletion},
		{"P6", "100k nodes + 100k edges in one Sync", false, []row{
			{"elements", "/s", 5800, 150_000}, {"analyzer RSS after", "MB", 942, 250},
		}, measureSync},
		{"P7", "10k nodes + 10k edges in single messages", false, []row{{"elements", "/s", 2700, 100_000}}, measureMessages},
		{"P8", "G.V('id')", false, []row{{"p50", "ms", 0.25, 0.15}, {"p99", "ms", 0, 0}}, measureID},
		{"P9", "G.V().Has('Name','n500')", false, []row{{"p50", "ms", 113, 0.3}, {"p99", "ms", 288, 1}}, measureName},
		{"P10", "G.V().Has('Type','x').Count()", false, []row{{"p50", "ms", 117, 1}, {"p99", "ms", 169, 3}}, measureType},
		{"P11", "G.V().Has('Name','n500').Out().Out()", false, []row{{"p50", "ms", 157, 0.5}, {"p99", "ms", 206, 2}}, measureOut},
		{"P12", "G.V().Has('Name',Regex('n50.*')).Count()", false, []row{{"p50", "ms", 152, 25}, {"p99", "ms", 172, 40}}, measureRegex},
		{"P13", "G", false, []row{{"time", "s", 2.2, 0.5}, {"RSS added", "MB", 600, 20}}, measureGraph},
		{"P14", "ShortestPathTo across 100k nodes", false, []row{
			{"random tree", "s", 45, 0.2}, {"chain: all nodes answered", "s", 0, 0}, {"CPU after the client gave up", "s/s", 1, 0.1},
		}, measurePath},
		{"P15", "pcapsocket, IMIX, 50k flows", false, []row{{"agent CPU per packet", "µs", 5.0, 0.25}}, measureStream},
		{"P16", "AF_PACKET, IMIX, 50k flows", false, []row{{"agent CPU per packet", "µs", 4.0, 0.20}, {"lossless", "/s", 200_000, 400_000}}, measureRing},
		{"P17", "AF_PACKET, 64-byte frames, 50k flows", false, []row{{"agent CPU per packet", "µs", 3.7, 0.18}, {"lossless", "/s", 0, 0}}, measureRingSmall},
		{"P18", "decode and count a packet, in process", false, []row{
			{"1k flows", "ns", 4000, 30}, {"100k flows", "ns", 4000, 45}, {"1M flows", "ns", 4000, 75}, {"allocations per packet", "", 7, 0},
		}, measureTable},
		{"P19", "50k live flows", false, flowRows(280, 70, 15, 5, 229, 5, 257, 20), measureFlows},
		{"P20", "500k live flows", true, flowRows(2590, 250, 0, 0, 0, 0, 0, 0), measureManyFlows},
		{"P22", "flow records into the archive", true, []row{{"per CPU second", "/s", 0, 100_000}, {"slice of 10 minutes", "s", 0, 1}, {"disk per record", "B", 0, 0}}, measureArchive},
		{"P23", "1 KiB messages to 1,000 subscribers", false, []row{{"per CPU second", "/s", 75_000, 300_000}, {"delivered", "/s", 0, 0}}, measureFanOut},
		{"P24", "all-in-one playbook, binary at hand", true, []row{
			{"first run", "s", 32, 15}, {"second run", "s", 32, 6}, {"second run: changed", "", 4, 0},
		}, measurePlaybook},
		{"O1", "1,000 ports on 20 bridges of Open vSwitch", true, []row{
			{"all seen", "s", 0, 3}, {"agent CPU", "s", 0, 0}, {"agent peak RSS", "MB", 0, 0},
		}, measureSwitch},
		{"O2", "a bridge with 10k OpenFlow rules", true, []row{{"all seen", "s", 0, 5}, {"agent peak RSS", "MB", 0, 150}}, measureRules},
		{"O3", "a datagram of sampled flows", true, []row{
			{"sFlow, 8 samples: decoded, counted", "µs", 0, 5}, {"NetFlow v5, 30 records", "µs", 0, 5}, {"NetFlow v9, 24 records", "µs", 0, 5},
			{"IPFIX, 24 records", "µs", 0, 5}, {"allocations", "", 0, 0},
			{"agent CPU, sFlow, 50k flows", "µs", 0, 0}, {"agent CPU, NetFlow v5, 50k flows", "µs", 0, 0},
		}, measureSampled},
	}
}

// flowRows are what is asked of an agent with many flows: its memory (P19), answers about them (P20), reports of a tick (P21).
func flowRows(figures ...float64) []row {
	return []row{
		{"agent peak RSS", "MB", figures[0], figures[1]},
		{"Has('Network',…).Limit(10)", "ms", figures[2], figures[3]}, {"Count()", "ms", figures[4], figures[5]}, {"Metrics().Sum()", "ms", figures[6], figures[7]},
		{"reports lost (P21)", "", 0.14, 0},
	}
}

// never stands for a reference that was never reached.
const never = 1e9
