package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// result gathers the runs of a benchmark.
type result struct {
	benchmark
	Runs    [][]value // per run, a value for each row
	omitted string    // why it was left out
	err     error
}

// figure is a line of the report.
type figure struct {
	ID        string    `json:"id"`
	What      string    `json:"what"`
	Part      string    `json:"part"`
	Unit      string    `json:"unit"`
	Reference float64   `json:"reference,omitempty"`
	Bar       float64   `json:"bar"`
	Runs      []float64 `json:"runs,omitempty"`
	Verdict   string    `json:"verdict"` // ok, MISS, or "" when there is nothing to judge by
	value
}

// figures returns the medians of the runs; they are judged when measured at full size.
func (r *result) figures(judge bool) ([]figure, error) {
	var all []figure
	for i, row := range r.rows {
		f := figure{ID: r.id, What: r.what, Part: row.part, Unit: row.unit, Reference: row.reference, Bar: row.bar}
		if r.err != nil || len(r.Runs) == 0 {
			f.Note = "left out: " + r.omitted
			if r.err != nil {
				f.Note, _, _ = strings.Cut("not measured: "+r.err.Error(), "\n")
			}
			return append(all, f), r.err
		}
		values := make([]value, len(r.Runs))
		for n, run := range r.Runs {
			values[n] = run[i]
			f.Runs = append(f.Runs, run[i].Today)
		}
		slices.SortFunc(values, func(a, b value) int { return int(math.Copysign(1, a.Today-b.Today)) })
		f.value = values[len(values)/2]
		if judge && r.judged(row) {
			f.Verdict = "MISS"
			if row.more() && f.Today >= row.bar || !row.more() && f.Today <= row.bar {
				f.Verdict = "ok"
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// judged tells whether a row has a bar: an amount of nothing is one, when the public Skydive does worse.
func (r *result) judged(row row) bool { return row.bar != 0 || row.reference != 0 }

// report is all that is known about a run of the program.
type report struct {
	Machine  machine   `json:"machine"`
	Commit   string    `json:"commit"`
	Version  string    `json:"version"`
	Date     time.Time `json:"date"`
	Scale    float64   `json:"scale"`
	Runs     int       `json:"runs"`
	SHA256   float64   `json:"sha256_us"`      // µs for 1 MiB on one thread
	RandomNS float64   `json:"random_read_ns"` // ns for a dependent read in 256 MiB on one thread
	Figures  []figure  `json:"figures"`
}

func (r *report) heading() string {
	return fmt.Sprintf("%s, commit %s, %s\n%s\ncalibration, one thread: sha256 of 1 MiB %.0f µs (reference 667 µs), dependent random read in 256 MiB %.0f ns (reference 155 ns)\n\n",
		r.Version, r.Commit, r.Date.Format(time.RFC3339), r.Machine, r.SHA256, r.RandomNS)
}

// table returns the figures for people.
func (r *report) table() string {
	var out bytes.Buffer
	fmt.Fprintln(&out)
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "#\twhat\treference\tbar\ttoday\t\tCPU\tRSS\t")
	last, missed, judged := "", 0, 0
	for _, f := range r.Figures {
		id := f.ID
		if id != last {
			last = id
			fmt.Fprintf(w, "%s\t%s\t\t\t\t\t\t\t\n", id, f.What)
		}
		if len(f.Runs) == 0 {
			fmt.Fprintf(w, "\t  %s\t\t\t\t\t\t\t\n", f.Note)
			continue
		}
		switch f.Verdict {
		case "MISS":
			missed++
			judged++
		case "ok":
			judged++
		}
		fmt.Fprintf(w, "\t  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Part, quantity(f.Reference, f.Unit), f.bar(), today(f), f.Verdict, cpu(f.CPU), memory(f.RSS), f.Note)
	}
	w.Flush()
	if judged > 0 {
		fmt.Fprintf(&out, "\n%d of %d bars met.\n", judged-missed, judged)
	}
	return out.String()
}

func (f figure) bar() string {
	switch {
	case f.Bar == 0 && f.Reference == 0:
		return "–"
	case f.Bar == 0:
		return "0"
	}
	return quantity(f.Bar, f.Unit)
}

func today(f figure) string {
	if f.Today == 0 {
		return strings.TrimSpace("0 " + f.Unit)
	}
	return quantity(f.Today, f.Unit)
}

// quantity prints a number with three significant digits; none is a dash.
func quantity(n float64, unit string) string {
	switch {
	case n == 0:
		return "–"
	case n == never:
		return "never"
	case unit == "/s" && n >= 1000:
		return fmt.Sprintf("%.*fk/s", digits(n/1000), n/1000)
	}
	return strings.TrimSpace(fmt.Sprintf("%.*f %s", digits(n), n, unit))
}

// digits returns how many decimals show three significant digits of n; smaller than a thousandth is as good as nothing.
func digits(n float64) int {
	return min(max(2-int(math.Floor(math.Log10(math.Abs(n)))), 0), 3)
}

func cpu(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.3g ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func memory(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f MB", megabytes(n))
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

// write replaces a file with the whole report.
func (r *report) write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// append adds the report as one line to a file.
func (r *report) append(file string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(text, '\n')); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
