package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"

	"github.com/urfave/cli/v2"

	"skydive/src/agent"
	"skydive/src/analyzer"
	"skydive/src/api"
	"skydive/src/auth"
	"skydive/src/config"
	"skydive/src/etcd"
	"skydive/src/ondemand"
	"skydive/src/pubsub"
	"skydive/src/query"
	"skydive/src/resource"
)

func analyzerCommand(env *environment) *cli.Command {
	return &cli.Command{
		Name:  "analyzer",
		Usage: "run an analyzer: it merges what agents report and answers questions",
		Description: "The analyzer serves REST and WebSocket on --listen, and keeps what is created through the API in an\n" +
			"embedded etcd (etcd.data_dir). One analyzer needs no configuration; to be reached by other hosts:\n\n" +
			"   skydive analyzer --listen 0.0.0.0:8082\n\n" +
			"SIGTERM and SIGINT end it cleanly; SIGHUP opens the log file anew, or ends it when it has none.",
		Flags: []cli.Flag{&cli.StringFlag{Name: "listen", Aliases: []string{"l"}, Usage: "`ADDRESS` of the API", Value: "127.0.0.1:8082"}},
		Action: func(c *cli.Context) error {
			cfg, log, closeLog, err := env.load(c, "analyzer", map[string]string{"listen": "analyzer.listen"})
			if err != nil {
				return err
			}
			defer closeLog()
			s, err := newAnalyzer(env, cfg, log)
			if err != nil {
				return fmt.Errorf("Failed to create analyzer: %w", err)
			}
			if err := s.run(c.Context); err != nil {
				return fmt.Errorf("Failed to start analyzer: %w", err)
			}
			return nil
		},
	}
}

