package query

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"

	"skydive/src/field"
	"skydive/src/graph"
)

// Result is the answer to a query: Graph, Nodes, Edges, Paths, Values, Value, Metrics, Sockets, NextHops, Flows, FlowGroups,
// FlowMetrics or RawPackets.
type Result interface {
	// WriteJSON writes the answer as public clients expect it, without a final newline. It holds one buffer whatever the size
	// of the answer, and ends with ctx.
	WriteJSON(ctx context.Context, w io.Writer) error

	size() int // elements held
}

type (
	// Graph is a whole graph, or what SubGraph cut out of it.
	Graph struct{ world world }
	// Nodes may hold a node more than once.
	Nodes []*graph.Node
	// Edges may hold an edge more than once.
	Edges []*graph.Edge
	// Paths run each from a source to its target, both included.
	Paths [][]*graph.Node
	// Values are those of one field, or the objects of ValueMap.
	Values []field.Value
	// Value is a single value: a count or a sum.
	Value struct{ V field.Value }
	// Metrics are series, in the order of the nodes asked.
	Metrics []Series
	// Series is what one node counted, by start.
	Series struct {
		ID      string
		Metrics []field.Object
	}
	// Sockets are lists, in the order of the nodes or flows asked.
	Sockets []SocketList
	// SocketList is the sockets of one node, or those at the ends of the flow of this UUID.
	SocketList struct {
		ID      string
		Sockets []field.Object
	}
	// NextHops are in the order of the nodes asked.
	NextHops []NextHop
	// NextHop is where one node sends what is meant for an address.
	NextHop struct {
		ID      string
		IP      string // of the neighbour: the gateway, or the destination itself when it is on the link
		MAC     string // of the neighbour, if known
		IfIndex int64
	}
)

// Nodes yields the nodes of the graph.
func (g Graph) Nodes() iter.Seq[*graph.Node] { return g.world.Nodes(field.Filter{}) }

// Edges yields the edges of the graph.
func (g Graph) Edges() iter.Seq[*graph.Edge] { return g.world.Edges(field.Filter{}) }

func (g Graph) size() int    { return 0 } // a snapshot is shared, and what SubGraph keeps is counted there
func (n Nodes) size() int    { return len(n) }
func (e Edges) size() int    { return len(e) }
func (Value) size() int      { return 1 }
func (h NextHops) size() int { return len(h) }

func (v Values) size() int {
	n := len(v)
	for i := range v {
		n += width(v[i])
	}
	return n
}

func (p Paths) size() (n int) {
	for i := range p {
		n += len(p[i])
	}
	return n
}

func (m Metrics) size() (n int) {
	for i := range m {
		n += len(m[i].Metrics)
	}
	return n
}

func (s Sockets) size() (n int) {
	for i := range s {
		n += len(s[i].Sockets)
	}
	return n
}

// bufferSize is what an answer is written in; it is also how much is made before the context is looked at.
const bufferSize = 64 << 10

// encoder gathers output in one buffer.
type encoder struct {
	ctx context.Context
	w   io.Writer
	buf []byte
	err error
}

func encode(ctx context.Context, w io.Writer, fill func(*encoder)) error {
	e := &encoder{ctx: ctx, w: w, buf: make([]byte, 0, 4<<10)} // grows up to bufferSize and one element
	fill(e)
	e.flush()
	return e.err
}

func (e *encoder) flush() {
	if e.err == nil {
		e.err = e.ctx.Err()
	}
	if e.err == nil && len(e.buf) > 0 {
		if _, err := e.w.Write(e.buf); err != nil {
			e.err = fmt.Errorf("write result: %w", err)
		}
	}
	e.buf = e.buf[:0]
}

// ok is called after each element and tells whether to go on.
func (e *encoder) ok() bool {
	if len(e.buf) >= bufferSize {
		e.flush()
	}
	return e.err == nil
}

