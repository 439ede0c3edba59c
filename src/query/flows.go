package query

import (
	"errors"
	"maps"
	"slices"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
)

// flowWeight is how many elements one flow counts for.
const flowWeight = 8

// nodeTerms is how many nodes a question names; flows of more than that are told apart here.
const nodeTerms = 256

// question is what is asked of who has the flows.
type question struct {
	flow.Search
	filter *flow.Filter // its filter, as far as the query says
	paged  bool
	none   bool // the page is empty
}

// scope says whose flows are meant.
type scope struct {
	all        bool
	hosts      []string            // sorted; nil for all
	tids       map[string]struct{} // of nodes
	everywhere bool                // any host may have them
}

// scopeOf reads the input of Flows: all of the graph, or the nodes that can be captured.
func (r *run) scopeOf(in Result) scope {
	s := scope{tids: make(map[string]struct{})}
	hosts := make(map[string]struct{})
	add := func(n *graph.Node) bool {
		tid := n.Metadata.Text("TID")
		if _, exports := n.Metadata.Get("Exporter"); exports && tid != "" { // to whichever agent listens
			s.tids[tid], s.everywhere = struct{}{}, true
			return r.ok()
		}
		known := tid != "" && (n.Host != "" || r.slice != nil) // no agent captures what no host has
		if known && (r.src.Capturable == nil || r.src.Capturable(n.Metadata.Text("Type"))) {
			s.tids[tid] = struct{}{}
			hosts[n.Host] = struct{}{}
		}
		return r.ok()
	}
	switch in := in.(type) {
	case Graph:
		return scope{all: true}
	case Nodes:
		for _, n := range in {
			if !add(n) {
				break
			}
		}
	case Paths:
		for _, p := range in {
			for _, n := range p {
				if !add(n) {
					break
				}
			}
		}
	}
	if !s.everywhere {
		s.hosts = slices.Sorted(maps.Keys(hosts))
	}
	return s
}

// nobody tells that there is no node whose flows could be meant.
func (s scope) nobody() bool { return !s.all && len(s.tids) == 0 }

// filter is what the nodes add to a filter; ok is false when they are too many to be named.
func (s scope) filter() (f *flow.Filter, ok bool) {
	switch {
	case s.all:
		return nil, true
	case len(s.tids) > nodeTerms:
		return nil, false
	}
	return flow.AnyText("NodeTID", slices.Sorted(maps.Keys(s.tids))...), true
}

// fetchFlows is Flows with what was pushed into it.
func fetchFlows(q question) applier {
	return func(r *run, in Result) (Result, error) {
		s := r.scopeOf(in)
		if r.err != nil {
			return nil, r.err
		}
		if err := r.askable(); err != nil {
			return nil, err
		}
		if q.none || s.nobody() {
			return Flows(nil), nil
		}
		own, named := s.filter()
		search := q.Search
		search.Filter = flow.And(q.filter, own)
		most := int64(r.src.Limit/flowWeight) + 1
		if !r.hold(int(min(search.From, most)) * flowWeight) { // what is skipped must be gathered too
			return nil, r.err
		}
		if !named {
			search = flow.Search{Filter: q.filter, To: most}
		} else if search.To == 0 || search.To-search.From > most {
			search.To = search.From + most // enough to find that it is too much
		}
		found, err := r.ask(s.hosts, &search)
		if err != nil {
			return nil, err
		}
		if !r.hold(len(found) * flowWeight) {
			return nil, r.err
		}
		if !named {
			var kept []*flow.Flow
			for _, f := range found {
				if _, ours := s.tids[f.NodeTID]; ours {
					kept = append(kept, f)
				}
			}
			found = q.Search.Apply(kept)
		}
		return Flows(found), nil
	}
}

// askable tells whether there is anybody to ask.
func (r *run) askable() error {
	switch {
	case r.slice != nil && r.src.Storage == nil:
		return &Error{Err: ErrNoStorage}
	case r.slice == nil && r.src.Flows == nil:
		return &Error{Err: ErrNoFlows}
	}
	return nil
}

func (r *run) ask(hosts []string, s *flow.Search) ([]*flow.Flow, error) {
	if r.slice != nil {
		found, err := r.src.Storage.Flows(r.ctx, sinceEpoch(r.slice.Start.Add(-r.src.FlowExpire)), r.slice.Last, s)
		return found, r.archived(err)
	}
	found, missing, err := r.src.Flows.Flows(r.ctx, hosts, s)
	if usage, ok := errors.AsType[interface {
		error
		Usage() bool
	}](err); ok && usage.Usage() {
		return nil, &Error{Err: err}
	}
	if err != nil {
		return nil, err
	}
	r.partial(missing)
	return found, nil
}

// total answers a count or sum without the flows where it can; steps do the same with them.
func (q question) total(what flow.Aggregate, answer func(flow.Total) Value, steps ...applier) applier {
	return func(r *run, in Result) (Result, error) {
		s := r.scopeOf(in)
		if r.err != nil {
			return nil, r.err
		}
		if s.nobody() && r.askable() == nil {
			return answer(flow.Total{}), nil
		}
		own, named := s.filter()
		search := &flow.Search{Filter: flow.And(q.filter, own)}
		if stored, ok := r.src.Storage.(Totals); ok && named && r.slice != nil {
			total, err := stored.Total(r.ctx, sinceEpoch(r.slice.Start.Add(-r.src.FlowExpire)), r.slice.Last, r.since(), search, what)
			if err = r.archived(err); err != nil {
				return nil, err
			}
			return answer(total), nil
		}
		if r.slice == nil && r.src.Flows != nil && named {
			total, missing, err := r.src.Flows.Total(r.ctx, s.hosts, search, what)
			if err != nil {
				return nil, err
			}
			r.partial(missing)
			return answer(total), nil
		}
		var err error
		for _, step := range steps {
			if in, err = r.apply(step, in); err != nil {
				return nil, err
			}
		}
		return in, nil
	}
}

// flowValues refuses a field that a flow lacks. A layer or metric can be asked for as a whole.
func flowValues(key string) applier {
	return func(r *run, in Result) (Result, error) {
		c := collect[field.Value](r, everything)
		for _, f := range in.(Flows) {
			v, ok := f.Value(key)
			switch {
			case !ok:
				return nil, usage("Field not found: %s", key)
			case !r.hold(width(v)) || !c.add(v):
				return nil, r.err
			}
		}
		return Values(c.out), nil
	}
}

func flowKeys(_ *run, in Result) (Result, error) {
	var keys Values
	if len(in.(Flows)) > 0 {
		for _, k := range flow.Keys() {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// groupFlows groups by TrackingID, in order of the first of each.
func groupFlows(r *run, in Result) (Result, error) {
	var out FlowGroups
	at := make(map[string]int)
	for _, f := range in.(Flows) {
		i, ok := at[f.TrackingID]
		if !ok {
			i = len(out)
			at[f.TrackingID] = i
			out = append(out, FlowGroup{TrackingID: f.TrackingID})
		}
		out[i].Flows = append(out[i].Flows, f)
		if !r.hold(1) {
			return nil, r.err
		}
	}
	return out, nil
}

func moreThanOne(_ *run, in Result) (Result, error) {
	var out FlowGroups
	for _, g := range in.(FlowGroups) {
		if len(g.Flows) > 1 {
			out = append(out, g)
		}
	}
	return out, nil
}