func newAnalyzer(env *environment, cfg *config.Config, log *slog.Logger) (*service, error) {
	s, err := newService("analyzer", cfg.Analyzer.Auth.API.Backend, cfg, log)
	if err != nil {
		return nil, err
	}
	if s.certs.Enabled() && s.certs.Server() == nil {
		return nil, errors.New("TLS is on, and the analyzer has no certificate of its own: set tls.server_cert and tls.server_key")
	}
	cluster, err := s.authenticator(cfg.Analyzer.Auth.Cluster.Backend, "admin", s.peers)
	if err != nil {
		return nil, err
	}
	store, err := newStore(env, s, cluster)
	if err != nil {
		return nil, err
	}
	metrics := pubsub.NewMetrics(s.registry)
	agents := analyzer.NewAgents(analyzer.AgentsOptions{Endpoint: s.clusterEndpoint("/ws/agent/topology", cluster), Graph: s.graph, Metrics: metrics})
	publisher := pubsub.NewPublisher(pubsub.PublisherOptions{Endpoint: s.endpoint("/ws/publisher"), Graph: s.graph, Source: "publisher", Metrics: metrics})
	kept := newArchives(env, s)
	past := pubsub.SubscriberOptions{Endpoint: s.listenerEndpoint("/ws/subscriber"), Graph: s.graph, Metrics: metrics}
	if kept.topology != nil {
		past.History = kept.topology
	}
	subscribers := pubsub.NewSubscribers(past)
	both := pubsub.NewBoth(pubsub.PublisherOptions{Endpoint: s.endpoint("/ws/pubsub"), Graph: s.graph, Source: "publisher", Metrics: metrics}, past)
	listen := ""
	closed := !cluster.Open() || s.certs.Enabled()
	if flowProtocol(cfg, closed) == agent.FlowUDP {
		listen = cfg.Analyzer.Listen.String()
	}
	var keeper analyzer.Store
	if kept.flows != nil {
		keeper = kept.flows
	}
	flows := analyzer.NewFlows(analyzer.FlowsOptions{
		Agents: agents, Listen: listen, Intake: s.clusterEndpoint("/ws/agent/flow", cluster), Feed: s.listenerEndpoint("/ws/subscriber/flow"),
		Store: keeper, MaxBuffer: cfg.Analyzer.Flow.MaxBufferSize, Logger: log, Registerer: s.registry,
	})
	replicas := s.newReplicas(cluster, agents, kept, publisher, both.Publisher())
	peering, err := s.newPeering(store)
	if err != nil {
		return nil, err
	}
	live, packets := analyzer.NewLiveFlows(agents, log, s.registry), analyzer.NewLivePackets(agents, log, s.registry)
	imported, err := flowOptions(cfg)
	if err != nil {
		return nil, err
	}
	o := ondemand.Options{
		Graph: s.graph, Ask: agents.Request, Away: analyzer.ErrNoAgent, Logger: log, Registerer: s.registry,
		Watch: func(ctx context.Context, prefix string, fn func(string, []byte, bool)) error {
			return store.Watch(ctx, prefix, func(e etcd.Event) { fn(e.Key, e.Value, e.Synced) })
		},
		Notify: func(namespace, typ string, obj []byte) {
			subscribers.Broadcast(namespace, typ, obj)
			both.Broadcast(namespace, typ, obj)
		},
	}
	alerts := s.elect(store, "alert-server")
	o.Leads = s.elect(store, "ondemand-client-Capture")
	captures := ondemand.NewCaptures(o)
	o.Leads = s.elect(store, "ondemand-client-PacketInjection")
	injections := ondemand.NewInjections(o)
	probes, err := s.newAnalyzerProbes(store)
	if err != nil {
		return nil, err
	}
	s.add(s.followPolicy(store))
	for _, run := range []func(context.Context) error{
		store.Run, agents.Run, replicas.Run, publisher.Run, subscribers.Run, both.Run, peering.Run, captures.Run, injections.Run,
	} {
		s.add(run)
	}
	s.add(func(ctx context.Context) error { return kept.run(ctx, s.graph, flows.Run) })
	s.add(func(ctx context.Context) error { return startupCapture(ctx, cfg, store, log) })
	warnings := analyzerWarnings(cfg, s.users, closed)
	for _, w := range warnings {
		log.Warn(w)
	}
	err = s.serve(cfg.Analyzer.Listen, api.Options{
		Steps:    query.AllSteps,
		Source:   func() query.Source { return kept.source(s.graph, live, cfg.Flow.Expire) },
		Store:    store,
		Engines:  []string{"capture", "injectpacket"},
		Defaults: resource.Defaults{LayerKeyMode: cfg.Flow.DefaultLayerKeyMode},
		Views:    map[string]func(resource.Resource, bool) any{"capture": captures.View, "injectpacket": injections.View},
		Checks: map[string]func(context.Context, resource.Resource) error{
			"injectpacket": func(ctx context.Context, r resource.Resource) error {
				return ondemand.CheckInjection(ctx, s.graph.Snapshot(), r)
			},
		},
		Packets: func(ctx context.Context, id string, w io.Writer) error {
			return streamPackets(ctx, store, packets, id, w)
		},
		Pcap:   func(ctx context.Context, r io.Reader) error { return importPcap(ctx, flows, imported, r) },
		Config: cfg.Get,
		Check:  func(user, object, action string) any { return s.enforcer.Check(user, object, action) },
		Policy: policy{store},
		Rights: s.enforcer,
		Warnings: func() []string {
			list := slices.Concat(warnings, s.users.Warnings(), cluster.Warnings())
			if s.enforcer.Status().State == "failed" {
				list = append(list, "the policy in etcd is refused: see RBAC of /api/status")
			}
			return list
		},
		Health: func() error {
			if state := store.Status().State; state != "running" && state != "failing" {
				return etcd.ErrNotReady
			}
			return nil
		},
		Ready: s.enforcer.Pending,
		Status: map[string]func() any{
			"Agents":      func() any { return agents.Status() },
			"Publishers":  func() any { return publisher.Status() },
			"Subscribers": func() any { return subscribers.Status() },
			"PubSub":      func() any { return both.Status() },
			"Peers":       replicas.Status,
			"Clusters":    func() any { return peering.Status() },
			"Probes":      func() any { return probes.Status() },
			"Alerts":      func() any { return map[string]bool{"IsMaster": alerts()} },
			"Captures":    func() any { return map[string]bool{"IsMaster": captures.Leading()} },
			"Flows":       func() any { return flows.Status() },
			"Archive":     func() any { return kept.status() },
			"Etcd":        func() any { return store.Status() },
			"TLS":         s.certs.Status,
			"RBAC":        func() any { return s.enforcer.Status() },
		},
		Sockets: map[string]http.Handler{
			agents.Path(): agents, publisher.Path(): publisher, subscribers.Path(): subscribers, both.Path(): both, replicas.Path(): replicas,
			flows.Intake().Path(): flows.Intake(), flows.Feed().Path(): flows.Feed(),
		},
	})
	return s, err
}

// analyzerWarnings are what whoever looks after an analyzer should know about its configuration.
func analyzerWarnings(cfg *config.Config, users *auth.Authenticator, closed bool) (list []string) {
	if !closed && !users.Open() && !cfg.Analyzer.Listen.Loopback() {
		list = append(list, "agents are taken without authentication, beyond loopback: see analyzer.auth.cluster.backend")
	}
	if sameUsers(cfg) && !users.Open() {
		list = append(list, "every user of the API can pass for an agent or an analyzer, and change the whole graph: give analyzer.auth.cluster.backend a section of its own")
	}
	if closed && cfg.Flow.Protocol == agent.FlowUDP {
		list = append(list, openFlows)
	}
	return list
}
