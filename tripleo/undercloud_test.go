package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

type object = map[string]any

const (
	user, password, token = "admin", "S3cr:et %s", "gAAAAABtoken"
	stackID               = "4a0a9bd5-5f63-4ac3-9f3a-0c4e7f3e0001"
)

// undercloud answers what a real Keystone and Heat answered (testdata/undercloud; Nova's as its documentation has it), to who may ask.
type undercloud struct {
	*httptest.Server
	t       *testing.T
	change  func(path string, answer object)              // edits an answer
	instead func(http.ResponseWriter, *http.Request) bool // answers itself
	mutex   sync.Mutex
	asked   []string // "GET /path"
	logins  []object // the bodies of POST /v3/auth/tokens
}

func newUndercloud(t *testing.T) *undercloud {
	u := &undercloud{t: t}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

func (u *undercloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mutex.Lock()
	u.asked = append(u.asked, r.Method+" "+r.URL.Path)
	u.mutex.Unlock()
	if u.instead != nil && u.instead(w, r) {
		return
	}
	refuse := func(status int) {
		w.WriteHeader(status)
		io.WriteString(w, `{"error": {"code": 401, "message": "The request you have made requires authentication."}}`)
	}
	if r.URL.Path != "/v3/auth/tokens" && r.Header.Get("X-Auth-Token") != token {
		refuse(401)
		return
	}
	switch name := strings.TrimPrefix(r.URL.Path, "/v1/p1/"); {
	case r.URL.Path == "/v3/auth/tokens":
		if r.Method == "GET" {
			if r.Header.Get("X-Subject-Token") != token {
				refuse(401)
				return
			}
			w.Header().Set("X-Subject-Token", token)
			u.answer(w, r, "token", 200)
			return
		}
		var body object
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			u.t.Errorf("login: %v", err)
		}
		u.mutex.Lock()
		u.logins = append(u.logins, body)
		u.mutex.Unlock()
		text, _ := json.Marshal(body)
		if !strings.Contains(string(text), `"password":"`+password+`"`) && !strings.Contains(string(text), `"id":"`+token+`"`) {
			refuse(401)
			return
		}
		w.Header().Set("X-Subject-Token", token)
		u.answer(w, r, "token", 201)
	case name == "stacks":
		io.WriteString(w, `{"stacks": [{"stack_name": "overcloud"}, {"stack_name": "edge"}]}`)
	case name == "stacks/overcloud":
		// Heat behind a proxy tells where it thinks it is.
		w.Header().Set("Location", "https://heat.invalid:1"+r.URL.Path+"/"+stackID)
		w.WriteHeader(302)
	case name == "stacks/overcloud/"+stackID:
		u.answer(w, r, "stack", 200)
	case name == "stacks/overcloud/"+stackID+"/environment":
		u.answer(w, r, "environment", 200)
	case r.URL.Path == "/v2.1/servers/detail":
		u.answer(w, r, "servers", 200)
	default:
		w.WriteHeader(404)
		io.WriteString(w, `{"error": {"message": "not found"}}`)
	}
}

func (u *undercloud) answer(w http.ResponseWriter, r *http.Request, name string, status int) {
	text, err := os.ReadFile(filepath.Join("testdata", "undercloud", name+".json"))
	if err != nil {
		u.t.Error(err)
		w.WriteHeader(500)
		return
	}
	var answer object
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(text), "http://UNDERCLOUD", u.URL)), &answer); err != nil {
		u.t.Errorf("%s: %v", name, err)
	}
	if name == "token" {
		catalog := answer["token"].(object)["catalog"].([]any)
		answer["token"].(object)["catalog"] = append(catalog, object{"type": "compute", "name": "nova", "endpoints": []any{
			object{"interface": "public", "region": "regionOne", "region_id": "regionOne", "url": u.URL + "/v2.1"}}})
	}
	if u.change != nil {
		u.change(name, answer)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}

// outputs of an answer "stack", by name.
func outputs(answer object) map[string]object {
	found := map[string]object{}
	for _, output := range answer["stack"].(object)["outputs"].([]any) {
		found[output.(object)["output_key"].(string)] = output.(object)
	}
	return found
}

// stackrc is the environment of an operator.
func (u *undercloud) stackrc() map[string]string {
	return map[string]string{"OS_AUTH_URL": u.URL + "/", "OS_USERNAME": user, "OS_PASSWORD": password, "OS_PROJECT_NAME": "admin",
		"OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default", "OS_REGION_NAME": "regionOne"}
}
