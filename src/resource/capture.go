package resource

import (
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"

	"skydive/src/bpf"
)

// Capture asks for packets: which nodes, how, and what to make of them.
type Capture struct {
	Identity
	GremlinQuery    string `json:",omitempty"` // selects the nodes
	BPFFilter       string `json:",omitempty"`
	Name            string `json:",omitempty"`
	Description     string `json:",omitempty"`
	Type            string `json:",omitempty"` // one of CaptureTypes; "" is the default of the node's type
	Count           int    // nodes on which it is active; computed
	Port            int    `json:",omitempty"` // of sFlow
	SamplingRate    uint32 // 1 in n packets
	PollingInterval uint32 // seconds
	RawPacketLimit  int    `json:",omitempty"` // raw packets kept per flow, at most 10
	HeaderSize      int    `json:",omitempty"` // bytes kept of each packet, 14 to 4096; 0 is the default of the type
	ExtraTCPMetric  bool
	IPDefrag        bool
	ReassembleTCP   bool
	LayerKeyMode    string `json:",omitempty"` // L2 or L3
	ExtraLayers     int    `json:",omitempty"` // bits: 1 VRRP, 2 DNS, 4 DHCPv4
	Target          string `json:",omitempty"` // host:port that gets the packets or flows, instead of the analyzer
	TargetType      string `json:",omitempty"` // "", local, netflowv5, erspanv1

	Exporters []Exporter `json:",omitempty"` // for agents only: those that the graph knows
}

// Exporter is an interface of a device that sends sFlow, NetFlow or IPFIX, with the node which that interface is.
type Exporter struct {
	Address string // of the device
	IfIndex int    // as the device numbers it
	TID     string
}

const maxHeaderSize = 4096

// CaptureTypes are the names of the public API for ways to get packets.
func CaptureTypes() []string {
	return []string{"afpacket", "ebpf", "netflow", "ovsipfix", "ovsmirror", "ovsnetflow", "ovssflow", "pcap", "pcapsocket", "sflow"}
}

// SetDefaults fills in LayerKeyMode.
func (c *Capture) SetDefaults(d Defaults) {
	if c.LayerKeyMode == "" {
		if c.LayerKeyMode = d.LayerKeyMode; c.LayerKeyMode == "" {
			c.LayerKeyMode = "L2"
		}
	}
}

// Validate implements Resource.
func (c *Capture) Validate() error {
	faults := []error{checkGremlin("GremlinQuery", c.GremlinQuery)}
	if _, err := bpf.Compile(c.BPFFilter, bpf.Ethernet, maxHeaderSize); err != nil {
		faults = append(faults, fault("BPFFilter", "Not a valid BPF expression: "+err.Error()))
	}
	if c.Type != "" && !slices.Contains(CaptureTypes(), c.Type) {
		faults = append(faults, fault("Type", fmt.Sprintf("Not a valid capture type: %s, available types: %v", c.Type, CaptureTypes())))
	}
	if c.RawPacketLimit < 0 || c.RawPacketLimit > 10 {
		faults = append(faults, fault("RawPacketLimit", "A valid raw packet limit size is > 0 && <= 10"))
	}
	if c.HeaderSize != 0 && (c.HeaderSize < 14 || c.HeaderSize > maxHeaderSize) {
		faults = append(faults, fault("HeaderSize", "A valid header size is >= 14 && <= 4096"))
	}
	if c.LayerKeyMode != "" && c.LayerKeyMode != "L2" && c.LayerKeyMode != "L3" {
		faults = append(faults, fault("LayerKeyMode", "Not a valid layer key mode"))
	}
	if c.Port < 0 || c.Port > math.MaxUint16 {
		faults = append(faults, fault("Port", "A valid port is >= 0 && <= 65535"))
	}
	if c.ExtraLayers < 0 || c.ExtraLayers > math.MaxUint8 {
		faults = append(faults, fault("ExtraLayers", "Not a valid set of layers"))
	}
	if c.Target != "" && !isHostPort(c.Target, c.TargetType == "erspanv1") {
		faults = append(faults, fault("Target", "Not a valid address"))
	}
	if len(c.Exporters) > 0 {
		faults = append(faults, fault("Exporters", "Not for clients to say"))
	}
	if c.Type == "ebpf" && c.BPFFilter != "" {
		faults = append(faults, errors.New("ebpf capture doesn't support BPF filtering"))
	}
	if c.Type == "ebpf" && c.RawPacketLimit != 0 {
		faults = append(faults, errors.New("ebpf capture doesn't support raw packet capture"))
	}
	return errors.Join(faults...)
}

// isHostPort tells whether s is host:port. GRE, which carries ERSPAN, has no ports: 0 will do there.
func isHostPort(s string, noPort bool) bool {
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && (n > 0 || noPort) && host != "" && !strings.ContainsAny(host, " /")
}

// Conflict wraps ErrDuplicate for a capture of the same type on the same nodes, unless filters tell them apart and the type can
// capture more than once on a node.
func (c *Capture) Conflict(other Resource) error {
	o, ok := other.(*Capture)
	if !ok || c.Type != o.Type || c.GremlinQuery != o.GremlinQuery {
		return nil
	}
	once := c.Type != "" && c.Type != "afpacket" && c.Type != "pcap"
	if once || c.BPFFilter == o.BPFFilter {
		return ErrDuplicate
	}
	return nil
}
