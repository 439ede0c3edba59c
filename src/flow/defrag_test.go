package flow

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// piece makes a fragment of a UDP datagram: offset in bytes, size of its data (with the UDP header where it is the first).
func piece(id, offset, size int, more bool) []byte {
	b := make([]byte, max(34+size, 60))
	copy(b, frame(1, 64, true)[:42])
	binary.BigEndian.PutUint16(b[16:], uint16(20+size))
	binary.BigEndian.PutUint16(b[18:], uint16(id))
	flags := uint16(offset / 8)
	if more {
		flags |= 0x2000
	}
	binary.BigEndian.PutUint16(b[20:], flags)
	if offset > 0 {
		clear(b[34:])
	} else {
		binary.BigEndian.PutUint16(b[38:], 1400)
	}
	return b
}

// fragmentsOf are the flows of a table: their path, packets, bytes, fragments and errors.
func fragmentsOf(t *testing.T, c *Table) (flows []string) {
	t.Helper()
	c.Each(func(f *Flow) bool {
		flows = append(flows, fmt.Sprint(strings.TrimPrefix(f.LayersPath, "Ethernet/IPv4/"), " ", f.Metric.ABPackets, " ", f.Metric.ABBytes, " ", f.IPMetric.Fragments, " ", f.IPMetric.FragmentErrors))
		return true
	})
	slices.Sort(flows)
	return flows
}

// TestDefragRecorded: fragments count for the flow whose ports the first one has, every packet of them, in whatever order they come. The
// identifiers are the public ones.
func TestDefragRecorded(t *testing.T) {
	table := NewTable(Options{IPDefrag: true})
	table.Packets(readPcap(t, filepath.Join("testdata", "pcap", "13-ipfrag.pcap")))
	want := []string{"Fragment/UDP 2 2076 2 0", "Fragment/UDP 2 2594 2 0", "Fragment/UDP 4 4192 3 0"}
	got := fragmentsOf(t, table)
	if len(got) != 3 || got[0] != want[0] {
		t.Errorf("%q, want %q", got, want)
	}
	for _, v := range readVectors(t, "afpacket-defrag")["13-ipfrag.pcap"] {
		found := false
		table.Search(textFilter("TrackingID", v.TrackingID), func(f *Flow) bool {
			found = f.LayersPath == v.LayersPath && f.L3TrackingID == v.L3TrackingID && f.Transport.A == v.Transport.A
			return true
		})
		if !found {
			t.Errorf("no flow %s", v.TrackingID)
		}
	}
}

// TestDefrag: what is missing is counted, for the flow if the first fragment came, else for one of fragments.
func TestDefrag(t *testing.T) {
	for _, c := range []struct {
		name       string
		pieces     [][]byte
		soon, late []string // in the table before and after what is missing is given up
	}{
		{"in order", [][]byte{piece(1, 0, 800, true), piece(1, 800, 600, false)}, []string{"Fragment/UDP 2 1468 2 0"}, []string{"Fragment/UDP 2 1468 2 0"}},
		{"last first", [][]byte{piece(1, 800, 600, false), piece(1, 0, 800, true)}, []string{"Fragment/UDP 2 1468 2 0"}, []string{"Fragment/UDP 2 1468 2 0"}},
		{"two at once", [][]byte{piece(1, 0, 800, true), piece(2, 0, 800, true), piece(2, 800, 600, false), piece(1, 800, 600, false)},
			[]string{"Fragment/UDP 4 2936 4 0"}, []string{"Fragment/UDP 4 2936 4 0"}},
		{"middle lost", [][]byte{piece(1, 0, 400, true), piece(1, 800, 600, false)}, []string{"Fragment/UDP 2 1068 2 0"}, []string{"Fragment/UDP 2 1068 2 1"}},
		{"last lost", [][]byte{piece(1, 0, 800, true)}, []string{"Fragment/UDP 1 834 1 0"}, []string{"Fragment/UDP 1 834 1 1"}},
		{"first lost", [][]byte{piece(1, 800, 600, true), piece(1, 1400, 600, false)}, nil, []string{"Fragment 2 1268 2 2"}},
		{"whole", [][]byte{frame(1, 64, true)}, []string{"UDP 1 64 0 0"}, []string{"UDP 1 64 0 0"}},
		{"same key later", [][]byte{piece(1, 0, 800, true), piece(1, 800, 600, false), piece(1, 0, 800, true), piece(1, 800, 600, false)},
			[]string{"Fragment/UDP 4 2936 4 0"}, []string{"Fragment/UDP 4 2936 4 0"}},
	} {
		table := newClocked(Options{IPDefrag: true})
		for _, p := range c.pieces {
			table.send(p)
		}
		if got := fragmentsOf(t, table.Table); !slices.Equal(got, c.soon) {
			t.Errorf("%s: %q, want %q", c.name, got, c.soon)
		}
		table.tick(31 * time.Second)
		if got := fragmentsOf(t, table.Table); !slices.Equal(got, c.late) {
			t.Errorf("%s: %q in the end, want %q", c.name, got, c.late)
		}
		if f := &table.frags; len(f.byKey) != 0 || f.first != nil || f.last != nil {
			t.Errorf("%s: %d datagrams left", c.name, len(f.byKey))
		}
	}
}

// TestDefragIsBounded: neither datagrams that are never complete nor one of them among many that are fill memory.
func TestDefragIsBounded(t *testing.T) {
	table := newClocked(Options{IPDefrag: true})
	listed := func() (n int) {
		for d := table.frags.first; d != nil; d = d.next {
			n++
		}
		return n
	}
	table.send(piece(0, 0, 800, true))
	for id := 1; id < 60_000; id++ {
		table.send(piece(id, 0, 800, true))
		if id%3 > 0 {
			table.send(piece(id, 800, 600, false))
		}
		if n := len(table.frags.byKey); n > datagramsMax {
			t.Fatalf("%d datagrams", n)
		}
	}
	n := listed()
	if n != len(table.frags.byKey) || n < datagramsMax-1 {
		t.Errorf("%d datagrams in the list, %d in the map", n, len(table.frags.byKey))
	}
	if c := table.Counts(); c.FragmentsDropped != int64(20_000-n) {
		t.Errorf("%+v", c)
	}
	table.Flush(table.now, func(f *Flow) {
		if f.IPMetric.FragmentErrors != 20_000 {
			t.Errorf("%+v", f.IPMetric)
		}
	})
	if listed() != 0 || len(table.frags.byKey) != 0 {
		t.Error("datagrams left")
	}
}
