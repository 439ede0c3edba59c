package ovsdb

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"skydive/src/ovs"
	"skydive/src/probe/probetest"
)

// TestRootAThousandPorts reports how long it takes until ports are in the graph; it fails only when they do not get there, or twice.
func TestRootAThousandPorts(t *testing.T) {
	const bridges, each = 20, 50
	l := newLab(t, "ova-scale")
	l.start()
	var args []string
	for b := range bridges {
		br := fmt.Sprintf("br%d", b)
		args = append(args, "--", "add-br", br, "--", "set", "bridge", br, "datapath_type=netdev")
		for p := range each {
			name := fmt.Sprintf("p%d-%d", b, p)
			args = append(args, "--", "add-port", br, name, "--", "set", "interface", name, "type=internal", "external_ids:iface-id="+name)
		}
	}
	start := time.Now()
	l.Vsctl(t, args[1:]...)
	made := time.Since(start)
	complete := func() bool {
		done := 0
		for _, n := range l.Find("Type", "internal") {
			if n.Metadata.Text("UUID") != "" && n.Metadata.Text("TID") != "" && value(n, "OfPort") != nil {
				done++
			}
		}
		return done == bridges*(each+1)
	}
	took := probetest.Eventually(t, time.Minute, "all ports", complete)
	t.Logf("ovs-vsctl took %v, then the graph %v", made.Round(time.Millisecond), took.Round(time.Millisecond))
	// Per bridge: itself, its ports and their interfaces; and the host, lo and the kernel's ovs-netdev. Each node but the host has an
	// owner, each port a link from its bridge and one to its interface.
	const nodes = bridges*(1+2*(each+1)) + 3
	const edges = nodes - 1 + 2*bridges*(each+1)
	l.eventually("each interface once", func() bool {
		snap := l.Graph.Snapshot()
		return snap.NodeCount() == nodes && snap.EdgeCount() == edges
	})
	used := cpu(t)
	sub, _ := l.Graph.Subscribe(1)
	defer sub.Close()
	idle := time.NewTimer(3 * time.Second)
	for ended := false; !ended; {
		select {
		case _, ok := <-sub.C():
			if !ok {
				sub, _ = l.Graph.Subscribe(1)
			}
		case <-idle.C:
			ended = true
		}
	}
	t.Logf("CPU time of 3 s without changes, both probes and this test: %v", cpu(t)-used)
	start = time.Now()
	l.Vsctl(t, "del-br", "br0") // takes ovs-vswitchd a second
	made = time.Since(start)
	took = probetest.Eventually(t, time.Minute, "bridge gone", func() bool {
		return l.Graph.Snapshot().NodeCount() == nodes-1-2*(each+1)
	})
	t.Logf("deletion of a bridge: ovs-vsctl took %v, then the graph %v", made.Round(time.Millisecond), took.Round(time.Millisecond))
}

func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTakeIn takes in a first batch of 1,000 ports on 20 bridges.
func BenchmarkTakeIn(b *testing.B) {
	h := probetest.NewHost(b)
	batch := ovs.Batch{Initial: true}
	for br := range 20 {
		var ports []any
		for p := range 50 {
			name := fmt.Sprintf("p%d-%d", br, p)
			i, port := ovs.UUID("i"+name), ovs.UUID(name)
			ports = append(ports, port)
			batch.Changes = append(batch.Changes,
				ovs.Change{Table: tableInterface, UUID: i, New: ovs.Row{"name": name, "type": "vxlan"}},
				ovs.Change{Table: tablePort, UUID: port, New: ovs.Row{"name": name, "interfaces": i}})
		}
		name := fmt.Sprintf("br%d", br)
		batch.Changes = append(batch.Changes, ovs.Change{Table: tableBridge, UUID: ovs.UUID(name), New: ovs.Row{"name": name, "ports": ports}})
	}
	p := &Probe{env: h.Env, metrics: newMetrics(nil)}
	for b.Loop() {
		v := newView(p)
		v.take(batch)
		if err := v.publish(); err != nil {
			b.Fatal(err)
		}
		if err := v.withdraw(); err != nil {
			b.Fatal(err)
		}
	}
}

// handles counts goroutines and open files.
func handles(t testing.TB) (goroutines, files int) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return runtime.NumGoroutine(), len(open)
}
