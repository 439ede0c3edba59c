package analyzer

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/ws"
)

// large fills a graph with as many nodes, and links between them, of hosts with 1000 each.
func large(b *testing.B, g *graph.Graph, nodes int) {
	b.Helper()
	if err := g.Update("", func(tx *graph.Tx) error {
		for i := range nodes {
			host := fmt.Sprintf("h%d", i/1000)
			el := graph.Element{ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), Host: host, Origin: "agent." + host, Revision: 1,
				Metadata: field.Make("Name", fmt.Sprint("eth", i), "Type", "veth", "MTU", int64(1500), "State", "UP", "MAC", fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", i>>24, i>>16&255, i>>8&255, i&255))}
			if err := tx.AddNode(&graph.Node{Element: el}); err != nil {
				return err
			}
			if i == 0 {
				continue
			}
			edge := graph.Element{ID: fmt.Sprintf("e%d", i), Host: host, Origin: "agent." + host, Revision: 1, Metadata: field.Make("RelationType", "layer2")}
			if err := tx.AddEdge(&graph.Edge{Element: edge, Parent: fmt.Sprintf("00000000-0000-4000-8000-%012d", i-1), Child: el.ID}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReplicaSync: a new analyzer gets 200,000 elements. Both are in this process.
func BenchmarkReplicaSync(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		addrs := freeAddrs(b, 2)
		setup := replicaSetup{expiry: time.Hour, config: ws.Config{PingDelay: 2 * time.Second}, addrs: func(string) []string { return addrs }}
		a := newReplica(b, "a1", addrs[0], setup)
		large(b, a.g, 100_000)
		runtime.GC()
		start := cpu(b)
		b.StartTimer()
		c := newReplica(b, "a2", addrs[1], setup)
		eventually(b, "all there", func() error {
			if s := c.g.Snapshot(); s.NodeCount() != 100_000 || s.EdgeCount() != 99_999 {
				return fmt.Errorf("%d nodes, %d edges", s.NodeCount(), s.EdgeCount())
			}
			return nil
		})
		b.ReportMetric((cpu(b) - start).Seconds(), "cpu-s/op")
		b.StopTimer()
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MB")
		a.stop()
		c.stop()
		b.StartTimer()
	}
}

// BenchmarkReplicaEvents: updates, 100 in a commit, of a graph of 200,000 elements, until the other analyzer has the last.
func BenchmarkReplicaEvents(b *testing.B) {
	addrs := freeAddrs(b, 2)
	setup := replicaSetup{expiry: time.Hour, config: ws.Config{PingDelay: 2 * time.Second}, addrs: func(string) []string { return addrs }}
	a, c := newReplica(b, "a1", addrs[0], setup), newReplica(b, "a2", addrs[1], setup)
	large(b, a.g, 100_000)
	eventually(b, "all there", func() error {
		if s := c.g.Snapshot(); s.NodeCount() != 100_000 || s.EdgeCount() != 99_999 {
			return fmt.Errorf("%d nodes, %d edges", s.NodeCount(), s.EdgeCount())
		}
		return nil
	})
	start, n := cpu(b), 0
	for b.Loop() {
		for range 50 { // 5000 updates; the other must not fall far behind
			if err := a.g.Update("", func(tx *graph.Tx) error {
				for range 100 {
					n++
					id := fmt.Sprintf("00000000-0000-4000-8000-%012d", n*7919%100_000)
					m, err := tx.Node(id).Metadata.Set("Metric.RxBytes", int64(n))
					if err == nil {
						_, err = tx.SetNodeMetadata(id, m)
					}
					if err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
		}
		last := fmt.Sprintf("00000000-0000-4000-8000-%012d", n*7919%100_000)
		eventually(b, "the last", func() error {
			if v, _ := c.g.Snapshot().Node(last).Metadata.Int("Metric.RxBytes"); v != int64(n) {
				return fmt.Errorf("%d", v)
			}
			return nil
		})
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64((cpu(b)-start).Nanoseconds())/float64(n), "cpu-ns/event")
	b.ReportMetric(float64(c.replicas.Status().(ReplicasStatus).Outgoers["a1"].Received+c.replicas.Status().(ReplicasStatus).Incomers["a1"].Received), "received")
}
