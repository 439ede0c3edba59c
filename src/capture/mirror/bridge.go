package mirror

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"skydive/src/capture"
	"skydive/src/capture/sampled"
	"skydive/src/field"
	"skydive/src/ovs"
)

// export is a way in which a switch tells what passes a bridge.
type export struct {
	name, table, column string
	packets             bool // tells of packets, not of flows
	pool                Pool
	row                 func(r *capture.Request, local bool) ovs.Row
	listen              func(r capture.Request, conn *net.UDPConn, o sampled.Options) *sampled.Source // closes conn
}

// Intervals of flows that go on, in seconds.
const (
	usualInterval = 10
	mostInterval  = 4200
)

// interval is how often the switch tells of flows that go on.
func interval(r *capture.Request) int64 {
	if n := r.Capture.PollingInterval; n != 0 {
		return min(int64(n), mostInterval)
	}
	return usualInterval
}

func exports(o Options) map[string]export {
	return map[string]export{
		"ovssflow": {"sFlow", "sFlow", "sflow", true, o.SFlow, func(r *capture.Request, local bool) ovs.Row {
			row := ovs.Row{"header": int64(r.SnapLen), "sampling": int64(r.Capture.SamplingRate), "polling": int64(r.Capture.PollingInterval)}
			if r.Capture.SamplingRate == 0 { // no packets, only counters
				row["sampling"] = int64(math.MaxUint32)
			}
			if local {
				row["agent"] = "lo"
			}
			return row
		}, sampled.SFlow},
		"ovsnetflow": {"NetFlow", "NetFlow", "netflow", false, o.NetFlow, func(r *capture.Request, _ bool) ovs.Row {
			return ovs.Row{"add_id_to_interface": true, "engine_id": int64(1), "engine_type": int64(10), "active_timeout": interval(r)}
		}, func(r capture.Request, conn *net.UDPConn, o sampled.Options) *sampled.Source {
			o.Whole = true
			return sampled.Netflow(r, conn, o)
		}},
		"ovsipfix": {"IPFIX", "IPFIX", "ipfix", false, o.NetFlow, func(r *capture.Request, _ bool) ovs.Row {
			return ovs.Row{
				"sampling": max(1, int64(r.Capture.SamplingRate)), "cache_active_timeout": interval(r), "cache_max_flows": int64(1 << 16),
			}
		}, func(r capture.Request, conn *net.UDPConn, o sampled.Options) *sampled.Source {
			// The switch tells of each packet where it comes in and wherever it goes out: what its enable-output-sampling does depends on
			// its version.
			o.Entering = true
			return sampled.Netflow(r, conn, o)
		}},
	}
}

// farewell is how long the last datagrams may take.
const farewell = 200 * time.Millisecond

// bridge is the source of a bridge: the switch tells us, or a collector, what passes.
type bridge struct {
	s *Switch
	export
	request capture.Request
	inner   atomic.Pointer[sampled.Source] // nil before it, and when a collector listens
}

// Counters implements capture.Source.
func (b *bridge) Counters() capture.Counters {
	if source := b.inner.Load(); source != nil {
		return source.Counters()
	}
	return capture.Counters{}
}

// Metrics implements capture.Meter.
func (b *bridge) Metrics() (key string, metrics field.Object) {
	if source := b.inner.Load(); source != nil {
		return source.Metrics()
	}
	return "", nil
}

// Run implements capture.Source.
func (b *bridge) Run(ctx context.Context, up func(field.Object)) error {
	if err := b.possible(); err != nil {
		return err
	}
	mark, release := b.s.claim(&b.request)
	defer release()
	if err := b.s.ready(ctx); err != nil {
		return ended(ctx, err)
	}
	target := b.request.Capture.Target
	if target != "" {
		var err error
		if target, err = resolve(ctx, target); err != nil {
			return ended(ctx, err)
		}
		row, err := b.put(ctx, mark, target)
		if err != nil {
			return ended(ctx, err)
		}
		up(nil)
		return ended(ctx, b.guard(ctx, row))
	}
	pool := b.pool
	conn, err := sampled.Listen(ctx, b.request.Node.NetNS, cmp.Or(pool.Address, loopback), pool.MinPort, pool.MaxPort)
	if err != nil {
		return ended(ctx, fmt.Errorf("%s: %w", b.name, err))
	}
	defer conn.Close() // again, when the source ran
	row, err := b.put(ctx, mark, local(conn))
	if err != nil {
		return ended(ctx, err)
	}
	source := b.listen(b.request, conn, b.s.o.Sampled)
	b.inner.Store(source)
	// When the row goes the switch sends what it has gathered for IPFIX: the listener stays a little longer.
	listening, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() {
		release()
		time.AfterFunc(farewell, end)
	})()
	return ended(ctx, both(listening, func(listening context.Context) error {
		err := b.guard(listening, row)
		return ended(ctx, err) // our own doing
	}, func(listening context.Context) error { return source.Run(listening, up) }))
}

