package query

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"skydive/src/flow"
)

// adder is an archive that adds up by itself.
type adder struct{ *archive }

func (a adder) Total(ctx context.Context, from, to, since time.Time, s *flow.Search, what flow.Aggregate) (t flow.Total, err error) {
	found, err := a.archive.Flows(ctx, from, to, s)
	if what.Metric == flow.Latest && err == nil {
		var series map[string][]flow.Metric
		series, err = a.archive.FlowMetrics(ctx, since, to, found)
		for _, ms := range series {
			for i := range ms {
				t.Count++
				t.Metric.Add(&ms[i])
			}
		}
	} else {
		for _, f := range found {
			t.Add(f, what)
		}
	}
	a.asked = []string{"total"}
	return t, err
}

// TestPastTotals compares what an archive adds up by itself with what is added up of the flows that it hands out.
func TestPastTotals(t *testing.T) {
	a := twoStates()
	a.flows = []*flow.Flow{
		{UUID: "f1", NodeTID: "tid-eth", Start: 40_000, Last: 90_000, Metric: flow.Metric{ABBytes: 100, RTT: 7}, LastUpdateMetric: &flow.Metric{ABBytes: 3}},
		{UUID: "f2", NodeTID: "tid-eth", Start: 10_000, Last: 20_000, Metric: flow.Metric{ABBytes: 1}},
	}
	a.updates = map[string][]flow.Metric{
		"f1": {{ABBytes: 10, Start: 40_000, Last: 50_000}, {ABBytes: 30, Start: 50_000, Last: 60_000}, {ABBytes: 60, Start: 60_000, Last: 90_000, RTT: 5}},
		"f2": {{BABytes: 9, Start: 11_000, Last: 12_000}},
	}
	handing := Source{Graph: build(t, nil), History: a, Storage: a, FlowExpire: 10 * time.Second}
	adding := handing
	adding.Storage = adder{a}
	for query, want := range map[string]string{
		"G.At(100,90).Flows().Count()":                                      "2",
		"G.At(100).Flows().Count()":                                         "1",
		"G.At(100,90).V('eth').Flows().Count()":                             "2",
		"G.At(100,90).V('top').Flows().Count()":                             "0",
		"G.At(100,90).V().Has('Name','absent').Flows().Count()":             "0",
		"G.At(100,90).V().Has('Name','absent').Flows().Metrics().Sum()":     "null",
		"G.At(100,90).Flows('UUID','f2').Count()":                           "1",
		"G.At(100,90).Flows().Sum('Metric.ABBytes')":                        "101",
		"G.At(100,90).Flows().Sum('LastUpdateMetric.ABBytes')":              "3",
		"G.At(100,51).Flows().Metrics().Sum('ABBytes')":                     "90",
		"G.At(100,51).Flows().Metrics().Sum('Start')":                       "50000",
		"G.At(100,51).Flows().Metrics().Sum('RTT')":                         "5",
		"G.At(80).Flows().Metrics().Sum('ABBytes')":                         "40",
		"G.At(100,90).Flows('UUID','f2').Metrics('LastUpdateMetric').Sum()": `{"ABBytes":0,"ABPackets":0,"BABytes":9,"BAPackets":0,"Last":12000,"Start":11000}`,
		"G.At(19,1).Flows().Metrics().Sum()":                                "null",
	} {
		if plain, err := answer(t, handing, query); plain != want || err != nil {
			t.Errorf("%s: %s %v, want %s", query, plain, err, want)
		}
		a.asked = nil
		got, err := answer(t, adding, query)
		if got != want || err != nil {
			t.Errorf("%s: %s %v by an archive that adds up, want %s", query, got, err, want)
		}
		if named := want != "0" && !strings.Contains(query, "absent"); named && strings.Join(a.asked, "") != "total" {
			t.Errorf("%s: asked %s", query, a.asked)
		}
	}
	// A page or one of each is not added up elsewhere.
	for _, query := range []string{"G.At(100,90).Flows().Limit(1).Count()", "G.At(100,90).Flows().Dedup('NodeTID').Count()"} {
		if got, err := answer(t, adding, query); got != "1" || err != nil {
			t.Errorf("%s: %s %v", query, got, err)
		}
	}
}

type tooMuch struct{ error }

func (tooMuch) Usage() bool { return true }

func TestTooMuchOfThePast(t *testing.T) {
	a := twoStates()
	a.err = fmt.Errorf("archive: %w", tooMuch{errors.New("too much at once")})
	src := Source{Graph: build(t, nil), History: a, Storage: adder{a}}
	for _, query := range []string{"G.At(100,90).Flows()", "G.At(100,90).Flows().Count()", "G.At(100,90).V()"} {
		var usage *Error
		if _, err := answer(t, src, query); !errors.As(err, &usage) || !strings.Contains(err.Error(), "too much") {
			t.Errorf("%s: %v", query, err)
		}
	}
}
