package inject

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"skydive/src/field"
	"skydive/src/netns"
	"skydive/src/resource"
)

// patience is long because tests that make and end other namespaces hold the lock by which the kernel brings up interfaces.
const patience = time.Minute

// pair is two namespaces joined by a veth pair, va in the first and vb in the second.
type pair struct {
	testing.TB
	a, b       string // paths
	macA, macB net.HardwareAddr
}

func newPair(t testing.TB) *pair {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("SKYDIVE_CI") == "1" {
			t.Fatal("root is needed to make network namespaces")
		}
		t.Skip("root is needed to make network namespaces")
	}
	dir := t.TempDir()
	p := &pair{TB: t, a: filepath.Join(dir, "skinj-a"), b: filepath.Join(dir, "skinj-b"), macA: net.HardwareAddr{2, 0, 0, 0, 0, 0xa}, macB: net.HardwareAddr{2, 0, 0, 0, 0, 0xb}}
	for _, path := range []string{p.a, p.b} {
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("unshare", "--net="+path, "true").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() {
			_ = unix.Unmount(path, unix.MNT_DETACH)
			_ = os.Remove(path)
		})
	}
	p.ip(p.a, "link add va address 02:00:00:00:00:0a type veth peer name vb address 02:00:00:00:00:0b netns "+p.b+`
		addr add 10.0.0.1/24 dev va
		addr add 2001:db8::1/64 dev va nodad
		link set lo up
		link set va up`)
	p.ip(p.b, `addr add 10.0.0.2/24 dev vb
		addr add 2001:db8::2/64 dev vb nodad
		link set vb up`)
	// Until the kernel has seen the carrier it drops what is sent.
	for path, name := range map[string]string{p.a: "va", p.b: "vb"} {
		eventually(t, name+" is up", func() bool {
			out, err := exec.Command("nsenter", "--net="+path, "ip", "link", "show", name).Output()
			return err == nil && strings.Contains(string(out), "state UP")
		})
	}
	return p
}

func (p *pair) ip(ns, commands string) {
	p.Helper()
	cmd := exec.Command("nsenter", "--net="+ns, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(commands + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.Fatalf("ip in %s: %v\n%s", ns, err, out)
	}
}

// in runs something in a namespace.
func (p *pair) in(path string, fn func() error) {
	p.Helper()
	ns, err := netns.OpenPath(path)
	if err != nil {
		p.Fatal(err)
	}
	defer ns.Close()
	if err := netns.Do(ns, fn); err != nil {
		p.Fatal(err)
	}
}

// sniff receives what an interface gets and sends.
func (p *pair) sniff(path, name string) *os.File {
	p.Helper()
	var file *os.File
	p.in(path, func() error {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xffff
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "sniffer")
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	})
	p.Cleanup(func() { file.Close() })
	return file
}

// await returns the first packet that is wanted.
func await(t testing.TB, from *os.File, first gopacket.Decoder, wanted func(gopacket.Packet) bool) gopacket.Packet {
	t.Helper()
	if err := from.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for {
		buf := make([]byte, 65536)
		n, err := from.Read(buf)
		if err != nil {
			t.Fatalf("not received: %v", err)
		}
		if packet := gopacket.NewPacket(buf[:n], first, gopacket.Default); wanted(packet) {
			return packet
		}
	}
}

func (p *pair) request(kind string) resource.InjectionRequest {
	r := resource.InjectionRequest{
		UUID: "u-" + kind, Type: kind, Count: 1, SrcMAC: p.macA, DstMAC: p.macB, SrcIP: "10.0.0.1", DstIP: "10.0.0.2", SrcPort: 2000, DstPort: 3000, ICMPID: 77, TTL: 33,
	}
	if strings.HasSuffix(kind, "6") {
		r.SrcIP, r.DstIP = "2001:db8::1", "2001:db8::2"
	}
	return r
}

