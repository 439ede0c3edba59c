package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"skydive/src/client"
	"skydive/src/graph"
)

// formats are the output formats of queries and what the server calls them.
var formats = map[string]string{"json": "application/json", "dot": "text/vnd.graphviz", "pcap": "application/vnd.tcpdump.pcap"}

func (env *environment) queryCommand() *cli.Command {
	return &cli.Command{
		Name:      "query",
		Usage:     "answer a Gremlin expression",
		ArgsUsage: "GREMLIN",
		Description: "skydive client query \"G.V().Has('Name', 'eth0')\"\n" +
			"skydive client query \"G.V().Has('Type', 'host').Out().Count()\"\n" +
			"skydive client query --format dot \"G\" | dot -Tsvg > topology.svg",
		Flags: []cli.Flag{formatFlag(), &cli.BoolFlag{Name: "delete", Usage: "accepted for old scripts; deletes nothing", Hidden: true}},
		Action: func(c *cli.Context) error {
			switch c.NArg() {
			case 0:
				return usage(c, "a Gremlin expression")
			case 1:
				return env.query(c, c.Args().First(), c.String("format"))
			}
			return fmt.Errorf("one Gremlin expression, not %d: put it into quotes", c.NArg())
		},
	}
}

func formatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Value: "json", Usage: "json, dot (graphs only) or pcap (raw packets only)"}
}

func (env *environment) query(c *cli.Context, gremlin, format string) error {
	accept, ok := formats[format]
	if !ok {
		return errors.New("Invalid output format")
	}
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	body, err := remote.Query(c.Context, gremlin, accept)
	if err != nil {
		return err
	}
	defer body.Close()
	if format != "json" {
		if _, err = io.Copy(env.Stdout, body); err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		return nil
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "\t"); err != nil {
		return fmt.Errorf("the answer is not JSON: %w", err)
	}
	_, err = b.WriteTo(env.Stdout)
	return err
}

func (env *environment) statusCommand() *cli.Command {
	return &cli.Command{
		Name:        "status",
		Usage:       "show what is connected and which probes run",
		Description: "skydive client status\nskydive client --analyzer 127.0.0.1:8081 status   an agent answers too",
		Action: func(c *cli.Context) error {
			remote, err := env.connect(c)
			if err != nil {
				return err
			}
			var status json.RawMessage
			if err := remote.Status(c.Context, &status); err != nil {
				return err
			}
			return env.printSorted(status)
		},
	}
}

func (env *environment) topologyCommand() *cli.Command {
	return &cli.Command{
		Name:  "topology",
		Usage: "export and import the whole topology",
		Subcommands: []*cli.Command{
			{
				Name:        "export",
				Usage:       "print all nodes and edges",
				Description: "skydive client topology export > graph.json",
				Action:      func(c *cli.Context) error { return env.query(c, "G", "json") },
			},
			{
				Name:        "import",
				Usage:       "add the nodes and edges of an export",
				Description: "skydive client topology import --file graph.json",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "file", Value: "graph.json", Usage: "`FILE` that export wrote; - for standard input"},
					&cli.StringFlag{Name: "endpoint", Value: "/ws/publisher", Usage: "WebSocket `PATH` to send it to"},
				},
				Action: env.importTopology,
			},
			{
				Name:   "query",
				Usage:  "deprecated: use \"client query\"",
				Hidden: true,
				Flags:  []cli.Flag{&cli.StringFlag{Name: "gremlin", Value: "G", Usage: "Gremlin expression"}, formatFlag()},
				Action: func(c *cli.Context) error {
					fmt.Fprintln(env.Stderr, "The 'client topology query' command is deprecated. Please use 'client query' instead")
					return env.query(c, c.String("gremlin"), c.String("format"))
				},
			},
		},
	}
}

func (env *environment) importTopology(c *cli.Context) error {
	data, err := env.readInput(c.String("file"))
	if err != nil {
		return err
	}
	var graphs []struct {
		Nodes []*graph.Node
		Edges []*graph.Edge
	}
	if err := json.Unmarshal(data, &graphs); err != nil {
		return fmt.Errorf("Invalid graph format: %w", err)
	}
	if len(graphs) != 1 {
		return fmt.Errorf("Invalid graph format: want a list of one graph, not of %d", len(graphs))
	}
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	ctx := c.Context
	return remote.Publish(ctx, client.PublisherOptions{Path: c.String("endpoint")}, func(p *client.Publisher) error {
		for _, n := range graphs[0].Nodes {
			if err := p.AddNode(ctx, n); err != nil {
				return err
			}
		}
		for _, e := range graphs[0].Edges {
			if err := p.AddEdge(ctx, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// readInput reads a file, or standard input for "-".
func (env *environment) readInput(file string) ([]byte, error) {
	read := func() ([]byte, error) { return os.ReadFile(file) }
	if file == "-" {
		read = func() ([]byte, error) { return io.ReadAll(env.Stdin) }
	}
	data, err := read()
	if err != nil {
		return nil, fmt.Errorf("read input: %w", err)
	}
	return data, nil
}
