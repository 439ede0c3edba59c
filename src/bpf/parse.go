package bpf

import (
	"fmt"
	"slices"
)

// qualifiers say what the addresses after them mean. They hold until the next ones: in "port 80 or 443" for 443, too.
type qualifiers struct {
	set              bool
	proto, dir, addr string // dir: "", src, dst, or, and; addr: "", host, net, port, portrange, proto
}

// parser reads an expression and makes its condition in one go, since "vlan", "mpls" and "pppoes" change what all words after them
// mean. After a fault it sees only the end of the text.
type parser struct {
	*builder
	lex     lexer
	tok     token
	err     *SyntaxError
	q       qualifiers
	nesting int
	at      layout
	tagged  bool // the outermost VLAN tag is not in the frame but known to the kernel
	vlan    bool // the expression asks for a VLAN
}

// layout says where the headers are that the next word is about.
type layout struct {
	link   LinkType
	header uint32 // offset of the link header
	kind   uint32 // of its protocol field
	packet uint32 // of the network header
	labels int    // MPLS labels before packet
}

const linkPPP LinkType = 9 // inside of PPPoE

func newLayout(link LinkType) layout {
	switch link {
	case Ethernet:
		return layout{link: link, kind: 12, packet: 14}
	case LinuxSLL:
		return layout{link: link, kind: 14, packet: 16}
	}
	return layout{link: link}
}

// parse makes the condition of an expression; tagged for a frame whose outermost VLAN tag the kernel holds.
func parse(b *builder, text string, link LinkType, tagged bool) (c *cond, vlan bool, err error) {
	p := &parser{builder: b, lex: lexer{text: text}, at: newLayout(link), tagged: tagged}
	if len(text) > maxText {
		return nil, false, &SyntaxError{maxText, fmt.Sprintf("the expression is longer than %d bytes", maxText), "a shorter one"}
	}
	p.advance()
	if p.tok.kind == kindEnd && p.err == nil {
		return p.truth(true), false, nil
	}
	c = p.condition(p.expression())
	if p.tok.kind != kindEnd {
		p.fail(p.tok, `"and", "or" or the end`, "unexpected %s", p.tok)
	}
	if p.err != nil {
		return nil, false, p.err
	}
	return c, p.vlan, nil
}

// fail keeps the first fault and goes to the end of the text.
func (p *parser) fail(t token, want, format string, args ...any) *cond {
	if p.err == nil {
		p.err = &SyntaxError{t.pos, fmt.Sprintf(format, args...), want}
	}
	p.lex.pos = len(p.lex.text)
	p.tok = token{pos: p.lex.pos}
	return p.truth(false)
}

func (p *parser) advance() token {
	old := p.tok
	t, err := p.lex.next()
	if err != nil {
		p.fail(token{pos: err.Offset}, err.Want, "%s", err.Text)
		return old
	}
	p.tok = t
	return old
}

func (p *parser) is(k kind, texts ...string) bool {
	return p.tok.kind == k && slices.Contains(texts, p.tok.text)
}

func (p *parser) accept(k kind, text string) bool {
	if !p.is(k, text) {
		return false
	}
	p.advance()
	return true
}

func (p *parser) expect(text string) {
	if !p.accept(kindOp, text) {
		p.fail(p.tok, fmt.Sprintf("%q", text), "unexpected %s", p.tok)
	}
}

// enter guards the stack; every enter has its leave.
func (p *parser) enter() {
	if p.nesting++; p.nesting > maxNesting {
		p.fail(p.tok, "a simpler expression", "more than %d nested parentheses or negations", maxNesting)
	}
}

func (p *parser) leave() { p.nesting-- }

// operand is a condition, or a number that may become a part of one.
type operand struct {
	c     *cond
	a     *value
	guard *cond // what must hold for a to be there
	bare  bool  // a is but a number: an address, if qualifiers allow it
	tok   token // the first one of a
}

// condition makes an operand a condition.
func (p *parser) condition(x operand) *cond {
	switch {
	case x.c != nil:
		return x.c
	case x.bare && p.q.set:
		return p.address(x.tok)
	case x.bare:
		return p.fail(x.tok, `a qualifier such as "host" or "port", or a comparison`, "%s stands alone", x.tok)
	}
	return p.fail(p.tok, "a comparison", "unexpected %s", p.tok)
}

// expression is terms with "and" and "or" between them, which bind equally, from left to right.
func (p *parser) expression() operand {
	x := p.term()
	if !p.is(kindOp, "and", "or") {
		return x
	}
	return operand{c: p.chain(p.condition(x), func() *cond { return p.condition(p.term()) })}
}

// chain reads the rest of a list; each run of the same operator becomes one condition.
func (p *parser) chain(first *cond, next func() *cond) *cond {
	list := []*cond{first}
	for p.is(kindOp, "and", "or") {
		op := p.tok.text
		for p.accept(kindOp, op) {
			list = append(list, next())
		}
		if op == "and" {
			list = []*cond{p.and(list...)}
		} else {
			list = []*cond{p.or(list...)}
		}
	}
	return list[0]
}

