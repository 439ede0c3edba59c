// Package ovsdb shows the bridges, ports and interfaces of Open vSwitch, and its OpenFlow rules, as the database and the bridges of
// this host tell.
//
// An interface that the kernel has, too, is one node: that of the probe netlink, whichever namespace it was moved to, with what Open
// vSwitch says of it added. The probe follows the database and polls nothing; it never changes it.
package ovsdb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"skydive/src/graph"
	"skydive/src/ovs"
	"skydive/src/probe"
)

// Config of the probe.
type Config struct {
	Address     string // of the database, see ovs.Options
	EnableStats bool   // show the statistics of interfaces, which ovs-vswitchd writes every 5 seconds
	// TLS returns the certificates for an address with TLS; nil when none are configured.
	TLS      func() *tls.Config
	Openflow OpenflowConfig
}

// Spec of the probe.
var Spec = probe.Define("ovsdb", "bridges, ports and interfaces of Open vSwitch", Config{
	Address:  "unix:///var/run/openvswitch/db.sock",
	Openflow: defaultOpenflow,
}, New)

// Probe follows the database.
type Probe struct {
	cfg     Config
	env     probe.Env
	metrics *metrics
}

// New checks the configuration.
func New(env probe.Env, cfg Config) (probe.Probe, error) {
	if err := ovs.CheckAddress(cfg.Address); err != nil {
		return nil, err
	}
	return &Probe{cfg: cfg, env: env, metrics: newMetrics(env.Registerer)}, nil
}

const (
	// coalesce is how long changes are collected before they go into the graph as one.
	coalesce = 20 * time.Millisecond
	// settle is how long an interface that the kernel should have may be without a node of the probe netlink: then it is in a
	// namespace that cannot be seen, and gets a node here.
	settle = time.Second
	// patience is how long the view stays in the graph without a connection.
	patience = time.Minute
	// Between attempts to connect again.
	retryFirst, retryLast = 100 * time.Millisecond, 5 * time.Second
	// queueLength is how many commits of the graph may wait.
	queueLength = 1024
)

// tables are what the probe follows.
func (p *Probe) tables() []ovs.Table {
	interfaces := []string{"name", "type", "options", "ifindex", "mac_in_use", "mac", "mtu", "ofport", "link_state", "error", "status",
		"other_config", "external_ids"}
	if p.cfg.EnableStats {
		interfaces = append(interfaces, "statistics")
	}
	return []ovs.Table{
		{Name: tableSwitch, Columns: []string{"ovs_version", "db_version", "other_config", "external_ids"}},
		{Name: tableBridge, Columns: []string{"name", "ports", "protocols", "datapath_type", "datapath_id", "fail_mode", "other_config",
			"external_ids"}},
		{Name: tablePort, Columns: []string{"name", "interfaces", "tag", "trunks", "vlan_mode", "bond_mode", "bond_active_slave", "lacp",
			"other_config", "external_ids"}},
		{Name: tableInterface, Columns: interfaces},
	}
}

// event is a batch, or that the connection was lost or could not be made.
type event struct {
	batch ovs.Batch
	err   error
}

// Run follows the database until ctx ends. A lost connection is made again; the view stays in the graph meanwhile.
func (p *Probe) Run(ctx context.Context) (err error) {
	group, ctx := probe.NewGroup(ctx)
	sub, _ := p.env.Graph.Subscribe(queueLength)
	v := newView(p)
	if p.cfg.Openflow.Enable {
		v.flows = newFlows(p, ctx, group)
	}
	defer func() {
		sub.Close()
		v.stopTimers()
		failed := group.Stop() // what failed may be the rules of a bridge
		if err == nil {
			err = failed
		}
		if v.flows != nil {
			v.flows.close(err != nil)
		}
		if err != nil {
			err = errors.Join(err, v.withdraw())
		}
		p.metrics.connected.Set(0)
	}()
	events := make(chan event)
	group.Go(func() error { return p.connect(ctx, events) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			if err := v.event(e); err != nil {
				return err
			}
		case commit, ok := <-sub.C():
			if !ok {
				sub, _ = p.env.Graph.Subscribe(queueLength)
				v.lookAgain()
				continue
			}
			v.observe(commit)
		case <-v.flush.C:
			if err := v.publish(); err != nil {
				return err
			}
		}
	}
}

// connect keeps a connection until ctx ends.
func (p *Probe) connect(ctx context.Context, events chan<- event) error {
	client := ovs.New(ovs.Options{Address: p.cfg.Address, Database: database, TLS: p.cfg.TLS, Log: p.env.Log})
	wait := retryFirst
	send := func(e event) error {
		select {
		case events <- e:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	client.Monitor(func(b ovs.Batch) error {
		return send(event{batch: b})
	}, p.tables()...)
	for {
		began := time.Now()
		err := client.Run(ctx)
		if ctx.Err() != nil || send(event{err: err}) != nil {
			return nil
		}
		if time.Since(began) > retryLast { // one that ends sooner each time is not asked for all it has ten times a second
			wait = retryFirst
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		wait = min(2*wait, retryLast)
	}
}

// event takes in what the connection brought. An error ends the run: there is nothing to show.
func (v *view) event(e event) error {
	if e.err == nil {
		v.take(e.batch)
		if e.batch.Initial {
			if !v.down.IsZero() {
				v.metrics.reconnects.Inc()
			}
			v.connected, v.down = true, time.Time{}
			v.metrics.connected.Set(1)
		}
		return nil
	}
	if !v.connected {
		return v.explain(e.err)
	}
	v.metrics.connected.Set(0)
	if v.down.IsZero() {
		v.down = time.Now()
	}
	if time.Since(v.down) > patience {
		return v.explain(e.err)
	}
	v.trouble = e.err
	v.announce()
	return nil
}

// explain says what to do about errors that users can do something about.
func (p *Probe) explain(err error) error {
	path, isSocket := ovs.SocketPath(p.cfg.Address)
	switch {
	case isSocket && errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no Open vSwitch database at %s: %w", path, probe.ErrUnavailable)
	case isSocket && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("may not use %s: run the Ansible roles again, which see to that, or give the agent the capability CAP_DAC_OVERRIDE: %w", path, err)
	}
	return err
}

// announce tells that the first view is in the graph, and what it lacks.
func (v *view) announce() {
	switch {
	case !v.connected || !v.shown:
		return
	case !v.down.IsZero():
		v.tell("the connection to Open vSwitch is lost, its last state is shown: " + v.trouble.Error())
	default:
		v.tell("")
	}
}

func (v *view) tell(reason string) {
	if !v.told || v.reason != reason {
		v.told, v.reason = true, reason
		v.env.Running(reason)
	}
}

// withdraw takes from the graph all that is in it, because the probe failed and will start anew.
func (v *view) withdraw() error {
	return v.env.Graph.Update("", func(tx *graph.Tx) error {
		for _, g := range v.gone { // what failed may be taking them out
			if err := v.drop(tx, g); err != nil {
				return err
			}
		}
		for _, i := range v.interfaces {
			if err := v.dropInterface(tx, i); err != nil {
				return err
			}
		}
		if err := v.system.takeOff(tx); err != nil {
			return err
		}
		for _, id := range v.left {
			if err := dropNode(tx, id); err != nil {
				return err
			}
		}
		for id := range v.own {
			if err := dropNode(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
}
