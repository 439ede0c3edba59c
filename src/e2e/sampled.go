package e2e

import "encoding/binary"

// Sample is a packet as a switch samples it for sFlow.
type Sample struct {
	Sequence, Rate, Input, Output, Length uint32
	Header                                []byte // the beginning of the frame; its size must be a multiple of 4
}

// AppendSFlow appends a datagram of sFlow version 5 (https://sflow.org/sflow_version_5.txt) with such samples, from the switch with an
// address of IPv4.
func AppendSFlow(buf []byte, agent [4]byte, sequence uint32, samples ...Sample) []byte {
	put := func(words ...uint32) {
		for _, w := range words {
			buf = binary.BigEndian.AppendUint32(buf, w)
		}
	}
	put(5, 1)
	buf = append(buf, agent[:]...)
	put(0, sequence, sequence, uint32(len(samples)))
	for _, s := range samples {
		size := uint32(len(s.Header))
		put(1, 8*4+2*4+4*4+size, s.Sequence, s.Input, s.Rate, s.Sequence*s.Rate, 0, s.Input, s.Output, 1) // flow sample, one record
		put(1, 4*4+size, 1, s.Length, 4, size)                                                            // raw packet header of Ethernet, 4 bytes of it stripped
		buf = append(buf, s.Header...)
	}
	return buf
}
