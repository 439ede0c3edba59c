package bpf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func compileText(t testing.TB, expr string, link LinkType) *Filter {
	t.Helper()
	f, err := Compile(expr, link, 4096)
	if err != nil {
		t.Fatalf("%q: %v", expr, err)
	}
	return f
}

func TestWrongExpressions(t *testing.T) {
	nest := strings.Repeat("(", 501) + "tcp" + strings.Repeat(")", 501)
	deep := strings.Repeat("(ip[8]+ip[9])*(", 20) + "ip[0]*ip[1]" + strings.Repeat(")", 20) + " > 3"
	for _, c := range []struct {
		expr   string
		offset int
		text   string // of the message
	}{
		{"foo", 0, `unknown word "foo" (at offset 0, want "host"`},
		{"tcp and foo", 8, `unknown word "foo"`},
		{"1.2.3.4", 0, `unexpected "1.2.3.4" (at offset 0, want "host" or "net" before it)`},
		{"tcp and 80", 8, `"80" stands alone (at offset 8, want a qualifier`},
		{"80", 0, `"80" stands alone`},
		{"host", 4, "unexpected the end (at offset 4, want an IP address)"},
		{"host )", 5, `unexpected ")"`},
		{"host example.org", 5, `unknown name "example.org": nothing is looked up (at offset 5, want an IP address)`},
		{"host 1.2.3.256", 5, `"1.2.3.256" is no IPv4 address`},
		{"host 1.2.3.4.5", 5, "is no IPv4 address"},
		{"host 1.2.3.4/24", 5, "a prefix is for networks only"},
		{"host 1.2.3.0 mask 255.255.255.0", 18, "a mask is for networks only"},
		{"host 2001:db8::/32", 5, "a prefix is for networks only"},
		{"host 2001:db8:::1", 5, `"2001:db8:::1" is no address`},
		{"host 02:00:00:00:01:01", 5, `"02:00:00:00:01:01" is an Ethernet address (at offset 5, want "ether host"`},
		{"ether host 1.2.3.4", 11, `cannot be an address of "ether" (at offset 11, want an Ethernet address)`},
		{"tcp host 1.2.3.4", 9, `cannot be an address of "tcp"`},
		{"ip host ::1", 8, `cannot be an address of "ip"`},
		{"ip6 host 1.2.3.4", 9, `cannot be an address of "ip6"`},
		{"net 10.0.0.1/8", 4, `"10.0.0.1" has bits outside of the mask`},
		{"net 10.0.0.0/33", 13, "is no length of a prefix (at offset 13, want at most 32)"},
		{"net 10.0.0.0/x", 13, "is no length of a prefix"},
		{"net 2001:db8::/129", 15, "want at most 128"},
		{"net 2001:db8:1::/32", 4, "has bits outside of the mask"},
		{"net 10.0.0.0 mask 8", 18, "want a mask such as"},
		{"net localhost", 4, "unknown name"},
		{"port", 4, "want a port: a number or the name of a service"},
		{"port foo", 5, `"foo" is no port`},
		{"port 65536", 5, `"65536" is no port`},
		{"port 99999999999", 5, `"99999999999" is no number`},
		{"port 09", 5, `"09" is no number`},
		{"udp port ssh", 9, `"ssh" is no port of "udp"`},
		{"ip port 80", 8, `"ip" has no ports (at offset 8, want "tcp", "udp" or "sctp"`},
		{"port 80-90", 5, `"80-90" is no port`},
		{"portrange 80-", 12, `unexpected "-"`},
		{"portrange 80-70000", 10, "is no port"},
		{"portrange a-b", 10, "want a range of ports such as"},
		{"port 1.2.3.4", 5, `"1.2.3.4" is no port`},
		{"proto", 5, "unexpected the end (at offset 5, want a protocol"},
		{"ip proto 256", 9, "is no protocol above IP"},
		{"ip proto \\foo", 9, `"foo" is no protocol above IP`},
		{"ether proto 65536", 12, "is no protocol of a frame"},
		{"tcp proto 6", 10, `"proto" cannot follow "tcp"`},
		{"src proto 6", 4, `unexpected "proto"`},
		{"ether", 5, `unexpected the end after "ether" (at offset 5, want "host"`},
		{"src or port 80", 7, `unexpected "port" (at offset 7, want "dst")`},
		{"src and src 1.2.3.4", 8, `want "dst"`},
		{"(tcp", 4, `unexpected the end (at offset 4, want ")")`},
		{"tcp)", 3, `unexpected ")" (at offset 3, want "and", "or" or the end)`},
		{"()", 1, `unexpected ")"`},
		{"tcp udp", 4, `unexpected "udp" (at offset 4, want "and"`},
		{"tcp and", 7, "unexpected the end"},
		{"and tcp", 0, `unexpected "and"`},
		{"not", 3, "unexpected the end"},
		{"host (1.2.3.4 or tcp)", 17, `unexpected "tcp" (at offset 17, want an IP address)`},
		{"tcp[", 4, "unexpected the end"},
		{"tcp[0", 5, `want "]"`},
		{"tcp[0] = ", 9, "unexpected the end"},
		{"tcp[0]", 6, "unexpected the end (at offset 6, want a comparison)"},
		{"tcp[0:3] = 1", 6, `wrong size "3" (at offset 6, want 1, 2 or 4)`},
		{"tcp[0:] = 1", 6, `wrong size "]"`},
		{"tcp[udp] = 1", 4, `unexpected "udp" (at offset 4, want an offset)`},
		{"tcp[0] = tcp", 9, `no number after "="`},
		{"tcp[0] + udp = 1", 9, `no number after "+"`},
		{"esp[0] = 1", 0, `bytes of "esp" cannot be had`},
		{"ether[4294963244:4] = 1", 6, "no packet has an offset 4294963244"},
		{"ip[0] / 0 = 1", 8, "division by zero"},
		{"ip[0] % (2 - 2) = 1", 9, "division by zero"},
		{"ip[0] << 32 = 1", 9, "shift by 32 bits (at offset 9, want at most 31)"},
		{"ip[0] = 4294967296", 8, "is no number"},
		{"ip[0] = 1 = 2", 10, `unexpected "="`},
		{"len", 3, "want a comparison"},
		{"less tcp", 5, `unexpected "tcp" (at offset 5, want a length)`},
		{"tcp $ udp", 4, `unexpected character '$'`},
		{"tcp é", 4, `unexpected character 'é'`},
		{`proto \`, 6, `"\" stands alone`},
		{"vlan 4096", 5, `"4096" is too large (at offset 5, want at most 4095)`},
		{"mpls 1048576", 5, "is too large"},
		{"mpls and vlan", 9, "no MPLS before it"},
		{"mpls and arp", 9, `"arp" cannot be told under MPLS`},
		{"pppoes 65536", 7, "is too large"},
		{"pppoes and ether host 02:00:00:00:01:01", 22, "needs Ethernet frames"},
		{"ip broadcast", 3, `"ip broadcast" is not supported: the mask of the network is not known`},
		{"tcp multicast", 4, `"multicast" cannot follow "tcp"`},
		{"gateway foo", 0, `"gateway" is not supported: it needs the names of hosts`},
		{"ip protochain 6", 3, `"protochain" is not supported: programs have no loops`},
		{"inbound", 0, `"inbound" is not supported: a frame does not tell`},
		{"wlan type data", 0, `"wlan" is not supported: frames are Ethernet or IP`},
		{"geneve", 0, `"geneve" is not supported`},
		{"ip and arp", 0, "the expression rejects all packets"},
		{"1 = 2", 0, "the expression rejects all packets"},
		{nest, 500, "more than 500 nested"},
		{strings.Repeat("not ", 501) + "tcp", 2000, "more than 500 nested"},
		{strings.Repeat("-", 501) + "1 = 1", 500, "more than 500 nested"},
		{deep, 328, "more than 16 intermediate results"},
		{"tcp" + strings.Repeat(" ", 1<<16), 1 << 16, "longer than 65536 bytes"},
	} {
		_, err := Compile(c.expr, Ethernet, 4096)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%.60q: %v, not a SyntaxError", c.expr, err)
			continue
		}
		if syntax.Offset != c.offset || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), fmt.Sprintf("(at offset %d", c.offset)) {
			t.Errorf("%.60q: %v; offset %d and %q are expected", c.expr, err, c.offset, c.text)
		}
	}
}

