package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestProfiles(t *testing.T) {
	s := newServer(t, map[string]string{"admin": "p", "bob": "p"}, nil)
	for path, want := range map[string]int{
		"/debug/pprof/": 200, "/debug/pprof/heap": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/profile?seconds=1": 200, "/debug/pprof/trace?seconds=1": 200,
		"/debug/pprof/cmdline": 404, "/debug/pprof/nothing": 404, "/debug/pprof/profile?seconds=301": 400, "/debug/pprof/profile?seconds=0": 400, "/debug/pprof/trace?seconds=x": 400,
	} {
		if status, _ := s.as(t, "bob", "GET", path, ""); status != 405 {
			t.Errorf("a guest: %s: %d", path, status)
		}
		if resp, _ := s.do(t, "GET", path, ""); resp.StatusCode != 401 {
			t.Errorf("nobody: %s: %s", path, resp.Status)
		}
		status, body := s.as(t, "admin", "GET", path, "")
		if status != want {
			t.Errorf("%s: %d %.100s", path, status, body)
		}
		if status != 200 {
			continue
		}
		switch {
		case path == "/debug/pprof/":
			var list map[string]int
			if json.Unmarshal([]byte(body), &list) != nil || list["goroutine"] == 0 || list["profile"] == 0 {
				t.Errorf("%s: %s", path, body)
			}
		case strings.Contains(path, "debug=1"):
			if !strings.HasPrefix(body, "goroutine profile:") {
				t.Errorf("%s: %.100q", path, body)
			}
		case strings.Contains(path, "trace"):
			if !strings.HasPrefix(body, "go 1.") {
				t.Errorf("%s: %.100q", path, body)
			}
		default:
			z, err := gzip.NewReader(bytes.NewReader([]byte(body)))
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if text, err := io.ReadAll(z); err != nil || len(text) == 0 {
				t.Errorf("%s: %d bytes, %v", path, len(text), err)
			}
		}
	}
}

// A profile ends with its request, and there is one at a time.
func TestProfileEndsWithItsClient(t *testing.T) {
	s := newServer(t, map[string]string{"admin": "p"}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/debug/pprof/profile?seconds=300", nil)
	r.SetBasicAuth("admin", "p")
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for ctx.Err() == nil { // the one below may come first
			if resp, err := http.DefaultClient.Do(r); err == nil {
				resp.Body.Close()
			}
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(20 * time.Second)
	until := func(want int) {
		t.Helper()
		for {
			status, body := s.as(t, "admin", "GET", "/debug/pprof/profile?seconds=1", "")
			if status == want {
				return
			}
			if <-tick.C; time.Now().After(deadline) {
				t.Fatalf("%d %.100s, want %d", status, body, want)
			}
		}
	}
	until(http.StatusConflict)
	cancel()
	<-gone
	until(http.StatusOK)
}
