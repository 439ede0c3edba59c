package ovsdb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/openflow"
	"skydive/src/ovs/ovstest"
	"skydive/src/probe"
	"skydive/src/probe/probetest"
)

// TestBridgesThatCannotBeAsked looks for the reason in the node of the bridge; the probe goes on.
func TestBridgesThatCannotBeAsked(t *testing.T) {
	for _, c := range []struct {
		database string
		change   func(*OpenflowConfig)
		want     string
	}{
		{"unix:/nowhere/db.sock", func(*OpenflowConfig) {}, "/nowhere/br0.mgmt: connect: no such file"},
		{"tcp:127.0.0.1:1", func(*OpenflowConfig) {}, "ovs.oflow.address does not tell"},
		{"tcp:127.0.0.1:1", func(o *OpenflowConfig) { o.Address = map[string]string{"br0": "ftp:h"} }, "ftp is not known"},
		{"tcp:127.0.0.1:1", func(o *OpenflowConfig) { o.Address = map[string]string{"br0": "ssl:h:1"} }, "no certificates"},
		{"unix:/nowhere/db.sock", func(o *OpenflowConfig) { o.Versions = []string{"1.3"} }, `called "1.3"`},
		{"unix:/nowhere/db.sock", func(o *OpenflowConfig) { o.Versions = nil }, "no version"},
	} {
		t.Run(c.want, func(t *testing.T) {
			h := probetest.NewHost(t)
			cfg := *Spec.Config().(*Config)
			cfg.Address = c.database
			c.change(&cfg.Openflow)
			group, ctx := probe.NewGroup(context.Background())
			f := newFlows(&Probe{cfg: cfg, env: h.Env, metrics: newMetrics(nil)}, ctx, group)
			bridge := h.Env.NewNode(field.Make("Type", "ovsbridge", "Name", "br0", "UUID", "u"))
			if err := h.Graph.Update("", func(tx *graph.Tx) error { return h.Env.AddChild(tx, h.Env.Root, bridge) }); err != nil {
				t.Fatal(err)
			}
			f.bridge(bridge.ID, "br0", "u")
			probetest.Eventually(t, patienceOfTests, "a reason", func() bool {
				reason, _ := h.Graph.Snapshot().Node(bridge.ID).Metadata.Lookup("OpenFlow.Error")
				return strings.Contains(fmt.Sprint(reason), c.want)
			})
			f.gone(bridge.ID)
			if err := group.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAFailureOfRulesLeavesNone: the rules of a bridge that fail end the probe, which takes out all rules, not only what the database said.
func TestAFailureOfRulesLeavesNone(t *testing.T) {
	h := probetest.NewHost(t)
	server, _ := recorded(t)
	before := h.Graph.Snapshot().NodeCount()
	l := &lab{Host: h, TB: t, Server: &ovstest.Server{DB: server.DB}}
	p := l.probe().(*Probe)
	p.cfg.Openflow.Enable = true
	group, ctx := probe.NewGroup(t.Context())
	v := newView(p)
	v.flows = newFlows(p, ctx, group)
	bridge := h.Env.NewNode(field.Make("Type", "ovsbridge", "Name", "br0", "UUID", "u"))
	if err := h.Graph.Update("", func(tx *graph.Tx) error { return h.Env.AddChild(tx, h.Env.Root, bridge) }); err != nil {
		t.Fatal(err)
	}
	b := &flowBridge{
		flows: v.flows, node: bridge.ID, name: "br0", cancel: func() {}, done: make(chan struct{}),
		rules: make(map[openflow.Key]*shownRule), groups: make(map[uint32]string),
	}
	v.flows.bridges[bridge.ID] = b
	b.Changed(openflow.Update{Rules: []*openflow.Rule{{Priority: 1}}})
	if n := h.Graph.Snapshot().NodeCount(); n != before+2 {
		t.Fatalf("%d nodes", n)
	}
	group.Go(func() error {
		defer close(b.done)
		return errors.New("the graph refuses")
	})
	<-ctx.Done()
	v.flows.close(group.Stop() != nil)
	if n := h.Graph.Snapshot().NodeCount(); n != before+1 {
		t.Errorf("%d nodes are left", n-before-1)
	}
}
