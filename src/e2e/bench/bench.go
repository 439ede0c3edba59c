// Command bench measures the built skydive and prints the table of its performance bars with today's figures beside them.
//
// Everything runs on hosts made of namespaces (package e2e), over REST and WebSocket only. A slow figure is reported and never an
// error: the exit status is 1 only when something could not be measured. See bench/README.md for what each figure means.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"skydive/src/e2e"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("run", "", "measure only these, e.g. `P4,P5`")
	scale := flags.Float64("scale", 1, "share of the full size; below 1 nothing is judged")
	runs := flags.Int("runs", 3, "how often to measure; the table shows medians")
	file := flags.String("json", "", "write the figures to this `file`; without it, all at full size go to bench/latest.json and bench/history.jsonl")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if *scale <= 0 || *scale > 1 || *runs < 1 {
		return errors.New("-scale must be above 0 and at most 1, -runs at least 1")
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	report, err := newReport(*scale, *runs)
	if err != nil {
		return err
	}
	fmt.Print(report.heading())

	results := make([]*result, len(chosen))
	for i, b := range chosen {
		results[i] = &result{benchmark: b, Runs: make([][]value, 0, *runs)}
	}
	for n := range *runs {
		if err := round(ctx, n, *scale, results); err != nil {
			return err
		}
	}
	var failed []error
	for _, r := range results {
		figures, err := r.figures(*scale == 1)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", r.id, err))
		}
		report.Figures = append(report.Figures, figures...)
	}
	fmt.Print(report.table())

	switch {
	case *file != "":
		failed = append(failed, report.write(*file))
	case *only == "" && *scale == 1:
		failed = append(failed, report.write(filepath.Join("bench", "latest.json")), report.append(filepath.Join("bench", "history.jsonl")))
	}
	return errors.Join(failed...)
}

// choose returns the benchmarks named in a list, or all.
func choose(list string) ([]benchmark, error) {
	if list == "" {
		return benchmarks(), nil
	}
	var chosen []benchmark
	for id := range strings.SplitSeq(list, ",") {
		all := benchmarks()
		i := slices.IndexFunc(all, func(b benchmark) bool { return strings.EqualFold(b.id, strings.TrimSpace(id)) })
		if i < 0 {
			return nil, fmt.Errorf("no benchmark is called %q", id)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// round measures each benchmark once, in a lab of its own.
func round(ctx context.Context, n int, scale float64, results []*result) error {
	lab, err := e2e.NewLab()
	if err != nil {
		return err
	}
	defer lab.Close()
	r := &run{ctx: ctx, lab: lab, scale: scale}
	for _, result := range results {
		if result.err != nil || n > 0 && result.once {
			continue
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		start := time.Now()
		fmt.Fprintf(os.Stderr, "run %d: %-4s", n+1, result.id)
		values, err := result.measure(r)
		switch why := leftOut(""); {
		case errors.As(err, &why):
			result.omitted = string(why)
			fmt.Fprintf(os.Stderr, " left out: %s\n", why)
		case err == nil && len(values) != len(result.rows):
			panic(fmt.Sprintf("%s: %d values for %d rows", result.id, len(values), len(result.rows)))
		case err != nil:
			result.err = err
			fmt.Fprintln(os.Stderr, " failed")
		default:
			result.Runs = append(result.Runs, values)
			fmt.Fprintf(os.Stderr, " %.1f s\n", time.Since(start).Seconds())
		}
	}
	return nil
}

// run is what the benchmarks of one round share.
type run struct {
	ctx   context.Context
	lab   *e2e.Lab
	scale float64
	hosts int

	storm *storm   // what P4 made, for P5 to delete
	full  *service // the analyzer that holds the graph of P6, for P8 to P14 to ask
	tree  *tree    // that graph
}

// size returns the scaled number of something, but at least some.
func (r *run) size(full, least int) int { return max(int(float64(full)*r.scale), least) }

// wait lets time pass, unless the program is interrupted.
func (r *run) wait(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// until asks cond again and again, at most every pause, until it says true; it fails after the limit.
func (r *run) until(limit, pause time.Duration, what string, cond func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		ok, err := cond()
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			if err == nil {
				err = errors.New("it never was")
			}
			return fmt.Errorf("wait %s for %s: %w", limit, what, err)
		}
		if err := r.wait(pause); err != nil {
			return err
		}
	}
}

// leftOut is the error of a benchmark that does not apply here, and says why.
type leftOut string

func (l leftOut) Error() string { return string(l) }
