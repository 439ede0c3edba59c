package inject

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"skydive/src/netns"
	"skydive/src/resource"
)

// port is a socket that sends from one interface.
type port struct {
	file   *os.File
	conn   syscall.RawConn
	index  int
	mtu    int
	framed bool // it takes Ethernet frames, rather than IP packets
}

// open opens an interface, in its namespace.
func open(n Node) (p *port, err error) {
	if n.NetNS == "" {
		return openHere(n)
	}
	ns, err := netns.OpenPath(n.NetNS)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	err = netns.Do(ns, func() (err error) {
		p, err = openHere(n)
		return err
	})
	return p, err
}

func openHere(n Node) (*port, error) {
	name := n.Name
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("%q is no name of an interface", name)
	}
	// Any socket answers for the interfaces of its namespace.
	asks, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(asks)
	ask := func(what uint) error {
		err := unix.IoctlIfreq(asks, what, req)
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("there is no interface %s", name)
		}
		if err != nil {
			return fmt.Errorf("ask about interface %s: %w", name, err)
		}
		return nil
	}
	p := &port{}
	if err := ask(unix.SIOCGIFINDEX); err != nil {
		return nil, err
	}
	p.index = int(req.Uint32())
	if err := ask(unix.SIOCGIFMTU); err != nil {
		return nil, err
	}
	p.mtu = int(req.Uint32())
	if err := ask(unix.SIOCGIFFLAGS); err != nil {
		return nil, err
	}
	if req.Uint16()&unix.IFF_UP == 0 {
		return nil, fmt.Errorf("interface %s is down", name)
	}
	if err := ask(unix.SIOCGIFHWADDR); err != nil {
		return nil, err
	}
	kind := unix.SOCK_DGRAM
	switch hardware := req.Uint16(); hardware {
	case unix.ARPHRD_ETHER, unix.ARPHRD_LOOPBACK:
		p.framed = true
	case unix.ARPHRD_NONE, unix.ARPHRD_PPP, unix.ARPHRD_TUNNEL, unix.ARPHRD_TUNNEL6, unix.ARPHRD_SIT, unix.ARPHRD_IPGRE, unix.ARPHRD_IP6GRE, unix.ARPHRD_RAWIP, unix.ARPHRD_VOID:
	default:
		if p.framed = n.EncapType == "ether"; !p.framed {
			return nil, fmt.Errorf("interface %s takes neither Ethernet frames nor IP packets (hardware type %d)", name, hardware)
		}
	}
	if p.framed {
		kind = unix.SOCK_RAW
	}
	// Protocol 0: nothing is received.
	fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	p.file = os.NewFile(uintptr(fd), "packets to "+name)
	if p.conn, err = p.file.SyscallConn(); err != nil {
		p.close()
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	return p, nil
}

func (p *port) close() { p.file.Close() }

// full is how long to wait for a device whose queue has no room.
const full = time.Millisecond

// send sends one packet, when the device takes it. After cancel it fails at once.
func (p *port) send(ctx context.Context, packet []byte) error {
	to := unix.SockaddrLinklayer{Ifindex: p.index, Protocol: swap(unix.ETH_P_IP)}
	switch {
	case p.framed:
		to.Protocol = uint16(packet[12]) | uint16(packet[13])<<8
	case packet[0]>>4 == 6:
		to.Protocol = swap(unix.ETH_P_IPV6)
	}
	for {
		var err error
		if waited := p.conn.Write(func(fd uintptr) bool {
			err = unix.Sendto(int(fd), packet, 0, &to)
			return err != unix.EAGAIN
		}); waited != nil {
			err = waited
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			room := time.NewTimer(full)
			select {
			case <-room.C:
			case <-ctx.Done():
				room.Stop()
				return ctx.Err()
			}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("send packet of %d bytes: %w", len(packet), err)
		default:
			return nil
		}
	}
}

func swap(v uint16) uint16 { return v<<8 | v>>8 }

// source gives packets without end.
type source interface{ next() []byte }

// prepare opens the interface and checks that it takes what is asked for. It completes the request.
func prepare(node Node, r *resource.InjectionRequest) (*port, source, error) {
	p, err := open(node)
	if err != nil {
		return nil, nil, err
	}
	var s source
	if len(r.Pcap) > 0 {
		var file *replay
		if file, err = newReplay(r.Pcap, p.framed, p.mtu); err == nil && r.Count == 0 {
			r.Count = uint64(len(file.packets))
		}
		s = file
	} else {
		s, err = newForger(r, p.framed, p.mtu)
	}
	if err != nil {
		p.close()
		return nil, nil, err
	}
	return p, s, nil
}

// transmit sends r.Count packets, and tells of its progress every few seconds and at the end.
func transmit(ctx context.Context, p *port, s source, r *resource.InjectionRequest, progress func(sent uint64)) (err error) {
	defer context.AfterFunc(ctx, func() { _ = p.file.SetWriteDeadline(time.Unix(1, 0)) })()
	report := time.NewTicker(reportEvery)
	defer report.Stop()
	pause := time.Duration(math.MaxInt64)
	if r.Interval < uint64(math.MaxInt64/time.Millisecond) {
		pause = time.Duration(r.Interval) * time.Millisecond
	}
	var next <-chan time.Time
	if pause > 0 {
		paced := time.NewTicker(pause)
		defer paced.Stop()
		next = paced.C
	}
	sent := uint64(0)
	defer func() { progress(sent) }()
	for {
		if err := p.send(ctx, s.next()); err != nil {
			return err
		}
		if sent++; sent == r.Count {
			return nil
		}
		if next == nil {
			select {
			case <-report.C:
				progress(sent)
			default:
			}
			continue
		}
		for early := true; early; {
			select {
			case <-next:
				early = false
			case <-report.C:
				progress(sent)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// ByMAC names the interface of this namespace that has a MAC address.
func ByMAC(mac net.HardwareAddr) (string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("list interfaces: %w", err)
	}
	for _, i := range all {
		if i.HardwareAddr.String() == mac.String() {
			return i.Name, nil
		}
	}
	return "", fmt.Errorf("no interface has the MAC address %s", mac)
}
