package sampled

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/ovs/ovstest"
	"skydive/src/resource"
)

const rootNS = "ovd-switch"

// lab is a real Open vSwitch with two hosts, and a Manager that takes what it tells of them.
type lab struct {
	t   *testing.T
	ovs *ovstest.Server
	m   *capture.Manager
	pid string // of the namespace

	mu      sync.Mutex
	flows   map[string]flow.Flow // by UUID, as last reported
	shown   []field.Object
	metrics field.Object
}

func (l *lab) Flow(f *flow.Flow) {
	c := *f
	copied := func(p *flow.Layer) *flow.Layer {
		if p == nil {
			return nil
		}
		v := *p
		return &v
	}
	c.Link, c.Network = copied(f.Link), copied(f.Network)
	if f.Transport != nil {
		v := *f.Transport
		c.Transport = &v
	}
	if f.ICMP != nil {
		v := *f.ICMP
		c.ICMP = &v
	}
	l.mu.Lock()
	l.flows[f.UUID] = c
	l.mu.Unlock()
}

func (l *lab) Stats(flow.Stats) {}

func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func newLab(t *testing.T) *lab {
	if os.Geteuid() != 0 {
		ovstest.Missing(t, "root is needed for network namespaces")
	}
	l := &lab{t: t, flows: map[string]flow.Flow{}}
	for _, ns := range []string{rootNS, "ovd-a", "ovd-b"} {
		run(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { run(t, "ip", "netns", "del", ns) })
		run(t, "ip", "-n", ns, "link", "set", "lo", "up")
	}
	l.ovs = ovstest.Start(t, rootNS)
	args := []string{"add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"}
	for i, ns := range []string{"ovd-a", "ovd-b"} {
		port, n := "port-"+ns[4:], strconv.Itoa(i+1)
		run(t, "ip", "link", "add", port, "netns", rootNS, "type", "veth", "peer", "name", "eth0", "netns", ns)
		run(t, "ip", "-n", rootNS, "link", "set", port, "up")
		run(t, "ip", "-n", ns, "link", "set", "eth0", "address", "02:00:00:00:00:0"+n, "up")
		run(t, "ip", "-n", ns, "addr", "add", "10.77.0."+n+"/24", "dev", "eth0")
		args = append(args, "--", "add-port", "br0", port)
	}
	l.ovs.Vsctl(t, args...)
	l.m = capture.New(capture.Options{
		Kinds: Kinds(Options{}), Sink: l, Publish: func(_ string, all field.List) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.shown = nil
			for _, c := range all {
				l.shown = append(l.shown, c.(field.Object))
			}
		}, Metrics: func(_, _ string, v field.Object) {
			l.mu.Lock()
			l.metrics = v
			l.mu.Unlock()
		},
		Flow: flow.Options{MaxEntries: 1000, Update: time.Second, Expire: time.Minute}, StatsUpdate: 50 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return l
}

// listen begins a capture in the namespace of the switch.
func (l *lab) listen(kind string, port int) {
	l.t.Helper()
	node := capture.Node{ID: "n", TID: "tid-lo", Name: "lo", Type: "device", NetNS: "/run/netns/" + rootNS, IfIndex: 1, Up: true, IPV4: []string{"127.0.0.1/8"}}
	if err := l.m.Start(node, resource.Capture{Identity: resource.Identity{UUID: "c-" + kind}, Type: kind, Port: port, PollingInterval: 1}); err != nil {
		l.t.Fatal(err)
	}
	l.until("listening", func() bool {
		return len(l.shown) == 1 && l.shown[0].Text("State") == "active"
	})
}

// until waits for a condition, with mu.
func (l *lab) until(what string, ok func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		l.mu.Lock()
		good := ok()
		l.mu.Unlock()
		if good {
			return
		}
		<-tick.C
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.flows {
		l.t.Logf("flow %s", f.AppendJSON(nil))
	}
	l.t.Fatalf("not %s: %v", what, l.shown)
}

func TestRootOpenVSwitchSFlow(t *testing.T) {
	l := newLab(t)
	l.listen("sflow", 0)
	l.ovs.Vsctl(t, "--", "--id=@s", "create", "sflow", "agent=lo", `target="127.0.0.1:6343"`, "header=128", "sampling=1", "polling=1", "--",
		"set", "bridge", "br0", "sflow=@s")
	run(t, "ip", "netns", "exec", "ovd-a", "ping", "-q", "-c", "5", "-i", "0.1", "-W", "5", "10.77.0.2")
	l.until("one flow of five echoes and their replies", func() bool {
		for _, f := range l.flows {
			m := f.Metric
			if f.LayersPath == "Ethernet/IPv4/ICMPv4" && f.Network.A == "10.77.0.1" && f.NodeTID == "tid-lo" &&
				m.ABPackets == 5 && m.BAPackets == 5 && m.ABBytes == 5*98 && m.BABytes == 5*98 {
				return true
			}
		}
		return false
	})
	// Counters of the interfaces, and gauges of the switch.
	l.until("counters", func() bool {
		interfaces, _ := l.metrics.Get("IfMetrics")
		in, _ := l.metrics.Lookup("Metric.IfInUcastPkts")
		memory, _ := l.metrics.Lookup("LastUpdateMetric.OvsAppMemUsed")
		n, _ := in.(int64)
		o, _ := interfaces.(field.Object)
		return len(o) >= 2 && n >= 10 && memory != nil
	})
	if err := l.m.Stop("n", "c-sflow"); err != nil {
		t.Fatal(err)
	}
	l.until("taken away", func() bool { return l.metrics == nil && l.shown == nil })
}

// pinged tells whether there is one flow of five echoes and their replies, of so many bytes each.
func (l *lab) pinged(path string, size int64) func() bool {
	return func() bool {
		for _, f := range l.flows {
			m := f.Metric
			if f.LayersPath == path && f.NodeTID == "tid-lo" && m.ABPackets == 5 && m.BAPackets == 5 && m.ABBytes == 5*size && m.BABytes == 5*size {
				return true
			}
		}
		return false
	}
}

func TestRootOpenVSwitchNetflowAndIPFIX(t *testing.T) {
	l := newLab(t)
	l.listen("netflow", 4739)
	l.ovs.Vsctl(t, "--", "--id=@i", "create", "ipfix", `targets="127.0.0.1:4739"`, "sampling=1", "obs_domain_id=1", "obs_point_id=2", "cache_active_timeout=1", "--",
		"set", "bridge", "br0", "ipfix=@i")
	run(t, "ip", "netns", "exec", "ovd-a", "ping", "-q", "-c", "5", "-i", "0.1", "-W", "5", "10.77.0.2")
	l.until("told of by IPFIX, coming in and leaving", l.pinged("Ethernet/IPv4/ICMPv4", 98))
	l.ovs.Vsctl(t, "--", "--id=@n", "create", "netflow", `targets="127.0.0.1:4739"`, "active_timeout=1", "--", "clear", "bridge", "br0", "ipfix", "--",
		"set", "bridge", "br0", "netflow=@n")
	run(t, "ip", "netns", "exec", "ovd-a", "ping", "-q", "-c", "5", "-i", "0.1", "-W", "5", "10.77.0.2")
	l.until("told of by NetFlow", l.pinged("IPv4/ICMPv4", 98))
	// The records of packets that leave have come long since.
	l.until("counted once", l.pinged("Ethernet/IPv4/ICMPv4", 98))
}
