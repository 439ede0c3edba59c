package analyzer

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
)

// cut ends all connections between two of a cluster, in both directions, until mend.
func (c *chaos) cut(a, b string) {
	c.parted = true
	for ends, tap := range c.sorted() {
		if ends == [2]string{a, b} || ends == [2]string{b, a} {
			tap.to("127.0.0.1:1")
			tap.cut()
		}
	}
}

// mend takes a cut back; an agent would lose its master by heal.
func (c *chaos) mend(a, b string) {
	for ends, tap := range c.sorted() {
		if ends == [2]string{a, b} || ends == [2]string{b, a} {
			i, _ := strconv.Atoi(ends[1][1:])
			tap.to(c.addrs[i-1])
		}
	}
}

// linked waits until those analyzers that run are connected to each other.
func (c *chaos) linked() {
	c.t.Helper()
	linked(c.t, c.up()...)
}

func (c *chaos) up() (up []*replica) {
	for _, s := range c.all {
		if s != nil {
			up = append(up, s)
		}
	}
	return up
}

// unlinked waits until an analyzer has noticed that it is connected to these only.
func unlinked(t *testing.T, s *replica, hosts ...string) {
	t.Helper()
	eventually(t, "no connection", func() error {
		if got := s.replicas.Hosts(); !slices.Equal(got, hosts) {
			return fmt.Errorf("%s is connected to %v", s.id, got)
		}
		return nil
	})
}

// master is the analyzer that an agent reports to.
func (c *chaos) master(h *host) (at int) {
	c.t.Helper()
	eventually(c.t, "a master", func() error {
		for host, st := range h.agent.Status() {
			if i, err := strconv.Atoi(strings.TrimPrefix(host, "a")); st.IsMaster && err == nil && c.all[i-1] != nil {
				at = i - 1
				return nil
			}
		}
		return errors.New("none")
	})
	return at
}

// watch returns what counts the changes of some kinds in the graph of an analyzer.
func watch(t *testing.T, g *graph.Graph, kinds ...graph.Kind) func() (n int, which []string) {
	sub, _ := g.Subscribe(1 << 16)
	t.Cleanup(sub.Close)
	return func() (n int, which []string) {
		sub.Close()
		for c := range sub.C() {
			for _, ch := range c.Changes {
				if slices.Contains(kinds, ch.Kind) {
					n++
					which = append(which, fmt.Sprintf("%s %s by %q", ch.Kind, element(ch).ID, c.Source))
				}
			}
		}
		return n, which
	}
}

var everything = []graph.Kind{graph.NodeAdded, graph.NodeUpdated, graph.NodeDeleted, graph.EdgeAdded, graph.EdgeUpdated, graph.EdgeDeleted}

// TestReplicaFailover: whoever goes, by force or not, the nodes of an agent are not gone for a moment anywhere, nor is a link that somebody made
// to them; and the one that comes back has all.
func TestReplicaFailover(t *testing.T) {
	for _, force := range []bool{false, true} {
		t.Run(fmt.Sprintf("by force %v", force), func(t *testing.T) {
			c := newChaos(t, 1, 3, 1)
			c.linked()
			h := c.agents[0]
			h.grow(20)
			for _, s := range c.all {
				same(t, "start", h.g, s.g)
			}
			at := c.master(h)
			gone := c.all[at]
			gone.add("made")
			gone.update(func(tx *graph.Tx) error {
				return tx.AddEdge(&graph.Edge{Element: graph.Element{ID: "link", Origin: "api." + gone.id}, Parent: "made", Child: graph.GenID(h.id)})
			})
			equal(t, "a node made through the API", c.all...)
			rest := slices.Delete(slices.Clone(c.all), at, at+1)
			var deleted []func() (int, []string)
			for _, s := range rest {
				deleted = append(deleted, watch(t, s.g, graph.NodeDeleted, graph.EdgeDeleted))
			}
			if force {
				c.cut(h.id, gone.id)
				for _, s := range rest {
					c.cut(gone.id, s.id)
				}
			}
			gone.stop()
			c.all[at] = nil
			c.master(h)
			for i, s := range rest {
				unlinked(t, s, rest[1-i].id)
			}
			h.change("after")
			for _, s := range rest {
				eventually(t, "the new master", func() error {
					if n := s.g.Snapshot().Node(graph.GenID(h.id)); n == nil || n.Metadata.Text("After") != "after" {
						return errors.New("is not heard")
					}
					return nil
				})
			}
			for i, s := range rest {
				if n, which := deleted[i](); n > 0 {
					t.Errorf("%s: %v", s.id, which)
				}
				if v := s.g.Snapshot(); v.Node("made") == nil || v.Edge("link") == nil {
					t.Errorf("%s has lost what was made at %s", s.id, gone.id)
				}
			}
			c.heal()
			c.start(at)
			c.linked()
			equal(t, "back", c.all...)
			if v := c.all[at].g.Snapshot(); v.Node("made") == nil || v.Edge("link") == nil {
				t.Error("it did not get back what it was told")
			}
			c.all[at].delete("made")
			equal(t, "deleted", c.all...)
		})
	}
}

