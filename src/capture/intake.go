package capture

import (
	"sync/atomic"

	"skydive/src/flow"
)

// Intake is where a source puts its packets.
type Intake struct {
	node    Node
	link    uint32
	packets func([]flow.Packet)
	inputs  atomic.Pointer[[]*input] // of those who follow; nil: nobody
}

// Packets takes packets, in order. They may be used again when it returns. Only one goroutine calls it.
func (in *Intake) Packets(batch []flow.Packet) {
	if all := in.inputs.Load(); all != nil {
		for _, i := range *all {
			i.offer(batch)
		}
	}
	in.packets(batch)
}

// NewIntake makes an intake outside of a Manager.
func NewIntake(packets func([]flow.Packet)) *Intake { return &Intake{packets: packets} }
