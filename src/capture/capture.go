// Package capture runs captures on the nodes of an agent: it picks the kind of packet source that fits a node, keeps our own traffic out,
// gives each capture a flow table of its own, starts a source again when it fails and tells in the node's metadata how it goes.
//
// It opens no socket for packets itself: sources are kinds that are given to it. It knows no graph: nodes are described to it, and what
// they shall show is handed back. Which nodes are to be captured is decided elsewhere.
package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"skydive/src/bpf"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/resource"
)

// Why a source cannot work now.
var (
	// ErrDown tells that the interface is down: the capture waits for it.
	ErrDown = errors.New("interface is down")
	// ErrGone tells that the interface or its network namespace does not exist any more.
	ErrGone = errors.New("interface is gone")
	// ErrNotFound tells that nothing is captured under an identifier.
	ErrNotFound = errors.New("no such capture")
)

// RefusedError tells that a capture cannot run on a node, whatever is tried.
type RefusedError struct {
	Status int // as of HTTP
	Reason string
}

func (e *RefusedError) Error() string { return e.Reason }

func refuse(status int, format string, args ...any) error {
	return &RefusedError{status, fmt.Sprintf(format, args...)}
}

// Node is what is to be known of a node to capture on it.
type Node struct {
	ID, TID, Name, Type string
	EncapType           string // what frames begin with, as netlink names it
	IfIndex             int
	NetNS               string // path of the network namespace, "" for that of the process
	Up                  bool
	MPLSUDPPorts        []uint16
	IPV4                []string
	UUID                string // of the bridge or port in the database of Open vSwitch
}

// same tells whether an open source of one would do for the other. Interfaces are what the kernel numbers them; only what it does not know
// goes by the UUID.
func (n *Node) same(o *Node) bool {
	return n.IfIndex == o.IfIndex && n.NetNS == o.NetNS && n.EncapType == o.EncapType && (n.IfIndex > 0 || n.UUID == o.UUID)
}

// Sink takes what captures find. It takes records at once, since they are used again. It may wait a little until it can send: no packet
// is lost for that.
type Sink interface {
	Flow(*flow.Flow)
	Stats(flow.Stats)
}

// Source takes packets at one place.
type Source interface {
	// Run opens the place, calls up, with what there is to show in the metadata, as soon as packets are taken, and hands them to the
	// intake of its request until ctx ends (nil) or it cannot go on. It frees everything before it returns.
	Run(ctx context.Context, up func(field.Object)) error
	// Counters may be called at any time.
	Counters() Counters
}

// Clock is what a source has whose packets are not of the present. Its time is zero before the first packet, and may go back.
type Clock interface{ Now() time.Time }

// Meter is a source that counts more than packets.
type Meter interface {
	// Metrics returns what the node's metadata shall show under key while the source runs; nothing: not yet. It may be called at any time.
	Metrics() (key string, metrics field.Object)
}

// Exporter is a device that tells of the packets at one of its interfaces, with the node which that is.
type Exporter = resource.Exporter

// Mapper is a source for which packets are counted by others, at nodes of their own.
type Mapper interface {
	// Map tells which nodes the interfaces of exporters are; Request.Capture.Exporters is what they are at first. It may be called at any time.
	Map([]Exporter)
}

// Counters tell what became of packets since the source was made.
type Counters struct {
	Seen      int64 // by the interface, as it counts: segments that are captured in one piece may be many. 0: not known
	Received  int64 // that passed the filter, including those dropped
	Dropped   int64 // of these, lost because we were too slow
	IfDropped int64 // lost by the interface
	Filtered  int64 // refused by the filter, when that is run by the source: one inside the kernel does not count
	Malformed int64 // not understood by the source itself
	Missing   int64 // sent by exporters, as they number what they send, that never came: datagrams, or records
	Repeated  int64 // datagrams of exporters that came again
	Unknown   int64 // sets of records whose template has not come
}

func (c Counters) plus(o Counters) Counters {
	return Counters{
		c.Seen + o.Seen, c.Received + o.Received, c.Dropped + o.Dropped, c.IfDropped + o.IfDropped, c.Filtered + o.Filtered, c.Malformed + o.Malformed,
		c.Missing + o.Missing, c.Repeated + o.Repeated, c.Unknown + o.Unknown,
	}
}

// Request is what a source is made from.
type Request struct {
	Node    Node
	Capture resource.Capture
	Filter  *bpf.Filter // nil: every packet
	Link    bpf.LinkType
	SnapLen int // bytes to keep of a packet
	Intake  *Intake
	Log     *slog.Logger
}

// Kind is a way to take packets.
type Kind struct {
	New       func(Request) Source // inert
	Several   bool                 // can run more than once on a node
	Interface bool                 // takes the packets of the interface itself, and so our own traffic too
	Traffic   bool                 // takes all of what passes somewhere else, and so our own traffic too
	Records   bool                 // has no packets, only what others have counted
	Exports   bool                 // has what is captured sent to the Target of the capture by others, whatever its TargetType
}

// Target takes what a capture finds, in place of the Sink. It implements FlowTarget or PacketTarget.
type Target interface {
	Lost() int64 // packets or records that could not be sent
	Close() error
}

// FlowTarget takes flows. Calls do not overlap.
type FlowTarget interface {
	Target
	Flow(*flow.Flow)
	Flush() // no more flows for now
}

// PacketTarget takes packets. Calls do not overlap.
type PacketTarget interface {
	Target
	Packets([]flow.Packet)
}

// TargetKind is a protocol of targets.
type TargetKind struct {
	New     func(TargetRequest) (Target, error)
	Exclude string // filter of the packets that it sends, besides "host …"; %port is the port
	SnapLen int    // bytes that it wants of packets when the capture does not say
}

// TargetRequest is what a target is made from.
type TargetRequest struct {
	Node    Node
	Address string // host:port of the collector
	Link    bpf.LinkType
	SnapLen int
}

// layers says how the packets of an interface begin, by its encapsulation. Those of a tunnel are taken without what the kernel has in
// front of them, so that they are what the tunnel carries in both directions, of either version of IP.
func layers(encap string) (flow.FirstLayer, bpf.LinkType) {
	switch encap {
	case "none", "rawip", "gre", "gre6", "ipip", "tunnel", "tunnel6", "sit", "ppp", "infiniband":
		return flow.FirstRawIP, bpf.RawIP
	}
	return flow.FirstEthernet, bpf.Ethernet
}
