package flow

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxElements bounds the lists inside one record: an element takes up to a hundred times the memory that it takes on the wire.
const maxElements = 4096

// maxMessage bounds the flows of a Message: an empty one takes two bytes on the wire and several hundred in memory.
const maxMessage = 1 << 16

var errTooMany = fmt.Errorf("more than %d elements in a list of a flow record", maxElements)
var errMessage = fmt.Errorf("more than %d flows in a message", maxMessage)

// Message is what agents send to an analyzer: flows, or the counters of a capture.
type Message struct {
	Flows []*Flow
	Stats *Stats
}

// Set is a set of flows, as an agent answers a query with; Start and Last tell what they span (ms).
type Set struct {
	Flows       []*Flow
	Start, Last int64
}

// AppendProto appends the record as message Flow of the public schema, fields in ascending order.
func (f *Flow) AppendProto(dst []byte) []byte { return appendRecord(dst, flowByNumber, f) }

// AppendProto appends the counters as message Stats.
func (s *Stats) AppendProto(dst []byte) []byte { return appendRecord(dst, statsColumns, s) }

// AppendMessageFlow appends f as an element of message Message, and of message FlowSet, which number it alike: both are built by
// appending flow after flow.
func AppendMessageFlow(dst []byte, f *Flow) []byte { return appendNested(dst, 1, flowByNumber, f) }

// AppendMessageStats appends the counters of a capture to a Message.
func AppendMessageStats(dst []byte, s *Stats) []byte { return appendNested(dst, 2, statsColumns, s) }

// AppendSetSpan ends a FlowSet whose flows were appended with AppendMessageFlow.
func AppendSetSpan(dst []byte, start, last int64) []byte {
	return appendNumber(appendNumber(dst, 2, uint64(start)), 3, uint64(last))
}

// AppendProto appends the message.
func (m *Message) AppendProto(dst []byte) []byte {
	for _, f := range m.Flows {
		dst = AppendMessageFlow(dst, f)
	}
	if m.Stats != nil {
		dst = AppendMessageStats(dst, m.Stats)
	}
	return dst
}

// AppendProto appends the set as message FlowSet.
func (s *Set) AppendProto(dst []byte) []byte {
	for _, f := range s.Flows {
		dst = AppendMessageFlow(dst, f)
	}
	return AppendSetSpan(dst, s.Start, s.Last)
}

// UnmarshalProto replaces f with the record in b. Fields that it does not know are skipped. Nothing of b is kept.
func (f *Flow) UnmarshalProto(b []byte) error {
	*f = Flow{}
	return decodeRecord(newSource(b), b[:len(b):len(b)], flowColumns, f)
}

// UnmarshalProto replaces m with the message in b.
func (m *Message) UnmarshalProto(b []byte) error {
	*m = Message{}
	return eachField(b, func(num protowire.Number, _ uint64, data []byte) error {
		switch {
		case num == 1 && data != nil:
			if len(m.Flows) == maxMessage {
				return errMessage
			}
			f, err := decodeFlow(data)
			m.Flows = append(m.Flows, f)
			return err
		case num == 2 && data != nil:
			m.Stats = new(Stats)
			return decodeRecord(newSource(data), data, statsColumns, m.Stats)
		}
		return nil
	})
}

// UnmarshalProto replaces s with the FlowSet in b.
func (s *Set) UnmarshalProto(b []byte) error {
	*s = Set{}
	return eachField(b, func(num protowire.Number, n uint64, data []byte) error {
		switch {
		case num == 1 && data != nil:
			f, err := decodeFlow(data)
			s.Flows = append(s.Flows, f)
			return err
		case num == 2:
			s.Start = int64(n)
		case num == 3:
			s.Last = int64(n)
		}
		return nil
	})
}

func decodeFlow(data []byte) (*Flow, error) {
	f := new(Flow)
	return f, decodeRecord(newSource(data), data, flowColumns, f)
}

