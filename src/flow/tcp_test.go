package flow

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"
)

// segmentOf makes a TCP segment of one connection, from A or as an answer from B.
func segmentOf(back bool, flags byte, seq uint32, size int) []byte {
	b := make([]byte, 54+size)
	copy(b, frame(1, 64, false)[:54])
	if back {
		copy(b, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2})
		binary.BigEndian.PutUint64(b[26:], bits64(frame(1, 64, false)[30:34], frame(1, 64, false)[26:30]))
		binary.BigEndian.PutUint32(b[34:], 443<<16|20001)
	}
	binary.BigEndian.PutUint16(b[16:], uint16(40+size))
	binary.BigEndian.PutUint32(b[38:], seq)
	b[47] = flags
	return b
}

func bits64(hi, lo []byte) uint64 {
	return uint64(binary.BigEndian.Uint32(hi))<<32 | uint64(binary.BigEndian.Uint32(lo))
}

func echoOf(back bool, seq uint16) []byte {
	b := segmentOf(back, 0, 0, 0)
	b[23], b[34], b[35] = 1, 8, 0
	binary.BigEndian.PutUint32(b[38:], 77<<16|uint32(seq))
	if back {
		b[34] = 0
	}
	return b
}

// TestRTT: from a question to its own answer.
func TestRTT(t *testing.T) {
	type packet struct {
		after time.Duration
		data  []byte
	}
	const msec = time.Millisecond
	syn, synAck, rst := segmentOf(false, tcpSYN, 1, 0), segmentOf(true, tcpSYN|tcpACK, 1, 0), segmentOf(true, tcpRST|tcpACK, 1, 0)
	for _, c := range []struct {
		name    string
		packets []packet
		want    time.Duration
	}{
		{"SYN/ACK", []packet{{0, syn}, {7 * msec, synAck}}, 7 * msec},
		{"RST", []packet{{0, syn}, {7 * msec, rst}}, 7 * msec},
		{"SYN again", []packet{{0, syn}, {5 * msec, syn}, {7 * msec, synAck}}, 12 * msec},
		{"no answer", []packet{{0, syn}, {7 * msec, segmentOf(false, tcpRST, 1, 0)}}, 0},
		{"no question", []packet{{0, segmentOf(false, tcpACK, 1, 0)}, {msec, synAck}}, 0},
		{"second connection", []packet{{0, syn}, {7 * msec, synAck}, {msec, syn}, {3 * msec, synAck}}, 3 * msec},
		{"echo", []packet{{0, echoOf(false, 1)}, {4 * msec, echoOf(true, 1)}}, 4 * msec},
		{"last echo", []packet{{0, echoOf(false, 1)}, {4 * msec, echoOf(true, 1)}, {msec, echoOf(false, 2)}, {6 * msec, echoOf(true, 2)}}, 6 * msec},
		{"several at once", []packet{{0, echoOf(false, 1)}, {4 * msec, echoOf(false, 2)}, {4 * msec, echoOf(true, 1)}, {4 * msec, echoOf(true, 2)}}, 8 * msec},
		{"a lost reply", []packet{{0, echoOf(false, 1)}, {time.Second, echoOf(false, 2)}, {4 * msec, echoOf(true, 2)}}, 0},
		{"after a lost reply", []packet{{0, echoOf(false, 1)}, {6 * time.Second, echoOf(false, 2)}, {4 * msec, echoOf(true, 2)}}, 4 * msec},
		{"clock set back", []packet{{0, echoOf(false, 1)}, {-time.Hour, echoOf(true, 1)}, {msec, echoOf(false, 2)}, {3 * msec, echoOf(true, 2)}}, 3 * msec},
	} {
		table := newClocked(Options{})
		for _, p := range c.packets {
			table.now = table.now.Add(p.after)
			table.send(p.data)
		}
		table.Each(func(f *Flow) bool {
			if f.Metric.RTT != int64(c.want) {
				t.Errorf("%s: %v, want %v", c.name, time.Duration(f.Metric.RTT), c.want)
			}
			return true
		})
		if table.Len() != 1 {
			t.Errorf("%s: %d flows", c.name, table.Len())
		}
	}
}