// possible refuses what a switch cannot do.
func (b *bridge) possible() error {
	refuse := func(format string, args ...any) error {
		return &capture.RefusedError{Status: http.StatusBadRequest, Reason: fmt.Sprintf(format, args...)}
	}
	switch c := &b.request.Capture; {
	case c.Target != "" && c.BPFFilter != "":
		return refuse("the switch sends %s to the target by itself, which it cannot filter", b.name)
	case c.Target != "" && c.RawPacketLimit != 0:
		return refuse("the switch sends %s to the target by itself: no raw packets are kept", b.name)
	case !b.packets && c.RawPacketLimit != 0:
		return refuse("%s tells of flows: there are no raw packets", b.name)
	}
	return nil
}

// resolve returns the address of a collector: the switch may be built so that it understands no names.
func resolve(ctx context.Context, target string) (string, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil || net.ParseIP(host) != nil {
		return target, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return "", fmt.Errorf("target: %w", err)
	}
	return net.JoinHostPort(addresses[0].Unmap().String(), port), nil
}

const loopback = "127.0.0.1"

// local is where the switch sends to for us to get it.
func local(conn *net.UDPConn) string {
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	if at.Addr().IsUnspecified() {
		return net.JoinHostPort(loopback, strconv.Itoa(int(at.Port())))
	}
	return at.String()
}

// put has the bridge export to a target.
func (b *bridge) put(ctx context.Context, mark, target string) (ovs.UUID, error) {
	id := ovs.UUID(b.request.Node.UUID)
	if err := b.free(id); err != nil {
		return "", err
	}
	row := b.row(&b.request, b.request.Capture.Target == "")
	row["targets"], row["external_ids"] = target, b.s.ids(mark)
	results, err := b.s.client.Transact(ctx,
		ovs.Wait("Bridge", 0, []string{b.column}, "==", []ovs.Row{{b.column: []any{}}}, ovs.Is(id)),
		ovs.Insert(b.table, "export", row),
		ovs.Update("Bridge", ovs.Row{b.column: ovs.NamedUUID("export")}, ovs.Is(id)),
		ovs.Comment("skydive: "+b.name+" of bridge "+b.request.Node.Name),
	)
	if err != nil {
		if busy := b.free(id); busy != nil { // somebody was faster
			err = busy
		}
		return "", fmt.Errorf("%s of bridge %s: %w", b.name, b.request.Node.Name, err)
	}
	return results[1].UUID, nil
}

// free fails when the bridge is not there, or exports already: it can do so once.
func (b *bridge) free(id ovs.UUID) error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	row := b.s.tables["Bridge"][id]
	if row == nil {
		return fmt.Errorf("%w: Open vSwitch has no such bridge", capture.ErrGone)
	}
	for _, other := range row.UUIDs(b.column) {
		there := b.s.tables[b.table][other]
		if mark := there.MapText("external_ids", markKey); mark != "" {
			id, _, _ := strings.Cut(mark, "/")
			return &capture.RefusedError{Status: http.StatusConflict, Reason: fmt.Sprintf(
				"bridge %s sends %s already, for capture %s of the agent %s, and can do so only once",
				row.Text("name"), b.name, id, there.MapText("external_ids", hostKey))}
		}
		return &capture.RefusedError{Status: http.StatusConflict, Reason: fmt.Sprintf(
			"bridge %s sends %s to %v already, for somebody else, and can do so only once: see ovs-vsctl clear bridge %s %s",
			row.Text("name"), b.name, there.Strings("targets"), row.Text("name"), b.column)}
	}
	return nil
}

// guard waits until the row is not there any more.
func (b *bridge) guard(ctx context.Context, row ovs.UUID) error {
	return b.s.wait(ctx, func() (bool, error) { return false, b.s.there(b.table, row) })
}
