package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"gopkg.in/yaml.v3"

	"skydive/src/client"
)

func (env *environment) listCommand(kind, noun string) *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "show all " + noun + "s",
		Action: func(c *cli.Context) error {
			remote, err := env.connect(c)
			if err != nil {
				return err
			}
			var all json.RawMessage
			if err := remote.List(c.Context, kind, &all); err != nil {
				return err
			}
			return env.printJSON(all)
		},
	}
}

func (env *environment) getCommand(kind, noun string) *cli.Command {
	return &cli.Command{
		Name:      "get",
		Usage:     "show one " + noun,
		ArgsUsage: "ID",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usage(c, "an ID")
			}
			remote, err := env.connect(c)
			if err != nil {
				return err
			}
			var one json.RawMessage
			if err := remote.Get(c.Context, kind, c.Args().First(), &one); err != nil {
				return err
			}
			return env.printJSON(one)
		},
	}
}

func (env *environment) deleteCommand(kind, noun string) *cli.Command {
	return &cli.Command{
		Name:      "delete",
		Usage:     "remove " + noun + "s",
		ArgsUsage: "ID…",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usage(c, "an ID")
			}
			return env.deleteAll(c, kind, c.Args().Slice())
		},
	}
}

// deleteAll removes what it can. What it cannot is told, but is no failure:
// scripts rely on it.
func (env *environment) deleteAll(c *cli.Context, kind string, ids []string) error {
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := remote.Delete(c.Context, kind, id); err != nil {
			fmt.Fprintf(env.Stderr, "Error: %v\n", err)
		}
	}
	return nil
}

// create posts a resource, to live for ttl (0: for ever), and prints what the
// server made of it.
func (env *environment) create(c *cli.Context, kind string, body any, ttl time.Duration) error {
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	var made json.RawMessage
	if err := remote.Create(c.Context, kind, body, ttl, &made); err != nil {
		return err
	}
	return env.printJSON(made)
}

func textFlag(name, usage string) cli.Flag { return &cli.StringFlag{Name: name, Usage: usage} }

// crud puts list, get, create and delete together.
func (env *environment) crud(name, kind, noun, example string, create *cli.Command, more ...*cli.Command) *cli.Command {
	create.Name, create.Usage, create.Description = "create", "add one", example
	return &cli.Command{
		Name:        name,
		Usage:       noun + "s",
		Description: example,
		Subcommands: append([]*cli.Command{env.listCommand(kind, noun), env.getCommand(kind, noun), create, env.deleteCommand(kind, noun)}, more...),
	}
}

