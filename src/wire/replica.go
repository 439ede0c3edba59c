package wire

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"skydive/src/field"
	"skydive/src/graph"
)

// NamespaceReplica is how analyzers of this product keep their graphs equal. Public analyzers pass it over.
const NamespaceReplica = "Replica"

// Types of the namespace Replica.
const (
	TypeClaims          = "Claims"          // Obj: Claims
	TypeChanges         = "Changes"         // Obj: Changes
	TypeListRequest     = "ListRequest"     // Obj: Claim, of which only Origin is looked at
	TypeList            = "List"            // Obj: List
	TypeElementsRequest = "ElementsRequest" // Obj: List, of which only the identifiers are looked at
	TypeElements        = "Elements"        // Obj: Changes: what is left of the elements asked for
)

// Stamp is the version of an element: of two, the later one counts.
type Stamp struct {
	At int64  // hybrid clock: ms since the epoch << 16, never less than any seen before
	By uint32 // the process that wrote it
}

// maxStamp is far in the future, and leaves room to count on.
const maxStamp = math.MaxInt64 / 4

// After tells whether s is later than other.
func (s Stamp) After(other Stamp) bool {
	return s.At > other.At || s.At == other.At && s.By > other.By
}

// Claim is what an analyzer knows of one origin, and who is right about it: the holder, who hears the producer itself.
type Claim struct {
	Origin  string
	Holder  string // host id of the analyzer; "" when nobody is: then the later stamp counts
	Epoch   int64  // raised when a producer begins to talk; 0 without holder
	Live    bool   // the producer is connected to the holder, and who says so is the holder or hears it from the holder
	Version int64  // At of the last change by the holder that is in the sender's graph
	Digest  uint64 // of the elements in the sender's graph
	Count   int64  // of these
}

// Claims is what an analyzer says of itself, first when connected and then whenever it changes.
type Claims struct {
	Full    bool // what is not in Claims, the sender does not have
	Claims  []Claim
	Present []string // origins that are connected to the sender and whose elements go with them; always all
	Addrs   []string // by which the sender has found itself; only when Full
}

// Item is one element in a List.
type Item struct {
	Edge  bool
	ID    string
	Stamp Stamp
	Gone  graph.Time // when it was deleted; 0: it is there
}

// List is all of one origin in the sender's graph.
type List struct {
	Claim Claim
	Items []Item
}

// ElementChange is what became of one element. Node, Edge or Update tells, by Type.
type ElementChange struct {
	Type   string // of the namespace Graph: NodeAdded …
	Stamp  Stamp
	Base   Stamp // of the state that Update starts from
	Node   *graph.Node
	Edge   *graph.Edge
	Update *PartialUpdate
	For    string // host id of the holder who is asked to make the change; "": it was made by who has a right to
}

// Changes are in the order in which they were made. Claims come before them; their Digest and Count are of no use.
type Changes struct {
	Claims []Claim
	Items  []ElementChange
}

// NewElementChange tells of a change: with a base, an update is told as what changed.
func NewElementChange(ch graph.Change, stamp, base Stamp) ElementChange {
	c := ElementChange{Type: ch.Kind.String(), Stamp: stamp, Node: ch.Node, Edge: ch.Edge}
	switch {
	case ch.Kind == graph.NodeDeleted: // the rest is known, or of no use
		c.Node = &graph.Node{Element: graph.Element{ID: ch.Node.ID, Host: ch.Node.Host, Origin: ch.Node.Origin, DeletedAt: ch.Node.DeletedAt}}
	case ch.Kind == graph.EdgeDeleted:
		c.Edge = &graph.Edge{Element: graph.Element{ID: ch.Edge.ID, Host: ch.Edge.Host, Origin: ch.Edge.Origin, DeletedAt: ch.Edge.DeletedAt}}
	case base == Stamp{}:
	case ch.Kind == graph.NodeUpdated && ch.OldNode.Origin == ch.Node.Origin && nameable(&ch.OldNode.Element, &ch.Node.Element):
		c.Type, c.Base, c.Node, c.Update = TypeNodePartiallyUpdated, base, nil, difference(&ch.OldNode.Element, &ch.Node.Element)
	case ch.Kind == graph.EdgeUpdated && ch.OldEdge.Origin == ch.Edge.Origin && nameable(&ch.OldEdge.Element, &ch.Edge.Element):
		c.Type, c.Base, c.Edge, c.Update = TypeEdgePartiallyUpdated, base, nil, difference(&ch.OldEdge.Element, &ch.Edge.Element)
	}
	return c
}

// IsEdge tells whether the element is an edge.
func (c *ElementChange) IsEdge() bool {
	return c.Edge != nil || c.Type == TypeEdgePartiallyUpdated
}

// ID is that of the element.
func (c *ElementChange) ID() string {
	switch {
	case c.Node != nil:
		return c.Node.ID
	case c.Edge != nil:
		return c.Edge.ID
	}
	return c.Update.ID
}

// ErrStamp tells of a stamp that cannot be.
var ErrStamp = errors.New("stamp out of range")

