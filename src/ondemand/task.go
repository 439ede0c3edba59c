package ondemand

import (
	"container/heap"
	"slices"
	"time"

	"skydive/src/graph"
)

// State is how far a resource got on a node.
type State string

const (
	Pending State = "pending" // about to be asked for, or to begin
	Active  State = "active"
	Failed  State = "error"   // refused, and asked for again later
	Waiting State = "waiting" // for its agent to connect, or for its interface to come up
	Done    State = "done"    // an injection that has ended
)

// task is one resource on one node.
type task struct {
	entry    *entry
	identity string
	node     *graph.Node
	number   int    // among the tasks of the entry
	wanted   bool   // the node is selected
	pass     uint64 // of the last selection that said so
	state    State
	reason   string
	since    time.Time

	running  bool   // the agent may do it: it must be told to stop
	says     *shown // what the node shows of it; nil: nothing
	busy     bool   // a request is queued or under way
	dropped  bool
	failures int
	due      time.Time // when to ask, or to look, again; zero: now
	timer    time.Time // when the agenda has it
	mapped   int       // version of the exporters that the agent was told of
}

// well tells that the agent does it, or waits to by itself.
func (t *task) well() bool { return t.says != nil && t.says.state != Failed }

// want notes that a node is selected.
func (e *Engine) want(x *entry, n *graph.Node) {
	if !e.kind.selectable(x.resource, n) {
		return
	}
	identity := e.kind.identity(n)
	t := x.tasks[identity]
	if t != nil && t.node.ID != n.ID {
		if t.pass == x.pass || t.busy || e.present(t) {
			return // one of several nodes of this identity has it
		}
		e.unlink(t)
		t.node = n
		e.byNode[n.ID] = append(e.byNode[n.ID], t)
	}
	if t == nil {
		if e.kind.once && x.old {
			return
		}
		t = e.newTask(x, n, identity)
	}
	t.pass = x.pass
	if !t.wanted {
		t.wanted = true
		e.step(t)
	}
}

// unwant notes that it is selected no more.
func (e *Engine) unwant(t *task) {
	t.wanted, t.due, t.failures = false, time.Time{}, 0
	e.step(t)
}

func (e *Engine) newTask(x *entry, n *graph.Node, identity string) *task {
	t := &task{entry: x, identity: identity, node: n, number: x.next, state: Pending, since: time.Now()}
	x.next++
	x.tasks[identity] = t
	e.byNode[n.ID] = append(e.byNode[n.ID], t)
	e.metrics.tasks[Pending].Inc()
	e.mark(x)
	return t
}

func (e *Engine) drop(t *task) {
	t.dropped = true
	delete(t.entry.tasks, t.identity)
	e.unlink(t)
	e.metrics.tasks[t.state].Dec()
	e.mark(t.entry)
	e.forget(t.entry)
}

func (e *Engine) unlink(t *task) {
	left := slices.DeleteFunc(e.byNode[t.node.ID], func(o *task) bool { return o == t })
	if len(left) == 0 {
		delete(e.byNode, t.node.ID)
	} else {
		e.byNode[t.node.ID] = left
	}
}

// present tells whether the node of a task is still there.
func (e *Engine) present(t *task) bool { return e.o.Graph.Snapshot().Node(t.node.ID) != nil }

// set gives a task its state.
func (e *Engine) set(t *task, s State, reason string) {
	if t.state == s && t.reason == reason {
		return
	}
	if t.state != s {
		e.metrics.tasks[t.state].Dec()
		e.metrics.tasks[s].Inc()
		t.since = time.Now()
	}
	t.state, t.reason = s, reason
	e.mark(t.entry)
}

// gone drops what ran on a node that is no more. An injection that began stays known, so that it is not done again when the interface
// returns with its agent.
func (e *Engine) gone(id string) {
	for _, t := range slices.Clone(e.byNode[id]) {
		if e.kind.once && t.running {
			e.set(t, Done, "")
		}
		t.wanted, t.running, t.says = false, false, nil
		e.step(t)
	}
}

// told tells whether an update of a node says nothing new of its tasks: most bring counters only.
func (e *Engine) told(old, new *graph.Node) bool {
	tasks, says := e.byNode[new.ID], e.kind.shows(new)
	return len(tasks) == len(says) && slices.Equal(e.kind.shows(old), says) && !slices.ContainsFunc(tasks, func(t *task) bool { return t.says == nil })
}

// inspect compares what a node says of what runs on it with what is known.
func (e *Engine) inspect(n *graph.Node) {
	if n.Host == "" {
		return // no agent says this
	}
	all := e.kind.shows(n)
	for _, s := range all {
		tasks := e.byNode[n.ID]
		i := slices.IndexFunc(tasks, func(t *task) bool { return t.entry.id == s.id })
		if i >= 0 {
			e.show(tasks[i], s)
			continue
		}
		x := e.entries[s.id]
		if x == nil {
			// Left behind by a resource that was deleted while nobody looked: to be stopped, unless the store only tells late of a new one.
			x = &entry{stored: e.kind.orphan(s.id), deleted: true, tasks: make(map[string]*task), said: make(map[string]struct{})}
			e.entries[s.id] = x
		}
		identity := e.kind.identity(n)
		if x.tasks[identity] != nil {
			continue // of another node
		}
		t := e.newTask(x, n, identity)
		if x.deleted {
			t.due = time.Now().Add(tellTime)
		} else {
			// The selection has the last word.
			t.wanted = true
			e.touch(n.ID, func(other *entry) bool { return other == x })
		}
		e.show(t, s)
	}
	for _, t := range slices.Clone(e.byNode[n.ID]) {
		if t.says != nil && !slices.ContainsFunc(all, func(s shown) bool { return s.id == t.entry.id }) {
			e.lost(t)
		}
	}
}

