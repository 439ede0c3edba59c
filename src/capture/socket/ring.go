package socket

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"skydive/src/bpf"
	"skydive/src/capture"
	"skydive/src/flow"
)

const (
	// retire is after how long the kernel hands over a block that is not full: the age of packets on a quiet interface. The kernel
	// runs one timer per ring, so that a shorter time costs something even when nothing comes.
	retire = 50 * time.Millisecond
	// block is the unit in which the ring is handed back and forth. It bounds the length that can be kept of a packet.
	block = 128 << 10
	// frame only has to please the kernel: packets of a TPACKET_V3 ring are packed.
	frame = 2048
	// headroom is what every packet of the ring has in front of it and nobody reads any more: struct tpacket3_hdr and struct
	// sockaddr_ll, see <linux/if_packet.h>.
	headroom = unix.SizeofTpacket3Hdr + unix.SizeofSockaddrLinklayer

	offStatus, offPackets, offFirst = 8, 12, 16 // in struct tpacket_block_desc

	vlanLen = 4
	macsLen = 12 // of the addresses in front of a VLAN tag
)

// ring is an AF_PACKET socket whose packets arrive in memory shared with the kernel.
type ring struct {
	file *os.File
	conn syscall.RawConn
	mem  []byte
	size int  // of all blocks
	next int  // offset of the block that the kernel fills next
	cook bool // packets come without link header

	batch  []flow.Packet
	broken atomic.Int64

	mu       sync.Mutex // guards all below
	closed   bool
	device   *counter // nil: the kernel does not tell
	counters capture.Counters
}

// ringOptions says what to open.
type ringOptions struct {
	ifIndex int
	size    int  // bytes of the ring
	cooked  bool // without link header: the interface has none, or one that says nothing
	promisc bool
	program []bpf.Instruction // its return value is how much is kept
}

// openRing opens a ring in the network namespace of the calling thread. Nothing is taken before the filter is in place: the socket
// gets a protocol only when it is bound. The error wraps capture.ErrDown or capture.ErrGone when that is why.
func openRing(o ringOptions) (_ *ring, err error) {
	kind := unix.SOCK_RAW
	if o.cooked {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	r := &ring{cook: o.cooked}
	defer func() {
		if err == nil {
			return
		}
		if r.mem != nil {
			_ = unix.Munmap(r.mem)
		}
		if r.device != nil {
			r.device.close()
		}
		_ = unix.Close(fd)
	}()
	if err := attach(fd, o.program); err != nil {
		return nil, err
	}
	if err := r.mapMemory(fd, o.size); err != nil {
		return nil, err
	}
	if err := r.bind(fd, o); err != nil {
		return nil, err
	}
	r.file = os.NewFile(uintptr(fd), "packet ring") // not blocking: waits on the runtime's poller, not in a thread
	if r.conn, err = r.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return r, nil
}

func (r *ring) mapMemory(fd, size int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fmt.Errorf("packet ring: %w", err)
	}
	blocks := max(size/block, 2)
	r.size = blocks * block
	req := unix.TpacketReq3{
		Block_size: block, Block_nr: uint32(blocks), Frame_size: frame, Frame_nr: uint32(r.size / frame),
		Retire_blk_tov: uint32(retire / time.Millisecond),
	}
	if err := unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("packet ring of %d bytes: %w", r.size, err)
	}
	mem, err := unix.Mmap(fd, 0, r.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map packet ring: %w", err)
	}
	r.mem = mem
	return nil
}

// bind starts the flow of packets.
func (r *ring) bind(fd int, o ringOptions) error {
	if o.promisc {
		m := unix.PacketMreq{Ifindex: int32(o.ifIndex), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
			return opening("promiscuous mode", err)
		}
	}
	// Bound without protocol, so that the kind of device is known before the first packet.
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: o.ifIndex}); err != nil {
		return opening("bind packet socket", err)
	}
	loopback := false
	if addr, err := unix.Getsockname(fd); err == nil {
		// A loopback device gives every packet twice, as sent and as received.
		if ll, ok := addr.(*unix.SockaddrLinklayer); ok && ll.Hatype == unix.ARPHRD_LOOPBACK {
			loopback = true
			if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
				return fmt.Errorf("packet socket on loopback: %w", err)
			}
		}
	}
	if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil { // clears what the first bind left
		return fmt.Errorf("packet socket: %w", err)
	}
	r.device, _ = newCounter(o.ifIndex, loopback) // one who cannot count can still listen
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: o.ifIndex, Protocol: all}); err != nil {
		return opening("bind packet socket", err)
	}
	return pending(fd)
}

// opening says what an error of the kernel means for the interface.
func opening(what string, err error) error {
	switch {
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w (%s: %w)", capture.ErrGone, what, err)
	case errors.Is(err, unix.ENETDOWN):
		return capture.ErrDown
	}
	return fmt.Errorf("%s: %w", what, err)
}

// pending returns the error that the kernel left on the socket, if any. It is asked before every wait, and does not block: the scheduler
// need not know.
func pending(fd int) error {
	var code, size int32 = 0, 4
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR,
		uintptr(unsafe.Pointer(&code)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return fmt.Errorf("packet socket: %w", errno)
	}
	if code != 0 {
		return opening("packet socket", unix.Errno(code))
	}
	return nil
}

