package bpf

// value is an expression over a packet. Values are interned by a builder: equal ones have the same address.
type value struct {
	op    valueOp
	alu   uint16 // of opAlu
	size  uint16 // of opLoad
	l, r  *value // operands of opAlu; l is also the index of opLoad
	k     uint32 // of opConst; offset of opLoad and opHeader
	cells int    // of memory that its computation takes
	usesX bool   // its computation changes X
}

type valueOp uint8

const (
	opConst  valueOp = iota
	opLen            // length of the packet
	opLoad           // size bytes at l + k; an offset of its own without l
	opHeader         // length of the IPv4 header at k
	opAlu
)

// builder makes values and conditions.
type builder struct {
	values map[value]*value
	conds  map[cond]*cond
}

func newBuilder() *builder { return &builder{map[value]*value{}, map[cond]*cond{}} }

func (b *builder) intern(v value) *value {
	if old := b.values[v]; old != nil {
		return old
	}
	b.values[v] = &v
	return &v
}

func (b *builder) constant(k uint32) *value { return b.intern(value{op: opConst, k: k}) }

func (b *builder) header(k uint32) *value { return b.intern(value{op: opHeader, k: k, usesX: true}) }

func (b *builder) load(index *value, off uint32, size uint16) *value {
	v := value{op: opLoad, l: index, k: off, size: size}
	if index != nil {
		if index.op == opConst {
			return b.load(nil, index.k+off, size)
		}
		v.cells, v.usesX = index.cells, true
	}
	return b.intern(v)
}

// alu folds constants; the divisor and the count of a shift are already checked.
func (b *builder) alu(op uint16, l, r *value) *value {
	if l.op == opConst && r.op == opConst {
		if k, ok := compute(op, l.k, r.k); ok {
			return b.constant(k)
		}
	}
	if l.op == opConst && (op == aluAdd || op == aluMul || op == aluAnd || op == aluOr || op == aluXor) {
		l, r = r, l
	}
	if op == aluAnd && r.op == opConst && r.k == 1<<32-1 {
		return l
	}
	v := value{op: opAlu, alu: op, l: l, r: r}
	v.cells, v.usesX = operands(l, r)
	return b.intern(v)
}

// operands tells what it takes to have l in A and r in X.
func operands(l, r *value) (cells int, usesX bool) {
	switch {
	case r.op == opConst:
		return l.cells, l.usesX
	case inX(r):
		return l.cells, true
	case !l.usesX:
		return r.cells, true
	}
	return max(l.cells, 1+r.cells), true
}

// inX tells whether a value can be had in X without A.
func inX(v *value) bool { return v.op == opConst || v.op == opLen || v.op == opHeader }

// machine emits the computation of values and remembers what the registers hold, so that nothing is loaded twice.
type machine struct {
	code []Instruction
	a, x *value // nil: unknown
}

func (m *machine) emit(op uint16, k uint32) { m.code = append(m.code, Instruction{Op: op, K: k}) }

// inA computes v into A; memory from cell on is free.
func (m *machine) inA(v *value, cell int) {
	if m.a == v {
		return
	}
	switch v.op {
	case opConst:
		m.emit(classLd|modeImm, v.k)
	case opLen:
		m.emit(classLd|modeLen, 0)
	case opHeader:
		m.inX(v, cell)
		m.emit(classMisc|txa, 0)
	case opLoad:
		if v.l == nil {
			m.emit(classLd|v.size|modeAbs, v.k)
			break
		}
		m.inX(v.l, cell)
		m.emit(classLd|v.size|modeInd, v.k)
	case opAlu:
		op := classAlu | v.alu
		switch {
		case v.r.op == opConst:
			m.inA(v.l, cell)
			m.emit(op, v.r.k)
		default:
			m.both(v.l, v.r, cell)
			m.emit(op|srcX, 0)
		}
	}
	m.a = v
}

// inX computes v into X and may change A.
func (m *machine) inX(v *value, cell int) {
	if m.x == v {
		return
	}
	switch v.op {
	case opConst:
		m.emit(classLdx|modeImm, v.k)
	case opLen:
		m.emit(classLdx|modeLen, 0)
	case opHeader:
		m.emit(classLdx|sizeB|modeMsh, v.k)
	default:
		m.inA(v, cell)
		m.emit(classMisc|tax, 0)
	}
	m.x = v
}

// both computes l into A and r into X.
func (m *machine) both(l, r *value, cell int) {
	switch {
	case inX(r):
		m.inA(l, cell)
		m.inX(r, cell)
	case !l.usesX:
		m.inX(r, cell)
		m.inA(l, cell)
	default:
		m.inA(l, cell)
		m.emit(classSt, uint32(cell))
		m.inX(r, cell+1)
		m.emit(classLd|modeMem, uint32(cell))
		m.a = l
	}
}
