package sampled

import (
	"encoding/binary"
	"math"

	"skydive/src/flow"
)

// element is what an information element is used for.
type element uint8

const (
	unused element = iota
	octets
	packets
	octetsTotal
	packetsTotal
	frameOctets
	frameOctetsTotal
	protocol
	tcpFlags
	sourcePort
	targetPort
	source4
	target4
	source6
	target6
	inputIf
	outputIf
	direction
	sourceMAC
	targetMAC
	leavingMAC // of the target, as the frame was sent on
	vlan
	vlanTag
	vlanInner
	etherType
	frameHeader
	icmp4
	icmp6
	icmpType
	icmpCode
	icmp6Type
	icmp6Code
	endReason
	biflow
	startUptime
	endUptime
	startSeconds
	endSeconds
	startMillis
	endMillis
	startNTP
	endNTP
	startBefore // µs before the export
	endBefore
	lasted
	lastedMicros
	sampler
	interval
	space
	size
	population
	probability
	bootTime
	backward // flag: counted from target to source
)

// elementOf tells what an element of IANA's registry is used for; fields of NetFlow version 9 have the same numbers.
func elementOf(id uint16) element {
	switch id {
	case 1, 231:
		return octets
	case 2, 298:
		return packets
	case 232:
		return octets + backward
	case 299:
		return packets + backward
	case 4:
		return protocol
	case 6:
		return tcpFlags
	case 7, 180, 182:
		return sourcePort
	case 11, 181, 183:
		return targetPort
	case 8:
		return source4
	case 12:
		return target4
	case 27:
		return source6
	case 28:
		return target6
	case 10:
		return inputIf
	case 14:
		return outputIf
	case 61:
		return direction
	case 56:
		return sourceMAC
	case 80:
		return targetMAC
	case 57:
		return leavingMAC
	case 58:
		return vlan
	case 243:
		return vlanTag
	case 245:
		return vlanInner
	case 256:
		return etherType
	case 240:
		return frameHeader
	case 32:
		return icmp4
	case 139:
		return icmp6
	case 176:
		return icmpType
	case 177:
		return icmpCode
	case 178:
		return icmp6Type
	case 179:
		return icmp6Code
	case 136:
		return endReason
	case 239:
		return biflow
	case 85:
		return octetsTotal
	case 86:
		return packetsTotal
	case 352:
		return frameOctets
	case 353:
		return frameOctetsTotal
	case 22:
		return startUptime
	case 21:
		return endUptime
	case 150, 322:
		return startSeconds
	case 151:
		return endSeconds
	case 152, 323:
		return startMillis
	case 153:
		return endMillis
	case 154, 156, 324, 325:
		return startNTP
	case 155, 157:
		return endNTP
	case 158:
		return startBefore
	case 159:
		return endBefore
	case 161:
		return lasted
	case 162:
		return lastedMicros
	case 48, 302:
		return sampler
	case 34, 50, 305:
		return interval
	case 306:
		return space
	case 309:
		return size
	case 310:
		return population
	case 311:
		return probability
	case 160:
		return bootTime
	}
	return unused
}

// width is how long an element may be; 0: any number of up to 8 bytes.
func (x element) width() uint16 {
	switch x {
	case source4, target4:
		return 4
	case source6, target6:
		return 16
	case sourceMAC, targetMAC, leavingMAC:
		return 6
	case startNTP, endNTP:
		return 8
	}
	return 0
}

// gathered is what one record says.
type gathered struct {
	record         *flow.Record
	have, haveBack uint64       // elements
	counts         [2][6]uint64 // from octets on, forward and backward
	in, out        uint32
	header         uint64 // bytes of each frame before IP
	uptime         [2]uint32
	start, end     int64 // ns
	lasted         int64 // ns
	leaving        bool
	reversed       bool
	ended          bool
	sampler, boot  uint64

	interval, space, size, population uint64
	probability                       float64
}

func (g *gathered) has(x element) bool { return g.have>>x&1 != 0 }

// number reads an unsigned number of up to 8 bytes.
func number(b []byte) (v uint64) {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.BigEndian.Uint16(b))
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	case 8:
		return binary.BigEndian.Uint64(b)
	}
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}

// ntp is a time of RFC 5905 in ns since the epoch.
func ntp(v uint64) int64 {
	const begin = 2208988800 // the epoch in seconds since 1900
	return (int64(v>>32)-begin)*1e9 + int64(v&0xffffffff)*1e9>>32
}

