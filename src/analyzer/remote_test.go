package analyzer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/archive/disk"
	"skydive/src/flow"
	"skydive/src/query"
	"skydive/src/wire"
)

// ring is the analyzers of a cluster, as one of them sees the others: what they say to each other goes through envelopes.
type ring struct {
	t      testing.TB
	answer map[string]func(context.Context, *wire.Message) *wire.Message
	absent []string
	waits  bool // for who does not answer, as long as the deadline says

	mu    sync.Mutex
	asked []string // "host type"
}

func (r *ring) Hosts() []string  { return slices.Sorted(maps.Keys(r.answer)) }
func (r *ring) Absent() []string { return r.absent }

func (r *ring) Request(ctx context.Context, host string, m *wire.Message) (*wire.Message, error) {
	r.mu.Lock()
	r.asked = append(r.asked, host+" "+m.Type)
	r.mu.Unlock()
	answer := r.answer[host](ctx, r.sent(m))
	if answer == nil {
		if r.waits {
			<-ctx.Done()
		}
		return nil, fmt.Errorf("host %s does not answer: %w", host, context.DeadlineExceeded)
	}
	if answer.Type != m.Type+wire.ReplySuffix || answer.UUID != m.UUID || answer.Namespace != wire.NamespaceArchive {
		r.t.Errorf("%s %s %s answers %s %s", answer.Namespace, answer.Type, answer.UUID, m.Type, m.UUID)
	}
	return r.sent(answer), nil
}

func (r *ring) sent(m *wire.Message) *wire.Message {
	b := m.Append(nil, wire.JSON)
	if len(b) < 1<<16 && !json.Valid(b) {
		r.t.Errorf("not JSON: %.200s", b)
	}
	got, err := wire.NewDecoder().Decode(bytes.NewReader(b), wire.JSON)
	if err != nil {
		r.t.Error(err)
	}
	return got
}

// times tells how often a question was put.
func (r *ring) times(question string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.asked {
		if strings.HasSuffix(q, " "+question) {
			n++
		}
	}
	r.asked = nil
	return n
}

func archive(t testing.TB) *disk.Archive {
	t.Helper()
	a := disk.New(disk.Options{Path: t.TempDir(), Logger: slog.New(slog.DiscardHandler), MinFree: 1})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-a.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	return a
}

// distributed is archives, of which the first is that of the analyzer that is asked.
func distributed(t testing.TB, archives ...query.Storage) (*ArchivedFlows, *ring) {
	t.Helper()
	r := &ring{t: t, answer: make(map[string]func(context.Context, *wire.Message) *wire.Message)}
	for i, a := range archives[1:] {
		r.answer[fmt.Sprint("a", i)] = NewArchiveAnswers(a, slog.New(slog.DiscardHandler), nil).Answer
	}
	return NewArchivedFlows(ArchivedFlowsOptions{
		HostID: "a1x", Local: archives[0], Peers: r, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	}), r
}

// ids names flows, for comparison.
func ids(flows []*flow.Flow) []string {
	var out []string
	for _, f := range flows {
		out = append(out, fmt.Sprintf("%s@%d/%d", f.UUID, f.Last, f.Metric.ABPackets))
	}
	return out
}

