package main

import (
	"fmt"
	"io"
	"time"

	"skydive/src/flow"
)

// flowFrame is how many records a message to /ws/agent/flow holds here.
const flowFrame = 100

// records are messages with the records of so many flows, which were there one after the other in the time before now.
func records(flows int, now time.Time, before time.Duration) (messages [][]byte) {
	var message []byte
	for i := range flows {
		start := now.Add(-before + time.Duration(float64(before)*float64(i)/float64(flows))).UnixMilli()
		from := client(i)
		f := flow.Flow{
			UUID: fmt.Sprintf("%x", uint64(i+1)*0x9e3779b97f4a7c15), LayersPath: "Ethernet/IPv4/TCP", Application: "TCP", Start: start, Last: start + 900,
			Link:      &flow.Layer{Protocol: flow.Ethernet, A: "02:00:00:00:00:01", B: "02:00:00:00:00:02"},
			Network:   &flow.Layer{Protocol: flow.IPv4, A: fmt.Sprintf("%d.%d.%d.%d", from[0], from[1], from[2], from[3]), B: "172.16.0.1"},
			Transport: &flow.Transport{Protocol: flow.TCP, A: int64(1024 + i/1000), B: 443},
			Metric:    flow.Metric{ABPackets: 10, ABBytes: 4000, BAPackets: 8, BABytes: 9000, Start: start, Last: start + 900, RTT: 1_500_000},
			NodeTID:   "5c9f7a1e-31c8-5a0b-6a43-f0a4a58e1f0b", CaptureID: "b7a2fd7e-1a0c-4c43-5d52-0b1a2c3d4e5f",
			TrackingID: fmt.Sprintf("%x", uint64(i+1)*0xbf58476d1ce4e5b9), L3TrackingID: fmt.Sprintf("%x", uint64(i+1)*0x94d049bb133111eb),
		}
		f.LastUpdateMetric = &f.Metric
		message = flow.AppendMessageFlow(message, &f)
		if i%flowFrame == flowFrame-1 || i == flows-1 {
			messages, message = append(messages, message), nil
		}
	}
	return messages
}

// measureArchive is P22: records come in as an agent sends them, until a query finds all; then a part of the time is asked for.
func measureArchive(r *run) ([]value, error) {
	s, err := r.start("analyzer", "flow: {protocol: websocket}\n")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	p, err := s.socket(r.ctx, "/ws/agent/flow", "agent", "bench")
	if err != nil {
		return nil, err
	}
	defer p.close()
	now, span := time.Now(), 100*time.Minute
	flows := r.size(1_000_000, 2000)
	messages := records(flows, now, span)
	query := fmt.Sprintf("G.At(%d, %d).Flows().Count()", now.Add(time.Minute).UnixMilli(), int((span + time.Hour).Seconds()))
	used, err := s.during(func() error {
		sent := 0
		for len(messages) > 0 {
			n := min(200, len(messages))
			if err := p.sendAs(binaryData, messages[:n]...); err != nil {
				return err
			}
			messages, sent = messages[n:], sent+n*flowFrame
			// Not more is under way than the analyzer may hold: what it would drop is not what is measured.
			if err := r.until(time.Minute, 5*time.Millisecond, "the archive", func() (bool, error) {
				stored, err := s.stored()
				return stored >= min(sent, flows)-50_000, fmt.Errorf("%d of %d (%w)", stored, sent, err)
			}); err != nil {
				return err
			}
		}
		return r.until(time.Minute, 10*time.Millisecond, "the archive", func() (bool, error) {
			stored, err := s.stored()
			return stored >= flows, fmt.Errorf("%d of %d (%w)", stored, flows, err)
		})
	})
	if err != nil {
		return nil, err
	}
	if n, err := s.count(r.ctx, query); err != nil || n != flows {
		return nil, fmt.Errorf("%s: %d, want %d (%w)", query, n, flows, err)
	}
	var times []float64
	slice := fmt.Sprintf("G.At(%d, 600).Flows().Count()", now.Add(-span/2).UnixMilli())
	asked, err := s.during(func() error {
		for range 5 {
			begin := time.Now()
			if err := s.ask(r.ctx, slice, io.Discard); err != nil {
				return err
			}
			times = append(times, time.Since(begin).Seconds())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	n, err := s.count(r.ctx, slice)
	if err != nil {
		return nil, err
	}
	status, err := s.archive()
	return []value{
		{Today: float64(flows) / used.CPU.Seconds(), CPU: used.CPU, RSS: used.PeakRSS},
		{Today: median(times), CPU: asked.CPU / 5, RSS: asked.PeakRSS, Note: fmt.Sprintf("%d of %d flows", n, flows)},
		{Today: float64(status.Bytes) / float64(flows)},
	}, err
}

// archiveState is what /api/status says of the archive.
type archiveState struct{ FlowRecords, Bytes int64 }

func (s *service) archive() (archiveState, error) {
	var status struct{ Archive archiveState }
	return status.Archive, s.get("/api/status", &status)
}

func (s *service) stored() (int, error) {
	a, err := s.archive()
	return int(a.FlowRecords), err
}
