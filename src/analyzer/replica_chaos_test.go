package analyzer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
)

// chaos is a cluster on a network that can be cut anywhere, and what ought to be in its graphs.
type chaos struct {
	t       *testing.T
	rng     *rand.Rand
	addrs   []string
	all     []*replica             // nil: down
	links   map[[2]string]*wireTap // by who dials and whom
	agents  []*host
	made    map[string]string   // API nodes that ought to be there: their value, by name
	home    map[string]int      // where an API node is changed
	kept    map[string]*history // by analyzer
	parted  bool
	ops     int
	history []string
	start   func(i int)
}

func (c *chaos) log(format string, args ...any) {
	c.history = append(c.history, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

func analyzerName(i int) string { return fmt.Sprintf("a%d", i+1) }

func newChaos(t *testing.T, seed uint64, analyzers, agents int) *chaos {
	c := &chaos{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), addrs: freeAddrs(t, analyzers), all: make([]*replica, analyzers),
		links: make(map[[2]string]*wireTap), made: make(map[string]string), home: make(map[string]int),
		kept: make(map[string]*history),
	}
	dialled := func(from string) (addrs []string) {
		for i, addr := range c.addrs {
			to := analyzerName(i)
			tap := newTap(t, addr)
			c.links[[2]string{from, to}] = tap
			addrs = append(addrs, tap.l.Addr().String())
		}
		return addrs
	}
	dials := make(map[string][]string)
	for i := range analyzers {
		dials[analyzerName(i)] = dialled(analyzerName(i))
	}
	for i := range analyzers {
		c.kept[analyzerName(i)] = newHistory(t)
	}
	setup := replicaSetup{expiry: 1500 * time.Millisecond, addrs: func(id string) []string { return dials[id] }, kept: c.kept}
	c.start = func(i int) { c.all[i] = newReplica(t, analyzerName(i), c.addrs[i], setup) }
	for i := range analyzers {
		c.start(i)
	}
	for i := range agents {
		name := fmt.Sprintf("h%d", i+1)
		c.agents = append(c.agents, newHost(t, name, dialled(name)...))
	}
	return c
}

// step does one thing at random.
func (c *chaos) step() {
	c.ops++
	switch n := c.rng.IntN(100); {
	case n < 50:
		c.change(c.agents[c.rng.IntN(len(c.agents))])
	case n < 80:
		c.api()
	case n < 84:
		c.part()
	case n < 89:
		c.heal()
	case n < 92:
		c.kill()
	case n < 96:
		c.restart()
	default:
		c.pause(time.Duration(c.rng.IntN(400)) * time.Millisecond)
	}
}

// pause lets time pass, as a scheduler would.
func (c *chaos) pause(d time.Duration) {
	c.log("pause %s", d)
	select {
	case <-time.After(d):
	case <-c.t.Context().Done():
	}
}

// change has an agent see something else.
func (c *chaos) change(h *host) {
	root := graph.GenID(h.id)
	element := func(id string, metadata ...any) graph.Element {
		return graph.Element{ID: id, Host: h.id, Origin: "agent." + h.id, Revision: 1, Metadata: field.Make(metadata...)}
	}
	err := h.g.Update("", func(tx *graph.Tx) error {
		if tx.Node(root) == nil {
			if err := tx.AddNode(&graph.Node{Element: element(root, "Name", h.id, "Type", "host")}); err != nil {
				return err
			}
		}
		id := fmt.Sprintf("%s-%d", h.id, c.rng.IntN(30)) // identifiers come back
		n := tx.Node(id)
		switch {
		case n == nil:
			if err := tx.AddNode(&graph.Node{Element: element(id, "Name", id, "Type", "veth", "Seen", int64(c.ops))}); err != nil {
				return err
			}
			return tx.AddEdge(&graph.Edge{Element: element(graph.LinkID(root, id, "ownership"), "RelationType", "ownership"), Parent: root, Child: id})
		case c.rng.IntN(3) == 0:
			return tx.DeleteNode(id, 0)
		}
		m, err := n.Metadata.Set("State.Last", int64(c.ops))
		if err == nil {
			_, err = tx.SetNodeMetadata(id, m)
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// api changes something through the API of an analyzer. Who changes a node is always the same, as long as it lives: of two who change one
// at the same time in two parts of a network, one must lose.
func (c *chaos) api() {
	at := c.rng.IntN(len(c.all))
	s := c.all[at]
	if s == nil {
		return
	}
	id := fmt.Sprintf("api-%d", c.rng.IntN(20))
	if home, ok := c.home[id]; ok {
		if s = c.all[home]; s == nil {
			return
		}
	} else {
		c.home[id] = at
	}
	value := strconv.Itoa(c.ops)
	_, ought := c.made[id]
	var errBehind = errors.New("it has not come here yet")
	err := s.g.Update("api", func(tx *graph.Tx) error {
		n := tx.Node(id)
		if ought != (n != nil) {
			return errBehind // a user would not see it, or see it still
		}
		if n != nil {
			if n.Metadata.Text("Value") != c.made[id] {
				return errBehind
			}
			if c.rng.IntN(3) == 0 {
				delete(c.made, id)
				return tx.DeleteNode(id, 0)
			}
			m, err := n.Metadata.Set("Value", value)
			if err == nil {
				_, err = tx.SetNodeMetadata(id, m)
			}
			c.made[id] = value
			return err
		}
		err := tx.AddNode(&graph.Node{Element: graph.Element{ID: id, Origin: "cli.user", Metadata: field.Make("Name", id, "Type", "device", "Value", value)}})
		c.made[id] = value
		if err != nil {
			return err
		}
		// An edge to something of an agent, which may go at any time.
		h := c.agents[c.rng.IntN(len(c.agents))]
		if other := fmt.Sprintf("%s-%d", h.id, c.rng.IntN(30)); tx.Node(other) != nil {
			return tx.AddEdge(&graph.Edge{Element: graph.Element{
				ID: fmt.Sprintf("%s-%s", id, other), Origin: "cli.user", Metadata: field.Make("RelationType", "layer2")}, Parent: id, Child: other})
		}
		return nil
	})
	if err != nil && !errors.Is(err, errBehind) {
		c.t.Fatal(err)
	}
	if err == nil {
		c.log("api %s at %s: %q", id, s.id, c.made[id])
	}
}

// part cuts the network in two, or one connection of it, with or without those who are cut off knowing at once.
func (c *chaos) part() {
	if c.parted {
		return
	}
	silent := c.rng.IntN(2) == 0
	side := make(map[string]bool)
	for ends := range c.sorted() {
		side[ends[0]], side[ends[1]] = false, false
	}
	for _, name := range sortedKeys(side) {
		side[name] = c.rng.IntN(2) == 0
	}
	c.parted = true
	// Or single connections, in both directions.
	mesh := c.rng.IntN(3) == 0
	lost := make(map[[2]string]bool)
	for ends := range c.sorted() {
		if mesh && c.rng.IntN(3) == 0 {
			lost[ends], lost[[2]string{ends[1], ends[0]}] = true, true
		}
	}
	c.log("parted, silent %v: mesh %v %v %v", silent, mesh, lost, side)
	for ends, tap := range c.sorted() {
		if mesh && !lost[ends] || !mesh && side[ends[0]] == side[ends[1]] {
			continue
		}
		if silent {
			tap.silence(true)
		} else {
			tap.to("127.0.0.1:1")
			tap.cut()
		}
	}
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// sorted yields the links in one order, so that a seed says all.
func (c *chaos) sorted() func(func([2]string, *wireTap) bool) {
	keys := make([][2]string, 0, len(c.links))
	for k := range c.links {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b [2]string) int { return strings.Compare(a[0]+a[1], b[0]+b[1]) })
	return func(yield func([2]string, *wireTap) bool) {
		for _, k := range keys {
			if !yield(k, c.links[k]) {
				return
			}
		}
	}
}

func (c *chaos) heal() {
	if !c.parted {
		return
	}
	c.parted = false
	c.log("healed")
	for ends, tap := range c.sorted() {
		i, _ := strconv.Atoi(ends[1][1:])
		tap.to(c.addrs[i-1])
		tap.silence(false)
		tap.cut() // what was swallowed makes no sense
	}
}

// kill ends an analyzer, by force or not. What it was told through its API must have come to others: nobody promises more.
func (c *chaos) kill() {
	if c.parted {
		return
	}
	var up []int
	for i, s := range c.all {
		if s != nil {
			up = append(up, i)
		}
	}
	if len(up) < 2 {
		return
	}
	i := up[c.rng.IntN(len(up))]
	s := c.all[i]
	c.complete("before " + s.id + " goes")
	force := c.rng.IntN(2) == 0
	c.log("end of %s, by force %v", s.id, force)
	if force {
		for ends, tap := range c.sorted() {
			if ends[1] == s.id || ends[0] == s.id {
				tap.to("127.0.0.1:1")
				tap.cut()
			}
		}
	}
	s.stop()
	for ends, tap := range c.sorted() {
		j, _ := strconv.Atoi(ends[1][1:])
		if force && (ends[1] == s.id || ends[0] == s.id) {
			tap.to(c.addrs[j-1])
		}
	}
	c.all[i] = nil
}

func (c *chaos) restart() {
	for i, s := range c.all {
		if s == nil {
			c.log("start of %s", analyzerName(i))
			c.start(i)
			return
		}
	}
}

// complete waits until every analyzer that runs has what was made through the API, as it ought to be.
func (c *chaos) complete(what string) {
	c.t.Helper()
	eventually(c.t, what, func() error {
		for _, s := range c.all {
			if s == nil {
				continue
			}
			have := 0
			for n := range s.g.Snapshot().Nodes(field.Filter{Terms: []field.Term{{Key: "@Origin", Pred: field.Eq{V: "cli.user"}}}}) {
				if have++; n.Metadata.Text("Value") != c.made[n.ID] {
					return fmt.Errorf("%s has %s %q, which ought to be %q\n%s", s.id, n.ID, n.Metadata.Text("Value"), c.made[n.ID], c.story())
				}
			}
			if have != len(c.made) {
				return fmt.Errorf("%s has %d of %d\n%s", s.id, have, len(c.made), c.story())
			}
		}
		return nil
	})
}

func (c *chaos) story() string { return strings.Join(c.history, "\n") }

// settle heals all, and checks that every graph is what it ought to be.
func (c *chaos) settle() {
	c.t.Helper()
	c.heal()
	for slices.Contains(c.all, nil) {
		c.restart()
	}
	c.complete("at the end")
	eventually(c.t, "equal graphs", func() error {
		for _, s := range c.all {
			for _, h := range c.agents {
				if want, have := lines(h.g, ""), lines(s.g, "agent."+h.id); want != have {
					return fmt.Errorf("%s has of %s:\n%s\nwhich is:\n%s\n%s\n%s", s.id, h.id, have, want, c.state("agent."+h.id), c.story())
				}
			}
			if a, b := lines(c.all[0].g, ""), lines(s.g, ""); a != b {
				return fmt.Errorf("%s and %s differ\n%s\n--\n%s\n%s", c.all[0].id, s.id, a, b, c.story())
			}
		}
		return nil
	})
}

// state is what the replicas think of an origin, for who has to find out why.
func (c *chaos) state(origin string) string {
	var all []string
	for _, s := range c.all {
		all = append(all, fmt.Sprintf("%s: linked to %v, absent %v, %+v", s.id, s.replicas.Hosts(), s.replicas.Absent(), s.replicas.Status().(ReplicasStatus).Replication))
	}
	return strings.Join(all, "\n")
}

// lines is shown for one origin; "": all.
func lines(g *graph.Graph, origin string) string {
	var all []string
	s := g.Snapshot()
	for n := range s.Nodes(field.Filter{}) {
		if origin == "" || n.Origin == origin {
			all = append(all, string(n.AppendJSON(nil)))
		}
	}
	for e := range s.Edges(field.Filter{}) {
		if origin == "" || e.Origin == origin {
			all = append(all, string(e.AppendJSON(nil)))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// TestReplicaModel does random things to agents, analyzers and the network between them, and then compares all graphs with what they ought to be.
// SKYDIVE_CHAOS is how long to do it (5m); SKYDIVE_CHAOS_SEED repeats one run.
func TestReplicaModel(t *testing.T) {
	length, seed := 0*time.Second, uint64(time.Now().UnixNano())
	if text := os.Getenv("SKYDIVE_CHAOS"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv("SKYDIVE_CHAOS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	until := time.Now().Add(length)
	for runs := 0; runs == 0 || time.Now().Before(until); runs++ {
		name := fmt.Sprintf("seed %d", seed)
		t.Run(name, func(t *testing.T) {
			c := newChaos(t, seed, 3, 3)
			for round := range 3 {
				for range 60 {
					c.step()
				}
				c.settle()
				c.log("settled %d", round)
			}
			revisions := 0
			for _, s := range c.all {
				s.stop()
				kept := c.kept[s.id]
				if err := kept.whole(t); err != nil {
					t.Errorf("history of %s: %v", s.id, err)
				}
				revisions += len(kept.told)
			}
			t.Logf("%d steps, %d of API, %d revisions in the archives", c.ops, len(c.made), revisions)
		})
		if t.Failed() {
			return
		}
		seed++
	}
}
