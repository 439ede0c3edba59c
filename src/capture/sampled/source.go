package sampled

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/flow"
)

const datagramSize = 64 << 10

// Source is one listener. It implements capture.Source, capture.Meter and capture.Mapper.
type Source struct {
	request capture.Request
	options Options
	conn    *net.UDPConn // nil: it opens its own
	usual   int          // port of that
	key     string       // of the metadata that tells its address
	decode  func(d *datagram)

	received, filtered, malformed, missing, repeated, dropped, lost, unknown atomic.Int64

	nodes atomic.Pointer[nodes]

	// The rest belongs to the goroutine of Run.
	seed      maphash.Seed
	exporters exporters
	batch     []flow.Record
	now       int64 // ns
	frame     []byte
	packet    flow.Packet
	got       datagram
	gathered  gathered
	fields    []column // of a template that is being read

	counting sync.Mutex // guards meters
	meters   meters
}

// datagram is what came in one.
type datagram struct {
	data []byte
	from netip.Addr
	hash uint64
}

const batchSize = 64 // records that are counted together

func newSource(r capture.Request, conn *net.UDPConn, o Options, key string) *Source {
	s := &Source{request: r, options: o, conn: conn, key: key, seed: maphash.MakeSeed(), batch: make([]flow.Record, 0, batchSize)}
	s.options.ReadBuffer = cmp.Or(o.ReadBuffer, readBuffer)
	s.Map(r.Capture.Exporters)
	return s
}

// SFlow returns an inert source of sFlow datagrams, which closes conn at its end.
func SFlow(r capture.Request, conn *net.UDPConn, o Options) *Source {
	s := newSource(r, conn, o, "SFlowSocket")
	s.decode = s.sflow
	return s
}

// Netflow returns an inert source of NetFlow and IPFIX datagrams, which closes conn at its end.
func Netflow(r capture.Request, conn *net.UDPConn, o Options) *Source {
	s := newSource(r, conn, o, "NetFlowSocket")
	s.decode = s.netflow
	return s
}

// Counters implements capture.Source. What is received are samples and records.
func (s *Source) Counters() capture.Counters {
	return capture.Counters{
		Received: s.received.Load(), Dropped: s.dropped.Load(), IfDropped: s.lost.Load(), Filtered: s.filtered.Load(),
		Malformed: s.malformed.Load(), Missing: max(0, s.missing.Load()), Repeated: s.repeated.Load(), Unknown: s.unknown.Load(),
	}
}

// Run implements capture.Source.
func (s *Source) Run(ctx context.Context, up func(field.Object)) error {
	conn := s.conn
	if conn == nil {
		var err error
		if conn, err = Listen(ctx, s.request.Node.NetNS, hostOf(s.request.Node), cmp.Or(s.request.Capture.Port, s.usual), 0); err != nil {
			return err
		}
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := prepare(conn, s.options.ReadBuffer); err != nil {
		return fmt.Errorf("listen on %s: %w", conn.LocalAddr(), err)
	}
	up(field.Make(s.key, conn.LocalAddr().String()))
	data, oob := make([]byte, datagramSize), make([]byte, oobSize)
	var dropped uint32
	for {
		n, nn, _, from, err := conn.ReadMsgUDPAddrPort(data, oob)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive datagrams: %w", err)
		}
		if d, ok := overflow(oob[:nn]); ok && d != dropped {
			s.dropped.Add(int64(d - dropped)) // right also when the counter wraps
			dropped = d
		}
		s.take(data[:n], from.Addr().Unmap(), time.Now().UnixNano())
	}
}

// take takes one datagram.
func (s *Source) take(data []byte, from netip.Addr, now int64) {
	s.now = now
	s.got = datagram{data: data, from: from, hash: maphash.Bytes(s.seed, data)}
	s.decode(&s.got)
	s.flush()
}

// record is the next record to be filled in and counted with count.
func (s *Source) record() *flow.Record {
	if len(s.batch) == cap(s.batch) {
		s.flush()
	}
	r := &s.batch[:len(s.batch)+1][len(s.batch)]
	*r = flow.Record{}
	return r
}

// count counts the last record.
func (s *Source) count(r *flow.Record) {
	if f := s.request.Filter; f != nil {
		s.frame = appendFrame(s.frame[:0], r)
		if !f.Match(s.frame, len(s.frame)) {
			s.filtered.Add(1)
			return
		}
	}
	s.received.Add(1)
	s.batch = s.batch[:len(s.batch)+1]
}

func (s *Source) flush() {
	if len(s.batch) > 0 {
		s.request.Intake.Records(s.batch, s.now)
		s.batch = s.batch[:0]
	}
}