// show notes that the node shows a task.
func (e *Engine) show(t *task, s shown) {
	t.says, t.running = &s, true
	e.adopt(t)
	e.step(t)
}

// adopt gives a task the state that its node shows.
func (e *Engine) adopt(t *task) {
	was, s := t.state, t.says
	switch {
	case s.state == Failed && was != Failed:
		e.fail(t, s.reason)
	case s.state == Failed && s.reason != "":
		e.set(t, Failed, s.reason)
	case s.state == Failed:
	case s.state == Waiting:
		e.set(t, Waiting, s.reason)
	case s.state == starting:
		e.set(t, Pending, "")
	default:
		e.set(t, Active, "")
	}
	if was == Failed && t.state == Active {
		e.o.Logger.Info("An agent does now what was asked of it", "kind", e.kind.Name, "id", t.entry.id, "host", t.node.Host, "node", t.node.Metadata.Text("Name"))
	}
	if s.since > 0 {
		t.since = time.UnixMilli(s.since)
	}
}

// lost notes that the node shows a task no more.
func (e *Engine) lost(t *task) {
	t.says, t.running = nil, t.busy && t.running
	if e.kind.once {
		e.set(t, Done, "")
	} else if t.state == Active || t.state != Failed && !t.busy {
		e.retry(t)
		e.set(t, Pending, "")
	}
	e.step(t)
}

// step brings a task on. It may be called at any time, and any number of times.
func (e *Engine) step(t *task) {
	if t.busy || t.dropped {
		return
	}
	want := t.wanted && !t.entry.deleted
	if !e.leading && t.says == nil && (!e.kind.once || t.entry.deleted) {
		t.running = false // if it does, the graph will show it to who leads
	}
	if e.kind.once {
		switch {
		case t.entry.deleted:
			want = false // and stopped, if it runs
		case t.state == Done:
			return
		case t.running && (t.says != nil || t.state != Active):
			return // until its end is seen or, when it is not known whether it began, for ever
		case t.running && !time.Now().Before(t.due):
			t.running = false
			e.set(t, Done, "")
			return
		}
	} else if want && t.well() {
		e.adopt(t) // whatever became of attempts to stop it
		if !e.outdated(t) {
			return
		}
	}
	if !want && (!t.running || t.state == Done) {
		e.drop(t)
		return
	}
	if time.Now().Before(t.due) {
		e.later.add(t, t.due)
		return
	}
	if e.leading {
		e.enqueue(t)
	}
}

// retry sets when to ask again. What was well for long enough is not held responsible for what was before.
func (e *Engine) retry(t *task) {
	if t.state == Active && time.Since(t.since) > stable {
		t.failures = 0
	}
	t.failures++
	t.due = time.Now().Add(min(lastRetry, firstRetry<<min(t.failures-1, 10)))
}

// fail notes why a task does not do what it should; it is tried again.
func (e *Engine) fail(t *task, reason string) {
	if reason == "" {
		reason = "the agent gives no reason"
	}
	e.retry(t)
	e.set(t, Failed, reason)
	name := t.node.Metadata.Text("Name")
	if !e.say(t.entry, reason, "An agent cannot do what was asked of it", "host", t.node.Host, "node", name) {
		e.o.Logger.Debug("Another failure", "kind", e.kind.Name, "id", t.entry.id, "reason", reason, "host", t.node.Host, "node", name, "failures", t.failures)
	}
}

const reasonsSaid = 32

// say logs a reason once for each resource.
func (e *Engine) say(x *entry, reason, text string, more ...any) bool {
	if _, said := x.said[reason]; said || len(x.said) >= reasonsSaid {
		return false
	}
	x.said[reason] = struct{}{}
	e.o.Logger.Warn(text, append([]any{"kind", e.kind.Name, "id", x.id, "reason", reason}, more...)...)
	return true
}

// agenda holds what is to be looked at again, soonest first.
type agenda []appointment

type appointment struct {
	at time.Time
	t  *task
}

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(appointment)) }

func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

// add notes a task, unless it is noted for that time or an earlier one.
func (a *agenda) add(t *task, at time.Time) {
	if t.timer.IsZero() || at.Before(t.timer) {
		t.timer = at
		heap.Push(a, appointment{at, t})
	}
}

// take returns what is due.
func (a *agenda) take(now time.Time) (due []*task) {
	for len(*a) > 0 && !now.Before((*a)[0].at) {
		p := heap.Pop(a).(appointment)
		if p.t.timer.Equal(p.at) {
			p.t.timer = time.Time{}
			due = append(due, p.t)
		}
	}
	return due
}
