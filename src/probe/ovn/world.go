package ovn

import (
	"slices"
	"strings"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/ovs"
	"skydive/src/probe"
)

// Relations of edges, besides layer 2.
const (
	reference = "ovn"     // a column refers to the row
	mapping   = "mapping" // the interface is the logical port
)

// world is the database as the graph should have it.
type world struct {
	desired *probe.Desired
	schema  ovs.Schema
	rows    map[ovs.UUID]*row
	routers *join // ports of switches and those of routers, by name of the latter
	ports   *join // interfaces of Open vSwitch and ports of switches, by name of the latter
}

// row is what there is of one.
type row struct {
	table string
	edges []string // IDs of those that its columns make, sorted
}

func newWorld(d *probe.Desired) *world {
	return &world{
		desired: d, rows: make(map[ovs.UUID]*row),
		routers: newJoin(d, probe.Layer2), ports: newJoin(d, mapping),
	}
}

// Begin looks for the interfaces there are.
func (w *world) Begin(s *graph.Snapshot) {
	w.ports.clearLeft()
	for n := range s.Nodes(field.Filter{}) {
		w.ports.setLeft(n.ID, interfaceID(n))
	}
}

// See follows the interfaces.
func (w *world) See(c graph.Change) {
	switch c.Kind {
	case graph.NodeAdded, graph.NodeUpdated:
		w.ports.setLeft(c.Node.ID, interfaceID(c.Node))
	case graph.NodeDeleted:
		w.ports.setLeft(c.Node.ID, "")
	}
}

// interfaceID names the logical port that an interface of Open vSwitch is.
func interfaceID(n *graph.Node) string {
	ids, _ := n.Metadata.Get("ExtID")
	object, _ := ids.(field.Object)
	return object.Text("iface-id")
}

// take takes in one transaction of the database.
func (w *world) take(b ovs.Batch) {
	if b.Initial {
		w.schema = b.Schema
		there := make(map[ovs.UUID]struct{}, len(b.Changes))
		for _, c := range b.Changes {
			there[c.UUID] = struct{}{}
		}
		for id := range w.rows {
			if _, still := there[id]; !still {
				w.drop(id)
			}
		}
		defer w.desired.Known()
	}
	for _, c := range b.Changes {
		if c.New == nil {
			w.drop(c.UUID)
		} else {
			w.put(c.Table, c.UUID, c.New)
		}
	}
}

func (w *world) drop(id ovs.UUID) {
	r := w.rows[id]
	if r == nil {
		return
	}
	delete(w.rows, id)
	w.link(r, nil)
	node := nodeID(id)
	w.routers.setLeft(node, "")
	w.routers.setRight(node, "")
	w.ports.setRight(node, "")
	w.desired.DropNode(node)
}

func (w *world) put(table string, id ovs.UUID, columns ovs.Row) {
	r := w.rows[id]
	if r == nil {
		r = &row{table: table}
		w.rows[id] = r
	}
	node := nodeID(id)
	w.desired.Node(node, metadata(table, w.schema[table], id, columns))
	var edges []string
	for name, column := range w.schema[table] {
		for _, other := range references(column, columns[name]) {
			edges = append(edges, w.desired.Edge(node, nodeID(other), reference, nil))
		}
	}
	slices.Sort(edges)
	w.link(r, slices.Compact(edges))
	switch table {
	case "Logical_Switch_Port":
		w.routers.setLeft(node, columns.MapText("options", "router-port"))
		w.ports.setRight(node, columns.Text("name"))
	case "Logical_Router_Port":
		w.routers.setRight(node, columns.Text("name"))
	}
}

// link drops the edges that a row no longer makes.
func (w *world) link(r *row, edges []string) {
	for _, old := range r.edges {
		if _, still := slices.BinarySearch(edges, old); !still {
			w.desired.DropEdge(old)
		}
	}
	r.edges = edges
}

