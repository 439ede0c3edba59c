package socket

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"skydive/src/capture"
	"skydive/src/netns"
)

// needRoot skips without the privilege to make namespaces; in CI that is a failure.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("SKYDIVE_CI") == "1" {
		t.Fatal("root is needed to make network namespaces")
	}
	t.Skip("root is needed to make network namespaces")
}

func sh(t testing.TB, command string, args ...any) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", fmt.Sprintf(command, args...)).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", fmt.Sprintf(command, args...), err, out)
	}
	return strings.TrimSpace(string(out))
}

// wire is a pair of namespaces joined by a cable: wl0 in the one, wr0 in the other.
type wire struct{ left, right string }

func newWire(t testing.TB) wire {
	t.Helper()
	needRoot(t)
	id := strconv.FormatUint(uint64(rand.Uint32()), 36)
	w := wire{"skcap-" + id + "l", "skcap-" + id + "r"}
	for _, ns := range []string{w.left, w.right} {
		sh(t, "ip netns add %s", ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
		// Nothing is to be on the cable but what a test sends.
		sh(t, "ip netns exec %s sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1", ns)
	}
	sh(t, "ip -n %s link add wl0 type veth peer name wr0 netns %s", w.left, w.right)
	sh(t, "ip -n %s addr add 10.77.0.1/24 dev wl0; ip -n %s link set wl0 up", w.left, w.left)
	sh(t, "ip -n %s addr add 10.77.0.2/24 dev wr0; ip -n %s link set wr0 up", w.right, w.right)
	return w
}

func nsPath(ns string) string { return filepath.Join("/run/netns", ns) }

// in runs fn in a namespace.
func in(t testing.TB, ns string, fn func() error) {
	t.Helper()
	f, err := netns.OpenPath(nsPath(ns))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := netns.Do(f, fn); err != nil {
		t.Fatal(err)
	}
}

// node describes an interface as the agent would.
func node(t testing.TB, ns, name string) capture.Node {
	t.Helper()
	n := capture.Node{ID: ns + "/" + name, TID: "tid-" + name, Name: name, Type: "veth", EncapType: "ether", NetNS: nsPath(ns), Up: true}
	in(t, ns, func() error {
		dev, err := net.InterfaceByName(name)
		if err == nil {
			n.IfIndex = dev.Index
		}
		return err
	})
	return n
}

// statistic reads a counter of an interface.
func statistic(t testing.TB, ns, name, counter string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(sh(t, "ip netns exec %s cat /sys/class/net/%s/statistics/%s", ns, name, counter), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// udp makes an Ethernet frame of a length with an UDP packet.
func udp(length int, src, dst netip.AddrPort) []byte {
	f := make([]byte, length)
	copy(f, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0})
	ip := f[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(length-14))
	s, d := src.Addr().As4(), dst.Addr().As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(ip[20:], src.Port())
	binary.BigEndian.PutUint16(ip[22:], dst.Port())
	binary.BigEndian.PutUint16(ip[24:], uint16(length-34))
	return f
}

// traffic makes frames of a number of flows; sizes are taken in turn.
func traffic(flows int, sizes ...int) [][]byte {
	frames := make([][]byte, 0, flows)
	order := rand.New(rand.NewPCG(1, 2))
	for i := range flows {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), uint16(1024+i%60000))
		frames = append(frames, udp(sizes[i%len(sizes)], src, netip.MustParseAddrPort("10.77.0.2:9")))
	}
	order.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	return frames
}

// imix is the usual mix of sizes, 7:4:1, without FCS.
func imix() []int { return []int{60, 60, 590, 60, 60, 590, 60, 590, 60, 590, 60, 1514} }

// ping sends echo requests and waits for the replies.
func ping(t testing.TB, ns, address string, n, size int) {
	t.Helper()
	in(t, ns, func() error {
		conn, err := net.Dial("ip4:icmp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		buf := make([]byte, 2000)
		for i := range n {
			m := make([]byte, 8+size)
			m[0], m[5], m[7] = 8, 77, byte(i)
			binary.BigEndian.PutUint16(m[2:], ^(uint16(8)<<8 + 77 + uint16(i)))
			if _, err := conn.Write(m); err != nil {
				return err
			}
			for reply := false; !reply; {
				if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
					return err
				}
				got, _, err := conn.(*net.IPConn).ReadFrom(buf) // without IP header
				if err != nil {
					return err
				}
				reply = got == len(m) && buf[0] == 0 && buf[7] == byte(i)
			}
		}
		return nil
	})
}

// sender sends frames from an interface as they are.
type sender struct{ fd int }

func newSender(t testing.TB, ns, name string) *sender {
	t.Helper()
	s := &sender{-1}
	in(t, ns, func() (err error) {
		dev, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: dev.Index})
	})
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

type mmsghdr struct {
	unix.Msghdr
	n uint32
	_ [4]byte
}

// send sends n frames, those given in turn, at no more than rate a second (0: as fast as it can), and returns how many went out.
func (s *sender) send(frames [][]byte, n int, rate float64) (sent int, err error) {
	const burst = 32
	var heads [burst]mmsghdr
	var parts [burst]unix.Iovec
	start := time.Now()
	for at := 0; sent < n; {
		count := min(burst, n-sent)
		for i := range count {
			parts[i] = unix.Iovec{Base: &frames[at][0], Len: uint64(len(frames[at]))}
			heads[i].Iov, heads[i].Iovlen = &parts[i], 1
			if at++; at == len(frames) {
				at = 0
			}
		}
		for done := 0; done < count; {
			m, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&heads[done])), uintptr(count-done), 0, 0, 0)
			switch errno {
			case 0:
				done += int(m)
			case unix.ENOBUFS, unix.EAGAIN, unix.EINTR:
			default:
				return sent + done, errno
			}
		}
		sent += count
		for rate > 0 && float64(sent) > rate*time.Since(start).Seconds() { // finer than any timer
		}
	}
	return sent, nil
}
