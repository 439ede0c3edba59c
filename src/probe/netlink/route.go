package netlink

import (
	"cmp"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"skydive/src/field"
)

// routeKey is what a replacing route has in common with the one that it replaces.
type routeKey struct {
	table    uint32
	dst      netip.Prefix
	tos      uint8
	priority uint32
}

// hop is one next hop. A route with several is several hops of one key; they may also be routes of their own, which IPv6 has when
// interfaces have the same prefix.
type hop struct {
	index    int
	gateway  netip.Addr // not valid: on link
	src      netip.Addr
	protocol uint8
	seen     uint32 // generation, see dumps
}

func (h hop) same(other hop) bool { return h.index == other.index && h.gateway == other.gateway }

// parseRoute reads RTM_NEWROUTE and RTM_DELROUTE (struct rtmsg of linux/rtnetlink.h). Routes that lead nowhere, those of multicast
// routing daemons and cached ones are left out.
func parseRoute(b []byte) (k routeKey, hops []hop, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return k, nil, false
	}
	family, bits, kind, flags := b[0], int(b[1]), b[7], order.Uint32(b[8:])
	if family != unix.AF_INET && family != unix.AF_INET6 || flags&unix.RTM_F_CLONED != 0 {
		return k, nil, false
	}
	switch kind {
	case unix.RTN_UNICAST, unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
	default:
		return k, nil, false
	}
	k.tos = b[3]
	k.table = uint32(b[4])
	dst := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	one := hop{protocol: b[5]}
	var several []byte
	for kind, v := range attributes(b[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_TABLE:
			k.table = u32(v)
		case unix.RTA_DST:
			dst = ip(v)
		case unix.RTA_PRIORITY:
			k.priority = u32(v)
		case unix.RTA_PREFSRC:
			one.src = ip(v)
		case unix.RTA_OIF:
			one.index = int(int32(u32(v)))
		case unix.RTA_GATEWAY:
			one.gateway = ip(v)
		case unix.RTA_VIA:
			one.gateway = via(v)
		case unix.RTA_MULTIPATH:
			several = v
		}
	}
	k.dst = netip.PrefixFrom(dst, bits)
	if !k.dst.IsValid() {
		return k, nil, false
	}
	if several == nil {
		return k, []hop{one}, one.index > 0
	}
	for len(several) >= unix.SizeofRtNexthop {
		size := int(order.Uint16(several))
		if size < unix.SizeofRtNexthop || size > len(several) {
			break
		}
		h := hop{index: int(int32(order.Uint32(several[4:]))), src: one.src, protocol: one.protocol}
		for kind, v := range attributes(several[unix.SizeofRtNexthop:size]) {
			switch kind {
			case unix.RTA_GATEWAY:
				h.gateway = ip(v)
			case unix.RTA_VIA:
				h.gateway = via(v)
			}
		}
		hops = append(hops, h)
		several = several[min(align(size), len(several)):]
	}
	return k, hops, len(hops) > 0
}

// via reads a gateway of another family than the route: the family, then the address (struct rtvia).
func via(b []byte) netip.Addr {
	if len(b) < 2 {
		return netip.Addr{}
	}
	return ip(b[2:])
}

func (k routeKey) compare(other routeKey) int {
	return cmp.Or(cmp.Compare(k.table, other.table), k.dst.Addr().Compare(other.dst.Addr()),
		cmp.Compare(k.dst.Bits(), other.dst.Bits()), cmp.Compare(k.priority, other.priority), cmp.Compare(k.tos, other.tos))
}

// routingTables returns the tables with the routes whose next hop is an interface, nil when there are none; in a fixed order. Hops of
// one prefix are of one route, whatever their priority.
func routingTables(routes map[routeKey][]hop, keys map[routeKey]struct{}, index int) field.List {
	sorted := make([]routeKey, 0, len(keys))
	for k := range keys {
		sorted = append(sorted, k)
	}
	slices.SortFunc(sorted, routeKey.compare)
	var tables, list, hops field.List
	var src field.Value
	for i, k := range sorted {
		var protocol uint8
		for _, h := range routes[k] {
			if h.index != index {
				continue
			}
			protocol = h.protocol
			if src == nil && h.src.IsValid() {
				src = h.src.String()
			}
			o := make(field.Object, 0, 3) // keys in order
			if h.gateway.IsValid() {
				o = append(o, field.Entry{Key: "IP", Value: h.gateway.String()})
			}
			hops = append(hops, append(o, field.Entry{Key: "IfIndex", Value: int64(index)},
				field.Entry{Key: "Priority", Value: int64(k.priority)}))
		}
		last := i+1 == len(sorted)
		if last || sorted[i+1].table != k.table || sorted[i+1].dst != k.dst {
			list = append(list, field.Make("NextHops", hops, "Prefix", k.dst.String(), "Protocol", protocol))
			hops = nil
		}
		if last || sorted[i+1].table != k.table {
			tables = append(tables, field.Make("ID", k.table, "Routes", list, "Src", src))
			list, src = nil, nil
		}
	}
	return tables
}
