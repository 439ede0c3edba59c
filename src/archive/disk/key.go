package disk

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"

	"skydive/src/graph"
)

// The key spaces, by first byte. All numbers are big endian, so that keys sort as they do.
//
//	version                          text: what wrote the archive
//	hour     hour                    how much of the hour there is: see usage
//	report   minute, flow, ms, ms    a report of a flow, in the minute of its last packet
//	packets  minute, flow, index     the raw packets of a report, in the minute of the first
//	log      ms, number              a change of the graph
//	open     kind, id                an element that is in the graph now, as of its last entry in the log
//	mark     ms, number              a checkpoint: the graph after the log entry before number
//	copied   number, kind, id        an element of a checkpoint, as in open
//	counters hour, node, ^ms         the counters of a node, newest first
const (
	spaceVersion  = 'V'
	spaceHour     = 'H'
	spaceReport   = 'f'
	spacePackets  = 'p'
	spaceLog      = 'l'
	spaceOpen     = 'o'
	spaceMark     = 'm'
	spaceCopied   = 'k'
	spaceCounters = 'c'
)

const (
	second = int64(1000) // ms, as all times here
	minute = 60 * second
	hour   = 60 * minute
)

// flowID is a flow in keys: short, and of fixed length whatever a producer names its flows.
type flowID [1 + 8]byte

const (
	hexFlow    = 0 // lower hex without leading zeros, which is what identifiers of flows are
	hashedFlow = 1
)

func flowIDOf(uuid string) (id flowID) {
	if n, ok := shortHex(uuid); ok {
		binary.BigEndian.PutUint64(id[1:], n)
		return id
	}
	sum := sha256.Sum256([]byte(uuid))
	copy(id[1:], sum[:])
	id[0] = hashedFlow
	return id
}

// shortHex reads the shortest lower hex form of a number, and nothing else, so that the text can be had back.
func shortHex(s string) (n uint64, ok bool) {
	if len(s) == 0 || len(s) > 16 || s[0] == '0' {
		return 0, false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, false
		}
		n = n<<4 | uint64(c)
	}
	return n, true
}

// plainUUID reads a UUID as it is usually written, and nothing else.
func plainUUID(s string) (u [16]byte, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, false
	}
	at := 0
	for i := 0; i < len(s); i += 2 {
		if s[i] == '-' {
			i++
		}
		hi, lo := nibble(s[i]), nibble(s[i+1])
		if hi > 15 || lo > 15 {
			return u, false
		}
		u[at] = hi<<4 | lo
		at++
	}
	return u, true
}

func nibble(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

func appendUUID(dst []byte, u []byte) []byte {
	for i, n := range [...]int{4, 2, 2, 2, 6} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, u[:n])
		u = u[n:]
	}
	return dst
}

func appendMS(dst []byte, ms int64) []byte {
	return append(dst, byte(ms>>40), byte(ms>>32), byte(ms>>24), byte(ms>>16), byte(ms>>8), byte(ms))
}

func msOf(b []byte) int64 {
	return int64(b[0])<<40 | int64(b[1])<<32 | int64(b[2])<<24 | int64(b[3])<<16 | int64(b[4])<<8 | int64(b[5])
}

func appendSlot(dst []byte, space byte, slot int64) []byte {
	return binary.BigEndian.AppendUint32(append(dst, space), uint32(slot))
}

// slotOf is the minute or hour of a key.
func slotOf(key []byte) int64 { return int64(binary.BigEndian.Uint32(key[1:])) }

const (
	reportKey  = 1 + 4 + len(flowID{}) + 6 + 6
	packetsKey = 1 + 4 + len(flowID{}) + 4
	logKey     = 1 + 6 + 8
	countsKey  = 1 + 4 + 16 + 6
)

// appendReport is the key of a report: by the last packet, and then by the end of the interval that was counted. Reports without counters,
// which tell that a flow is over, give none: they sort after the one whose last packet they share.
func appendReport(dst []byte, at int64, id flowID, last, counted int64) []byte {
	dst = append(appendSlot(dst, spaceReport, at/minute), id[:]...)
	if counted == 0 {
		counted = -1
	}
	return appendMS(appendMS(dst, last), counted)
}

func appendPackets(dst []byte, at int64, id flowID, index uint32) []byte {
	return binary.BigEndian.AppendUint32(append(appendSlot(dst, spacePackets, at/minute), id[:]...), index)
}

// flowIn is the flow of a report or of packets.
func flowIn(key []byte) (id flowID) { return flowID(key[5 : 5+len(id)]) }

func appendEntry(dst []byte, space byte, ms int64, number uint64) []byte {
	return binary.BigEndian.AppendUint64(appendMS(append(dst, space), ms), number)
}

// entryOf reads the time and the number of a log entry or mark.
func entryOf(key []byte) (ms int64, number uint64) {
	return msOf(key[1:]), binary.BigEndian.Uint64(key[7:])
}

func appendOpen(dst []byte, kind byte, id string) []byte {
	return append(append(dst, spaceOpen, kind), id...)
}

// nodeID is a node in keys.
type nodeID [16]byte

// nodeIDOf is the UUID that most nodes are named by, or else a hash.
func nodeIDOf(id string) nodeID {
	if u, ok := plainUUID(id); ok {
		return u
	}
	sum := sha256.Sum256([]byte(id))
	return nodeID(sum[:16])
}

// appendCounters is the key of the counters of a node as of a time: the newest come first.
func appendCounters(dst []byte, slot int64, id nodeID, at graph.Time) []byte {
	return appendMS(append(appendSlot(dst, spaceCounters, slot), id[:]...), ^int64(at))
}

func countersAt(key []byte) graph.Time { return graph.Time(^msOf(key[21:]) & (1<<48 - 1)) }

func appendShortHex(dst []byte, n uint64) []byte {
	return strconv.AppendUint(dst, n, 16)
}
