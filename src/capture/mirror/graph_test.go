package mirror

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"skydive/src/agent"
	"skydive/src/graph"
	"skydive/src/netns"
	"skydive/src/probe/netlink"
	"skydive/src/probe/ovsdb"
	"skydive/src/probe/probetest"
)

// TestRootGraph: what probes and captures together show of a mirror.
func TestRootGraph(t *testing.T) {
	l := newLab(t)
	host := probetest.NewHost(t)
	kernel := *netlink.Spec.Config().(*netlink.Config)
	kernel.Root, kernel.Netns = "/run/netns/"+l.sw, netns.Config{RunPath: t.TempDir()}
	interfaces, err := netlink.New(host.Env, kernel)
	if err != nil {
		t.Fatal(err)
	}
	host.Run(t, interfaces)
	database := *ovsdb.Spec.Config().(*ovsdb.Config)
	database.Address = l.DB
	bridges, err := ovsdb.New(host.Env, database)
	if err != nil {
		t.Fatal(err)
	}
	host.Run(t, bridges)

	links := agent.NewLinks(host.Env.Graph, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = links.Run(ctx) })
	defer running.Wait()
	defer cancel()
	w := l.station(t, func(o *Options) { o.Mirroring = links.Mirroring })

	one := func(pairs ...any) *graph.Node {
		if found := host.Find(pairs...); len(found) == 1 {
			return found[0]
		}
		return nil
	}
	var port *graph.Node
	eventually(t, "node of the port", func() bool { port = one("Type", "ovsport", "Name", "pa"); return port != nil })
	node := l.port(t, "pa")
	if got := port.Metadata.Text("UUID"); got != node.UUID {
		t.Fatalf("UUID %s, want %s", got, node.UUID)
	}
	node.ID = port.ID
	w.start(t, node, asked("c1", ""))
	var iface *graph.Node
	eventually(t, "node of the interface", func() bool {
		iface = one("Captures.MirrorOf", port.ID)
		return iface != nil && iface.Metadata.Text("ExtID."+markKey) != "" && strings.HasPrefix(iface.Metadata.Text("Name"), "mir")
	})
	e := host.Env.Graph.Snapshot().Edge(graph.LinkID(iface.ID, port.ID, "mirroring"))
	if e == nil || e.Metadata.Text("RelationType") != "mirroring" {
		t.Errorf("interface %v, edge %v", iface.Metadata, e)
	}
	own := one("Type", "ovsport", "Name", iface.Metadata.Text("Name"))
	if own == nil || own.Metadata.Text("ExtID."+markKey) == "" {
		t.Errorf("port of the mirror: %v", own)
	}
	w.end(t, node, "c1")
	eventually(t, "all gone", func() bool {
		return len(host.Find("Name", iface.Metadata.Text("Name"))) == 0 && host.Env.Graph.Snapshot().Edge(e.ID) == nil
	})
	l.clean(t)
}
