package flow

import "slices"

// extra is what only some flows have, and only where it was asked for.
type extra struct {
	tcp  *tcpState
	ip   IPMetric
	dns  *DNS
	dhcp *DHCPv4
	vrrp *VRRPv2

	raw    []RawPacket // since the last report
	rawAll int         // ever
}

const rawBytes = 64 << 20 // of unreported raw packets that a table holds

const (
	portDNS    = 53
	portDHCP   = 67
	portDHCPv4 = 68
	protoVRRP  = 112
)

// isPort says whether one end of a UDP packet is the port.
func (l *level) isPort(port uint16) bool {
	return l.shown&shownUDP != 0 && (l.dport == port || l.sport == port)
}

// detailed says whether a flow that begins with l has an extra.
func (t *Table) detailed(l *level) bool {
	return t.o.RawPacketLimit > 0 ||
		l.shown&shownTCP != 0 && (t.o.ExtraTCPMetric || t.o.ReassembleTCP) ||
		t.o.ExtraLayers != 0 && t.layered(l) != 0
}

// layered gives the extra layer that a packet may have and that was asked for.
func (t *Table) layered(l *level) int {
	switch {
	case l.isPort(portDNS):
		return t.o.ExtraLayers & ExtraDNS
	case l.isPort(portDHCP), l.isPort(portDHCPv4):
		return t.o.ExtraLayers & ExtraDHCPv4
	case l.ipProto() == protoVRRP && l.rest != 0:
		return t.o.ExtraLayers & ExtraVRRP
	}
	return 0
}

const extraBits = 8 // of the number of an extra: which of its piece it is

func (t *Table) extra(n uint32) *extra { return &t.extras[n>>extraBits][n&(1<<extraBits-1)] }

// extend gives an entry an extra.
func (t *Table) extend(e *hot) {
	if n := len(t.spare); n > 0 {
		e.extra = t.spare[n-1]
		t.spare = t.spare[:n-1]
		return
	}
	last := len(t.extras) - 1
	if last < 0 {
		t.extras, last = [][]extra{make([]extra, 1, 1<<extraBits)}, 0 // 0 is none
	}
	if len(t.extras[last]) == 1<<extraBits {
		t.extras = append(t.extras, make([]extra, 0, 1<<extraBits))
		last++
	}
	e.extra = uint32(last<<extraBits + len(t.extras[last]))
	t.extras[last] = t.extras[last][:len(t.extras[last])+1]
}

// forget frees the extra of a flow that ends.
func (t *Table) forget(n uint32) {
	x := t.extra(n)
	t.sent(x)
	if x.tcp != nil {
		t.waiting -= len(x.tcp.ends[0].waiting) + len(x.tcp.ends[1].waiting)
	}
	*x = extra{}
	t.spare = append(t.spare, n)
}

// detail keeps what was asked for of a packet.
func (t *Table) detail(p *Packet, l *level, e *hot) {
	x := t.extra(e.extra)
	if x.rawAll < t.o.RawPacketLimit && l.rawType != 0 {
		data := p.Data[l.rawOff:]
		data = data[:min(len(data), t.headerSize)]
		if t.raw+len(data) <= rawBytes {
			x.rawAll++
			t.raw += len(data)
			x.raw = append(x.raw, RawPacket{Timestamp: l.time / ms, Index: int64(x.rawAll), Data: slices.Clone(data), LinkType: uint32(l.rawType)})
		} else {
			t.counts.RawPacketsDropped++
		}
	}
	if l.shown&shownTCP != 0 && (t.o.ExtraTCPMetric || t.o.ReassembleTCP) {
		if x.tcp == nil {
			x.tcp = new(tcpState)
		}
		t.segment(p, l, e, x.tcp)
	}
	if t.o.ExtraLayers == 0 || l.fragOff != 0 {
		return
	}
	switch t.layered(l) {
	case ExtraDNS:
		if d := parseDNS(l.udpPayload(p), l.time); d != nil {
			x.dns = d
		}
	case ExtraDHCPv4:
		if x.dhcp == nil { // only DNS is that of the last message
			x.dhcp = parseDHCP(l.udpPayload(p))
		}
	case ExtraVRRP:
		if x.vrrp == nil {
			x.vrrp = parseVRRP(p.Data[l.rest:l.end])
		}
	}
}

// udpPayload is what was captured of it.
func (l *level) udpPayload(p *Packet) []byte {
	from := min(l.l4+8, l.end)
	return p.Data[from:l.end]
}

// record adds the extra to a record.
func (x *extra) record(r *record) {
	f := &r.flow
	if x.tcp != nil {
		r.tcp = x.tcp.metric
		f.TCPMetric = &r.tcp
	}
	f.DNS, f.DHCPv4, f.VRRPv2 = x.dns, x.dhcp, x.vrrp
	f.LastRawPackets, f.RawPacketsCaptured = x.raw, int64(x.rawAll)
}

// sent forgets the raw packets that were reported.
func (t *Table) sent(x *extra) {
	for _, p := range x.raw {
		t.raw -= len(p.Data)
	}
	x.raw = nil
}
