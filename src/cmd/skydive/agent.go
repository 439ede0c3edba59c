package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/urfave/cli/v2"

	"skydive/src/agent"
	"skydive/src/api"
	"skydive/src/config"
	"skydive/src/probe"
	"skydive/src/pubsub"
	"skydive/src/query"
)

func agentCommand(env *environment) *cli.Command {
	return &cli.Command{
		Name:  "agent",
		Usage: "run an agent: it watches this host and reports to the analyzers",
		Description: "The agent needs no configuration on the host of the analyzer. Elsewhere name the analyzers:\n\n" +
			"   SKYDIVE_ANALYZERS=\"analyzer1:8082 analyzer2:8082\" skydive agent\n\n" +
			"It runs without root too, sees less then, and says what it lacks in /api/status and on the host node.\n" +
			"The capabilities it can use are CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Aliases: []string{"l"}, Usage: "`ADDRESS` of the agent's own API", Value: "127.0.0.1:8081"},
			&cli.StringFlag{Name: "host-id", Usage: "`NAME` of this host in the graph (default: the host name)"},
		},
		Action: func(c *cli.Context) error {
			cfg, log, closeLog, err := env.load(c, "agent", map[string]string{"listen": "agent.listen", "host-id": "host_id"})
			if err != nil {
				return err
			}
			defer closeLog()
			s, err := newAgent(cfg, log)
			if err != nil {
				return fmt.Errorf("Failed to create agent: %w", err)
			}
			if err := s.run(c.Context); err != nil {
				return fmt.Errorf("Failed to start agent: %w", err)
			}
			return nil
		},
	}
}

func newAgent(cfg *config.Config, log *slog.Logger) (*service, error) {
	if cfg.TLS.ClientCert != "" && cfg.TLS.ServerCert == "" && !cfg.Agent.Listen.Loopback() {
		return nil, fmt.Errorf("agent.listen: %s would be reached in clear text although TLS is on: set tls.server_cert and tls.server_key, or listen on 127.0.0.1", cfg.Agent.Listen)
	}
	origin := "agent." + cfg.HostID
	s, err := newService("agent", cfg.Agent.Auth.API.Backend, cfg, log, probe.TID(origin))
	if err != nil {
		return nil, err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	root, err := probe.AddHost(s.graph, probe.HostNode{ID: cfg.HostID, Hostname: hostname, Metadata: cfg.Agent.Metadata, Origin: origin})
	if err != nil {
		return nil, err
	}
	switches, err := newSwitchTLS(cfg, log, s.add)
	if err != nil {
		return nil, err
	}
	supervisor, err := probe.NewSupervisor(probe.Options{
		Graph: s.graph, Root: root, Host: cfg.HostID, Origin: origin,
		Specs: probes, Names: append(alwaysOn[:len(alwaysOn):len(alwaysOn)], cfg.Agent.Topology.Probes...), Load: probeConfig(cfg, switches),
		Log: log, Registerer: s.registry,
	})
	if err != nil {
		return nil, err
	}
	metrics := pubsub.NewMetrics(s.registry)
	publisher := pubsub.NewPublisher(pubsub.PublisherOptions{Endpoint: s.endpoint("/ws/publisher"), Graph: s.graph, Source: "publisher", Metrics: metrics, Host: cfg.HostID, Own: origin})
	subscribers := pubsub.NewSubscribers(pubsub.SubscriberOptions{Endpoint: s.listenerEndpoint("/ws/subscriber"), Graph: s.graph, Metrics: metrics})
	var analyzers []string
	for _, a := range cfg.AnalyzerAddresses() {
		analyzers = append(analyzers, a.String())
	}
	dial := s.dial(cfg.Agent.Auth.Cluster.Username, cfg.Agent.Auth.Cluster.Password)
	dial.Protocol, dial.PersistencePolicy = "protobuf", pubsub.DeleteOnDisconnect
	forwarder := agent.New(agent.Options{Graph: s.graph, Analyzers: analyzers, Logger: log, Registerer: s.registry, Dial: dial})
	packets, err := newPackets(s, forwarder, dial, analyzers, switches)
	if err != nil {
		return nil, err
	}
	for _, run := range []func(context.Context) error{supervisor.Run, publisher.Run, subscribers.Run, forwarder.Run} {
		s.add(run)
	}
	err = s.serve(cfg.Agent.Listen, api.Options{
		Steps:    query.BaseSteps,
		Warnings: s.users.Warnings,
		Check:    func(user, object, action string) any { return s.enforcer.Check(user, object, action) },
		Health:   func() error { return supervised(supervisor.Status()) },
		Ready:    func() error { return connected(analyzers, forwarder.Status()) },
		Status: map[string]func() any{
			"Clients":        func() any { return subscribers.Status() },
			"Publishers":     func() any { return publisher.Status() },
			"Analyzers":      func() any { return forwarder.Status() },
			"TopologyProbes": func() any { return supervisor.Status() },
			"FlowProbes":     func() any { return packets.captures.Types() },
			"Flows":          func() any { return packets.sender.Status() },
			"TLS":            s.certs.Status,
		},
		Sockets: map[string]http.Handler{publisher.Path(): publisher, subscribers.Path(): subscribers},
	})
	return s, err
}

// supervised tells whether the probes are run. One that fails is tried again, and shown in the status: a restart would do no more.
func supervised(probes map[string]probe.Status) error {
	for _, p := range probes {
		if p.Status == probe.Stopped || p.Status == probe.Stopping {
			return errors.New("the probes do not run")
		}
	}
	return nil
}

// connected tells whether the graph goes to an analyzer, if it is to go anywhere.
func connected(analyzers []string, links map[string]agent.AnalyzerStatus) error {
	for _, l := range links {
		if l.IsMaster {
			return nil
		}
	}
	if len(analyzers) == 0 {
		return nil
	}
	return errors.New("no analyzer is connected")
}
