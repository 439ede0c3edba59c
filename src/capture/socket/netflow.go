package socket

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"skydive/src/capture"
	"skydive/src/flow"
)

const (
	netflowHeader  = 24
	netflowRecord  = 48
	netflowRecords = 30 // in one datagram, at most
	netflowVersion = 5

	ethernetHeader = 14
)

// netflow sends flows as NetFlow version 5: IPv4 only, one record for each direction, with what was counted since the last report.
type netflow struct {
	conn    net.Conn
	ifIndex uint16
	boot    time.Time
	now     func() time.Time
	buf     []byte // header and the records that wait
	seq     uint32 // records sent before them
	lost    atomic.Int64
}

func newNetflow(r capture.TargetRequest) (capture.Target, error) {
	conn, err := net.Dial("udp", r.Address)
	if err != nil {
		return nil, fmt.Errorf("netflow: %w", err)
	}
	return netflowOn(conn, r.Node.IfIndex, time.Now), nil
}

func netflowOn(conn net.Conn, ifIndex int, now func() time.Time) *netflow {
	n := &netflow{conn: conn, ifIndex: uint16(ifIndex), boot: now(), now: now}
	n.buf = make([]byte, netflowHeader, netflowHeader+netflowRecords*netflowRecord)
	return n
}

// Lost implements capture.Target.
func (n *netflow) Lost() int64 { return n.lost.Load() }

// Close implements capture.Target.
func (n *netflow) Close() error { return n.conn.Close() }

// Flow implements capture.FlowTarget.
func (n *netflow) Flow(f *flow.Flow) {
	if f.Network == nil || f.Network.Protocol != flow.IPv4 {
		return
	}
	a, errA := netip.ParseAddr(f.Network.A)
	b, errB := netip.ParseAddr(f.Network.B)
	if errA != nil || errB != nil || !a.Is4() || !b.Is4() {
		return
	}
	m := f.LastUpdateMetric
	if m == nil { // it ends before its first report
		m = &f.Metric
	}
	r := record{src: a, dst: b, proto: protocol(f), first: n.uptime(m.Start), last: n.uptime(m.Last)}
	if f.Transport != nil {
		r.srcPort, r.dstPort = uint16(f.Transport.A), uint16(f.Transport.B)
	}
	back := r
	back.src, back.dst, back.srcPort, back.dstPort = r.dst, r.src, r.dstPort, r.srcPort
	if f.ICMP != nil {
		r.dstPort, back.dstPort = icmpPorts(f.ICMP)
	}
	header := linkHeader(f)
	n.count(r, m.ABPackets, m.ABBytes-header*m.ABPackets)
	n.count(back, m.BAPackets, m.BABytes-header*m.BAPackets)
}

// linkHeader is how many bytes of each packet are not IP.
func linkHeader(f *flow.Flow) int64 {
	if !strings.HasPrefix(f.LayersPath, "Ethernet") {
		return 0
	}
	return ethernetHeader + vlanLen*int64(strings.Count(f.LayersPath, "/Dot1Q"))
}

// protocol is the protocol number in the IP header.
func protocol(f *flow.Flow) uint8 {
	if f.Transport != nil {
		switch f.Transport.Protocol {
		case flow.TCP:
			return 6
		case flow.UDP:
			return 17
		case flow.SCTP:
			return 132
		}
	}
	_, after, _ := strings.Cut(f.LayersPath, "IPv4/")
	name, _, _ := strings.Cut(after, "/")
	switch name {
	case "ICMPv4":
		return 1
	case "IGMP":
		return 2
	case "IPv4":
		return 4
	case "TCP":
		return 6
	case "UDP":
		return 17
	case "IPv6":
		return 41
	case "GRE":
		return 47
	case "IPSecESP":
		return 50
	case "IPSecAH":
		return 51
	case "OSPF":
		return 89
	case "EtherIP":
		return 97
	case "VRRP":
		return 112
	case "SCTP":
		return 132
	case "UDPLite":
		return 136
	}
	return 255 // reserved by IANA: not known
}

// icmpPorts are type and code, where collectors look for them, of both directions.
func icmpPorts(i *flow.ICMP) (ab, ba uint16) {
	types := map[flow.ICMPType]uint16{
		flow.Echo: 8, flow.DestinationUnreachable: 3, flow.SourceQuench: 4, flow.Redirect: 5, flow.Router: 9, flow.TimeExceeded: 11,
		flow.ParameterProblem: 12, flow.Timestamp: 13, flow.Info: 15, flow.AddressMask: 17,
	}
	ab = types[i.Type]<<8 | uint16(i.Code&0xff)
	if i.Type == flow.Echo {
		return ab, 0
	}
	return ab, ab
}

// record is one direction of a flow.
type record struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16
	proto            uint8
	first, last      uint32
}

// uptime turns a time in ms into ms since boot, which cannot be negative.
func (n *netflow) uptime(ms int64) uint32 {
	return uint32(max(0, ms-n.boot.UnixMilli()))
}

// count adds records: several when a counter of 32 bits cannot hold it.
func (n *netflow) count(r record, packets, octets int64) {
	for octets = max(octets, 0); packets > 0; {
		p, o := packets, octets
		if parts := max(packets, octets)/math.MaxUint32 + 1; parts > 1 {
			p, o = max(packets/parts, 1), octets/parts
		}
		n.add(r, uint32(p), uint32(o))
		packets, octets = packets-p, octets-o
	}
}

func (n *netflow) add(r record, packets, octets uint32) {
	src, dst := r.src.As4(), r.dst.As4()
	b := append(n.buf, src[:]...)
	b = append(b, dst[:]...)
	b = append(b, 0, 0, 0, 0) // next hop
	b = binary.BigEndian.AppendUint16(b, n.ifIndex)
	b = binary.BigEndian.AppendUint16(b, n.ifIndex)
	b = binary.BigEndian.AppendUint32(b, packets)
	b = binary.BigEndian.AppendUint32(b, octets)
	b = binary.BigEndian.AppendUint32(b, r.first)
	b = binary.BigEndian.AppendUint32(b, r.last)
	b = binary.BigEndian.AppendUint16(b, r.srcPort)
	b = binary.BigEndian.AppendUint16(b, r.dstPort)
	b = append(b, 0, 0, r.proto, 0, 0, 0, 0, 0, 0, 0, 0, 0) // padding, TCP flags, protocol, ToS, AS, masks, padding
	if n.buf = b; len(b) == cap(b) {
		n.Flush()
	}
}

// Flush implements capture.FlowTarget.
func (n *netflow) Flush() {
	records := (len(n.buf) - netflowHeader) / netflowRecord
	if records == 0 {
		return
	}
	now := n.now()
	h := n.buf[:netflowHeader]
	binary.BigEndian.PutUint16(h, netflowVersion)
	binary.BigEndian.PutUint16(h[2:], uint16(records))
	binary.BigEndian.PutUint32(h[4:], n.uptime(now.UnixMilli()))
	binary.BigEndian.PutUint32(h[8:], uint32(now.Unix()))
	binary.BigEndian.PutUint32(h[12:], uint32(now.Nanosecond()))
	binary.BigEndian.PutUint32(h[16:], n.seq) // then engine and sampling, which stay 0
	if _, err := n.conn.Write(n.buf); err != nil {
		n.lost.Add(int64(records))
	}
	n.seq += uint32(records) // also when they are lost: so the collector sees the gap
	n.buf = n.buf[:netflowHeader]
}
