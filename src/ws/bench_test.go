package ws

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// sink is the environment variable that turns the test binary into the thousand
// clients of BenchmarkFanOut: "addr count". A process of their own, so that the
// CPU time of the server can be told apart.
const sink = "WS_TEST_SINK"

func TestMain(m *testing.M) {
	if arg := os.Getenv(sink); arg != "" {
		runSink(arg)
		return
	}
	os.Exit(m.Run())
}

// runSink connects and reads everything as cheaply as possible, until the server closes.
func runSink(arg string) {
	var addr string
	var count int
	if _, err := fmt.Sscan(arg, &addr, &count); err != nil {
		panic(err)
	}
	var all sync.WaitGroup
	for i := range count {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(conn, "GET /ws/test HTTP/1.1\r\nHost: x\r\nX-Client-Type: tool\r\nX-Host-ID: %d\r\n%s\r\n", i, upgrade)
		all.Go(func() {
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 256<<10))
		})
	}
	all.Wait()
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkFanOut sends 1 KiB messages to 1,000 subscribers. One operation is one
// message delivered to one subscriber; msgs/cpu-s is per second of server CPU,
// kernel included. "burst" sends as fast as the queues take them, "even" one
// message every 2 ms, the worst case: there is nothing to put together while the
// server keeps up.
func BenchmarkFanOut(b *testing.B) {
	b.Run("burst", func(b *testing.B) { benchmarkFanOut(b, 0) })
	b.Run("even", func(b *testing.B) { benchmarkFanOut(b, 2*time.Millisecond) })
}

func benchmarkFanOut(b *testing.B, every time.Duration) {
	const subscribers = 1000
	s := newServer(b, func(o *EndpointOptions) {
		o.Config = Config{PingDelay: time.Hour}
		o.Connect = func(*Conn) (Session, error) { return nil, nil }
	})
	clients := exec.Command(os.Args[0], "-test.run=^$")
	clients.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", sink, s.addr, subscribers))
	clients.Stderr = os.Stderr
	if err := clients.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		s.stop()
		<-s.stopped
		_ = clients.Wait()
	}()
	eventually(b, "subscribers", func() bool { return len(s.Conns()) == subscribers })

	msg := bytes.Repeat([]byte("x"), 1024)
	b.ResetTimer()
	start, cpu := time.Now(), cpuTime()
	tick := time.NewTicker(max(every, 1))
	defer tick.Stop()
	for sent := 0; sent < b.N; {
		for _, c := range s.Conns() {
			if err := c.SendWait(b.Context(), msg); err != nil {
				b.Fatal(err)
			}
		}
		if sent += subscribers; every > 0 {
			<-tick.C
		}
	}
	for _, c := range s.Conns() {
		if err := c.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	rounds := (b.N + subscribers - 1) / subscribers
	delivered := float64(rounds * subscribers)
	b.ReportMetric(delivered/time.Since(start).Seconds(), "msgs/s")
	b.ReportMetric(delivered/(cpuTime()-cpu).Seconds(), "msgs/cpu-s")
}

// BenchmarkReceive is one client sending small messages to a server that reads them.
func BenchmarkReceive(b *testing.B) {
	s := newServer(b, nil)
	client, _ := s.dial(b, nil)
	served := wait(b, s.inboxes, "connection")
	msg := []byte(strings.Repeat("x", 300))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			if client.conn.SendWait(b.Context(), msg) != nil {
				return
			}
		}
	}()
	for range b.N {
		<-served.messages
	}
}
