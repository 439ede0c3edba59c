package capture

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"skydive/src/flow"
)

// following notes what a follower is given, as fast as it is let.
type following struct {
	mu   sync.Mutex
	got  []Batch
	hold chan struct{} // closed: everything is taken at once
	stop context.CancelFunc
	done chan error
}

func follow(t *testing.T, m *Manager, id string) *following {
	ctx, cancel := context.WithCancel(t.Context())
	f := &following{hold: make(chan struct{}), stop: cancel, done: make(chan error, 1)}
	go func() {
		f.done <- m.Follow(ctx, id, func() {}, func(b Batch) error {
			b.Packets = slices.Clone(b.Packets)
			for i := range b.Packets {
				b.Packets[i].Data = slices.Clone(b.Packets[i].Data)
			}
			f.mu.Lock()
			f.got = append(f.got, b)
			hold := f.hold
			f.mu.Unlock()
			<-hold
			return nil
		})
	}()
	synctest.Wait()
	return f
}

// total returns the packets that came from a node, and how many were lost there at last.
func (f *following) total(node string) (packets []flow.Packet, lost int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.got {
		if b.Node.ID == node {
			packets, lost = append(packets, b.Packets...), b.Lost
		}
	}
	return packets, lost
}

// TestFollow: a follower comes before the capture, sees it on two nodes, and gets a copy of each packet in order.
func TestFollow(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		f, other := follow(t, w.m, "c1"), follow(t, w.m, "c2")
		close(f.hold)
		close(other.hold)
		n2 := eth0()
		n2.ID, n2.TID, n2.Name, n2.EncapType = "n2", "t2", "tun0", "none"
		for _, n := range []Node{eth0(), n2} {
			if err := w.m.Start(n, asked("c1")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		first, second := w.made[0], w.made[1]
		if first.Node.ID != "n1" {
			first, second = second, first
		}
		batch := frames(300)
		want := slices.Clone(batch)
		for i := range want {
			want[i].Data = slices.Clone(want[i].Data)
			want[i].Time += int64(i)
			batch[i].Time += int64(i)
		}
		first.Intake.Packets(batch)
		clear(batch[0].Data) // the source may use it again
		second.Intake.Packets(want[:1])
		synctest.Wait()
		got, lost := f.total("n1")
		if !slices.EqualFunc(got, want, func(a, b flow.Packet) bool {
			return a.Time == b.Time && a.Length == b.Length && slices.Equal(a.Data, b.Data)
		}) || lost != 0 {
			t.Fatalf("%d packets, %d lost", len(got), lost)
		}
		if got, _ := f.total("n2"); len(got) != 1 {
			t.Fatalf("%d packets of the other node", len(got))
		}
		for _, b := range f.got {
			if want := map[string]uint32{"n1": 1, "n2": 101}[b.Node.ID]; b.Link != want || b.Node.Name == "" {
				t.Fatalf("%+v", b)
			}
		}
		if len(other.got) != 0 {
			t.Fatal("packets of another capture")
		}
		// A capture that starts again is followed on.
		if err := w.m.Stop("n1", "c1"); err != nil {
			t.Fatal(err)
		}
		if err := w.m.Start(eth0(), asked("c1")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.last().Intake.Packets(want[:2])
		synctest.Wait()
		if got, _ := f.total("n1"); len(got) != 302 {
			t.Fatalf("%d packets", len(got))
		}
		f.stop()
		other.stop()
		if err := errors.Join(<-f.done, <-other.done); err != nil || len(w.m.followers) != 0 {
			t.Fatalf("%v, %d followers", err, len(w.m.followers))
		}
		if testing.AllocsPerRun(10, func() { w.last().Intake.Packets(nil) }) != 0 || w.last().Intake.inputs.Load() != nil {
			t.Fatal("allocates when nobody follows")
		}
	})
}

// TestSlowFollower: packets that a follower has no time for are counted, are told even if no other packet comes, and cost no more memory
// than is allowed; the flow table sees them all.
func TestSlowFollower(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		if err := w.m.Start(eth0(), asked("c1")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		slow, quick := follow(t, w.m, "c1"), follow(t, w.m, "c1")
		close(quick.hold)
		const sent = 100 * 1000
		for range 100 {
			w.last().Intake.Packets(frames(1000))
			synctest.Wait()
		}
		if got, lost := quick.total("n1"); len(got) != sent || lost != 0 {
			t.Fatalf("the quick one has %d packets, %d lost", len(got), lost)
		}
		if bytes := w.m.followers[0].bytes; bytes > followBytes || bytes < followBytes-chunkBytes {
			t.Fatalf("%d bytes wait", bytes)
		}
		close(slow.hold)
		synctest.Wait()
		got, lost := slow.total("n1")
		if len(got)+int(lost) != sent || lost == 0 || len(got) < followBytes/200 {
			t.Fatalf("%d packets, %d lost, of %d", len(got), lost, sent)
		}
		if last := slow.got[len(slow.got)-1]; last.Lost != lost {
			t.Fatalf("the last loss is not told: %+v", last)
		}
		for _, f := range w.m.followers {
			if f.bytes != 0 || len(f.spare) > spareChunks || len(f.late) != 0 {
				t.Fatalf("%d bytes, %d spare chunks", f.bytes, len(f.spare))
			}
		}
		if n := w.m.Tables()[0].Stats().PacketsReceived; n != sent {
			t.Fatalf("the table has %d packets", n)
		}
		// What was lost at the very end, with nothing behind it.
		slow.mu.Lock()
		slow.hold, slow.got = make(chan struct{}), nil
		slow.mu.Unlock()
		for range 60 {
			w.last().Intake.Packets(frames(1000))
		}
		synctest.Wait()
		close(slow.hold)
		synctest.Wait()
		if got, now := slow.total("n1"); len(got)+int(now-lost) != 60000 || now == lost {
			t.Fatalf("%d packets, %d lost more", len(got), now-lost)
		}
		slow.stop()
		quick.stop()
		if err := errors.Join(<-slow.done, <-quick.done); err != nil {
			t.Fatal(err)
		}
		failed := errors.New("no more")
		done := make(chan error, 1)
		go func() { done <- w.m.Follow(t.Context(), "c1", func() {}, func(Batch) error { return failed }) }()
		synctest.Wait()
		w.last().Intake.Packets(frames(1))
		if err := <-done; !errors.Is(err, failed) || len(w.m.followers) != 0 {
			t.Fatalf("%v, %d followers", err, len(w.m.followers))
		}
		var all []*following
		for range followLimit {
			all = append(all, follow(t, w.m, "c1"))
		}
		if err := w.m.Follow(t.Context(), "c1", nil, nil); !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
		for _, f := range all {
			f.stop()
			<-f.done
		}
	})
}

// BenchmarkFollow measures what a follower costs the capture: per packet, while it keeps up and while it does not.
func BenchmarkFollow(b *testing.B) {
	for _, slow := range []bool{false, true} {
		name := "taken"
		if slow {
			name = "lost"
		}
		b.Run(name, func(b *testing.B) {
			f := &follower{wake: make(chan struct{}, 1), lost: func(int) {}}
			i := &input{follower: f, intake: &Intake{}}
			batch := frames(500)
			for range b.N {
				i.offer(batch)
				for c := (*chunk)(nil); !slow; {
					if _, c, _ = f.next(); c == nil {
						break
					}
					f.giveBack(c)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(batch)), "ns/packet")
		})
	}
}
