package flow

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strings"

	"skydive/src/field"
)

// Field returns what the key of a query stands for; a key below an object that the flow lacks is missing. Link, Network and Transport
// by themselves are the list of both ends, so that a predicate holds when it holds for either. ETHERNET, IPV4, IPV6, TCP, UDP and SCTP
// are the layer if it is of that protocol.
func (f *Flow) Field(path string) (field.Value, bool) {
	head, rest, nested := strings.Cut(path, ".")
	switch head {
	case "Link":
		return layerField(f.Link, rest, nested)
	case "Network":
		return layerField(f.Network, rest, nested)
	case "Transport":
		return transportField(f.Transport, rest, nested)
	case "ETHERNET":
		return layerField(only(f.Link, Ethernet), rest, nested)
	case "IPV4":
		return layerField(only(f.Network, IPv4), rest, nested)
	case "IPV6":
		return layerField(only(f.Network, IPv6), rest, nested)
	case "TCP":
		return transportField(onlyTransport(f.Transport, TCP), rest, nested)
	case "UDP":
		return transportField(onlyTransport(f.Transport, UDP), rest, nested)
	case "SCTP":
		return transportField(onlyTransport(f.Transport, SCTP), rest, nested)
	}
	if !nested {
		return columnField(flowColumns, f, path)
	}
	switch head {
	case "Metric":
		return columnField(metricColumns, &f.Metric, rest)
	case "LastUpdateMetric":
		return columnField(metricColumns, f.LastUpdateMetric, rest)
	case "TCPMetric":
		return columnField(tcpMetricColumns, f.TCPMetric, rest)
	case "IPMetric":
		return columnField(ipMetricColumns, f.IPMetric, rest)
	case "ICMP":
		return columnField(icmpColumns, f.ICMP, rest)
	case "DHCPv4":
		return columnField(dhcpColumns, f.DHCPv4, rest)
	case "VRRPv2":
		return columnField(vrrpColumns, f.VRRPv2, rest)
	case "DNS":
		return below(dnsColumns, f.DNS, rest)
	case "LastRawPackets":
		v, _ := columnField(flowColumns, f, head)
		return field.Object{{Key: head, Value: v}}.Lookup(path)
	}
	return nil, false
}

// Value returns what the Values step shows for a key: as Field, but the objects whole. An object that the flow lacks is nil, and known.
func (f *Flow) Value(path string) (field.Value, bool) {
	for i := range flowColumns {
		if c := &flowColumns[i]; c.json == path {
			v, ok := valueOf(c.ref(f), shown)
			return v, ok || objects(c.json)
		}
	}
	return f.Field(path)
}

func objects(name string) bool {
	switch name {
	case "Link", "Network", "Transport", "ICMP", "LastUpdateMetric", "TCPMetric", "IPMetric", "DHCPv4", "DNS", "VRRPv2":
		return true
	}
	return false
}

func only(l *Layer, p Protocol) *Layer {
	if l == nil || l.Protocol != p {
		return nil
	}
	return l
}

func onlyTransport(t *Transport, p Protocol) *Transport {
	if t == nil || t.Protocol != p {
		return nil
	}
	return t
}

func layerField(l *Layer, rest string, nested bool) (field.Value, bool) {
	switch {
	case l == nil:
		return nil, false
	case !nested:
		return field.List{l.A, l.B}, true
	}
	return columnField(layerColumns, l, rest)
}

func transportField(t *Transport, rest string, nested bool) (field.Value, bool) {
	switch {
	case t == nil:
		return nil, false
	case !nested:
		return field.List{t.A, t.B}, true
	}
	return columnField(transportColumns, t, rest)
}

// columnField returns one field of a record, by the name that queries use or the one of the schema.
func columnField[T any](columns []column[T], m *T, name string) (field.Value, bool) {
	if m == nil || name == "" {
		return nil, false
	}
	for i := range columns {
		if c := &columns[i]; c.key == name || c.json == name {
			return valueOf(c.ref(m), shown)
		}
	}
	return nil, false
}

