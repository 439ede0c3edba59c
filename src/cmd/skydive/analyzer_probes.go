package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"skydive/src/config"
	"skydive/src/etcd"
	"skydive/src/openflow"
	"skydive/src/ovs"
	"skydive/src/probe"
	"skydive/src/probe/fabric"
	"skydive/src/probe/ovn"
	"skydive/src/probe/peering"
)

// analyzerSpecs lists what an analyzer of this build can run.
var analyzerSpecs = []probe.Spec{
	fabric.Spec, ovn.Spec, peering.Spec,
}

// analyzerAlways run whatever analyzer.topology.probes says.
var analyzerAlways = []string{"fabric", "peering"}

// analyzerOrigin begins the origin of what the probes of analyzers add: the same whichever analyzer runs them, so that another one can go
// on with it.
const analyzerOrigin = "probe"

// configChecks tell what is wrong with values that the configuration itself takes for any text.
func configChecks() map[string]func(*config.Config) error {
	return map[string]func(*config.Config) error{
		"analyzer.topology.fabric": func(c *config.Config) error { return fabric.Check(c.Analyzer.Topology.Fabric) },
		"analyzer.topology.ovn.address": func(c *config.Config) error {
			return ovs.CheckAddress(c.Analyzer.Topology.OVN.Address)
		},
		"ovs.ovsdb": func(c *config.Config) error { return ovs.CheckAddress(c.OVS.OVSDB) },
		"ovs.oflow.openflow_versions": func(c *config.Config) error {
			for _, name := range c.OVS.OFlow.OpenFlowVersions {
				if _, err := openflow.ParseVersion(name); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// analyzerProbeConfig fills the configuration of one probe.
func analyzerProbeConfig(c *config.Config) func(name string, into any) error {
	return func(_ string, into any) error {
		switch into := into.(type) {
		case *fabric.Config:
			into.Rules = c.Analyzer.Topology.Fabric
		case *ovn.Config:
			o := c.Analyzer.Topology.OVN
			into.Address, into.Cert, into.Key, into.CACert = o.Address, o.Cert, o.Key, o.CACert
		}
		return nil
	}
}

// analyzerProbes are the probes of an analyzer, which run while it is the one of its cluster that is elected for that.
type analyzerProbes struct {
	*probe.Supervisor
	gone    []*probe.Desired // what probes that are not configured any more left in the graphs of other analyzers: nothing
	leading atomic.Bool
	log     *slog.Logger
}

func (s *service) newAnalyzerProbes(store *etcd.Service) (*analyzerProbes, error) {
	supervisor, err := probe.NewSupervisor(probe.Options{
		Graph: s.graph, Origin: analyzerOrigin,
		Specs: analyzerSpecs, Names: append(analyzerAlways[:len(analyzerAlways):len(analyzerAlways)], s.cfg.Analyzer.Topology.Probes...),
		Load: analyzerProbeConfig(s.cfg), Log: s.log, Registerer: s.registry,
	})
	if err != nil {
		return nil, err
	}
	p := &analyzerProbes{Supervisor: supervisor, log: s.log}
	if !shared(s.cfg) {
		p.leading.Store(true)
		s.add(supervisor.Run)
		return p, nil
	}
	for _, spec := range analyzerSpecs {
		if _, runs := supervisor.Status()[spec.Name]; !runs {
			d := probe.NewDesired(probe.Env{Graph: s.graph, Origin: analyzerOrigin + "." + spec.Name, Log: s.log, Running: func(string) {}})
			d.Known()
			p.gone = append(p.gone, d)
		}
	}
	s.add(func(ctx context.Context) error {
		err := p.stand(ctx, func(ctx context.Context, lead func(bool)) error {
			return store.Elect(ctx, "topology-probes", s.cfg.HostID, lead)
		})
		if ctx.Err() != nil || errors.Is(err, etcd.ErrNotReady) {
			return nil // the end; what ended etcd says why
		}
		return err
	})
	return p, nil
}

// stand takes part in the election, and runs the probes while it is won.
func (p *analyzerProbes) stand(ctx context.Context, elect func(context.Context, func(bool)) error) error {
	var running sync.WaitGroup
	defer running.Wait()
	stop := func() {}
	defer func() { stop() }()
	ended := make(chan struct{}) // of the last term
	close(ended)
	return elect(ctx, func(leads bool) {
		p.leading.Store(leads)
		stop() // and not waited for: who elects is in a hurry
		if !leads {
			return
		}
		term, cancel := context.WithCancel(ctx)
		last := ended
		stop, ended = cancel, make(chan struct{})
		end := ended
		running.Go(func() {
			defer close(end)
			<-last
			p.work(term)
		})
	})
}

// work runs the probes until ctx ends.
func (p *analyzerProbes) work(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { _ = p.Run(ctx) }) // always nil
	for _, d := range p.gone {
		all.Go(func() {
			if err := d.Run(ctx, nil, nil); err != nil {
				p.log.Warn("what a probe left cannot be removed", "error", err)
			}
		})
	}
	all.Wait()
}

// Status says which analyzer's business they are.
func (p *analyzerProbes) Status() map[string]probe.Status {
	all := p.Supervisor.Status()
	if p.leading.Load() {
		return all
	}
	for name, s := range all {
		if s.Status == probe.Stopped {
			s.Reason = "another analyzer of the cluster runs it, or none is elected"
			all[name] = s
		}
	}
	return all
}