// eachField calls f with each field of a message: with data not nil for what has a length, else with the number.
func eachField(b []byte, f func(num protowire.Number, n uint64, data []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return badProto(n)
		}
		b = b[n:]
		var value uint64
		var data []byte
		switch typ {
		case protowire.VarintType:
			value, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			data, n = protowire.ConsumeBytes(b)
			data = data[:len(data):len(data)]
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n >= 0 {
				b = b[n:]
				continue
			}
		}
		if n < 0 {
			return badProto(n)
		}
		if err := f(num, value, data); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func badProto(n int) error { return fmt.Errorf("malformed protobuf: %w", protowire.ParseError(n)) }

// appendRecord appends the fields of m that are not zero.
func appendRecord[T any](dst []byte, columns []column[T], m *T) []byte {
	for i := range columns {
		dst = appendField(dst, columns[i].num, columns[i].ref(m))
	}
	return dst
}

func appendField(dst []byte, num protowire.Number, ref any) []byte {
	switch p := ref.(type) {
	case *string:
		return appendText(dst, num, *p, false)
	case *int64:
		return appendNumber(dst, num, uint64(*p))
	case *uint32:
		return appendNumber(dst, num, uint64(*p))
	case *Protocol:
		return appendNumber(dst, num, uint64(*p))
	case *ICMPType:
		return appendNumber(dst, num, uint64(*p))
	case *FinishType:
		return appendNumber(dst, num, uint64(*p))
	case *bool:
		if *p {
			return appendNumber(dst, num, 1)
		}
	case *[]byte:
		if len(*p) > 0 {
			return protowire.AppendBytes(protowire.AppendTag(dst, num, protowire.BytesType), *p)
		}
	case *[]string:
		for _, s := range *p {
			dst = appendText(dst, num, s, true)
		}
	case *stamp:
		if *p != 0 {
			t := p.split()
			dst = append(protowire.AppendTag(dst, num, protowire.BytesType), 0)
			at := len(dst)
			dst = appendNumber(appendNumber(dst, 1, uint64(t.Seconds)), 2, uint64(t.Nanos))
			return closeNested(dst, at)
		}
	case *Metric:
		return appendNested(dst, num, metricColumns, p)
	case **Layer:
		return appendPointer(dst, num, layerColumns, *p)
	case **Transport:
		return appendPointer(dst, num, transportColumns, *p)
	case **ICMP:
		return appendPointer(dst, num, icmpColumns, *p)
	case **Metric:
		return appendPointer(dst, num, metricColumns, *p)
	case **TCPMetric:
		return appendPointer(dst, num, tcpMetricColumns, *p)
	case **IPMetric:
		return appendPointer(dst, num, ipMetricColumns, *p)
	case **DHCPv4:
		return appendPointer(dst, num, dhcpColumns, *p)
	case **DNS:
		return appendPointer(dst, num, dnsColumns, *p)
	case **VRRPv2:
		return appendPointer(dst, num, vrrpColumns, *p)
	case **DNSSOA:
		return appendPointer(dst, num, soaColumns, *p)
	case **DNSSRV:
		return appendPointer(dst, num, srvColumns, *p)
	case **DNSMX:
		return appendPointer(dst, num, mxColumns, *p)
	case *[]RawPacket:
		return appendList(dst, num, rawPacketColumns, *p)
	case *[]DNSQuestion:
		return appendList(dst, num, questionColumns, *p)
	case *[]DNSRecord:
		return appendList(dst, num, recordColumns, *p)
	case *[]DNSOption:
		return appendList(dst, num, optionColumns, *p)
	}
	return dst
}

// appendText appends a text. Receivers refuse a whole message for one text that is not UTF-8.
func appendText(dst []byte, num protowire.Number, s string, empty bool) []byte {
	if s == "" && !empty {
		return dst
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return protowire.AppendString(protowire.AppendTag(dst, num, protowire.BytesType), s)
}

func appendNumber(dst []byte, num protowire.Number, n uint64) []byte {
	if n == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), n)
}

func appendPointer[T any](dst []byte, num protowire.Number, columns []column[T], m *T) []byte {
	if m == nil {
		return dst
	}
	return appendNested(dst, num, columns, m)
}

func appendList[T any](dst []byte, num protowire.Number, columns []column[T], list []T) []byte {
	for i := range list {
		dst = appendNested(dst, num, columns, &list[i])
	}
	return dst
}

func appendNested[T any](dst []byte, num protowire.Number, columns []column[T], m *T) []byte {
	dst = append(protowire.AppendTag(dst, num, protowire.BytesType), 0)
	at := len(dst)
	return closeNested(appendRecord(dst, columns, m), at)
}

// closeNested writes the length of the message that began at at, one byte having been left for it, and moves the message when the
// length takes more. (Computing all lengths first would visit every field twice.)
func closeNested(dst []byte, at int) []byte {
	n := len(dst) - at
	if n < 1<<7 {
		dst[at-1] = byte(n)
		return dst
	}
	size := protowire.SizeVarint(uint64(n))
	var room [10]byte
	dst = append(dst, room[:size-1]...)
	copy(dst[at+size-1:], dst[at:at+n])
	protowire.AppendVarint(dst[:at-1], uint64(n))
	return dst
}

