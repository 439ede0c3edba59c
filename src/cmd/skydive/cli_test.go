package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// result is what a command line did.
type result struct {
	code           int
	stdout, stderr string
}

// skydive runs a command line in an environment of its own.
func skydive(t *testing.T, environ []string, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	env := &environment{Args: args, Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr, Environ: environ}
	code := env.run(context.Background())
	return result{code, stdout.String(), stderr.String()}
}

func TestNormalizeArgs(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		// the lines that units, images and TripleO write
		{"skydive analyzer --conf /etc/skydive/skydive.yml", "skydive --conf=/etc/skydive/skydive.yml analyzer --"},
		{"skydive agent --listen=0.0.0.0:8081 --host-id h --conf F", "skydive --conf=F agent --listen=0.0.0.0:8081 --host-id=h --"},
		{"skydive --conf /etc/skydive.yml /usr/bin/skydive agent --conf /etc/skydive.yml", "skydive --conf=/etc/skydive.yml --conf=/etc/skydive.yml agent --"},
		{"/usr/bin/skydive --conf /etc/skydive.yml analyzer --listen=0.0.0.0:8082", "/usr/bin/skydive --conf=/etc/skydive.yml analyzer --listen=0.0.0.0:8082 --"},
		{"/usr/bin/skydive --conf /etc/skydive.yml skydive allinone", "/usr/bin/skydive --conf=/etc/skydive.yml allinone --"},
		{"/usr/bin/skydive --conf /etc/skydive.yml /usr/bin/skydive --conf=/etc/skydive.yml --verbose agent", "/usr/bin/skydive --conf=/etc/skydive.yml --conf=/etc/skydive.yml --verbose=true agent --"},
		{"skydive skydive analyzer", "skydive analyzer --"},
		{"/usr/bin/skydive allinone --analyzer-uid 5", "/usr/bin/skydive allinone --analyzer-uid=5 --"},
		// every spelling of a flag
		{"skydive -c a -cb -c=d --conf e --conf=f analyzer", "skydive --conf=a --conf=b --conf=d --conf=e --conf=f analyzer --"},
		{"skydive -b file analyzer -c -", "skydive --config-backend=file --conf=- analyzer --"},
		{"skydive analyzer --verbose", "skydive --verbose=true analyzer --"},
		{"skydive --verbose=false analyzer", "skydive --verbose=false analyzer --"},
		// flags of parents behind commands, flags behind positionals, -- ends
		{"skydive client query G.V() --format dot --analyzer :1", "skydive client --analyzer=:1 query --format=dot -- G.V()"},
		{"skydive client --analyzer :1 query --format dot G.V()", "skydive client --analyzer=:1 query --format=dot -- G.V()"},
		{"skydive client query -- --format", "skydive client query -- --format"},
		{"skydive client node get -- -x -c y", "skydive client node get -- -x -c y"},
		{"skydive client node update i -a k=v,w --add=a=b -r x i2", "skydive client node update --add=k=v,w --add=a=b --remove=x -- i i2"},
		{"skydive client node get help", "skydive client node get -- help"},
		{"skydive client inject-packet create --src S --inc-payload -1", "skydive client injection create --src=S --inc-payload=-1 --"},
		{"skydive client query -5", "skydive client query -- -5"},
		// help, anywhere
		{"skydive --help", "skydive --help"},
		{"skydive client query x -h", "skydive client query --help"},
		{"skydive help client query", "skydive client query --help"},
		{"skydive client help", "skydive client --help"},
		// the client's own name
		{"skydive-cli query G --analyzer :1", "skydive-cli --analyzer=:1 query -- G"},
		{"/x/skydive-cli.exe status", "/x/skydive-cli.exe status --"},
	} {
		args := strings.Fields(tc.in)
		got, err := normalizeArgs((&environment{Args: args}).app(), args)
		if err != nil || strings.Join(got, " ") != tc.want {
			t.Errorf("%s\ngot  %s %v\nwant %s", tc.in, strings.Join(got, " "), err, tc.want)
		}
	}
}

