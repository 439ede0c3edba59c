package disk

import (
	"encoding/binary"
	"fmt"

	"skydive/src/flow"
)

// A report is stored as its times and identifiers, packed, and the rest of the flow as protobuf:
//
//	Start, Last − Start, UUID unless the key has it, TrackingID, L3TrackingID, ParentUUID, NodeTID, CaptureID, protobuf
//
// So a scan knows what is in its slice without decoding, and identifiers take a quarter of the room.

func appendReportValue(dst []byte, id flowID, f *flow.Flow) []byte {
	dst = binary.AppendVarint(dst, f.Start)
	dst = binary.AppendVarint(dst, f.Last-f.Start)
	if id[0] == hashedFlow {
		dst = appendText(dst, f.UUID)
	}
	for _, s := range [...]string{f.TrackingID, f.L3TrackingID, f.ParentUUID, f.NodeTID, f.CaptureID} {
		dst = appendText(dst, s)
	}
	rest := *f
	rest.UUID, rest.TrackingID, rest.L3TrackingID, rest.ParentUUID, rest.NodeTID, rest.CaptureID = "", "", "", "", "", ""
	rest.Start, rest.Last, rest.LastRawPackets = 0, 0, nil
	return rest.AppendProto(dst)
}

// span reads the times of a report.
func (r *reader) span(b []byte) (start, last int64, err error) {
	r.b, r.err = b, nil
	start = r.varint()
	return start, start + r.varint(), r.err
}

func (r *reader) report(id flowID, b []byte) (*flow.Flow, error) {
	start, last, err := r.span(b)
	if err != nil {
		return nil, err
	}
	var uuid string
	if id[0] == hashedFlow {
		uuid = r.text()
	} else {
		var buf [16]byte
		uuid = string(appendShortHex(buf[:0], binary.BigEndian.Uint64(id[1:])))
	}
	f := new(flow.Flow)
	ids := [...]string{r.identifier(), r.identifier(), r.identifier(), r.identifier(), r.identifier()}
	if r.err != nil {
		return nil, r.err
	}
	if err := f.UnmarshalProto(r.b); err != nil {
		return nil, fmt.Errorf("flow %s: %w: %w", uuid, errRecord, err)
	}
	f.UUID, f.Start, f.Last = uuid, start, last
	f.TrackingID, f.L3TrackingID, f.ParentUUID, f.NodeTID, f.CaptureID = ids[0], ids[1], ids[2], ids[3], ids[4]
	return f, nil
}

// counted reads what a report counted, if the interval lies in a slice.
func (r *reader) counted(id flowID, b []byte, low, high int64) (*flow.Metric, error) {
	f, err := r.report(id, b)
	if err != nil {
		return nil, err
	}
	if m := f.LastUpdateMetric; m != nil && m.Last != 0 && m.Start >= low && m.Last <= high {
		return m, nil
	}
	return nil, nil
}

// identifier is text, but shares what repeats: nodes and captures are few.
func (r *reader) identifier() string {
	tag := r.byte()
	if tag == textPlain {
		s, _ := r.shared(r.take(r.uvarint())).(string)
		return s
	}
	var buf [36]byte
	b := r.packed(tag, buf[:0])
	if tag == textUUID {
		s, _ := r.shared(b).(string)
		return s
	}
	return string(b)
}

// appendPacketsValue packs the raw packets of a report.
func appendPacketsValue(dst []byte, packets []flow.RawPacket) []byte {
	for i := range packets {
		p := &packets[i]
		dst = binary.AppendVarint(dst, p.Timestamp)
		dst = binary.AppendVarint(dst, p.Index)
		dst = binary.AppendUvarint(dst, uint64(p.LinkType))
		dst = binary.AppendUvarint(dst, uint64(len(p.Data)))
		dst = append(dst, p.Data...)
	}
	return dst
}

// packets reads what appendPacketsValue wrote, of the time from–to.
func (r *reader) packets(to []flow.RawPacket, b []byte, from, last int64) ([]flow.RawPacket, error) {
	r.b, r.err = b, nil
	for len(r.b) > 0 {
		p := flow.RawPacket{Timestamp: r.varint(), Index: r.varint(), LinkType: uint32(r.uvarint())}
		data := r.take(r.uvarint())
		if r.err != nil {
			return to, r.err
		}
		if p.Timestamp >= from && p.Timestamp <= last {
			p.Data = append([]byte(nil), data...)
			to = append(to, p)
		}
	}
	return to, nil
}
