package ondemand

import (
	"context"
	"encoding/json"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/resource"
	"skydive/src/wire"
)

// kind is what captures and injections do differently.
type kind struct {
	resource.Kind
	namespace, notice string
	metadata          string // key of the nodes under which agents say what runs
	once              bool   // it ends by itself, and must not be done twice
	query             func(resource.Resource) string
	selectable        func(resource.Resource, *graph.Node) bool
	maps              bool // agents are told of exporters that the graph knows
	identity          func(*graph.Node) string
	// request is what the agent of a task is sent; its error is shown as the reason for which it is not.
	request func(context.Context, *graph.Snapshot, *task) (json.RawMessage, error)
}

// stored is a resource as the store has it.
type stored struct {
	id       string
	resource resource.Resource
	json     []byte
	query    string
	started  time.Time // of what is done once
	old      bool      // it was there before this engine
}

func (k *kind) read(value []byte) (stored, error) {
	r, err := k.Decode(value)
	if err != nil {
		return stored{}, err
	}
	s := stored{id: r.ID(), resource: r, json: value, query: k.query(r)}
	if i, ok := r.(*resource.Injection); ok {
		s.started = i.StartTime
	}
	return s, nil
}

// orphan stands for a resource of which only the identifier is known.
func (k *kind) orphan(id string) stored {
	r := k.New()
	r.SetID(id)
	text, _ := json.Marshal(r) // plain data
	return stored{id: id, resource: r, json: text}
}

// kindOf finds a kind by a name that stands in this file: without it there is no engine to make.
func kindOf(name string) resource.Kind {
	for _, k := range resource.Kinds() {
		if k.Name == name {
			return k
		}
	}
	panic("ondemand: no resource " + name)
}

// mirrorOf is what nodes have that a capture put on a switch: all they see is captured already.
const mirrorOf = "ExtID.skydive-probe-id"

func captures() *kind {
	return &kind{
		Kind: kindOf("capture"), namespace: wire.NamespaceCapture, notice: wire.NamespaceCaptureNotice, metadata: "Captures",
		query: func(r resource.Resource) string { return r.(*resource.Capture).GremlinQuery },
		maps:  true,
		selectable: func(r resource.Resource, n *graph.Node) bool {
			return n.Host != "" && resource.CaptureType(n.Metadata.Text("Type"), r.(*resource.Capture).Type) != "" && n.Metadata.Text(mirrorOf) == ""
		},
		identity: func(n *graph.Node) string { return n.ID },
		request: func(_ context.Context, s *graph.Snapshot, t *task) (json.RawMessage, error) {
			if !t.listens() {
				return t.entry.json, nil
			}
			c := *t.entry.resource.(*resource.Capture)
			c.Exporters = exporters(s)
			return json.Marshal(&c)
		},
	}
}

func injections() *kind {
	return &kind{
		Kind: kindOf("injectpacket"), namespace: wire.NamespaceInjection, notice: wire.NamespaceInjectionNotice, metadata: "PacketInjections",
		once:  true,
		query: func(r resource.Resource) string { return r.(*resource.Injection).Src },
		selectable: func(_ resource.Resource, n *graph.Node) bool {
			return n.Host != "" && n.Metadata.Text("Type") != "" && n.Metadata.Text("Name") != ""
		},
		// An interface that comes back with its agent is the one that has sent its packets.
		identity: func(n *graph.Node) string {
			if tid := n.Metadata.Text("TID"); tid != "" {
				return tid
			}
			return n.ID
		},
		request: func(ctx context.Context, s *graph.Snapshot, t *task) (json.RawMessage, error) {
			i := t.entry.resource.(*resource.Injection)
			var dst *graph.Node
			if needsDestination(i) {
				var err error
				if dst, err = t.entry.cached.first(ctx, s, i.Dst); err != nil {
					return nil, err
				}
			}
			r, err := resolve(i, t.number, t.node, dst)
			if err != nil {
				return nil, err
			}
			return json.Marshal(r)
		},
	}
}

// shown is what a node says of one task.
type shown struct {
	id     string
	state  State
	reason string
	since  int64 // ms; 0: it does not say
}

// Other states that agents show.
const starting State = "starting"

// shows yields what a node says of what runs on it.
func (k *kind) shows(n *graph.Node) []shown {
	v, ok := n.Metadata.Get(k.metadata)
	if !ok {
		return nil
	}
	items, _ := v.(field.List)
	var all []shown
	for _, item := range items {
		if s, ok := show(item); ok {
			all = append(all, s)
		}
	}
	return all
}

func show(item field.Value) (s shown, ok bool) {
	o, _ := item.(field.Object)
	s.id, s.state, s.reason = o.Text("ID"), State(o.Text("State")), o.Text("Error")
	s.since, _ = o.Int("Since")
	return s, s.id != ""
}