func (p *parser) term() operand {
	p.enter()
	defer p.leave()
	if p.accept(kindOp, "not") {
		return operand{c: p.not(p.condition(p.term()))}
	}
	x := p.arithmetic(0)
	if x.a == nil || !p.is(kindOp, "=", "!=", "<", "<=", ">", ">=") {
		return x
	}
	op := p.advance()
	y := p.arithmetic(0)
	if y.a == nil {
		return operand{c: p.fail(y.tok, "a number", "no number after %s", op)}
	}
	p.q = qualifiers{}
	return operand{c: p.and(x.guard, y.guard, p.relation(op.text, x.a, y.a))}
}

func (p *parser) relation(op string, l, r *value) *cond {
	if p.cells(l, r) {
		return p.truth(false)
	}
	switch op {
	case "=":
		return p.compare(jmpEq, l, r)
	case "!=":
		return p.not(p.compare(jmpEq, l, r))
	case "<":
		return p.not(p.compare(jmpGe, l, r))
	case "<=":
		return p.not(p.compare(jmpGt, l, r))
	case ">":
		return p.compare(jmpGt, l, r)
	}
	return p.compare(jmpGe, l, r)
}

// cells refuses what needs more memory than a program has.
func (p *parser) cells(l, r *value) bool {
	if n, _ := operands(l, r); n > memory {
		p.fail(p.tok, "a simpler one", "the arithmetic needs more than %d intermediate results", memory)
		return true
	}
	return false
}

// precedence is that of C.
func precedence(op string) (level int, alu uint16) {
	switch op {
	case "|":
		return 1, aluOr
	case "^":
		return 2, aluXor
	case "&":
		return 3, aluAnd
	case "<<":
		return 4, aluLsh
	case ">>":
		return 4, aluRsh
	case "+":
		return 5, aluAdd
	case "-":
		return 5, aluSub
	case "*":
		return 6, aluMul
	case "/":
		return 6, aluDiv
	case "%":
		return 6, aluMod
	}
	return 0, 0
}

// arithmetic reads operators that bind more strongly than level. Anything that is no number is returned as it is.
func (p *parser) arithmetic(level int) operand {
	x := p.primary()
	for x.a != nil && p.tok.kind == kindOp {
		l, alu := precedence(p.tok.text)
		if l <= level {
			break
		}
		op := p.advance()
		y := p.arithmetic(l)
		switch {
		case y.a == nil:
			return operand{c: p.fail(y.tok, "a number", "no number after %s", op)}
		case (alu == aluDiv || alu == aluMod) && y.a.op == opConst && y.a.k == 0:
			return operand{c: p.fail(y.tok, "another divisor", "division by zero")}
		case (alu == aluLsh || alu == aluRsh) && y.a.op == opConst && y.a.k > 31:
			return operand{c: p.fail(y.tok, "at most 31", "shift by %d bits", y.a.k)}
		case p.cells(x.a, y.a):
			return operand{c: p.truth(false)}
		}
		x = operand{a: p.alu(alu, x.a, y.a), guard: p.and(x.guard, y.guard), tok: x.tok}
	}
	return x
}

// primary is a number, something in parentheses, or a condition about a protocol or an address.
func (p *parser) primary() operand {
	t := p.tok
	number := func(v *value, guard *cond) operand { return operand{a: v, guard: guard, tok: t} }
	switch {
	case p.accept(kindOp, "("):
		x := p.expression()
		p.expect(")")
		return x
	case p.accept(kindOp, "-"):
		p.enter()
		defer p.leave()
		x := p.primary()
		if x.a == nil {
			return operand{c: p.fail(x.tok, "a number", `no number after "-"`), tok: t}
		}
		if p.cells(p.constant(0), x.a) {
			return operand{c: p.truth(false)}
		}
		return number(p.alu(aluSub, p.constant(0), x.a), x.guard)
	case t.kind == kindNumber:
		p.advance()
		x := number(p.constant(t.num), p.truth(true))
		x.bare = true
		return x
	case p.accept(kindWord, "len"), p.accept(kindWord, "length"):
		return number(p.intern(value{op: opLen}), p.truth(true))
	case t.kind == kindWord && protocol(t.text) != "":
		p.advance()
		if p.accept(kindOp, "[") {
			return p.index(t)
		}
		return operand{c: p.qualified(t), tok: t}
	case t.kind == kindWord && keyword(t.text):
		return operand{c: p.keyword(), tok: t}
	case p.q.set && t.kind != kindOp && t.kind != kindEnd:
		p.advance()
		return operand{c: p.address(t), tok: t}
	}
	want := `"host", "net", "port", a protocol or a number`
	switch t.kind {
	case kindIP4, kindIP6, kindMAC:
		want = `"host" or "net" before it`
	case kindWord, kindName:
		return operand{c: p.fail(t, want, "unknown word %s", t), tok: t}
	}
	return operand{c: p.fail(t, want, "unexpected %s", t), tok: t}
}

