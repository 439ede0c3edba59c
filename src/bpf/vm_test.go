package bpf

import "testing"

// The programs are some that no expression gives, too.
func TestMachine(t *testing.T) {
	data := []byte{0x45, 0xff, 0, 0x10, 1, 2, 3, 4}
	for name, c := range map[string]struct {
		prog []Instruction
		want uint32
	}{
		"no program":              {nil, 0},
		"no end":                  {[]Instruction{{Op: classLd | modeImm, K: 7}}, 0},
		"return a number":         {[]Instruction{{Op: classRet, K: 9}}, 9},
		"word":                    {[]Instruction{{Op: classLd | modeAbs | sizeW, K: 4}, {Op: classRet | retA}}, 0x01020304},
		"half":                    {[]Instruction{{Op: classLd | modeAbs | sizeH, K: 6}, {Op: classRet | retA}}, 0x0304},
		"byte":                    {[]Instruction{{Op: classLd | modeAbs | sizeB, K: 7}, {Op: classRet | retA}}, 4},
		"word outside":            {[]Instruction{{Op: classLd | modeAbs | sizeW, K: 5}, {Op: classRet, K: 1}}, 0},
		"half outside":            {[]Instruction{{Op: classLd | modeAbs | sizeH, K: 7}, {Op: classRet, K: 1}}, 0},
		"byte outside":            {[]Instruction{{Op: classLd | modeAbs | sizeB, K: 8}, {Op: classRet, K: 1}}, 0},
		"ancillary":               {[]Instruction{{Op: classLd | modeAbs | sizeW, K: vlanTag}, {Op: classRet, K: 1}}, 0},
		"wrong size":              {[]Instruction{{Op: classLd | modeAbs | 0x18}, {Op: classRet, K: 1}}, 0},
		"wrong mode":              {[]Instruction{{Op: classLd | 0xe0}, {Op: classRet, K: 1}}, 0},
		"length":                  {[]Instruction{{Op: classLd | modeLen}, {Op: classRet | retA}}, 1500},
		"header":                  {[]Instruction{{Op: classLdx | modeMsh | sizeB}, {Op: classMisc | txa}, {Op: classRet | retA}}, 20},
		"header outside":          {[]Instruction{{Op: classLdx | modeMsh | sizeB, K: 8}, {Op: classRet, K: 1}}, 0},
		"indirect":                {[]Instruction{{Op: classLdx | modeImm, K: 3}, {Op: classLd | modeInd | sizeB, K: 2}, {Op: classRet | retA}}, 2},
		"indirect beyond 32 bits": {[]Instruction{{Op: classLdx | modeImm, K: 1<<32 - 1}, {Op: classLd | modeInd | sizeB, K: 5}, {Op: classRet | retA}}, 1},
		"memory":                  {[]Instruction{{Op: classLd | modeImm, K: 6}, {Op: classSt, K: 15}, {Op: classLd | modeImm}, {Op: classLd | modeMem, K: 15}, {Op: classRet | retA}}, 6},
		"memory of X":             {[]Instruction{{Op: classLdx | modeImm, K: 6}, {Op: classStx, K: 1}, {Op: classLd | modeMem, K: 1}, {Op: classRet | retA}}, 6},
		"store outside":           {[]Instruction{{Op: classSt, K: 16}, {Op: classRet, K: 1}}, 0},
		"recall outside":          {[]Instruction{{Op: classLd | modeMem, K: 16}, {Op: classRet, K: 1}}, 0},
		"TAX and TXA":             {[]Instruction{{Op: classLd | modeImm, K: 5}, {Op: classMisc | tax}, {Op: classLd | modeImm}, {Op: classMisc | txa}, {Op: classRet | retA}}, 5},
		"division":                {[]Instruction{{Op: classLd | modeImm, K: 7}, {Op: classAlu | aluDiv, K: 2}, {Op: classRet | retA}}, 3},
		"division by zero":        {[]Instruction{{Op: classAlu | aluDiv | srcX}, {Op: classRet, K: 1}}, 0},
		"remainder":               {[]Instruction{{Op: classLd | modeImm, K: 7}, {Op: classAlu | aluMod, K: 4}, {Op: classRet | retA}}, 3},
		"remainder of zero":       {[]Instruction{{Op: classAlu | aluMod | srcX}, {Op: classRet, K: 1}}, 0},
		"negation":                {[]Instruction{{Op: classLd | modeImm, K: 1}, {Op: classAlu | aluNeg}, {Op: classRet | retA}}, 1<<32 - 1},
		"shift":                   {[]Instruction{{Op: classLd | modeImm, K: 1}, {Op: classAlu | aluLsh, K: 4}, {Op: classRet | retA}}, 16},
		"shift by X modulo 32":    {[]Instruction{{Op: classLd | modeImm, K: 8}, {Op: classLdx | modeImm, K: 33}, {Op: classAlu | aluRsh | srcX}, {Op: classRet | retA}}, 4},
		"wrong operator":          {[]Instruction{{Op: classAlu | 0xb0}, {Op: classRet, K: 1}}, 0},
		"jump":                    {[]Instruction{{Op: classJmp | jmpJa, K: 1}, {Op: classRet, K: 1}, {Op: classRet, K: 2}}, 2},
		"jump out":                {[]Instruction{{Op: classJmp | jmpJa, K: 1<<32 - 1}, {Op: classRet, K: 1}}, 0},
		"conditional jump out":    {[]Instruction{{Op: classJmp | jmpEq, Jt: 200}, {Op: classRet, K: 1}}, 0},
		"comparison with X":       {[]Instruction{{Op: classLdx | modeImm, K: 1}, {Op: classJmp | jmpGe | srcX, Jt: 1}, {Op: classRet, K: 1}, {Op: classRet, K: 2}}, 1},
		"comparison of bits":      {[]Instruction{{Op: classLd | modeImm, K: 6}, {Op: classJmp | jmpSet, K: 2, Jf: 1}, {Op: classRet, K: 1}, {Op: classRet, K: 2}}, 1},
		"greater is not equal":    {[]Instruction{{Op: classLd | modeImm, K: 6}, {Op: classJmp | jmpGt, K: 6, Jf: 1}, {Op: classRet, K: 1}, {Op: classRet, K: 2}}, 2},
	} {
		if got := run(c.prog, data, 1500); got != c.want {
			t.Errorf("%s: %#x, not %#x", name, got, c.want)
		}
	}
}
