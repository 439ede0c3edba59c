package openflow

import (
	"testing"
	"time"
)

// FuzzMessages takes bytes as the body of every kind of message.
func FuzzMessages(f *testing.F) {
	for v := Version10; v <= Version15; v++ {
		for _, body := range recorded(f, v) {
			f.Add(uint8(v), body[:min(len(body), 4096)])
			a, err := readAnswer(v, body)
			if err != nil {
				f.Fatal(err)
			}
			// Each rule alone, so that the fuzzer has something small to begin with.
			head := len(body) - len(a.body)
			for b := a.body; len(b) > 2; {
				size := int(b[0])<<8 | int(b[1])
				f.Add(uint8(v), append(body[:head:head], b[:size]...))
				b = b[size:]
			}
		}
	}
	for _, e := range events(f) {
		f.Add(uint8(e.version), e.body)
	}
	f.Fuzz(func(t *testing.T, version uint8, body []byte) {
		v := Version10 + Version(version-1)%6
		size := 0
		show := func(r *rawRule) {
			rule := r.keep(v)
			size += len(rule.String())
			for _, field := range rule.Match.Fields() {
				switch field.Value.(type) {
				case int64, string:
				default:
					t.Errorf("%s has a value of type %T", field.Name, field.Value)
				}
				if field.Name == "" {
					t.Error("a field without name")
				}
			}
			for _, i := range rule.Instructions.Decode() {
				checkActions(t, i.Actions)
			}
		}
		table := newTable(100)
		if a, err := readAnswer(v, body); err == nil {
			table.begin()
			_ = readRules(v, a, func(r *rawRule) { show(r); table.put(v, r, false) })
			table.end()
			_ = readGroups(v, a.body, func(g Group) {
				size += len(g.String())
				for _, k := range g.Buckets {
					checkActions(t, k.Actions)
				}
				table.putGroup(g)
			})
			_ = readEvents(v, a.body, func(kind eventKind, r *rawRule) {
				if kind < eventAbbreviated {
					show(r)
					table.put(v, r, true)
					table.remove(r)
				}
			})
		}
		table.take()
		table.forget()
		table.take()
		if table.bytes != 0 {
			t.Errorf("an empty table has %d bytes", table.bytes)
		}
		_, _ = agree([]Version{Version10, Version13}, message{version: v, body: body})
		size += len(readError(body).Error())
		// What is shown must be in proportion to what came.
		if limit := 1000*len(body) + 4096; size > limit {
			t.Errorf("%d bytes make %d", len(body), size)
		}
	})
}

func checkActions(t *testing.T, all []Action) {
	for _, a := range all {
		if a.Type == "" || a.text == "" {
			t.Errorf("action %+v", a)
		}
		for _, arg := range a.Arguments {
			switch value := arg.Value.(type) {
			case int64, string, bool:
			case []Action:
				checkActions(t, value)
			default:
				t.Errorf("%s has an argument of type %T", a.Type, arg.Value)
			}
		}
	}
}

// FuzzStandardMatch takes bytes as the fixed matches of 1.0 and 1.1, which must become matches that can be read.
func FuzzStandardMatch(f *testing.F) {
	f.Add(make([]byte, 84))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range [][]byte{standardMatch10(cursor{b: b}), standardMatch11(cursor{b: b})} {
			for _, field := range Match(m).Fields() {
				if len(b) >= 84 && field.Name == "malformed" {
					t.Errorf("%x becomes %x", b, m)
				}
			}
		}
	})
}

// BenchmarkPoll reads the counters of rules that are known; it must not allocate.
func BenchmarkPoll(b *testing.B) {
	v := Version14
	a, err := readAnswer(v, recorded(b, v)[0])
	if err != nil {
		b.Fatal(err)
	}
	table := newTable(1000)
	rules := 0
	poll := func() {
		table.begin()
		if err := readRules(v, a, func(r *rawRule) { rules++; table.put(v, r, false) }); err != nil {
			b.Fatal(err)
		}
		table.end()
	}
	poll()
	table.take()
	rules = 0
	b.ReportAllocs()
	since := time.Now()
	for b.Loop() {
		poll()
	}
	b.ReportMetric(float64(time.Since(since).Nanoseconds())/float64(rules), "ns/rule")
	if table.changed() {
		b.Error("something changed")
	}
}

// BenchmarkShow decodes rules as somebody sees them for the first time.
func BenchmarkShow(b *testing.B) {
	v := Version14
	a, err := readAnswer(v, recorded(b, v)[0])
	if err != nil {
		b.Fatal(err)
	}
	var rules []*Rule
	if err := readRules(v, a, func(r *rawRule) { rules = append(rules, r.keep(v)) }); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, r := range rules {
			_ = r.Match.String()
			_ = r.Match.Fields()
			_ = r.Instructions.Decode()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(rules)), "ns/rule")
}

// event is the body of an answer of a monitor.
type event struct {
	version Version
	body    []byte
}

// events are one of each version.
func events(t testing.TB) []event {
	t.Helper()
	match := builder(nil).field(oxmOF+5, []byte{8, 0}, nil)
	output := builder(nil).u16(0).u16(16).u32(1).u16(0).zeros(6)
	apply := append(builder(nil).u16(4).u16(24).zeros(4), output...)
	oxm := append(builder(nil).u16(1).u16(4+6), match...).zeros(6)
	update10 := append(builder(nil).u16(40).u16(0).u16(0).u16(9).zeros(4).u16(6).u8(2, 0).u64(7), match...).zeros(2).
		u16(0).u16(8).u16(1).u16(0)
	update13 := append(append(builder(nil).u16(24+16+24).u16(2).u16(0).u16(9).zeros(4).u16(10).u8(2, 0).u64(7), oxm...), apply...)
	update14 := append(append(builder(nil).u16(24+16+24).u16(1).u8(2, 0).zeros(4).u16(9).zeros(4).u64(7), oxm...), apply...)
	return []event{
		{Version10, append(builder(nil).u16(statsExperimenter).u16(0).u32(nicira).u32(nxstFlowMonitor).zeros(4), update10...)},
		{Version13, append(builder(nil).u16(statsExperimenter).u16(0).zeros(4).u32(onfExperimenter).u32(onfFlowMonitor), update13...)},
		{Version14, append(builder(nil).u16(statsFlowMonitor).u16(0).zeros(4), update14...)},
	}
}

// TestEvents reads one event of each kind of monitor.
func TestEvents(t *testing.T) {
	for _, e := range events(t) {
		a, err := readAnswer(e.version, e.body)
		if err != nil || !a.isMonitor(e.version) {
			t.Fatal(e.version, err)
		}
		seen := 0
		if err := readEvents(e.version, a.body, func(kind eventKind, r *rawRule) {
			seen++
			if got := r.keep(e.version).String(); kind == eventRemoved || got != "cookie=0x7,table=2,priority=9,ip actions=output:1" {
				t.Errorf("%v: %d %s", e.version, kind, got)
			}
		}); err != nil || seen != 1 {
			t.Errorf("%v: %d events, %v", e.version, seen, err)
		}
	}
}
