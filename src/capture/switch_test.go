package capture

import (
	"errors"
	"testing"

	"skydive/src/resource"
)

// A mirror sees our own traffic without being an interface, and what it finds can go to a target of ours.
func TestTrafficOfAPort(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		port := Node{ID: "p1", TID: "t1", Name: "vnet0", Type: "ovsport", UUID: "u1", Up: true}
		if err := w.m.Start(port, asked("c1")); err != nil {
			t.Fatal(err)
		}
		w.expect(t, "p1", "State", "active")
		r := w.last().Request
		if r.Filter == nil || r.Node.UUID != "u1" {
			t.Fatalf("our own traffic is taken, too: %+v", r)
		}
		made := len(w.made)
		port.UUID = "u2"
		w.m.Update(port)
		w.expect(t, "p1", "State", "active")
		if len(w.made) != made+1 || w.last().Node.UUID != "u2" {
			t.Fatal("the port is another, and the source the same")
		}

		// An interface that is plugged into a switch stays what it is.
		if err := w.m.Start(eth0(), asked("c2")); err != nil {
			t.Fatal(err)
		}
		w.expect(t, "n1", "State", "active")
		made = len(w.made)
		plugged := eth0()
		plugged.UUID = "u3"
		w.m.Update(plugged)
		w.expect(t, "n1", "State", "active")
		if len(w.made) != made {
			t.Fatal("a capture began anew")
		}
	})
}

// A switch sends to the target itself: no target of ours is made, whatever the type says.
func TestExports(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		bridge := Node{ID: "b1", TID: "t1", Name: "br0", Type: "ovsbridge", UUID: "u1", Up: true}
		for i, c := range []struct {
			target, targetType string
			want, reason       string
		}{
			{"192.0.2.9:4739", "", "192.0.2.9:4739", ""},
			{"192.0.2.9:4739", "erspanv9", "192.0.2.9:4739", ""},
			{"", "", "", ""},
			{"", "netflowv9", "", `targets of type "netflowv9" are not known`},
			{"192.0.2.9", "", "", `target "192.0.2.9" is not host:port`},
		} {
			asked := resource.Capture{Type: "ovsipfix", Target: c.target, TargetType: c.targetType}
			asked.UUID = string(rune('a' + i))
			err := w.m.Start(bridge, asked)
			if c.reason != "" {
				var refused *RefusedError
				if !errors.As(err, &refused) || refused.Reason != c.reason {
					t.Errorf("%+v: %v", c, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			w.expect(t, "b1", "State", "active")
			if got := w.last().Capture; got.Target != c.want || got.TargetType != "" || w.last().Filter != nil {
				t.Errorf("%+v: %+v", c, got)
			}
			if err := w.m.Stop("b1", asked.UUID); err != nil {
				t.Fatal(err)
			}
		}
	})
}
