package query

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/gremlin"
)

// filter is the parameters of a Has-like step, made ready.
type filter struct {
	field.Filter
	costly bool
}

// Where testing one element starts to take so long that a scan must be able to stop.
const (
	manyTerms  = 16
	manyValues = 64
	manyDots   = 64 // of a key: each may be part of a path or of a name
)

// on returns what to match in a run. Scans inside package graph know no context: a costly filter brings it along.
func (f filter) on(r *run) field.Filter {
	if !f.costly && len(f.Terms) <= manyTerms {
		return f.Filter
	}
	stop := field.Term{Key: "@ID", Pred: until{r.ctx, f.Any}}
	terms := slices.Concat([]field.Term{stop}, f.Terms)
	for i := manyTerms; i < len(terms); i++ {
		terms[i].Pred = unindexed{terms[i].Pred} // sets from the indexes are not cut one by one for minutes
	}
	return field.Filter{Any: f.Any, Terms: terms}
}

// and adds the terms of o; both must be conjunctions.
func (f filter) and(o filter) filter {
	f.Any = false
	f.Terms = slices.Concat(f.Terms, o.Terms)
	f.costly = f.costly || o.costly
	return f
}

// merges tells whether f and o can be one conjunction.
func (f filter) merges(o filter) bool {
	return (!f.Any || len(f.Terms) < 2) && (!o.Any || len(o.Terms) < 2)
}

// travel returns the filter for who has the flows.
func (f filter) travel() (*flow.Filter, error) {
	terms := slices.Clone(f.Terms)
	for i, t := range terms {
		if p, ok := t.Pred.(unindexed); ok {
			terms[i].Pred = p.Predicate
		}
	}
	return flow.FilterOf(field.Filter{Any: f.Any, Terms: terms})
}

// until decides a filter as soon as the context ends, so that the rest of its terms, and of a scan, take no time. The result is
// thrown away then.
type until struct {
	ctx context.Context
	any bool
}

func (u until) Match(field.Value, bool) bool { return (u.ctx.Err() != nil) == u.any }

// unindexed hides a predicate from the indexes, whose work cannot be interrupted.
type unindexed struct{ field.Predicate }

// compileFilter reads key, value pairs or a single key that must exist; gremlin has checked their number and types.
func compileFilter(args []gremlin.Arg, either bool) (filter, error) {
	f := filter{Filter: field.Filter{Any: either}}
	for i := 0; i < len(args); i += 2 {
		f.costly = f.costly || strings.Count(args[i].(string), ".") > manyDots
	}
	if len(args) == 1 {
		f.Terms = []field.Term{{Key: args[0].(string), Pred: field.Exists{}}}
		return f, nil
	}
	for i := 0; i+1 < len(args); i += 2 {
		p, err := compilePredicate(args[i+1])
		if err != nil {
			return f, err
		}
		switch p := p.(type) {
		case unindexed:
			f.costly = true
		case field.Within:
			f.costly = f.costly || len(p.Vs) > manyValues
		case field.Without:
			f.costly = f.costly || len(p.Vs) > manyValues
		}
		f.Terms = append(f.Terms, field.Term{Key: args[i].(string), Pred: p})
	}
	return f, nil
}

func compilePredicate(a gremlin.Arg) (field.Predicate, error) {
	p, ok := a.(*gremlin.Predicate)
	if !ok {
		return field.Eq{V: literal(a)}, nil
	}
	switch p.Op {
	case gremlin.NE, gremlin.NEE:
		// A boolean that is not true is false, so a missing field is neither.
		if b, ok := p.Args[0].(bool); ok {
			return field.Eq{V: !b}, nil
		}
		if p.Op == gremlin.NE {
			return field.Ne{V: literal(p.Args[0])}, nil
		}
		return field.Nee{V: literal(p.Args[0])}, nil
	case gremlin.LT:
		return field.Lt{N: number(p.Args[0])}, nil
	case gremlin.GT:
		return field.Gt{N: number(p.Args[0])}, nil
	case gremlin.LTE:
		return field.Lte{N: number(p.Args[0])}, nil
	case gremlin.GTE:
		return field.Gte{N: number(p.Args[0])}, nil
	case gremlin.Inside:
		return field.Inside{A: number(p.Args[0]), B: number(p.Args[1])}, nil
	case gremlin.Between:
		return field.Between{A: number(p.Args[0]), B: number(p.Args[1])}, nil
	case gremlin.Outside:
		return field.Outside{A: number(p.Args[0]), B: number(p.Args[1])}, nil
	case gremlin.Within:
		return field.Within{Vs: literals(p.Args)}, nil
	case gremlin.Without:
		return field.Without{Vs: literals(p.Args)}, nil
	case gremlin.Regex:
		expr := p.Args[0].(string)
		re, err := field.NewRegex(expr)
		// Only counted repetition makes an automaton larger than its text.
		if err == nil && (len(expr) > 64 || strings.Contains(expr, "{")) {
			return unindexed{re}, nil
		}
		return re, err
	case gremlin.IPv4Range:
		return field.NewIPv4Range(p.Args[0].(string))
	}
	return nil, fmt.Errorf("predicate %s is not supported", p.Op)
}

// literal turns a plain parameter into a field value: a whole float is an integer in the graph.
func literal(a gremlin.Arg) field.Value {
	if f, ok := a.(float64); ok {
		a, _ = field.Normalize(f)
	}
	return a
}

// literals turns plain parameters into field values, each once.
func literals(args []gremlin.Arg) []field.Value {
	var vs []field.Value
	seen := make(map[field.Value]struct{}, len(args))
	for _, a := range args {
		v := literal(a)
		if _, dup := seen[v]; !dup {
			seen[v] = struct{}{}
			vs = append(vs, v)
		}
	}
	return vs
}

func number(a gremlin.Arg) float64 {
	switch n := a.(type) {
	case int64:
		return float64(n)
	case float64:
		return n
	}
	return 0 // unreachable: gremlin admits numbers only
}

func texts(args []gremlin.Arg) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = a.(string)
	}
	return out
}
