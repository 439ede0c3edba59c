package wire

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
)

// bench applies messages to a graph and shows what came of it.
type bench struct {
	t *testing.T
	g *graph.Graph
	c <-chan *graph.Commit
}

func newBench(t *testing.T) *bench {
	g := graph.New(graph.Options{Clock: func() time.Time { return time.UnixMilli(1) }})
	sub, _ := g.Subscribe(1000)
	return &bench{t, g, sub.C()}
}

// apply returns the changes and the refusals, one word or two each.
func (b *bench) apply(m Merger, msgs ...*Message) (changes, refused []string) {
	b.t.Helper()
	m.Refused = func(err error) {
		for _, e := range []error{ErrForeign, ErrInvalid, graph.ErrNotFound, graph.ErrParentNotFound, graph.ErrChildNotFound, field.ErrNotObject} {
			if errors.Is(err, e) {
				refused = append(refused, e.Error())
				return
			}
		}
		b.t.Errorf("unknown refusal: %v", err)
	}
	if err := b.g.Update("", func(tx *graph.Tx) error {
		for _, msg := range msgs {
			m.Apply(tx, msg)
		}
		return nil
	}); err != nil {
		b.t.Fatal(err)
	}
	for {
		select {
		case c := <-b.c:
			for _, ch := range c.Changes {
				if ch.Node != nil {
					changes = append(changes, fmt.Sprintf("%s %s r%d", ch.Kind, ch.Node.ID, ch.Node.Revision))
				} else {
					changes = append(changes, fmt.Sprintf("%s %s r%d", ch.Kind, ch.Edge.ID, ch.Edge.Revision))
				}
			}
		default:
			return changes, refused
		}
	}
}

func msg(typ string, body Body) *Message {
	return &Message{Namespace: NamespaceGraph, Type: typ, Body: body}
}

func with(n *graph.Node, change func(*graph.Node)) *graph.Node {
	change(n)
	return n
}

