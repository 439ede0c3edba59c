package capture

import (
	"sync/atomic"

	"skydive/src/bpf"
	"skydive/src/flow"
)

// Intake is where a source puts its packets.
type Intake struct {
	node    Node
	link    uint32
	packets func([]flow.Packet)
	table   *flow.Table              // nil: packets go elsewhere
	inputs  atomic.Pointer[[]*input] // of those who follow; nil: nobody
	one     [1]flow.Packet
}

// Packets takes packets, in order. They may be used again when it returns. Only one goroutine calls it, or Sampled or Records.
func (in *Intake) Packets(batch []flow.Packet) {
	in.follow(batch)
	in.packets(batch)
}

// Sampled takes a packet that stands for others as well, see flow.Table.
func (in *Intake) Sampled(p *flow.Packet, s flow.Sample) {
	in.one[0] = *p
	if (s.First == flow.FirstEthernet) == (in.link == uint32(bpf.Ethernet)) { // what begins otherwise would not be understood
		in.follow(in.one[:])
	}
	if in.table != nil {
		in.table.Sampled(p, s)
	} else {
		in.packets(in.one[:])
	}
}

// Records takes what others have counted until now (ns since the epoch), see flow.Table.
func (in *Intake) Records(batch []flow.Record, now int64) {
	if in.table != nil {
		in.table.Records(batch, now)
	}
}

// Place gives the number of a place for Sampled and Records, see flow.Table.
func (in *Intake) Place(tid, salt string) flow.Place {
	if in.table == nil {
		return 0
	}
	return in.table.Place(tid, salt)
}

func (in *Intake) follow(batch []flow.Packet) {
	if all := in.inputs.Load(); all != nil {
		for _, i := range *all {
			i.offer(batch)
		}
	}
}

// NewIntake makes an intake outside of a Manager.
func NewIntake(packets func([]flow.Packet)) *Intake { return &Intake{packets: packets} }

// NewTableIntake makes an intake outside of a Manager, of Ethernet frames.
func NewTableIntake(t *flow.Table) *Intake {
	return &Intake{packets: t.Packets, table: t, link: uint32(bpf.Ethernet)}
}
