package disk

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// FlowNodes returns the nodes of the flows that Flows finds without a filter, each once and sorted; no more than most. It reads no more of
// a report than that takes.
func (a *Archive) FlowNodes(ctx context.Context, from, to time.Time, most int) ([]string, error) {
	nodes := make(map[string]struct{})
	err := a.read(ctx, func(ctx context.Context, db *pebble.DB) error {
		r := newReader()
		return a.eachFlow(ctx, db, r, from.UnixMilli(), to.UnixMilli(), func(id flowID, _ int64, value []byte) (bool, error) {
			node, err := r.node(id, value)
			if _, known := nodes[node]; !known {
				nodes[node] = struct{}{}
			}
			return len(nodes) < most, err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("nodes of archived flows: %w", err)
	}
	return slices.Sorted(maps.Keys(nodes)), nil
}

// node reads the NodeTID of a report, the fourth of its identifiers.
func (r *reader) node(id flowID, b []byte) (string, error) {
	if _, _, err := r.span(b); err != nil {
		return "", err
	}
	if id[0] == hashedFlow {
		r.skipText()
	}
	for range 3 {
		r.skipText()
	}
	return r.identifier(), r.err
}

func (r *reader) skipText() {
	switch r.byte() {
	case textPlain:
		r.take(r.uvarint())
	case textHex:
		r.take(8)
	case textUUID:
		r.take(16)
	default:
		r.fail()
	}
}
