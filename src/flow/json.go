package flow

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"skydive/src/field"
)

// The names of enumerations, in JSON and in queries.
var (
	protocolNames = [...]string{"ETHERNET", "IPV4", "TCP", "UDP", "SCTP", "IPV6", "ICMPV4", "ICMPV6"}
	icmpTypeNames = [...]string{
		"UNKNOWN", "DESTINATION_UNREACHABLE", "ECHO", "NEIGHBOR", "ADDRESS_MASK", "INFO", "PARAMETER_PROBLEM", "REDIRECT", "ROUTER",
		"SOURCE_QUENCH", "TIME_EXCEEDED", "TIMESTAMP", "PACKET_TOO_BIG",
	}
	finishTypeNames = [...]string{"NOT_FINISHED", "TIMEOUT", "TCP_FIN", "TCP_RST"}
)

// String returns the name of the public schema; a number that has none stays a number.
func (p Protocol) String() string { return nameOf(protocolNames[:], int(p)) }

// String returns the name of the public schema.
func (t ICMPType) String() string { return nameOf(icmpTypeNames[:], int(t)) }

// String returns the name of the public schema.
func (t FinishType) String() string { return nameOf(finishTypeNames[:], int(t)) }

func nameOf(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return strconv.Itoa(i)
}

// AppendJSON appends the record as REST, Gremlin results and subscribers show it: keys are the names of the public schema (those of
// the newest one for DNS, DHCPv4 and VRRPv2), enumerations are texts but for FinishType, packets are left out.
func (f *Flow) AppendJSON(dst []byte) []byte { return appendObject(dst, flowColumns, f) }

// MarshalJSON is AppendJSON for encoding/json.
func (f *Flow) MarshalJSON() ([]byte, error) { return f.AppendJSON(nil), nil }

// AppendJSON appends the counters.
func (s *Stats) AppendJSON(dst []byte) []byte { return appendObject(dst, statsColumns, s) }

// AppendJSON appends the metric.
func (m *Metric) AppendJSON(dst []byte) []byte { return appendObject(dst, metricColumns, m) }

// AppendJSON appends the packet, as the RawPackets step shows it.
func (p *RawPacket) AppendJSON(dst []byte) []byte { return appendObject(dst, rawPacketColumns, p) }

