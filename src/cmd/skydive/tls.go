package main

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"skydive/src/config"
	"skydive/src/tlsconf"
)

func (env *environment) tlsCommand() *cli.Command {
	return &cli.Command{
		Name:  "tls",
		Usage: "make and check certificates",
		Description: "skydive tls init --dir pki analyzer1=10.0.0.1 agent1 agent2   an authority, and certificates of three hosts\n" +
			"skydive tls check                                             what the services here would say of theirs\n" +
			"skydive tls check pki/ca.crt pki/agent1/*                     what is in files",
		Subcommands: []*cli.Command{
			{
				Name:      "init",
				Usage:     "make an authority and certificates for hosts",
				ArgsUsage: "HOST[=NAME,ADDRESS…]…",
				Description: "Name every host of analyzers and agents as the others reach it: what stands in \"analyzers\" of the configuration\n" +
					"must be a name or an address of the certificate. Other names and addresses of a host follow behind =.\n" +
					"localhost, 127.0.0.1 and ::1 are always among them.\n\n" +
					"   skydive tls init --dir pki analyzer1=analyzer1.example.org,10.0.0.1 agent1\n\n" +
					"gives pki/ca.crt and pki/ca.key, the authority, and in pki/analyzer1 and pki/agent1 what these hosts need:\n" +
					"ca.crt, server.crt, server.key, client.crt, client.key. The key of the authority stays where it is; no host needs it.\n" +
					"Run it again to add hosts: what is there is kept. With --renew the certificates are made anew, of the named hosts, or\n" +
					"of all when none is named; their names stay unless others are given. Services take renewed files into use by themselves.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "dir", Usage: "`DIRECTORY` to make them in", Required: true},
					&cli.IntFlag{Name: "days", Usage: "`DAYS` until certificates expire", Value: 825},
					&cli.StringFlag{Name: "ca", Usage: "`FILE` of an authority's certificate that is there already (default: ca.crt of the directory, made if missing)"},
					&cli.StringFlag{Name: "ca-key", Usage: "`FILE` of its private key (default: that of --ca, ending with .key)"},
					&cli.BoolFlag{Name: "renew", Usage: "make certificates anew"},
				},
				Action: env.initTLS,
			},
			{
				Name:      "check",
				Usage:     "tell what a service would say of its certificates, or what is in files",
				ArgsUsage: "[FILE…]",
				Description: "Without files the section tls of the configuration is read as a service reads it, by the user who runs this:\n\n" +
					"   sudo -u skydive skydive tls check --conf /etc/skydive/skydive.yml\n\n" +
					"With files it tells which certificates and keys they hold, which belong together and who signed what.\n" +
					"The exit code is 1 when something cannot be used.",
				Action: env.checkTLS,
			},
		},
	}
}

func (env *environment) initTLS(c *cli.Context) error {
	if !c.Args().Present() && !c.Bool("renew") {
		return usage(c, "a host")
	}
	if c.Int("days") < 1 || c.Int("days") > 36500 {
		return fmt.Errorf("--days: %d is not between 1 and 36500", c.Int("days"))
	}
	o := tlsconf.InitOptions{
		Dir: c.String("dir"), Life: time.Duration(c.Int("days")) * 24 * time.Hour, Renew: c.Bool("renew"), Now: time.Now(),
		CACert: c.String("ca"), CAKey: c.String("ca-key"),
	}
	if o.CACert != "" && o.CAKey == "" {
		o.CAKey = strings.TrimSuffix(o.CACert, filepath.Ext(o.CACert)) + ".key"
	}
	if o.CACert == "" && o.CAKey != "" {
		return errors.New("--ca-key needs --ca")
	}
	for _, arg := range c.Args().Slice() {
		h, err := tlsconf.ParseHost(arg)
		if err != nil {
			return err
		}
		o.Hosts = append(o.Hosts, h)
	}
	made, err := tlsconf.Init(o)
	for _, m := range made {
		line := fmt.Sprintf("%-8s %s, until %s", m.Action, m.What, m.Until.Format(time.DateOnly))
		if m.Note != "" {
			line += " (" + m.Note + ")"
		}
		fmt.Fprintln(env.Stderr, line)
	}
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Stdout, tlsGuide, o.Dir, dir)
	return nil
}

// tlsGuide is valid YAML as a whole; %[1]s is the directory as it was given, %[2]s its absolute path.
const tlsGuide = `# Copy the directory of each host there, and let the service read the keys, and nobody else:
#   ssh root@HOST mkdir -p /etc/skydive/tls
#   scp %[1]s/HOST/* root@HOST:/etc/skydive/tls/
#   ssh root@HOST 'chown -R root:skydive /etc/skydive/tls && chmod 750 /etc/skydive/tls && chmod 640 /etc/skydive/tls/*.key'
# Then, on all of them, in /etc/skydive/skydive.yml:
tls:
  ca_cert: /etc/skydive/tls/ca.crt
  server_cert: /etc/skydive/tls/server.crt
  server_key: /etc/skydive/tls/server.key
  client_cert: /etc/skydive/tls/client.crt
  client_key: /etc/skydive/tls/client.key

# Or let the Ansible roles do all that: variables of the inventory, for hosts that are called as they are here.
skydive_tls_ca_cert: "%[2]s/ca.crt"
skydive_tls_server_cert: "%[2]s/{{ inventory_hostname }}/server.crt"
skydive_tls_server_key: "%[2]s/{{ inventory_hostname }}/server.key"
skydive_tls_client_cert: "%[2]s/{{ inventory_hostname }}/client.crt"
skydive_tls_client_key: "%[2]s/{{ inventory_hostname }}/client.key"
`

func (env *environment) checkTLS(c *cli.Context) error {
	if c.Args().Present() {
		return env.inspectTLS(c.Args().Slice())
	}
	cfg, _, err := config.Load(env.configOptions(c))
	if err != nil {
		return err
	}
	certificates, err := tlsconf.New(tlsFiles(cfg), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	status := certificates.Status().(tlsconf.Status)
	if !certificates.Enabled() {
		fmt.Fprintln(env.Stdout, "TLS is off: "+status.Reason)
		return nil
	}
	for _, cert := range status.Certificates {
		fmt.Fprintf(env.Stdout, "%-6s %s: %s, until %s\n", cert.Use, cert.File, cert.Subject, cert.NotAfter.Format(time.DateOnly))
		if len(cert.Names) > 0 && cert.Use != "ca" {
			fmt.Fprintln(env.Stdout, "       for "+strings.Join(cert.Names, " "))
		}
	}
	if status.Reason != "" {
		status.Warnings = append(status.Warnings, status.Reason)
	}
	for _, w := range status.Warnings {
		fmt.Fprintln(env.Stderr, "warning: "+w)
	}
	return nil
}

func (env *environment) inspectTLS(files []string) error {
	bad := false
	for _, f := range tlsconf.Inspect(files, time.Now()) {
		fmt.Fprintln(env.Stdout, f.File+":")
		for _, line := range f.Contents {
			fmt.Fprintln(env.Stdout, "  "+line)
		}
		if f.Problem != "" {
			bad = true
			fmt.Fprintln(env.Stderr, "error: "+f.File+" "+f.Problem)
		}
	}
	if bad {
		return errors.New("not all files can be used")
	}
	return nil
}