// The kernel at the other end takes our packets for good: it answers, or hands them to who listens.
func TestRootKernelAnswers(t *testing.T) {
	p := newPair(t)
	node := Node{ID: "n", Name: "va", NetNS: p.a}
	send := func(r resource.InjectionRequest) {
		t.Helper()
		if sent, err := Once(t.Context(), node, r, nil); err != nil || sent != r.Count {
			t.Fatalf("%d %v", sent, err)
		}
	}
	for _, v6 := range []bool{false, true} {
		suffix, host := "4", "10.0.0.2"
		if v6 {
			suffix, host = "6", "2001:db8::2"
		}
		t.Run("udp"+suffix, func(t *testing.T) {
			var conn net.PacketConn
			p.in(p.b, func() (err error) {
				conn, err = net.ListenPacket("udp", net.JoinHostPort(host, "3000"))
				return err
			})
			defer conn.Close()
			r := p.request("udp" + suffix)
			r.Payload, r.Count, r.IncrementPayload = "hello", 3, 2
			send(r)
			for n := range 3 {
				buf := make([]byte, 100)
				if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				size, from, err := conn.ReadFrom(buf)
				if err != nil || size != 5+2*n || !strings.HasPrefix(string(buf[:size]), "hello") || netip.MustParseAddrPort(from.String()) != netip.AddrPortFrom(netip.MustParseAddr(r.SrcIP), 2000) {
					t.Fatalf("%q from %v: %v", buf[:size], from, err)
				}
			}
		})
		t.Run("icmp"+suffix, func(t *testing.T) {
			at, other := p.sniff(p.a, "va"), p.sniff(p.b, "vb")
			r := p.request("icmp" + suffix)
			r.Payload = "ping payload"
			send(r)
			ping := await(t, other, layers.LayerTypeEthernet, func(g gopacket.Packet) bool {
				return g.Layer(layers.LayerTypeICMPv4) != nil || g.Layer(layers.LayerTypeICMPv6Echo) != nil
			})
			if ip, ok := ping.NetworkLayer().(*layers.IPv4); ok && ip.TTL != 33 {
				t.Errorf("TTL %d", ip.TTL)
			}
			if ip, ok := ping.NetworkLayer().(*layers.IPv6); ok && ip.HopLimit != 33 {
				t.Errorf("hop limit %d", ip.HopLimit)
			}
			await(t, at, layers.LayerTypeEthernet, func(g gopacket.Packet) bool {
				if i, ok := g.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
					return i.TypeCode.Type() == layers.ICMPv4TypeEchoReply && i.Id == 77 && string(i.Payload) == r.Payload
				}
				i, ok := g.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
				echo, _ := g.Layer(layers.LayerTypeICMPv6Echo).(*layers.ICMPv6Echo)
				return ok && i.TypeCode.Type() == layers.ICMPv6TypeEchoReply && echo != nil && echo.Identifier == 77
			})
		})
		t.Run("tcp"+suffix, func(t *testing.T) {
			at := p.sniff(p.a, "va")
			var listener net.Listener
			p.in(p.b, func() (err error) {
				listener, err = net.Listen("tcp", net.JoinHostPort(host, "3000"))
				return err
			})
			defer listener.Close()
			answer := func(port layers.TCPPort) *layers.TCP {
				return await(t, at, layers.LayerTypeEthernet, func(g gopacket.Packet) bool {
					tcp, ok := g.TransportLayer().(*layers.TCP)
					return ok && tcp.SrcPort == port && tcp.DstPort == 2000
				}).TransportLayer().(*layers.TCP)
			}
			r := p.request("tcp" + suffix)
			send(r)
			if tcp := answer(3000); !tcp.SYN || !tcp.ACK {
				t.Errorf("a listening port answers %+v", tcp)
			}
			r.DstPort = 3001
			send(r)
			if tcp := answer(3001); !tcp.RST {
				t.Errorf("a closed port answers %+v", tcp)
			}
		})
	}
}

func TestRootPcap(t *testing.T) {
	p := newPair(t)
	at := p.sniff(p.b, "vb")
	node := Node{Name: "va", NetNS: p.a}
	mark := func(n byte) string {
		return string(append(append(append([]byte{}, p.macB...), p.macA...), 0x88, 0xb5, n)) + strings.Repeat("z", 50)
	}
	r := resource.InjectionRequest{Type: "icmp4", Pcap: pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1, mark(1), mark(2))}
	receive := func(want ...byte) {
		t.Helper()
		for _, n := range want {
			g := await(t, at, layers.LayerTypeEthernet, func(g gopacket.Packet) bool {
				return g.Layer(layers.LayerTypeEthernet).(*layers.Ethernet).EthernetType == 0x88b5
			})
			if string(g.Data()) != mark(n) {
				t.Fatalf("%x, want packet %d", g.Data(), n)
			}
		}
	}
	if sent, err := Once(t.Context(), node, r, nil); sent != 2 || err != nil {
		t.Fatal(sent, err)
	}
	receive(1, 2)
	r.Count = 5
	if sent, err := Once(t.Context(), node, r, nil); sent != 5 || err != nil {
		t.Fatal(sent, err)
	}
	receive(1, 2, 1, 2, 1)
}

