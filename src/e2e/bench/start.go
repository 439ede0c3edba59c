package main

import (
	"debug/elf"
	"fmt"
	"os"
	"strings"
	"time"

	"skydive/src/e2e"
)

// measureStart starts each service five times, on the same host: the first time is colder than the others.
func measureStart(r *run) ([]value, error) {
	analyzer, err := r.startAnalyzer()
	if err != nil {
		return nil, err
	}
	defer analyzer.stop()
	var values []value
	for _, kind := range []struct{ name, config string }{
		{"analyzer", ""}, {"agent", "analyzers: [" + analyzer.addr + "]\n"}, {"allinone", ""},
	} {
		r.hosts++
		host, err := r.lab.AddHost(fmt.Sprintf("h%d", r.hosts))
		if err != nil {
			return nil, err
		}
		var times []float64
		var used e2e.Usage
		for range r.size(5, 1) {
			s, err := r.startOn(host, kind.name, kind.config)
			if err != nil {
				return nil, err
			}
			times = append(times, s.took.Seconds())
			used, err = s.usage(e2e.Usage{})
			s.stop()
			if err != nil {
				return nil, err
			}
		}
		values = append(values, value{Today: median(times), CPU: used.CPU, RSS: used.PeakRSS})
	}
	return values, nil
}

// measureIdle watches an analyzer with an agent, and an all-in-one, while nothing happens.
func measureIdle(r *run) ([]value, error) {
	analyzer, err := r.startAnalyzer()
	if err != nil {
		return nil, err
	}
	defer analyzer.stop()
	agent, err := r.startAgent(analyzer)
	if err != nil {
		return nil, err
	}
	defer agent.stop()
	allinone, err := r.start("allinone", "")
	if err != nil {
		return nil, err
	}
	defer allinone.stop()
	for _, s := range []*service{analyzer, allinone} {
		if err := r.connected(s, 1); err != nil {
			return nil, err
		}
	}
	// What starting left behind: garbage, and tickers whose first turn does more.
	if err := r.wait(time.Duration(r.size(5000, 500)) * time.Millisecond); err != nil {
		return nil, err
	}
	services := []*service{analyzer, agent, allinone}
	before := make([]e2e.Usage, len(services))
	begin := time.Now()
	for i, s := range services {
		if before[i], err = s.proc.Usage(); err != nil {
			return nil, err
		}
	}
	// Long enough for the counters of the interfaces, which are read each 30 s.
	if err := r.wait(time.Duration(r.size(30_000, 1000)) * time.Millisecond); err != nil {
		return nil, err
	}
	var values []value
	for i, s := range services {
		used, err := s.usage(before[i])
		if err != nil {
			return nil, err
		}
		values = append(values,
			value{Today: megabytes(used.RSS), RSS: used.PeakRSS},
			value{Today: 100 * used.CPU.Seconds() / time.Since(begin).Seconds(), CPU: used.CPU})
	}
	return values, nil
}

// connected waits until the analyzer shows the hosts of so many agents.
func (r *run) connected(analyzer *service, hosts int) error {
	return r.until(30*time.Second, 20*time.Millisecond, "the agent's host node", func() (bool, error) {
		n, err := analyzer.count(r.ctx, "G.V().Has('Type','host').Count()")
		return n >= hosts, err
	})
}

// measureBinary takes the size of the file without what a stripped one lacks, should it have it.
func measureBinary(r *run) ([]value, error) {
	info, err := os.Stat(r.lab.Binary)
	if err != nil {
		return nil, err
	}
	file, err := elf.Open(r.lab.Binary)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	size, debug := info.Size(), int64(0)
	for _, s := range file.Sections {
		if s.Name == ".symtab" || s.Name == ".strtab" || strings.HasPrefix(s.Name, ".debug_") || strings.HasPrefix(s.Name, ".zdebug_") {
			debug += int64(s.FileSize)
		}
	}
	v := value{Today: megabytes(size - debug)}
	if debug > 0 {
		v.Note = fmt.Sprintf("%.0f MB with symbols", megabytes(size))
	}
	return []value{v}, nil
}
