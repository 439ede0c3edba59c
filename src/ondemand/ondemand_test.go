package ondemand

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/resource"
	"skydive/src/wire"
)

// expect compares what agents were asked, in any order.
func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("asked %q\nwant  %q", got, want)
	}
}

func states(e *Engine, id string) map[string]State {
	s, _ := e.Status(id, true)
	m := map[string]State{}
	for _, n := range s.Nodes {
		m[n.NodeID] = n.State
	}
	return m
}

func TestCaptureFollowsItsSelection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h1")
		l.add("b", "h2", "Name", "b")
		l.add("x", "h1", "Type", "netns")
		l.add("y", "")
		e := NewCaptures(l.options())
		l.run(e)
		l.capture("c1", "G.V().Has('State','UP')")
		expect(t, l.after(10*time.Millisecond), "h1 Start a c1", "h2 Start b c1")
		expect(t, l.after(time.Minute))
		if s, n := e.Status("c1", true); n != 2 || s.State != Active || s.Error != "" || len(s.Nodes) != 2 || s.Nodes[0].Host != "h1" || s.Nodes[0].Name != "a" {
			t.Fatalf("%d %+v", n, s)
		}
		// An interface that appears later, or comes to match.
		l.add("c", "h3")
		l.add("d", "h3", "State", "DOWN")
		expect(t, l.after(100*time.Millisecond), "h3 Start c c1")
		l.edit("d", "State", "UP")
		expect(t, l.after(100*time.Millisecond), "h3 Start d c1")
		// One that matches no more, or is gone.
		l.edit("a", "State", "DOWN")
		expect(t, l.after(100*time.Millisecond), "h1 Stop a c1")
		l.delete("b")
		expect(t, l.after(100*time.Millisecond))
		if s := states(e, "c1"); len(s) != 2 || s["c"] != Active || s["d"] != Active {
			t.Fatal(s)
		}
		// Deleted.
		l.remove("capture", "c1")
		expect(t, l.after(100*time.Millisecond), "h3 Stop c c1", "h3 Stop d c1")
		if e.mu.Lock(); len(e.entries)+len(e.byNode)+len(e.hosts) != 0 {
			t.Errorf("left: %v %v %v", e.entries, e.byNode, e.hosts)
		}
		e.mu.Unlock()
		if text := l.log.String(); text != "" {
			t.Error(text)
		}
	})
}

// What a selection may be, and that it is followed whatever it goes by.
func TestSelections(t *testing.T) {
	for _, c := range []struct {
		query  string
		change func(l *lab)
		start  string // nodes at first
		then   string // nodes after the change
	}{
		{"G.V()", func(l *lab) { l.add("e", "h") }, "a b c d", "a b c d e"},
		{"G.V('a')", func(l *lab) { l.delete("a") }, "a", ""},
		{"G.V('e')", func(l *lab) { l.add("e", "h") }, "", "e"},
		{"G.V().Has('Name','a').Out()", func(l *lab) { l.link("a", "d") }, "b", "b d"},
		{"G.V().Has('TID','tid-a').ShortestPathTo(Metadata('TID','tid-c'))", func(l *lab) { l.link("a", "c") }, "a b c", "a c"},
		{"G.V().Has('Name','a').Both().Dedup()", func(l *lab) { l.edit("a", "Name", "z") }, "b", ""},
		{"G.V().Sort('Order').Limit(1)", func(l *lab) { l.edit("d", "Order", 1) }, "a", "a"},
		{"G.V().HasKey('Order')", func(l *lab) { l.edit("d", "Order", 1) }, "", "d"},
		{"G.V().HasKey('Order').Sort(DESC,'Order').Limit(1)", func(l *lab) { l.edit("d", "Order", 1) }, "", "d"},
		{"G.V().Has('Metric.RxPackets',GT(5))", func(l *lab) { l.edit("c", "Metric.RxPackets", 6) }, "", "c"},
		{"G.V().Has('@Revision',GT(0))", func(l *lab) { l.edit("c", "X", 6) }, "", "c"},
		{"G.V().Has('Labels.app.kubernetes',REGEX('.*b.*'))", func(l *lab) { l.edit("c", "Labels", field.Make("app.kubernetes", "abc")) }, "", "c"},
		{"G.V().HasNot('Order')", func(l *lab) { l.edit("d", "Order", 1) }, "a b c d", "a b c"},
		{"G.V().HasEither('Name','a','Order',1)", func(l *lab) { l.edit("d", "Order", 1) }, "a", "a d"},
		{"G.E().Has('Weight',1).BothV()", func(l *lab) {
			l.update(func(tx *graph.Tx) error {
				_, err := tx.SetEdgeMetadata("ab", field.Make("RelationType", "layer2", "Weight", 1))
				return err
			})
		}, "", "a b"},
		{"G.V().As('x').Has('Name','a').G.V().Has('Name','b')", func(l *lab) { l.edit("d", "Name", "b") }, "b", "b d"},
	} {
		t.Run(c.query, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				for _, id := range []string{"a", "b", "c", "d"} {
					l.add(id, "h")
				}
				l.link("a", "b")
				l.link("b", "c")
				e := NewCaptures(l.options())
				l.run(e)
				l.capture("c1", c.query)
				active := func() string {
					var ids []string
					for id, s := range states(e, "c1") {
						if s == Active {
							ids = append(ids, id)
						}
					}
					slices.Sort(ids)
					return strings.Join(ids, " ")
				}
				l.after(100 * time.Millisecond)
				if got := active(); got != c.start {
					t.Fatalf("%q, want %q", got, c.start)
				}
				c.change(l)
				l.after(time.Second)
				if got := active(); got != c.then {
					t.Fatalf("%q, want %q", got, c.then)
				}
			})
		})
	}
}

func TestSelectionsThatCannotBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h")
		e := NewCaptures(l.options())
		l.run(e)
		for query, want := range map[string]string{
			"G.V(": "Expected right parenthesis", "G.V().Values('Name')": errSelects.Error(), "G.Flows()": errSelects.Error(),
			"G.At('-1m').V()": "Backend does not support history", "G.V().Count()": errSelects.Error(),
		} {
			l.capture(query, query)
			l.after(time.Second)
			if s, _ := e.Status(query, true); s.State != Failed || !strings.Contains(s.Error, want) {
				t.Errorf("%s: %+v", query, s)
			}
			l.edit("a", "Name", query)
		}
		expect(t, l.after(time.Second))
	})
}

func TestRefusedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h")
		l.refuse["a"] = "no memory"
		e := NewCaptures(l.options())
		l.run(e)
		l.capture("c1", "G.V()")
		n := len(l.after(64 * time.Second))
		if n != 7 { // at 0, 1, 3, 7, 15, 31, 63
			t.Errorf("asked %d times in 64 s", n)
		}
		if n := len(l.after(10 * time.Minute)); n < 9 || n > 11 {
			t.Errorf("asked %d times in ten minutes", n)
		}
		if s, n := e.Status("c1", true); s.State != Failed || s.Error != "a on h: no memory" || s.Nodes[0].Reason != "no memory" || n != 0 {
			t.Errorf("%+v", s)
		}
		if n := strings.Count(l.log.String(), "no memory"); n != 1 {
			t.Errorf("%d lines: %s", n, l.log.String())
		}
		// That the interface comes up is a reason to ask at once.
		l.refuse["a"] = ""
		l.edit("a", "State", "DOWN")
		expect(t, l.after(time.Millisecond), "h Start a c1")
		if s, n := e.Status("c1", true); s.State != Active || s.Error != "" || n != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAgentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i := range 40 {
			l.add(fmt.Sprintf("n%02d", i), "h")
		}
		l.add("other", "h2")
		l.away["h"] = true
		e := NewCaptures(l.options())
		l.run(e)
		l.capture("c1", "G.V()")
		if n := len(l.after(10 * time.Millisecond)); n != perHost+1 {
			t.Errorf("asked %d times", n)
		}
		if s, n := e.Status("c1", true); s.State != Waiting || n != 1 || s.Nodes[0].Reason != "no agent of host h is connected" {
			t.Errorf("%d %+v", n, s)
		}
		if n := len(l.after(10 * time.Second)); n != 10 {
			t.Errorf("an agent that is away is asked for %d times in 10 s", n)
		}
		l.set(l.away, "h", false)
		if n := len(l.after(1100 * time.Millisecond)); n != 40 {
			t.Errorf("asked %d times", n)
		}
		if _, n := e.Status("c1", true); n != 41 {
			t.Errorf("active on %d", n)
		}
		// It goes: its nodes do, too. It comes back with new ones.
		l.set(l.away, "h", true)
		for i := range 40 {
			l.delete(fmt.Sprintf("n%02d", i))
		}
		expect(t, l.after(time.Minute))
		l.set(l.away, "h", false)
		l.add("new", "h")
		expect(t, l.after(100*time.Millisecond), "h Start new c1")
		// Deleted while it is away, and its nodes still there: stopped when it returns.
		l.set(l.away, "h", true)
		l.remove("capture", "c1")
		l.after(time.Second)
		l.set(l.away, "h", false)
		l.edit("new", "Captures", field.List{field.Make("ID", "c1", "State", "active", "PacketsReceived", 7)})
		expect(t, l.after(3*time.Second), "h Stop new c1")
	})
}

func TestAgentThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h")
		l.add("b", "h2")
		l.mute["h"] = true
		e := NewCaptures(l.options())
		l.run(e)
		l.capture("c1", "G.V()")
		expect(t, l.after(9*time.Second), "h Start a c1", "h2 Start b c1")
		if s := states(e, "c1"); s["a"] != Pending || s["b"] != Active {
			t.Error(s)
		}
		l.after(1500 * time.Millisecond)
		if s := states(e, "c1"); s["a"] != Failed {
			t.Error(s)
		}
		// It may have begun: so it is told to stop.
		l.set(l.mute, "h", false)
		l.remove("capture", "c1")
		if got := l.after(time.Second); !slices.Contains(got, "h Stop a c1") && !slices.Contains(got, "h Start a c1") {
			t.Error(got)
		}
		l.after(15 * time.Second)
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.running["a"])+len(l.running["b"]) != 0 {
			t.Error(l.running)
		}
	})
}

// What an agent gives up by itself, or never shows, is started again; what it shows in error is shown.
func TestWhatTheNodeShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h")
		l.add("s", "h")
		l.silent["s"] = true
		e := NewCaptures(l.options())
		l.run(e)
		l.capture("c1", "G.V()")
		expect(t, l.after(time.Second), "h Start a c1", "h Start s c1")
		expect(t, l.after(10*time.Second), "h Start s c1") // not shown in time
		l.mu.Lock()
		l.stop("", "a", "c1")
		l.mu.Unlock()
		expect(t, l.after(1100*time.Millisecond), "h Start a c1")
		l.edit("a", "Captures", field.List{field.Make("ID", "c1", "State", "error", "Error", "ring lost")})
		l.after(time.Millisecond)
		if s, _ := e.Status("c1", true); s.State != Failed || s.Error != "a on h: ring lost" {
			t.Errorf("%+v", s)
		}
		l.edit("a", "Captures", field.List{field.Make("ID", "c1", "State", "active")})
		l.after(time.Millisecond)
		if s := states(e, "c1"); s["a"] != Active {
			t.Error(s)
		}
	})
}

