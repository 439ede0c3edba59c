// Package fabric puts into the graph what no agent can see, as the configuration describes it: switches and routers, their ports, and the
// links from there to what agents discover.
//
// It discovers nothing itself, and never becomes the owner of a node that an agent reports: to those it only adds layer 2 links.
package fabric

import (
	"context"
	"fmt"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
)

// Config is what an analyzer may be told about the fabric.
type Config struct {
	// Rules describe links, one in each text: "A[k=v, …] -> [k=v] B[…]", A owning B; "A --> B", layer 2 only. "*[k=v, …]/name[…]" is
	// each node of that name that an agent reports below a node with that metadata.
	Rules []string
}

// Spec describes the probe.
var Spec = probe.Define("fabric", "switches, ports and links as the configuration describes them", Config{}, New)

// describer keeps the described fabric in the graph.
type describer struct {
	env    probe.Env
	fabric *fabric
}

// New returns an inert probe; the error is a *SyntaxError.
func New(env probe.Env, c Config) (probe.Probe, error) {
	f, err := compile(c.Rules)
	if err != nil {
		return nil, err
	}
	return &describer{env, f}, nil
}

// Run keeps the fabric in the graph until ctx ends. It stays there then: another analyzer may go on with it.
func (p *describer) Run(ctx context.Context) error {
	d := probe.NewDesired(p.env)
	for id, m := range p.fabric.nodes {
		d.Node(id, m)
	}
	for child, parent := range p.fabric.owners {
		d.Edge(parent, child, probe.Ownership, nil)
	}
	for ends, m := range p.fabric.links {
		d.Edge(ends.parent, ends.child, probe.Layer2, m)
	}
	d.Known()
	return d.Run(ctx, newFollower(p.env.Graph, d, p.fabric.selectors), nil)
}

// fabric is what the rules say.
type fabric struct {
	nodes     map[string]field.Object
	owners    map[string]string // by owned node
	links     map[ends]field.Object
	selectors []*selector
}

type ends struct{ parent, child string }

// selector links a node of the fabric with nodes that agents report.
type selector struct {
	node         string // ID
	owner, child field.Filter
	name         string // of the child
	reverse      bool   // the discovered node is on the left side
	metadata     field.Object
}

// id is the same on all analyzers, and that of the public Skydive.
func id(name string) string { return graph.GenID("fabric" + name) }

// compile makes sense of rules.
func compile(texts []string) (*fabric, error) {
	rules, err := parse(texts)
	if err != nil {
		return nil, err
	}
	f := &fabric{nodes: make(map[string]field.Object), owners: make(map[string]string), links: make(map[ends]field.Object)}
	for i := range rules {
		for _, e := range [...]*endpoint{&rules[i].from, &rules[i].to} {
			if e.child == "" {
				if err := f.define(e); err != nil {
					return nil, &SyntaxError{i + 1, e.column, err.Error()}
				}
			}
		}
	}
	for node, m := range f.nodes {
		for _, kv := range [...]pair{{"Probe", "fabric"}, {"TID", node}} {
			m, _ = m.Set(kv.key, kv.value) // cannot fail: the path has one step
		}
		if _, ok := m.Get("Type"); !ok {
			m, _ = m.Set("Type", "device")
		}
		f.nodes[node] = m
	}
	for i, r := range rules {
		if err := f.link(r); err != nil {
			return nil, &SyntaxError{i + 1, r.to.column, err.Error()}
		}
	}
	return f, nil
}

// define takes what a rule says of a node. It need not be said more than once; what was said first counts.
func (f *fabric) define(e *endpoint) error {
	node := id(e.name)
	m, known := f.nodes[node]
	if !known {
		m = field.Make("Name", e.name)
	}
	for _, kv := range e.metadata {
		if _, said := m.Lookup(kv.key); said && (known || kv.key != "Name") {
			continue
		}
		var err error
		if m, err = m.Set(kv.key, kv.value); err != nil {
			return err
		}
	}
	f.nodes[node] = m
	return nil
}

func (f *fabric) link(r rule) error {
	m := r.metadata
	if _, ok := m.Get("Type"); !ok {
		m, _ = m.Set("Type", "fabric")
	}
	for _, e := range [...]struct {
		end, other endpoint
		reverse    bool
	}{{r.from, r.to, true}, {r.to, r.from, false}} {
		if e.end.child != "" {
			f.selectors = append(f.selectors, &selector{
				node: id(e.other.name), owner: filter(e.end.metadata), name: e.end.child, child: filter(e.end.below), reverse: e.reverse, metadata: m,
			})
			return nil
		}
	}
	parent, child := id(r.from.name), id(r.to.name)
	if parent == child {
		return fmt.Errorf("%s is linked with itself", r.to.name)
	}
	f.links[ends{parent, child}] = m
	if !r.owns {
		return nil
	}
	for up := parent; up != ""; up = f.owners[up] {
		if up == child {
			return fmt.Errorf("%s cannot own %s, which owns it", r.from.name, r.to.name)
		}
	}
	f.owners[child] = parent // in place of another: a node has one owner
	return nil
}
