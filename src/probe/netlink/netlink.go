// Package netlink shows every network interface of the host and of its network namespaces, as the kernel tells: with addresses,
// routes, neighbours, counters, what the driver says, and the links between interfaces.
//
// It has one rtnetlink socket per namespace, subscribed before the first dump. All state is kept in memory and follows the events;
// nothing is asked again but after a loss of events, and for what the kernel is known not to notify. It never changes the network.
package netlink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"skydive/src/netns"
	"skydive/src/probe"
)

// Config of the probe.
type Config struct {
	MetricsUpdate time.Duration // time between two readings of the counters
	Netns         netns.Config  // where namespaces are looked for
	Root          string        // path to the namespace whose interfaces belong to the host node
	ReceiveBuffer int           // limit of what the kernel may queue per socket, in bytes
}

// Spec of the probe. It also watches the namespaces, hence the other name.
var Spec = probe.Define("netlink", "interfaces of the host and of all its network namespaces", Config{
	MetricsUpdate: 30 * time.Second,
	Netns:         netns.Config{RunPath: "/var/run/netns", ProcPath: "/proc"},
	Root:          "/proc/self/ns/net",
	ReceiveBuffer: receiveBuffer,
}, New).Alias("netns")

// Probe follows the kernel.
type Probe struct {
	cfg     Config
	env     probe.Env
	metrics *metrics
}

// New checks the configuration.
func New(env probe.Env, cfg Config) (probe.Probe, error) {
	if cfg.MetricsUpdate <= 0 {
		return nil, fmt.Errorf("time between metrics must be positive, not %v", cfg.MetricsUpdate)
	}
	if cfg.ReceiveBuffer <= 0 {
		return nil, fmt.Errorf("receive buffer must be positive, not %d", cfg.ReceiveBuffer)
	}
	return &Probe{cfg: cfg, env: env, metrics: newMetrics(env.Registerer)}, nil
}

const (
	// coalesce is how long changes are collected before they go into the graph as one.
	coalesce = 20 * time.Millisecond
	// heartbeat is the time between two looks at what is not urgent: states of neighbours, counters, things to try again.
	heartbeat = time.Second
	// queueLength is how many buffers may wait; then the kernel queues.
	queueLength = 16
)

// Run follows the kernel until ctx ends.
func (p *Probe) Run(ctx context.Context) (err error) {
	group, ctx := probe.NewGroup(ctx)
	m := newMirror(p, group, ctx)
	defer func() {
		m.closeAll()
		failed := group.Stop()
		if err == nil {
			err = failed
		}
		if err != nil {
			err = errors.Join(err, m.withdraw())
		}
	}()
	if err := m.openRoot(); err != nil {
		return err
	}
	views := make(chan netns.View)
	group.Go(func() error {
		return m.watcher.Run(ctx, func(v netns.View) {
			select {
			case views <- v:
			case <-ctx.Done():
			}
		})
	})
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case in := <-m.inbound:
			err = m.receive(in)
		case v := <-views:
			m.reconcile(v)
		case now := <-beat.C:
			m.beat(now)
		case <-m.reread.C:
			m.rereadStale()
		case <-m.flush.C:
			err = m.publish()
		}
		if err != nil {
			return err
		}
	}
}