// TestArchivesAsOne asks three archives, among which the reports of flows were distributed, what one archive that has all of them is
// asked too, at random.
func TestArchivesAsOne(t *testing.T) {
	begin := time.Now().Add(-2 * time.Hour).Truncate(time.Minute).UnixMilli()
	const nodes, minutes = 9, 30
	for _, test := range []struct {
		name  string
		place func(rng *rand.Rand, node, minute int) []int // which archives a report goes to
	}{
		{"each agent has its analyzer", func(_ *rand.Rand, node, _ int) []int { return []int{node % 3} }},
		{"analyzers are lost", func(rng *rand.Rand, node, minute int) []int {
			to := node % 3
			if to == 0 && minute > 13 { // the first one ends
				to = 1 + node%2
			}
			if node == 7 && minute > 20 {
				to = (to + 1) % 3
			}
			if minute == 14 && rng.IntN(2) == 0 { // what was sent to it last is repeated
				return []int{node % 3, to}
			}
			return []int{to}
		}},
		{"at random", func(rng *rand.Rand, _, _ int) []int { return []int{rng.IntN(3)} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			seed := rand.Uint64()
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			rng := rand.New(rand.NewPCG(seed, 1))
			one, three := archive(t), []*disk.Archive{archive(t), archive(t), archive(t)}
			reports := make(map[*disk.Archive][]*flow.Flow)
			last := int64(0) // of reports, all different: the order of what sorts alike is not promised
			for node := range nodes {
				for i := range 4 {
					f := flow.Flow{
						UUID: fmt.Sprintf("%08x%08x", node+1, i+1), TrackingID: fmt.Sprintf("%016x", 1+(node*4+i)%13), NodeTID: fmt.Sprint("node-", node),
						Application: []string{"TCP", "UDP"}[i%2], LayersPath: "Ethernet/IPv4/TCP", CaptureID: "c",
						Network: &flow.Layer{Protocol: flow.IPv4, A: fmt.Sprint("10.0.0.", i), B: "10.0.1.1"},
					}
					from := rng.IntN(minutes - 1)
					f.Start = begin + int64(from)*60_000
					index := int64(0)
					for minute := from; minute < from+1+rng.IntN(minutes-from); minute++ {
						r := f
						last++
						start := begin + int64(minute)*60_000
						r.Last = start + 30_000 + last%20_000
						r.LastUpdateMetric = &flow.Metric{ABPackets: rng.Int64N(9), ABBytes: rng.Int64N(999), Start: start, Last: start + 60_000}
						f.Metric.Add(r.LastUpdateMetric)
						f.Metric.Start, f.Metric.Last = f.Start, r.Last
						r.Metric = f.Metric
						if rng.IntN(3) == 0 {
							index++
							r.LastRawPackets = []flow.RawPacket{{Timestamp: r.Last, Index: index, Data: []byte(fmt.Sprint(index, r.UUID)), LinkType: 1}}
							r.RawPacketsCaptured = index
						}
						reports[one] = append(reports[one], &r)
						for _, to := range test.place(rng, node, minute) {
							reports[three[to]] = append(reports[three[to]], &r)
						}
					}
				}
			}
			for a, flows := range reports {
				if err := a.StoreFlows(t.Context(), flows); err != nil {
					t.Fatal(err)
				}
			}
			cluster, peers := distributed(t, three[0], three[1], three[2])
			filters := []*flow.Filter{
				nil, flow.AnyText("Application", "TCP"), flow.AnyText("NodeTID", "node-1", "node-2", "node-7"),
				atLeast(t, "Metric.ABPackets", 30), flow.And(flow.AnyText("NodeTID", "node-0", "node-3"), atLeast(t, "Metric.ABPackets", 20)),
				flow.Not(atLeast(t, "Metric.ABBytes", 3000)),
			}
			for range 50 {
				a, b := begin+rng.Int64N((minutes+3)*60_000), begin+rng.Int64N((minutes+3)*60_000)
				from, to := time.UnixMilli(min(a, b)), time.UnixMilli(max(a, b))
				s := flow.Search{Filter: filters[rng.IntN(len(filters))], Sort: true, Order: flow.SortOrder(1 + rng.IntN(2))}
				if rng.IntN(2) == 0 {
					s.From = rng.Int64N(5)
					s.To = s.From + 1 + rng.Int64N(10)
				}
				if rng.IntN(3) == 0 {
					s.Dedup, s.DedupBy = true, []string{"", "NodeTID"}[rng.IntN(2)]
				}
				what := fmt.Sprintf("%s %v–%v", s.AppendJSON(nil), from, to)
				want, err := one.Flows(t.Context(), from, to, &s)
				if err != nil {
					t.Fatal(err)
				}
				got, err := cluster.Flows(t.Context(), from, to, &s)
				if err != nil || !slices.Equal(ids(got), ids(want)) {
					t.Fatalf("%s:\n got %v, %v\nwant %v", what, ids(got), err, ids(want))
				}
				for _, metric := range []flow.MetricKind{flow.NoMetric, flow.Latest, flow.Whole, flow.Update} {
					want, err := one.Total(t.Context(), from, to, from, &flow.Search{Filter: s.Filter}, flow.Aggregate{Metric: metric})
					if err != nil {
						t.Fatal(err)
					}
					got, err := cluster.Total(t.Context(), from, to, from, &flow.Search{Filter: s.Filter}, flow.Aggregate{Metric: metric})
					if err != nil || got != want {
						t.Fatalf("%s: total %d: got %+v, %v, want %+v", what, metric, got, err, want)
					}
				}
				wantMetrics, err := one.FlowMetrics(t.Context(), from, to, want)
				if err != nil {
					t.Fatal(err)
				}
				gotMetrics, err := cluster.FlowMetrics(t.Context(), from, to, want)
				if err != nil || !maps.EqualFunc(gotMetrics, wantMetrics, slices.Equal) {
					t.Fatalf("%s: got %v, %v, want %v", what, gotMetrics, err, wantMetrics)
				}
				wantPackets, err := one.RawPackets(t.Context(), from, to, want)
				if err != nil {
					t.Fatal(err)
				}
				gotPackets, err := cluster.RawPackets(t.Context(), from, to, want)
				if err != nil || !maps.EqualFunc(gotPackets, wantPackets, func(a, b []flow.RawPacket) bool { return slices.EqualFunc(a, b, samePacket) }) {
					t.Fatalf("%s: got %v, %v, want %v", what, gotPackets, err, wantPackets)
				}
			}

			// Without a limit, what does not depend on counters needs one question.
			peers.times("")
			if _, err := cluster.Flows(t.Context(), time.UnixMilli(begin), time.Now(), &flow.Search{Filter: filters[1]}); err != nil {
				t.Fatal(err)
			}
			if n := peers.times(wire.TypeArchiveFlows); n != 2 {
				t.Errorf("%d questions", n)
			}
		})
	}
}

