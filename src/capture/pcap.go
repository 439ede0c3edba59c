package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"skydive/src/bpf"
	"skydive/src/flow"
)

// ErrNotPcap tells that a stream does not begin as a pcap file does.
var ErrNotPcap = errors.New("not a pcap file")

const (
	pcapBuffer    = 256 << 10
	maxPcapPacket = 256 << 10 // as tcpdump has it
	pcapHeader    = 24
	pcapRecord    = 16

	pcapMicro, pcapNano = 0xa1b2c3d4, 0xa1b23c4d // how times are given
	pcapBatch           = 1024
)

// PcapReader reads packets from a stream in the format of pcap files, of either byte order and resolution (pcap-savefile(5)).
type PcapReader struct {
	Link bpf.LinkType

	r          io.Reader
	buf        []byte
	start, end int // of what was read and not returned
	order      binary.ByteOrder
	big        bool
	unit       int64 // ns per unit of the fraction of a second
	snapLen    int   // bytes of a packet that are wanted
	failed     error // of r, told when all that was read has been returned
	batch      []flow.Packet
	count      int64
}

// NewPcapReader reads the header. Packets are cut at snapLen. The error wraps ErrNotPcap when the stream begins as something else.
func NewPcapReader(r io.Reader, snapLen int) (*PcapReader, error) {
	p := &PcapReader{r: r, buf: make([]byte, pcapBuffer), snapLen: snapLen, unit: 1000}
	n, err := io.ReadFull(r, p.buf[:pcapHeader])
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%w: it ends after %d bytes", ErrNotPcap, n)
		}
		return nil, fmt.Errorf("read pcap header: %w", err)
	}
	h := p.buf[:pcapHeader]
	p.order = binary.LittleEndian
	if magic := binary.BigEndian.Uint32(h); magic == pcapMicro || magic == pcapNano {
		p.order, p.big = binary.BigEndian, true
	}
	switch magic := p.order.Uint32(h); magic {
	case pcapMicro:
	case pcapNano:
		p.unit = 1
	case 0x0a0d0d0a:
		return nil, fmt.Errorf("%w but pcapng, which is not supported", ErrNotPcap)
	default:
		return nil, fmt.Errorf("%w: it begins with %08x", ErrNotPcap, magic)
	}
	if major := p.order.Uint16(h[4:]); major != 2 {
		return nil, fmt.Errorf("%w of version 2 but %d", ErrNotPcap, major)
	}
	link := p.order.Uint32(h[20:]) & 0xffff // above: length of the FCS
	switch link {
	case 12, 14: // how systems number LINKTYPE_RAW in memory, and old files too
		link = uint32(bpf.RawIP)
	}
	p.Link = bpf.LinkType(link)
	return p, nil
}

// FirstLayer tells what packets begin with.
func (p *PcapReader) FirstLayer() (flow.FirstLayer, error) {
	switch p.Link {
	case bpf.Ethernet:
		return flow.FirstEthernet, nil
	case bpf.RawIP, bpf.IPv4, bpf.IPv6:
		return flow.FirstRawIP, nil
	case bpf.LinuxSLL:
		return flow.FirstLinuxSLL, nil
	}
	return 0, fmt.Errorf("packets of link type %d are not supported", p.Link)
}

// Count is how many packets were returned.
func (p *PcapReader) Count() int64 { return p.count }