func (e *encoder) text(s string) { e.buf = append(e.buf, s...) }

// elements writes a list; empty is what stands for one without elements.
func elements[T any](e *encoder, seq iter.Seq[T], empty string, app func([]byte, T) []byte) {
	n := 0
	for x := range seq {
		if n++; n == 1 {
			e.buf = append(e.buf, '[')
		} else {
			e.buf = append(e.buf, ',')
		}
		e.buf = app(e.buf, x)
		if !e.ok() {
			return
		}
	}
	if n == 0 {
		e.text(empty)
		return
	}
	e.buf = append(e.buf, ']')
}

// members writes what ID-keyed steps answer, [{"<id>":…,…}], or [] when there is none.
func members[T any](e *encoder, all []T, id func(*T) string, app func(*encoder, *T)) {
	if len(all) == 0 {
		e.text("[]")
		return
	}
	e.text("[{")
	for i := range all {
		if i > 0 {
			e.text(",")
		}
		e.buf = field.AppendString(e.buf, id(&all[i]))
		e.text(":")
		if app(e, &all[i]); !e.ok() {
			return
		}
	}
	e.text("}]")
}

func appendNode(b []byte, n *graph.Node) []byte    { return n.AppendJSON(b) }
func appendEdge(b []byte, x *graph.Edge) []byte    { return x.AppendJSON(b) }
func appendObject(b []byte, o field.Object) []byte { return field.AppendJSON(b, o) }

// WriteJSON writes [{"Nodes":…,"Edges":…}].
func (g Graph) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) {
		e.text("[")
		g.write(e)
		e.text("]")
	})
}

// WriteObject writes {"Nodes":…,"Edges":…}, as a topology that was not asked for by a query is shown.
func (g Graph) WriteObject(ctx context.Context, w io.Writer) error { return encode(ctx, w, g.write) }

// Whole is the answer to the query G.
func Whole(s *graph.Snapshot) Graph { return Graph{s} }

func (g Graph) write(e *encoder) {
	e.text(`{"Nodes":`)
	elements(e, g.Nodes(), "null", appendNode)
	e.text(`,"Edges":`)
	elements(e, g.Edges(), "null", appendEdge)
	e.text("}")
}

func (n Nodes) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) { elements(e, slices.Values(n), "[]", appendNode) })
}

func (x Edges) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) { elements(e, slices.Values(x), "[]", appendEdge) })
}

func (p Paths) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) {
		elements(e, slices.Values(p), "[]", func(b []byte, path []*graph.Node) []byte {
			e.buf = b
			elements(e, slices.Values(path), "[]", appendNode)
			return e.buf
		})
	})
}

// WriteJSON writes null where there is no value at all.
func (v Values) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) { elements(e, slices.Values(v), "null", field.AppendJSON) })
}

func (v Value) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) { e.buf = field.AppendJSON(e.buf, v.V) })
}

func (m Metrics) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) {
		members(e, m, func(s *Series) string { return s.ID }, func(e *encoder, s *Series) {
			elements(e, slices.Values(s.Metrics), "[]", appendObject)
		})
	})
}

func (s Sockets) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) {
		members(e, s, func(l *SocketList) string { return l.ID }, func(e *encoder, l *SocketList) {
			elements(e, slices.Values(l.Sockets), "[]", appendObject)
		})
	})
}

func (h NextHops) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) {
		members(e, h, func(h *NextHop) string { return h.ID }, func(e *encoder, h *NextHop) {
			// Public clients get priority 0 whatever the route says.
			e.text(`{"Priority":0,"IP":`)
			e.buf = field.AppendString(e.buf, h.IP)
			if h.MAC != "" {
				e.text(`,"MAC":`)
				e.buf = field.AppendString(e.buf, h.MAC)
			}
			e.text(`,"IfIndex":`)
			e.buf = append(field.AppendJSON(e.buf, h.IfIndex), '}')
		})
	})
}
