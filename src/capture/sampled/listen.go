package sampled

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"skydive/src/capture"
	"skydive/src/netns"
)

// Listen takes the first free port of those from minPort to maxPort, which may be left out, in a network namespace: "" is ours. The host is an
// address, or "" for all.
func Listen(ctx context.Context, netNS, host string, minPort, maxPort int) (*net.UDPConn, error) {
	var conn *net.UDPConn
	listen := func() (err error) {
		conn, err = listen(ctx, host, minPort, max(minPort, maxPort))
		return err
	}
	if netNS == "" {
		return conn, listen()
	}
	ns, err := netns.OpenPath(netNS)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", capture.ErrGone, err)
	}
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = netns.Do(ns, listen)
	return conn, err
}

func listen(ctx context.Context, host string, minPort, maxPort int) (*net.UDPConn, error) {
	var config net.ListenConfig
	for port := minPort; port <= maxPort; port++ {
		conn, err := config.ListenPacket(ctx, "udp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			return conn.(*net.UDPConn), nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("listen for datagrams: %w", err)
		}
	}
	if minPort == maxPort {
		return nil, fmt.Errorf("listen for datagrams: port %d is in use", minPort)
	}
	return nil, fmt.Errorf("listen for datagrams: no free port from %d to %d", minPort, maxPort)
}

// hostOf is the address of a node that has exactly one; else "".
func hostOf(n capture.Node) string {
	if len(n.IPV4) != 1 {
		return ""
	}
	if p, err := netip.ParsePrefix(n.IPV4[0]); err == nil {
		return p.Addr().String()
	}
	if a, err := netip.ParseAddr(n.IPV4[0]); err == nil {
		return a.String()
	}
	return ""
}

// oobSize is what a control message of four bytes takes.
const oobSize = unix.SizeofCmsghdr + 8

// prepare enlarges the buffer of the socket, and has it count what does not fit.
func prepare(conn *net.UDPConn, size int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) {
		// Beyond the limit of the system only with CAP_NET_ADMIN.
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size)
		}
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	})
	return errors.Join(controlErr, err)
}

// overflow reads how many datagrams the kernel has dropped so far; it says so once there are any.
func overflow(oob []byte) (uint32, bool) {
	if len(oob) < oobSize {
		return 0, false
	}
	h, data, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil || h.Level != unix.SOL_SOCKET || h.Type != unix.SO_RXQ_OVFL || len(data) < 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(data), true
}
