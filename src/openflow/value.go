package openflow

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// Value is what a field holds: an int64 where it is a number of at most 32 bits, else text.
type Value = any

// number reads an integer of up to 8 bytes.
func number(b []byte) uint64 {
	var n uint64
	for _, x := range b {
		n = n<<8 | uint64(x)
	}
	return n
}

// hexText writes an integer of any size without leading zeros.
func hexText(b []byte) string {
	if len(b) <= 8 {
		return "0x" + strconv.FormatUint(number(b), 16)
	}
	s := strings.TrimLeft(hex.EncodeToString(b), "0")
	if s == "" {
		s = "0"
	}
	return "0x" + s
}

// covers tells whether a mask lets all bits of the field count that are in use.
func (f *fieldInfo) covers(mask []byte) bool {
	return f.size > 0 && f.size <= 8 && len(mask) == f.size && number(mask)|^uint64(0)<<f.width() == ^uint64(0)
}

func allOnes(b []byte) bool {
	for _, x := range b {
		if x != 0xff {
			return false
		}
	}
	return true
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// text writes a value, with its mask when there is one.
func (f *fieldInfo) text(value, mask []byte) string {
	if mask != nil && allOnes(mask) {
		mask = nil
	}
	switch f.format {
	case ipv4, ipv6:
		if len(value) == 4 || len(value) == 16 {
			return addressText(value) + addressMask(mask)
		}
	case ethernet:
		if len(value) == 6 {
			s := macText(value)
			if mask != nil {
				s += "/" + macText(mask)
			}
			return s
		}
	case fragment:
		return fragmentText(value, mask)
	case tunnelFlags:
		return flagText(tunnelFlagNames[:], value, mask)
	case ctState:
		return flagText(ctStateNames[:], value, mask)
	case tcpFlags:
		return flagText(tcpFlagNames[:], value, mask)
	case packetType:
		if len(value) == 4 {
			n := binary.BigEndian.Uint32(value)
			return "(" + strconv.Itoa(int(n>>16)) + ",0x" + strconv.FormatUint(uint64(n&0xffff), 16) + ")"
		}
	case port:
		if mask == nil {
			return portText(portNumber(value))
		}
	case hexadecimal:
		if f.name == "recirc_id" && allZero(value) {
			return "0"
		}
		if f.name == "ipv6_label" {
			return fixedHex(value, mask, 5)
		}
	case decimal:
		if mask == nil && len(value) <= 8 {
			return strconv.FormatUint(number(value), 10)
		}
	}
	s := hexText(value)
	if mask != nil {
		s += "/" + hexText(mask)
	}
	return s
}

// fixedHex writes as many digits as told.
func fixedHex(value, mask []byte, digits int) string {
	s := fmt.Sprintf("0x%0*x", digits, number(value))
	if mask != nil {
		s += fmt.Sprintf("/0x%0*x", digits, number(mask))
	}
	return s
}

// value gives a number where the field is one and is best read as one.
func (f *fieldInfo) value(b []byte) Value {
	switch f.format {
	case decimal, hexadecimal:
		if f.size > 0 && f.size <= 4 && len(b) <= 4 {
			return int64(number(b))
		}
	case port:
		if n := portNumber(b); n < portMax {
			return int64(n)
		}
	}
	return f.text(b, nil)
}

// maskValue writes a mask that does not cover all bits.
func (f *fieldInfo) maskValue(mask []byte) string {
	switch {
	case mask == nil || allOnes(mask):
		return ""
	case (f.format == ipv4 || f.format == ipv6) && (len(mask) == 4 || len(mask) == 16):
		return addressMask(mask)[1:]
	case f.format == ethernet:
		return macText(mask)
	}
	return hexText(mask)
}

func addressText(b []byte) string {
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

// addressMask writes /n, or the whole mask when its ones are not all in front.
func addressMask(mask []byte) string {
	if mask == nil {
		return ""
	}
	ones := 0
	for _, x := range mask {
		ones += bits.OnesCount8(x)
	}
	for i := range ones {
		if mask[i/8]&(0x80>>(i%8)) == 0 {
			return "/" + addressText(mask)
		}
	}
	return "/" + strconv.Itoa(ones)
}

func macText(b []byte) string {
	s := make([]byte, 0, 3*len(b))
	for i, x := range b {
		if i > 0 {
			s = append(s, ':')
		}
		s = append(s, hexDigits[x>>4], hexDigits[x&15])
	}
	return string(s)
}

const hexDigits = "0123456789abcdef"

// dotted writes bytes as 01.02.03.
func dotted(b []byte) string { return strings.ReplaceAll(macText(b), ":", ".") }

// portMax is the first number that is no real port.
const portMax = 0xffffff00

// portNumber reads a port; 16 bits of OpenFlow 1.0 are made 32.
func portNumber(b []byte) uint32 {
	n := uint32(number(b))
	if len(b) == 2 {
		n = port16(uint16(n))
	}
	return n
}

func port16(n uint16) uint32 {
	if n >= 0xff00 {
		return 0xffff0000 | uint32(n)
	}
	return uint32(n)
}

// portText writes a port, reserved ones by their names.
func portText(n uint32) string {
	if n >= 0xfffffff7 {
		return [...]string{"UNSET", "IN_PORT", "TABLE", "NORMAL", "FLOOD", "ALL", "CONTROLLER", "LOCAL", "ANY"}[n-0xfffffff7]
	}
	if n >= portMax {
		n &= 0xffff
	}
	return strconv.FormatUint(uint64(n), 10)
}

// Names of bits, from the lowest.
var (
	tunnelFlagNames = [...]string{"oam"}
	ctStateNames    = [...]string{"new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"}
	tcpFlagNames    = [...]string{"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]"}
)

// flagText writes +name for a bit that must be set and -name for one that must not; when all bits count, the names of those set.
func flagText(names []string, value, mask []byte) string {
	v, known := number(value), uint64(1)<<len(names)-1
	if mask == nil && v&^known == 0 {
		var set []string
		for i, name := range names {
			if v>>i&1 != 0 {
				set = append(set, name)
			}
		}
		if set == nil {
			return "0"
		}
		return strings.Join(set, "|")
	}
	m := known
	if mask != nil {
		m = number(mask)
	}
	if m&^known != 0 || m == 0 {
		return "0x" + strconv.FormatUint(v, 16) + "/0x" + strconv.FormatUint(m, 16)
	}
	var s strings.Builder
	for i, name := range names {
		switch bit := uint64(1) << i; {
		case m&bit == 0:
		case v&bit != 0:
			s.WriteString("+" + name)
		default:
			s.WriteString("-" + name)
		}
	}
	return s.String()
}

// fragmentText names the five tests for fragments.
func fragmentText(value, mask []byte) string {
	v, m := number(value), uint64(3)
	if mask != nil {
		m = number(mask)
	}
	switch {
	case m == 3 && v == 0, m == 1 && v == 0:
		return "no"
	case m == 1 && v == 1:
		return "yes"
	case m == 3 && v == 1:
		return "first"
	case m == 3 && v == 3, m == 2 && v == 2:
		return "later"
	case m == 2 && v == 0:
		return "not_later"
	}
	return "0x" + strconv.FormatUint(v, 16) + "/0x" + strconv.FormatUint(m, 16)
}
