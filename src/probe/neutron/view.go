package neutron

import (
	"fmt"
	"slices"
	"strings"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
)

const (
	// maxNodes is how many nodes are looked at.
	maxNodes = 50000
	// batch is how many nodes change in one transaction, so that others get their turn.
	batch = 500
)

// view is the graph as far as Neutron may know of it, and what this probe says of it.
type view struct {
	env      probe.Env
	metrics  *metrics
	hosts    [2]string // names that this host may have in Neutron
	nodes    map[string]*item
	families map[string]map[*item]struct{}
	dirty    map[*item]struct{}
	known    *inventory // nil until Neutron has answered
	asked    wanted     // all that Neutron was asked for, or soon is
	fresh    wanted     // of it what it was not asked for yet
}

// item is a node that can be Neutron's.
type item struct {
	id    string
	facts facts
	said  field.Object // what this probe wrote to the node; keys are dotted paths
	found bool         // Neutron has something for it
}

func newView(env probe.Env, m *metrics) *view {
	return &view{
		env: env, metrics: m, nodes: make(map[string]*item), families: make(map[string]map[*item]struct{}), dirty: make(map[*item]struct{}),
	}
}

// adopt takes the whole graph in.
func (v *view) adopt(s *graph.Snapshot) {
	if root := s.Node(v.env.Root); root != nil {
		v.hosts = [2]string{v.env.Host, root.Metadata.Text("Hostname")}
	}
	for id, it := range v.nodes {
		if s.Node(id) == nil {
			v.drop(it)
		}
	}
	for n := range s.Nodes(field.Filter{Terms: []field.Term{{Key: "@Origin", Pred: field.Eq{V: v.env.Origin}}}}) {
		v.see(n)
	}
}

// heard takes in what one transaction changed.
func (v *view) heard(c *graph.Commit) {
	for _, ch := range c.Changes {
		switch ch.Kind {
		case graph.NodeAdded, graph.NodeUpdated:
			if ch.Node.Origin == v.env.Origin {
				v.see(ch.Node)
			}
		case graph.NodeDeleted:
			if it := v.nodes[ch.Node.ID]; it != nil {
				v.drop(it)
			}
		}
	}
}

func (v *view) see(n *graph.Node) {
	it := v.nodes[n.ID]
	own := func(string, string) bool { return false }
	if it != nil {
		own = func(key, value string) bool { s, _ := it.said.Get(key); return s == value }
	}
	f := read(n, own)
	switch {
	case it == nil && !f.ours():
		return
	case it == nil && len(v.nodes) >= maxNodes:
		v.metrics.omitted.Inc()
		return
	case it == nil:
		it = &item{id: n.ID}
		v.nodes[n.ID] = it
	case it.facts == f:
		if !carries(n.Metadata, it.said) { // somebody replaced the metadata
			v.dirty[it] = struct{}{}
		}
		return
	}
	v.disown(it)
	it.facts = f
	if f.family != "" {
		if v.families[f.family] == nil {
			v.families[f.family] = make(map[*item]struct{})
		}
		v.families[f.family][it] = struct{}{}
	}
	v.touch(it)
	v.wish(&f)
}

// carries tells whether the metadata have what was written into them.
func carries(m, said field.Object) bool {
	for _, e := range said {
		if _, there := m.Lookup(e.Key); !there {
			return false
		}
	}
	return true
}

// wish notes what Neutron was never asked for.
func (v *view) wish(f *facts) {
	var w wanted
	f.asks(&w)
	fresh, asked := v.fresh.sets(), v.asked.sets()
	for i, s := range w.sets() {
		for text := range *s {
			if !asked[i].has(text) {
				fresh[i].add(text)
			}
		}
	}
}

// takeFresh returns what Neutron was never asked for, and counts it as asked for.
func (v *view) takeFresh() wanted {
	w := v.fresh
	asked := v.asked.sets()
	for i, s := range w.sets() {
		for text := range *s {
			asked[i].add(text)
		}
	}
	v.fresh = wanted{}
	return w
}

// everything returns what all nodes need.
func (v *view) everything() (w wanted) {
	for _, it := range v.nodes {
		it.facts.asks(&w)
	}
	return w
}

// takeAll returns what all nodes need, and counts it as asked for.
func (v *view) takeAll() wanted {
	v.asked, v.fresh = v.everything(), wanted{}
	return v.everything()
}

func (v *view) drop(it *item) {
	v.disown(it)
	delete(v.nodes, it.id)
	delete(v.dirty, it)
}

// disown takes an item from its family.
func (v *view) disown(it *item) {
	v.touch(it)
	if all := v.families[it.facts.family]; all != nil {
		if delete(all, it); len(all) == 0 {
			delete(v.families, it.facts.family)
		}
	}
}

// touch marks an item, and those on its path, to be looked at.
func (v *view) touch(it *item) {
	v.dirty[it] = struct{}{}
	for other := range v.families[it.facts.family] {
		v.dirty[other] = struct{}{}
	}
}

