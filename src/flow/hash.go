package flow

import (
	"encoding/binary"
	"math/bits"
)

// The identifiers of a flow are sums of one running XXH64 (seed 0): network, transport and ICMP endpoints give the L3TrackingID; link
// endpoints after them the TrackingID; the ParentUUID after those the seed of the UUID. Stored data and mixed deployments depend on the
// exact values of the public hasher, which is not pure XXH64: see sum.

const (
	prime1 uint64 = 11400714785074694791
	prime2 uint64 = 14029467366897019727
	prime3 uint64 = 1609587929392839161
	prime4 uint64 = 9650029242287828579
	prime5 uint64 = 2870177450012600261
)

// running is a streaming XXH64.
type running struct {
	lane  [4]uint64
	seed  uint64
	total uint64
	held  int
	hold  [32]byte
}

func newRunning(seed uint64) running {
	// Variables, as these sums overflow on purpose.
	p1, p2 := prime1, prime2
	return running{lane: [4]uint64{seed + p1 + p2, seed + p2, seed, seed - p1}, seed: seed}
}

func (r *running) write(b []byte) {
	r.total += uint64(len(b))
	for len(b) > 0 {
		n := copy(r.hold[r.held:], b)
		r.held += n
		b = b[n:]
		if r.held == len(r.hold) {
			for i := range r.lane {
				r.lane[i] = bits.RotateLeft64(r.lane[i]+binary.LittleEndian.Uint64(r.hold[8*i:])*prime2, 31) * prime1
			}
			r.held = 0
		}
	}
}

// sum gives the hash of what was written. As in the public hasher, and unlike XXH64, it leaves the lanes multiplied by the second prime, so
// that later sums differ from those of a fresh hasher fed with the same bytes.
func (r *running) sum() uint64 {
	h := r.seed + prime5
	if r.total >= 32 {
		h = bits.RotateLeft64(r.lane[0], 1) + bits.RotateLeft64(r.lane[1], 7) + bits.RotateLeft64(r.lane[2], 12) + bits.RotateLeft64(r.lane[3], 18)
		for i := range r.lane {
			r.lane[i] *= prime2
			h = (h^bits.RotateLeft64(r.lane[i], 31)*prime1)*prime1 + prime4
		}
	}
	h += r.total
	b := r.hold[:r.held]
	for ; len(b) >= 8; b = b[8:] {
		h ^= bits.RotateLeft64(binary.LittleEndian.Uint64(b)*prime2, 31) * prime1
		h = bits.RotateLeft64(h, 27)*prime1 + prime4
	}
	if len(b) >= 4 {
		h ^= uint64(binary.LittleEndian.Uint32(b)) * prime1
		h = bits.RotateLeft64(h, 23)*prime2 + prime3
		b = b[4:]
	}
	for _, c := range b {
		h ^= uint64(c) * prime5
		h = bits.RotateLeft64(h, 11) * prime1
	}
	h ^= h >> 33
	h *= prime2
	h ^= h >> 29
	h *= prime3
	return h ^ h>>32
}

// Endpoint types, as they enter the hash after each pair of endpoints.
const (
	endpointCustom = 0
	endpointIPv4   = 1
	endpointIPv6   = 2
	endpointMAC    = 3
	endpointTCP    = 4
	endpointUDP    = 5
	endpointSCTP   = 6
)

// ids are the public identifiers of a flow.
type ids struct{ l3, tracking, uuid uint64 }

// hexID is the public form of an identifier: lower hexadecimal without leading zeros.
func hexID(dst []byte, id uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := (bits.Len64(id|1) - 1) &^ 3; shift >= 0; shift -= 4 {
		dst = append(dst, digits[id>>shift&15])
	}
	return dst
}

// ids computes the identifiers of a flow with key k that starts at start (ms) at a place.
func (k *key) ids(start int64, at place) ids {
	var b [16]byte
	r := newRunning(0)
	kind := func(t byte) { r.write(append(b[:0], 0, 0, 0, 0, 0, 0, 0, t)) }
	switch k.network() {
	case IPv4:
		r.write(binary.BigEndian.AppendUint64(b[:0], k.a))
		kind(endpointIPv4)
	case IPv6:
		for _, w := range [...]uint64{k.a, k.b, k.c, k.d} {
			r.write(binary.BigEndian.AppendUint64(b[:0], w))
		}
		kind(endpointIPv6)
	}
	switch k.transport() {
	case portsTCP, portsUDP, portsSCTP:
		r.write(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b[:0], uint16(k.m0)), uint16(k.m1)))
		kind(endpointTCP + k.transport() - portsTCP)
	case portsTunnel:
		r.write(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(b[:0], uint32(k.meta)), uint16(k.m1)))
		kind(endpointCustom)
	case portsLostTCP, portsLostUDP, portsLostSCTP:
		kind(endpointTCP + k.transport() - portsLostTCP)
	}
	if k.meta&metaICMP != 0 {
		r.write(binary.BigEndian.AppendUint32(b[:0], uint32(k.meta)))
		kind(endpointCustom)
	}
	var id ids
	id.l3 = r.sum()
	id.tracking = id.l3
	if k.meta&metaLink != 0 {
		r.write(binary.BigEndian.AppendUint64(b[:0], k.m0&^0xffff)[:6])
		r.write(binary.BigEndian.AppendUint64(b[:0], k.m1&^0xffff)[:6])
		kind(endpointMAC)
		id.tracking = r.sum()
	}
	if k.parent != 0 {
		r.write(hexID(b[:0], k.parent))
	}
	u := newRunning(r.sum())
	u.write(binary.BigEndian.AppendUint64(b[:0], uint64(start)))
	for _, text := range [...]string{at.tid, at.salt} {
		for len(text) > 0 {
			n := copy(b[:], text)
			u.write(b[:n])
			text = text[n:]
		}
	}
	id.uuid = u.sum()
	return id
}
