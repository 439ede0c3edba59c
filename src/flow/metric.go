package flow

import (
	"errors"
	"fmt"
	"math"
)

// Sum adds metrics up: counters and RTTs are added, the earliest Start and the latest Last kept.
func Sum(ms []Metric) Metric {
	var sum Metric
	for i := range ms {
		sum.Add(&ms[i])
	}
	return sum
}

// Add adds o to m. A metric without any time – of an interval in which nothing happened – has no start.
func (m *Metric) Add(o *Metric) {
	m.ABPackets += o.ABPackets
	m.ABBytes += o.ABBytes
	m.BAPackets += o.BAPackets
	m.BABytes += o.BABytes
	m.RTT += o.RTT
	if o.Start != 0 && (m.Start == 0 || o.Start < m.Start) {
		m.Start = o.Start
	}
	m.Last = max(m.Last, o.Last)
}

// MaxSlices bounds the answer of Aggregates.
const MaxSlices = 10_000

// Aggregates cuts the time from start to last (ms; both 0: of all metrics) into slices of step ms and shares every metric out among the
// slices that it overlaps, in proportion; the shares of a counter add up to the part of the counter in that time. Slices without a metric
// are left out. The RTT of a slice is the largest of its metrics. Metrics without times are left out.
func Aggregates(ms []Metric, start, last, step int64) ([]Metric, error) {
	if step <= 0 {
		return nil, errors.New("Aggregates parameter has to be a positive number")
	}
	if start == 0 && last == 0 {
		all := Sum(ms)
		start, last = all.Start, all.Last
	}
	if last < start {
		return nil, nil
	}
	n := max((last-start-1)/step+1, 1)
	if n > MaxSlices {
		return nil, fmt.Errorf("Aggregates available slices exceeded: %d/%d", n, MaxSlices)
	}
	slots := make([]Metric, n)
	for i := range ms {
		share(slots, &ms[i], start, last, step)
	}
	out := slots[:0]
	for i := range slots {
		if slots[i].Last != 0 {
			out = append(out, slots[i])
		}
	}
	return out, nil
}

// share adds to each slot its part of m, and the times of the slot.
func share(slots []Metric, m *Metric, start, last, step int64) {
	if m.Start <= 0 || m.Last < m.Start {
		return
	}
	for i := max((m.Start-start)/step, 0); i < int64(len(slots)); i++ {
		begin := start + i*step
		end := min(begin+step, last)
		from, to := max(begin, m.Start), min(end, m.Last)
		switch {
		case from > m.Last:
			return
		case to < from || to == from && m.Last > m.Start:
			continue
		}
		s := &slots[i]
		s.Start, s.Last = begin, end
		s.ABPackets += part(m.ABPackets, m, from, to)
		s.ABBytes += part(m.ABBytes, m, from, to)
		s.BAPackets += part(m.BAPackets, m, from, to)
		s.BABytes += part(m.BABytes, m, from, to)
		s.RTT = max(s.RTT, m.RTT)
		if m.Last == m.Start {
			return
		}
	}
}

// part is what n, counted over the whole of m, is worth from from to to. Being a difference of rounded numbers, the parts of an interval
// add up.
func part(n int64, m *Metric, from, to int64) int64 {
	whole := m.Last - m.Start
	if whole == 0 {
		return n
	}
	return portion(n, to-m.Start, whole) - portion(n, from-m.Start, whole)
}

// portion is n × some / whole, rounded down.
func portion(n, some, whole int64) int64 {
	if some >= whole {
		return n
	}
	// In two steps, since n × some may exceed 64 bits.
	return n/whole*some + int64(math.Floor(float64(n%whole)*(float64(some)/float64(whole))))
}
