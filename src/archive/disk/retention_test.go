package disk

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"skydive/src/flow"
	"skydive/src/graph"
)

// forgets does at once what is done every few seconds.
func forgets(t *testing.T, a *Archive) {
	t.Helper()
	if err := a.read(t.Context(), func(ctx context.Context, db *pebble.DB) error { return a.forgetOld(ctx, db) }); err != nil {
		t.Fatal(err)
	}
}

// keepsTo checks the size, which the engine may exceed while it rearranges its files.
func keepsTo(t *testing.T, a *Archive, most int64) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for a.bytes() > most {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes, not more than %d are allowed", a.bytes(), most)
		}
		forgets(t, a)
		<-time.After(50 * time.Millisecond)
	}
}

// TestForgetByAge: two days of flows, counters and a graph that changes, of which half a day is kept.
func TestForgetByAge(t *testing.T) {
	const kept = 12 * hour
	w := newWorld(t, Options{MaxAge: time.Duration(kept) * time.Millisecond})
	type moment struct {
		at   int64
		want []string
	}
	var moments []moment
	begin := w.clock.ms.Load()
	w.update(func(tx *graph.Tx) error { return tx.AddNode(node("still", "Name", "still")) })
	n := uint64(0)
	reported := make(map[int64]string) // time: UUID
	for i := range int64(2 * 24 * 4) {
		w.clock.forward(15 * minute)
		now := w.clock.ms.Load()
		n++
		f := sample(n, now)
		f.LastRawPackets = []flow.RawPacket{{Timestamp: now, Index: 1, Data: []byte("data"), LinkType: 1}}
		store(t, w.a, f)
		reported[now] = f.UUID
		w.update(func(tx *graph.Tx) error {
			id := fmt.Sprint("n", i%5)
			if tx.Node(id) != nil {
				return tx.DeleteNode(id, 0)
			}
			return tx.AddNode(node(id, "Name", id, "I", i, "Metric", map[string]any{"RxBytes": i, "Start": now - second, "Last": now}))
		})
		w.archived()
		moments = append(moments, moment{now, texts(w.g.Snapshot())})
		forgets(t, w.a)
	}
	now := w.clock.ms.Load()
	found, err := w.a.Flows(t.Context(), ms(begin), ms(now), nil)
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]bool)
	for _, f := range found {
		have[f.UUID] = true
	}
	for at, id := range reported {
		switch age := now - at; {
		case age <= kept && !have[id]:
			t.Errorf("a flow of %v ago is forgotten", time.Duration(age)*time.Millisecond)
		case age > kept+hour && have[id]:
			t.Errorf("a flow of %v ago is not forgotten", time.Duration(age)*time.Millisecond)
		}
	}
	packets, err := w.a.RawPackets(t.Context(), ms(begin), ms(now), found)
	if err != nil || len(packets) != len(found) {
		t.Errorf("packets of %d flows, want %d: %v", len(packets), len(found), err)
	}
	for _, m := range moments {
		if age := now - m.at; age <= kept {
			if got := w.at(m.at); !slices.Equal(got, m.want) {
				t.Fatalf("the graph of %v ago: %s", time.Duration(age)*time.Millisecond, difference(got, m.want))
			}
		}
	}
	ids := []string{"n0", "n1", "n2", "n3", "n4"}
	counted, err := w.a.NodeMetrics(t.Context(), ms(begin), ms(now), ids, "Metric")
	if err != nil {
		t.Fatal(err)
	}
	for id, list := range counted {
		if at, _ := list[0].Int("Last"); now-at > kept+hour {
			t.Errorf("counters of %s of %v ago", id, time.Duration(now-at)*time.Millisecond)
		}
	}
	// Nothing else of the past is left: neither keys nor what is known of the hours.
	s := w.a.Status().(Status)
	if s.Oldest == nil || now-*s.Oldest > kept+hour || s.FlowRecords != int64(len(found)) {
		t.Errorf("%+v, %d flows", s, len(found))
	}
	entries := 0
	low := []byte{spaceLog}
	err = scan(t.Context(), w.a.db, low, upper(low), func(key, _ []byte) error {
		if at, _ := entryOf(key); now-at > kept+2*hour { // up to the last checkpoint before
			t.Errorf("a revision of %v ago", time.Duration(now-at)*time.Millisecond)
		}
		entries++
		return nil
	})
	if err != nil || entries == 0 || entries >= len(moments) {
		t.Error(entries, err)
	}
	if w.a.metrics.forgotten.get() < 30 {
		t.Error(w.a.metrics.forgotten.get(), "hours forgotten")
	}
	w.cancel()
	w.end()
}

