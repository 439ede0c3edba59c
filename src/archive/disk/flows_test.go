package disk

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/flow"
)

// sample is a report of a TCP flow as captures make them; at is its last packet.
func sample(n uint64, at int64) *flow.Flow {
	return &flow.Flow{
		UUID: strconv.FormatUint(n*0x9e3779b97f4a7c15, 16), LayersPath: "Ethernet/IPv4/TCP", Application: "TCP", Start: at - 30*second, Last: at,
		Link:         &flow.Layer{Protocol: flow.Ethernet, A: fmt.Sprintf("02:00:00:00:%02x:%02x", byte(n>>8), byte(n)), B: "02:42:ac:11:00:02"},
		Network:      &flow.Layer{Protocol: flow.IPv4, A: fmt.Sprintf("10.0.%d.%d", byte(n>>8), byte(n)), B: "10.1.0.1"},
		Transport:    &flow.Transport{Protocol: flow.TCP, A: int64(n % 65536), B: 443},
		Metric:       flow.Metric{ABPackets: 10, ABBytes: 1000, BAPackets: 8, BABytes: 8000, Start: at - 30*second, Last: at, RTT: 120000},
		TrackingID:   strconv.FormatUint(n*0xbf58476d1ce4e5b9, 16),
		L3TrackingID: strconv.FormatUint(n*0x94d049bb133111eb, 16),
		NodeTID:      fmt.Sprintf("%08x-0000-5000-8000-000000000000", n%50), CaptureID: "0b9f1c7e-6f3b-4b47-9d2a-3c1f6a8e2d11",
		LastUpdateMetric: &flow.Metric{ABPackets: 5, ABBytes: 500, BAPackets: 4, BABytes: 4000, Start: at - 30*second, Last: at, RTT: 120000},
	}
}

func store(t testing.TB, a *Archive, flows ...*flow.Flow) {
	t.Helper()
	if err := a.StoreFlows(t.Context(), flows); err != nil {
		t.Fatal(err)
	}
}

func ms(n int64) time.Time { return time.UnixMilli(n) }

func uuids(flows []*flow.Flow) []string {
	ids := make([]string, len(flows))
	for i := range flows {
		ids[i] = flows[i].UUID
	}
	slices.Sort(ids)
	return ids
}

func TestFlowsComeBackAsTheyWere(t *testing.T) {
	now := time.Now().UnixMilli()
	a, end := opened(t, Options{})
	odd := sample(2, now)
	odd.UUID, odd.TrackingID, odd.NodeTID, odd.ParentUUID = "0ABC", "", "not a uuid", "deadbeefdeadbeef"
	odd.LastUpdateMetric, odd.Transport = nil, nil
	odd.DNS = &flow.DNS{ID: 7, QR: true, Questions: []flow.DNSQuestion{{Name: "example.org", Type: "A", Class: "IN"}}}
	odd.TCPMetric = &flow.TCPMetric{ABSynStart: now}
	long := sample(3, now)
	long.UUID = string(make([]byte, 5000))
	empty := &flow.Flow{Last: now}
	want := []*flow.Flow{sample(1, now), odd, long, empty}
	store(t, a, want...)
	store(t, a, nil, nil)
	check := func() {
		t.Helper()
		got, err := a.Flows(t.Context(), ms(now-second), ms(now), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%d flows, want %d", len(got), len(want))
		}
		for _, w := range want {
			i := slices.IndexFunc(got, func(f *flow.Flow) bool { return f.UUID == w.UUID })
			if i < 0 {
				t.Fatalf("no flow %q", w.UUID)
			}
			if !reflect.DeepEqual(got[i], w) {
				t.Errorf("got  %s\nwant %s", got[i].AppendJSON(nil), w.AppendJSON(nil))
			}
		}
	}
	check()
	end()
	a, _ = opened(t, Options{Path: a.o.Path})
	check()
	if s := a.Status().(Status); s.State != Running || s.FlowRecords != 4 || s.Bytes == 0 || s.Oldest == nil || *s.Oldest > now {
		t.Errorf("%+v", s)
	}
}

