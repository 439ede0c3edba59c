//go:build openstack

// These tests need a real Keystone and Heat: make openstack-test. With -record, their answers become testdata/undercloud.

package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var record = flag.Bool("record", false, "write what Keystone and Heat answer to testdata/undercloud")

func setting(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv("SKYDIVE_TEST_OPENSTACK_" + name)
	if value == "" {
		t.Fatalf("SKYDIVE_TEST_OPENSTACK_%s is not set: make openstack-test runs this beside an OpenStack", name)
	}
	return value
}

// operator is the administrator of the real thing.
type operator struct {
	t           *testing.T
	token, heat string // the token, and Heat's URL with the project
	login       []byte // what Keystone answered
}

func (o *operator) send(method, url string, body any, want int) ([]byte, http.Header) {
	o.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		o.t.Fatal(err)
	}
	request, err := http.NewRequest(method, url, bytes.NewReader(text))
	if err != nil {
		o.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Auth-Token", o.token)
	client := http.Client{Timeout: time.Minute}
	answer, err := client.Do(request)
	if err != nil {
		o.t.Fatal(err)
	}
	defer answer.Body.Close()
	found, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != want {
		o.t.Fatalf("%s %s: %s %v: %.500s", method, url, answer.Status, err, found)
	}
	return found, answer.Header
}

func newOperator(t *testing.T) *operator {
	o := &operator{t: t}
	domain := object{"id": "default"}
	answer, header := o.send("POST", setting(t, "AUTH_URL")+"/auth/tokens", object{"auth": object{
		"identity": object{"methods": []string{"password"}, "password": object{"user": object{
			"name": setting(t, "USERNAME"), "password": setting(t, "PASSWORD"), "domain": domain}}},
		"scope": object{"project": object{"name": setting(t, "PROJECT"), "domain": domain}}}}, 201)
	var made struct {
		Token struct {
			Catalog []struct {
				Type      string
				Endpoints []struct{ Interface, URL string }
			}
		}
	}
	if err := json.Unmarshal(answer, &made); err != nil {
		t.Fatal(err)
	}
	for _, service := range made.Token.Catalog {
		for _, endpoint := range service.Endpoints {
			if service.Type == "orchestration" && endpoint.Interface == "public" {
				o.heat = strings.TrimRight(endpoint.URL, "/")
			}
		}
	}
	if o.token, o.login = header.Get("X-Subject-Token"), answer; o.heat == "" {
		t.Fatalf("no Heat in the catalogue: %s", answer)
	}
	return o
}

// overcloud is what TripleO leaves behind.
type overcloud struct {
	Outputs    object `json:"outputs"`
	Parameters object `json:"parameter_defaults"`
}

// stack makes one with the outputs and the environment of an overcloud, and returns its name and id.
func (o *operator) stack(change func(overcloud)) (name, id string) {
	o.t.Helper()
	text, err := os.ReadFile("testdata/overcloud.json")
	if err != nil {
		o.t.Fatal(err)
	}
	var cloud overcloud
	if err := json.Unmarshal(text, &cloud); err != nil {
		o.t.Fatal(err)
	}
	if change != nil {
		change(cloud)
	}
	outputs := object{}
	for name, value := range cloud.Outputs {
		outputs[name] = object{"value": value}
	}
	name = "t" + strings.ToLower(rand.Text()[:8])
	answer, _ := o.send("POST", o.heat+"/stacks", object{"stack_name": name, "timeout_mins": 5,
		"template":    object{"heat_template_version": "2018-08-31", "outputs": outputs},
		"environment": object{"parameter_defaults": cloud.Parameters}}, 201)
	var made struct{ Stack struct{ ID string } }
	if err := json.Unmarshal(answer, &made); err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { o.send("DELETE", o.heat+"/stacks/"+name+"/"+made.Stack.ID, nil, 204) })
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		answer, _ := o.send("GET", o.heat+"/stacks/"+name+"/"+made.Stack.ID, nil, 200)
		if bytes.Contains(answer, []byte(`"CREATE_COMPLETE"`)) {
			return name, made.Stack.ID
		}
		if time.Now().After(end) {
			o.t.Fatalf("the stack is not complete: %s", answer)
		}
	}
}

func (o *operator) stackrc() map[string]string {
	return map[string]string{"OS_AUTH_URL": setting(o.t, "AUTH_URL"), "OS_USERNAME": setting(o.t, "USERNAME"), "OS_PASSWORD": setting(o.t, "PASSWORD"),
		"OS_PROJECT_NAME": setting(o.t, "PROJECT"), "OS_REGION_NAME": setting(o.t, "REGION")}
}

