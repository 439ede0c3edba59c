package flow

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// ArchiveQuery is what one analyzer asks of the archive of another. Which of it counts is up to the type of the question.
type ArchiveQuery struct {
	From, To, Since int64 // ms
	Search          Search
	Aggregate       Aggregate
	Flows           []*Flow // by UUID and Start
	Token           string  // of an answer in parts
	Part            int64   // which of them, from 0
}

// ArchiveReply is the answer, or a part of it. One that has parts names them all in each.
type ArchiveReply struct {
	Flows  []*Flow
	Series []ArchiveSeries
	Total  *Total
	Error  string // why there is no answer
	Token  string // by which further parts can be had
	Parts  int64  // how many there are, 0 when this is all
}

// ArchiveSeries is what an archive holds of one flow. The same flow may be found in several parts of an answer.
type ArchiveSeries struct {
	UUID    string
	Metrics []Metric
	Packets []RawPacket
}

// Field numbers of ArchiveQuery, ArchiveReply and ArchiveSeries.
const (
	numFrom protowire.Number = 1 + iota
	numTo
	numSince
	numSearch
	numWhat
	numWanted
	numQueryToken
	numPart

	numReplyFlow  protowire.Number = 1
	numSeries     protowire.Number = 2
	numReplyTotal protowire.Number = 3
	numError      protowire.Number = 4
	numReplyToken protowire.Number = 5
	numParts      protowire.Number = 6

	numUUID    protowire.Number = 1
	numMetric  protowire.Number = 2
	numPackets protowire.Number = 3
)

// Bounds of one message: what is empty takes two bytes on the wire, and much more in memory.
const (
	archivePart     = 2 << 20 // bytes of a part, once it has reached them
	archiveElements = 1 << 15 // flows, metrics and packets of a part, or flows of a question
)

// MaxArchiveFlows is how many flows one question may name.
const MaxArchiveFlows = archiveElements

var errArchive = fmt.Errorf("more than %d elements in a message of an archive", archiveElements)

// AppendProto appends the query.
func (q *ArchiveQuery) AppendProto(dst []byte) []byte {
	dst = appendNumber(dst, numFrom, uint64(q.From))
	dst = appendNumber(dst, numTo, uint64(q.To))
	dst = appendNumber(dst, numSince, uint64(q.Since))
	dst = append(protowire.AppendTag(dst, numSearch, protowire.BytesType), 0)
	dst = closeNested(q.Search.AppendProto(dst), len(dst))
	dst = appendNumber(dst, numWhat, uint64(q.Aggregate.Metric))
	for _, f := range q.Flows {
		dst = appendNested(dst, numWanted, flowByNumber, &Flow{UUID: f.UUID, Start: f.Start})
	}
	dst = appendText(dst, numQueryToken, q.Token, false)
	return appendNumber(dst, numPart, uint64(q.Part))
}

// UnmarshalProto replaces q with the query in b. What it does not know may ask for something else, so it is refused.
func (q *ArchiveQuery) UnmarshalProto(b []byte) error {
	*q = ArchiveQuery{}
	return eachField(b, func(num protowire.Number, n uint64, data []byte) error {
		switch {
		case num == numFrom:
			q.From = int64(n)
		case num == numTo:
			q.To = int64(n)
		case num == numSince:
			q.Since = int64(n)
		case num == numSearch && data != nil:
			return q.Search.UnmarshalProto(data)
		case num == numWhat:
			if n > uint64(Update) {
				return fmt.Errorf("unknown metric %d of a total", n)
			}
			q.Aggregate.Metric = MetricKind(n)
		case num == numWanted && data != nil:
			if len(q.Flows) == archiveElements {
				return errArchive
			}
			f, err := decodeFlow(data)
			q.Flows = append(q.Flows, f)
			return err
		case num == numQueryToken:
			q.Token = string(data)
		case num == numPart:
			q.Part = int64(n)
		default:
			return fmt.Errorf("unknown field %d of a question to an archive", num)
		}
		return nil
	})
}

// AppendProto appends the reply.
func (r *ArchiveReply) AppendProto(dst []byte) []byte {
	for _, f := range r.Flows {
		dst = appendNested(dst, numReplyFlow, flowByNumber, f)
	}
	for i := range r.Series {
		dst = r.Series[i].append(dst)
	}
	dst = appendPointer(dst, numReplyTotal, totalColumns, r.Total)
	dst = appendText(dst, numError, r.Error, false)
	dst = appendText(dst, numReplyToken, r.Token, false)
	return appendNumber(dst, numParts, uint64(r.Parts))
}

