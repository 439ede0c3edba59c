// Package socket takes packets from sockets: from interfaces by AF_PACKET with memory shared with the kernel, and from clients that send a
// pcap stream over TCP. It also sends what captures find to NetFlow and ERSPAN collectors.
//
// It loses nothing silently: what the kernel could not hand over is counted. Which interfaces are captured, and what packets mean, is
// not its business.
package socket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"skydive/src/bpf"
	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/netns"
)

// Options of the sources.
type Options struct {
	RingSize         int    // bytes of memory per captured interface; 0: 4 MiB
	BindAddress      string // of pcap sockets
	MinPort, MaxPort int    // of pcap sockets, both included
}

const defaultRingSize = 4 << 20

// Kinds returns the kinds of source of this package by name of the capture type.
func Kinds(o Options) map[string]capture.Kind {
	o.RingSize = cmp.Or(o.RingSize, defaultRingSize)
	tap := func(promisc bool) func(capture.Request) capture.Source {
		return func(r capture.Request) capture.Source { return &tap{request: r, size: o.RingSize, promisc: promisc} }
	}
	return map[string]capture.Kind{
		"afpacket":   {New: tap(false), Several: true, Interface: true},
		"pcap":       {New: tap(true), Several: true, Interface: true},
		"pcapsocket": {New: func(r capture.Request) capture.Source { return newListener(r, o) }},
	}
}

// Targets returns the kinds of target of this package by name of the target type.
func Targets() map[string]capture.TargetKind {
	return map[string]capture.TargetKind{
		"netflowv5": {New: newNetflow, Exclude: "udp and port %port"},
		"erspanv1":  {New: newERSPAN, Exclude: "proto 47", SnapLen: erspanSnapLen},
	}
}

// erspanSnapLen is that of jumbo frames: a mirror is to be whole.
const erspanSnapLen = 9216

// tap is the source of an interface.
type tap struct {
	request capture.Request
	size    int
	promisc bool
	ring    atomic.Pointer[ring] // nil before Run
}

// Run implements capture.Source.
func (t *tap) Run(ctx context.Context, up func(field.Object)) (err error) {
	r, err := t.open()
	if err != nil {
		return err
	}
	t.ring.Store(r)
	defer func() { err = errors.Join(err, r.close()) }() // also after a panic, which is not the end of the agent
	up(nil)
	return r.run(ctx, t.request.Intake)
}

// open opens the ring in the namespace of the node.
func (t *tap) open() (r *ring, err error) {
	o := ringOptions{
		ifIndex: t.request.Node.IfIndex, size: t.size, promisc: t.promisc, cooked: t.request.Link != bpf.Ethernet,
		program: []bpf.Instruction{{Op: unix.BPF_RET | unix.BPF_K, K: uint32(t.request.SnapLen)}},
	}
	if f := t.request.Filter; f != nil {
		o.program = f.Instructions()
	}
	if t.request.Node.NetNS == "" {
		return openRing(o)
	}
	ns, err := netns.OpenPath(t.request.Node.NetNS)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", capture.ErrGone, err)
	}
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = netns.Do(ns, func() error {
		r, err = openRing(o)
		return err
	})
	return r, err
}

// Counters implements capture.Source.
func (t *tap) Counters() capture.Counters {
	if r := t.ring.Load(); r != nil {
		return r.read()
	}
	return capture.Counters{}
}
