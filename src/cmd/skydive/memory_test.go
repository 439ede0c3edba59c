package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

func TestBurstOver(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		name string
		made uint64 // since the last look
		now  heap
		want bool
	}{
		{"nothing to give back", 0, heap{live: 100 * mb, held: 101 * mb}, false},
		{"a small process", 0, heap{live: 2 * mb, held: 9 * mb}, false},
		{"little beside what is alive", 0, heap{live: 100 * mb, held: 120 * mb}, false},
		{"after a burst", mb, heap{live: 100 * mb, held: 200 * mb}, true},
		{"after a burst in a small process", mb, heap{live: 2 * mb, held: 30 * mb}, true},
		{"in the middle of one", 50 * mb, heap{live: 100 * mb, held: 200 * mb}, false},
		{"alive has grown since it was held", 0, heap{live: 300 * mb, held: 200 * mb}, false},
	} {
		c.now.made = 1000*mb + c.made
		if got := c.now.burstOver(heap{made: 1000 * mb}); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

// TestMemoryComesBack makes a burst and waits until what it took is the system's again.
func TestMemoryComesBack(t *testing.T) {
	t.Setenv("GOGC", "off") // so that nobody else collects
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	const burst = 64 << 20
	before := heapNow().held
	for range burst >> 20 {
		garbage = make([]byte, 1<<20)
	}
	garbage = nil
	if held := heapNow().held; held < before+burst/2 { // some of it was free before
		t.Fatalf("%d bytes are held, %d before the burst", held, before)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- tendMemory(ctx, analyzerGarbage) }()
	for tick := time.NewTicker(50 * time.Millisecond); heapNow().held > before+burst/4; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d bytes are held, %d before the burst", heapNow().held, before)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestProgramIsReturned: what is resident of the program's file becomes less, and the program goes on.
func TestProgramIsReturned(t *testing.T) {
	resident := func() (kb int) {
		t.Helper()
		text, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(text), "RssFile:")
		if _, err := fmt.Sscan(after, &kb); err != nil {
			t.Fatal(err)
		}
		return kb
	}
	before := resident()
	returnProgram()
	if after := resident(); after >= before { // by how much depends on how the test was linked
		t.Errorf("%d kB are resident, %d before", after, before)
	}
}

// garbage keeps the compiler from leaving out what makes it.
var garbage []byte
