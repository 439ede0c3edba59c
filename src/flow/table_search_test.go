package flow

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"skydive/src/field"
)

// recorded is a table with the flows of all recordings, half of which are reported.
func recorded(t testing.TB, o Options) *Table {
	t.Helper()
	o.Update, o.NodeTID, o.CaptureID = time.Minute, "node-1", "capture-1"
	table := NewTable(o)
	files, err := filepath.Glob(filepath.Join("testdata", "pcap", "*.pcap"))
	if err != nil || len(files) < 28 {
		t.Fatal(err, files)
	}
	now := time.Unix(1_700_000_000, 0)
	table.Tick(now, nil)
	for i, f := range files {
		table.Packets(readPcap(t, f))
		if i == len(files)/2 {
			table.Tick(now.Add(2*time.Minute), func(*Flow) {})
		}
	}
	return table
}

// TestTableSearch: a search finds, and a total adds up, what the filter holds for on the records.
func TestTableSearch(t *testing.T) {
	keys := []string{"UUID", "LayersPath", "Application", "ParentUUID", "Start", "Last", "TrackingID", "L3TrackingID", "NodeTID", "CaptureID", "FinishType",
		"RawPacketsCaptured", "Link", "Network", "Transport", "Link.A", "Link.B", "Link.ID", "Link.Protocol", "Network.A", "Network.B", "Network.ID",
		"Network.Protocol", "Transport.A", "Transport.B", "Transport.Protocol", "ICMP.Type", "ICMP.ID", "Metric.ABPackets", "Metric.BABytes", "Metric.RTT",
		"Metric.Last", "Metric", "LastUpdateMetric.ABPackets", "LastUpdateMetric.BABytes", "LastUpdateMetric.Start", "LastUpdateMetric.Last",
		"LastUpdateMetric.None", "TCPMetric.ABSynStart", "DNS.Questions.Name", "IPV6.A", "TCP.B", "NoSuchKey"}
	texts := []string{"", "0", "00ab", "zz", "80", "UDP", "TCP", "IPV4", "IPV6", "IPV9", "node-1", "02:00:00:00:01:01", "02:00:00:00:01:1", "0200:00:00:01:01",
		"2001:db8:12::1", "2001:0db8:12::1", "::ffff:10.1.0.1", "fe80::1%eth0", "10.1.0.01", "Ethernet/IPv4/UDP"}
	for _, o := range []Options{{}, {L3: true, ExtraTCPMetric: true, ExtraLayers: 7, RawPacketLimit: 2, IPDefrag: true}} {
		table := recorded(t, o)
		values := []field.Value{int64(0), int64(1), int64(80), int64(100), 80.5, true}
		for _, s := range texts {
			values = append(values, s)
		}
		table.Each(func(f *Flow) bool {
			if len(values) < 60 {
				values = append(values, f.UUID, f.TrackingID, f.L3TrackingID, f.Start, f.Last, f.Metric.ABPackets)
				if f.Link != nil && f.Network != nil {
					values = append(values, f.Link.A, f.Link.B, f.Network.A, f.Network.B)
				}
				if f.Transport != nil {
					values = append(values, f.Transport.A, f.Transport.B)
				}
				if f.ParentUUID != "" {
					values = append(values, f.ParentUUID)
				}
			}
			return true
		})
		var some []*Filter
		found := 0
		check := func(f *Filter) {
			var want, got []string
			var total Total
			table.Each(func(fl *Flow) bool {
				if f.Match(fl) {
					want = append(want, fl.UUID)
				}
				return true
			})
			table.Search(f, func(f *Flow) bool {
				got = append(got, f.UUID)
				return true
			})
			if !slices.Equal(want, got) {
				t.Fatalf("%+v: %s: %d flows, want %d", o, f.AppendJSON(nil), len(got), len(want))
			}
			kind := MetricKind(len(some) % 4)
			table.Each(func(fl *Flow) bool {
				if f.Match(fl) {
					total.Add(fl, Aggregate{kind})
				}
				return true
			})
			if got := table.Total(f, Aggregate{kind}); got != total {
				t.Fatalf("%+v: %s: total %d is %+v, want %+v", o, f.AppendJSON(nil), kind, got, total)
			}
			found += len(got)
			some = append(some, f)
		}
		check(nil)
		check(&Filter{})
		check(&Filter{Kind: Bool, Op: OpNot})
		for _, k := range keys {
			var ps []field.Predicate
			for _, v := range values {
				ps = append(ps, field.Eq{V: v})
			}
			for _, n := range []float64{0, 1, 80, 1.7e12} {
				ps = append(ps, field.Lt{N: n}, field.Gte{N: n}, field.Gt{N: n}, field.Lte{N: n})
			}
			ps = append(ps, field.Exists{}, field.Missing{}, field.Nee{V: "10.1.0.1"}, mustRegex(t, ".*UDP"), mustRegex(t, `10\.[12]\..*`), mustRange(t, "10.1.0.0/16"),
				mustRange(t, "0.0.0.0/0"), mustRange(t, "10.3.0.2/32"))
			for _, p := range ps {
				f, err := FilterOf(field.Filter{Terms: []field.Term{{Key: k, Pred: p}}})
				if err != nil {
					t.Fatal(err)
				}
				check(f)
			}
		}
		if found < 5_000 {
			t.Errorf("only %d flows found", found)
		}
		r := rand.New(rand.NewPCG(1, 2))
		var combined func(depth int) *Filter
		combined = func(depth int) *Filter {
			if depth == 0 || r.IntN(3) == 0 {
				return some[r.IntN(len(some))]
			}
			f := &Filter{Kind: Bool, Op: BoolOp(r.IntN(3))}
			for range 1 + r.IntN(3) {
				f.Filters = append(f.Filters, combined(depth-1))
			}
			return f
		}
		for leaves := len(some); len(some) < leaves+200; {
			check(combined(3))
		}
	}
}

// TestSearchEnds: who has seen enough is not given more.
func TestSearchEnds(t *testing.T) {
	table := NewTable(Options{})
	table.Packets(allFlows(1000))
	n := 0
	table.Search(nil, func(*Flow) bool { n++; return n < 100 })
	if n != 100 {
		t.Error(n)
	}
}

// BenchmarkSearch is what an agent does for the queries of a page.
func BenchmarkSearch(b *testing.B) {
	for _, flows := range []int{50_000, 500_000} {
		t := NewTable(Options{})
		t.Packets(allFlows(flows))
		network, err := FilterOf(field.Filter{Terms: []field.Term{{Key: "Network", Pred: field.Eq{V: "10.0.0.1"}}}})
		if err != nil {
			b.Fatal(err)
		}
		for name, query := range map[string]func(){
			"has": func() {
				n := 0
				if t.Search(network, func(*Flow) bool { n++; return n < 10 }); n != 10 {
					b.Fatal(n)
				}
			},
			"has-count": func() {
				if n := t.Total(network, Aggregate{}).Count; n != 256 {
					b.Fatal(n)
				}
			},
			"count": func() {
				if n := t.Total(nil, Aggregate{}).Count; n != int64(flows) {
					b.Fatal(n)
				}
			},
			"sum": func() {
				if m := t.Total(nil, Aggregate{Latest}); m.Metric.ABPackets != int64(flows) {
					b.Fatal(m)
				}
			},
			"regex": func() {
				t.Total(&Filter{Kind: Regex, Key: "Network.A", test: network.Filters[0].test}, Aggregate{})
			},
		} {
			b.Run(fmt.Sprint(name, "/", flows), func(b *testing.B) {
				b.ReportAllocs()
				for range b.N {
					query()
				}
			})
		}
	}
}
