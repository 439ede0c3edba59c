// Command skydive-tripleo-inventory writes an Ansible inventory that deploys Skydive on an overcloud made by TripleO.
//
// Its command line is that of argparse, which it had before: long options may be cut short as long as they are clear, wrong usage exits
// with 2 and any other failure with 1. It says nothing when all is well, and no password ever.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"skydive/tripleo/inventory"
)

const program = "skydive-tripleo-inventory"

// version is set by the linker.
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, words []string, getenv func(string) string, stdout, stderr io.Writer) int {
	app := application(getenv, stdout, stderr)
	if len(words) > 0 && (words[0] == "man" || words[0] == "completion") {
		if err := app.RunContext(ctx, append([]string{program}, words...)); err != nil {
			fmt.Fprintf(stderr, "%s: %v\n", program, err)
			return 1
		}
		return 0
	}
	arguments, err := normalise(words)
	var wrong usageError
	switch {
	case errors.Is(err, errHelp):
		fmt.Fprint(stdout, help())
		return 0
	case errors.As(err, &wrong):
		return misused(stderr, wrong)
	}
	err = app.RunContext(ctx, append([]string{program}, arguments...))
	var (
		nowhere inventory.ErrNoAuthURL
		timeout inventory.ErrTimeout
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &nowhere):
		fmt.Fprintln(stderr, "ERROR:", err)
		return 1
	case errors.As(err, &timeout):
		return misused(stderr, timeout)
	}
	fmt.Fprintln(stderr, "Error creating skydive inventory:", err)
	return 1
}

func misused(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "%s%s: error: %v\n", usage(), program, err)
	return 2
}

// sources are the files of --config-file and --config-dir, in the order in which they stand.
type sources struct {
	files     *[]inventory.Source
	directory bool
}

func (s sources) Set(path string) error {
	*s.files = append(*s.files, inventory.Source{Path: path, Directory: s.directory})
	return nil
}

func (s sources) String() string { return "" }

func application(getenv func(string) string, stdout, stderr io.Writer) *cli.App {
	var files []inventory.Source
	app := &cli.App{
		Name: program, Usage: "write an Ansible inventory that deploys Skydive on an overcloud made by TripleO",
		Description: description, Version: version, HideHelp: true, HideVersion: true, HideHelpCommand: true,
		Writer: stdout, ErrWriter: stderr, ExitErrHandler: func(*cli.Context, error) {},
		Flags: []cli.Flag{
			&cli.GenericFlag{Name: "config-dir", Usage: configDirUsage, Value: sources{&files, true}},
			&cli.GenericFlag{Name: "config-file", Usage: configFileUsage, Value: sources{&files, false}},
		},
		Commands: []*cli.Command{
			{Name: "man", Hidden: true, HideHelp: true, Action: func(c *cli.Context) error {
				page, err := manual(c.App)
				fmt.Fprint(c.App.Writer, page)
				return err
			}},
			{Name: "completion", Hidden: true, HideHelp: true, Action: func(c *cli.Context) error {
				script, err := completion(c.Args().First())
				fmt.Fprint(c.App.Writer, script)
				return err
			}},
		},
	}
	for _, option := range inventory.All() {
		app.Flags = append(app.Flags, &cli.StringFlag{Name: option.Names[0], Aliases: option.Names[1:], Usage: described(option)})
	}
	app.Action = func(c *cli.Context) error {
		arguments := map[string]string{}
		for _, option := range inventory.All() {
			if c.IsSet(option.Names[0]) {
				arguments[option.Names[0]] = c.String(option.Names[0])
			}
		}
		if standard := getenv("TRIPLEO_INVENTORY_CONFIG"); standard != "" && !c.IsSet("config-file") {
			files = append([]inventory.Source{{Path: standard}}, files...)
		}
		options, err := inventory.Resolve(arguments, files, getenv)
		if err != nil {
			return err
		}
		document, err := inventory.Generate(c.Context, options, func(format string, values ...any) {
			fmt.Fprintf(stderr, "WARNING: "+format+"\n", values...)
		})
		if err != nil {
			return err
		}
		return inventory.Write(options.InventoryFile, document)
	}
	return app
}

func described(option inventory.Option) string {
	usage := option.Usage
	var where []string
	for _, name := range option.Env {
		where = append(where, "$"+name)
	}
	if option.Default != "" {
		where = append(where, option.Default)
	}
	if len(where) > 0 {
		usage += " (default: " + strings.Join(where, ", else ") + ")"
	}
	return usage
}
