package ondemand

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"skydive/src/field"
	"skydive/src/resource"
	"skydive/src/wire"
)

// host is one agent to be asked for something. Tasks that are busy but not under way are in one of its lists.
type host struct {
	name    string
	queue   []*task
	waiting []*task // for the agent to be connected
	retry   time.Time
	flight  int
}

func (h *host) away() string { return "no agent of host " + h.name + " is connected" }

// enqueue has an agent asked for a task as soon as it has time.
func (e *Engine) enqueue(t *task) {
	h := e.hosts[t.node.Host]
	if h == nil {
		h = &host{name: t.node.Host}
		e.hosts[h.name] = h
	}
	t.busy = true
	if len(h.waiting) > 0 {
		e.set(t, Waiting, h.away())
		h.waiting = append(h.waiting, t)
		return
	}
	h.queue = append(h.queue, t)
}

// reply is what came of a request.
type reply struct {
	t      *task
	h      *host
	start  bool
	mapped int // version of the exporters that it named
	status int64
	reason string
	err    error
}

// send asks an agent for what is queued. One that was away is asked for one thing first.
func (e *Engine) send(ctx context.Context, h *host, now time.Time) {
	if len(h.waiting) > 0 && h.flight == 0 && !now.Before(h.retry) {
		e.release(h)
		if len(h.waiting) > 0 {
			h.queue = append(h.queue, h.waiting[0])
			h.waiting = h.waiting[1:]
		}
		h.retry = now.Add(awayRetry)
	}
	for h.flight < perHost && len(h.queue) > 0 {
		t := h.queue[0]
		h.queue = h.queue[1:]
		e.request(ctx, h, t)
	}
	if h.flight == 0 && len(h.queue) == 0 && len(h.waiting) == 0 {
		delete(e.hosts, h.name)
	}
}

// release lets go of those that wait for an agent in vain.
func (e *Engine) release(h *host) {
	var left []*task
	for _, t := range h.waiting {
		if t.running || t.wanted && !t.entry.deleted {
			left = append(left, t)
			continue
		}
		t.busy = false
		e.step(t)
	}
	h.waiting = left
}

// request asks for one task, by what is to be done now.
func (e *Engine) request(ctx context.Context, h *host, t *task) {
	start := t.wanted && !t.entry.deleted
	idle := !start && !t.running || start && t.well() && !e.outdated(t) || e.kind.once && t.state == Done
	if idle || !e.leading {
		t.busy = false
		e.step(t)
		return
	}
	m := &wire.Message{Namespace: e.kind.namespace, Type: wire.TypeStop, Status: 200}
	body, err := json.RawMessage(t.entry.json), error(nil)
	if start {
		m.Type = wire.TypeStart
		body, err = e.kind.request(ctx, e.o.Graph.Snapshot(), t)
	} else if e.kind.once {
		body, err = json.Marshal(resource.InjectionRequest{UUID: t.entry.id})
	}
	if err != nil {
		t.busy = false
		e.fail(t, err.Error())
		e.step(t)
		return
	}
	m.Obj = append(field.AppendString([]byte(`{"NodeID":`), t.node.ID), `,"Resource":`...)
	m.Obj = append(append(m.Obj, body...), '}')
	mapped := e.mapped
	h.flight++
	e.asking.Go(func() {
		r := reply{t: t, h: h, start: start, mapped: mapped}
		asked, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		var answer *wire.Message
		if answer, r.err = e.o.Ask(asked, h.name, m); r.err == nil {
			r.status, r.reason = answer.Status, reasonIn(answer.Obj)
		}
		select {
		case e.replies <- r:
		case <-ctx.Done():
		}
	})
}

// reasonIn is what our agents add to a reply that refuses.
func reasonIn(obj []byte) string {
	v, _ := field.ParseJSON(obj)
	o, _ := v.(field.Object)
	return o.Text("Error")
}

// answered takes what came of a request.
func (e *Engine) answered(r reply) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, h := r.t, r.h
	h.flight--
	if e.o.Away != nil && errors.Is(r.err, e.o.Away) {
		e.metrics.asked(r.start, "away")
		t.running = t.says != nil // whatever else it did before it went is shown by the graph when it returns
		h.waiting = append(append(h.waiting, t), h.queue...)
		h.queue, h.retry = nil, time.Now().Add(awayRetry)
		e.release(h)
		for _, w := range h.waiting {
			e.set(w, Waiting, h.away())
		}
		return
	}
	h.queue, h.waiting = append(h.queue, h.waiting...), nil
	t.busy = false
	if r.err == nil && r.status != 200 && r.reason == "" {
		r.reason = fmt.Sprintf("the agent refused with status %d", r.status)
	}
	switch {
	case r.err != nil:
		e.metrics.asked(r.start, "unanswered")
		reason := "the agent does not answer: " + r.err.Error()
		if r.start && e.kind.once {
			reason += "; whether packets were sent is not known"
		}
		t.running = true
		e.fail(t, reason)
	case r.start && r.status == 200:
		e.metrics.asked(r.start, "done")
		t.mapped = r.mapped
		e.started(t)
		if !t.wanted || t.entry.deleted {
			t.due = time.Time{} // no longer wanted since it was asked for: stop it now
		}
	case r.status == 200 || !r.start && t.says == nil:
		e.metrics.asked(r.start, "done")
		t.running, t.says, t.failures, t.due = false, nil, 0, time.Time{}
		e.set(t, Pending, "")
	case !r.start && r.status == 404: // it has stopped before; the graph shows that soon
		e.metrics.asked(r.start, "done")
		e.retry(t)
	default:
		e.metrics.asked(r.start, "refused")
		t.running = t.says != nil
		e.fail(t, r.reason)
	}
	if !e.present(t) {
		if e.kind.once && t.running {
			e.set(t, Done, "")
		}
		t.wanted, t.running, t.says = false, false, nil
	}
	e.step(t)
}

// started notes that the agent has begun.
func (e *Engine) started(t *task) {
	t.running = true
	switch {
	case e.kind.once && t.state == Done: // it was seen to end before
		return
	case t.says != nil && t.says.state == Failed: // it has begun before, and shows an error
		e.retry(t)
		e.set(t, Failed, t.says.reason)
	case t.says != nil:
		t.due = time.Time{}
		e.adopt(t)
	case e.kind.once: // it may be over before anything is shown
		t.due = time.Now().Add(unseen + duration(t.entry.resource.(*resource.Injection)))
		e.set(t, Active, "")
	default: // the node shows whether packets come
		t.due = time.Now().Add(unseen)
		e.set(t, Pending, "")
	}
}

// duration is how long an injection takes.
func duration(i *resource.Injection) time.Duration {
	const longest = 24 * time.Hour
	if i.Interval == 0 || i.Count == 0 {
		return 0
	}
	if i.Count > uint64(longest/time.Millisecond)/i.Interval {
		return longest
	}
	return time.Duration(i.Count*i.Interval) * time.Millisecond
}
