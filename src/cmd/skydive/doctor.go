package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"skydive/src/config"
	"skydive/src/doctor"
	"skydive/src/tlsconf"
)

func (env *environment) doctorCommand() *cli.Command {
	return &cli.Command{
		Name:      "doctor",
		Usage:     "explain why a connection to an analyzer does not come up",
		ArgsUsage: "[HOST:PORT…]",
		Description: "Goes to each analyzer of the configuration, or to the given addresses, as the service of this host would:\n\n" +
			"   skydive doctor --conf /etc/skydive/skydive.yml                 as the agent\n" +
			"   skydive doctor --conf /etc/skydive/skydive.yml --as analyzer   as an analyzer to the others\n\n" +
			"and tells of every step whether it is ok, failed or was skipped, and what to do:\n\n" +
			"   certificates  those of this host (tls.*)\n" +
			"   dns           the name has addresses\n" +
			"   tcp           something listens there, and no firewall is in the way\n" +
			"   tls           who is there, by whose word and until when; whether our certificate is taken\n" +
			"   auth          the credentials (agent.auth.cluster.*, analyzer.auth.cluster.*) and the rights that go with them\n" +
			"   version       what runs there\n" +
			"   clock         how far it is from the one here\n" +
			"   websocket     the connection itself, and whether another host has the same host_id\n\n" +
			"Run it as the user of the service, so that the same files can be read: sudo -u skydive skydive doctor.\n" +
			"Nothing is changed anywhere. The exit code is 1 if anything failed.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "as", Usage: "`SERVICE` whose connections are tried, agent or analyzer", Value: "agent"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
			&cli.DurationFlag{Name: "timeout", Usage: "`TIME` that each step may take", Value: 5 * time.Second},
		},
		Action: env.doctor,
	}
}

func (env *environment) doctor(c *cli.Context) error {
	service := c.String("as")
	if service != "agent" && service != "analyzer" {
		return fmt.Errorf("--as: %q is neither agent nor analyzer", service)
	}
	cfg, problems, err := config.Load(env.configOptions(c))
	if err != nil {
		return err
	}
	for _, p := range problems {
		fmt.Fprintln(env.Stderr, severity(p))
	}
	o := doctor.Options{Service: service, HostID: cfg.HostID, Version: buildVersion(), Cookies: cookies(cfg), Timeout: c.Duration("timeout")}
	o.Username, o.Password = cfg.Agent.Auth.Cluster.Username, cfg.Agent.Auth.Cluster.Password
	if service == "analyzer" {
		o.Username, o.Password = cfg.Analyzer.Auth.Cluster.Username, cfg.Analyzer.Auth.Cluster.Password
	}
	o.Certificates, o.CertificatesError = tlsconf.New(tlsFiles(cfg), slog.New(slog.DiscardHandler))
	addresses := cfg.AnalyzerAddresses()
	if c.Args().Present() {
		addresses = nil
		for _, arg := range c.Args().Slice() {
			a, err := config.ParseAddress(arg)
			if err != nil {
				return err
			}
			addresses = append(addresses, a)
		}
	}
	if len(addresses) == 0 {
		return errors.New("the configuration names no analyzer (analyzers is empty): give an address")
	}
	for _, a := range addresses {
		o.Addresses = append(o.Addresses, reachable(a).String())
	}
	reports := doctor.Run(c.Context, o)
	if c.Bool("json") {
		data, err := json.Marshal(reports)
		if err != nil {
			return err
		}
		err = env.printJSON(data)
		if err != nil {
			return err
		}
	} else {
		env.printReports(reports)
	}
	for _, r := range reports {
		if r.Failed() {
			return errors.New("something is wrong, see above")
		}
	}
	return nil
}

func (env *environment) printReports(reports []doctor.Report) {
	for _, r := range reports {
		fmt.Fprintln(env.Stdout, r.Address)
		for _, check := range r.Checks {
			fmt.Fprintf(env.Stdout, "  %-7s  %-12s  %s\n", check.State, check.Name, strings.ReplaceAll(check.Result, "\n", "\n"+strings.Repeat(" ", 25)))
			if check.Advice != "" {
				fmt.Fprintf(env.Stdout, "  %-7s  %-12s  → %s\n", "", "", check.Advice)
			}
		}
	}
}
