package inject

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Link types of pcap files.
const (
	linkEthernet = 1
	linkRawOld   = 12
	linkRaw      = 101
	linkIPv4     = 228
	linkIPv6     = 229
)

// parsePcap returns the packets of a pcap file, which they stay part of, and its link type.
func parsePcap(file []byte) (packets [][]byte, link uint32, err error) {
	const header, record = 24, 16
	if len(file) < header {
		return nil, 0, errors.New("the pcap file is shorter than its header")
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch magic := order.Uint32(file); magic {
	case 0xa1b2c3d4, 0xa1b23c4d:
	case 0xd4c3b2a1, 0x4d3cb2a1:
		order = binary.BigEndian
	case 0x0a0d0d0a:
		return nil, 0, errors.New("pcapng files are not supported; convert it: editcap -F pcap")
	default:
		return nil, 0, fmt.Errorf("not a pcap file: it begins with %08x", magic)
	}
	link = order.Uint32(file[20:]) & 0xfffffff
	for rest := file[header:]; len(rest) > 0; {
		if len(rest) < record {
			return nil, 0, fmt.Errorf("the pcap file ends within the header of packet %d", len(packets)+1)
		}
		size := order.Uint32(rest[8:])
		if rest = rest[record:]; uint64(size) > uint64(len(rest)) {
			return nil, 0, fmt.Errorf("the pcap file ends within packet %d", len(packets)+1)
		}
		packets = append(packets, rest[:size:size])
		rest = rest[size:]
	}
	if len(packets) == 0 {
		return nil, 0, errors.New("the pcap file holds no packet")
	}
	return packets, link, nil
}

// replay gives the packets of a file, again and again.
type replay struct {
	packets [][]byte
	at      int
}

// newReplay checks a file against an interface, and tells how many packets to send when nobody said.
func newReplay(file []byte, framed bool, mtu int) (*replay, error) {
	packets, link, err := parsePcap(file)
	if err != nil {
		return nil, err
	}
	most := mtu
	switch {
	case link == linkEthernet && framed:
		most += ethernetSize + 4 // a VLAN tag is not counted
	case !framed && (link == linkRaw || link == linkRawOld || link == linkIPv4 || link == linkIPv6):
	case framed:
		return nil, fmt.Errorf("the pcap file is of link type %d; the interface takes Ethernet frames (1)", link)
	default:
		return nil, fmt.Errorf("the pcap file is of link type %d; the interface takes IP packets (%d)", link, linkRaw)
	}
	for i, p := range packets {
		if len(p) > most {
			return nil, fmt.Errorf("packet %d of the pcap file has %d bytes; the interface takes %d", i+1, len(p), most)
		}
		if framed && len(p) < ethernetSize || len(p) == 0 {
			return nil, fmt.Errorf("packet %d of the pcap file has %d bytes, less than a header", i+1, len(p))
		}
	}
	return &replay{packets: packets}, nil
}

func (r *replay) next() []byte {
	p := r.packets[r.at]
	r.at = (r.at + 1) % len(r.packets)
	return p
}