func appendObject[T any](dst []byte, columns []column[T], m *T) []byte {
	dst = append(dst, '{')
	first := len(dst)
	for i := range columns {
		c := &columns[i]
		if c.show == never {
			continue
		}
		ref := c.ref(m)
		if c.show != always && isZero(ref) {
			continue
		}
		if len(dst) > first {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = append(dst, c.json...)
		dst = append(dst, '"', ':')
		dst = appendValue(dst, ref)
	}
	return append(dst, '}')
}

func isZero(ref any) bool {
	switch p := ref.(type) {
	case *string:
		return *p == ""
	case *int64:
		return *p == 0
	case *uint32:
		return *p == 0
	case *Protocol:
		return *p == 0
	case *ICMPType:
		return *p == 0
	case *FinishType:
		return *p == 0
	case *bool:
		return !*p
	case *stamp:
		return *p == 0
	case *[]byte:
		return len(*p) == 0
	case *[]string:
		return len(*p) == 0
	case *[]RawPacket:
		return len(*p) == 0
	case *[]DNSQuestion:
		return len(*p) == 0
	case *[]DNSRecord:
		return len(*p) == 0
	case *[]DNSOption:
		return len(*p) == 0
	case **Layer:
		return *p == nil
	case **Transport:
		return *p == nil
	case **ICMP:
		return *p == nil
	case **Metric:
		return *p == nil
	case **TCPMetric:
		return *p == nil
	case **IPMetric:
		return *p == nil
	case **DHCPv4:
		return *p == nil
	case **DNS:
		return *p == nil
	case **VRRPv2:
		return *p == nil
	case **DNSSOA:
		return *p == nil
	case **DNSSRV:
		return *p == nil
	case **DNSMX:
		return *p == nil
	}
	return false
}

func appendValue(dst []byte, ref any) []byte {
	switch p := ref.(type) {
	case *string:
		return field.AppendString(dst, *p)
	case *int64:
		return strconv.AppendInt(dst, *p, 10)
	case *uint32:
		return strconv.AppendUint(dst, uint64(*p), 10)
	case *FinishType:
		return strconv.AppendUint(dst, uint64(*p), 10)
	case *Protocol:
		return appendName(dst, p.String())
	case *ICMPType:
		return appendName(dst, p.String())
	case *bool:
		return strconv.AppendBool(dst, *p)
	case *[]byte:
		return append(base64.StdEncoding.AppendEncode(append(dst, '"'), *p), '"')
	case *[]string:
		dst = append(dst, '[')
		for i, s := range *p {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = field.AppendString(dst, s)
		}
		return append(dst, ']')
	case *stamp:
		t := p.split()
		return appendObject(dst, timestampColumns, &t)
	case *Metric:
		return appendObject(dst, metricColumns, p)
	case **Layer:
		return appendObject(dst, layerColumns, *p)
	case **Transport:
		return appendObject(dst, transportColumns, *p)
	case **ICMP:
		return appendObject(dst, icmpColumns, *p)
	case **Metric:
		return appendObject(dst, metricColumns, *p)
	case **TCPMetric:
		return appendObject(dst, tcpMetricColumns, *p)
	case **IPMetric:
		return appendObject(dst, ipMetricColumns, *p)
	case **DHCPv4:
		return appendObject(dst, dhcpColumns, *p)
	case **DNS:
		return appendObject(dst, dnsColumns, *p)
	case **VRRPv2:
		return appendObject(dst, vrrpColumns, *p)
	case **DNSSOA:
		return appendObject(dst, soaColumns, *p)
	case **DNSSRV:
		return appendObject(dst, srvColumns, *p)
	case **DNSMX:
		return appendObject(dst, mxColumns, *p)
	case *[]RawPacket:
		return appendArray(dst, rawPacketColumns, *p)
	case *[]DNSQuestion:
		return appendArray(dst, questionColumns, *p)
	case *[]DNSRecord:
		return appendArray(dst, recordColumns, *p)
	case *[]DNSOption:
		return appendArray(dst, optionColumns, *p)
	}
	return append(dst, "null"...)
}

func appendName(dst []byte, name string) []byte {
	dst = append(dst, '"')
	dst = append(dst, name...)
	return append(dst, '"')
}

func appendArray[T any](dst []byte, columns []column[T], list []T) []byte {
	dst = append(dst, '[')
	for i := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendObject(dst, columns, &list[i])
	}
	return append(dst, ']')
}

// UnmarshalJSON replaces f with the record in data, as AppendJSON or any public Skydive writes it. Unknown keys are skipped.
func (f *Flow) UnmarshalJSON(data []byte) error {
	*f = Flow{}
	return unmarshal(data, flowColumns, f)
}

// UnmarshalJSON replaces s with the counters in data.
func (s *Stats) UnmarshalJSON(data []byte) error {
	*s = Stats{}
	return unmarshal(data, statsColumns, s)
}

// UnmarshalJSON replaces p with the packet in data.
func (p *RawPacket) UnmarshalJSON(data []byte) error {
	*p = RawPacket{}
	return unmarshal(data, rawPacketColumns, p)
}

func unmarshal[T any](data []byte, columns []column[T], m *T) error {
	v, err := field.ParseJSON(data)
	if err != nil {
		return err
	}
	return readObject(v, columns, m)
}

// readObject sets the fields of m that v names.
func readObject[T any](v field.Value, columns []column[T], m *T) error {
	o, ok := v.(field.Object)
	if !ok {
		return errors.New("not an object")
	}
	for _, e := range o {
		for i := range columns {
			if columns[i].show != never && named(columns[i].json, e.Key) {
				if err := readValue(e.Value, columns[i].ref(m)); err != nil {
					return fmt.Errorf("%s: %w", e.Key, err)
				}
			}
		}
	}
	return nil
}

// named tells whether a key of JSON means a column: older releases wrote DNS, DHCPv4 and VRRPv2 without underscores and in another
// case.
func named(column, key string) bool {
	return column == key || strings.EqualFold(strings.ReplaceAll(column, "_", ""), strings.ReplaceAll(key, "_", ""))
}

