package socket

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/resource"
)

// tapped runs one source and keeps what it gives.
type tapped struct {
	source  capture.Source
	packets atomic.Int64
	bytes   atomic.Int64
	stop    func() error
	mu      sync.Mutex
	kept    []flow.Packet
}

func request(n capture.Node, packets func([]flow.Packet)) capture.Request {
	return capture.Request{
		Node: n, Link: 1, SnapLen: 256, Intake: capture.NewIntake(packets), Log: slog.New(slog.DiscardHandler), Capture: resource.Capture{},
	}
}

// start runs a source until the test ends or stop is called.
func start(t testing.TB, kind capture.Kind, n capture.Node, change func(*capture.Request)) *tapped {
	t.Helper()
	s := &tapped{}
	r := request(n, func(batch []flow.Packet) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, p := range batch {
			s.bytes.Add(int64(p.Length))
			if len(s.kept) < 1000 {
				p.Data = append([]byte(nil), p.Data...)
				s.kept = append(s.kept, p)
			}
		}
		s.packets.Add(int64(len(batch)))
	})
	if change != nil {
		change(&r)
	}
	s.source = kind.New(r)
	ctx, cancel := context.WithCancel(context.Background())
	up, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.source.Run(ctx, func(field.Object) { close(up) }) }()
	select {
	case <-up:
	case err := <-done:
		cancel()
		t.Fatalf("source ended: %v", err)
	case <-time.After(10 * time.Second):
		cancel()
		t.Fatal("source does not start")
	}
	s.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = s.stop() })
	return s
}

func TestRootSeesWhatTheInterfaceCounts(t *testing.T) {
	w := newWire(t)
	before := statistic(t, w.right, "wr0", "rx_packets")
	s := start(t, Kinds(Options{})["afpacket"], node(t, w.right, "wr0"), nil)
	const n = 20000
	if _, err := newSender(t, w.left, "wl0").send(traffic(100, 60, 1514), n, 200000); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if got := statistic(t, w.right, "wr0", "rx_packets") - before; got != n {
		t.Fatalf("the interface counted %d", got)
	}
	c := s.source.Counters()
	if s.packets.Load() != n || c.Received != n || c.Seen != n || c.Dropped != 0 || s.bytes.Load() != n*(60+1514)/2 {
		t.Fatalf("%d packets, %d bytes, %+v", s.packets.Load(), s.bytes.Load(), c)
	}
}

// TestSend is no test but the other process of BenchmarkRoot…
func TestSend(t *testing.T) {
	if os.Getenv("SKCAP_SEND") == "" {
		return
	}
	n, _ := strconv.Atoi(os.Getenv("SKCAP_COUNT"))
	flows, _ := strconv.Atoi(os.Getenv("SKCAP_FLOWS"))
	rate, _ := strconv.ParseFloat(os.Getenv("SKCAP_RATE"), 64)
	sizes := imix()
	if os.Getenv("SKCAP_SMALL") != "" {
		sizes = []int{60}
	}
	frames := traffic(flows, sizes...)
	begin := time.Now()
	if _, err := newSender(t, os.Getenv("SKCAP_SEND"), "wl0").send(frames, n, rate); err != nil {
		t.Fatal(err)
	}
	t.Logf("sent %.0f/s", float64(n)/time.Since(begin).Seconds())
}

func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRootRing tells what a packet costs the agent, from the ring into a flow table, and how many are lost.
func BenchmarkRootRing(b *testing.B) {
	for _, c := range []struct {
		name, small string
		rate        string
	}{{"imix", "", "0"}, {"imix-500k", "", "500000"}, {"64B", "1", "0"}} {
		b.Run(c.name, func(b *testing.B) {
			const n, flows = 3000000, 50000
			w := newWire(b)
			var lost, cost, rate float64
			for b.Loop() {
				table := flow.NewTable(flow.Options{MaxEntries: 500000, Update: time.Minute, Expire: 10 * time.Minute, HeaderSize: 256})
				s := start(b, Kinds(Options{})["afpacket"], node(b, w.right, "wr0"), func(r *capture.Request) { r.Intake = capture.NewIntake(table.Packets) })
				cmd := exec.Command(os.Args[0], "-test.run=^TestSend$", "-test.v")
				cmd.Env = append(os.Environ(), "SKCAP_SEND="+w.left, "SKCAP_COUNT="+strconv.Itoa(n), "SKCAP_FLOWS="+strconv.Itoa(flows),
					"SKCAP_SMALL="+c.small, "SKCAP_RATE="+c.rate)
				was, begin := cpu(), time.Now()
				out, err := cmd.CombinedOutput()
				if err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				took := time.Since(begin)
				if err := s.stop(); err != nil {
					b.Fatal(err)
				}
				got := s.source.Counters()
				if got.Received != n || table.Stats().PacketsReceived != n-got.Dropped {
					b.Fatalf("%+v, %+v", got, table.Stats())
				}
				lost, cost = float64(got.Dropped)/n, float64(cpu()-was)/float64(n-got.Dropped)
				rate = n / took.Seconds()
				b.Logf("%s", out)
			}
			b.ReportMetric(cost, "cpu-ns/packet")
			b.ReportMetric(lost*100, "%lost")
			b.ReportMetric(rate, "packets/s")
		})
	}
}
