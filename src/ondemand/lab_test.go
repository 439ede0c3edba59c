package ondemand

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/resource"
	"skydive/src/wire"
)

var errAway = errors.New("away")

// lab is a graph, a store, and agents that behave: they show in the graph what they do.
type lab struct {
	t     testing.TB
	graph *graph.Graph
	log   strings.Builder
	text  slog.Handler // writes to log

	mu      sync.Mutex // guards all below
	watcher map[int]func(key string, value []byte, synced bool)
	began   int // watchers
	values  map[string][]byte
	asked   []string            // "host Start node uuid"
	bodies  map[string]string   // the Resource last sent, by node
	away    map[string]bool     // by host
	mute    map[string]bool     // hosts that never answer
	refuse  map[string]string   // by node: why
	silent  map[string]bool     // nodes on which nothing is shown
	running map[string][]string // by node: identifiers
	lasts   time.Duration       // of injections
	notices []string
}

// newLab makes one inside a synctest bubble.
func newLab(t testing.TB) *lab {
	l := &lab{
		t: t, graph: graph.New(graph.Options{}), watcher: map[int]func(string, []byte, bool){}, values: map[string][]byte{}, bodies: map[string]string{}, away: map[string]bool{},
		mute: map[string]bool{}, refuse: map[string]string{}, silent: map[string]bool{}, running: map[string][]string{}, lasts: time.Second,
	}
	l.text = slog.NewTextHandler(&l.log, nil) // which locks
	return l
}

func (l *lab) options() Options {
	return Options{
		Graph: l.graph, Watch: l.watch, Ask: l.ask, Away: errAway, Notify: l.notify,
		Logger: slog.New(l.text),
	}
}

// run starts an engine, which ends with the test or by stop.
func (l *lab) run(e *Engine) (stop func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				l.t.Error(err)
			}
		})
	}
	l.t.Cleanup(stop)
	synctest.Wait()
	return stop
}

func (l *lab) watch(ctx context.Context, prefix string, fn func(string, []byte, bool)) error {
	l.mu.Lock()
	for key, value := range l.values {
		if strings.HasPrefix(key, prefix) {
			l.mu.Unlock()
			fn(key, value, false)
			l.mu.Lock()
		}
	}
	l.mu.Unlock()
	fn("", nil, true)
	l.mu.Lock()
	l.began++
	n := l.began
	l.watcher[n] = fn
	l.mu.Unlock()
	<-ctx.Done()
	l.mu.Lock()
	delete(l.watcher, n)
	l.mu.Unlock()
	return nil
}

// put stores a resource.
func (l *lab) put(kind string, r resource.Resource) {
	text, err := json.Marshal(r)
	if err != nil {
		l.t.Fatal(err)
	}
	l.change("/"+kind+"/"+r.ID(), text)
}

func (l *lab) capture(id, query string) {
	l.put("capture", &resource.Capture{Identity: resource.Identity{UUID: id}, GremlinQuery: query})
}

func (l *lab) remove(kind, id string) { l.change("/"+kind+"/"+id, nil) }

func (l *lab) change(key string, value []byte) {
	l.mu.Lock()
	if l.values[key] = value; value == nil {
		delete(l.values, key)
	}
	all := slices.Collect(maps.Values(l.watcher))
	l.mu.Unlock()
	for _, fn := range all {
		fn(key, value, false)
	}
}