func (c *Claim) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"Origin":`...)
	dst = field.AppendString(dst, c.Origin)
	if c.Holder != "" {
		dst = append(dst, `,"Holder":`...)
		dst = field.AppendString(dst, c.Holder)
	}
	dst = appendMember(dst, "Epoch", c.Epoch)
	if c.Live {
		dst = append(dst, `,"Live":true`...)
	}
	dst = appendMember(dst, "Version", c.Version)
	dst = appendMember(dst, "Digest", int64(c.Digest)) // as a signed number: readers in other languages see an integer, and we get the bits back
	dst = appendMember(dst, "Count", c.Count)
	return append(dst, '}')
}

// appendMember appends a member that is not the first; 0 is left out.
func appendMember(dst []byte, name string, v int64) []byte {
	if v == 0 {
		return dst
	}
	dst = append(append(append(dst, `,"`...), name...), `":`...)
	return strconv.AppendInt(dst, v, 10)
}

// AppendJSON appends the claim.
func (c *Claim) AppendJSON(dst []byte) []byte { return c.appendJSON(dst) }

// AppendJSON appends the claims.
func (c *Claims) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"Full":`...)
	dst = strconv.AppendBool(dst, c.Full)
	dst = append(dst, `,"Claims":`...)
	dst = appendList(dst, c.Claims, func(c Claim, dst []byte) []byte { return c.appendJSON(dst) })
	dst = append(dst, `,"Present":`...)
	text := func(s string, dst []byte) []byte { return field.AppendString(dst, s) }
	dst = appendList(dst, c.Present, text)
	if len(c.Addrs) > 0 {
		dst = append(dst, `,"Addrs":`...)
		dst = appendList(dst, c.Addrs, text)
	}
	return append(dst, '}')
}

