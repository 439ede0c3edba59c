package capture

import (
	"errors"
	"slices"
	"time"

	"skydive/src/field"
	"skydive/src/resource"
)

// refusal is a capture that cannot run on a node: the node shows it, with the reason, until it is asked for with success or no more.
type refusal struct {
	nodeID  string
	capture resource.Capture
	reason  string
	since   time.Time
}

// note remembers how a request to start ended.
func (m *Manager) note(nodeID string, c resource.Capture, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.refused, func(r refusal) bool { return r.nodeID == nodeID && r.capture.UUID == c.UUID })
	var refused *RefusedError
	switch {
	case !errors.As(err, &refused):
		if i >= 0 {
			m.refused = slices.Delete(m.refused, i, i+1)
			m.changed(nodeID)
		}
	case i >= 0:
		if m.refused[i].reason != refused.Reason {
			m.refused[i].reason = refused.Reason
			m.changed(nodeID)
		}
	case len(m.refused) < m.options.Limit:
		m.refused = append(m.refused, refusal{nodeID, c, refused.Reason, time.Now()})
		m.changed(nodeID)
	}
}

// entry is what the metadata shows.
func (r *refusal) entry() field.Object {
	pairs := []any{"ID", r.capture.UUID, "State", string(Failed), "Error", r.reason, "Since", r.since.UnixMilli()}
	for _, e := range []struct{ key, value string }{
		{"Name", r.capture.Name}, {"Description", r.capture.Description}, {"BPFFilter", r.capture.BPFFilter}, {"Type", r.capture.Type},
	} {
		if e.value != "" {
			pairs = append(pairs, e.key, e.value)
		}
	}
	return field.Make(pairs...)
}
