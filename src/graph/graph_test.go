package graph

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"skydive/src/field"
)

func node(id string, pairs ...any) *Node {
	return &Node{Element{ID: id, Metadata: field.Make(pairs...), Host: "h", Origin: "agent.h", Revision: 1}}
}

func edge(id, parent, child string) *Edge {
	return &Edge{Element: Element{ID: id, Metadata: field.Make("RelationType", "layer2")}, Parent: parent, Child: child}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestChangesAreRefusedWithTheErrorsOfTheAPI(t *testing.T) {
	g := New(Options{})
	must(t, g.Update("", func(tx *Tx) error {
		return errors.Join(tx.AddNode(node("a")), tx.AddNode(node("b")), tx.AddEdge(edge("e", "a", "b")))
	}))
	for want, change := range map[error]func(*Tx) error{
		ErrNodeConflict:   func(tx *Tx) error { return tx.AddNode(node("a")) },
		ErrEdgeConflict:   func(tx *Tx) error { return tx.AddEdge(edge("e", "a", "b")) },
		ErrParentNotFound: func(tx *Tx) error { return tx.AddEdge(edge("f", "x", "b")) },
		ErrChildNotFound:  func(tx *Tx) error { return tx.AddEdge(edge("f", "a", "x")) },
		ErrNoID:           func(tx *Tx) error { return tx.AddNode(node("")) },
		ErrNotFound:       func(tx *Tx) error { return tx.DeleteNode("x", 0) },
	} {
		if err := g.Update("", change); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestEqualMetadataMakesNoRevision(t *testing.T) {
	now := time.UnixMilli(1000)
	g := New(Options{Clock: func() time.Time { return now }})
	must(t, g.Update("", func(tx *Tx) error { return tx.AddNode(node("a", "MTU", 1500)) }))
	sub, _ := g.Subscribe(10)
	now = time.UnixMilli(2000)
	for _, mtu := range []int{1500, 1500, 9000} {
		must(t, g.Update("", func(tx *Tx) error {
			_, err := tx.SetNodeMetadata("a", field.Make("MTU", mtu))
			return err
		}))
	}
	n := g.Snapshot().Node("a")
	if n.Revision != 2 || n.UpdatedAt != 2000 || n.CreatedAt != 1000 {
		t.Errorf("after two equal writes and a different one: %+v", n)
	}
	sub.Close()
	commits := 0
	for range sub.C() {
		commits++
	}
	if commits != 1 {
		t.Errorf("%d commits delivered, want 1", commits)
	}
}

func TestAFailedUpdateLeavesNoTrace(t *testing.T) {
	g := New(Options{})
	must(t, g.Update("", func(tx *Tx) error {
		return errors.Join(tx.AddNode(node("a", "Name", "a")), tx.AddNode(node("b", "Name", "b")), tx.AddEdge(edge("e", "a", "b")))
	}))
	before := dump(g.Snapshot())
	boom := errors.New("boom")
	err := g.Update("", func(tx *Tx) error {
		must(t, tx.DeleteNode("a", 0))
		must(t, tx.AddNode(node("c", "Name", "a")))
		_, err := tx.SetNodeMetadata("b", field.Make("Name", "other"))
		must(t, err)
		must(t, tx.AddEdge(edge("f", "b", "c")))
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if after := dump(g.Snapshot()); after != before {
		t.Errorf("graph changed:\n%s\nwas\n%s", after, before)
	}
	check(t, g.Snapshot().View)
}

func TestASlowSubscriberIsToldThatItLostEvents(t *testing.T) {
	g := New(Options{})
	sub, snap := g.Subscribe(1)
	if snap.NodeCount() != 0 {
		t.Fatal("snapshot is not of the moment of subscribing")
	}
	for i := range 3 {
		must(t, g.Update("", func(tx *Tx) error { return tx.AddNode(node(fmt.Sprint(i))) }))
	}
	n := 0
	for range sub.C() {
		n++
	}
	if n != 1 || !sub.Lost() {
		t.Errorf("delivered %d, lost %v; want 1, true", n, sub.Lost())
	}
	sub.Close()
}

func TestASnapshotTakenOnAnEventShowsIt(t *testing.T) {
	g := New(Options{})
	sub, _ := g.Subscribe(1000)
	go func() {
		defer sub.Close()
		for i := range 1000 {
			g.Update("", func(tx *Tx) error { return tx.AddNode(node(fmt.Sprint(i))) })
		}
	}()
	for c := range sub.C() {
		if id := c.Changes[0].Node.ID; g.Snapshot().Node(id) == nil {
			t.Fatalf("node %s is not in the graph yet", id)
		}
	}
}

func TestHooksSeeAndExtendTheTransaction(t *testing.T) {
	g := New(Options{Hooks: []func(*Tx){func(tx *Tx) {
		for _, c := range tx.Changes() {
			if c.Kind == NodeAdded {
				m, _ := c.Node.Metadata.Set("TID", "tid-"+c.Node.ID)
				tx.SetNodeMetadata(c.Node.ID, m)
			}
		}
	}}})
	sub, _ := g.Subscribe(1)
	must(t, g.Update("me", func(tx *Tx) error { return tx.AddNode(node("a")) }))
	if got := g.Snapshot().Node("a").Metadata.Text("TID"); got != "tid-a" {
		t.Errorf("TID %q", got)
	}
	if c := <-sub.C(); c.Source != "me" || len(c.Changes) != 2 || c.Changes[1].Kind != NodeUpdated {
		t.Errorf("commit %+v", c)
	}
}

// TestRandomChangesAgreeWithASimpleModel drives the graph at random and compares it with plain maps; snapshots taken on the way must
// not change afterwards.
func TestRandomChangesAgreeWithASimpleModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	g := New(Options{})
	nodes, edges := map[string]string{}, map[string][2]string{}
	type kept struct {
		snap *Snapshot
		text string
	}
	var snaps []kept
	pick := func(n int) string { return fmt.Sprint("n", rnd.IntN(n)) }
	for step := range 6000 {
		saved, savedEdges := maps.Clone(nodes), maps.Clone(edges)
		fail := rnd.IntN(20) == 0
		err := g.Update("", func(tx *Tx) error {
			for range 1 + rnd.IntN(4) {
				id, other := pick(700), pick(700)
				switch op := rnd.IntN(10); {
				case op < 4 && tx.Node(id) == nil:
					must(t, tx.AddNode(node(id, "Name", "x", "Type", pick(3), "Tags", []string{"t"})))
					nodes[id] = "x"
				case op < 6 && tx.Node(id) != nil:
					name := pick(40)
					_, err := tx.SetNodeMetadata(id, field.Make("Name", name, "Type", pick(3)))
					must(t, err)
					nodes[id] = name
				case op < 9 && tx.Node(id) != nil && tx.Node(other) != nil:
					if rnd.IntN(3) > 0 {
						id = "n0" // a hub
					}
					key := id + ">" + other
					if tx.Node(id) != nil && tx.Edge(key) == nil {
						must(t, tx.AddEdge(edge(key, id, other)))
						edges[key] = [2]string{id, other}
					}
				case op == 9 && tx.Node(id) != nil && rnd.IntN(3) == 0:
					must(t, tx.DeleteNode(id, 0))
					delete(nodes, id)
					maps.DeleteFunc(edges, func(_ string, e [2]string) bool { return e[0] == id || e[1] == id })
				}
			}
			if fail {
				return errors.New("no")
			}
			return nil
		})
		if fail {
			nodes, edges = saved, savedEdges
		} else {
			must(t, err)
		}
		if step%400 == 0 {
			snap := g.Snapshot()
			snaps = append(snaps, kept{snap, dump(snap)})
			check(t, snap.View)
		}
	}
	v := g.Snapshot().View
	check(t, v)
	if v.NodeCount() != len(nodes) || v.EdgeCount() != len(edges) {
		t.Fatalf("%d nodes %d edges, want %d %d", v.NodeCount(), v.EdgeCount(), len(nodes), len(edges))
	}
	for id, name := range nodes {
		if n := v.Node(id); n == nil || n.Metadata.Text("Name") != name {
			t.Errorf("node %s: %v, want name %s", id, n, name)
		}
	}
	for i, k := range snaps {
		if dump(k.snap) != k.text {
			t.Errorf("snapshot %d changed after it was taken", i)
		}
	}
}

// TestReadersNeedNoLock reads snapshots in every way while the graph changes; it is for the race detector, and checks that a
// snapshot agrees with itself.
func TestReadersNeedNoLock(t *testing.T) {
	g := New(Options{})
	sub, _ := g.Subscribe(1)
	sub.Close()
	re, err := field.NewRegex("n1.*")
	must(t, err)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				v := g.Snapshot().View
				check(t, v)
				for _, p := range []field.Predicate{re, field.Within{Vs: []field.Value{"n1", "n2", "n3"}}, field.Eq{V: "n4"}} {
					f := field.Filter{Any: true, Terms: []field.Term{{Key: "Name", Pred: p}, {Key: "Type", Pred: p}}}
					if n := len(slices.Collect(v.Nodes(f))); n != v.CountNodes(f) {
						t.Errorf("%d nodes, %d counted", n, v.CountNodes(f))
					}
				}
			}
		})
	}
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 1500 {
		_ = g.Update("", func(tx *Tx) error {
			for range 1 + rnd.IntN(20) {
				id, other := fmt.Sprint("n", rnd.IntN(150)), fmt.Sprint("n", rnd.IntN(150))
				switch rnd.IntN(6) {
				case 0, 1:
					_ = tx.AddNode(node(id, "Name", id, "Type", fmt.Sprint("n", rnd.IntN(5))))
				case 2:
					_, _ = tx.SetNodeMetadata(id, field.Make("Name", other, "Type", "n1"))
				case 3, 4:
					_ = tx.AddEdge(edge(id+other, "n0", other))
				case 5:
					if rnd.IntN(4) == 0 {
						_ = tx.DeleteNode(id, 0)
					}
				}
			}
			if rnd.IntN(8) == 0 {
				return errors.New("no")
			}
			return nil
		})
	}
	close(stop)
	readers.Wait()
}

