package mirror

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"skydive/src/capture"
	"skydive/src/capture/socket"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/ovs/ovstest"
	"skydive/src/resource"
)

// eventually waits for what must come true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func sh(t testing.TB, format string, args ...any) string {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	out, err := exec.Command("sh", "-c", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return strings.TrimSpace(string(out))
}

// lab is a bridge br0 with the ports pa and pb, behind which are the namespaces a (10.78.0.1) and b (10.78.0.2).
type lab struct {
	*ovstest.Server
	sw, a, b string // namespaces
	before   string // what the database has without captures
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{sw: ovstest.Namespace(t, "ovc-sw"), a: ovstest.Namespace(t, "ovc-a"), b: ovstest.Namespace(t, "ovc-b")}
	l.Server = ovstest.Start(t, l.sw)
	l.Bridge(t, "br0")
	for i, ns := range []string{l.a, l.b} {
		name := "p" + ns[len("ovc-"):]
		sh(t, "ip -n %s link add eth0 type veth peer name %s netns %s", ns, name, l.sw)
		sh(t, "ip -n %s addr add 10.78.0.%d/24 dev eth0 && ip -n %[1]s link set eth0 up && ip -n %[3]s link set %[4]s up", ns, i+1, l.sw, name)
		l.Vsctl(t, "add-port", "br0", name)
	}
	l.before = l.rows(t)
	return l
}

// rows are all that captures could leave behind.
func (l *lab) rows(t testing.TB) string {
	t.Helper()
	var all []string
	for _, table := range []string{"Mirror", "sFlow", "NetFlow", "IPFIX"} {
		all = append(all, table, l.Vsctl(t, "--columns=_uuid,external_ids", "list", table))
	}
	for _, args := range [][]string{
		{"--columns=name,ports,mirrors,sflow,netflow,ipfix", "list", "Bridge"},
		{"--columns=name,interfaces,external_ids", "list", "Port"}, {"--columns=name", "list", "Interface"},
	} {
		all = append(all, l.Vsctl(t, args...))
	}
	lines := strings.Split(strings.Join(all, "\n"), "\n")
	slices.Sort(lines) // the order of rows changes
	return strings.Join(lines, "\n")
}

func (l *lab) uuid(t testing.TB, table, name string) string {
	t.Helper()
	return l.Vsctl(t, "get", table, name, "_uuid")
}

func (l *lab) port(t testing.TB, name string) capture.Node {
	return capture.Node{ID: "port-" + name, TID: "tid-" + name, Name: name, Type: "ovsport", UUID: l.uuid(t, "Port", name), NetNS: "/run/netns/" + l.sw}
}

func (l *lab) bridge(t testing.TB, name string) capture.Node {
	return capture.Node{ID: "bridge-" + name, TID: "tid-" + name, Name: name, Type: "ovsbridge", UUID: l.uuid(t, "Bridge", name), NetNS: "/run/netns/" + l.sw}
}

func (l *lab) ping(t testing.TB, n int) {
	t.Helper()
	sh(t, "ip netns exec %s ping -q -c %d -i 0.01 -W 2 10.78.0.2", l.a, n)
}

// station is a Manager with a Switch, as in an agent.
type station struct {
	s    *Switch
	m    *capture.Manager
	stop func()

	mu        sync.Mutex
	log       bytes.Buffer
	published map[string]field.List
	metrics   map[string]field.Object // of bridges, by node and key
	flows     map[string]*flow.Flow   // last record, by UUID and capture
	mirrors   map[string]string       // node by interface
}

func (w *station) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *station) Stats(flow.Stats) {}

func (w *station) Flow(f *flow.Flow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := *f
	w.flows[f.UUID+f.CaptureID] = &c
}

func (l *lab) station(t testing.TB, change ...func(*Options)) *station {
	t.Helper()
	w := &station{published: make(map[string]field.List), metrics: make(map[string]field.Object), flows: make(map[string]*flow.Flow), mirrors: make(map[string]string)}
	log := slog.New(slog.NewTextHandler(w, nil))
	o := Options{
		Database: l.DB, Host: "h1", Log: log, Interface: socket.Kinds(socket.Options{})["afpacket"],
		SFlow: Pool{MinPort: 6345, MaxPort: 6346}, NetFlow: Pool{MinPort: 6365, MaxPort: 6367},
		Mirroring: func(iface, node string) func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.mirrors[iface] = node
			return func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				delete(w.mirrors, iface)
			}
		},
	}
	for _, f := range change {
		f(&o)
	}
	w.s = New(o)
	w.m = capture.New(capture.Options{
		Kinds: w.s.Kinds(), Sink: w, Log: log, Excluded: []string{"192.0.2.1:8082"},
		Publish: func(node string, list field.List) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.published[node] = list
		},
		Metrics: func(node, key string, o field.Object) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.metrics[node+" "+key] = o
		},
		Flow: flow.Options{MaxEntries: 1000, Update: time.Second, Expire: time.Minute}, StatsUpdate: 20 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { _ = w.s.Run(ctx) })
	all.Go(func() { _ = w.m.Run(ctx) })
	w.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Logf("log:\n%s", w.log.String())
		}
	})
	return w
}

// entry is what a node shows of a capture.
func (w *station) entry(node, id string) field.Object {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.published[node] {
		if o, _ := v.(field.Object); o.Text("ID") == id {
			return o
		}
	}
	return nil
}

func (w *station) start(t testing.TB, node capture.Node, c resource.Capture) {
	t.Helper()
	if err := w.m.Start(node, c); err != nil {
		t.Fatal(err)
	}
	w.becomes(t, node, c, "active", "")
}

func (w *station) becomes(t testing.TB, node capture.Node, c resource.Capture, state, reason string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("shown: %v", w.entry(node.ID, c.UUID))
		}
	}()
	eventually(t, "capture "+c.UUID+" "+state+" "+reason, func() bool {
		o := w.entry(node.ID, c.UUID)
		return o.Text("State") == state && strings.Contains(o.Text("Error"), reason)
	})
}

// packets counts what a capture's flows have of ICMP between a and b, in both directions.
func (w *station) packets(id string) (n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.flows {
		if f.CaptureID == id && strings.HasSuffix(f.LayersPath, "/ICMPv4") {
			n += f.Metric.ABPackets + f.Metric.BAPackets
		}
	}
	return n
}

func (w *station) end(t testing.TB, node capture.Node, id string) {
	t.Helper()
	if err := w.m.Stop(node.ID, id); err != nil {
		t.Fatal(err)
	}
}

func asked(id, kind string) resource.Capture {
	c := resource.Capture{Type: kind}
	c.UUID = id
	return c
}

func (l *lab) clean(t testing.TB) {
	t.Helper()
	if after := l.rows(t); after != l.before {
		t.Fatalf("the database is not as before:\n%s\n--- before:\n%s", after, l.before)
	}
}