// TestFlowsOfASlice compares the archive with a list that is searched from end to end.
func TestFlowsOfASlice(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2))
	end := time.Now().UnixMilli()
	begin := end - 3*hour
	a, _ := opened(t, Options{})
	last := make(map[string][]*flow.Flow)
	var all []*flow.Flow
	for n := range uint64(400) {
		at := begin + rng.Int64N(3*hour)
		f := sample(n+1, at)
		f.Start = at - rng.Int64N(minute)
		for range 1 + rng.IntN(30) { // a report a minute
			g := *f
			g.Metric.ABPackets += int64(len(last[f.UUID]))
			g.LastUpdateMetric = &flow.Metric{ABPackets: 1, Start: at - minute, Last: at + rng.Int64N(minute)}
			g.Last = at
			last[f.UUID] = append(last[f.UUID], &g)
			all = append(all, &g)
			if at += rng.Int64N(minute); at > end {
				break
			}
		}
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	store(t, a, all...)
	for i := range 100 {
		s, l := begin+rng.Int64N(3*hour), begin+rng.Int64N(3*hour)
		if s > l {
			s, l = l, s
		}
		if i%5 == 0 {
			l = s
		}
		// The newest state that was reported by the end of the slice and a little later.
		until := l + 2*minute + 10*second
		want := make(map[string]*flow.Flow)
		for id, reports := range last {
			for _, f := range reports {
				if f.Last <= until && f.Start <= l {
					want[id] = f
				}
			}
			if f := want[id]; f != nil && f.Last < s {
				delete(want, id)
			}
		}
		got, err := a.Flows(t.Context(), ms(s), ms(l), &flow.Search{})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("slice %d–%d: %d flows, want %d", s-begin, l-begin, len(got), len(want))
		}
		for _, f := range got {
			if !reflect.DeepEqual(want[f.UUID], f) {
				t.Fatalf("slice %d–%d: got %s\nwant %s", s-begin, l-begin, f.AppendJSON(nil), want[f.UUID].AppendJSON(nil))
			}
		}
		metrics, err := a.FlowMetrics(t.Context(), ms(s), ms(l), got)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range got {
			var want []flow.Metric
			for _, r := range last[f.UUID] {
				if m := *r.LastUpdateMetric; m.Start >= s && m.Last <= l {
					want = append(want, m)
				}
			}
			slices.SortStableFunc(want, func(a, b flow.Metric) int { return cmp.Compare(a.Last, b.Last) })
			if !reflect.DeepEqual(metrics[f.UUID], want) {
				t.Fatalf("metrics of %s: got %v want %v", f.UUID, metrics[f.UUID], want)
			}
		}
	}
}

