package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"skydive/tripleo/inventory"
)

func TestArguments(t *testing.T) {
	for _, test := range []struct{ words, want, wrong string }{
		{words: "", want: ""},
		{words: "--undercloud-params p.yaml", want: "--undercloud-params-file=p.yaml"},
		{words: "--und p.yaml --u=x --us y", wrong: "ambiguous option: --u could match --undercloud-params-file, --username"},
		{words: "--us=y", want: "--username=y"},
		{words: "--plan a --plan=b", want: "--plan=a --plan=b"},
		{words: "--plan=a=b", want: "--plan=a=b"},
		{words: "--plan=", want: "--plan="},
		{words: "--auth-token a --os-auth-token b", want: "--auth-token=a --os-auth-token=b"},
		{words: "--os a", want: "--os-auth-token=a"},
		{words: "--auth a", wrong: "ambiguous option: --auth could match --auth-token, --auth-url"},
		{words: "--auth-u a --auth-t b", want: "--auth-url=a --auth-token=b"},
		{words: "--config x", wrong: "ambiguous option: --config could match --config-dir, --config-file"},
		{words: "--pa=S3cret", want: "--password=S3cret"},
		{words: "--p=S3cret", wrong: "ambiguous option: --p could match --password, --plan, --project-name"},
		{words: "--ag x --an y --in z", wrong: "ambiguous option: --an could match --analyzer-extra-file, --ansible-ssh-user"},
		{words: "--config-file a --config-dir b --config-f c", want: "--config-file=a --config-dir=b --config-file=c"},
		{words: "--container-p x --cac y --t 5 --inv f --e x", want: "--container-params-file=x --cacert=y --timeout=5 --inventory-file=f --extra-file=x"},
		{words: "--plan", wrong: "argument --plan: expected one argument"},
		{words: "--plan --password x", wrong: "argument --plan: expected one argument"},
		{words: "--password -x", wrong: "argument --password: expected one argument"},
		{words: "--password=-x", want: "--password=-x"},
		{words: "--password -5", want: "--password=-5"},
		{words: "--password -", want: "--password=-"},
		{words: "--auth-token", wrong: "argument --os-auth-token/--auth-token: expected one argument"},
		{words: "--nothing", wrong: "unrecognized arguments: --nothing"},
		{words: "--passwrd S3cret --passwort=S3cret other", wrong: "unrecognized arguments: --passwrd ... --passwort=... other"},
		{words: "-x", wrong: "unrecognized arguments: -x"},
		{words: "x --plan y z", wrong: "unrecognized arguments: x z"},
		{words: "-- --plan y", wrong: "unrecognized arguments: --plan ..."},
		{words: "--", want: ""},
		{words: "-h", wrong: "help"},
		{words: "--h", wrong: "help"},
		{words: "--help --nothing", wrong: "help"},
		{words: "--plan x -h", wrong: "help"},
		{words: "--help=x", wrong: "argument -h/--help: ignored explicit argument 'x'"},
		{words: "-hx", wrong: "argument -h/--help: ignored explicit argument 'x'"},
		{words: "-h --config x", wrong: "ambiguous option: --config could match --config-dir, --config-file"},
	} {
		got, err := normalise(strings.Fields(test.words))
		if err == nil && test.wrong == "" && strings.Join(got, " ") == test.want {
			continue
		}
		if err == nil || err.Error() != test.wrong {
			t.Errorf("%q: %q, %v", test.words, got, err)
		}
	}
}

// Whatever the words are: no crash, and only words that the parser takes.
func FuzzArguments(f *testing.F) {
	for _, seed := range []string{"--plan\nx", "--p=x\n--", "-h", "--password\n-x y", "--=\n-=\n--help=", "\n--config-file\n--"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		words := strings.Split(text, "\n")
		made, err := normalise(words)
		var wrong usageError
		if err != nil && !errors.Is(err, errHelp) && !errors.As(err, &wrong) {
			t.Fatalf("%q: %v", words, err)
		}
		for _, word := range made {
			name, _, found := strings.Cut(strings.TrimPrefix(word, "--"), "=")
			if _, known := names()[name]; !known || !found {
				t.Fatalf("%q became %q", words, made)
			}
		}
	})
}

func TestUsageTellsEverything(t *testing.T) {
	text := help()
	for name, metavar := range names() {
		if name != "help" && !strings.Contains(text, "[--"+name+" "+metavar+"]") {
			t.Errorf("the usage lacks --%s", name)
		}
		for _, shell := range []string{"bash", "zsh", "fish"} {
			script, err := completion(shell)
			if err != nil || !strings.Contains(script, name) {
				t.Errorf("completion of %s lacks %s: %v", shell, name, err)
			}
		}
	}
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "usage:") && !strings.HasPrefix(line, "usage: skydive-tripleo-inventory [-h] [--agent-extra-file AGENT_EXTRA_FILE]") {
			t.Errorf("usage: %s", line)
		}
	}
	for words, want := range map[string]string{"completion tcsh": "no completion for \"tcsh\"", "man": ".TH skydive-tripleo-inventory 1"} {
		var output bytes.Buffer
		code := run(context.Background(), strings.Fields(words), func(string) string { return "" }, &output, &output)
		if !strings.Contains(output.String(), want) || (code == 0) != (words == "man") {
			t.Errorf("%s: exit %d: %s", words, code, output.String())
		}
	}
}

