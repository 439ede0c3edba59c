package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"skydive/src/client"
	"skydive/src/field"
	"skydive/src/graph"
)

func (env *environment) nodeCommand() *cli.Command {
	return &cli.Command{
		Name:  "node",
		Usage: "nodes of the topology",
		Description: "skydive client node create --node-name tor1 --node-type fabric --metadata 'Rack=r12, Site.Name=Paris'\n" +
			"skydive client node update ID --add Rack='\"r13\"' --remove Site.Name\n" +
			"skydive client node delete --gremlin \"G.V().Has('Type', 'fabric')\"",
		Subcommands: append([]*cli.Command{
			{
				Name:  "create",
				Usage: "add a node",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "node-name", Usage: "`NAME` of the node"},
					&cli.StringFlag{Name: "node-type", Usage: "`TYPE` of the node, such as device"},
					metadataFlag(), hostFlag(),
				},
				Action: env.createNode,
			},
		}, env.elementCommands("node", "node")...),
	}
}

func (env *environment) edgeCommand() *cli.Command {
	return &cli.Command{
		Name:  "edge",
		Usage: "edges of the topology",
		Description: "skydive client edge create --parent ID --child ID --edge-type layer2\n" +
			"skydive client edge delete ID",
		Subcommands: append([]*cli.Command{
			{
				Name:  "create",
				Usage: "connect two nodes",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "parent", Usage: "`ID` of the parent node"},
					&cli.StringFlag{Name: "child", Usage: "`ID` of the child node"},
					&cli.StringFlag{Name: "edge-type", Usage: "`TYPE` of the relation, such as layer2 or ownership"},
					metadataFlag(), hostFlag(),
				},
				Action: env.createEdge,
			},
		}, env.elementCommands("edge", "edge")...),
	}
}

func metadataFlag() cli.Flag {
	return &cli.StringFlag{Name: "metadata", Usage: "metadata as `'k1=v1, k2=v2'`; dots in keys nest, values are texts"}
}

func hostFlag() cli.Flag {
	return &cli.StringFlag{Name: "host", Usage: "`HOST` that it belongs to (default: this host's name)"}
}

// elementCommands are list, get, update and delete of nodes or edges.
func (env *environment) elementCommands(kind, noun string) []*cli.Command {
	return []*cli.Command{
		env.listCommand(kind, noun),
		env.getCommand(kind, noun),
		{
			Name:        "update",
			Usage:       "change metadata",
			ArgsUsage:   "ID…",
			Description: "A value is JSON if it can be, else a text:\n\n   skydive client " + noun + " update ID --add MTU=9000 --add 'Tags=[\"a\",\"b\"]' --remove Old",
			Flags: []cli.Flag{
				&cli.StringSliceFlag{Name: "add", Aliases: []string{"a"}, Usage: "`KEY=VALUE` to set; repeatable"},
				&cli.StringSliceFlag{Name: "remove", Aliases: []string{"r"}, Usage: "`KEY` to remove; repeatable"},
			},
			Action: func(c *cli.Context) error { return env.updateElements(c, kind) },
		},
		{
			Name:      "delete",
			Usage:     "remove " + noun + "s",
			ArgsUsage: "ID…",
			Flags:     []cli.Flag{&cli.BoolFlag{Name: "gremlin", Usage: "the arguments are Gremlin expressions; what they select is removed"}},
			Action:    func(c *cli.Context) error { return env.deleteElements(c, kind) },
		},
	}
}

func (env *environment) createNode(c *cli.Context) error {
	name, kind := c.String("node-name"), c.String("node-type")
	if name == "" || kind == "" {
		return errors.New("--node-name and --node-type are required")
	}
	metadata, err := parseMetadata(c.String("metadata"), "Name", name, "Type", kind)
	if err != nil {
		return err
	}
	return env.create(c, "node", element(c, metadata), 0)
}

