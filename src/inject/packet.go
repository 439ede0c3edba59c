package inject

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"skydive/src/resource"
)

const (
	ethernetSize   = 14
	maxIP          = 65535
	defaultTTL     = 64
	defaultPayload = 56
	firstFreePort  = 1024
	window         = 64240 // of the SYN; what Linux begins with
)

// forger makes the packets of one injection, each in the same buffer.
type forger struct {
	r        *resource.InjectionRequest
	framed   bool // with an Ethernet header
	src, dst netip.Addr
	protocol byte
	payload  []byte
	ident    uint16 // of IPv4
	buf      []byte
}

// newForger checks a request against an interface. The largest of the packets decides, which is the last.
func newForger(r *resource.InjectionRequest, framed bool, mtu int) (*forger, error) {
	f := &forger{r: r, framed: framed, payload: []byte(r.Payload), ident: uint16(rand.Uint32())}
	header := 0
	switch r.Type {
	case "icmp4":
		f.protocol, header = unix.IPPROTO_ICMP, 8
	case "icmp6":
		f.protocol, header = unix.IPPROTO_ICMPV6, 8
	case "tcp4", "tcp6":
		f.protocol, header = unix.IPPROTO_TCP, 20
	case "udp4", "udp6":
		f.protocol, header = unix.IPPROTO_UDP, 8
	default:
		return nil, fmt.Errorf("packets of type %q are not known", r.Type)
	}
	if f.v6() {
		header += 40
	} else {
		header += 20
	}
	var err error
	if f.src, err = f.address("source", r.SrcIP); err != nil {
		return nil, err
	}
	if f.dst, err = f.address("destination", r.DstIP); err != nil {
		return nil, err
	}
	if framed && (len(r.SrcMAC) != 6 || len(r.DstMAC) != 6) {
		return nil, fmt.Errorf("the interface takes Ethernet frames: source and destination MAC are needed")
	}
	if r.Count == 0 {
		return nil, fmt.Errorf("at least one packet must be asked for")
	}
	if r.IncrementPayload < 0 {
		return nil, fmt.Errorf("a payload cannot grow by %d bytes", r.IncrementPayload)
	}
	if len(f.payload) == 0 {
		f.grow(defaultPayload)
	}
	most, grows := min(mtu, maxIP), uint64(r.IncrementPayload)
	if size := uint64(header + len(f.payload)); size > uint64(most) {
		return nil, fmt.Errorf("a packet of %d bytes does not fit the interface, which takes %d", size, most)
	} else if grows > 0 && (r.Count-1) > (uint64(most)-size)/grows {
		return nil, fmt.Errorf("%d packets that grow by %d bytes each do not fit the interface, which takes %d bytes", r.Count, grows, most)
	}
	if r.TTL == 0 {
		r.TTL = defaultTTL
	}
	if f.protocol == unix.IPPROTO_TCP {
		if r.SrcPort == 0 {
			r.SrcPort = randomPort()
		}
		if r.DstPort == 0 {
			r.DstPort = randomPort()
		}
	}
	f.buf = make([]byte, 0, ethernetSize+header+len(f.payload))
	return f, nil
}

func (f *forger) v6() bool { return strings.HasSuffix(f.r.Type, "6") }

func (f *forger) address(which, text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, fmt.Errorf("the %s address %q is none", which, text)
	}
	if a = a.Unmap(); a.Is6() != f.v6() {
		return a, fmt.Errorf("the %s address %s does not fit packets of type %s", which, text, f.r.Type)
	}
	return a, nil
}

func randomPort() uint16 { return uint16(firstFreePort + rand.IntN(maxIP-firstFreePort)) }

// grow adds letters to the payload.
func (f *forger) grow(n int) {
	for range n {
		f.payload = append(f.payload, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[rand.IntN(52)])
	}
}

// next makes the next packet, which is valid until the one after it.
func (f *forger) next() []byte {
	b := f.buf[:0]
	kind := uint16(unix.ETH_P_IP)
	if f.v6() {
		kind = unix.ETH_P_IPV6
	}
	if f.framed {
		b = append(append(b, f.r.DstMAC...), f.r.SrcMAC...)
		b = binary.BigEndian.AppendUint16(b, kind)
	}
	network := len(b)
	size := f.segmentSize()
	if f.v6() {
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(size))
		b = append(b, f.protocol, f.r.TTL)
	} else {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+size))
		b = binary.BigEndian.AppendUint16(b, f.ident)
		b = append(b, 0, 0, f.r.TTL, f.protocol, 0, 0)
		f.ident++
	}
	b = append(append(b, f.src.AsSlice()...), f.dst.AsSlice()...)
	if !f.v6() {
		binary.BigEndian.PutUint16(b[network+10:], fold(sum(0, b[network:])))
	}
	b = f.segment(b)
	f.buf = b
	f.advance()
	return b
}

func (f *forger) segmentSize() int {
	if f.protocol == unix.IPPROTO_TCP {
		return 20 + len(f.payload)
	}
	return 8 + len(f.payload)
}

// segment appends what IP carries.
func (f *forger) segment(b []byte) []byte {
	start := len(b)
	be := binary.BigEndian
	checksum := 0
	switch f.protocol {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		request := byte(8)
		if f.v6() {
			request = 128
		}
		b = append(b, request, 0, 0, 0)
		b = be.AppendUint16(b, f.r.ICMPID)
		b = append(b, 0, 0) // sequence number
		checksum = 2
	case unix.IPPROTO_TCP:
		b = be.AppendUint16(be.AppendUint16(b, f.r.SrcPort), f.r.DstPort)
		b = be.AppendUint32(be.AppendUint32(b, rand.Uint32()), 0)
		b = append(b, 5<<4, 0x02) // SYN
		b = be.AppendUint16(b, window)
		b = append(b, 0, 0, 0, 0)
		checksum = 16
	default:
		b = be.AppendUint16(be.AppendUint16(b, f.r.SrcPort), f.r.DstPort)
		b = be.AppendUint16(b, uint16(f.segmentSize()))
		b = append(b, 0, 0)
		checksum = 6
	}
	b = append(b, f.payload...)
	segment := b[start:]
	total := uint32(0)
	if f.protocol != unix.IPPROTO_ICMP {
		s, d := f.src.AsSlice(), f.dst.AsSlice()
		total = sum(sum(uint32(f.protocol)+uint32(len(segment)), s), d)
	}
	value := fold(sum(total, segment))
	if value == 0 && f.protocol == unix.IPPROTO_UDP {
		value = 0xffff // 0 stands for none
	}
	be.PutUint16(segment[checksum:], value)
	return b
}

// advance makes the packet after this one different as asked for.
func (f *forger) advance() {
	f.grow(int(min(f.r.IncrementPayload, maxIP))) // after the last packet it may be more than any packet holds
	if f.r.Mode != "random" {
		return
	}
	if f.protocol == unix.IPPROTO_ICMP || f.protocol == unix.IPPROTO_ICMPV6 {
		f.r.ICMPID = uint16(1 + rand.IntN(maxIP))
	} else {
		f.r.SrcPort = randomPort()
	}
}

// sum adds 16-bit words; an odd byte at the end counts as if a zero followed. 64 KiB cannot overflow it.
func sum(total uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		total += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		total += uint32(b[0]) << 8
	}
	return total
}

func fold(total uint32) uint16 {
	for total>>16 != 0 {
		total = total&0xffff + total>>16
	}
	return ^uint16(total)
}
