package flow

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Queries look at the entries themselves: to make a record takes twenty times longer, and most flows are not among those that are asked for.

// verdict is what an entry tells of a filter.
type verdict uint8

const (
	no    verdict = iota
	maybe         // only the record tells
	yes
)

func verdictOf(b bool) verdict {
	if b {
		return yes
	}
	return no
}

// test is a filter on entries. It must be called under the lock.
type test func(e *hot, n uint32) verdict

func constant(v verdict) test { return func(*hot, uint32) verdict { return v } }

// Each gives the records of all flows in the table. A *Flow is valid until yield returns; false ends it.
func (t *Table) Each(yield func(*Flow) bool) { t.Search(nil, yield) }

// Search gives the records of all flows that pass the filter. A *Flow is valid until yield returns; false ends it.
func (t *Table) Search(f *Filter, yield func(*Flow) bool) {
	t.search(f, nil, yield)
}

// Total adds up the flows that pass the filter.
func (t *Table) Total(f *Filter, a Aggregate) Total {
	var total Total
	if f == nil && a.Metric == NoMetric {
		total.Count = int64(t.Len())
		return total
	}
	t.search(f, func(e *hot, n uint32) {
		total.Count++
		if a.Metric == NoMetric {
			return
		}
		var m Metric
		switch c := t.cold(n); {
		case a.Metric != Whole && e.flags&updated != 0:
			m = t.update(e, c)
		case a.Metric != Update:
			m = e.metric(c)
		}
		total.Metric.Add(&m)
	}, func(f *Flow) bool {
		total.Add(f, a)
		return true
	})
	return total
}

// search gives the flows that pass to take, as entries under the lock, or where that cannot be told from the entry or take is nil to yield.
func (t *Table) search(f *Filter, take func(e *hot, n uint32), yield func(*Flow) bool) {
	passes := t.compile(f)
	var out records
	t.slices(&out, func(e *hot, n uint32) {
		switch v := passes(e, n); {
		case v == yes && take != nil:
			take(e, n)
		case v != no:
			r := out.next()
			t.record(e, n, r)
			r.unsure = v == maybe
		}
	}, func(r *record) bool {
		return r.unsure && !f.Match(&r.flow) || yield(&r.flow)
	})
}

// compile makes a test of a filter.
func (t *Table) compile(f *Filter) test {
	if f == nil || f.Kind == Everything || f.Kind == Bool && len(f.Filters) == 0 {
		return constant(yes)
	}
	if f.Kind != Bool {
		return t.compileTerm(f)
	}
	tests := make([]test, len(f.Filters))
	for i, sub := range f.Filters {
		tests[i] = t.compile(sub)
	}
	// As soon as one says so, the result is end; else it is the other one, if all are sure.
	so, end := no, no
	switch f.Op {
	case OpOr:
		so, end = yes, yes
	case OpNot:
		end = yes
	}
	other := yes - end
	return func(e *hot, n uint32) verdict {
		result := other
		for _, test := range tests {
			switch v := test(e, n); v {
			case so:
				return end
			case maybe:
				result = maybe
			}
		}
		return result
	}
}

// compileTerm makes a test of a filter on one field.
func (t *Table) compileTerm(f *Filter) test {
	head, rest, _ := strings.Cut(f.Key, ".")
	switch f.Key {
	case "NodeTID":
		t.mu.Lock()
		one := len(t.places) == 0
		t.mu.Unlock()
		if one {
			return constant(verdictOf(f.test.Match(t.o.NodeTID, true)))
		}
		known := new(verdicts)
		return func(e *hot, _ uint32) verdict {
			return known.of(uint16(e.place()), f, func() string { return t.at(e.place()).tid })
		}
	case "CaptureID":
		return constant(verdictOf(f.test.Match(t.o.CaptureID, true)))
	case "LayersPath":
		known := new(verdicts)
		return func(e *hot, _ uint32) verdict {
			return known.of(e.path, f, func() string { return t.names.paths[e.path] })
		}
	case "Application":
		known := new(verdicts)
		return func(e *hot, _ uint32) verdict {
			return known.of(e.app, f, func() string { return t.names.apps[e.app].name })
		}
	case "UUID", "TrackingID", "L3TrackingID", "ParentUUID":
		return t.compileID(f)
	case "Network.A", "Network.B":
		return compileAddress(f, rest == "B")
	case "Link.A", "Link.B":
		return compileMAC(f, rest == "B")
	case "Network.Protocol":
		return compileProtocol(f, []shownAs{{shownNet4, IPv4}, {shownNet6, IPv6}})
	case "Transport.Protocol":
		return compileProtocol(f, []shownAs{{shownTCP, TCP}, {shownUDP, UDP}, {shownSCTP, SCTP}})
	}
	if number := t.number(head, rest); number != nil {
		absent := verdictOf(f.test.Match(nil, false))
		return func(e *hot, n uint32) verdict {
			if v, ok := number(e, n); ok {
				return verdictOf(f.matchNumber(v))
			}
			return absent
		}
	}
	return constant(maybe)
}

// verdicts are those on the texts that entries have by number.
type verdicts []struct{ known, pass bool }

func (v *verdicts) of(i uint16, f *Filter, text func() string) verdict {
	if int(i) >= len(*v) {
		*v = slices.Grow(*v, int(i)+1-len(*v))[:int(i)+1]
	}
	x := &(*v)[i]
	if !x.known {
		x.known, x.pass = true, f.test.Match(text(), true)
	}
	return verdictOf(x.pass)
}

