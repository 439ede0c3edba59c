package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protowire"

	"skydive/src/field"
	"skydive/src/graph"
)

// Decoder reads messages. It keeps the tables by which repeated keys and values share memory, so it is worth reusing; it belongs
// to one goroutine at a time.
type Decoder struct {
	json   *jsontext.Decoder
	proto  *bufio.Reader
	fields *field.Decoder // large: made when the first element comes, so that the many peers who send none stay small
}

// NewDecoder returns an empty Decoder.
func NewDecoder() *Decoder {
	empty := bytes.NewReader(nil)
	return &Decoder{json: field.NewJSON(empty), proto: bufio.NewReader(empty)}
}

// Decode reads one message in protocol p from r, up to its end. Bodies of the Graph namespace are decoded as they stream in,
// without holding their text, provided that Namespace, Type and Status come before Obj, which all known senders do; otherwise
// Obj is buffered first. Other content is left in Obj.
//
// Unknown fields are ignored. An error means that the message is to be dropped; what was read of its envelope comes along for
// the log.
func (d *Decoder) Decode(r io.Reader, p Protocol) (*Message, error) {
	m := &Message{}
	var found bool
	var err error
	if p == Protobuf {
		found, err = d.protobuf(r, m)
	} else {
		found, err = d.text(r, m)
	}
	switch {
	case err != nil:
	case !found && m.Format == FormatJSON: // an empty protobuf Obj is not written at all
		err = ErrNoObj
	case m.Body == nil && m.typed():
		m.Body, err = d.body(m, bytes.NewBuffer(m.Obj))
		m.Obj = nil
	}
	if err != nil {
		return m, fmt.Errorf("decode message %q %q: %w", m.Namespace, m.Type, err)
	}
	return m, nil
}

// typed tells whether Obj is one that body decodes. A reply that reports an error carries a text instead of a graph.
func (m *Message) typed() bool {
	if m.Format != FormatJSON || m.Status >= 400 {
		return false
	}
	if m.Namespace == NamespaceReplica {
		return replicaBody(m.Type) != nil
	}
	if m.Namespace != NamespaceGraph {
		return false
	}
	switch m.Type {
	case TypeSyncRequest, TypeSyncReply, TypeSync,
		TypeNodeAdded, TypeNodeUpdated, TypeNodeDeleted, TypeNodePartiallyUpdated,
		TypeEdgeAdded, TypeEdgeUpdated, TypeEdgeDeleted, TypeEdgePartiallyUpdated:
		return true
	}
	return false
}

// text reads a JSON envelope.
func (d *Decoder) text(r io.Reader, m *Message) (found bool, err error) {
	dec := d.reset(r)
	err = members(dec, func(name string) error {
		switch name {
		case "Namespace":
			return readText(dec, &m.Namespace)
		case "Type":
			return readText(dec, &m.Type)
		case "UUID":
			return readText(dec, &m.UUID)
		case "Status":
			return readInt(dec, &m.Status)
		case "Obj":
			found = true
			m.Body, m.Obj = nil, nil // of an earlier Obj: the last one counts
			if m.typed() && (m.Type != TypeSyncReply || m.Status != 0) {
				var err error
				m.Body, err = d.content(m, dec)
				return err
			}
			raw, err := dec.ReadValue()
			m.Obj = bytes.Clone(raw)
			return err
		}
		return dec.SkipValue()
	})
	if err == nil {
		err = end(dec)
	}
	return found, err
}

// protobuf reads a protobuf envelope.
func (d *Decoder) protobuf(r io.Reader, m *Message) (found bool, err error) {
	in := d.proto
	in.Reset(r)
	for {
		num, value, err := readField(in)
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		switch num {
		case numNamespace:
			err = readName(in, value, &m.Namespace)
		case numType:
			err = readName(in, value, &m.Type)
		case numUUID:
			err = readName(in, value, &m.UUID)
		case numStatus:
			m.Status = int64(value)
		case numFormat:
			if m.Format = Format(value); m.Format != FormatJSON && m.Format != FormatProtobuf {
				err = fmt.Errorf("%w: %d", ErrFormat, value)
			}
		case numObj:
			found = true
			err = d.obj(in, value, m)
		}
		if err != nil {
			return found, err
		}
	}
}