// refOf returns where the field of a key is in a flow – the function gives nil when the flow lacks it –, for the keys that most queries
// use; nil for others.
func refOf(path string) func(*Flow) any {
	head, rest, _ := strings.Cut(path, ".")
	switch head {
	case "Link":
		return refBelow(layerColumns, rest, func(f *Flow) *Layer { return f.Link })
	case "Network":
		return refBelow(layerColumns, rest, func(f *Flow) *Layer { return f.Network })
	case "Transport":
		return refBelow(transportColumns, rest, func(f *Flow) *Transport { return f.Transport })
	case "Metric":
		return refBelow(metricColumns, rest, func(f *Flow) *Metric { return &f.Metric })
	case "LastUpdateMetric":
		return refBelow(metricColumns, rest, func(f *Flow) *Metric { return f.LastUpdateMetric })
	}
	for i := range flowColumns {
		if c := &flowColumns[i]; c.json == path && !objects(path) {
			return c.ref
		}
	}
	return nil
}

func refBelow[T any](columns []column[T], name string, get func(*Flow) *T) func(*Flow) any {
	for i := range columns {
		if c := &columns[i]; c.json == name {
			return func(f *Flow) any {
				m := get(f)
				if m == nil {
					return nil
				}
				return c.ref(m)
			}
		}
	}
	return nil
}

// below follows a path into a record that nests further, by the names that queries use, then by those of the schema.
func below[T any](columns []column[T], m *T, path string) (field.Value, bool) {
	if m == nil {
		return nil, false
	}
	if v, ok := columnField(columns, m, path); ok {
		return v, ok
	}
	if v, ok := objectOf(columns, m, asked).Lookup(path); ok {
		return v, true
	}
	return objectOf(columns, m, shown).Lookup(path)
}

// Forms of an object: as JSON shows it, or with the names that queries use and without leaving out what is zero.
type form bool

const (
	shown form = false
	asked form = true
)

// Object returns the metric as it is shown.
func (m *Metric) Object() field.Object { return objectOf(metricColumns, m, shown) }

// Object returns the packet as it is shown.
func (p *RawPacket) Object() field.Object { return objectOf(rawPacketColumns, p, shown) }

