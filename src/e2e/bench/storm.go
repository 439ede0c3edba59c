package main

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"skydive/src/e2e"
)

// patience is how long the graph may take to become what the kernel says before the benchmark stops waiting.
const patience = 60 * time.Second

// storm is an analyzer, and an agent on whose host many namespaces come and go.
type storm struct {
	analyzer, agent *service
	namespaces      int
	counts          map[string]int // what seen showed before
	links           int            // interfaces of the host before
}

// seen are the queries that tell that all was seen, in the order of the rows of P4, and by how much each namespace raises them:
// itself; both ends of its veth; the owner edges of namespace, loopback and veth, and both layer-2 edges.
var seen = []struct {
	query string
	each  int
}{
	{"G.V().Has('Type','netns').Count()", 1},
	{"G.V().Has('Type','veth').Count()", 2},
	{"G.E().Count()", 6},
}

func measureCreation(r *run) ([]value, error) {
	r.stopStorm()
	s := &storm{namespaces: r.size(200, 2), counts: map[string]int{}}
	var err error
	if s.analyzer, err = r.startAnalyzer(); err != nil {
		return nil, err
	}
	if s.agent, err = r.startAgent(s.analyzer); err != nil {
		return nil, err
	}
	r.storm = s
	if err := s.prepare(r); err != nil {
		return nil, err
	}
	idle, err := s.agent.proc.Usage()
	if err != nil {
		return nil, err
	}

	var script strings.Builder
	for i := range s.namespaces {
		fmt.Fprintf(&script, "netns add s%d\nlink add v%d type veth peer name eth0 netns s%d\nlink set v%d master br0 up\n", i, i, i, i)
	}
	delays := make([]float64, len(seen))
	var creation time.Duration
	used, err := s.agent.during(func() error {
		begin := time.Now()
		if err := s.batch(r, script.String()); err != nil {
			return err
		}
		end := time.Now()
		creation = end.Sub(begin)
		for i, q := range seen {
			err := r.until(patience, 2*time.Millisecond, q.query, func() (bool, error) {
				n, err := s.analyzer.count(r.ctx, q.query)
				want := s.counts[q.query] + q.each*s.namespaces
				return n >= want, cmp.Or(err, fmt.Errorf("%d, want %d", n, want))
			})
			if err != nil {
				return err
			}
			delays[i] = time.Since(end).Seconds()
		}
		return r.wait(time.Second) // what goes on once all is seen counts too
	})
	if err != nil {
		return nil, err
	}
	values := make([]value, len(seen), len(seen)+3)
	for i, d := range delays {
		values[i] = value{Today: d}
	}
	values[0].Note = fmt.Sprintf("creation took %.2f s", creation.Seconds())
	values[len(seen)-1].Note = s.difference()
	return append(values,
		value{Today: used.CPU.Seconds(), CPU: used.CPU, RSS: used.PeakRSS, Note: s.overruns(r)},
		value{Today: megabytes(used.PeakRSS), RSS: used.PeakRSS},
		value{Today: float64(used.Files-idle.Files) / float64(s.namespaces), Note: fmt.Sprintf("%d in all", used.Files)}), nil
}

func measureDeletion(r *run) ([]value, error) {
	if r.storm == nil {
		if _, err := measureCreation(r); err != nil {
			return nil, err
		}
	}
	s := r.storm
	var script strings.Builder
	for i := range s.namespaces {
		fmt.Fprintf(&script, "netns del s%d\n", i)
	}
	var delay, kernel time.Duration
	note := ""
	used, err := s.agent.during(func() error {
		if err := s.batch(r, script.String()); err != nil {
			return err
		}
		end := time.Now()
		// The kernel takes a namespace apart after its deletion was answered.
		if err := r.until(patience, time.Millisecond, "the kernel to end the namespaces", func() (bool, error) {
			n, err := s.interfaces()
			return n == s.links, err
		}); err != nil {
			return err
		}
		gone := time.Now()
		kernel = gone.Sub(end)
		// Counting is quick, so that the time is exact; whether the graph is right is then asked in full. Ghosts are a figure, not a
		// failure to measure.
		r.until(patience, 2*time.Millisecond, "the graph to shrink", func() (bool, error) { return s.shrunk(r) })
		delay = time.Since(gone)
		for note = s.difference(); note != "" && delay < patience && r.ctx.Err() == nil; note = s.difference() {
			delay = time.Since(gone)
		}
		return r.ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	if note == "" {
		note = fmt.Sprintf("no ghost; the kernel took %.2f s more", kernel.Seconds())
	}
	r.stopStorm()
	return []value{{Today: delay.Seconds(), CPU: used.CPU, RSS: used.PeakRSS, Note: note}}, nil
}

// shrunk tells whether the graph is as small as it was before the storm.
func (s *storm) shrunk(r *run) (bool, error) {
	for _, q := range seen {
		if n, err := s.analyzer.count(r.ctx, q.query); err != nil || n > s.counts[q.query] {
			return false, err
		}
	}
	return true, nil
}

// prepare makes the bridge and waits until the graph agrees with the kernel.
func (s *storm) prepare(r *run) error {
	if err := s.batch(r, "link add br0 type bridge\nlink set br0 up\n"); err != nil {
		return err
	}
	if err := e2e.Until(30*time.Second, func() error { return s.agent.host.Agree(s.analyzer.host, s.analyzer.addr) }); err != nil {
		return err
	}
	var err error
	for _, q := range seen {
		if s.counts[q.query], err = s.analyzer.count(r.ctx, q.query); err != nil {
			return err
		}
	}
	s.links, err = s.interfaces()
	return err
}

// difference tells in a line how the graph differs from the kernel, "" when it does not.
func (s *storm) difference() string {
	err := s.agent.host.Agree(s.analyzer.host, s.analyzer.addr)
	if err == nil {
		return ""
	}
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	return text[:min(len(text), 200)]
}

// batch runs ip commands on the agent's host, all in one process.
func (s *storm) batch(r *run, commands string) error {
	cmd := s.agent.host.Command(r.ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(commands)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip -batch: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// interfaces counts those in the agent's own namespace.
func (s *storm) interfaces() (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", s.agent.proc.PID()))
	return bytes.Count(text, []byte{'\n'}), err
}

// overruns tells how often the kernel dropped events because the agent read too slowly.
func (s *storm) overruns(r *run) string {
	res, err := s.agent.http.Get("http://" + s.agent.addr + "/metrics")
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	sum, found := 0.0, false
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if name, rest, _ := strings.Cut(lines.Text(), " "); strings.Contains(name, "overrun") && !strings.HasPrefix(name, "#") {
			n, err := strconv.ParseFloat(rest, 64)
			sum, found = sum+n, found || err == nil
		}
	}
	if !found {
		return ""
	}
	return fmt.Sprintf("%.0f netlink overruns", sum)
}

// stopStorm ends what P4 left for P5.
func (r *run) stopStorm() {
	if s := r.storm; s != nil {
		s.agent.stop()
		s.analyzer.stop()
		r.storm = nil
	}
}
