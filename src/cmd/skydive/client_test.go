package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// request is what an analyzer was asked.
type request struct {
	Method, Path, Body string
	Header             http.Header
}

// fakeAnalyzer answers from a table "METHOD path" → status and body, and keeps
// the requests.
type fakeAnalyzer struct {
	*httptest.Server
	answers  map[string]string
	requests []request
}

func newFakeAnalyzer(t *testing.T, answers map[string]string) *fakeAnalyzer {
	f := &fakeAnalyzer{answers: answers}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.requests = append(f.requests, request{r.Method, r.URL.EscapedPath(), string(body), r.Header})
		answer, ok := f.answers[r.Method+" "+r.URL.EscapedPath()]
		status, text, _ := strings.Cut(answer, " ")
		if !ok {
			status, text = "404", "Capture 'zzz' not found\n"
		}
		w.WriteHeader(map[string]int{"200": 200, "201": 201, "202": 202, "204": 204, "304": 304, "400": 400, "404": 404, "501": 501}[status])
		if status != "304" && status != "204" {
			io.WriteString(w, text)
		}
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAnalyzer) address() string { return strings.TrimPrefix(f.URL, "http://") }

// run runs a client command against the fake.
func (f *fakeAnalyzer) run(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	f.requests = nil
	return skydive(t, []string{"SKYDIVE_ANALYZER=" + f.address()}, stdin, append([]string{"skydive", "client"}, args...)...)
}

func TestQuery(t *testing.T) {
	f := newFakeAnalyzer(t, map[string]string{"POST /api/topology": "200 [{\"b\":1,\"a\":[]}]\n"})
	got := f.run(t, "", "query", "G.V()")
	if got.code != 0 || got.stdout != "[\n\t{\n\t\t\"b\": 1,\n\t\t\"a\": []\n\t}\n]\n" {
		t.Errorf("%+v", got)
	}
	if r := f.requests[0]; r.Body != `{"GremlinQuery":"G.V()"}` || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%+v", r)
	}
	for format, accept := range map[string]string{"dot": "text/vnd.graphviz", "pcap": "application/vnd.tcpdump.pcap"} {
		f.answers["POST /api/topology"] = "200 raw\x00bytes"
		got = f.run(t, "", "query", "--format", format, "G", "--delete")
		if got.code != 0 || got.stdout != "raw\x00bytes" || f.requests[0].Header.Get("Accept") != accept {
			t.Errorf("%s: %+v %v", format, got, f.requests)
		}
	}
	f.answers["POST /api/topology"] = "400 at 5: want a step\n"
	if got = f.run(t, "", "query", "G.V(."); got.code != 1 || got.stdout != "" || got.stderr != "Error: 400 Bad Request: at 5: want a step\n" {
		t.Errorf("%+v", got)
	}
	f.answers["POST /api/topology"] = "204 "
	if got = f.run(t, "", "query", " "); got.code != 1 {
		t.Errorf("an empty expression succeeds: %+v", got)
	}
}

func TestConnectionOptions(t *testing.T) {
	f := newFakeAnalyzer(t, map[string]string{"GET /api/status": `200 {}`})
	for _, tc := range []struct {
		environ, args  []string
		user, password string
	}{
		{nil, nil, "", ""},
		{[]string{"SKYDIVE_USERNAME=eve", "SKYDIVE_PASSWORD=p1"}, nil, "eve", "p1"},
		{[]string{"SKYDIVE_USERNAME=eve", "SKYDIVE_PASSWORD=p1"}, []string{"--username", "bob", "--password=p2"}, "bob", "p2"},
	} {
		f.requests = nil
		args := append([]string{"skydive", "client", "--analyzer", f.address(), "status"}, tc.args...)
		got := skydive(t, append(tc.environ, "SKYDIVE_ANALYZER=192.0.2.1:1"), "", args...)
		if got.code != 0 || len(f.requests) != 1 {
			t.Fatalf("%v: %+v", args, got)
		}
		r := http.Request{Header: f.requests[0].Header}
		if user, password, _ := r.BasicAuth(); user != tc.user || password != tc.password {
			t.Errorf("%v: %s %s", args, user, password)
		}
	}
	if got := f.run(t, "", "status", "--cacert", "/x"); got.code != 1 || !strings.Contains(got.stderr, "open /x") {
		t.Errorf("%+v", got)
	}
	if got := f.run(t, "", "status", "--insecure"); got.code != 0 || !strings.Contains(got.stderr, "not encrypted") {
		t.Errorf("%+v", got)
	}
	if got := skydive(t, nil, "", "skydive-cli", "status", "--analyzer", f.address()); got.code != 0 {
		t.Errorf("skydive-cli: %+v", got)
	}
}

