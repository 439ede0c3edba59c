package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
)

// The completions of all shells ask the program itself, so that they never
// fall behind it.
const (
	bashCompletion = `# bash completion of PROGRAM
_PROGRAM() {
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _PROGRAM PROGRAM
`
	zshCompletion = `#compdef PROGRAM
_PROGRAM() {
    local -a candidates
    candidates=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${candidates[1]}" ]]; then
        compadd -a candidates
    else
        _files
    fi
}
compdef _PROGRAM PROGRAM
`
	fishCompletion = `# fish completion of PROGRAM
complete -c PROGRAM -a '(set -l words (commandline -opc) (commandline -ct); $words[1] __complete $words[2..-1] 2>/dev/null)'
`
)

func (env *environment) completionCommand() *cli.Command {
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the completion script of a shell",
		ArgsUsage: "bash|zsh|fish",
		Description: "bash:  source <(skydive completion bash)\n" +
			"zsh:   skydive completion zsh > \"${fpath[1]}/_skydive\"\n" +
			"fish:  skydive completion fish > ~/.config/fish/completions/skydive.fish",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usage(c, "a shell")
			}
			script, ok := scripts[c.Args().First()]
			if !ok {
				return fmt.Errorf("no completion for %q: want bash, zsh or fish", c.Args().First())
			}
			fmt.Fprint(env.Stdout, env.completion(script))
			return nil
		},
	}
}

func (env *environment) completion(script string) string {
	program := "skydive"
	if base := env.Args[0][strings.LastIndexByte(env.Args[0], '/')+1:]; base == "skydive-cli" {
		program = base
	}
	return strings.ReplaceAll(script, "PROGRAM", program)
}

func (env *environment) bashCompletionCommand() *cli.Command {
	const file = "skydive-bash-completion.sh"
	return &cli.Command{
		Name:        "bash-completion",
		Usage:       "write the bash completion script to ./" + file,
		Description: "\"skydive completion bash\" prints it instead.",
		Action: func(*cli.Context) error {
			if err := os.WriteFile(file, []byte(env.completion(bashCompletion)), 0o644); err != nil {
				return fmt.Errorf("write completion: %w", err)
			}
			fmt.Fprintln(env.Stdout, file+" has been generated")
			return nil
		},
	}
}

func (env *environment) manCommand() *cli.Command {
	return &cli.Command{
		Name:        "man",
		Usage:       "print the manual page",
		Description: "skydive man > skydive.8",
		Hidden:      true,
		Action: func(c *cli.Context) error {
			page, err := c.App.ToManWithSection(8)
			if err != nil {
				return fmt.Errorf("make manual page: %w", err)
			}
			fmt.Fprint(env.Stdout, page)
			return nil
		},
	}
}
