package netlink

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"skydive/src/field"
)

// neighborKey tells entries of one interface apart: an IP neighbour by its address, an entry of a forwarding database by MAC, VLAN
// and where it leads.
type neighborKey struct {
	fdb  bool
	self bool // kept by the device itself, not by its bridge
	ip   netip.Addr
	mac  string // only of fdb
	vlan uint16
	vni  uint32
}

type neighbor struct {
	mac   string
	flags uint8  // NTF_*
	state uint16 // NUD_*
	seen  uint32 // generation, see dumps
}

// parseNeighbor reads RTM_NEWNEIGH and RTM_DELNEIGH (struct ndmsg of linux/neighbour.h). It leaves out what the kernel computes
// rather than learns, and does not notify: mappings of multicast, broadcast and point-to-point addresses (NOARP), and the multicast
// addresses that a device receives.
func parseNeighbor(b []byte) (index int, k neighborKey, n neighbor, ok bool) {
	const sizeofNdMsg = 12
	if len(b) < sizeofNdMsg {
		return 0, k, n, false
	}
	index = int(int32(order.Uint32(b[4:])))
	n.state = order.Uint16(b[8:])
	n.flags = b[10]
	var raw []byte
	for kind, v := range attributes(b[sizeofNdMsg:]) {
		switch kind {
		case unix.NDA_DST:
			k.ip = ip(v)
		case unix.NDA_LLADDR:
			raw = v
		case unix.NDA_VLAN:
			k.vlan = u16(v)
		case unix.NDA_VNI:
			k.vni = u32(v)
		}
	}
	switch b[0] {
	case unix.AF_BRIDGE:
		if len(raw) == 0 || n.flags&unix.NTF_SELF != 0 && !k.ip.IsValid() && raw[0]&1 != 0 {
			return 0, k, n, false
		}
		k.fdb, k.self, k.mac = true, n.flags&unix.NTF_SELF != 0, macText(raw)
		n.mac = k.mac
	case unix.AF_INET, unix.AF_INET6:
		if !k.ip.IsValid() || n.state&unix.NUD_NOARP != 0 || n.flags&unix.NTF_PROXY != 0 {
			return 0, k, n, false
		}
		n.mac = hardwareAddr(raw)
	default:
		return 0, k, n, false
	}
	return index, k, n, true
}

// macText also writes an address of zeros: the default entry of a VXLAN.
func macText(raw []byte) string {
	if mac := hardwareAddr(raw); mac != "" {
		return mac
	}
	return "00:00:00:00:00:00"
}

// gone tells whether a state stands for no entry at all.
func (n neighbor) gone() bool { return n.state == unix.NUD_NONE && n.mac == "" && n.flags == 0 }

// bitNames are the names of bits, lowest first.
type bitNames []string

func (names bitNames) list(prefix string, bits uint32) field.List {
	var l field.List
	for i, name := range names {
		if bits&(1<<i) != 0 {
			l = append(l, prefix+name)
		}
	}
	return l
}

// neighborStates and neighborFlags are NUD_* and NTF_* of linux/neighbour.h.
var (
	neighborStates = bitNames{"INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "NOARP", "PERMANENT"}
	neighborFlags  = bitNames{"USE", "SELF", "MASTER", "PROXY", "EXT_LEARNED", "OFFLOADED", "STICKY", "ROUTER"}
)

func (n neighbor) object(k neighborKey, index int) field.Object {
	o := make(field.Object, 0, 7) // keys in order
	add := func(key string, v field.Value) { o = append(o, field.Entry{Key: key, Value: v}) }
	if flags := neighborFlags.list("NTF_", uint32(n.flags)); flags != nil {
		add("Flags", flags)
	}
	if k.ip.IsValid() {
		add("IP", k.ip.String())
	}
	add("IfIndex", int64(index))
	if n.mac != "" {
		add("MAC", n.mac)
	}
	if state := neighborStates.list("NUD_", uint32(n.state)); state != nil {
		add("State", state)
	}
	if k.vni != 0 {
		add("VNI", int64(k.vni))
	}
	if k.vlan != 0 {
		add("Vlan", int64(k.vlan))
	}
	return o
}

func (k neighborKey) compare(other neighborKey) int {
	return cmp.Or(strings.Compare(k.mac, other.mac), k.ip.Compare(other.ip), cmp.Compare(k.vlan, other.vlan),
		cmp.Compare(k.vni, other.vni))
}

// neighborList returns the neighbours of an interface, or its forwarding database, nil when empty; in a fixed order.
func neighborList(all map[neighborKey]neighbor, index int, fdb bool) field.List {
	keys := make([]neighborKey, 0, len(all))
	for k := range all {
		if k.fdb == fdb {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, neighborKey.compare)
	var l field.List
	for _, k := range keys {
		l = append(l, all[k].object(k, index))
	}
	return l
}
