package query

import (
	"time"

	"skydive/src/gremlin"
)

// travel is the Context step. Unless lazy it fetches the graph of that time at once.
func travel(s gremlin.Step, lazy bool) applier {
	return func(r *run, _ Result) (Result, error) {
		slice, err := s.Slice(r.src.Now())
		if err != nil {
			return nil, &Error{Err: err}
		}
		slice.Start = sinceEpoch(slice.Start)
		r.slice, r.world = &slice, nil
		if lazy {
			return Graph{}, nil
		}
		if err := r.arrive(); err != nil {
			return nil, err
		}
		return Graph{r.world}, nil
	}
}

// sinceEpoch keeps times such as archives hold.
func sinceEpoch(t time.Time) time.Time {
	if epoch := time.Unix(0, 0); t.Before(epoch) {
		return epoch
	}
	return t
}

// arrive makes sure that there is a graph to walk: a query for the flows of the past may never need one.
func (r *run) arrive() error {
	if r.world != nil {
		return nil
	}
	if r.src.History == nil {
		return &Error{Err: ErrNoHistory}
	}
	nodes, edges, err := r.src.History.Graph(r.ctx, r.slice.Start, r.slice.Last)
	if err := r.archived(err); err != nil {
		return err
	}
	if !r.hold(len(nodes) + len(edges)) {
		return r.err
	}
	r.kept += len(nodes) + len(edges)
	r.world = newSubgraph(nodes, edges)
	return nil
}
