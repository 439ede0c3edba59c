package flow

import (
	"encoding/binary"
	"errors"
	"strconv"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

const (
	restBytes = 1600 // of a header that gopacket is shown
	restNames = 8    // layers that are named
)

// namer names the layers from a header on that the decoder does not know. It is what gopacket's decoders build, so that they go no deeper
// than wanted, and never into those that are not safe with what the network may send.
type namer struct {
	names   []byte
	layers  int
	payload []byte // of the last layer
	options gopacket.DecodeOptions
}

// appendNames appends the names from a header on, each with a slash. This is done for the first packet of a flow only.
func appendNames(dst, data []byte, kind header, id uint16) (names []byte) {
	n := &namer{names: dst}
	defer func() {
		// Most decoders of gopacket rely on this where a header is cut short. What was named before is right.
		_ = recover()
		names = n.names
	}()
	var first gopacket.Decoder
	switch kind {
	case headerLLC:
		first = layers.LayerTypeLLC
	case headerType:
		first = layers.EthernetType(id)
	case headerProto:
		first = layers.IPProtocol(id)
	default:
		first = layers.UDPPort(id).LayerType()
	}
	// What cannot be decoded is part of the payload.
	_ = n.decode(first, data)
	return n.names
}

func (n *namer) decode(with gopacket.Decoder, data []byte) error {
	switch with {
	case layers.LayerTypeDNS:
		if validDNS(data) {
			n.add(layers.LayerTypeDNS)
		}
		return nil
	case layers.LayerTypeSFlow: // gopacket allocates what counters in the datagram say
		if len(data) >= 28 && binary.BigEndian.Uint32(data) == 5 && binary.BigEndian.Uint32(data[4:])-1 < 2 {
			n.add(layers.LayerTypeSFlow)
		}
		return nil
	case layers.LayerTypeGTPv1U: // gopacket prints to the standard output
		return n.gtp(data)
	}
	return with.Decode(data[:min(len(data), restBytes)], n)
}

// layerName is the name of the layer that a header announces; "": gopacket knows none.
func layerName(kind header, id uint16) string {
	name := layers.EthernetType(id).LayerType().String()
	if kind == headerProto {
		name = layers.IPProtocol(id).LayerType().String()
	}
	if _, err := strconv.Atoi(name); err == nil || name == gopacket.LayerTypeZero.String() || name == gopacket.LayerTypePayload.String() {
		return ""
	}
	return name
}

// gtp names a GTP-U header (3GPP TS 29.281) and what follows it.
func (n *namer) gtp(b []byte) error {
	if len(b) < 8 || b[0]>>4 != 3 || 8+int(binary.BigEndian.Uint16(b[2:])) > len(b) {
		return nil
	}
	size := 8
	if b[0]&7 != 0 {
		size = 12
	}
	for b[0]&4 != 0 && len(b) > size && b[size-1] != 0 {
		if b[size] == 0 {
			return nil
		}
		size += 4 * int(b[size])
	}
	if len(b) < size {
		return nil
	}
	n.add(layers.LayerTypeGTPv1U)
	if b = b[size:]; len(b) > 0 {
		switch b[0] >> 4 {
		case 4:
			return n.decode(layers.LayerTypeIPv4, b)
		case 6:
			return n.decode(layers.LayerTypeIPv6, b)
		}
	}
	return nil
}

func (n *namer) add(t gopacket.LayerType) {
	n.layers++
	switch t {
	case gopacket.LayerTypePayload:
		n.layers = restNames
	case layers.LayerTypeSCTP, layers.LayerTypeICMPv6:
		// Decoded, and named, before.
	default:
		n.names = append(append(n.names, t.String()...), '/')
	}
}

// AddLayer is called by a decoder that found its layer.
func (n *namer) AddLayer(l gopacket.Layer) {
	n.add(l.LayerType())
	n.payload = l.LayerPayload()
}

var errNoDecoder = errors.New("no decoder of the next layer")

// NextDecoder is called by a decoder that knows what follows its layer.
func (n *namer) NextDecoder(next gopacket.Decoder) error {
	switch {
	case next == nil:
		return errNoDecoder
	case len(n.payload) == 0 || n.layers >= restNames:
		return nil
	}
	return n.decode(next, n.payload)
}

// DecodeOptions are gopacket's defaults.
func (n *namer) DecodeOptions() *gopacket.DecodeOptions { return &n.options }

// The rest of gopacket.PacketBuilder does not matter for names.

func (n *namer) SetTruncated()                                 {}
func (n *namer) SetLinkLayer(gopacket.LinkLayer)               {}
func (n *namer) SetNetworkLayer(gopacket.NetworkLayer)         {}
func (n *namer) SetTransportLayer(gopacket.TransportLayer)     {}
func (n *namer) SetApplicationLayer(gopacket.ApplicationLayer) {}
func (n *namer) SetErrorLayer(gopacket.ErrorLayer)             {}
func (n *namer) DumpPacketData()                               {}