func (l *lab) notify(namespace, typ string, obj []byte) {
	var r struct{ UUID string }
	if err := json.Unmarshal(obj, &r); err != nil {
		l.t.Error(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notices = append(l.notices, namespace+" "+typ+" "+r.UUID)
}

// ask is the agents.
func (l *lab) ask(ctx context.Context, host string, m *wire.Message) (*wire.Message, error) {
	var body struct {
		NodeID   string
		Resource json.RawMessage
	}
	var r struct{ UUID string }
	if err := errors.Join(json.Unmarshal(m.Obj, &body), json.Unmarshal(body.Resource, &r)); err != nil {
		l.t.Errorf("%s: %v", m.Obj, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, strings.Join([]string{host, m.Type, body.NodeID, r.UUID}, " "))
	if l.away[host] {
		return nil, fmt.Errorf("host %s: %w", host, errAway)
	}
	if l.mute[host] {
		l.mu.Unlock()
		<-ctx.Done()
		l.mu.Lock()
		return nil, ctx.Err()
	}
	l.bodies[body.NodeID] = string(body.Resource)
	reply := func(status int64, obj []byte) (*wire.Message, error) {
		return &wire.Message{Namespace: m.Namespace, Type: m.Type + "Reply", Status: status, Obj: obj}, nil
	}
	if l.graph.Snapshot().Node(body.NodeID) == nil {
		return reply(404, m.Obj)
	}
	if m.Type == wire.TypeStop {
		l.stop(m.Namespace, body.NodeID, r.UUID)
		return reply(200, m.Obj)
	}
	if reason := l.refuse[body.NodeID]; reason != "" {
		return reply(500, []byte(`{"Error":"`+reason+`"}`))
	}
	for _, id := range l.running[body.NodeID] {
		if id == r.UUID {
			return reply(200, m.Obj)
		}
	}
	l.running[body.NodeID] = append(l.running[body.NodeID], r.UUID)
	l.show(m.Namespace, body.NodeID)
	if m.Namespace == wire.NamespaceInjection {
		time.AfterFunc(l.lasts, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.stop(m.Namespace, body.NodeID, r.UUID)
		})
	}
	return reply(200, m.Obj)
}

func (l *lab) stop(namespace, node, id string) {
	var left []string
	for _, r := range l.running[node] {
		if r != id {
			left = append(left, r)
		}
	}
	l.running[node] = left
	l.show(namespace, node)
}

// show writes the metadata of a node, as an agent does.
func (l *lab) show(namespace, node string) {
	if l.silent[node] {
		return
	}
	key := "Captures"
	if namespace == wire.NamespaceInjection {
		key = "PacketInjections"
	}
	var list field.List
	for _, id := range l.running[node] {
		list = append(list, field.Make("ID", id, "State", "active", "PacketsReceived", 0))
	}
	l.edit(node, key, list)
}

// edit sets one key of a node; an empty list removes it.
func (l *lab) edit(node, key string, v any) {
	err := l.graph.Update("agent", func(tx *graph.Tx) error {
		n := tx.Node(node)
		if n == nil {
			return nil
		}
		m := n.Metadata
		v, err := field.Normalize(v)
		if list, ok := v.(field.List); ok && len(list) == 0 || v == nil {
			m = m.Delete(key)
		} else if m, err = m.Set(key, v); err != nil {
			return err
		}
		_, err = tx.SetNodeMetadata(node, m)
		return err
	})
	if err != nil {
		l.t.Error(err)
	}
}

// add makes a veth on a host, with more metadata.
func (l *lab) add(id, host string, pairs ...any) {
	l.update(func(tx *graph.Tx) error {
		m := field.Make(append([]any{"Type", "veth", "Name", id, "TID", "tid-" + id, "State", "UP"}, pairs...)...)
		return tx.AddNode(&graph.Node{Element: graph.Element{ID: id, Host: host, Metadata: m}})
	})
}

func (l *lab) link(parent, child string) {
	l.update(func(tx *graph.Tx) error {
		return tx.AddEdge(&graph.Edge{Element: graph.Element{ID: parent + child, Metadata: field.Make("RelationType", "layer2")}, Parent: parent, Child: child})
	})
}

func (l *lab) delete(id string) {
	l.update(func(tx *graph.Tx) error { return tx.DeleteNode(id, 0) })
}

func (l *lab) update(fn func(*graph.Tx) error) {
	l.t.Helper()
	if err := l.graph.Update("agent", fn); err != nil {
		l.t.Fatal(err)
	}
}

// after lets time pass, then returns what was asked since the last call, in order of node for each moment.
func (l *lab) after(d time.Duration) []string {
	<-time.After(d) // of the bubble, whose clock goes on when all wait
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.asked
	l.asked = nil
	return asked
}

func (l *lab) set(m map[string]bool, key string, v bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m[key] = v
}

func (l *lab) told() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	told := l.notices
	l.notices = nil
	return told
}