// change sets something at the root node of the host.
func (h *host) change(value string) {
	h.t.Helper()
	if err := h.g.Update("", func(tx *graph.Tx) error {
		root := tx.Node(graph.GenID(h.id))
		m, err := root.Metadata.Set("After", value)
		if err == nil {
			_, err = tx.SetNodeMetadata(root.ID, m)
		}
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
}

// text waits until a node has a value at all analyzers.
func text(t *testing.T, what, id, key, value string, all ...*replica) {
	t.Helper()
	for _, s := range all {
		eventually(t, what, func() error {
			if n := s.g.Snapshot().Node(id); n == nil || n.Metadata.Text(key) != value {
				return fmt.Errorf("%s has %+v", s.id, n)
			}
			return nil
		})
	}
}

func (s *replica) set(id, key, value string) {
	s.t.Helper()
	s.update(func(tx *graph.Tx) error {
		m, err := tx.Node(id).Metadata.Set(key, value)
		if err == nil {
			_, err = tx.SetNodeMetadata(id, m)
		}
		return err
	})
}

// TestReplicaPartition: both sides go on; afterwards all have what either made, and nobody has what either deleted.
func TestReplicaPartition(t *testing.T) {
	c := newChaos(t, 1, 2, 0)
	c.linked()
	a, b := c.all[0], c.all[1]
	for i := range 6 {
		a.add(fmt.Sprint("n", i))
	}
	a.update(func(tx *graph.Tx) error {
		return tx.AddEdge(&graph.Edge{Element: graph.Element{ID: "e01", Origin: "api.a1"}, Parent: "n0", Child: "n1"})
	})
	equal(t, "start", c.all...)
	c.cut("a1", "a2")
	unlinked(t, a)
	unlinked(t, b)
	a.delete("n0") // and with it e01
	b.delete("n2")
	a.add("at a")
	b.add("at b")
	a.set("n3", "By", "a")
	b.set("n4", "By", "b")
	a.set("n5", "By", "a")
	a.add("mark")
	a.add("another") // so that the number is another one than before
	eventually(t, "a has seen to its changes", func() error {
		if st := a.replicas.Status().(ReplicasStatus).Replication; st.Elements != a.g.Snapshot().NodeCount()+a.g.Snapshot().EdgeCount() {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	b.set("n5", "By", "b") // later
	b.update(func(tx *graph.Tx) error {
		return tx.AddEdge(&graph.Edge{Element: graph.Element{ID: "e05", Origin: "api.a2"}, Parent: "n0", Child: "n5"}) // to what is gone at a
	})
	c.heal()
	c.linked()
	equal(t, "healed", c.all...)
	v := b.g.Snapshot()
	for id, there := range map[string]bool{"n0": false, "n1": true, "n2": false, "at a": true, "at b": true} {
		if (v.Node(id) != nil) != there {
			t.Errorf("%s: there %v", id, !there)
		}
	}
	text(t, "the later counts", "n5", "By", "b", a, b)
	text(t, "of one side", "n3", "By", "a", a, b)
	text(t, "of the other", "n4", "By", "b", a, b)
	eventually(t, "an edge to nowhere is forgotten", func() error {
		for _, s := range c.all {
			if st := s.replicas.Status().(ReplicasStatus).Replication; st.Parked != 0 {
				return fmt.Errorf("%s %+v", s.id, st)
			}
		}
		return nil
	})
	// Nothing is different: another partition without changes leads to none, and so to no revision in an archive.
	n, m := watch(t, a.g, everything...), watch(t, b.g, everything...)
	c.cut("a1", "a2")
	unlinked(t, a)
	unlinked(t, b)
	c.heal()
	c.linked()
	a.add("last")
	equal(t, "again", c.all...)
	if n, which := n(); n != 1 {
		t.Errorf("a1: %v", which)
	}
	if m, which := m(); m != 1 {
		t.Errorf("a2: %v", which)
	}
}

// TestReplicaAgentMoves: an agent that is cut off from its master goes on with another; what the old one still has is of no account.
func TestReplicaAgentMoves(t *testing.T) {
	c := newChaos(t, 1, 3, 1)
	c.linked()
	h := c.agents[0]
	h.grow(10)
	for _, s := range c.all {
		same(t, "start", h.g, s.g)
	}
	at := c.master(h)
	old := c.all[at]
	rest := slices.Delete(slices.Clone(c.all), at, at+1)
	for _, s := range rest {
		c.cut(old.id, s.id)
	}
	unlinked(t, old)
	h.grow(10) // only the old master hears that
	same(t, "the old master", h.g, old.g)
	c.cut(h.id, old.id)
	h.grow(10)
	for _, s := range rest {
		same(t, "the new master", h.g, s.g)
	}
	var deleted []func() (int, []string)
	for _, s := range rest {
		deleted = append(deleted, watch(t, s.g, everything...))
	}
	c.heal()
	c.linked()
	same(t, "the old master is told", h.g, old.g)
	for i := range rest {
		if n, which := deleted[i](); n > 0 {
			t.Errorf("%s: %v", rest[i].id, which)
		}
	}
}

// TestReplicaExpiry: when an agent and its master have gone, each forgets it in time; one that is there somewhere is not forgotten.
func TestReplicaExpiry(t *testing.T) {
	c := newChaos(t, 1, 3, 2)
	c.linked()
	lost, there := c.agents[0], c.agents[1]
	lost.grow(5)
	there.grow(5)
	for _, s := range c.all {
		nodes(t, "start", s.g, lost.g.Snapshot().NodeCount()+there.g.Snapshot().NodeCount())
	}
	at := c.master(lost)
	for _, s := range c.all {
		c.cut(lost.id, s.id)
	}
	c.all[at].stop()
	c.all[at] = nil
	for _, s := range c.up() {
		same(t, "forgotten", there.g, s.g)
	}
	c.start(at)
	c.linked()
	for _, s := range c.all {
		same(t, "and not brought back", there.g, s.g)
	}
	c.heal()
	lost.change("back")
	equal(t, "back", c.all...)
	text(t, "back", graph.GenID(lost.id), "After", "back", c.all...)
}

// TestReplicaRequests: what is changed at one analyzer in what an agent reports to another is done there, at once or once it can be reached.
func TestReplicaRequests(t *testing.T) {
	c := newChaos(t, 1, 3, 1)
	c.linked()
	h := c.agents[0]
	h.grow(5)
	for _, s := range c.all {
		same(t, "start", h.g, s.g)
	}
	root := graph.GenID(h.id)
	at := c.master(h)
	holder, other := c.all[at], c.all[(at+1)%3]
	other.set(root, "Note", "x")
	text(t, "changed at another", root, "Note", "x", c.all...)
	h.change("1")
	text(t, "changed by the agent", root, "After", "1", c.all...)
	text(t, "changed at another before", root, "Note", "x", c.all...)
	equal(t, "changed", c.all...)
	var victim string
	for n := range h.g.Snapshot().Nodes(field.Filter{}) {
		if n.ID != root {
			victim = n.ID
		}
	}
	other.delete(victim)
	for _, s := range c.all {
		eventually(t, "deleted at another", func() error {
			if s.g.Snapshot().Node(victim) != nil {
				return errors.New("still there")
			}
			return nil
		})
	}
	for _, s := range c.all {
		if s != other {
			c.cut(other.id, s.id)
		}
	}
	unlinked(t, other)
	other.set(root, "Note", "y")
	if st := other.status().Replication; st.State != "partitioned" || !strings.HasPrefix(st.Reason, "not connected: ") {
		t.Errorf("%+v", st)
	}
	eventually(t, "the change waits", func() error {
		if st := other.status().Replication; st.Pending != 1 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	h.change("2")
	text(t, "meanwhile", root, "After", "2", holder)
	for _, s := range c.all {
		if s != other {
			c.mend(other.id, s.id)
		}
	}
	text(t, "delivered", root, "Note", "y", c.all...)
	text(t, "and nothing lost", root, "After", "2", c.all...)
	equal(t, "in the end", c.all...)
}

// TestReplicaRelay: two that cannot reach each other have the same through a third.
func TestReplicaRelay(t *testing.T) {
	c := newChaos(t, 1, 3, 1)
	c.linked()
	h := c.agents[0]
	h.grow(5)
	for _, s := range c.all {
		same(t, "start", h.g, s.g)
	}
	at := c.master(h)
	holder, far := c.all[at], c.all[(at+1)%3]
	c.cut(holder.id, far.id)
	h.change("1")
	holder.add("made")
	far.add("there")
	equal(t, "through the third", c.all...)
	text(t, "through the third", graph.GenID(h.id), "After", "1", c.all...)
	holder.delete("there")
	equal(t, "deleted through the third", c.all...)
}

// TestReplicaClock: neither a clock that is far behind nor one that is far ahead makes later changes look old.
func TestReplicaClock(t *testing.T) {
	addrs := freeAddrs(t, 2)
	var all []*replica
	for i, by := range []time.Duration{-time.Hour, 10 * time.Hour} {
		all = append(all, newReplica(t, fmt.Sprintf("a%d", i+1), addrs[i], replicaSetup{
			addrs: func(string) []string { return addrs }, wall: func() time.Time { return time.Now().Add(by) },
		}))
	}
	linked(t, all...)
	behind, ahead := all[0], all[1]
	ahead.add("n")
	equal(t, "made", all...)
	for i := range 5 {
		behind.set("n", "By", fmt.Sprint("behind ", i))
		text(t, "changed by who is behind", "n", "By", fmt.Sprint("behind ", i), all...)
		ahead.set("n", "By", fmt.Sprint("ahead ", i))
		text(t, "changed by who is ahead", "n", "By", fmt.Sprint("ahead ", i), all...)
	}
	behind.delete("n")
	for _, s := range all {
		nodes(t, "deleted", s.g, 0)
	}
	behind.add("n")
	equal(t, "made again", all...)
	nodes(t, "made again", ahead.g, 1)
}
