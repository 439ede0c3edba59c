package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"skydive/src/client"
	"skydive/src/config"
)

const defaultAnalyzer = "127.0.0.1:8082"

func (env *environment) clientCommand() *cli.Command {
	commands := []*cli.Command{env.queryCommand(), env.statusCommand(), env.topologyCommand(), env.flowCommand(), env.nodeCommand(), env.edgeCommand(), env.rbacCommand()}
	return &cli.Command{
		Name:  "client",
		Usage: "ask and change a running analyzer",
		Description: "skydive client status\n" +
			"skydive client query \"G.V().Has('Type', 'veth').Values('Name')\"\n" +
			"skydive client --analyzer 10.0.0.1:8082 --username alice query \"G.V().Count()\"\n\n" +
			"The connection is encrypted when --cacert, or both --cert and --key, are given. The options may stand anywhere on the command line.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "analyzer", Usage: "`ADDRESS` of the analyzer: host:port, :port or port (default: $SKYDIVE_ANALYZER, else " + defaultAnalyzer + ")"},
			&cli.StringFlag{Name: "username", Usage: "user `NAME` (default: $SKYDIVE_USERNAME)"},
			&cli.StringFlag{Name: "password", Usage: "password of the user; $SKYDIVE_PASSWORD does not show it to other users of this host"},
			&cli.StringFlag{Name: "cacert", Usage: "`FILE` of the authorities that signed the analyzer's certificate (default: those of the system)"},
			&cli.StringFlag{Name: "cert", Usage: "`FILE` of the certificate to show"},
			&cli.StringFlag{Name: "key", Usage: "`FILE` of the certificate's private key"},
			&cli.BoolFlag{Name: "insecure", Usage: "do not verify the analyzer's certificate"},
		},
		Subcommands: append(commands, env.resourceCommands()...),
	}
}

// connect returns a client for the options of the command line. Configuration
// is not needed; a file that was named must be valid all the same.
func (env *environment) connect(c *cli.Context) (*client.Client, error) {
	if files := c.StringSlice("conf"); len(files) > 0 {
		if _, _, err := config.Load(env.configOptions(c)); err != nil {
			return nil, err
		}
	}
	if (c.String("cert") == "") != (c.String("key") == "") {
		return nil, errors.New("--cert and --key go together")
	}
	if c.Bool("insecure") && c.String("cert") == "" && c.String("cacert") == "" {
		fmt.Fprintln(env.Stderr, "Warning: the connection is not encrypted: --insecure needs --cacert, or --cert and --key")
	}
	return client.New(client.Options{
		Analyzer: cmp.Or(c.String("analyzer"), env.getenv("SKYDIVE_ANALYZER"), defaultAnalyzer),
		Username: givenOr(c, "username", env.getenv("SKYDIVE_USERNAME")),
		Password: givenOr(c, "password", env.getenv("SKYDIVE_PASSWORD")),
		CACert:   c.String("cacert"), Cert: c.String("cert"), Key: c.String("key"), Insecure: c.Bool("insecure"),
	})
}

// givenOr returns a flag that was given, even empty, or something else.
func givenOr(c *cli.Context, flag, otherwise string) string {
	if c.IsSet(flag) {
		return c.String(flag)
	}
	return otherwise
}

// printJSON writes JSON indented by two blanks, its keys in the server's order.
func (env *environment) printJSON(data []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(data), "", "  "); err != nil {
		return fmt.Errorf("the answer is not JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(env.Stdout)
	return err
}

// printSorted is printJSON with the keys in order.
func (env *environment) printSorted(data []byte) error {
	var v any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return fmt.Errorf("the answer is not JSON: %w", err)
	}
	sorted, err := json.Marshal(v) // maps are written by key
	if err != nil {
		return err
	}
	return env.printJSON(sorted)
}
