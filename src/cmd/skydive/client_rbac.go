package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"skydive/src/client"
)

// maxPolicyFile is more than an analyzer takes: it says so.
const maxPolicyFile = 2 << 20

func (env *environment) rbacCommand() *cli.Command {
	force := &cli.BoolFlag{Name: "force", Usage: "also when the user could not change the policy any more"}
	return &cli.Command{
		Name:  "rbac",
		Usage: "who may do what",
		Description: "skydive client rbac check alice capture write\n" +
			"skydive client rbac policy set mypolicy.csv\n" +
			"skydive client rbac policy get > mypolicy.csv\n\n" +
			"The policy is kept in etcd, shared by all analyzers and followed live; it is added to the bundled one and to rbac.policy.",
		Subcommands: []*cli.Command{
			{
				Name: "check", Usage: "explain whether a user may do something", ArgsUsage: "USER OBJECT ACTION",
				Flags:  []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "show the explanation as JSON"}},
				Action: env.checkRight,
			},
			{
				Name: "policy", Usage: "the policy that all analyzers share",
				Subcommands: []*cli.Command{
					{Name: "get", Usage: "show the policy", Action: env.getPolicy},
					{Name: "set", Usage: "replace the policy", ArgsUsage: "FILE|-", Flags: []cli.Flag{force}, Action: env.setPolicy},
					{Name: "delete", Usage: "remove the policy: the bundled one and rbac.policy stay", Flags: []cli.Flag{force}, Action: env.deletePolicy},
				},
			},
		},
	}
}

func (env *environment) checkRight(c *cli.Context) error {
	if c.Args().Len() != 3 {
		return usage(c, "a user, an object and an action")
	}
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	user, object, action := c.Args().Get(0), c.Args().Get(1), c.Args().Get(2)
	var answer json.RawMessage
	if err := remote.CheckRight(c.Context, user, object, action, &answer); err != nil {
		return err
	}
	if c.Bool("json") {
		return env.printJSON(answer)
	}
	var x struct {
		Allowed bool
		Reason  string
		Roles   []struct {
			Name, Of string
			From     []string
		}
		Rules []struct {
			Text string
			From []string
		}
	}
	if err := json.Unmarshal(answer, &x); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	word := "refused"
	if x.Allowed {
		word = "allowed"
	}
	fmt.Fprintf(env.Stdout, "%s: %s\n", word, x.Reason)
	for _, r := range x.Roles {
		fmt.Fprintf(env.Stdout, "  role  %s of %s  (%s)\n", r.Name, r.Of, strings.Join(r.From, "; "))
	}
	for _, r := range x.Rules {
		fmt.Fprintf(env.Stdout, "  rule  %s  (%s)\n", r.Text, strings.Join(r.From, "; "))
	}
	return nil
}

func (env *environment) getPolicy(c *cli.Context) error {
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	text, warning, err := remote.Policy(c.Context)
	if err != nil {
		return err
	}
	if warning != "" {
		fmt.Fprintln(env.Stderr, "Warning: this policy is not in force: "+warning)
	}
	_, err = io.WriteString(env.Stdout, text)
	return err
}

func (env *environment) setPolicy(c *cli.Context) error {
	if c.Args().Len() != 1 {
		return usage(c, "a file, or - for standard input")
	}
	in := env.Stdin
	if name := c.Args().First(); name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxPolicyFile))
	if err != nil {
		return err
	}
	return env.changePolicy(c, string(text), func(remote *client.Client) error {
		return remote.SetPolicy(c.Context, string(text), c.Bool("force"))
	})
}

func (env *environment) deletePolicy(c *cli.Context) error {
	return env.changePolicy(c, "", func(remote *client.Client) error { return remote.DeletePolicy(c.Context, c.Bool("force")) })
}

// changePolicy changes the policy and tells what that added and removed.
func (env *environment) changePolicy(c *cli.Context, text string, change func(*client.Client) error) error {
	remote, err := env.connect(c)
	if err != nil {
		return err
	}
	before, _, readErr := remote.Policy(c.Context)
	var answer *client.Error
	if errors.As(readErr, &answer) && answer.Status == 404 {
		readErr = nil
	}
	if err := change(remote); err != nil {
		return err
	}
	if readErr != nil {
		return nil // who may not read it may change it all the same
	}
	old, now := policyLines(before), policyLines(text)
	same := true
	for _, line := range old {
		if !slices.Contains(now, line) {
			same = false
			fmt.Fprintln(env.Stdout, "- "+line)
		}
	}
	for _, line := range now {
		if !slices.Contains(old, line) {
			same = false
			fmt.Fprintln(env.Stdout, "+ "+line)
		}
	}
	if same {
		fmt.Fprintln(env.Stdout, "No rule changed")
	}
	return nil
}

// policyLines returns the lines of a policy that say something.
func policyLines(text string) (lines []string) {
	for line := range strings.Lines(strings.ReplaceAll(text, "\r", "\n")) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines
}
