package neutron_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"skydive/src/probe/neutron"
)

// cloud replays what a real Keystone and a real Neutron answered (testdata, by real_test.go -record), and filters and pages it as they do.
type cloud struct {
	*httptest.Server
	t testing.TB

	mu      sync.Mutex
	data    map[string][]body // by collection
	tokens  map[string]bool
	logins  int
	good    time.Duration // of a token
	maxPage int
	calls   []string // "ports id=… fields=…", pages after the first with "marker"
	// fail, when set, answers instead, and tells that it did.
	fail func(w http.ResponseWriter, r *http.Request) bool
}

const password = "s3cr3t&<p"

// Answers of Neutron 21 and Keystone 22.
const (
	unauthorized = `{"error": {"code": 401, "title": "Unauthorized", "message": "The request you have made requires authentication."}}`
	forbidden    = `{"error":{"code":403,"message":"You are not authorized to perform the requested action: identity:list_projects.","title":"Forbidden"}}`
	notFound     = `{"NeutronError": {"type": "HTTPNotFound", "message": "The resource could not be found.", "detail": ""}}`
)

func newCloud(t testing.TB) *cloud {
	c := &cloud{t: t, data: make(map[string][]body), tokens: make(map[string]bool), good: time.Hour, maxPage: 1 << 30}
	for _, kind := range []string{"ports", "networks", "subnets", "routers", "floatingips", "projects"} {
		var all body
		if err := json.Unmarshal(c.recorded(kind), &all); err != nil {
			t.Fatal(err)
		}
		for _, item := range all[kind].([]any) {
			c.data[kind] = append(c.data[kind], item.(body))
		}
	}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *cloud) recorded(name string) []byte {
	text, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	fail := c.fail
	c.mu.Unlock()
	if fail != nil && fail(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	switch {
	case r.URL.Path == "/v3/auth/tokens":
		c.login(w, r)
	case !c.tokens[r.Header.Get("X-Auth-Token")]:
		answer(w, 401, unauthorized)
	case r.URL.Path == "/v3/projects" || strings.HasPrefix(r.URL.Path, "/v2.0/") && c.data[kind] != nil:
		c.list(w, kind, r.URL.Query())
	default:
		answer(w, 404, notFound)
	}
}

func answer(w http.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func (c *cloud) login(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Auth struct {
			Identity struct {
				Password struct {
					User struct {
						Name, Password string
						Domain         struct{ Name string }
					}
				}
			}
			Scope struct {
				Project struct {
					Name   string
					Domain struct{ Name string }
				}
			}
		}
	}
	text, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(text, &asked); err != nil {
		c.t.Error(err)
	}
	user, project := asked.Auth.Identity.Password.User, asked.Auth.Scope.Project
	if user.Name != "neutron" || user.Password != password || user.Domain.Name != "Default" || project.Name != "service" || project.Domain.Name != "Default" {
		answer(w, 401, `{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}`)
		return
	}
	c.logins++
	id := fmt.Sprintf("gAAAA-token-%d", c.logins)
	c.tokens[id] = true
	text = c.recorded("tokens")
	now := time.Now().Add(-3 * time.Hour).UTC() // clocks differ
	all := strings.NewReplacer(`"http://127.0.0.1:19696"`, strconv.Quote(c.URL), `"http://127.0.0.1:35400/v3"`, strconv.Quote(c.URL+"/v3")).Replace(string(text))
	var token body
	if err := json.Unmarshal([]byte(all), &token); err != nil {
		c.t.Error(err)
	}
	const layout = "2006-01-02T15:04:05.000000Z"
	token["token"].(body)["issued_at"], token["token"].(body)["expires_at"] = now.Format(layout), now.Add(c.good).Format(layout)
	w.Header().Set("X-Subject-Token", id)
	w.WriteHeader(201)
	_ = json.NewEncoder(w).Encode(token)
}

func (c *cloud) list(w http.ResponseWriter, kind string, query url.Values) {
	call := kind
	for _, key := range slices.Sorted(maps.Keys(query)) {
		switch key {
		case "limit":
		case "fields", "id", "mac_address", "port_id":
			call += fmt.Sprintf(" %s:%d", key, len(query[key]))
		default:
			call += " " + key
		}
	}
	c.calls = append(c.calls, call)
	var found []body
	for _, item := range c.data[kind] {
		fits := true
		for key, values := range query {
			if key != "limit" && key != "marker" && key != "fields" {
				fits = fits && slices.Contains(values, text(item, key))
			}
		}
		if fits && text(item, "id") > query.Get("marker") {
			found = append(found, item)
		}
	}
	sort.Slice(found, func(i, j int) bool { return text(found[i], "id") < text(found[j], "id") })
	page := body{}
	if limit, err := strconv.Atoi(query.Get("limit")); err == nil && kind != "projects" {
		if limit = min(limit, c.maxPage); len(found) > limit {
			found = found[:limit]
		}
		if len(found) == limit {
			// A server behind a proxy names itself, which nobody outside can reach.
			page[kind+"_links"] = []any{body{"rel": "next", "href": "http://192.0.2.1:1/v2.0/" + kind + "?marker=" + text(found[limit-1], "id")}}
		}
	}
	items := make([]any, 0, len(found))
	for _, item := range found {
		shown := item
		if fields := query["fields"]; fields != nil {
			shown = body{}
			for _, f := range fields {
				if v, ok := item[f]; ok {
					shown[f] = v
				}
			}
		}
		items = append(items, shown)
	}
	page[kind] = items
	_ = json.NewEncoder(w).Encode(page)
}

// take returns the calls so far and forgets them.
func (c *cloud) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = nil
	return calls
}

// change does something to what the cloud has.
func (c *cloud) change(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
}

// breaks makes the answers to some requests fail; nil mends it.
func (c *cloud) breaks(fail func(w http.ResponseWriter, r *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = fail
}

// first returns the first of a collection for which a key has a value.
func (c *cloud) first(kind, key, value string) body {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, item := range c.data[kind] {
		if text(item, key) == value {
			return item
		}
	}
	c.t.Fatalf("no %s whose %s is %s was recorded", kind, key, value)
	return nil
}

func (c *cloud) vm() body { return c.first("ports", "device_owner", "compute:nova") }

// revise changes a port as Neutron does.
func (c *cloud) revise(item body, key string, value any) {
	c.change(func() { item[key], item["revision_number"] = value, item["revision_number"].(float64)+1 })
}

func (c *cloud) remove(kind string, item body) {
	c.change(func() {
		c.data[kind] = slices.DeleteFunc(c.data[kind], func(b body) bool { return text(b, "id") == text(item, "id") })
	})
}

// twin adds a copy of an item with other values.
func (c *cloud) twin(kind string, of body, changes body) body {
	made := maps.Clone(of)
	maps.Copy(made, changes)
	c.change(func() { c.data[kind] = append(c.data[kind], made) })
	return made
}

func (c *cloud) config() neutron.Config {
	cfg := *neutron.Spec.Config().(*neutron.Config)
	cfg.AuthURL, cfg.Password = c.URL, password
	cfg.Update = 50 * time.Millisecond
	return cfg
}
