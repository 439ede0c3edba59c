package disk

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"skydive/src/flow"
)

// TestFlowNodes compares with what the flows of a slice say.
func TestFlowNodes(t *testing.T) {
	w := newWorld(t, Options{})
	now := w.clock.ms.Load()
	var flows []*flow.Flow
	for i := range 200 {
		f := &flow.Flow{
			UUID: fmt.Sprintf("%016x", i), TrackingID: []string{"", "0123456789abcdef", "plain"}[i%3], ParentUUID: []string{"", "0123456789abcdef"}[i%2],
			NodeTID: []string{"", "plain", "0123456789abcdef", "5d6e7f80-1234-4321-8888-123456789abc"}[i%4] + []string{"", "x"}[i%2*(i/100)],
			Start:   now - int64(i)*1000, Last: now - int64(i)*1000 + 500,
		}
		if i%5 == 0 {
			f.UUID = "no hex " + f.UUID
		}
		flows = append(flows, f)
	}
	if err := w.a.StoreFlows(t.Context(), flows); err != nil {
		t.Fatal(err)
	}
	for _, slice := range [][2]int64{{0, 0}, {3, 7}, {0, 50}, {90, 120}, {0, 1000}, {300, 400}} {
		from, to := time.UnixMilli(now-slice[1]*1000), time.UnixMilli(now-slice[0]*1000+500)
		found, err := w.a.Flows(t.Context(), from, to, nil)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, f := range found {
			want = append(want, f.NodeTID)
		}
		slices.Sort(want)
		want = slices.Compact(want)
		got, err := w.a.FlowNodes(t.Context(), from, to, 100)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v: %q %v, want %q", slice, got, err, want)
		}
		if got, err := w.a.FlowNodes(t.Context(), from, to, 2); err != nil || len(got) != min(2, len(want)) {
			t.Errorf("%v: %q %v", slice, got, err)
		}
	}
}
