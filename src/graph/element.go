package graph

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"skydive/src/field"
)

// Time is milliseconds since the epoch; 0 stands for null.
type Time int64

// At converts a Go time.
func At(t time.Time) Time { return Time(t.UnixMilli()) }

// Element is what nodes and edges have in common. It must not be changed once it is in a graph.
type Element struct {
	ID        string
	Metadata  field.Object
	Host      string // host_id of the producer
	Origin    string // "<service type>.<host id>" of the producer
	CreatedAt Time
	UpdatedAt Time
	DeletedAt Time  // 0 while alive
	Revision  int64 // raised with each change of the metadata
}

// Node is a vertex of the graph.
type Node struct{ Element }

// Edge is a directed link between two nodes.
type Edge struct {
	Element
	Parent, Child string // node IDs
}

// ErrNoID tells that an element came without an identifier.
var ErrNoID = errors.New("No ID found for graph element")

// Field returns an attribute (@ID, @Host, @Origin, @CreatedAt, @UpdatedAt, @DeletedAt, @Revision) or the metadata at a dotted
// path, with or without the prefix "Metadata.".
func (e *Element) Field(path string) (field.Value, bool) {
	if strings.HasPrefix(path, "@") {
		switch path {
		case "@ID":
			return e.ID, true
		case "@Host":
			return e.Host, true
		case "@Origin":
			return e.Origin, true
		case "@CreatedAt":
			return e.CreatedAt.value(), true
		case "@UpdatedAt":
			return e.UpdatedAt.value(), true
		case "@DeletedAt":
			return e.DeletedAt.value(), true
		case "@Revision":
			return e.Revision, true
		}
	}
	return e.Metadata.Lookup(strings.TrimPrefix(path, "Metadata."))
}

// Field also knows Parent and Child.
func (e *Edge) Field(path string) (field.Value, bool) {
	switch path {
	case "Parent":
		return e.Parent, true
	case "Child":
		return e.Child, true
	}
	return e.Element.Field(path)
}

func (t Time) value() field.Value {
	if t == 0 {
		return nil
	}
	return int64(t)
}

func (t Time) appendJSON(dst []byte) []byte {
	if t == 0 {
		return append(dst, "null"...)
	}
	return strconv.AppendInt(dst, int64(t), 10)
}

func (e *Element) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"ID":`...)
	dst = field.AppendString(dst, e.ID)
	dst = append(dst, `,"Metadata":`...)
	dst = e.Metadata.AppendJSON(dst)
	dst = append(dst, `,"Host":`...)
	dst = field.AppendString(dst, e.Host)
	dst = append(dst, `,"Origin":`...)
	dst = field.AppendString(dst, e.Origin)
	dst = append(dst, `,"CreatedAt":`...)
	dst = e.CreatedAt.appendJSON(dst)
	dst = append(dst, `,"UpdatedAt":`...)
	dst = e.UpdatedAt.appendJSON(dst)
	dst = append(dst, `,"DeletedAt":`...)
	dst = e.DeletedAt.appendJSON(dst)
	dst = append(dst, `,"Revision":`...)
	return strconv.AppendInt(dst, e.Revision, 10)
}

// AppendJSON appends the node as JSON, keys in the order of the public API.
func (n *Node) AppendJSON(dst []byte) []byte { return append(n.appendJSON(dst), '}') }

// AppendJSON appends the edge as JSON, keys in the order of the public API.
func (e *Edge) AppendJSON(dst []byte) []byte {
	dst = append(e.appendJSON(dst), `,"Parent":`...)
	dst = field.AppendString(dst, e.Parent)
	dst = append(dst, `,"Child":`...)
	return append(field.AppendString(dst, e.Child), '}')
}

func (n *Node) MarshalJSON() ([]byte, error) { return n.AppendJSON(nil), nil }
func (e *Edge) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

// UnmarshalJSON reads a node; ErrNoID when it has no identifier.
func (n *Node) UnmarshalJSON(data []byte) error {
	got, err := DecodeNode(field.NewJSON(bytes.NewBuffer(data)), field.NewDecoder())
	if err == nil {
		*n = *got
	}
	return err
}

// UnmarshalJSON reads an edge; ErrNoID when it has no identifier.
func (e *Edge) UnmarshalJSON(data []byte) error {
	got, err := DecodeEdge(field.NewJSON(bytes.NewBuffer(data)), field.NewDecoder())
	if err == nil {
		*e = *got
	}
	return err
}

// DecodeNode reads the next node of a token stream. Unknown keys are skipped, times must be integers or null.
func DecodeNode(dec *jsontext.Decoder, values *field.Decoder) (*Node, error) {
	n := new(Node)
	err := decode(dec, values, &n.Element, nil)
	return n, err
}

// DecodeEdge reads the next edge of a token stream.
func DecodeEdge(dec *jsontext.Decoder, values *field.Decoder) (*Edge, error) {
	e := new(Edge)
	err := decode(dec, values, &e.Element, e)
	return e, err
}

func decode(dec *jsontext.Decoder, values *field.Decoder, el *Element, edge *Edge) error {
	tok, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if tok.Kind() != '{' {
		return fmt.Errorf("graph element must be an object, not %s", tok.Kind())
	}
	for dec.PeekKind() != '}' {
		key, err := values.Text(dec)
		if err != nil {
			return err
		}
		v, err := values.Value(dec)
		if err != nil {
			return err
		}
		if err := el.set(key, v, edge); err != nil {
			return err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	if el.ID == "" {
		return ErrNoID
	}
	return nil
}

// attributes are the keys of an element in JSON; the last two are those of edges.
var attributes = [...]string{"ID", "Metadata", "Host", "Origin", "CreatedAt", "UpdatedAt", "DeletedAt", "Revision", "Parent", "Child"}

// attribute finds the attribute that a key names, whatever its case, as encoding/json does; "" when there is none.
func attribute(key string) string {
	if slices.Contains(attributes[:], key) {
		return key
	}
	for _, name := range attributes {
		if strings.EqualFold(name, key) {
			return name
		}
	}
	return ""
}

// set stores one attribute read from JSON.
func (e *Element) set(key string, v field.Value, edge *Edge) error {
	switch attribute(key) {
	case "ID":
		return text(key, v, &e.ID)
	case "Metadata":
		m, ok := v.(field.Object)
		if !ok && v != nil {
			return fmt.Errorf("%s must be an object", key)
		}
		e.Metadata = m
	case "Host":
		return text(key, v, &e.Host)
	case "Origin":
		return text(key, v, &e.Origin)
	case "CreatedAt":
		return stamp(key, v, &e.CreatedAt)
	case "UpdatedAt":
		return stamp(key, v, &e.UpdatedAt)
	case "DeletedAt":
		return stamp(key, v, &e.DeletedAt)
	case "Revision":
		n, ok := v.(int64)
		if !ok && v != nil {
			return fmt.Errorf("%s must be an integer", key)
		}
		e.Revision = n
	case "Parent":
		if edge != nil {
			return text(key, v, &edge.Parent)
		}
	case "Child":
		if edge != nil {
			return text(key, v, &edge.Child)
		}
	}
	return nil
}

func text(key string, v field.Value, to *string) error {
	s, ok := v.(string)
	if !ok && v != nil {
		return fmt.Errorf("%s must be a string", key)
	}
	*to = s
	return nil
}

func stamp(key string, v field.Value, to *Time) error {
	n, ok := v.(int64)
	if !ok && v != nil {
		return fmt.Errorf("%s must be an integer of milliseconds", key)
	}
	*to = Time(n)
	return nil
}
