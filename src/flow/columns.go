package flow

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// column says how one field of a record of type T travels (number), is shown (json) and is asked for (key). One table per type serves
// protobuf, JSON and queries, so that they cannot disagree.
type column[T any] struct {
	num  protowire.Number
	json string         // name in the public schema, and so in JSON
	key  string         // name in queries where it differs
	show show           // in JSON
	ref  func(m *T) any // pointer to the field
}

// show tells when JSON has a field.
type show uint8

const (
	omitZero show = iota
	always
	never
)

// stamp is a point in time, ns since the epoch, that travels as google.protobuf.Timestamp.
type stamp int64

type timestamp struct{ Seconds, Nanos int64 }

func (s stamp) split() timestamp {
	t := timestamp{int64(s) / 1e9, int64(s) % 1e9}
	if t.Nanos < 0 {
		t.Seconds, t.Nanos = t.Seconds-1, t.Nanos+1e9
	}
	return t
}

func (t timestamp) join() stamp { return stamp(t.Seconds*1e9 + t.Nanos) }

// flowColumns is in the order of JSON, flowByNumber in that of protobuf; the other tables are in the same order in both.
var (
	flowColumns = []column[Flow]{
		{num: 1, json: "UUID", ref: func(f *Flow) any { return &f.UUID }},
		{num: 2, json: "LayersPath", ref: func(f *Flow) any { return &f.LayersPath }},
		{num: 3, json: "Application", ref: func(f *Flow) any { return &f.Application }},
		{num: 20, json: "Link", ref: func(f *Flow) any { return &f.Link }},
		{num: 21, json: "Network", ref: func(f *Flow) any { return &f.Network }},
		{num: 22, json: "Transport", ref: func(f *Flow) any { return &f.Transport }},
		{num: 23, json: "ICMP", ref: func(f *Flow) any { return &f.ICMP }},
		{num: 1000, json: "DHCPv4", ref: func(f *Flow) any { return &f.DHCPv4 }},
		{num: 1001, json: "DNS", ref: func(f *Flow) any { return &f.DNS }},
		{num: 1002, json: "VRRPv2", ref: func(f *Flow) any { return &f.VRRPv2 }},
		{num: 31, json: "LastUpdateMetric", ref: func(f *Flow) any { return &f.LastUpdateMetric }},
		{num: 32, json: "Metric", ref: func(f *Flow) any { return &f.Metric }},
		{num: 38, json: "TCPMetric", ref: func(f *Flow) any { return &f.TCPMetric }},
		{num: 39, json: "IPMetric", ref: func(f *Flow) any { return &f.IPMetric }},
		{num: 10, json: "Start", show: always, ref: func(f *Flow) any { return &f.Start }},
		{num: 11, json: "Last", show: always, ref: func(f *Flow) any { return &f.Last }},
		{num: 50, json: "TrackingID", ref: func(f *Flow) any { return &f.TrackingID }},
		{num: 51, json: "L3TrackingID", ref: func(f *Flow) any { return &f.L3TrackingID }},
		{num: 6, json: "ParentUUID", show: always, ref: func(f *Flow) any { return &f.ParentUUID }},
		{num: 33, json: "NodeTID", ref: func(f *Flow) any { return &f.NodeTID }},
		{num: 34, json: "CaptureID", ref: func(f *Flow) any { return &f.CaptureID }},
		{num: 36, json: "LastRawPackets", show: never, ref: func(f *Flow) any { return &f.LastRawPackets }},
		{num: 37, json: "RawPacketsCaptured", show: always, ref: func(f *Flow) any { return &f.RawPacketsCaptured }},
		{num: 60, json: "FinishType", ref: func(f *Flow) any { return &f.FinishType }},
	}
	flowByNumber = slices.SortedFunc(slices.Values(flowColumns), func(a, b column[Flow]) int { return int(a.num) - int(b.num) })
)

var layerColumns = []column[Layer]{
	{num: 1, json: "Protocol", show: always, ref: func(l *Layer) any { return &l.Protocol }},
	{num: 3, json: "A", show: always, ref: func(l *Layer) any { return &l.A }},
	{num: 4, json: "B", show: always, ref: func(l *Layer) any { return &l.B }},
	{num: 5, json: "ID", show: always, ref: func(l *Layer) any { return &l.ID }},
}

var transportColumns = []column[Transport]{
	{num: 1, json: "Protocol", show: always, ref: func(t *Transport) any { return &t.Protocol }},
	{num: 2, json: "A", show: always, ref: func(t *Transport) any { return &t.A }},
	{num: 3, json: "B", show: always, ref: func(t *Transport) any { return &t.B }},
	{num: 4, json: "ID", show: always, ref: func(t *Transport) any { return &t.ID }},
}

