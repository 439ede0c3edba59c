package neutron_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe/neutron"
	"skydive/src/probe/probetest"
)

type body = map[string]any

func run(t testing.TB, h *probetest.Host, cfg neutron.Config) {
	t.Helper()
	p, err := neutron.New(h.Env, cfg)
	if err != nil {
		t.Fatal(err)
	}
	neutron.Hurry(p)
	h.Run(t, p)
}

// add adds a node below the host.
func add(t testing.TB, h *probetest.Host, pairs ...any) string {
	t.Helper()
	var m field.Object
	for i := 0; i < len(pairs); i += 2 {
		m, _ = m.Set(pairs[i].(string), pairs[i+1])
	}
	n := h.Env.NewNode(m)
	if err := h.Graph.Update("", func(tx *graph.Tx) error { return h.Env.AddChild(tx, h.Env.Root, n) }); err != nil {
		t.Fatal(err)
	}
	return n.ID
}

func says(h *probetest.Host, id string) field.Object { return h.Graph.Snapshot().Node(id).Metadata }

// becomes waits until a node has values at paths; nil: it has none.
func becomes(t testing.TB, h *probetest.Host, id string, within time.Duration, pairs ...any) time.Duration {
	t.Helper()
	want := make(map[string]field.Value)
	for i := 0; i < len(pairs); i += 2 {
		v, err := field.Normalize(pairs[i+1])
		if err != nil {
			t.Fatal(err)
		}
		want[pairs[i].(string)] = v
	}
	wrong := func() (list []string) {
		m := says(h, id)
		for key, v := range want {
			if got, _ := m.Lookup(key); !field.Equal(got, v) {
				list = append(list, fmt.Sprintf("%s is %v, want %v", key, got, v))
			}
		}
		return list
	}
	start := time.Now()
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		if len(wrong()) == 0 {
			return time.Since(start)
		}
		if time.Since(start) > within {
			_, reason := h.Running()
			t.Fatalf("not within %v: %s (%s)", within, strings.Join(wrong(), "; "), reason)
		}
	}
}

func text(b body, key string) string { s, _ := b[key].(string); return s }

// address is that of a port, of version 4 or 6, without the length.
func address(port body, six bool) string {
	for _, f := range port["fixed_ips"].([]any) {
		if a := text(f.(body), "ip_address"); strings.Contains(a, ":") == six {
			return a
		}
	}
	return ""
}
