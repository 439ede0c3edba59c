package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"skydive/src/config"
)

// version is set by the linker (-X main.version=…).
var version string

// buildVersion returns the version of this binary, or the commit it was built
// from.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// environment is what commands may touch of the process.
type environment struct {
	Args           []string // Args[0] is the program
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Environ        []string
}

// getenv returns a variable, "" when it is unset.
func (env *environment) getenv(name string) (value string) {
	for _, e := range env.Environ {
		if k, v, _ := strings.Cut(e, "="); k == name {
			value = v
		}
	}
	return value
}

// run executes the command line and returns the exit code.
func (env *environment) run(ctx context.Context) int {
	app := env.app()
	if len(env.Args) > 1 && env.Args[1] == "__complete" {
		for _, word := range completeArgs(app, env.Args[2:]) {
			fmt.Fprintln(env.Stdout, word)
		}
		return 0
	}
	return env.execute(ctx, app)
}

// execute runs a command tree; errors go to Stderr, a line each.
func (env *environment) execute(ctx context.Context, app *cli.App) int {
	args, err := normalizeArgs(app, env.Args)
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	if err == nil {
		return 0
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(env.Stderr, "Error: "+strings.TrimRight(line, "\n"))
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		fmt.Fprintln(env.Stderr, "Is an analyzer running there? --analyzer HOST:PORT or SKYDIVE_ANALYZER names another.")
	}
	return 1
}

// app builds the command tree; a binary called skydive-cli has the client's
// commands at the top.
func (env *environment) app() *cli.App {
	name := "skydive"
	if len(env.Args) > 0 {
		name = filepath.Base(env.Args[0])
	}
	base, _, _ := strings.Cut(name, ".")
	app := &cli.App{
		Name:      name,
		HelpName:  name,
		Usage:     "live network topology and flows",
		Reader:    env.Stdin,
		Writer:    env.Stdout,
		ErrWriter: env.Stderr,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "conf", Aliases: []string{"c"}, Usage: "configuration `FILE`, - for standard input; repeated ones are merged in order (default: " + config.DefaultPath + " if it exists)"},
			&cli.StringFlag{Name: "config-backend", Aliases: []string{"b"}, Value: "file", Usage: "where --conf points to: file (etcd is not in this version)"},
			&cli.BoolFlag{Name: "verbose", Usage: "log at level DEBUG"},
		},
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(*cli.Context, error) {}, // run prints and chooses the code
	}
	client := env.clientCommand()
	if base == "skydive-cli" {
		app.Description = client.Description
		app.Flags = append(app.Flags, client.Flags...)
		app.Commands = append(client.Subcommands, env.versionCommand(), env.completionCommand(), env.bashCompletionCommand())
	} else {
		app.Description = "On one host:\n\n   skydive allinone                                  analyzer and agent in one process\n   skydive client query \"G.V().Has('Type', 'host')\"   ask it\n\nOn several: \"skydive analyzer\" on one, \"skydive agent\" with SKYDIVE_ANALYZERS=HOST:8082 on each.\nThe options below may stand anywhere on the command line."
		app.Commands = []*cli.Command{
			analyzerCommand(env), agentCommand(env), allinoneCommand(env), client, env.injectPacketCommand(),
			env.healthCommand(), env.doctorCommand(), env.tlsCommand(), env.kubeSecretCommand(), env.configCommand(), env.versionCommand(), env.completionCommand(), env.bashCompletionCommand(), env.manCommand(),
		}
	}
	app.HideHelpCommand, app.HideVersion = true, true
	app.OnUsageError = plainUsageError
	finish(app.Commands, base == "skydive-cli")
	return app
}

// finish gives every command what all have in common.
func finish(commands []*cli.Command, ofClient bool) {
	for _, c := range commands {
		c.HideHelpCommand = true
		c.OnUsageError = plainUsageError
		if ofClient && c.Action != nil {
			c.Description = strings.TrimSpace(c.Description + "\n\nOptions of the connection (--analyzer, --username, …) may stand anywhere: see the help of the command above.")
		}
		if action := c.Action; action != nil && c.ArgsUsage == "" {
			c.Action = func(ctx *cli.Context) error {
				if ctx.Args().Present() {
					return fmt.Errorf("unexpected argument %q; see %s --help", ctx.Args().First(), ctx.Command.HelpName)
				}
				return action(ctx)
			}
		} else if action == nil && c.ArgsUsage == "" {
			c.ArgsUsage = "COMMAND"
		}
		finish(c.Subcommands, ofClient || c.Name == "client")
	}
}

// plainUsageError leaves the message to run.
func plainUsageError(_ *cli.Context, err error, _ bool) error { return err }

// usage shows how a command is used when what it needs is missing.
func usage(c *cli.Context, missing string) error {
	fmt.Fprintf(c.App.ErrWriter, "Usage: %s [options] %s\n", c.Command.HelpName, c.Command.ArgsUsage)
	return fmt.Errorf("%s is missing; see %s --help", missing, c.Command.HelpName)
}

// load reads the configuration for a service ("analyzer", "agent" or
// "allinone", both of them). flags maps flags of the command to keys: those
// that were given win. Warnings go to the log. From then on SIGHUP is heard,
// too, through the log and the context of c.
func (env *environment) load(c *cli.Context, service string, flags map[string]string) (*config.Config, *slog.Logger, func(), error) {
	o := env.configOptions(c)
	for flag, key := range flags {
		if c.IsSet(flag) {
			o.Flags[key] = c.String(flag)
		}
	}
	cfg, problems, err := config.Load(o)
	if err != nil {
		return nil, nil, nil, err
	}
	services := []string{service}
	if service == "allinone" {
		services = []string{"analyzer", "agent"}
	}
	for _, s := range services {
		if err := cfg.CheckService(s); err != nil {
			return nil, nil, nil, err
		}
	}
	log, out, err := newLogger(cfg, service)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, p := range problems {
		log.Warn(p.String())
	}
	c.Context = out.onHangup(c.Context, log)
	return cfg, log, out.close, nil
}

func (env *environment) configOptions(c *cli.Context) config.Options {
	o := config.Options{Backend: c.String("config-backend"), Files: c.StringSlice("conf"), Stdin: env.Stdin, Environ: env.Environ, DefaultPath: config.DefaultPath, Flags: map[string]string{}, Checks: configChecks()}
	if c.Bool("verbose") {
		o.Flags["logging.level"] = "DEBUG"
	}
	return o
}

func (env *environment) versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Action: func(*cli.Context) error {
			fmt.Fprintf(env.Stdout, "%s github.com/skydive-project/skydive %s\n", env.Args[0], buildVersion())
			return nil
		},
	}
}