func (env *environment) createEdge(c *cli.Context) error {
	if c.String("parent") == "" || c.String("child") == "" {
		return errors.New("--parent and --child are required")
	}
	var pairs []any
	if kind := c.String("edge-type"); kind != "" {
		pairs = []any{"RelationType", kind}
	}
	metadata, err := parseMetadata(c.String("metadata"), pairs...)
	if err != nil {
		return err
	}
	edge := element(c, metadata)
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	for _, end := range []struct{ flag, key string }{{"parent", "Parent"}, {"child", "Child"}} {
		id := c.String(end.flag)
		if err := remote.Get(c.Context, "node", id, nil); err != nil {
			return fmt.Errorf("Could not find %s node: %w", end.flag, err)
		}
		edge[end.key] = id
	}
	return env.create(c, "edge", edge, 0)
}

// element returns what nodes and edges made here have in common.
func element(c *cli.Context, metadata field.Object) map[string]any {
	host := c.String("host")
	if host == "" {
		host, _ = os.Hostname() // without a name the element belongs to no host
	}
	now := time.Now().UnixMilli()
	return map[string]any{"ID": graph.NewID(), "Metadata": metadata, "Host": host, "Origin": "cli." + host, "CreatedAt": now, "UpdatedAt": now, "Revision": 1}
}

// parseMetadata reads 'k1=v1, k2=v2': dots in keys nest, values are texts
// without the quotes around them. pairs are keys and values that are there
// from the start.
func parseMetadata(text string, pairs ...any) (field.Object, error) {
	metadata := field.Make(pairs...)
	for item := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(item) == "" {
			continue
		}
		key, value, ok := strings.Cut(item, "=")
		if key = strings.TrimSpace(key); !ok || key == "" {
			return nil, fmt.Errorf("--metadata: want key=value, not %q", strings.TrimSpace(item))
		}
		var err error
		if metadata, err = metadata.Set(key, strings.Trim(strings.TrimSpace(value), `"`)); err != nil {
			return nil, fmt.Errorf("--metadata: set %s: %w", key, err)
		}
	}
	return metadata, nil
}

// metadataPatch turns --add and --remove into a patch.
func metadataPatch(add, remove []string) ([]client.PatchOp, error) {
	var patch []client.PatchOp
	for _, item := range add {
		key, text, ok := strings.Cut(item, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--add: want key=value, not %q", item)
		}
		var value any = text
		if json.Valid([]byte(text)) {
			value = json.RawMessage(text)
		}
		patch = append(patch, client.PatchOp{Op: "add", Path: metadataPath(key), Value: value})
	}
	for _, key := range remove {
		patch = append(patch, client.PatchOp{Op: "remove", Path: metadataPath(key)})
	}
	if len(patch) == 0 {
		return nil, errors.New("nothing to do: give --add or --remove")
	}
	return patch, nil
}

// metadataPath returns the JSON pointer of a key; a key holds no slash.
func metadataPath(key string) string {
	return "/Metadata/" + strings.NewReplacer("/", ".", "~", "~0").Replace(key)
}

func (env *environment) updateElements(c *cli.Context, kind string) error {
	if !c.Args().Present() {
		return usage(c, "an ID")
	}
	patch, err := metadataPatch(c.StringSlice("add"), c.StringSlice("remove"))
	if err != nil {
		return err
	}
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	for _, id := range c.Args().Slice() {
		var element json.RawMessage
		modified, err := remote.Patch(c.Context, kind, id, patch, &element)
		if err != nil {
			return err
		}
		if !modified {
			fmt.Fprintln(env.Stdout, "Not modified")
		} else if err := env.printJSON(element); err != nil {
			return err
		}
	}
	return nil
}

func (env *environment) deleteElements(c *cli.Context, kind string) error {
	if !c.Args().Present() {
		return usage(c, "an ID")
	}
	ids := c.Args().Slice()
	if c.Bool("gremlin") {
		remote, err := env.connect(c)
		if err != nil {
			return err
		}
		expressions := ids
		ids = nil
		for _, expression := range expressions {
			var elements []struct{ ID string }
			if err := remote.QueryInto(c.Context, expression, &elements); err != nil {
				return err
			}
			for _, e := range elements {
				if e.ID == "" {
					return fmt.Errorf("%s: the answer is not a list of %ss", expression, kind)
				}
				ids = append(ids, e.ID)
			}
		}
	}
	return env.deleteAll(c, kind, ids)
}
