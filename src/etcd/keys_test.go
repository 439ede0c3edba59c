package etcd

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// call makes a request to a server and returns status and body.
func call(t *testing.T, method, target string, form url.Values) (int, string) {
	t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return send(t, r)
}

func send(t *testing.T, r *http.Request) (int, string) {
	t.Helper()
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(text)
}

const policy = "p, guests, alert, read, allow\np, guests, topology, read, allow\ng, bob, guests\np, bob, topology, read, deny\n"

// The command line is that of the documentation but for the port: one slash after the scheme.
func TestDocumentedUpload(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	s, _ := run(t, cfg)
	file := filepath.Join(t.TempDir(), "mypolicy.csv")
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(cfg.Listen, ":")
	for i, want := range []string{"201", "200"} {
		out, err := exec.CommandContext(t.Context(), "curl", "-sS", "-w", "%{http_code}", "-X", "PUT", "--data-urlencode", "value@"+file,
			"http:/localhost:"+port+"/v2/keys/casbinPolicy").CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), want) || !strings.Contains(string(out), `"action":"set","node":{"key":"/casbinPolicy"`) {
			t.Fatalf("upload %d: %v %s", i, err, out)
		}
		if v, _, err := s.Get(t.Context(), "/casbinPolicy"); err != nil || string(v) != policy {
			t.Fatalf("upload %d stored %q, %v", i, v, err)
		}
	}
}

func TestKeys(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	s, _ := run(t, cfg)
	at := "http://" + cfg.Listen + keysPath
	must := func(method, path string, form url.Values, status int, contains ...string) answer {
		t.Helper()
		got, text := call(t, method, at+path, form)
		for _, c := range contains {
			if !strings.Contains(text, c) {
				t.Errorf("%s %s: %s lacks %s", method, path, text, c)
			}
		}
		if got != status {
			t.Errorf("%s %s: %d %s, wanted %d", method, path, got, text, status)
		}
		var a answer
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Errorf("%s %s: %v in %s", method, path, err, text)
		}
		return a
	}
	value := func(v string, more ...string) url.Values {
		f := url.Values{"value": {v}}
		for i := 0; i < len(more); i += 2 {
			f.Set(more[i], more[i+1])
		}
		return f
	}
	must("GET", "/a", nil, 404, `{"errorCode":100,"message":"Key not found","cause":"/a","index":`)
	must("DELETE", "/a", nil, 404, `"errorCode":100`)
	made := must("PUT", "/a", value("1"), 201, `{"action":"set","node":{"key":"/a","value":"1","modifiedIndex":`)
	changed := must("PUT", "/a?value=2", nil, 200, `"prevNode":{"key":"/a","value":"1",`)
	if changed.Node.Created != made.Node.Created || changed.Node.Modified <= made.Node.Modified {
		t.Errorf("indices %+v then %+v", made.Node, changed.Node)
	}
	if got := must("GET", "/a", nil, 200, `{"action":"get","node":{"key":"/a","value":"2",`); got.Node.Modified != changed.Node.Modified {
		t.Errorf("%+v", got.Node)
	}
	must("PUT", "/a", value("", "prevValue", "1"), 412, `"errorCode":101`)
	must("PUT", "/a", value("3", "prevValue", "2"), 200, `"action":"compareAndSwap"`)
	must("PUT", "/a", value("4", "prevExist", "false"), 412, `"errorCode":105`)
	must("PUT", "/b", value("4", "prevExist", "true"), 404, `"errorCode":100`)
	must("PUT", "/b", value("4", "prevExist", "false"), 201, `"action":"create"`)
	must("PUT", "/b", value("", "prevExist", "true"), 200, `"action":"update"`, `"value":""`)
	must("PUT", "/b", value("4", "prevIndex", "1"), 412, `"errorCode":101`)
	must("DELETE", "/b?prevValue=no", nil, 412, `"errorCode":101`)
	must("DELETE", "/b?prevValue=", nil, 200, `"action":"compareAndDelete"`, `"prevNode":{"key":"/b","value":""`)
	must("DELETE", "/a", nil, 200, `{"action":"delete","node":{"key":"/a","modifiedIndex":`, `"prevNode":{"key":"/a","value":"3"`)
	for _, k := range []string{"/d/x", "/d/y", "/d/sub/z", "/d-no", "/_hidden", "/d/_hidden/x"} {
		must("PUT", k, value(k), 201)
	}
	must("GET", "", nil, 200, `{"action":"get","node":{"dir":true,"nodes":[{"key":"/d-no"`, `{"key":"/d","dir":true}`)
	if got := must("GET", "/d/", nil, 200, `{"key":"/d/sub","dir":true}`); len(got.Node.Nodes) != 3 {
		t.Errorf("%d nodes in /d", len(got.Node.Nodes))
	}
	all := must("GET", "/?recursive=true", nil, 200, `{"key":"/d/sub","dir":true,"nodes":[{"key":"/d/sub/z","value":"/d/sub/z"`)
	if text, _ := json.Marshal(all); bytes.Contains(text, []byte("hidden")) {
		t.Errorf("hidden keys in %s", text)
	}
	must("DELETE", "/d", nil, 403, `"errorCode":102`)
	must("DELETE", "/d?recursive=true", nil, 200, `"node":{"key":"/d","dir":true`)
	must("GET", "/d", nil, 404)
	must("GET", "/d-no", nil, 200)
	must("PUT", "/t", value("1", "ttl", "60"), 201, `"ttl":`, `"expiration":"`)
	must("GET", "/t", nil, 200, `"ttl":`)
	must("PUT", "/t", value("2"), 200)
	if _, _, err := s.Get(t.Context(), endOf("/t")); !errors.Is(err, ErrNotFound) {
		t.Errorf("the end outlives: %v", err)
	}
	must("PUT", "/", value("1"), 403, `"errorCode":107`)
	must("DELETE", "/?recursive=true", nil, 403, `"errorCode":107`)
	must("PUT", "/x", url.Values{"dir": {"true"}}, 400, `"errorCode":209`)
	must("PUT", "/x", value("1", "prevExist", "maybe"), 400, `"errorCode":209`)
	must("PUT", "/x", value("1", "ttl", "soon"), 400, `"errorCode":203`)
	must("PUT", "/x", value("1", "ttl", "-1"), 400, `"errorCode":203`)
	must("POST", "/x", value("1"), 405)
	must("PUT", "/"+strings.Repeat("k", maxKey), value("1"), 400)
	must("PUT", "/x", value(strings.Repeat("v", maxValue)), 201)
	must("PUT", "/x", value(strings.Repeat("v", maxValue+1)), 413)
	must("PUT", "/x", value(strings.Repeat("%", maxForm/3+1)), 413)
}

