// Package flow turns packets into flows: the record of a flow, its key and identifiers, the decoding of packets, the table that counts
// them, and how records travel (protobuf), are shown (JSON) and searched.
//
// A Table is bounded: whatever arrives, it holds no more flows than it was told to and allocates nothing per packet. The package does no
// I/O and knows no interfaces: who captures gives it frames, who forwards takes records. Data that a packet carries are not put together,
// only followed: fragments (RFC 791) and TCP segments (RFC 9293) are counted, not kept.
//
// Times of records are milliseconds since the epoch, those of packets, RTTs and within the table nanoseconds. Bytes are those of frames on the
// wire, from the first header of the encapsulation level on, without the frame check sequence.
//
// Decoded are Ethernet, LLC and SNAP (IEEE 802.3), VLAN tags (IEEE 802.1Q), ARP (RFC 826), PPPoE (RFC 2516), MPLS (RFC 3032, RFC 7510), IPv4
// (RFC 791), IPv6 with its extension headers (RFC 8200), TCP, UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792, RFC 4443), VXLAN (RFC 7348), Geneve
// (RFC 8926), GRE (RFC 2784, RFC 2890) and ERSPAN in it, EtherIP (RFC 3378), DNS (RFC 1035, RFC 6891), DHCPv4 (RFC 2131) and VRRPv2 (RFC 3768).
// Others are named by gopacket, for the first packet of a flow.
package flow

// Flow is one conversation on one encapsulation level, in both directions. A is the side that sent the first packet seen. Times are
// milliseconds since the epoch. A sub-object that is nil was not seen or not asked for.
type Flow struct {
	UUID        string // lower hex, see Table; not unique among captures of one node
	LayersPath  string // "Ethernet/IPv4/TCP"
	Application string
	ParentUUID  string // of the flow of the outer encapsulation
	Start, Last int64

	Link      *Layer
	Network   *Layer
	Transport *Transport
	ICMP      *ICMP

	Metric           Metric  // since Start
	LastUpdateMetric *Metric // of the last report interval; nil before the first report

	TCPMetric *TCPMetric // with ExtraTCPMetric or ReassembleTCP
	IPMetric  *IPMetric  // with IPDefrag

	NodeTID      string // of the node that is captured
	CaptureID    string
	TrackingID   string // same on every node that the packets pass
	L3TrackingID string // same also where MAC addresses change

	LastRawPackets     []RawPacket // since the last report; never in JSON
	RawPacketsCaptured int64
	FinishType         FinishType

	DHCPv4 *DHCPv4
	DNS    *DNS
	VRRPv2 *VRRPv2
}

// Protocol is FlowProtocol of the public protobuf schema.
type Protocol uint8

// All protocols.
const (
	Ethernet Protocol = iota
	IPv4
	TCP
	UDP
	SCTP
	IPv6
	ICMPv4
	ICMPv6
)

// Layer is a pair of addresses.
type Layer struct {
	Protocol Protocol
	A, B     string
	ID       int64 // Link: VLAN ids, 12 bits each, outermost lowest; Network: VNI or key of the encapsulating header
}

// Transport is a pair of ports.
type Transport struct {
	Protocol Protocol
	A, B     int64
	ID       int64
}

// ICMP is what an ICMP message says.
type ICMP struct {
	Type ICMPType
	Code uint32
	ID   uint32 // of an echo
}

// ICMPType is ICMPType of the public protobuf schema: one enumeration for ICMPv4 and ICMPv6.
type ICMPType uint8

// All types.
const (
	ICMPUnknown ICMPType = iota
	DestinationUnreachable
	Echo
	Neighbor
	AddressMask
	Info
	ParameterProblem
	Redirect
	Router
	SourceQuench
	TimeExceeded
	Timestamp
	PacketTooBig
)

// FinishType is why a flow ended.
type FinishType uint8

// All reasons.
const (
	NotFinished FinishType = iota
	Timeout
	TCPFin
	TCPRst
)

// Metric counts packets and bytes from A to B and from B to A.
type Metric struct {
	ABPackets, ABBytes, BAPackets, BABytes int64
	Start, Last                            int64 // ms
	RTT                                    int64 // ns; 0: unknown
}

// RawPacket is a captured packet.
type RawPacket struct {
	Timestamp int64  // ms
	Index     int64  // from 1, within its flow
	Data      []byte // cut at the header size of the capture
	LinkType  uint32 // LINKTYPE_* of pcap: 1 Ethernet, 228 IPv4, 229 IPv6
}

// IPMetric counts fragments.
type IPMetric struct {
	Fragments, FragmentErrors int64
}

// TCPMetric tells of connection set-up and end (ms), and what reassembly found.
type TCPMetric struct {
	ABSynStart, BASynStart                    int64
	ABSynTTL, BASynTTL                        uint32
	ABFinStart, BAFinStart                    int64
	ABRstStart, BARstStart                    int64
	ABSegmentOutOfOrder, ABSegmentSkipped     int64
	ABSegmentSkippedBytes, ABPackets, ABBytes int64
	ABSawStart, ABSawEnd                      int64
	BASegmentOutOfOrder, BASegmentSkipped     int64
	BASegmentSkippedBytes, BAPackets, BABytes int64
	BASawStart, BASawEnd                      int64
}

// DHCPv4 is what a DHCP message says (RFC 2131).
type DHCPv4 struct {
	Contents, Payload []byte
	HardwareLen       uint32
	HardwareOpts      uint32
	Xid               uint32
	Secs              uint32
	Flags             uint32
	ServerName        []byte
	File              []byte
}

// VRRPv2 is what an advertisement says (RFC 3768).
type VRRPv2 struct {
	Contents, Payload []byte
	Version           uint32
	VirtualRtrID      uint32
	Priority          uint32
	CountIPAddr       uint32
	AdverInt          uint32
	Checksum          uint32
}

// DNS is what a message says (RFC 1035).
type DNS struct {
	ID                                 uint32
	QR                                 bool
	OpCode                             string // "Query"
	AA, TC, RD, RA                     bool
	Z                                  uint32
	ResponseCode                       string
	QDCount, ANCount, NSCount, ARCount uint32
	Questions                          []DNSQuestion
	Answers, Authorities, Additionals  []DNSRecord
	Timestamp                          int64 // ns since the epoch
}

// DNSQuestion is an entry of the question section.
type DNSQuestion struct{ Name, Type, Class string }

// DNSRecord is a resource record; which of the later fields are set depends on Type.
type DNSRecord struct {
	Name, Type, Class string
	TTL, DataLength   uint32
	IP, NS, CName     string
	PTR               string
	TXTs              []string
	SOA               *DNSSOA
	SRV               *DNSSRV
	MX                *DNSMX
	OPT               []DNSOption
}

// DNSSOA is the start of a zone of authority.
type DNSSOA struct {
	MName, RName                            string
	Serial, Refresh, Retry, Expire, Minimum uint32
}

// DNSSRV names the server of a service (RFC 2782).
type DNSSRV struct {
	Priority, Weight, Port uint32
	Name                   string
}

// DNSMX names a mail exchange.
type DNSMX struct {
	Preference uint32
	Name       string
}

// DNSOption is an option of EDNS (RFC 6891).
type DNSOption struct {
	Code string
	Data string
}

// Stats counts what happened to the packets of one capture, since it began.
type Stats struct {
	CaptureID         string
	FlowCount         int64 // in the table now
	FlowDropped       int64 // evicted to make room
	KernelFlowDropped int64 // by a kernel that counts flows itself
	PacketsDropped    int64 // by the kernel or by us, before they reached the table
	PacketsReceived   int64
}
