package capture

import (
	"maps"
	"net/http"
	"slices"

	"skydive/src/resource"
)

// resolve returns the kind of source for a capture of type asked on a node: what is asked for when the node allows it, or else what is usual
// for such a node.
func (m *Manager) resolve(nodeType, asked string) (string, Kind, error) {
	name := resource.CaptureType(nodeType, asked)
	if name == "" {
		return "", Kind{}, refuse(http.StatusBadRequest, "nodes of type %q cannot be captured", nodeType)
	}
	kind, ok := m.options.Kinds[name]
	if !ok {
		return "", Kind{}, refuse(http.StatusBadRequest, "captures of type %s are not available in this agent", name)
	}
	return name, kind, nil
}

// Types are the types of capture that are available, in order.
func (m *Manager) Types() []string { return slices.Sorted(maps.Keys(m.options.Kinds)) }
