package probe

import (
	"context"
	"sync"
)

// Group runs the goroutines of one Run of a probe: when one of them fails or panics, all are told to end.
type Group struct {
	wg     sync.WaitGroup
	cancel context.CancelCauseFunc
	ctx    context.Context
}

// NewGroup returns a group and the context that its goroutines must heed.
func NewGroup(ctx context.Context) (*Group, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Group{cancel: cancel, ctx: ctx}, ctx
}

// Go runs fn in a goroutine. Unlike in a bare one, a panic cannot take down the process.
func (g *Group) Go(fn func() error) {
	g.wg.Go(func() {
		defer func() {
			if r := recover(); r != nil {
				g.cancel(caught(r))
			}
		}()
		if err := fn(); err != nil {
			g.cancel(err)
		}
	})
}

// Stop tells all goroutines to end, waits for them, and returns the first failure among them, if any.
func (g *Group) Stop() error {
	g.cancel(nil)
	g.wg.Wait()
	return g.Err()
}

// Err returns the first failure so far.
func (g *Group) Err() error {
	if cause := context.Cause(g.ctx); cause != g.ctx.Err() {
		return cause
	}
	return nil
}
