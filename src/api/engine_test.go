package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"skydive/src/resource"
)

// What an engine knows of a resource is shown with it, all of it only when one alone is asked for; what it says cannot work is refused.
func TestEnginesHaveTheirSay(t *testing.T) {
	s := newServer(t, nil, func(o *Options) {
		o.Store, o.Engines = newStore(t), allEngines()
		o.Views = map[string]func(resource.Resource, bool) any{"capture": func(r resource.Resource, whole bool) any {
			return map[string]any{"UUID": r.ID(), "State": "active", "Whole": whole}
		}}
		o.Checks = map[string]func(context.Context, resource.Resource) error{"capture": func(_ context.Context, r resource.Resource) error {
			if r.(*resource.Capture).Name == "no" {
				return errors.New("it cannot work")
			}
			return nil
		}}
	})
	if resp, body := s.do(t, "POST", "/api/capture", `{"GremlinQuery":"G.V()","Name":"no"}`); resp.StatusCode != http.StatusBadRequest || body != "it cannot work\n" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	resp, body := s.do(t, "POST", "/api/capture", `{"GremlinQuery":"G.V()"}`)
	if resp.StatusCode != http.StatusCreated || strings.Contains(body, "State") {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	_, list := s.do(t, "GET", "/api/capture", "")
	if !strings.Contains(list, `"State":"active"`) || !strings.Contains(list, `"Whole":false`) || strings.Contains(list, "GremlinQuery") {
		t.Error(list)
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(list, `{"`), `"`)
	if _, one := s.do(t, "GET", "/api/capture/"+id, ""); !strings.Contains(one, `"Whole":true`) {
		t.Error(one)
	}
}
