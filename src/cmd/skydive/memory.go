package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Memory comes in bursts: a graph that arrives, a storm of changes. While one lasts, garbage of analyzers is collected half as often as Go
// would by itself, since collecting takes from the time of what must be done; once it is over, what it has left goes back to the system.
// So do the pages of the program: its start touches nearly all of them, and hardly a tenth is ever needed again.
const (
	agentGarbage    = 100     // percent of what is alive, before a collection; this is Go's own default
	analyzerGarbage = 200     //
	worthReturning  = 8 << 20 // bytes, or a quarter of what is alive: less is not worth a collection
	memoryTick      = time.Second
	startTicks      = 4 // until a start is over
)

// tendMemory does so until ctx ends. It concerns the whole process: where two services share one, the second finds nothing to do.
// GOGC in the environment goes first, as in any Go program.
func tendMemory(ctx context.Context, garbage int) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	tick := time.NewTicker(memoryTick)
	defer tick.Stop()
	ticks := 0
	for last := heapNow(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := heapNow()
		over := now.burstOver(last)
		if over {
			debug.FreeOSMemory()
		}
		if ticks++; over || ticks == startTicks {
			returnProgram()
		}
		last = now
	}
}

// heap is what a process holds, in bytes.
type heap struct {
	made uint64 // since it started
	live uint64 // found alive by the last collection
	held uint64 // taken from the system for objects: alive, dead, or free
}

func heapNow() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	v := func(i int) uint64 { return samples[i].Value.Uint64() }
	return heap{made: v(0), live: v(1), held: v(2) + v(3)}
}

// burstOver tells whether much could be given back, and hardly any of it is as young as last: who is still busy will need it again.
func (h heap) burstOver(last heap) bool {
	spare := h.held - min(h.held, h.live)
	return spare > max(worthReturning, h.live/4) && h.made-last.made < spare/8
}

// returnProgram unmaps the pages of the program itself; those that are needed are mapped again from the page cache, or the file. It is only a
// wish: where it cannot be done, nothing is lost. Segments of which a page was ever written – by a loader, or a probe – are left alone, since
// what was written would be lost.
func returnProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	var from, to uintptr // of a segment that may be unmapped
	for line := range strings.Lines(string(smaps)) {
		key, value, _ := strings.Cut(line, " ")
		switch {
		case !strings.HasSuffix(key, ":"):
			from, to = 0, 0
			if !strings.HasSuffix(strings.TrimSpace(line), " "+program) || !strings.HasPrefix(value, "r-xp ") && !strings.HasPrefix(value, "r--p ") {
				continue
			}
			if n, err := fmt.Sscanf(key, "%x-%x", &from, &to); n != 2 || err != nil {
				from, to = 0, 0
			}
		case key == "Anonymous:" || key == "Swap:":
			if strings.TrimSpace(value) != "0 kB" {
				from, to = 0, 0
			}
		case key == "VmFlags:" && to > from: // comes last
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}
