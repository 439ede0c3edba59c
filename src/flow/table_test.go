package flow

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestIndex runs random insertions and removals against a map.
func TestIndex(t *testing.T) {
	for _, mask := range []uint64{^uint64(0), ^uint64(0xff << 56), 0xf<<60 | 0x1f<<32} { // the last ones share their groups
		x := newIndex()
		r := rand.New(rand.NewPCG(1, mask))
		want := map[uint32]uint64{}
		var keys []uint32
		next := uint32(0)
		for range 60_000 {
			if r.IntN(5) < 3 || len(keys) == 0 {
				hash := r.Uint64() & mask
				if !x.insert(hash, next) {
					continue
				}
				want[next] = hash
				keys = append(keys, next)
				next++
			} else {
				i := r.IntN(len(keys))
				n := keys[i]
				keys[i] = keys[len(keys)-1]
				keys = keys[:len(keys)-1]
				x.remove(want[n], n)
				delete(want, n)
			}
			if next%5000 == 0 {
				checkIndex(t, &x, want)
			}
		}
		checkIndex(t, &x, want)
	}
}

// checkIndex finds every entry the way a lookup does.
func checkIndex(t *testing.T, x *index, want map[uint32]uint64) {
	t.Helper()
	for n, hash := range want {
		b := x.bucket(hash)
		found := false
		for i, tries := home(hash), 0; !found && tries < groups; i, tries = (i+1)&(groups-1), tries+1 {
			g := &b.group[i]
			for _, s := range g {
				found = found || s == hash&^(1<<32-1)|uint64(n+1)
			}
			if !found && g.free() >= 0 {
				break
			}
		}
		if !found {
			t.Fatalf("entry %d is lost", n)
		}
	}
	used := 0
	seen := map[*bucket]bool{}
	for _, b := range x.dir {
		if !seen[b] {
			seen[b] = true
			used += b.used
		}
	}
	if used != len(want) {
		t.Fatalf("%d slots in use, want %d", used, len(want))
	}
}

// TestTableModel runs random packets and ticks against a map.
func TestTableModel(t *testing.T) {
	type model struct {
		packets, bytes [2]int64 // with and against the direction of the first packet
		first          bool     // back
		last           int64
		reported       [2]int64
		finished       bool
	}
	table := NewTable(Options{Update: time.Minute, Expire: 2 * time.Minute, MaxEntries: 1 << 20})
	want := map[int]*model{}
	r := rand.New(rand.NewPCG(7, 7))
	now := time.Unix(1_700_000_000, 0)
	table.Tick(now, nil)
	lastUpdate, lastExpire := now, now
	created := 0
	for step := range 400 {
		var ps []Packet
		for range 300 {
			n := r.IntN(60_000)
			if r.IntN(3) > 0 {
				n = r.IntN(500)
			}
			back := r.IntN(2) == 0
			var d [64]byte
			copy(d[:], frame(0, 64, false))
			rewrite(&d, n, back)
			size := 64 + r.IntN(1400)
			ps = append(ps, Packet{Data: d[:], Length: size, Time: now.UnixNano()})
			m := want[n]
			if m == nil {
				m = &model{first: back}
				want[n] = m
				created++
			}
			i := 0
			if back != m.first {
				i = 1
			}
			m.packets[i]++
			m.bytes[i] += int64(size)
			m.last = now.UnixNano()
		}
		table.Packets(ps)
		now = now.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
		var wantReports, gotReports []string
		expire := now.Sub(lastExpire) >= 2*time.Minute
		update := now.Sub(lastUpdate) >= time.Minute
		for n, m := range want {
			switch {
			case expire && m.last < lastExpire.UnixNano():
				wantReports = append(wantReports, fmt.Sprint(m.packets, m.bytes, m.last/ms, " timeout"))
				delete(want, n)
			case update && m.packets != m.reported:
				wantReports = append(wantReports, fmt.Sprint(m.packets, m.bytes, m.last/ms))
				m.reported = m.packets
			}
		}
		if expire {
			lastExpire = now
		}
		if update {
			lastUpdate = now
		}
		line := func(f *Flow) string {
			s := fmt.Sprint([2]int64{f.Metric.ABPackets, f.Metric.BAPackets}, [2]int64{f.Metric.ABBytes, f.Metric.BABytes}, f.Last)
			if f.FinishType == Timeout {
				s += " timeout"
			}
			return s
		}
		table.Tick(now, func(f *Flow) { gotReports = append(gotReports, line(f)) })
		slices.Sort(wantReports)
		slices.Sort(gotReports)
		if !slices.Equal(wantReports, gotReports) {
			t.Fatalf("step %d: %d reports, want %d", step, len(gotReports), len(wantReports))
		}
		if table.Len() != len(want) {
			t.Fatalf("step %d: %d flows, want %d", step, table.Len(), len(want))
		}
		if step%100 == 99 {
			var all, got []string
			for m := range maps.Values(want) {
				all = append(all, fmt.Sprint(m.packets, m.bytes, m.last/ms))
			}
			table.Each(func(f *Flow) bool { got = append(got, line(f)); return true })
			slices.Sort(all)
			slices.Sort(got)
			if !slices.Equal(all, got) {
				t.Fatalf("step %d: contents differ", step)
			}
		}
	}
	if created < 20_000 || table.Stats().FlowDropped != 0 || table.Stats().PacketsReceived != 400*300 {
		t.Errorf("%d created, %+v", created, table.Stats())
	}
	left := table.Len()
	table.Flush(now, func(f *Flow) {
		if f.FinishType != Timeout {
			t.Fatal(f.FinishType)
		}
		left--
	})
	if left != 0 || table.Len() != 0 {
		t.Errorf("%d not flushed, %d left", left, table.Len())
	}
	for i, s := range table.segments[1:] {
		if s.live != 0 || table.mem.blocks[i+1] != nil {
			t.Errorf("segment %d: %+v", i+1, s)
		}
	}
}

