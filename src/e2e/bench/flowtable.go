package main

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"skydive/src/e2e"
	"skydive/src/flow"
)

// ringFrames are how many frames a capture hands over at once.
const ringFrames = 256

// frames are those of flows in an order that nothing foresees, just written as in the ring of a capture.
type frames struct {
	packets [ringFrames]flow.Packet
	order   []uint32
	next    int
}

func newFrames(flows int) *frames {
	f := &frames{order: make([]uint32, 1<<20)}
	for i := range f.order {
		f.order[i] = uint32(rand.IntN(flows))
	}
	for i := range f.packets {
		f.packets[i] = flow.Packet{Data: frame(0, 64), Length: imix[i%len(imix)], Time: int64(time.Second)}
	}
	return f
}

// write makes the frames those of the next flows.
func (f *frames) write() []flow.Packet {
	for i := range f.packets {
		f.set(i, int(f.order[f.next]))
		f.next = (f.next + 1) & (len(f.order) - 1)
	}
	return f.packets[:]
}

func (f *frames) set(i, n int) {
	from := client(n)
	copy(f.packets[i].Data[26:], from[:])
	binary.BigEndian.PutUint16(f.packets[i].Data[34:], uint16(1024+n/1000))
}

// measureTable is P18: what one thread needs to decode a packet and to count it for its flow.
func measureTable(r *run) ([]value, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var values []value
	var made uint64
	packets := r.size(16<<20, 1<<16)
	for _, full := range []int{1000, 100_000, 1_000_000} {
		flows := r.size(full, 1000)
		table := flow.NewTable(flow.Options{MaxEntries: 2 * flows})
		f := newFrames(flows)
		for n := range flows {
			f.set(0, n)
			table.Packets(f.packets[:1])
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		begin := threadTime()
		for n := 0; n < packets; n += ringFrames {
			table.Packets(f.write())
		}
		counted := threadTime()
		for n := 0; n < packets; n += ringFrames {
			f.write()
		}
		written := threadTime() - counted
		runtime.ReadMemStats(&after)
		made += after.Mallocs - before.Mallocs
		used, err := e2e.UsageOf(os.Getpid())
		if err != nil {
			return nil, err
		}
		cpu := counted - begin - written
		values = append(values, value{Today: float64(cpu) / float64(packets), CPU: cpu, RSS: used.PeakRSS, Note: "RSS is that of the benchmark"})
	}
	// Whatever else runs in this process allocates now and then.
	return append(values, value{Today: float64(int(float64(made) / float64(3*packets)))}), nil
}

// threadTime is the processor time of this thread.
func threadTime() time.Duration {
	var u unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &u)
	return time.Duration(u.Nano())
}
