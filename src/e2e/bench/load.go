package main

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"skydive/src/e2e"
)

// measureSync sends a whole graph as one message, and leaves the analyzer that has it for the queries.
func measureSync(r *run) ([]value, error) {
	if r.full != nil {
		r.full.stop()
		r.full = nil
	}
	s, err := r.startAnalyzer()
	if err != nil {
		return nil, err
	}
	r.full = s
	r.tree = newTree(r.size(100_000, 1000), "0")
	p, err := s.publish(r.ctx, "sync")
	if err != nil {
		return nil, err
	}
	empty, err := s.proc.Usage()
	if err != nil {
		return nil, err
	}
	rate, used, err := r.feed(s, p, 2*r.tree.size(), r.tree.sync())
	if err != nil {
		return nil, err
	}
	// What decoding used comes back only when the collector has gone round.
	if err := r.wait(time.Duration(r.size(5000, 100)) * time.Millisecond); err != nil {
		return nil, err
	}
	after, err := s.proc.Usage()
	if err != nil {
		return nil, err
	}
	return []value{
		{Today: rate, CPU: used.CPU, RSS: used.PeakRSS},
		{Today: megabytes(after.RSS), RSS: after.PeakRSS,
			Note: fmt.Sprintf("%.2f kB per node with its edge", float64(after.RSS-empty.RSS)/1e3/float64(r.tree.size()))},
	}, nil
}

// measureMessages sends each element as a message, to an analyzer that has nothing else.
func measureMessages(r *run) ([]value, error) {
	s, err := r.startAnalyzer()
	if err != nil {
		return nil, err
	}
	defer s.stop()
	t := newTree(r.size(10_000, 100), "1")
	p, err := s.publish(r.ctx, "messages")
	if err != nil {
		return nil, err
	}
	defer p.close()
	rate, used, err := r.feed(s, p, 2*t.size(), t.messages()...)
	if err != nil {
		return nil, err
	}
	return []value{{Today: rate, CPU: used.CPU, RSS: used.PeakRSS}}, nil
}

// feed sends messages to an analyzer and returns how many elements per second became visible.
func (r *run) feed(s *service, p *publisher, elements int, messages ...[]byte) (rate float64, used e2e.Usage, err error) {
	before, err := r.elements(s)
	if err != nil {
		return 0, used, err
	}
	begin := time.Now()
	used, err = s.during(func() error {
		if err := p.send(messages...); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		return r.until(3*time.Minute, 5*time.Millisecond, "all elements", func() (bool, error) {
			n, err := r.elements(s)
			return n-before >= elements, cmp.Or(err, fmt.Errorf("%d of %d are there", n-before, elements))
		})
	})
	return float64(elements) / time.Since(begin).Seconds(), used, err
}

// elements counts nodes and edges.
func (r *run) elements(s *service) (int, error) {
	nodes, err1 := s.count(r.ctx, "G.V().Count()")
	edges, err2 := s.count(r.ctx, "G.E().Count()")
	return nodes + edges, errors.Join(err1, err2)
}

// loaded returns the analyzer that holds the graph of P6, having made it when P6 was not chosen.
func (r *run) loaded() (*service, error) {
	if r.full == nil {
		if _, err := measureSync(r); err != nil {
			return nil, err
		}
	}
	return r.full, nil
}