// source makes the texts of a record out of one string, which costs one allocation instead of one per text.
type source struct {
	whole string // the record, or "" when texts are few in it
	size  int    // of the record
}

// newSource copies b unless most of it is packets, which would be held in memory as long as any text.
func newSource(b []byte) source {
	if len(b) > 1024 {
		return source{size: len(b)}
	}
	return source{string(b), len(b)}
}

// text returns b as a string. b is part of the record and, as every slice cut from it, extends to its end in capacity, which tells
// where b is.
func (s source) text(b []byte) string {
	if at := s.size - cap(b); s.whole != "" && at >= 0 {
		return s.whole[at : at+len(b)]
	}
	return string(b)
}

// decodeRecord reads the fields of m. The capacity of b must end with the record that src was made of.
func decodeRecord[T any](src source, b []byte, columns []column[T], m *T) error {
	next := 0
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return badProto(n)
		}
		b = b[n:]
		i := find(columns, num, next)
		switch {
		case i >= 0 && typ == protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(b); n >= 0 {
				setNumber(columns[i].ref(m), v)
			}
			next = i
		case i >= 0 && typ == protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				if err := setBytes(src, columns[i].ref(m), v); err != nil {
					return err
				}
			}
			next = i
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return badProto(n)
		}
		b = b[n:]
	}
	return nil
}

// find looks for a number, first where it is expected: after the last one, or the same again.
func find[T any](columns []column[T], num protowire.Number, from int) int {
	for i := from; i < len(columns); i++ {
		if columns[i].num == num {
			return i
		}
	}
	for i := range from {
		if columns[i].num == num {
			return i
		}
	}
	return -1
}

// setNumber ignores a number where another type belongs, as it ignores unknown fields.
func setNumber(ref any, v uint64) {
	switch p := ref.(type) {
	case *int64:
		*p = int64(v)
	case *uint32:
		*p = uint32(v)
	case *bool:
		*p = v != 0
	case *Protocol:
		*p = Protocol(min(v, 255))
	case *ICMPType:
		*p = ICMPType(min(v, 255))
	case *FinishType:
		*p = FinishType(min(v, 255))
	}
}

func setBytes(src source, ref any, v []byte) error {
	switch p := ref.(type) {
	case *string:
		*p = src.text(v)
	case *[]byte:
		*p = append([]byte(nil), v...)
	case *[]string:
		if len(*p) >= maxElements {
			return errTooMany
		}
		*p = append(*p, src.text(v))
	case *stamp:
		var t timestamp
		if err := decodeRecord(src, v, timestampColumns, &t); err != nil {
			return err
		}
		*p = t.join()
	case *Metric:
		return decodeRecord(src, v, metricColumns, p)
	case **Layer:
		return decodePointer(src, v, layerColumns, p)
	case **Transport:
		return decodePointer(src, v, transportColumns, p)
	case **ICMP:
		return decodePointer(src, v, icmpColumns, p)
	case **Metric:
		return decodePointer(src, v, metricColumns, p)
	case **TCPMetric:
		return decodePointer(src, v, tcpMetricColumns, p)
	case **IPMetric:
		return decodePointer(src, v, ipMetricColumns, p)
	case **DHCPv4:
		return decodePointer(src, v, dhcpColumns, p)
	case **DNS:
		return decodePointer(src, v, dnsColumns, p)
	case **VRRPv2:
		return decodePointer(src, v, vrrpColumns, p)
	case **DNSSOA:
		return decodePointer(src, v, soaColumns, p)
	case **DNSSRV:
		return decodePointer(src, v, srvColumns, p)
	case **DNSMX:
		return decodePointer(src, v, mxColumns, p)
	case *[]RawPacket:
		return decodeElement(src, v, rawPacketColumns, p)
	case *[]DNSQuestion:
		return decodeElement(src, v, questionColumns, p)
	case *[]DNSRecord:
		return decodeElement(src, v, recordColumns, p)
	case *[]DNSOption:
		return decodeElement(src, v, optionColumns, p)
	}
	return nil
}

func decodePointer[T any](src source, b []byte, columns []column[T], p **T) error {
	if *p == nil {
		*p = new(T)
	}
	return decodeRecord(src, b, columns, *p)
}

func decodeElement[T any](src source, b []byte, columns []column[T], list *[]T) error {
	if len(*list) >= maxElements {
		return errTooMany
	}
	var zero T
	*list = append(*list, zero)
	return decodeRecord(src, b, columns, &(*list)[len(*list)-1])
}
