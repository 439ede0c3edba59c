package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/auth"
	"skydive/src/etcd"
	"skydive/src/graph"
	"skydive/src/query"
	"skydive/src/rbac"
	"skydive/src/resource"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// newStore runs a real embedded etcd.
func newStore(t testing.TB) *etcd.Service {
	t.Helper()
	var addr string
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if next, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1)); err == nil {
			next.Close()
			addr = fmt.Sprintf("127.0.0.1:%d", port)
			break
		}
	}
	s, err := etcd.New(etcd.Config{Embedded: true, Listen: addr, DataDir: t.TempDir(), ClientTimeout: 5 * time.Second}, etcd.Options{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case <-s.Ready():
	case err := <-done:
		done <- err
		t.Fatal(err)
	case <-time.After(20 * time.Second):
		t.Fatal("etcd is not ready in 20 s")
	}
	return s
}

func allEngines() []string {
	var names []string
	for _, k := range resource.Kinds() {
		names = append(names, k.Name)
	}
	return names
}

// testServer is a server with everything real around it; edit may change its options first.
type testServer struct {
	*httptest.Server
	graph    *graph.Graph
	registry *prometheus.Registry
	rbac     *rbac.Enforcer
}

func newServer(t testing.TB, users map[string]string, edit func(*Options)) *testServer {
	t.Helper()
	enforcer, err := rbac.New(rbac.Config{})
	if err != nil {
		t.Fatal(err)
	}
	section := auth.Config{Type: "noauth", Role: "admin"}
	if users != nil {
		section = auth.Config{Type: "basic", Users: users, Role: "guest"}
	}
	authenticator, err := auth.New("test", section, auth.Options{Log: quiet(), Grant: enforcer.Grant})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	o := Options{
		Host: "golden-analyzer", Version: "test", Service: "analyzer",
		Log: quiet(), Registerer: registry, Gatherer: registry,
		Auth: authenticator, RBAC: enforcer,
		Graph: graph.New(graph.Options{}), Steps: query.AllSteps,
	}
	if edit != nil {
		edit(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := &testServer{Server: httptest.NewServer(s.Handler()), graph: o.Graph, registry: registry, rbac: enforcer}
	t.Cleanup(server.Close)
	return server
}

// do sends a request and returns the answer with its whole body. Headers come as "Name: value".
func (s *testServer) do(t testing.TB, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	client := http.Client{
		Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: false},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       20 * time.Second,
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, string(data)
}

func (s *testServer) add(t testing.TB, nodes []*graph.Node, edges []*graph.Edge) {
	t.Helper()
	err := s.graph.Update("", func(tx *graph.Tx) error {
		for _, n := range nodes {
			if err := tx.AddNode(n); err != nil {
				return err
			}
		}
		for _, e := range edges {
			if err := tx.AddEdge(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
