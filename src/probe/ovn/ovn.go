// Package ovn shows the northbound database of OVN in the graph: a node for each row, an edge for each reference, and the edges from
// there to what else is known, the interfaces of Open vSwitch above all.
//
// It goes by the schema that the server has, not by a list of tables and columns of its own, and reads nothing but this one database:
// where the southbound one has put things is for the agents to see.
package ovn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"skydive/src/field"
	"skydive/src/ovs"
	"skydive/src/probe"
)

const database = "OVN_Northbound"

const (
	retryFirst = 250 * time.Millisecond
	retryLast  = 4 * time.Second
)

// northbound is the probe.
type northbound struct {
	env    probe.Env
	config Config
}

// Run shows the database until ctx ends; what it showed stays then, for the analyzer that goes on with it. A connection that is lost is
// made again, and what is in the graph stays for a while: networks do not go with the server that describes them.
func (p *northbound) Run(ctx context.Context) error {
	group, inner := probe.NewGroup(ctx)
	d := probe.NewDesired(p.env)
	w := newWorld(d)
	work := make(chan func() error)
	group.Go(func() error { return d.Run(inner, w, work) })
	group.Go(func() error { return p.connect(inner, w, work) })
	<-inner.Done()
	err := group.Stop()
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(err, d.Clear())
}

// connect keeps a connection until ctx ends, or there was none for too long.
func (p *northbound) connect(ctx context.Context, w *world, work chan<- func() error) error {
	var secure *tls.Config
	o := ovs.Options{Address: p.config.Address, Database: database, Log: p.env.Log, MaxMessage: 256 << 20} // a large one has tens of megabytes
	if p.config.secured() {
		o.TLS = func() *tls.Config { return secure }
	}
	client := ovs.New(o)
	lost, wait := time.Now(), retryFirst
	connected, shown := false, p.shown()
	client.Monitor(func(b ovs.Batch) error {
		connected, shown = true, true
		select {
		case work <- func() error { w.take(b); return nil }:
		case <-ctx.Done():
		}
		return nil
	})
	for left := strings.Count(p.config.Address, ","); ; left-- { // members that were not tried
		var err error
		if p.config.secured() {
			secure, err = p.config.tls()
		}
		began := time.Now()
		if err == nil {
			err = explain(client.Run(ctx))
		}
		if connected {
			connected, lost = false, time.Now()
		}
		if time.Since(began) > retryLast { // one that ends sooner each time is not asked for all it has four times a second
			wait = retryFirst
		}
		if ctx.Err() != nil {
			return nil
		}
		if !shown && left <= 0 || shown && time.Since(lost) >= p.config.Expiry {
			return err
		}
		if shown {
			p.env.Running(fmt.Sprintf("not connected, what is shown is as of %s: %v", lost.UTC().Format(time.RFC3339), err))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		wait = min(2*wait, retryLast)
	}
}

// shown tells whether there is something in the graph already: from before a fail-over.
func (p *northbound) shown() bool {
	own := field.Filter{Terms: []field.Term{{Key: "@Origin", Pred: field.Eq{V: p.env.Origin}}}}
	return p.env.Graph.Snapshot().CountNodes(own) > 0
}

// explain says what to do about an error, where that is clear.
func explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", err, probe.ErrUnavailable)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: give the analyzer's user access to the socket, or let the database listen on a port", err)
	}
	return err
}
