package bpf

import "slices"

// arranger rewrites conditions so that they take fewer tests and loads. It loads nothing earlier than the condition does: a packet
// that is long enough for the condition gets the same verdict, and one that is cut short may only be accepted for an alternative
// that has been loaded.
type arranger struct {
	*builder
	done map[*cond]*cond
}

func (r *arranger) arrange(c *cond) *cond {
	if d := r.done[c]; d != nil {
		return d
	}
	d := c
	switch c.op {
	case condNot:
		d = r.not(r.arrange(c.a))
	case condAnd, condOr:
		list := r.flat(nil, c.op, c)
		if c.op == condAnd {
			d = r.all(list)
		} else {
			d = r.any(list)
		}
	}
	r.done[c] = d
	return d
}

// flat appends what hangs together in c, each of it arranged.
func (r *arranger) flat(list []*cond, op condOp, c *cond) []*cond {
	for ; c.op == op; c = c.b {
		list = r.flat(list, op, c.a)
	}
	if d := r.arrange(c); d.op != op {
		return append(list, d)
	}
	return r.flat(list, op, r.done[c])
}

// all makes "!(x or y)" of "!x and !y": then x and y may share tests.
func (r *arranger) all(conds []*cond) *cond {
	var list []*cond
	for i := 0; i < len(conds); {
		var negated []*cond
		for ; i < len(conds) && conds[i].op == condNot; i++ {
			negated = append(negated, conds[i].a)
		}
		switch len(negated) {
		case 0:
			list = append(list, conds[i])
			i++
		case 1:
			list = append(list, r.not(negated[0]))
		default:
			list = append(list, r.not(r.any(negated)))
		}
	}
	return r.and(list...)
}

// group is the alternatives that begin with the same condition.
type group struct {
	head  *cond
	rests []*cond
}

// any puts together what begins with the same condition, if only alternatives are between that exclude it by their first test. And
// it orders tests by what they load, as libpcap does.
func (r *arranger) any(conds []*cond) *cond {
	var groups []group
	for _, c := range conds {
		head, rest := c, r.truth(true)
		if c.op == condAnd {
			head, rest = c.a, c.b
		}
		i := len(groups) - 1
		for i >= 0 && groups[i].head != head && exclusive(groups[i].head, head) {
			i--
		}
		if i >= 0 && groups[i].head == head {
			groups[i].rests = append(groups[i].rests, rest)
		} else {
			groups = append(groups, group{head, []*cond{rest}})
		}
		if c.op == condTrue {
			break
		}
	}
	list := make([]*cond, 0, len(groups))
	for _, g := range groups {
		rest := g.rests[0]
		if len(g.rests) > 1 {
			rest = r.arrange(r.or(g.rests...))
		}
		list = append(list, r.and(g.head, rest))
	}
	for i := 0; i < len(list); i++ {
		start := i
		order := map[*value]int{}
		for ; i < len(list) && list[i].op == condTest; i++ {
			if _, ok := order[list[i].test.l]; !ok {
				order[list[i].test.l] = i
			}
		}
		slices.SortStableFunc(list[start:i], func(x, y *cond) int { return order[x.test.l] - order[y.test.l] })
	}
	return r.or(list...)
}

// exclusive tells that two conditions want the same value to be different numbers.
func exclusive(x, y *cond) bool {
	s, t := x.test, y.test
	return x.op == condTest && y.op == condTest && s.op == jmpEq && t.op == jmpEq && s.l == t.l && s.r == nil && t.r == nil && s.k != t.k
}
