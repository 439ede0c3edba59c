package netlink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Numbers in messages are in the byte order of the host, but for addresses, ports and the VLAN protocol.
var order = binary.NativeEndian

// message is one netlink message (struct nlmsghdr of linux/netlink.h) and what follows its header. It is valid until the buffer it
// was read into is used again.
type message struct {
	kind  uint16
	flags uint16
	seq   uint32
	port  uint32 // whose request this answers; events carry that of who caused them
	body  []byte
}

const headerLen = unix.SizeofNlMsghdr

// errMalformed tells that the kernel, or somebody in its name, sent something that is not netlink.
var errMalformed = errors.New("malformed netlink message")

// messages yields the messages of a buffer; the last pair may be errMalformed.
func messages(b []byte) iter.Seq2[message, error] {
	return func(yield func(message, error) bool) {
		for len(b) >= headerLen {
			size := int(order.Uint32(b))
			if size < headerLen || size > len(b) {
				yield(message{}, errMalformed)
				return
			}
			m := message{
				kind:  order.Uint16(b[4:]),
				flags: order.Uint16(b[6:]),
				seq:   order.Uint32(b[8:]),
				port:  order.Uint32(b[12:]),
				body:  b[headerLen:size],
			}
			if !yield(m, nil) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// attributes yields the type, without its flag bits, and the value of each attribute (struct nlattr); it ends at the first that is
// cut short.
func attributes(b []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size := int(order.Uint16(b))
			if size < unix.SizeofNlAttr || size > len(b) {
				return
			}
			kind := int(order.Uint16(b[2:])) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[unix.SizeofNlAttr:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

func align(n int) int { return (n + 3) &^ 3 }

// errno returns the error that an NLMSG_ERROR carries, 0 for an acknowledgement.
func (m message) errno() unix.Errno {
	if len(m.body) < 4 {
		return unix.EBADMSG
	}
	return unix.Errno(-int32(order.Uint32(m.body)))
}

// The following read values of attributes; what is too short reads as zero.

func u8(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

func u16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return order.Uint16(b)
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return order.Uint32(b)
}

func u64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return order.Uint64(b)
}

func port(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// hardwareAddr is "" for an address of zeros, which is that of interfaces without one.
func hardwareAddr(b []byte) string {
	for _, x := range b {
		if x != 0 {
			return net.HardwareAddr(b).String()
		}
	}
	return ""
}

// ip returns the zero Addr when b is not an address.
func ip(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// newRequest builds a request: the fixed header of its family, then attributes.
func newRequest(kind, flags int, parts ...nl.NetlinkRequestData) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	for _, p := range parts {
		r.AddData(p)
	}
	return r
}

func attribute(kind int, value uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.Uint32Attr(value)) }
