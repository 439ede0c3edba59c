package bpf

import (
	"errors"
	"fmt"
	"testing"
)

// check tells why the kernel would refuse a program or why it may not end.
func check(prog []Instruction) error {
	if len(prog) == 0 || len(prog) > maxInstructions || prog[len(prog)-1].Op&7 != classRet {
		return fmt.Errorf("%d instructions without an end", len(prog))
	}
	for i, in := range prog {
		left := uint64(len(prog) - i - 1)
		switch in.Op & 7 {
		case classJmp:
			if in.Op&0xf0 == jmpJa && uint64(in.K) >= left || in.Op&0xf0 != jmpJa && (uint64(in.Jt) >= left || uint64(in.Jf) >= left) {
				return fmt.Errorf("instruction %d jumps out of the program", i)
			}
		case classSt, classStx:
			if in.K >= memory {
				return fmt.Errorf("instruction %d stores outside of the memory", i)
			}
		case classLd, classLdx:
			if in.Op&0xe0 == modeMem && in.K >= memory {
				return fmt.Errorf("instruction %d reads outside of the memory", i)
			}
		case classAlu:
			op := in.Op & 0xf0
			if in.Op&srcX == 0 && ((op == aluDiv || op == aluMod) && in.K == 0 || (op == aluLsh || op == aluRsh) && in.K > 31) {
				return fmt.Errorf("instruction %d divides by zero or shifts too far", i)
			}
		}
	}
	return nil
}

// agrees compares the program of an expression with the meaning of its condition, where no load is outside of the packet.
func agrees(t *testing.T, f *Filter, link LinkType, p packet) {
	t.Helper()
	c, _, err := parse(newBuilder(), f.String(), link, false)
	if err != nil {
		t.Fatal(err)
	}
	want, ok := holds(c, p)
	if got := f.Match(p.data, p.length); ok && got != want {
		t.Errorf("%q on %x (of %d bytes): %v, not %v\n%s", f, p.data, p.length, got, want, listing(f.frame))
	}
}

func FuzzExpression(f *testing.F) {
	for _, r := range expressions(f) {
		f.Add(r.expr, uint8(r.link))
	}
	for _, expr := range []string{"", "(", "port", "tcp[", "not not", "1/0=1", "host ::", "host 1:2", "len*len*len>len%len", "vlan or mpls and pppoes", "ether[0xffffffff]=1"} {
		f.Add(expr, uint8(Ethernet))
	}
	packets := map[LinkType][]packet{}
	for _, link := range []LinkType{Ethernet, RawIP, LinuxSLL, IPv4, IPv6} {
		all := corpus(f, link)
		for i := 0; i < len(all); i += 173 {
			packets[link] = append(packets[link], all[i])
		}
	}
	f.Fuzz(func(t *testing.T, expr string, link uint8) {
		if packets[LinkType(link)] == nil {
			link = uint8(Ethernet)
		}
		filter, err := Compile(expr, LinkType(link), 4096)
		if err != nil {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || syntax.Offset < 0 || syntax.Offset > len(expr) || syntax.Text == "" {
				t.Fatalf("%q: %#v", expr, err)
			}
			return
		}
		for _, prog := range [][]Instruction{filter.frame, filter.Instructions()} {
			if err := check(prog); err != nil {
				t.Fatalf("%q: %v\n%s", expr, err, listing(prog))
			}
		}
		for _, p := range packets[LinkType(link)] {
			agrees(t, filter, LinkType(link), p)
		}
	})
}

func FuzzPacket(f *testing.F) {
	list := expressions(f)
	filters := make([]*Filter, len(list))
	for i, r := range list {
		filters[i] = compileText(f, r.expr, r.link)
	}
	for i, p := range corpus(f, Ethernet)[:200] {
		f.Add(p.data, uint16(p.length), uint16(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, length, n uint16) {
		i := int(n) % len(list)
		agrees(t, filters[i], list[i].link, packet{data, int(length)})
	})
}