func TestRealStack(t *testing.T) {
	o := newOperator(t)
	name, id := o.stack(nil)
	want, err := os.ReadFile("testdata/plain.golden.yaml")
	if err != nil {
		t.Fatal(err)
	}
	base := strings.TrimSuffix(setting(t, "AUTH_URL"), "/v3")
	for how, change := range map[string]func(map[string]string){
		"password":        func(map[string]string) {},
		"no version":      func(e map[string]string) { e["OS_AUTH_URL"] = base + "/" },
		"older version":   func(e map[string]string) { e["OS_AUTH_URL"] = base + "/v2.0/" },
		"token":           func(e map[string]string) { e["OS_AUTH_TOKEN"], e["OS_PASSWORD"] = o.token, "" },
		"token and scope": func(e map[string]string) { e["OS_AUTH_TOKEN"], e["OS_PROJECT_NAME"] = o.token, "" },
		"internal":        func(e map[string]string) { e["OS_ENDPOINT_TYPE"] = "internalURL" },
	} {
		environment := o.stackrc()
		change(environment)
		if got := call(t, environment, "--plan", name); got.code != 0 || got.stderr != "" || got.inventory != string(want) {
			t.Errorf("%s: exit %d: %s%s", how, got.code, got.stderr, got.inventory)
		}
	}
	if *record {
		o.record(name, id)
	}
}

// record keeps the answers, with nothing of this cloud's addresses and ids in them.
func (o *operator) record(name, id string) {
	stack, _ := o.send("GET", o.heat+"/stacks/"+name+"/"+id, nil, 200)
	environment, _ := o.send("GET", o.heat+"/stacks/"+name+"/"+id+"/environment", nil, 200)
	host, project, _ := strings.Cut(strings.TrimPrefix(o.heat, "http://"), "/v1/")
	names := strings.NewReplacer(host, "UNDERCLOUD", strings.Split(host, ":")[0], "192.168.24.1", project, "p1", name, "overcloud", id, stackID)
	for file, text := range map[string][]byte{"token": o.login, "stack": stack, "environment": environment} {
		var indented bytes.Buffer
		if err := json.Indent(&indented, []byte(names.Replace(string(text))), "", " "); err != nil {
			o.t.Fatal(err)
		}
		fmt.Fprintln(&indented)
		if err := os.WriteFile(filepath.Join("testdata", "undercloud", file+".json"), indented.Bytes(), 0o644); err != nil {
			o.t.Fatal(err)
		}
	}
}

func TestRealStackThatLacksThings(t *testing.T) {
	o := newOperator(t)
	name, _ := o.stack(func(cloud overcloud) {
		delete(cloud.Outputs, "KeystoneURL")
		delete(cloud.Outputs["EndpointMap"].(object), "KeystoneV3Internal")
		delete(cloud.Parameters, "AdminPassword")
	})
	got := call(t, o.stackrc(), "--plan", name)
	for _, want := range []string{"has no output KeystoneURL", "has no KeystoneV3Internal.uri", "has no parameter AdminPassword",
		"os_auth_url is empty", "os_password is empty", "skydive_os_auth_url is empty"} {
		if got.code != 0 || !strings.Contains(got.stderr, want) || !strings.Contains(got.inventory, "overcloud-novacompute-0") {
			t.Errorf("%s: exit %d: %s%s", want, got.code, got.stderr, got.inventory)
		}
	}
	// There is no Nova here to fall back on.
	name, _ = o.stack(func(cloud overcloud) { delete(cloud.Outputs, "RoleNetIpMap") })
	if got := call(t, o.stackrc(), "--plan", name); got.code != 1 || got.inventory != "" || !strings.Contains(got.stderr, "has no public endpoint of the service compute") {
		t.Errorf("exit %d: %s%s", got.code, got.stderr, got.inventory)
	}
}

func TestRealRefusals(t *testing.T) {
	o := newOperator(t)
	name, _ := o.stack(nil)
	for _, test := range []struct{ name, value, want string }{
		{"OS_PASSWORD", "other", "does not let in user"},
		{"OS_AUTH_TOKEN", "gAAAAABother", "does not accept the token"},
		{"OS_PROJECT_NAME", "other", "does not let in user"},
		{"OS_REGION_NAME", "other", "has no public endpoint of the service orchestration in region other"},
		{"TRIPLEO_PLAN_NAME", "other", `has no stack "other"; it has `},
	} {
		environment := o.stackrc()
		environment["TRIPLEO_PLAN_NAME"] = name
		environment[test.name] = test.value
		if got := call(t, environment); got.code != 1 || got.inventory != "" || !strings.Contains(got.stderr, test.want) {
			t.Errorf("%s: exit %d: %s", test.name, got.code, got.stderr)
		}
	}
	// Who is no administrator sees no stack of others.
	environment := o.stackrc()
	environment["OS_USERNAME"], environment["OS_PASSWORD"], environment["OS_PROJECT_NAME"] =
		setting(t, "MEMBER_USERNAME"), setting(t, "MEMBER_PASSWORD"), setting(t, "MEMBER_PROJECT")
	if got := call(t, environment, "--plan", name); got.code != 1 || !strings.Contains(got.stderr, "Error creating skydive inventory: Heat at ") {
		t.Errorf("member: exit %d: %s", got.code, got.stderr)
	}
}