// AppendJSON appends the list; an item is [edge 0|1, ID, At, By, Gone].
func (l *List) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"Claim":`...)
	dst = l.Claim.appendJSON(dst)
	dst = append(dst, `,"Items":`...)
	return append(appendList(dst, l.Items, appendItem), '}')
}

func appendItem(i Item, dst []byte) []byte {
	if i.Edge {
		dst = append(dst, "[1,"...)
	} else {
		dst = append(dst, "[0,"...)
	}
	dst = append(field.AppendString(dst, i.ID), ',')
	dst = append(strconv.AppendInt(dst, i.Stamp.At, 10), ',')
	dst = append(strconv.AppendUint(dst, uint64(i.Stamp.By), 10), ',')
	return append(strconv.AppendInt(dst, int64(i.Gone), 10), ']')
}

// AppendJSON appends the changes.
func (c *Changes) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	if len(c.Claims) > 0 {
		dst = append(dst, `"Claims":`...)
		dst = appendList(dst, c.Claims, func(c Claim, dst []byte) []byte { return c.appendJSON(dst) })
		dst = append(dst, ',')
	}
	dst = append(dst, `"Items":`...)
	return append(appendList(dst, c.Items, appendChange), '}')
}

func appendChange(c ElementChange, dst []byte) []byte {
	dst = append(dst, `{"Type":`...)
	dst = field.AppendString(dst, c.Type)
	dst = appendMember(dst, "At", c.Stamp.At)
	dst = appendMember(dst, "By", int64(c.Stamp.By))
	dst = appendMember(dst, "BaseAt", c.Base.At)
	dst = appendMember(dst, "BaseBy", int64(c.Base.By))
	if c.For != "" {
		dst = append(dst, `,"For":`...)
		dst = field.AppendString(dst, c.For)
	}
	dst = append(dst, `,"Obj":`...)
	switch {
	case c.Node != nil:
		dst = c.Node.AppendJSON(dst)
	case c.Edge != nil:
		dst = c.Edge.AppendJSON(dst)
	case c.Update != nil:
		dst = c.Update.AppendJSON(dst)
	default:
		dst = append(dst, "null"...)
	}
	return append(dst, '}')
}

// replicaBody makes the empty body of a type of the namespace Replica; nil when it is unknown.
func replicaBody(typ string) Body {
	switch typ {
	case TypeClaims:
		return new(Claims)
	case TypeListRequest:
		return new(Claim)
	case TypeList, TypeElementsRequest:
		return new(List)
	case TypeChanges, TypeElements:
		return new(Changes)
	}
	return nil
}

// replica decodes the next value of dec as the Obj of a message of the namespace Replica.
func (d *Decoder) replica(typ string, dec *jsontext.Decoder) (Body, error) {
	body := replicaBody(typ)
	switch b := body.(type) {
	case *Claims:
		text := func() (s string, err error) {
			err = readText(dec, &s)
			return s, err
		}
		return b, members(dec, func(name string) error {
			switch name {
			case "Addrs":
				return elements(dec, &b.Addrs, text)
			case "Full":
				return readBool(dec, &b.Full)
			case "Claims":
				return elements(dec, &b.Claims, func() (Claim, error) { return readClaim(dec) })
			case "Present":
				return elements(dec, &b.Present, text)
			}
			return dec.SkipValue()
		})
	case *Claim:
		c, err := readClaim(dec)
		return &c, err
	case *List:
		return b, members(dec, func(name string) (err error) {
			switch name {
			case "Claim":
				b.Claim, err = readClaim(dec)
				return err
			case "Items":
				return elements(dec, &b.Items, func() (Item, error) { return readItem(dec) })
			}
			return dec.SkipValue()
		})
	case *Changes:
		return b, members(dec, func(name string) error {
			switch name {
			case "Claims":
				return elements(dec, &b.Claims, func() (Claim, error) { return readClaim(dec) })
			case "Items":
				return elements(dec, &b.Items, func() (ElementChange, error) { return d.change(dec) })
			}
			return dec.SkipValue()
		})
	}
	return nil, fmt.Errorf("unknown type %q", typ)
}

func readBool(dec *jsontext.Decoder, v *bool) error {
	tok, err := dec.ReadToken()
	switch {
	case err != nil:
		return err
	case tok.Kind() != 't' && tok.Kind() != 'f':
		return fmt.Errorf("expected true or false, found %s", tok.Kind())
	}
	*v = tok.Bool()
	return nil
}

func readClaim(dec *jsontext.Decoder) (c Claim, err error) {
	err = members(dec, func(name string) error {
		switch name {
		case "Origin":
			return readText(dec, &c.Origin)
		case "Holder":
			return readText(dec, &c.Holder)
		case "Epoch":
			return readInt(dec, &c.Epoch)
		case "Live":
			return readBool(dec, &c.Live)
		case "Version":
			return readInt(dec, &c.Version)
		case "Digest":
			var v int64
			err := readInt(dec, &v)
			c.Digest = uint64(v)
			return err
		case "Count":
			return readInt(dec, &c.Count)
		}
		return dec.SkipValue()
	})
	switch {
	case err != nil:
	case c.Epoch < 0 || c.Epoch > maxStamp || c.Version < 0 || c.Version > maxStamp || c.Count < 0:
		err = ErrStamp
	case (c.Holder == "") != (c.Epoch == 0):
		err = errors.New("a claim has a holder and an epoch, or neither")
	}
	return c, err
}

func readItem(dec *jsontext.Decoder) (i Item, err error) {
	tok, err := dec.ReadToken()
	if err != nil {
		return i, err
	}
	if tok.Kind() != '[' {
		return i, fmt.Errorf("expected a JSON array, found %s", tok.Kind())
	}
	var edge, by, gone int64
	for _, read := range []func() error{
		func() error { return readInt(dec, &edge) }, func() error { return readText(dec, &i.ID) },
		func() error { return readInt(dec, &i.Stamp.At) }, func() error { return readInt(dec, &by) }, func() error { return readInt(dec, &gone) },
	} {
		if err := read(); err != nil {
			return i, err
		}
	}
	if tok, err = dec.ReadToken(); err != nil {
		return i, err
	}
	if tok.Kind() != ']' {
		return i, errors.New("an item of five values expected")
	}
	if i.ID == "" {
		return i, graph.ErrNoID
	}
	i.Edge, i.Gone = edge != 0, graph.Time(gone)
	i.Stamp, err = stamped(i.Stamp.At, by)
	return i, err
}

func stamped(at, by int64) (Stamp, error) {
	if at < 0 || at > maxStamp || by < 0 || by > math.MaxUint32 {
		return Stamp{}, ErrStamp
	}
	return Stamp{at, uint32(by)}, nil
}

// change reads one change; its Type must stand before its Obj.
func (d *Decoder) change(dec *jsontext.Decoder) (c ElementChange, err error) {
	var by, baseBy int64
	err = members(dec, func(name string) error {
		switch name {
		case "Type":
			return readText(dec, &c.Type)
		case "At":
			return readInt(dec, &c.Stamp.At)
		case "By":
			return readInt(dec, &by)
		case "BaseAt":
			return readInt(dec, &c.Base.At)
		case "BaseBy":
			return readInt(dec, &baseBy)
		case "For":
			return readText(dec, &c.For)
		case "Obj":
			if c.Type == TypeSync || c.Type == TypeSyncReply || c.Type == TypeSyncRequest {
				break
			}
			if m := (Message{Namespace: NamespaceGraph, Type: c.Type}); !m.typed() {
				break
			}
			body, err := d.read(c.Type, dec)
			if err != nil {
				return err
			}
			switch b := body.(type) {
			case *graph.Node:
				c.Node = b
			case *graph.Edge:
				c.Edge = b
			case *PartialUpdate:
				c.Update = b
			}
			return nil
		}
		return dec.SkipValue()
	})
	if err == nil {
		c.Stamp, err = stamped(c.Stamp.At, by)
	}
	if err == nil {
		c.Base, err = stamped(c.Base.At, baseBy)
	}
	if err == nil && c.Node == nil && c.Edge == nil && c.Update == nil {
		err = fmt.Errorf("change %q without element", c.Type)
	}
	return c, err
}