// TestSlotSetsKeepWhatTheyHeldInOlderEpochs lets a set grow from nothing to bits and shrink again, over dense and sparse slots.
func TestSlotSetsKeepWhatTheyHeldInOlderEpochs(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for _, slots := range []int{3 * fewSlots, 100 * chunkSlots} {
		var set slotSet
		model := map[uint32]bool{}
		type kept struct {
			set   slotSet
			slots []uint32
		}
		var old []kept
		list := func(s slotSet) (l []uint32) {
			s.all(func(slot uint32) bool { l = append(l, slot); return true })
			return l
		}
		epoch := uint64(0)
		for step := range 12 * fewSlots {
			slot := uint32(rnd.IntN(slots))
			if grow := step < 6*fewSlots; grow != (rnd.IntN(5) == 0) {
				set = set.add(epoch, slot)
				model[slot] = true
			} else {
				for slot = range model {
					break
				}
				set = set.drop(epoch, slot)
				delete(model, slot)
			}
			if set.has(slot) != model[slot] || int(set.n) != len(model) {
				t.Fatalf("step %d: slot %d %v, %d members of %d", step, slot, set.has(slot), set.n, len(model))
			}
			if step%500 == 0 {
				old = append(old, kept{set, list(set)})
				epoch++
			}
		}
		for i, k := range old {
			if l := list(k.set); !slices.Equal(l, k.slots) || !slices.IsSorted(l) || len(l) != int(k.set.n) {
				t.Errorf("set %d changed after its epoch: %d members, was %d", i, len(l), len(k.slots))
			}
		}
		half := old[len(old)/2].set
		if u := set.union(scratchEpoch, half); len(list(u)) != int(u.n) || int(u.n) != len(list(half))+int(set.n)-int(set.intersect(half).n) {
			t.Error("union and intersection disagree")
		}
	}
}