// What counts: the command line, then the files in the order in which they stand, then the environment, then the default.
func TestPrecedence(t *testing.T) {
	directory := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(directory, name)
		if err := errorsOf(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := write("first.ini", "# comment\n[other]\nplan = no\n[DEFAULT]\nplan = first\nansible_ssh_user: 'of first'\nproject-name = p\n  goes on\n; end\n")
	second := write("second.ini", "[DEFAULT]\nplan = second\n")
	write("dir/20.conf", "[DEFAULT]\nplan = d20\n")
	write("dir/10.conf", "[DEFAULT]\nplan = d10\ninventory_file = d10\n")
	write("dir/30.ini", "[DEFAULT]\nplan = ignored\n")
	dir := filepath.Join(directory, "dir")
	token := write("token.ini", "[DEFAULT]\nauth_token = t\ntimeout = 7\nauth_url =\n")
	environment := map[string]string{"OS_AUTH_URL": "http://h", "TRIPLEO_PLAN_NAME": "environment", "TRIPLEO_INVENTORY_CONFIG": second,
		"OS_TENANT_NAME": "tenant", "OS_CACERT": "ca"}
	for _, test := range []struct {
		words  string
		unset  string // of the environment
		get    func(inventory.Options) string
		want   string
		failed string
	}{
		{words: "", unset: "TRIPLEO_PLAN_NAME TRIPLEO_INVENTORY_CONFIG", get: plan, want: "overcloud"},
		{words: "", unset: "TRIPLEO_INVENTORY_CONFIG", get: plan, want: "environment"},
		{words: "", get: plan, want: "second"},
		{words: "--config-file=" + first, get: plan, want: "first"}, // instead of the environment's
		{words: "--config-file=" + first + " --config-file=" + second, get: plan, want: "second"},
		{words: "--config-file=" + second + " --config-file=" + first, get: plan, want: "first"},
		{words: "--config-file=" + first + " --config-dir=" + dir, get: plan, want: "d20"},
		{words: "--config-dir=" + dir, get: plan, want: "d20"},
		{words: "--config-dir=" + dir + " --config-file=" + first, get: plan, want: "first"}, // "previous"
		{words: "--plan=line --config-dir=" + dir, get: plan, want: "line"},
		{words: "--config-dir=" + dir, get: func(o inventory.Options) string { return o.InventoryFile }, want: "d10"},
		{words: "--config-file=" + first, get: func(o inventory.Options) string { return o.SSHUser }, want: "of first"},
		{words: "--config-file=" + first, get: func(o inventory.Options) string { return o.ProjectName }, want: "p\ngoes on"},
		{words: "", get: func(o inventory.Options) string { return o.ProjectName + o.CACert + o.SSHUser }, want: "tenantcaheat-admin"},
		{words: "--auth-url=http://x --config-file=" + token, get: func(o inventory.Options) string { return o.AuthToken + o.Timeout.String() }, want: "t7s"},
		{words: "--auth-url=http://x --auth-token=line --config-file=" + token, get: func(o inventory.Options) string { return o.AuthToken }, want: "line"},
		{words: "--config-file=" + token, failed: "auth-url not defined"},
	} {
		var arguments = map[string]string{}
		var files []inventory.Source
		for _, word := range strings.Fields(test.words) {
			name, value, _ := strings.Cut(strings.TrimPrefix(word, "--"), "=")
			switch name {
			case "config-file", "config-dir":
				files = append(files, inventory.Source{Path: value, Directory: name == "config-dir"})
			case "auth-token":
				arguments["os-auth-token"] = value
			default:
				arguments[name] = value
			}
		}
		getenv := func(name string) string {
			if slices.Contains(strings.Fields(test.unset), name) {
				return ""
			}
			return environment[name]
		}
		if standard := getenv("TRIPLEO_INVENTORY_CONFIG"); standard != "" && !strings.Contains(test.words, "--config-file") {
			files = append([]inventory.Source{{Path: standard}}, files...)
		}
		options, err := inventory.Resolve(arguments, files, getenv)
		switch {
		case test.failed != "":
			if err == nil || !strings.Contains(err.Error(), test.failed) {
				t.Errorf("%s: %v", test.words, err)
			}
		case err != nil:
			t.Errorf("%s: %v", test.words, err)
		case test.get(options) != test.want:
			t.Errorf("%s: %q, want %q", test.words, test.get(options), test.want)
		}
	}
}

func plan(o inventory.Options) string { return o.Plan }

// The same through the whole program, which orders files as they stand on the line.
func TestFilesInTheirOrder(t *testing.T) {
	u := newUndercloud(t)
	directory := t.TempDir()
	file, dir := filepath.Join(directory, "file"), filepath.Join(directory, "dir")
	if err := errorsOf(os.Mkdir(dir, 0o755), os.WriteFile(file, []byte("[DEFAULT]\nansible_ssh_user = file\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "x.conf"), []byte("[DEFAULT]\nansible_ssh_user = dir\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	environment := u.stackrc()
	environment["ANSIBLE_SSH_USER"] = "environment"
	for words, want := range map[string]string{
		"":                   "environment",
		"--config-f " + file: "file",
		"--config-f " + file + " --config-d=" + dir: "dir",
		"--config-d " + dir + " --config-f=" + file: "file",
		"--config-d " + dir + " --ansible-s x":      "x",
	} {
		if got := call(t, environment, strings.Fields(words)...); !strings.Contains(got.inventory, "ansible_user: "+want+"\n") {
			t.Errorf("%s: %s%s", words, got.stderr, got.inventory)
		}
	}
	t.Setenv("HOME", directory)
	if got := call(t, environment, "--config-file=~/file"); !strings.Contains(got.inventory, "ansible_user: file\n") {
		t.Errorf("~/file: %s%s", got.stderr, got.inventory)
	}
	environment["TRIPLEO_INVENTORY_CONFIG"] = file
	if got := call(t, environment); !strings.Contains(got.inventory, "ansible_user: file\n") {
		t.Errorf("TRIPLEO_INVENTORY_CONFIG: %s%s", got.stderr, got.inventory)
	}
}
