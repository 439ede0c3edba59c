package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"

	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/inject"
	"skydive/src/resource"
	"skydive/src/wire"
)

// Captures runs captures: capture.Manager.
type Captures interface {
	Start(capture.Node, resource.Capture) error
	Stop(nodeID, captureID string) error
	Update(capture.Node)
	Gone(nodeID string)
	Tables() []*flow.Table
}

// Injections sends packets: inject.Manager.
type Injections interface {
	Start(inject.Node, resource.InjectionRequest) error
	Stop(nodeID, id string) error
	Gone(nodeID string)
}

// TasksOptions are the parts of Tasks.
type TasksOptions struct {
	Graph      *graph.Graph
	Captures   Captures
	Packets    Packets    // nil: nobody can follow the packets of a capture
	Injections Injections // nil: every injection is refused
	Logger     *slog.Logger
}

// Tasks joins the local graph to what runs on its nodes: analyzers name a node, captures and injections need to know where it is, and
// end or move when it does.
type Tasks struct {
	o TasksOptions

	mu    sync.Mutex      // guards nodes
	nodes map[string]bool // on which something was started
}

// NewTasks returns inert Tasks.
func NewTasks(o TasksOptions) *Tasks { return &Tasks{o: o, nodes: make(map[string]bool)} }

// Publish returns what writes a list, such as Captures, into the metadata of nodes; an empty one is removed. Entries that have no ID are
// somebody else's and stay.
func Publish(g *graph.Graph, key string, log *slog.Logger) func(nodeID string, list field.List) {
	return func(nodeID string, list field.List) {
		err := g.Update("", func(tx *graph.Tx) error {
			n := tx.Node(nodeID)
			if n == nil {
				return nil // it has just gone
			}
			return setList(tx, n, key, slices.Concat(list, without(n, key, "ID")))
		})
		if err != nil {
			log.Error("Metadata of a node cannot be written", "node", nodeID, "key", key, "error", err)
		}
	}
}

// PublishObject returns what writes an object into the metadata of nodes; an empty one is removed.
func PublishObject(g *graph.Graph, log *slog.Logger) func(nodeID, key string, o field.Object) {
	return func(nodeID, key string, o field.Object) {
		err := g.Update("", func(tx *graph.Tx) error {
			n := tx.Node(nodeID)
			if n == nil {
				return nil // it has just gone
			}
			metadata, err := n.Metadata.Delete(key), error(nil)
			if len(o) > 0 {
				metadata, err = n.Metadata.Set(key, o)
			}
			if err == nil {
				_, err = tx.SetNodeMetadata(nodeID, metadata) // the same is no change
			}
			return err
		})
		if err != nil {
			log.Error("Metadata of a node cannot be written", "node", nodeID, "key", key, "error", err)
		}
	}
}

// where is what captures and injections must know of a node.
func where(v graph.View, n *graph.Node) (capture.Node, inject.Node) {
	m := n.Metadata
	c := capture.Node{
		ID: n.ID, TID: m.Text("TID"), Name: m.Text("Name"), Type: m.Text("Type"), EncapType: m.Text("EncapType"),
		NetNS: namespace(v, n.ID), Up: m.Text("State") == "UP", IPV4: texts(m, "IPV4"),
		UUID: m.Text("UUID"),
	}
	index, _ := m.Int("IfIndex")
	c.IfIndex = int(index)
	ports, _ := m.Get("MPLSUDPPort")
	list, ok := ports.(field.List)
	if !ok {
		list = field.List{ports}
	}
	for _, v := range list {
		if port, ok := v.(int64); ok && port > 0 && port < 1<<16 {
			c.MPLSUDPPorts = append(c.MPLSUDPPorts, uint16(port))
		}
	}
	return c, inject.Node{ID: c.ID, Name: c.Name, EncapType: c.EncapType, NetNS: c.NetNS}
}

func texts(m field.Object, key string) (all []string) {
	v, _ := m.Get(key)
	list, _ := v.(field.List)
	for _, v := range list {
		if s, ok := v.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

// depth bounds the way from a node to its owners: the graph is what peers make of it.
const depth = 32

// namespace returns the path of the network namespace that a node is in, "" for that of the host.
func namespace(v graph.View, id string) string {
	for range depth {
		owner := ""
		for e := range v.In(id) {
			if ownership(e) {
				owner = e.Parent
				break
			}
		}
		n := v.Node(owner)
		if n == nil {
			return ""
		}
		if n.Metadata.Text("Type") == "netns" {
			return n.Metadata.Text("Path")
		}
		id = owner
	}
	return ""
}

func ownership(e *graph.Edge) bool { return e.Metadata.Text("RelationType") == "ownership" }

// Run tells captures and injections what becomes of their nodes, until ctx ends.
func (t *Tasks) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		commits, snapshot := t.o.Graph.Subscribe(commitQueue)
		t.refresh(snapshot.View, t.started())
		eachCommit(ctx, commits, func(c *graph.Commit) {
			if ids := t.affected(c); len(ids) > 0 {
				t.refresh(t.o.Graph.Snapshot().View, ids)
			}
		})
		commits.Close()
	}
	return nil
}

