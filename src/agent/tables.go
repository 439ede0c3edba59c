package agent

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"skydive/src/flow"
)

// table is what live queries are put to: flow.Table.
type table interface {
	Search(f *flow.Filter, yield func(*flow.Flow) bool) // of records that are used again
	Total(f *flow.Filter, a flow.Aggregate) flow.Total
}

const (
	// replyLimit is how many bytes of flows one reply holds at most. Searches that find more are refused rather than cut: nobody could tell.
	replyLimit = 256 << 20
	// candidates are how many flows at least are gathered before those that cannot be among the first are let go.
	candidates = 4096
	// mostFirst is how many flows one may ask for to be chosen here. A record takes several times the memory that it takes encoded: when more
	// are wanted, all go to the analyzer, which has to choose among those of all agents anyway.
	mostFirst = 1 << 16
)

var errReplyLimit = errors.New("more flows are found than fit into a reply: filter, or limit their number")

// search answers a query from tables, until ctx ends.
func search[T table](ctx context.Context, tables []T, q *flow.TableQuery, limit int) (*flow.TableReply, error) {
	switch s := &q.Search; {
	case q.Aggregate != nil && s.Addable():
		return total(ctx, tables, s, *q.Aggregate), ctx.Err()
	case s.To > 0 && s.To <= mostFirst && (s.Sort || s.Dedup):
		return first(ctx, tables, s, limit)
	}
	enough := q.Search.To > 0 && !q.Search.Sort && !q.Search.Dedup // so many flows will do, whichever
	r := &flow.TableReply{Status: http.StatusOK}
	size := 0
	for _, t := range tables {
		var set set
		each(ctx, t, q.Search.Filter, func(f *flow.Flow) bool {
			set.add(f)
			return (!enough || set.flows < q.Search.To) && size+len(set.data) <= limit
		})
		if size += len(set.data); size > limit {
			return nil, errReplyLimit
		}
		r.Sets = append(r.Sets, set.end())
	}
	return r, ctx.Err()
}

// each yields the flows of a table that pass a filter.
func each[T table](ctx context.Context, t T, filter *flow.Filter, yield func(*flow.Flow) bool) {
	t.Search(filter, func(f *flow.Flow) bool { return ctx.Err() == nil && yield(f) })
}

// total adds up.
func total[T table](ctx context.Context, tables []T, s *flow.Search, a flow.Aggregate) *flow.TableReply {
	r := &flow.TableReply{Status: http.StatusOK, Total: new(flow.Total)}
	for _, t := range tables {
		if ctx.Err() != nil {
			break
		}
		sum := t.Total(s.Filter, a)
		r.Total.Merge(&sum)
	}
	return r
}

// first finds the flows that come first in the order of a search; the analyzer looks for the first of all agents among them.
func first[T table](ctx context.Context, tables []T, s *flow.Search, limit int) (*flow.TableReply, error) {
	part := *s.Part()
	most := max(candidates, 2*int(min(part.To, int64(limit))))
	var found []*flow.Flow
	for _, t := range tables {
		each(ctx, t, s.Filter, func(f *flow.Flow) bool {
			if found = append(found, clone(f)); len(found) >= most {
				found = slices.Clip(part.Finish(found))
			}
			return true
		})
	}
	var set set
	for _, f := range part.Finish(found) {
		if set.add(f); len(set.data) > limit {
			return nil, errReplyLimit
		}
	}
	return &flow.TableReply{Status: http.StatusOK, Sets: [][]byte{set.end()}}, ctx.Err()
}

// set is an encoded FlowSet.
type set struct {
	data        []byte
	flows       int64
	start, last int64
}

func (s *set) add(f *flow.Flow) {
	if s.flows == 0 {
		s.start = f.Start
	}
	s.flows++
	s.start, s.last = min(s.start, f.Start), max(s.last, f.Last)
	s.data = flow.AppendMessageFlow(s.data, f)
}

func (s *set) end() []byte { return flow.AppendSetSpan(s.data, s.start, s.last) }

// clone copies what a table uses again of a record.
func clone(f *flow.Flow) *flow.Flow {
	c := *f
	c.Link, c.Network, c.Transport, c.ICMP = copied(f.Link), copied(f.Network), copied(f.Transport), copied(f.ICMP)
	c.LastUpdateMetric, c.TCPMetric, c.IPMetric = copied(f.LastUpdateMetric), copied(f.TCPMetric), copied(f.IPMetric)
	return &c
}

func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// tableReply is a reply as the content of a message, so that it is written only once.
type tableReply struct {
	*flow.TableReply
	protobuf bool
}

// AppendJSON appends the reply in the format that its message announces.
func (r tableReply) AppendJSON(dst []byte) []byte {
	if r.protobuf {
		return r.AppendProto(dst)
	}
	return r.TableReply.AppendJSON(dst)
}
