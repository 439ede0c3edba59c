package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"skydive/src/e2e"
)

// imix is a mix of sizes as backbones have it, 7:4:1, in bytes of the Ethernet frame; their mean is 362.
var imix = []int{64, 64, 590, 64, 64, 590, 64, 64, 590, 64, 590, 1514}

// traffic is frames of UDP flows from 1,000 clients to one server, in an order that no cache foresees.
type traffic struct {
	frames [][]byte
	flows  int
}

// newTraffic makes at least two frames of each flow. The sizes are used in turn.
func newTraffic(flows int, sizes []int) *traffic {
	t := &traffic{flows: flows}
	for n := range 2 * flows {
		t.frames = append(t.frames, frame(n%flows, sizes[n%len(sizes)]))
	}
	shuffle := rand.New(rand.NewPCG(1, 2))
	shuffle.Shuffle(len(t.frames), func(i, j int) { t.frames[i], t.frames[j] = t.frames[j], t.frames[i] })
	return t
}

// client is the address of a flow's client: 10.0.0.1 has one flow in a thousand.
func client(flow int) [4]byte { return [4]byte{10, 0, byte(flow % 1000 / 250), byte(1 + flow%250)} }

func frame(flow, size int) []byte {
	f := make([]byte, size)
	copy(f, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}) // to, from, IPv4
	ip := f[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(size-14))
	from := client(flow)
	copy(ip[12:], from[:])
	copy(ip[16:], []byte{172, 16, 0, 1})
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp, uint16(1024+flow/1000))
	binary.BigEndian.PutUint16(udp[2:], 9000)
	binary.BigEndian.PutUint16(udp[4:], uint16(size-34))
	return f
}

// pcap is the traffic as a file, without the file's header.
func (t *traffic) pcap(at time.Time) []byte {
	var out []byte
	for i, f := range t.frames {
		stamp := at.Add(time.Duration(i) * time.Microsecond)
		for _, n := range []uint32{uint32(stamp.Unix()), uint32(stamp.Nanosecond() / 1000), uint32(len(f)), uint32(len(f))} {
			out = binary.LittleEndian.AppendUint32(out, n)
		}
		out = append(out, f...)
	}
	return out
}

// pcapHeader begins a file of Ethernet frames.
func pcapHeader() []byte {
	var out []byte
	for _, n := range []uint32{0xa1b2c3d4, 4<<16 | 2, 0, 0, 65535, 1} {
		out = binary.LittleEndian.AppendUint32(out, n)
	}
	return out
}

// play writes the traffic, again and again until so many packets are written, to where a capture takes pcap.
func (t *traffic) play(conn net.Conn, packets int) error {
	stream := t.pcap(time.Now())
	out := bufio.NewWriterSize(conn, 1<<20)
	for done := 0; done < packets; done += len(t.frames) {
		if _, err := out.Write(stream); err != nil {
			return err
		}
	}
	return out.Flush()
}

// sender sends frames on an interface of a host, many per system call.
type sender struct{ fd int }

func newSender(h *e2e.Host, ifname string) (s *sender, err error) {
	err = h.Within(func() error {
		ifi, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		s = &sender{fd}
		// Whatever a queue held back would be counted as lost.
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
			unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifi.Index}))
		return err
	})
	return s, err
}

func (s *sender) close() { unix.Close(s.fd) }

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// send sends so many frames of the traffic, at a rate per second, or as fast as it can when that is 0.
func (s *sender) send(t *traffic, packets, rate int) (time.Duration, error) {
	const batch = 32
	var msgs [batch]mmsghdr
	var parts [batch]unix.Iovec
	begin := time.Now()
	for done := 0; done < packets; {
		for i := range msgs {
			f := t.frames[(done+i)%len(t.frames)]
			parts[i].Base = &f[0]
			parts[i].SetLen(len(f))
			msgs[i].hdr.Iov = &parts[i]
			msgs[i].hdr.SetIovlen(1)
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(min(batch, packets-done)), 0, 0, 0)
		switch errno {
		case 0:
			done += int(n)
		case unix.ENOBUFS, unix.EAGAIN, unix.EINTR:
		default:
			return 0, fmt.Errorf("send packets: %w", errno)
		}
		for rate > 0 && time.Since(begin) < time.Duration(done)*time.Second/time.Duration(rate) {
			runtime.Gosched()
		}
	}
	return time.Since(begin), nil
}