// eachCommit hands over commits until some were lost, or ctx ends.
func eachCommit(ctx context.Context, commits *graph.Subscription, f func(*graph.Commit)) {
	for {
		var commit *graph.Commit
		select {
		case commit = <-commits.C():
		case <-ctx.Done():
		}
		if commit == nil {
			return
		}
		f(commit)
	}
}

// affected returns the nodes on which something was started and which a commit concerns.
func (t *Tasks) affected(commit *graph.Commit) (ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.nodes) == 0 {
		return nil
	}
	for _, ch := range commit.Changes {
		id := ""
		switch {
		case ch.Kind == graph.NodeUpdated && t.nodes[ch.Node.ID]:
			if placed(ch.OldNode, ch.Node) {
				continue
			}
			id = ch.Node.ID
		case ch.Kind == graph.NodeUpdated && ch.Node.Metadata.Text("Type") == "netns" && ch.Node.Metadata.Text("Path") != ch.OldNode.Metadata.Text("Path"):
			return started(t.nodes)
		case ch.Node != nil:
			id = ch.Node.ID
		case ch.Edge != nil && ownership(ch.Edge):
			id = ch.Edge.Child
		}
		if t.nodes[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// placed tells whether an update of a node says nothing new to who captures on it; most only have other counters.
func placed(old, now *graph.Node) bool {
	for _, key := range []string{"State", "Name", "Type", "IfIndex", "EncapType", "IPV4", "MPLSUDPPort", "UUID"} {
		a, _ := old.Metadata.Get(key)
		b, _ := now.Metadata.Get(key)
		if !field.Equal(a, b) {
			return false
		}
	}
	return true
}

func started(nodes map[string]bool) (ids []string) {
	for id := range nodes {
		ids = append(ids, id)
	}
	return ids
}

func (t *Tasks) started() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return started(t.nodes)
}

// refresh tells how nodes are now, and which are no more.
func (t *Tasks) refresh(v graph.View, ids []string) {
	for _, id := range ids {
		if n := v.Node(id); n != nil {
			c, _ := where(v, n)
			t.o.Captures.Update(c)
			continue
		}
		t.mu.Lock()
		delete(t.nodes, id)
		t.mu.Unlock()
		t.o.Captures.Gone(id)
		if t.o.Injections != nil {
			t.o.Injections.Gone(id)
		}
	}
}

// task is the Obj of the on-demand namespaces.
type task struct {
	NodeID   string
	Resource json.RawMessage
}

// refusal is why a task cannot be done, with a status as of HTTP.
type refusal struct {
	status int
	reason string
}

func (r *refusal) Error() string { return r.reason }

// do starts or stops what a message asks for.
func (t *Tasks) do(m *wire.Message) error {
	var asked task
	if err := json.Unmarshal(m.Obj, &asked); err != nil {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("read request: %s", err)}
	}
	v := t.o.Graph.Snapshot().View
	n := v.Node(asked.NodeID)
	if n == nil {
		return &refusal{http.StatusNotFound, fmt.Sprintf("no node %s on this host", asked.NodeID)}
	}
	at, injectAt := where(v, n)
	var start, stop func() error
	switch m.Namespace {
	case wire.NamespaceCapture:
		var c resource.Capture
		if err := json.Unmarshal(asked.Resource, &c); err != nil {
			return &refusal{http.StatusBadRequest, fmt.Sprintf("read capture: %s", err)}
		}
		start = func() error { return t.o.Captures.Start(at, c) }
		stop = func() error { return t.o.Captures.Stop(n.ID, c.UUID) }
	default:
		var r resource.InjectionRequest
		if err := json.Unmarshal(asked.Resource, &r); err != nil {
			return &refusal{http.StatusBadRequest, fmt.Sprintf("read injection: %s", err)}
		}
		if t.o.Injections == nil {
			return &refusal{http.StatusNotImplemented, noEngine}
		}
		start = func() error { return t.o.Injections.Start(injectAt, r) }
		stop = func() error { return t.o.Injections.Stop(n.ID, r.UUID) }
	}
	if m.Type == wire.TypeStop {
		if err := stop(); err != nil && !errors.Is(err, capture.ErrNotFound) && !errors.Is(err, inject.ErrNotFound) {
			return err
		}
		return nil // also when it does not run any more
	}
	if at.TID == "" || at.Name == "" {
		return &refusal{http.StatusInternalServerError, "the node has no name or no TID yet"}
	}
	t.mu.Lock()
	t.nodes[n.ID] = true
	t.mu.Unlock()
	if err := start(); err != nil {
		return err
	}
	// What happened to the node until Run was told that it matters.
	t.refresh(t.o.Graph.Snapshot().View, []string{n.ID})
	return nil
}

// status is what an error of do means to the analyzer.
func status(err error) int64 {
	var own *refusal
	var captures *capture.RefusedError
	var injections *inject.RefusedError
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &own):
		return int64(own.status)
	case errors.As(err, &captures):
		return int64(captures.Status)
	case errors.As(err, &injections):
		return int64(injections.Status)
	}
	return http.StatusInternalServerError
}
