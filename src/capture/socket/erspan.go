package socket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"skydive/src/bpf"
	"skydive/src/capture"
	"skydive/src/flow"
)

const (
	greSequence    = 0x1000 // flag: a sequence number follows
	greERSPAN      = 0x88be // EtherType of ERSPAN type II in GRE
	erspanVersion  = 1      // which is what the header of type II says
	erspanSession  = 1
	erspanTagged   = 3 << 11 // the frame has its VLAN tag
	erspanCut      = 1 << 10
	erspanHeaders  = 16 // GRE and ERSPAN
	erspanMaxFrame = 65535 - 20 - erspanHeaders - 4
)

// erspan sends frames in GRE, with an ERSPAN type II header in front of each and its checksum behind.
type erspan struct {
	conn  net.Conn
	index uint32 // of the interface, 20 bits
	seq   uint32
	buf   []byte
	lost  atomic.Int64
}

func newERSPAN(r capture.TargetRequest) (capture.Target, error) {
	if r.Link != bpf.Ethernet {
		return nil, errors.New("ERSPAN carries Ethernet frames, which the interface does not have")
	}
	host, _, err := net.SplitHostPort(r.Address)
	if err != nil {
		return nil, fmt.Errorf("erspan: %w", err)
	}
	conn, err := net.Dial(fmt.Sprintf("ip:%d", unix.IPPROTO_GRE), host)
	if err != nil {
		return nil, fmt.Errorf("erspan: %w", err)
	}
	return &erspan{conn: conn, index: uint32(r.Node.IfIndex) & 0xfffff}, nil
}

// Lost implements capture.Target.
func (e *erspan) Lost() int64 { return e.lost.Load() }

// Close implements capture.Target.
func (e *erspan) Close() error { return e.conn.Close() }

// Packets implements capture.PacketTarget.
func (e *erspan) Packets(batch []flow.Packet) {
	for _, p := range batch {
		if _, err := e.conn.Write(e.frame(p)); err != nil {
			e.lost.Add(1)
		}
		e.seq++
	}
}

// frame is what is sent for a packet, behind the IP header.
func (e *erspan) frame(p flow.Packet) []byte {
	data := p.Data[:min(len(p.Data), erspanMaxFrame)]
	session := uint16(erspanSession)
	if len(data) < p.Length {
		session |= erspanCut
	}
	if len(data) > macsLen+1 && data[macsLen] == unix.ETH_P_8021Q>>8 && data[macsLen+1] == unix.ETH_P_8021Q&0xff {
		session |= erspanTagged
	}
	b := binary.BigEndian.AppendUint16(e.buf[:0], greSequence)
	b = binary.BigEndian.AppendUint16(b, greERSPAN)
	b = binary.BigEndian.AppendUint32(b, e.seq)
	b = binary.BigEndian.AppendUint16(b, erspanVersion<<12) // and no VLAN
	b = binary.BigEndian.AppendUint16(b, session)
	b = binary.BigEndian.AppendUint32(b, e.index)
	b = append(b, data...)
	e.buf = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(data))
	return e.buf
}
