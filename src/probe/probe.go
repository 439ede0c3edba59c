// Package probe says what a topology probe is, runs probes under supervision, and holds what all of them share: the host node,
// owner edges, link identifiers and topology ids (TID).
//
// It knows no probe by name and touches nothing but the graph: a probe that fails, panics or finds nothing on this host shows so in
// its status and never hurts the others.
package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/graph"
)

// ErrUnavailable is what Run returns, perhaps wrapped, when this host does not have what the probe looks at. The probe is then shown
// as absent, not as failed, and tried again now and then.
var ErrUnavailable = errors.New("not available on this host")

// Probe puts one source of topology into the graph.
type Probe interface {
	// Run works until ctx ends, and returns nil then; or it returns what stopped it and is run again later. It must start from
	// nothing each time and, when it fails, take from the graph what it added.
	Run(ctx context.Context) error
}

// Env is what a probe gets to work with.
type Env struct {
	Graph      *graph.Graph
	Root       string // ID of the host node
	Host       string // host_id: the Host of all that the probe adds
	Origin     string // "<service>.<host_id>": the Origin of all that the probe adds
	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Running must be called by Run once its first view is in the graph; the probe then counts as running. A reason tells what it
	// cannot see, "" that all is well. It may be called again whenever that changes, from any goroutine.
	Running func(reason string)
}

// Spec describes a probe to the list of probes of a service.
type Spec struct {
	Name    string   // in configuration, status and documentation
	Aliases []string // other names for it in the configuration
	Doc     string   // one line
	build   func(env Env, load func(config any) error) (Probe, error)
	config  func() any
}

// Define makes the Spec of a probe. defaults is its configuration when nothing is configured. create is called once; it must not do
// anything but validate and allocate.
func Define[C any](name, doc string, defaults C, create func(Env, C) (Probe, error)) Spec {
	return Spec{
		Name: name,
		Doc:  doc,
		build: func(env Env, load func(any) error) (Probe, error) {
			config := defaults
			if err := load(&config); err != nil {
				return nil, err
			}
			return create(env, config)
		},
		config: func() any { config := defaults; return &config },
	}
}

// Alias returns the Spec with other names that it answers to.
func (s Spec) Alias(names ...string) Spec {
	s.Aliases = append(slices.Clone(s.Aliases), names...)
	return s
}

// Config returns a pointer to a new configuration of the probe that holds the defaults.
func (s Spec) Config() any { return s.config() }

// New makes the probe; load, when not nil, fills in the configuration it is given a pointer to.
func (s Spec) New(env Env, load func(config any) error) (Probe, error) {
	if load == nil {
		load = func(any) error { return nil }
	}
	p, err := s.build(env, load)
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", s.Name, err)
	}
	return p, nil
}

// NewNode returns a node of this host with a random ID, not yet in the graph.
func (e Env) NewNode(m field.Object) *graph.Node {
	return &graph.Node{Element: e.element(graph.NewID(), m)}
}

func (e Env) element(id string, m field.Object) graph.Element {
	return graph.Element{ID: id, Metadata: m, Host: e.Host, Origin: e.Origin, Revision: 1}
}

// AddChild adds a node with the edge from its owner, its TID already set.
func (e Env) AddChild(tx *graph.Tx, owner string, n *graph.Node) error {
	if tid := newTID(tx.View, n, tx.Node(owner)); tid != "" {
		m, err := n.Metadata.Set("TID", tid)
		if err != nil {
			return err
		}
		n.Metadata = m
	}
	if err := tx.AddNode(n); err != nil {
		return err
	}
	return e.Own(tx, owner, n.ID)
}

// Own makes one node the owner of another, in place of its present owner if it has one.
func (e Env) Own(tx *graph.Tx, owner, child string) error {
	id := graph.LinkID(owner, child, Ownership)
	var old []string
	for edge := range tx.In(child) {
		if edge.ID == id {
			return nil
		}
		if isOwnership(edge) {
			old = append(old, edge.ID)
		}
	}
	for _, other := range old {
		if err := tx.DeleteEdge(other, 0); err != nil {
			return err
		}
	}
	return e.addEdge(tx, id, owner, child, ownership)
}

// Link adds an edge between two nodes, or gives it the metadata when there is one of that relation already; RelationType is
// added to the metadata. It returns the ID of the edge.
func (e Env) Link(tx *graph.Tx, parent, child, relation string, m field.Object) (string, error) {
	id := graph.LinkID(parent, child, relation)
	m, err := m.Set(RelationType, relation)
	if err != nil {
		return "", err
	}
	if tx.Edge(id) != nil {
		_, err := tx.SetEdgeMetadata(id, m)
		return id, err
	}
	return id, e.addEdge(tx, id, parent, child, m)
}

func (e Env) addEdge(tx *graph.Tx, id, parent, child string, m field.Object) error {
	return tx.AddEdge(&graph.Edge{Element: e.element(id, m), Parent: parent, Child: child})
}

// RelationType is the metadata key of edges that tells what they mean.
const RelationType = "RelationType"

// Relations of edges.
const (
	Ownership = "ownership" // a tree: the parent contains the child
	Layer2    = "layer2"    // frames pass between the nodes
)

func isOwnership(e *graph.Edge) bool {
	relation, _ := e.Metadata.Get(RelationType)
	return relation == Ownership
}

// ownership is the metadata of all owner edges: immutable, so one is enough.
var ownership = field.Make(RelationType, Ownership)
