package flow

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
)

// Link types of pcap that raw packets have.
const (
	linkEthernet = 1
	linkRaw      = 101 // IPv4 or IPv6, as the packet says
	linkIPv4     = 228
	linkIPv6     = 229
)

// snapLen is what headers of files say that packets are cut at; captures cut them earlier.
const snapLen = 4096

// WritePcap writes packets as a pcap file, by time. A file has one link type: raw IP if no packet is of another, else Ethernet, and all
// that are not are left out.
//
// How long a packet was before it was cut comes from its IP header, for lack of a better source.
func WritePcap(w io.Writer, packets []RawPacket) error {
	link := uint32(linkRaw)
	if len(packets) == 0 || slices.ContainsFunc(packets, func(p RawPacket) bool { return linkOf(p) != linkRaw }) {
		link = linkEthernet
	}
	packets = slices.DeleteFunc(slices.Clone(packets), func(p RawPacket) bool { return linkOf(p) != link })
	slices.SortStableFunc(packets, func(a, b RawPacket) int { return cmp.Compare(a.Timestamp, b.Timestamp) })
	le := binary.LittleEndian
	buf := make([]byte, 0, blockBuffer)
	buf = le.AppendUint32(buf, 0xa1b2c3d4)
	buf = le.AppendUint16(le.AppendUint16(buf, 2), 4) // version
	buf = le.AppendUint64(buf, 0)                     // time zone, accuracy
	buf = le.AppendUint32(le.AppendUint32(buf, snapLen), link)
	for _, p := range packets {
		buf = le.AppendUint32(le.AppendUint32(buf, uint32(p.Timestamp/1000)), uint32(p.Timestamp%1000*1000))
		buf = le.AppendUint32(le.AppendUint32(buf, uint32(len(p.Data))), uint32(wireLength(p.Data, link)))
		buf = append(buf, p.Data...)
		if len(buf) >= blockBuffer {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	_, err := w.Write(buf)
	return err
}

// linkOf is the link type of a packet in a file.
func linkOf(p RawPacket) uint32 {
	switch p.LinkType {
	case linkIPv4, linkIPv6:
		return linkRaw
	}
	return p.LinkType
}

// wireLength is how long a packet was: at least what there is of it.
func wireLength(data []byte, link uint32) int {
	at, typ := 0, uint16(0)
	if link == linkEthernet {
		for at = 12; len(data) >= at+2; at += 4 {
			if typ = binary.BigEndian.Uint16(data[at:]); typ != 0x8100 && typ != 0x88a8 && typ != 0x9100 {
				break
			}
		}
		at += 2
	} else if len(data) > 0 {
		typ = map[byte]uint16{4: 0x0800, 6: 0x86dd}[data[0]>>4]
	}
	n := len(data)
	switch {
	case typ == 0x0800 && n >= at+4:
		n = max(n, at+int(binary.BigEndian.Uint16(data[at+2:])))
	case typ == 0x86dd && n >= at+6:
		n = max(n, at+40+int(binary.BigEndian.Uint16(data[at+4:])))
	}
	return n
}

const (
	blockBuffer   = 64 << 10
	maxInterfaces = 1 << 16
)

// ErrInterfaces tells that a stream has all the interfaces that it may have.
var ErrInterfaces = errors.New("too many interfaces in one stream of packets")

// PcapngWriter writes live packets of many interfaces as pcapng. What it is given is written by Flush, or when it is much; a slow reader
// holds up whoever gives. It may be used by several goroutines.
type PcapngWriter struct {
	mu         sync.Mutex
	w          io.Writer
	buf        []byte
	interfaces map[networkInterface]uint32
	err        error // of w; it does not get better
}

type networkInterface struct {
	name string
	link uint32
}

// Types of blocks, and of options in them.
const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockStatistics = 5
	blockPacket     = 6

	optionEnd        = 0
	optionName       = 2 // of an interface
	optionUser       = 4 // the application that writes
	optionDropped    = 5
	optionResolution = 9
)

// NewPcapngWriter returns a writer to w.
func NewPcapngWriter(w io.Writer) *PcapngWriter {
	return &PcapngWriter{w: w, interfaces: make(map[networkInterface]uint32)}
}

// Start writes the header at once, so that readers see that there is a stream. It comes first.
func (p *PcapngWriter) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.open(blockSection)
	le := binary.LittleEndian
	p.buf = le.AppendUint32(p.buf, 0x1a2b3c4d)
	p.buf = le.AppendUint16(le.AppendUint16(p.buf, 1), 0)
	p.buf = le.AppendUint64(p.buf, 1<<64-1) // of unknown length
	p.option(optionUser, "skydive")
	p.option(optionEnd, "")
	p.close(at)
	return p.flush()
}

