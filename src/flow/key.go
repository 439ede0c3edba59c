package flow

import "math/bits"

// key tells flows of a table apart. The two ends stand in an order that does not depend on the direction of the packet (see orient), so
// both directions have the same key. It holds more than the public identifiers do: the VLAN ids, the Ethernet type and the IP protocol,
// so that flows are not mixed which those identifiers do not tell apart.
type key struct {
	m0, m1  uint64 // MAC address << 16 | port
	a       uint64 // IPv4: both addresses; IPv6: first half of the first address
	vlan    uint64 // 12 bits each, outermost lowest
	meta    uint64 // see metaID
	parent  uint64 // UUID of the outer flow
	b, c, d uint64 // the rest of IPv6 addresses
}

// Parts of key.meta: an id of 32 bits (VNI, GRE key, or type, code and id of ICMP), the Ethernet type, the IP protocol, and flags.
const (
	metaTypeShift  = 32
	metaProtoShift = 48
	metaNet4       = 1 << 56
	metaNet6       = 1 << 57
	metaPortsShift = 58 // 3 bits
	metaLink       = 1 << 61
	metaICMP       = 1 << 62
	metaFragment   = 1 << 63
)

// What the ports of a key are.
const (
	portsNone = iota
	portsTCP
	portsUDP
	portsSCTP
	portsTunnel // the destination port twice: the source port of VXLAN and Geneve is only there to spread load
	portsLostTCP
	portsLostUDP
	portsLostSCTP // the header is cut off; identifiers know its kind only
)

func (k *key) network() Protocol {
	switch {
	case k.meta&metaNet4 != 0:
		return IPv4
	case k.meta&metaNet6 != 0:
		return IPv6
	}
	return Ethernet
}

func (k *key) transport() byte { return byte(k.meta>>metaPortsShift) & 7 }
func (k *key) ipProto() byte   { return byte(k.meta >> metaProtoShift) }

// is compares with the key of an entry. Without link only the ports count of m0 and m1: the entry has the addresses of its first packet.
func (k *key) is(e *hot) bool {
	d := (e.m0 ^ k.m0) | (e.m1 ^ k.m1) | (e.vlan ^ k.vlan)
	if k.meta&metaLink == 0 {
		d = (e.m0^k.m0)&0xffff | (e.m1^k.m1)&0xffff
	}
	d |= e.a ^ k.a | e.meta ^ k.meta | e.parent ^ k.parent
	if k.meta&metaNet6 != 0 {
		d |= e.b ^ k.b | e.c ^ k.c | e.d ^ k.d
	}
	return d == 0
}

// hash is for the table only, and differs between tables: nobody can aim at its collisions.
func (k *key) hash(seed *[4]uint64) uint64 {
	m0, m1, vlan := k.m0, k.m1, k.vlan
	if k.meta&metaLink == 0 {
		m0, m1, vlan = m0&0xffff, m1&0xffff, 0
	}
	h := fold(m0^seed[0], m1^seed[1])
	h = fold(h^k.a, k.meta^bits.RotateLeft64(vlan, 8)^seed[2])
	if k.meta&metaNet6 != 0 {
		h = fold(h^k.b, fold(k.c^seed[3], k.d^seed[1]))
	}
	if k.parent != 0 {
		h = fold(h^k.parent, seed[3])
	}
	return h
}

func fold(a, b uint64) uint64 {
	h, l := bits.Mul64(a, b)
	return h ^ l
}

// orient puts the ends into the order of the key; true: exchanged. MAC addresses decide, where they are not part of the key or equal IP
// addresses, and then ports.
func (k *key) orient() bool {
	swap := false
	switch m0, m1 := k.m0>>16, k.m1>>16; {
	case k.meta&metaLink != 0 && m0 != m1:
		swap = m0 > m1
	case k.meta&metaNet4 != 0 && uint32(k.a>>32) != uint32(k.a):
		swap = uint32(k.a>>32) > uint32(k.a)
	case k.meta&metaNet6 != 0 && (k.a != k.c || k.b != k.d):
		swap = k.a > k.c || k.a == k.c && k.b > k.d
	default:
		swap = uint16(k.m0) > uint16(k.m1)
	}
	if swap {
		k.m0, k.m1 = k.m1, k.m0
		if k.meta&metaNet4 != 0 {
			k.a = bits.RotateLeft64(k.a, 32)
		} else {
			k.a, k.b, k.c, k.d = k.c, k.d, k.a, k.b
		}
	}
	return swap
}
