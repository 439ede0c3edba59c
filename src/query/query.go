// Package query runs a parsed Gremlin query over a snapshot of the graph.
//
// Compile turns the query into a Plan once, refusing what cannot work whatever the data; a Plan may be run any number of
// times and concurrently. A run only reads the snapshot, ends with its context, and is refused as soon as it would hold more
// elements than its limit. Steps that need flows are known to the language but answered with an error by this version.
package query

import (
	"context"
	"errors"
	"fmt"
	"time"

	"skydive/src/graph"
	"skydive/src/gremlin"
)

// DefaultLimit is how many elements a run may hold at a time unless its Source says otherwise; each takes a pointer, or for
// values and metrics a few words.
const DefaultLimit = 10_000_000

// Source is what a query is run over.
type Source struct {
	Graph   *graph.Snapshot
	History History          // nil when nothing is archived: Context then answers ErrNoHistory
	Limit   int              // elements held at a time, DefaultLimit when 0
	Now     func() time.Time // what times are relative to, time.Now when nil
}

// History gives the graph as it was.
type History interface {
	At(ctx context.Context, slice gremlin.Slice) (*graph.Snapshot, error)
}

// Sentinels found in errors of Run by errors.Is.
var (
	ErrNoHistory = errors.New("Backend does not support history")
	ErrTooLarge  = errors.New("query holds too many elements")
	ErrNotGraph  = errors.New("Only graph can be outputted as dot")
)

// Error is a mistake of who asks: an impossible combination of steps, an unknown element, a result that is too large. Any
// other error of Run is that of the context or of History.
type Error struct {
	Offset int // of the step, in bytes
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Steps is the set of steps that a query may use.
type Steps uint8

const (
	AllSteps  Steps = iota
	BaseSteps       // those that agents know: selections of captures, injections and rules are limited to them
)

// Plan is a query made ready to run.
type Plan struct {
	query  *gremlin.Query
	stages []stage
}

// stage is one step of a Plan: it turns the result so far into the next. Only errors of the user are given an offset.
type stage struct {
	offset int
	apply  func(*run, Result) (Result, error)
}

// Compile checks a query and makes it ready to run. Every error is an *Error.
func Compile(q *gremlin.Query, allowed Steps) (*Plan, error) {
	c := compiler{steps: q.Steps, named: make(map[string]bool)}
	for _, s := range q.Steps {
		if allowed == BaseSteps && !s.Kind.Base() {
			return nil, &Error{s.Offset, fmt.Errorf("Expected step function, got: %s", s.Kind)}
		}
	}
	for c.next < len(c.steps) {
		if err := c.step(); err != nil {
			return nil, err
		}
	}
	return &Plan{q, c.stages}, nil
}

// String is the canonical text of the query.
func (p *Plan) String() string { return p.query.String() }

// Run compiles and runs a query that may use all steps.
func Run(ctx context.Context, q *gremlin.Query, src Source) (Result, error) {
	p, err := Compile(q, AllSteps)
	if err != nil {
		return nil, err
	}
	return p.Run(ctx, src)
}

// Run answers the query. The result reads src.Graph until it is dropped, and does not change with later updates.
func (p *Plan) Run(ctx context.Context, src Source) (Result, error) {
	if src.Limit <= 0 {
		src.Limit = DefaultLimit
	}
	if src.Now == nil {
		src.Now = time.Now
	}
	r := &run{ctx: ctx, src: src, world: src.Graph, err: ctx.Err()}
	if r.err != nil {
		return nil, r.err
	}
	var res Result = Graph{src.Graph}
	for _, s := range p.stages {
		var err error
		res, err = s.apply(r, res)
		if r.err == nil {
			r.err = ctx.Err() // a loop may have ended early by it
		}
		if r.err != nil {
			err = r.err
		}
		var usage *Error
		switch {
		case errors.As(err, &usage):
			return nil, &Error{s.offset, usage.Err}
		case err != nil:
			return nil, err
		}
		r.held = r.kept + res.size()
	}
	return res, nil
}

// usage makes an Error to which Run adds the offset.
func usage(format string, a ...any) error { return &Error{Err: fmt.Errorf(format, a...)} }

// run is the state of one run; it belongs to one goroutine.
type run struct {
	ctx   context.Context
	src   Source
	world world
	slice *gremlin.Slice   // of the Context step, nil when live
	named map[string]Nodes // by As
	held  int              // elements held now
	kept  int              // of these, held until the end: by As and SubGraph
	ticks uint
	err   error // why to stop
}

// ok is called in every loop; it tells whether to go on.
func (r *run) ok() bool {
	if r.ticks++; r.ticks&1023 == 0 && r.err == nil {
		r.err = r.ctx.Err()
	}
	return r.err == nil
}

// bytesPerElement is what one element of the limit stands for where text is held.
const bytesPerElement = 64

// hold accounts for n more elements in memory.
func (r *run) hold(n int) bool {
	if r.held += n; r.held > r.src.Limit && r.err == nil {
		r.err = usage("%w: more than %d; narrow it down with Has, Dedup or Limit", ErrTooLarge, r.src.Limit)
	}
	return r.ok()
}

// page is the part of its elements that a step lets through, [from, to).
type page struct{ from, to int64 }

var everything = page{0, 1<<63 - 1}

// collector gathers what a step yields.
type collector[T any] struct {
	r    *run
	page page
	seen int64
	out  []T
}

func collect[T any](r *run, p page) *collector[T] { return &collector[T]{r: r, page: p} }

// full tells that nothing more is wanted.
func (c *collector[T]) full() bool { return c.seen >= c.page.to || c.page.from >= c.page.to }

// add takes one element and tells whether to go on.
func (c *collector[T]) add(v T) bool {
	if c.full() {
		return false
	}
	c.seen++
	if c.seen <= c.page.from {
		return c.r.ok()
	}
	c.out = append(c.out, v)
	return c.r.hold(1) && !c.full()
}
