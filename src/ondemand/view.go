package ondemand

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"skydive/src/resource"
)

// NodeStatus is how far a resource got on one node.
type NodeStatus struct {
	NodeID, Host string
	Name         string
	State        State
	Reason       string `json:",omitempty"`
	Since        time.Time
}

// Status is how far a resource got. Error tells where and why it failed, Reason what it waits for.
type Status struct {
	State  State        `json:",omitempty"`
	Error  string       `json:",omitempty"`
	Reason string       `json:",omitempty"`
	Nodes  []NodeStatus `json:",omitempty"`
}

// Status tells how far a resource got, and on how many nodes it is active; the nodes are listed when the whole is asked for.
func (e *Engine) Status(id string, whole bool) (s Status, active int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.entries[id]
	if x == nil || x.deleted {
		return s, 0
	}
	counts, first := make(map[State]int), make(map[State]*task)
	for _, t := range x.tasks {
		counts[t.state]++
		if f := first[t.state]; f == nil || t.since.Before(f.since) || t.since.Equal(f.since) && t.identity < f.identity {
			first[t.state] = t
		}
		if whole {
			s.Nodes = append(s.Nodes, NodeStatus{t.node.ID, t.node.Host, t.node.Metadata.Text("Name"), t.state, t.reason, t.since.UTC().Truncate(time.Millisecond)})
		}
	}
	// What needs looking after comes first.
	for _, state := range []State{Failed, Waiting, Pending, Active, Done} {
		if counts[state] > 0 {
			s.State = state
			break
		}
	}
	why := func(state State) string {
		t := first[state]
		if t == nil {
			return ""
		}
		text := fmt.Sprintf("%s on %s: %s", t.node.Metadata.Text("Name"), t.node.Host, t.reason)
		if n := counts[state] - 1; n > 0 {
			text += fmt.Sprintf(" (and %d more)", n)
		}
		return text
	}
	s.Error, s.Reason = why(Failed), why(Waiting)
	switch {
	case x.fault != "":
		s.State, s.Error = Failed, x.fault
	case len(x.tasks) == 0 && e.kind.once && x.old:
		s.State = Done
	case len(x.tasks) == 0:
		s.State, s.Reason = Waiting, "no node of the selection can do it"
	}
	slices.SortFunc(s.Nodes, func(a, b NodeStatus) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Name, b.Name), cmp.Compare(a.NodeID, b.NodeID))
	})
	return s, counts[Active]
}

// View is what clients are shown of a resource: what they know of it, then how far it got.
func (e *Engine) View(r resource.Resource, whole bool) any {
	status, active := e.Status(r.ID(), whole)
	switch r := r.(type) {
	case *resource.Capture:
		v := struct {
			resource.Capture
			Status
		}{*r, status}
		v.Count = active
		return v
	case *resource.Injection:
		return struct {
			resource.Injection
			Status
		}{*r, status}
	}
	return r
}
