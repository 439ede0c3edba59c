package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"

	"skydive/tripleo/inventory"
)

// errHelp: the words ask for the help.
var errHelp = errors.New("help")

// usageError is a command line that is wrong.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

// names is every long option and what its value is called; none for --help.
func names() map[string]string {
	found := map[string]string{"help": "", "config-file": "PATH", "config-dir": "DIR"}
	for _, option := range inventory.All() {
		for _, name := range option.Names {
			found[name] = option.Metavar
		}
	}
	return found
}

// normalise turns what argparse takes into --name=value, a word each: long options by any clear beginning, values with = or as the next
// word. Like argparse it looks for ambiguous options first, and then takes word by word.
func normalise(words []string) ([]string, error) {
	known := names()
	full := make([]string, len(words)) // the option that a word names, if it names one
	for i, word := range words {
		if word == "--" {
			break
		}
		name, _, _ := strings.Cut(word, "=")
		name, long := strings.CutPrefix(name, "--")
		if !long || strings.Contains(name, " ") {
			continue
		}
		candidates := beginningWith(known, name)
		switch {
		case known[name] != "" || name == "help":
			full[i] = name
		case len(candidates) == 1:
			full[i] = candidates[0]
		case len(candidates) > 1:
			return nil, usageError{fmt.Sprintf("ambiguous option: %s could match --%s", "--"+oneLine(name), strings.Join(candidates, ", --"))}
		}
	}
	var made, unknown []string
	for i := 0; i < len(words); i++ {
		word := words[i]
		_, value, explicit := strings.Cut(word, "=")
		switch {
		case word == "--":
			unknown = append(unknown, words[i+1:]...)
			i = len(words)
		case word == "-h" || strings.HasPrefix(word, "-h") && !strings.HasPrefix(word, "--"):
			if len(word) > 2 {
				return nil, usageError{fmt.Sprintf("argument -h/--help: ignored explicit argument '%s'", oneLine(strings.TrimPrefix(word[2:], "=")))}
			}
			return nil, errHelp
		case full[i] == "help" && explicit:
			return nil, usageError{fmt.Sprintf("argument -h/--help: ignored explicit argument '%s'", oneLine(value))}
		case full[i] == "help":
			return nil, errHelp
		case full[i] == "":
			unknown = append(unknown, word)
		case explicit:
			made = append(made, "--"+full[i]+"="+value)
		case i+1 == len(words) || looksLikeOption(words[i+1]):
			return nil, usageError{fmt.Sprintf("argument %s: expected one argument", spelled(full[i]))}
		default:
			i++
			made = append(made, "--"+full[i-1]+"="+words[i])
		}
	}
	if len(unknown) > 0 {
		return nil, usageError{"unrecognized arguments: " + oneLine(strings.Join(withoutValues(unknown), " "))}
	}
	return made, nil
}

// withoutValues leaves out what may be the value of a mistyped option: it may be a password.
func withoutValues(words []string) []string {
	var made []string
	option := false
	for _, word := range words {
		name, _, explicit := strings.Cut(word, "=")
		switch {
		case !strings.HasPrefix(word, "-"):
			if option {
				word = "..."
			}
			option = false
		case explicit:
			word, option = name+"=...", false
		default:
			option = true
		}
		made = append(made, word)
	}
	return made
}

func beginningWith(known map[string]string, begin string) []string {
	var found []string
	for name := range known {
		if strings.HasPrefix(name, begin) {
			found = append(found, name)
		}
	}
	sort.Strings(found)
	return found
}

var negative = regexp.MustCompile(`^-\d+$|^-\d*\.\d+$`)

// looksLikeOption: such a word is no value, unless = ties it to its option. Numbers and what has blanks may begin with a dash.
func looksLikeOption(word string) bool {
	return len(word) > 1 && word[0] == '-' && !negative.MatchString(word) && (!strings.Contains(word, " ") || strings.HasPrefix(word, "--"))
}

// spelled is an option with its other names.
func spelled(name string) string {
	for _, option := range inventory.All() {
		if slices.Contains(option.Names, name) {
			return "--" + strings.Join(option.Names, "/--")
		}
	}
	return "--" + name
}

func oneLine(text string) string {
	return strings.Join(strings.Fields(text), " ")
}
