package socket

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"skydive/src/bpf"
	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/flow"
)

// pcapOf writes frames as a pcap file, one each microsecond from a time on.
func pcapOf(frames [][]byte, from time.Time) []byte {
	b := []byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 1, 0, 0, 0}
	for i, f := range frames {
		at := from.Add(time.Duration(i) * time.Microsecond)
		for _, v := range []int{int(at.Unix()), at.Nanosecond() / 1000, len(f), len(f)} {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
		b = append(b, f...)
	}
	return b
}

// listening starts a pcap socket and returns where it listens.
func listening(t testing.TB, o Options, filter string) (*tapped, string) {
	t.Helper()
	address := make(chan string, 1)
	kind := Kinds(o)["pcapsocket"]
	s := start(t, capture.Kind{New: func(r capture.Request) capture.Source {
		if filter != "" {
			f, err := bpf.Compile(filter, bpf.Ethernet, 256)
			if err != nil {
				t.Fatal(err)
			}
			r.Filter = f
		}
		return upTo{kind.New(r), address}
	}}, capture.Node{ID: "n", Name: "n", Type: "veth", EncapType: "ether"}, nil)
	return s, <-address
}

// upTo tells what a source shows.
type upTo struct {
	capture.Source
	address chan string
}

func (u upTo) Run(ctx context.Context, up func(field.Object)) error {
	return u.Source.Run(ctx, func(o field.Object) {
		text, _ := o.Get("PCAPSocket")
		u.address <- text.(string)
		up(o)
	})
}

// give sends a stream and waits until the other side has closed, or taken it all.
func give(t testing.TB, address string, stream []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write(stream) // fails when the other side has closed
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, conn)
}

// free returns a range of ports of which the first is free.
func free(t testing.TB) Options {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	return Options{BindAddress: "127.0.0.1", MinPort: port, MaxPort: port + 20}
}

func TestPcapSocketsTakeClientsOneAfterTheOther(t *testing.T) {
	o := free(t)
	first, a := listening(t, o, "udp and greater 100")
	second, b := listening(t, o, "")
	if a == b {
		t.Fatalf("both at %s", a)
	}
	then := time.Unix(1400000000, 0)
	stream := pcapOf(traffic(1200, 60, 200), then)
	clock := first.source.(upTo).Source.(capture.Clock)
	if !clock.Now().IsZero() {
		t.Fatal("a time before the first packet")
	}
	give(t, a, stream)
	give(t, a, []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	give(t, a, stream[:len(stream)-1])
	give(t, b, stream)
	if c := first.source.Counters(); c != (capture.Counters{Received: 1199, Filtered: 1200, Malformed: 2}) && c != (capture.Counters{Received: 1200, Filtered: 1199, Malformed: 2}) {
		t.Errorf("first: %+v", c)
	}
	if c := second.source.Counters(); c.Received != 1200 || c.Filtered != 0 {
		t.Errorf("second: %+v", c)
	}
	if p := first.kept[0]; p.Length != 200 || p.Time/1e9 != then.Unix() || !bytes.Equal(p.Data, p.Data[:200]) {
		t.Errorf("%+v", p)
	}
	if d := clock.Now().Sub(then); d < 1198*time.Microsecond || d > time.Minute {
		t.Errorf("the time is %v after that of the stream", d)
	}

	// A stream that is open does not hinder the end.
	conn, err := net.Dial("tcp", a)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(stream[:1000]); err != nil {
		t.Fatal(err)
	}
	if err := first.stop(); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", a); err == nil {
		t.Error("still listens")
	}
}

func TestPcapSocketWithoutFreePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	source := Kinds(Options{BindAddress: "127.0.0.1", MinPort: port, MaxPort: port})["pcapsocket"].New(request(capture.Node{}, nil))
	if err := source.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "no free port from "+strconv.Itoa(port)) {
		t.Fatal(err)
	}
}

// TestGive is no test but the other process of BenchmarkPcapSocket.
func TestGive(t *testing.T) {
	address := os.Getenv("SKCAP_GIVE")
	if address == "" {
		return
	}
	stream := pcapOf(traffic(50000, imix()...), time.Now())
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	n, _ := strconv.Atoi(os.Getenv("SKCAP_COUNT"))
	if _, err := conn.Write(stream[:24]); err != nil {
		t.Fatal(err)
	}
	for ; n > 0; n -= 50000 {
		if _, err := conn.Write(stream[24:]); err != nil {
			t.Fatal(err)
		}
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, conn)
}

// BenchmarkPcapSocket tells what a packet costs the agent, from the socket into a flow table.
func BenchmarkPcapSocket(b *testing.B) {
	const n = 3000000
	var cost float64
	for b.Loop() {
		table := flow.NewTable(flow.Options{MaxEntries: 500000, Update: time.Minute, Expire: 10 * time.Minute, HeaderSize: 256})
		r := request(capture.Node{Name: "n"}, table.Packets)
		r.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		o := free(b)
		source := Kinds(o)["pcapsocket"].New(r)
		ctx, cancel := context.WithCancel(b.Context())
		up, done := make(chan string, 1), make(chan error, 1)
		go func() {
			done <- source.Run(ctx, func(o field.Object) { text, _ := o.Get("PCAPSocket"); up <- text.(string) })
		}()
		cmd := exec.Command(os.Args[0], "-test.run=^TestGive$")
		cmd.Env = append(os.Environ(), "SKCAP_GIVE="+<-up, "SKCAP_COUNT="+strconv.Itoa(n))
		was := cpu()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		cost = float64(cpu()-was) / n
		cancel()
		if err := <-done; err != nil || table.Stats().PacketsReceived != n {
			b.Fatalf("%v, %+v", err, table.Stats())
		}
	}
	b.ReportMetric(cost, "cpu-ns/packet")
}
