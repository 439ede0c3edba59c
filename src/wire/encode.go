package wire

import (
	"cmp"
	"iter"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"skydive/src/field"
	"skydive/src/graph"
)

// Field numbers of the protobuf envelope.
const (
	numNamespace protowire.Number = 1 + iota
	numType
	numUUID
	numStatus
	numFormat
	numObj
)

// headRoom is more than an envelope needs besides its names.
const headRoom = 128

// Append appends m in protocol p. A message without Body and Obj carries null. A Sync is measured first, so that a large graph is
// never in memory twice as text.
func (m *Message) Append(dst []byte, p Protocol) []byte {
	if s, ok := m.Body.(*Sync); ok {
		dst = slices.Grow(dst, s.size()+headRoom+len(m.Namespace)+len(m.Type)+len(m.UUID))
	}
	if p == Protobuf {
		return m.appendProto(dst)
	}
	dst = append(dst, `{"Namespace":`...)
	dst = field.AppendString(dst, m.Namespace)
	dst = append(dst, `,"Type":`...)
	dst = field.AppendString(dst, m.Type)
	if m.UUID != "" {
		dst = append(dst, `,"UUID":`...)
		dst = field.AppendString(dst, m.UUID)
	}
	if m.Status != 0 {
		dst = append(dst, `,"Status":`...)
		dst = strconv.AppendInt(dst, m.Status, 10)
	}
	dst = append(dst, `,"Obj":`...)
	return append(m.appendObj(dst), '}')
}

func (m *Message) appendObj(dst []byte) []byte {
	switch {
	case m.Body != nil:
		return m.Body.AppendJSON(dst)
	case m.Obj == nil && m.Format == FormatJSON:
		return append(dst, "null"...)
	}
	return append(dst, m.Obj...)
}

func (m *Message) appendProto(dst []byte) []byte {
	dst = appendName(dst, numNamespace, m.Namespace)
	dst = appendName(dst, numType, m.Type)
	dst = appendName(dst, numUUID, m.UUID)
	dst = appendNumber(dst, numStatus, m.Status)
	dst = appendNumber(dst, numFormat, int64(m.Format))
	// The size of Obj, a varint, stands before it, and is known only after it: Obj is written behind the longest possible size
	// and then moved up.
	const longest = 10
	dst = protowire.AppendTag(dst, numObj, protowire.BytesType)
	at := len(dst)
	dst = m.appendObj(append(dst, make([]byte, longest)...))
	obj := dst[at+longest:]
	dst = protowire.AppendVarint(dst[:at], uint64(len(obj)))
	return append(dst, obj...)
}

func appendName(dst []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, num, protowire.BytesType), s)
}

func appendNumber(dst []byte, num protowire.Number, v int64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), uint64(v))
}

// NewSync gathers a graph, nodes and edges each in the order of their creation.
func NewSync(nodes iter.Seq[*graph.Node], edges iter.Seq[*graph.Edge]) *Sync {
	s := &Sync{Nodes: slices.Collect(nodes), Edges: slices.Collect(edges)}
	slices.SortFunc(s.Nodes, func(a, b *graph.Node) int { return byCreation(&a.Element, &b.Element) })
	slices.SortFunc(s.Edges, func(a, b *graph.Edge) int { return byCreation(&a.Element, &b.Element) })
	return s
}

func byCreation(a, b *graph.Element) int {
	return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), strings.Compare(a.ID, b.ID))
}

// size returns how many bytes AppendJSON will append.
func (s *Sync) size() int {
	var buf []byte
	n := len(`{"Nodes":null,"Edges":null}`)
	for _, e := range s.Nodes {
		buf = e.AppendJSON(buf[:0])
		n += len(buf) + 1
	}
	for _, e := range s.Edges {
		buf = e.AppendJSON(buf[:0])
		n += len(buf) + 1
	}
	return n
}

// AppendJSON appends the graph; an empty list is null, as clients expect.
func (s *Sync) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"Nodes":`...)
	dst = appendList(dst, s.Nodes, (*graph.Node).AppendJSON)
	dst = append(dst, `,"Edges":`...)
	dst = appendList(dst, s.Edges, (*graph.Edge).AppendJSON)
	return append(dst, '}')
}

// AppendJSON appends the request; parts at their default are left out.
func (r *SyncRequest) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	if r.GremlinFilter != nil {
		dst = append(dst, `"GremlinFilter":`...)
		dst = field.AppendString(dst, *r.GremlinFilter)
	}
	if r.Time != 0 {
		if r.GremlinFilter != nil {
			dst = append(dst, ',')
		}
		dst = append(dst, `"Time":`...)
		dst = strconv.AppendInt(dst, int64(r.Time), 10)
	}
	return append(dst, '}')
}

// AppendJSON appends the update; no operation at all is null.
func (u *PartialUpdate) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"ID":`...)
	dst = field.AppendString(dst, u.ID)
	dst = append(dst, `,"UpdatedAt":`...)
	dst = strconv.AppendInt(dst, int64(u.UpdatedAt), 10)
	dst = append(dst, `,"Revision":`...)
	dst = strconv.AppendInt(dst, u.Revision, 10)
	dst = append(dst, `,"Ops":`...)
	return append(appendList(dst, u.Ops, appendOp), '}')
}

func appendOp(op field.Op, dst []byte) []byte {
	dst = append(dst, `{"Type":`...)
	dst = strconv.AppendInt(dst, int64(op.Type), 10)
	dst = append(dst, `,"Key":`...)
	dst = field.AppendString(dst, op.Key)
	dst = append(dst, `,"Value":`...)
	return append(field.AppendJSON(dst, op.Value), '}')
}

// appendList appends a JSON array, or null for an empty list.
func appendList[T any](dst []byte, list []T, item func(T, []byte) []byte) []byte {
	if len(list) == 0 {
		return append(dst, "null"...)
	}
	for i, v := range list {
		if i == 0 {
			dst = append(dst, '[')
		} else {
			dst = append(dst, ',')
		}
		dst = item(v, dst)
	}
	return append(dst, ']')
}

// AppendJSON appends the text as a JSON string.
func (t Text) AppendJSON(dst []byte) []byte { return field.AppendString(dst, string(t)) }
