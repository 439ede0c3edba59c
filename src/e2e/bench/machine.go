package main

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skydive/src/e2e"
)

// machine is where the figures come from.
type machine struct {
	CPU    string `json:"cpu"`
	MHz    string `json:"mhz"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory"` // bytes
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

func (m machine) String() string {
	return fmt.Sprintf("%d × %s, %s MHz, %.0f GB, Linux %s, %s", m.Cores, m.CPU, m.MHz, float64(m.Memory)/1e9, m.Kernel, m.Go)
}

func newReport(scale float64, runs int) (*report, error) {
	binary, err := e2e.Binary()
	if err != nil {
		return nil, err
	}
	version, err := exec.Command(binary, "version").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	line, _, _ := strings.Cut(string(version), "\n")
	_, line, _ = strings.Cut(line, " ") // the name it was called by
	// A source tree without git has no commit; that is no reason not to measure.
	commit, _ := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").Output()
	r := &report{
		Machine: thisMachine(), Version: strings.TrimSpace(line), Commit: cmp.Or(strings.TrimSpace(string(commit)), "unknown"),
		Date: time.Now().UTC().Truncate(time.Second), Scale: scale, Runs: runs, SHA256: calibrateHash(), RandomNS: calibrateMemory(),
	}
	return r, nil
}

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		key, v, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "model name":
			m.CPU = strings.TrimSpace(v)
		case "cpu MHz":
			m.MHz, _, _ = strings.Cut(strings.TrimSpace(v), ".")
		}
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	return m
}

// calibrateHash returns the µs that sha256 takes for 1 MiB.
func calibrateHash() float64 {
	block := make([]byte, 1<<20)
	times := make([]float64, 51)
	for i := range times {
		start := time.Now()
		sum := sha256.Sum256(block)
		times[i] = float64(time.Since(start).Nanoseconds()) / 1e3
		block[0] = sum[0] // each needs the one before
	}
	return median(times)
}

// calibrateMemory returns the ns of a read in 256 MiB whose address depends on the read before.
func calibrateMemory() float64 {
	const size, reads = 256 << 20 / 8, 200_000
	cells := make([]uint64, size)
	for i := range cells {
		cells[i] = uint64(i) // a page that was never written has no memory of its own
	}
	times := make([]float64, 9)
	at := uint64(1)
	for i := range times {
		start := time.Now()
		for range reads {
			at = (at + cells[at%size]) * 0x9e3779b97f4a7c15
			at ^= at >> 29
		}
		times[i] = float64(time.Since(start).Nanoseconds()) / reads
	}
	runtime.KeepAlive(at)
	return median(times)
}

// median sorts what it is given.
func median(of []float64) float64 { return percentile(of, 50) }

// percentile sorts what it is given and returns the smallest value that p percent do not exceed.
func percentile(of []float64, p int) float64 {
	slices.Sort(of)
	return of[max((len(of)*p+99)/100-1, 0)]
}
