package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the goldens")

type result struct {
	code           int
	stdout, stderr string
	inventory      string // "" if there is none
}

// call runs the program in this process; the inventory goes to a directory of the test.
func call(t *testing.T, environment map[string]string, words ...string) result {
	t.Helper()
	path := filepath.Join(t.TempDir(), "inventory.yaml")
	if !slices.ContainsFunc(words, func(word string) bool { return strings.HasPrefix(word, "--inv") }) {
		words = append(words, "--inventory-file", path)
	}
	var stdout, stderr bytes.Buffer
	code := run(context.Background(), words, func(name string) string { return environment[name] }, &stdout, &stderr)
	text, _ := os.ReadFile(path)
	made := result{code, stdout.String(), stderr.String(), string(text)}
	for _, secret := range []string{password, token, "S3cr"} {
		if strings.Contains(made.stdout+made.stderr, secret) {
			t.Errorf("the output has a password or token: %s%s", made.stdout, made.stderr)
		}
	}
	if strings.Contains(made.stderr, "panic") || strings.Contains(made.stderr, "goroutine") {
		t.Errorf("crash: %s", made.stderr)
	}
	return made
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (rewrite it with -update):\n%s", path, got)
	}
}

func TestGoldens(t *testing.T) {
	for _, test := range []struct {
		name   string
		words  []string
		change func(string, object)
		stderr string // a line each
	}{
		{name: "plain", stderr: ""},
		{name: "parameters", words: []string{"--undercloud-params", "testdata/undercloud_parameters.yaml", "--container-p=testdata/containers-prepare-parameter.yaml"}},
		{name: "extra", words: []string{"--undercloud-params-file=testdata/undercloud_parameters.yaml", "--extra-file", "testdata/extra.yaml",
			"--analyzer-extra-file", "testdata/analyzer-extra.yaml", "--agent-extra-file", "testdata/agent-extra.yaml", "--ansible-ssh-user", "tripleo-admin"}},
		{name: "nova", change: func(name string, answer object) {
			if name == "stack" {
				outputs(answer)["RoleNetIpMap"]["output_value"] = nil
				outputs(answer)["RoleNetIpMap"]["output_error"] = "The Referenced Attribute\n is incorrect."
			}
		}, stderr: `WARNING: output RoleNetIpMap of stack overcloud: The Referenced Attribute is incorrect.
WARNING: stack overcloud has no output RoleNetIpMap
WARNING: the stack does not tell the hosts: Nova is asked for its servers
WARNING: server "overcloud-cephstorage-0" is neither controller nor compute by its name; left out
WARNING: server "overcloud-novacompute-1" has no address on the network ctlplane; left out
`},
		{name: "odd", change: func(name string, answer object) {
			switch name {
			case "stack":
				answer["stack"].(object)["stack_status"] = "UPDATE_FAILED"
				o := outputs(answer)
				o["KeystoneURL"]["output_value"] = "http://10.0.0.104:5000/v2.0/"
				delete(o["EndpointMap"]["output_value"].(object), "KeystoneV3Internal")
				o["RoleNetHostnameMap"]["output_value"] = object{
					"MyCONTROLLERs":     object{"ctlplane": []any{"c0.ctlplane.example", "c1.ctlplane.example"}},
					"ComputeOvsDpdk":    object{"ctlplane": []any{"c0.ctlplane.example", "n0", "n1", 7, "all:!x", "n2"}},
					"Networker":         object{"ctlplane": []any{"net0.ctlplane.example"}},
					"ControllerNothing": nil,
					"ComputeOther":      object{"ctlplane": []any{"c1.ctlplane.example", "same.ctlplane.example"}},
				}
				o["RoleNetIpMap"]["output_value"] = object{
					"MyCONTROLLERs":  object{"ctlplane": []any{"10.1.0.1", "10.1.0.2"}},
					"ComputeOvsDpdk": object{"ctlplane": []any{"10.1.0.1", "fd00::1", "nowhere", "10.1.0.5", "10.1.0.6"}},
					"ComputeOther":   object{"ctlplane": []any{"10.9.9.9", "10.1.0.1"}},
				}
			case "environment":
				answer["parameter_defaults"] = object{"AdminPassword": "{{ lookup('pipe', 'id') }} 'é'", "KeystoneRegion": "north"}
			}
		}, stderr: `WARNING: stack overcloud is UPDATE_FAILED: what it tells may not be complete
WARNING: output EndpointMap of stack overcloud has no KeystoneV3Internal.uri
WARNING: role ComputeOvsDpdk has 6 host names and 5 addresses on the network ctlplane; what has no counterpart is left out
WARNING: role ComputeOvsDpdk: hosts same and c0 have one address, 10.1.0.1; the first is taken
WARNING: role ComputeOvsDpdk: "nowhere" of host n1 is no address; left out
WARNING: role ComputeOvsDpdk: "" is no host name; left out
WARNING: role ComputeOvsDpdk: "all:!x" is no host name; left out
WARNING: role MyCONTROLLERs: hosts same and c0 have one address, 10.1.0.1; the first is taken
WARNING: role MyCONTROLLERs: host c1 has the addresses 10.9.9.9 and 10.1.0.2; the first is taken
WARNING: role Networker is neither controller nor compute by its name: nothing for its hosts (1)
WARNING: skydive_os_auth_url is empty: say it in an --extra-file, else the playbook falls back on its environment, which may be that of the undercloud
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := newUndercloud(t)
			u.change = test.change
			got := call(t, u.stackrc(), test.words...)
			if got.code != 0 || got.stdout != "" || got.stderr != test.stderr {
				t.Errorf("exit %d, stdout %q, stderr:\n%s", got.code, got.stdout, got.stderr)
			}
			golden(t, test.name+".golden.yaml", got.inventory)
		})
	}
}

// silent answers nothing as long as somebody waits.
func silent(_ http.ResponseWriter, r *http.Request) bool {
	io.Copy(io.Discard, r.Body) // else nobody is seen to hang up
	<-r.Context().Done()
	return true
}

func TestErrors(t *testing.T) {
	write := func(t *testing.T, text string) string {
		path := filepath.Join(t.TempDir(), "file.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	answers := func(path string, status int, text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, path) {
				return false
			}
			w.Header().Set("X-Subject-Token", token)
			w.WriteHeader(status)
			w.Write([]byte(text))
			return true
		}
	}
	const keystone, heat = "/v3", "/v1/p1/stacks/overcloud"
	for name, test := range map[string]struct {
		environment map[string]string
		words       []string
		instead     func(http.ResponseWriter, *http.Request) bool
		change      func(string, object)
		code        int
		want        string // of standard error; URL is the undercloud's
	}{
		"no URL":          {environment: map[string]string{"OS_AUTH_URL": ""}, code: 1, want: `^ERROR: auth-url not defined and OS_AUTH_URL environment variable missing, unable to proceed\.\n$`},
		"URL of nothing":  {words: []string{"--auth-url", "undercloud"}, code: 1, want: `^Error creating skydive inventory: auth-url: want a URL such as`},
		"URL with a user": {words: []string{"--auth-url", "http://a:S3cr@h/"}, code: 1, want: `want a URL such as .*with neither user nor query`},
		"nobody there":    {words: []string{"--auth-url", "http://127.0.0.1:1"}, code: 1, want: `^Error creating skydive inventory: Keystone at http://127.0.0.1:1/v3 does not answer: dial tcp .*refused\n$`},
		"no user":         {environment: map[string]string{"OS_USERNAME": ""}, code: 1, want: `no user: set OS_USERNAME`},
		"no password":     {environment: map[string]string{"OS_PASSWORD": ""}, code: 1, want: `no password: set OS_PASSWORD`},
		"no project":      {environment: map[string]string{"OS_PROJECT_NAME": ""}, code: 1, want: `no project: set OS_PROJECT_NAME`},
		"wrong password":  {words: []string{"--password", "other"}, code: 1, want: `^Error creating skydive inventory: Keystone at URL/v3 does not let in user admin of domain Default with project admin of domain Default: wrong password, or no role there\n$`},
		"wrong token":     {words: []string{"--os-auth-token", "other"}, code: 1, want: `Keystone at URL/v3 does not accept the token\n$`},
		"no authority":    {words: []string{"--cacert", "/nowhere"}, code: 1, want: `cacert /nowhere: no such file or directory\n$`},
		"odd authority":   {words: []string{"--cacert", "main.go"}, code: 1, want: `cacert main.go: holds no PEM certificate\n$`},
		"time is up":      {words: []string{"--timeout", "1"}, instead: silent, code: 1, want: `Keystone at URL/v3 has not answered within 1 s \(--timeout\)\n$`},
		"no time":         {words: []string{"--timeout", "0"}, code: 2, want: `(?s)^usage: .*\nskydive-tripleo-inventory: error: argument --timeout: invalid Integer value: '0'`},
		"Keystone 500":    {instead: answers(keystone, 500, "S3cr"), code: 1, want: `Keystone at URL/v3 answers 500 Internal Server Error\n$`},
		"Keystone odd":    {instead: answers(keystone, 201, "<html>"), code: 1, want: `Keystone at URL/v3 answers what is not understood: .*invalid character`},
		"Keystone empty":  {instead: answers(keystone, 201, `{"token": null}`), code: 1, want: `.`},
		"no catalogue":    {instead: answers(keystone, 201, `{"token": {}}`), code: 1, want: `WARNING: Keystone at URL/v3 has no public endpoint of the service orchestration in region regionOne\nWARNING: the stack does not tell the hosts.*\nError creating skydive inventory: Keystone at URL/v3 has no public endpoint of the service compute in region regionOne\n$`},
		"other region":    {environment: map[string]string{"OS_REGION_NAME": "south"}, code: 1, want: `has no public endpoint of the service compute in region south\n$`},
		"Heat 500":        {instead: answers(heat, 500, ""), code: 1, want: `Heat at URL/v1/p1 answers 500 Internal Server Error\n$`},
		"Heat 403":        {instead: answers(heat, 403, ""), code: 1, want: `Heat at URL/v1/p1 forbids it: the user needs the role admin`},
		"Heat 401":        {instead: answers(heat, 401, ""), code: 1, want: `Heat at URL/v1/p1 does not accept the token\n$`},
		"Heat odd":        {instead: answers(heat, 200, "[["), code: 1, want: `Heat at URL/v1/p1 answers what is not understood: `},
		"no stack":        {words: []string{"--plan", "other"}, code: 1, want: `Heat at URL/v1/p1 has no stack "other"; it has overcloud, edge; --plan names it\n$`},
		"no host": {change: func(name string, answer object) {
			if name == "stack" {
				outputs(answer)["RoleNetHostnameMap"]["output_value"] = object{"Controller": object{"ctlplane": []any{}}}
			}
		}, code: 1, want: `Error creating skydive inventory: no controller and no compute host found in stack overcloud; nothing is written\n$`},
		"no server": {change: func(name string, answer object) {
			switch name {
			case "stack":
				answer["stack"].(object)["outputs"] = nil
			case "servers":
				answer["servers"] = []any{}
			}
		}, code: 1, want: `no controller and no compute host found`},
		"Nova odd": {change: func(name string, answer object) {
			switch name {
			case "stack":
				answer["stack"].(object)["outputs"] = nil
			case "servers":
				answer["servers"] = "none"
			}
		}, code: 1, want: `Nova at URL/v2.1 answers what is not understood`},
		"parameters missing":  {words: []string{"--undercloud-params-file", "/nowhere"}, code: 1, want: `^Error creating skydive inventory: /nowhere: no such file or directory\n$`},
		"parameters odd":      {words: []string{"--undercloud-params-file", write(t, "a: [")}, code: 1, want: `file.yaml: no YAML: line 1`},
		"parameters a list":   {words: []string{"--undercloud-params-file", write(t, "- a")}, code: 1, want: `file.yaml: holds no mapping`},
		"several documents":   {words: []string{"--extra-file", write(t, "a: 1\n---\nb: 1\n")}, code: 1, want: `file.yaml: holds more than one document`},
		"extra that explodes": {words: []string{"--extra-file", write(t, bomb())}, code: 1, want: `file.yaml: holds more than \d+ values`},
		"extra in a circle":   {words: []string{"--extra-file", write(t, "a: &x\n  b: *x\n")}, code: 1, want: `file.yaml: `},
		"config missing":      {words: []string{"--config-file", "/nowhere"}, code: 1, want: `^Error creating skydive inventory: config file /nowhere: no such file or directory\n$`},
		"config dir missing":  {words: []string{"--config-dir", "/nowhere"}, code: 1, want: `config dir /nowhere: no such file or directory\n$`},
		"config odd":          {words: []string{"--config-file", write(t, "[DEFAULT]\npassword S3cr\n")}, code: 1, want: `line 2 has neither = nor :\n$`},
		"config without head": {words: []string{"--config-file", write(t, "password = S3cr\n")}, code: 1, want: `line 1 stands before the first section`},
		"nowhere to write":    {words: []string{"--inventory-file", "/nowhere/file"}, code: 1, want: `inventory file /nowhere/file: no such file or directory\n$`},
		"a directory":         {words: []string{"--inventory-file", t.TempDir()}, code: 1, want: `is a directory\n$`},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUndercloud(t)
			u.instead, u.change = test.instead, test.change
			environment := u.stackrc()
			maps.Copy(environment, test.environment)
			got := call(t, environment, test.words...)
			if got.code != test.code || got.stdout != "" || got.inventory != "" || !regexp.MustCompile(test.want).MatchString(strings.ReplaceAll(got.stderr, u.URL, "URL")) {
				t.Errorf("exit %d, inventory %q, stderr:\n%s", got.code, got.inventory, got.stderr)
			}
		})
	}
}

