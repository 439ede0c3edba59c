package main

import (
	"fmt"
	"sort"
	"strings"

	"github.com/urfave/cli/v2"

	"skydive/tripleo/inventory"
)

const (
	configDirUsage = "Path to a config directory to pull `*.conf` files from. This file set is sorted, so as to provide a predictable parse " +
		"order if individual options are over-ridden. It is parsed after the files of previous options, hence over-ridden options in it take precedence."
	configFileUsage = "Path to a config file to use: INI, options with underscores in [DEFAULT]. Several can be given, values in later ones take " +
		"precedence. (default: $TRIPLEO_INVENTORY_CONFIG)"

	description = `Asks the undercloud's Heat for hosts and addresses of the overcloud, and writes an inventory with which Skydive's playbook
deploys an analyzer on every controller and an agent on every controller and compute node.`

	examples = `On the undercloud:
  source stackrc
  ` + program + ` --undercloud-params tripleo-config-generated-env-files/undercloud_parameters.yaml
  ansible-playbook -i skydive-inventory.yaml playbook.yml.sample

With variables of the roles in a file of your own, which beat what is found out:
  ` + program + ` --undercloud-params tripleo-config-generated-env-files/undercloud_parameters.yaml --extra-file extra.yaml

Long options may be cut short as long as they are clear, and take their value as the next word or after =.
An option beats --config-dir and --config-file, these beat the environment. The inventory holds the overcloud's
password: only its owner can read it. Warnings and errors go to standard error.
Exit status: 0 the inventory is written, 1 it is not, 2 the command line is wrong.
`
)

// entry is a line of the usage: an option that --help tells about.
type entry struct{ names, metavar, usage string }

func table() []entry {
	entries := []entry{
		{"--config-dir", "DIR", configDirUsage},
		{"--config-file", "PATH", configFileUsage},
	}
	for _, option := range inventory.All() {
		for _, name := range option.Names {
			entries = append(entries, entry{"--" + name, option.Metavar, described(option)})
		}
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].names < entries[j].names })
	return entries
}

// usage is what stands above every complaint.
func usage() string {
	head := "usage: " + program + " "
	lines, line := "", head+"[-h]"
	for _, entry := range table() {
		word := fmt.Sprintf("[%s %s]", entry.names, entry.metavar)
		if len(line)+1+len(word) > 79 {
			lines += line + "\n"
			line = strings.Repeat(" ", len(head)-1)
		}
		line += " " + word
	}
	return lines + line + "\n"
}

func help() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n%s\n\noptional arguments:\n", usage(), description)
	argument := func(left, right string) {
		left = "  " + left
		if len(left) > 22 {
			fmt.Fprintln(&text, left)
			left = ""
		}
		for _, line := range wrapped(right, 79-24) {
			fmt.Fprintf(&text, "%-24s%s\n", left, line)
			left = ""
		}
	}
	argument("-h, --help", "show this help message and exit")
	for _, entry := range table() {
		argument(entry.names+" "+entry.metavar, entry.usage)
	}
	fmt.Fprintf(&text, "\n%s", examples)
	return text.String()
}

func wrapped(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

func manual(app *cli.App) (string, error) {
	app.Description = description + "\n\n" + "```\n" + examples + "```"
	page, err := app.ToManWithSection(1)
	if err != nil {
		return "", fmt.Errorf("make manual page: %w", err)
	}
	return page, nil
}

func completion(shell string) (string, error) {
	var text strings.Builder
	quoted := func(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
	switch shell {
	case "bash":
		var options []string
		for _, entry := range table() {
			options = append(options, entry.names)
		}
		fmt.Fprintf(&text, "# bash completion of %[1]s\ncomplete -o default -W '--help %[2]s' %[1]s\n", program, strings.Join(options, " "))
	case "zsh":
		fmt.Fprintf(&text, "#compdef %s\n_arguments '(- *)'{-h,--help}'[show the help]'", program)
		for _, entry := range table() {
			usage := strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`).Replace(entry.usage)
			fmt.Fprintf(&text, " \\\n  %s", quoted(fmt.Sprintf("%s=[%s]:%s:_files", entry.names, usage, entry.metavar)))
		}
		fmt.Fprintln(&text)
	case "fish":
		fmt.Fprintf(&text, "# fish completion of %[1]s\ncomplete -c %[1]s -s h -l help -d 'show the help'\n", program)
		for _, entry := range table() {
			fmt.Fprintf(&text, "complete -c %s -l %s -r -d %s\n", program, strings.TrimPrefix(entry.names, "--"), quoted(entry.usage))
		}
	default:
		return "", fmt.Errorf("no completion for %q: want bash, zsh or fish", shell)
	}
	return text.String(), nil
}