// resourceCommands are the resources that the analyzer stores.
func (env *environment) resourceCommands() []*cli.Command {
	alertFlags := []cli.Flag{
		textFlag("name", "name"), textFlag("description", "description"), textFlag("expression", "Gremlin or JavaScript expression"),
		&cli.StringFlag{Name: "trigger", Value: "graph", Usage: "graph (on change) or duration:10s (on time)"},
		textFlag("action", "URL or file:// path to call"),
	}
	injection := env.crud("injection", "injectpacket", "packet injection",
		"skydive client injection create --src \"G.V().Has('Name', 'eth0')\" --dst-ip 10.0.0.2 --type icmp4",
		&cli.Command{Flags: injectionFlags(), Action: env.createInjection})
	injection.Aliases = []string{"inject-packet"}
	workflow := env.crud("workflow", "workflow", "workflow", "skydive client workflow create --path workflow.yaml",
		&cli.Command{Flags: []cli.Flag{textFlag("path", "`FILE` of the workflow (YAML)")}, Action: env.createWorkflow},
		&cli.Command{Name: "call", Usage: "run a workflow", ArgsUsage: "ID [PARAMETER…]", Action: env.callWorkflow})
	workflow.Subcommands = slices.DeleteFunc(workflow.Subcommands, func(c *cli.Command) bool { return c.Name == "get" })
	return []*cli.Command{
		env.crud("alert", "alert", "alert",
			"skydive client alert create --expression \"G.V().Has('State', 'DOWN')\" --action https://example.com/hook",
			&cli.Command{Flags: alertFlags, Action: env.createAlert},
			&cli.Command{Name: "update", Usage: "change alerts", ArgsUsage: "ID…", Flags: alertFlags, Action: env.updateAlerts}),
		env.crud("capture", "capture", "capture",
			"skydive client capture create --gremlin \"G.V().Has('Name', 'eth0')\" --bpf 'port 80'",
			&cli.Command{Flags: captureFlags(), Action: env.createCapture}, env.streamCommand()),
		env.crud("node-rule", "noderule", "node rule",
			"skydive client node-rule create --action create --node-name tor1 --node-type fabric",
			&cli.Command{Flags: []cli.Flag{
				textFlag("name", "name"), textFlag("description", "description"), textFlag("node-name", "`NAME` of the node to create"), textFlag("node-type", "`TYPE` of the node to create"),
				metadataFlag(), textFlag("query", "Gremlin expression of the nodes to update"), textFlag("action", "create or update"),
			}, Action: env.createNodeRule}),
		env.crud("edge-rule", "edgerule", "edge rule",
			"skydive client edge-rule create --src \"G.V().Has('Name', 'tor1')\" --dst \"G.V().Has('Name', 'eth0')\" --relationtype layer2",
			&cli.Command{Flags: []cli.Flag{
				textFlag("name", "name"), textFlag("description", "description"), textFlag("src", "Gremlin expression of the parent"), textFlag("dst", "Gremlin expression of the child"),
				textFlag("relationtype", "`TYPE` of the relation, such as layer2"), metadataFlag(),
			}, Action: env.createEdgeRule}),
		injection, workflow,
		{
			Name:      "pcap",
			Usage:     "import the flows of a pcap file",
			UsageText: "skydive client pcap --trace FILE",
			Flags:     []cli.Flag{&cli.StringFlag{Name: "trace", Aliases: []string{"t"}, Usage: "pcap `FILE`"}},
			Action:    env.importPcap,
		},
	}
}

func (env *environment) createAlert(c *cli.Context) error {
	return env.create(c, "alert", map[string]any{
		"Name": c.String("name"), "Description": c.String("description"), "Expression": c.String("expression"), "Trigger": c.String("trigger"), "Action": c.String("action"),
	}, 0)
}

func (env *environment) updateAlerts(c *cli.Context) error {
	if !c.Args().Present() {
		return usage(c, "an ID")
	}
	var patch []client.PatchOp
	for _, key := range []string{"Name", "Description", "Trigger", "Expression", "Action"} {
		if value := c.String(strings.ToLower(key)); value != "" {
			patch = append(patch, client.PatchOp{Op: "add", Path: "/" + key, Value: value})
		}
	}
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	last := json.RawMessage("null")
	for _, id := range c.Args().Slice() {
		if _, err := remote.Patch(c.Context, "alert", id, patch, &last); err != nil {
			return err
		}
	}
	return env.printJSON(last)
}

