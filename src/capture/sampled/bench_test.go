package sampled

import (
	"encoding/binary"
	"slices"
	"syscall"
	"testing"

	"skydive/src/capture"
	"skydive/src/flow"
	"skydive/src/resource"
)

// stream5 is a datagram of NetFlow version 5 with 30 records.
func stream5() []byte {
	b := slices.Concat(words(netflow5, 30), xdr(3_600_000, now, 0, 0), words(0, 0))
	for i := range byte(30) {
		b = slices.Concat(b, []byte{10, 0, 0, i, 10, 0, 1, i}, xdr(0), words(1, 2), xdr(10, 1000, 3_500_000, 3_590_000), words(uint16(i)*100, 80), []byte{0, 0x18, 6, 0}, xdr(0, 0))
	}
	return b
}

// stream9 is one of version 9 or IPFIX with 24 records; the first has their template as well.
func stream9(version uint16) (first, next []byte) {
	m := message{version: version, uptime: 3_600_000, at: now}
	template := words(300, 14, 8, 4, 12, 4, 7, 2, 11, 2, 4, 1, 6, 1, 2, 4, 1, 4, 10, 4, 14, 4, 22, 4, 21, 4, 56, 6, 80, 6)
	var records []byte
	for i := range byte(24) {
		records = slices.Concat(records, []byte{10, 0, 0, i, 10, 0, 1, i}, words(uint16(i)*100, 80), []byte{6, 0x18}, xdr(10, 1000, 1, 2, 3_500_000, 3_590_000),
			[]byte{2, 0, 0, 0, 0, i, 2, 0, 0, 0, 1, i})
	}
	id := uint16(setTemplates)
	if version == netflow9 {
		id = 0
	}
	return m.set(id, template...).set(300, records...).bytes(), m.set(300, records...).bytes()
}

// streamS is a datagram of sFlow with 8 samples, and the counters of an interface.
func streamS() []byte {
	var samples [][]byte
	for i := range 8 {
		b := append(frame(i%2 == 0, 1000), make([]byte, 86)...)
		b[36] = byte(i)
		samples = append(samples, sample(3, 512, 0, 3, 4, raw(b, 1000)))
	}
	return sflowDatagram(0, 0, append(samples, counts(1, 1000, 10, 5))...)
}

// measure feeds the same datagram again and again, with another number each time. It reports the time of the processor, since others may have it too.
func measure(b *testing.B, kind func(capture.Request, Options) *Source, number int, perDatagram uint32, all ...[]byte) {
	r := newReplay(b, kind, flow.Options{}, resource.Capture{})
	r.feed(at(0), exporterAddress, all...)
	d := slices.Clone(all[len(all)-1])
	next := perDatagram * uint32(len(all))
	var began, ended syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &began)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		binary.BigEndian.PutUint32(d[number:], next)
		r.take(d, exporterAddress, now*1e9)
		next += perDatagram
		n++
	}
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ended)
	spent := ended.Utime.Nano() - began.Utime.Nano() + ended.Stime.Nano() - began.Stime.Nano()
	b.ReportMetric(float64(spent)/float64(n), "cpu-ns/op")
	if c := r.Counters(); c.Malformed+c.Missing+c.Repeated+c.Unknown != 0 {
		b.Fatalf("%+v", c)
	}
}

func BenchmarkDatagram(b *testing.B) {
	b.Run("netflow5 of 30 records", func(b *testing.B) { measure(b, offNetflow, 16, 30, stream5()) })
	first, next := stream9(netflow9)
	b.Run("netflow9 of 24 records", func(b *testing.B) { measure(b, offNetflow, 12, 1, first, next) })
	first, next = stream9(ipfix)
	b.Run("ipfix of 24 records", func(b *testing.B) { measure(b, offNetflow, 8, 24, first, next) })
	b.Run("sflow of 8 samples", func(b *testing.B) { measure(b, offSFlow, 16, 1, streamS()) })
}

// TestNothingIsAllocated is what the benchmark shows as well.
func TestNothingIsAllocated(t *testing.T) {
	first, next := stream9(ipfix)
	for name, c := range map[string]struct {
		kind   func(capture.Request, Options) *Source
		number int
		per    uint32
		all    [][]byte
	}{
		"netflow5": {offNetflow, 16, 30, [][]byte{stream5()}}, "ipfix": {offNetflow, 8, 24, [][]byte{first, next}}, "sflow": {offSFlow, 16, 1, [][]byte{streamS()}},
	} {
		r := newReplay(t, c.kind, flow.Options{}, resource.Capture{})
		r.feed(at(0), exporterAddress, c.all...)
		d := slices.Clone(c.all[len(c.all)-1])
		number := c.per * uint32(len(c.all))
		if n := testing.AllocsPerRun(100, func() {
			binary.BigEndian.PutUint32(d[c.number:], number)
			number += c.per
			r.take(d, exporterAddress, now*1e9)
		}); n != 0 {
			t.Errorf("%s: %v allocations per datagram", name, n)
		}
	}
}