// check compares every index and adjacency with what a scan finds.
func check(t *testing.T, v View) {
	t.Helper()
	seen := map[string]map[string]int{}
	for n := range v.Nodes(field.Filter{}) {
		for _, key := range indexed {
			val, _ := n.Field(key)
			eachText(val, func(s string) {
				if seen[key] == nil {
					seen[key] = map[string]int{}
				}
				seen[key][s]++
			})
		}
		for e := range v.Out(n.ID) {
			if e.Parent != n.ID || v.Edge(e.ID) != e {
				t.Errorf("edge %s is wrongly among those out of %s", e.ID, n.ID)
			}
		}
		slot, ok := v.Slot(n.ID)
		if !ok || v.At(slot) != n {
			t.Errorf("slot %d of %s holds %v", slot, n.ID, v.At(slot))
		}
		for e, far := range v.Around(slot) {
			if id := v.At(far).ID; e.Parent+e.Child != n.ID+id && e.Parent+e.Child != id+n.ID {
				t.Errorf("edge %s from %s leads to slot %d, which holds %s", e.ID, n.ID, far, id)
			}
		}
	}
	for key, byText := range seen {
		for text, want := range byText {
			f := field.Filter{Terms: []field.Term{{Key: key, Pred: field.Eq{V: text}}}}
			if got := v.CountNodes(f); got != want {
				t.Errorf("index %s=%q counts %d, scan %d", key, text, got, want)
			}
		}
	}
	degree := 0
	for n := range v.Nodes(field.Filter{}) {
		degree += len(slices.Collect(v.Out(n.ID))) + len(slices.Collect(v.In(n.ID)))
	}
	if degree != 2*v.EdgeCount() {
		t.Errorf("adjacency holds %d ends for %d edges", degree, v.EdgeCount())
	}
}