func captureFlags() []cli.Flag {
	return []cli.Flag{
		textFlag("gremlin", "Gremlin expression of the nodes to capture on"), textFlag("node", "`TID` of the node to capture on, instead of --gremlin"),
		textFlag("bpf", "BPF filter"), textFlag("name", "name"), textFlag("description", "description"),
		textFlag("type", "afpacket, pcap, pcapsocket, sflow, netflow, ovsmirror, ovssflow, ovsnetflow or ovsipfix (default: what suits the node)"),
		&cli.IntFlag{Name: "port", Usage: "UDP port that sflow (default: 6343) or netflow (2055) listens at"},
		&cli.Uint64Flag{Name: "samplingrate", Value: 1, Usage: "one packet of so many (sFlow)"},
		&cli.Uint64Flag{Name: "pollinginterval", Value: 10, Usage: "seconds between counters (sFlow), or between two records of a flow (ovsnetflow, ovsipfix)"},
		&cli.IntFlag{Name: "header-size", Usage: "bytes of each packet that are read: 14 to 4096 (default: 256)"},
		&cli.IntFlag{Name: "rawpacket-limit", Usage: "raw packets kept of each flow: 0 to 10"},
		&cli.BoolFlag{Name: "extra-tcp-metric", Usage: "measure TCP more closely"}, &cli.BoolFlag{Name: "ip-defrag", Usage: "put IP fragments together"},
		&cli.BoolFlag{Name: "reassemble-tcp", Aliases: []string{"reassamble-tcp"}, Usage: "put TCP streams together"},
		&cli.StringFlag{Name: "layer-key-mode", Value: "L2", Usage: "L2 or L3"},
		&cli.StringSliceFlag{Name: "extra-layer", Usage: "VRRP, DNS or DHCPv4; repeatable"},
		textFlag("target", "host:port to send the packets to"), textFlag("target-type", "netflowv5 or erspanv1"),
		&cli.Uint64Flag{Name: "ttl", Usage: "milliseconds after which the capture ends (0: never)"},
	}
}

func (env *environment) createCapture(c *cli.Context) error {
	gremlin := c.String("gremlin")
	if node := c.String("node"); node != "" {
		if gremlin != "" {
			return errors.New("Options --node and --gremlin are exclusive")
		}
		gremlin = "g.V().Has('TID', '" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(node) + "')"
	}
	layers := 0
	for _, name := range c.StringSlice("extra-layer") {
		bit, ok := map[string]int{"VRRP": 1, "DNS": 2, "DHCPv4": 4}[name]
		if !ok {
			return fmt.Errorf("unknown layer %q: want VRRP, DNS or DHCPv4", name)
		}
		layers |= bit
	}
	return env.create(c, "capture", map[string]any{
		"GremlinQuery": gremlin, "BPFFilter": c.String("bpf"), "Name": c.String("name"), "Description": c.String("description"), "Type": c.String("type"),
		"Port": c.Int("port"), "SamplingRate": c.Uint64("samplingrate"), "PollingInterval": c.Uint64("pollinginterval"),
		"HeaderSize": c.Int("header-size"), "RawPacketLimit": c.Int("rawpacket-limit"),
		"ExtraTCPMetric": c.Bool("extra-tcp-metric"), "IPDefrag": c.Bool("ip-defrag"), "ReassembleTCP": c.Bool("reassemble-tcp"),
		"LayerKeyMode": c.String("layer-key-mode"), "ExtraLayers": layers, "Target": c.String("target"), "TargetType": c.String("target-type"),
	}, time.Duration(c.Uint64("ttl"))*time.Millisecond)
}

func (env *environment) createNodeRule(c *cli.Context) error {
	var pairs []any
	switch c.String("action") {
	case "create":
		if c.String("node-name") == "" || c.String("node-type") == "" {
			return errors.New("--node-name and --node-type are required to create nodes")
		}
		pairs = []any{"Name", c.String("node-name"), "Type", c.String("node-type")}
	case "update":
	default:
		return errors.New("--action must be create or update")
	}
	metadata, err := parseMetadata(c.String("metadata"), pairs...)
	if err != nil {
		return err
	}
	return env.create(c, "noderule", map[string]any{
		"Name": c.String("name"), "Description": c.String("description"), "Metadata": metadata, "Action": c.String("action"), "Query": c.String("query"),
	}, 0)
}

func (env *environment) createEdgeRule(c *cli.Context) error {
	if c.String("relationtype") == "" {
		return errors.New("--relationtype is required")
	}
	metadata, err := parseMetadata(c.String("metadata"), "RelationType", c.String("relationtype"))
	if err != nil {
		return err
	}
	return env.create(c, "edgerule", map[string]any{
		"Name": c.String("name"), "Description": c.String("description"), "Src": c.String("src"), "Dst": c.String("dst"), "Metadata": metadata,
	}, 0)
}

