package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"skydive/src/field"
	"skydive/src/graph"
)

var errRecord = errors.New("damaged record")

// What a record of the log says of an element. Nodes sort before edges.
const (
	kindNode = 'a'
	kindEdge = 'b'
	kindEnd  = 'z' // everything ended: the analyzer stopped
)

// entry is a record of the log, and of what was open at some time: an element as of a moment.
type entry struct {
	number uint64 // of the log entry
	at     int64  // ms: from then on
	node   *graph.Node
	edge   *graph.Edge // nil with node: the end of everything
}

func (e *entry) element() *graph.Element {
	if e.edge != nil {
		return &e.edge.Element
	}
	return &e.node.Element
}

func (e *entry) kind() byte {
	switch {
	case e.node != nil:
		return kindNode
	case e.edge != nil:
		return kindEdge
	}
	return kindEnd
}

func (e *entry) append(dst []byte) []byte {
	dst = append(dst, e.kind())
	dst = binary.AppendUvarint(dst, e.number)
	dst = binary.AppendUvarint(dst, uint64(e.at))
	if e.kind() == kindEnd {
		return dst
	}
	el := e.element()
	dst = appendText(dst, el.ID)
	dst = appendText(dst, el.Host)
	dst = appendText(dst, el.Origin)
	for _, n := range [...]int64{int64(el.CreatedAt), int64(el.UpdatedAt), int64(el.DeletedAt), el.Revision} {
		dst = binary.AppendVarint(dst, n)
	}
	if e.edge != nil {
		dst = appendText(dst, e.edge.Parent)
		dst = appendText(dst, e.edge.Child)
	}
	return appendValue(dst, el.Metadata)
}

// The texts of records: those that identifiers are made of take half the room.
const (
	textPlain = iota // length, bytes
	textHex          // 8 bytes
	textUUID         // 16 bytes
)

func appendText(dst []byte, s string) []byte {
	if n, ok := shortHex(s); ok && len(s) > 8 {
		return binary.BigEndian.AppendUint64(append(dst, textHex), n)
	}
	if u, ok := plainUUID(s); ok {
		return append(append(dst, textUUID), u[:]...)
	}
	dst = binary.AppendUvarint(append(dst, textPlain), uint64(len(s)))
	return append(dst, s...)
}

const (
	tagNil = iota
	tagFalse
	tagTrue
	tagInt
	tagFloat
	tagText
	tagList
	tagObject
)

func appendValue(dst []byte, v field.Value) []byte {
	switch v := v.(type) {
	case bool:
		if v {
			return append(dst, tagTrue)
		}
		return append(dst, tagFalse)
	case int64:
		return binary.AppendVarint(append(dst, tagInt), v)
	case float64:
		return binary.BigEndian.AppendUint64(append(dst, tagFloat), math.Float64bits(v))
	case string:
		return appendText(append(dst, tagText), v)
	case field.List:
		dst = binary.AppendUvarint(append(dst, tagList), uint64(len(v)))
		for i := range v {
			dst = appendValue(dst, v[i])
		}
		return dst
	case field.Object:
		dst = binary.AppendUvarint(append(dst, tagObject), uint64(len(v)))
		for i := range v {
			dst = binary.AppendUvarint(dst, uint64(len(v[i].Key)))
			dst = append(dst, v[i].Key...)
			dst = appendValue(dst, v[i].Value)
		}
		return dst
	}
	return append(dst, tagNil)
}

// reader takes a record apart. After the first mistake everything is zero, and err says so. What repeats – keys, types, hosts – is
// stored once per reader, of which there is one per answer.
type reader struct {
	b     []byte
	err   error
	texts map[string]field.Value
}

// maxTexts bounds the table of texts of a reader.
const maxTexts = 1 << 14

func newReader() *reader { return &reader{texts: make(map[string]field.Value)} }