var icmpColumns = []column[ICMP]{
	{num: 1, json: "Type", show: always, ref: func(i *ICMP) any { return &i.Type }},
	{num: 2, json: "Code", ref: func(i *ICMP) any { return &i.Code }},
	{num: 3, json: "ID", ref: func(i *ICMP) any { return &i.ID }},
}

var metricColumns = []column[Metric]{
	{num: 2, json: "ABPackets", show: always, ref: func(m *Metric) any { return &m.ABPackets }},
	{num: 3, json: "ABBytes", show: always, ref: func(m *Metric) any { return &m.ABBytes }},
	{num: 4, json: "BAPackets", show: always, ref: func(m *Metric) any { return &m.BAPackets }},
	{num: 5, json: "BABytes", show: always, ref: func(m *Metric) any { return &m.BABytes }},
	{num: 6, json: "Start", show: always, ref: func(m *Metric) any { return &m.Start }},
	{num: 7, json: "Last", show: always, ref: func(m *Metric) any { return &m.Last }},
	{num: 8, json: "RTT", ref: func(m *Metric) any { return &m.RTT }},
}

var rawPacketColumns = []column[RawPacket]{
	{num: 1, json: "Timestamp", show: always, ref: func(p *RawPacket) any { return &p.Timestamp }},
	{num: 2, json: "Index", show: always, ref: func(p *RawPacket) any { return &p.Index }},
	{num: 3, json: "Data", show: always, ref: func(p *RawPacket) any { return &p.Data }},
	{num: 4, json: "LinkType", ref: func(p *RawPacket) any { return &p.LinkType }},
}

var ipMetricColumns = []column[IPMetric]{
	{num: 1, json: "Fragments", show: always, ref: func(m *IPMetric) any { return &m.Fragments }},
	{num: 2, json: "FragmentErrors", show: always, ref: func(m *IPMetric) any { return &m.FragmentErrors }},
}

var tcpMetricColumns = []column[TCPMetric]{
	{num: 1, json: "ABSynStart", show: always, ref: func(m *TCPMetric) any { return &m.ABSynStart }},
	{num: 2, json: "BASynStart", show: always, ref: func(m *TCPMetric) any { return &m.BASynStart }},
	{num: 3, json: "ABSynTTL", ref: func(m *TCPMetric) any { return &m.ABSynTTL }},
	{num: 4, json: "BASynTTL", ref: func(m *TCPMetric) any { return &m.BASynTTL }},
	{num: 5, json: "ABFinStart", show: always, ref: func(m *TCPMetric) any { return &m.ABFinStart }},
	{num: 6, json: "BAFinStart", show: always, ref: func(m *TCPMetric) any { return &m.BAFinStart }},
	{num: 7, json: "ABRstStart", show: always, ref: func(m *TCPMetric) any { return &m.ABRstStart }},
	{num: 8, json: "BARstStart", show: always, ref: func(m *TCPMetric) any { return &m.BARstStart }},
	{num: 9, json: "ABSegmentOutOfOrder", show: always, ref: func(m *TCPMetric) any { return &m.ABSegmentOutOfOrder }},
	{num: 10, json: "ABSegmentSkipped", show: always, ref: func(m *TCPMetric) any { return &m.ABSegmentSkipped }},
	{num: 11, json: "ABSegmentSkippedBytes", show: always, ref: func(m *TCPMetric) any { return &m.ABSegmentSkippedBytes }},
	{num: 12, json: "ABPackets", show: always, ref: func(m *TCPMetric) any { return &m.ABPackets }},
	{num: 13, json: "ABBytes", show: always, ref: func(m *TCPMetric) any { return &m.ABBytes }},
	{num: 14, json: "ABSawStart", show: always, ref: func(m *TCPMetric) any { return &m.ABSawStart }},
	{num: 15, json: "ABSawEnd", show: always, ref: func(m *TCPMetric) any { return &m.ABSawEnd }},
	{num: 16, json: "BASegmentOutOfOrder", show: always, ref: func(m *TCPMetric) any { return &m.BASegmentOutOfOrder }},
	{num: 17, json: "BASegmentSkipped", show: always, ref: func(m *TCPMetric) any { return &m.BASegmentSkipped }},
	{num: 18, json: "BASegmentSkippedBytes", show: always, ref: func(m *TCPMetric) any { return &m.BASegmentSkippedBytes }},
	{num: 19, json: "BAPackets", show: always, ref: func(m *TCPMetric) any { return &m.BAPackets }},
	{num: 20, json: "BABytes", show: always, ref: func(m *TCPMetric) any { return &m.BABytes }},
	{num: 21, json: "BASawStart", show: always, ref: func(m *TCPMetric) any { return &m.BASawStart }},
	{num: 22, json: "BASawEnd", show: always, ref: func(m *TCPMetric) any { return &m.BASawEnd }},
}

