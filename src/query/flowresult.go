package query

import (
	"context"
	"io"
	"slices"

	"skydive/src/flow"
)

type (
	// Flows may hold a flow more than once, as the captures of several nodes do.
	Flows []*flow.Flow
	// FlowGroups are groups of flows that belong together, in the order of the first flow of each.
	FlowGroups []FlowGroup
	// FlowGroup is what was seen of one conversation.
	FlowGroup struct {
		TrackingID string
		Flows      []*flow.Flow
	}
	// FlowMetrics are series, in the order of the flows asked.
	FlowMetrics []FlowSeries
	// FlowSeries is what one flow counted; ID is its UUID.
	FlowSeries struct {
		ID      string
		Metrics []flow.Metric
	}
	// RawPackets are lists, in the order of the flows asked; those without packets are there only after a filter.
	RawPackets []PacketList
	// PacketList is the packets of one flow.
	PacketList struct {
		Flow    *flow.Flow
		Packets []flow.RawPacket
	}
)

func (f Flows) size() int { return len(f) * flowWeight }

func (g FlowGroups) size() (n int) {
	for i := range g {
		n += len(g[i].Flows) * flowWeight
	}
	return n
}

func (m FlowMetrics) size() (n int) {
	for i := range m {
		n += len(m[i].Metrics)
	}
	return n
}

func (p RawPackets) size() (n int) {
	for i := range p {
		for _, packet := range p[i].Packets {
			n += 1 + len(packet.Data)/bytesPerElement
		}
	}
	return n
}

func appendFlow(b []byte, f *flow.Flow) []byte       { return f.AppendJSON(b) }
func appendMetric(b []byte, m flow.Metric) []byte    { return m.AppendJSON(b) }
func appendPacket(b []byte, p flow.RawPacket) []byte { return p.AppendJSON(b) }

func (f Flows) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) { elements(e, slices.Values(f), "[]", appendFlow) })
}

func (g FlowGroups) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) {
		members(e, g, func(g *FlowGroup) string { return g.TrackingID }, func(e *encoder, g *FlowGroup) {
			elements(e, slices.Values(g.Flows), "[]", appendFlow)
		})
	})
}

func (m FlowMetrics) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) {
		members(e, m, func(s *FlowSeries) string { return s.ID }, func(e *encoder, s *FlowSeries) {
			elements(e, slices.Values(s.Metrics), "[]", appendMetric)
		})
	})
}

// WriteJSON writes null for a flow whose packets were all filtered out.
func (p RawPackets) WriteJSON(ctx context.Context, w io.Writer) error {
	return encode(ctx, w, func(e *encoder) {
		members(e, p, func(l *PacketList) string { return l.Flow.UUID }, func(e *encoder, l *PacketList) {
			elements(e, slices.Values(l.Packets), "null", appendPacket)
		})
	})
}