// obj reads the n bytes of Obj.
func (d *Decoder) obj(in io.Reader, n uint64, m *Message) (err error) {
	part := &io.LimitedReader{R: in, N: int64(min(n, math.MaxInt64))}
	m.Body, m.Obj = nil, nil // of an earlier Obj: the last one counts
	if m.typed() {
		m.Body, err = d.body(m, part)
	} else {
		m.Obj, err = io.ReadAll(part)
	}
	if err == nil && part.N > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// readField reads the head of the next envelope field: its number and, for a varint, its value, for bytes their count. Fields
// that the envelope does not have, or has as another type, are skipped.
func readField(in *bufio.Reader) (protowire.Number, uint64, error) {
	for {
		tag, err := binary.ReadUvarint(in)
		if err != nil {
			return 0, 0, err
		}
		num, typ := protowire.DecodeTag(tag)
		if num < protowire.MinValidNumber {
			return 0, 0, errors.New("protobuf field number out of range")
		}
		var n uint64
		switch typ {
		case protowire.VarintType, protowire.BytesType:
			if n, err = binary.ReadUvarint(in); err != nil {
				return 0, 0, unexpected(err)
			}
			if typ == protowire.VarintType {
				if num == numStatus || num == numFormat {
					return num, n, nil
				}
				n = 0
			} else if num <= numUUID || num == numObj {
				return num, n, nil
			}
		case protowire.Fixed32Type:
			n = 4
		case protowire.Fixed64Type:
			n = 8
		default:
			return 0, 0, fmt.Errorf("protobuf wire type %d", typ)
		}
		if _, err := in.Discard(int(min(n, math.MaxInt))); err != nil {
			return 0, 0, unexpected(err)
		}
	}
}

// nameLimit bounds Namespace, Type and UUID, so that a false count cannot make the reader allocate what never comes.
const nameLimit = 64 << 10

func readName(in io.Reader, n uint64, s *string) error {
	if n > nameLimit {
		return fmt.Errorf("a name of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(in, b); err != nil {
		return unexpected(err)
	}
	*s = known(b)
	return nil
}

// unexpected turns an end in the middle of something into an error of its own.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (d *Decoder) reset(r io.Reader) *jsontext.Decoder {
	d.json.Reset(r, d.json.Options())
	return d.json
}

// body decodes r, the text of one Obj.
func (d *Decoder) body(m *Message, r io.Reader) (Body, error) {
	dec := d.reset(r)
	b, err := d.content(m, dec)
	if err == nil {
		err = end(dec)
	}
	return b, err
}

// content decodes the next value of dec as the Obj of m.
func (d *Decoder) content(m *Message, dec *jsontext.Decoder) (Body, error) {
	if m.Namespace == NamespaceReplica {
		return d.replica(m.Type, dec)
	}
	return d.read(m.Type, dec)
}

// read decodes the next value of dec as the Obj of a Graph message.
func (d *Decoder) read(typ string, dec *jsontext.Decoder) (Body, error) {
	if d.fields == nil && typ != TypeSyncRequest {
		d.fields = field.NewDecoder()
	}
	switch typ {
	case TypeSyncRequest:
		return readSyncRequest(dec)
	case TypeSync, TypeSyncReply:
		return d.sync(dec)
	case TypeNodePartiallyUpdated, TypeEdgePartiallyUpdated:
		return d.partial(dec)
	case TypeNodeAdded, TypeNodeUpdated, TypeNodeDeleted:
		return graph.DecodeNode(dec, d.fields)
	}
	return graph.DecodeEdge(dec, d.fields)
}

func (d *Decoder) sync(dec *jsontext.Decoder) (*Sync, error) {
	s := &Sync{}
	return s, members(dec, func(name string) error {
		switch name {
		case "Nodes":
			return elements(dec, &s.Nodes, func() (*graph.Node, error) { return graph.DecodeNode(dec, d.fields) })
		case "Edges":
			return elements(dec, &s.Edges, func() (*graph.Edge, error) { return graph.DecodeEdge(dec, d.fields) })
		}
		return dec.SkipValue()
	})
}

func readSyncRequest(dec *jsontext.Decoder) (*SyncRequest, error) {
	r := &SyncRequest{}
	return r, members(dec, func(name string) error {
		switch name {
		case "GremlinFilter":
			if dec.PeekKind() == 'n' {
				return dec.SkipValue()
			}
			r.GremlinFilter = new(string)
			return readText(dec, r.GremlinFilter)
		case "Time":
			return readInt(dec, (*int64)(&r.Time))
		}
		return dec.SkipValue()
	})
}

func (d *Decoder) partial(dec *jsontext.Decoder) (*PartialUpdate, error) {
	p := &PartialUpdate{}
	err := members(dec, func(name string) error {
		switch name {
		case "ID":
			return readText(dec, &p.ID)
		case "UpdatedAt":
			return readInt(dec, (*int64)(&p.UpdatedAt))
		case "Revision":
			return readInt(dec, &p.Revision)
		case "Ops":
			return elements(dec, &p.Ops, func() (field.Op, error) { return d.op(dec) })
		}
		return dec.SkipValue()
	})
	if err == nil && p.ID == "" {
		err = errors.New("partial update without ID")
	}
	return p, err
}

func (d *Decoder) op(dec *jsontext.Decoder) (op field.Op, err error) {
	return op, members(dec, func(name string) (err error) {
		switch name {
		case "Type":
			var n int64
			err = readInt(dec, &n)
			op.Type = field.OpType(n)
		case "Key":
			op.Key, err = d.fields.Text(dec)
		case "Value":
			op.Value, err = d.fields.Value(dec)
		default:
			err = dec.SkipValue()
		}
		return err
	})
}

// members calls fn for each name of the next object, with dec before its value. A null has no members.
func members(dec *jsontext.Decoder, fn func(name string) error) error {
	tok, err := dec.ReadToken()
	switch {
	case err != nil:
		return unexpected(err)
	case tok.Kind() == 'n':
		return nil
	case tok.Kind() != '{':
		return fmt.Errorf("expected a JSON object, found %s", tok.Kind())
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadValue()
		if err != nil {
			return unexpected(err)
		}
		if err := fn(known(name[1 : len(name)-1])); err != nil {
			return unexpected(err)
		}
	}
	_, err = dec.ReadToken()
	return unexpected(err)
}

// elements appends the values of the next array to list; null is an empty one.
func elements[T any](dec *jsontext.Decoder, list *[]T, next func() (T, error)) error {
	tok, err := dec.ReadToken()
	switch {
	case err != nil:
		return err
	case tok.Kind() == 'n':
		return nil
	case tok.Kind() != '[':
		return fmt.Errorf("expected a JSON array, found %s", tok.Kind())
	}
	for dec.PeekKind() != ']' {
		v, err := next()
		if err != nil {
			return err
		}
		*list = append(*list, v)
	}
	_, err = dec.ReadToken()
	return err
}

// end refuses text after the value of dec.
func end(dec *jsontext.Decoder) error {
	switch _, err := dec.ReadToken(); {
	case err == io.EOF:
		return nil
	case err != nil:
		return err
	}
	return errors.New("unexpected text after the JSON value")
}

// readText reads a string into s; null leaves it.
func readText(dec *jsontext.Decoder, s *string) error {
	tok, err := dec.ReadToken()
	switch {
	case err != nil:
		return err
	case tok.Kind() == '"':
		*s = tok.String()
	case tok.Kind() != 'n':
		return fmt.Errorf("expected a JSON string, found %s", tok.Kind())
	}
	return nil
}

// readInt reads an integer literal into n; null leaves it.
func readInt(dec *jsontext.Decoder, n *int64) error {
	raw, err := dec.ReadValue()
	if err == nil && raw.Kind() != 'n' {
		*n, err = strconv.ParseInt(string(raw), 10, 64)
	}
	return err
}

// names are the texts that nearly every message repeats.
var names = func() map[string]string {
	m := map[string]string{}
	for _, s := range []string{
		"Namespace", "Type", "UUID", "Status", "Obj", "Nodes", "Edges", "ID", "UpdatedAt", "Revision", "Ops", "Key", "Value",
		NamespaceGraph, NamespaceFlow, TypeSyncRequest, TypeSyncReply, TypeSync,
		TypeNodeAdded, TypeNodeUpdated, TypeNodeDeleted, TypeNodePartiallyUpdated,
		TypeEdgeAdded, TypeEdgeUpdated, TypeEdgeDeleted, TypeEdgePartiallyUpdated,
	} {
		m[s] = s
	}
	return m
}()

// known returns the text of b, without a copy when it is one of names.
func known(b []byte) string {
	if s, ok := names[string(b)]; ok {
		return s
	}
	return string(b)
}