func TestMerge(t *testing.T) {
	agent := Merger{Origin: "agent.h", Owns: func(e *graph.Element) bool { return e.Origin == "agent.h" || e.Host == "h" }}
	other := Merger{Origin: "agent.o", Owns: func(e *graph.Element) bool { return e.Origin == "agent.o" || e.Host == "o" }}
	publisher := Merger{Origin: "tool.p", Publisher: true}
	set := func(id string, revision int64, ops ...field.Op) *PartialUpdate {
		return &PartialUpdate{ID: id, UpdatedAt: 9, Revision: revision, Ops: ops}
	}
	op := func(typ field.OpType, key string, v any) field.Op { return field.Op{Type: typ, Key: key, Value: v} }
	b := newBench(t)
	for i, step := range []struct {
		by      Merger
		msg     *Message
		changes string
		refused string
	}{
		// An agent and what it may do.
		{agent, msg(TypeSync, &Sync{Nodes: []*graph.Node{node("a", 1), node("b", 1)}, Edges: []*graph.Edge{edge("ab", "a", "b")}}),
			"NodeAdded a r1, NodeAdded b r1, EdgeAdded ab r1", ""},
		{agent, msg(TypeNodeAdded, node("a", 7, "x", 1)), "", ""},
		{agent, msg(TypeNodeUpdated, node("a", 2, "x", 1)), "NodeUpdated a r2", ""},
		{agent, msg(TypeNodeUpdated, node("a", 2, "x", 2)), "", ""},
		{agent, msg(TypeNodeUpdated, node("zz", 2)), "", "not found"},
		{agent, msg(TypeEdgeUpdated, func() Body { e := edge("ab", "a", "b"); e.Revision = 2; return e }()), "EdgeUpdated ab r2", ""},
		{agent, msg(TypeEdgeUpdated, func() Body { e := edge("ab", "a", "b"); e.Revision = 2; return e }()), "", ""}, // fault 4: applied again
		{agent, msg(TypeNodePartiallyUpdated, set("a", 3, op(1, "d.e", int64(5)), op(2, "x", nil))), "NodeUpdated a r3", ""},
		{agent, msg(TypeNodePartiallyUpdated, set("a", 4, op(1, "Name.z", int64(5)), op(1, "y", int64(6)))), "NodeUpdated a r4", "not an object"},
		{agent, msg(TypeNodePartiallyUpdated, set("a", 4)), "", ""},
		{agent, msg(TypeEdgePartiallyUpdated, set("ab", 3, op(1, "w", int64(5)))), "EdgeUpdated ab r3", ""},
		{agent, msg(TypeEdgePartiallyUpdated, set("zz", 3)), "", "not found"},
		{agent, msg(TypeEdgeAdded, edge("ax", "a", "x")), "", "Child node not found"},
		{agent, msg(TypeEdgeAdded, edge("xa", "x", "a")), "", "Parent node not found"},
		{agent, msg(TypeEdgeDeleted, edge("zz", "a", "b")), "", ""},
		{agent, msg(TypeNodeDeleted, node("zz", 1)), "", "not found"},
		{agent, msg(TypeNodeAdded, &graph.Node{Element: graph.Element{ID: "odd", Host: "h", Origin: "agent.h"}}), "NodeAdded odd r0", ""},

		// Another host may not touch them, nor pretend.
		{other, msg(TypeNodeUpdated, with(node("a", 9), func(n *graph.Node) { n.Host = "o" })), "", ErrForeign.Error()},
		{other, msg(TypeNodePartiallyUpdated, set("a", 9)), "", ErrForeign.Error()},
		{other, msg(TypeNodeDeleted, node("a", 9)), "", ErrForeign.Error()},
		{other, msg(TypeEdgeDeleted, edge("ab", "a", "b")), "", ErrForeign.Error()},
		{other, msg(TypeNodeAdded, node("n", 1)), "", ErrForeign.Error()},
		{other, msg(TypeSync, &Sync{Nodes: []*graph.Node{node("a", 9), node("n", 1)}}), "", ErrForeign.Error() + ", " + ErrForeign.Error()},
		{other, msg(TypeEdgeAdded, func() Body { e := edge("o1", "a", "b"); e.Host = "o"; return e }()), "", ErrForeign.Error()},

		// A Sync changes no more than it must.
		{agent, msg(TypeSync, &Sync{
			Nodes: []*graph.Node{node("a", 4, "d", map[string]any{"e": 5}, "y", 6), node("b", 2, "k", 1), node("c", 1)},
			Edges: []*graph.Edge{func() *graph.Edge { e := edge("ab", "a", "b"); e.Revision = 3; return e }(), edge("ac", "a", "c")}}),
			"NodeDeleted odd r0, NodeUpdated b r2, NodeAdded c r1, EdgeUpdated ab r4, EdgeAdded ac r1", ""},
		{agent, msg(TypeSync, &Sync{Nodes: []*graph.Node{node("b", 1), node("c", 1)}}),
			"EdgeDeleted ab r4, EdgeDeleted ac r1, NodeDeleted a r4, NodeUpdated b r3", ""},

		// A publisher: its claims of origin do not count, what it sends must be valid, it may touch everything.
		{publisher, msg(TypeSync, &Sync{Nodes: []*graph.Node{node("p", 1), node("q", 1), {Element: graph.Element{ID: "bad"}}},
			Edges: []*graph.Edge{edge("pq", "p", "q"), {Element: graph.Element{ID: "bad"}, Parent: "p", Child: "q"}}}),
			"NodeAdded p r1, NodeAdded q r1, EdgeAdded pq r1", ErrInvalid.Error() + ", " + ErrInvalid.Error()},
		{publisher, msg(TypeNodeAdded, with(node("ns", 1), func(n *graph.Node) { n.Metadata = field.Make("Type", "netns", "Name", "x") })), "", ErrInvalid.Error()},
		{publisher, msg(TypeNodeAdded, with(node("op", 1), func(n *graph.Node) { n.Metadata = field.Make("Type", "ovsport", "Name", "x") })), "", ErrInvalid.Error()},
		{publisher, msg(TypeNodeUpdated, node("c", 4)), "NodeUpdated c r4", ""},
		// The Python client knows of no revisions: what it says is the next one, if it is anything new.
		{publisher, msg(TypeNodeUpdated, node("c", 0, "k", 1)), "NodeUpdated c r5", ""},
		{publisher, msg(TypeNodeUpdated, node("c", 0, "k", 1)), "", ""},
		{agent, msg(TypeNodeUpdated, node("c", 0, "k", 2)), "", ""},
		{publisher, msg(TypeSync, &Sync{Nodes: []*graph.Node{node("p", 1), node("c", 9)}}), "EdgeDeleted pq r1, NodeDeleted q r1", ""},
		{publisher, msg(TypeNodeDeleted, with(node("c", 1), func(n *graph.Node) { n.DeletedAt = 77 })), "NodeDeleted c r5", ""},
	} {
		changes, refused := b.apply(step.by, step.msg)
		if got := strings.Join(changes, ", "); got != step.changes {
			t.Errorf("step %d, %s: changes\n  %s\nwant\n  %s", i, step.msg.Type, got, step.changes)
		}
		if got := strings.Join(refused, ", "); got != step.refused {
			t.Errorf("step %d, %s: refused %q, want %q", i, step.msg.Type, got, step.refused)
		}
	}
	if n := b.g.Snapshot().Node("p"); n == nil || n.Origin != "tool.p" {
		t.Errorf("origin inside a Sync was not overwritten: %+v", n)
	}
	relayed := Merger{Origin: "tool.p", Publisher: true, Host: "h9"}
	b.apply(relayed, msg(TypeNodeAdded, with(node("r", 1), func(n *graph.Node) { n.Host = "" })), msg(TypeNodeAdded, node("s", 1)))
	if r, s := b.g.Snapshot().Node("r"), b.g.Snapshot().Node("s"); r.Host != "h9" || s.Host != "h" {
		t.Errorf("hosts %q, %q", r.Host, s.Host)
	}
	if err := b.g.Update("", func(tx *graph.Tx) error { publisher.Delete(tx); return nil }); err != nil || b.g.Snapshot().Node("p") != nil {
		t.Errorf("delete: %v", err)
	}
	if got := b.g.Snapshot().NodeCount(); got != 1 {
		t.Errorf("%d nodes at the end", got)
	}
}