// TestEviction: the table stays within its bound, keeps what is in use, and counts what it gives up.
func TestEviction(t *testing.T) {
	table := NewTable(Options{MaxEntries: 1000})
	busy := allFlows(100)
	all := allFlows(20_000)
	for i := 100; i < len(all); i += 100 {
		table.Packets(busy)
		table.Packets(all[i : i+100])
		if n := table.Len(); n > 1000 {
			t.Fatal(n)
		}
	}
	kept := 0
	table.Each(func(f *Flow) bool {
		if f.Metric.ABPackets == 199 {
			kept++
		}
		return true
	})
	if kept != 100 {
		t.Errorf("%d of 100 busy flows kept their counters", kept)
	}
	if s := table.Stats(); s.FlowCount != 1000 || s.FlowDropped != 19_000 {
		t.Errorf("%+v", s)
	}
}

// TestMemory: what a table holds goes away with its flows, and with itself.
func TestMemory(t *testing.T) {
	flows := allFlows(200_000)
	before := resident(t)
	within := func(least, most int) bool {
		n := (resident(t) - before) >> 20 // resident collects garbage
		return raced || least <= n && n <= most
	}
	table := NewTable(Options{})
	table.Packets(flows)
	if !within(40, 70) {
		t.Errorf("%d bytes per flow", (resident(t)-before)/len(flows))
	}
	table.Flush(time.Unix(100, 0), func(*Flow) {})
	if !within(-100, 16) {
		t.Errorf("%d MiB left after Flush", (resident(t)-before)>>20)
	}
	table.Packets(flows)
	if table.Len() != len(flows) {
		t.Error(table.Len())
	}
	table = nil
	for deadline := time.Now().Add(10 * time.Second); !within(-100, 16); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d MiB left of a table that is gone", (resident(t)-before)>>20)
		}
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	table := NewTable(Options{Update: time.Second, Expire: 2 * time.Second, MaxEntries: 3000, RawPacketLimit: 2, ExtraTCPMetric: true, ReassembleTCP: true,
		ExtraLayers: 7, IPDefrag: true})
	flows := allFlows(10_000)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, f := range []func(){
		func() {
			table.Each(func(f *Flow) bool {
				return f.UUID != "" && (len(f.LastRawPackets) == 0 || f.LastRawPackets[0].Index > 0)
			})
		},
		func() {
			table.Search(textFilter("LayersPath", "Ethernet/IPv4/UDP"), func(f *Flow) bool { return f.Transport.A > 0 })
		},
		func() { table.Total(textFilter("DNS.Questions.Name", "x"), Aggregate{Latest}) },
		func() { table.Stats(); table.Drop(1); table.Counts(); table.Len() },
	} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
				}
			}
		})
	}
	reports := 0
	for i := range 30 {
		table.Packets(flows[i*300 : i*300+900])
		table.Tick(time.Unix(int64(i), 0), func(*Flow) { reports++ })
	}
	table.Flush(time.Unix(100, 0), func(*Flow) { reports++ })
	close(stop)
	wg.Wait()
	if table.Len() != 0 || reports == 0 {
		t.Error(table.Len(), reports)
	}
}