var dhcpColumns = []column[DHCPv4]{
	{num: 1, json: "contents", key: "Contents", ref: func(d *DHCPv4) any { return &d.Contents }},
	{num: 2, json: "payload", key: "Payload", ref: func(d *DHCPv4) any { return &d.Payload }},
	{num: 3, json: "hardware_len", key: "HardwareLen", ref: func(d *DHCPv4) any { return &d.HardwareLen }},
	{num: 4, json: "hardware_opts", key: "HardwareOpts", ref: func(d *DHCPv4) any { return &d.HardwareOpts }},
	{num: 5, json: "xid", key: "Xid", ref: func(d *DHCPv4) any { return &d.Xid }},
	{num: 6, json: "secs", key: "Secs", ref: func(d *DHCPv4) any { return &d.Secs }},
	{num: 7, json: "flags", key: "Flags", ref: func(d *DHCPv4) any { return &d.Flags }},
	{num: 8, json: "server_name", key: "ServerName", ref: func(d *DHCPv4) any { return &d.ServerName }},
	{num: 9, json: "file", key: "File", ref: func(d *DHCPv4) any { return &d.File }},
}

var vrrpColumns = []column[VRRPv2]{
	{num: 1, json: "contents", key: "Contents", ref: func(v *VRRPv2) any { return &v.Contents }},
	{num: 2, json: "payload", key: "Payload", ref: func(v *VRRPv2) any { return &v.Payload }},
	{num: 3, json: "version", key: "Version", ref: func(v *VRRPv2) any { return &v.Version }},
	{num: 4, json: "virtual_rtrID", key: "VirtualRtrID", ref: func(v *VRRPv2) any { return &v.VirtualRtrID }},
	{num: 5, json: "priority", key: "Priority", ref: func(v *VRRPv2) any { return &v.Priority }},
	{num: 6, json: "count_ipaddr", key: "CountIpaddr", ref: func(v *VRRPv2) any { return &v.CountIPAddr }},
	{num: 7, json: "adver_int", key: "AdverInt", ref: func(v *VRRPv2) any { return &v.AdverInt }},
	{num: 8, json: "checksum", key: "Checksum", ref: func(v *VRRPv2) any { return &v.Checksum }},
}

var dnsColumns = []column[DNS]{
	{num: 1, json: "ID", ref: func(d *DNS) any { return &d.ID }},
	{num: 2, json: "QR", ref: func(d *DNS) any { return &d.QR }},
	{num: 3, json: "op_code", key: "OpCode", ref: func(d *DNS) any { return &d.OpCode }},
	{num: 4, json: "AA", ref: func(d *DNS) any { return &d.AA }},
	{num: 5, json: "TC", ref: func(d *DNS) any { return &d.TC }},
	{num: 6, json: "RD", ref: func(d *DNS) any { return &d.RD }},
	{num: 7, json: "RA", ref: func(d *DNS) any { return &d.RA }},
	{num: 8, json: "z", key: "Z", ref: func(d *DNS) any { return &d.Z }},
	{num: 9, json: "response_code", key: "ResponseCode", ref: func(d *DNS) any { return &d.ResponseCode }},
	{num: 10, json: "q_d_count", key: "QDCount", ref: func(d *DNS) any { return &d.QDCount }},
	{num: 11, json: "a_n_count", key: "ANCount", ref: func(d *DNS) any { return &d.ANCount }},
	{num: 12, json: "n_s_count", key: "NSCount", ref: func(d *DNS) any { return &d.NSCount }},
	{num: 13, json: "a_r_count", key: "ARCount", ref: func(d *DNS) any { return &d.ARCount }},
	{num: 14, json: "questions", key: "Questions", ref: func(d *DNS) any { return &d.Questions }},
	{num: 15, json: "answers", key: "Answers", ref: func(d *DNS) any { return &d.Answers }},
	{num: 16, json: "authorities", key: "Authorities", ref: func(d *DNS) any { return &d.Authorities }},
	{num: 17, json: "additionals", key: "Additionals", ref: func(d *DNS) any { return &d.Additionals }},
	{num: 18, json: "timestamp", key: "Timestamp", ref: func(d *DNS) any { return (*stamp)(&d.Timestamp) }},
}

var timestampColumns = []column[timestamp]{
	{num: 1, json: "seconds", key: "Seconds", ref: func(t *timestamp) any { return &t.Seconds }},
	{num: 2, json: "nanos", key: "Nanos", ref: func(t *timestamp) any { return &t.Nanos }},
}

