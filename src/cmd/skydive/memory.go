package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Memory comes in bursts: a graph that arrives, a storm of changes. While one lasts, garbage is collected half as often as Go would
// by itself, since collecting takes from the time of what must be done; once it is over, what it has left goes back to the system.
const (
	garbagePercent = 200     // of what is alive, before a collection; Go's own default is 100
	worthReturning = 8 << 20 // bytes, or a quarter of what is alive: less is not worth a collection
	memoryTick     = time.Second
)

// tendMemory does so until ctx ends. It concerns the whole process: where two services share one, the second finds nothing to do.
// GOGC in the environment goes first, as in any Go program.
func tendMemory(ctx context.Context) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	tick := time.NewTicker(memoryTick)
	defer tick.Stop()
	for last := heapNow(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := heapNow()
		if now.burstOver(last) {
			debug.FreeOSMemory()
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
