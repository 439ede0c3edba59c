package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"skydive/src/config"
)

func allinoneCommand(env *environment) *cli.Command {
	return &cli.Command{
		Name:  "allinone",
		Usage: "run an analyzer and an agent of this host in one process",
		Description: "The quickest way to see the network of one host; root sees all of it, anybody else a part:\n\n" +
			"   sudo skydive allinone\n" +
			"   skydive client query \"G.V().Has('Type', 'netns').Values('Name')\"\n\n" +
			"Without a writable /var/lib/skydive the data is kept below $XDG_STATE_HOME/skydive.",
		Flags: []cli.Flag{
			&cli.UintFlag{Name: "analyzer-uid", Usage: "accepted for compatibility: analyzer and agent are one process now, of one `UID`"},
		},
		Action: func(c *cli.Context) error {
			cfg, log, closeLog, err := env.load(c, "allinone", nil)
			if err != nil {
				return err
			}
			defer closeLog()
			if c.IsSet("analyzer-uid") {
				log.Warn("--analyzer-uid has no effect: analyzer and agent are one process; run both services to separate them")
			}
			analyzer, err := newAnalyzer(env, cfg, log.With("service", "analyzer"))
			if err != nil {
				return fmt.Errorf("Failed to create analyzer: %w", err)
			}
			agent, err := newAgent(agentBeside(cfg), log.With("service", "agent"))
			if err != nil {
				return fmt.Errorf("Failed to create agent: %w", err)
			}
			var both group
			for name, s := range map[string]*service{"analyzer": analyzer, "agent": agent} {
				both.add(func(ctx context.Context) error {
					if err := s.run(ctx); err != nil {
						return fmt.Errorf("Failed to start %s: %w", name, err)
					}
					return nil
				})
			}
			return both.run(c.Context)
		},
	}
}

// agentBeside is the configuration of an agent that reports to the analyzer of this very process, whatever analyzers the file names,
// and shows it the credentials that analyzers show each other when it has none of its own.
func agentBeside(cfg *config.Config) *config.Config {
	own := *cfg
	own.Analyzers = []config.Address{reachable(cfg.Analyzer.Listen)}
	if c := cfg.Analyzer.Auth.Cluster; own.Agent.Auth.Cluster.Username == "" {
		own.Agent.Auth.Cluster.Username, own.Agent.Auth.Cluster.Password = c.Username, c.Password
	}
	return &own
}

// reachable turns a wildcard address into one that this host can dial.
func reachable(a config.Address) config.Address {
	switch a.Host {
	case "0.0.0.0":
		a.Host = "127.0.0.1"
	case "::":
		a.Host = "::1"
	}
	return a
}
