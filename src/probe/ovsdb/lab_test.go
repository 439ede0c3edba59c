package ovsdb

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/netns"
	"skydive/src/ovs/ovstest"
	"skydive/src/probe"
	"skydive/src/probe/netlink"
	"skydive/src/probe/probetest"
)

// lab is a host of its own with Open vSwitch: a network namespace that stands for that of the host.
type lab struct {
	*probetest.Host
	testing.TB
	*ovstest.Server
	ns  string
	run string // directory of the other namespaces
}

const patienceOfTests = time.Minute

// newLab starts Open vSwitch in a namespace of the given name.
func newLab(t testing.TB, name string, options ...ovstest.Option) *lab {
	t.Helper()
	ns := ovstest.Namespace(t, name)
	return &lab{Host: probetest.NewHost(t), TB: t, Server: ovstest.Start(t, ns, options...), ns: ns, run: t.TempDir()}
}

// netns makes another namespace that the probe netlink sees.
func (l *lab) netns(name string) string {
	l.Helper()
	ovstest.Namespace(l.TB, name)
	path := filepath.Join(l.run, name)
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		l.Fatal(err)
	}
	if err := unix.Mount("/run/netns/"+name, path, "", unix.MS_BIND, ""); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			l.Error(err)
		}
	})
	return name
}

// start runs the probes netlink and ovsdb and waits for their first view.
func (l *lab) start(change ...func(*Config)) (stop func()) {
	l.Helper()
	cfg := *netlink.Spec.Config().(*netlink.Config)
	cfg.Root = "/run/netns/" + l.ns
	cfg.Netns = netns.Config{RunPath: l.run}
	env := l.Env
	env.Running = func(string) {}
	p, err := netlink.New(env, cfg)
	if err != nil {
		l.Fatal(err)
	}
	l.Run(l.TB, p)
	return l.startOVS(change...)
}

func (l *lab) Run(t testing.TB, p probe.Probe) func() { return l.Host.Run(t, p) }

func (l *lab) startOVS(change ...func(*Config)) (stop func()) {
	l.Helper()
	stop = l.Run(l.TB, l.probe(change...))
	l.eventually("first view", func() bool { running, _ := l.Running(); return running })
	return stop
}

func (l *lab) probe(change ...func(*Config)) probe.Probe {
	l.Helper()
	cfg := *Spec.Config().(*Config)
	cfg.Address = l.DB
	for _, f := range change {
		f(&cfg)
	}
	env := l.Env
	env.Registerer = prometheus.NewRegistry() // there may be several, one after the other
	p, err := New(env, cfg)
	if err != nil {
		l.Fatal(err)
	}
	return p
}

func (l *lab) eventually(what string, ok func() bool) time.Duration {
	l.Helper()
	return probetest.Eventually(l.TB, patienceOfTests, what, ok)
}

// ip runs a command of ip(8) in a namespace.
func (l *lab) ip(ns, command string) {
	l.Helper()
	args := append([]string{"-n", ns}, strings.Fields(command)...)
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

func (l *lab) vsctl(command string) string {
	l.Helper()
	return l.Vsctl(l.TB, strings.Fields(command)...)
}

// one returns the only node with some metadata; nil when there is none or several.
func (l *lab) one(pairs ...any) *graph.Node {
	if found := l.Find(pairs...); len(found) == 1 {
		return found[0]
	}
	return nil
}

// iface returns the only node that is an interface of a name, whoever made it.
func (l *lab) iface(name string) *graph.Node {
	var node *graph.Node
	for _, n := range l.Find("Name", name) {
		switch n.Metadata.Text("Type") {
		case "ovsbridge", "ovsport", "netns":
			continue
		}
		if node != nil {
			return nil
		}
		node = n
	}
	return node
}

func (l *lab) owner(n *graph.Node) *graph.Node {
	snap := l.Graph.Snapshot()
	return snap.Node(ownerOf(snap.View, n.ID))
}

func (l *lab) linked(parent, child *graph.Node) *graph.Edge {
	if parent == nil || child == nil {
		return nil
	}
	return l.Graph.Snapshot().Edge(graph.LinkID(parent.ID, child.ID, probe.Layer2))
}

func value(n *graph.Node, path string) field.Value {
	if n == nil {
		return nil
	}
	v, _ := n.Metadata.Lookup(path)
	return v
}
