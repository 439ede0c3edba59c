package capture

import (
	"errors"
	"testing"
	"time"
)

func TestARefusedCaptureIsShown(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := asked("c1")
		c.BPFFilter, c.TargetType = "", "carrier pigeon"
		begin := time.Now()
		refused := func() {
			t.Helper()
			var r *RefusedError
			if err := w.m.Start(eth0(), c); !errors.As(err, &r) || r.Status != 400 {
				t.Fatal(err)
			}
		}
		refused()
		w.expect(t, "n1", "ID", "c1")
		w.expect(t, "n1", "State", "error")
		w.expect(t, "n1", "Error", `targets of type "carrier pigeon" are not known`)
		w.expect(t, "n1", "Since", begin.UnixMilli())
		_, before := w.shown("n1")
		refused()
		pass(time.Second)
		if list, after := w.shown("n1"); after != before || len(list) != 1 {
			t.Fatalf("%v, published %d times without a change", list, after-before)
		}
		if err := w.m.Stop("n1", "c1"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if list, _ := w.shown("n1"); list != nil {
			t.Fatal(list)
		}
		if err := w.m.Stop("n1", "c1"); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		refused()
		c.TargetType = ""
		if err := w.m.Start(eth0(), c); err != nil {
			t.Fatal(err)
		}
		w.expect(t, "n1", "State", "active")
		if list, _ := w.shown("n1"); len(list) != 1 {
			t.Fatal(list)
		}
	})
}