func (s *ArchiveSeries) append(dst []byte) []byte {
	dst = append(protowire.AppendTag(dst, numSeries, protowire.BytesType), 0)
	at := len(dst)
	dst = appendText(dst, numUUID, s.UUID, false)
	dst = appendList(dst, numMetric, metricColumns, s.Metrics)
	dst = appendList(dst, numPackets, rawPacketColumns, s.Packets)
	return closeNested(dst, at)
}

// UnmarshalProto replaces r with the reply in b. Nothing of b is kept, and unknown fields are skipped.
func (r *ArchiveReply) UnmarshalProto(b []byte) error {
	*r = ArchiveReply{}
	left := archiveElements
	return eachField(b, func(num protowire.Number, n uint64, data []byte) error {
		switch {
		case num == numReplyFlow && data != nil:
			if left--; left < 0 {
				return errArchive
			}
			f, err := decodeFlow(data)
			r.Flows = append(r.Flows, f)
			return err
		case num == numSeries && data != nil:
			if left--; left < 0 {
				return errArchive
			}
			var s ArchiveSeries
			err := s.unmarshal(data, &left)
			r.Series = append(r.Series, s)
			return err
		case num == numReplyTotal && data != nil:
			r.Total = new(Total)
			return decodeRecord(newSource(data), data, totalColumns, r.Total)
		case num == numError:
			r.Error = string(data)
		case num == numReplyToken:
			r.Token = string(data)
		case num == numParts:
			if r.Parts = int64(n); r.Parts < 0 {
				return errors.New("an answer has less than no parts")
			}
		}
		return nil
	})
}

func (s *ArchiveSeries) unmarshal(b []byte, left *int) error {
	return eachField(b, func(num protowire.Number, _ uint64, data []byte) error {
		switch {
		case data == nil || num > numPackets:
			return nil
		case num == numUUID:
			s.UUID = string(data)
			return nil
		}
		if *left--; *left < 0 {
			return errArchive
		}
		if num == numMetric {
			s.Metrics = append(s.Metrics, Metric{})
			return decodeRecord(newSource(data), data, metricColumns, &s.Metrics[len(s.Metrics)-1])
		}
		s.Packets = append(s.Packets, RawPacket{})
		return decodeRecord(newSource(data), data, rawPacketColumns, &s.Packets[len(s.Packets)-1])
	})
}

// ArchiveParts makes the parts of an answer, each an ArchiveReply, out of what it is given.
type ArchiveParts struct {
	parts [][]byte
	count int // elements of the last part
	size  int // bytes of all parts
}

// part is the part that has room for another element of about n bytes.
func (p *ArchiveParts) part(n int) *[]byte {
	last := len(p.parts) - 1
	if last < 0 || p.count >= archiveElements/2 || len(p.parts[last])+n > archivePart {
		p.parts, p.count = append(p.parts, nil), 0
		last++
	}
	return &p.parts[last]
}

// Flow adds a flow.
func (p *ArchiveParts) Flow(f *Flow) {
	b := p.part(512)
	was := len(*b)
	*b = appendNested(*b, numReplyFlow, flowByNumber, f)
	p.count++
	p.size += len(*b) - was
}

// Series adds what is known of a flow.
func (p *ArchiveParts) Series(uuid string, metrics []Metric, packets []RawPacket) {
	const some = 256 // elements at a time
	for len(metrics)+len(packets) > 0 {
		s := ArchiveSeries{UUID: uuid, Metrics: metrics[:min(some, len(metrics))]}
		metrics = metrics[len(s.Metrics):]
		size := len(uuid) + 64*len(s.Metrics)
		n := 0
		for len(metrics) == 0 && n < len(packets) && n < some && size < archivePart/8 {
			size += len(packets[n].Data) + 32
			n++
		}
		s.Packets, packets = packets[:n], packets[n:]
		b := p.part(size)
		was := len(*b)
		*b = s.append(*b)
		p.count += 1 + len(s.Metrics) + len(s.Packets)
		p.size += len(*b) - was
	}
}

// Size is how many bytes there are so far.
func (p *ArchiveParts) Size() int { return p.size }

// Parts returns them; there is at least one.
func (p *ArchiveParts) Parts() [][]byte {
	if len(p.parts) == 0 {
		return [][]byte{nil}
	}
	return p.parts
}

// AppendArchivePart appends to a part how all of them are had.
func AppendArchivePart(dst, part []byte, token string, parts int) []byte {
	dst = append(dst, part...)
	if parts > 1 {
		dst = appendNumber(appendText(dst, numReplyToken, token, false), numParts, uint64(parts))
	}
	return dst
}