func dump(s *Snapshot) string {
	var lines []string
	for n := range s.Nodes(field.Filter{}) {
		lines = append(lines, string(n.AppendJSON(nil)))
	}
	for e := range s.Edges(field.Filter{}) {
		lines = append(lines, string(e.AppendJSON(nil)))
	}
	slices.Sort(lines)
	return fmt.Sprint(lines)
}

func TestFiltersWithIndexesFindWhatAScanFinds(t *testing.T) {
	g := New(Options{})
	must(t, g.Update("", func(tx *Tx) error {
		for i := range 500 {
			must(t, tx.AddNode(node(fmt.Sprint("id", i), "Name", fmt.Sprint("n", i%97), "Type", fmt.Sprint("t", i%3), "MTU", i)))
		}
		// What is indexed may be any value, and keys may look like attributes.
		for i, v := range []any{5, 5.5, "5", "05", true, nil, map[string]any{"n5": "n5"}, field.List{"n5", int64(5), field.List{"deep", nil}}, field.List{"n5", "n5"}} {
			must(t, tx.AddNode(node(fmt.Sprint("odd", i), "Name", v, "MAC", v, "@Host", "h2", "@ID", "id7", "Metadata", map[string]any{"Name": "n5"})))
		}
		return nil
	}))
	regex := func(s string) field.Predicate { p, err := field.NewRegex(s); must(t, err); return p }
	terms := [][]field.Term{
		{{Key: "Name", Pred: field.Eq{V: "n5"}}},
		{{Key: "Metadata.Name", Pred: field.Eq{V: "n5"}}, {Key: "MTU", Pred: field.Gt{N: 100}}},
		{{Key: "Type", Pred: field.Eq{V: "t1"}}, {Key: "Name", Pred: field.Within{Vs: []field.Value{"n1", "n2", "zz"}}}},
		{{Key: "Type", Pred: field.Eq{V: "t1"}}, {Key: "@Host", Pred: field.Eq{V: "h"}}},
		{{Key: "Name", Pred: regex("n5.*")}, {Key: "Type", Pred: field.Ne{V: "t0"}}},
		{{Key: "@ID", Pred: field.Eq{V: "id7"}}, {Key: "Type", Pred: field.Eq{V: "t1"}}},
		{{Key: "MTU", Pred: field.Eq{V: int64(7)}}, {Key: "Name", Pred: field.Eq{V: "n7"}}},
		{{Key: "Name", Pred: field.Eq{V: "absent"}}},
		{{Key: "Name", Pred: field.Eq{V: int64(3)}}},
		{{Key: "Name", Pred: field.Eq{V: int64(5)}}},
		{{Key: "Name", Pred: field.Eq{V: "5"}}, {Key: "MTU", Pred: field.Missing{}}},
		{{Key: "Name", Pred: field.Within{Vs: []field.Value{"n1", int64(5), 5.5, nil}}}, {Key: "Type", Pred: field.Eq{V: "t1"}}},
		{{Key: "Name", Pred: field.Within{}}},
		{{Key: "Name", Pred: field.Without{Vs: []field.Value{"n5"}}}, {Key: "MAC", Pred: field.Eq{V: "deep"}}},
		{{Key: "MAC", Pred: regex("n.|deep")}},
		{{Key: "Metadata.MAC", Pred: regex(".*")}, {Key: "Metadata.Name", Pred: field.Exists{}}},
		{{Key: "Metadata.@Host", Pred: field.Eq{V: "h"}}},
		{{Key: "Metadata.@Host", Pred: field.Eq{V: "h2"}}},
		{{Key: "Metadata.@ID", Pred: field.Eq{V: "id7"}}},
		{{Key: "Metadata.Metadata.Name", Pred: field.Eq{V: "n5"}}},
		{{Key: "Name.n5", Pred: field.Eq{V: "n5"}}},
		{},
	}
	v := g.Snapshot().View
	for _, ts := range terms {
		for _, any := range []bool{false, true} {
			f := field.Filter{Any: any, Terms: ts}
			want := 0
			for n := range v.Nodes(field.Filter{}) {
				if f.Match(n) {
					want++
				}
			}
			got := 0
			for n := range v.Nodes(f) {
				if !f.Match(n) {
					t.Errorf("%+v yields %s", f, n.ID)
				}
				got++
			}
			if got != want || v.CountNodes(f) != want {
				t.Errorf("%+v: %d nodes, count %d, scan %d", f, got, v.CountNodes(f), want)
			}
		}
	}
}