// learn takes in what Neutron has.
func (v *view) learn(known *inventory) {
	v.known = known
	for _, it := range v.nodes {
		v.dirty[it] = struct{}{}
	}
}

// complaint tells what is suspicious about what Neutron has.
func (v *view) complaint(user string) string {
	matched, unknown, ports, shown := 0, 0, 0, 0
	for _, it := range v.nodes {
		if it.facts.iface != "" {
			ports++
		}
		switch {
		case !it.found:
			unknown++
		case !it.facts.namespace:
			shown++
			matched++
		default:
			matched++
		}
	}
	v.metrics.matched.Set(float64(matched))
	v.metrics.unknown.Set(float64(unknown))
	if shown == 0 && ports > 0 {
		return fmt.Sprintf("Neutron shows none of the %d ports that Open vSwitch has here: may user %s see those of all projects?", ports, user)
	}
	return ""
}

// publish brings the nodes that were touched up to date.
func (v *view) publish() error {
	if v.known == nil || len(v.dirty) == 0 {
		return nil
	}
	items := make([]*item, 0, len(v.dirty))
	for it := range v.dirty {
		items = append(items, it)
	}
	clear(v.dirty)
	if err := v.write(items, v.describe); err != nil {
		return err
	}
	for _, it := range items {
		if !it.facts.ours() {
			v.drop(it)
		}
	}
	return nil
}

// withdraw takes away all that this probe said.
func (v *view) withdraw() error {
	items := make([]*item, 0, len(v.nodes))
	for _, it := range v.nodes {
		items = append(items, it)
	}
	return v.write(items, func(it *item) field.Object { it.found = false; return nil })
}

func (v *view) write(items []*item, describe func(*item) field.Object) error {
	for some := range slices.Chunk(items, batch) {
		said := make([]field.Object, len(some))
		err := v.env.Graph.Update("", func(tx *graph.Tx) error {
			for i, it := range some {
				n := tx.Node(it.id)
				if n == nil {
					continue // we shall hear of it
				}
				said[i] = describe(it)
				m, err := change(n.Metadata, it.said, said[i])
				if err != nil {
					v.env.Log.Debug("cannot say what Neutron has of a node", "node", it.facts.name, "error", err)
					said[i] = it.said
					continue
				}
				if _, err := tx.SetNodeMetadata(it.id, m); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("graph: %w", err)
		}
		for i, it := range some {
			it.said = said[i]
		}
	}
	return nil
}

// change brings what was said up to date and leaves alone what others say.
func change(m, old, now field.Object) (field.Object, error) {
	var err error
	for _, e := range old {
		if _, still := now.Get(e.Key); still {
			continue
		}
		if v, _ := m.Lookup(e.Key); field.Equal(v, e.Value) {
			m = m.Delete(e.Key)
		}
	}
	for _, e := range now {
		before, _ := old.Get(e.Key)
		if _, there := m.Lookup(e.Key); there && field.Equal(before, e.Value) {
			continue
		}
		if m, err = m.Set(e.Key, e.Value); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// describe renders what is to be said of a node.
func (v *view) describe(it *item) field.Object {
	f := &it.facts
	it.found = false
	if f.namespace {
		pairs := []any{"Manager", "neutron"}
		if about := v.known.namespace(f); about != nil {
			it.found = true
			pairs = append(pairs, "Neutron", about)
		}
		return field.Make(pairs...)
	}
	var pairs []any
	vm, attached, end := v.inherit(it)
	if attached != "" {
		pairs = append(pairs, "ExtID.vm-uuid", vm, "ExtID.attached-mac", attached)
	}
	peer := attached
	if f.attached != "" {
		peer = f.attached
	}
	// What is attached to a tap is the other end of a cable; an interface of its own address is attached to nothing.
	if peer != "" && peer != f.mac && (end || strings.HasPrefix(f.name, "tap") && f.named) {
		pairs = append(pairs, "PeerIntfMAC", peer)
	}
	if p := f.match(v.known, attached, v.hosts); p != nil {
		it.found = true
		pairs = append(pairs, "Manager", "neutron", "Neutron", v.known.port(p))
	}
	return field.Make(pairs...)
}

// inherit returns what a node on the way from an interface of Open vSwitch to an instance has from it, and whether it is the last
// that there is. Nova names all of them alike: qvo in Open vSwitch, qvb, its other end, in the bridge qbr, and in that the tap.
func (v *view) inherit(it *item) (vm, attached string, end bool) {
	f := &it.facts
	if f.family == "" || strings.HasPrefix(f.name, "qvo") || f.attached != "" {
		return "", "", false
	}
	tap := false
	for other := range v.families[f.family] {
		if strings.HasPrefix(other.facts.name, "tap") {
			tap = true
		}
		if strings.HasPrefix(other.facts.name, "qvo") && other.facts.vm != "" && other.facts.attached != "" {
			vm, attached = other.facts.vm, other.facts.attached
		}
	}
	if attached == "" {
		return "", "", false
	}
	return vm, attached, strings.HasPrefix(f.name, "tap") || strings.HasPrefix(f.name, "qbr") && !tap
}