// TestForgetBySize stores several times what may be kept: over hours, and within one.
func TestForgetBySize(t *testing.T) {
	for name, step := range map[string]int64{"over hours": 10 * minute, "within an hour": 30 * second} {
		t.Run(name, func(t *testing.T) {
			const most = 64 << 20
			w := newWorld(t, Options{MaxSize: most})
			rng := rand.New(rand.NewPCG(7, 7))
			var peak int64
			n := uint64(0)
			var last []string
			begin := w.clock.ms.Load()
			w.update(func(tx *graph.Tx) error { return tx.AddNode(node("still", "Name", "still")) })
			w.archived()
			for range 100 {
				w.clock.forward(step)
				now := w.clock.ms.Load()
				var flows []*flow.Flow
				last = last[:0]
				for range 100 {
					n++
					f := sample(n, now)
					data := make([]byte, 0, 9600) // does not compress
					for len(data) < cap(data) {
						data = binary.BigEndian.AppendUint64(data, rng.Uint64())
					}
					f.LastRawPackets = []flow.RawPacket{{Timestamp: now, Index: 1, Data: data, LinkType: 1}}
					flows = append(flows, f)
					last = append(last, f.UUID)
				}
				store(t, w.a, flows...)
				forgets(t, w.a)
				peak = max(peak, w.a.bytes())
			}
			now := w.clock.ms.Load()
			keepsTo(t, w.a, most)
			if peak > most+8<<20 {
				t.Errorf("at times %d bytes", peak)
			}
			found, err := w.a.Flows(t.Context(), ms(begin), ms(now), nil)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(last)
			latest := uuids(slices.DeleteFunc(slices.Clone(found), func(f *flow.Flow) bool { return f.Last != now }))
			if !slices.Equal(latest, last) {
				t.Errorf("%d of the latest %d flows", len(latest), len(last))
			}
			packets, err := w.a.RawPackets(t.Context(), ms(begin), ms(now), found)
			if err != nil || len(packets) < len(found)*9/10 {
				t.Errorf("packets of %d of %d flows: %v", len(packets), len(found), err)
			}
			if bytes := int64(len(found)) * 9600; bytes < most/4 || bytes > most {
				t.Errorf("%d flows are kept", len(found))
			}
			// What is in the graph is known whatever its age.
			if got := w.at(now); len(got) != 1 {
				t.Error(got)
			}
			t.Logf("%d of %d flows kept in %d bytes, at times %d", len(found), n, w.a.bytes(), peak)
			w.cancel()
			w.end()
		})
	}
}

// TestForgetALargeGraph: a graph that changes all the time keeps within its size, and the present is known.
func TestForgetALargeGraph(t *testing.T) {
	const most = 64 << 20
	w := newWorld(t, Options{MaxSize: most})
	rng := rand.New(rand.NewPCG(3, 3))
	text := func() string {
		b := make([]byte, 0, 24<<10)
		for len(b) < cap(b)/2 {
			b = binary.BigEndian.AppendUint64(b, rng.Uint64())
		}
		return hex.EncodeToString(b)
	}
	for i := range 80 {
		w.clock.forward(10 * second)
		w.update(func(tx *graph.Tx) error {
			for j := range 60 {
				id := fmt.Sprint("n", j)
				if i == 0 {
					if err := tx.AddNode(node(id, "Text", "")); err != nil {
						return err
					}
				}
				m, err := tx.Node(id).Metadata.Set("Text", text())
				if err != nil {
					return err
				}
				if _, err := tx.SetNodeMetadata(id, m); err != nil {
					return err
				}
			}
			return nil
		})
		if i%10 == 9 {
			w.archived()
			forgets(t, w.a)
		}
	}
	keepsTo(t, w.a, most)
	w.archived()
	w.cancel()
	w.end()
}
