package socket

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	statsRequest = unix.SizeofNlMsghdr + 12 // with struct if_stats_msg of <linux/if_link.h>
	statsLink64  = 1                        // IFLA_STATS_LINK_64
	statsTimeout = 100 * time.Millisecond   // the kernel answers while it is asked
)

// counted is what an interface counts, whoever listens.
type counted struct{ packets, dropped int64 }

// counter asks the kernel for the counters of an interface.
type counter struct {
	fd       int
	request  [statsRequest]byte
	reply    [4096]byte
	loopback bool // counts every packet as sent and as received
	began    counted
}

// newCounter counts from now on, in the network namespace of the calling thread.
func newCounter(ifIndex int, loopback bool) (*counter, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	c := &counter{fd: fd, loopback: loopback}
	limit := unix.NsecToTimeval(int64(statsTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		c.close()
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	b := c.request[:]
	binary.NativeEndian.PutUint32(b, statsRequest)
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_GETSTATS)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+4:], uint32(ifIndex))
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+8:], 1<<(statsLink64-1))
	if c.began, err = c.ask(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// read returns what was counted since the beginning.
func (c *counter) read() (counted, error) {
	now, err := c.ask()
	return counted{now.packets - c.began.packets, now.dropped - c.began.dropped}, err
}

func (c *counter) ask() (counted, error) {
	if err := unix.Sendto(c.fd, c.request[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return counted{}, fmt.Errorf("ask for interface statistics: %w", err)
	}
	n, _, err := unix.Recvfrom(c.fd, c.reply[:], 0)
	if err != nil {
		return counted{}, fmt.Errorf("interface statistics: %w", err)
	}
	b := c.reply[:n]
	const attribute = unix.SizeofNlMsghdr + 12 + 4
	if n < attribute+13*8 || binary.NativeEndian.Uint16(b[4:]) != unix.RTM_NEWSTATS || binary.NativeEndian.Uint16(b[attribute-2:]) != statsLink64 {
		return counted{}, fmt.Errorf("interface statistics: answer of %d bytes", n)
	}
	word := func(i int) int64 { return int64(binary.NativeEndian.Uint64(b[attribute+8*i:])) } // of struct rtnl_link_stats64
	now := counted{word(0) + word(1), word(6) + word(12)}                                     // rx and tx packets; rx dropped and missed
	if c.loopback {
		now.packets = word(0)
	}
	return now, nil
}

func (c *counter) close() { _ = unix.Close(c.fd) }
