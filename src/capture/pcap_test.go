package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"skydive/src/flow"
)

// pcapFile writes packets in any of the formats.
func pcapFile(order binary.AppendByteOrder, magic, link uint32, packets []flow.Packet) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	for _, v := range []uint32{0, 0, 65535, link} {
		b = order.AppendUint32(b, v)
	}
	unit := int64(1000)
	if magic == pcapNano {
		unit = 1
	}
	for _, p := range packets {
		b = order.AppendUint32(b, uint32(p.Time/1e9))
		b = order.AppendUint32(b, uint32(p.Time%1e9/unit))
		b = order.AppendUint32(b, uint32(len(p.Data)))
		b = order.AppendUint32(b, uint32(p.Length))
		b = append(b, p.Data...)
	}
	return b
}

// readAll returns copies of all packets, as far as the stream is good.
func readAll(r io.Reader, snapLen int) (all []flow.Packet, p *PcapReader, err error) {
	if p, err = NewPcapReader(r, snapLen); err != nil {
		return nil, nil, err
	}
	for {
		batch, err := p.Next()
		if err != nil {
			return all, p, err
		}
		for _, q := range batch {
			q.Data = bytes.Clone(q.Data)
			all = append(all, q)
		}
	}
}

func TestPcapFormats(t *testing.T) {
	packets := frames(3000) // more than a buffer
	for i := range packets {
		packets[i].Length, packets[i].Time = 1000+i, 1700000000123456000+int64(i)*1000
	}
	packets[17].Data = make([]byte, maxPcapPacket)
	for name, file := range map[string][]byte{
		"little": pcapFile(binary.LittleEndian, pcapMicro, 1, packets), "big": pcapFile(binary.BigEndian, pcapMicro, 1, packets),
		"little ns": pcapFile(binary.LittleEndian, pcapNano, 12, packets), "big ns": pcapFile(binary.BigEndian, pcapNano, 0x10000001, packets),
	} {
		readers := map[string]io.Reader{"whole": bytes.NewReader(file), "halves": iotest.HalfReader(bytes.NewReader(file))}
		if name == "little" {
			readers["bytes"] = iotest.OneByteReader(bytes.NewReader(file))
		}
		for how, r := range readers {
			got, p, err := readAll(r, 50)
			if err != io.EOF || len(got) != len(packets) || p.Count() != int64(len(packets)) {
				t.Fatalf("%s, %s: %d packets, %v", name, how, len(got), err)
			}
			if _, err := p.FirstLayer(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for i, q := range got {
				if q.Time != packets[i].Time || q.Length != max(packets[i].Length, len(packets[i].Data)) || !bytes.Equal(q.Data, packets[i].Data[:50]) {
					t.Fatalf("%s, %s: packet %d is %v", name, how, i, q)
				}
			}
		}
	}
}

func TestPcapFaults(t *testing.T) {
	good := pcapFile(binary.LittleEndian, pcapMicro, 1, frames(3))
	huge := pcapFile(binary.LittleEndian, pcapMicro, 1, frames(1))
	binary.LittleEndian.PutUint32(huge[24+8:], maxPcapPacket+1)
	for _, c := range []struct {
		name    string
		file    []byte
		packets int
		want    string
	}{
		{"empty", nil, 0, "not a pcap file: it ends after 0 bytes"},
		{"short", good[:20], 0, "not a pcap file: it ends after 20 bytes"},
		{"text", bytes.Repeat([]byte("hello"), 9), 0, "not a pcap file: it begins with 6c6c6568"},
		{"pcapng", append([]byte{0x0a, 0x0d, 0x0d, 0x0a}, make([]byte, 40)...), 0, "not a pcap file but pcapng, which is not supported"},
		{"version", append([]byte{0xd4, 0xc3, 0xb2, 0xa1, 3}, make([]byte, 40)...), 0, "not a pcap file of version 2 but 3"},
		{"cut in a packet", good[:len(good)-1], 2, "within packet 3: unexpected EOF"},
		{"cut in a header", good[:24+76+5], 1, "within packet 2: unexpected EOF"},
		{"huge packet", huge, 0, "packet 1 says that it has 262145 bytes"},
	} {
		got, _, err := readAll(bytes.NewReader(c.file), 100)
		if err == nil || err.Error() != c.want || len(got) != c.packets {
			t.Errorf("%s: %d packets, %v", c.name, len(got), err)
		}
		if c.packets == 0 && c.name != "huge packet" && !errors.Is(err, ErrNotPcap) {
			t.Errorf("%s: is not ErrNotPcap", c.name)
		}
	}
	if _, err := ReadPcap(t.Context(), bytes.NewReader(pcapFile(binary.LittleEndian, pcapMicro, 147, nil)), flow.Options{}, nil); err == nil ||
		!strings.Contains(err.Error(), "link type 147") {
		t.Errorf("unknown link type: %v", err)
	}
}

func TestReadPcap(t *testing.T) {
	file, err := os.ReadFile("testdata/udp.pcap")
	if err != nil {
		t.Fatal(err)
	}
	var packets, bytesSeen int64
	emit := func(f *flow.Flow) {
		if f.FinishType != flow.Timeout || f.Transport == nil || f.Transport.Protocol != flow.UDP {
			t.Errorf("%+v", f)
		}
		packets += f.Metric.ABPackets + f.Metric.BAPackets
		bytesSeen += f.Metric.ABBytes + f.Metric.BABytes
	}
	all, _, _ := readAll(bytes.NewReader(file), 65535)
	var want int64
	for _, p := range all {
		want += int64(p.Length)
	}
	stats, err := ReadPcap(t.Context(), bytes.NewReader(file), flow.Options{MaxEntries: 1000}, emit)
	if err != nil || stats.PacketsReceived != int64(len(all)) || packets != int64(len(all)) || bytesSeen != want || want == 0 {
		t.Fatalf("%v, %+v, %d packets of %d bytes", err, stats, packets, bytesSeen)
	}
	packets = 0
	if _, err = ReadPcap(t.Context(), bytes.NewReader(file[:len(file)-1]), flow.Options{MaxEntries: 1000}, emit); !errors.Is(err, io.ErrUnexpectedEOF) ||
		packets != int64(len(all)-1) {
		t.Fatalf("cut: %v, %d packets", err, packets)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = ReadPcap(ctx, bytes.NewReader(file), flow.Options{MaxEntries: 1000}, emit); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
}

// The time of a file is that of its packets: a flow of an hour is reported as it would have been then.
func TestReadPcapReportsByTheTimeOfPackets(t *testing.T) {
	var packets []flow.Packet
	for i := range 3600 {
		p := frames(1)[0]
		p.Time = 1400000000e9 + int64(i)*int64(time.Second)
		packets = append(packets, p)
	}
	reports, sum := 0, int64(0)
	_, err := ReadPcap(t.Context(), iotest.HalfReader(bytes.NewReader(pcapFile(binary.LittleEndian, pcapMicro, 1, packets))),
		flow.Options{MaxEntries: 10, Update: time.Minute, Expire: 10 * time.Minute}, func(f *flow.Flow) {
			reports++
			if f.LastUpdateMetric != nil {
				sum += f.LastUpdateMetric.ABPackets
			}
		})
	if err != nil || reports < 59 || reports > 62 || sum != 3600 {
		t.Fatalf("%v, %d reports of %d packets", err, reports, sum)
	}
}

func FuzzPcap(f *testing.F) {
	f.Add(pcapFile(binary.LittleEndian, pcapMicro, 1, frames(2)))
	f.Add(pcapFile(binary.BigEndian, pcapNano, 101, frames(1)))
	f.Fuzz(func(t *testing.T, file []byte) {
		got, p, err := readAll(bytes.NewReader(file), 64)
		if err == nil {
			t.Fatal("no end")
		}
		for _, q := range got {
			if len(q.Data) > 64 || q.Length < len(q.Data) {
				t.Fatalf("%+v", q)
			}
		}
		if p != nil && (len(got) > len(file)/pcapRecord || len(p.buf) > 2*pcapBuffer+pcapRecord) {
			t.Fatalf("%d packets in a buffer of %d", len(got), len(p.buf))
		}
		_, _ = ReadPcap(t.Context(), bytes.NewReader(file), flow.Options{MaxEntries: 100}, func(*flow.Flow) {})
	})
}

// BenchmarkPcap tells what a packet of a stream costs, into a flow table.
func BenchmarkPcap(b *testing.B) {
	packets := frames(50000)
	for i := range packets {
		packets[i].Data = append(packets[i].Data, make([]byte, []int{0, 0, 530, 0, 0, 530, 0, 530, 0, 530, 0, 1454}[i%12])...)
		packets[i].Length, packets[i].Time = len(packets[i].Data), 1700000000e9+int64(i)
	}
	file := pcapFile(binary.LittleEndian, pcapMicro, 1, packets)
	table := flow.NewTable(flow.Options{MaxEntries: 500000, Update: time.Minute, Expire: 10 * time.Minute})
	for b.Loop() {
		p, err := NewPcapReader(bytes.NewReader(file), 256)
		if err != nil {
			b.Fatal(err)
		}
		for {
			batch, err := p.Next()
			if err != nil {
				break
			}
			table.Packets(batch)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(packets)), "ns/packet")
}
