package openflow

import "errors"

// errShort tells that a message ended before its content did.
var errShort = errors.New("message is cut short")

// Kinds of statistics, or parts of a multipart message.
const (
	statsFlow         = 1
	statsGroupDesc    = 7
	statsFlowMonitor  = 16
	statsExperimenter = 0xffff

	nxstFlow        = 0
	nxstFlowMonitor = 2
	onfFlowMonitor  = 1870
	anyPort         = 0xffffffff
	anyGroup        = 0xffffffff
	allGroups       = 0xfffffffc
	allTables       = 0xff
	moreFollows     = 1
	oxmMatch        = 1
)

// statsRequest starts a request for statistics of a kind.
func statsRequest(v Version, kind uint16) builder {
	if v == Version10 {
		return start(v, typeStats10).u16(kind).u16(0)
	}
	return start(v, typeMultipart).u16(kind).u16(0).zeros(4)
}

func experimenterRequest(v Version, vendor, subtype uint32) builder {
	b := statsRequest(v, statsExperimenter).u32(vendor).u32(subtype)
	if v == Version10 {
		b = b.zeros(4)
	}
	return b
}

// flowRequest asks for all rules. In OpenFlow 1.0 it asks with Nicira's extension, if extended, since the plain answer tells only
// some of the fields that rules may match.
func flowRequest(v Version, extended bool) builder {
	switch {
	case v == Version10 && extended:
		return experimenterRequest(v, nicira, nxstFlow).u16(0xffff).u16(0).u8(allTables).zeros(3)
	case v == Version10:
		const allWild = 0x3fffff
		return statsRequest(v, statsFlow).u32(allWild).zeros(36).u8(allTables, 0).u16(0xffff)
	}
	b := statsRequest(v, statsFlow).u8(allTables).zeros(3).u32(anyPort).u32(anyGroup).zeros(4).u64(0).u64(0)
	if v == Version11 {
		const standardSize, allWild = 88, 0x3ff
		// Addresses and metadata have masks of their own, whose ones are "any".
		return b.u16(0).u16(standardSize).u32(0).u32(allWild).zeros(6).u8(ones(6)...).zeros(6).u8(ones(6)...).
			zeros(12).u8(ones(4)...).zeros(4).u8(ones(4)...).zeros(20).u64(1<<64 - 1)
	}
	return b.u16(oxmMatch).u16(4).zeros(4)
}

func ones(n int) []uint8 {
	b := make([]uint8, n)
	for i := range b {
		b[i] = 0xff
	}
	return b
}

func groupRequest(v Version) builder {
	b := statsRequest(v, statsGroupDesc)
	if v >= Version15 {
		b = b.u32(allGroups).zeros(4)
	}
	return b
}

// answer is one message of an answer that may come in several.
type answer struct {
	kind    uint16
	vendor  uint32
	subtype uint32
	more    bool
	body    []byte
}

func readAnswer(v Version, body []byte) (answer, error) {
	c := cursor{b: body}
	a := answer{kind: c.u16(), more: c.u16()&moreFollows != 0}
	if v != Version10 {
		c.skip(4)
	}
	if a.kind == statsExperimenter {
		a.vendor, a.subtype = c.u32(), c.u32()
		if v == Version10 {
			c.skip(4)
		}
	}
	a.body = c.b
	if c.bad {
		return a, errShort
	}
	return a, nil
}

// rawRule is a Rule that still points into its message.
type rawRule struct {
	Rule
	match, instructions []byte
}

// keep copies what a raw rule points to.
func (r *rawRule) keep(v Version) *Rule {
	rule := r.Rule
	rule.Match, rule.Instructions = Match(r.match), Instructions{v, string(r.instructions)}
	return &rule
}

// readRules reads the rules of an answer, one by one.
func readRules(v Version, a answer, each func(*rawRule)) error {
	b := a.body
	var r rawRule
	for len(b) > 0 {
		c := cursor{b: b}
		size := int(c.u16())
		if size < 8 || size > len(b) {
			return errShort
		}
		c.b = b[2:size:size]
		b = b[size:]
		r = rawRule{}
		switch {
		case v == Version10 && a.kind == statsExperimenter:
			r.extended10(&c)
		case v == Version10:
			r.plain10(&c)
		case v >= Version15:
			r.since15(&c)
		default:
			r.since11(v, &c)
		}
		if c.bad {
			return errShort
		}
		each(&r)
	}
	return nil
}

func (r *rawRule) extended10(c *cursor) {
	r.Table = c.u8()
	c.skip(9)
	r.Priority, r.IdleTimeout, r.HardTimeout = c.u16(), c.u16(), c.u16()
	size := int(c.u16())
	c.skip(4)
	r.Cookie = c.u64()
	r.count(c)
	r.match = c.padded(size)
	r.instructions = c.b
}

func (r *rawRule) plain10(c *cursor) {
	r.Table = c.u8()
	c.skip(1)
	r.match = standardMatch10(cursor{b: c.bytes(40)})
	c.skip(8)
	r.Priority, r.IdleTimeout, r.HardTimeout = c.u16(), c.u16(), c.u16()
	c.skip(6)
	r.Cookie = c.u64()
	r.count(c)
	r.instructions = c.b
}

func (r *rawRule) since11(v Version, c *cursor) {
	r.Table = c.u8()
	c.skip(9)
	r.Priority, r.IdleTimeout, r.HardTimeout = c.u16(), c.u16(), c.u16()
	flags, importance := c.u16(), c.u16()
	if v >= Version13 {
		r.Flags = Flags(flags)
	}
	if v >= Version14 {
		r.Importance = importance
	}
	c.skip(2)
	r.Cookie = c.u64()
	r.count(c)
	r.match = c.matchOf(v)
	r.instructions = c.b
}

func (r *rawRule) since15(c *cursor) {
	c.skip(2)
	r.Table = c.u8()
	c.skip(1)
	r.Priority, r.IdleTimeout, r.HardTimeout = c.u16(), c.u16(), c.u16()
	r.Flags, r.Importance = Flags(c.u16()), c.u16()
	r.Cookie = c.u64()
	r.match = c.matchOf(Version15)
	c.skip(2)
	size := int(c.u16())
	s := cursor{b: c.padded4(size)}
	for len(s.b) >= 4 {
		const packets, bytes = 4, 5
		class, number := s.u16(), s.u8()>>1
		value := s.bytes(int(s.u8()))
		switch {
		case class != 0x8002 || len(value) != 8:
		case number == packets:
			r.Packets = number64(value)
		case number == bytes:
			r.Bytes = number64(value)
		}
	}
	r.instructions = c.b
}

// count reads both counters; all ones is "not known".
func (r *rawRule) count(c *cursor) {
	if r.Packets = c.u64(); r.Packets == 1<<64-1 {
		r.Packets = 0
	}
	if r.Bytes = c.u64(); r.Bytes == 1<<64-1 {
		r.Bytes = 0
	}
}

func number64(b []byte) uint64 {
	if n := number(b); n != 1<<64-1 {
		return n
	}
	return 0
}

// padded4 reads a block that counts itself, of which two times two bytes were read, with its fill.
func (c *cursor) padded4(size int) []byte {
	b := c.bytes(size - 4)
	c.skip(min((8-size%8)%8, len(c.b)))
	return b
}

// matchOf reads a match with its header and gives it as OXM.
func (c *cursor) matchOf(v Version) []byte {
	kind, size := c.u16(), int(c.u16())
	if kind == 0 && v == Version11 {
		return standardMatch11(cursor{b: c.bytes(size - 4)})
	}
	return c.padded4(size)
}
