package ws

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrForbidden ends a connection whose user lost the right to it.
var ErrForbidden = errors.New("the user has no permission any more")

// Reauthorize asks again whether the users of all connections may have them, and ends those that may not: what they wait for is not sent
// any more. It returns how many.
func (e *Endpoint) Reauthorize() (ended int) {
	var asked []*Conn
	e.each(func(c *Conn) { asked = append(asked, c) })
	for _, c := range asked {
		if !e.reauthorize(c) {
			ended++
		}
	}
	return ended
}

func (e *Endpoint) reauthorize(c *Conn) bool {
	if c.over() || e.o.Authorize(c.peer.User, e.o.Path) {
		return true
	}
	e.o.Metrics.refusals.WithLabelValues(e.o.Path, "lost-right").Inc()
	c.expel(fmt.Sprintf("'%s' has no permission on '%s' any more", c.peer.User, e.o.Path))
	return false
}

// expel is Close without mercy: the queue is dropped, and a peer that does not read is cut off.
func (c *Conn) expel(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	if c.closing == nil {
		c.closing, c.cause = closePayload(StatusPolicy, reason), ErrForbidden
	}
	c.evicted = true
	c.discard()
	c.notify()
	time.AfterFunc(c.cfg.CloseTimeout, c.abort) // the writer may be stuck in the middle of a frame
	c.wakeWriter()
}

// recheck is how often users are asked for again when nothing tells of a change: one may have been removed.
const recheck = 10 * time.Second

// KeepAuthorized reauthorizes the connections of endpoints whenever the channel that changed returns is closed, and every ten seconds, until
// ctx ends.
func KeepAuthorized(ctx context.Context, changed func() <-chan struct{}, endpoints ...interface{ Reauthorize() int }) error {
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		next := changed() // before the question, or a change in between would be missed
		for _, e := range endpoints {
			e.Reauthorize()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		case <-tick.C:
		}
	}
}
