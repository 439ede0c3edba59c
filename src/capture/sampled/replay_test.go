package sampled

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"skydive/src/capture"
	"skydive/src/flow"
	"skydive/src/resource"
)

// replay is a source without a socket, on a table.
type replay struct {
	*Source
	table *flow.Table
}

func newReplay(t testing.TB, kind func(capture.Request, Options) *Source, o flow.Options, c resource.Capture) *replay {
	o.NodeTID, o.MaxEntries = "tid", 1000
	r := &replay{table: flow.NewTable(o)}
	r.Source = kind(capture.Request{Capture: c, Intake: capture.NewTableIntake(r.table), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, Options{})
	return r
}

func offSFlow(r capture.Request, o Options) *Source   { return SFlow(r, nil, o) }
func offNetflow(r capture.Request, o Options) *Source { return Netflow(r, nil, o) }

var exporterAddress = netip.MustParseAddr("192.0.2.7")

// datagrams reads a file of datagrams, each after its length.
func datagrams(t testing.TB, name string) (all [][]byte) {
	b, err := os.ReadFile("testdata/" + name + ".datagrams")
	if err != nil {
		t.Fatal(err)
	}
	for len(b) > 2 {
		n := int(binary.BigEndian.Uint16(b))
		all = append(all, b[2:2+n])
		b = b[2+n:]
	}
	return all
}

// feed takes datagrams at the time that the last of them tells.
func (r *replay) feed(now time.Time, from netip.Addr, all ...[]byte) {
	for _, d := range all {
		r.take(d, from, now.UnixNano())
	}
}

// flows are those of the table.
func (r *replay) flows() (all []flow.Flow) {
	r.table.Search(nil, func(f *flow.Flow) bool {
		c := *f
		for _, p := range []**flow.Layer{&c.Link, &c.Network} {
			if *p != nil {
				v := **p
				*p = &v
			}
		}
		if f.Transport != nil {
			v := *f.Transport
			c.Transport = &v
		}
		if f.ICMP != nil {
			v := *f.ICMP
			c.ICMP = &v
		}
		all = append(all, c)
		return true
	})
	return all
}