// Next returns the packets that are there, at least one, as soon as there are any. They are valid until the next call. At the end of the
// stream the error is io.EOF, or io.ErrUnexpectedEOF within a packet.
func (p *PcapReader) Next() ([]flow.Packet, error) {
	p.batch = p.batch[:0]
	for {
		if err := p.parse(); err != nil {
			return nil, err
		}
		if len(p.batch) > 0 {
			p.count += int64(len(p.batch))
			return p.batch, nil
		}
		if p.failed != nil {
			if p.failed == io.EOF && p.start != p.end {
				return nil, fmt.Errorf("within packet %d: %w", p.count+1, io.ErrUnexpectedEOF)
			}
			return nil, p.failed
		}
		if err := p.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads more behind what is left.
func (p *PcapReader) fill() error {
	if p.start > 0 {
		p.end = copy(p.buf, p.buf[p.start:p.end])
		p.start = 0
	}
	if p.end == len(p.buf) { // a packet of nearly the greatest size
		p.buf = append(p.buf, make([]byte, pcapRecord+maxPcapPacket)...)
	}
	for range 100 {
		n, err := p.r.Read(p.buf[p.end:])
		p.end += n
		p.failed = err
		if n > 0 || err != nil {
			return nil
		}
	}
	return io.ErrNoProgress
}

// parse takes whole packets of what was read into the batch.
func (p *PcapReader) parse() error {
	b, at := p.buf[:p.end], p.start
	for len(p.batch) < pcapBatch && len(b)-at >= pcapRecord {
		h := b[at : at+pcapRecord : at+pcapRecord]
		var sec, frac, kept, length uint32
		if p.big {
			sec, frac = binary.BigEndian.Uint32(h), binary.BigEndian.Uint32(h[4:])
			kept, length = binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
		} else {
			sec, frac = binary.LittleEndian.Uint32(h), binary.LittleEndian.Uint32(h[4:])
			kept, length = binary.LittleEndian.Uint32(h[8:]), binary.LittleEndian.Uint32(h[12:])
		}
		if kept > maxPcapPacket {
			return fmt.Errorf("packet %d says that it has %d bytes", p.count+int64(len(p.batch))+1, kept)
		}
		next := at + pcapRecord + int(kept)
		if next > len(b) {
			break
		}
		from := at + pcapRecord
		to := min(next, from+p.snapLen)
		p.batch = append(p.batch, flow.Packet{
			Data: b[from:to:to], Length: int(max(length, kept)), Time: int64(sec)*1e9 + int64(frac)*p.unit,
		})
		at = next
	}
	p.start = at
	return nil
}

// ReadPcap gives the flows of a pcap file to emit. Time is that of the packets: a flow is given whenever an update is due by them,
// and at the end. Options need no FirstLayer. When the file breaks off, what was read before counts.
func ReadPcap(ctx context.Context, r io.Reader, o flow.Options, emit func(*flow.Flow)) (flow.Stats, error) {
	if o.HeaderSize == 0 {
		o.HeaderSize = maxPcapPacket
	}
	p, err := NewPcapReader(r, o.HeaderSize)
	if err != nil {
		return flow.Stats{}, err
	}
	if o.FirstLayer, err = p.FirstLayer(); err != nil {
		return flow.Stats{}, err
	}
	table := flow.NewTable(o)
	var now, ticked time.Time
	for {
		var batch []flow.Packet
		if batch, err = p.Next(); err != nil {
			break
		}
		for len(batch) > 0 { // a batch may span hours
			if t := time.Unix(0, batch[0].Time); t.Sub(ticked) >= tickEvery {
				if last := ticked; !last.IsZero() {
					// What falls due in the silence before t: reports, then the end of flows (see Tick: after one to two times Expire).
					for _, after := range []time.Duration{o.Update, o.Expire, 2 * o.Expire} {
						if at := last.Add(after); at.Before(t) && at.After(ticked) {
							table.Tick(at, emit)
							ticked = at
						}
					}
				}
				table.Tick(t, emit)
				now, ticked = t, t
			}
			n := 1
			for n < len(batch) && batch[n].Time-ticked.UnixNano() < int64(tickEvery) {
				n++
			}
			table.Packets(batch[:n])
			for _, packet := range batch[:n] {
				if t := time.Unix(0, packet.Time); t.After(now) {
					now = t
				}
			}
			batch = batch[n:]
		}
		if err = ctx.Err(); err != nil {
			break
		}
	}
	table.Flush(now, emit)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return table.Stats(), err
}
