// Package query runs a parsed Gremlin query over a snapshot of the graph.
//
// Compile turns the query into a Plan once, refusing what cannot work whatever the data; a Plan may be run any number of
// times and concurrently. A run only reads the snapshot, ends with its context, and is refused as soon as it would hold more
// elements than its limit. What is not in the snapshot – flows, and the past – it asks of its Source, and no more of it than the
// query needs: filters, order, pages, counts and sums go along with the question. It never talks to an agent or an archive itself.
package query

import (
	"context"
	"errors"
	"fmt"
	"time"

	"skydive/src/gremlin"
)

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
		if res, err = r.apply(s.apply, res); err != nil {
			var usage *Error
			if errors.As(err, &usage) {
				err = &Error{s.offset, usage.Err}
			}
			return nil, err
		}
	}
	return res, nil
}

// apply does one step.
func (r *run) apply(step applier, in Result) (Result, error) {
	out, err := step(r, in)
	if r.err == nil {
		r.err = r.ctx.Err() // a loop may have ended early by it
	}
	if r.err != nil {
		err = r.err
	}
	if err != nil {
		return nil, err
	}
	r.held = r.kept + out.size()
	return out, nil
}

// usage makes an Error to which Run adds the offset.
func usage(format string, a ...any) error { return &Error{Err: fmt.Errorf(format, a...)} }

// run is the state of one run; it belongs to one goroutine.
type run struct {
	ctx   context.Context
	src   Source
	world world            // nil while nothing needs the graph of the past
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
