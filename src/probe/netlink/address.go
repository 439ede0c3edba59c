package netlink

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"skydive/src/field"
)

// address is one IP address of an interface.
type address struct {
	prefix netip.Prefix
	peer   netip.Prefix // the other end of a point-to-point link; IPv4 may have one address with several peers
	second bool         // the kernel prefers others: IPv4 secondary, IPv6 temporary
	seen   uint32       // generation, see dumps
}

// parseAddress reads RTM_NEWADDR and RTM_DELADDR (struct ifaddrmsg of linux/if_addr.h).
func parseAddress(b []byte) (index int, a address, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return 0, a, false
	}
	bits := int(b[1])
	a.second = b[2]&unix.IFA_F_SECONDARY != 0
	index = int(order.Uint32(b[4:]))
	var local, other netip.Addr
	for kind, v := range attributes(b[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			local = ip(v)
		case unix.IFA_ADDRESS:
			other = ip(v)
		}
	}
	if !local.IsValid() {
		local = other // as IPv6 has it without a peer
	}
	a.prefix = netip.PrefixFrom(local, bits)
	if other != local {
		a.peer = netip.PrefixFrom(other, bits)
	}
	return index, a, a.prefix.IsValid()
}

// addresses are in the order in which they came.
type addresses []address

func (as addresses) find(a address) int {
	return slices.IndexFunc(as, func(x address) bool { return x.prefix == a.prefix && x.peer == a.peer })
}

// list returns the addresses of IPv4 or IPv6 in CIDR notation, secondary ones last as ip(8) does, nil when there are none.
func (as addresses) list(v4 bool) field.List {
	var first, second field.List
	for _, a := range as {
		switch {
		case a.prefix.Addr().Is4() != v4:
		case a.second:
			second = append(second, a.prefix.String())
		default:
			first = append(first, a.prefix.String())
		}
	}
	return append(first, second...)
}
