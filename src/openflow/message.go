package openflow

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Version of the protocol, as it is on the wire.
type Version uint8

// The versions there are.
const (
	Version10 Version = iota + 1
	Version11
	Version12
	Version13
	Version14
	Version15
)

// ParseVersion reads a name such as OpenFlow13.
func ParseVersion(name string) (Version, error) {
	n, ok := strings.CutPrefix(name, "OpenFlow1")
	if !ok || len(n) != 1 || n[0] < '0' || n[0] > '5' {
		return 0, fmt.Errorf("no version of OpenFlow is called %q: they are OpenFlow10 to OpenFlow15", name)
	}
	return Version10 + Version(n[0]-'0'), nil
}

// String returns the name as ParseVersion takes it.
func (v Version) String() string { return fmt.Sprintf("OpenFlow1%d", int(v)-1) }

// Types of messages.
const (
	typeHello        = 0
	typeError        = 1
	typeEchoRequest  = 2
	typeEchoReply    = 3
	typeExperimenter = 4
	typeStats10      = 16 // requests; answers have the next number
	typeMultipart    = 18
	typeSetAsync     = 28
	lastType         = 64 // with room for versions to come
)

const headerSize = 8

// message is one message after its header.
type message struct {
	version Version
	kind    uint8
	xid     uint32
	body    []byte
}

// builder writes fields in network order.
type builder []byte

func (b builder) u8(v ...uint8) builder   { return append(b, v...) }
func (b builder) u16(v uint16) builder    { return binary.BigEndian.AppendUint16(b, v) }
func (b builder) u32(v uint32) builder    { return binary.BigEndian.AppendUint32(b, v) }
func (b builder) u64(v uint64) builder    { return binary.BigEndian.AppendUint64(b, v) }
func (b builder) zeros(n int) builder     { return append(b, make([]byte, n)...) }
func start(v Version, kind uint8) builder { return builder{byte(v), kind, 0, 0, 0, 0, 0, 0} }

// finish fills in length and number.
func (b builder) finish(xid uint32) []byte {
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint32(b[4:], xid)
	return b
}

// hello offers versions: the highest in the header, all of them in a bitmap, which switches older than the bitmap ignore.
func hello(versions []Version) []byte {
	highest, bitmap := Version(0), uint32(0)
	for _, v := range versions {
		highest = max(highest, v)
		bitmap |= 1 << v
	}
	return start(highest, typeHello).u16(1).u16(8).u32(bitmap).finish(1)
}

// agree returns the version that both ends will speak after a hello from the switch.
func agree(ours []Version, theirs message) (Version, bool) {
	bitmap, found := uint32(0), false
	c := cursor{b: theirs.body}
	for len(c.b) >= 4 {
		kind, size := c.u16(), int(c.u16())
		e := cursor{b: c.padded(size - 4)}
		if kind == 1 && len(e.b) >= 4 {
			bitmap, found = e.u32(), true
		}
	}
	var best Version
	highest := Version(0)
	for _, v := range ours {
		highest = max(highest, v)
		if found && bitmap>>v&1 != 0 {
			best = max(best, v)
		}
	}
	if !found {
		lower := min(highest, theirs.version)
		for _, v := range ours {
			if v == lower {
				best = v
			}
		}
	}
	return best, best != 0
}

// Error is what a switch answers to a request that it does not like.
type Error struct {
	Type, Code uint16
	Text       string // of a failed hello
}

func (e *Error) Error() string {
	if e.Text != "" {
		return fmt.Sprintf("switch refused: %s (type %d, code %d)", e.Text, e.Type, e.Code)
	}
	return fmt.Sprintf("switch refused: error type %d, code %d", e.Type, e.Code)
}

func readError(body []byte) *Error {
	c := cursor{b: body}
	e := &Error{Type: c.u16(), Code: c.u16()}
	if e.Type == 0 { // the hello failed: the rest is text
		e.Text = strings.ToValidUTF8(strings.TrimRight(string(c.b[:min(len(c.b), 200)]), "\x00"), "?")
	}
	return e
}