// bomb is a small file that grows by its aliases.
func bomb() string {
	text := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for _, level := range []string{"1", "2", "3", "4", "5", "6", "7", "8"} {
		below := "*a" + string(level[0]-1)
		text += "a" + level + ": &a" + level + " [" + strings.Repeat(below+", ", 9) + below + "]\n"
	}
	return text
}

func TestParametersWithoutDefaultsWarn(t *testing.T) {
	u := newUndercloud(t)
	for text, want := range map[string]string{
		"other: 1":               "has no parameter_defaults",
		"":                       "has no parameter_defaults",
		"parameter_defaults:":    "has no parameter_defaults",
		"parameter_defaults: {}": "parameter_defaults has no ",
	} {
		path := filepath.Join(t.TempDir(), "p.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := call(t, u.stackrc(), "--undercloud-params-file", path, "--container-params-file", path)
		if got.code != 0 || strings.Count(got.stderr, want) != 2 || !strings.Contains(got.inventory, "skydive_docker_registry: ''\n") ||
			!strings.Contains(got.inventory, "rhosp15/openstack-skydive-agent") {
			t.Errorf("%q: exit %d, stderr %s", text, got.code, got.stderr)
		}
	}
}

func TestTheFileIsReplacedAtOnceAndSecret(t *testing.T) {
	u := newUndercloud(t)
	directory := t.TempDir()
	path, link := filepath.Join(directory, "inventory.yaml"), filepath.Join(directory, "link")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("inventory.yaml", link); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if got := call(t, u.stackrc(), "--inventory-file", link); got.code != 0 {
		t.Fatal(got.stderr)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is none any more")
	}
	text := make([]byte, 10)
	if n, _ := old.Read(text); string(text[:n]) != "old" {
		t.Error("the old file was written into")
	}
	// What fails leaves the old file, and no other.
	u.instead = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true }
	call(t, u.stackrc(), "--inventory-file", link)
	entries, _ := os.ReadDir(directory)
	if now, _ := os.Stat(path); len(entries) != 2 || !now.ModTime().Equal(info.ModTime()) {
		t.Errorf("files: %v", entries)
	}
}

