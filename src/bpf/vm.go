package bpf

import "encoding/binary"

// Parts of an instruction's Op, as in <linux/bpf_common.h>.
const (
	classLd   = 0x00
	classLdx  = 0x01
	classSt   = 0x02
	classStx  = 0x03
	classAlu  = 0x04
	classJmp  = 0x05
	classRet  = 0x06
	classMisc = 0x07

	sizeW = 0x00
	sizeH = 0x08
	sizeB = 0x10

	modeImm = 0x00
	modeAbs = 0x20
	modeInd = 0x40
	modeMem = 0x60
	modeLen = 0x80
	modeMsh = 0xa0

	aluAdd = 0x00
	aluSub = 0x10
	aluMul = 0x20
	aluDiv = 0x30
	aluOr  = 0x40
	aluAnd = 0x50
	aluLsh = 0x60
	aluRsh = 0x70
	aluNeg = 0x80
	aluMod = 0x90
	aluXor = 0xa0

	jmpJa  = 0x00
	jmpEq  = 0x10
	jmpGt  = 0x20
	jmpGe  = 0x30
	jmpSet = 0x40

	srcX = 0x08 // of classAlu and classJmp: X instead of K
	retA = 0x10
	tax  = 0x00
	txa  = 0x80
)

// Offsets at which the kernel answers with what it knows of a packet.
const (
	ancillary      = 0xfffff000
	vlanTag        = ancillary + 44
	vlanTagPresent = ancillary + 48
)

const memory = 16 // cells of a program

// run is the machine of the kernel: a load from outside of the data and a division by zero reject the packet. So do, here, the
// loads of ancillary data and everything that the kernel would refuse to attach.
func run(prog []Instruction, data []byte, length uint32) uint32 {
	var a, x uint32
	var mem [memory]uint32
	for pc := 0; pc < len(prog); pc++ {
		i := &prog[pc]
		switch i.Op & 7 {
		case classLd:
			v, ok := load(i, data, length, x, &mem)
			if !ok {
				return 0
			}
			a = v
		case classLdx:
			v, ok := load(i, data, length, x, &mem)
			if !ok {
				return 0
			}
			x = v
		case classSt, classStx:
			if i.K >= memory {
				return 0
			}
			mem[i.K] = a
			if i.Op&7 == classStx {
				mem[i.K] = x
			}
		case classAlu:
			k := i.K
			if i.Op&srcX != 0 {
				k = x
			}
			v, ok := compute(i.Op&0xf0, a, k)
			if !ok {
				return 0
			}
			a = v
		case classJmp:
			if i.Op&0xf0 == jmpJa {
				if i.K > maxInstructions {
					return 0
				}
				pc += int(i.K)
				continue
			}
			k := i.K
			if i.Op&srcX != 0 {
				k = x
			}
			if compare(i.Op&0xf0, a, k) {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		case classRet:
			if i.Op&retA != 0 {
				return a
			}
			return i.K
		case classMisc:
			if i.Op&txa != 0 {
				a = x
			} else {
				x = a
			}
		}
	}
	return 0
}

func load(i *Instruction, data []byte, length, x uint32, mem *[memory]uint32) (uint32, bool) {
	switch i.Op & 0xe0 {
	case modeImm:
		return i.K, true
	case modeMem:
		if i.K >= memory {
			return 0, false
		}
		return mem[i.K], true
	case modeLen:
		return length, true
	case modeMsh:
		v, ok := at(data, uint64(i.K), sizeB)
		return v & 0xf << 2, ok
	case modeAbs:
		return at(data, uint64(i.K), i.Op&0x18)
	case modeInd:
		return at(data, uint64(x+i.K), i.Op&0x18)
	}
	return 0, false
}

func at(data []byte, off uint64, size uint16) (uint32, bool) {
	n := uint64(len(data))
	switch {
	case size == sizeW && off+4 <= n:
		return binary.BigEndian.Uint32(data[off:]), true
	case size == sizeH && off+2 <= n:
		return uint32(binary.BigEndian.Uint16(data[off:])), true
	case size == sizeB && off < n:
		return uint32(data[off]), true
	}
	return 0, false
}

// compute is not defined for a division by zero. Shifts are those of the kernel, which takes the count modulo 32.
func compute(op uint16, a, k uint32) (uint32, bool) {
	switch op {
	case aluAdd:
		return a + k, true
	case aluSub:
		return a - k, true
	case aluMul:
		return a * k, true
	case aluDiv:
		if k == 0 {
			return 0, false
		}
		return a / k, true
	case aluMod:
		if k == 0 {
			return 0, false
		}
		return a % k, true
	case aluOr:
		return a | k, true
	case aluAnd:
		return a & k, true
	case aluXor:
		return a ^ k, true
	case aluLsh:
		return a << (k & 31), true
	case aluRsh:
		return a >> (k & 31), true
	case aluNeg:
		return -a, true
	}
	return 0, false
}

func compare(op uint16, a, k uint32) bool {
	switch op {
	case jmpEq:
		return a == k
	case jmpGt:
		return a > k
	case jmpGe:
		return a >= k
	}
	return a&k != 0
}
