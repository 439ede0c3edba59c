package ondemand

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/resource"
)

const exportersMax = 1 << 16 // that an agent is told of

// exporters returns the nodes that say which interface of which device they are, as Exporter and IfIndex: those of the fabric do.
func exporters(s *graph.Snapshot) (all []resource.Exporter) {
	for n := range s.Nodes(field.Filter{}) {
		if x, ok := exporter(n); ok && len(all) < exportersMax {
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(a, b resource.Exporter) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.IfIndex, b.IfIndex), cmp.Compare(a.TID, b.TID))
	})
	// Two nodes cannot be one interface: the first has it.
	return slices.CompactFunc(all, func(a, b resource.Exporter) bool { return a.Address == b.Address && a.IfIndex == b.IfIndex })
}

func exporter(n *graph.Node) (x resource.Exporter, ok bool) {
	address := n.Metadata.Text("Exporter")
	if address == "" {
		return x, false
	}
	ip, err := netip.ParseAddr(address)
	x.TID = n.Metadata.Text("TID")
	if err != nil || x.TID == "" {
		return x, false
	}
	x.Address = ip.Unmap().WithZone("").String()
	v, _ := n.Metadata.Get("IfIndex")
	switch v := v.(type) {
	case int64:
		x.IfIndex = int(v)
	case string: // as all values of the fabric's definition are
		x.IfIndex, _ = strconv.Atoi(v)
	}
	return x, x.IfIndex > 0
}

// exported notes that a change of the graph may concern exporters. It must be cheap.
func (e *Engine) exported(c *graph.Change) {
	if !e.kind.maps || c.Node == nil || e.remap {
		return
	}
	_, now := c.Node.Metadata.Get("Exporter")
	before := false
	if c.OldNode != nil {
		_, before = c.OldNode.Metadata.Get("Exporter")
	}
	if now != before || now && (c.Kind != graph.NodeUpdated || differs([]string{"Exporter", "IfIndex", "TID"}, c.OldNode, c.Node)) {
		e.remap = true
		e.gather()
	}
}

// relearn has agents told of the exporters, when they are others than before.
func (e *Engine) relearn() {
	if !e.remap {
		return
	}
	e.remap = false
	known := exporters(e.o.Graph.Snapshot())
	if e.mapped > 0 && slices.Equal(known, e.known) {
		return
	}
	e.known = known
	e.mapped++ // also at first: who led before may have told of others
	for _, x := range e.entries {
		for _, t := range x.tasks {
			if t.listens() {
				e.step(t)
			}
		}
	}
}

// listens tells whether what runs for a task takes what exporters send.
func (t *task) listens() bool {
	c, ok := t.entry.resource.(*resource.Capture)
	if !ok {
		return false
	}
	switch resource.CaptureType(t.node.Metadata.Text("Type"), c.Type) {
	case "sflow", "netflow":
		return true
	}
	return false
}

// outdated tells whether an agent was told of other exporters than there are.
func (e *Engine) outdated(t *task) bool { return t.mapped != e.mapped && t.listens() }