func readValue(v field.Value, ref any) error {
	if v == nil {
		return nil
	}
	switch p := ref.(type) {
	case *string:
		return readAs(v, p)
	case *int64:
		return readAs(v, p)
	case *bool:
		return readAs(v, p)
	case *uint32:
		var n int64
		if err := readAs(v, &n); err != nil {
			return err
		}
		if *p = uint32(n); int64(*p) != n {
			return fmt.Errorf("%d does not fit", n)
		}
	case *FinishType:
		var n int64
		if err := readAs(v, &n); err != nil {
			return err
		}
		if *p = FinishType(n); int64(*p) != n {
			return fmt.Errorf("%d does not fit", n)
		}
	case *Protocol:
		n, err := readName(v, protocolNames[:])
		*p = Protocol(n)
		return err
	case *ICMPType:
		n, err := readName(v, icmpTypeNames[:])
		*p = ICMPType(n)
		return err
	case *[]byte:
		var s string
		err := readAs(v, &s)
		if err == nil {
			*p, err = base64.StdEncoding.DecodeString(s)
		}
		return err
	case *[]string:
		var list field.List
		if err := readAs(v, &list); err != nil {
			return err
		}
		*p = make([]string, len(list))
		for i := range list {
			if err := readAs(list[i], &(*p)[i]); err != nil {
				return err
			}
		}
	case *stamp:
		return readStamp(v, p)
	case *Metric:
		return readObject(v, metricColumns, p)
	case **Layer:
		return readPointer(v, layerColumns, p)
	case **Transport:
		return readPointer(v, transportColumns, p)
	case **ICMP:
		return readPointer(v, icmpColumns, p)
	case **Metric:
		return readPointer(v, metricColumns, p)
	case **TCPMetric:
		return readPointer(v, tcpMetricColumns, p)
	case **IPMetric:
		return readPointer(v, ipMetricColumns, p)
	case **DHCPv4:
		return readPointer(v, dhcpColumns, p)
	case **DNS:
		return readPointer(v, dnsColumns, p)
	case **VRRPv2:
		return readPointer(v, vrrpColumns, p)
	case **DNSSOA:
		return readPointer(v, soaColumns, p)
	case **DNSSRV:
		return readPointer(v, srvColumns, p)
	case **DNSMX:
		return readPointer(v, mxColumns, p)
	case *[]DNSQuestion:
		return readArray(v, questionColumns, p)
	case *[]DNSRecord:
		return readArray(v, recordColumns, p)
	case *[]DNSOption:
		return readArray(v, optionColumns, p)
	}
	return nil
}

func readAs[T any](v field.Value, p *T) error {
	t, ok := v.(T)
	if !ok {
		return fmt.Errorf("%T instead of %T", v, t)
	}
	*p = t
	return nil
}

func readName(v field.Value, names []string) (int, error) {
	var s string
	if err := readAs(v, &s); err != nil {
		return 0, err
	}
	if i := slices.Index(names, s); i >= 0 {
		return i, nil
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil { // what nameOf makes of a number without a name
		return int(n), nil
	}
	return 0, fmt.Errorf("unknown name %q", s)
}

func readPointer[T any](v field.Value, columns []column[T], p **T) error {
	*p = new(T)
	return readObject(v, columns, *p)
}

func readArray[T any](v field.Value, columns []column[T], p *[]T) error {
	var list field.List
	if err := readAs(v, &list); err != nil {
		return err
	}
	*p = make([]T, len(list))
	for i := range list {
		if err := readObject(list[i], columns, &(*p)[i]); err != nil {
			return err
		}
	}
	return nil
}

// readStamp reads {seconds, nanos}, or the RFC 3339 text of older releases.
func readStamp(v field.Value, p *stamp) error {
	if s, ok := v.(string); ok {
		t, err := time.Parse(time.RFC3339Nano, s)
		*p = stamp(t.UnixNano())
		return err
	}
	var t timestamp
	if err := readObject(v, timestampColumns, &t); err != nil {
		return errors.New("neither a time nor an object")
	}
	*p = t.join()
	return nil
}
