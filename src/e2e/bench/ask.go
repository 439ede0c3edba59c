package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"skydive/src/e2e"
)

func measureID(r *run) ([]value, error) {
	return r.repeat(func(t *tree) (string, int) { return fmt.Sprintf("G.V('%s')", t.id(t.size()/2)), 1 })
}

func measureName(r *run) ([]value, error) {
	return r.repeat(func(*tree) (string, int) { return "G.V().Has('Name','n500')", 1 })
}

func measureType(r *run) ([]value, error) {
	return r.repeat(func(t *tree) (string, int) { return "G.V().Has('Type','x').Count()", t.size() })
}

func measureOut(r *run) ([]value, error) {
	return r.repeat(func(t *tree) (string, int) {
		n := 0
		for _, child := range t.children(500) {
			n += len(t.children(child))
		}
		return "G.V().Has('Name','n500').Out().Out()", n
	})
}

func measureRegex(r *run) ([]value, error) {
	return r.repeat(func(t *tree) (string, int) { return "G.V().Has('Name',Regex('n50.*')).Count()", t.named("n50") })
}

// repeat asks a query, whose answer is a list of so many or that number, again and again over one connection, and returns p50 and p99.
func (r *run) repeat(query func(*tree) (string, int)) ([]value, error) {
	const budget = 8 * time.Second // a slow answer is asked less often
	s, err := r.loaded()
	if err != nil {
		return nil, err
	}
	gremlin, want := query(r.tree)
	ask, hangUp, err := s.asker(r.ctx, gremlin)
	if err != nil {
		return nil, err
	}
	defer hangUp()
	var answer bytes.Buffer
	for range 5 { // what the server keeps gets warm
		answer.Reset()
		if err := ask(&answer); err != nil {
			return nil, err
		}
	}
	if n, err := length(answer.Bytes()); err != nil || n != want {
		return nil, fmt.Errorf("%s answers %d, want %d (%w)", gremlin, n, want, err)
	}
	var times []float64
	used, err := s.during(func() error {
		for begin := time.Now(); len(times) < r.size(200, 5) && (time.Since(begin) < budget || len(times) < 10); {
			start := time.Now()
			if err := ask(io.Discard); err != nil {
				return err
			}
			times = append(times, float64(time.Since(start))/1e6)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	each := used.CPU / time.Duration(len(times))
	return []value{
		{Today: percentile(times, 50), CPU: each, RSS: used.PeakRSS, Note: "CPU is that of one query"},
		{Today: percentile(times, 99)},
	}, nil
}

// length returns the number that an answer is, or how many elements it lists.
func length(answer []byte) (int, error) {
	var n int
	if json.Unmarshal(answer, &n) == nil {
		return n, nil
	}
	var list []json.RawMessage
	err := json.Unmarshal(answer, &list)
	return len(list), err
}

// measureGraph asks for everything.
func measureGraph(r *run) ([]value, error) {
	s, err := r.loaded()
	if err != nil {
		return nil, err
	}
	before, err := s.proc.Usage()
	if err != nil {
		return nil, err
	}
	var times []float64
	var size int64
	used, err := s.during(func() error {
		for range r.size(5, 1) {
			begin, n := time.Now(), counter(0)
			if err := s.ask(r.ctx, "G", &n); err != nil {
				return err
			}
			times, size = append(times, time.Since(begin).Seconds()), int64(n)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []value{
		{Today: median(times), CPU: used.CPU / time.Duration(len(times)), RSS: used.PeakRSS, Note: fmt.Sprintf("%.0f MB of JSON", megabytes(size))},
		{Today: megabytes(used.PeakRSS - before.RSS), RSS: used.PeakRSS},
	}, nil
}

// counter counts the bytes written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// measurePath looks for the way between two leaves of the random tree, then for one through all nodes, and then asks for the ways from
// every node but does not wait for them.
func measurePath(r *run) ([]value, error) {
	s, err := r.loaded()
	if err != nil {
		return nil, err
	}
	last := r.tree.size() - 1
	across, err := r.path(s, fmt.Sprintf("G.V().Has('Name','n%d').ShortestPathTo(Metadata('Name','n%d'))", last-1, last/2), 0)
	if err != nil {
		return nil, err
	}

	p, err := s.publish(r.ctx, "chain")
	if err != nil {
		return nil, err
	}
	defer p.close()
	if _, _, err := r.feed(s, p, last, r.tree.chain()); err != nil {
		return nil, fmt.Errorf("publish the chain: %w", err)
	}
	chain, err := r.path(s, fmt.Sprintf("G.V().Has('Name','n0').ShortestPathTo(Metadata('Name','n%d'),Metadata('RelationType','chain'))", last), last+1)
	if err != nil {
		return nil, err
	}

	ctx, cancel := context.WithTimeout(r.ctx, 200*time.Millisecond)
	defer cancel()
	err = s.ask(ctx, "G.V().ShortestPathTo(Metadata('Name','n0'),Metadata('RelationType','ownership'))", io.Discard)
	note := "the query was answered before that"
	if errors.Is(err, context.DeadlineExceeded) {
		note = ""
	} else if err != nil {
		return nil, err
	}
	// The server gets a moment to hear that the client has gone.
	if err := r.wait(50 * time.Millisecond); err != nil {
		return nil, err
	}
	before, err := s.proc.Usage()
	if err != nil {
		return nil, err
	}
	if err := r.wait(time.Second); err != nil {
		return nil, err
	}
	idle, err := s.usage(before)
	return []value{across, chain, {Today: idle.CPU.Seconds(), CPU: idle.CPU, RSS: idle.PeakRSS, Note: note}}, err
}

// path asks a path query five times and checks how many nodes its one path has (0: at least two).
func (r *run) path(s *service, gremlin string, nodes int) (value, error) {
	var times []float64
	var answer bytes.Buffer
	var used e2e.Usage
	used, err := s.during(func() error {
		for range r.size(5, 1) {
			answer.Reset()
			begin := time.Now()
			if err := s.ask(r.ctx, gremlin, &answer); err != nil {
				return err
			}
			times = append(times, time.Since(begin).Seconds())
		}
		return nil
	})
	if err != nil {
		return value{}, err
	}
	var paths [][]json.RawMessage
	if err := json.Unmarshal(answer.Bytes(), &paths); err != nil {
		return value{}, err
	}
	if len(paths) != 1 || len(paths[0]) < 2 || nodes > 0 && len(paths[0]) != nodes {
		return value{}, fmt.Errorf("%s answers %d paths: %.200s", gremlin, len(paths), answer.Bytes())
	}
	return value{Today: median(times), CPU: used.CPU / time.Duration(len(times)), RSS: used.PeakRSS, Note: fmt.Sprintf("%d nodes on the way", len(paths[0]))}, nil
}