// What counts is where packets are captured: the agent says so, and since when.
func TestTheNodeSaysWhetherItIsActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h")
		l.add("b", "h")
		e := NewCaptures(l.options())
		l.run(e)
		l.capture("c1", "G.V().Has('Type','veth')")
		expect(t, l.after(time.Second), "h Start a c1", "h Start b c1")
		since := time.Now().Add(-time.Hour).Truncate(time.Millisecond).UTC()
		says := func(state, reason string) {
			t.Helper()
			l.edit("a", "Captures", field.List{field.Make("ID", "c1", "State", state, "Error", reason, "Since", since.UnixMilli())})
		}
		for _, c := range []struct {
			state, reason string // of the node
			want          State
			active        int
			status        Status // of the capture, without its nodes
		}{
			{"waiting", "interface is down", Waiting, 1, Status{State: Waiting, Reason: "a on h: interface is down"}},
			{"starting", "", Pending, 1, Status{State: Pending}},
			{"active", "", Active, 2, Status{State: Active}},
			{"waiting", "interface is down", Waiting, 1, Status{State: Waiting, Reason: "a on h: interface is down"}},
			{"error", "ring lost", Failed, 1, Status{State: Failed, Error: "a on h: ring lost"}},
			{"active", "", Active, 2, Status{State: Active}},
		} {
			says(c.state, c.reason)
			l.after(0)
			s, active := e.Status("c1", true)
			a := s.Nodes[0]
			if active != c.active || a != (NodeStatus{"a", "h", "a", c.want, c.reason, since}) {
				t.Errorf("%s: active on %d, %+v", c.state, active, a)
			}
			if s.Nodes = nil; s.State != c.status.State || s.Error != c.status.Error || s.Reason != c.status.Reason {
				t.Errorf("%s: %+v", c.state, s)
			}
			if v, _ := json.Marshal(e.View(&resource.Capture{Identity: resource.Identity{UUID: "c1"}}, false)); !strings.Contains(string(v), fmt.Sprintf(`"Count":%d,`, c.active)) {
				t.Errorf("%s: %s", c.state, v)
			}
			since = since.Add(time.Minute)
		}
		// The agent waits by itself: nobody asks it again, but it is told to stop.
		says("waiting", "interface is down")
		expect(t, l.after(10*time.Minute))
		l.edit("a", "Type", "host")
		expect(t, l.after(time.Second), "h Stop a c1")
		l.remove("capture", "c1")
		expect(t, l.after(time.Second), "h Stop b c1")
	})
}

// An agent that said yes and shows nothing does not count; one that is cut off while its nodes are still known is told when it is back.
func TestAgentThatShowsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h")
		l.add("s", "h2")
		l.silent["s"] = true
		e := NewCaptures(l.options())
		l.run(e)
		l.capture("c1", "G.V()")
		expect(t, l.after(time.Second), "h Start a c1", "h2 Start s c1")
		if s, n := e.Status("c1", true); n != 1 || s.State != Pending || s.Nodes[1].State != Pending {
			t.Errorf("%d %+v", n, s)
		}
		l.set(l.away, "h", true)
		l.remove("capture", "c1")
		l.after(10 * time.Second)
		l.set(l.away, "h", false)
		if got := l.after(1100 * time.Millisecond); !slices.Equal(got, []string{"h Stop a c1"}) {
			t.Errorf("%q", got)
		}
		l.mu.Lock()
		if len(l.running["a"])+len(l.running["s"]) != 0 {
			t.Error(l.running)
		}
		l.mu.Unlock()
		if e.mu.Lock(); len(e.entries)+len(e.byNode)+len(e.hosts) != 0 {
			t.Errorf("left: %v %v %v", e.entries, e.byNode, e.hosts)
		}
		e.mu.Unlock()
	})
}

// What is deleted while its agent is asked to begin, and does not show it yet, is stopped as soon as the agent has answered.
func TestDeletedWhileItBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("s", "h")
		l.silent["s"] = true
		o := l.options()
		o.Ask = func(ctx context.Context, host string, m *wire.Message) (*wire.Message, error) {
			answer, err := l.ask(ctx, host, m)
			<-time.After(time.Second)
			return answer, err
		}
		l.run(NewCaptures(o))
		l.capture("c1", "G.V()")
		expect(t, l.after(500*time.Millisecond), "h Start s c1")
		l.remove("capture", "c1")
		expect(t, l.after(time.Second), "h Stop s c1")
	})
}

// What was to be stopped, in vain, and then is wanted again shows as what it is.
func TestWantedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h")
		l.add("b", "h2")
		e := NewCaptures(l.options())
		l.run(e)
		l.capture("c1", "G.V().Has('State','UP')")
		expect(t, l.after(time.Second), "h Start a c1", "h2 Start b c1")
		l.set(l.away, "h", true)
		l.set(l.mute, "h2", true)
		l.edit("a", "State", "DOWN")
		l.edit("b", "State", "DOWN")
		l.after(15 * time.Second)
		if s := states(e, "c1"); s["a"] != Waiting || s["b"] != Failed {
			t.Errorf("%v", s)
		}
		l.edit("a", "State", "UP")
		l.edit("b", "State", "UP")
		l.set(l.away, "h", false)
		l.set(l.mute, "h2", false)
		l.after(time.Minute)
		if s, n := e.Status("c1", true); n != 2 || s.State != Active || s.Reason != "" || s.Error != "" || s.Nodes[0].Reason != "" {
			t.Errorf("%d %+v", n, s)
		}
		expect(t, l.after(10*time.Minute))
	})
}

