package sampled

import (
	"encoding/binary"

	"skydive/src/flow"
)

// appendFrame appends the headers of a packet as the flow of a record has them, for filters.
func appendFrame(b []byte, r *flow.Record) []byte {
	b = append(append(b, r.DstMAC[:]...), r.SrcMAC[:]...)
	for i := range min(r.Tags, 5) {
		b = append(b, 0x81, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(r.VLAN>>(12*i)&0xfff))
	}
	payload := 0
	switch r.Proto {
	case 6:
		payload = 20
	case 17, 1, 58, 132:
		payload = 12
	}
	switch r.Version {
	case 4:
		b = append(b, 0x08, 0, 0x45, 0, 0, byte(20+payload), 0, 0, 0, 0, 64, r.Proto, 0, 0)
		b = append(append(b, r.Src[:4]...), r.Dst[:4]...)
	case 6:
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(payload), r.Proto, 64)
		b = append(append(b, r.Src[:]...), r.Dst[:]...)
	default:
		var empty [46]byte // what a filter looks at beyond the end of a packet refuses it
		return append(binary.BigEndian.AppendUint16(b, r.EtherType), empty[:]...)
	}
	var l4 [20]byte
	switch r.Proto {
	case 1, 58:
		l4[0], l4[1] = r.ICMPType, r.ICMPCode
	case 6:
		l4[12], l4[13] = 5<<4, r.TCPFlags
		fallthrough
	case 17, 132:
		binary.BigEndian.PutUint16(l4[:], r.SrcPort)
		binary.BigEndian.PutUint16(l4[2:], r.DstPort)
	}
	if r.Proto == 17 {
		l4[5] = byte(payload)
	}
	return append(b, l4[:payload]...)
}

// appendLink appends a packet that begins with IP as an Ethernet frame without addresses.
func appendLink(b, packet []byte) []byte {
	typ := uint16(0x0800)
	if packet[0]>>4 == 6 {
		typ = 0x86dd
	}
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(b, typ), packet...)
}
