package flow

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/google/gopacket/layers"
)

const (
	dnsName     = 255 // bytes of a name, as RFC 1035 limits it
	dnsPointers = 32  // compression pointers followed in a name
	dnsRecords  = 128 // kept of each section
)

// dnsReader reads a DNS message. With keep unset it only checks it. bad is set by the first thing that is not as it should be.
type dnsReader struct {
	b    []byte
	at   int
	keep bool
	bad  bool
}

// validDNS says whether b is a whole DNS message.
func validDNS(b []byte) bool {
	r := dnsReader{b: b}
	r.message()
	return !r.bad
}

// parseDNS reads a DNS message; nil if it is not whole.
func parseDNS(b []byte, time int64) *DNS {
	r := dnsReader{b: b, keep: true}
	d := r.message()
	if r.bad {
		return nil
	}
	d.Timestamp = time
	return d
}

func (r *dnsReader) take(n int) []byte {
	if r.bad || len(r.b)-r.at < n {
		r.bad = true
		return nil
	}
	r.at += n
	return r.b[r.at-n : r.at]
}

func (r *dnsReader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *dnsReader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// name reads a name with its compression pointers.
func (r *dnsReader) name() string {
	var room [dnsName + 64]byte
	name := room[:0]
	at, end := r.at, -1
	for pointers := 0; ; {
		if r.bad || at >= len(r.b) || len(name) > dnsName {
			r.bad = true
			return ""
		}
		n := int(r.b[at])
		switch {
		case n == 0:
			if end < 0 {
				end = at + 1
			}
			r.at = end
			if len(name) == 0 || !r.keep {
				return ""
			}
			return strings.ToValidUTF8(string(name[1:]), "\ufffd")
		case n&0xc0 == 0xc0:
			if pointers++; pointers > dnsPointers || at+2 > len(r.b) {
				r.bad = true
				return ""
			}
			if end < 0 {
				end = at + 2
			}
			at = int(binary.BigEndian.Uint16(r.b[at:]) & 0x3fff)
		case n&0xc0 != 0 || at+1+n > len(r.b):
			r.bad = true
			return ""
		default:
			name = append(append(name, '.'), r.b[at+1:at+1+n]...)
			at += 1 + n
		}
	}
}

func (r *dnsReader) message() *DNS {
	h := r.take(12)
	if h == nil {
		return nil
	}
	d := &DNS{ID: uint32(binary.BigEndian.Uint16(h)), QR: h[2]&0x80 != 0, OpCode: layers.DNSOpCode(h[2] >> 3 & 15).String(),
		AA: h[2]&4 != 0, TC: h[2]&2 != 0, RD: h[2]&1 != 0, RA: h[3]&0x80 != 0, Z: uint32(h[3] >> 4 & 7),
		QDCount: uint32(binary.BigEndian.Uint16(h[4:])), ANCount: uint32(binary.BigEndian.Uint16(h[6:])),
		NSCount: uint32(binary.BigEndian.Uint16(h[8:])), ARCount: uint32(binary.BigEndian.Uint16(h[10:]))}
	code := h[3] & 15
	for i := uint32(0); i < d.QDCount && !r.bad; i++ {
		q := DNSQuestion{Name: r.name(), Type: layers.DNSType(r.u16()).String(), Class: layers.DNSClass(r.u16()).String()}
		if r.keep && len(d.Questions) < dnsRecords {
			d.Questions = append(d.Questions, q)
		}
	}
	d.Answers, _ = r.section(d.ANCount)
	d.Authorities, _ = r.section(d.NSCount)
	var extended byte
	d.Additionals, extended = r.section(d.ARCount)
	d.ResponseCode = layers.DNSResponseCode(code | extended).String()
	return d
}

// section reads n records; extended is what an OPT record adds to the response code.
func (r *dnsReader) section(n uint32) (records []DNSRecord, extended byte) {
	for ; n > 0 && !r.bad; n-- {
		rec, typ := r.record()
		if typ == layers.DNSTypeOPT {
			extended = byte(rec.TTL >> 20 & 0xf0)
		}
		if r.keep && !r.bad && len(records) < dnsRecords {
			records = append(records, rec)
		}
	}
	return records, extended
}

func (r *dnsReader) record() (rec DNSRecord, typ layers.DNSType) {
	rec.Name = r.name()
	typ = layers.DNSType(r.u16())
	rec.Type, rec.Class = typ.String(), layers.DNSClass(r.u16()).String()
	rec.TTL = r.u32()
	size := r.u16()
	rec.DataLength = uint32(size)
	start := r.at
	data := r.take(int(size))
	if r.bad {
		return rec, typ
	}
	// The data are read by a reader that ends where they do, but sees the message before them, for compression pointers.
	in := dnsReader{b: r.b[:r.at], at: start, keep: r.keep}
	switch typ {
	case layers.DNSTypeA, layers.DNSTypeAAAA:
		if ip, ok := netip.AddrFromSlice(data); ok && r.keep {
			rec.IP = ip.String()
		}
	case layers.DNSTypeNS:
		rec.NS = in.name()
	case layers.DNSTypeCNAME:
		rec.CName = in.name()
	case layers.DNSTypePTR:
		rec.PTR = in.name()
	case layers.DNSTypeTXT, layers.DNSTypeHINFO:
		for in.at < len(in.b) && !in.bad {
			s := in.take(int(in.take(1)[0]))
			if r.keep && !in.bad {
				rec.TXTs = append(rec.TXTs, strings.ToValidUTF8(string(s), "\ufffd"))
			}
		}
	case layers.DNSTypeSOA:
		soa := DNSSOA{MName: in.name(), RName: in.name(), Serial: in.u32(), Refresh: in.u32(), Retry: in.u32(), Expire: in.u32(), Minimum: in.u32()}
		if r.keep {
			rec.SOA = &soa
		}
	case layers.DNSTypeMX:
		mx := DNSMX{Preference: uint32(in.u16()), Name: in.name()}
		if r.keep {
			rec.MX = &mx
		}
	case layers.DNSTypeSRV:
		srv := DNSSRV{Priority: uint32(in.u16()), Weight: uint32(in.u16()), Port: uint32(in.u16()), Name: in.name()}
		if r.keep {
			rec.SRV = &srv
		}
	case layers.DNSTypeOPT:
		for in.at < len(in.b) && !in.bad {
			code := layers.DNSOptionCode(in.u16())
			s := in.take(int(in.u16()))
			if r.keep && !in.bad {
				rec.OPT = append(rec.OPT, DNSOption{Code: code.String(), Data: strings.ToValidUTF8(string(s), "\ufffd")})
			}
		}
	}
	r.bad = in.bad
	return rec, typ
}
