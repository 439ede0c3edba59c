package socket

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skydive/src/bpf"
	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/resource"
)

// eventually waits for what must come true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func filtered(t testing.TB, expr string, snapLen int) func(*capture.Request) {
	f, err := bpf.Compile(expr, bpf.Ethernet, snapLen)
	if err != nil {
		t.Fatal(err)
	}
	return func(r *capture.Request) { r.Filter, r.SnapLen = f, snapLen }
}

func TestRootSeesBothDirections(t *testing.T) {
	w := newWire(t)
	counted := func() int64 {
		return statistic(t, w.right, "wr0", "rx_packets") + statistic(t, w.right, "wr0", "tx_packets")
	}
	octets := func() int64 {
		return statistic(t, w.right, "wr0", "rx_bytes") + statistic(t, w.right, "wr0", "tx_bytes")
	}
	packets, bytes := counted(), octets()
	s := start(t, Kinds(Options{})["pcap"], node(t, w.right, "wr0"), nil)
	ping(t, w.left, "10.77.0.2", 20, 1000)
	if flags := sh(t, "ip netns exec %s cat /sys/class/net/wr0/flags", w.right); flags != "0x1103" {
		t.Errorf("flags %s are without promiscuous mode", flags)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	packets, bytes = counted()-packets, octets()-bytes
	if packets < 40 || s.packets.Load() != packets || s.bytes.Load() != bytes {
		t.Fatalf("%d packets, %d bytes; the interface counted %d, %d", s.packets.Load(), s.bytes.Load(), packets, bytes)
	}
}

// Segmentation offload makes super-packets of TCP: bytes count as they are on the interface.
func TestRootCountsSuperPackets(t *testing.T) {
	w := newWire(t)
	counted := func(what string) int64 {
		return statistic(t, w.right, "wr0", "rx_"+what) + statistic(t, w.right, "wr0", "tx_"+what)
	}
	packets, bytes := counted("packets"), counted("bytes")
	s := start(t, Kinds(Options{})["afpacket"], node(t, w.right, "wr0"), nil)
	in(t, w.right, func() error { return sink("10.77.0.2:5000") })
	in(t, w.left, func() error { return pour("10.77.0.2:5000", 20<<20) })
	eventually(t, "end of the connection", func() bool {
		return sh(t, "ip netns exec %s ss -Htan | grep -Ev 'LISTEN|TIME-WAIT' || true", w.right) == ""
	})
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	packets, bytes = counted("packets")-packets, counted("bytes")-bytes
	longest := 0
	for _, p := range s.kept {
		longest = max(longest, p.Length)
	}
	if s.packets.Load() != packets || s.bytes.Load() != bytes || bytes < 20<<20 || longest < 20000 {
		t.Fatalf("%d packets, %d bytes, longest %d; the interface counted %d, %d", s.packets.Load(), s.bytes.Load(), longest, packets, bytes)
	}
}

func TestRootFilterAndSnapLength(t *testing.T) {
	w := newWire(t)
	n := node(t, w.right, "wr0")
	frames := traffic(100, 100, 200)
	copy(frames[slices.IndexFunc(frames, func(f []byte) bool { return len(f) == 100 })][30:], []byte{192, 0, 2, 1})
	only := start(t, Kinds(Options{})["afpacket"], n, filtered(t, "dst host 192.0.2.1", 14))
	others := start(t, Kinds(Options{})["afpacket"], n, filtered(t, "not dst host 192.0.2.1 and greater 150", 4096))
	tagged := start(t, Kinds(Options{})["afpacket"], n, filtered(t, "vlan 100 and udp", 60))
	plain := traffic(1, 100)[0]
	vlan := append(append(bytes.Clone(plain[:12]), 0x81, 0, 0x60, 100), plain[12:]...)
	double := append(append(bytes.Clone(plain[:12]), 0x88, 0xa8, 0, 9, 0x81, 0, 0, 100), plain[12:]...)
	s := newSender(t, w.left, "wl0")
	for _, f := range [][][]byte{frames, {vlan}, {double}} {
		if _, err := s.send(f, len(f), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		*tapped
		packets, kept int
	}{{only, 1, 14}, {others, 50, 200}, {tagged, 1, 60 + 4}} {
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		if got := c.source.Counters(); len(c.tapped.kept) != c.packets || got.Received != int64(c.packets) || got.Seen != 102 {
			t.Fatalf("%d packets, %+v", len(c.tapped.kept), got)
		}
		for _, p := range c.tapped.kept {
			if len(p.Data) != c.kept {
				t.Errorf("%d bytes kept of %d", len(p.Data), p.Length)
			}
		}
	}
	if p := tagged.kept[0]; p.Length != len(vlan) || !bytes.Equal(p.Data, vlan[:len(p.Data)]) {
		t.Errorf("tagged frame of %d: %x", p.Length, p.Data)
	}
}

func TestRootPutsVLANTagsBack(t *testing.T) {
	w := newWire(t)
	s := start(t, Kinds(Options{})["afpacket"], node(t, w.right, "wr0"), nil)
	plain := traffic(1, 64)[0]
	tag := func(f []byte, tpid, tci uint16) []byte {
		b := bytes.Clone(f[:12])
		b = binary.BigEndian.AppendUint16(b, tpid)
		b = binary.BigEndian.AppendUint16(b, tci)
		return append(b, f[12:]...)
	}
	frames := [][]byte{plain, tag(plain, 0x8100, 0x6064), tag(plain, 0x88a8, 5), tag(tag(plain, 0x8100, 7), 0x88a8, 9), tag(tag(plain, 0x8100, 8), 0x8100, 0)}
	if _, err := newSender(t, w.left, "wl0").send(frames, len(frames), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if len(s.kept) != len(frames) {
		t.Fatalf("%d packets", len(s.kept))
	}
	for i, p := range s.kept {
		if !bytes.Equal(p.Data, frames[i]) || p.Length != len(frames[i]) {
			t.Errorf("%d: %x\n want %x", i, p.Data, frames[i])
		}
	}
}

// tun makes a device whose other end is the file.
func tun(t testing.TB, ns string, tap bool) *os.File {
	t.Helper()
	var f *os.File
	in(t, ns, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "tun")
		request, err := unix.NewIfreq("tun7")
		if err != nil {
			return err
		}
		flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if tap {
			flags = unix.IFF_TAP | unix.IFF_NO_PI
		}
		request.SetUint16(flags)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	t.Cleanup(func() { f.Close() })
	sh(t, "ip -n %s link set tun7 up", ns)
	sh(t, "ip -n %s addr add 10.78.0.1/24 dev tun7", ns)
	return f
}

func TestRootTunAndTap(t *testing.T) {
	for _, c := range []struct {
		name, encap string
		link        bpf.LinkType
		header      int
	}{{"tun", "none", bpf.RawIP, 0}, {"tap", "ether", bpf.Ethernet, 14}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(t)
			f := tun(t, w.right, c.name == "tap")
			m, r := managing(t, Options{})
			n := node(t, w.right, "tun7")
			n.EncapType, n.Type = c.encap, "tuntap"
			asked := captureOf("c")
			asked.BPFFilter = "udp port 9 or udp port 1024"
			if err := m.Start(n, asked); err != nil {
				t.Fatal(err)
			}
			eventually(t, "active", func() bool { return r.state(n.ID) == "active" })
			if _, err := f.Write(udp(100, netip.MustParseAddrPort("10.78.0.2:1024"), netip.MustParseAddrPort("10.78.0.1:9"))[14-c.header:]); err != nil {
				t.Fatal(err)
			}
			if c.name == "tun" { // a tap would ask for a MAC address first
				in(t, w.right, func() error {
					conn, err := net.Dial("udp", "10.78.0.2:9")
					if err != nil {
						return err
					}
					defer conn.Close()
					_, err = conn.Write(make([]byte, 58))
					return err
				})
			}
			eventually(t, "packet", func() bool { return m.Tables()[0].Stats().PacketsReceived > 0 })
			if err := m.Stop(n.ID, "c"); err != nil {
				t.Fatal(err)
			}
			want := map[string]bool{"tap": r.flows[0].LayersPath == "Ethernet/IPv4/UDP" && len(r.flows) == 1, "tun": r.flows[0].LayersPath == "IPv4/UDP" && len(r.flows) == 2}
			for _, f := range r.flows {
				if !want[c.name] || f.NodeTID != n.TID || f.CaptureID != "c" || f.Metric.ABPackets != 1 || f.Network.A[:8] != "10.78.0." {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

func TestRootLoopbackIsSeenOnce(t *testing.T) {
	w := newWire(t)
	sh(t, "ip -n %s link set lo up", w.right)
	s := start(t, Kinds(Options{})["afpacket"], node(t, w.right, "lo"), nil)
	ping(t, w.right, "127.0.0.1", 5, 56)
	if err := s.stop(); err != nil || s.packets.Load() != 10 || s.source.Counters().Seen != 10 {
		t.Fatalf("%v, %d packets, %+v", err, s.packets.Load(), s.source.Counters())
	}
}

func TestRootOpeningWhatIsNotThere(t *testing.T) {
	w := newWire(t)
	n := node(t, w.right, "wr0")
	for _, c := range []struct {
		name   string
		change func(*capture.Node)
		want   error
	}{
		{"no namespace", func(n *capture.Node) { n.NetNS += "x" }, capture.ErrGone},
		{"not a namespace", func(n *capture.Node) { n.NetNS = "/etc/hostname" }, unix.EINVAL},
		{"no interface", func(n *capture.Node) { n.IfIndex = 4711 }, capture.ErrGone},
		{"down", func(*capture.Node) { sh(t, "ip -n %s link set wr0 down", w.right) }, capture.ErrDown},
	} {
		for name, kind := range Kinds(Options{}) {
			if !kind.Interface {
				continue
			}
			m := n
			c.change(&m)
			if err := kind.New(request(m, nil)).Run(t.Context(), func(field.Object) {}); !errors.Is(err, c.want) {
				t.Errorf("%s, %s: %v", c.name, name, err)
			}
		}
	}
}

// recorder is what an agent gives to a Manager.
type recorder struct {
	mu    sync.Mutex
	shown map[string]field.List
	flows []flow.Flow
}

func (r *recorder) Flow(f *flow.Flow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := *f
	r.flows = append(r.flows, c)
}
func (r *recorder) Stats(flow.Stats) {}

// state returns State and Error of the first capture of a node.
func (r *recorder) state(node string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.shown[node]) == 0 {
		return ""
	}
	o := r.shown[node][0].(field.Object)
	state, _ := o.Get("State")
	if reason, ok := o.Get("Error"); ok {
		return state.(string) + ": " + reason.(string)
	}
	return state.(string)
}

// count is how many captures of a node are in a state.
func (r *recorder) count(state, node string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.shown[node] {
		if s, _ := e.(field.Object).Get("State"); s == state {
			n++
		}
	}
	return n
}

// managing runs a Manager until the test ends.
func managing(t testing.TB, o Options) (*capture.Manager, *recorder) {
	t.Helper()
	r := &recorder{shown: map[string]field.List{}}
	m := capture.New(capture.Options{
		Kinds: Kinds(o), Targets: Targets(), Sink: r, Log: slog.New(slog.DiscardHandler), StatsUpdate: 50 * time.Millisecond,
		Flow: flow.Options{MaxEntries: 10000, Update: time.Minute, Expire: 10 * time.Minute},
		Publish: func(node string, l field.List) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.shown[node] = l
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m, r
}

func captureOf(id string) resource.Capture {
	return resource.Capture{Identity: resource.Identity{UUID: id}}
}

func TestRootInterfaceGoesDownAndUpAndAway(t *testing.T) {
	w := newWire(t)
	sh(t, "ip -n %s link set wr0 down", w.right)
	m, r := managing(t, Options{})
	n := node(t, w.right, "wr0")
	n.Up = false
	if err := m.Start(n, captureOf("c")); err != nil {
		t.Fatal(err)
	}
	is := func(want string) {
		t.Helper()
		eventually(t, want, func() bool { return strings.HasPrefix(r.state(n.ID), want) })
	}
	is("waiting: interface is down")
	sh(t, "ip -n %s link set wr0 up", w.right)
	n.Up = true
	m.Update(n)
	is("active")
	ping(t, w.left, "10.77.0.2", 2, 56)

	sh(t, "ip -n %s link set wr0 down", w.right)
	is("waiting: interface is down")
	n.Up = false
	m.Update(n)
	sh(t, "ip -n %s link set wr0 up", w.right)
	n.Up = true
	m.Update(n)
	is("active")
	ping(t, w.left, "10.77.0.2", 2, 56)

	sh(t, "ip -n %s link del wr0", w.right)
	is("error: interface is gone")
	m.Gone(n.ID)
	eventually(t, "flows", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		var pings int64
		for _, f := range r.flows {
			if f.ICMP != nil {
				pings += f.Metric.ABPackets + f.Metric.BAPackets
			}
		}
		return pings == 8
	})
}

// A capture holds the namespace that it is in: one that is deleted is let go when its node is.
func TestRootNamespaceGoes(t *testing.T) {
	w := newWire(t)
	m, r := managing(t, Options{})
	n := node(t, w.right, "wr0")
	if err := m.Start(n, captureOf("c")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "active", func() bool { return r.state(n.ID) == "active" })
	sh(t, "ip netns del %s", w.right)
	m.Gone(n.ID)
	eventually(t, "end of the cable", func() bool { return !strings.Contains(sh(t, "ip -n %s -o link", w.left), "wl0") })
}

// Packets that come as fast as they can while captures start: not one that the filter refuses is seen.
func TestRootFilterIsThereFromTheFirstPacket(t *testing.T) {
	w := newWire(t)
	n := node(t, w.right, "wr0")
	s := newSender(t, w.left, "wl0")
	frames := traffic(100, 60)
	var busy sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	busy.Go(func() {
		for ctx.Err() == nil {
			_, _ = s.send(frames, 1000, 0)
		}
	})
	for range 30 {
		c := start(t, Kinds(Options{RingSize: 256 << 10})["afpacket"], n, filtered(t, "tcp", 256))
		if err := c.stop(); err != nil || c.packets.Load() != 0 || c.source.Counters().Received != 0 {
			t.Fatalf("%v, %d packets", err, c.packets.Load())
		}
	}
	cancel()
	busy.Wait()
}

// use is what must not grow: of the process.
type use struct {
	fds, goroutines, rings int
	heap                   uint64
	anonymous              int // kB in memory, flow tables included
}

func used(t testing.TB) (u use) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	debug.FreeOSMemory()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(status), "RssAnon:")
	if _, err := fmt.Sscan(text, &u.anonymous); err != nil {
		t.Fatal(err)
	}
	if info, ok := debug.ReadBuildInfo(); !ok || slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		u.anonymous = 0 // the race detector keeps what it noted of memory that is gone
	}
	u.fds, u.goroutines, u.rings, u.heap = len(list), runtime.NumGoroutine(), bytes.Count(maps, []byte("socket:")), m.HeapInuse
	return u
}

func TestRoot200CapturesStartAndStop50Times(t *testing.T) {
	w := newWire(t)
	m, r := managing(t, Options{RingSize: 256 << 10})
	n := node(t, w.right, "wr0")
	s, frames := newSender(t, w.left, "wl0"), traffic(30, 100)
	ids := make([]string, 200)
	for i := range ids {
		ids[i] = "c" + string(rune('0'+i/100)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10))
	}
	shows := func(count int) {
		t.Helper()
		eventually(t, "captures", func() bool {
			r.mu.Lock()
			shown := len(r.shown[n.ID])
			r.mu.Unlock()
			return shown == count && r.count("active", n.ID) == count
		})
	}
	round := func() {
		for _, id := range ids {
			if err := m.Start(n, captureOf(id)); err != nil {
				t.Fatal(err)
			}
		}
		shows(len(ids))
		if _, err := s.send(frames, len(frames), 0); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for _, id := range ids {
			all.Go(func() {
				if err := m.Stop(n.ID, id); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		shows(0)
		r.mu.Lock()
		defer r.mu.Unlock()
		if got := len(r.flows); got < len(ids)*len(frames)/2 {
			t.Fatalf("%d flows", got)
		}
		r.flows = nil
	}
	rounds := 50
	round()
	round()
	before := used(t)
	begin := time.Now()
	for range rounds - 2 {
		round()
	}
	took := time.Since(begin)
	var after use
	defer func() { t.Logf("%d rounds in %v; before %+v, after %+v", rounds, took, before, after) }()
	eventually(t, "as before", func() bool {
		after = used(t)
		return after.fds <= before.fds && after.goroutines <= before.goroutines && after.rings <= before.rings && after.heap <= before.heap+4<<20 &&
			after.anonymous <= before.anonymous+32<<10
	})
}