// index reads the rest of "proto[offset:size]".
func (p *parser) index(proto token) operand {
	p.enter()
	defer p.leave()
	at := p.tok
	x := p.arithmetic(0)
	if x.a == nil {
		return operand{c: p.fail(at, "an offset", "unexpected %s", at), tok: proto}
	}
	size := uint16(sizeB)
	if p.accept(kindOp, ":") {
		switch n := p.advance(); {
		case n.kind == kindNumber && n.num == 1:
		case n.kind == kindNumber && n.num == 2:
			size = sizeH
		case n.kind == kindNumber && n.num == 4:
			size = sizeW
		default:
			p.fail(n, "1, 2 or 4", "wrong size %s", n)
		}
	}
	p.expect("]")
	if x.a.op == opConst && x.a.k > 1<<30 {
		return operand{c: p.fail(at, "a smaller one", "no packet has an offset %d", x.a.k), tok: proto}
	}
	v, guard := p.field(proto, x, size)
	if v == nil {
		return operand{c: guard, tok: proto}
	}
	return operand{a: v, guard: guard, tok: proto}
}

// qualified reads what follows the name of a protocol.
func (p *parser) qualified(proto token) *cond {
	if p.tok.kind == kindWord {
		switch p.tok.text {
		case "src", "dst", "host", "net", "port", "portrange", "proto", "protochain", "gateway":
			return p.addresses(protocol(proto.text))
		case "broadcast", "multicast":
			return p.group(protocol(proto.text), p.advance())
		}
	}
	p.q = qualifiers{}
	return p.abbreviated(proto)
}

// keyword tells whether a word begins something other than a protocol.
func keyword(s string) bool {
	switch s {
	case "src", "dst", "host", "net", "port", "portrange", "proto", "broadcast", "multicast", "less", "greater", "vlan", "mpls",
		"pppoed", "pppoes":
		return true
	}
	return refused(s) != ""
}

func (p *parser) keyword() *cond {
	t := p.tok
	switch t.text {
	case "src", "dst", "host", "net", "port", "portrange", "proto":
		return p.addresses("")
	}
	p.advance()
	p.q = qualifiers{}
	switch t.text {
	case "broadcast", "multicast":
		return p.group("", t)
	case "less", "greater":
		n := p.advance()
		if n.kind != kindNumber {
			return p.fail(n, "a length", "unexpected %s", n)
		}
		op := map[string]string{"less": "<=", "greater": ">="}[t.text]
		return p.relation(op, p.intern(value{op: opLen}), p.constant(n.num))
	case "vlan":
		return p.virtualLAN(t, p.optional(4095))
	case "mpls":
		return p.label(t, p.optional(1<<20-1))
	case "pppoed":
		return p.linkProto(t, 0x8863)
	case "pppoes":
		return p.session(t, p.optional(1<<16-1))
	}
	return p.fail(t, "", "%s is not supported: %s", t, refused(t.text))
}

// optional reads a number if there is one.
func (p *parser) optional(limit uint32) *uint32 {
	if p.tok.kind != kindNumber {
		return nil
	}
	t := p.advance()
	if t.num > limit {
		p.fail(t, fmt.Sprintf("at most %d", limit), "%s is too large", t)
	}
	return &t.num
}

// addresses reads qualifiers and what they are about.
func (p *parser) addresses(proto string) *cond {
	q := qualifiers{set: true, proto: proto}
	if p.is(kindWord, "src", "dst") {
		dir := p.advance()
		q.dir = dir.text
		other := map[string]string{"src": "dst", "dst": "src"}[dir.text]
		if p.is(kindOp, "and", "or") {
			q.dir = p.advance().text
			if !p.accept(kindWord, other) {
				return p.fail(p.tok, fmt.Sprintf("%q", other), "unexpected %s", p.tok)
			}
		}
	}
	switch {
	case p.is(kindWord, "host", "net", "port", "portrange"), q.dir == "" && p.is(kindWord, "proto"):
		q.addr = p.advance().text
	case p.is(kindWord, "protochain", "gateway"):
		return p.fail(p.tok, "", "%s is not supported: %s", p.tok, refused(p.tok.text))
	}
	p.q = q
	return p.id()
}

// id is an address, or a list of them in parentheses.
func (p *parser) id() *cond {
	p.enter()
	defer p.leave()
	switch {
	case p.accept(kindOp, "not"):
		return p.not(p.id())
	case p.accept(kindOp, "("):
		c := p.chain(p.id(), p.id)
		p.expect(")")
		return c
	}
	t := p.tok
	isWord := t.kind == kindWord && p.q.addr != "proto" && (protocol(t.text) != "" || keyword(t.text))
	if t.kind == kindOp || t.kind == kindEnd || isWord {
		return p.fail(t, p.wanted(), "unexpected %s", t)
	}
	p.advance()
	return p.address(t)
}
