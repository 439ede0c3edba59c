package disk

import (
	"cmp"
	"math"
	"slices"

	"skydive/src/flow"
)

// wanted is a flow that is asked for.
type wanted struct {
	id   flowID
	flow *flow.Flow
}

// wantedOf returns flows in the order of their keys, each once, and when the first of them began.
func wantedOf(flows []*flow.Flow) (list []wanted, ids []flowID, begin int64) {
	begin = math.MaxInt64
	for _, f := range flows {
		if f != nil {
			list = append(list, wanted{flowIDOf(f.UUID), f})
			begin = min(begin, f.Start)
		}
	}
	slices.SortFunc(list, func(a, b wanted) int { return a.id.compare(b.id) })
	list = slices.CompactFunc(list, func(a, b wanted) bool { return a.id == b.id })
	ids = make([]flowID, len(list))
	for i := range list {
		ids[i] = list[i].id
	}
	return list, ids, begin
}

func sortMetrics(ms []flow.Metric) {
	slices.SortStableFunc(ms, func(a, b flow.Metric) int { return cmp.Or(cmp.Compare(a.Last, b.Last), cmp.Compare(a.Start, b.Start)) })
}

func sortPackets(ps []flow.RawPacket) {
	slices.SortStableFunc(ps, func(a, b flow.RawPacket) int { return cmp.Compare(a.Index, b.Index) })
}