// TestMergeSame applies the same large Sync twice: the second changes nothing.
func TestMergeSame(t *testing.T) {
	b := newBench(t)
	agent := Merger{Origin: "agent.h"}
	if changes, _ := b.apply(agent, msg(TypeSync, bigSync(500))); len(changes) != 1000 {
		t.Errorf("%d changes", len(changes))
	}
	s := bigSync(500)
	slices.Reverse(s.Nodes)
	if changes, refused := b.apply(agent, msg(TypeSync, s)); len(changes)+len(refused) != 0 {
		t.Errorf("changes %v, refused %v", changes, refused)
	}
}

func BenchmarkMergeSync(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		g, s := graph.New(graph.Options{}), bigSync(20_000)
		b.StartTimer()
		m := Merger{Origin: "agent.h"}
		if err := g.Update("", func(tx *graph.Tx) error { m.Apply(tx, msg(TypeSync, s)); return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(40_000*float64(b.N)/b.Elapsed().Seconds(), "elements/s")
}

// TestMergeAfterOthers: what others change in an agent's elements counts in the graph, not with the agent. None of its changes may be
// taken for an old one because of that, and an old one is still old.
func TestMergeAfterOthers(t *testing.T) {
	agent := Merger{Origin: "agent.h", Owns: func(e *graph.Element) bool { return e.Origin == "agent.h" }, Said: map[string]int64{}}
	user := Merger{Origin: "tool.p", Publisher: true}
	patch := func(typ, id string, revision int64, key string, v any) *Message {
		return msg(typ, &PartialUpdate{ID: id, UpdatedAt: 9, Revision: revision, Ops: []field.Op{{Type: field.OpSet, Key: key, Value: v}}})
	}
	e := func(revision int64) *graph.Edge { e := edge("ab", "a", "b"); e.Revision = revision; return e }
	b := newBench(t)
	for i, step := range []struct {
		by      Merger
		msg     *Message
		changes string
	}{
		{agent, msg(TypeSync, &Sync{Nodes: []*graph.Node{node("a", 1), node("b", 7)}, Edges: []*graph.Edge{e(1)}}), "NodeAdded a r1, NodeAdded b r7, EdgeAdded ab r1"},
		{user, patch(TypeNodePartiallyUpdated, "a", 4, "Note", "x"), "NodeUpdated a r4"},
		{agent, patch(TypeNodePartiallyUpdated, "a", 2, "MTU", int64(1400)), "NodeUpdated a r5"},
		{agent, patch(TypeNodePartiallyUpdated, "a", 2, "MTU", int64(1)), ""},
		{agent, patch(TypeNodePartiallyUpdated, "a", 3, "MTU", int64(1300)), "NodeUpdated a r6"},
		{user, patch(TypeNodePartiallyUpdated, "a", 6, "MTU", int64(1)), ""},
		{agent, patch(TypeNodePartiallyUpdated, "a", 9, "State", "UP"), "NodeUpdated a r9"},
		{user, patch(TypeEdgePartiallyUpdated, "ab", 2, "Note", "x"), "EdgeUpdated ab r2"},
		{agent, patch(TypeEdgePartiallyUpdated, "ab", 2, "W", int64(1)), "EdgeUpdated ab r3"},
		{agent, msg(TypeNodeAdded, node("c", 1)), "NodeAdded c r1"},
		{user, patch(TypeNodePartiallyUpdated, "c", 2, "Note", "x"), "NodeUpdated c r2"},
		{agent, msg(TypeNodeUpdated, node("c", 2, "k", 1)), "NodeUpdated c r3"},
		{agent, msg(TypeNodeDeleted, node("c", 2)), "NodeDeleted c r3"},
		{agent, msg(TypeNodeAdded, node("c", 1)), "NodeAdded c r1"},
		{agent, msg(TypeNodeUpdated, node("c", 2, "k", 1)), "NodeUpdated c r2"},
	} {
		changes, refused := b.apply(step.by, step.msg)
		if got := strings.Join(changes, ", "); got != step.changes || len(refused) > 0 {
			t.Errorf("step %d, %s: %s %v, want %s", i, step.msg.Type, got, refused, step.changes)
		}
	}
	if m := b.g.Snapshot().Node("a").Metadata; m.Text("Note") != "x" || m.Text("State") != "UP" {
		t.Errorf("%v", m)
	}
	if mtu, _ := b.g.Snapshot().Node("a").Metadata.Int("MTU"); mtu != 1300 {
		t.Errorf("MTU %d", mtu)
	}
	b.apply(agent, msg(TypeSync, &Sync{}))
	if len(agent.Said) != 0 {
		t.Errorf("remembers what has gone: %v", agent.Said)
	}
}
