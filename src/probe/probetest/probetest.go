// Package probetest runs topology probes in tests: on a graph of their own, compared with what must come out, or with a golden file.
package probetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
)

// Host is a graph with a host node, as an agent starts with.
type Host struct {
	Graph    *graph.Graph
	Env      probe.Env
	Registry *prometheus.Registry

	mu      sync.Mutex
	running bool
	reason  string
}

// NewHost returns a host named "h1".
func NewHost(t testing.TB) *Host {
	t.Helper()
	const id, origin = "h1", "agent.h1"
	h := &Host{
		Graph:    graph.New(graph.Options{Hooks: []func(*graph.Tx){probe.TID(origin)}}),
		Registry: prometheus.NewRegistry(),
	}
	root, err := probe.AddHost(h.Graph, probe.HostNode{ID: id, Hostname: "host1", Origin: origin})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.DiscardHandler
	if testing.Verbose() {
		log = slog.NewTextHandler(t.Output(), nil)
	}
	h.Env = probe.Env{
		Graph: h.Graph, Root: root, Host: id, Origin: origin, Log: slog.New(log), Registerer: h.Registry,
		Running: func(reason string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.running, h.reason = true, reason
		},
	}
	return h
}

// Running tells whether the probe said that it runs, and what it lacks.
func (h *Host) Running() (bool, string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.running, h.reason
}

// Run runs a probe until the returned function is called, or the test ends; the probe must then end without error.
func (h *Host) Run(t testing.TB, p probe.Probe) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("probe: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Eventually waits until ok holds, which must be within a time, and returns how long it took.
func Eventually(t testing.TB, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("%s: not within %v", what, within)
		}
		<-tick.C
	}
	return time.Since(start)
}

// Find returns the nodes whose metadata have the given values, in alternating keys and values.
func (h *Host) Find(pairs ...any) []*graph.Node {
	var f field.Filter
	for _, e := range field.Make(pairs...) {
		f.Terms = append(f.Terms, field.Term{Key: e.Key, Pred: field.Eq{V: e.Value}})
	}
	return slices.Collect(h.Graph.Snapshot().Nodes(f))
}

var update = flag.Bool("update", false, "write golden files instead of comparing with them")

// Golden compares the graph with a golden file: nodes and edges with their metadata, ends of edges by name. Identifiers and times,
// which differ from run to run, are left out.
func (h *Host) Golden(t testing.TB, file string) {
	t.Helper()
	type node struct{ Metadata field.Object }
	type edge struct {
		Parent, Child string
		Metadata      field.Object
	}
	var got struct {
		Nodes []node
		Edges []edge
	}
	snap := h.Graph.Snapshot()
	name := func(id string) string { return snap.Node(id).Metadata.Text("Name") }
	for n := range snap.Nodes(field.Filter{}) {
		got.Nodes = append(got.Nodes, node{n.Metadata})
	}
	for e := range snap.Edges(field.Filter{}) {
		got.Edges = append(got.Edges, edge{name(e.Parent), name(e.Child), e.Metadata})
	}
	slices.SortFunc(got.Nodes, func(a, b node) int {
		return strings.Compare(a.Metadata.Text("Name"), b.Metadata.Text("Name"))
	})
	slices.SortFunc(got.Edges, func(a, b edge) int {
		return cmp.Or(strings.Compare(a.Parent, b.Parent), strings.Compare(a.Child, b.Child),
			strings.Compare(a.Metadata.Text(probe.RelationType), b.Metadata.Text(probe.RelationType)))
	})
	text, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, want) {
		t.Errorf("%s differs; write it anew with -update if this is right:\n%s", file, diff(string(want), string(text)))
	}
}

// diff shows the lines that only one of two texts has.
func diff(want, got string) string {
	var b strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	only := func(sign string, lines, others []string) {
		for _, line := range lines {
			if !slices.Contains(others, line) {
				b.WriteString(sign + line + "\n")
			}
		}
	}
	only("- ", w, g)
	only("+ ", g, w)
	return b.String()
}