func TestStatusIsSorted(t *testing.T) {
	f := newFakeAnalyzer(t, map[string]string{"GET /api/status": `200 {"b":{"z":1,"y":9007199254740993},"a":"<&>"}`})
	if got := f.run(t, "", "status"); got.stdout != "{\n  \"a\": \"\\u003c\\u0026\\u003e\",\n  \"b\": {\n    \"y\": 9007199254740993,\n    \"z\": 1\n  }\n}\n" {
		t.Errorf("%+v", got)
	}
}

// TestResources: what each command sends, and what it prints.
func TestResources(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	workflow := file("w.yml", "Name: w\nParameters:\n- {Name: p, Type: string}\nSource: |\n  function() {}\n")
	pcap := file("t.pcap", "pcapbytes")
	f := newFakeAnalyzer(t, nil)
	for _, tc := range []struct {
		args          string
		answer        string // to the request below
		request, body string // "METHOD path", JSON that the body must equal ("" = no body, "*" = anything)
		stdout        string
	}{
		{"capture list", `200 {"b":{"UUID":"b"}}`, "GET /api/capture", "", "{\n  \"b\": {\n    \"UUID\": \"b\"\n  }\n}\n"},
		{"capture get a/b", `200 {"UUID":"a/b"}`, "GET /api/capture/a%2Fb", "", "{\n  \"UUID\": \"a/b\"\n}\n"},
		{"capture delete x", "200 ", "DELETE /api/capture/x", "", ""},
		{"capture create --node T --extra-layer DNS --extra-layer VRRP --ttl 1500 --reassamble-tcp", `201 {"UUID":"n"}`, "POST /api/capture",
			`{"BPFFilter":"","Description":"","ExtraLayers":3,"ExtraTCPMetric":false,"GremlinQuery":"g.V().Has('TID', 'T')","HeaderSize":0,"IPDefrag":false,"LayerKeyMode":"L2","Name":"","PollingInterval":10,"Port":0,"RawPacketLimit":0,"ReassembleTCP":true,"SamplingRate":1,"Target":"","TargetType":"","Type":""}`,
			"{\n  \"UUID\": \"n\"\n}\n"},
		{"alert create --name n --expression e", `201 {}`, "POST /api/alert", `{"Name":"n","Description":"","Expression":"e","Trigger":"graph","Action":""}`, "{}\n"},
		{"alert update id --name n", `200 {"UUID":"id"}`, "PATCH /api/alert/id", `[{"op":"add","path":"/Name","value":"n"},{"op":"add","path":"/Trigger","value":"graph"}]`, "{\n  \"UUID\": \"id\"\n}\n"},
		{"alert update id", `304 `, "PATCH /api/alert/id", `[{"op":"add","path":"/Trigger","value":"graph"}]`, "null\n"},
		{"node-rule create --action create --node-name n --node-type t --metadata a.b=1", `201 {}`, "POST /api/noderule", `{"Name":"","Description":"","Metadata":{"Name":"n","Type":"t","a":{"b":"1"}},"Action":"create","Query":""}`, "{}\n"},
		{"edge-rule create --src S --dst D --relationtype layer2", `201 {}`, "POST /api/edgerule", `{"Name":"","Description":"","Src":"S","Dst":"D","Metadata":{"RelationType":"layer2"}}`, "{}\n"},
		{"injection create --src S --dst-port 80 --pcap " + pcap, `201 {}`, "POST /api/injectpacket",
			`{"Src":"S","Dst":"","SrcIP":"","DstIP":"","SrcMAC":"","DstMAC":"","SrcPort":0,"DstPort":80,"Type":"icmp4","Payload":"","Pcap":"cGNhcGJ5dGVz","ICMPID":0,"Mode":"unique","Count":1,"IncrementPayload":0,"Interval":0,"TTL":64}`, "{}\n"},
		{"inject-packet list", `200 {}`, "GET /api/injectpacket", "", "{}\n"},
		{"workflow create --path " + workflow, `201 {}`, "POST /api/workflow", `{"Name":"w","Parameters":[{"Name":"p","Type":"string"}],"Source":"function() {}\n"}`, "{}\n"},
		{"workflow call w 1 b", `200 {"r":1}`, "POST /api/workflow/w/call", `{"Params":["1","b"]}`, "{\n  \"r\": 1\n}\n"},
		{"pcap -t " + pcap, `202 `, "POST /api/pcap", "*", pcap + " was successfully imported\n"},
		{"node update i -a Tags=[1,\"x\"] -a a/b=text --remove=Old", `200 {"ID":"i"}`, "PATCH /api/node/i", `[{"op":"add","path":"/Metadata/Tags","value":[1,"x"]},{"op":"add","path":"/Metadata/a.b","value":"text"},{"op":"remove","path":"/Metadata/Old","value":null}]`, "{\n  \"ID\": \"i\"\n}\n"},
		{"node update i -a k=v", `304 `, "PATCH /api/node/i", "*", "Not modified\n"},
		{"node list", `200 {}`, "GET /api/node", "", "{}\n"},
		{"edge get e", `200 {}`, "GET /api/edge/e", "", "{}\n"},
		{"topology export", "200 [{}]\n", "POST /api/topology", `{"GremlinQuery":"G"}`, "[\n\t{}\n]\n"},
		{"topology query --gremlin G.V()", "200 []\n", "POST /api/topology", `{"GremlinQuery":"G.V()"}`, "[]\n"},
	} {
		f.answers = map[string]string{tc.request: tc.answer}
		got := f.run(t, "", strings.Fields(tc.args)...)
		if got.code != 0 || got.stdout != tc.stdout || len(f.requests) != 1 {
			t.Errorf("%s: %+v %+v\nwant %q", tc.args, got, f.requests, tc.stdout)
			continue
		}
		r := f.requests[0]
		if r.Method+" "+r.Path != tc.request || tc.body != "*" && !sameJSON(r.Body, tc.body) {
			t.Errorf("%s: %+v\nwant %s %s", tc.args, r, tc.request, tc.body)
		}
		if wantTTL := map[string]string{"capture create": "1.5s", "injection creat": "5s"}[tc.args[:min(len(tc.args), 14)]]; r.Header.Get("X-Resource-TTL") != wantTTL && wantTTL != "" {
			t.Errorf("%s: X-Resource-TTL %q", tc.args, r.Header.Get("X-Resource-TTL"))
		}
	}
}

