package ws

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// ErrForbidden ends a connection whose user lost the right to it, or is no user any more.
var ErrForbidden = errors.New("the user may not have it any more")

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

// Reauthenticate asks, for each connection, whether who opened it would still be known, and ends those whose user is not: removed, or with
// a token that expired. It returns how many.
func (e *Endpoint) Reauthenticate() (ended int) {
	if e.o.Still == nil {
		return 0
	}
	asked := map[*Conn]*http.Request{}
	e.mu.Lock()
	for _, t := range e.taken {
		if t.conn != nil {
			asked[t.conn] = t.sent
		}
	}
	e.mu.Unlock()
	for c, r := range asked {
		if c.over() || e.o.Still(r) {
			continue
		}
		e.o.Metrics.refusals.WithLabelValues(e.o.Path, "unknown-user").Inc()
		c.expel(fmt.Sprintf("the credentials of '%s' do not count any more", c.peer.User))
		ended++
	}
	return ended
}

// recheck is how often users are asked for again: nothing tells of their end, and authentication may be elsewhere.
const recheck = 10 * time.Second

// KeepAuthorized reauthorizes the connections of endpoints whenever the channel that changed returns is closed, and reauthenticates them
// every ten seconds, until ctx ends.
func KeepAuthorized(ctx context.Context, changed func() <-chan struct{}, endpoints ...interface{ Reauthorize() int }) error {
	ended := make(chan struct{})
	go func() { // of its own: an authentication may take its time
		defer close(ended)
		tick := time.NewTicker(recheck)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, e := range endpoints {
				if known, ok := e.(interface{ Reauthenticate() int }); ok {
					known.Reauthenticate()
				}
			}
		}
	}()
	for {
		next := changed() // before the question, or a change in between would be missed
		for _, e := range endpoints {
			e.Reauthorize()
		}
		select {
		case <-ctx.Done():
			<-ended
			return nil
		case <-next:
		}
	}
}