// TestReassembly: the counters that the data of a connection would have if they were put together.
func TestReassembly(t *testing.T) {
	type segments [][]byte
	a := func(flags byte, seq uint32, size int) []byte { return segmentOf(false, flags, seq, size) }
	many := segments{a(tcpSYN, 99, 0)}
	for i := range uint32(waitingMax + 5) {
		many = append(many, a(tcpACK, 200+10*i, 10))
	}
	for _, c := range []struct {
		name     string
		segments segments
		late     bool   // after gaps are given up
		want     string // out of order, skipped, bytes of it, packets, bytes, start, end
	}{
		{"in order", segments{a(tcpSYN, 99, 0), a(tcpACK, 100, 10), a(tcpACK, 110, 10), a(tcpFIN|tcpACK, 120, 0)}, false, "0 0 0 4 20 1 1"},
		{"again", segments{a(tcpSYN, 99, 0), a(tcpACK, 100, 10), a(tcpACK, 100, 10)}, false, "0 0 0 3 10 1 0"},
		{"overlap", segments{a(tcpSYN, 99, 0), a(tcpACK, 100, 10), a(tcpACK, 105, 10)}, false, "0 0 0 3 15 1 0"},
		{"out of order", segments{a(tcpSYN, 99, 0), a(tcpACK, 110, 10), a(tcpACK, 100, 10)}, false, "1 0 0 3 20 1 0"},
		{"two alike wait", segments{a(tcpSYN, 99, 0), a(tcpACK, 110, 10), a(tcpACK, 110, 20), a(tcpACK, 100, 10)}, false, "2 0 0 4 30 1 0"},
		{"gap", segments{a(tcpSYN, 99, 0), a(tcpACK, 110, 10)}, false, "0 0 0 1 0 1 0"},
		{"gap given up", segments{a(tcpSYN, 99, 0), a(tcpACK, 110, 10)}, true, "0 1 10 2 10 1 0"},
		{"too much waits", many, false, fmt.Sprintf("0 1 100 %d %d 1 0", waitingMax+6, 10*(waitingMax+5))},
		{"sequence wraps", segments{a(tcpSYN, 1<<32-6, 0), a(tcpACK, 5, 10), a(tcpACK, 1<<32-5, 10)}, false, "1 0 0 3 20 1 0"},
		{"late capture", segments{a(tcpACK, 500, 10), a(tcpACK, 510, 10), a(tcpACK, 490, 10)}, false, "0 0 0 3 20 0 0"},
		{"ended by RST", segments{a(tcpSYN, 99, 0), a(tcpRST, 100, 0), a(tcpACK, 100, 10)}, false, "0 0 0 2 0 1 1"},
	} {
		table := newClocked(Options{ReassembleTCP: true})
		for _, s := range c.segments {
			table.now = table.now.Add(time.Millisecond)
			table.send(s)
		}
		if c.late {
			table.tick(29 * time.Second)
			table.tick(2 * time.Second)
		}
		table.Each(func(f *Flow) bool {
			m := f.TCPMetric
			got := fmt.Sprint(m.ABSegmentOutOfOrder, " ", m.ABSegmentSkipped, " ", m.ABSegmentSkippedBytes, " ", m.ABPackets, " ", m.ABBytes, " ", m.ABSawStart, " ", m.ABSawEnd)
			if got != c.want {
				t.Errorf("%s: %s, want %s", c.name, got, c.want)
			}
			if m.BAPackets != 0 || m.BABytes != 0 {
				t.Errorf("%s: %+v", c.name, m)
			}
			return true
		})
		table.Flush(table.now, func(*Flow) {})
		if table.waiting != 0 {
			t.Errorf("%s: %d segments wait in an empty table", c.name, table.waiting)
		}
	}
}

// TestTCPMetric: when and with which TTL each side began and ended.
func TestTCPMetric(t *testing.T) {
	table := newClocked(Options{ExtraTCPMetric: true})
	back := segmentOf(true, tcpSYN|tcpACK, 1, 0)
	back[22] = 57
	for _, s := range [][]byte{segmentOf(false, tcpSYN, 1, 0), back, segmentOf(false, tcpACK, 2, 5), segmentOf(false, tcpFIN|tcpACK, 7, 0),
		segmentOf(true, tcpFIN|tcpACK, 2, 0), segmentOf(true, tcpRST, 2, 0), segmentOf(false, tcpFIN, 7, 0), segmentOf(false, tcpRST, 2, 0)} {
		table.now = table.now.Add(time.Second)
		table.send(s)
	}
	at := func(s int64) int64 { return (1_700_000_000 + s) * 1000 }
	want := TCPMetric{ABSynStart: at(1), BASynStart: at(2), ABSynTTL: 64, BASynTTL: 57, ABFinStart: at(4), BAFinStart: at(5), BARstStart: at(6), ABRstStart: at(8)}
	table.Each(func(f *Flow) bool {
		if *f.TCPMetric != want {
			t.Errorf("%+v, want %+v", *f.TCPMetric, want)
		}
		return true
	})
}

// TestRawPackets are kept for the life of a flow only so many times, and reported once.
func TestRawPacketsOfAFlow(t *testing.T) {
	c := newClocked(Options{Update: time.Minute, RawPacketLimit: 3, HeaderSize: 60})
	var got []string
	tick := func(d time.Duration) {
		c.now = c.now.Add(d)
		c.Tick(c.now, func(f *Flow) {
			for _, p := range f.LastRawPackets {
				got = append(got, fmt.Sprint(p.Index, " ", len(p.Data), " ", f.RawPacketsCaptured, " ", p.LinkType, " ", p.Timestamp/1000-1_700_000_000))
			}
		})
	}
	c.send(frame(1, 64, false))
	c.send(frame(1, 54, false))
	tick(time.Minute)
	c.send(frame(1, 64, false))
	c.send(frame(1, 64, false))
	tick(time.Minute)
	if want := []string{"1 60 2 1 0", "2 54 2 1 0", "3 60 3 1 60"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if c.raw != 0 {
		t.Errorf("%d bytes held", c.raw)
	}
	// All flows together hold no more than rawBytes.
	c = newClocked(Options{RawPacketLimit: 10, HeaderSize: 4096, MaxEntries: 1 << 16})
	big := make([]byte, 4096)
	for n := range 20_000 {
		copy(big, frame(n, 64, true))
		binary.BigEndian.PutUint16(big[16:], 4000)
		c.send(big)
	}
	if counts := c.Counts(); c.raw > rawBytes || c.raw < rawBytes-4096 || counts.RawPacketsDropped != 20_000-rawBytes/4096 {
		t.Errorf("%d bytes held, %+v", c.raw, counts)
	}
}
