package resource

import (
	"bytes"
	"errors"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Injection asks for packets to be sent from a node. All fields are in its JSON, always.
type Injection struct {
	Identity
	Src, Dst         string // Gremlin: the first node each; looked up when it is created
	SrcIP, DstIP     string // instead of the addresses of the nodes
	SrcMAC, DstMAC   string
	SrcPort, DstPort uint16
	Type             string // icmp4, icmp6, tcp4, tcp6, udp4 or udp6
	Payload          string
	ICMPID           uint16
	Count            uint64    // packets
	Interval         uint64    // milliseconds between packets
	Mode             string    // "", unique or random
	IncrementPayload int64     // bytes added after each packet
	StartTime        time.Time // set by the server
	Pcap             []byte    // a pcap file to send instead
	TTL              uint8
}

// maxPayload is what fits an IPv6 packet beside the UDP header.
const maxPayload = math.MaxUint16 - 8

// SetDefaults sets StartTime.
func (p *Injection) SetDefaults(d Defaults) { p.StartTime = d.Now.UTC() }

// Validate implements Resource. Whether the nodes exist is for the engine that sends to say.
func (p *Injection) Validate() error {
	faults := []error{checkGremlin("Src", p.Src)}
	if p.Dst != "" {
		faults = append(faults, checkGremlin("Dst", p.Dst))
	}
	for _, f := range []struct{ name, ip string }{{"SrcIP", p.SrcIP}, {"DstIP", p.DstIP}} {
		_, notAddr := netip.ParseAddr(f.ip)
		if _, notPrefix := netip.ParsePrefix(f.ip); f.ip != "" && notAddr != nil && notPrefix != nil {
			faults = append(faults, fault(f.name, "Not a IP or CIDR address"))
		}
	}
	for _, f := range []struct{ name, mac string }{{"SrcMAC", p.SrcMAC}, {"DstMAC", p.DstMAC}} {
		if _, err := net.ParseMAC(f.mac); f.mac != "" && err != nil {
			faults = append(faults, fault(f.name, "Not a MAC address"))
		}
	}
	if !slices.Contains([]string{"icmp4", "icmp6", "tcp4", "tcp6", "udp4", "udp6"}, p.Type) {
		faults = append(faults, errors.New("given type is not supported"))
	}
	if !slices.Contains([]string{"", "unique", "random"}, p.Mode) {
		faults = append(faults, errors.New("given mode is not supported"))
	}
	if len(p.Payload) > maxPayload {
		faults = append(faults, fault("Payload", "fits no IP packet"))
	}
	if magics := []string{"\xd4\xc3\xb2\xa1", "\xa1\xb2\xc3\xd4", "\x4d\x3c\xb2\xa1", "\xa1\xb2\x3c\x4d"}; len(p.Pcap) > 0 &&
		!slices.ContainsFunc(magics, func(m string) bool { return bytes.HasPrefix(p.Pcap, []byte(m)) }) {
		faults = append(faults, fault("Pcap", "Not a pcap file (pcapng is not read)"))
	}
	if p.IncrementPayload < 0 {
		faults = append(faults, fault("IncrementPayload", "must not be negative"))
	}
	return errors.Join(faults...)
}

// InjectionRequest is what an agent is told to send from one node: an Injection with everything found out that it left open. The field
// names are those of the public API; MACs and Pcap are base64 in JSON.
type InjectionRequest struct {
	UUID             string
	SrcIP            string
	SrcMAC           net.HardwareAddr
	SrcPort          uint16
	DstIP            string
	DstMAC           net.HardwareAddr
	DstPort          uint16
	Type             string
	Count            uint64
	ICMPID           uint16
	Interval         uint64
	Mode             string
	IncrementPayload int64
	Payload          string
	Pcap             []byte
	TTL              uint8
}