// A new engine finds what runs: it goes on, without being asked for again, or is stopped when nobody wants it.
func TestTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h")
		l.add("b", "h")
		l.add("c", "h")
		stop := l.run(NewCaptures(l.options()))
		l.capture("c1", "G.V().Has('Name',WITHIN('a','b'))")
		l.capture("c2", "G.V().Has('Name','c')")
		expect(t, l.after(time.Second), "h Start a c1", "h Start b c1", "h Start c c2")
		stop()
		l.remove("capture", "c2")
		l.edit("b", "Name", "z")
		e := NewCaptures(l.options())
		l.run(e)
		expect(t, l.after(time.Second), "h Stop b c1", "h Stop c c2")
		if s := states(e, "c1"); len(s) != 1 || s["a"] != Active {
			t.Error(s)
		}
		// The nodes of an agent come anew, with what runs on them.
		l.delete("a")
		l.add("a", "h", "Captures", field.List{field.Make("ID", "c1", "State", "active")})
		expect(t, l.after(time.Minute))
		// Nothing is stopped by what is only late to be seen.
		l.delete("a")
		l.add("a", "h", "Captures", field.List{field.Make("ID", "c1", "State", "active"), field.Make("ID", "unknown", "State", "active")})
		expect(t, l.after(tellTime-time.Millisecond))
		expect(t, l.after(10*time.Millisecond), "h Stop a unknown")
		// Somebody started a capture where it is not wanted.
		l.mu.Lock()
		l.running["b"] = append(l.running["b"], "c1")
		l.show("", "b")
		l.mu.Unlock()
		expect(t, l.after(100*time.Millisecond), "h Stop b c1")
	})
}

func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h")
		l.capture("before", "G.V().Has('Name','a')")
		e := NewCaptures(l.options())
		l.run(e)
		l.after(time.Second)
		if got := l.told(); !slices.Equal(got, []string{"OnDemandCaptureNotification NodeUpdated before"}) && len(got) != 2 {
			t.Errorf("%q", got)
		}
		l.capture("c1", "G.V().Has('Name','b')")
		l.after(time.Second)
		if got := l.told(); !slices.Equal(got, []string{"OnDemandCaptureNotification Added c1"}) {
			t.Errorf("%q", got)
		}
		l.update(func(tx *graph.Tx) error {
			for i := range 500 {
				if err := tx.AddNode(&graph.Node{Element: graph.Element{ID: fmt.Sprint(i), Host: "h", Metadata: field.Make("Type", "veth", "Name", "b")}}); err != nil {
					return err
				}
			}
			return nil
		})
		l.after(5 * time.Second)
		if got := l.told(); len(got) == 0 || len(got) > 10 || got[0] != "OnDemandCaptureNotification NodeUpdated c1" {
			t.Errorf("%d: %q", len(got), got)
		}
		l.remove("capture", "c1")
		l.after(time.Second)
		if got := l.told(); !slices.Equal(got, []string{"OnDemandCaptureNotification Deleted c1"}) {
			t.Errorf("%q", got)
		}
	})
}

// Of several engines one talks to agents; the others know as much.
func TestLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h")
		leads := make(chan bool, 1)
		leading := false
		o := l.options()
		o.Leads = func() bool {
			select {
			case leading = <-leads:
			default:
			}
			return leading
		}
		e := NewCaptures(o)
		l.run(e)
		l.capture("c1", "G.V()")
		expect(t, l.after(time.Minute))
		if s, _ := e.Status("c1", true); s.State != Pending {
			t.Errorf("%+v", s)
		}
		leads <- true
		expect(t, l.after(1100*time.Millisecond), "h Start a c1")
		leads <- false
		l.after(2 * time.Second)
		l.remove("capture", "c1")
		expect(t, l.after(time.Minute))
		leads <- true
		expect(t, l.after(1100*time.Millisecond), "h Stop a c1")
	})
}

