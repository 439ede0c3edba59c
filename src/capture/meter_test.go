package capture

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/flow"
)

// meter is a source that counts, and whose packets are those of others.
type meter struct {
	Request
	mu     sync.Mutex
	value  int
	mapped []Exporter
}

func (m *meter) Run(ctx context.Context, up func(field.Object)) error {
	up(nil)
	<-ctx.Done()
	return nil
}

func (m *meter) Counters() Counters { return Counters{Missing: 3, Repeated: 2, Unknown: 1} }

func (m *meter) Metrics() (string, field.Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.value == 0 {
		return "SFlow", nil
	}
	return "SFlow", field.Make("Value", m.value)
}

func (m *meter) Map(all []Exporter) {
	m.mu.Lock()
	m.mapped = all
	m.mu.Unlock()
}

func (m *meter) set(v int) { m.mu.Lock(); m.value = v; m.mu.Unlock() }

func TestWhatASourceCounts(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var source *meter
		w.m.options.Kinds["pcapsocket"] = Kind{New: func(r Request) Source {
			source = &meter{Request: r}
			return source
		}}
		var shown []field.Object
		w.m.options.Metrics = func(_, key string, v field.Object) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if key != "SFlow" {
				t.Errorf("key %s", key)
			}
			shown = append(shown, v)
		}
		c := asked("c1")
		c.Type, c.Exporters = "pcapsocket", []Exporter{{Address: "192.0.2.1", IfIndex: 1, TID: "x"}}
		if err := w.m.Start(eth0(), c); err != nil {
			t.Fatal(err)
		}
		w.expect(t, "n1", "State", "active")
		if !slices.Equal(source.Capture.Exporters, c.Exporters) {
			t.Errorf("exporters %v", source.Capture.Exporters)
		}
		// Asked for again with others.
		c.Exporters = []Exporter{{Address: "192.0.2.1", IfIndex: 2, TID: "y"}}
		if err := w.m.Start(eth0(), c); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(source.mapped, c.Exporters) {
			t.Errorf("exporters %v", source.mapped)
		}
		pass(3 * time.Second)
		source.set(1)
		pass(3 * time.Second)
		source.set(2)
		pass(2 * time.Second)
		w.expect(t, "n1", "ExportsMissing", int64(3))
		w.expect(t, "n1", "ExportsRepeated", int64(2))
		w.expect(t, "n1", "ExportsUnknown", int64(1))
		if err := w.m.Stop("n1", "c1"); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(shown) != 3 || !field.Equal(shown[0], field.Make("Value", 1)) || !field.Equal(shown[1], field.Make("Value", 2)) || shown[2] != nil {
			t.Errorf("shown %v", shown)
		}
	})
}

// A follower gets the packets that were sampled, and a table counts them and what others have counted.
func TestIntakeOfOthers(t *testing.T) {
	table := flow.NewTable(flow.Options{NodeTID: "tid", MaxEntries: 10})
	in := NewTableIntake(table)
	f := &follower{wake: make(chan struct{}, 1), lost: func(int) {}}
	in.inputs.Store(&[]*input{{follower: f, intake: in}})
	p := flow.Packet{Data: frames(1)[0].Data, Length: 60, Time: 1e9}
	in.Sampled(&p, flow.Sample{Rate: 10})
	in.Sampled(&p, flow.Sample{First: flow.FirstRawIP})
	in.Records([]flow.Record{{Version: 4, Proto: 6, Packets: 5}}, 1e9)
	if b, _, ok := f.next(); !ok || len(b.Packets) != 1 {
		t.Errorf("%d packets followed", len(b.Packets))
	}
	packets := int64(0)
	table.Search(nil, func(f *flow.Flow) bool {
		packets += f.Metric.ABPackets
		return true
	})
	if packets < 15 || in.Place("other", "") == 0 {
		t.Errorf("%d packets", packets)
	}
	// Where packets go elsewhere, records have nowhere to go.
	sent := 0
	out := NewIntake(func(b []flow.Packet) { sent += len(b) })
	out.Sampled(&p, flow.Sample{Rate: 10})
	out.Records([]flow.Record{{Version: 4, Proto: 6, Packets: 5}}, 1e9)
	if sent != 1 || out.Place("other", "") != 0 {
		t.Errorf("%d packets sent", sent)
	}
}
