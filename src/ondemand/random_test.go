package ondemand

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"skydive/src/field"
	"skydive/src/wire"
)

// Whatever happens, and however it falls together: once all is well again, what is wanted runs, and nothing else.
func TestRandomTrouble(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { trouble(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func trouble(t *testing.T, random *rand.Rand) {
	l := newLab(t)
	hosts := []string{"h0", "h1", "h2"}
	queries := []string{"G.V().Has('State','UP')", "G.V().Has('Group','x')", "G.V().Has('State','UP','Group','x').Out()"}
	var leader atomic.Int32
	engines := make([]*Engine, 2)
	for i := range engines {
		o := l.options()
		o.Leads = func() bool { return int(leader.Load()) == i }
		engines[i] = NewCaptures(o)
		l.run(engines[i])
	}
	pick := func(list []string) string { return list[random.IntN(len(list))] }
	var nodes, captures []string
	asked := map[string]string{} // by capture
	made := 0
	under := func(what func()) {
		l.mu.Lock()
		defer l.mu.Unlock()
		what()
	}
	add := func() {
		made++
		id := fmt.Sprint("n", made)
		l.add(id, pick(hosts), "Group", pick([]string{"x", "y"}), "State", pick([]string{"UP", "DOWN"}))
		if len(nodes) > 0 {
			l.link(pick(nodes), id)
		}
		nodes = append(nodes, id)
	}
	gone := func(i int) {
		under(func() { delete(l.running, nodes[i]) })
		l.delete(nodes[i])
		nodes = slices.Delete(nodes, i, i+1)
	}
	capture := func() {
		made++
		id := fmt.Sprint("c", made)
		captures = append(captures, id)
		asked[id] = pick(queries)
		l.capture(id, asked[id])
	}
	for range 60 {
		switch n := random.IntN(12); {
		case n == 0 || len(nodes) == 0:
			add()
		case n == 1:
			gone(random.IntN(len(nodes)))
		case n == 2 && len(captures) < 4, len(captures) == 0:
			capture()
		case n == 3:
			i := random.IntN(len(captures))
			l.remove("capture", captures[i])
			captures = slices.Delete(captures, i, i+1)
		case n == 4:
			l.edit(pick(nodes), "State", pick([]string{"UP", "DOWN"}))
		case n == 5:
			l.edit(pick(nodes), "Group", pick([]string{"x", "y"}))
		case n == 6:
			l.set(l.away, pick(hosts), random.IntN(2) == 0)
		case n == 7:
			l.set(l.mute, pick(hosts), random.IntN(3) == 0)
		case n == 8:
			under(func() { l.refuse[pick(nodes)] = pick([]string{"", "no memory"}) })
		case n == 9:
			leader.Store(int32(random.IntN(3) - 1))
		case n == 10: // an agent gives up by itself
			node := pick(nodes)
			under(func() {
				if list := l.running[node]; len(list) > 0 {
					l.stop("", node, list[0])
				}
			})
		default: // it shows trouble
			node, state := pick(nodes), pick([]string{"waiting", "starting", "error", "active"})
			under(func() {
				var list field.List
				for _, id := range l.running[node] {
					list = append(list, field.Make("ID", id, "State", state, "Error", "trouble"))
				}
				l.edit(node, "Captures", list)
			})
		}
		pauses := []time.Duration{time.Millisecond, 300 * time.Millisecond, 3 * time.Second}
		l.after(time.Duration(random.ExpFloat64() * float64(pauses[random.IntN(len(pauses))])))
	}
	for _, host := range hosts {
		l.set(l.away, host, false)
		l.set(l.mute, host, false)
	}
	under(func() { clear(l.refuse) })
	leader.Store(int32(random.IntN(2)))
	l.after(2 * lastRetry)
	under(func() {
		for _, node := range nodes {
			l.show("", node)
		}
	})
	l.after(2 * lastRetry)
	for _, id := range captures {
		wanted := map[string]State{}
		s, err := newSelection(asked[id])
		if err != nil {
			t.Fatal(err)
		}
		selected, err := s.run(t.Context(), l.graph.Snapshot())
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range selected {
			wanted[n.ID] = Active
		}
		runs := map[string]State{}
		under(func() {
			for node, list := range l.running {
				if slices.Contains(list, id) {
					runs[node] = Active
				}
			}
		})
		if fmt.Sprint(runs) != fmt.Sprint(wanted) {
			t.Errorf("%s runs on %v, want %v", id, runs, wanted)
		}
		for i, e := range engines {
			if got := states(e, id); fmt.Sprint(got) != fmt.Sprint(wanted) {
				t.Errorf("%s: engine %d knows %v, want %v", id, i, got, wanted)
			}
		}
	}
	for _, id := range captures {
		l.remove("capture", id)
	}
	l.after(2 * lastRetry)
	under(func() {
		for node, list := range l.running {
			if len(list) > 0 {
				t.Errorf("%v still run on %s", list, node)
			}
		}
	})
	for i, e := range engines {
		if e.mu.Lock(); len(e.entries)+len(e.byNode)+len(e.hosts) != 0 {
			t.Errorf("left in engine %d: %v %v %v", i, e.entries, e.byNode, e.hosts)
		}
		e.mu.Unlock()
	}
}

// Whatever happens, no interface sends its packets twice, and nothing that was deleted goes on.
func TestRandomTroubleOfInjections(t *testing.T) {
	sent := 0
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { sent += injectionTrouble(t, rand.New(rand.NewPCG(seed, 2))) })
		})
	}
	if sent < 60 {
		t.Errorf("only %d injections were ever begun", sent)
	}
}

