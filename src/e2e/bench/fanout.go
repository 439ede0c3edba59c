package main

import (
	"fmt"
	"strings"
	"time"
)

// measureFanOut is P23: each update of a node goes to every subscriber.
func measureFanOut(r *run) ([]value, error) {
	s, err := r.startAnalyzer()
	if err != nil {
		return nil, err
	}
	defer s.stop()
	readers := make([]*publisher, r.size(1000, 20))
	for i := range readers {
		if readers[i], err = s.socket(r.ctx, "/ws/subscriber", "bench", fmt.Sprintf("reader%d", i)); err != nil {
			return nil, err
		}
		defer readers[i].close()
	}
	writer, err := s.publish(r.ctx, "writer")
	if err != nil {
		return nil, err
	}
	defer writer.close()
	node := func(kind string, revision int) []byte {
		return fmt.Appendf(nil, `{"Namespace":"Graph","Type":"%s","Obj":{"ID":"fan","Host":"bench","Revision":%d,"CreatedAt":1,"UpdatedAt":%d,`+
			`"Metadata":{"Type":"device","Name":"fan","Round":%d,"Text":"%s"}}}`, kind, revision, revision, revision, strings.Repeat("x", 850))
	}
	if err := writer.send(node("NodeAdded", 1)); err != nil {
		return nil, err
	}
	total := func() (n int64) {
		for _, p := range readers {
			n += p.received.Load()
		}
		return n
	}
	arrive := func(want int64) error {
		return r.until(time.Minute, 2*time.Millisecond, "the messages", func() (bool, error) {
			n := total()
			return n >= want, fmt.Errorf("%d of %d", n, want)
		})
	}
	each := int64(len(readers))
	if err := arrive(each); err != nil {
		return nil, err
	}
	const burst = 100 // fewer than any queue holds
	rounds := r.size(10, 1)
	begin := time.Now()
	used, err := s.during(func() error {
		for n := range rounds {
			var updates [][]byte
			for i := range burst {
				updates = append(updates, node("NodeUpdated", 2+n*burst+i))
			}
			if err := writer.send(updates...); err != nil {
				return err
			}
			if err := arrive(each * int64(1+(n+1)*burst)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	delivered := float64(each * int64(rounds*burst))
	return []value{
		{Today: delivered / used.CPU.Seconds(), CPU: used.CPU, RSS: used.PeakRSS},
		{Today: delivered / time.Since(begin).Seconds(), Note: "the subscribers share the processors"},
	}, nil
}