// attach puts a filter on a socket in place of the one it has.
func attach(fd int, program []bpf.Instruction) error {
	code := make([]unix.SockFilter, len(program))
	for i, ins := range program {
		code[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
	runtime.KeepAlive(code)
	if err != nil {
		return fmt.Errorf("attach filter of %d instructions: %w", len(code), err)
	}
	return nil
}

// run hands everything that comes to in until ctx ends (nil) or the interface does. Packets that are in the ring then are still
// handed over.
func (r *ring) run(ctx context.Context, in *capture.Intake) error {
	unwatch := context.AfterFunc(ctx, func() { _ = r.file.SetReadDeadline(time.Unix(1, 0)) })
	defer unwatch()
	var failure error
	err := r.conn.Read(func(fd uintptr) bool {
		r.drain(in)
		failure = pending(int(fd)) // before waiting: an edge of the poller tells of packets and of errors at once
		return failure != nil
	})
	if failure == nil && ctx.Err() == nil {
		if failure = r.failure(); failure == nil {
			failure = fmt.Errorf("wait for packets: %w", err)
		}
	}
	r.finish(in)
	if ctx.Err() != nil {
		return nil
	}
	return failure
}

// failure asks for the reason of an error event.
func (r *ring) failure() (failure error) {
	if err := r.conn.Control(func(fd uintptr) { failure = pending(int(fd)) }); err != nil {
		return err
	}
	return failure
}

// finish stops the flow and takes what is left: the block being filled comes when its time is over.
func (r *ring) finish(in *capture.Intake) {
	none := []bpf.Instruction{{Op: unix.BPF_RET | unix.BPF_K}}
	var err error
	if r.conn.Control(func(fd uintptr) { err = attach(int(fd), none) }) != nil || err != nil {
		return
	}
	r.drain(in)
	tick := time.NewTicker(retire / 10)
	defer tick.Stop()
	for end := time.Now().Add(4 * retire); r.word(r.next+offPackets) != 0 && time.Now().Before(end); {
		<-tick.C
		r.drain(in)
	}
}

// word reads a word that the kernel writes.
func (r *ring) word(at int) uint32 { return atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.mem[at]))) }

// drain hands over all blocks that are ready.
func (r *ring) drain(in *capture.Intake) {
	for r.word(r.next+offStatus)&unix.TP_STATUS_USER != 0 {
		if batch := r.take(r.mem[r.next : r.next+block]); len(batch) > 0 {
			in.Packets(batch)
		}
		atomic.StoreUint32((*uint32)(unsafe.Pointer(&r.mem[r.next+offStatus])), unix.TP_STATUS_KERNEL)
		if r.next += block; r.next == r.size {
			r.next = 0
		}
	}
}

// take returns the packets of a block. They are valid until the block is given back.
func (r *ring) take(b []byte) []flow.Packet {
	batch := r.batch[:0]
	n := *(*uint32)(unsafe.Pointer(&b[offPackets]))
	at := uint(*(*uint32)(unsafe.Pointer(&b[offFirst])))
	for ; n > 0; n-- {
		if at+unix.SizeofTpacket3Hdr > uint(len(b)) {
			r.broken.Add(int64(n))
			break
		}
		h := (*unix.Tpacket3Hdr)(unsafe.Pointer(&b[at]))
		from := at + uint(h.Mac)
		if r.cook {
			from = at + uint(h.Net)
		}
		to := from + uint(h.Snaplen)
		if to > uint(len(b)) {
			r.broken.Add(int64(n))
			break
		}
		p := flow.Packet{Data: b[from:to:to], Length: int(h.Len), Time: int64(h.Sec)*1e9 + int64(h.Nsec)}
		if h.Status&unix.TP_STATUS_VLAN_VALID != 0 && !r.cook && h.Snaplen >= macsLen && from >= at+headroom+vlanLen {
			// The kernel took the outermost tag out of the frame: put back, into what is free in front of it.
			tpid := h.Hv1.Vlan_tpid
			if h.Status&unix.TP_STATUS_VLAN_TPID_VALID == 0 {
				tpid = unix.ETH_P_8021Q
			}
			p.Data = b[from-vlanLen : to : to]
			copy(p.Data, b[from:from+macsLen])
			p.Data[macsLen], p.Data[macsLen+1] = byte(tpid>>8), byte(tpid)
			p.Data[macsLen+2], p.Data[macsLen+3] = byte(h.Hv1.Vlan_tci>>8), byte(h.Hv1.Vlan_tci)
			p.Length += vlanLen
		}
		batch = append(batch, p)
		at += uint(h.Next_offset)
	}
	r.batch = batch
	return batch
}

// read returns what was counted.
func (r *ring) read() capture.Counters {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readKernel()
	r.counters.Malformed = r.broken.Load()
	return r.counters
}

// readKernel takes the kernel's counters, of which those of the socket start again at every reading. Called with mu.
func (r *ring) readKernel() {
	if r.closed {
		return
	}
	_ = r.conn.Control(func(fd uintptr) {
		if s, err := unix.GetsockoptTpacketStatsV3(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			r.counters.Received += int64(s.Packets) // includes those dropped
			r.counters.Dropped += int64(s.Drops)
		}
	})
	if r.device == nil {
		return
	}
	if n, err := r.device.read(); err == nil { // or the interface is gone: what was read last remains
		r.counters.Seen, r.counters.IfDropped = n.packets, n.dropped
	}
}

// close frees everything. Nothing may run.
func (r *ring) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readKernel()
	r.closed = true
	if r.device != nil {
		r.device.close()
	}
	return errors.Join(unix.Munmap(r.mem), r.file.Close())
}