func TestWrongForTheLinkType(t *testing.T) {
	for _, c := range []struct {
		link LinkType
		expr string
		want string
	}{
		{RawIP, "ether host 02:00:00:00:01:01", `"02:00:00:00:01:01" needs Ethernet frames`},
		{RawIP, "arp", "rejects all packets"},
		{RawIP, "broadcast", "needs Ethernet frames"},
		{IPv4, "ip6", "rejects all packets"},
		{IPv6, "vlan", "needs Ethernet frames"},
		{LinuxSLL, "ether multicast", "needs Ethernet frames"},
		{LinuxSLL, "mpls", "needs Ethernet frames"},
		{127, "tcp", "link type 127 cannot be filtered"},
	} {
		if _, err := Compile(c.expr, c.link, 4096); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d %s: %v, not %q", c.link, c.expr, err, c.want)
		}
	}
	for _, n := range []int{-1, 0, 1 << 31} {
		if _, err := Compile("tcp", Ethernet, n); err == nil {
			t.Errorf("snap length %d is accepted", n)
		}
	}
}

// What libpcap refuses and is clear all the same.
func TestMoreThanLibpcap(t *testing.T) {
	for _, c := range [][2]string{
		{"ip proto tcp", `ip proto \tcp`},
		{"ether proto ip", `ether proto \ip`},
		{"port 80 or (443 or icmp)", "port 80 or port 443 or icmp"},
		{"host 10.1.0.1/32", "host 10.1.0.1"},
		{"ip[2:2] % 4 + 3 = 5", "(ip[2:2] % 4) + 3 = 5"},
	} {
		a, b := compileText(t, c[0], Ethernet), compileText(t, c[1], Ethernet)
		if !slices.Equal(a.frame, b.frame) {
			t.Errorf("%s differs from %s:\n%s%s", c[0], c[1], listing(a.frame), listing(b.frame))
		}
	}
}