// Packet writes a packet that an interface saw at t (ns since the epoch), of which data is left.
func (p *PcapngWriter) Packet(name string, link uint32, t int64, length int, data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err := p.number(name, link)
	if err != nil {
		return err
	}
	at := p.open(blockPacket)
	p.stamp(id, t)
	le := binary.LittleEndian
	p.buf = le.AppendUint32(le.AppendUint32(p.buf, uint32(len(data))), uint32(max(length, len(data))))
	p.buf = append(p.buf, data...)
	p.pad()
	p.close(at)
	return p.soon()
}

// Lost tells how many packets of an interface the stream lacks at t, since its beginning.
func (p *PcapngWriter) Lost(name string, link uint32, t, packets int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err := p.number(name, link)
	if err != nil {
		return err
	}
	at := p.open(blockStatistics)
	p.stamp(id, t)
	p.option(optionDropped, string(binary.LittleEndian.AppendUint64(nil, uint64(packets))))
	p.option(optionEnd, "")
	p.close(at)
	return p.soon()
}

// Flush writes what was given.
func (p *PcapngWriter) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flush()
}

func (p *PcapngWriter) soon() error {
	if len(p.buf) < blockBuffer {
		return p.err
	}
	return p.flush()
}

func (p *PcapngWriter) flush() error {
	if p.err == nil && len(p.buf) > 0 {
		_, p.err = p.w.Write(p.buf)
	}
	p.buf = p.buf[:0]
	return p.err
}

// number returns the number of an interface, which is described when it is seen first.
func (p *PcapngWriter) number(name string, link uint32) (uint32, error) {
	key := networkInterface{name, link}
	id, ok := p.interfaces[key]
	if ok {
		return id, nil
	}
	if len(p.interfaces) >= maxInterfaces {
		return 0, ErrInterfaces
	}
	id = uint32(len(p.interfaces))
	p.interfaces[key] = id
	at := p.open(blockInterface)
	le := binary.LittleEndian
	p.buf = le.AppendUint16(le.AppendUint16(p.buf, uint16(link)), 0)
	p.buf = le.AppendUint32(p.buf, 0) // cut nowhere in particular
	p.option(optionName, name[:min(len(name), 255)])
	p.option(optionResolution, "\x09") // ns
	p.option(optionEnd, "")
	p.close(at)
	return id, nil
}

// open begins a block; close writes its length at both ends.
func (p *PcapngWriter) open(typ uint32) (at int) {
	at = len(p.buf)
	p.buf = binary.LittleEndian.AppendUint32(p.buf, typ)
	p.buf = binary.LittleEndian.AppendUint32(p.buf, 0)
	return at
}

func (p *PcapngWriter) close(at int) {
	size := uint32(len(p.buf) - at + 4)
	binary.LittleEndian.PutUint32(p.buf[at+4:], size)
	p.buf = binary.LittleEndian.AppendUint32(p.buf, size)
}

func (p *PcapngWriter) stamp(id uint32, t int64) {
	le := binary.LittleEndian
	p.buf = le.AppendUint32(p.buf, id)
	p.buf = le.AppendUint32(le.AppendUint32(p.buf, uint32(uint64(t)>>32)), uint32(t))
}

func (p *PcapngWriter) option(code uint16, value string) {
	le := binary.LittleEndian
	p.buf = le.AppendUint16(le.AppendUint16(p.buf, code), uint16(len(value)))
	p.buf = append(p.buf, value...)
	p.pad()
}

// pad fills up to 32 bits. All that blocks begin with is of whole words.
func (p *PcapngWriter) pad() {
	for len(p.buf)%4 != 0 {
		p.buf = append(p.buf, 0)
	}
}