func objectOf[T any](columns []column[T], m *T, as form) field.Object {
	o := make(field.Object, 0, len(columns))
	for i := range columns {
		c := &columns[i]
		ref := c.ref(m)
		if as == shown && (c.show == never || c.show != always && isZero(ref)) {
			continue
		}
		name := c.json
		if as == asked && c.key != "" {
			name = c.key
		}
		if v, ok := valueOf(ref, as); ok {
			o = append(o, field.Entry{Key: name, Value: v})
		}
	}
	slices.SortFunc(o, func(a, b field.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return o
}

// valueOf turns a field into a value; what is absent (not: zero) is not there.
func valueOf(ref any, as form) (field.Value, bool) {
	switch p := ref.(type) {
	case *string:
		return *p, true
	case *int64:
		return *p, true
	case *uint32:
		return int64(*p), true
	case *FinishType:
		return int64(*p), true
	case *Protocol:
		return p.String(), true
	case *ICMPType:
		return p.String(), true
	case *bool:
		return *p, true
	case *[]byte:
		return base64.StdEncoding.EncodeToString(*p), true
	case *[]string:
		list := make(field.List, len(*p))
		for i, s := range *p {
			list[i] = s
		}
		return list, len(list) > 0
	case *stamp:
		t := p.split()
		return objectOf(timestampColumns, &t, as), *p != 0
	case *Metric:
		return objectOf(metricColumns, p, as), true
	case **Layer:
		return objectAt(layerColumns, *p, as)
	case **Transport:
		return objectAt(transportColumns, *p, as)
	case **ICMP:
		return objectAt(icmpColumns, *p, as)
	case **Metric:
		return objectAt(metricColumns, *p, as)
	case **TCPMetric:
		return objectAt(tcpMetricColumns, *p, as)
	case **IPMetric:
		return objectAt(ipMetricColumns, *p, as)
	case **DHCPv4:
		return objectAt(dhcpColumns, *p, as)
	case **DNS:
		return objectAt(dnsColumns, *p, as)
	case **VRRPv2:
		return objectAt(vrrpColumns, *p, as)
	case **DNSSOA:
		return objectAt(soaColumns, *p, as)
	case **DNSSRV:
		return objectAt(srvColumns, *p, as)
	case **DNSMX:
		return objectAt(mxColumns, *p, as)
	case *[]RawPacket:
		return objectsOf(rawPacketColumns, *p, as)
	case *[]DNSQuestion:
		return objectsOf(questionColumns, *p, as)
	case *[]DNSRecord:
		return objectsOf(recordColumns, *p, as)
	case *[]DNSOption:
		return objectsOf(optionColumns, *p, as)
	}
	return nil, false
}

func objectAt[T any](columns []column[T], m *T, as form) (field.Value, bool) {
	if m == nil {
		return nil, false
	}
	return objectOf(columns, m, as), true
}

func objectsOf[T any](columns []column[T], list []T, as form) (field.Value, bool) {
	out := make(field.List, len(list))
	for i := range list {
		out[i] = objectOf(columns, &list[i], as)
	}
	return out, len(out) > 0
}

// Keys lists what the Keys step shows, in order: every key that Field knows but for aliases and whole objects.
func Keys() []string {
	var keys []string
	for _, c := range flowColumns {
		if !objects(c.json) && c.json != "Metric" {
			keys = append(keys, c.json)
		}
	}
	keys = appendKeys(keys, "Link.", layerColumns)
	keys = appendKeys(keys, "Network.", layerColumns)
	keys = appendKeys(keys, "Transport.", transportColumns)
	keys = appendKeys(keys, "ICMP.", icmpColumns)
	keys = appendKeys(keys, "Metric.", metricColumns)
	keys = appendKeys(keys, "LastUpdateMetric.", metricColumns)
	keys = appendKeys(keys, "TCPMetric.", tcpMetricColumns)
	keys = appendKeys(keys, "IPMetric.", ipMetricColumns)
	keys = appendKeys(keys, "LastRawPackets.", rawPacketColumns)
	keys = appendKeys(keys, "DHCPv4.", dhcpColumns)
	keys = appendKeys(keys, "VRRPv2.", vrrpColumns)
	keys = appendKeys(keys, "DNS.", dnsColumns)
	keys = appendKeys(keys, "DNS.Timestamp.", timestampColumns)
	keys = appendKeys(keys, "DNS.Questions.", questionColumns)
	for _, section := range []string{"DNS.Answers.", "DNS.Authorities.", "DNS.Additionals."} {
		keys = appendKeys(keys, section, recordColumns)
		keys = appendKeys(keys, section+"SOA.", soaColumns)
		keys = appendKeys(keys, section+"SRV.", srvColumns)
		keys = appendKeys(keys, section+"MX.", mxColumns)
		keys = appendKeys(keys, section+"OPT.", optionColumns)
	}
	keys = slices.DeleteFunc(keys, func(k string) bool {
		return k == "DNS.Timestamp" || strings.HasSuffix(k, ".SOA") || strings.HasSuffix(k, ".SRV") || strings.HasSuffix(k, ".MX")
	})
	slices.Sort(keys)
	return keys
}

func appendKeys[T any](keys []string, prefix string, columns []column[T]) []string {
	for _, c := range columns {
		name := c.key
		if name == "" {
			name = c.json
		}
		keys = append(keys, prefix+name)
	}
	return keys
}
