package query

import (
	"context"
	"fmt"
	"io"
	"strings"

	"skydive/src/field"
	"skydive/src/graph"
)

// WriteDOT writes a Graph in the language of Graphviz; any other result is ErrNotGraph.
func WriteDOT(ctx context.Context, w io.Writer, res Result) error {
	g, ok := res.(Graph)
	if !ok {
		return ErrNotGraph
	}
	return encode(ctx, w, func(e *encoder) {
		e.text("digraph g {\n")
		for n := range g.Nodes() {
			if e.dotNode(n); !e.ok() {
				return
			}
		}
		for x := range g.Edges() {
			parent, child := g.world.Node(x.Parent), g.world.Node(x.Child)
			if parent == nil || child == nil {
				continue
			}
			if e.dotEdge(dotName(parent), dotName(child), x.Metadata.Text("RelationType")); !e.ok() {
				return
			}
		}
		e.text("}")
	})
}

// dotName is unique enough to read, and the same in nodes and edges.
func dotName(n *graph.Node) string {
	return dotEscape(n.Metadata.Text("Name") + "-" + n.ID[:min(8, len(n.ID))])
}

func (e *encoder) dotNode(n *graph.Node) {
	name := dotName(n)
	e.text(`"` + name + `" [label="` + name)
	for _, key := range [...]string{"Type", "IfIndex", "State", "TID", "IPV4", "IPV6"} {
		if v, ok := n.Metadata.Get(key); ok {
			e.text(`\n` + key + " = " + dotEscape(dotValue(v)))
		}
	}
	e.text("\"]\n")
}

func (e *encoder) dotEdge(parent, child, relation string) {
	dir := "forward"
	if relation == "layer2" {
		dir = "both"
	}
	e.text(`"` + parent + `" -> "` + child + `" [label=` + dotID(relation) + ",dir=" + dir + "]\n")
}

// dotValue shows lists as [a b].
func dotValue(v field.Value) string {
	l, ok := v.(field.List)
	if !ok {
		return fmt.Sprint(v)
	}
	items := make([]string, len(l))
	for i := range l {
		items[i] = dotValue(l[i])
	}
	return "[" + strings.Join(items, " ") + "]"
}

// dotID quotes s unless it is a plain identifier.
func dotID(s string) string {
	for i, c := range s {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return `"` + dotEscape(s) + `"`
		}
	}
	if s == "" {
		return `""`
	}
	return s
}

func dotEscape(s string) string {
	if !strings.ContainsAny(s, "\"\\\n\r") {
		return s
	}
	return strings.NewReplacer(`"`, `\"`, `\`, `\\`, "\n", `\n`, "\r", "").Replace(s)
}
