package bpf

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func attach(fd int, prog []Instruction) error {
	list := make([]unix.SockFilter, len(prog))
	for i, in := range prog {
		list[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(list)), Filter: &list[0]})
}

// A datagram that the filter of a Unix socket rejects is dropped when it is sent: so the kernel's verdict on any frame can be had.
func TestKernelVerdicts(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	packets := map[LinkType][]packet{}
	list := expressions(t)
	hosts := "host 10.1.0.1"
	for i := range 200 {
		hosts += " or 10." + strings.Repeat("1", 1+i%2) + "." + string('0'+rune(i%10)) + ".1"
	}
	list = append(list, recorded{link: Ethernet, expr: hosts + " and tcp"})
	verdicts := 0
	buf := make([]byte, 4096)
	for _, r := range list {
		if packets[r.link] == nil {
			packets[r.link] = corpus(t, r.link)
		}
		f, err := Compile(r.expr, r.link, 100)
		if err != nil {
			t.Errorf("%s: %v", r, err)
			continue
		}
		if err := attach(pair[1], f.Instructions()); err != nil {
			t.Errorf("%s: the kernel refuses the program for sockets: %v\n%s", r, err, listing(f.Instructions()))
		}
		if err := attach(pair[1], f.frame); err != nil {
			t.Errorf("%s: the kernel refuses the program for frames: %v\n%s", r, err, listing(f.frame))
			continue
		}
		for i := 0; i < len(packets[r.link]); i += 23 {
			p := packets[r.link][i]
			if err := unix.Send(pair[0], p.data, 0); err != nil {
				t.Fatal(err)
			}
			n, _, err := unix.Recvfrom(pair[1], buf, 0)
			if err != nil && err != unix.EAGAIN {
				t.Fatal(err)
			}
			verdicts++
			if got, want := err == nil, f.Match(p.data, len(p.data)); got != want {
				t.Errorf("%s: the kernel says %v, Match %v for %x\n%s", r, got, want, p.data, listing(f.frame))
				break
			}
			if err == nil && n != min(100, len(p.data)) {
				t.Errorf("%s: %d bytes of %d are left at a snap length of 100", r, n, len(p.data))
				break
			}
		}
	}
	t.Logf("%d verdicts of the kernel", verdicts)
}

// needRoot skips without the privilege to make namespaces; in CI that is a failure.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("SKYDIVE_CI") == "1" {
		t.Fatal("root is needed to make network namespaces")
	}
	t.Skip("root is needed to make network namespaces")
}

// packetSocket listens on an interface; nothing comes before the filter is attached.
func packetSocket(t *testing.T, name string, prog []Instruction, timeout time.Duration) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if prog != nil {
		if err := attach(fd, prog); err != nil {
			t.Fatal(err)
		}
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		t.Fatal(err)
	}
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(ifr.Uint32())}); err != nil {
		t.Fatal(err)
	}
	tv := unix.NsecToTimeval(timeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	return fd
}

// The kernel takes the outermost tag out of a frame before a packet socket sees it.
func TestRootVLANOnAPacketSocket(t *testing.T) {
	needRoot(t)
	runtime.LockOSThread() // for good: the thread ends with the test, and the namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"link add veth0 type veth peer name veth1", "link set veth0 up", "link set veth1 up"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	const packet = " 4500001c000040004011000a0a0100010a010002 07d003e800080000"
	frames := [][2]string{ // what follows the addresses
		{"plain", "0800" + packet},
		{"tag 100", "81000064 0800" + packet},
		{"tag 200", "8100c0c8 0800" + packet},
		{"ARP in 100", "81000064 0806 0001080006040001 020000000701 0a070001 000000000000 0a070002"},
		{"tags 300, 400", "88a8012c 81000190 0800" + packet},
		{"tag 0", "8100a000 0800" + packet},
		{"end", "88b5"},
	}
	send := packetSocket(t, "veth0", nil, 10*time.Second)
	defer unix.Close(send)
	// A link that was just set up drops frames until the kernel has seen its carrier.
	first := packetSocket(t, "veth1", compileText(t, "ether proto 0x88b6", Ethernet).Instructions(), 10*time.Millisecond)
	defer unix.Close(first)
	for deadline := time.Now().Add(10 * time.Second); ; {
		frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb6}, make([]byte, 46)...)
		if err := unix.Send(send, frame, 0); err != nil {
			t.Fatal(err)
		}
		_, _, err := unix.Recvfrom(first, frame, 0)
		if err == nil {
			break
		}
		if err != unix.EAGAIN && err != unix.EINTR || time.Now().After(deadline) {
			t.Fatalf("the link does not come up: %v", err)
		}
	}
	for expr, want := range map[string]string{
		"vlan":                            "tag 100, tag 200, ARP in 100, tags 300, 400, tag 0",
		"not vlan":                        "plain",
		"vlan 100":                        "tag 100, ARP in 100",
		"vlan 0":                          "tag 0",
		"vlan 100 and udp port 2000":      "tag 100",
		"vlan and arp host 10.7.0.1":      "ARP in 100",
		"vlan 300":                        "tags 300, 400",
		"vlan and vlan":                   "tags 300, 400",
		"vlan 300 and vlan 400 and udp":   "tags 300, 400",
		"vlan 400":                        "",
		"vlan and host 10.1.0.1":          "tag 100, tag 200, tag 0",
		"udp":                             "plain, tag 100, tag 200, tag 0",
		"udp port 2000 and not vlan 100":  "plain, tag 200, tag 0",
		"arp or (vlan 200 and port 1000)": "tag 200, ARP in 100",
		"vlan and tcp":                    "",
	} {
		// The sixth byte of the source is the number of the frame. The last frame always comes, others than ours never.
		f := compileText(t, "ether[6:4] = 0x02000000 and (ether[11] = 6 or ("+expr+"))", Ethernet)
		fd := packetSocket(t, "veth1", f.Instructions(), 10*time.Second)
		for i, frame := range frames {
			b, err := hex.DecodeString(fmt.Sprintf("02000000000102000000%04x%s", i, strings.ReplaceAll(frame[1], " ", "")))
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Send(send, append(b, make([]byte, max(0, 60-len(b)))...), 0); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for b := make([]byte, 2048); ; {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err != nil || n < 14 {
				t.Fatalf("%s: %v after %q", expr, err, got)
			}
			name := frames[b[11]][0]
			if name == "end" {
				break
			}
			got = append(got, name)
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%s: %q, not %q", expr, s, want)
		}
		unix.Close(fd)
	}
}