func TestEmptyExpressionAcceptsEverything(t *testing.T) {
	for _, expr := range []string{"", " \t\n"} {
		f := compileText(t, expr, Ethernet)
		if !slices.Equal(f.Instructions(), []Instruction{{Op: 6, K: 4096}}) || !f.Match(nil, 0) || f.String() != expr {
			t.Errorf("%q: %s", expr, listing(f.Instructions()))
		}
	}
}

// Each list of hosts is a program in which the way to the end becomes longer than a jump.
func TestLongPrograms(t *testing.T) {
	packets := corpus(t, Ethernet)
	long := 0
	for _, n := range []int{1, 10, 40, 41, 42, 43, 44, 45, 100, 300} {
		var list, each []string
		for i := range n {
			list = append(list, fmt.Sprintf("10.%d.0.%d", i%29, 1+i/29))
		}
		for _, addr := range list {
			each = append(each, "host "+addr)
		}
		for _, expr := range []string{
			"host (" + strings.Join(list, " or ") + ")",
			"not (" + strings.Join(each, " || ") + ") and tcp",
			"port 53 or not host (" + strings.Join(list, " or ") + ") or tcp[13] = 2",
		} {
			f := compileText(t, expr, Ethernet)
			if slices.ContainsFunc(f.frame, func(i Instruction) bool { return i.Op == classJmp|jmpJa }) {
				long++
			}
			c, _, err := parse(newBuilder(), expr, Ethernet, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range packets {
				want, ok := holds(c, p)
				if got := f.Match(p.data, p.length); ok && got != want {
					t.Fatalf("%d hosts: %v for %x", n, got, p.data)
				}
			}
		}
	}
	if long < 5 {
		t.Errorf("only %d programs have long jumps", long)
	}
	var list []string
	for i := range 2000 {
		list = append(list, fmt.Sprintf("%d.%d", i/250, i%250))
	}
	_, err := Compile("host "+strings.Join(list, " or "), Ethernet, 4096)
	if err == nil || !strings.Contains(err.Error(), "longer than 4096 instructions") {
		t.Errorf("a program for 2000 hosts: %v", err)
	}
}

// holds tells whether a condition holds for a packet, without a program; ok is false when a load is outside of the packet.
func holds(c *cond, p packet) (v, ok bool) {
	switch c.op {
	case condTrue, condFalse:
		return c.op == condTrue, true
	case condNot:
		v, ok = holds(c.a, p)
		return ok && !v, ok
	case condAnd, condOr:
		if v, ok = holds(c.a, p); !ok || v == (c.op == condOr) {
			return v, ok
		}
		return holds(c.b, p)
	}
	l, ok := evaluate(c.test.l, p)
	k := c.test.k
	if c.test.r != nil && ok {
		k, ok = evaluate(c.test.r, p)
	}
	return ok && compare(c.test.op, l, k), ok
}

func evaluate(v *value, p packet) (uint32, bool) {
	switch v.op {
	case opConst:
		return v.k, true
	case opLen:
		return uint32(p.length), true
	case opHeader:
		n, ok := at(p.data, uint64(v.k), sizeB)
		return n & 15 * 4, ok
	case opLoad:
		index, ok := uint32(0), true
		if v.l != nil {
			index, ok = evaluate(v.l, p)
		}
		if !ok {
			return 0, false
		}
		return at(p.data, uint64(index+v.k), v.size)
	}
	l, lok := evaluate(v.l, p)
	r, rok := evaluate(v.r, p)
	n, ok := compute(v.alu, l, r)
	return n, lok && rok && ok
}

func TestSocketProgramAsksForTheTag(t *testing.T) {
	for expr, asks := range map[string]bool{"ip": false, "vlan": true, "vlan 100 and ip": true, "tcp or vlan and vlan": true} {
		f := compileText(t, expr, Ethernet)
		got := slices.ContainsFunc(f.Instructions(), func(i Instruction) bool { return i.Op == classLd|modeAbs && i.K == vlanTagPresent })
		if got != asks || slices.ContainsFunc(f.frame, func(i Instruction) bool { return i.K >= ancillary && i.Op == classLd|modeAbs }) {
			t.Errorf("%s: asks for the tag: %v\n%s", expr, got, listing(f.Instructions()))
		}
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	f := compileText(t, "host 10.1.0.1 and tcp port 80 and tcp[ip[0] - 69 + 13] = 2", Ethernet)
	p := corpus(t, Ethernet)[0]
	if !f.Match(p.data, p.length) {
		t.Error("no match")
	}
	if n := testing.AllocsPerRun(100, func() { f.Match(p.data, p.length) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	f := compileText(b, "host 10.1.0.1 and tcp port 80", Ethernet)
	p := corpus(b, Ethernet)[0]
	for b.Loop() {
		f.Match(p.data, p.length)
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		compileText(b, "host 10.1.0.1 and tcp port 80", Ethernet)
	}
}
