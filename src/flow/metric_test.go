package flow

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

func TestSum(t *testing.T) {
	for _, c := range []struct {
		name string
		ms   []Metric
		want Metric
	}{
		{"nothing", nil, Metric{}},
		{"one", []Metric{{1, 2, 3, 4, 5, 6, 7}}, Metric{1, 2, 3, 4, 5, 6, 7}},
		{"three", []Metric{{1, 2, 3, 4, 50, 60, 1}, {10, 20, 30, 40, 40, 55, 0}, {0, 0, 0, 0, 45, 70, 2}}, Metric{11, 22, 33, 44, 40, 70, 3}},
		{"one without time", []Metric{{}, {1, 2, 3, 4, 50, 60, 0}, {}}, Metric{1, 2, 3, 4, 50, 60, 0}},
	} {
		if got := Sum(c.ms); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestAggregates(t *testing.T) {
	for _, c := range []struct {
		name              string
		ms                []Metric
		start, last, step int64
		want              []Metric
	}{
		{"nothing", nil, 0, 0, 30, []Metric{}},
		{"nothing in a context", nil, 100, 200, 30, []Metric{}},
		{"one in one slice", []Metric{{ABPackets: 3, Start: 100, Last: 110}}, 0, 0, 30, []Metric{{ABPackets: 3, Start: 100, Last: 110}}},
		{"halves", []Metric{{ABBytes: 100, BABytes: 10, Start: 100, Last: 120}}, 0, 0, 10,
			[]Metric{{ABBytes: 50, BABytes: 5, Start: 100, Last: 110}, {ABBytes: 50, BABytes: 5, Start: 110, Last: 120}}},
		{"thirds add up", []Metric{{ABPackets: 10, Start: 100, Last: 130}}, 0, 0, 10,
			[]Metric{{ABPackets: 3, Start: 100, Last: 110}, {ABPackets: 3, Start: 110, Last: 120}, {ABPackets: 4, Start: 120, Last: 130}}},
		{"a gap is left out", []Metric{{ABPackets: 1, Start: 100, Last: 105}, {ABPackets: 2, Start: 125, Last: 130}}, 0, 0, 10,
			[]Metric{{ABPackets: 1, Start: 100, Last: 110}, {ABPackets: 2, Start: 120, Last: 130}}},
		{"overlapping ones are added", []Metric{{ABPackets: 10, RTT: 5, Start: 100, Last: 120}, {ABPackets: 4, RTT: 7, Start: 110, Last: 120}}, 0, 0, 10,
			[]Metric{{ABPackets: 5, RTT: 5, Start: 100, Last: 110}, {ABPackets: 9, RTT: 7, Start: 110, Last: 120}}},
		{"the context cuts", []Metric{{ABPackets: 40, Start: 100, Last: 140}}, 110, 130, 10,
			[]Metric{{ABPackets: 10, Start: 110, Last: 120}, {ABPackets: 10, Start: 120, Last: 130}}},
		{"the last slice is short", []Metric{{ABPackets: 25, Start: 100, Last: 125}}, 0, 0, 10,
			[]Metric{{ABPackets: 10, Start: 100, Last: 110}, {ABPackets: 10, Start: 110, Last: 120}, {ABPackets: 5, Start: 120, Last: 125}}},
		{"a moment", []Metric{{ABPackets: 1, Start: 105, Last: 105}}, 100, 120, 10, []Metric{{ABPackets: 1, Start: 100, Last: 110}}},
		{"only a moment", []Metric{{ABPackets: 1, Start: 105, Last: 105}}, 0, 0, 10, []Metric{{ABPackets: 1, Start: 105, Last: 105}}},
		{"at the edge", []Metric{{ABPackets: 2, Start: 110, Last: 120}}, 100, 120, 10, []Metric{{ABPackets: 2, Start: 110, Last: 120}}},
		{"outside", []Metric{{ABPackets: 2, Start: 10, Last: 20}, {ABPackets: 2, Start: 210, Last: 220}}, 100, 120, 10, []Metric{}},
		{"without times", []Metric{{ABPackets: 2}, {ABPackets: 1, Start: 9, Last: 8}}, 100, 120, 10, []Metric{}},
		{"a context that ends before it starts", []Metric{{ABPackets: 2, Start: 10, Last: 20}}, 100, 50, 10, nil},
		{"large counters", []Metric{{ABBytes: 1 << 62, Start: 100, Last: 120}}, 0, 0, 10,
			[]Metric{{ABBytes: 1 << 61, Start: 100, Last: 110}, {ABBytes: 1 << 61, Start: 110, Last: 120}}},
	} {
		got, err := Aggregates(c.ms, c.start, c.last, c.step)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v\nwant %+v", c.name, got, err, c.want)
		}
	}
}

func TestAggregatesRefuses(t *testing.T) {
	for _, c := range []struct {
		last, step int64
		want       string
	}{
		{1 + 10_000*10, 10, ""},
		{1 + 10_001*10, 10, "Aggregates available slices exceeded: 10001/10000"},
		{10, 0, "positive number"},
		{10, -1, "positive number"},
	} {
		_, err := Aggregates([]Metric{{Start: 1, Last: c.last}}, 0, 0, c.step)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("to %d by %d: %v, want %q", c.last, c.step, err, c.want)
		}
	}
}

func TestAggregatesLosesNothing(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		var ms []Metric
		for range 1 + rnd.IntN(5) {
			start := 1000 + rnd.Int64N(500)
			ms = append(ms, Metric{rnd.Int64N(1000), rnd.Int64N(1 << 40), rnd.Int64N(3), rnd.Int64N(1 << 60), start, start + rnd.Int64N(300), 0})
		}
		got, err := Aggregates(ms, 0, 0, 1+rnd.Int64N(100))
		if err != nil {
			t.Fatal(err)
		}
		if sum, want := Sum(got), Sum(ms); sum != want {
			t.Fatalf("%+v in slices %+v sums to %+v, want %+v", ms, got, sum, want)
		}
	}
}

func TestMetricObject(t *testing.T) {
	m := Metric{1, 2, 3, 4, 5, 6, 0}
	if got := string(m.Object().AppendJSON(nil)); got != `{"ABBytes":2,"ABPackets":1,"BABytes":4,"BAPackets":3,"Last":6,"Start":5}` {
		t.Errorf("got %s", got)
	}
	if got := string(m.AppendJSON(nil)); got != `{"ABPackets":1,"ABBytes":2,"BAPackets":3,"BABytes":4,"Start":5,"Last":6}` {
		t.Errorf("got %s", got)
	}
}
