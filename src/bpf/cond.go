package bpf

import "slices"

// test compares a value with another one, or with k when r is nil.
type test struct {
	op   uint16 // jmpEq, jmpGt, jmpGe, jmpSet
	l, r *value
	k    uint32
}

// cond is a condition: a test, or a combination of conditions. Conditions are interned by a builder, as values are. Lists of them
// hang to the right: the first one is in a, the others are in b.
type cond struct {
	op   condOp
	a, b *cond
	test test
}

type condOp uint8

const (
	condFalse condOp = iota
	condTrue
	condTest
	condNot
	condAnd
	condOr
)

func (b *builder) cond(c cond) *cond {
	if old := b.conds[c]; old != nil {
		return old
	}
	b.conds[c] = &c
	return &c
}

func (b *builder) truth(v bool) *cond {
	if v {
		return b.cond(cond{op: condTrue})
	}
	return b.cond(cond{})
}

func (b *builder) not(a *cond) *cond {
	switch a.op {
	case condFalse, condTrue:
		return b.truth(a.op == condFalse)
	case condNot:
		return a.a
	}
	return b.cond(cond{op: condNot, a: a})
}

// list hangs conditions together; what follows one that decides is left out.
func (b *builder) list(op condOp, conds []*cond) *cond {
	neutral := b.truth(op == condAnd)
	r := neutral
	for _, c := range slices.Backward(conds) {
		switch {
		case c == neutral:
		case r == neutral || c == b.not(neutral):
			r = c
		default:
			r = b.cond(cond{op: op, a: c, b: r})
		}
	}
	return r
}

// and and or test the conditions in their order: that counts when a load is outside of the packet.
func (b *builder) and(conds ...*cond) *cond { return b.list(condAnd, conds) }

func (b *builder) or(conds ...*cond) *cond { return b.list(condOr, conds) }

// compare makes the condition "l op r", with constants to the right.
func (b *builder) compare(op uint16, l, r *value) *cond {
	negate := false
	switch {
	case l.op == opConst && r.op == opConst:
		return b.truth(compare(op, l.k, r.k))
	case l.op == opConst:
		l, r = r, l
		if op != jmpEq { // k > r is !(r >= k)
			op, negate = jmpGt+jmpGe-op, true
		}
	}
	t := test{op: op, l: l, r: r}
	if r.op == opConst {
		t.r, t.k = nil, r.k
		if op == jmpEq && r.k == 0 && l.op == opAlu && l.alu == aluAnd && l.r.op == opConst { // l & m = 0
			t, negate = test{op: jmpSet, l: l.l, k: l.r.k}, !negate
		}
	}
	return b.test(t, negate)
}

func (b *builder) test(t test, negate bool) *cond {
	c := b.cond(cond{op: condTest, test: t})
	if negate {
		return b.not(c)
	}
	return c
}
