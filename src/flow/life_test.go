package flow

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// clocked is a table with the time that its ticks and packets have.
type clocked struct {
	*Table
	now time.Time
}

func newClocked(o Options) *clocked {
	c := &clocked{NewTable(o), time.Unix(1_700_000_000, 0)}
	c.tick(0)
	return c
}

// send counts a packet now.
func (c *clocked) send(data []byte) {
	c.Packets([]Packet{{Data: data, Length: len(data), Time: c.now.UnixNano()}})
}

// tick lets time pass and tells what is reported then: application, end, packets in all and in the interval, and the interval itself in
// seconds since the beginning.
func (c *clocked) tick(d time.Duration) (reports []string) {
	c.now = c.now.Add(d)
	c.Tick(c.now, func(f *Flow) {
		l := f.LastUpdateMetric
		second := func(t int64) int64 { return t/1000 - 1_700_000_000 }
		reports = append(reports, fmt.Sprint(f.Application, " ", f.FinishType, " ", f.Metric.ABPackets, " ", l.ABPackets, " ", second(l.Start), "-", second(l.Last)))
	})
	slices.Sort(reports)
	return reports
}

func (c *clocked) expect(t *testing.T, d time.Duration, want ...string) {
	t.Helper()
	if got := c.tick(d); !slices.Equal(got, want) {
		t.Errorf("at %v: %q, want %q", c.now.Unix()-1_700_000_000, got, want)
	}
}

func arpFrame() []byte {
	return slices.Concat([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4}, make([]byte, 40))
}

// TestUpdates: what changed is reported at the end of the interval, with the difference; what did not is not.
func TestUpdates(t *testing.T) {
	c := newClocked(Options{Update: time.Minute, Expire: 10 * time.Minute})
	c.now = c.now.Add(10 * time.Second)
	c.send(frame(1, 64, false))
	c.expect(t, 49*time.Second)
	c.expect(t, time.Second, "TCP NOT_FINISHED 1 1 10-60")
	c.expect(t, time.Second)
	c.send(frame(1, 64, false))
	c.send(frame(1, 64, false))
	c.expect(t, 59*time.Second, "TCP NOT_FINISHED 3 2 60-120")
	c.expect(t, time.Minute)
	c.Each(func(f *Flow) bool {
		if l := f.LastUpdateMetric; l.ABPackets != 0 || l.ABBytes != 0 || f.Metric.ABPackets != 3 || l.Last-l.Start != 60_000 {
			t.Errorf("%+v", f.LastUpdateMetric)
		}
		return true
	})
	c.expect(t, 8*time.Minute) // 660: the first expiry, of what was idle when the capture began
	c.expect(t, 9*time.Minute)
	c.expect(t, time.Minute, "TCP TIMEOUT 3 0 1200-1260")
	if c.Len() != 0 {
		t.Error(c.Len())
	}
}

// TestApplicationTimeout: an idle flow is reported as ended, stays for a while, and goes.
func TestApplicationTimeout(t *testing.T) {
	c := newClocked(Options{Update: time.Minute, Expire: 10 * time.Minute, ApplicationTimeouts: map[string]time.Duration{"arp": 10 * time.Second, "web": time.Second},
		TCPPorts: map[uint16]string{443: "web", 9: "never"}, UDPPorts: map[uint16]string{443: "quic", 20002: "first"}})
	c.send(arpFrame())
	c.send(frame(1, 64, true))
	c.expect(t, 9*time.Second)
	c.expect(t, time.Second, "ARP TIMEOUT 1 1 0-10")
	c.expect(t, 4*time.Second)
	if c.Len() != 2 {
		t.Error(c.Len())
	}
	c.expect(t, time.Second)
	if c.Len() != 1 {
		t.Errorf("%d flows", c.Len())
	}
	c.send(frame(3, 64, false))
	c.expect(t, time.Second, "WEB TIMEOUT 1 1 15-16")
	c.send(frame(2, 64, true)) // its source port has a name, too
	c.expect(t, 44*time.Second, "FIRST NOT_FINISHED 1 1 16-60", "QUIC NOT_FINISHED 1 1 0-60")
}

// TestFinish: a flow that begins with its end goes soon; one that ends later does not.
func TestFinish(t *testing.T) {
	c := newClocked(Options{Update: time.Minute, Expire: 10 * time.Minute})
	for i, flags := range []byte{tcpFIN | tcpACK, tcpRST, tcpRST | tcpFIN, tcpSYN} {
		f := frame(i+1, 64, false)
		f[47] = flags
		c.send(f)
	}
	end := frame(4, 64, false)
	end[47] = tcpFIN
	c.send(end)
	c.expect(t, 14*time.Second)
	c.expect(t, time.Second, "TCP TCP_FIN 1 1 0-15", "TCP TCP_RST 1 1 0-15", "TCP TCP_RST 1 1 0-15")
	if c.Len() != 1 {
		t.Error(c.Len())
	}
	var left []string
	c.Flush(c.now, func(f *Flow) { left = append(left, fmt.Sprint(f.FinishType, f.Metric.ABPackets)) })
	if !slices.Equal(left, []string{"TIMEOUT 2"}) {
		t.Error(left)
	}
}

// TestOlderTime: a stream that is older than the one before has intervals of its own, and what the table knows of the later time does not stay
// until the older one has caught up.
func TestOlderTime(t *testing.T) {
	c := newClocked(Options{Update: time.Minute, Expire: 10 * time.Minute})
	c.send(frame(1, 64, false))
	c.expect(t, time.Minute, "TCP NOT_FINISHED 1 1 0-60")
	c.send(frame(1, 64, false))
	c.expect(t, -24*time.Hour)
	before := c.now.Unix() - 1_700_000_000
	c.send(frame(2, 64, true))
	c.expect(t, 59*time.Second)
	for _, r := range c.tick(time.Second) {
		if !strings.HasPrefix(r, "TCP NOT_FINISHED 2 1 ") && r != fmt.Sprintf("UDP NOT_FINISHED 1 1 %d-%d", before, before+60) {
			t.Error(r)
		}
	}
	c.send(frame(2, 64, true))
	c.expect(t, time.Minute, fmt.Sprintf("UDP NOT_FINISHED 2 1 %d-%d", before+60, before+120))
	if got := c.tick(8 * time.Minute); len(got) != 1 || !strings.HasPrefix(got[0], "TCP TIMEOUT 2 0 ") || c.Len() != 1 {
		t.Errorf("%q, %d left", got, c.Len())
	}
	// A clock that is set by a little, as clocks are, ends nothing.
	c.send(frame(2, 64, true))
	c.expect(t, -time.Second)
	c.expect(t, 60*time.Second, fmt.Sprintf("UDP NOT_FINISHED 3 1 %d-%d", before+599, before+659))
	// Nor does one that is ahead by years, but for what is idle since.
	c.send(frame(3, 64, true))
	if got := c.tick(5 * 365 * 24 * time.Hour); len(got) != 1 || c.Len() != 2 {
		t.Errorf("%q, %d left", got, c.Len())
	}
}
