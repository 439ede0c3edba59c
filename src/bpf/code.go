package bpf

import (
	"fmt"
	"slices"
)

// block is a test with what follows it; without a test it is the end of the program, whose result is test.k.
type block struct {
	test   test
	end    bool
	jt, jf *block

	reached bool
	facts   *fact // known on every way to this block
	a, x    *value
	code    []Instruction
	pos     int // of the first instruction, counted from the end of the program
	near    int // of a jump to it
}

// fact is the outcome of a test, with those before it.
type fact struct {
	test    test
	outcome bool
	depth   int
	before  *fact
}

const maxFacts = 256 // more would take long and save little

func (f *fact) add(t test, outcome bool) *fact {
	depth := 1
	if f != nil {
		if depth = f.depth + 1; depth > maxFacts {
			return f
		}
	}
	return &fact{t, outcome, depth, f}
}

// common returns what two lists of facts have in common.
func common(a, b *fact) *fact {
	for a != b {
		if b == nil || a != nil && a.depth >= b.depth {
			a = a.before
		} else {
			b = b.before
		}
	}
	return a
}

// implied tells the outcome of a test when the facts decide it.
func (f *fact) implied(t test) (outcome, known bool) {
	for ; f != nil; f = f.before {
		switch {
		case f.test == t:
			return f.outcome, true
		case f.test.l == t.l && f.outcome && f.test.op == jmpEq && f.test.r == nil && t.r == nil:
			return compare(t.op, f.test.k, t.k), true
		}
	}
	return false, false
}

// graph is a program as blocks, in reverse order: a block comes after all that follow it.
type graph struct {
	blocks                []*block
	entry, accept, reject *block
}

// add makes the blocks of a condition and returns the first one.
func (g *graph) add(c *cond, jt, jf *block) *block {
	switch c.op {
	case condTrue:
		return jt
	case condFalse:
		return jf
	case condNot:
		return g.add(c.a, jf, jt)
	case condAnd:
		return g.add(c.a, g.add(c.b, jt, jf), jf)
	case condOr:
		return g.add(c.a, jt, g.add(c.b, jt, jf))
	}
	b := &block{test: c.test, jt: jt, jf: jf}
	g.blocks = append(g.blocks, b)
	return b
}

// generate makes the program of a condition.
func generate(b *builder, c *cond, snapLen uint32) ([]Instruction, error) {
	g := graph{accept: &block{end: true, test: test{k: snapLen}}, reject: &block{end: true}}
	g.blocks = append(g.blocks, g.reject, g.accept)
	r := arranger{b, map[*cond]*cond{}}
	g.entry = g.add(r.arrange(c), g.accept, g.reject)
	g.thread()
	g.prune()
	g.thread()
	if !g.accept.reached {
		return nil, &SyntaxError{0, "the expression rejects all packets", ""}
	}
	g.compute()
	return g.assemble()
}

// thread lets jumps skip the tests whose outcome is known where they start, and marks the blocks that are reached. What a skipped
// test would load has been loaded by the one that decides it.
func (g *graph) thread() {
	for _, b := range g.blocks {
		b.reached, b.facts = false, nil
	}
	g.entry.reached = true
	for _, b := range slices.Backward(g.blocks) {
		if b.reached && !b.end {
			b.jt = arrive(b.jt, b.facts.add(b.test, true))
			b.jf = arrive(b.jf, b.facts.add(b.test, false))
		}
	}
}

// prune takes out tests that do not matter, since the packet is rejected anyway, and all but one of those that are the same.
func (g *graph) prune() {
	type key struct {
		test   test
		jt, jf *block
	}
	instead := make(map[*block]*block)
	follow := func(b *block) *block {
		if other := instead[b]; other != nil {
			return other
		}
		return b
	}
	known := make(map[key]*block)
	for _, b := range g.blocks {
		if b.end || !b.reached {
			continue
		}
		b.jt, b.jf = follow(b.jt), follow(b.jf)
		k := key{b.test, b.jt, b.jf}
		switch {
		case b.jt == g.reject && b.jf == g.reject:
			instead[b] = g.reject
		case known[k] != nil:
			instead[b] = known[k]
		default:
			known[k] = b
		}
	}
	g.entry = follow(g.entry)
}

// arrive follows a jump to b with the facts known there.
func arrive(b *block, facts *fact) *block {
	for !b.end {
		outcome, known := facts.implied(b.test)
		if !known {
			break
		}
		if outcome {
			b = b.jt
		} else {
			b = b.jf
		}
	}
	if b.reached {
		b.facts = common(b.facts, facts)
	} else {
		b.reached, b.facts = true, facts
	}
	return b
}

// compute makes the code of the tests, without their jumps.
func (g *graph) compute() {
	entered := make(map[*block]bool, len(g.blocks))
	for _, b := range slices.Backward(g.blocks) {
		if !b.reached || b.end {
			continue
		}
		m := machine{a: b.a, x: b.x}
		if t := b.test; t.r == nil {
			m.inA(t.l, 0)
		} else {
			m.both(t.l, t.r, 0)
		}
		b.code = m.code
		for _, next := range []*block{b.jt, b.jf} {
			if !entered[next] {
				entered[next], next.a, next.x = true, m.a, m.x
				continue
			}
			if next.a != m.a {
				next.a = nil
			}
			if next.x != m.x {
				next.x = nil
			}
		}
	}
}

// assemble puts the blocks together from the last one to the first, so that the targets of jumps are known.
func (g *graph) assemble() ([]Instruction, error) {
	var prog []Instruction // in reverse order
	for _, b := range g.blocks {
		switch {
		case !b.reached:
			continue
		case b.end:
			prog = append(prog, Instruction{Op: classRet, K: b.test.k})
		default:
			prog = b.jump(prog)
			for i := len(b.code) - 1; i >= 0; i-- {
				prog = append(prog, b.code[i])
			}
		}
		b.pos = len(prog)
		if len(prog) > maxInstructions {
			return nil, &SyntaxError{0, fmt.Sprintf("the program is longer than %d instructions", maxInstructions), "a shorter expression"}
		}
	}
	slices.Reverse(prog)
	return prog, nil
}

// jump appends the conditional jump of a block. It reaches 255 instructions: for more it goes to a jump without a condition, which
// those before it share.
func (b *block) jump(prog []Instruction) []Instruction {
	for {
		n := len(prog)
		jt, tfar := b.jt.reach(n)
		jf, ffar := b.jf.reach(n)
		if !tfar && !ffar {
			i := Instruction{Op: classJmp | b.test.op, Jt: uint8(jt), Jf: uint8(jf), K: b.test.k}
			if b.test.r != nil {
				i.Op |= srcX
			}
			return append(prog, i)
		}
		to := b.jt
		if !tfar {
			to = b.jf
		}
		prog = append(prog, Instruction{Op: classJmp | jmpJa, K: uint32(n - to.pos)})
		to.near = n + 1
	}
}

// reach returns how far it is to a block from n instructions before the end; far when a conditional jump cannot go so far.
func (b *block) reach(n int) (distance int, far bool) {
	if n-b.pos > 255 && b.near > 0 {
		return n - b.near, n-b.near > 255
	}
	return n - b.pos, n-b.pos > 255
}