func TestElementsKeepTheirShapeThroughJSON(t *testing.T) {
	const in = `{"ID":"e","Metadata":{"A":{"B":[1,2.5,"x",null,true]},"RelationType":"layer2"},"Host":"h","Origin":"agent.h",` +
		`"CreatedAt":1700000000000,"UpdatedAt":1700000000001,"DeletedAt":null,"Revision":9007199254740993,"Parent":"p","Child":"c"}`
	var e Edge
	must(t, json.Unmarshal([]byte(in), &e))
	out, err := json.Marshal(&e)
	must(t, err)
	if string(out) != in {
		t.Errorf("got  %s\nwant %s", out, in)
	}
	for _, bad := range []string{`{"Metadata":{}}`, `{"ID":""}`, `{"ID":1}`, `[]`, `{"ID":"a","CreatedAt":"now"}`, `{"ID":"a","Metadata":[]}`, `{"ID":"a"`} {
		if err := json.Unmarshal([]byte(bad), new(Node)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestIdentifiersAreThoseOfThePublicSkydive(t *testing.T) {
	if got := GenID("ct-host"); got != "0e296da6-4083-57de-b2b0-14943eb5691f" {
		t.Errorf("host TID %s", got)
	}
	if got := LinkID("0e296da6-4083-57de-b2b0-14943eb5691f", "vA", "veth"); got != "69ad7581-51e8-5ab8-94ab-47c496d65380" {
		t.Errorf("veth TID %s", got)
	}
}