func (r *reader) fail() {
	r.err, r.b = errRecord, nil
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	head := r.b[:n]
	r.b = r.b[n:]
	return head
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// shared returns b as a text, as a Value so that storing it in one takes no memory.
func (r *reader) shared(b []byte) field.Value {
	if v, ok := r.texts[string(b)]; ok {
		return v
	}
	s := string(b)
	if len(s) > 64 || len(r.texts) >= maxTexts {
		return s
	}
	v := field.Value(s)
	r.texts[s] = v
	return v
}

func (r *reader) text() string {
	var buf [36]byte
	switch b := r.byte(); b {
	case textPlain:
		s, _ := r.shared(r.take(r.uvarint())).(string)
		return s
	default:
		return string(r.packed(b, buf[:0]))
	}
}

// packed reads the texts that are stored as numbers.
func (r *reader) packed(tag byte, dst []byte) []byte {
	switch tag {
	case textHex:
		if b := r.take(8); b != nil {
			return appendShortHex(dst, binary.BigEndian.Uint64(b))
		}
	case textUUID:
		if b := r.take(16); b != nil {
			return appendUUID(dst, b)
		}
	default:
		r.fail()
	}
	return dst
}

func (r *reader) value(depth int) field.Value {
	if depth > maxDepth {
		r.fail()
		return nil
	}
	switch r.byte() {
	case tagNil:
		return nil
	case tagFalse:
		return false
	case tagTrue:
		return true
	case tagInt:
		return r.varint()
	case tagFloat:
		if b := r.take(8); b != nil {
			return math.Float64frombits(binary.BigEndian.Uint64(b))
		}
		return nil
	case tagText:
		if len(r.b) > 0 && r.b[0] == textPlain {
			r.b = r.b[1:]
			return r.shared(r.take(r.uvarint()))
		}
		return r.text()
	case tagList:
		n := r.uvarint()
		if n > uint64(len(r.b)) { // each takes a byte at least
			r.fail()
			return nil
		}
		l := make(field.List, n)
		for i := range l {
			l[i] = r.value(depth + 1)
		}
		return l
	case tagObject:
		return r.members(depth)
	}
	r.fail()
	return nil
}

func (r *reader) members(depth int) field.Object {
	n := r.uvarint()
	if n > uint64(len(r.b))/2 {
		r.fail()
		return nil
	}
	o := make(field.Object, n)
	for i := range o {
		o[i].Key, _ = r.shared(r.take(r.uvarint())).(string)
		o[i].Value = r.value(depth + 1)
		if i > 0 && o[i].Key <= o[i-1].Key {
			r.fail()
		}
	}
	if r.err != nil {
		return nil
	}
	return o
}

// maxDepth is above what values nest.
const maxDepth = 80

func (r *reader) object() field.Object {
	if r.byte() != tagObject {
		r.fail()
		return nil
	}
	return r.members(0)
}

// entry reads a whole record.
func (r *reader) entry(b []byte) (e entry, err error) {
	r.b, r.err = b, nil
	kind := r.byte()
	e.number, e.at = r.uvarint(), int64(r.uvarint())
	var el *graph.Element
	switch kind {
	case kindNode:
		e.node = new(graph.Node)
		el = &e.node.Element
	case kindEdge:
		e.edge = new(graph.Edge)
		el = &e.edge.Element
	case kindEnd:
		return e, r.err
	default:
		return entry{}, errRecord
	}
	el.ID, el.Host, el.Origin = r.text(), r.text(), r.text()
	el.CreatedAt, el.UpdatedAt, el.DeletedAt = graph.Time(r.varint()), graph.Time(r.varint()), graph.Time(r.varint())
	el.Revision = r.varint()
	if e.edge != nil {
		e.edge.Parent, e.edge.Child = r.text(), r.text()
	}
	el.Metadata = r.object()
	if r.err == nil && len(r.b) > 0 {
		r.fail()
	}
	if r.err != nil {
		return entry{}, fmt.Errorf("element: %w", r.err)
	}
	return e, nil
}

// head reads of a record only which element it is of and whether that was deleted.
func (r *reader) head(b []byte) (kind byte, at int64, id string, deleted bool, err error) {
	r.b, r.err = b, nil
	kind = r.byte()
	r.uvarint()
	at = int64(r.uvarint())
	if kind != kindEnd {
		id = r.text()
		r.text()
		r.text()
		r.varint()
		r.varint()
		deleted = r.varint() != 0
	}
	return kind, at, id, deleted, r.err
}
