package ondemand

import (
	"testing"
	"testing/synctest"
	"time"

	"skydive/src/field"
)

// The port that a mirror of another puts on a switch, and its interface, are not captured as well: there would be no end to it.
func TestMirrorsAreNotCaptured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		mark := field.Make("iface-id", "x", "skydive-probe-id", "c1/u/1")
		l.add("port", "h1", "Type", "ovsport", "ExtID", field.Make("iface-id", "x"))
		l.add("mirror", "h1", "Type", "ovsport", "ExtID", mark)
		e := NewCaptures(l.options())
		l.run(e)
		l.capture("c1", "G.V().Has('State','UP')")
		l.capture("c2", "G.V().Has('Type','ovsport').In('Type','ovsbridge').Out()")
		expect(t, l.after(100*time.Millisecond), "h1 Start port c1")
		// The kernel's interface is there before it is known what it is for.
		l.add("interface", "h1", "Type", "tun")
		expect(t, l.after(100*time.Millisecond), "h1 Start interface c1")
		l.edit("interface", "ExtID", mark)
		expect(t, l.after(100*time.Millisecond), "h1 Stop interface c1")
	})
}
