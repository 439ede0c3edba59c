package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"

	"skydive/src/config"
	"skydive/src/probe"
	"skydive/src/probe/netlink"
	"skydive/src/probe/neutron"
	"skydive/src/probe/ovsdb"
	"skydive/src/tlsconf"
)

// probes lists what an agent of this build can run.
var probes = []probe.Spec{
	netlink.Spec, neutron.Spec, ovsdb.Spec,
}

// alwaysOn run whatever agent.topology.probes says.
var alwaysOn = []string{"netlink", "netns"}

// probeConfig fills the configuration of one probe.
func probeConfig(c *config.Config, switches *switchTLS) func(name string, into any) error {
	return func(_ string, into any) error {
		switch into := into.(type) {
		case *netlink.Config:
			into.MetricsUpdate = c.Agent.Topology.Netlink.MetricsUpdate
			into.Netns.RunPath = c.Agent.Topology.Netns.RunPath
		case *neutron.Config:
			n := c.Agent.Topology.Neutron
			into.AuthURL, into.Username, into.Password = n.AuthURL, n.Username, n.Password
			into.TenantName, into.DomainName, into.RegionName = n.TenantName, n.DomainName, n.RegionName
			into.EndpointType, into.Insecure, into.CACert, into.Update = n.EndpointType, n.SSLInsecure, n.CACert, n.Update
		case *ovsdb.Config:
			into.Address, into.EnableStats, into.TLS = c.OVS.OVSDB, c.OVS.EnableStats, switches.database
			o := c.OVS.OFlow
			into.Openflow.Enable, into.Openflow.Versions, into.Openflow.Address, into.Openflow.TLS = o.Enable, o.OpenFlowVersions, o.Address, switches.openflow
		}
		return nil
	}
}

// switchTLS is what connections to Open vSwitch are secured with; nil where nothing is configured.
type switchTLS struct {
	database, openflow func() *tls.Config
}

func newSwitchTLS(c *config.Config, log *slog.Logger, add func(func(context.Context) error)) (*switchTLS, error) {
	load := func(prefix string, f tlsconf.Files) (func() *tls.Config, error) {
		if f == (tlsconf.Files{}) {
			return nil, nil
		}
		if f.CACert == "" || f.ClientCert == "" || f.ClientKey == "" {
			return nil, fmt.Errorf("%[1]sca, %[1]scert and %[1]skey go together: switches ask for a certificate, and theirs is verified", prefix)
		}
		certs, err := tlsconf.New(f, log)
		if err != nil {
			return nil, fmt.Errorf("%sca, cert and key: %w", prefix, err)
		}
		add(certs.Run)
		return certs.Client, nil
	}
	o := c.OVS
	database, err := load("ovs.ovsdb_", tlsconf.Files{CACert: o.OVSDBCA, ClientCert: o.OVSDBCert, ClientKey: o.OVSDBKey})
	if err != nil {
		return nil, err
	}
	openflow, err := load("ovs.oflow.", tlsconf.Files{CACert: o.OFlow.CA, ClientCert: o.OFlow.Cert, ClientKey: o.OFlow.Key})
	return &switchTLS{database, openflow}, err
}