func sameJSON(a, b string) bool {
	if a == b {
		return true
	}
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}

func TestRefusals(t *testing.T) {
	f := newFakeAnalyzer(t, map[string]string{"POST /api/alert": "501 alerts come with a later version\n"})
	for args, want := range map[string]string{
		"capture get zzz":                  "Error: Failed to get capture, 404 Not Found: Capture 'zzz' not found\n",
		"alert create --expression x":      "Error: Failed to create alert, 501 Not Implemented: alerts come with a later version\n",
		"node update zzz -a a=b":           "Failed to update node",
		"edge create --parent p --child c": "Could not find parent node",
	} {
		if got := f.run(t, "", strings.Fields(args)...); got.code != 1 || got.stdout != "" || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %+v, want %s", args, got, want)
		}
	}
	got := f.run(t, "", "capture", "delete", "a", "b")
	if got.code != 0 || len(f.requests) != 2 || strings.Count(got.stderr, "Failed to delete capture") != 2 {
		t.Errorf("delete of several: %+v", got)
	}
}

func TestCreateElements(t *testing.T) {
	f := newFakeAnalyzer(t, map[string]string{
		"POST /api/node": "201 {}", "POST /api/edge": "201 {}", "GET /api/node/p": "200 {}", "GET /api/node/c": "200 {}",
	})
	got := f.run(t, "", "node", "create", "--node-name", "n", "--node-type", "device", "--host", "h9", "--metadata", `a.b="x y", c=2`)
	var node struct {
		ID, Host, Origin     string
		Metadata             map[string]any
		CreatedAt, UpdatedAt int64
		Revision             int
	}
	if got.code != 0 || json.Unmarshal([]byte(f.requests[0].Body), &node) != nil {
		t.Fatalf("%+v %+v", got, f.requests)
	}
	want := map[string]any{"Name": "n", "Type": "device", "a": map[string]any{"b": "x y"}, "c": "2"}
	if !reflect.DeepEqual(node.Metadata, want) || len(node.ID) != 36 || node.Host != "h9" || node.Origin != "cli.h9" || node.Revision != 1 || node.CreatedAt == 0 || node.UpdatedAt != node.CreatedAt {
		t.Errorf("%+v", node)
	}
	got = f.run(t, "", "edge", "create", "--parent", "p", "--child", "c", "--edge-type", "layer2")
	if got.code != 0 || len(f.requests) != 3 || !strings.Contains(f.requests[2].Body, `"RelationType":"layer2"`) || !strings.Contains(f.requests[2].Body, `"Parent":"p"`) {
		t.Errorf("%+v %+v", got, f.requests)
	}
}

func TestDeleteByGremlin(t *testing.T) {
	f := newFakeAnalyzer(t, map[string]string{"POST /api/topology": `200 [{"ID":"a"},{"ID":"b"}]`, "DELETE /api/node/a": "200 ", "DELETE /api/node/b": "200 "})
	if got := f.run(t, "", "node", "delete", "--gremlin", "G.V()"); got.code != 0 || got.stderr != "" || len(f.requests) != 3 {
		t.Errorf("%+v %+v", got, f.requests)
	}
}

func TestImportRefusesOtherShapes(t *testing.T) {
	f := newFakeAnalyzer(t, nil)
	for _, text := range []string{"[]", "[{},{}]", "{}", "x"} {
		if got := f.run(t, text, "topology", "import", "--file", "-"); got.code != 1 || !strings.Contains(got.stderr, "Invalid graph format") {
			t.Errorf("%s: %+v", text, got)
		}
	}
}