var questionColumns = []column[DNSQuestion]{
	{num: 1, json: "name", key: "Name", ref: func(q *DNSQuestion) any { return &q.Name }},
	{num: 2, json: "type", key: "Type", ref: func(q *DNSQuestion) any { return &q.Type }},
	{num: 3, json: "class", key: "Class", ref: func(q *DNSQuestion) any { return &q.Class }},
}

var recordColumns = []column[DNSRecord]{
	{num: 1, json: "name", key: "Name", ref: func(r *DNSRecord) any { return &r.Name }},
	{num: 2, json: "type", key: "Type", ref: func(r *DNSRecord) any { return &r.Type }},
	{num: 3, json: "class", key: "Class", ref: func(r *DNSRecord) any { return &r.Class }},
	{num: 4, json: "TTL", ref: func(r *DNSRecord) any { return &r.TTL }},
	{num: 5, json: "data_length", key: "DataLength", ref: func(r *DNSRecord) any { return &r.DataLength }},
	{num: 6, json: "IP", ref: func(r *DNSRecord) any { return &r.IP }},
	{num: 7, json: "NS", ref: func(r *DNSRecord) any { return &r.NS }},
	{num: 8, json: "c_name", key: "CName", ref: func(r *DNSRecord) any { return &r.CName }},
	{num: 9, json: "PTR", ref: func(r *DNSRecord) any { return &r.PTR }},
	{num: 10, json: "TXTs", ref: func(r *DNSRecord) any { return &r.TXTs }},
	{num: 11, json: "SOA", ref: func(r *DNSRecord) any { return &r.SOA }},
	{num: 12, json: "SRV", ref: func(r *DNSRecord) any { return &r.SRV }},
	{num: 13, json: "MX", ref: func(r *DNSRecord) any { return &r.MX }},
	{num: 14, json: "OPT", ref: func(r *DNSRecord) any { return &r.OPT }},
}

var soaColumns = []column[DNSSOA]{
	{num: 1, json: "m_name", key: "MName", ref: func(s *DNSSOA) any { return &s.MName }},
	{num: 2, json: "r_name", key: "RName", ref: func(s *DNSSOA) any { return &s.RName }},
	{num: 3, json: "serial", key: "Serial", ref: func(s *DNSSOA) any { return &s.Serial }},
	{num: 4, json: "refresh", key: "Refresh", ref: func(s *DNSSOA) any { return &s.Refresh }},
	{num: 5, json: "retry", key: "Retry", ref: func(s *DNSSOA) any { return &s.Retry }},
	{num: 6, json: "expire", key: "Expire", ref: func(s *DNSSOA) any { return &s.Expire }},
	{num: 7, json: "minimum", key: "Minimum", ref: func(s *DNSSOA) any { return &s.Minimum }},
}

var srvColumns = []column[DNSSRV]{
	{num: 1, json: "priority", key: "Priority", ref: func(s *DNSSRV) any { return &s.Priority }},
	{num: 2, json: "weight", key: "Weight", ref: func(s *DNSSRV) any { return &s.Weight }},
	{num: 3, json: "port", key: "Port", ref: func(s *DNSSRV) any { return &s.Port }},
	{num: 4, json: "name", key: "Name", ref: func(s *DNSSRV) any { return &s.Name }},
}

var mxColumns = []column[DNSMX]{
	{num: 1, json: "preference", key: "Preference", ref: func(m *DNSMX) any { return &m.Preference }},
	{num: 2, json: "name", key: "Name", ref: func(m *DNSMX) any { return &m.Name }},
}

var optionColumns = []column[DNSOption]{
	{num: 1, json: "code", key: "Code", ref: func(o *DNSOption) any { return &o.Code }},
	{num: 2, json: "data", key: "Data", ref: func(o *DNSOption) any { return &o.Data }},
}

var statsColumns = []column[Stats]{
	{num: 1, json: "CaptureID", show: always, ref: func(s *Stats) any { return &s.CaptureID }},
	{num: 2, json: "FlowCount", show: always, ref: func(s *Stats) any { return &s.FlowCount }},
	{num: 3, json: "FlowDropped", show: always, ref: func(s *Stats) any { return &s.FlowDropped }},
	{num: 4, json: "KernelFlowDropped", show: always, ref: func(s *Stats) any { return &s.KernelFlowDropped }},
	{num: 5, json: "PacketsDropped", show: always, ref: func(s *Stats) any { return &s.PacketsDropped }},
	{num: 6, json: "PacketsReceived", show: always, ref: func(s *Stats) any { return &s.PacketsReceived }},
}