func TestSearchOfFlows(t *testing.T) {
	now := time.Now().UnixMilli()
	a, _ := opened(t, Options{})
	var all []*flow.Flow
	for n := range uint64(20000) {
		f := sample(n+1, now-int64(n)*20)
		f.TrackingID = strconv.FormatUint(n%100+1, 16)
		all = append(all, f)
	}
	store(t, a, all...)
	filter, err := flow.FilterOf(field.Filter{Terms: []field.Term{{Key: "Network", Pred: field.Eq{V: "10.0.3.9"}}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*flow.Search{
		"everything": {},
		"filter":     {Filter: filter},
		"dedup":      {Sort: true, Order: flow.Descending, Dedup: true},
		"first":      {Sort: true, SortBy: "Transport.A", To: 7},
		"page":       {Sort: true, SortBy: "Last", Order: flow.Descending, From: 4000, To: 6000},
		"all of it":  {Filter: filter, Sort: true, Dedup: true, From: 0, To: 1},
	} {
		got, err := a.Flows(t.Context(), ms(now-hour), ms(now), s)
		if err != nil {
			t.Fatal(err)
		}
		want := s.Apply(slices.Clone(all))
		if len(want) == 0 || !slices.Equal(uuids(got), uuids(want)) {
			t.Errorf("%s: %d flows, want %d", name, len(got), len(want))
		}
		if s.Sort && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: in another order", name)
		}
	}
	got, err := a.Flows(t.Context(), ms(now-hour), ms(now), &flow.Search{To: 10})
	if err != nil || len(got) != 10 {
		t.Error(len(got), err)
	}
}

func TestTheEndOfAFlowKeepsItsMetrics(t *testing.T) {
	now := time.Now().UnixMilli()
	a, _ := opened(t, Options{})
	f := sample(1, now-20*minute)
	f.LastUpdateMetric.Last = f.Last + 40*second
	store(t, a, f)
	over := *f
	over.LastUpdateMetric, over.FinishType = nil, flow.Timeout
	store(t, a, &over)
	got, err := a.Flows(t.Context(), ms(now-21*minute), ms(now), nil)
	if err != nil || len(got) != 1 || got[0].FinishType != flow.Timeout {
		t.Fatal(got, err)
	}
	metrics, err := a.FlowMetrics(t.Context(), ms(0), ms(now), got)
	if err != nil || !reflect.DeepEqual(metrics, map[string][]flow.Metric{f.UUID: {*f.LastUpdateMetric}}) {
		t.Error(metrics, err)
	}
}

func TestRawPackets(t *testing.T) {
	for _, past := range []int64{0, 33 * second} { // a report's packets may be of two minutes
		rawPackets(t, time.Now().Truncate(time.Minute).UnixMilli()-past)
	}
}

func rawPackets(t *testing.T, now int64) {
	a, _ := opened(t, Options{})
	f, other := sample(1, now), sample(2, now)
	packet := func(i, at int64) flow.RawPacket {
		return flow.RawPacket{Timestamp: at, Index: i, Data: []byte{byte(i), 2, 3}, LinkType: 1}
	}
	second := *f
	f.LastRawPackets = []flow.RawPacket{packet(1, now-90000), packet(2, now-80000)}
	second.LastRawPackets = []flow.RawPacket{packet(3, now-10000)}
	f.Start = now - 90000
	store(t, a, &second, f, other)
	flows, err := a.Flows(t.Context(), ms(now-hour), ms(now), nil)
	if err != nil || len(flows) != 2 {
		t.Fatal(flows, err)
	}
	flows[0].Start, flows[1].Start = now-90000, now-90000
	for _, c := range []struct {
		from, to int64
		want     []int64
	}{{0, now, []int64{1, 2, 3}}, {now - 85000, now, []int64{2, 3}}, {now - 85000, now - 10001, []int64{2}}, {now - 1000, now, nil}} {
		got, err := a.RawPackets(t.Context(), ms(c.from), ms(c.to), flows)
		if err != nil {
			t.Fatal(err)
		}
		var ids []int64
		for _, p := range got[f.UUID] {
			ids = append(ids, p.Index)
			if !slices.Equal(p.Data, []byte{byte(p.Index), 2, 3}) || p.LinkType != 1 {
				t.Errorf("%+v", p)
			}
		}
		if !slices.Equal(ids, c.want) || len(got[other.UUID]) > 0 {
			t.Errorf("%d–%d: %v, want %v", c.from-now, c.to-now, ids, c.want)
		}
	}
}

func TestClocksThatAreWrong(t *testing.T) {
	now := time.Now().UnixMilli()
	a, _ := opened(t, Options{})
	future, past, negative := sample(1, now+400*24*hour), sample(2, 5), sample(3, -1<<62)
	store(t, a, future, past, negative)
	if _, err := a.Flows(t.Context(), ms(-1<<40), ms(1<<60), nil); err != nil {
		t.Error(err)
	}
	if s := a.Status().(Status); s.FlowRecords != 3 || *s.Oldest < now-2*hour {
		t.Errorf("%+v", s)
	}
}
