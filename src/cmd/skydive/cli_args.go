package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// level is one command of a command line, with the flags given to it.
type level struct {
	name     string
	commands []*cli.Command
	flags    []cli.Flag
	args     []string
}

// normalizeArgs puts a command line into the order that urfave/cli wants: the
// flags of each command right behind it, as --name=value, positionals last
// behind "--". Before, flags may stand anywhere: those of a parent behind its
// commands, all of them behind positionals; "--" ends them. A first word that
// is the program itself is dropped: container images whose entry point is the
// program are also given "/usr/bin/skydive agent" as arguments.
func normalizeArgs(app *cli.App, args []string) ([]string, error) {
	if len(args) == 0 {
		args = []string{app.Name}
	}
	path, positionals, help, err := parseArgs(app, args[1:])
	if err != nil {
		return nil, err
	}
	out := []string{args[0]}
	for i, l := range path {
		if i > 0 {
			out = append(out, l.name)
		}
		out = append(out, l.args...)
	}
	last := path[len(path)-1]
	if help {
		return append(out, "--help"), nil
	}
	if len(positionals) > 0 && len(last.commands) > 0 {
		return nil, fmt.Errorf("unknown command %q for %q%s; see %s --help", positionals[0], commandTitle(app, path), didYouMean(positionals[0], nearestCommand(last.commands, positionals[0])), commandTitle(app, path))
	}
	return append(append(out, "--"), positionals...), nil
}

// parseArgs walks the command tree along a command line.
func parseArgs(app *cli.App, args []string) (path []*level, positionals []string, help bool, err error) {
	path = []*level{{name: app.Name, commands: app.Commands, flags: app.Flags}}
	first := true
	for i := 0; i < len(args); i++ {
		arg, last := args[i], path[len(path)-1]
		if arg == "--" {
			return path, append(positionals, args[i+1:]...), help, nil
		}
		if len(arg) > 1 && arg[0] == '-' && !(len(last.commands) == 0 && negative(arg)) {
			var used int
			used, help, err = takeFlag(app, path, args[i:], help)
			if err != nil {
				return path, nil, help, err
			}
			i += used
			continue
		}
		if first {
			first = false
			if base := filepath.Base(arg); base == app.Name || arg != base && base == "skydive" {
				continue
			}
		}
		if len(positionals) > 0 || len(last.commands) == 0 {
			positionals = append(positionals, arg)
			continue
		}
		if arg == "help" {
			help = true
			continue
		}
		command := findCommand(last.commands, arg)
		if command == nil {
			positionals = append(positionals, arg)
			continue
		}
		path = append(path, &level{name: command.Name, commands: command.Subcommands, flags: command.Flags})
	}
	return path, positionals, help, nil
}

// negative tells a negative number from a flag.
func negative(arg string) bool { return arg[1] >= '0' && arg[1] <= '9' }

// takeFlag reads the flag at args[0] and says how many more arguments it took.
// One dash begins short flags: -c FILE, -cFILE, -c=FILE.
func takeFlag(app *cli.App, path []*level, args []string, help bool) (used int, _ bool, err error) {
	arg := args[0]
	name, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	short := !strings.HasPrefix(arg, "--")
	if short && len(name) > 1 {
		rest := arg[2:]
		if f, _ := lookupFlag(path, arg[1:2]); f != nil && takesValue(f) {
			name, value, hasValue = arg[1:2], strings.TrimPrefix(rest, "="), true
		} else if f != nil {
			if _, help, err = takeFlag(app, path, []string{arg[:2]}, help); err == nil {
				return takeFlag(app, path, append([]string{"-" + rest}, args[1:]...), help)
			}
			return 0, help, err
		}
	}
	if name == "help" || name == "h" {
		return 0, true, nil
	}
	f, l := lookupFlag(path, name)
	if f == nil {
		return 0, help, fmt.Errorf("unknown flag %s for %q%s; see %s --help", strings.SplitN(arg, "=", 2)[0], commandTitle(app, path), didYouMean(name, cli.SuggestFlag(allFlags(path), name, false)), commandTitle(app, path))
	}
	switch {
	case hasValue:
	case !takesValue(f):
		value = "true"
	case len(args) < 2:
		return 0, help, fmt.Errorf("flag %s needs a value; see %s --help", arg, commandTitle(app, path))
	default:
		value, used = args[1], 1
	}
	l.args = append(l.args, "--"+f.Names()[0]+"="+value)
	return used, help, nil
}

// lookupFlag finds a flag of the last command or of those above it.
func lookupFlag(path []*level, name string) (cli.Flag, *level) {
	for _, l := range slices.Backward(path) {
		if i := slices.IndexFunc(l.flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) }); i >= 0 {
			return l.flags[i], l
		}
	}
	return nil, nil
}

func takesValue(f cli.Flag) bool {
	doc, ok := f.(cli.DocGenerationFlag)
	return ok && doc.TakesValue()
}

func findCommand(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func commandTitle(app *cli.App, path []*level) string {
	words := []string{app.Name}
	for _, l := range path[1:] {
		words = append(words, l.name)
	}
	return strings.Join(words, " ")
}

func commandNames(commands []*cli.Command) (names []string) {
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Names()...)
		}
	}
	return names
}

// allFlags lists the flags that may be given, nearest first.
func allFlags(path []*level) (flags []cli.Flag) {
	for _, l := range slices.Backward(path) {
		flags = append(flags, l.flags...)
	}
	return flags
}

// nearestCommand takes the name out of the sentence that urfave/cli makes.
func nearestCommand(commands []*cli.Command, word string) (name string) {
	fmt.Sscanf(cli.SuggestCommand(commands, word), cli.SuggestDidYouMeanTemplate, &name)
	return name
}

// didYouMean words a suggestion; one that does not even begin like the wrong
// word is none.
func didYouMean(word, suggestion string) string {
	wrong, right := strings.TrimLeft(word, "-"), strings.TrimLeft(suggestion, "-")
	if wrong == "" || right == "" || wrong[0] != right[0] {
		return ""
	}
	return "; did you mean " + suggestion + "?"
}

// completeArgs lists the words that may follow a command line. The last argument
// is the word being typed; the shell picks those that begin with it.
func completeArgs(app *cli.App, args []string) (words []string) {
	typed := ""
	if len(args) > 0 {
		typed, args = args[len(args)-1], args[:len(args)-1]
	}
	path, positionals, _, err := parseArgs(app, args)
	if err != nil {
		return nil
	}
	last := path[len(path)-1]
	if strings.HasPrefix(typed, "-") {
		for _, f := range allFlags(path) {
			words = append(words, "--"+f.Names()[0])
		}
		return append(words, "--help")
	}
	if len(positionals) > 0 {
		return nil
	}
	return commandNames(last.commands)
}