// set takes the value of an element; export is the time of the datagram.
func (g *gathered) set(x element, b []byte, export int64) {
	r := g.record
	switch x {
	case source4:
		r.Version = 4
		copy(r.Src[:4], b)
		return
	case target4:
		r.Version = 4
		copy(r.Dst[:4], b)
		return
	case source6:
		// Some templates have the addresses of both versions, one of them empty.
		if r.Version != 4 || [16]byte(b) != [16]byte{} {
			r.Version = 6
			copy(r.Src[:], b)
		}
		return
	case target6:
		if r.Version != 4 || [16]byte(b) != [16]byte{} {
			r.Version = 6
			copy(r.Dst[:], b)
		}
		return
	case sourceMAC:
		copy(r.SrcMAC[:], b)
		g.have |= 1 << x
		return
	case targetMAC:
		copy(r.DstMAC[:], b)
		g.have |= 1 << x
		return
	case leavingMAC: // what a bridge or a probe has instead
		if !g.has(targetMAC) {
			copy(r.DstMAC[:], b)
		}
		g.have |= 1 << x
		return
	}
	v := number(b)
	if x >= backward {
		if x -= backward; x <= frameOctetsTotal {
			g.counts[1][x-octets] = v
			g.haveBack |= 1 << x
			return
		}
		return // what else is said of the other direction there is no use for
	}
	g.have |= 1 << x
	switch x {
	case octets, packets, octetsTotal, packetsTotal, frameOctets, frameOctetsTotal:
		g.counts[0][x-octets] = v
	case protocol:
		r.Proto = uint8(v)
	case tcpFlags:
		r.TCPFlags = uint8(v)
	case sourcePort:
		r.SrcPort = uint16(v)
	case targetPort:
		r.DstPort = uint16(v)
	case inputIf:
		g.in = uint32(v)
	case outputIf:
		g.out = uint32(v)
	case direction:
		g.leaving = v == 1
	case vlan:
		if r.Tags == 0 {
			r.VLAN = v & 0xfff
		}
	case vlanTag:
		r.VLAN, r.Tags = r.VLAN&^0xfff|v&0xfff, max(r.Tags, 1)
	case vlanInner:
		r.VLAN, r.Tags = r.VLAN&0xfff|v&0xfff<<12, 2
	case etherType:
		r.EtherType = uint16(v)
	case frameHeader:
		g.header = v & 0xff
	case icmp4, icmp6:
		r.ICMPType, r.ICMPCode = uint8(v>>8), uint8(v)
	case icmpType, icmp6Type:
		r.ICMPType = uint8(v)
	case icmpCode, icmp6Code:
		r.ICMPCode = uint8(v)
	case endReason:
		g.ended = v == 3
	case biflow:
		g.reversed = v == 2
	case startUptime:
		g.uptime[0] = uint32(v)
	case endUptime:
		g.uptime[1] = uint32(v)
	case startSeconds:
		g.start = int64(v&math.MaxUint32) * 1e9
	case endSeconds:
		g.end = int64(v&math.MaxUint32) * 1e9
	case startMillis:
		g.start = int64(v&(1<<43-1)) * 1e6
	case endMillis:
		g.end = int64(v&(1<<43-1)) * 1e6
	case startNTP:
		g.start = ntp(v)
	case endNTP:
		g.end = ntp(v)
	case startBefore:
		g.start = export - int64(v&(1<<43-1))*1e3
	case endBefore:
		g.end = export - int64(v&(1<<43-1))*1e3
	case lasted:
		g.lasted = int64(v&(1<<43-1)) * 1e6
	case lastedMicros:
		g.lasted = int64(v&(1<<43-1)) * 1e3
	case sampler:
		g.sampler = v
	case interval:
		g.interval = v
	case space:
		g.space = v
	case size:
		g.size = v
	case population:
		g.population = v
	case probability:
		g.probability = math.Float64frombits(v)
		if len(b) == 4 {
			g.probability = float64(math.Float32frombits(uint32(v)))
		}
	case bootTime:
		g.boot = v
	}
}

// rate is how many packets each counted one stands for, as the record itself says; 0: it does not say.
func (g *gathered) rate() uint64 {
	switch {
	case g.has(size) && g.has(population) && g.size > 0:
		return g.population / g.size
	case g.has(space) && g.has(interval) && g.interval > 0:
		return (g.interval + g.space) / g.interval
	case g.has(interval):
		return g.interval
	case g.has(probability) && g.probability > 0 && g.probability <= 1:
		return uint64(min(1/g.probability+0.5, math.MaxUint32))
	}
	return 0
}