// compileID tests an identifier. Texts that are not written as identifiers are, are none.
func (t *Table) compileID(f *Filter) test {
	if f.Kind != TermString {
		return constant(maybe)
	}
	id, err := strconv.ParseUint(f.Text, 16, 64)
	if err != nil || string(hexID(nil, id)) != f.Text {
		if f.Key == "ParentUUID" && f.Text == "" {
			return func(e *hot, _ uint32) verdict { return verdictOf(e.parent == 0) }
		}
		return constant(no)
	}
	switch f.Key {
	case "UUID":
		return func(_ *hot, n uint32) verdict { return verdictOf(t.cold(n).uuid == id) }
	case "TrackingID":
		return func(_ *hot, n uint32) verdict { return verdictOf(t.cold(n).tracking == id) }
	case "L3TrackingID":
		return func(_ *hot, n uint32) verdict { return verdictOf(t.cold(n).l3 == id) }
	}
	return func(e *hot, _ uint32) verdict { return verdictOf(e.parent == id && id != 0) }
}

// compileAddress tests an IP address.
func compileAddress(f *Filter, second bool) test {
	absent := verdictOf(f.test.Match(nil, false))
	switch f.Kind {
	case TermString:
		ip, err := netip.ParseAddr(f.Text)
		switch {
		case err != nil || ip.Zone() != "" || ip.String() != f.Text:
			return constant(no)
		case ip.Is4():
			b := ip.As4()
			return inNetwork(binary.BigEndian.Uint32(b[:]), 32, second, absent)
		}
		b := ip.As16()
		hi, lo := binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])
		return func(e *hot, _ uint32) verdict {
			if e.flags&shownNet6 == 0 {
				return no
			}
			if second != (e.flags&aSecond != 0) {
				return verdictOf(e.c == hi && e.d == lo)
			}
			return verdictOf(e.a == hi && e.b == lo)
		}
	case IPv4Range:
		if net, err := netip.ParsePrefix(f.Text); err == nil && net.Addr().Is4() {
			b := net.Addr().As4()
			return inNetwork(binary.BigEndian.Uint32(b[:]), net.Bits(), second, absent)
		}
	}
	return constant(maybe)
}

// inNetwork tests whether an IPv4 address is in the network.
func inNetwork(net uint32, bits int, second bool, absent verdict) test {
	mask := uint32(0xffff_ffff << (32 - bits))
	return func(e *hot, _ uint32) verdict {
		if e.flags&shownNet4 == 0 {
			return absent
		}
		ip := uint32(e.a >> 32)
		if second != (e.flags&aSecond != 0) {
			ip = uint32(e.a)
		}
		return verdictOf((ip^net)&mask == 0)
	}
}

// compileMAC tests a MAC address.
func compileMAC(f *Filter, second bool) test {
	if f.Kind != TermString {
		return constant(maybe)
	}
	mac, err := strconv.ParseUint(strings.ReplaceAll(f.Text, ":", ""), 16, 48)
	var s text
	if s.mac(mac); err != nil || string(s.b) != f.Text {
		return constant(no)
	}
	return func(e *hot, _ uint32) verdict {
		m := e.m0
		if second != (e.flags&aSecond != 0) {
			m = e.m1
		}
		return verdictOf(e.flags&shownLink != 0 && m>>16 == mac)
	}
}

// shownAs is the protocol that a flag says is shown.
type shownAs struct {
	flag     uint32
	protocol Protocol
}

func compileProtocol(f *Filter, protocols []shownAs) test {
	absent := verdictOf(f.test.Match(nil, false))
	var passes uint32
	for _, p := range protocols {
		if f.test.Match(p.protocol.String(), true) {
			passes |= p.flag
		}
	}
	return func(e *hot, _ uint32) verdict {
		for _, p := range protocols {
			if e.flags&p.flag != 0 {
				return verdictOf(passes&p.flag != 0)
			}
		}
		return absent
	}
}

// number gives the value of a field that is a number, if the flow has it; nil: it is not one, or not one of those that many ask for.
func (t *Table) number(head, rest string) func(e *hot, n uint32) (int64, bool) {
	metric := func(of func(*Metric, *hot, uint32) bool) func(*hot, uint32) (int64, bool) {
		i := slices.IndexFunc(metricColumns, func(c column[Metric]) bool { return c.json == rest })
		if i < 0 {
			return nil
		}
		var m Metric
		v := metricColumns[i].ref(&m).(*int64)
		return func(e *hot, n uint32) (int64, bool) {
			ok := of(&m, e, n)
			return *v, ok
		}
	}
	switch head {
	case "Metric":
		return metric(func(m *Metric, e *hot, n uint32) bool {
			*m = e.metric(t.cold(n))
			return true
		})
	case "LastUpdateMetric":
		return metric(func(m *Metric, e *hot, n uint32) bool {
			*m = t.update(e, t.cold(n))
			return e.flags&updated != 0
		})
	}
	switch head + "." + rest {
	case "Start.":
		return func(_ *hot, n uint32) (int64, bool) { return t.cold(n).start, true }
	case "Last.":
		return func(e *hot, _ uint32) (int64, bool) { return e.last / ms, true }
	case "FinishType.":
		return func(e *hot, _ uint32) (int64, bool) { return int64(e.flags >> finishBit & 3), true }
	case "Transport.A":
		return func(e *hot, n uint32) (int64, bool) { return int64(t.cold(n).portA), e.flags&shownTransport != 0 }
	case "Transport.B":
		return func(e *hot, n uint32) (int64, bool) { return int64(t.cold(n).portB), e.flags&shownTransport != 0 }
	}
	return nil
}
