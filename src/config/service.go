package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// defaultAnalyzer is where agents look for an analyzer when nobody said.
var defaultAnalyzer = Address{Host: "127.0.0.1", Port: 8082}

// AnalyzerAddresses returns the analyzers that an agent reports to. None means
// that the agent stands alone; unset means the analyzer of this host.
func (c *Config) AnalyzerAddresses() []Address {
	if c.Analyzers == nil {
		return []Address{defaultAnalyzer}
	}
	return slices.Clone(c.Analyzers)
}

// CheckService returns, as Errors, why a service ("analyzer" or "agent") must
// not start with this configuration: it would be less safe, or keep less, than
// the user asked for.
func (c *Config) CheckService(service string) error {
	if problems := c.refusals(service); len(problems) > 0 {
		return Errors(problems)
	}
	return nil
}

func (c *Config) refusals(services ...string) (problems []Problem) {
	refuse := func(key, message string) {
		problems = append(problems, Problem{Severity: Refusal, Source: c.values[key].source, Key: key, Message: message})
	}
	for _, pair := range [][2]string{{"tls.server_cert", "tls.server_key"}, {"tls.client_cert", "tls.client_key"}} {
		for i, name := range pair {
			if c.set(name) && !c.set(pair[1-i]) {
				refuse(name, name+" is set, and "+pair[1-i]+" is not: they go together")
			}
		}
	}
	switch {
	case c.set("tls.server_cert") || c.set("tls.client_cert"):
	case c.set("tls.ca_cert"):
		refuse("tls.ca_cert", "tls.ca_cert is set, and no certificate is: nothing would be encrypted (tls.server_cert, tls.client_cert)")
	case c.TLS.RequireClientCert:
		refuse("tls.require_client_cert", "tls.require_client_cert is set, and TLS is not (tls.ca_cert, tls.server_cert, tls.server_key)")
	}
	if _, _, _, err := c.Flow.Applications(); err != nil {
		key, message, _ := strings.Cut(err.Error(), ": ")
		refuse(key, key+": "+message)
	}
	ports := func(section, last string, from, to int) {
		if from > to || to > 65535 {
			refuse(section+"."+last, fmt.Sprintf("%s: no ports from %d to %d", section, from, to))
		}
	}
	f := c.Agent.Flow
	ports("agent.flow.pcapsocket", "max_port", f.PcapSocket.MinPort, f.PcapSocket.MaxPort)
	ports("agent.flow.sflow", "port_max", f.SFlow.PortMin, f.SFlow.PortMax)
	ports("agent.flow.netflow", "port_max", f.NetFlow.PortMin, f.NetFlow.PortMax)
	backend := func(key, name string) {
		section, ok := c.Auth[lower(name)]
		kind := lower(section.Type)
		switch {
		case ok && kind == "noauth":
		case ok && kind == "basic":
			if section.File == "" && len(section.Users) == 0 {
				refuse(key, "No htpassword provider set, you set either file or inline sections (auth."+lower(name)+")")
			}
		case ok && kind == "keystone":
			if section.AuthURL == "" {
				refuse(key, "Authentication URL empty (auth."+lower(name)+".auth_url)")
			}
		default:
			refuse(key, "Authentication type unknown or backend not defined for: "+name)
		}
	}
	storage := func(key, name string) {
		section, ok := c.Storage[lower(name)]
		switch driver := lower(section.Driver); {
		case driver == "memory" || driver == "disk":
		case driver == "elasticsearch":
			refuse(key, "storage elasticsearch comes with a later version; this one has disk and memory")
		case driver == "orientdb":
			refuse(key, "storage orientdb is not supported; this version has disk and memory")
		case ok:
			refuse(key, "storage driver '"+section.Driver+"' unknown (storage."+lower(name)+".driver)")
		default:
			refuse(key, "storage backend not defined: "+name)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.checks)) {
		service, _, _ := strings.Cut(key, ".")
		if other := service == "agent" || service == "analyzer"; other && !slices.Contains(services, service) {
			continue
		}
		if err := c.checks[key](c); err != nil {
			refuse(key, key+": "+err.Error())
		}
	}
	if slices.Contains(services, "analyzer") {
		if peers, err := c.Analyzer.ClusterPeers(); err != nil {
			refuse("analyzer.peers", err.Error())
		} else if len(peers) > 0 && c.Analyzer.Cluster == "" {
			refuse("analyzer.peers", "peering was requested but analyzer has no cluster name (analyzer.cluster)")
		}
		backend("analyzer.auth.api.backend", c.Analyzer.Auth.API.Backend)
		backend("analyzer.auth.cluster.backend", c.Analyzer.Auth.Cluster.Backend)
		storage("analyzer.topology.backend", c.Analyzer.Topology.Backend)
		storage("analyzer.flow.backend", c.Analyzer.Flow.Backend)
	}
	if slices.Contains(services, "agent") {
		backend("agent.auth.api.backend", c.Agent.Auth.API.Backend)
	}
	return problems
}

// set tells whether a text has been given.
func (c *Config) set(name string) bool {
	text, _ := c.values[name].v.(string)
	return text != ""
}

// Backend returns the section of auth that a backend key names.
func (c *Config) Backend(name string) Auth { return c.Auth[lower(name)] }

// StorageSection returns the section of storage that a backend key names, its driver in lower case.
func (c *Config) StorageSection(name string) Storage {
	section := c.Storage[lower(name)]
	section.Driver = lower(section.Driver)
	return section
}
