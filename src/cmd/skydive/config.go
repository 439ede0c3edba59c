package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"skydive/src/config"
)

func (env *environment) configCommand() *cli.Command {
	return &cli.Command{
		Name:        "config",
		Usage:       "check, show and document the configuration",
		Description: "skydive config check /etc/skydive/skydive.yml   before you restart a service\nskydive config dump                             what is in force here, and where it comes from\nskydive config sample > skydive.yml             a file to begin with",
		Subcommands: []*cli.Command{
			{
				Name:      "check",
				Usage:     "find mistakes in configuration files",
				ArgsUsage: "FILE…",
				Description: "Prints what is wrong with its line and column. The exit code is 1 for errors, for unknown keys and for what services refuse to start with.\n" +
					"Several files are merged in order; - is standard input; without any, " + config.DefaultPath + " is read. The environment has no say.",
				Flags: []cli.Flag{&cli.BoolFlag{Name: "lenient", Usage: "only warn about unknown keys"}},
				Action: func(c *cli.Context) error {
					return env.checkConfig(c)
				},
			},
			{
				Name:        "dump",
				Usage:       "print the configuration in force as YAML, without secrets",
				Description: "Files, environment and defaults as a service would see them here:\n\n   skydive -c a.yml -c b.yml config dump",
				Action: func(c *cli.Context) error {
					cfg, problems, err := config.Load(env.configOptions(c))
					for _, p := range problems {
						fmt.Fprintln(env.Stderr, severity(p))
					}
					if err != nil {
						return err
					}
					return cfg.Dump(env.Stdout)
				},
			},
			{
				Name:   "doc",
				Usage:  "print the reference of all keys as Markdown",
				Action: func(*cli.Context) error { return config.Reference(env.Stdout) },
			},
			{
				Name:   "sample",
				Usage:  "print a configuration file with everything commented out",
				Action: func(*cli.Context) error { return config.Sample(env.Stdout) },
			},
		},
	}
}

func (env *environment) checkConfig(c *cli.Context) error {
	files := append(c.StringSlice("conf"), c.Args().Slice()...)
	if len(files) == 0 {
		files = []string{config.DefaultPath}
	}
	bad := false
	for _, p := range config.Check(config.Options{Files: files, Stdin: env.Stdin, Checks: configChecks()}) {
		fmt.Fprintln(env.Stderr, severity(p))
		switch p.Severity {
		case config.Error, config.Refusal:
			bad = true
		case config.Unknown:
			bad = bad || !c.Bool("lenient")
		}
	}
	if bad {
		return errors.New("the configuration is not valid")
	}
	return nil
}

// severity writes a problem as compilers do: place, severity, message.
func severity(p config.Problem) string {
	p.Message = map[config.Severity]string{config.Notice: "note: ", config.Unknown: "warning: ", config.Error: "error: ", config.Refusal: "error: "}[p.Severity] + p.Message
	return p.String()
}