func injectionTrouble(t *testing.T, random *rand.Rand) (sent int) {
	l := newLab(t)
	l.lasts = 5 * time.Second
	l.place("d", "h9", 99)
	o := l.options()
	began := map[string]int{}
	o.Ask = func(ctx context.Context, host string, m *wire.Message) (*wire.Message, error) {
		reply, err := l.ask(ctx, host, m)
		if err == nil && reply.Status == 200 && m.Type == wire.TypeStart {
			var asked struct {
				NodeID   string
				Resource struct{ UUID string }
			}
			if err := json.Unmarshal(m.Obj, &asked); err != nil {
				t.Error(err)
			}
			if n := l.graph.Snapshot().Node(asked.NodeID); n != nil {
				l.mu.Lock()
				began[asked.Resource.UUID+" on "+n.Metadata.Text("TID")]++
				l.mu.Unlock()
			}
		}
		return reply, err
	}
	e := NewInjections(o)
	l.run(e)
	places := map[string]string{} // node by place
	made := 0
	var stored []string
	for range 60 {
		place := random.IntN(4)
		name := fmt.Sprint("s", place)
		host := fmt.Sprint("h", place%2)
		node := places[name]
		switch n := random.IntN(8); {
		case n == 0 || node == "": // it comes with its agent, as another node
			made++
			places[name] = fmt.Sprint("n", made)
			l.place(places[name], host, 1+place, "Name", name, "TID", "tid-"+name)
			if node != "" {
				l.delete(node)
			}
		case n == 1:
			l.delete(node)
			delete(places, name)
		case n == 2:
			l.edit(node, "State", []string{"UP", "DOWN"}[random.IntN(2)])
		case n == 3:
			l.set(l.away, host, random.IntN(2) == 0)
		case n == 4:
			l.set(l.mute, host, random.IntN(3) == 0)
		case n == 5:
			l.mu.Lock()
			l.refuse[node] = []string{"", "down"}[random.IntN(2)]
			l.mu.Unlock()
		case n == 6 && len(stored) > 0:
			l.remove("injectpacket", stored[0])
			stored = stored[1:]
		default:
			made++
			id := fmt.Sprint("i", made)
			l.injection(injection(id))
			stored = append(stored, id)
		}
		l.after(time.Duration(random.ExpFloat64() * float64(time.Second)))
	}
	for _, host := range []string{"h0", "h1"} {
		l.set(l.away, host, false)
		l.set(l.mute, host, false)
	}
	for _, id := range stored {
		l.remove("injectpacket", id)
	}
	l.after(2 * lastRetry)
	l.mu.Lock()
	for what, n := range began {
		if n > 1 {
			t.Errorf("%s began %d times", what, n)
		}
	}
	sent = len(began)
	l.mu.Unlock()
	if e.mu.Lock(); len(e.entries)+len(e.byNode)+len(e.hosts) != 0 {
		t.Errorf("left: %v %v %v", e.entries, e.byNode, e.hosts)
	}
	e.mu.Unlock()
	return sent
}