func TestWhoAsksAndHow(t *testing.T) {
	for name, test := range map[string]struct {
		environment map[string]string
		words       []string
		login       string // JSON of the last login, "" for none
		asked       string // the first request
	}{
		"password": {login: `{"auth":{"identity":{"methods":["password"],"password":{"user":{"domain":{"name":"Default"},"name":"admin","password":"` + password + `"}}},"scope":{"project":{"domain":{"name":"Default"},"name":"admin"}}}}`},
		"domains": {environment: map[string]string{"OS_USER_DOMAIN_NAME": "users", "OS_PROJECT_DOMAIN_NAME": "projects"},
			login: `{"auth":{"identity":{"methods":["password"],"password":{"user":{"domain":{"name":"users"},"name":"admin","password":"` + password + `"}}},"scope":{"project":{"domain":{"name":"projects"},"name":"admin"}}}}`},
		"token":                 {words: []string{"--os-auth-token", token}, login: `{"auth":{"identity":{"methods":["token"],"token":{"id":"` + token + `"}},"scope":{"project":{"domain":{"name":"Default"},"name":"admin"}}}}`},
		"token, older spelling": {words: []string{"--auth-token=" + token, "--project-name="}, asked: "GET /v3/auth/tokens"},
		"token of the environment": {environment: map[string]string{"OS_AUTH_TOKEN": token, "OS_USERNAME": "", "OS_PASSWORD": "", "OS_PROJECT_NAME": ""},
			asked: "GET /v3/auth/tokens"},
		"tenant":         {environment: map[string]string{"OS_PROJECT_NAME": "", "OS_TENANT_NAME": "admin"}, asked: "POST /v3/auth/tokens"},
		"a command line": {environment: map[string]string{"OS_USERNAME": "x", "OS_PASSWORD": "x", "OS_PROJECT_NAME": "x"}, words: []string{"--user", user, "--passw", password, "--proj", "admin"}, asked: "POST /v3/auth/tokens"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUndercloud(t)
			environment := u.stackrc()
			maps.Copy(environment, test.environment)
			if got := call(t, environment, test.words...); got.code != 0 || got.stderr != "" {
				t.Fatalf("exit %d: %s", got.code, got.stderr)
			}
			if test.login != "" && marshal(t, u.logins[len(u.logins)-1]) != test.login {
				t.Errorf("login %s", marshal(t, u.logins[len(u.logins)-1]))
			}
			if test.asked != "" && u.asked[0] != test.asked {
				t.Errorf("asked %v", u.asked)
			}
		})
	}
}

