package mirror

import (
	"fmt"
	"strings"
	"testing"

	"skydive/src/field"
)

func TestRootMirror(t *testing.T) {
	l := newLab(t)
	w := l.station(t)
	pa, pb := l.port(t, "pa"), l.port(t, "pb")
	first, second, third := asked("c1", "ovsmirror"), asked("c2", "ovsmirror"), asked("c3", "")
	second.BPFFilter = "icmp[0] = 8"
	w.start(t, pa, first)
	w.start(t, pa, second)
	w.start(t, pb, third)
	l.ping(t, 20)
	eventually(t, "packets", func() bool { return w.packets("c1") == 40 && w.packets("c2") == 20 && w.packets("c3") == 40 })

	w.mu.Lock()
	links := fmt.Sprint(w.mirrors)
	w.mu.Unlock()
	if strings.Count(links, "port-pa") != 2 || strings.Count(links, "port-pb") != 1 {
		t.Errorf("mirrors are told as %s", links)
	}
	w.end(t, pa, "c1")
	l.ping(t, 5)
	eventually(t, "packets of what goes on", func() bool { return w.packets("c2") == 25 && w.packets("c3") == 50 })
	w.end(t, pa, "c2")
	w.end(t, pb, "c3")
	l.clean(t)
	if len(w.mirrors) != 0 {
		t.Errorf("mirrors stay: %v", w.mirrors)
	}
	eventually(t, "interfaces gone", func() bool { return !strings.Contains(sh(t, "ip -n %s -br link", l.sw), "mir") })
}

// TestRootBridge: the same packets are counted in each way that a switch tells of a bridge.
func TestRootBridge(t *testing.T) {
	l := newLab(t)
	w := l.station(t)
	br := l.bridge(t, "br0")
	for _, kind := range []string{"ovssflow", "ovsnetflow", "ovsipfix"} {
		c := asked(kind, kind)
		c.SamplingRate, c.PollingInterval = 1, 1
		w.start(t, br, c)
	}
	l.ping(t, 20)
	sh(t, "ip netns exec %s ping -q -b -c 5 -i 0.2 -W 1 10.78.0.255 || true", l.a) // nobody answers what goes out of two ports
	for _, kind := range []string{"ovssflow", "ovsnetflow", "ovsipfix"} {
		eventually(t, "packets of "+kind, func() bool { return w.packets(kind) >= 45 })
	}
	counters := func() field.Object {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.metrics[br.ID+" SFlow"]
	}
	eventually(t, "counters", func() bool {
		octets, _ := counters().Int("Metric.IfInOctets")
		return octets > 20*98
	})
	for _, kind := range []string{"ovssflow", "ovsnetflow", "ovsipfix"} {
		if n, filtered := w.entry(br.ID, kind).Int("PacketsFiltered"); filtered {
			t.Errorf("%s: %d packets are taken for our own", kind, n)
		}
		w.end(t, br, kind)
		if n := w.packets(kind); n != 45 {
			t.Errorf("%s counted %d packets", kind, n)
		}
	}
	if o := counters(); len(o) != 0 {
		t.Errorf("counters stay: %v", o)
	}
	l.clean(t)
}

// What the switch has gathered comes when the capture ends. Of NetFlow it forgets what it has not sent.
func TestRootLastRecords(t *testing.T) {
	l := newLab(t)
	w := l.station(t)
	br, c := l.bridge(t, "br0"), asked("c", "ovsipfix")
	w.start(t, br, c)
	l.ping(t, 10)
	w.end(t, br, "c")
	if n := w.packets("c"); n != 20 {
		t.Errorf("%d packets", n)
	}
	l.clean(t)
}
