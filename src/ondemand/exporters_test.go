package ondemand

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"skydive/src/resource"
)

// TestListenersAreToldOfTheFabric sees that agents that listen know which nodes the interfaces of exporters are, also when that changes.
func TestListenersAreToldOfTheFabric(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("host", "h1", "Type", "host")
		l.add("eth0", "h1")
		l.add("tor1", "", "Type", "device", "Exporter", "192.0.2.7", "IfIndex", "1")
		l.add("tor2", "", "Type", "device", "Exporter", "192.0.2.7", "IfIndex", 2)
		l.add("twin", "", "Type", "device", "Exporter", "::ffff:192.0.2.7", "IfIndex", 2)
		l.add("bad1", "", "Type", "device", "Exporter", "nobody", "IfIndex", 2)
		l.add("bad2", "", "Type", "device", "Exporter", "192.0.2.7")
		e := NewCaptures(l.options())
		stop := l.run(e)
		known := func(node string) (text string) {
			var c resource.Capture
			l.mu.Lock()
			defer l.mu.Unlock()
			if err := json.Unmarshal([]byte(l.bodies[node]), &c); err != nil {
				t.Fatal(err)
			}
			for _, x := range c.Exporters {
				text += fmt.Sprintf("%s/%d=%s ", x.Address, x.IfIndex, x.TID)
			}
			return text
		}
		l.put("capture", &resource.Capture{Identity: resource.Identity{UUID: "c1"}, GremlinQuery: "G.V().Has('Type',WITHIN('host','veth'))", Type: "sflow"})
		l.put("capture", &resource.Capture{Identity: resource.Identity{UUID: "c2"}, GremlinQuery: "G.V()"}) // of hosts only what is asked for by name
		expect(t, l.after(100*time.Millisecond), "h1 Start host c1", "h1 Start eth0 c1", "h1 Start eth0 c2")
		want := "192.0.2.7/1=tid-tor1 192.0.2.7/2=tid-tor2 "
		if got := known("host"); got != want {
			t.Errorf("told of %s", got)
		}
		expect(t, l.after(time.Minute))
		// What else changes on a node does not matter.
		l.edit("tor2", "Speed", 10)
		expect(t, l.after(time.Minute))
		l.edit("tor2", "IfIndex", 7)
		expect(t, l.after(100*time.Millisecond), "h1 Start host c1", "h1 Start eth0 c1")
		if got := known("host"); got != "192.0.2.7/1=tid-tor1 192.0.2.7/2=tid-twin 192.0.2.7/7=tid-tor2 " {
			t.Errorf("told of %s", got)
		}
		// While the agent is away; it is told when it is back.
		l.set(l.away, "h1", true)
		l.delete("twin")
		l.after(10 * time.Second)
		l.set(l.away, "h1", false)
		l.after(10 * time.Second)
		if got := known("eth0"); got != "192.0.2.7/1=tid-tor1 192.0.2.7/7=tid-tor2 " {
			t.Errorf("told of %s", got)
		}
		expect(t, l.after(time.Minute))
		if s := states(e, "c1"); s["host"] != Active || s["eth0"] != Active {
			t.Error(s)
		}
		// Whoever leads next tells once, since nobody knows what was told before.
		stop()
		l.run(NewCaptures(l.options()))
		expect(t, l.after(time.Second), "h1 Start host c1", "h1 Start eth0 c1")
		expect(t, l.after(time.Minute))
	})
}
