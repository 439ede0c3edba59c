package main

import (
	"skydive/src/config"
	"skydive/src/probe"
	"skydive/src/probe/netlink"
)

// probes lists what an agent of this build can run.
var probes = []probe.Spec{
	netlink.Spec,
}

// alwaysOn run whatever agent.topology.probes says.
var alwaysOn = []string{"netlink", "netns"}

// probeConfig fills the configuration of one probe.
func probeConfig(c *config.Config) func(name string, into any) error {
	return func(_ string, into any) error {
		switch into := into.(type) {
		case *netlink.Config:
			into.MetricsUpdate = c.Agent.Topology.Netlink.MetricsUpdate
			into.Netns.RunPath = c.Agent.Topology.Netns.RunPath
		}
		return nil
	}
}