// An interface without Ethernet is given IP packets.
func TestRootTunnel(t *testing.T) {
	p := newPair(t)
	var tun *os.File
	p.in(p.a, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq("skinj0")
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(req))); errno != 0 {
			return errno
		}
		tun = os.NewFile(uintptr(fd), "tun")
		return nil
	})
	defer tun.Close()
	p.ip(p.a, "link set skinj0 up")
	for _, kind := range []string{"udp4", "icmp6"} {
		r := p.request(kind)
		r.SrcMAC, r.DstMAC = nil, nil
		if sent, err := Once(t.Context(), Node{Name: "skinj0", NetNS: p.a}, r, nil); sent != 1 || err != nil {
			t.Fatal(sent, err)
		}
		first, want := gopacket.Decoder(layers.LayerTypeIPv4), layers.LayerTypeUDP
		if kind == "icmp6" {
			first, want = layers.LayerTypeIPv6, layers.LayerTypeICMPv6Echo
		}
		await(t, tun, first, func(g gopacket.Packet) bool { return g.Layer(want) != nil })
	}
	raw := resource.InjectionRequest{Pcap: pcapFile(binary.LittleEndian, 0xa1b2c3d4, linkRaw, "\x45raw")}
	if sent, err := Once(t.Context(), Node{Name: "skinj0", NetNS: p.a}, raw, nil); sent != 1 || err != nil {
		t.Fatal(sent, err)
	}
	await(t, tun, layers.LayerTypeIPv4, func(g gopacket.Packet) bool { return string(g.Data()) == "\x45raw" })
}

func TestRootRefusals(t *testing.T) {
	p := newPair(t)
	p.ip(p.a, "link add skinj-down type veth peer name skinj-peer")
	for want, node := range map[string]Node{
		"there is no interface nope":       {Name: "nope", NetNS: p.a},
		"is no name of an interface":       {Name: "much-too-long-for-a-name", NetNS: p.a},
		"interface skinj-down is down":     {Name: "skinj-down", NetNS: p.a},
		"open network namespace: open /no": {Name: "va", NetNS: "/no"},
		"no interface skinj-a0":            {Name: "skinj-a0"},
	} {
		if _, err := Once(t.Context(), node, p.request("udp4"), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	p.ip(p.a, "link set va mtu 1400")
	r := p.request("udp4")
	r.Payload = strings.Repeat("x", 1373)
	if _, err := Once(t.Context(), Node{Name: "va", NetNS: p.a}, r, nil); err == nil || !strings.Contains(err.Error(), "which takes 1400") {
		t.Error(err)
	}
	r.Payload = r.Payload[1:]
	if _, err := Once(t.Context(), Node{Name: "va", NetNS: p.a}, r, nil); err != nil {
		t.Error(err)
	}
	p.ip(p.a, "link set va mtu 65535")
	r.Payload = strings.Repeat("x", 65535-28)
	p.ip(p.b, "link set vb mtu 65535")
	if _, err := Once(t.Context(), Node{Name: "va", NetNS: p.a}, r, nil); err != nil {
		t.Error(err)
	}
}

// board is what the nodes show.
type board struct {
	mu    sync.Mutex
	lists map[string]field.List
	all   []string
}

func (b *board) publish(node string, list field.List) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lists == nil {
		b.lists = map[string]field.List{}
	}
	b.lists[node] = list
	b.all = append(b.all, string(field.AppendJSON(nil, list)))
}

func (b *board) show(node string) field.List {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lists[node]
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick, deadline := time.NewTicker(time.Millisecond), time.After(patience)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("in vain: " + what)
		}
	}
}