func TestVersionsOfTheURL(t *testing.T) {
	for _, end := range []string{"", "/", "/v2.0", "/v2.0/", "/v3", "/v3/", "//"} {
		u := newUndercloud(t)
		environment := u.stackrc()
		environment["OS_AUTH_URL"] = u.URL + end
		if got := call(t, environment); got.code != 0 || u.asked[0] != "POST /v3/auth/tokens" {
			t.Errorf("%q: exit %d, asked %v: %s", end, got.code, u.asked, got.stderr)
		}
	}
}

func TestTLS(t *testing.T) {
	plain := newUndercloud(t)
	secure := newTLS(t, plain)
	environment := plain.stackrc()
	environment["OS_AUTH_URL"] = secure.url
	if got := call(t, environment); got.code != 1 || !strings.Contains(got.stderr, "does not answer: tls: failed to verify certificate") {
		t.Errorf("unknown authority: exit %d: %s", got.code, got.stderr)
	}
	if got := call(t, environment, "--cacert", secure.ca); got.code != 0 || got.stderr != "" {
		t.Errorf("--cacert: exit %d: %s", got.code, got.stderr)
	}
	environment["OS_CACERT"] = secure.ca
	if got := call(t, environment); got.code != 0 {
		t.Errorf("OS_CACERT: exit %d: %s", got.code, got.stderr)
	}
}

