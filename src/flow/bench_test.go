package flow

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// frame makes an Ethernet frame with a TCP (or UDP) packet of flow n.
func frame(n, size int, udp bool) []byte {
	b := make([]byte, size)
	binary.BigEndian.PutUint64(b[4:], 0x0200_0000_0001_0800|uint64(n&7)<<16) // second half of the destination, source
	copy(b, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, byte(n & 7), 8, 0, 0x45})
	binary.BigEndian.PutUint16(b[16:], uint16(size-14))
	b[22], b[23] = 64, 6
	if udp {
		b[23] = 17
		binary.BigEndian.PutUint16(b[38:], uint16(size-34))
	}
	binary.BigEndian.PutUint32(b[26:], 10<<24|uint32(n>>8))
	binary.BigEndian.PutUint32(b[30:], 10<<24|1<<23|uint32(n%251))
	binary.BigEndian.PutUint16(b[34:], uint16(20000+n%40000))
	binary.BigEndian.PutUint16(b[36:], 443)
	if !udp {
		b[46], b[47] = 5<<4, 0x10
	}
	return b
}

// imix has the size of the i-th packet: 7 of 64, 4 of 594, 1 of 1518 bytes.
func imix(i int) int {
	switch n := i % 12; {
	case n < 7:
		return 64
	case n < 11:
		return 594
	}
	return 1518
}

// ring is frames as a capture's ring has them: just written, in flow order that nothing can foresee.
type ring struct {
	data    [256][64]byte
	packets [256]Packet
	order   []uint32
	at      int
}

func newRing(flows int) *ring {
	r := &ring{order: make([]uint32, 1<<20)}
	for i := range r.order {
		r.order[i] = uint32(rand.IntN(flows))
	}
	for i := range r.packets {
		copy(r.data[i][:], frame(0, 64, false))
		r.packets[i] = Packet{Data: r.data[i][:], Length: imix(i), Time: int64(time.Second)}
	}
	return r
}

// fill writes the next frames, in either direction.
func (r *ring) fill() []Packet {
	for i := range r.packets {
		n := r.order[r.at]
		r.at = (r.at + 1) & (len(r.order) - 1)
		rewrite(&r.data[i], int(n), r.at&1 == 0)
	}
	return r.packets[:]
}

// rewrite makes a frame one of flow n, or one of its answers.
func rewrite(d *[64]byte, n int, back bool) {
	a, b := 10<<24|uint32(n>>8), 10<<24|1<<23|uint32(n%251)
	pa, pb := uint32(20000+n%40000), uint32(443)
	d[5], d[11] = 2, byte(n&7)
	if back {
		a, b, pa, pb = b, a, pb, pa
		d[5], d[11] = d[11], d[5]
	}
	binary.BigEndian.PutUint32(d[26:], a)
	binary.BigEndian.PutUint32(d[30:], b)
	binary.BigEndian.PutUint32(d[34:], pa<<16|pb)
	d[23], d[46], d[47] = 6, 5<<4, 0x10
	if n%4 == 0 {
		d[23] = 17
		binary.BigEndian.PutUint16(d[38:], 30)
	}
}

func allFlows(flows int) []Packet {
	ps := make([]Packet, flows)
	for i := range ps {
		f := frame(i, 64, i%4 == 0)
		ps[i] = Packet{Data: f, Length: 64, Time: int64(time.Second)}
	}
	return ps
}

func BenchmarkTable(b *testing.B) {
	for _, flows := range []int{1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(flows), func(b *testing.B) {
			t := NewTable(Options{MaxEntries: 2_000_000})
			t.Packets(allFlows(flows))
			if t.Len() != flows {
				b.Fatalf("%d flows", t.Len())
			}
			r := newRing(flows)
			b.ReportAllocs()
			b.ResetTimer()
			begin := threadTime(b)
			for i := 0; i < b.N; i += len(r.packets) {
				t.Packets(r.fill())
			}
			end := threadTime(b)
			b.StopTimer()
			for i := 0; i < b.N; i += len(r.packets) {
				r.fill()
			}
			fill := threadTime(b) - end
			b.ReportMetric(float64(end-begin-fill)/float64(b.N), "packet-ns/op")
			if t.Len() != flows {
				b.Fatalf("%d flows", t.Len())
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	t := NewTable(Options{})
	ps := newRing(1000).fill()
	var levels [maxLevels]level
	b.ReportAllocs()
	cpu := threadTime(b)
	for i := range b.N {
		t.decode(&ps[i&255], t.first, &levels)
	}
	b.ReportMetric(float64(threadTime(b)-cpu)/float64(b.N), "cpu-ns/op")
}

func BenchmarkQuick(b *testing.B) {
	t := NewTable(Options{})
	ps := newRing(1000).fill()
	var q quick
	b.ReportAllocs()
	for i := range b.N {
		t.quick(&ps[i&255], &q)
	}
}

func BenchmarkCreate(b *testing.B) {
	ps := allFlows(1 << 19)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; {
		b.StopTimer()
		t := NewTable(Options{})
		b.StartTimer()
		for from := 0; from < len(ps) && i < b.N; {
			n := min(256, b.N-i, len(ps)-from)
			t.Packets(ps[from : from+n])
			i += n
			from += n
		}
	}
}

func BenchmarkMemory(b *testing.B) {
	for _, flows := range []int{50_000, 500_000} {
		b.Run(fmt.Sprint(flows), func(b *testing.B) {
			for range b.N {
				ps := allFlows(flows)
				before := resident(b)
				t := NewTable(Options{})
				t.Packets(ps)
				b.ReportMetric(float64(resident(b)-before)/float64(flows), "B/flow")
				t.Flush(time.Unix(2, 0), func(*Flow) {})
				runtime.KeepAlive(ps)
			}
		})
	}
}

func BenchmarkTick(b *testing.B) {
	for _, flows := range []int{50_000, 500_000} {
		b.Run(fmt.Sprint(flows), func(b *testing.B) {
			t := NewTable(Options{Update: time.Minute})
			ps := allFlows(flows)
			now := time.Unix(1, 0)
			t.Tick(now, nil)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				t.Packets(ps)
				now = now.Add(time.Minute)
				b.StartTimer()
				n := 0
				t.Tick(now, func(*Flow) { n++ })
				if n != flows {
					b.Fatal(n)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*flows), "ns/flow")
		})
	}
}
