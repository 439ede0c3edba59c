package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"skydive/src/field"
	"skydive/src/graph"
)

// Links shows in the graph which interfaces get the packets of which ports of a switch: an edge between their nodes, and MirrorOf in the
// Captures of the interface. Nodes may come later than what is to be shown of them.
type Links struct {
	graph *graph.Graph
	log   *slog.Logger

	mu      sync.Mutex        // guards mirrors
	mirrors map[string]string // identifier of the port's node by name of the interface
}

// NewLinks returns inert Links.
func NewLinks(g *graph.Graph, log *slog.Logger) *Links {
	return &Links{graph: g, log: log, mirrors: make(map[string]string)}
}

const (
	capturesKey = "Captures"
	mirrorOfKey = "MirrorOf"
	mirroring   = "mirroring" // RelationType
)

// Mirroring shows, until end is called, that an interface gets the packets of a port.
func (l *Links) Mirroring(iface, nodeID string) (end func()) {
	l.mu.Lock()
	l.mirrors[iface] = nodeID
	l.mu.Unlock()
	l.show([]string{iface})
	return func() {
		l.mu.Lock()
		delete(l.mirrors, iface)
		l.mu.Unlock()
		l.update(iface, func(tx *graph.Tx, n *graph.Node) error { return unlinkMirror(tx, n, nodeID) })
	}
}

// Run follows the nodes until ctx ends.
func (l *Links) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		commits, _ := l.graph.Subscribe(commitQueue)
		l.mu.Lock()
		var all []string
		for iface := range l.mirrors {
			all = append(all, iface)
		}
		l.mu.Unlock()
		l.show(all)
		eachCommit(ctx, commits, func(c *graph.Commit) { l.show(l.concerned(c)) })
		commits.Close()
	}
	return nil
}

// concerned returns the interfaces whose nodes are new or have another name.
func (l *Links) concerned(commit *graph.Commit) (ifaces []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mirrors) == 0 {
		return nil
	}
	for _, ch := range commit.Changes {
		if ch.Kind != graph.NodeAdded && ch.Kind != graph.NodeUpdated {
			continue
		}
		name := ch.Node.Metadata.Text("Name")
		if ch.Kind == graph.NodeUpdated && ch.OldNode.Metadata.Text("Name") == name && ch.OldNode.Metadata.Text("Type") == ch.Node.Metadata.Text("Type") {
			continue
		}
		if l.mirrors[name] != "" && !slices.Contains(ifaces, name) {
			ifaces = append(ifaces, name)
		}
	}
	return ifaces
}

func (l *Links) show(ifaces []string) {
	for _, iface := range ifaces {
		l.update(iface, func(tx *graph.Tx, n *graph.Node) error {
			l.mu.Lock()
			port := tx.Node(l.mirrors[iface])
			l.mu.Unlock()
			if port == nil {
				return nil
			}
			return linkMirror(tx, n, port.ID)
		})
	}
}

// update changes all nodes of an interface: there may be two while what different sources know is not yet one.
func (l *Links) update(iface string, change func(*graph.Tx, *graph.Node) error) {
	err := l.graph.Update("", func(tx *graph.Tx) error {
		named := field.Filter{Terms: []field.Term{{Key: "Name", Pred: field.Eq{V: iface}}}}
		for _, n := range slices.Collect(tx.Nodes(named)) {
			if t := n.Metadata.Text("Type"); t == "ovsport" || t == "ovsbridge" {
				continue
			}
			if err := change(tx, n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		l.log.Error("A mirror cannot be shown in the graph", "interface", iface, "error", err)
	}
}

func linkMirror(tx *graph.Tx, n *graph.Node, port string) error {
	id := graph.LinkID(n.ID, port, mirroring)
	if tx.Edge(id) == nil {
		e := &graph.Edge{Element: graph.Element{ID: id, Host: n.Host, Origin: n.Origin, Metadata: field.Make("RelationType", mirroring)}, Parent: n.ID, Child: port}
		if err := tx.AddEdge(e); err != nil {
			return err
		}
	}
	list := without(n, capturesKey, mirrorOfKey)
	return setList(tx, n, capturesKey, append(list, field.Make(mirrorOfKey, port)))
}

func unlinkMirror(tx *graph.Tx, n *graph.Node, port string) error {
	if id := graph.LinkID(n.ID, port, mirroring); tx.Edge(id) != nil {
		if err := tx.DeleteEdge(id, 0); err != nil {
			return err
		}
	}
	return setList(tx, n, capturesKey, without(n, capturesKey, mirrorOfKey))
}

// without returns the entries of a list in the metadata that lack a key.
func without(n *graph.Node, list, key string) (left field.List) {
	v, _ := n.Metadata.Get(list)
	entries, _ := v.(field.List)
	for _, v := range entries {
		if o, _ := v.(field.Object); o.Text(key) == "" {
			left = append(left, v)
		}
	}
	return left
}

// setList writes a list into the metadata of a node; an empty one is removed.
func setList(tx *graph.Tx, n *graph.Node, key string, list field.List) error {
	metadata, err := n.Metadata, error(nil)
	if len(list) > 0 {
		metadata, err = metadata.Set(key, list)
	} else if _, ok := metadata.Get(key); ok {
		metadata = metadata.Delete(key)
	}
	if err == nil {
		_, err = tx.SetNodeMetadata(n.ID, metadata) // the same is no change
	}
	return err
}