// atLeast is a filter as a query makes it.
func atLeast(t *testing.T, key string, n int64) *flow.Filter {
	t.Helper()
	q, err := flow.ParseTableQuery(fmt.Appendf(nil, `{"Type":"SearchQuery","query":{"Filter":{"GteInt64Filter":{"Key":%q,"Value":%d}}}}`, key, n), false)
	if err != nil {
		t.Fatal(err)
	}
	return q.Search.Filter
}

// small is an archive of one flow per UUID given, all of one time and of nodes of their own.
func small(t testing.TB, uuids ...string) *disk.Archive {
	t.Helper()
	a := archive(t)
	now := time.Now().UnixMilli()
	for _, uuid := range uuids {
		if err := a.StoreFlows(t.Context(), []*flow.Flow{{UUID: uuid, NodeTID: "n" + uuid, Start: now - 5000, Last: now}}); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func uuidsOf(flows []*flow.Flow) string {
	var out []string
	for _, f := range flows {
		out = append(out, strings.TrimLeft(f.UUID, "0"))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

const (
	uuid1 = "0000000000000001"
	uuid2 = "0000000000000002"
	uuid3 = "0000000000000003"
)

// TestArchivesMissing: who does not answer is named, and what the others have holds.
func TestArchivesMissing(t *testing.T) {
	var log strings.Builder
	cluster, peers := distributed(t, small(t, uuid1), small(t, uuid2), small(t, uuid3))
	cluster.members.log = slog.New(slog.NewTextHandler(&log, nil))
	from, to := time.Now().Add(-time.Minute), time.Now().Add(time.Minute)
	check := func(what, want, lacks string) {
		t.Helper()
		found, err := cluster.Flows(t.Context(), from, to, nil)
		var missing query.Missing
		if lacks == "" && err != nil || lacks != "" && !errors.As(err, &missing) || uuidsOf(found) != want || strings.Join(missing, " ") != lacks {
			t.Errorf("%s: %s, %v", what, uuidsOf(found), err)
		}
		sum, err := cluster.Total(t.Context(), from, to, from, nil, flow.Aggregate{})
		if missing = nil; errors.As(err, &missing) != (lacks != "") || sum.Count != int64(len(strings.Fields(want))) || strings.Join(missing, " ") != lacks {
			t.Errorf("%s: %d, %v", what, sum.Count, err)
		}
		if _, err := cluster.FlowMetrics(t.Context(), from, to, found); errors.As(err, &missing) != (lacks != "") {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := cluster.RawPackets(t.Context(), from, to, found); errors.As(err, &missing) != (lacks != "") {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("all", "1 2 3", "")
	answer := peers.answer["a1"]
	peers.answer["a1"] = func(context.Context, *wire.Message) *wire.Message { return nil }
	check("one is silent", "1 2", "a1")
	peers.answer["a1"] = func(_ context.Context, m *wire.Message) *wire.Message {
		return m.Reply(m.Type+wire.ReplySuffix, 200, wire.Text("what?"))
	}
	check("one talks nonsense", "1 2", "a1")
	peers.answer["a1"] = func(_ context.Context, m *wire.Message) *wire.Message {
		return m.Reply(m.Type+wire.ReplySuffix, 503, wire.Text("too many questions"))
	}
	check("one is busy", "1 2", "a1")
	peers.answer["a1"] = NewArchiveAnswers(nil, slog.New(slog.DiscardHandler), nil).Answer
	check("one keeps nothing", "1 2", "a1")
	peers.answer["a1"] = NewArchiveAnswers(broken{err: errors.New("it stops")}, slog.New(slog.DiscardHandler), nil).Answer
	check("one stops", "1 2", "a1")
	delete(peers.answer, "a1")
	peers.absent = []string{"10.0.0.9:8082"}
	check("one is not connected", "1 2", "10.0.0.9:8082")
	peers.absent, peers.answer["a1"] = nil, answer
	check("all again", "1 2 3", "")
	if n := strings.Count(log.String(), "does not answer"); n != 1 {
		t.Errorf("%d:\n%s", n, log.String())
	}
	if !strings.Contains(log.String(), "too many questions") {
		t.Error(log.String())
	}

	// A public analyzer does not know the question: it is waited for once.
	peers.times("")
	peers.answer["public"] = func(context.Context, *wire.Message) *wire.Message { return nil }
	check("a public one", "1 2 3", "public")
	peers.mu.Lock()
	asked := slices.DeleteFunc(peers.asked, func(q string) bool { return !strings.HasPrefix(q, "public") })
	peers.mu.Unlock()
	if len(asked) != 1 {
		t.Errorf("%v", asked)
	}

	// Nobody is waited for longer than the deadline.
	slow, waiting := distributed(t, small(t, uuid1), plenty{})
	waiting.waits, slow.timeout = true, 20*time.Millisecond
	waiting.answer["a0"] = func(context.Context, *wire.Message) *wire.Message { return nil }
	var missing query.Missing
	if found, err := slow.Flows(t.Context(), from, to, nil); !errors.As(err, &missing) || uuidsOf(found) != "1" {
		t.Errorf("%v %v", found, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if found, err := cluster.Flows(ctx, from, to, nil); !errors.Is(err, context.Canceled) || found != nil {
		t.Errorf("%v %v", found, err)
	}
}

// broken is an archive that answers with an error.
type broken struct{ err error }

func (b broken) Flows(context.Context, time.Time, time.Time, *flow.Search) ([]*flow.Flow, error) {
	return nil, b.err
}

func (b broken) FlowMetrics(context.Context, time.Time, time.Time, []*flow.Flow) (map[string][]flow.Metric, error) {
	return nil, b.err
}

func (b broken) RawPackets(context.Context, time.Time, time.Time, []*flow.Flow) (map[string][]flow.RawPacket, error) {
	if b.err == nil {
		panic("broken")
	}
	return nil, b.err
}

// TestArchivesTooMuch: what is too much for one of the archives is an error of who asks, as it is alone; a fault of this archive is one, too.
func TestArchivesTooMuch(t *testing.T) {
	from, to := time.Now().Add(-time.Minute), time.Now().Add(time.Minute)
	for _, archives := range [][]query.Storage{{small(t, uuid1), broken{err: disk.ErrTooMany}}, {broken{err: disk.ErrTooMany}, small(t, uuid1)}} {
		cluster, _ := distributed(t, archives...)
		if found, err := cluster.Flows(t.Context(), from, to, nil); err == nil || !usage(err) || found != nil || !strings.Contains(err.Error(), "narrow") {
			t.Errorf("%v %v", found, err)
		}
		if _, err := cluster.Total(t.Context(), from, to, from, nil, flow.Aggregate{}); err == nil || !usage(err) {
			t.Error(err)
		}
	}
	fault := errors.New("disk on fire")
	cluster, _ := distributed(t, broken{err: fault}, small(t, uuid1))
	if found, err := cluster.Flows(t.Context(), from, to, nil); !errors.Is(err, fault) || found != nil {
		t.Errorf("%v %v", found, err)
	}
	cluster, _ = distributed(t, small(t, uuid1), broken{err: fault})
	var missing query.Missing
	if found, err := cluster.Flows(t.Context(), from, to, nil); !errors.As(err, &missing) || uuidsOf(found) != "1" {
		t.Errorf("%v %v", found, err)
	}
}

// plenty is an archive of many flows, which it makes up, without totals of its own.
type plenty struct {
	n       int
	packets int
}

func (p plenty) Flows(context.Context, time.Time, time.Time, *flow.Search) ([]*flow.Flow, error) {
	var out []*flow.Flow
	for i := range p.n {
		out = append(out, &flow.Flow{UUID: fmt.Sprintf("%016x", i), NodeTID: "n", TrackingID: strings.Repeat("x", 1000), Start: 1, Last: int64(i)})
	}
	return out, nil
}

func (p plenty) FlowMetrics(_ context.Context, _, _ time.Time, flows []*flow.Flow) (map[string][]flow.Metric, error) {
	out := make(map[string][]flow.Metric)
	for _, f := range flows {
		for i := range int64(5) {
			out[f.UUID] = append(out[f.UUID], flow.Metric{ABPackets: f.Start, Start: i, Last: i + 1})
		}
	}
	return out, nil
}

func (p plenty) RawPackets(_ context.Context, _, _ time.Time, flows []*flow.Flow) (map[string][]flow.RawPacket, error) {
	out := make(map[string][]flow.RawPacket)
	for _, f := range flows[:1] {
		for i := range p.packets {
			out[f.UUID] = append(out[f.UUID], flow.RawPacket{Index: int64(i), Data: make([]byte, 60_000)})
		}
	}
	return out, nil
}

// TestArchiveParts: a large answer comes in parts, which are forgotten once they are had, and no matter what when nobody asks for them.
func TestArchiveParts(t *testing.T) {
	const n = 3000
	there := NewArchiveAnswers(plenty{n: n, packets: 60}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	cluster, peers := distributed(t, archive(t), plenty{})
	peers.answer["a0"] = there.Answer
	from, to := time.UnixMilli(0), time.Now()
	found, err := cluster.Flows(t.Context(), from, to, nil)
	if err != nil || len(found) != n || found[n-1].Last != n-1 {
		t.Fatalf("%d %v", len(found), err)
	}
	if next := peers.times(wire.TypeArchiveNext); next < 1 {
		t.Errorf("%d parts", next)
	}
	metrics, err := cluster.FlowMetrics(t.Context(), from, to, found)
	if err != nil || len(metrics) != n || len(metrics[found[n-1].UUID]) != 5 || metrics[uuid1][4].ABPackets != 1 {
		t.Fatalf("%d %v", len(metrics), err)
	}
	packets, err := cluster.RawPackets(t.Context(), from, to, found[:1])
	if err != nil || len(packets[found[0].UUID]) != 60 || packets[found[0].UUID][59].Index != 59 {
		t.Fatalf("%d %v", len(packets), err)
	}
	sum, err := cluster.Total(t.Context(), from, to, from, nil, flow.Aggregate{Metric: flow.Latest})
	if err != nil || sum.Count != 5*n {
		t.Fatalf("%+v %v", sum, err)
	}
	if there.size != 0 || len(there.held) != 0 {
		t.Errorf("%d bytes of %d answers are held", there.size, len(there.held))
	}

	// Nobody asks for the rest.
	ask := func(typ string, q *flow.ArchiveQuery) (*wire.Message, *flow.ArchiveReply) {
		m := peers.sent(there.Answer(t.Context(), peers.sent(&wire.Message{Namespace: wire.NamespaceArchive, Type: typ, UUID: "u", Body: wire.Base64(q.AppendProto(nil))})))
		b, err := m.Bytes()
		r := new(flow.ArchiveReply)
		if err := cmp.Or(err, r.UnmarshalProto(b)); err != nil {
			t.Fatal(err)
		}
		return m, r
	}
	_, r := ask(wire.TypeArchiveMetrics, &flow.ArchiveQuery{Flows: found})
	if r.Parts < 2 || r.Token == "" {
		t.Fatalf("%d %q", r.Parts, r.Token)
	}
	if m, _ := ask(wire.TypeArchiveNext, &flow.ArchiveQuery{Token: r.Token, Part: r.Parts}); m.Status != 422 {
		t.Error(m.Status)
	}
	there.timeout = time.Millisecond
	if m, _ := ask(wire.TypeArchiveNext, &flow.ArchiveQuery{Token: r.Token}); m.Status != 200 {
		t.Error(m.Status)
	}
	eventually(t, "forgotten", func() error {
		there.mu.Lock()
		defer there.mu.Unlock()
		if there.size != 0 {
			return fmt.Errorf("%d bytes", there.size)
		}
		return nil
	})
	if m, r := ask(wire.TypeArchiveNext, &flow.ArchiveQuery{Token: r.Token, Part: 1}); m.Status != 410 || r.Error == "" {
		t.Error(m.Status)
	}
	if m, _ := ask("Gossip", new(flow.ArchiveQuery)); m.Status != 422 {
		t.Error(m.Status)
	}

	// What is no question is not answered.
	for _, m := range []*wire.Message{
		{Namespace: wire.NamespaceArchive, Type: wire.TypeArchiveFlows + wire.ReplySuffix}, {Namespace: wire.NamespaceArchive, Type: wire.TypeArchiveFlows, Status: 503},
		{Namespace: wire.NamespaceFlow, Type: wire.TypeArchiveFlows},
	} {
		m.Body = wire.Base64(nil)
		if answer := there.Answer(t.Context(), m); answer != nil {
			t.Errorf("%+v", answer)
		}
	}

	// A fault of ours costs one answer.
	faulty := NewArchiveAnswers(broken{}, slog.New(slog.DiscardHandler), nil)
	if m := faulty.Answer(t.Context(), peers.sent(&wire.Message{Namespace: wire.NamespaceArchive, Type: wire.TypeArchiveRawPackets, Body: wire.Base64(nil)})); m.Status != 500 {
		t.Error(m.Status)
	}
	if len(faulty.busy) != 0 {
		t.Error("it is still being worked on")
	}

	// Others are being answered.
	there.timeout = 20 * time.Millisecond
	for range maxAnswers {
		there.busy <- struct{}{}
	}
	if m, _ := ask(wire.TypeArchiveFlows, new(flow.ArchiveQuery)); m.Status != 503 {
		t.Error(m.Status)
	}
}

func TestSteady(t *testing.T) {
	tcp, many := flow.AnyText("Application", "TCP"), atLeast(t, "Metric.ABPackets", 3)
	for _, test := range []struct {
		f    *flow.Filter
		is   bool
		part *flow.Filter
	}{
		{nil, true, nil},
		{tcp, true, tcp},
		{many, false, nil},
		{flow.And(tcp, many), false, tcp},
		{flow.Or(tcp, many), false, nil},
		{flow.Not(tcp), true, flow.Not(tcp)},
		{flow.Not(many), false, nil},
		{flow.And(many, many), false, nil},
		{flow.AnyText("Network.A", "10.0.0.1"), true, flow.AnyText("Network.A", "10.0.0.1")},
		{flow.AnyText("CaptureID", "c"), false, nil},
	} {
		text := func(f *flow.Filter) string { return string(f.AppendJSON(nil)) }
		if steady(test.f) != test.is || text(steadyPart(test.f)) != text(test.part) {
			t.Errorf("%s: %v %s", text(test.f), steady(test.f), text(steadyPart(test.f)))
		}
	}
}