// The launcher hands over arguments, environment and exit code.
func TestBothEntries(t *testing.T) {
	directory := t.TempDir()
	binary := filepath.Join(directory, "build", program)
	build := exec.Command("go", "build", "-o", binary, ".")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	launcher := filepath.Join(directory, "tripleo", program)
	if err := errorsOf(os.Mkdir(filepath.Dir(launcher), 0o755), os.WriteFile(launcher, text, 0o755)); err != nil {
		t.Fatal(err)
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("python3 is missing")
	}
	u := newUndercloud(t)
	for name, entry := range map[string][]string{"binary": {binary}, "python3 launcher": {python, launcher}, "launcher": {launcher}} {
		t.Run(name, func(t *testing.T) {
			start := func(environment map[string]string, words ...string) (string, int) {
				command := exec.Command(entry[0], slices.Concat(entry[1:], words)...)
				command.Dir = t.TempDir()
				command.Env = []string{"PATH=" + os.Getenv("PATH")}
				for name, value := range environment {
					command.Env = append(command.Env, name+"="+value)
				}
				output, err := command.CombinedOutput()
				if _, ok := err.(*exec.ExitError); err != nil && !ok {
					t.Fatal(err)
				}
				text, _ := os.ReadFile(filepath.Join(command.Dir, "skydive-inventory.yaml"))
				return string(output) + string(text), command.ProcessState.ExitCode()
			}
			if output, code := start(nil, "--h"); code != 0 || !strings.HasPrefix(output, "usage: skydive-tripleo-inventory [-h]") {
				t.Errorf("help: exit %d: %s", code, output)
			}
			if output, code := start(nil, "--conf", "x"); code != 2 || !strings.HasSuffix(output, ": error: ambiguous option: --conf could match --config-dir, --config-file\n") {
				t.Errorf("ambiguous: exit %d: %s", code, output)
			}
			if output, code := start(nil); code != 1 || !strings.HasPrefix(output, "ERROR: auth-url not defined") {
				t.Errorf("no URL: exit %d: %s", code, output)
			}
			want, err := os.ReadFile("testdata/plain.golden.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if output, code := start(u.stackrc()); code != 0 || output != string(want) {
				t.Errorf("exit %d: %s", code, output)
			}
		})
	}
	// Alone, it says what to do; and it does not start itself.
	if err := os.Rename(binary, binary+".away"); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(python, launcher)
	command.Env = []string{"PATH=" + filepath.Dir(launcher) + ":" + os.Getenv("PATH")}
	if output, err := command.CombinedOutput(); err == nil || !strings.Contains(string(output), "make build") {
		t.Errorf("without a program: %v: %s", err, output)
	}
}

func TestInterrupted(t *testing.T) {
	u := newUndercloud(t)
	ctx, cancel := context.WithCancel(context.Background())
	u.instead = func(_ http.ResponseWriter, r *http.Request) bool { cancel(); return silent(nil, r) }
	var stderr bytes.Buffer
	begin := time.Now()
	if code := run(ctx, nil, func(name string) string { return u.stackrc()[name] }, &stderr, &stderr); code != 1 || time.Since(begin) > 20*time.Second {
		t.Errorf("exit %d: %s", code, stderr.String())
	}
}