func TestRootManager(t *testing.T) {
	p := newPair(t)
	at := p.sniff(p.b, "vb")
	shows := &board{}
	m := New(Options{Publish: shows.publish, Limit: 2, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	node := Node{ID: "n", Name: "va", NetNS: p.a}
	var refused *RefusedError
	if err := m.Start(node, p.request("udp4")); !errors.As(err, &refused) || refused.Status != 503 {
		t.Errorf("before Run: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "running", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.ctx != nil })

	// One that takes long: shown, begun once, stopped at once.
	long := p.request("udp4")
	long.UUID, long.Count, long.Interval, long.Payload = "long", 1000000, 3600_000, strings.Repeat("p", 300)
	for range 2 {
		if err := m.Start(node, long); err != nil {
			t.Fatal(err)
		}
	}
	isUDP := func(g gopacket.Packet) bool { return g.Layer(layers.LayerTypeUDP) != nil }
	await(t, at, layers.LayerTypeEthernet, isUDP)
	list := shows.show("n")
	if len(list) != 1 {
		t.Fatalf("shown: %v", list)
	}
	o := list[0].(field.Object)
	if o.Text("ID") != "long" || o.Text("State") != "active" || o.Text("SrcMAC") != "AgAAAAAK" || len(o.Text("Payload")) != payloadShown+len("…") {
		t.Errorf("%s", field.AppendJSON(nil, o))
	}
	// With a pcap file, of which only length and digest are shown.
	file := p.request("icmp4")
	file.UUID, file.Pcap, file.Count, file.Interval = "file", pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1, strings.Repeat("secret", 10)), 9, 3600_000
	if err := m.Start(node, file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both shown", func() bool { return len(shows.show("n")) == 2 })
	if text := string(field.AppendJSON(nil, shows.show("n")[1])); !strings.Contains(text, `"PcapLength":100,"PcapSHA256":"`) || !strings.Contains(text, `"Pcap":null`) || strings.Contains(text, "c2VjcmV0") {
		t.Error(text)
	}
	if err := m.Start(node, p.request("tcp4")); !errors.As(err, &refused) || refused.Status != 503 || !strings.Contains(refused.Reason, "2 packet injections") {
		t.Errorf("beyond the limit: %v", err)
	}
	began := time.Now()
	if err := m.Stop("n", "long"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("stopping took %s", took)
	}
	if list := shows.show("n"); len(list) != 1 {
		t.Errorf("after the stop: %v", list)
	}
	if err := m.Stop("n", "long"); !errors.Is(err, ErrNotFound) {
		t.Errorf("stopped twice: %v", err)
	}
	m.Gone("n")
	eventually(t, "gone", func() bool { return len(shows.show("n")) == 0 })

	// A short one ends by itself; asked for again it is not sent again.
	short := p.request("udp4")
	short.UUID, short.Count, short.DstPort = "short", 5, 4444
	for range 3 {
		if err := m.Start(node, short); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end", func() bool { return len(shows.show("n")) == 0 })
	}
	marker := p.request("udp4")
	marker.UUID, marker.DstPort = "marker", 5555
	if err := m.Start(node, marker); err != nil {
		t.Fatal(err)
	}
	count := 0
	await(t, at, layers.LayerTypeEthernet, func(g gopacket.Packet) bool {
		udp, ok := g.TransportLayer().(*layers.UDP)
		if ok && udp.DstPort == 4444 {
			count++
		}
		return ok && udp.DstPort == 5555
	})
	if count != 5 {
		t.Errorf("%d packets sent instead of 5", count)
	}
	if err := m.Start(Node{ID: "n", Name: "nope", NetNS: p.a}, p.request("udp6")); !errors.As(err, &refused) || refused.Status != 500 || refused.Reason != "there is no interface nope" {
		t.Error(err)
	}
	if err := m.Start(node, resource.InjectionRequest{}); !errors.As(err, &refused) || refused.Status != 400 {
		t.Error(err)
	}
	shows.mu.Lock()
	defer shows.mu.Unlock()
	if !strings.Contains(fmt.Sprint(shows.all), `"PacketCount":0`) {
		t.Error(shows.all)
	}
}

// A flood ends as soon as it is told to, even when the interface goes down under it.
func TestRootFlood(t *testing.T) {
	p := newPair(t)
	r := p.request("udp4")
	r.Count = 1 << 60
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		sent uint64
		err  error
	}
	done := make(chan result, 1)
	go func() {
		sent, err := Once(ctx, Node{Name: "va", NetNS: p.a}, r, nil)
		done <- result{sent, err}
	}()
	at := p.sniff(p.b, "vb")
	for range 1000 {
		await(t, at, layers.LayerTypeEthernet, func(g gopacket.Packet) bool { return g.Layer(layers.LayerTypeUDP) != nil })
	}
	began := time.Now()
	cancel()
	if got := <-done; !errors.Is(got.err, context.Canceled) || got.sent < 1000 {
		t.Errorf("%+v", got)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s", took)
	}
	go func() {
		sent, err := Once(t.Context(), Node{Name: "va", NetNS: p.a}, r, nil)
		done <- result{sent, err}
	}()
	await(t, at, layers.LayerTypeEthernet, func(g gopacket.Packet) bool { return g.Layer(layers.LayerTypeUDP) != nil })
	p.ip(p.a, "link set va down")
	if got := <-done; !errors.Is(got.err, unix.ENETDOWN) {
		t.Errorf("%+v", got)
	}
}
