package netlink

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/netns"
	"skydive/src/probe"
	"skydive/src/probe/probetest"
)

// lab is a host of its own: a namespace that stands for that of the host, and a directory of named namespaces.
type lab struct {
	*probetest.Host
	testing.TB
	root string // path of the namespace of the host
	run  string // directory of the others
}

// newLab skips without the privilege to make namespaces; in CI that is a failure.
func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("SKYDIVE_CI") == "1" {
			t.Fatal("root is needed to make network namespaces")
		}
		t.Skip("root is needed to make network namespaces")
	}
	l := &lab{Host: probetest.NewHost(t), TB: t, root: t.TempDir() + "/root", run: t.TempDir()}
	l.Cleanup(func() {
		left, _ := filepath.Glob(l.run + "/*")
		for _, path := range left {
			unmount(path)
		}
	})
	l.mount(l.root)
	l.ip("", "link set lo up")
	return l
}

// mount makes a new namespace and gives it a name.
func (l *lab) mount(path string) {
	l.Helper()
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		l.Fatal(err)
	}
	if out, err := exec.Command("unshare", "--net="+path, "true").CombinedOutput(); err != nil {
		l.Fatalf("%v: %s", err, out)
	}
	l.Cleanup(func() { unmount(path) })
}

func unmount(path string) {
	_ = unix.Unmount(path, unix.MNT_DETACH)
	_ = os.Remove(path)
}

func (l *lab) path(ns string) string {
	if ns == "" {
		return l.root
	}
	return filepath.Join(l.run, ns)
}

// add makes a named namespace.
func (l *lab) add(names ...string) {
	l.Helper()
	for _, name := range names {
		l.mount(l.path(name))
	}
}

// ip runs commands of ip(8), one a line, in a namespace.
func (l *lab) ip(ns string, commands string) {
	l.Helper()
	commands = strings.NewReplacer("@", l.run+"/").Replace(commands)
	cmd := exec.Command("nsenter", "--net="+l.path(ns), "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(commands + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		l.Fatalf("ip in %q: %v\n%s\n%s", ns, err, out, commands)
	}
}

// start runs the probe; change may change its configuration.
func (l *lab) start(change ...func(*Config)) (stop func()) {
	l.Helper()
	cfg := *Spec.Config().(*Config)
	cfg.Root = l.root
	cfg.Netns = netns.Config{RunPath: l.run}
	for _, f := range change {
		f(&cfg)
	}
	p, err := New(l.Env, cfg)
	if err != nil {
		l.Fatal(err)
	}
	stop = l.Run(l.TB, p)
	l.eventually("first view", func() bool { running, _ := l.Running(); return running })
	return stop
}

func (l *lab) eventually(what string, ok func() bool) time.Duration {
	l.Helper()
	return probetest.Eventually(l.TB, patienceOfTests, what, ok)
}

// node returns the node of an interface, nil when there is none or not exactly one.
func (l *lab) node(ns, name string) *graph.Node {
	snap := l.Graph.Snapshot()
	owner := l.Env.Root
	if ns != "" {
		found := l.Find("Type", "netns", "Name", ns)
		if len(found) != 1 {
			return nil
		}
		owner = found[0].ID
	}
	var node *graph.Node
	for e := range snap.Out(owner) {
		n := snap.Node(e.Child)
		if relation(e) != probe.Ownership || n.Metadata.Text("Name") != name || n.Metadata.Text("Type") == "netns" {
			continue
		}
		if node != nil {
			return nil
		}
		node = n
	}
	return node
}

func (l *lab) await(ns, name string) *graph.Node {
	l.Helper()
	var n *graph.Node
	l.eventually(ns+"/"+name, func() bool { n = l.node(ns, name); return n != nil })
	return n
}

func relation(e *graph.Edge) string { return e.Metadata.Text(probe.RelationType) }

