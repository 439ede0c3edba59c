package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"skydive/src/flow"
)

func (env *environment) flowCommand() *cli.Command {
	return &cli.Command{
		Name:  "flow",
		Usage: "flows",
		Subcommands: []*cli.Command{{
			Name:      "list",
			Usage:     "show the flows that captures see",
			ArgsUsage: "[GREMLIN]",
			Description: "skydive client flow list\n" +
				"skydive client flow list \"G.V().Has('Name', 'eth0').Flows().Has('Application', 'DNS')\"\n" +
				"skydive client flow list --follow --format json | jq .Network\n\n" +
				"Without an expression the flows are those that are under way, the latest last. --follow goes on with what\n" +
				"agents report: each flow that had packets, once per flow.update, and at its end.",
			Flags: []cli.Flag{
				textFlag("capture", "`ID` of the capture whose flows to show (default: all)"),
				&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on, until interrupted"},
				&cli.StringFlag{Name: "format", Value: "text", Usage: "text, or json: one flow per line"},
			},
			Action: env.listFlows,
		}},
	}
}

func (env *environment) streamCommand() *cli.Command {
	return &cli.Command{
		Name:      "stream",
		Usage:     "write the packets of a capture, as they come, as pcapng",
		ArgsUsage: "ID",
		Description: "skydive client capture stream ID | wireshark -k -i -\n" +
			"skydive client capture stream ID | tcpdump -n -r -\n" +
			"skydive client capture stream --output trace.pcapng ID",
		Flags:  []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write to (default: standard output)"}},
		Action: env.streamCapture,
	}
}

func (env *environment) listFlows(c *cli.Context) error {
	question := c.Args().First()
	switch {
	case c.NArg() > 1:
		return fmt.Errorf("one Gremlin expression, not %d: put it into quotes", c.NArg())
	case question != "" && (c.Bool("follow") || c.String("capture") != ""):
		return errors.New("a Gremlin expression does not go with --follow and --capture")
	}
	var show func([]*flow.Flow) error
	switch c.String("format") {
	case "text":
		show = env.flowTable()
	case "json":
		show = env.flowLines
	default:
		return errors.New("Invalid output format")
	}
	if question == "" {
		question = "G.Flows()"
		if id := c.String("capture"); id != "" {
			question += ".Has('CaptureID', '" + strings.NewReplacer("'", "", `"`, "").Replace(id) + "')" // no identifier has quotes
		}
		question += ".Sort('Last')"
	}
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	flows, err := remote.QueryFlows(c.Context, question)
	if err == nil {
		err = show(flows)
	}
	if err == nil && c.Bool("follow") {
		err = remote.FollowFlows(c.Context, c.String("capture"), show)
	}
	return err
}

// flowLines writes flows as JSON, each on its line.
func (env *environment) flowLines(flows []*flow.Flow) error {
	var b bytes.Buffer
	for _, f := range flows {
		b.Write(append(f.AppendJSON(b.AvailableBuffer()), '\n'))
	}
	_, err := b.WriteTo(env.Stdout)
	return err
}

// flowTable returns what writes flows as lines of a table, whose columns keep their width when there are more.
func (env *environment) flowTable() func([]*flow.Flow) error {
	header := true
	return func(flows []*flow.Flow) error {
		w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
		if header {
			fmt.Fprintf(w, "%-12s\t%-8s\t%-21s\t%-21s\t%-15s\t%-15s\t%-8s\t%s\n", "LAST", "APP", "A", "B", "A→B", "B→A", "RTT", "TRACKING")
			header = false
		}
		for _, f := range flows {
			a, b := endpoints(f)
			fmt.Fprintf(w, "%-12s\t%-8s\t%-21s\t%-21s\t%-15s\t%-15s\t%-8s\t%s\n", time.UnixMilli(f.Last).Format("15:04:05.000"), printable(f.Application), printable(a), printable(b),
				traffic(f.Metric.ABPackets, f.Metric.ABBytes), traffic(f.Metric.BAPackets, f.Metric.BABytes), roundTrip(f.Metric.RTT), printable(f.TrackingID))
		}
		return w.Flush()
	}
}

// endpoints returns the ends of a flow on the highest layer that has addresses.
func endpoints(f *flow.Flow) (a, b string) {
	switch {
	case f.Network != nil && f.Transport != nil:
		port := func(p int64) string { return strconv.FormatInt(p, 10) }
		return net.JoinHostPort(f.Network.A, port(f.Transport.A)), net.JoinHostPort(f.Network.B, port(f.Transport.B))
	case f.Network != nil:
		return f.Network.A, f.Network.B
	case f.Link != nil:
		return f.Link.A, f.Link.B
	}
	return "-", "-"
}

// traffic is a number of packets and their bytes, as "12/3.4kB".
func traffic(packets, bytes int64) string {
	size, unit := float64(bytes), ""
	for _, u := range []string{"k", "M", "G", "T"} {
		if size < 1000 {
			break
		}
		size, unit = size/1000, u
	}
	digits := 0
	if unit != "" && size < 100 {
		digits = 1
	}
	return fmt.Sprintf("%d/%s%sB", packets, strconv.FormatFloat(size, 'f', digits, 64), unit)
}

func roundTrip(ns int64) string {
	switch {
	case ns == 0:
		return "-"
	case ns < 1000:
		return time.Duration(ns).String()
	}
	return time.Duration(ns).Round(time.Microsecond).String()
}

// printable keeps what comes from packets from steering the terminal.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }) {
		s = strings.Trim(strconv.Quote(s), `"`)
	}
	return cmp.Or(s, "-")
}

// streamCapture writes live packets to standard output, or to a file.
func (env *environment) streamCapture(c *cli.Context) error {
	if !c.Args().Present() {
		return usage(c, "an ID")
	}
	if c.NArg() > 1 {
		return errors.New("the packets of one capture at a time can be streamed")
	}
	if out, ok := env.Stdout.(*os.File); ok && c.String("output") == "" && terminal(out) {
		return fmt.Errorf("packets are not for a terminal: %s %s | wireshark -k -i -", c.Command.HelpName, c.Args().First())
	}
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	packets, err := remote.CapturePackets(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	defer packets.Close()
	name := c.String("output")
	if name == "" {
		return copyPackets(c.Context, env.Stdout, packets)
	}
	file, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("write packets: %w", err)
	}
	return errors.Join(copyPackets(c.Context, file, packets), file.Close())
}

// copyPackets ends well when it is interrupted.
func copyPackets(ctx context.Context, to io.Writer, packets io.Reader) error {
	if _, err := io.Copy(to, packets); err != nil && ctx.Err() == nil {
		return fmt.Errorf("stream packets: %w", err)
	}
	return nil
}
