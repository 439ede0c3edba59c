package inventory

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// python reads YAML as Ansible does, and returns JSON.
func python(t *testing.T, text []byte) string {
	t.Helper()
	if err := exec.Command("/usr/bin/python3", "-c", "import yaml").Run(); err != nil {
		if os.Getenv("SKYDIVE_CI") != "" {
			t.Fatal("python3-yaml is missing, which Ansible reads inventories with")
		}
		t.Skip("python3-yaml is missing, which Ansible reads inventories with")
	}
	script := `import json, sys, yaml
class Loader(yaml.SafeLoader): pass
Loader.add_constructor('!unsafe', lambda l, n: l.construct_scalar(n))
Loader.add_constructor('!vault', lambda l, n: l.construct_scalar(n))
json.dump(yaml.load(sys.stdin.buffer.read(), Loader), sys.stdout, default=str, sort_keys=True)`
	command := exec.Command("/usr/bin/python3", "-c", script)
	command.Stdin = strings.NewReader(string(text))
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, output, text)
	}
	return string(output)
}

// Ansible reads every text as that text.
func TestWordsAreWords(t *testing.T) {
	values := []string{"", "a", "yes", "No", "ON", "off", "true", "null", "~", "1", "010", "0x1f", "0b1", "1_000", "1e3", "1.5", ".5", ".inf", "-", "-5", "=", "<<",
		"12:30", "12:30:45", "2026-11-23", "2026-11-23 10:00:00", "y", "n", "#x", "a #b", "a: b", "a:", "{x", "[x", "*x", "&x", "!x", "|", ">", "%x", "@x", "`x",
		"'", `"`, `\`, "a\nb", "\n", "\t", " a ", "é", "\u2028", "\ufeff", "\x00", "\x7f", "😀", "{{ x }}", "{% x %}", "{# x #}", "'{{ x }}'\n", "0o17", "1__0", "+1",
		"192.168.24.1", "192.168.24.1:8787", "1.2.3", "fd00::1", "10.0.0.1:80:90", "/usr/bin/x --y", "NaN", "Null", "~a", "? a", ": a", "---", "...", "a\rb", "\u0085"}
	node := words(values...)
	text, err := yaml.Marshal(node)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := json.Unmarshal([]byte(python(t, text)), &got); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for i, value := range values {
		if got[i] != value {
			t.Errorf("%q became %q", value, got[i])
		}
	}
	if text := string(text); !strings.Contains(text, "!unsafe '{{ x }}'") || !strings.Contains(text, "- 192.168.24.1:8787\n") {
		t.Errorf("%s", text)
	}
}

// What the user wrote means the same to Ansible after us.
func TestFilesMeanTheSame(t *testing.T) {
	for _, text := range []string{
		"a: yes\nb: 010\nc: 2026-11-23\nd: '5'\ne: 1e3\nf: ~\ng: \"x\\ny\"\nh: |\n  x\n  y\ni: >-\n  x\n  y\n",
		"b: {y: 1, x: [1, {k: v}, []]}\na: {}\n",
		"base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  y: 3\nmore:\n  <<: [*b, {z: 1}]\nagain: *b\n",
		"a: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  61\nb: !unsafe '{{ x }}'\n",
		"'a b': 1\n\"yes\": 2\n\"1\": 3\n",
		"",
		"# nothing\n",
		"---\n",
		"~\n",
	} {
		found, err := parseYAML([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		made, err := yaml.Marshal(found.node())
		if err != nil {
			t.Fatal(err)
		}
		want := python(t, []byte(text))
		if want == "null" {
			want = "{}"
		}
		if got := python(t, made); got != want {
			t.Errorf("%q means\n%s, became\n%s\n%s", text, want, got, made)
		}
		for _, mark := range []string{"&", "*", "<<", "# "} {
			if strings.Contains(string(made), mark) {
				t.Errorf("%q became\n%s", text, made)
			}
		}
	}
}

func TestWithoutRegistry(t *testing.T) {
	for name, want := range map[string]string{
		"docker.io/tripleotrain": "tripleotrain", "192.168.24.1:8787/rhosp15": "rhosp15", "registry.example.com/a/b": "a/b", "localhost/x": "x",
		"undercloud.ctlplane.localdomain:8787/rhosp-rhel8/": "rhosp-rhel8", "tripleotrain": "tripleotrain", "a/b": "a/b", "": "", "/": "", " docker.io/x ": "x",
		"[fd00::1]:8787/x": "x",
	} {
		if got := withoutRegistry(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestUnversioned(t *testing.T) {
	for url, want := range map[string]string{
		"http://h:5000": "http://h:5000", "http://h:5000/": "http://h:5000", "http://h:5000/v3/": "http://h:5000", "http://h/identity/v2.0": "http://h/identity",
		"http://h//v3//": "http://h", "": "",
	} {
		if got := unversioned(url); got != want {
			t.Errorf("%q: %q, want %q", url, got, want)
		}
	}
}

func FuzzYAML(f *testing.F) {
	for _, seed := range []string{"a: 1", "a: &a [*a]", "a: &x {<<: *x}", "? [a]\n: b", "<<: {a: 1}", "a: !!binary x", "{a: b}: c", "a: *b", "- a", "---\n---\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		found, err := parseYAML(text)
		if err != nil {
			return
		}
		made, err := yaml.Marshal(found.node())
		if err != nil {
			t.Skip("a text that YAML cannot hold")
		}
		if len(found) > 0 {
			again, err := parseYAML(made)
			if err != nil || len(again) != len(found) {
				t.Fatalf("%q became\n%s: %v", text, made, err)
			}
		}
	})
}

func FuzzINI(f *testing.F) {
	for _, seed := range []string{"[DEFAULT]\na = b\n c\n", "a = b", "[", "[DEFAULT]\n=\n", "\ufeff[DEFAULT]\na: 'x'", " x", "[DEFAULT]\r\na=\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		settings := map[string]string{}
		if err := parseINI(text, settings); err != nil && strings.ContainsAny(err.Error(), "\n") {
			t.Fatal(err)
		}
	})
}

func FuzzRoles(f *testing.F) {
	f.Add([]byte(`{"Controller": {"ctlplane": ["a.ctlplane.b", 1]}}`), []byte(`{"Controller": {"ctlplane": ["10.0.0.1", null]}}`))
	f.Add([]byte(`{"Compute": null}`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, names, addresses []byte) {
		var n, a any
		if json.Unmarshal(names, &n) != nil || json.Unmarshal(addresses, &a) != nil {
			return
		}
		h := newHosts(func(string, ...any) {})
		h.roles(n, a)
		for name := range h.agents {
			if h.address[name] == "" || !hostName(name) {
				t.Fatalf("host %q at %q", name, h.address[name])
			}
		}
	})
}