// linked tells whether two nodes have exactly one layer-2 edge, of a type, in either direction.
func (l *lab) linked(a, b *graph.Node, kind string) bool {
	if a == nil || b == nil {
		return false
	}
	n := 0
	snap := l.Graph.Snapshot()
	for _, ends := range [][2]string{{a.ID, b.ID}, {b.ID, a.ID}} {
		for e := range snap.Out(ends[0]) {
			if e.Child == ends[1] && relation(e) == probe.Layer2 && e.Metadata.Text("Type") == kind {
				n++
			}
		}
	}
	return n == 1
}

// layer2 counts the layer-2 edges of a node.
func (l *lab) layer2(n *graph.Node) int {
	count := 0
	snap := l.Graph.Snapshot()
	for e := range snap.Out(n.ID) {
		if relation(e) == probe.Layer2 {
			count++
		}
	}
	for e := range snap.In(n.ID) {
		if relation(e) == probe.Layer2 {
			count++
		}
	}
	return count
}

func show(n *graph.Node, path string) string {
	if n == nil {
		return ""
	}
	v, _ := n.Metadata.Lookup(path)
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// kernelLink is what ip(8) tells of an interface.
type kernelLink struct {
	Index     int    `json:"ifindex"`
	Name      string `json:"ifname"`
	MTU       int    `json:"mtu"`
	State     string `json:"operstate"`
	MAC       string `json:"address"`
	Master    string `json:"master"`
	Addresses []struct {
		Local  string `json:"local"`
		Length int    `json:"prefixlen"`
	} `json:"addr_info"`
}

// kernel returns what ip(8) tells of a namespace, one line for each interface, and one for each of its routes and neighbours.
func (l *lab) kernel(ns string) []string {
	l.Helper()
	out, err := exec.Command("nsenter", "--net="+l.path(ns), "ip", "-j", "addr").Output()
	if err != nil {
		l.Fatal(err)
	}
	var links []kernelLink
	if err := json.Unmarshal(out, &links); err != nil {
		l.Fatal(err)
	}
	var lines []string
	for _, k := range links {
		if k.MAC == "00:00:00:00:00:00" {
			k.MAC = ""
		}
		var addresses []string
		for _, a := range k.Addresses {
			addresses = append(addresses, fmt.Sprintf("%s/%d", a.Local, a.Length))
		}
		slices.Sort(addresses)
		lines = append(lines, fmt.Sprintf("%s index %d mtu %d %s mac %s master %s %v", k.Name, k.Index, k.MTU, k.State, k.MAC, k.Master, addresses))
	}
	for _, family := range []string{"-4", "-6"} {
		out, err := exec.Command("nsenter", "--net="+l.path(ns), "ip", family, "-j", "-N", "-d", "route", "show", "table", "all").Output()
		if err != nil {
			l.Fatal(err)
		}
		lines = append(lines, kernelRoutes(l, family, out)...)
	}
	slices.Sort(lines)
	return lines
}

func kernelRoutes(t testing.TB, family string, out []byte) []string {
	t.Helper()
	type hop struct {
		Gateway string `json:"gateway"`
		Via     struct {
			Host string `json:"host"`
		} `json:"via"`
		Dev string `json:"dev"`
	}
	var routes []struct {
		hop
		Type   string `json:"type"`
		Dst    string `json:"dst"`
		Table  string `json:"table"`
		Metric int    `json:"metric"`
		Hops   []hop  `json:"nexthops"`
	}
	if err := json.Unmarshal(out, &routes); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var lines []string
	for _, r := range routes {
		switch {
		case r.Dst == "default" && family == "-4":
			r.Dst = "0.0.0.0/0"
		case r.Dst == "default":
			r.Dst = "::/0"
		case !strings.Contains(r.Dst, "/") && family == "-4":
			r.Dst += "/32"
		case !strings.Contains(r.Dst, "/"):
			r.Dst += "/128"
		}
		if r.Table == "" {
			r.Table = "254"
		}
		if len(r.Hops) == 0 {
			r.Hops = []hop{r.hop}
		}
		for _, h := range r.Hops {
			if h.Dev != "" {
				lines = append(lines, fmt.Sprintf("route %s table %s via %s dev %s metric %d", r.Dst, r.Table, h.Gateway+h.Via.Host, h.Dev, r.Metric))
			}
		}
	}
	return lines
}

// shown returns the same of the graph.
func (l *lab) shown(ns string) []string {
	snap := l.Graph.Snapshot()
	owner := l.Env.Root
	if ns != "" {
		found := l.Find("Type", "netns", "Name", ns)
		if len(found) != 1 {
			return []string{fmt.Sprintf("%d nodes of namespace %s", len(found), ns)}
		}
		owner = found[0].ID
	}
	nodes := make(map[string]*graph.Node)
	names := make(map[int64]string)
	for e := range snap.Out(owner) {
		if n := snap.Node(e.Child); relation(e) == probe.Ownership && n.Metadata.Text("Type") != "netns" {
			nodes[n.ID] = n
			index, _ := n.Metadata.Int("IfIndex")
			names[index] = n.Metadata.Text("Name")
		}
	}
	var lines []string
	for id, n := range nodes {
		m := n.Metadata
		var addresses []string
		for _, key := range []string{"IPV4", "IPV6"} {
			v, _ := m.Get(key)
			all, _ := v.(field.List)
			for _, a := range all {
				addresses = append(addresses, a.(string))
			}
		}
		slices.Sort(addresses)
		index, _ := m.Int("IfIndex")
		mtu, _ := m.Int("MTU")
		masterIndex, _ := m.Int("MasterIndex")
		master := names[masterIndex]
		edges := 0
		for e := range snap.In(id) {
			if relation(e) != probe.Layer2 || e.Metadata.Text("Type") != "" {
				continue
			}
			if edges++; nodes[e.Parent] == nil || nodes[e.Parent].Metadata.Text("Name") != master {
				lines = append(lines, "wrong master of "+m.Text("Name"))
			}
		}
		if (edges == 1) != (master != "") || edges > 1 {
			lines = append(lines, fmt.Sprintf("%d edges from master to %s", edges, m.Text("Name")))
		}
		lines = append(lines, fmt.Sprintf("%s index %d mtu %d %s mac %s master %s %v", m.Text("Name"), index, mtu, m.Text("State"), m.Text("MAC"), master, addresses))
		lines = append(lines, shownRoutes(m, names)...)
	}
	slices.Sort(lines)
	return lines
}

func shownRoutes(m field.Object, names map[int64]string) []string {
	var lines []string
	for _, t := range items(m, "RoutingTables") {
		id, _ := t.Int("ID")
		for _, r := range items(t, "Routes") {
			for _, h := range items(r, "NextHops") {
				index, _ := h.Int("IfIndex")
				metric, _ := h.Int("Priority")
				lines = append(lines, fmt.Sprintf("route %s table %d via %s dev %s metric %d", r.Text("Prefix"), id, h.Text("IP"), names[index], metric))
			}
		}
	}
	return lines
}

// items returns the objects of a list.
func items(o field.Object, key string) []field.Object {
	v, _ := o.Get(key)
	list, _ := v.(field.List)
	all := make([]field.Object, len(list))
	for i := range list {
		all[i], _ = list[i].(field.Object)
	}
	return all
}

// patienceOfTests is how long a test waits for what must come true, on however busy a machine; speed is measured by make bench.
const patienceOfTests = 10 * time.Second

// verify waits until the graph tells of the namespaces what the kernel does.
func (l *lab) verify(within time.Duration, namespaces ...string) {
	l.Helper()
	within = max(within, patienceOfTests)
	start := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var report strings.Builder
		for _, ns := range namespaces {
			want, got := l.kernel(ns), l.shown(ns)
			for _, line := range want {
				if !slices.Contains(got, line) {
					fmt.Fprintf(&report, "%q lacks: %s\n", ns, line)
				}
			}
			for _, line := range got {
				if !slices.Contains(want, line) {
					fmt.Fprintf(&report, "%q has: %s\n", ns, line)
				}
			}
		}
		if report.Len() == 0 {
			return
		}
		if time.Since(start) > within {
			l.Fatalf("the graph differs from the kernel:\n%s", report.String())
		}
		<-tick.C
	}
}
