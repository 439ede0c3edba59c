package query

import "skydive/src/flow"

// rawPackets leaves out flows without packets. Those of now hold the packets that were not reported yet.
func rawPackets(r *run, in Result) (Result, error) {
	all := in.(Flows)
	var stored map[string][]flow.RawPacket
	if r.slice != nil {
		var err error
		stored, err = r.src.Storage.RawPackets(r.ctx, r.since(), r.slice.Last, all)
		if err = r.archived(err); err != nil {
			return nil, err
		}
	}
	var out RawPackets
	at := make(map[string]int)
	for _, f := range all {
		i, dup := at[f.UUID]
		ps := f.LastRawPackets
		if r.slice != nil {
			if ps = stored[f.UUID]; dup {
				ps = nil
			}
		}
		n := 0
		for _, p := range ps {
			n += 1 + len(p.Data)/bytesPerElement
		}
		if !r.hold(n) {
			return nil, r.err
		}
		if len(ps) == 0 {
			continue
		}
		if !dup {
			i = len(out)
			at[f.UUID] = i
			out = append(out, PacketList{Flow: f})
		}
		out[i].Packets = append(out[i].Packets, ps...)
	}
	return out, nil
}

// apply keeps the packets that pass, and flows whose packets all fail.
func (f packetFilter) apply(r *run, in Result) (Result, error) {
	out := make(RawPackets, 0, len(in.(RawPackets)))
	for _, l := range in.(RawPackets) {
		kept := PacketList{Flow: l.Flow}
		for _, p := range l.Packets {
			if !r.ok() {
				return nil, r.err
			}
			if pass := f[p.LinkType]; pass != nil && pass.Match(p.Data[:min(len(p.Data), packetLimit)], len(p.Data)) {
				kept.Packets = append(kept.Packets, p)
			}
		}
		out = append(out, kept)
	}
	return out, nil
}