// references returns the rows that a value refers to: the schema tells that it can, and nothing else is a UUID.
func references(c ovs.Column, v any) (rows []ovs.UUID) {
	if len(c.Refs) == 0 {
		return nil
	}
	switch v := v.(type) {
	case ovs.UUID:
		rows = append(rows, v)
	case []any:
		for _, item := range v {
			if id, ok := item.(ovs.UUID); ok {
				rows = append(rows, id)
			}
		}
	case map[string]any:
		for key, item := range v {
			if len(key) == uuidLength {
				rows = append(rows, ovs.UUID(key)) // keys are text by now: one that is no row has no node, and no edge
			}
			if id, ok := item.(ovs.UUID); ok {
				rows = append(rows, id)
			}
		}
	}
	return rows
}

const uuidLength = len("00000000-0000-0000-0000-000000000000")

func nodeID(row ovs.UUID) string { return graph.GenID(string(row)) }

// metadata describes a row.
func metadata(table string, schema map[string]ovs.Column, id ovs.UUID, columns ovs.Row) field.Object {
	section := make([]any, 0, 4*len(schema))
	for column, c := range schema {
		name := camelCase(column)
		v := value(c, columns[column])
		if v == nil {
			continue
		}
		section = append(section, name, v)
		if m, isMap := v.(field.Object); isMap {
			section = append(section, name+"Meta", nested(m))
		}
	}
	name := columns.Text("name")
	if name == "" {
		name = string(id)
	}
	return field.Make("Manager", "ovn", "Name", name, "Type", strings.ReplaceAll(table, "_", ""), "UUID", string(id), "OVN", field.Make(section...))
}

// value is a column in metadata, nil when it is empty. A column that may hold several values, or none, is a list.
func value(c ovs.Column, v any) field.Value {
	switch v := v.(type) {
	case nil:
		if c.Map || c.Many || c.Optional {
			return nil
		}
		return map[string]field.Value{"integer": int64(0), "real": int64(0), "boolean": false, "string": ""}[c.Type]
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, item := range v {
			m[key] = atom(item)
		}
		o, _ := field.FromMap(m) // cannot fail: atoms are all there is in it
		if len(o) == 0 {
			return nil
		}
		return o
	case []any:
		if len(v) == 0 {
			return nil
		}
		l := make(field.List, len(v))
		for i := range v {
			l[i] = atom(v[i])
		}
		if slices.ContainsFunc(l, func(v field.Value) bool { _, isText := v.(string); return !isText }) {
			return l
		}
		slices.SortFunc(l, func(a, b field.Value) int { return strings.Compare(a.(string), b.(string)) }) // sets have no order
		return l
	default:
		if c.Many || c.Optional {
			return field.List{atom(v)}
		}
		return atom(v)
	}
}

// atom leaves out what no server that keeps to the protocol sends.
func atom(v any) field.Value {
	switch v := v.(type) {
	case string, int64, float64, bool:
		n, _ := field.Normalize(v) // cannot fail for these
		return n
	case ovs.UUID:
		return string(v)
	}
	return nil
}

// maxDots bounds how deep keys with dots nest: what is deeper than decoders read could not be told to anybody.
const maxDots = 32

// nested makes objects of keys with dots; a key below one that has a value is left out.
func nested(m field.Object) (all field.Object) {
	for _, e := range m {
		if strings.Count(e.Key, ".") > maxDots {
			continue
		}
		if next, err := all.Set(e.Key, e.Value); err == nil {
			all = next
		}
	}
	return all
}

// initialisms are words that names of the public Skydive write in capitals, with a small s in the plural.
var initialisms = map[string]string{
	"acl": "ACL", "acls": "ACLs", "bfd": "BFD", "dns": "DNS", "id": "ID", "ids": "IDs", "ip": "IP", "ips": "IPs", "mac": "MAC",
	"mtu": "MTU", "qos": "QOS", "ssl": "SSL", "uuid": "UUID", "vlan": "VLAN",
}

// camelCase turns the name of a column into a key of metadata.
func camelCase(column string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(column, "_") {
		switch capitals, ok := initialisms[strings.ToLower(word)]; {
		case ok:
			b.WriteString(capitals)
		case word != "":
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}