// Two analyzers of one store: the one that leads starts and stops, the other one knows as much. When the lead goes over, and an agent's
// nodes come by another way, what runs goes on.
func TestLeadGoesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h1")
		l.add("b", "h2")
		var leader atomic.Int32
		var asked [2]int
		engines := make([]*Engine, 2)
		for i := range engines {
			o := l.options()
			o.Leads = func() bool { return int(leader.Load()) == i }
			o.Ask = func(ctx context.Context, host string, m *wire.Message) (*wire.Message, error) {
				l.mu.Lock()
				asked[i]++
				l.mu.Unlock()
				return l.ask(ctx, host, m)
			}
			engines[i] = NewCaptures(o)
			l.run(engines[i])
		}
		counts := func(want ...int) {
			t.Helper()
			l.mu.Lock()
			defer l.mu.Unlock()
			if !slices.Equal(asked[:], want) {
				t.Errorf("the engines asked %v times, want %v", asked, want)
			}
		}
		l.capture("c1", "G.V()")
		expect(t, l.after(time.Second), "h1 Start a c1", "h2 Start b c1")
		counts(2, 0)
		same := func() {
			t.Helper()
			for i, e := range engines {
				if s, n := e.Status("c1", true); n != 2 || s.State != Active {
					t.Errorf("engine %d: %d %+v", i, n, s)
				}
			}
		}
		same()
		leader.Store(1)
		expect(t, l.after(time.Minute))
		// The nodes of an agent that has another master now, as it captures.
		l.delete("a")
		l.add("a", "h1", "Captures", field.List{field.Make("ID", "c1", "State", "active")})
		expect(t, l.after(time.Minute))
		same()
		// Nobody leads for a while: what changes then is done by who leads next.
		leader.Store(-1)
		l.after(2 * time.Second)
		l.add("d", "h2")
		l.edit("b", "Type", "host")
		expect(t, l.after(time.Minute))
		leader.Store(0)
		expect(t, l.after(1100*time.Millisecond), "h2 Start d c1", "h2 Stop b c1")
		counts(4, 0)
		same()
		leader.Store(1)
		l.after(2 * time.Second)
		l.remove("capture", "c1")
		expect(t, l.after(time.Second), "h1 Stop a c1", "h2 Stop d c1")
		counts(4, 2)
		for i, e := range engines {
			if e.mu.Lock(); len(e.entries)+len(e.byNode)+len(e.hosts) != 0 {
				t.Errorf("left in engine %d: %v %v %v", i, e.entries, e.byNode, e.hosts)
			}
			e.mu.Unlock()
		}
	})
}

func TestView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("a", "h")
		l.add("b", "h")
		l.refuse["b"] = "down"
		reg := prometheus.NewRegistry()
		o := l.options()
		o.Registerer = reg
		e := NewCaptures(o)
		l.run(e)
		l.capture("c1", "G.V()")
		l.after(10 * time.Millisecond)
		c := &resource.Capture{Identity: resource.Identity{UUID: "c1"}, GremlinQuery: "G.V()", Count: 9}
		text, err := json.Marshal(e.View(c, false))
		want := `{"UUID":"c1","GremlinQuery":"G.V()","Count":1,"SamplingRate":0,"PollingInterval":0,"ExtraTCPMetric":false,"IPDefrag":false,"ReassembleTCP":false,"State":"error","Error":"b on h: down"}`
		if err != nil || string(text) != want {
			t.Errorf("%s %v", text, err)
		}
		var v struct{ Nodes []NodeStatus }
		text, _ = json.Marshal(e.View(c, true))
		if err := json.Unmarshal(text, &v); err != nil || len(v.Nodes) != 2 || v.Nodes[1].Reason != "down" || v.Nodes[0].Since.IsZero() {
			t.Errorf("%s %v", text, err)
		}
		families, err := reg.Gather()
		if err != nil || len(families) != 4 {
			t.Errorf("%v %v", families, err)
		}
	})
}
