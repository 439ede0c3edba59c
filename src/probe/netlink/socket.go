package netlink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// receiveBuffer is the limit of what the kernel may queue for a socket, in bytes. Nothing of it is used while events are read in
// time; a full one costs a new look at the whole namespace. One link event takes about 4 kB of it.
const receiveBuffer = 4 << 20

// groups are the multicast groups that tell what changes in a namespace.
var groups = [...]int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_NEIGH, unix.RTNLGRP_NSID,
}

// socket is the one rtnetlink socket of a namespace: events, requests and replies go through it, so what they say is in order. It
// also serves for ioctls in the namespace.
type socket struct {
	fd   int    // used by the goroutine that closes the socket, only
	port uint32 // address of the socket, which replies to it carry
	file *os.File
	conn syscall.RawConn
	done chan struct{} // closed before the file
}

// openSocket makes a subscribed socket in the namespace of the calling thread. limit is the size of the receive buffer in bytes.
func openSocket(limit int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	fail := func(what string, err error) (*socket, error) {
		unix.Close(fd)
		return nil, fmt.Errorf("%s netlink socket: %w", what, err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, limit) != nil {
		// Without CAP_NET_ADMIN, up to net.core.rmem_max.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, limit); err != nil {
			return fail("size buffer of", err)
		}
	}
	// Without it (Linux < 4.20) the kernel ignores filters of dumps, which costs time but not truth.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fail("bind", err)
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		return fail("name", err)
	}
	for _, group := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return fail("subscribe", err)
		}
	}
	s := &socket{fd: fd, port: own.(*unix.SockaddrNetlink).Pid, file: os.NewFile(uintptr(fd), "netlink"), done: make(chan struct{})}
	if s.conn, err = s.file.SyscallConn(); err != nil {
		s.close()
		return nil, fmt.Errorf("poll netlink socket: %w", err)
	}
	return s, nil
}

func (s *socket) close() {
	close(s.done)
	_ = s.file.Close()
}

// send queues a request. The kernel carries it out before this returns; the reply is read later.
func (s *socket) send(r *nl.NetlinkRequest, seq uint32) error {
	r.Seq = seq
	return unix.Sendto(s.fd, r.Serialize(), unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// inbound is what was read from the socket of a namespace.
type inbound struct {
	from *namespace
	sock *socket // it was read from
	buf  *buffer // may be nil
	err  error   // what happened after it: errOverrun, or what ended the reading
}

// errOverrun tells that the kernel dropped messages.
var errOverrun = errors.New("netlink receive queue overrun")

const (
	bufferSize = 128 << 10
	// messageLimit is what is kept free for one more datagram: the kernel makes them up to 32 kB, but for one with very many VFs.
	messageLimit = 64 << 10
)

type buffer struct {
	n    int
	data [bufferSize]byte
}

// buffers are in use only while there is something to read, so a few serve all namespaces.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *buffer {
	if buf, ok := b.pool.Get().(*buffer); ok {
		buf.n = 0
		return buf
	}
	return new(buffer)
}

func (b *buffers) put(buf *buffer) { b.pool.Put(buf) }

// read waits for messages and returns as many as are there and fit.
func (s *socket) read(pool *buffers) (buf *buffer, err error) {
	waitErr := s.conn.Read(func(fd uintptr) bool {
		for {
			if buf == nil {
				buf = pool.get()
			}
			if bufferSize-buf.n < messageLimit {
				return true
			}
			n, from, e := unix.Recvfrom(int(fd), buf.data[buf.n:], unix.MSG_TRUNC)
			switch {
			case e == unix.EINTR, e == unix.EINVAL:
				// EINVAL: the kernel tried to go on with a dump that ended at that moment, while it was being read by this
				// thread and requested by another (netlink_dump); nothing is lost.
				continue
			case e == unix.EAGAIN && buf.n == 0:
				pool.put(buf) // hold none while waiting
				buf = nil
				return false
			case e == unix.EAGAIN:
				return true
			case e == unix.ENOBUFS, e == unix.ENOMEM, e == nil && n > bufferSize-buf.n:
				err = errOverrun
				return true
			case e != nil:
				err = fmt.Errorf("read netlink socket: %w", e)
				return true
			}
			// Only the kernel (port 0) is believed.
			if addr, ok := from.(*unix.SockaddrNetlink); ok && addr.Pid == 0 {
				buf.n += align(n)
			}
		}
	})
	if err == nil {
		err = waitErr
	}
	return buf, err
}

// readAll hands over what comes until the socket is closed or ctx ends.
func (s *socket) readAll(ctx context.Context, ns *namespace, pool *buffers, to chan<- inbound) error {
	for {
		buf, err := s.read(pool)
		select {
		case to <- inbound{ns, s, buf, err}:
		case <-s.done:
			return nil
		case <-ctx.Done():
			return nil
		}
		if err != nil && !errors.Is(err, errOverrun) {
			return nil
		}
	}
}