func injectionFlags() []cli.Flag {
	return []cli.Flag{
		textFlag("src", "Gremlin expression of the node that sends"), textFlag("dst", "Gremlin expression of the node that receives"),
		textFlag("src-ip", "source IP address"), textFlag("dst-ip", "destination IP address"), textFlag("src-mac", "source MAC address"), textFlag("dst-mac", "destination MAC address"),
		&cli.UintFlag{Name: "src-port", Usage: "source port"}, &cli.UintFlag{Name: "dst-port", Usage: "destination port"},
		&cli.StringFlag{Name: "type", Value: "icmp4", Usage: "icmp4, icmp6, tcp4, tcp6, udp4 or udp6"},
		textFlag("payload", "payload"), textFlag("pcap", "pcap `FILE` of the packets to send"),
		&cli.UintFlag{Name: "id", Usage: "ICMP identifier"}, &cli.StringFlag{Name: "mode", Value: "unique", Usage: "unique or random"},
		&cli.Uint64Flag{Name: "count", Value: 1, Usage: "packets to send"}, &cli.Int64Flag{Name: "inc-payload", Usage: "bytes that each payload is longer"},
		&cli.Uint64Flag{Name: "interval", Usage: "milliseconds between two packets"}, &cli.UintFlag{Name: "ttl", Value: 64, Usage: "IP time to live"},
	}
}

func (env *environment) createInjection(c *cli.Context) error {
	if c.String("src") == "" {
		return errors.New("--src is required")
	}
	for flag, bits := range map[string]int{"src-port": 16, "dst-port": 16, "id": 16, "ttl": 8} {
		if c.Uint(flag) >= 1<<bits {
			return fmt.Errorf("--%s: %d is too large", flag, c.Uint(flag))
		}
	}
	if c.Uint64("count") < 1 {
		return errors.New("--count must be at least 1")
	}
	var pcap []byte
	if file := c.String("pcap"); file != "" {
		var err error
		if pcap, err = env.readInput(file); err != nil {
			return err
		}
	}
	life := 5 * time.Second
	if interval := time.Duration(c.Uint64("interval")) * time.Millisecond; interval > 0 {
		life += interval * time.Duration(c.Uint64("count"))
	}
	return env.create(c, "injectpacket", map[string]any{
		"Src": c.String("src"), "Dst": c.String("dst"), "SrcIP": c.String("src-ip"), "DstIP": c.String("dst-ip"), "SrcMAC": c.String("src-mac"), "DstMAC": c.String("dst-mac"),
		"SrcPort": c.Uint("src-port"), "DstPort": c.Uint("dst-port"), "Type": c.String("type"), "Payload": c.String("payload"), "Pcap": pcap, "ICMPID": c.Uint("id"),
		"Mode": c.String("mode"), "Count": c.Uint64("count"), "IncrementPayload": c.Int64("inc-payload"), "Interval": c.Uint64("interval"), "TTL": c.Uint("ttl"),
	}, life)
}

func (env *environment) createWorkflow(c *cli.Context) error {
	if c.String("path") == "" {
		return errors.New("--path is required")
	}
	data, err := env.readInput(c.String("path"))
	if err != nil {
		return err
	}
	var workflow map[string]any
	if err := yaml.Unmarshal(data, &workflow); err != nil {
		return fmt.Errorf("%s: %w", c.String("path"), err)
	}
	return env.create(c, "workflow", workflow, 0)
}

func (env *environment) callWorkflow(c *cli.Context) error {
	if !c.Args().Present() {
		return usage(c, "an ID")
	}
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	params := []any{}
	for _, p := range c.Args().Tail() {
		params = append(params, p)
	}
	var result json.RawMessage
	if err := remote.CallWorkflow(c.Context, c.Args().First(), params, &result); err != nil {
		return err
	}
	return env.printJSON(result)
}

func (env *environment) importPcap(c *cli.Context) error {
	file := c.String("trace")
	if file == "" {
		return usage(c, "--trace")
	}
	in, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read trace: %w", err)
	}
	defer in.Close()
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	if err := remote.ImportPcap(c.Context, in); err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, file+" was successfully imported")
	return nil
}