func TestKeysWait(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	s, stop := run(t, cfg)
	at := "http://" + cfg.Listen + keysPath
	type reply struct {
		status int
		text   string
	}
	// wait returns once the server waits.
	wait := func(path string) <-chan reply {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", at+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan reply, 1)
		go func() {
			defer answer.Body.Close()
			text, _ := io.ReadAll(answer.Body)
			done <- reply{answer.StatusCode, string(text)}
		}()
		return done
	}
	got := func(from <-chan reply, contains string) {
		t.Helper()
		select {
		case r := <-from:
			if r.status != 200 || !strings.Contains(r.text, contains) {
				t.Errorf("%+v lacks %s", r, contains)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("no %s in 10 s", contains)
		}
	}
	ctx := t.Context()
	one, below, never := wait("/d/a?wait=true"), wait("/d?wait=true&recursive=true"), wait("/other?wait=true")
	for _, k := range []string{"/d-no", "/d/_hidden", "/d/a"} {
		if err := s.Put(ctx, k, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	got(one, `{"action":"set","node":{"key":"/d/a","value":"1","modifiedIndex":`)
	got(below, `{"action":"set","node":{"key":"/d/a","value":"1"`)
	_, revision, err := s.Get(ctx, "/d/a")
	if err != nil {
		t.Fatal(err)
	}
	gone := wait("/d/a?wait=true")
	if err := s.Delete(ctx, "/d/a"); err != nil {
		t.Fatal(err)
	}
	got(gone, `{"action":"delete","node":{"key":"/d/a","modifiedIndex":`)
	got(wait("/d?wait=true&recursive=true&waitIndex="+strconv.FormatInt(revision, 10)), `"action":"set"`)
	for range maxWaits - 1 {
		wait("/other?wait=true")
	}
	if status, text := call(t, "GET", at+"/other?wait=true", nil); status != 503 {
		t.Errorf("one too many: %d %s", status, text)
	}
	began := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("waits hold up the end for %v", took)
	}
	got(never, "")
}

// Who may: this host, the authorized; and never a page, whatever name it gave this host.
func TestKeysGuard(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	s, _ := run(t, cfg)
	s.opts.Authorized = func(r *http.Request) bool { _, _, ok := r.BasicAuth(); return ok }
	h := newKeys(s, t.Context().Done())
	for _, c := range []struct {
		name, from, host string
		set              map[string]string
		status           int
	}{
		{"this host", "127.0.0.1:5", "localhost:12379", nil, 404},
		{"this host by address", "127.0.0.1:5", "127.0.0.1:12379", nil, 404},
		{"this host over IPv6", "[::1]:5", "[::1]:12379", nil, 404},
		{"address bar", "127.0.0.1:5", "localhost", map[string]string{"Sec-Fetch-Site": "none"}, 404},
		{"rebound name", "127.0.0.1:5", "evil.example:12379", nil, 421},
		{"page", "127.0.0.1:5", "localhost", map[string]string{"Origin": "http://evil.example"}, 403},
		{"page of this host", "127.0.0.1:5", "localhost", map[string]string{"Origin": "http://localhost:8082"}, 403},
		{"page without Origin", "127.0.0.1:5", "localhost", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"other host", "192.0.2.1:5", "localhost", nil, 401},
		{"other host that claims to be this one", "192.0.2.1:5", "localhost", map[string]string{"X-Forwarded-For": "127.0.0.1"}, 401},
		{"authorized", "192.0.2.1:5", "etcd.example", map[string]string{"Authorization": "Basic YTpi"}, 404},
		{"page of somebody authorized", "192.0.2.1:5", "etcd.example", map[string]string{"Authorization": "Basic YTpi", "Origin": "http://evil.example"}, 403},
	} {
		for _, method := range []string{"GET", "DELETE"} {
			r := httptest.NewRequest(method, "/v2/keys/nothing", nil)
			r.RemoteAddr, r.Host = c.from, c.host
			for k, v := range c.set {
				r.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.status {
				t.Errorf("%s: %s: %d %s, wanted %d", c.name, method, w.Code, w.Body, c.status)
			}
		}
	}
	// Through the server: no page of another origin may read an answer.
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+cfg.Listen+"/version", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", "http://evil.example")
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	if got := reply.Header.Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("answers are open to %s", got)
	}
}

// In clear text beyond loopback, which is warned about, other hosts still get nothing here.
func TestKeysBeyondLoopback(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	_, port, _ := strings.Cut(cfg.Listen, ":")
	cfg.Listen = hostAddress(t) + ":" + port
	run(t, cfg)
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		if status, text := call(t, method, "http://"+cfg.Listen+keysPath+"/x?value=1", nil); status != 401 || !strings.Contains(text, "rbac policy") {
			t.Errorf("%s: %d %s", method, status, text)
		}
	}
}

func TestKeysCheck(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	s, _ := run(t, cfg)
	s.opts.Check = func(key string, value []byte) error {
		if key == "/casbinPolicy" && !bytes.HasPrefix(value, []byte("p,")) {
			return errors.New("line 1: rubbish")
		}
		return nil
	}
	at := "http://" + cfg.Listen + keysPath + "/casbinPolicy"
	if status, text := call(t, "PUT", at, url.Values{"value": {"x"}}); status != 400 || !strings.Contains(text, "line 1: rubbish") {
		t.Errorf("%d %s", status, text)
	}
	if status, text := call(t, "PUT", at, url.Values{"value": {"p, a, b, c, allow"}}); status != 201 {
		t.Errorf("%d %s", status, text)
	}
}

func FuzzTree(f *testing.F) {
	for _, s := range []string{"/a\n/a/b\n/a-\n/a/_x/y", "/\n//\n/a//b\n", "x\n/a/../b", "/a/b/c/d/e/f"} {
		f.Add("/", s, true)
		f.Add("/a", s, false)
	}
	f.Fuzz(func(t *testing.T, dir, keys string, recursive bool) {
		if !strings.HasPrefix(dir, "/") {
			return
		}
		n := treeOf(filepath.Clean(dir), strings.Split(keys, "\n"), recursive)
		if !n.Dir {
			t.Error("no directory")
		}
	})
}

func FuzzEndAt(f *testing.F) {
	for _, s := range []string{"1700000000000 60000", "", "1", "-1 -1", "9223372036854775807 9223372036854775807", "0 3153600000000"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	now := time.Now()
	f.Fuzz(func(t *testing.T, stamp string, listed bool) {
		if at := endAt(Event{Value: []byte(stamp), listed: listed}, now); at.After(now.Add(maxTTL * time.Second)) {
			t.Errorf("%q ends at %v", stamp, at)
		}
	})
}

func treeOf(dir string, keys []string, recursive bool) *node {
	slices.Sort(keys)
	var kvs []*mvccpb.KeyValue
	for _, k := range keys {
		kvs = append(kvs, &mvccpb.KeyValue{Key: []byte(k), Value: []byte("v")})
	}
	return tree(dir, kvs, recursive)
}
