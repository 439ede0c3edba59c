package wire

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"skydive/src/flow"
)

// Types by which an analyzer follows the packets of a capture, in the namespace OnDemandCapture. The UUID of Follow names the stream:
// Packets, and Taken which answers each once there is room for another, repeat it. An agent has no more than PacketsWindow unanswered,
// so that a slow reader holds up nothing else on the connection.
const (
	TypeFollow      = "Follow"      // Obj: Stream
	TypeFollowReply = "FollowReply" // Status 200, or why not
	TypeUnfollow    = "Unfollow"    // no more
	TypePackets     = "Packets"     // Obj: Packets, in protobuf
	TypeTaken       = "Taken"
)

// PacketsWindow is how many messages of packets may be on their way in one stream.
const PacketsWindow = 16

// Stream is the Obj of Follow.
type Stream struct{ CaptureID string }

// Packets are packets of one node, as they were captured.
type Packets struct {
	NodeTID string
	Name    string // of the interface
	NetNS   string // path of its network namespace, "" for that of the host
	Link    uint32 // LINKTYPE_* of pcap
	Lost    int64  // packets of this node that the stream lacks so far
	Packets []flow.Packet
}

// Field numbers of Packets, and of each packet in it.
const (
	numTID protowire.Number = 1 + iota
	numName
	numNetNS
	numLink
	numLost
	numPacket

	numTime   protowire.Number = 1
	numLength protowire.Number = 2
	numData   protowire.Number = 3
)

// AppendJSON appends the packets, in protobuf: it makes Packets the Body of a message of FormatProtobuf.
func (p *Packets) AppendJSON(dst []byte) []byte {
	dst = appendName(dst, numTID, p.NodeTID)
	dst = appendName(dst, numName, p.Name)
	dst = appendName(dst, numNetNS, p.NetNS)
	dst = appendNumber(dst, numLink, int64(p.Link))
	dst = appendNumber(dst, numLost, p.Lost)
	for i := range p.Packets {
		k := &p.Packets[i]
		time, length := uint64(k.Time), uint64(k.Length)
		size := protowire.SizeTag(numTime) + protowire.SizeFixed64() + protowire.SizeTag(numLength) + protowire.SizeVarint(length) +
			protowire.SizeTag(numData) + protowire.SizeBytes(len(k.Data))
		dst = protowire.AppendTag(dst, numPacket, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(size))
		dst = protowire.AppendFixed64(protowire.AppendTag(dst, numTime, protowire.Fixed64Type), time)
		dst = protowire.AppendVarint(protowire.AppendTag(dst, numLength, protowire.VarintType), length)
		dst = protowire.AppendBytes(protowire.AppendTag(dst, numData, protowire.BytesType), k.Data)
	}
	return dst
}

var errPackets = errors.New("not a message of packets")

// UnmarshalProto reads what AppendJSON wrote; packets share its memory. Unknown fields are skipped.
func (p *Packets) UnmarshalProto(b []byte) error {
	*p = Packets{}
	return fields(b, func(num protowire.Number, value uint64, bytes []byte) error {
		switch num {
		case numTID:
			p.NodeTID = string(bytes)
		case numName:
			p.Name = string(bytes)
		case numNetNS:
			p.NetNS = string(bytes)
		case numLink:
			p.Link = uint32(value)
		case numLost:
			if p.Lost = int64(value); p.Lost < 0 {
				return errPackets
			}
		case numPacket:
			var k flow.Packet
			if err := fields(bytes, func(num protowire.Number, value uint64, bytes []byte) error {
				switch num {
				case numTime:
					k.Time = int64(value)
				case numLength:
					k.Length = int(uint32(value))
				case numData:
					k.Data = bytes
				}
				return nil
			}); err != nil {
				return err
			}
			k.Length = max(k.Length, len(k.Data))
			p.Packets = append(p.Packets, k)
		}
		return nil
	})
}

// fields calls fn for each field, with a number or with bytes.
func fields(b []byte, fn func(num protowire.Number, value uint64, bytes []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", errPackets, protowire.ParseError(n))
		}
		b = b[n:]
		var value uint64
		var bytes []byte
		switch typ {
		case protowire.VarintType:
			value, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			value, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return fmt.Errorf("%w: %w", errPackets, protowire.ParseError(n))
		}
		b = b[n:]
		if err := fn(num, value, bytes); err != nil {
			return err
		}
	}
	return nil
}