// An image whose entry point names the configuration is also given command lines that name it again.
func TestSameFileTwice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "skydive.yml")
	if err := os.WriteFile(file, []byte("analyzers: [a:1, b:2]\nagent: {topology: {probes: [ovsdb]}, metadata: {a: {b: 1}}}\nrbac: {policy: ['g, alice, admin']}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	once, twice := skydive(t, nil, "", "skydive", "--conf", file, "config", "dump"), skydive(t, nil, "", "skydive", "--conf", file, "config", "dump", "--conf", file)
	if once.code != 0 || !strings.Contains(once.stdout, "alice") || twice != once {
		t.Errorf("once %+v\ntwice %+v", once, twice)
	}
}

func TestWrongArgs(t *testing.T) {
	for in, want := range map[string]string{
		"skydive foo":                                                   `Error: unknown command "foo" for "skydive"; see skydive --help`,
		"skydive analyser":                                              `Error: unknown command "analyser" for "skydive"; did you mean analyzer?; see skydive --help`,
		"skydive client foo":                                            `Error: unknown command "foo" for "skydive client"; did you mean flow?; see skydive client --help`,
		"skydive client node lst":                                       `did you mean list?`,
		"skydive --nope":                                                `Error: unknown flag --nope for "skydive"; see skydive --help`,
		"skydive analyzer --listn :1":                                   `did you mean --listen?`,
		"skydive client query --format":                                 `Error: flag --format needs a value; see skydive client query --help`,
		"skydive client query -x G":                                     `unknown flag -x`,
		"skydive version now":                                           `Error: unexpected argument "now"; see skydive version --help`,
		"skydive client query a b":                                      `put it into quotes`,
		"skydive client query --format x G":                             `Error: Invalid output format`,
		"skydive client capture create --port x":                        `invalid value "x" for flag -port`,
		"skydive completion":                                            `Usage: skydive completion [options] bash|zsh|fish`,
		"skydive completion tcsh":                                       `no completion for "tcsh"`,
		"skydive -b zoo config dump":                                    `Invalid backend: zoo`,
		"skydive -b etcd -c http://h config dump":                       `configuration from etcd is not in this version`,
		"skydive -c /nonexistent config dump":                           `no such file`,
		"skydive -c /nonexistent client status":                         `no such file`,
		"skydive client --cert x status":                                `--cert and --key go together`,
		"skydive client query":                                          `Usage: skydive client query [options] GREMLIN`,
		"skydive client node get":                                       `Usage: skydive client node get [options] ID`,
		"skydive client edge delete":                                    `Usage: skydive client edge delete [options] ID…`,
		"skydive client alert update":                                   `an ID is missing`,
		"skydive client workflow call":                                  `an ID is missing`,
		"skydive client workflow get x":                                 `unknown command "get"`,
		"skydive client pcap":                                           `--trace is missing`,
		"skydive client node create":                                    `--node-name and --node-type are required`,
		"skydive client edge create":                                    `--parent and --child are required`,
		"skydive client node update x":                                  `nothing to do`,
		"skydive client node-rule create --action create --node-name x": `--node-name and --node-type are required`,
		"skydive client edge-rule create":                               `--relationtype is required`,
		"skydive client injection create":                               `--src is required`,
		"skydive client injection create --src s --ttl 256":             `--ttl: 256 is too large`,
		"skydive client capture create --node a --gremlin b":            `Options --node and --gremlin are exclusive`,
		"skydive client capture create --extra-layer FOO":               `unknown layer "FOO"`,
		"skydive client flow list --format dot":                         `Error: Invalid output format`,
		"skydive client flow list G.Flows() G":                          `put it into quotes`,
		"skydive client flow list --follow G.Flows()":                   `does not go with --follow`,
		"skydive client capture stream":                                 `Usage: skydive client capture stream [options] ID`,
	} {
		got := skydive(t, nil, "", strings.Fields(in)...)
		if got.code != 1 || !strings.Contains(got.stderr, want) || got.stdout != "" {
			t.Errorf("%s: %+v, want %s", in, got, want)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, name := range []string{"skydive", "/usr/bin/skydive", "skydive-cli"} {
		got := skydive(t, nil, "", name, "version")
		if want := name + " github.com/skydive-project/skydive " + buildVersion() + "\n"; got.code != 0 || got.stdout != want {
			t.Errorf("%+v, want %q", got, want)
		}
	}
	if got := skydive(t, nil, "", "skydive", "-c", "/nonexistent", "version"); got.code != 0 {
		t.Errorf("a broken configuration hides the version: %+v", got)
	}
}

// TestHelp: every command explains itself, and groups list what they hold.
func TestHelp(t *testing.T) {
	var walk func(path []string, commands []*cli.Command)
	walk = func(path []string, commands []*cli.Command) {
		for _, c := range commands {
			words := append(slices.Clone(path), c.Name)
			got := skydive(t, nil, "", append(words, "--help")...)
			if got.code != 0 || got.stderr != "" || !strings.Contains(got.stdout, strings.Join(words, " ")) || c.Usage == "" {
				t.Errorf("%v: %+v", words, got)
			}
			if len(c.Subcommands) > 0 {
				if plain := skydive(t, nil, "", words...); plain.code != 0 || plain.stdout != got.stdout {
					t.Errorf("%v alone: %+v", words, plain)
				}
				if !strings.Contains(got.stdout, "COMMANDS:") {
					t.Errorf("%v lists no commands", words)
				}
			}
			walk(words, c.Subcommands)
		}
	}
	walk([]string{"skydive"}, (&environment{Args: []string{"skydive"}}).app().Commands)
	walk([]string{"skydive-cli"}, (&environment{Args: []string{"skydive-cli"}}).app().Commands)
}

func TestCompletion(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "client",
		"client n":                  "node-rule",
		"client node ":              "delete",
		"client query --":           "--format",
		"client --analyzer :1 q":    "query",
		"client query G --analyzer": "--analyzer",
	} {
		words := append([]string{"skydive", "__complete"}, strings.Split(in, " ")...)
		got := skydive(t, nil, "", words...)
		if !slices.Contains(strings.Fields(got.stdout), want) || strings.Contains(got.stdout, "man\n") {
			t.Errorf("%q: %+v, want %s", in, got, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		got := skydive(t, nil, "", "skydive", "completion", shell)
		if got.code != 0 || !strings.Contains(got.stdout, "__complete") || strings.Contains(got.stdout, "PROGRAM") {
			t.Errorf("%s: %+v", shell, got)
		}
	}
	t.Chdir(t.TempDir())
	got := skydive(t, nil, "", "skydive", "bash-completion")
	if _, err := os.Stat("skydive-bash-completion.sh"); err != nil || got.stdout != "skydive-bash-completion.sh has been generated\n" {
		t.Errorf("%+v %v", got, err)
	}
}

func TestMan(t *testing.T) {
	if got := skydive(t, nil, "", "skydive", "man"); got.code != 0 || !strings.Contains(got.stdout, ".TH skydive 8") {
		t.Errorf("%+v", got)
	}
}

func TestConfigCommands(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, broken := file("good.yml", "host_id: h7\nauth.x.users: {bob: s3cret}\n"), file("broken.yml", "a: b: c\n")
	unknown, refused := file("unknown.yml", "analyzer:\n  lisetn: 1\n"), file("tls.yml", "tls.server_cert: /x\n")
	for _, tc := range []struct {
		args  []string
		stdin string
		want  result // texts that are contained
	}{
		{[]string{"check", good}, "", result{0, "", ""}},
		{[]string{"check", "-"}, "host_id: x", result{0, "", ""}},
		{[]string{"check", broken}, "", result{1, "", broken + ":1:5: error: YAML syntax"}},
		{[]string{"check", unknown}, "", result{1, "", unknown + ":2:3: warning: unknown key analyzer.lisetn; did you mean analyzer.listen?"}},
		{[]string{"check", unknown, "--lenient"}, "", result{0, "", "warning: unknown key"}},
		{[]string{"check", "-c", good, refused}, "", result{1, "", "tls.server_key is not: they go together"}},
		{[]string{"dump", "-c", good}, "", result{0, "host_id: h7 # " + good + ":1:10", ""}},
		{[]string{"dump", "-c", broken}, "", result{1, "", "Error: " + broken + ":1:5: YAML syntax"}},
		{[]string{"dump", "-c", "-", "--verbose"}, "host_id: piped", result{0, "level: DEBUG", ""}},
		{[]string{"doc"}, "", result{0, "# Configuration reference", ""}},
		{[]string{"sample"}, "", result{0, "#analyzer:", ""}},
	} {
		got := skydive(t, []string{"SKYDIVE_ANALYZER=shadow"}, tc.stdin, append([]string{"skydive", "config"}, tc.args...)...)
		if got.code != tc.want.code || !strings.Contains(got.stdout, tc.want.stdout) || !strings.Contains(got.stderr, tc.want.stderr) {
			t.Errorf("%v: %+v, want %+v", tc.args, got, tc.want)
		}
		if strings.Contains(got.stdout, "s3cret") {
			t.Errorf("%v tells a secret", tc.args)
		}
	}
}

// TestLoad: what services get from their command line.
func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yml")
	if err := os.WriteFile(file, []byte("analyzer.listen: ':7'\nagent.listen: ':8'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args, environ, want string
	}{
		{"-c FILE analyzer", "", "127.0.0.1:7 INFO"},
		{"analyzer -c FILE --verbose", "SKYDIVE_ANALYZER=x:1", "127.0.0.1:7 DEBUG"},
		{"analyzer -c FILE", "SKYDIVE_ANALYZER_LISTEN=9", "127.0.0.1:9 INFO"},
		{"analyzer -c FILE -l [::1]:10", "SKYDIVE_ANALYZER_LISTEN=9", "[::1]:10 INFO"},
		{"analyzer -c FILE -l nowhere", "", "Error: flag --listen: invalid value for analyzer.listen (nowhere)"},
		{"analyzer -c FILE", "SKYDIVE_TLS_SERVER_KEY=/k", "tls.server_cert is not: they go together"},
		{"analyzer -c FILE.nope", "", "no such file"},
	} {
		var out bytes.Buffer
		args := append([]string{"skydive"}, strings.Fields(strings.ReplaceAll(tc.args, "FILE", file))...)
		env := &environment{Args: args, Stdout: &out, Stderr: &out, Environ: []string{tc.environ}}
		app := env.app()
		for _, c := range app.Commands {
			if c.Name == "analyzer" {
				c.Action = func(c *cli.Context) error {
					cfg, _, closeLog, err := env.load(c, "analyzer", map[string]string{"listen": "analyzer.listen"})
					if err != nil {
						return err
					}
					closeLog()
					out.WriteString(cfg.Analyzer.Listen.String() + " " + cfg.Logging.Level)
					return nil
				}
			}
		}
		env.execute(t.Context(), app)
		if !strings.Contains(out.String(), tc.want) {
			t.Errorf("%s %s: %s, want %s", tc.args, tc.environ, out.String(), tc.want)
		}
	}
}

func FuzzNormalizeArgs(f *testing.F) {
	for _, s := range []string{"client query -- x", "-c=a -cb --conf", "- -- ---", "--=x -= -\xff", "client node update -a k=v i -5"} {
		f.Add(s)
	}
	env := &environment{Args: []string{"skydive"}}
	app := env.app()
	f.Fuzz(func(t *testing.T, line string) {
		args := append([]string{"skydive"}, strings.Split(line, " ")...)
		once, err := normalizeArgs(app, args)
		if err != nil {
			return
		}
		if twice, err := normalizeArgs(app, once); err != nil || !slices.Equal(once, twice) {
			t.Errorf("%q is not stable: %q %v", once, twice, err)
		}
	})
}
